"""The rows of a table, each resolved to a recipe of its own."""

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
from vcsf_cli.config.table import Draft, Measure, Row, TableFile, assignment, contents
from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.errors import InputError, RecipeError


@dataclass(frozen=True)
class RowSpec:
    """A row that is resolved to assignments.

    Args:
        name: What the table calls it.
        base: A recipe's name or file.
        assignments: As `--set` takes them.
        pathways: What of it is shown.
        note: Something to know about it.
    """

    name: str
    base: str
    assignments: tuple[str, ...]
    pathways: tuple[str, ...]
    note: str = ""

    @property
    def trains(self) -> tuple[str, ...]:
        """The pathways that a measurement by classification has to train."""
        return (
            PATHWAYS
            if "both" in self.pathways
            else tuple(name for name in PATHWAYS if name in self.pathways)
        )


@dataclass(frozen=True)
class Table:
    """A checked table.

    Args:
        name: Names its folder.
        title: Says what it is.
        lines: Its rows; the first is what the others are compared with.
        seeds: Of training; None for the recipe's.
        splits: Trained and tested on; None for the recipe's.
        measures: What is measured of every row.
        published: Whether published numbers stand beside ours.
    """

    name: str
    title: str
    lines: tuple[RowSpec, ...]
    seeds: tuple[int, ...] | None
    splits: tuple[int, ...] | None
    measures: tuple[Measure, ...]
    published: bool = False


def resolve_table(draft: Draft, assignments: Sequence[str] = ()) -> Table:
    """A table with all its rows, each of which resolves to a recipe of its own.

    Args:
        draft: What file or flags say.
        assignments: What `--set` was given: for all rows, before their own.

    Raises:
        RecipeError: With everything that is wrong in it and in its rows.
    """
    content, rows, measures, checker = contents(draft)
    lines = _all_rows(content, rows, assignments, checker)
    checker.finish()
    return Table(
        draft.name,
        content.title,
        tuple(lines),
        None if content.seeds is None else tuple(dict.fromkeys(content.seeds)),
        None if content.splits is None else tuple(dict.fromkeys(content.splits)),
        tuple(measures),
        content.published,
    )


def named_apart(table: Table) -> Table:
    """A table whose name ends in a hash of what it is of, as one that options changed needs a
    folder of its own."""
    rows = [
        [line.name, recipes.load(line.base, line.assignments).hash, line.pathways, line.note]
        for line in table.lines
    ]
    measures = [measure.model_dump(mode="json") for measure in table.measures]
    content = json.dumps([table.title, rows, table.seeds, table.splits, measures, table.published])
    return replace(table, name=f"{table.name}-{hashlib.sha256(content.encode()).hexdigest()[:6]}")


def _all_rows(
    content: TableFile, rows: Mapping[str, Row], shared: Sequence[str], checker: Checker
) -> list[RowSpec]:
    """All rows, those of the grid last; a point of the grid that is a row already is told by that
    row's name."""
    bases: dict[str, str] = {}
    lines: dict[str, RowSpec] = {}
    told: set[str] = set()
    given: list[tuple[str, Row, tuple[str, ...]]] = [
        (name, row, ("rows", name)) for name, row in rows.items()
    ]
    given += [(_row_name(point), Row(set=point), (key,)) for key, point in _varied_points(content)]
    for name, row, path in given:
        if name in told:
            checker.add(
                RecipeError(f"{checker.place(*path)}: there are two rows `{name}`", "leave one out")
            )
            continue
        told.add(name)
        try:
            base = row.base or content.base
            bases[base] = bases.get(base) or str(RECIPES.find(base))
            own = _expand_assignments(bases[base], shared, row.set)
            resolved = recipes.load(bases[base], (*shared, *own))
        except InputError as error:
            text = error.message.replace("\n", "\n  ")
            checker.add(RecipeError(f"row `{name}` at {checker.place(*path)}: {text}", error.hint))
            continue
        pathways: tuple[str, ...] = tuple(row.pathways or content.pathways)
        if resolved.hash not in lines:
            lines[resolved.hash] = RowSpec(name, bases[base], (*shared, *own), pathways, row.note)
        elif path[0] != "rows":
            same = lines[resolved.hash]
            lines[resolved.hash] = replace(same, name=f"{same.name} ({name})")
        else:
            twin = lines[resolved.hash].name
            checker.add(
                RecipeError(
                    f"row `{name}` at {checker.place(*path)} is the same recipe as row `{twin}`",
                    "leave it out: one recipe is one run",
                )
            )
    return list(lines.values())


def _varied_points(content: TableFile) -> list[tuple[str, dict[str, Any]]]:
    """The rows of `vary` and `grid`, each with the key that it comes from."""
    found = [("vary", {key: value}) for key, values in content.vary.items() for value in values]
    for point in itertools.product(*content.grid.values()) if content.grid else ():
        found.append(("grid", dict(zip(content.grid, point, strict=True))))
    return found


def _row_name(point: Mapping[str, Any]) -> str:
    """What a row of `vary` or `grid` is called: `alpha 8, neighbours 5`."""
    return ", ".join(f"{_key_label(key)} {plain(value)}" for key, value in point.items())


def _key_label(key: str) -> str:
    """What a key is called in a row's name: its last word, or the component whose name it is."""
    parts = key.split(".")
    return parts[-2] if parts[-1] == "name" and len(parts) > 1 else parts[-1]


def plain(value: Any) -> str:
    """A value as a row's name has it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _expand_assignments(base: str, before: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """Assignments; `stages.*.loss.k` becomes one for each stage that has a `loss` of its own with a
    `k`.

    Raises:
        RecipeError: If no stage has.
    """
    found: list[str] = []
    for key, value in values.items():
        if not key.startswith("stages.*."):
            found.append(assignment(key, value))
            continue
        rest = key.removeprefix("stages.*.")
        stages = recipes.load(base, (*before, *found)).tree["stages"]
        own = [index for index, stage in enumerate(stages) if has(stage, rest)]
        if not own:
            raise RecipeError(
                f"`{key}`: no stage has a `{rest}` of its own", f"`{rest}` sets it for all stages"
            )
        found += [assignment(f"stages.{index}.{rest}", value) for index in own]
    return found


def has(node: Any, key: str) -> bool:
    """Whether a key leads to something in a stage's own nodes."""
    for name in key.split("."):
        if not isinstance(node, dict) or name not in node:
            return False
        node = node[name]
    return True
