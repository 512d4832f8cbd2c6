"""What a table is: strict YAML in `recipes/tables/`, or flags, with the rows that it comes to.

A row is a recipe with assignments, the same as `--set` of `vcsf pretrain` takes, so that it can be trained by hand too.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import BaseModel, Field, ValidationError

from vcsf_cli import recipe as recipes
from vcsf_cli import strict_yaml
from vcsf_cli.checker import Checker, part
from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.errors import InputError, RecipeError, did_you_mean
from vcsf_cli.recipe import LARGEST_SEED, TABLES, recipe_dirs
from vcsf_cli.schema import Node

PUBLISHED = "published"
"""The file among tables that holds no table but the published numbers."""

DEFAULT_KS = (1, 5, 10, 20, 50)
DEFAULT_PROTOCOLS: Mapping[str, str] = {"linear": "linear", "knn": "knn", "finetune": "coclr"}

Text = Annotated[str, MinLen(1)]
Which = Literal["slow", "fast", "both"]


class Measure(Node):
    """One thing to measure of every row."""

    task: Literal["retrieve", "linear", "knn", "finetune"]
    data: Text | None = None
    """A prepared dataset; None: the one that the row is trained on."""
    k: Annotated[list[Annotated[int, Gt(0)]], MinLen(1)] | None = None
    """The k of R@k; of `retrieve` alone."""
    protocol: Text | None = None
    """Of the others: a protocol's name or file; None: linear, knn or coclr."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Assignments to the protocol."""

    @property
    def words(self) -> str:
        """Task, dataset, protocol and what is changed in it, as they are narrated."""
        return " ".join(word for word in (self.task, self.data, self.protocol, *self.assignments) if word)

    @property
    def assignments(self) -> list[str]:
        """What `--set` of `vcsf finetune` gets."""
        return [assignment(key, value) for key, value in self.set.items()]


class Row(Node):
    """One row: assignments to the table's recipe, or to one of its own."""

    base: Text | None = None
    """The row's own recipe; None: the table's."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Assignments; `stages.*.loss.neighbours` means every stage that has a `loss` of its own."""
    pathways: Annotated[list[Which], MinLen(1)] | None = None
    """What of it is shown; None: what the table shows."""
    note: str = ""
    """Something to know about the row, below the table."""


class TableFile(Node):
    """The keys of a table's file; rows and measurements are checked one by one."""

    title: Text
    base: Text
    rows: dict[str, Any] = Field(default_factory=dict)
    """By name; the first is what the others are compared with. None: `full`, the recipe as it is."""
    vary: dict[str, Annotated[list[Any], MinLen(1)]] = Field(default_factory=dict)
    """Values of keys: each value is a row more, with that key alone changed."""
    grid: dict[str, Annotated[list[Any], MinLen(1)]] = Field(default_factory=dict)
    """Values of keys: each combination is a row more."""
    seeds: Annotated[list[Annotated[int, Ge(0), Le(LARGEST_SEED)]], MinLen(1)] | None = None
    """None: the recipe's."""
    splits: Annotated[list[Literal[1, 2, 3]], MinLen(1)] | None = None
    """Trained and tested on, each by itself; None: the recipe's."""
    measure: Annotated[list[Any], MinLen(1)] = Field(default_factory=lambda: [{"task": "retrieve"}])
    pathways: Annotated[tuple[Which, ...], MinLen(1)] = ("both",)
    published: bool = False
    """Whether the published numbers of the same task and dataset stand beside ours."""


@dataclass(frozen=True)
class Line:
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
        return PATHWAYS if "both" in self.pathways else tuple(name for name in PATHWAYS if name in self.pathways)


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
    lines: tuple[Line, ...]
    seeds: tuple[int, ...] | None
    splits: tuple[int, ...] | None
    measures: tuple[Measure, ...]
    published: bool = False


