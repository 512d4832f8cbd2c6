"""Tables that commands print on stdout."""

from __future__ import annotations

import click
import pandas as pd
from rich.console import Console
from rich.table import Table

from vcsf_cli.evaluate.clusters import CLUSTERS, SEEDS, Clustering
from vcsf_cli.evaluate.evaluation import LEAVE_ONE_OUT
from vcsf_cli.evaluate.report import cluster_scores
from vcsf_cli.evaluate.retrieval import Retrieval
from vcsf_cli.narrate import say
from vcsf_cli.runs import results


def show_retrieval(retrieval: Retrieval, rows: pd.DataFrame) -> None:
    """Print the table on stdout, in per cent, and remarks on stderr."""
    parts, mark = retrieval.parts, retrieval.exposure.mark
    if rows.empty:
        labelled = retrieval.manifest.table["label"].notna().any()
        lacks = f"test part in split {retrieval.split}" if labelled else "labels"
        say(
            f"{retrieval.manifest.name} has no {lacks}: no R@k; every clip's nearest other clips are in "
            "neighbours.csv"
        )
        return
    for remark in retrieval.remarks():
        say(remark)
    say(f"{parts.description}; left out: {parts.left_out}")
    pivoted = results.pivot(rows)
    table = Table("variant", "pathway", title=f"R@k in per cent{f' ({mark})' if mark else ''}")
    for metric in pivoted.columns:
        table.add_column(str(metric), justify="right")
    for line in results.cells(pivoted):
        table.add_row(*line)
    Console(soft_wrap=True).print(table)
    for variant, pathway, metric, value, low, high in results.intervals(rows):
        click.echo(f"{metric} of {variant} {pathway}: {value}, 95 % interval {low} to {high}")


def show_clusters(clustering: Clustering, rows: pd.DataFrame) -> None:
    """Print how well clusters agree with classes, mean and spread over seeds in per cent."""
    if rows.empty:
        say(
            f"{len(clustering.clips):,} clips in {clustering.clusters:,} clusters: "
            f"{clustering.folder / CLUSTERS}"
        )
        return
    mark = clustering.exposure.mark
    title = (
        f"{clustering.clusters:,} clusters of {len(clustering.clips):,} clips: mean of {SEEDS} seeds "
        f"(lowest–highest), per cent{f' ({mark})' if mark else ''}"
    )
    header, *lines = cluster_scores(rows)
    table = Table(*header[:2], title=title)
    for name in header[2:]:
        table.add_column(name, justify="right")
    for line in lines:
        table.add_row(*line)
    Console(soft_wrap=True).print(table)


def show_answers(answers: pd.DataFrame) -> None:
    """Print answers on stdout, those of a query together."""
    table = Table("query", "query at", "rank", "video", "label", "similarity", "at")
    for column in (1, 2, 5, 6):
        table.columns[column].justify = "right"
    for number, answer in enumerate(answers.to_dict("records")):
        first = answer["rank"] == 1
        if first and number:
            table.add_section()
        table.add_row(
            answer["query"] if first else "",
            f"{answer['query_begin']:.1f}-{answer['query_end']:.1f} s",
            str(answer["rank"]),
            answer["video"],
            "" if pd.isna(answer["label"]) else answer["label"],
            f"{answer['similarity']:.3f}",
            f"{answer['begin']:.1f}-{answer['end']:.1f} s",
        )
    show_whole(table)


def show_whole(table: Table) -> None:
    """Print a table on stdout; outside a terminal no name is cut."""
    console = Console(markup=False, emoji=False)  # brackets and colons in names stay
    if not console.is_terminal:
        console.width = 10_000
    console.print(table)


def show_classification(tables: list[pd.DataFrame]) -> None:
    """Print the results on stdout, in per cent, and mean and spread of several measurements."""
    rows = pd.concat(tables, ignore_index=True)
    # Without markup and emoji, brackets and colons in names stay.
    console = Console(soft_wrap=True, markup=False, emoji=False)
    console.print(_results_table(rows))
    if len(tables) > 1:
        console.print(_spread_table(rows, len(tables)))


def _results_table(rows: pd.DataFrame) -> Table:
    """A line for each measurement and pathway; what is the same in all lines stands above them."""
    left_out = LEAVE_ONE_OUT in rows["task"][0]
    keys = ["seed", "pathway"] if left_out else ["split", "seed", "pathway"]
    shown = [key for key in keys if key == "pathway" or rows[key].nunique() > 1]
    same = [f"{key} {rows[key][0]}" for key in keys if key not in shown]
    title = [
        rows["dataset"][0],
        rows["task"][0],
        rows["variant"][0],
        *same,
        f"{rows['clips'][0]:,} {'' if left_out else 'test '}clips",
    ]
    seen = rows.groupby("split")["seen"].first().dropna()
    unlabelled = left_out and rows["variant"][0] != "trained_with_labels"
    how = ", without labels" if unlabelled else ""
    title += [f"{sum(seen):,} seen in training{how}"] if sum(seen) else []
    metrics = [name for name in ("top5", "class_mean") if name in set(rows["metric"])]
    table = Table(*shown, title=f"{', '.join(title)}: per cent")
    for name in ("top1", "95 % interval", *metrics):
        table.add_column(name, justify="right")
    for _, group in rows.groupby(keys, sort=False):
        value = dict(zip(group["metric"], 100 * group["value"], strict=True))
        interval = f"{value['top1_low']:.1f}–{value['top1_high']:.1f}"
        names = [str(group[key].iloc[0]) for key in shown]
        table.add_row(
            *names, f"{value['top1']:.1f}", interval, *[f"{value[name]:.1f}" for name in metrics]
        )
    return table


def _spread_table(rows: pd.DataFrame, count: int) -> Table:
    """Mean over splits and seeds, and in brackets the lowest and the highest."""
    found = results.spread(rows[~rows["metric"].str.startswith("top1_")])
    table = Table("pathway", title=f"mean of {count} measurements (lowest–highest): per cent")
    for name in found["metric"].unique():
        table.add_column(name, justify="right")
    for pathway, group in found.groupby("pathway", sort=False):
        cells = [
            f"{100 * mean:.1f} ({100 * low:.1f}–{100 * high:.1f})"
            for mean, low, high in zip(group["mean"], group["min"], group["max"], strict=True)
        ]
        table.add_row(str(pathway), *cells)
    return table
