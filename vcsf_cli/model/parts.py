"""The sampler and the loss that a recipe names, built."""

from __future__ import annotations

from typing import cast

from torch import nn

from vcsf_cli import registry
from vcsf_cli.config.recipe import Recipe
from vcsf_cli.config.schema import Stage
from vcsf_cli.contracts import Sampler as WindowSampler


class Loss(nn.Module):
    """What the hook `vcsf_losses` describes."""

    queue: int
    uses_labels: bool = False
    crosses: bool = False
    waits_for_queue: bool = False


_OPTIONAL = ("uses_labels", "crosses", "waits_for_queue")


def build_loss(stage: Stage) -> Loss:
    """The loss of a stage."""
    loss = cast(Loss, registry.load().build("loss", stage.loss.name, **stage.loss.settings))
    for name in _OPTIONAL:
        if not hasattr(loss, name):
            setattr(loss, name, False)
    return loss


def uses_labels(recipe: Recipe) -> bool:
    """Whether any stage of a recipe reads labels, so that its runs are not self-supervised."""
    return any(build_loss(stage).uses_labels for stage in recipe.stages)


def build_sampler(stage: Stage) -> WindowSampler:
    """The sampler of a stage."""
    return cast(
        WindowSampler,
        registry.load().build("sampler", stage.sampler.name, **stage.sampler.settings),
    )
