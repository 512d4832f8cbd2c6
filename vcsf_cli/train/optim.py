"""Optimisers by their names in timm, and learning rates over time."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import torch

from vcsf_cli.config.schema import Optim
from vcsf_cli.errors import InputError


def build_optimizer(
    optim: Optim,
    parameters: Iterable[torch.nn.Parameter] | Iterable[dict[str, Any]],
    fused: Literal["auto"] | bool = False,
) -> torch.optim.Optimizer:
    """The optimiser of a recipe.

    Args:
        parameters: Weights on their device; or groups of them, each with an `lr_scale` that
            multiplies the scheduled learning rate.
        fused: Whether one kernel updates all weights; auto: on a GPU, if this optimiser can.

    Raises:
        InputError: If `fused` is true and the optimiser can't.
    """
    weights: list[Any] = list(parameters)
    first = weights[0]["params"][0] if isinstance(weights[0], dict) else weights[0]
    kind: Callable[..., torch.optim.Optimizer]
    make: Callable[..., torch.optim.Optimizer]
    settings: dict[str, Any] = {"lr": optim.lr, "weight_decay": optim.weight_decay}
    if optim.name == "adam":
        kind, make = torch.optim.Adam, torch.optim.Adam  # what timm makes of the same settings
    else:
        # timm takes longer to import than a short training, and most recipes have Adam.
        from timm import optim as timm_optim

        create = timm_optim.create_optimizer_v2  # type: ignore[attr-defined]  # it has no __all__
        kind = timm_optim.get_optimizer_class(optim.name, bind_defaults=False)  # type: ignore[attr-defined]
        make = partial(create, opt=optim.name, momentum=optim.momentum)
    can = "fused" in inspect.signature(kind).parameters
    if fused is True and not can:
        raise InputError(
            f"there is no fused `{optim.name}`", "leave out speed.fused, or take adam, adamw or sgd"
        )
    if can and (fused is True or (fused == "auto" and first.is_cuda)):
        settings["fused"] = True
    return make(weights, **settings)


def load_state(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Go on from a saved state, whose tensors get the order in memory of their weights: a fused
    optimiser goes through both side by side, and a checkpoint may have the other order.

    Raises:
        ValueError: If it is of other weights.
        KeyError: If it is no optimiser's state.
    """
    optimizer.load_state_dict(saved)
    for weight, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                values[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def learning_rate(optim: Optim, epoch: float, epochs: int) -> float:
    """The learning rate at a point of a stage.

    Args:
        epoch: Epochs that have passed in the stage, with their fraction.
    """
    if epoch < optim.warmup:
        return optim.lr * epoch / optim.warmup
    if optim.schedule == "step":
        return optim.lr * 0.1 ** sum(epoch >= drop for drop in optim.drops)
    if optim.schedule == "cosine":
        share = (epoch - optim.warmup) / max(epochs - optim.warmup, 1e-9)
        return optim.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    return optim.lr
