"""Published numbers with their sources, from `recipes/tables/published.yaml`."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

from annotated_types import Gt, Interval, MinLen

from vcsf_cli.config import strict_yaml
from vcsf_cli.config.catalogue import OWN_FOLDER, TABLES
from vcsf_cli.config.check import Checker
from vcsf_cli.config.schema import Node

Text = Annotated[str, MinLen(1)]
FILE = OWN_FOLDER / TABLES.folder / "published.yaml"
_Percent = Annotated[float, Gt(0), Interval(le=100)]


TRAINED_ON = "ucf101"
"""The dataset on which published methods are trained, unless an entry says otherwise."""


class Entry(Node):
    """The numbers of one method in one publication."""

    method: Text
    task: Literal["retrieve", "linear", "finetune"]
    year: Annotated[int, Interval(ge=2010, le=2100)] | None = None
    backbone: Text | None = None
    input: Text | None = None
    """Frames and pixels, and other input than RGB frames at test."""
    training: Text = "UCF101"
    """The training data without labels, and other input than at test."""
    results: Annotated[dict[str, dict[str, _Percent]], MinLen(1)]
    """Per cent by dataset and metric."""
    source: Annotated[list[Text], MinLen(1)]
    """The documents from which the numbers are taken; tables of others may be wrong."""
    note: str = ""

    @property
    def details(self) -> str:
        """Network, input, data and sources in one line."""
        parts = [
            self.backbone,
            self.input,
            self.training,
            f"from {', '.join(self.source)}",
            self.note,
        ]
        return "; ".join(text for text in parts if text)

    @property
    def name(self) -> str:
        return f"{self.method} ({self.year})" if self.year else self.method


@cache
def entries() -> tuple[Entry, ...]:
    """All published numbers.

    Raises:
        RecipeError: If the file is wrong.
    """
    tree, marks = strict_yaml.parse(FILE.read_text(encoding="utf-8"), str(FILE))
    checker = Checker(marks, (), "file")
    found = [checker.node(Entry, item, (index,)) for index, item in enumerate(tree)]
    checker.finish()
    return tuple(entry for entry in found if entry)


def datasets() -> set[str]:
    return {data for entry in entries() for data in entry.results}


def results(task: str, data: str) -> list[tuple[Entry, dict[str, Any]]]:
    """The published numbers of a task on a dataset, by their first metric, the highest last."""
    found = [
        (entry, entry.results[data])
        for entry in entries()
        if entry.task == task and data in entry.results
    ]
    return sorted(found, key=lambda pair: next(iter(pair[1].values())))
