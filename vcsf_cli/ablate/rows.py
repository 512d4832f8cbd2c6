"""The rows of a table, each resolved to a recipe of its own, and the runs that they need."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vcsf_cli.config import recipe as recipes
from vcsf_cli.config.catalogue import RECIPES
from vcsf_cli.config.check import Checker
from vcsf_cli.config.recipe import Recipe
from vcsf_cli.config.table import Draft, LabelGain, Measure, Row, TableFile, assignment, contents
from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.errors import InputError, RecipeError
from vcsf_cli.runs import stages
from vcsf_cli.runs.run import Run


@dataclass(frozen=True)
class RowSpec:
    """A row that is resolved to a recipe.

    Args:
        base: Name or file of the recipe that the assignments change.
        assignments: As `--set` takes them.
        pathways: `slow`, `fast` and `both`, as the table shows them.
    """

    name: str
    base: str
    assignments: tuple[str, ...]
    recipe: Recipe
    pathways: tuple[str, ...]
    note: str = ""

    @property
    def classified_pathways(self) -> tuple[str, ...]:
        """The pathways that `vcsf finetune` measures to get the ones of the table."""
        shown = PATHWAYS if "both" in self.pathways else self.pathways
        return tuple(name for name in PATHWAYS if name in shown)


@dataclass(frozen=True)
class RunSpec:
    """One run of a table: a row with a seed and a split.

    Args:
        recipe: The row's recipe with the seed and the split.
        assignments: As `--set` of `vcsf pretrain` takes them.
        run: The run, which may not exist yet.
    """

    row: RowSpec
    recipe: Recipe
    assignments: tuple[str, ...]
    run: Run

    @property
    def seed(self) -> int:
        return self.recipe.seed

    @property
    def split(self) -> int:
        return self.recipe.first_stage.data.split

    @property
    def name(self) -> str:
        return f"{self.row.name}, seed {self.seed}, split {self.split}"

    @property
    def is_begun(self) -> bool:
        """Whether the run has a checkpoint of its own, so that it takes no stage from another."""
        return self.run.checkpoint.is_file()

    @property
    def finished_stages(self) -> int:
        """The number of finished stages, with those that were taken from another run.

        Raises:
            RunError: If the run is damaged.
        """
        return sum("ended" in entry for entry in stages.read(self.run.folder))


@dataclass(frozen=True)
class Table:
    """A checked table.

    Args:
        rows: Its rows; the others are compared with the first.
        seeds: Seeds of training; None for the recipe's.
        splits: Splits to train and test on; None for the recipe's.
        published: Whether published numbers stand beside ours.
        label_gain: The rows that say what labels would gain.
    """

    name: str
    title: str
    rows: tuple[RowSpec, ...]
    seeds: tuple[int, ...] | None
    splits: tuple[int, ...] | None
    measures: tuple[Measure, ...]
    published: bool = False
    label_gain: LabelGain | None = None


def resolve_table(draft: Draft, assignments: Sequence[str] = ()) -> Table:
    """Resolve every row of a table to a recipe of its own.

    Args:
        draft: The table as a file or flags have it.
        assignments: Those of `--set`, for all rows, before their own.

    Raises:
        RecipeError: With everything that is wrong in the table and in its rows.
    """
    content, rows, measures, checker = contents(draft)
    by_name = _resolve_rows(content, rows, assignments, checker)
    checker.finish()
    gain = content.label_gain
    if gain:  # a row of `vary` may have given its name to one of these
        gain = LabelGain(baseline=by_name[gain.baseline].name, labels=by_name[gain.labels].name)
    return Table(
        draft.name,
        content.title,
        tuple({row.recipe.hash: row for row in by_name.values()}.values()),
        None if content.seeds is None else tuple(dict.fromkeys(content.seeds)),
        None if content.splits is None else tuple(dict.fromkeys(content.splits)),
        tuple(measures),
        content.published,
        gain,
    )


def with_hashed_name(table: Table) -> Table:
    """The table with a hash of its content in its name: options changed it, so it needs its own
    folder."""
    rows = [[row.name, row.recipe.hash, row.pathways, row.note] for row in table.rows]
    measures = [measure.model_dump(mode="json") for measure in table.measures]
    content = json.dumps([table.title, rows, table.seeds, table.splits, measures, table.published])
    return replace(table, name=f"{table.name}-{hashlib.sha256(content.encode()).hexdigest()[:6]}")


def _resolve_rows(
    content: TableFile, rows: Mapping[str, Row], shared: Sequence[str], checker: Checker
) -> dict[str, RowSpec]:
    """All rows by their names, those of `vary` and `grid` last; one that equals an earlier row is
    merged into it, and both names have the same row."""
    bases: dict[str, str] = {}
    resolved: dict[str, RowSpec] = {}
    hashes: dict[str, str] = {}
    drafts: list[tuple[str, Row, tuple[str, ...]]] = [
        (name, row, ("rows", name)) for name, row in rows.items()
    ]
    drafts += [(_row_name(point), Row(set=point), (key,)) for key, point in _varied_points(content)]
    for name, row, path in drafts:
        if name in hashes:
            checker.problem(f"{checker.place(*path)}: there are two rows `{name}`", "leave one out")
            continue
        hashes[name] = ""  # also of one that is wrong
        try:
            base = row.base or content.base
            bases[base] = bases.get(base) or str(RECIPES.find(base))
            own = (*shared, *_expand_assignments(bases[base], shared, row.set))
            recipe = recipes.load(bases[base], own)
        except InputError as error:
            text = error.message.replace("\n", "\n  ")
            checker.problem(f"row `{name}` at {checker.place(*path)}: {text}", error.hint)
            continue
        hashes[name] = recipe.hash
        pathways: tuple[str, ...] = tuple(row.pathways or content.pathways)
        same = resolved.get(recipe.hash)
        if same is None:
            resolved[recipe.hash] = RowSpec(name, bases[base], own, recipe, pathways, row.note)
        elif path[0] != "rows":
            resolved[recipe.hash] = replace(same, name=f"{same.name} ({name})")
        else:
            checker.problem(
                f"row `{name}` at {checker.place(*path)} is the same recipe as row `{same.name}`",
                "leave it out: one recipe is one run",
            )
    return {name: resolved[found] for name, found in hashes.items() if found}


def _varied_points(content: TableFile) -> list[tuple[str, dict[str, Any]]]:
    """The rows of `vary` and `grid`, each with the key that it comes from."""
    found = [("vary", {key: value}) for key, values in content.vary.items() for value in values]
    for point in itertools.product(*content.grid.values()) if content.grid else ():
        found.append(("grid", dict(zip(content.grid, point, strict=True))))
    return found


def _row_name(point: Mapping[str, Any]) -> str:
    """The name of a row of `vary` or `grid`, such as `alpha 8, neighbours 5`."""
    words = []
    for key, value in point.items():
        parts = key.split(".")
        label = parts[-2] if parts[-1] == "name" and len(parts) > 1 else parts[-1]
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        words.append(f"{label} {text}")
    return ", ".join(words)


def _expand_assignments(base: str, before: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """Assignments; `stages.*.loss.k` becomes one for each stage that has a `loss` with a `k`.

    Raises:
        RecipeError: If no stage has.
    """
    found: list[str] = []
    for key, value in values.items():
        if not key.startswith("stages.*."):
            found.append(assignment(key, value))
            continue
        rest = key.removeprefix("stages.*.")
        stage_trees = recipes.load(base, (*before, *found)).tree["stages"]
        own = [index for index, tree in enumerate(stage_trees) if _has(tree, rest)]
        if not own:
            raise RecipeError(
                f"`{key}`: no stage has a `{rest}` of its own", f"`{rest}` sets it for all stages"
            )
        found += [assignment(f"stages.{index}.{rest}", value) for index in own]
    return found


def _has(node: Any, key: str) -> bool:
    for name in key.split("."):
        if not isinstance(node, dict) or name not in node:
            return False
        node = node[name]
    return True
