"""Optimisers by their names in timm, and learning rates over time."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from timm.optim import create_optimizer_v2, list_optimizers  # type: ignore[attr-defined]  # timm has no __all__

from vcsf_cli.errors import UnknownName
from vcsf_cli.schema import Optim


def optimizer_of(optim: Optim, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser of a recipe.

    Raises:
        UnknownName: If timm knows none of this name.
    """
    known = [str(name) for name in list_optimizers()]
    if optim.name not in known:
        raise UnknownName("optimiser", optim.name, known, "`optim.name`")
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        list(parameters), opt=optim.name, lr=optim.lr, weight_decay=optim.weight_decay, momentum=optim.momentum
    )
    return optimizer


def learning_rate(optim: Optim, epoch: float, epochs: int) -> float:
    """The learning rate at a point of a stage.

    Args:
        optim: Its node in the recipe.
        epoch: Epochs that have passed in the stage, with their fraction.
        epochs: Epochs of the stage.
    """
    if epoch < optim.warmup:
        return optim.lr * epoch / optim.warmup
    if optim.schedule == "step":
        return optim.lr * 0.1 ** sum(epoch >= drop for drop in optim.drops)
    if optim.schedule == "cosine":
        share = (epoch - optim.warmup) / max(epochs - optim.warmup, 1e-9)
        return optim.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    return optim.lr
