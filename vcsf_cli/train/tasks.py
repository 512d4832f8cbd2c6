"""What is trained: a task joins networks, data and a loss, and knows what to watch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from vcsf_cli import registry
from vcsf_cli.contracts import PATHWAYS, Contrast, Indices
from vcsf_cli.contracts import Sampler as WindowSampler
from vcsf_cli.data.augment import to_input
from vcsf_cli.data.clips import Batch, Numbers, WholeVideos
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.measure import retrieval
from vcsf_cli.measure.features import extract
from vcsf_cli.model.momentum import Queue, follow, key_encoder
from vcsf_cli.model.pathways import TwoPathways
from vcsf_cli.recipe import Recipe
from vcsf_cli.schema import Stage

Terms = dict[str, Tensor]


class Loss(nn.Module):
    """What the hook `vcsf_losses` describes."""

    queue: int
    uses_labels: bool


def build_loss(stage: Stage) -> Loss:
    """The loss of a stage."""
    return cast(Loss, registry.load().build("loss", stage.loss.name, **stage.loss.settings))


def build_sampler(stage: Stage) -> WindowSampler:
    """The sampler of a stage."""
    return cast(WindowSampler, registry.load().build("sampler", stage.sampler.name, **stage.sampler.settings))


class PretrainTask:
    """Contrastive pre-training of the two pathways, one stage of it.

    At its start the key encoder is a copy of the query encoder and the queue is empty.

    Args:
        recipe: The run's recipe.
        stage: The stage to train.
        model: The query encoders.
        manifest: The prepared dataset.
        rows: Its training rows.
        fabric: Devices and precision.
        workers: Processes that read for the check.
    """

    def __init__(
        self,
        recipe: Recipe,
        stage: Stage,
        model: TwoPathways,
        manifest: Manifest,
        rows: Indices,
        fabric: Fabric,
        workers: int,
    ) -> None:
        self.stage, self.manifest, self.fabric, self.workers = stage, manifest, fabric, workers
        self.model = model
        self.trained = [pathway for pathway in PATHWAYS if pathway in stage.train.pathways]
        self.keys = cast(TwoPathways, fabric.to_device(key_encoder(model)))
        self.loss = cast(Loss, fabric.to_device(build_loss(stage)))
        self.queue = cast(Queue, fabric.to_device(Queue(self.loss.queue, stage.head.dim, recipe.seed)))
        self.keyed = list(PATHWAYS) if getattr(self.loss, "crosses", False) else self.trained
        self.checked = self._checked_rows(rows, recipe.seed)
        self.numbers = Numbers(manifest)
        self._last: tuple[Contrast, Batch] | None = None
        for pathway in PATHWAYS:
            learns = pathway in self.trained
            model.pathway(pathway).requires_grad_(learns).train(learns)
            self.keys.pathway(pathway).train(learns)

    def _checked_rows(self, rows: Indices, seed: int) -> Indices:
        """The training clips of the leave-one-source-out check: all, or a seeded choice."""
        labelled = rows[self.manifest.table["label"].notna().to_numpy()[rows]]
        if len(labelled) > self.stage.train.check_clips:
            labelled = np.random.default_rng(seed).choice(labelled, self.stage.train.check_clips, replace=False)
        return np.sort(labelled)

    def parameters(self) -> list[nn.Parameter]:
        """What the optimiser changes: the trained pathways' weights."""
        return [weight for pathway in self.trained for weight in self.model.pathway(pathway).parameters()]

    def step(self, batch: Batch) -> Terms:
        """The loss of a batch, and terms to log."""
        device = self.fabric.device
        frames, colour = batch["frames"].to(device, non_blocking=True), batch["colour"].to(device, non_blocking=True)
        first, second = (to_input(frames[:, view], colour[:, view]) for view in (0, 1))
        precision: Any = self.fabric.autocast() if device.type == "cuda" else nullcontext()
        with precision:
            query = self.model(first, {pathway: batch[pathway][:, 0] for pathway in self.trained})
            with torch.no_grad():
                key = self.keys(second, {pathway: batch[pathway][:, 1] for pathway in self.keyed})
        contrast = Contrast(
            query={pathway: query.get(pathway) for pathway in PATHWAYS},
            key=key,
            queue=self.queue.keys(),
            video=batch["video"].to(device),
            source=batch["source"].to(device),
            label=batch["label"].to(device),
            queue_video=self.queue.get_buffer("video"),
            queue_source=self.queue.get_buffer("source"),
            queue_label=self.queue.get_buffer("label"),
        )
        terms: Terms = {}
        for pathway in self.trained:
            for name, value in self.loss(contrast, pathway).items():
                terms[f"{pathway}_{name}"] = value
        terms["loss"] = torch.stack([terms[f"{pathway}_loss"] for pathway in self.trained]).sum()
        self._last = contrast, batch
        return terms

    def after_step(self) -> None:
        """Move the key encoder, and put the batch's keys into the queue."""
        contrast, _ = cast(tuple[Contrast, Batch], self._last)
        follow(self.keys, self.model, self.trained, self.stage.train.key_momentum)
        self.queue.push(contrast.key, contrast.video, contrast.source, contrast.label)

    @torch.no_grad()
    def watch(self) -> dict[str, float]:
        """Alignment, uniformity (Wang and Isola, ICML 2020) and effective rank (Roy and Vetterli, EUSIPCO 2007) of the
        last batch's embeddings by pathway: how near the views of a clip are, how spread out the clips are, and how many
        dimensions they use."""
        contrast, _ = cast(tuple[Contrast, Batch], self._last)
        watched = {}
        for pathway in self.trained:
            query, key = cast(Tensor, contrast.query[pathway]).float(), contrast.key[pathway].float()
            watched[f"{pathway}_alignment"] = float((query - key).square().sum(1).mean())
            watched[f"{pathway}_uniformity"] = uniformity(query)
            watched[f"{pathway}_effective_rank"] = effective_rank(query)
        return watched

    def evaluate(self) -> dict[str, float]:
        """R@1 of training clips among training clips of other recordings, one window each: a check that uses labels for
        watching only, and no test clip."""
        if len(self.checked) < 2:
            return {}
        stage = self.stage
        videos = WholeVideos(
            self.manifest,
            self.checked.tolist(),
            build_sampler(stage),
            stage.augment.border,
            stage.data.size,
            centre_only=True,
        )
        features = extract(self.model, videos, self.fabric.device, self.workers, lambda count: None)
        for pathway in PATHWAYS:
            self.model.pathway(pathway).train(pathway in self.trained)
        unit = {pathway: retrieval.centred_unit(feature) for pathway, feature in features.items()}
        source = self.numbers.source[self.checked]
        label = self.manifest.table["label"].to_numpy(object)[self.checked]
        checks = {}
        for measured in retrieval.pathways_of(unit):
            found = retrieval.nearest(unit, unit, measured, 1, source[:, None] == source)
            checks[f"{measured}_check_R@1"] = retrieval.recall(retrieval.hits(found, label, label), [1])[1]
        return checks

    def name(self, batch: Batch) -> list[str]:
        """The videos of a batch."""
        return [str(name) for name in self.manifest.table["video"].to_numpy(object)[batch["video"].numpy()]]

    def state(self) -> dict[str, Any]:
        """Weights, key encoder and queue."""
        return {"model": self.model.state_dict(), "keys": self.keys.state_dict(), "queue": self.queue.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, within the same stage."""
        self.model.load_state_dict(state["model"])
        self.keys.load_state_dict(state["keys"])
        self.queue.load_state_dict(state["queue"])


def uniformity(embeddings: Tensor) -> float:
    """log of the mean over pairs of exp(-2 |x - y|^2), for unit-length embeddings (B, D); lower is more even."""
    return float(torch.pdist(embeddings).square().mul(-2).exp().mean().log())


def effective_rank(embeddings: Tensor) -> float:
    """exp of the entropy of the singular values of embeddings (B, D), as shares of their sum."""
    values = torch.linalg.svdvals(functional.normalize(embeddings, dim=1))
    share = values / values.sum()
    return float(torch.special.entr(share).sum().exp())
