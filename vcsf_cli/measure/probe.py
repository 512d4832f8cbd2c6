"""Frozen features, classified: a linear layer, or the vote of the nearest training clips."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from vcsf_cli.config.protocol import Knn, Linear, LinearTrain
from vcsf_cli.config.schema import Optim
from vcsf_cli.contracts import Indices
from vcsf_cli.data.clips import WholeVideos
from vcsf_cli.features.cache import read_features, write_features
from vcsf_cli.features.extract import Features, extract
from vcsf_cli.features.neighbours import centred_unit, mean_of, nearest
from vcsf_cli.measure.accuracy import FloatArray, IntArray, right
from vcsf_cli.measure.job import FOLDER, Job, carry_out
from vcsf_cli.model.parts import build_sampler
from vcsf_cli.narrate import Progress, say
from vcsf_cli.storage import checkpoint, files
from vcsf_cli.train.compute import Machine
from vcsf_cli.train.optim import learning_rate, optimizer_of

KIND = "vcsf-linear"


class Classifier(Protocol):
    """What tells classes apart by their features."""

    def probabilities(self, features: FloatArray) -> FloatArray:
        """Probabilities (N, classes) of features (N, C)."""
        ...


Fitted = TypeVar("Fitted", bound=Classifier)

Fit = Callable[[FloatArray, IntArray, dict[str, Any]], Classifier]
"""From features (N, C), their classes (N,) and settings to what tells the classes apart."""


def linear(job: Job, machine: Machine) -> pd.DataFrame:
    """Measure a linear layer on frozen features: tidy rows.

    Raises:
        RunError: If another process is at it, or the run's checkpoint can't be used.
    """
    protocol = cast(Linear, job.protocol)

    def fit(features: FloatArray, target: IntArray, setting: dict[str, Any]) -> Layer:
        optim = Optim.model_validate(protocol.optim.model_dump() | setting)
        return fit_layer(features, target, len(job.classes), optim, protocol.train, job.seed)

    def predict(job: Job, machine: Machine) -> Features:
        features = features_of(job, machine)
        layers = {pathway: classifier_of(job, pathway, features[pathway], fit) for pathway in features}
        content = {"classes": job.classes, "layers": {pathway: layer.state_dict() for pathway, layer in layers.items()}}
        checkpoint.save(job.folder / "classifier.pt", content, KIND)
        return tested(job, features, layers)

    return carry_out(job, machine, predict)


def knn(job: Job, machine: Machine) -> pd.DataFrame:
    """Measure the vote of the nearest training clips: tidy rows.

    Raises:
        RunError: If another process is at it, or the run's checkpoint can't be used.
    """

    def fit(features: FloatArray, target: IntArray, setting: dict[str, Any]) -> Voters:
        return Voters(features, target, len(job.classes), **setting)

    def predict(job: Job, machine: Machine) -> Features:
        features = features_of(job, machine)
        voters = {pathway: classifier_of(job, pathway, features[pathway], fit) for pathway in features}
        return tested(job, features, voters)

    return carry_out(job, machine, predict)


def tested(job: Job, features: Features, classifiers: Mapping[str, Classifier]) -> Features:
    """Probabilities (test clips, classes) by pathway."""
    test = job.division.test
    return {pathway: each.probabilities(features[pathway][test]) for pathway, each in classifiers.items()}


def features_of(job: Job, machine: Machine) -> Features:
    """Mean features (rows, C) of all labelled clips of the dataset, by pathway; computed once for all splits and probes.

    Rows that have no label are zero.
    """
    stage, table = job.run.recipe.last, job.manifest.table
    rows = np.flatnonzero(table["label"].notna().to_numpy())
    device, bf16 = machine.device(), machine.bf16()
    key = {
        "from": job.identity["from"],
        "seed": job.seed if job.scratch else None,
        "data": job.manifest.hash,
        "sampler": stage.sampler.model_dump(),
        "size": stage.data.size,
        "border": stage.augment.border,
        "crops": job.protocol.crops,
        "device": device.type,
        "bf16": bf16,
    }
    path = job.run.folder / FOLDER / f"features-{job.manifest.name}-{job.variant}-{job.protocol.crops}.parquet"
    found = read_features(path, key)
    if found is None:
        sampler, border, size = build_sampler(stage), stage.augment.border, stage.data.size
        videos = WholeVideos(job.manifest, rows.tolist(), sampler, border, size, crops=job.protocol.crops)
        model = job.network().to(device)
        with Progress(len(rows), "videos", "features") as progress:
            found = extract(
                model, videos, device, machine.readers, lambda count: progress.advance(count - progress.done), bf16
            )
        write_features(path, key, found, table["video"].to_numpy()[rows], job.label[rows], [""] * len(rows))
    whole = {}
    for pathway in job.pathways:
        whole[pathway] = np.zeros((len(table), found[pathway].shape[1]), np.float32)
        whole[pathway][rows] = found[pathway]
    return whole


def classifier_of(job: Job, pathway: str, features: FloatArray, fit: Callable[..., Fitted]) -> Fitted:
    """The classifier of a pathway: settings chosen on held-out recordings, then learned from all training clips.

    What each setting gave there is kept in `sweep-<pathway>.csv`.
    """
    division, grid = job.division, cast(Linear | Knn, job.protocol).grid.model_dump()
    setting, tried = choose(features, job.known, division.learns, division.chooses, fit, grid)
    with files.whole(job.folder / f"sweep-{pathway}.csv", "w") as file:
        tried.to_csv(file, index=False, lineterminator="\n")
    if len(division.chooses):
        say(
            f"{pathway}: {', '.join(f'{name} {value:g}' for name, value in setting.items())}, chosen on held-out recordings"
        )
    return fit(features[division.train], job.known[division.train], setting)


def choose(
    features: FloatArray, target: IntArray, learns: Indices, chooses: Indices, fit: Fit, grid: dict[str, list[Any]]
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The setting of a grid with the most right answers on held-out recordings, and what each setting gave there.

    Of equally many right answers the surer ones win, then the earlier setting. The first setting is taken where nothing is
    held out.

    Args:
        features: (N, C).
        target: Their classes, (N,).
        learns: Rows to learn from.
        chooses: Rows that are held out.
        fit: What is tried.
        grid: The values of each setting.
    """
    settings = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if not len(chooses):
        return settings[0], pd.DataFrame(settings[:1])
    wanted = target[chooses]
    shares, losses = [], []
    for setting in settings:
        probability = fit(features[learns], target[learns], setting).probabilities(features[chooses])
        shares.append(float(right(probability, wanted).mean()))
        losses.append(float(-np.log(np.maximum(probability[np.arange(len(wanted)), wanted], 1e-9)).mean()))
    best = max(range(len(settings)), key=lambda number: (shares[number], -losses[number], -number))
    return settings[best], pd.DataFrame(settings).assign(held_out_top1=shares, held_out_loss=losses)


