"""`vcsf ablate` at work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vcsf_cli.ablate import render, report
from vcsf_cli.ablate.check import check
from vcsf_cli.ablate.estimate import Costs, describe_plan
from vcsf_cli.ablate.flags import draft_from_flags, override
from vcsf_cli.ablate.numbers import TableResults, gather_results
from vcsf_cli.ablate.plan import Plan, build_plan
from vcsf_cli.ablate.rows import resolve_table, with_hashed_name
from vcsf_cli.ablate.run import LOGS, RunOptions, TableRunner, parse_devices
from vcsf_cli.commands.common import open_ray, resumable
from vcsf_cli.commands.work.tables import show_whole
from vcsf_cli.config import table as tables
from vcsf_cli.config.catalogue import RECIPES, TABLES
from vcsf_cli.config.table import Draft
from vcsf_cli.data.decoded import DecodedFrames
from vcsf_cli.engine.local import Local
from vcsf_cli.engine.on_ray import Ray
from vcsf_cli.errors import InputError, RunError
from vcsf_cli.narrate import say
from vcsf_cli.storage.files import lock
from vcsf_cli.storage.mirror import address_of

_DEFAULT_BASE = "recipes/vcsf.yaml"


def make_table(
    table: str | None,
    base: str | None,
    seeds: list[str] | None,
    splits: list[str] | None,
    measure: list[str] | None,
    assignments: tuple[str, ...],
    allow_seen: bool,
    data: Path | str,
    runs: Path,
    devices: list[str],
    engine: str,
    address: str | None,
    gpus_per_run: int | None,
    precision: str,
    workers: int | None,
    save_every: float,
    assume: str | None,
    with_published: bool,
    table_only: bool,
    dry_run: bool,
    **row_flags: Any,
) -> None:
    """Make a table of a file or of flags, or print its plan.

    Raises:
        InputError: If the options contradict each other, or there is nothing to compare.
        RunError: If a run failed, or nothing is measured that `--table-only` could show.
    """
    draft = _read_draft(table, base, assignments, row_flags)
    override(draft, base if table else None, seeds, splits, measure)
    content = resolve_table(draft, assignments)
    if table is None and len(content.rows) == 1:
        raise InputError(
            f"the table has only one row: {content.rows[0].name}",
            "give values that the recipe doesn't have already",
        )
    listed = any(isinstance(value, list) for value in row_flags.values())
    if base or seeds or splits or measure or assignments or listed:
        content = with_hashed_name(content)

    if engine == "ray" and address_of(runs):
        raise InputError(
            f"--runs {address_of(runs)}: rows on several machines need a folder that all of them "
            "share",
            "give such a folder, or leave out --engine ray",
        )
    plan = build_plan(content, data, runs)
    if table_only:
        results = gather_results(plan)
        if not results.specs:
            damaged = [f"  - {name} ({why})" for name, why in results.missing.items() if why]
            message = f"no run of table {content.name} is measured in {runs}"
            raise RunError("\n".join([message, *damaged]), "leave out --table-only")
        _show(results, with_published)
        return
    cluster = open_ray(engine, address)
    options = RunOptions(
        _devices(devices, cluster, gpus_per_run),
        precision,
        workers,
        save_every,
        allow_seen,
        spread=cluster is not None,
    )
    if options.here and not (dry_run and assume):  # a calculated time needs no device
        for device in options.devices:
            options.compute(device).bf16()  # it is there, and has the precision
    costs = Costs(plan)
    check(plan, costs, prepared=not dry_run, allow_seen=allow_seen)
    for line in describe_plan(costs, assume, options):
        (click.echo if dry_run else say)(line)
    if not dry_run:
        runner = TableRunner(plan, options, cluster or Local(), gpus_per_run or 0)
        _run(plan, runner, with_published)


def _devices(devices: list[str], cluster: Ray | None, gpus_per_run: int | None) -> tuple[str, ...]:
    """A device for each run that is worked on side by side.

    Raises:
        InputError: If options contradict each other, or a cluster has no such devices.
    """
    if cluster is None:
        if gpus_per_run is not None:
            raise InputError(
                "--gpus-per-run is of a Ray cluster", "add --engine ray, or give --devices 0,1"
            )
        return parse_devices(devices)
    if devices != ["auto"]:
        raise InputError(
            "--devices and --engine ray exclude each other", "--gpus-per-run says what a run gets"
        )
    gpus = gpus_per_run or 0
    device = {0: "cpu", 1: "cuda"}.get(gpus, str(gpus))
    return (device,) * cluster.side_by_side(gpus)


def _read_draft(
    table: str | None, base: str | None, assignments: tuple[str, ...], row_flags: dict[str, Any]
) -> Draft:
    """The table of a file, or of flags.

    Raises:
        InputError: If both are given, or neither.
    """
    given = [name for name, value in row_flags.items() if value]
    if table and given:
        raise InputError(
            f"TABLE {table} and --{given[0].replace('_', '-')} are two tables",
            "give one of them, the other in a second call",
        )
    if table:
        return tables.read(table)
    if not given:
        raise InputError(
            "nothing to compare: name a TABLE, or say what to leave out",
            f"vcsf ablate --no-motion-module; tables are {', '.join(TABLES.files())}",
        )
    recipe = str(RECIPES.find(base or _DEFAULT_BASE))
    return draft_from_flags(recipe, assignments, **row_flags)


def _run(plan: Plan, runner: TableRunner, with_published: bool) -> None:
    """Do what is left, and make the table.

    Raises:
        InputError: If decoded frames can't be kept where `--cache` says.
        RunError: If another process makes the table, or a run failed.
    """
    if isinstance(runner.engine, Local):  # as long as this process lives, its runs share them
        for manifest in filter(None, plan.manifests.values()):
            DecodedFrames.of(manifest)
    plan.folder.mkdir(parents=True, exist_ok=True)
    busy = RunError(f"table {plan.table.name} is being made by another process", "wait for it")
    with lock(plan.folder / "lock", busy):
        with resumable():
            failures = runner.run()
        results = gather_results(plan)
        if results.specs:
            _show(results, with_published)
    if failures:
        lines = "\n".join(f"  - {name}: {why}" for name, why in failures.items())
        raise RunError(
            f"{len(failures)} of {len(plan.specs)} runs failed\n{lines}",
            f"see {plan.folder / LOGS}; the same command tries them again",
        )


def _show(results: TableResults, with_published: bool) -> None:
    table, folder = render.render_table(results, with_published), results.plan.folder
    render.write(folder, results, table)
    show_whole(render.terminal_table(table))
    for note in table.notes:
        say(note)
    say(f"table: {folder / 'table.md'} (.csv, .tex)")
    say(f"to look at: {report.write(results, table)}")
