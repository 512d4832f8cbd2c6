"""`report.html` of the retrieval benchmark: what lies in its folder, gathered into one page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vcsf_cli.evaluate.retrieval import NO_PATHWAY, PROTOCOL, Benchmark, Difference
from vcsf_cli.report.charts import Chart, Line, training_charts
from vcsf_cli.report.clips import build_clips
from vcsf_cli.report.page import Figure, Interval, Section, Table, page
from vcsf_cli.runs import results, stages
from vcsf_cli.runs.run import WITH_LABELS, Run
from vcsf_cli.storage import files

FILE = "report.html"

_STYLES = {"untrained": "dashed", "colour_histogram": "dotted"}


def write(benchmark: Benchmark, rows: pd.DataFrame, differences: Sequence[Difference]) -> Path:
    """Write `report.html` of what a benchmark has measured and written, and return its path.

    Args:
        benchmark: Its folder holds `features.parquet` and `neighbours.csv`.
        rows: What was measured, as in `results.csv`; empty where there are no labels or no test
            part.
        differences: Of the trained networks and others.

    Raises:
        DataError: If the dataset's shards can't be read.
    """
    run, path = benchmark.run, benchmark.folder / FILE
    text = page(
        run.name,
        _recall_tables(rows),
        _report_sections(benchmark, rows, differences),
        kind="Retrieval report",
        warnings=[
            *([WITH_LABELS] if run.uses_labels else []),
            *run.imported,
            *benchmark.exposure.remarks,
            *([benchmark.caveat] if benchmark.caveat else []),
        ],
        facts=_run_facts(benchmark),
        figures=_headline_figures(rows),
        clips=build_clips(benchmark.manifest, benchmark.parts, {run.name: benchmark.folder}),
    )
    files.write_text(path, text)
    return path


def _run_facts(benchmark: Benchmark) -> list[tuple[str, str]]:
    """What was trained, and on what it was measured."""
    run, parts, stage = benchmark.run, benchmark.parts, benchmark.stage
    status, recipe = run.status, run.recipe
    epochs = ", ".join(str(each.train.epochs) for each in recipe.stages)
    asked = (
        f"every one of {len(parts.query):,} clips queries the others"
        if parts.leave_one_out
        else f"{len(parts.query):,} test clips query {len(parts.gallery):,} training clips"
    )
    return [
        ("run", run.name),
        ("recipe", f"{recipe.name}, seed {recipe.seed}"),
        ("trained on", f"{status['dataset']} split {stage.data.split}"),
        ("trained for", f"{status.get('steps', '?')} steps ({epochs} epochs)"),
        ("measured on", f"{benchmark.manifest.name} split {benchmark.split}"),
        ("clips", asked),
        ("left out", parts.left_out),
        ("versions", _program_versions(run)),
        *[("note", remark) for remark in benchmark.remarks()],
    ]


def _program_versions(run: Run) -> str:
    """Of the programs that trained a run."""
    environment = _read_environment(run)
    packages = environment.get("packages", {})
    return f"vcsf {environment.get('vcsf', '?')}, torch {packages.get('torch', '?')}, Python {environment.get('python', '?')}"


def _read_environment(run: Run) -> dict[str, Any]:
    """What `environment.json` says."""
    environment: dict[str, Any] = json.loads(
        (run.folder / "environment.json").read_text(encoding="utf-8")
    )
    return environment


def _headline_figures(rows: pd.DataFrame) -> list[Figure]:
    """R@1, or the R@k of the smallest k, of the trained pathways."""
    if not len(rows):
        return []
    table = results.pivot(rows)
    metric = table.columns[0]
    return [
        Figure(f"{table.loc[(variant, pathway), metric]:.1f} %", f"{metric} {pathway}", pathway)
        for variant, pathway in table.index
        if variant.startswith("trained")
    ]


def _recall_tables(rows: pd.DataFrame) -> list[Table]:
    """R@k of everything measured; none where nothing was."""
    if not len(rows):
        return []
    table = results.pivot(rows)
    header = ["variant", "pathway", *map(str, table.columns)]
    return [Table("R@k in per cent of test clips", header, results.cells(table), names=2)]


def _report_sections(
    benchmark: Benchmark, rows: pd.DataFrame, differences: Sequence[Difference]
) -> list[Section]:
    """Everything between the table and the clips."""
    run, sections = benchmark.run, []
    charts = recall_charts(rows)
    if charts:
        text = "The share of test clips that have a clip of their class among their k nearest training clips."
        sections.append(Section("R@k curves", text, charts=charts))
    if differences:
        text = "Paired bootstrap over the recordings that test clips were cut from, 10,000 draws."
        intervals = [Interval(each.name, each.value, each.low, each.high) for each in differences]
        sections.append(Section("Differences", text, intervals=intervals))
    charts = training_charts(run.metrics)
    if charts:
        sections.append(Section("Training", describe_training(run), charts=charts))
    command = f"vcsf retrieve {benchmark.manifest.name} --from {run.name} --split {benchmark.split}"
    documents = [
        ("Recipe", run.recipe.yaml()),
        (
            "Environment of the training",
            json.dumps(_read_environment(run), indent=2, ensure_ascii=False),
        ),
        ("Again", f"{command} --k {','.join(map(str, benchmark.ks))}"),
    ]
    return [*sections, Section("Protocol", PROTOCOL.replace("`", ""), documents=documents)]


def describe_training(run: Run) -> str:
    """When a run was trained, and what its curves are."""
    status = run.status
    begun, ended = (str(status.get(key, ""))[:10] for key in ("begun", "ended"))
    when = f"Begun on {begun}, ended on {ended}. " if ended else f"Begun on {begun}, not finished. "
    for number, entry in enumerate(stages.read(run.folder), start=1):
        if entry.get("trained_by", run.name) != run.name:
            when += f"Stage {number} is from run {entry['trained_by']}, ended on {entry['ended'][:10]}. "
    return f"{when}The check counts nearest neighbours among training clips of other recordings; no test clip is in it."


def recall_charts(rows: pd.DataFrame) -> list[Chart]:
    """R@k by k, a chart a pathway with all variants in it; none for a single k."""
    if not len(rows):
        return []
    table = results.pivot(rows)
    ks = [int(str(metric).partition("@")[2]) for metric in table.columns]
    if len(ks) < 2:
        return []
    charts = []
    for pathway in [
        name for name in dict.fromkeys(table.index.get_level_values(1)) if name != NO_PATHWAY
    ]:
        lines = []
        for (variant, of), values in zip(table.index, table.to_numpy(), strict=True):
            if of in (pathway, NO_PATHWAY):
                kind = _STYLES.get(variant, pathway)
                name = variant.replace("colour_", "").replace("_with_labels", "")
                lines.append(
                    Line(name, list(zip(map(float, ks), values.tolist(), strict=True)), kind)
                )
        ticks = [float(k) for k in ks]
        charts.append(
            Chart(pathway, lines, "k", " %", ticks=ticks, logarithmic=True, from_zero=True)
        )
    return charts
