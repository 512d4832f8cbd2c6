"""A table from flags: `vcsf ablate --no-motion-module` is the recipe as it is and the recipe
without that part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vcsf_cli.config import recipe as recipes
from vcsf_cli.config import strict_yaml
from vcsf_cli.config.recipe import Recipe
from vcsf_cli.config.schema import DEFAULTS, NO_MOTION, Stage
from vcsf_cli.config.table import Draft
from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.errors import InputError
from vcsf_cli.model.parts import build_loss

_PLAIN_LOSS: str = DEFAULTS["loss"]["name"]

_EQUAL = "all stages with InfoNCE instead of positives of the other pathway: as many epochs for each pathway as in `full`"

LISTS: Mapping[str, str] = {
    "alpha": "sampler.alpha",
    "neighbours": "loss.neighbours",
    "positives": "loss.positives",
    "contrast": "loss.contrast",
    "backbone": "backbone.name",
    "motion": "motion.name",
}
"""Flags with several values, and the key that each changes; `loss.` is that of cross-pathway
training."""


@dataclass(frozen=True)
class Flags:
    """What is taken away or changed, one at a time.

    Args:
        no_motion_module: A row without it.
        no_cross_pathway: A row of the same epochs with InfoNCE alone.
        no_stage_a: A row without the stages before cross-pathway training.
        only: Pathways that get a row where nothing else learns.
        values: Values by the names of `LISTS`.
    """

    no_motion_module: bool = False
    no_cross_pathway: bool = False
    no_stage_a: bool = False
    only: tuple[str, ...] = ()
    values: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def words(self) -> list[str]:
        """The flags as they are typed, which name the table."""
        names = ("no_motion_module", "no_cross_pathway", "no_stage_a")
        found = [name.replace("_", "-") for name in names if getattr(self, name)]
        return [*found, *(f"{pathway}-only" for pathway in self.only), *self.values]


def draft_from_flags(flags: Flags, base: str, assignments: Sequence[str], **keys: Any) -> Draft:
    """The table that flags ask for.

    Args:
        flags: The flags; at least one.
        base: The recipe's name or file.
        assignments: What `--set` was given, for all rows.
        keys: More keys of the table.

    Raises:
        InputError: If the recipe has nothing that a flag would take away.
        RecipeError: If the recipe is wrong.
    """
    recipe = recipes.load(base, assignments)
    rows: dict[str, dict[str, Any]] = {"full": {}}
    if flags.no_motion_module:
        if recipe.first_stage.motion.name == NO_MOTION:
            raise InputError(f"--no-motion-module: {recipe.name} has none", "leave the flag out")
        rows["no motion module"] = {"set": {"motion": NO_MOTION}}
    if flags.no_cross_pathway:
        rows["no cross-pathway training"] = {
            "set": {
                f"{where}loss": _PLAIN_LOSS for where in _crossed(recipe, "--no-cross-pathway")
            },
            "note": f"no cross-pathway training: {_EQUAL}",
        }
    if flags.no_stage_a:
        rows["no stage A"] = _without_stage_a(recipe)
    for pathway in flags.only:
        rows[f"{pathway} only"] = alone(recipe, pathway)
    vary = {}
    for flag, texts in flags.values.items():
        where = ""
        if LISTS[flag].startswith("loss."):
            where = "" if _crossed(recipe, f"--{flag}") == [""] else "stages.*."
        vary[f"{where}{LISTS[flag]}"] = [
            strict_yaml.parse(text, f"--{flag}")[0] for text in dict.fromkeys(texts)
        ]
    if flags.only:
        keys = {"pathways": [*PATHWAYS, "both"]} | keys
    title = f"Ablation of {recipe.name}: {', '.join(flags.words)}"
    name = "-".join([recipe.name, *flags.words])
    return Draft(name, {"title": title, "base": base, "rows": rows, "vary": vary, **keys})


def _mines_positives(stage: Stage) -> bool:
    """Whether pathways find positives for each other in a stage."""
    return hasattr(build_loss(stage), "mined")


def _crossed(recipe: Recipe, flag: str) -> list[str]:
    """Where in the recipe cross-pathway training is: `stages.1.` and so on, or empty text for the
    top level.

    Raises:
        InputError: If it is nowhere.
    """
    staged = bool(recipe.tree["stages"])
    found = [
        f"stages.{index}." if staged else ""
        for index, stage in enumerate(recipe.stages)
        if _mines_positives(stage)
    ]
    if not found:
        raise InputError(
            f"{flag}: no stage of {recipe.name} trains across pathways",
            "recipes/vcsf.yaml has such stages; --base names another recipe",
        )
    return found


def _without_stage_a(recipe: Recipe) -> dict[str, Any]:
    """A row that begins with cross-pathway training.

    Raises:
        InputError: If the recipe has no stage before it.
    """
    first = _crossed(recipe, "--no-stage-a")[0]
    if first in ("", "stages.0."):
        raise InputError(
            f"--no-stage-a: {recipe.name} has no stage before cross-pathway training",
            "leave it out",
        )
    index = int(first.split(".")[1])
    epochs = sum(stage.train.epochs for stage in recipe.stages[:index])
    return {
        "set": {"stages": recipe.tree["stages"][index:]},
        "note": f"no stage A: {epochs} epochs less than `full`",
    }


def alone(recipe: Recipe, pathway: str) -> dict[str, Any]:
    """A row where one pathway learns by itself, for as many epochs as in the whole recipe."""
    kept = []
    for own, stage in zip(recipe.tree["stages"], recipe.stages, strict=False):
        if pathway not in stage.train.pathways:
            continue
        loss = {"loss": {"name": _PLAIN_LOSS}} if _mines_positives(stage) else {}
        train = {"train": own["train"] | {"pathways": [pathway]}} if "train" in own else {}
        kept.append(own | loss | train)
    other = next(name for name in PATHWAYS if name != pathway)
    changed: dict[str, Any] = {"train.pathways": [pathway]}
    if recipe.tree["stages"]:
        changed["stages"] = kept
    elif _mines_positives(recipe.first_stage):
        changed["loss"] = _PLAIN_LOSS
    return {
        "set": changed,
        "pathways": [pathway],
        "note": f"{pathway} only: the {other} pathway does not learn; {_EQUAL}",
    }