@dataclass
class Draft:
    """A table as its file or flags say, before its rows are resolved.

    Args:
        name: Names its folder.
        tree: The keys of `TableFile`.
        marks: `file:line` by path of keys; empty where flags said it.
    """

    name: str
    tree: dict[str, Any]
    marks: strict_yaml.Marks = field(default_factory=dict)


def table_names() -> dict[str, Path]:
    """All tables by name; of equal names the first folder's counts, which is vcsf's own."""
    found: dict[str, Path] = {}
    for _, folder in recipe_dirs():
        for path in sorted((folder / TABLES).glob("*.yaml")):
            if path.stem != PUBLISHED:
                found.setdefault(path.stem, path)
    return found


def read(named: str) -> Draft:
    """The table in a file, or of a name.

    Raises:
        InputError: If there is none.
        RecipeError: If it is no YAML.
    """
    path = Path(named)
    if not path.is_file():
        names = table_names()
        short = named.removeprefix(f"recipes/{TABLES}/").removesuffix(".yaml")
        if short not in names:
            raise InputError(f"there is no table {named}", did_you_mean(short, names))
        path = names[short]
    tree, marks = strict_yaml.read(path, "table", f"see {table_names()['motion']}")
    return Draft(path.stem, tree, marks)


def assignment(key: str, value: Any) -> str:
    """A key and its value as `--set` takes them."""
    if isinstance(value, str) and strict_yaml.parse(value, key)[0] == value:
        return f"{key}={value}"
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def checked(draft: Draft, assignments: Sequence[str] = ()) -> Table:
    """A table with all its rows, each of which resolves to a recipe of its own.

    Args:
        draft: What file or flags say.
        assignments: What `--set` was given: for all rows, before their own.

    Raises:
        RecipeError: With everything that is wrong in it and in its rows.
    """
    checker = Checker(draft.marks, (), TableFile, "table")
    content = node_of(checker, TableFile, draft.tree, ())
    checker.finish()
    rows = {
        name: node_of(Checker(draft.marks, checker.problems, Row, "row"), Row, row or {}, ("rows", name), checker)
        for name, row in (content.rows or {"full": {}}).items()
    }
    measures = [
        node_of(Checker(draft.marks, (), Measure, "measurement"), Measure, item, ("measure", index), checker)
        for index, item in enumerate(content.measure)
    ]
    told: list[str] = []
    for index, measure in enumerate(measures):
        if measure is None:
            continue
        check_measure(measure, checker, index)
        if measure.words in told:
            place = checker.place("measure", index)
            checker.add(RecipeError(f"{place} is measured twice: {measure.words}", "leave one out"))
        told.append(measure.words)
    checker.finish()
    lines = lines_of(content, rows, assignments, checker)
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
    """A table whose name ends in a hash of what it is of, as one that options changed needs a folder of its own."""
    rows = [
        [line.name, recipes.load(line.base, line.assignments).hash, line.pathways, line.note] for line in table.lines
    ]
    measures = [measure.model_dump(mode="json") for measure in table.measures]
    content = json.dumps([table.title, rows, table.seeds, table.splits, measures, table.published])
    return replace(table, name=f"{table.name}-{hashlib.sha256(content.encode()).hexdigest()[:6]}")


def node_of(
    checker: Checker,
    schema: type[BaseModel],
    tree: Any,
    prefix: tuple[str | int, ...],
    gather: Checker | None = None,
) -> Any:
    """A node's model; None, with its problems remembered, if it doesn't fit."""
    if not isinstance(tree, dict):
        (gather or checker).add(RecipeError(f"{checker.place(*prefix)} is {tree!r}", "write keys and values"))
        return None
    try:
        return part(schema, tree)
    except ValidationError as error:
        for detail in error.errors():
            checker.misfit(detail, prefix)
        for problem in checker.problems if gather else ():
            gather.add(problem)  # type: ignore[union-attr]  # there is one
        return None


