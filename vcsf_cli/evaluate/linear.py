"""A linear layer on frozen features."""

from __future__ import annotations

from typing import Any, cast

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from vcsf_cli.config.protocol import Linear, LinearTrain
from vcsf_cli.config.schema import Optim
from vcsf_cli.evaluate.job import Job, run_job
from vcsf_cli.evaluate.metrics import FloatArray, IntArray
from vcsf_cli.evaluate.probe import fit_classifier, labelled_features, predict_test
from vcsf_cli.features.extract import Features
from vcsf_cli.storage import checkpoint
from vcsf_cli.train.compute import Compute
from vcsf_cli.train.optim import build_optimizer, learning_rate

KIND = "vcsf-linear"


def linear(job: Job, machine: Compute) -> pd.DataFrame:
    """Measure a linear layer on frozen features: tidy rows.

    Raises:
        RunError: If another process is at it, or the run's checkpoint can't be used.
    """
    protocol = cast(Linear, job.protocol)

    def fit(features: FloatArray, target: IntArray, setting: dict[str, Any]) -> _Layer:
        optim = Optim.model_validate(protocol.optim.model_dump() | setting)
        return fit_layer(features, target, len(job.classes), optim, protocol.train, job.seed)

    def predict(job: Job, machine: Compute) -> Features:
        features = labelled_features(job, machine)
        layers = {
            pathway: fit_classifier(job, pathway, features[pathway], fit) for pathway in features
        }
        content = {
            "classes": job.classes,
            "layers": {pathway: layer.state_dict() for pathway, layer in layers.items()},
        }
        checkpoint.save(job.folder / "classifier.pt", content, KIND)
        return predict_test(job, features, layers)

    return run_job(job, machine, predict)


class _Layer(nn.Module):
    """A linear layer on features of unit length, after batch norm without weights of its own
    (CoCLR's linear probe).

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
    features: FloatArray,
    target: IntArray,
    classes: int,
    optim: Optim,
    train: LinearTrain,
    seed: int,
) -> _Layer:
    """Learn a layer from features (N, C) and their classes (N,), in batches of a seeded order, on
    the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = _Layer(features.shape[1], classes)
    optimizer = build_optimizer(optim, layer.parameters())
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
