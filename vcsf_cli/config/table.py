"""Tables of `vcsf ablate`: rows of recipes with assignments, and measurements."""

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
from vcsf_cli.config.schema import LARGEST_SEED, Dataset, Node
from vcsf_cli.errors import InputError, UnknownName
from vcsf_cli.storage.files import is_folder_name

DEFAULT_KS = (1, 5, 10, 20, 50)
DEFAULT_PROTOCOLS: Mapping[str, str] = {
    "linear": "linear",
    "attentive": "attentive",
    "knn": "knn",
    "finetune": "coclr",
}
RETRIEVED = ("retrieve", "clusters")
"""Tasks that `vcsf retrieve` measures; the others have a protocol."""
LEAVING_OUT = (*RETRIEVED, "knn")
"""Tasks that can leave one out."""

Text = Annotated[str, MinLen(1)]
_Shown = Literal["slow", "fast", "both"]


class Measure(Node):
    """A measurement of every row."""

    task: Literal["retrieve", "clusters", "linear", "attentive", "knn", "finetune"]
    data: Dataset | None = None
    """A prepared dataset; None: the row's training data."""
    k: Annotated[list[Annotated[int, Gt(0)]], MinLen(1)] | None = None
    """Of R@k; only for `retrieve`."""
    leave_one_out: bool = False
    """Whether every clip is tested against clips of other groups; for `retrieve`, `clusters`, `knn`."""
    protocol: Text | None = None
    """A protocol's name or file, for the tasks of `vcsf finetune`; None: the task's default."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Assignments to the protocol."""

    @property
    def description(self) -> str:
        """Task, dataset, protocol and assignments, for messages."""
        words = (
            self.task,
            self.leave_one_out and "leave-one-out",
            self.data,
            self.protocol,
            *self.assignments,
        )
        return " ".join(word for word in words if word)

    @property
    def assignments(self) -> list[str]:
        """Values for `--set` of `vcsf finetune`."""
        return [assignment(key, value) for key, value in self.set.items()]


class Row(Node):
    """A row of a table: a recipe with assignments."""

    base: Text | None = None
    """None: the table's."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Assignments; `stages.*.loss.neighbours` means every stage with its own `loss`."""
    pathways: Annotated[list[_Shown], MinLen(1)] | None = None
    """The pathways that are shown; None: the table's."""
    note: str = ""
    """A remark below the table."""


class LabelGain(Node):
    """The rows that say what labels would gain."""

    baseline: Text
    """The row that is trained as long without what the other rows add."""
    labels: Text
    """The row that is trained with labels as positives."""


class TableFile(Node):
    """The keys of a table's file; rows and measurements are checked separately."""

    title: Text
    base: Text
    rows: dict[str, Any] = Field(default_factory=dict)
    """By name; the others are compared with the first. None: `full`, the recipe as it is."""
    vary: dict[str, Annotated[list[Any], MinLen(1)]] = Field(default_factory=dict)
    """Values of keys: each value makes a row in which only that key changes."""
    grid: dict[str, Annotated[list[Any], MinLen(1)]] = Field(default_factory=dict)
    """Values of keys: each combination makes a row."""
    seeds: Annotated[list[Annotated[int, Ge(0), Le(LARGEST_SEED)]], MinLen(1)] | None = None
    """None: the recipe's."""
    splits: Annotated[list[Literal[1, 2, 3]], MinLen(1)] | None = None
    """Official splits, each trained and tested separately; None: the recipe's."""
    measure: Annotated[list[Any], MinLen(1)] = Field(default_factory=lambda: [{"task": "retrieve"}])
    pathways: Annotated[tuple[_Shown, ...], MinLen(1)] = ("both",)
    published: bool = False
    """Whether published numbers of the same task and dataset are shown too."""
    label_gain: LabelGain | None = None
    """Two rows, to say which share of the labels' gain each other row reaches."""


@dataclass
class Draft:
    """A table in a file or from flags, before it is checked.

    Args:
        tree: The keys of `TableFile`.
        marks: `file:line` by path of keys; empty for flags.
    """

    name: str
    tree: dict[str, Any]
    marks: strict_yaml.Marks = field(default_factory=dict)


def read(named: str) -> Draft:
    """Read a table by its name or file.

    Raises:
        InputError: If there is none.
        RecipeError: If it is not YAML.
    """
    path = TABLES.find(named)
    if not is_folder_name(path.stem):
        raise InputError(f"{path} has no name for the table's folder", "rename the file")
    tree, marks = strict_yaml.read(path, "table", f"see {TABLES.files()['motion']}")
    return Draft(path.stem, tree, marks)


def assignment(key: str, value: Any) -> str:
    """A key and its value, for `--set`."""
    if isinstance(value, str) and strict_yaml.parse(value, key)[0] == value:
        return f"{key}={value}"
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def contents(draft: Draft) -> tuple[TableFile, dict[str, Row], list[Measure], Checker]:
    """The keys, rows and measurements of a table, and the checker for the recipes of its rows.

    Raises:
        RecipeError: With all of their problems.
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
    seen: list[str] = []
    for index, measure in enumerate(measures):
        if measure is None:
            continue
        _check_measure(measure, checker, index)
        if measure.description in seen:
            place = checker.place("measure", index)
            checker.problem(f"{place} is measured twice: {measure.description}", "leave one out")
        seen.append(measure.description)
    for key, name in (content.label_gain.model_dump() if content.label_gain else {}).items():
        if name not in rows:
            checker.add(UnknownName("row", name, rows, checker.place("label_gain", key)))
    checker.finish()
    valid_rows = {name: row for name, row in rows.items() if row}
    return content, valid_rows, [measure for measure in measures if measure], checker


def _check_measure(measure: Measure, checker: Checker, index: int) -> None:
    """Check that a measurement has only keys of its task, and a protocol of its mode."""
    meaning = {
        "protocol": measure.task not in RETRIEVED,
        "set": measure.task not in RETRIEVED,
        "k": measure.task == "retrieve",
        "leave_one_out": measure.task in LEAVING_OUT,
    }
    for key, has in meaning.items():
        if getattr(measure, key) and not has:
            hint = {"k": "k is of `retrieve`"}.get(key, "leave it out")
            place = checker.place("measure", index, key)
            checker.problem(f"{place} has no meaning for `{measure.task}`", hint)
    if measure.task in RETRIEVED:
        return
    try:
        protocol = protocols.load(
            measure.protocol or DEFAULT_PROTOCOLS[measure.task], measure.assignments
        )
    except InputError as error:
        checker.problem(f"{checker.place('measure', index)}: {error.message}", error.hint)
        return
    if protocol.mode != measure.task:
        checker.problem(
            f"{checker.place('measure', index, 'protocol')} is of mode {protocol.mode}, not "
            f"{measure.task}",
            "name another protocol, or another task",
        )
