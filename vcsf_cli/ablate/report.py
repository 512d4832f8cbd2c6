"""`report.html` of a table: its numbers, and what lies in the folders of its runs, gathered into
one page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from markupsafe import Markup

from vcsf_cli.ablate import measured
from vcsf_cli.ablate.numbers import Group, TableResults
from vcsf_cli.ablate.plan import RunSpec
from vcsf_cli.ablate.render import TRAINED, Shown
from vcsf_cli.ablate.rows import RowSpec as Row
from vcsf_cli.ablate.run import pretrain_command
from vcsf_cli.data.splits import query_gallery
from vcsf_cli.evaluate.report import HTML as RETRIEVAL_REPORT
from vcsf_cli.report.charts import PATHWAYS_AND_BOTH, Chart, Line, compared_charts, line_style
from vcsf_cli.report.clips import build_clips, by_class
from vcsf_cli.report.page import Clips, Interval, Section, Table, page
from vcsf_cli.storage import files

FILE = "report.html"

_MOST_ROWS = 4
"""Whose clips are shown. They share their pictures; the neighbours of a row are at most 0.7 MB, and
its map of 2,000 clips takes some 15 seconds."""


def write(numbers: TableResults, table: Shown) -> Path:
    """Write `report.html` into the table's folder, and return its path.

    Args:
        numbers: The numbers.
        table: How they are shown.

    Raises:
        DataError: If a dataset's shards can't be read.
    """
    path = numbers.plan.folder / FILE
    seen = _seen_rows(numbers)
    text = page(
        table.title,
        [_build_table(table)],
        [
            *difference_sections(numbers),
            Section(
                "Notes",
                facts=[
                    (str(number), note) for number, note in enumerate(table.notes[:-1], start=1)
                ],
            ),
            *_curve_sections(numbers),
            _runs_section(numbers, seen),
        ],
        kind="Ablation report",
        clips=_rows_clips(numbers, seen),
    )
    files.write_text(path, text)
    return path


def _build_table(table: Shown) -> Table:
    """The table, with how rows were trained behind the numbers."""
    strong = Markup("<strong>{}</strong>")

    def moved(row: list[Any]) -> list[Any]:
        return [*row[:TRAINED], *row[TRAINED + 1 :], row[TRAINED]]

    rows = [
        [strong.format(c.text) if c.bold else c.text for c in row]
        for row in (*table.ours, *table.theirs)
    ]
    return Table(
        "Per cent", moved(list(table.header)), [moved(row) for row in rows], table.names - 1, 1
    )


def difference_sections(numbers: TableResults) -> list[Section]:
    """Differences to the first row, a section a measurement."""
    found: list[Section] = []
    first = numbers.plan.table.lines[0]
    for group in numbers.groups:
        intervals = []
        for row in numbers.plan.table.lines[1:]:
            for pathway in row.pathways:
                value = numbers.value(row, pathway, group, group.metrics[0])
                if value is not None and not np.isnan(value["difference_low"]):
                    ends = [
                        100 * value[key]
                        for key in ("difference", "difference_low", "difference_high")
                    ]
                    intervals.append(Interval(f"{row.name}, {pathway}", *ends))
        if intervals:
            title = f"Differences of {group.metrics[0]} to {first.name}{_measurement_suffix(numbers, group)}"
            found.append(Section(title, short="Differences", listed=not found, intervals=intervals))
    return found


def _measurement_suffix(numbers: TableResults, group: Group) -> str:
    """Which of several measurements something is of."""
    return f": {group.task} on {group.dataset}" if len(numbers.groups) > 1 else ""


def _curve_sections(numbers: TableResults) -> list[Section]:
    """R@k of all rows, and how they were trained."""
    sections = []
    charts = [chart for group in numbers.groups for chart in recall_charts(numbers, group)]
    if charts:
        text = "Means over seeds and splits; where there are several, a band goes from the lowest to the highest."
        sections.append(Section("R@k curves", text, charts=charts))
    firsts = {cell.line.name: cell for cell in reversed(numbers.cells)}
    trainings = {
        row.name: (firsts[row.name].run.metrics, line_style(index))
        for index, row in enumerate(numbers.plan.table.lines)
        if row.name in firsts
    }
    charts = compared_charts(trainings)
    if charts:
        text = (
            "Of each row's first seed and split. The check counts nearest neighbours among "
            "training clips; no test clip is "
            "in it."
        )
        sections.append(Section("Training", text, charts=charts))
    return sections


def recall_charts(numbers: TableResults, group: Group) -> list[Chart]:
    """R@k by k with a line a row, a chart a pathway; none for a single k."""
    if group.measure.task != "retrieve" or len(group.metrics) < 2:
        return []
    ks = {metric: float(metric.partition("@")[2]) for metric in group.metrics}
    charts = []
    for pathway in PATHWAYS_AND_BOTH:
        lines = []
        for index, row in enumerate(numbers.plan.table.lines):
            values = {k: numbers.value(row, pathway, group, metric) for metric, k in ks.items()}
            known = {k: 100 * value for k, value in values.items() if value is not None}
            points = [(k, float(value["mean"])) for k, value in known.items()]
            several = any(value is not None and value["runs"] > 1 for value in values.values())
            band = [
                (k, float(value["lowest"]), float(value["highest"])) for k, value in known.items()
            ]
            if points:
                lines.append(Line(row.name, points, line_style(index), band if several else ()))
        if lines:
            title = f"{pathway}{_measurement_suffix(numbers, group)}"
            ticks = list(ks.values())
            charts.append(
                Chart(
                    title, lines, "k", " %", (), ticks, logarithmic=True, from_zero=True, key=True
                )
            )
    return charts


def _runs_section(numbers: TableResults, seen: Mapping[str, tuple[Group, RunSpec]]) -> Section:
    """All runs with their own reports, and what to type to train them."""
    link = Markup('<a href="{}">{}</a>')
    groups = [group for group in numbers.groups if group.measure.task == "retrieve"]
    rows = []
    for cell in numbers.cells:
        for group in groups or [numbers.groups[0]]:
            report = _report_link(numbers, group, cell)
            rows.append(
                [
                    link.format(report, cell.name) if report else cell.name,
                    cell.run.name,
                    group.dataset,
                ]
            )
    text = ""
    if len(seen) > 1:
        group, cell = next(iter(seen.values()))
        text = (
            f"Confusion, map and gallery below are of {len(seen)} of the rows, of runs on split "
            f"{cell.split}: the first, and "
            f"those with the highest {group.metrics[0]}."
        )
    commands = "\n".join(pretrain_command(cell) for cell in numbers.plan.cells)
    table = Table("Reports of retrieval, a run each", ["row", "run", "measured on"], rows, names=3)
    return Section("Runs", text, tables=[table], documents=[("Commands that train them", commands)])


def _report_link(numbers: TableResults, group: Group, cell: RunSpec) -> str:
    """Where a run's own report of retrieval is, seen from the table's folder; empty if there is
    none."""
    path = _retrieved_in(numbers, group, cell) / RETRIEVAL_REPORT
    if group.measure.task != "retrieve" or not path.is_file():
        return ""
    return quote(Path(os.path.relpath(path, numbers.plan.folder)).as_posix())


def _retrieved_in(numbers: TableResults, group: Group, cell: RunSpec) -> Path:
    """Where retrieval of a run left its files."""
    return measured.folder_of_retrieval(cell.run, numbers.plan.manifest(group.dataset), cell.split)


def _seen_rows(numbers: TableResults) -> dict[str, tuple[Group, RunSpec]]:
    """The rows whose clips are shown, each by a run on the same split: the first, then the best of
    the others."""
    group = next((group for group in numbers.groups if group.measure.task == "retrieve"), None)
    if group is None:
        return {}

    def mean(row: Row) -> float:
        value = numbers.value(row, row.pathways[-1], group, group.metrics[0])
        return 0.0 if value is None else float(value["mean"])

    first, *others = numbers.plan.table.lines
    found: dict[str, tuple[Group, RunSpec]] = {}
    for row in (first, *sorted(others, key=mean, reverse=True)):
        split = next((cell.split for _, cell in found.values()), None)
        for cell in numbers.cells:
            fits = (
                cell.line is row
                and row.name not in found
                and split in (None, cell.split)
                and len(found) < _MOST_ROWS
            )
            if fits and _is_there(numbers, group, cell):
                found[row.name] = group, cell
    return found


def _is_there(numbers: TableResults, group: Group, cell: RunSpec) -> bool:
    """Whether a measurement of a run is in the table; what is damaged is not."""
    return not any(each.cell is cell and each.measure is group.measure for each in numbers.missing)


def _rows_clips(numbers: TableResults, seen: Mapping[str, tuple[Group, RunSpec]]) -> Clips | None:
    """Classes of every measurement, and clips as some rows find them."""
    recall = [
        table for group in numbers.groups if (table := _class_table(numbers, group))["columns"]
    ]
    clips = None
    if seen:
        group, cell = next(iter(seen.values()))
        manifest = numbers.plan.manifest(group.dataset)
        folders = {name: _retrieved_in(numbers, group, cell) for name, (_, cell) in seen.items()}
        clips = build_clips(manifest, query_gallery(manifest, cell.split), folders)
    if clips is None:
        return Clips({"classes": [], "videos": [], "recall": recall}, [], []) if recall else None
    views = [view | {"report": _report_link(numbers, *seen[view["name"]])} for view in clips.views]
    return replace(clips, data=clips.data | {"recall": recall}, views=views)


def _class_table(numbers: TableResults, group: Group) -> dict[str, Any]:
    """Each class's share of right answers, means over seeds and splits, a column a row of the
    table."""
    metric, hits = group.metrics[0], {}
    for index, row in enumerate(numbers.plan.table.lines):
        key = (row.pathways[-1], metric)
        cells = [
            cell for cell in numbers.cells if cell.line is row and _is_there(numbers, group, cell)
        ]
        found = [numbers.plan.found(cell, group.measure) for cell in cells]
        clips = [each.clips[key] for each in found if each is not None and key in each.clips]
        if clips:
            hits[f"{row.name}, {key[0]}", line_style(index)] = (
                pd.concat(clips).groupby(level=0).mean()
            )
    title = f"{metric} by class: {group.task} on {group.dataset}"
    return by_class(title, numbers.plan.manifest(group.dataset), hits)
