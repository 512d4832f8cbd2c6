"""What a table is: strict YAML in `recipes/tables/`, or flags, with what is wrong in it.

A row is a recipe with assignments, the same as `--set` of `vcsf pretrain` takes, so that it can be
trained by hand too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import Field

from vcsf_cli.config import protocol as protocols
from vcsf_cli.config import strict_yaml
from vcsf_cli.config.catalogue import TABLES
from vcsf_cli.config.check import Checker
from vcsf_cli.config.recipe import LARGEST_SEED
from vcsf_cli.config.schema import Node
from vcsf_cli.errors import InputError, RecipeError

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
        return " ".join(
            word for word in (self.task, self.data, self.protocol, *self.assignments) if word
        )

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
    """By name; the first is what the others are compared with. None: `full`, the recipe as it
    is."""
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


def read(named: str) -> Draft:
    """The table in a file, or of a name.

    Raises:
        InputError: If there is none.
        RecipeError: If it is no YAML.
    """
    path = TABLES.find(named)
    tree, marks = strict_yaml.read(path, "table", f"see {TABLES.files()['motion']}")
    return Draft(path.stem, tree, marks)


def assignment(key: str, value: Any) -> str:
    """A key and its value as `--set` takes them."""
    if isinstance(value, str) and strict_yaml.parse(value, key)[0] == value:
        return f"{key}={value}"
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def contents(draft: Draft) -> tuple[TableFile, dict[str, Row], list[Measure], Checker]:
    """The keys, rows and measurements of a table, and the checker that gathers what is wrong with
    its rows.

    Raises:
        RecipeError: With everything that is wrong in them.
    """
    checker = Checker(draft.marks, (), "table")
    content = checker.node(TableFile, draft.tree, ())
    checker.finish()
    assert content is not None
    rows = {
        name: checker.node(Row, row or {}, ("rows", name))
        for name, row in (content.rows or {"full": {}}).items()
    }
    measures = [
        checker.node(Measure, item, ("measure", index))
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
    valid_rows = {name: row for name, row in rows.items() if row}
    return content, valid_rows, [measure for measure in measures if measure], checker


def check_measure(measure: Measure, checker: Checker, index: int) -> None:
    """See that no key was given that the task has no use for, and that the protocol is of its
    kind."""
    if measure.task == "retrieve":
        for key in ("protocol", "set"):
            if getattr(measure, key):
                checker.add(
                    RecipeError(
                        f"{checker.place('measure', index, key)} has no meaning for `retrieve`"
                    )
                )
        return
    if measure.k:
        place = checker.place("measure", index, "k")
        checker.add(
            RecipeError(f"{place} has no meaning for `{measure.task}`", "k is of `retrieve`")
        )
    try:
        protocol = protocols.load(
            measure.protocol or DEFAULT_PROTOCOLS[measure.task], measure.assignments
        )
    except InputError as error:
        checker.add(RecipeError(f"{checker.place('measure', index)}: {error.message}", error.hint))
        return
    if protocol.mode != measure.task:
        checker.add(
            RecipeError(
                f"{checker.place('measure', index, 'protocol')} is of mode {protocol.mode}, not "
                f"{measure.task}",
                "name another protocol, or another task",
            )
        )