class Layer(nn.Module):
    """A linear layer on features of unit length, after batch norm without weights of its own (CoCLR's linear probe).

    Args:
        channels: C.
        classes: How many.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels, affine=False)
        self.linear = nn.Linear(channels, classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, classes) of features (N, C)."""
        return cast(Tensor, self.linear(self.norm(functional.normalize(features, dim=1))))

    @torch.no_grad()
    def probabilities(self, features: FloatArray) -> FloatArray:
        """Probabilities (N, classes) of features (N, C)."""
        self.eval()
        found: FloatArray = self(torch.from_numpy(features)).softmax(1).numpy()
        return found


def fit_layer(
    features: FloatArray, target: IntArray, classes: int, optim: Optim, train: LinearTrain, seed: int
) -> Layer:
    """Learn a layer from features (N, C) and their classes (N,), in batches of a seeded order, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = Layer(features.shape[1], classes)
    optimizer = optimizer_of(optim, layer.parameters())
    inputs, wanted = torch.from_numpy(features), torch.from_numpy(target)
    size = min(train.batch, len(inputs))
    batches = len(inputs) // size
    generator = torch.Generator().manual_seed(seed)
    layer.train()
    for epoch in range(train.epochs):
        order = torch.randperm(len(inputs), generator=generator)
        for number in range(batches):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(optim, epoch + number / batches, train.epochs)
            rows = order[number * size : (number + 1) * size]
            torch.autograd.backward(functional.cross_entropy(layer(inputs[rows]), wanted[rows]))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return layer


@dataclass(frozen=True)
class Voters:
    """Training clips that vote for their class with the weight exp(cosine / temperature) (Wu et al., CVPR 2018, sec. 3.4).

    Args:
        gallery: Their features (N, C).
        target: Their classes, (N,).
        classes: How many there are.
        k: How many of the nearest vote.
        temperature: How much nearer clips weigh more.
    """

    gallery: FloatArray
    target: IntArray
    classes: int
    k: int
    temperature: float

    def probabilities(self, features: FloatArray) -> FloatArray:
        """Shares of the votes (M, classes) of features (M, C).

        All are centred by the training clips' mean, so that what is said of a clip does not depend on which others are asked
        about: less the mean of test clips of one class nothing of that class is left.
        """
        mean = mean_of(self.gallery)
        near = nearest({"": centred_unit(features, mean)}, {"": centred_unit(self.gallery, mean)}, "", self.k)
        # Less the largest, so that no weight is too large for a float; shares stay the same.
        weight = np.exp((near.similarity - near.similarity[:, :1]) / self.temperature)
        votes = np.zeros((len(features), self.classes), np.float32)
        np.add.at(votes, (np.arange(len(features))[:, None], self.target[near.index]), weight)
        shares: FloatArray = votes / votes.sum(1, keepdims=True)
        return shares
