"""How long a recipe trains, and whether that is as long as the method asks for."""

from __future__ import annotations

from vcsf_cli import recipe as recipes
from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.recipe import Recipe

REFERENCE = "vcsf"
"""The recipe whose schedule is the whole one."""


def epochs_of(recipe: Recipe) -> dict[str, int]:
    """Epochs that each pathway learns for."""
    return {
        pathway: sum(stage.train.epochs for stage in recipe.stages if pathway in stage.train.pathways)
        for pathway in PATHWAYS
    }


def shortness(recipe: Recipe) -> str:
    """In words, by how much a recipe's schedule falls short of the whole one; empty if it doesn't."""
    epochs, whole = (max(epochs_of(each).values()) for each in (recipe, recipes.load(REFERENCE)))
    return f"short schedule: {epochs:,} epochs a pathway, not {whole:,}" if epochs < whole else ""
