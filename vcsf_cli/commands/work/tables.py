"""Tables that commands print on stdout."""

from __future__ import annotations

from pathlib import Path

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

_ANSWER_COLUMNS = ("query", "query at", "rank", "video", "label", "similarity", "at")
_ROOM_FOR_NUMBERS = 75
"""Columns of a terminal where numbers stay whole and leave names some room."""


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


def show_answers(answers: pd.DataFrame, query_dir: Path | None = None) -> None:
    """Print answers on stdout, those of a query together. A terminal has little room: there what
    all rows share does not get a column, and long names take several lines.

    Args:
        query_dir: On a terminal, queries below it are named from there.
    """
    console = _whole_console()
    hidden, title = set(), None
    if console.is_terminal:
        queries = answers["query"].unique()
        shown = {query: _name_from(query, query_dir) for query in queries}
        answers = answers.assign(query=answers["query"].map(shown))
        if len(queries) == 1:
            hidden.add("query")
            title = f"query: {shown[queries[0]]}"
        if answers["label"].isna().all():
            hidden.add("label")
    table = Table(title=title, title_justify="left")
    columns = [column for column in _ANSWER_COLUMNS if column not in hidden]
    for column in columns:
        is_name = column in ("query", "video", "label")
        table.add_column(
            column,
            justify="left" if is_name else "right",
            no_wrap=not is_name and console.width >= _ROOM_FOR_NUMBERS,
            overflow="fold",
        )
    for number, answer in enumerate(answers.to_dict("records")):
        first = answer["rank"] == 1
        if first and number:
            table.add_section()
        cells = {
            "query": answer["query"] if first else "",
            "query at": f"{answer['query_begin']:.1f}-{answer['query_end']:.1f} s",
            "rank": str(answer["rank"]),
            "video": answer["video"],
            "label": "" if pd.isna(answer["label"]) else answer["label"],
            "similarity": f"{answer['similarity']:.3f}",
            "at": f"{answer['begin']:.1f}-{answer['end']:.1f} s",
        }
        table.add_row(*[cells[column] for column in columns])
    console.print(table)


def _name_from(path: str, folder: Path | None) -> str:
    """A file's path from a folder that it is in, else as it is."""
    if folder is None or not Path(path).is_relative_to(folder):
        return path
    return Path(path).relative_to(folder).as_posix()


def show_whole(table: Table) -> None:
    """Print a table on stdout; outside a terminal no name is cut."""
    _whole_console().print(table)


def _whole_console() -> Console:
    """Stdout; outside a terminal it has room for any name."""
    console = Console(markup=False, emoji=False)  # brackets and colons in names stay
    if not console.is_terminal:
        console.width = 10_000
    return console


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
