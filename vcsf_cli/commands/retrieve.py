"""`vcsf retrieve`: nearest-neighbour retrieval of a trained run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vcsf_cli.errors import InputError
from vcsf_cli.narrate import say
from vcsf_cli.options import complete_run, data_option, devices_option, runs_option

if TYPE_CHECKING:
    import pandas as pd

    from vcsf_cli.measure.benchmark import Benchmark, Measured


class Ks(click.ParamType[list[int]]):
    """A comma-separated list of the k of R@k."""

    name = "K,K,..."

    def convert(
        self, value: str | list[int], parameter: click.Parameter | None, context: click.Context | None
    ) -> list[int]:
        if isinstance(value, list):
            return value
        try:
            ks = sorted({int(part) for part in value.split(",")})
        except ValueError:
            self.fail(f"`{value}` is no list of whole numbers; write --k 1,5,10", parameter, context)
        if ks[0] < 1:
            self.fail("k starts at 1", parameter, context)
        return ks


@click.command("retrieve")
@click.argument("dataset", required=False)
@click.option(
    "--from",
    "source",
    metavar="RUN",
    shell_complete=complete_run,
    help="A run folder or name.  [default: the newest finished run]",
)
@click.option(
    "--split", type=click.IntRange(1, 3), help="Official split.  [default: the one that the run was trained on]"
)
@click.option("--k", "ks", type=Ks(), default="1,5,10,20,50", show_default=True, help="The k of R@k.")
@click.option("--baselines", is_flag=True, help="Measure the untrained network and colour histograms too.")
@click.option("--untrained", is_flag=True, help="Measure the recipe's untrained network too.")
@data_option
@runs_option
@devices_option
@click.option(
    "--workers",
    type=click.IntRange(0),
    help="Processes that read videos.  [default: one less than the cores, at most 8]",
)
def command(
    dataset: str | None,
    source: str | None,
    split: int | None,
    ks: list[int],
    baselines: bool,
    untrained: bool,
    data: Path,
    runs: Path,
    devices: str,
    workers: int | None,
) -> None:
    """Let test clips search the training clips of DATASET (default: the run's own) and count hits of the right class.

    Writes results.csv, neighbours.csv, features.parquet and report.md into the run's folder `retrieve`.
    """
    from vcsf_cli.data.manifest import Manifest
    from vcsf_cli.runs import WITH_LABELS, find_run

    run = find_run(runs, source)
    if source is None:
        say(f"using the newest finished run: {run.name}")
    if not run.finished:
        say(f"run {run.name} is not finished: measuring its newest checkpoint")
    if run.uses_labels:
        say(f"warning: {WITH_LABELS}")
    manifest = Manifest.open(data / (dataset or run.status["dataset"]))

    from vcsf_cli.measure.benchmark import Benchmark
    from vcsf_cli.train.pretrain import Machine

    machine = Machine(devices, "float32", workers)
    stage = run.recipe.model
    split = split or stage.data.split
    if not (manifest.table[f"split{split}"] != "").any() and (manifest.table["split1"] != "").any():
        raise InputError(
            f"{manifest.name} has no split {split}", "leave out --split, or prepare the dataset with its lists"
        )
    if manifest.name == run.status["dataset"] and split != stage.data.split and (manifest.table["split1"] != "").any():
        say(
            f"warning: the run was trained on split {stage.data.split}: test clips of split {split} were among its "
            "training clips"
        )
    benchmark = Benchmark(run, manifest, split, ks, machine)
    trained = benchmark.measure(benchmark.trained())
    others = [benchmark.measure(benchmark.untrained())] if untrained or baselines else []
    if baselines:
        others.append(benchmark.measure(benchmark.colour_histogram()))
    conclude(benchmark, trained, others)


def conclude(benchmark: Benchmark, trained: Measured, others: list[Measured]) -> None:
    """Write and show what was measured."""
    from vcsf_cli import results

    folder = benchmark.folder
    if benchmark.parts.leave_one_out:
        for stale in ("results.csv", "report.md"):  # of a time when there were labels and a test part
            (folder / stale).unlink(missing_ok=True)
        say(
            f"{benchmark.manifest.name} has no labels or no test part in split {benchmark.split}: no R@k; every clip's "
            "nearest other clips are in neighbours.csv"
        )
        click.echo(folder)
        return
    rows = results.write(folder / "results.csv", [row for m in (trained, *others) for row in benchmark.rows_of(m)])
    measured = rows[rows["variant"].isin([m.variant for m in (trained, *others)])]
    comparisons = benchmark.comparisons(trained, others)
    report = benchmark.report(measured, comparisons)
    parts = benchmark.parts
    for remark in benchmark.remarks():
        say(remark)
    say(f"{len(parts.query):,} test clips query {len(parts.gallery):,} training clips; left out: {parts.left_out}")
    show(measured)
    for line in comparisons:
        click.echo(line)
    say(f"report: {report}")


def show(rows: pd.DataFrame) -> None:
    """Print the table on stdout, in per cent."""
    from rich.console import Console
    from rich.table import Table

    from vcsf_cli import results

    pivoted = results.pivot(rows)
    table = Table("variant", "pathway", title="R@k in per cent")
    for metric in pivoted.columns:
        table.add_column(str(metric), justify="right")
    for line in results.cells(pivoted):
        table.add_row(*line)
    Console(soft_wrap=True).print(table)
