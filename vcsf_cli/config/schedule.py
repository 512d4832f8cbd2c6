"""How long a recipe trains, and whether that is as long as the method asks for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from vcsf_cli.config import recipe as recipes
from vcsf_cli.config.recipe import Recipe
from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.narrate import counted

_REFERENCE = "vcsf"
"""The recipe whose schedule is the whole one."""


def epochs_by_pathway(recipe: Recipe) -> dict[str, int]:
    return {
        pathway: sum(
            stage.train.epochs for stage in recipe.stages if pathway in stage.train.pathways
        )
        for pathway in PATHWAYS
    }


def describe_schedule(epochs: Mapping[str, int]) -> str:
    """Epochs by pathway in words."""
    if len(set(epochs.values())) == 1:
        return f"{counted(max(epochs.values()), 'epoch')} a pathway"
    return ", ".join(
        f"{counted(count, 'epoch')} {pathway}" for pathway, count in epochs.items() if count
    )


@cache
def _reference_epochs() -> int:
    return max(epochs_by_pathway(recipes.load(_REFERENCE)).values())


def shortness(recipe: Recipe) -> str:
    """The epochs of a schedule that is shorter than the reference, and the reference's; else
    empty."""
    epochs, whole = epochs_by_pathway(recipe), _reference_epochs()
    return f"{describe_schedule(epochs)}, not {whole:,}" if max(epochs.values()) < whole else ""
