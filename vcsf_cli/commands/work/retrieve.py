"""`vcsf retrieve` at work: the benchmark, and search with videos of one's own."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from vcsf_cli.commands.common import open_ray, resumable
from vcsf_cli.commands.options import where
from vcsf_cli.commands.work import tables
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.encoders.find import chosen_pathways, describe, find_source
from vcsf_cli.encoders.source import EncoderSource
from vcsf_cli.engine.engine import Engine
from vcsf_cli.errors import DataError, InputError
from vcsf_cli.evaluate import report
from vcsf_cli.evaluate.clusters import Clustering
from vcsf_cli.evaluate.retrieval import Retrieval
from vcsf_cli.narrate import say
from vcsf_cli.search.approximate import load_faiss
from vcsf_cli.search.search import Search
from vcsf_cli.storage.files import atomic_write
from vcsf_cli.train.compute import Compute
from vcsf_cli.video import left_out, videos_below

_BENCHMARK_KS = [1, 5, 10, 20, 50]
_SEARCH_K = 5


def measure(
    named: str | None,
    recipe: str | None,
    settings: tuple[str, ...],
    dataset: str | None,
    split: int | None,
    leave_one_out: bool,
    clusters: bool,
    cluster_count: int | None,
    ks: list[int] | None,
    baselines: bool,
    untrained: bool,
    allow_seen: bool,
    html: bool,
    data: Path | str,
    runs: Path,
    devices: str,
    workers: int | None,
    engine: str,
    address: str | None,
    **_: Any,
) -> None:
    """Measure R@k, write the reports and print the table."""
    source = find_source(runs, named, recipe, settings)
    manifest = _open_dataset(source, data, dataset)
    if untrained and source.recipe is None:
        raise InputError(
            f"{source.name} is not made by a recipe: there is no untrained network to compare with",
            "leave out --untrained; --baselines measures colour histograms",
        )
    split = split or source.split
    retrieval = Retrieval(source, manifest, split, ks or _BENCHMARK_KS, leave_one_out=leave_one_out)
    retrieval.check(allow_seen)
    clustering = Clustering(source, manifest, split, cluster_count, leave_one_out=leave_one_out)
    if clusters:
        clustering.check()
    for remark in [*retrieval.exposure.remarks, *retrieval.duplicate_remarks]:
        say(f"warning: {remark}")
    compute = _one_device(devices, workers, open_ray(engine, address))
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
    if clusters:
        variants = [retrieval.variant] if rows.empty else rows["variant"].unique()
        found = clustering.measure(retrieval.folders(variants))
        tables.show_clusters(clustering, found)
        if html:
            report.write_clusters(clustering, found)
            say(f"clusters to look at: {clustering.folder / report.HTML}")


def search(
    named: str | None,
    recipe: str | None,
    settings: tuple[str, ...],
    ks: list[int] | None,
    queries: tuple[Path, ...],
    query_dir: Path | None,
    gallery: str | None,
    pathway: str | None,
    each_window: bool,
    index: str | None,
    condition: str | None,
    table: Path | None,
    data: Path | str,
    runs: Path,
    devices: str,
    workers: int | None,
    engine: str,
    address: str | None,
    **_: Any,
) -> None:
    """Search the gallery with videos and show what is found.

    Raises:
        InputError: If a choice can't be had here.
        DataError: If a query can't be read; the others are answered first.
    """
    source = find_source(runs, named, recipe, settings)
    manifest = _open_dataset(source, data, gallery)
    if index == "faiss" and condition:
        raise InputError(
            "--index faiss has no meaning with --where", "what --where leaves is searched exactly"
        )
    if index == "faiss":
        load_faiss()
    if table is not None and not table.parent.is_dir():
        raise InputError(f"--csv {table}: there is no folder {table.parent}", "make it first")
    paths = list(queries)
    if query_dir:
        paths += sorted(videos_below(query_dir), key=lambda path: path.as_posix())
        if len(paths) == len(queries):
            raise DataError(
                "; ".join(
                    [f"--query-dir {query_dir}: no video was found", *left_out(query_dir)[:1]]
                ),
                "look whether it is the right folder",
            )
        for remark in left_out(query_dir):
            say(remark)
    chosen = chosen_pathways(source, pathway or "both")
    compute = _one_device(devices, workers, open_ray(engine, address))
    searching = Search(source, manifest, compute, condition)
    with resumable():
        read = searching.read(paths)
        answers = searching.answers(
            read,
            "both" if len(chosen) > 1 else chosen[0],
            max(ks or [_SEARCH_K]),
            each_window,
            index or "auto",
        )
    tables.show_answers(answers, query_dir)
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

    # Next: answers of every window, then all of them as a file, then the benchmark.
    on = f"{shlex.join(source.words)}{where('data', data)}{where('runs', runs)}"
    name = shlex.quote(manifest.name)
    if each_window and table is not None:
        say(f"next: vcsf retrieve {name} {on}")
        return
    asked = [f"--query {shlex.quote(str(query))}" for query in queries]
    asked += [f"--query-dir {shlex.quote(str(query_dir))}"] if query_dir else []
    more = "--windows --csv answers.csv" if each_window else "--windows"
    say(f"next: vcsf retrieve {' '.join(asked)} --gallery {name} {on} {more}")


def _open_dataset(source: EncoderSource, data: Path | str, name: str | None) -> Manifest:
    """The dataset with this name, or the encoder's own; what must be said of the encoder is said
    first.

    Raises:
        InputError: If it isn't prepared.
    """
    describe(source)
    return Manifest.find(data, name or source.dataset)


def _one_device(devices: str, workers: int | None, engine: Engine | None) -> Compute:
    compute = Compute(devices, "float32", workers, engine=engine)
    if compute.processes > 1:
        say(f"measuring works on one device, not on {compute.processes}")
    return compute
