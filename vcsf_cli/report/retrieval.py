"""`report.html` of the retrieval benchmark: what lies in its folder, gathered into one page."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from vcsf_cli import files, results
from vcsf_cli.contracts import Indices
from vcsf_cli.measure.benchmark import NO_PATHWAY, PROTOCOL, Benchmark, Difference
from vcsf_cli.measure.features import Features
from vcsf_cli.measure.retrieval import centred_unit
from vcsf_cli.report import embedding
from vcsf_cli.report.charts import Chart, Line, training_charts
from vcsf_cli.report.page import Clips, Figure, Interval, Section, Table, page
from vcsf_cli.report.pictures import layout_for, strips
from vcsf_cli.runs import WITH_LABELS, Run

FILE = "report.html"

NEIGHBOURS = 5
"""Of a query that the gallery shows."""
MOST_QUERIES = 4_000
"""In the gallery; of more a part is drawn with a fixed seed."""
MOST_VIDEOS = 16_000
"""That a page has pictures of: fewer queries are shown if they and their neighbours are more."""

STYLES = {"untrained": "dashed", "colour_histogram": "dotted"}


@dataclass(frozen=True)
class Found:
    """The neighbours of every query by one pathway, as rows of the manifest.

    Args:
        near: Nearest first, (Q, k); -1 where there are fewer.
        similarity: (Q, k).
    """

    near: Indices
    similarity: npt.NDArray[np.float64]


def write(benchmark: Benchmark, rows: pd.DataFrame, differences: Sequence[Difference]) -> Path:
    """Write `report.html` of what a benchmark has measured and written, and return its path.

    Args:
        benchmark: Its folder holds `features.parquet` and `neighbours.csv`.
        rows: What was measured, as in `results.csv`; empty where there are no labels or no test part.
        differences: Of the trained networks and others.

    Raises:
        DataError: If the dataset's shards can't be read.
    """
    run, path = benchmark.run, benchmark.folder / FILE
    text = page(
        run.name,
        tables_of(rows),
        sections_of(benchmark, rows, differences),
        kind="Retrieval report",
        warnings=[
            *([WITH_LABELS] if run.uses_labels else []),
            *run.imported,
            *([benchmark.caveat] if benchmark.caveat else []),
        ],
        facts=facts_of(benchmark),
        figures=figures_of(rows),
        clips=clips_of(benchmark),
    )
    files.write_text(path, text)
    return path


def facts_of(benchmark: Benchmark) -> list[tuple[str, str]]:
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
        ("versions", versions_of(run)),
        *[("note", remark) for remark in benchmark.remarks()],
    ]


def versions_of(run: Run) -> str:
    """Of the programs that trained a run."""
    environment = environment_of(run)
    packages = environment.get("packages", {})
    return f"vcsf {environment.get('vcsf', '?')}, torch {packages.get('torch', '?')}, Python {environment.get('python', '?')}"


def environment_of(run: Run) -> dict[str, Any]:
    """What `environment.json` says."""
    environment: dict[str, Any] = json.loads((run.folder / "environment.json").read_text(encoding="utf-8"))
    return environment


def figures_of(rows: pd.DataFrame) -> list[Figure]:
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


def tables_of(rows: pd.DataFrame) -> list[Table]:
    """R@k of everything measured; none where nothing was."""
    if not len(rows):
        return []
    table = results.pivot(rows)
    header = ["variant", "pathway", *map(str, table.columns)]
    return [Table("R@k in per cent of test clips", header, results.cells(table), names=2)]


def sections_of(benchmark: Benchmark, rows: pd.DataFrame, differences: Sequence[Difference]) -> list[Section]:
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
        sections.append(Section("Training", training_words(run), charts=charts))
    command = f"vcsf retrieve {benchmark.manifest.name} --from {run.name} --split {benchmark.split}"
    documents = [
        ("Recipe", run.recipe.yaml()),
        ("Environment of the training", json.dumps(environment_of(run), indent=2, ensure_ascii=False)),
        ("Again", f"{command} --k {','.join(map(str, benchmark.ks))}"),
    ]
    return [*sections, Section("Protocol", PROTOCOL.replace("`", ""), documents=documents)]


def training_words(run: Run) -> str:
    """When a run was trained, and what its curves are."""
    status = run.status
    begun, ended = (str(status.get(key, ""))[:10] for key in ("begun", "ended"))
    when = f"Begun on {begun}, ended on {ended}. " if ended else f"Begun on {begun}, not finished. "
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
    for pathway in [name for name in dict.fromkeys(table.index.get_level_values(1)) if name != NO_PATHWAY]:
        lines = []
        for (variant, of), values in zip(table.index, table.to_numpy(), strict=True):
            if of in (pathway, NO_PATHWAY):
                kind = STYLES.get(variant, pathway)
                name = variant.replace("colour_", "").replace("_with_labels", "")
                lines.append(Line(name, list(zip(map(float, ks), values.tolist(), strict=True)), kind))
        ticks = [float(k) for k in ks]
        charts.append(Chart(pathway, lines, "k", " %", ticks=ticks, logarithmic=True, from_zero=True))
    return charts


def clips_of(benchmark: Benchmark) -> Clips | None:
    """The clips with their pictures, neighbours and places on the map; None where no clip has a neighbour."""
    manifest, parts = benchmark.manifest, benchmark.parts
    found = neighbours_of(benchmark)
    if not found:
        return None
    shown = shown_queries(found)
    points = embedding.chosen(len(parts.rows))
    places = embedding.places(features_of(benchmark, points))
    mapped = parts.rows[points] if places else np.empty(0, np.int64)
    rows = np.unique(
        np.concatenate([parts.query[shown], mapped, *(each.near[shown].ravel() for each in found.values())])
    )
    rows = rows[rows >= 0]
    layout = layout_for(len(rows))
    names = sorted({str(label) for label in benchmark.labels[parts.rows] if pd.notna(label)})
    number = {name: index for index, name in enumerate(names)}
    classes = np.array([-1 if pd.isna(label) else number[str(label)] for label in benchmark.labels])
    place = np.full(len(manifest.table), -1)
    place[rows] = np.arange(len(rows))
    data = {
        "pathways": list(found),
        "classes": names,
        "videos": [[str(benchmark.videos[row]), int(classes[row])] for row in rows],
        "queries": place[parts.query[shown]].tolist(),
        "near": {
            pathway: [place[near[near >= 0]].tolist() for near in each.near[shown]] for pathway, each in found.items()
        },
        "similarity": {
            pathway: (1000 * each.similarity[shown]).round().astype(int).tolist() for pathway, each in found.items()
        },
        "k": max(each.near.shape[1] for each in found.values()),
        "frames": layout.frames,
        "marked": bool(names),
        "scored": not parts.leave_one_out,
        "words": gallery_words(parts.leave_one_out, bool(names), len(shown), len(parts.query)),
    }
    if not parts.leave_one_out:
        data |= confusion_of(classes, parts.query, found)
    if places:
        words = map_words(len(points), len(parts.rows), parts.leave_one_out, bool(names))
        flat = {pathway: values.ravel().tolist() for pathway, values in places.items()}
        data["map"] = {"videos": place[mapped].tolist(), "places": flat, "words": words}
    return Clips(data, strips(manifest, rows, layout, os.cpu_count() or 1))


def neighbours_of(benchmark: Benchmark) -> dict[str, Found]:
    """The nearest clips by pathway, from `neighbours.csv`."""
    columns = {"query": str, "pathway": str, "rank": int, "neighbour": str, "similarity": float}
    table = pd.read_csv(
        benchmark.folder / "neighbours.csv", usecols=list(columns), dtype=columns, keep_default_na=False, na_values={}
    )
    table = table[table["rank"] <= NEIGHBOURS]
    row_of = {video: row for row, video in enumerate(benchmark.videos)}
    query_of = {row: index for index, row in enumerate(benchmark.parts.query)}
    query = table["query"].map(row_of).map(query_of).to_numpy()
    neighbour, rank = table["neighbour"].map(row_of).to_numpy(), table["rank"].to_numpy() - 1
    shape = (len(benchmark.parts.query), int(rank.max(initial=0)) + 1)
    found = {}
    for pathway in table["pathway"].unique():
        of = (table["pathway"] == pathway).to_numpy()
        near, similarity = np.full(shape, -1), np.zeros(shape)
        near[query[of], rank[of]] = neighbour[of]
        similarity[query[of], rank[of]] = table["similarity"].to_numpy()[of]
        found[str(pathway)] = Found(near, similarity)
    return found


def shown_queries(found: dict[str, Found]) -> Indices:
    """Which queries the gallery shows: all, or as many of them, drawn with a fixed seed, as a page holds."""
    near = np.concatenate([each.near for each in found.values()], axis=1)
    order = np.random.default_rng(0).permutation(len(near))[:MOST_QUERIES]
    while len(order) + len(np.unique(near[order])) > MOST_VIDEOS:
        order = order[: len(order) * 9 // 10]
    shown: Indices = np.sort(order)
    return shown


def features_of(benchmark: Benchmark, points: Indices) -> Features:
    """Unit-length features of some of the clips that take part, from `features.parquet`, centred as the benchmark does."""
    table = pq.read_table(benchmark.folder / "features.parquet")
    part = np.array(table["part"].to_pylist())
    features = {}
    for name in [name for name in table.column_names if name not in ("video", "label", "part")]:
        values = np.stack(table[name].combine_chunks().to_numpy(zero_copy_only=False))
        for each in np.unique(part):
            values[part == each] = centred_unit(values[part == each])
        features[name] = values[points]
    return features


def confusion_of(classes: Indices, query: Indices, found: dict[str, Found]) -> dict[str, Any]:
    """How often the nearest clip of a class's queries is of which class, and how often of the right one.

    Args:
        classes: Number of each video's class.
        query: Videos that ask.
        found: What they find.
    """
    asked = np.unique(classes[query])
    confusion, right = {}, {}
    for pathway, each in found.items():
        pairs = np.stack([classes[query], classes[each.near[:, 0]]], axis=1)
        kinds, counts = np.unique(pairs, axis=0, return_counts=True)
        confusion[pathway] = [[int(a), int(b), int(count)] for (a, b), count in zip(kinds, counts, strict=True)]
        right[pathway] = {int(a): int(count) for (a, b), count in zip(kinds, counts, strict=True) if a == b}
    recall = [
        [int(number), int((classes[query] == number).sum()), *(right[pathway].get(int(number), 0) for pathway in found)]
        for number in asked
    ]
    return {"confusion": confusion, "recall": recall}


def gallery_words(leave_one_out: bool, marked: bool, shown: int, count: int) -> str:
    """What the gallery shows."""
    where = "other clips" if leave_one_out else "training clips"
    words = [f"Each query with its nearest {where} by each pathway, and how similar they are (cosine)."]
    if marked:
        words.append(
            "✓ marks a clip of the query's class. A query is called right where its nearest clip is of its class."
        )
    if shown < count:
        words.append(f"{shown:,} of {count:,} queries are here, drawn with a fixed seed; tables are of all.")
    return " ".join(words)


def map_words(points: int, count: int, leave_one_out: bool, marked: bool) -> str:
    """What the map shows."""
    words = [
        "t-SNE of the features: near clips are similar; distances between groups and sizes of groups mean nothing."
    ]
    if marked:
        words.append("Colour and shape stand for the class.")
    if not leave_one_out:
        words.append("Test clips have an edge.")
    if points < count:
        words.append(f"{points:,} of {count:,} clips are here, drawn with a fixed seed.")
    return " ".join(words)
