"""The reports of a retrieval: `report.md`, and `report.html` with curves, classes and clips."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

import pandas as pd

from vcsf_cli.encoders.source import VARIANTS
from vcsf_cli.evaluate.retrieval import NO_PATHWAY, Difference, Retrieval
from vcsf_cli.report.charts import Chart, Line, training_charts
from vcsf_cli.report.clips import build_clips
from vcsf_cli.report.page import Figure, Interval, Section, Table, page
from vcsf_cli.runs import results
from vcsf_cli.storage import files

HTML = "report.html"
MARKDOWN = "report.md"

_PROTOCOL = (
    "Features before the head, mean over windows of the recipe's length with hop L/2 - 1 over the "
    "whole video, centre crop; less the mean of their own set (test or train), unit length, cosine "
    "similarity; `both` is the mean of the two pathways' similarities. R@k: a test clip counts "
    "when one of its k nearest training clips is of its class."
)
_CHECK = (
    "The check counts nearest neighbours among training clips of other recordings; no test clip is "
    "in it."
)
_DRAWS = "Paired bootstrap over the recordings that test clips were cut from, 10,000 draws."
_SHORT = {"colour_histogram": "histogram", **dict.fromkeys(VARIANTS.values(), VARIANTS[False])}
_STYLES = {"untrained": "dashed", "colour_histogram": "dotted"}


def write_markdown(
    retrieval: Retrieval, rows: pd.DataFrame, differences: Sequence[Difference]
) -> None:
    """Write `report.md`.

    Args:
        rows: Rows of `results.csv`.
    """
    source, parts = retrieval.source, retrieval.parts
    facts = [
        source.summary,
        f"measured on: `{retrieval.manifest.name}` split {retrieval.split}: {len(parts.query):,} "
        f"test clips query {len(parts.gallery):,} training clips; left out: {parts.left_out}",
        *retrieval.caveats,
        *retrieval.remarks(),
        f"again: `{_command(retrieval)}`",
    ]
    note = f"\n{retrieval.not_comparable}" if retrieval.not_comparable else ""
    sections = [("R@k in per cent", results.markdown(results.pivot(rows)) + note)]
    if differences:
        sections.append(("Differences", f"{_bullets(differences)}\n\n{_DRAWS}"))
    sections.append(("Protocol", _PROTOCOL))
    if source.recipe:
        sections.append(("Recipe", f"```yaml\n{source.recipe.yaml()}```"))
    if source.environment:
        environment = json.dumps(source.environment, indent=2)
        sections.append(("Environment", f"```json\n{environment}\n```"))
    text = [f"# Retrieval of {source.name}\n\n{_bullets(facts)}"]
    text += [f"## {heading}\n\n{content.strip()}" for heading, content in sections]
    files.write_text(retrieval.folder / MARKDOWN, "\n\n".join(text) + "\n")


def write_html(retrieval: Retrieval, rows: pd.DataFrame, differences: Sequence[Difference]) -> None:
    """Write `report.html`.

    Args:
        retrieval: What was measured; its folder holds `features.parquet` and `neighbours.csv`.
        rows: Rows of `results.csv`; empty where there are no labels or no test part.

    Raises:
        DataError: If the dataset's shards can't be read.
    """
    name = retrieval.source.name
    note = [retrieval.not_comparable] if retrieval.not_comparable else []
    tables, figures = [], []
    if not rows.empty:
        recalls = results.pivot(rows)
        header = ["variant", "pathway", *map(str, recalls.columns)]
        title = "R@k in per cent of test clips"
        tables = [Table(title, header, results.cells(recalls), names=2)]
        metric = recalls.columns[0]
        figures = [
            Figure(f"{recalls.loc[index, metric]:.1f} %", f"{metric} {index[1]}", index[1])
            for index in recalls.index
            if index[0].startswith("trained")
        ]
    text = page(
        name,
        tables,
        _sections(retrieval, rows, differences),
        kind="Retrieval report",
        warnings=[*retrieval.caveats, *note],
        facts=_facts(retrieval),
        figures=figures,
        clips=build_clips(retrieval.manifest, retrieval.parts, {name: retrieval.folder}),
    )
    files.write_text(retrieval.folder / HTML, text)


def _bullets(lines: Sequence[object]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _command(retrieval: Retrieval) -> str:
    """The command that measures it again."""
    return (
        f"vcsf retrieve {retrieval.manifest.name} {shlex.join(retrieval.source.words)} --split "
        f"{retrieval.split} --k {','.join(map(str, retrieval.ks))}"
    )


def _facts(retrieval: Retrieval) -> list[tuple[str, str]]:
    """Names and values for the head of the page."""
    parts = retrieval.parts
    clips = (
        f"every one of {len(parts.query):,} clips queries the others"
        if parts.leave_one_out
        else f"{len(parts.query):,} test clips query {len(parts.gallery):,} training clips"
    )
    return [
        *retrieval.source.facts,
        ("measured on", f"{retrieval.manifest.name} split {retrieval.split}"),
        ("clips", clips),
        ("left out", parts.left_out),
        *[("note", remark) for remark in retrieval.remarks()],
    ]


def _sections(
    retrieval: Retrieval, rows: pd.DataFrame, differences: Sequence[Difference]
) -> list[Section]:
    """The page between its table and its clips."""
    source, sections = retrieval.source, []
    charts = [] if rows.empty else _recall_charts(rows)
    if charts:
        text = "The share of test clips that have a clip of their class among their k nearest training clips."
        sections.append(Section("R@k curves", text, charts=charts))
    if differences:
        intervals = [Interval(each.name, each.value, each.low, each.high) for each in differences]
        sections.append(Section("Differences", _DRAWS, intervals=intervals))
    charts = training_charts(source.metrics) if source.metrics else []
    if charts:
        sections.append(Section("Training", f"{source.training} {_CHECK}", charts=charts))
    documents = [*source.documents, ("Again", _command(retrieval))]
    return [*sections, Section("Protocol", _PROTOCOL.replace("`", ""), documents=documents)]


def _recall_charts(rows: pd.DataFrame) -> list[Chart]:
    """R@k by k, a chart a pathway with all variants in it; none for a single k."""
    table = results.pivot(rows)
    ks = [float(results.recall_k(metric)) for metric in table.columns]
    if len(ks) < 2:
        return []
    charts = []
    pathways = dict.fromkeys(table.index.get_level_values(1))
    for pathway in (name for name in pathways if name != NO_PATHWAY):
        lines = [
            Line(
                _SHORT.get(variant, variant),
                list(zip(ks, values.tolist(), strict=True)),
                _STYLES.get(variant, pathway),
            )
            for (variant, measured), values in zip(table.index, table.to_numpy(), strict=True)
            if measured in (pathway, NO_PATHWAY)
        ]
        charts.append(Chart(pathway, lines, "k", " %", ticks=ks, logarithmic=True, from_zero=True))
    return charts
