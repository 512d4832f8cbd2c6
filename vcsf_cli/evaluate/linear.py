"""A linear layer on frozen features."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from vcsf_cli.config.protocol import Linear, LinearTrain
from vcsf_cli.config.schema import Optim
from vcsf_cli.evaluate.classification import Classification
from vcsf_cli.evaluate.metrics import FloatArray, IntArray
from vcsf_cli.evaluate.probe import classify_features, labelled_features
from vcsf_cli.features.extract import Features
from vcsf_cli.storage import checkpoint
from vcsf_cli.train.compute import Compute
from vcsf_cli.train.optim import build_optimizer, learning_rate

KIND = "vcsf-linear"


def predict_linear(evaluation: Classification, compute: Compute) -> Features:
    """Probabilities (test clips, classes) by pathway, of linear layers on frozen features."""
    protocol, classes = cast(Linear, evaluation.protocol), evaluation.classes

    def fit(features: FloatArray, target: IntArray, setting: dict[str, Any]) -> _Layer:
        optim = Optim.model_validate(protocol.optim.model_dump() | setting)
        return fit_layer(features, target, len(classes), optim, protocol.train, evaluation.seed)

    features = labelled_features(evaluation, compute)
    probability, layers = classify_features(evaluation, features, fit)
    states = {pathway: layer.state_dict() for pathway, layer in layers.items()}
    content = {"classes": classes, "layers": states}
    checkpoint.save(evaluation.folder / "classifier.pt", content, KIND)
    return probability


class _Layer(nn.Module):
    """A linear layer on features of unit length, after batch norm, as CoCLR's linear probe, but
    without batch norm's own weights: the layer's do the same.
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
