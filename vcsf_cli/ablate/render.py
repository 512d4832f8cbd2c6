"""A table as files: CSV, Markdown and LaTeX, and the drawing on a terminal, all from one grid of
cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table as RichTable
from rich.text import Text

from vcsf_cli.ablate.difference import is_finding
from vcsf_cli.ablate.numbers import (
    Group,
    Limit,
    TableResults,
    comparability_limits,
    describe_training,
)
from vcsf_cli.ablate.rows import RowSpec
from vcsf_cli.ablate.run import pretrain_command
from vcsf_cli.config import published
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.report.page import RECONSTRUCTION
from vcsf_cli.runs.run import WITH_LABELS
from vcsf_cli.storage import files

_LABELS_MARK = "\N{DAGGER}"
_SEEN_MARK = "\N{DOUBLE DAGGER}"
_NOTE_OF_SPREAD = "Mean \N{PLUS-MINUS SIGN} standard deviation over seeds and splits."
_NOTE_OF_DIFFERENCES = 'Differences in points to "{first}"{pathway}, {intervals}.'
_NOTE_OF_BOLD = "Bold: the best mean of ours, which need not be better than chance allows{see}."
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\N{PLUS-MINUS SIGN}": r"$\pm$", "\N{EN DASH}": "--",
    "\N{DAGGER}": r"\dag{}", "\N{DOUBLE DAGGER}": r"\ddag{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''", "`": "'",
}  # fmt: skip
"""Characters that mean something to LaTeX, or that it has no letter for."""
_MARKDOWN = str.maketrans({letter: f"\\{letter}" for letter in "\\`*_[<|~&"})
"""Characters that mean something to Markdown within a line."""
TRAINED = 2
"""The column that says how a row was trained."""


@dataclass(frozen=True)
class Cell:
    """A cell of the shown table."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Shown:
    """A table as it is shown.

    Args:
        title: With what limits it.
        header: Names of its columns.
        names: How many columns, from the left, hold names.
        ours: Our rows.
        theirs: Published rows.
        notes: What a reader has to know, a sentence each.
    """

    title: str
    header: tuple[str, ...]
    names: int
    ours: tuple[tuple[Cell, ...], ...]
    theirs: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]


def shown(numbers: TableResults, with_published: bool) -> Shown:
    """The table of some numbers.

    Args:
        numbers: The numbers.
        with_published: Whether published rows stand beside ours even if these can't be compared.
    """
    limits = comparability_limits(numbers)
    kinds = dict.fromkeys(limit.kind for limit in limits)
    title = numbers.plan.table.title + (
        f" ({', '.join(kinds)}; not comparable with published tables)" if limits else ""
    )
    theirs: list[tuple[Cell, ...]] = []
    if numbers.plan.table.published and (with_published or not limits):
        theirs = _published_rows(numbers)
    header = ["row", "pathway", "trained"]
    one = len(numbers.groups) == 1
    for group in numbers.groups:
        before = "" if one else f"{group.dataset} {group.task} "
        header += [f"{before}{metric}" for metric in _shown_metrics(group)]
        header.append(f"difference of {before}{_shown_metrics(group)[0]}")
    if one:
        title = f"{title}: {numbers.groups[0].task} on {numbers.groups[0].dataset}"
    ours = [
        _our_row(numbers, line, pathway)
        for line in numbers.plan.table.lines
        for pathway in line.pathways
        if any(cell.line is line for cell in numbers.cells)
    ]
    bold = any(cell.bold for row in ours for cell in row)
    notes = table_notes(numbers, limits, bold, bool(theirs))
    return Shown(title, tuple(header), 3, tuple(ours), tuple(theirs), tuple(notes))


def _shown_metrics(group: Group) -> tuple[str, ...]:
    """The metrics of a group that are shown; the others are in numbers.csv."""
    return group.metrics if group.measure.task == "retrieve" else group.metrics[:1]


