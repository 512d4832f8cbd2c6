"""`report.html` of a table: its numbers, and curves, classes and clips from the folders of its
runs."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from markupsafe import Markup

from vcsf_cli.ablate.numbers import Group, TableResults
from vcsf_cli.ablate.render import TRAINED, RenderedTable
from vcsf_cli.ablate.rows import RowSpec, RunSpec
from vcsf_cli.ablate.run import pretrain_command
from vcsf_cli.data.splits import query_gallery
from vcsf_cli.evaluate.report import HTML as RETRIEVAL_REPORT
from vcsf_cli.evaluate.retrieval import retrieval_folder
from vcsf_cli.report.charts import PATHWAYS_AND_BOTH, Chart, Line, compared_charts, line_style
from vcsf_cli.report.clips import build_clips, class_shares
from vcsf_cli.report.page import Clips, Interval, Section, Table, page
from vcsf_cli.runs.results import recall_k
from vcsf_cli.storage import files

FILE = "report.html"

_MOST_ROWS = 4
"""Rows with clips. They share pictures; the neighbours of a row are at most 0.7 MB, and its map of
2,000 clips takes some 15 seconds."""


def write(results: TableResults, table: RenderedTable) -> Path:
    """Write `report.html` into the table's folder, and return its path.

    Raises:
        DataError: If a dataset's shards can't be read.
    """
    path = results.plan.folder / FILE
    text = page(
        table.title,
        [_build_table(table)],
        [
            *difference_sections(results),
            Section(
                "Notes",
                facts=[
                    (str(number), note) for number, note in enumerate(table.notes[:-1], start=1)
                ],
            ),
            *_curve_sections(results),
            _runs_section(results),
        ],
        kind="Ablation report",
        clips=_clips(results),
    )
    files.write_text(path, text)
    return path


def _build_table(table: RenderedTable) -> Table:
    """The table, with the column about training moved to the end."""
    strong = Markup("<strong>{}</strong>")

    def moved(row: list[Any]) -> list[Any]:
        return [*row[:TRAINED], *row[TRAINED + 1 :], row[TRAINED]]

    rows = [[strong.format(c.text) if c.bold else c.text for c in row] for row in table.rows]
    return Table(
        "Per cent", moved(list(table.header)), [moved(row) for row in rows], table.names - 1, 1
    )


def difference_sections(results: TableResults) -> list[Section]:
    """Differences to the first row, a section for each measurement."""
    found: list[Section] = []
    first = results.plan.table.rows[0]
    for group in results.groups:
        intervals = []
        for row in results.plan.table.rows[1:]:
            for pathway in row.pathways:
                value = results.value(row, pathway, group, group.metrics[0])
                if value is not None and not np.isnan(value["difference_low"]):
                    ends = [
                        100 * value[key]
                        for key in ("difference", "difference_low", "difference_high")
                    ]
                    intervals.append(Interval(f"{row.name}, {pathway}", *ends))
        if intervals:
            title = f"Differences of {group.metrics[0]} to {first.name}{_measurement_suffix(results, group)}"
            found.append(Section(title, short="Differences", listed=not found, intervals=intervals))
    return found


def _measurement_suffix(results: TableResults, group: Group) -> str:
    """The measurement as a part of a title, if there are several."""
    return f": {group.task} on {group.dataset}" if len(results.groups) > 1 else ""


def _curve_sections(results: TableResults) -> list[Section]:
    """R@k and training curves of all rows."""
    sections = []
    charts = [chart for group in results.groups for chart in recall_charts(results, group)]
    if charts:
        text = "Means over seeds and splits; where there are several, a band goes from the lowest to the highest."
        sections.append(Section("R@k curves", text, charts=charts))
    firsts = {spec.row.name: spec for spec in reversed(results.specs)}
    trainings = {
        row.name: (firsts[row.name].run.metrics, line_style(index))
        for index, row in enumerate(results.plan.table.rows)
        if row.name in firsts
    }
    charts = compared_charts(trainings)
    if charts:
        text = (
            "Of each row's first seed and split. The check counts nearest neighbours among "
            "training clips; no test clip is in it."
        )
        sections.append(Section("Training", text, charts=charts))
    return sections


def recall_charts(results: TableResults, group: Group) -> list[Chart]:
    """R@k by k with a line for each row, a chart for each pathway; none for a single k."""
    if group.measure.task != "retrieve" or len(group.metrics) < 2:
        return []
    ks = {metric: float(recall_k(metric)) for metric in group.metrics}
    charts = []
    for pathway in PATHWAYS_AND_BOTH:
        lines = []
        for index, row in enumerate(results.plan.table.rows):
            values = {k: results.value(row, pathway, group, metric) for metric, k in ks.items()}
            known = {k: 100 * value for k, value in values.items() if value is not None}
            points = [(k, float(value["mean"])) for k, value in known.items()]
            several = any(value is not None and value["runs"] > 1 for value in values.values())
            band = [
                (k, float(value["lowest"]), float(value["highest"])) for k, value in known.items()
            ]
            if points:
                lines.append(Line(row.name, points, line_style(index), band if several else ()))
        if lines:
            title = f"{pathway}{_measurement_suffix(results, group)}"
            ticks = list(ks.values())
            charts.append(
                Chart(
                    title, lines, "k", " %", (), ticks, logarithmic=True, from_zero=True, key=True
                )
            )
    return charts


def _runs_section(results: TableResults) -> Section:
    """All runs with their own reports, and the commands that train them."""
    link = Markup('<a href="{}">{}</a>')
    groups = [group for group in results.groups if group.measure.task == "retrieve"]
    rows = []
    for spec in results.specs:
        for group in groups or [results.groups[0]]:
            report = _report_link(results, group, spec)
            name = link.format(report, spec.name) if report else spec.name
            rows.append([name, spec.run.name, group.dataset])
    text, runs = "", _runs_with_clips(results)
    if len(runs) > 1:
        split = next(iter(runs.values())).split
        text = (
            f"Confusion, map and gallery below are of {len(runs)} of the rows, of runs on split "
            f"{split}: the first, and those with the highest {groups[0].metrics[0]}."
        )
    commands = "\n".join(pretrain_command(spec) for spec in results.plan.specs)
    table = Table("Reports of retrieval, a run each", ["row", "run", "measured on"], rows, names=3)
    return Section("Runs", text, tables=[table], documents=[("Commands that train them", commands)])


def _report_link(results: TableResults, group: Group, spec: RunSpec) -> str:
    """The path of a run's own retrieval report from the table's folder; empty if there is none."""
    left_out = group.measure.leave_one_out
    path = retrieval_folder(spec.run, group.dataset, spec.split, left_out) / RETRIEVAL_REPORT
    if group.measure.task != "retrieve" or not path.is_file():
        return ""
    return quote(Path(os.path.relpath(path, results.plan.folder)).as_posix())


def _retrieval_group(results: TableResults) -> Group | None:
    return next((group for group in results.groups if group.measure.task == "retrieve"), None)


def _runs_with_clips(results: TableResults) -> dict[str, RunSpec]:
    """A run for each row whose clips are shown, all on one split: the first row, then the best."""
    group = _retrieval_group(results)
    if group is None:
        return {}

    def mean(row: RowSpec) -> float:
        value = results.value(row, row.pathways[-1], group, group.metrics[0])
        return 0.0 if value is None else float(value["mean"])

    first, *others = results.plan.table.rows
    found: dict[str, RunSpec] = {}
    for row in (first, *sorted(others, key=mean, reverse=True)):
        split = next((spec.split for spec in found.values()), None)
        fitting = (
            spec
            for spec in results.specs
            if spec.row is row and split in (None, spec.split) and group.has(spec)
        )
        spec = next(fitting, None)
        if spec and len(found) < _MOST_ROWS:
            found[row.name] = spec
    return found


def _clips(results: TableResults) -> Clips | None:
    """Classes of every measurement, and the clips that some rows find."""
    tables = [_class_table(results, group) for group in results.groups]
    recall = [table for table in tables if table["columns"]]
    clips, runs, group = None, _runs_with_clips(results), _retrieval_group(results)
    if group and runs:
        manifest = results.plan.manifest(group.dataset)
        folders = {
            name: retrieval_folder(spec.run, group.dataset, spec.split, group.measure.leave_one_out)
            for name, spec in runs.items()
        }
        split = next(iter(runs.values())).split
        parts = query_gallery(manifest, split, group.measure.leave_one_out)
        clips = build_clips(manifest, parts, folders)
    if group is None or clips is None:
        return Clips({"classes": [], "videos": [], "recall": recall}, [], []) if recall else None
    views = [
        view | {"report": _report_link(results, group, runs[view["name"]])} for view in clips.views
    ]
    return replace(clips, data=clips.data | {"recall": recall}, views=views)


def _class_table(results: TableResults, group: Group) -> dict[str, Any]:
    """Each class's share of right answers, means over seeds and splits, a column for each row."""
    metric, hits = group.metrics[0], {}
    for index, row in enumerate(results.plan.table.rows):
        key = (row.pathways[-1], metric)
        found = group.measurements[row.name].values()
        clips = [each.clips[key] for each in found if key in each.clips]
        if clips:
            hits[f"{row.name}, {key[0]}", line_style(index)] = (
                pd.concat(clips).groupby(level=0).mean()
            )
    title = f"{metric} by class: {group.task} on {group.dataset}"
    return class_shares(title, results.plan.manifest(group.dataset), hits)