def check_measure(measure: Measure, checker: Checker, index: int) -> None:
    """See that no key was given that the task has no use for, and that the protocol is of its kind."""
    from vcsf_cli import protocol as protocols

    if measure.task == "retrieve":
        for key in ("protocol", "set"):
            if getattr(measure, key):
                checker.add(RecipeError(f"{checker.place('measure', index, key)} has no meaning for `retrieve`"))
        return
    if measure.k:
        place = checker.place("measure", index, "k")
        checker.add(RecipeError(f"{place} has no meaning for `{measure.task}`", "k is of `retrieve`"))
    try:
        protocol = protocols.load(measure.protocol or DEFAULT_PROTOCOLS[measure.task], measure.assignments)
    except InputError as error:
        checker.add(RecipeError(f"{checker.place('measure', index)}: {error.message}", error.hint))
        return
    if protocol.mode != measure.task:
        checker.add(
            RecipeError(
                f"{checker.place('measure', index, 'protocol')} is of mode {protocol.mode}, not {measure.task}",
                "name another protocol, or another task",
            )
        )


def lines_of(content: TableFile, rows: Mapping[str, Row], shared: Sequence[str], checker: Checker) -> list[Line]:
    """All rows, those of the grid last; a point of the grid that is a row already is told by that row's name."""
    bases: dict[str, str] = {}
    lines: dict[str, Line] = {}
    told: set[str] = set()
    given: list[tuple[str, Row, tuple[str, ...]]] = [(name, row, ("rows", name)) for name, row in rows.items()]
    given += [(named(point), Row(set=point), (key,)) for key, point in points_of(content)]
    for name, row, path in given:
        if name in told:
            checker.add(RecipeError(f"{checker.place(*path)}: there are two rows `{name}`", "leave one out"))
            continue
        told.add(name)
        try:
            base = row.base or content.base
            bases[base] = bases.get(base) or str(recipes.find_recipe(base))
            own = expanded(bases[base], shared, row.set)
            resolved = recipes.load(bases[base], (*shared, *own))
        except InputError as error:
            text = error.message.replace("\n", "\n  ")
            checker.add(RecipeError(f"row `{name}` at {checker.place(*path)}: {text}", error.hint))
            continue
        pathways: tuple[str, ...] = tuple(row.pathways or content.pathways)
        if resolved.hash not in lines:
            lines[resolved.hash] = Line(name, bases[base], (*shared, *own), pathways, row.note)
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


def points_of(content: TableFile) -> list[tuple[str, dict[str, Any]]]:
    """The rows of `vary` and `grid`, each with the key that it comes from."""
    found = [("vary", {key: value}) for key, values in content.vary.items() for value in values]
    for point in itertools.product(*content.grid.values()) if content.grid else ():
        found.append(("grid", dict(zip(content.grid, point, strict=True))))
    return found


def named(point: Mapping[str, Any]) -> str:
    """What a row of `vary` or `grid` is called: `alpha 8, neighbours 5`."""
    return ", ".join(f"{label_of(key)} {plain(value)}" for key, value in point.items())


def label_of(key: str) -> str:
    """What a key is called in a row's name: its last word, or the component whose name it is."""
    parts = key.split(".")
    return parts[-2] if parts[-1] == "name" and len(parts) > 1 else parts[-1]


def plain(value: Any) -> str:
    """A value as a row's name has it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def expanded(base: str, before: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """Assignments; `stages.*.loss.k` becomes one for each stage that has a `loss` of its own with a `k`.

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
            raise RecipeError(f"`{key}`: no stage has a `{rest}` of its own", f"`{rest}` sets it for all stages")
        found += [assignment(f"stages.{index}.{rest}", value) for index in own]
    return found


def has(node: Any, key: str) -> bool:
    """Whether a key leads to something in a stage's own nodes."""
    for name in key.split("."):
        if not isinstance(node, dict) or name not in node:
            return False
        node = node[name]
    return True