def _our_row(numbers: TableResults, line: RowSpec, pathway: str) -> tuple[Cell, ...]:
    """A row of ours: its name, pathway, how it was trained, and its numbers."""
    cells = [cell for cell in numbers.cells if cell.line is line]
    mark = f" {_LABELS_MARK}" if any(cell.run.uses_labels for cell in cells) else ""
    mark += f" {_SEEN_MARK}" if line.name in numbers.seen else ""
    found = [
        Cell(f"{line.name}{mark}"),
        Cell(pathway),
        Cell(describe_training(numbers.plan, cells)),
    ]
    for group in numbers.groups:
        for metric in _shown_metrics(group):
            value = numbers.value(line, pathway, group, metric)
            found.append(Cell(format_mean(value), _is_best(numbers, group, metric, value)))
        found.append(
            Cell(format_difference(numbers.value(line, pathway, group, _shown_metrics(group)[0])))
        )
    return tuple(found)


def _is_best(numbers: TableResults, group: Group, metric: str, value: pd.Series | None) -> bool:
    """Whether no row of ours has a higher mean, of several that have one."""
    values = numbers.values
    column = values[
        (values["dataset"] == group.dataset)
        & (values["task"] == group.task)
        & (values["metric"] == metric)
    ]
    return value is not None and len(column) > 1 and bool(value["mean"] >= column["mean"].max())


def format_mean(value: pd.Series | None) -> str:
    """Mean and standard deviation in per cent."""
    if value is None:
        return "\N{EN DASH}"
    spread = f" \N{PLUS-MINUS SIGN} {100 * value['deviation']:.1f}" if value["runs"] > 1 else ""
    return f"{100 * value['mean']:.1f}{spread}"


def format_difference(value: pd.Series | None) -> str:
    """The difference to the first row in points, with its interval if it has one, and a mark if it
    is a finding."""
    if value is None or np.isnan(value["difference"]):
        return ""
    difference, low, high = (
        100 * value[key] for key in ("difference", "difference_low", "difference_high")
    )
    if np.isnan(low):
        return f"{difference:+.1f}"
    return f"{difference:+.1f} ({low:+.1f} to {high:+.1f}){' *' if is_finding(value['places'], low, high) else ''}"


def _published_rows(numbers: TableResults) -> list[tuple[Cell, ...]]:
    """A row for each publication that has a number of one of the groups."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    columns = []
    for group in numbers.groups:
        data = benchmark(numbers.plan.manifest(group.dataset))
        names = [f"{group.dataset} {group.task} {metric}" for metric in _shown_metrics(group)]
        columns += [*names, ""]
        for entry, values in published.of(group.measure.task, data):
            key = (entry.name, "published", entry.what)
            texts = {
                name: f"{values[m]:.1f}"
                for name, m in zip(names, _shown_metrics(group), strict=True)
                if m in values
            }
            if texts:
                found.setdefault(key, {}).update(texts)
    return [
        tuple(
            Cell(text)
            for text in (
                *key,
                *(texts.get(name, "\N{EN DASH}") if name else "" for name in columns),
            )
        )
        for key, texts in found.items()
    ]


def table_notes(
    numbers: TableResults, limits: Sequence[Limit], bold: bool, beside: bool
) -> list[str]:
    """What a reader has to know.

    Args:
        numbers: The numbers.
        limits: Why they can't stand beside published ones.
        bold: Whether one of them is bold.
        beside: Whether published rows stand beside ours.
    """
    lines = numbers.plan.table.lines
    pathway = (
        ""
        if all(set(line.pathways) <= set(lines[0].pathways) for line in lines)
        else f" {lines[0].pathways[-1]}"
    )
    notes = [_NOTE_OF_SPREAD] if (numbers.values["runs"] > 1).any() else []
    intervals = numbers.words_of_differences
    if intervals:
        same = f"{pathway} where it lacks the row's pathway" if pathway else ", the same pathway"
        notes.append(
            _NOTE_OF_DIFFERENCES.format(first=lines[0].name, pathway=same, intervals=intervals)
        )
    if bold:
        notes.append(_NOTE_OF_BOLD.format(see=": see the intervals" if intervals else ""))
    notes += [line.note for line in lines if line.note]
    notes += numbers.remarks
    if any(cell.run.uses_labels for cell in numbers.cells):
        notes.append(f"{_LABELS_MARK} {WITH_LABELS}.")
    for name, sentences in numbers.exposures.items():
        mark = f"{_SEEN_MARK} " if name in numbers.seen else ""
        notes += [f"{mark}{name}, {sentence}." for sentence in sentences]
    if limits:
        notes.append(f"Not comparable with published tables: {'; '.join(map(str, limits))}.")
    if beside:
        notes.append(
            "Published rows: as their sources state them, of splits and protocols of their own "
            "choice."
        )
    return [*notes, RECONSTRUCTION]


def write(folder: Path, numbers: TableResults, table: Shown) -> None:
    """Write the table and the rows that it is made of.

    Args:
        folder: Where to.
        numbers: The numbers.
        table: How they are shown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in (("numbers.csv", numbers.values), ("rows.csv", numbers.rows)):
        with files.whole(folder / name, "w") as file:
            frame.to_csv(file, index=False, lineterminator="\n")
    texts = pd.DataFrame(
        [[cell.text for cell in row] for row in (*table.ours, *table.theirs)],
        columns=list(table.header),
    )
    with files.whole(folder / "table.csv", "w") as file:
        texts.to_csv(file, index=False, lineterminator="\n")
    files.write_text(folder / "table.md", markdown(table, numbers))
    files.write_text(folder / "table.tex", latex(table))


