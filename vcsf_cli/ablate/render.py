"""A table as text: CSV, Markdown, LaTeX and the terminal, all made from the same cells."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
from vcsf_cli.runs.results import markdown_table
from vcsf_cli.runs.run import WITH_LABELS
from vcsf_cli.storage import files

_LABELS_MARK = "\N{DAGGER}"
_SEEN_MARK = "\N{DOUBLE DAGGER}"
_SPREAD_NOTE = "Mean \N{PLUS-MINUS SIGN} standard deviation over seeds and splits."
_DIFFERENCES_NOTE = 'Differences in points to "{first}"{pathway}, {intervals}.'
_BOLD_NOTE = (
    "Bold: the best mean of ours without labels, which need not be better than chance allows{see}."
)
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\N{PLUS-MINUS SIGN}": r"$\pm$", "\N{EN DASH}": "--",
    "\N{DAGGER}": r"\dag{}", "\N{DOUBLE DAGGER}": r"\ddag{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''", "`": "'",
}  # fmt: skip
"""Characters that LaTeX reads as commands, or that its fonts lack."""
_MARKDOWN = str.maketrans({letter: f"\\{letter}" for letter in "\\`*_[<|~&"})
"""Characters that Markdown reads as markup within a line."""
TRAINED = 2
"""Index of the column that says how a row was trained."""


@dataclass(frozen=True)
class Cell:
    text: str
    bold: bool = False


@dataclass(frozen=True)
class RenderedTable:
    """A table in text.

    Args:
        title: Its title, with the reasons why it can't be compared with published ones.
        names: How many columns, from the left, hold names.
        notes: Sentences below the table.
    """

    title: str
    header: tuple[str, ...]
    names: int
    ours: tuple[tuple[Cell, ...], ...]
    theirs: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]

    @property
    def rows(self) -> tuple[tuple[Cell, ...], ...]:
        return self.ours + self.theirs


def render_table(results: TableResults, with_published: bool) -> RenderedTable:
    """The table of some results.

    Args:
        with_published: Whether published rows stand beside ours even if they can't be compared.
    """
    table, groups = results.plan.table, results.groups
    limits = comparability_limits(results)
    title, header = table.title, ["row", "pathway", "trained"]
    if limits:
        kinds = ", ".join(dict.fromkeys(limit.kind for limit in limits))
        title += f" ({kinds}; not comparable with published tables)"
    if len(groups) == 1:
        title += f": {groups[0].task} on {groups[0].dataset}"
    for group in groups:
        prefix = "" if len(groups) == 1 else f"{group.dataset} {group.task} "
        header += [f"{prefix}{metric}" for metric in _shown_metrics(group)]
        header.append(f"difference of {prefix}{_shown_metrics(group)[0]}")
    measured_rows = {spec.row.name for spec in results.specs}
    ours = [
        _our_row(results, row, pathway)
        for row in table.rows
        for pathway in row.pathways
        if row.name in measured_rows
    ]
    beside = table.published and (with_published or not limits)
    theirs = _published_rows(results) if beside else []
    bold = any(cell.bold for row in ours for cell in row)
    notes = table_notes(results, limits, bold, bool(theirs))
    return RenderedTable(title, tuple(header), 3, tuple(ours), tuple(theirs), tuple(notes))


def _shown_metrics(group: Group) -> tuple[str, ...]:
    """The metrics of a group that are shown; the others are only in numbers.csv."""
    return group.metrics if group.measure.task == "retrieve" else group.metrics[:1]


def _our_row(results: TableResults, row: RowSpec, pathway: str) -> tuple[Cell, ...]:
    specs = [spec for spec in results.specs if spec.row is row]
    labelled = {spec.row.name for spec in results.specs if spec.run.uses_labels}
    mark = f" {_LABELS_MARK}" if row.name in labelled else ""
    mark += f" {_SEEN_MARK}" if row.name in results.seen else ""
    cells = [Cell(f"{row.name}{mark}"), Cell(pathway), Cell(describe_training(results.plan, specs))]
    for group in results.groups:
        values = {
            metric: results.value(row, pathway, group, metric) for metric in _shown_metrics(group)
        }
        for metric, value in values.items():
            bold = is_best(results.select(group, metric), value, labelled)
            cells.append(Cell(format_mean(value), bold))
        cells.append(Cell(format_difference(values[_shown_metrics(group)[0]])))
    return tuple(cells)


def is_best(values: pd.DataFrame, value: pd.Series | None, labelled: Collection[str]) -> bool:
    """Whether a value is the best mean of several. Rows trained with labels are no rivals."""
    means = values.loc[~values["row"].isin(labelled), "mean"]
    return (
        value is not None
        and value["row"] not in labelled
        and len(means) > 1
        and bool(value["mean"] >= means.max())
    )


def format_mean(value: pd.Series | None) -> str:
    """Mean and standard deviation in per cent."""
    if value is None:
        return "\N{EN DASH}"
    spread = f" \N{PLUS-MINUS SIGN} {100 * value['deviation']:.1f}" if value["runs"] > 1 else ""
    return f"{100 * value['mean']:.1f}{spread}"


def format_difference(value: pd.Series | None) -> str:
    """The difference to the first row in points, with its interval, and a star if it is a
    finding."""
    if value is None or np.isnan(value["difference"]):
        return ""
    difference, low, high = (
        100 * value[key] for key in ("difference", "difference_low", "difference_high")
    )
    if np.isnan(low):
        return f"{difference:+.1f}"
    return f"{difference:+.1f} ({low:+.1f} to {high:+.1f}){' *' if is_finding(value['places'], low, high) else ''}"


def _published_rows(results: TableResults) -> list[tuple[Cell, ...]]:
    """A row for each publication that has a number of one of the groups."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    columns = []
    for group in results.groups:
        data = benchmark(results.plan.manifest(group.dataset))
        names = {m: f"{group.dataset} {group.task} {m}" for m in _shown_metrics(group)}
        columns += [*names.values(), ""]
        if group.measure.leave_one_out:
            continue
        for entry, values in published.results(group.measure.task, data):
            texts = {name: f"{values[m]:.1f}" for m, name in names.items() if m in values}
            if texts:
                found.setdefault((entry.name, "published", entry.details), {}).update(texts)
    missing = "\N{EN DASH}"
    return [
        tuple(
            Cell(text)
            for text in (*key, *(texts.get(name, missing) if name else "" for name in columns))
        )
        for key, texts in found.items()
    ]


