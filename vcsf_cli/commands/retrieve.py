"""`vcsf retrieve`: nearest-neighbour retrieval of a trained run, measured on a dataset or used to
search with videos."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vcsf_cli.commands.common import open_run, resumable
from vcsf_cli.commands.options import (
    allow_seen_option,
    data_option,
    devices_option,
    from_option,
    runs_option,
    where,
    workers_option,
)
from vcsf_cli.errors import DataError, InputError
from vcsf_cli.narrate import say
from vcsf_cli.storage.files import atomic_write

# What loads torch or pandas is imported by the functions that need it: --help must be fast.
if TYPE_CHECKING:
    from vcsf_cli.data.manifest import Manifest
    from vcsf_cli.runs.run import Run
    from vcsf_cli.train.compute import Compute

_BENCHMARK_KS = [1, 5, 10, 20, 50]
_SEARCH_K = 5
_LARGEST_K = 10**9


class _Ks(click.ParamType[list[int]]):
    """A comma-separated list of the k of R@k."""

    name = "K,K,..."

    def convert(
        self,
        value: str | list[int],
        parameter: click.Parameter | None,
        context: click.Context | None,
    ) -> list[int]:
        if isinstance(value, list):
            return value
        try:
            ks = sorted({int(part) for part in value.split(",")})
        except ValueError:
            self.fail(
                f"`{value}` is not a list of whole numbers; write --k 1,5,10", parameter, context
            )
        if not 1 <= ks[0] <= ks[-1] <= _LARGEST_K:
            self.fail(f"k starts at 1 and ends at {_LARGEST_K:,}", parameter, context)
        return ks


def _search_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a search with videos of one's own."""
    options = [
        click.option(
            "--query",
            "queries",
            multiple=True,
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            help="Search with this video file; may be given often.",
        ),
        click.option(
            "--query-dir",
            type=click.Path(path_type=Path, exists=True, file_okay=False),
            help="Search with every video below this folder.",
        ),
        click.option(
            "--gallery", metavar="DATASET", help="What to search.  [default: the run's own dataset]"
        ),
        click.option(
            "--pathway",
            type=click.Choice(["slow", "fast", "both"]),
            help="Which features.  [default: both]",
        ),
        click.option(
            "--windows", "each_window", is_flag=True, help="Answers for each window of a query."
        ),
        click.option(
            "--index",
            type=click.Choice(["auto", "exact", "faiss"]),
            help="How to search.  [default: auto, which takes faiss from a million windows on]",
        ),
        click.option(
            "--csv",
            "table",
            type=click.Path(path_type=Path, dir_okay=False),
            help="Write the answers to this file too.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.command("retrieve")
@click.argument("dataset", required=False)
@from_option
@click.option(
    "--split",
    type=click.IntRange(1, 3),
    help="Official split.  [default: the one that the run was trained on]",
)
@click.option(
    "--k",
    "ks",
    type=_Ks(),
    help="The k of R@k; of a search, how many answers.  [default: 1,5,10,20,50; of a search: 5]",
)
@click.option(
    "--baselines", is_flag=True, help="Measure the untrained network and colour histograms too."
)
@click.option("--untrained", is_flag=True, help="Measure the recipe's untrained network too.")
@allow_seen_option
@click.option(
    "--html/--no-html", default=True, show_default=True, help="Whether to write report.html."
)
@_search_options
@data_option
@runs_option
@devices_option
@workers_option
def command(
    dataset: str | None,
    source: str | None,
    split: int | None,
    ks: list[int] | None,
    baselines: bool,
    untrained: bool,
    allow_seen: bool,
    html: bool,
    data: Path,
    runs: Path,
    devices: str,
    workers: int | None,
    **search_options: Any,
) -> None:
    """Let test clips search the training clips of DATASET (default: the run's own) and count hits
    of the right class.

    Writes results.csv, neighbours.csv, features.parquet, report.md and report.html into the run's
    folder `retrieve`. The last shows the tables, curves, a map of the embedding and every query
    with its neighbours as moving pictures.

    With --query or --query-dir, search the dataset --gallery with videos that need not be prepared:
    the nearest of its videos, and when. The gallery's features are kept in the run's folder
    `index`."""
    from vcsf_cli.data.manifest import Manifest
    from vcsf_cli.runs.run import WITH_LABELS

    benchmark_options = {
        "DATASET": dataset,
        "--split": split,
        "--baselines": baselines,
        "--untrained": untrained,
        "--allow-seen": allow_seen,
        "--no-html": not html,
    }
    search = bool(search_options["queries"] or search_options["query_dir"])
    _refuse_others(benchmark_options if search else search_options, search)
    run = open_run(runs, source)
    if run.uses_labels:
        say(f"warning: {WITH_LABELS}")
    for sentence in run.imported:
        say(sentence)
    manifest = Manifest.find(data, dataset or search_options["gallery"] or run.status["dataset"])

    from vcsf_cli.train.compute import Compute

    compute = Compute(devices, "float32", workers)
    if search:
        _search(run, manifest, compute, max(ks or [_SEARCH_K]), **search_options)
        say(_next_search(manifest, run, data, runs, **search_options))
        return

    from vcsf_cli.commands import tables
    from vcsf_cli.evaluate import report
    from vcsf_cli.evaluate.retrieval import Retrieval

    split = split or run.recipe.first_stage.data.split
    retrieval = Retrieval(run, manifest, split, ks or _BENCHMARK_KS)
    retrieval.check(allow_seen)
    for remark in retrieval.exposure.remarks:
        say(f"warning: {remark}")
    rows, differences = retrieval.measure(compute, untrained or baselines, baselines)
    markdown, page = (retrieval.folder / name for name in (report.MARKDOWN, report.HTML))
    for stale in (markdown, page):
        stale.unlink(missing_ok=True)
    if not rows.empty:
        report.write_markdown(retrieval, rows, differences)
    tables.show_retrieval(retrieval, rows)
    for difference in differences:
        click.echo(str(difference))
    if html:
        report.write_html(retrieval, rows, differences)
        say(f"to look at: {page}")
    if rows.empty:
        click.echo(retrieval.folder)
    else:
        say(f"report: {markdown}")


def _refuse_others(options: dict[str, Any], search: bool) -> None:
    """See that no option was given that has no meaning for a search, or without one.

    Raises:
        InputError: If one was.
    """
    renamed = {"each_window": "windows", "table": "csv"}
    for name, value in options.items():
        if value in (None, False, ()):
            continue
        if name == "DATASET":
            raise InputError(
                f"with --query, `{value}` has no meaning as DATASET", f"write --gallery {value}"
            )
        if search:
            raise InputError(
                f"{name} has no meaning with --query", "it is an option of the benchmark"
            )
        raise InputError(
            f"--{renamed.get(name, name)} needs --query or --query-dir",
            "they name the videos to search with",
        )


def _search(
    run: Run,
    manifest: Manifest,
    compute: Compute,
    k: int,
    queries: tuple[Path, ...],
    query_dir: Path | None,
    pathway: str | None,
    each_window: bool,
    index: str | None,
    table: Path | None,
    **_: Any,
) -> None:
    """Search the gallery with videos and show what is found.

    Raises:
        InputError: If a choice can't be had here.
        DataError: If a query can't be read; the others are answered first.
    """
    from vcsf_cli.commands import tables
    from vcsf_cli.search.approximate import load_faiss
    from vcsf_cli.search.search import Search

    if index == "faiss":
        load_faiss()
    if table is not None and not table.parent.is_dir():
        raise InputError(f"--csv {table}: there is no folder {table.parent}", "make it first")
    paths = [*queries, *(_find_videos(query_dir) if query_dir else [])]
    search = Search(run, manifest, compute)
    with resumable():
        read = search.read(paths)
        answers = search.answers(read, pathway or "both", k, each_window, index or "auto")
    tables.show_answers(answers)
    if table is not None:
        # A file is replaced; /dev/stdout must not be.
        plain = table.is_file() or not table.exists()
        with atomic_write(table, "w") if plain else table.open("w", encoding="utf-8") as file:
            answers.to_csv(file, index=False, lineterminator="\n")
        say(f"written: {table}")
    if len(read) < len(paths):
        raise DataError(
            f"{len(paths) - len(read)} of {len(paths)} queries could not be read",
            "why is said above; see which they are",
        )


def _find_videos(folder: Path) -> list[Path]:
    """The video files below a folder, sorted by name.

    Raises:
        DataError: If there are none.
    """
    from vcsf_cli.video import left_out, videos_below  # which load OpenCV

    found = sorted(videos_below(folder), key=lambda path: path.as_posix())
    if not found:
        raise DataError(
            f"--query-dir {folder}: no video was found", "look whether it is the right folder"
        )
    for remark in left_out(folder):
        say(remark)
    return found


def _next_search(
    manifest: Manifest,
    run: Run,
    data: Path,
    runs: Path,
    queries: tuple[Path, ...],
    query_dir: Path | None,
    each_window: bool,
    table: Path | None,
    **_: Any,
) -> str:
    """The command after a search: answers of every window, then all of them as a file, then the
    benchmark."""
    asked = [f"--query {shlex.quote(str(query))}" for query in queries]
    asked += [f"--query-dir {shlex.quote(str(query_dir))}"] if query_dir else []
    on = f"--from {run.name}{where('data', data)}{where('runs', runs)}"
    name = shlex.quote(manifest.name)
    if each_window and table is not None:
        return f"next: vcsf retrieve {name} {on}"
    more = "--windows --csv answers.csv" if each_window else "--windows"
    return f"next: vcsf retrieve {' '.join(asked)} --gallery {name} {on} {more}"
