"""Contrastive pre-training as a task of the loop: networks, momentum keys, queue and loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from vcsf_cli import registry
from vcsf_cli.config.recipe import Recipe
from vcsf_cli.config.schema import Stage
from vcsf_cli.contracts import PATHWAYS, Contrast, Indices
from vcsf_cli.data.clips import Batch, ClipIds, EvalClips, pathway_inputs
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.features.extract import extract
from vcsf_cli.features.neighbours import (
    centred_unit,
    hits,
    measured_pathways,
    nearest,
    recall,
    vote,
)
from vcsf_cli.model.momentum import Bank, Queue, ema_update, key_encoder
from vcsf_cli.model.norm import batch_norms, split_batch_norms
from vcsf_cli.model.parts import StageLoss, build_sampler
from vcsf_cli.model.pathways import TwoPathways
from vcsf_cli.narrate import say
from vcsf_cli.storage import checkpoint
from vcsf_cli.train import monitor
from vcsf_cli.train.compute import average
from vcsf_cli.train.loop import Task, Terms

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_VOTERS, _VOTE_TEMPERATURE = 20, 0.07
"""The check's k-NN: how many of the nearest vote, and how much nearer ones weigh more."""


class PretrainTask(Task):
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

    shown: ClassVar = {"both_check_R@1": "check R@1 {:.1%}"}

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
        self.model, self.seed = model, recipe.seed
        split_batch_norms(model, stage.train.parts if stage.train.norm == "split" else 1)
        self.trained = [pathway for pathway in PATHWAYS if pathway in stage.train.pathways]
        self.key_encoder = cast(TwoPathways, fabric.to_device(key_encoder(model)))
        if stage.speed.compile:
            for pathway in PATHWAYS:
                model.pathway(pathway).compile()
                self.key_encoder.pathway(pathway).compile()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.loss = cast(StageLoss, fabric.to_device(StageLoss(stage)))
        self.waits_for_queue = self.loss.waits_for_queue
        self.queue = cast(Queue | Bank, fabric.to_device(self._build_queue(rows, recipe.seed)))
        self.key_pathways = list(PATHWAYS) if self.loss.crosses else self.trained
        self.check_rows = self._draw_check_rows(rows, recipe.seed)
        self.ids = ClipIds(manifest)
        # Keys and ids of the batch under way, of all processes: the queue takes them after the
        # step.
        self._gathered: tuple[dict[str, Tensor], dict[str, Tensor]] = {}, {}
        self._last: Contrast | None = None  # the last input of the loss, for metrics
        self._warned: set[str] = set()
        self.first_check: Callable[[], Mapping[str, float]] = dict
        """The check before training; empty if it is not known."""
        for name, weight in model.named_parameters():
            weight.requires_grad_(
                name.partition(".")[0] in self.trained and name not in model.fixed
            )
        self._set_mode()

    def _build_queue(self, rows: Indices, seed: int) -> Queue | Bank:
        """The loss's queue, or its bank of the training clips."""
        dim, momentum = self.stage.head.dim, self.loss.bank_momentum
        if momentum is None:
            return Queue(self.loss.queue, dim, seed)
        clustered = self.loss.cluster is not None
        clips = torch.from_numpy(np.sort(rows))
        return Bank(clips, dim, momentum, self.stage.train.batch, clustered)

    def _set_mode(self) -> None:
        """Put trained pathways into training mode, their batch norms as the stage says, and frozen
        pathways into eval mode."""
        for pathway in PATHWAYS:
            for network in (self.model.pathway(pathway), self.key_encoder.pathway(pathway)):
                network.train(pathway in self.trained)
                if self.stage.train.norm == "frozen":
                    for norm in batch_norms(network):
                        norm.eval()

    def _draw_check_rows(self, rows: Indices, seed: int) -> Indices:
        """The labelled training clips that `evaluate` reads: all, or a seeded choice."""
        labelled = rows[self.manifest.table["label"].notna().to_numpy()[rows]]
        if len(labelled) > self.stage.train.check_clips:
            labelled = np.random.default_rng(seed).choice(
                labelled, self.stage.train.check_clips, replace=False
            )
        return np.sort(labelled)

    def parameters(self) -> list[nn.Parameter]:
        """The weights to optimise: of the trained pathways, and of the loss."""
        learners = [*(self.model.pathway(pathway) for pathway in self.trained), self.loss]
        return [
            weight
            for learner in learners
            for weight in learner.parameters()
            if weight.requires_grad
        ]

    def step(self, batch: Batch) -> Iterator[tuple[float, Terms]]:
        """Yield the losses of every part of a batch; nothing while the loss waits for a full
        queue.

        It reads no value back from the device, so that a GPU never waits for its next work."""
        frames = batch["frames"].to(self.fabric.device, non_blocking=True)
        batch = {**batch, "frames": frames}
        key = self._keys(batch)
        self._gathered = self._gather(key), self._gather(self._batch_ids(batch))
        if self.waits_for_queue and not self.queue.full:
            self._push_keys()
            return
        size, parts = len(batch["video"]), self.stage.train.accumulate
        for part, own in zip(_split(batch, parts), _split(key, parts), strict=True):
            inputs = self._inputs(part, 0, self.trained)
            with self.fabric.autocast():
                query, steps = self.model.with_steps(*inputs, self.loss.steps)
            contrast = replace(self._contrast(part, query, own), **self._over_time(part, steps))
            self._last = contrast
            terms: Terms = {}
            for pathway in self.trained:
                for name, value in self.loss(contrast, pathway).items():
                    terms[f"{pathway}_{name}"] = value
            terms["loss"] = torch.stack(
                [terms[f"{pathway}_loss"] for pathway in self.trained]
            ).sum()
            yield len(part["video"]) / size, terms

    def _over_time(self, batch: Batch, steps: Mapping[str, Tensor]) -> dict[str, Any]:
        """What the loss sees of segments and steps, of the clips of which both views show the same
        window; nothing if it asks for nothing."""
        counts = self.loss.segments
        if not counts and not steps:
            return {}
        rows = batch["same_window"].nonzero().flatten()
        # Batch norm needs a clip; over all processes, each must come to it. It is dropped again.
        read = rows if len(rows) else rows.new_zeros(1)
        same = {name: values[_send(read, values)] for name, values in batch.items()}
        own, key = (self._inputs(same, view, list(counts)) for view in (0, 1))
        with self.fabric.autocast():
            query_segments = self.model.segments(*own, counts)
            with torch.no_grad():
                key_segments = self.key_encoder.segments(*key, counts)
        return {
            "query_segments": {name: value[: len(rows)] for name, value in query_segments.items()},
            "key_segments": {name: value[: len(rows)] for name, value in key_segments.items()},
            "query_steps": {name: value[_send(rows, value)] for name, value in steps.items()},
        }

    @torch.no_grad()  # not inference_mode: autograd keeps the keys that queries are compared with
    def _keys(self, batch: Batch) -> dict[str, Tensor]:
        """Keys (B, D) of this process's batch by pathway, encoded part by part."""
        back: Tensor | None = None
        if self.stage.train.norm == "split":
            # Own key and query must not be normalised with the same clips (`norm.SplitBatchNorm`).
            order = torch.randperm(len(batch["video"]))
            batch = {name: values[_send(order, values)] for name, values in batch.items()}
            back = order.argsort()
        found: list[dict[str, Tensor]] = []
        for part in _split(batch, self.stage.train.accumulate):
            inputs = self._inputs(part, 1, self.key_pathways)
            with self.fabric.autocast():
                found.append(self.key_encoder(*inputs))
        keys = {
            pathway: torch.cat([part[pathway] for part in found]) for pathway in self.key_pathways
        }
        if back is not None:
            keys = {pathway: key[_send(back, key)] for pathway, key in keys.items()}
        return keys

    def _batch_ids(self, batch: Batch) -> dict[str, Tensor]:
        """Numbers of the clips of a batch, of their recordings and labels, (B,) each."""
        device = self.fabric.device
        names = ("video", "source", "label")
        return {name: batch[name].to(device, non_blocking=True) for name in names}

    def _gather(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """The values (B, ...) of all processes, in their order: the same everywhere."""
        if self.fabric.world_size == 1:
            return values
        return {
            name: cast(Tensor, self.fabric.all_gather(value)).flatten(0, 1)
            for name, value in values.items()
        }

    def _inputs(
        self, batch: Batch, view: int, pathways: Sequence[str]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The networks' inputs of a view: windows (B, 3, L, H, W), positions (B, T) by pathway."""
        windows = pathway_inputs(
            batch, view, pathways, self.fabric.device, self.stage.speed.channels_last
        )
        return windows, {name: batch[name][:, view] for name in pathways}

    def _contrast(
        self, batch: Batch, query: Mapping[str, Tensor], key: dict[str, Tensor]
    ) -> Contrast:
        """The input of the loss: the queue as it was before this batch or, without a queue, the
        keys of the batch itself."""
        ids = self._batch_ids(batch)
        keys, gathered = self._gathered
        numbers: dict[str, Any] = ids | {f"queue_{name}": each for name, each in gathered.items()}
        contrast = Contrast(
            query={pathway: query.get(pathway) for pathway in PATHWAYS},
            key=key,
            queue=keys,
            **numbers,
        )
        if not self.queue.slots:
            return contrast
        names = [*ids, *(["cluster"] if self.loss.cluster else [])]
        queued: dict[str, Any] = {f"queue_{name}": self.queue.get_buffer(name) for name in names}
        own = contrast if self.loss.bank_momentum is not None else None
        return replace(contrast, queue=self.queue.keys(), batch=own, **queued)

    def after_step(self) -> None:
        """Move the key encoder, and put the keys of all processes' batches into the queue."""
        ema_update(self.key_encoder, self.model, self.trained, self.stage.train.key_momentum)
        self._push_keys()

    def after_epoch(self, epoch: int) -> None:
        """Let a loss that can cluster its bank do so, for all processes alike."""
        find, every = self.loss.cluster, self.loss.cluster_every
        if find is None or (epoch - 1) % every:
            return
        with registry.load().blame_for("loss", self.stage.loss.name):
            cast(Bank, self.queue).assign_clusters(lambda keys: find(keys, self.seed))
        buffer = self.queue.get_buffer("cluster")
        buffer.copy_(self.fabric.broadcast(buffer.cpu()))  # of the first process

    def _push_keys(self) -> None:
        """Put the batch's keys into the queue, and give all processes the mean of their batch-norm
        statistics."""
        keys, ids = self._gathered
        self.queue.push(keys, **ids)
        networks = [
            network.pathway(pathway)
            for network in (self.model, self.key_encoder)
            for pathway in self.trained
        ]
        buffers = [value for network in networks for value in network.buffers()]
        average(self.fabric, [value for value in buffers if value.is_floating_point()])

    @torch.no_grad()
    def extra_metrics(self) -> dict[str, float]:
        """Metrics of `monitor` for the last batch; warns once where embeddings collapse."""
        contrast = cast(Contrast, self._last)
        metrics: dict[str, float] = {}
        for pathway in self.trained:
            query, key = cast(Tensor, contrast.query[pathway]), contrast.key[pathway]
            found = monitor.embedding_metrics(query, key)
            if self.loss.mined is not None:
                found |= monitor.positive_metrics(contrast, self.loss.mined(contrast, pathway))
            metrics |= {f"{pathway}_{name}": value for name, value in found.items()}
            self._warn(monitor.collapse_warning(pathway, found["effective_rank"], key.shape))
        if len(self.key_pathways) == 2:
            metrics |= monitor.agreement_metrics(contrast)
        return metrics

    def evaluate(self) -> dict[str, float]:
        """R@1 and k-NN top-1 of training clips among training clips of other recordings, one window
        each. Labels are used for watching only, and no test clip is read."""
        if len(self.check_rows) < 2:
            return {}
        stage, rows = self.stage, self.check_rows
        clips = EvalClips(
            self.manifest,
            rows.tolist(),
            build_sampler(stage),
            stage.augment.border,
            stage.data.size,
            spread=1,
        )
        # Batches of windows differ in size: each size would be compiled.
        with torch.compiler.set_stance("force_eager"):
            features = extract(self.model, clips, self.fabric.device, self.workers)
        self._set_mode()  # `extract` puts back one mode for both pathways: a frozen one would train
        unit = {pathway: centred_unit(feature) for pathway, feature in features.items()}
        source = self.ids.source[rows].astype(np.int64)
        label = self.manifest.table["label"].to_numpy(object)[rows]
        classes, target = np.unique(label.astype(str), return_inverse=True)
        metrics = {}
        for measured in measured_pathways(unit):
            near = nearest(unit, unit, measured, _VOTERS, (source, source))
            metrics[f"{measured}_check_R@1"] = recall(hits(near, label, label), [1])[1]
            shares = vote(near, target, len(classes), _VOTE_TEMPERATURE)
            right = (shares.argmax(1) == target) & shares.any(1)  # without neighbours none is right
            metrics[f"{measured}_check_kNN"] = float(right.mean())
        before = self.first_check()
        for pathway in self.trained:
            name = f"{pathway}_check_R@1"
            self._warn(
                monitor.unlearning_warning(pathway, metrics[name], before.get(name), len(rows))
            )
        return metrics

    def _warn(self, warning: monitor.Warned | None) -> None:
        """Say a warning once a stage."""
        if warning and warning.about not in self._warned:
            self._warned.add(warning.about)
            say(f"warning: {warning.text}")

    def state(self) -> dict[str, Any]:
        """State of networks, key encoder, queue and loss."""
        parts = {
            "model": self.model,
            "keys": self.key_encoder,
            "queue": self.queue,
            "loss": self.loss.main,
            "auxiliary": self.loss.auxiliary,
        }
        return {name: part.state_dict() for name, part in parts.items()}

    def load_state(self, state: Mapping[str, Any], path: Path) -> None:
        checkpoint.load_weights(self.model, state["model"], path)
        checkpoint.load_weights(self.key_encoder, state["keys"], path)
        checkpoint.load_weights(self.queue, state["queue"], path)
        checkpoint.load_weights(self.loss.main, state.get("loss", {}), path)
        checkpoint.load_weights(self.loss.auxiliary, state.get("auxiliary", {}), path)


def _split(values: Mapping[str, Tensor], parts: int) -> Iterator[dict[str, Tensor]]:
    """Values (B, ...) in parts, without a copy."""
    pieces = {name: value.tensor_split(parts) for name, value in values.items()}
    for index in range(parts):
        yield {name: piece[index] for name, piece in pieces.items()}


def _send(index: Tensor, values: Tensor) -> Tensor:
    """An index of the host on the device of values, without waiting for what that computes."""
    return index.to(values.device, non_blocking=True)
