"""The reports of a retrieval: `report.md`, and `report.html` with curves, classes and clips."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

import numpy as np
import pandas as pd

from vcsf_cli.data.clips import EvalClips
from vcsf_cli.encoders.run import RunSource
from vcsf_cli.encoders.source import VARIANTS
from vcsf_cli.evaluate.clusters import CLUSTERS, METRICS, SEEDS, Clustering
from vcsf_cli.evaluate.evaluation import Evaluation
from vcsf_cli.evaluate.retrieval import FEATURES, NO_PATHWAY, Difference, Retrieval
from vcsf_cli.features.cache import load_features
from vcsf_cli.features.neighbours import centred_unit, measured_pathways
from vcsf_cli.report.charts import Chart, Line, training_charts
from vcsf_cli.report.clips import build_clips, build_clusters
from vcsf_cli.report.motion import motion_section
from vcsf_cli.report.page import Figure, Interval, Section, Table, page
from vcsf_cli.report.pictures import frames_to_show
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
_LEFT_OUT = (
    "Features before the head, mean over windows of the recipe's length with hop L/2 - 1 over the "
    "whole video, centre crop; less the mean of all clips, unit length, cosine similarity; `both` is "
    "the mean of the two pathways' similarities. Every clip with a label queries all such clips of "
    "other groups. R@k: it counts when one of its k nearest is of its class."
)
_DRAWS = "Paired bootstrap over the recordings that test clips were cut from, 10,000 draws."
_SHORT = {"colour_histogram": "histogram", **dict.fromkeys(VARIANTS.values(), VARIANTS[False])}
_CLUSTERS = (
    f"k-means from {SEEDS} draws of centres, on features less the mean of these clips, of unit length; "
    "the clusters are those of the draw with the smallest distances to the centres."
)
_AGREEMENT = (
    " V-measure is the mutual information of clusters and classes over the arithmetic mean of their "
    "entropies, NMI over the geometric mean."
)
_GROUP_DRAWS = "95 % intervals by a bootstrap over groups of clips, 10,000 draws."
_CLIPS = 6
"""Clips that are shown with maps of motion modules."""

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
        f"measured on: `{retrieval.manifest.name}`{_split(retrieval)}: {parts.description}; "
        f"left out: {parts.left_out}",
        *retrieval.caveats,
        *retrieval.remarks(),
        f"again: `{_command(retrieval)}`",
    ]
    note = f"\n{retrieval.not_comparable}" if retrieval.not_comparable else ""
    sections = [("R@k in per cent", results.markdown(results.pivot(rows)) + note)]
    if intervals := results.intervals(rows):
        table = results.markdown_table(_INTERVAL_HEADER, intervals, names=3)
        sections.append(("Intervals", f"{table}\n\n{_GROUP_DRAWS}"))
    if differences:
        sections.append(("Differences", f"{_bullets(differences)}\n\n{_draws(retrieval)}"))
    sections.append(("Protocol", _protocol(retrieval)))
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


_INTERVAL_HEADER = ["variant", "pathway", "metric", "per cent", "low", "high"]


def _protocol(retrieval: Retrieval) -> str:
    return _LEFT_OUT if retrieval.leave_one_out else _PROTOCOL


def _draws(retrieval: Retrieval) -> str:
    """What the intervals of differences draw."""
    return f"Paired: {_GROUP_DRAWS}" if retrieval.leave_one_out else _DRAWS


def _split(evaluation: Evaluation) -> str:
    return "" if evaluation.leave_one_out else f" split {evaluation.split}"


def write_clusters(clustering: Clustering, rows: pd.DataFrame) -> None:
    """Write `report.html` of clusters.

    Args:
        clustering: What was measured; its folder holds `clusters.csv`.
        rows: Its result rows; empty without labels.

    Raises:
        DataError: If the dataset's shards can't be read.
    """
    manifest, clips = clustering.manifest, clustering.clips
    features, _ = load_features(clustering.retrieval.folder / FEATURES)
    place = np.searchsorted(clustering.retrieval.parts.rows, clips)
    unit = {name: centred_unit(values[place]) for name, values in features.items()}
    pathway = measured_pathways(unit)[-1]
    found = results.read(
        clustering.folder / CLUSTERS, ["video", "pathway", "cluster", "similarity", "label"]
    )
    found = found[found["pathway"] == pathway].set_index("video").loc[clustering.videos[clips]]
    number, similarity = (found[name].to_numpy(float) for name in ("cluster", "similarity"))
    clusters = found.groupby(found["cluster"].astype(int))
    listed = [[str(int(each)), f"{len(own):,}"] for each, own in clusters]
    words, tables, explained = ["cluster", "clips"], [], _CLUSTERS
    if not rows.empty:
        table = cluster_scores(rows)
        tables = [Table("Agreement with the classes in per cent", table[0], table[1:], names=2)]
        explained += _AGREEMENT
        words.append("labels")
        for line, (_, own) in zip(listed, clusters, strict=True):
            line.append(_commonest(own["label"]))
    texts = Table("Clusters", words, listed, texts=1 if tables else 0)
    facts = [
        *clustering.source.facts,
        ("clips", f"{len(clips):,} of {manifest.name}{_split(clustering)}"),
        ("clusters", f"{clustering.clusters:,} by k-means on the features of {pathway}"),
        ("left out", f"{clustering.left_out:,}"),
    ]
    text = page(
        clustering.source.name,
        tables,
        [Section("Clusters", explained, tables=[texts])],
        kind="Clusters",
        warnings=clustering.caveats,
        facts=facts,
        clips=build_clusters(manifest, clips, number.astype(np.int64) - 1, similarity, unit),
    )
    files.write_text(clustering.folder / HTML, text)


def cluster_scores(rows: pd.DataFrame) -> list[list[str]]:
    """A header, and for each variant and pathway the mean of each metric over seeds, and in brackets
    the lowest and the highest, in per cent."""
    table = [["variant", "pathway", *METRICS]]
    for (variant, pathway), own in rows.groupby(["variant", "pathway"], sort=False):
        value = dict(zip(own["metric"], 100 * own["value"], strict=True))
        cells = [
            f"{value[name]:.1f} ({value[f'{name}_min']:.1f}–{value[f'{name}_max']:.1f})"
            for name in METRICS
        ]
        table.append([str(variant), str(pathway), *cells])
    return table


def _commonest(labels: pd.Series) -> str:
    """The most frequent labels of a cluster's clips and their numbers."""
    counts = labels[labels != ""].value_counts()
    more = f", and {len(counts) - 3} others" if len(counts) > 3 else ""
    return ", ".join(f"{name} {count}" for name, count in counts[:3].items()) + more


