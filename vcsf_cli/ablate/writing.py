"""A table as files: CSV, Markdown, LaTeX, HTML, and the drawing on a terminal, all from one grid of cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup
from rich.table import Table as RichTable
from rich.text import Text

from vcsf_cli import files
from vcsf_cli.ablate import published
from vcsf_cli.ablate.numbers import Group, Numbers, incomparable, training_of
from vcsf_cli.ablate.running import typed
from vcsf_cli.ablate.table import Line
from vcsf_cli.report.page import RECONSTRUCTION, Interval, Section, page
from vcsf_cli.report.page import Table as PageTable
from vcsf_cli.runs import WITH_LABELS

LABELS_MARK = "\N{DAGGER}"
NOTE_OF_DIFFERENCES = (
    "Mean \N{PLUS-MINUS SIGN} standard deviation over seeds and splits. Differences in points to `{first}`{pathway}, with the "
    "95 % interval of a paired bootstrap over the recordings that test clips were cut from (10,000 draws); * where it leaves "
    "zero out. Bold: the best mean of ours, which need not be better than chance allows: see the intervals."
)
LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\N{PLUS-MINUS SIGN}": r"$\pm$", "\N{EN DASH}": "--",
    "\N{DAGGER}": r"\dag{}", "<": r"\textless{}", ">": r"\textgreater{}", '"': "''", "`": "'",
}  # fmt: skip
"""Characters that mean something to LaTeX, or that it has no letter for."""


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


def shown(numbers: Numbers, with_published: bool) -> Shown:
    """The table of some numbers.

    Args:
        numbers: The numbers.
        with_published: Whether published rows stand beside ours even if these can't be compared.
    """
    limits = incomparable(numbers)
    kinds = dict.fromkeys(limit.partition(":")[0] for limit in limits)
    title = numbers.plan.table.title + (
        f" ({', '.join(kinds)}; not comparable with published tables)" if limits else ""
    )
    theirs: list[tuple[Cell, ...]] = []
    if numbers.plan.table.published and (with_published or not limits):
        theirs = published_rows(numbers.groups)
    header = ["row", "pathway", "trained"]
    one = len(numbers.groups) == 1
    for group in numbers.groups:
        before = "" if one else f"{group.dataset} {group.task} "
        header += [f"{before}{metric}" for metric in displayed(group)]
        header.append(f"difference of {before}{displayed(group)[0]}")
    if one:
        title = f"{title}: {numbers.groups[0].task} on {numbers.groups[0].dataset}"
    ours = [
        our_row(numbers, line, pathway)
        for line in numbers.plan.table.lines
        for pathway in line.pathways
        if any(cell.line is line for cell in numbers.cells)
    ]
    return Shown(title, tuple(header), 3, tuple(ours), tuple(theirs), tuple(notes_of(numbers, limits, bool(theirs))))


def displayed(group: Group) -> tuple[str, ...]:
    """The metrics of a group that are shown; the others are in numbers.csv."""
    return group.metrics if group.measure.task == "retrieve" else group.metrics[:1]


def our_row(numbers: Numbers, line: Line, pathway: str) -> tuple[Cell, ...]:
    """A row of ours: its name, pathway, how it was trained, and its numbers."""
    cells = [cell for cell in numbers.cells if cell.line is line]
    mark = f" {LABELS_MARK}" if any(cell.run.uses_labels for cell in cells) else ""
    found = [Cell(f"{line.name}{mark}"), Cell(pathway), Cell(training_of(numbers.plan, cells))]
    for group in numbers.groups:
        for metric in displayed(group):
            value = numbers.value(line, pathway, group, metric)
            found.append(Cell(mean_of(value), is_best(numbers, group, metric, value)))
        found.append(Cell(difference_of(numbers.value(line, pathway, group, displayed(group)[0]))))
    return tuple(found)


def is_best(numbers: Numbers, group: Group, metric: str, value: pd.Series | None) -> bool:
    """Whether no row of ours has a higher mean, of several that have one."""
    values = numbers.values
    column = values[
        (values["dataset"] == group.dataset) & (values["task"] == group.task) & (values["metric"] == metric)
    ]
    return value is not None and len(column) > 1 and bool(value["mean"] >= column["mean"].max())


def mean_of(value: pd.Series | None) -> str:
    """Mean and standard deviation in per cent."""
    if value is None:
        return "\N{EN DASH}"
    spread = f" \N{PLUS-MINUS SIGN} {100 * value['deviation']:.1f}" if value["runs"] > 1 else ""
    return f"{100 * value['mean']:.1f}{spread}"


def difference_of(value: pd.Series | None) -> str:
    """The difference to the first row in points, with its interval, and a mark if that leaves zero out."""
    if value is None or np.isnan(value["difference"]):
        return ""
    difference, low, high = (100 * value[key] for key in ("difference", "difference_low", "difference_high"))
    return f"{difference:+.1f} ({low:+.1f} to {high:+.1f}){' *' if low > 0 or high < 0 else ''}"


def published_rows(groups: Sequence[Group]) -> list[tuple[Cell, ...]]:
    """A row for each publication that has a number of one of the groups."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    columns = []
    for group in groups:
        data = published.known_as(group.dataset)
        names = [f"{group.dataset} {group.task} {metric}" for metric in displayed(group)]
        columns += [*names, ""]
        for entry, values in published.of(group.measure.task, data):
            key = (entry.name, "published", entry.what)
            texts = {name: f"{values[m]:.1f}" for name, m in zip(names, displayed(group), strict=True) if m in values}
            if texts:
                found.setdefault(key, {}).update(texts)
    return [
        tuple(Cell(text) for text in (*key, *(texts.get(name, "\N{EN DASH}") if name else "" for name in columns)))
        for key, texts in found.items()
    ]