def table_notes(
    results: TableResults, limits: Sequence[Limit], bold: bool, beside: bool
) -> list[str]:
    """The sentences below a table.

    Args:
        limits: Why they can't stand beside published ones.
        bold: Whether one of them is bold.
        beside: Whether published rows stand beside ours.
    """
    rows = results.plan.table.rows
    pathway = (
        ""
        if all(set(row.pathways) <= set(rows[0].pathways) for row in rows)
        else f" {rows[0].pathways[-1]}"
    )
    notes = [_SPREAD_NOTE] if (results.values["runs"] > 1).any() else []
    intervals = results.intervals
    if intervals:
        same = f"{pathway} where it lacks the row's pathway" if pathway else ", the same pathway"
        notes.append(
            _DIFFERENCES_NOTE.format(first=rows[0].name, pathway=same, intervals=intervals)
        )
    if bold:
        notes.append(_BOLD_NOTE.format(see=": see the intervals" if intervals else ""))
    notes += [row.note for row in rows if row.note]
    notes += results.label_gains + results.remarks
    if any(spec.run.uses_labels for spec in results.specs):
        notes.append(f"{_LABELS_MARK} {WITH_LABELS}.")
    for name, sentences in results.exposures.items():
        mark = f"{_SEEN_MARK} " if name in results.seen else ""
        notes += [f"{mark}{name}, {sentence}." for sentence in sentences]
    if limits:
        notes.append(f"Not comparable with published tables: {'; '.join(map(str, limits))}.")
    if beside:
        notes.append(
            "Published rows: as their sources state them, of splits and protocols of their own "
            "choice."
        )
    return [*notes, RECONSTRUCTION]


def write(folder: Path, results: TableResults, table: RenderedTable) -> None:
    """Write the table as CSV, Markdown and LaTeX, and the numbers and result rows behind it."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [[cell.text for cell in row] for row in table.rows]
    frames = {
        "numbers.csv": results.values,
        "rows.csv": results.rows,
        "table.csv": pd.DataFrame(texts, columns=list(table.header)),
    }
    for name, frame in frames.items():
        files.write_text(folder / name, frame.to_csv(index=False, lineterminator="\n"))
    files.write_text(folder / "table.md", markdown_page(table, results))
    files.write_text(folder / "table.tex", latex_table(table))


def _one_line(text: str) -> str:
    """Text without line breaks, which would break a row of the table or the comment of a note."""
    return " ".join(text.split())


def _escape_markdown(text: str) -> str:
    return _one_line(text).translate(_MARKDOWN)


def markdown_page(table: RenderedTable, results: TableResults) -> str:
    """The table in Markdown, with its notes and the commands that train its rows by hand."""
    commands = "\n".join(pretrain_command(spec) for spec in results.plan.specs)
    notes = "\n".join(f"- {_escape_markdown(note)}" for note in table.notes)
    title = _escape_markdown(table.title)
    return (
        f"# {title}\n\n{markdown_rows(table)}\n\n{notes}\n\nIts runs:\n\n```sh\n{commands}\n```\n"
    )


def markdown_rows(table: RenderedTable) -> str:
    """The cells in Markdown, a line for each row."""
    escaped = [[(_escape_markdown(cell.text), cell.bold) for cell in row] for row in table.rows]
    rows = [[f"**{text}**" if bold else text for text, bold in row] for row in escaped]
    return markdown_table([_escape_markdown(name) for name in table.header], rows, table.names)


def escape_latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in _one_line(text))


def latex_table(table: RenderedTable) -> str:
    """The table in LaTeX, for a document that uses booktabs."""

    def line(row: Sequence[Cell]) -> str:
        texts = [
            rf"\textbf{{{escape_latex(cell.text)}}}" if cell.bold else escape_latex(cell.text)
            for cell in row
        ]
        # A bracket or star would be read as an option of the line break or rule before it.
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


def terminal_table(table: RenderedTable) -> RichTable:
    """The table for a terminal, without the column that says how rows were trained."""
    drawn = RichTable(title=Text(f"{table.title}: per cent"))
    for index, name in enumerate(table.header):
        if index != TRAINED:
            drawn.add_column(Text(name), justify="left" if index < table.names else "right")
    for row in table.rows:
        kept = (cell for index, cell in enumerate(row) if index != TRAINED)
        drawn.add_row(*(Text(cell.text, style="bold" if cell.bold else "") for cell in kept))
    return drawn


def benchmark(manifest: Manifest) -> str:
    """The benchmark that a dataset has the name of, else the kind it was prepared as, which it is a
    subset of. A similar name means nothing: UCF50 is another dataset than UCF101."""
    named = manifest.name in published.datasets()
    return manifest.name if named else str(manifest.settings["kind"])