def _bullets(lines: Sequence[object]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _command(retrieval: Retrieval) -> str:
    """The command that measures it again."""
    how = "--leave-one-out" if retrieval.leave_one_out else f"--split {retrieval.split}"
    return (
        f"vcsf retrieve {retrieval.manifest.name} {shlex.join(retrieval.source.words)} {how} --k "
        f"{','.join(map(str, retrieval.ks))}"
    )


def _facts(retrieval: Retrieval) -> list[tuple[str, str]]:
    """Names and values for the head of the page."""
    parts = retrieval.parts
    return [
        *retrieval.source.facts,
        ("measured on", f"{retrieval.manifest.name}{_split(retrieval)}"),
        ("clips", parts.description),
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
        others = "clips of other groups" if retrieval.leave_one_out else "training clips"
        text = f"The share of test clips that have a clip of their class among their k nearest {others}."
        sections.append(Section("R@k curves", text, charts=charts))
    found = [] if rows.empty else results.intervals(rows)
    if found:
        table = Table("Intervals", _INTERVAL_HEADER, found, names=3)
        sections.append(Section("Intervals", _GROUP_DRAWS, tables=[table]))
    if differences:
        intervals = [Interval(each.name, each.value, each.low, each.high) for each in differences]
        sections.append(Section("Differences", _draws(retrieval), intervals=intervals))
    charts = training_charts(source.metrics) if source.metrics else []
    if charts:
        sections.append(Section("Training", f"{source.training} {_CHECK}", charts=charts))
    if motion := _motion_section(retrieval):
        sections.append(motion)
    documents = [*source.documents, ("Again", _command(retrieval))]
    text = _protocol(retrieval).replace("`", "")
    return [*sections, Section("Protocol", text, documents=documents)]


def _motion_section(retrieval: Retrieval) -> Section | None:
    """What the motion modules of a run react to in some queries, spread evenly over all."""
    source, query = retrieval.source, retrieval.parts.query
    if not (isinstance(source, RunSource) and source.is_there and len(query)):
        return None
    rows = [int(query[number]) for number in frames_to_show(len(query), min(_CLIPS, len(query)))]
    spec, slow = source.windows, source.network().pathway("slow")
    clips = EvalClips(
        retrieval.manifest, rows, spec.build_sampler(), spec.border, spec.size, spread=1
    )
    return motion_section(slow, retrieval.manifest, clips)


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