def _one_line(text: str) -> str:
    """Text without line breaks: a name that has one would tear the table, and a note end its
    comment."""
    return " ".join(text.split())


def _in_markdown(text: str) -> str:
    """Text for a line of Markdown."""
    return _one_line(text).translate(_MARKDOWN)


def markdown(table: Shown, numbers: TableResults) -> str:
    """The table in Markdown, with its notes and the commands that train its rows by hand."""
    commands = "\n".join(pretrain_command(cell) for cell in numbers.plan.cells)
    notes = "\n".join(f"- {_in_markdown(note)}" for note in table.notes)
    return f"# {_in_markdown(table.title)}\n\n{grid(table)}\n\n{notes}\n\nIts runs:\n\n```sh\n{commands}\n```\n"


def grid(table: Shown) -> str:
    """The cells in Markdown, a line a row."""

    def text(cell: Cell) -> str:
        return f"**{_in_markdown(cell.text)}**" if cell.bold else _in_markdown(cell.text)

    rule = ["---"] * table.names + ["---:"] * (len(table.header) - table.names)
    rows = [
        map(_in_markdown, table.header),
        rule,
        *(map(text, row) for row in (*table.ours, *table.theirs)),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def escape_latex(text: str) -> str:
    """Text for LaTeX."""
    return "".join(_LATEX.get(letter, letter) for letter in _one_line(text))


def latex(table: Shown) -> str:
    """The table in LaTeX, for a document that uses booktabs."""

    def line(row: Sequence[Cell]) -> str:
        texts = [
            rf"\textbf{{{escape_latex(cell.text)}}}" if cell.bold else escape_latex(cell.text)
            for cell in row
        ]
        # What begins with a bracket or a star would be read as an option of the line break or rule
        # before it.
        return ("{}" if texts[0].startswith(("[", "*")) else "") + " & ".join(texts) + r" \\"

    columns = "l" * table.names + "r" * (len(table.header) - table.names)
    parts = [
        r"% \usepackage{booktabs}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        line([Cell(name) for name in table.header]),
        r"\midrule",
        *map(line, table.ours),
        *([r"\midrule", *map(line, table.theirs)] if table.theirs else []),
        r"\bottomrule",
        r"\end{tabular}",
        *(f"% {_one_line(text)}" for text in (table.title, *table.notes)),
    ]
    return "\n".join(parts) + "\n"


def drawn(table: Shown) -> RichTable:
    """The table for a terminal, without the column that says how rows were trained."""
    found = RichTable(title=Text(f"{table.title}: per cent"))
    for index, name in enumerate(table.header):
        if index != TRAINED:
            found.add_column(Text(name), justify="left" if index < table.names else "right")
    for row in (*table.ours, *table.theirs):
        kept = (cell for index, cell in enumerate(row) if index != TRAINED)
        found.add_row(*(Text(cell.text, style="bold" if cell.bold else "") for cell in kept))
    return found


def benchmark(manifest: Manifest) -> str:
    """The benchmark that a prepared dataset is or is a subset of: the one it is named after, else
    the kind that it was prepared as. A name that only begins like a benchmark's says nothing: UCF50
    is another dataset than UCF101."""
    return (
        manifest.name if manifest.name in published.datasets() else str(manifest.settings["kind"])
    )
