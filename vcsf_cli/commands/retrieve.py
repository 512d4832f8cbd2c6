"""`vcsf retrieve`: nearest-neighbour retrieval of a trained run, measured on a dataset or used to
search with videos."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from vcsf_cli.commands.options import (
    allow_seen_option,
    cache_option,
    data_option,
    devices_option,
    encoder_options,
    engine_options,
    leave_one_out_option,
    refuse_split,
    refuse_unknown_run,
    runs_option,
    workers_option,
)
from vcsf_cli.errors import InputError

_LARGEST_K = 10**9

_BENCHMARK_OPTIONS = {
    "dataset": "DATASET",
    "split": "--split",
    "leave_one_out": "--leave-one-out",
    "clusters": "--clusters",
    "cluster_count": "--cluster-count",
    "baselines": "--baselines",
    "untrained": "--untrained",
    "allow_seen": "--allow-seen",
    "html": "--no-html",
}
_SEARCH_OPTIONS = {
    "gallery": "--gallery",
    "pathway": "--pathway",
    "each_window": "--windows",
    "index": "--index",
    "condition": "--where",
    "table": "--csv",
}


def _parse_ks(text: str) -> list[int]:
    """A comma-separated list of the k of R@k."""
    try:
        ks = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise click.BadParameter(
            f"`{text}` is not a list of whole numbers; write --k 1,5,10"
        ) from None
    if not 1 <= ks[0] <= ks[-1] <= _LARGEST_K:
        raise click.BadParameter(f"k starts at 1 and ends at {_LARGEST_K:,}")
    return ks


class _VideoFile(click.Path):
    """A file of a video; for a folder there is another option."""

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> Any:
        if Path(value).is_dir():
            raise InputError(
                f"--query {value} is a folder", f"write --query-dir {shlex.quote(str(value))}"
            )
        return super().convert(value, parameter, context)


@click.command("retrieve")
@click.argument("dataset", required=False)
@encoder_options
@click.option(
    "--split",
    type=click.IntRange(1, 3),
    help="Official split.  [default: the one that the run was trained on]",
)
@leave_one_out_option
@click.option(
    "--k",
    "ks",
    type=_parse_ks,
    metavar="K,K,...",
    help="The k of R@k; of a search, how many answers.  [default: 1,5,10,20,50; of a search: 5]",
)
@click.option(
    "--baselines",
    is_flag=True,
    help="Measure the untrained network, where a recipe makes it, and colour histograms too.",
)
@click.option("--untrained", is_flag=True, help="Measure the recipe's untrained network too.")
@click.option(
    "--clusters",
    is_flag=True,
    help="Cluster the clips by k-means too: V-measure and NMI of as many clusters as classes, and "
    "the clusters as a page to look through.",
)
@click.option(
    "--cluster-count",
    type=click.IntRange(2, 10_000),
    help="With --clusters, how many there are of clips without labels.  [default: the square root of "
    "half the clips, at most 50]",
)
@allow_seen_option
@click.option(
    "--html/--no-html", default=True, show_default=True, help="Whether to write report.html."
)
@click.option(
    "--query",
    "queries",
    multiple=True,
    type=_VideoFile(path_type=Path, exists=True, dir_okay=False),
    help="Search with this video file; may be given often.",
)
@click.option(
    "--query-dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Search with every video below this folder.",
)
@click.option(
    "--gallery", metavar="DATASET", help="What to search.  [default: the run's own dataset]"
)
@click.option(
    "--pathway",
    type=click.Choice(["slow", "fast", "both"]),
    help="Which features.  [default: both]",
)
@click.option("--windows", "each_window", is_flag=True, help="Answers for each window of a query.")
@click.option(
    "--index",
    type=click.Choice(["auto", "exact", "faiss"]),
    help="How to search.  [default: auto, which takes faiss from a million windows on]",
)
@click.option(
    "--where",
    "condition",
    metavar="SQL",
    help="Search only clips that this holds for, such as \"label = 'Run' and seconds > 5\".",
)
@click.option(
    "--csv",
    "table",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the answers to this file too.",
)
@data_option
@cache_option
@runs_option
@devices_option
@workers_option
@engine_options
def command(**options: Any) -> None:
    """Let test clips search the training clips of DATASET (default: the run's own) and count hits
    of the right class.

    Writes results.csv, neighbours.csv, features.parquet, report.md and report.html into the run's
    folder `retrieve`; an encoder without a run gets a folder in --runs. The last shows the tables,
    curves, a map of the embedding and every query with its neighbours as moving pictures.

    With --leave-one-out all clips with a label are queries, which small datasets need; intervals
    are over groups. Clips that the run was trained on without labels count too, and the results say
    so.

    With --query or --query-dir, search the dataset --gallery with videos that need not be prepared:
    the nearest of its videos, and when. The gallery's features are kept in the run's folder
    `index`."""
    search = bool(options["queries"] or options["query_dir"])
    _refuse_others(search, options)
    if options["cluster_count"] and not options["clusters"]:
        raise InputError("--cluster-count has no meaning without --clusters", "add --clusters")
    refuse_split(options["leave_one_out"], options["split"])

    refuse_unknown_run(options)
    from vcsf_cli.commands.work import retrieve  # torch takes seconds to load

    (retrieve.search if search else retrieve.measure)(**options)


def _refuse_others(search: bool, options: dict[str, Any]) -> None:
    """Refuse options of the benchmark in a search, and those of a search in the benchmark.

    Raises:
        InputError: If one was given.
    """
    given = options | {"html": not options["html"]}
    for name, flag in (_BENCHMARK_OPTIONS if search else _SEARCH_OPTIONS).items():
        if not given[name]:
            continue
        if name == "dataset":
            raise InputError(
                f"with --query, `{given[name]}` has no meaning as DATASET",
                f"write --gallery {given[name]}",
            )
        if search:
            raise InputError(
                f"{flag} has no meaning with --query", "it is an option of the benchmark"
            )
        raise InputError(
            f"{flag} needs --query or --query-dir", "they name the videos to search with"
        )
