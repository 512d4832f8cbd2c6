"""A table from options: `vcsf ablate --no-motion-module` is the recipe as it is and the recipe
without that part; `--seeds` and the like replace keys of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vcsf_cli.config import recipe as recipes
from vcsf_cli.config import strict_yaml
from vcsf_cli.config.recipe import Recipe
from vcsf_cli.config.schema import DEFAULTS, NO_MOTION, Stage
from vcsf_cli.config.table import Draft
from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.errors import InputError
from vcsf_cli.model.parts import StageLoss

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
"""Options with several values, and the key that each changes; `loss.` is that of cross-pathway
training."""


def draft_from_flags(
    base: str,
    assignments: Sequence[str] = (),
    *,
    no_motion_module: bool = False,
    no_cross_pathway: bool = False,
    no_stage_a: bool = False,
    slow_only: bool = False,
    fast_only: bool = False,
    **values: Sequence[str] | None,
) -> Draft:
    """The table that flags ask for: the recipe as it is, and a row for each thing they change.

    Args:
        assignments: Those of `--set`, for all rows.
        values: Values by the names of `LISTS`, a row for each.

    Raises:
        InputError: If the recipe has nothing that a flag would take away.
        RecipeError: If the recipe is wrong.
    """
    recipe = recipes.load(base, assignments)
    rows: dict[str, dict[str, Any]] = {"full": {}}
    names = []
    if no_motion_module:
        if recipe.first_stage.motion.name == NO_MOTION:
            raise InputError(f"--no-motion-module: {recipe.name} has none", "leave the flag out")
        names.append("no-motion-module")
        rows["no motion module"] = {"set": {"motion": NO_MOTION}}
    if no_cross_pathway:
        names.append("no-cross-pathway")
        rows["no cross-pathway training"] = {
            "set": {
                f"{prefix}loss": _PLAIN_LOSS
                for prefix in _cross_pathway_prefixes(recipe, "--no-cross-pathway")
            },
            "note": f"no cross-pathway training: {_EQUAL}",
        }
    if no_stage_a:
        names.append("no-stage-a")
        rows["no stage A"] = _row_without_stage_a(recipe)
    for pathway, wanted in (("slow", slow_only), ("fast", fast_only)):
        if wanted:
            names.append(f"{pathway}-only")
            rows[f"{pathway} only"] = _row_of_one_pathway(recipe, pathway)
    vary = {}
    for flag, key in LISTS.items():
        texts = values.get(flag)
        if not texts:
            continue
        names.append(flag)
        prefix = ""
        if key.startswith("loss."):
            prefix = "" if _cross_pathway_prefixes(recipe, f"--{flag}") == [""] else "stages.*."
        vary[f"{prefix}{key}"] = [
            strict_yaml.parse(text, f"--{flag}")[0] for text in dict.fromkeys(texts)
        ]
    tree = {
        "title": f"Ablation of {recipe.name}: {', '.join(names)}",
        "base": base,
        "rows": rows,
        "vary": vary,
    }
    if slow_only or fast_only:
        tree["pathways"] = [*PATHWAYS, "both"]
    return Draft("-".join([recipe.name, *names]), tree)


def override(
    draft: Draft,
    base: str | None,
    seeds: Sequence[str] | None,
    splits: Sequence[str] | None,
    measure: Sequence[str] | None,
) -> None:
    """Replace keys of a table by what options say.

    Raises:
        InputError: If `base` is given and a row has a recipe of its own.
    """
    if base:
        for name, row in dict(draft.tree.get("rows") or {}).items():
            if isinstance(row, dict) and row.get("base"):
                raise InputError(
                    f"row `{name}` of {draft.name} has a recipe of its own, so that --base can't "
                    "take its place",
                    "copy the table and change it there, or leave out --base",
                )
        draft.tree["base"] = base
    for key, numbers in (("seeds", seeds), ("splits", splits)):
        if numbers:
            draft.tree[key] = [int(number) for number in numbers]
    if measure:
        keys = ("task", "data", "protocol")
        draft.tree["measure"] = [
            {key: word for key, word in zip(keys, each.split(":", 2), strict=False) if word}
            for each in measure
        ]


def _mines_positives(stage: Stage) -> bool:
    """Whether pathways find positives for each other in a stage."""
    return StageLoss(stage).mined is not None


def _cross_pathway_prefixes(recipe: Recipe, flag: str) -> list[str]:
    """The keys of cross-pathway stages, `stages.1.` and so on; empty text for the top level.

    Raises:
        InputError: If there is no such stage.
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


def _row_without_stage_a(recipe: Recipe) -> dict[str, Any]:
    """A row that begins with cross-pathway training.

    Raises:
        InputError: If the recipe has no stage before it.
    """
    first = _cross_pathway_prefixes(recipe, "--no-stage-a")[0]
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


def _row_of_one_pathway(recipe: Recipe, pathway: str) -> dict[str, Any]:
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