def notes_of(numbers: Numbers, limits: Sequence[str], beside: bool) -> list[str]:
    """What a reader has to know."""
    lines = numbers.plan.table.lines
    pathway = "" if all(set(line.pathways) <= set(lines[0].pathways) for line in lines) else f" {lines[0].pathways[-1]}"
    notes = []
    if len(lines) > 1:
        same = f"{pathway} where it lacks the row's pathway" if pathway else ", the same pathway"
        notes.append(NOTE_OF_DIFFERENCES.format(first=lines[0].name, pathway=same))
    notes += [line.note for line in lines if line.note]
    every = len(numbers.plan.cells)
    if len(numbers.cells) < every:
        notes.append(f"Not finished: {len(numbers.cells)} of {every} runs are measured.")
    if any(cell.run.uses_labels for cell in numbers.cells):
        notes.append(f"{LABELS_MARK} {WITH_LABELS}.")
    if limits:
        notes.append(f"Not comparable with published tables: {'; '.join(limits)}.")
    if beside:
        notes.append("Published rows: as their sources state them, of splits and protocols of their own choice.")
    return [*notes, RECONSTRUCTION]


def write(folder: Path, numbers: Numbers, table: Shown) -> None:
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
        [[cell.text for cell in row] for row in (*table.ours, *table.theirs)], columns=list(table.header)
    )
    with files.whole(folder / "table.csv", "w") as file:
        texts.to_csv(file, index=False, lineterminator="\n")
    files.write_text(folder / "table.md", markdown(table, numbers))
    files.write_text(folder / "table.tex", latex(table))
    files.write_text(folder / "table.html", html(table, numbers))


def markdown(table: Shown, numbers: Numbers) -> str:
    """The table in Markdown, with its notes and the commands that train its rows by hand."""

    def text(cell: Cell) -> str:
        escaped = cell.text.replace("|", "\\|").replace("*", "\\*")
        return f"**{escaped}**" if cell.bold else escaped

    rule = ["---"] * table.names + ["---:"] * (len(table.header) - table.names)
    rows = [list(table.header), rule, *([text(cell) for cell in row] for row in (*table.ours, *table.theirs))]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    notes = "\n".join(f"- {note}" for note in table.notes)
    commands = "\n".join(typed(cell) for cell in numbers.plan.cells)
    return f"# {table.title}\n\n{lines}\n\n{notes}\n\nIts runs:\n\n```sh\n{commands}\n```\n"


def escaped(text: str) -> str:
    """Text for LaTeX."""
    return "".join(LATEX.get(letter, letter) for letter in text)


def latex(table: Shown) -> str:
    """The table in LaTeX, for a document that uses booktabs."""

    def line(row: Sequence[Cell]) -> str:
        texts = (rf"\textbf{{{escaped(cell.text)}}}" if cell.bold else escaped(cell.text) for cell in row)
        return " & ".join(texts) + r" \\"

    columns = "l" * table.names + "r" * (len(table.header) - table.names)
    parts = [
        r"% \usepackage{booktabs}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(map(escaped, table.header)) + r" \\",
        r"\midrule",
        *map(line, table.ours),
        *([r"\midrule", *map(line, table.theirs)] if table.theirs else []),
        r"\bottomrule",
        r"\end{tabular}",
        rf"% {table.title}",
        *(f"% {note}" for note in table.notes),
    ]
    return "\n".join(parts) + "\n"


def html(table: Shown, numbers: Numbers) -> str:
    """The table as a page that needs nothing else."""
    strong = Markup("<strong>{}</strong>")
    rows = [[strong.format(c.text) if c.bold else c.text for c in row] for row in (*table.ours, *table.theirs)]
    return page(
        table.title,
        [PageTable("per cent", table.header, rows, table.names)],
        [
            *(Section(title, intervals=found) for title, found in intervals(numbers).items()),
            Section("Notes", facts=[(str(number), note) for number, note in enumerate(table.notes[:-1], start=1)]),
        ],
        kind="Table",
    )


def intervals(numbers: Numbers) -> dict[str, list[Interval]]:
    """Differences to the first row by the heading that they stand under."""
    found: dict[str, list[Interval]] = {}
    for group in numbers.groups:
        heading = (
            f"{group.dataset} {group.task}: difference of {group.metrics[0]} to {numbers.plan.table.lines[0].name}"
        )
        for line in numbers.plan.table.lines[1:]:
            for pathway in line.pathways:
                value = numbers.value(line, pathway, group, group.metrics[0])
                if value is not None and not np.isnan(value["difference"]):
                    ends = [100 * value[key] for key in ("difference", "difference_low", "difference_high")]
                    found.setdefault(heading, []).append(Interval(f"{line.name}, {pathway}", *ends))
    return found


def drawn(table: Shown) -> RichTable:
    """The table for a terminal, without the column that says how rows were trained."""
    left_out = 2
    found = RichTable(title=Text(f"{table.title}: per cent"))
    for index, name in enumerate(table.header):
        if index != left_out:
            found.add_column(Text(name), justify="left" if index < table.names else "right")
    for row in (*table.ours, *table.theirs):
        kept = (cell for index, cell in enumerate(row) if index != left_out)
        found.add_row(*(Text(cell.text, style="bold" if cell.bold else "") for cell in kept))
    return found
