"""`vcsf ablate`: train and measure the rows of a table, and make the table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from vcsf_cli.commands.common import resumable
from vcsf_cli.commands.options import (
    MOST_WORKERS,
    allow_seen_option,
    complete_recipe,
    data_option,
    device_problem,
    precision_option,
    runs_option,
    save_every_option,
    set_option,
)
from vcsf_cli.config import table as tables
from vcsf_cli.config.catalogue import RECIPES, TABLES
from vcsf_cli.config.table import Draft
from vcsf_cli.errors import InputError, RunError, did_you_mean
from vcsf_cli.narrate import say
from vcsf_cli.storage.files import lock

# What loads torch or pandas is imported by the functions that need it: --help must be fast.
if TYPE_CHECKING:
    from vcsf_cli.ablate.numbers import TableResults
    from vcsf_cli.ablate.plan import Plan
    from vcsf_cli.ablate.run import RunOptions

_DEFAULT_BASE = "recipes/vcsf.yaml"
_WIDE = 10_000
_MOST_DIGITS = 15
_TASKS = ("retrieve", "linear", "knn", "finetune")


class _CommaList(click.ParamType[list[str]]):
    """A comma-separated list.

    Args:
        name: How the help shows it.
        problem: Says what is wrong with an entry, or nothing.
    """

    def __init__(self, name: str = "A,B,...", problem: Callable[[str], str] = lambda _: "") -> None:
        self.name, self.problem = name, problem

    def convert(
        self,
        value: str | list[str],
        parameter: click.Parameter | None,
        context: click.Context | None,
    ) -> list[str]:
        if isinstance(value, list):
            return value
        words = [word.strip() for word in value.split(",")]
        if not all(words):
            self.fail(f"`{value}` has an empty entry", parameter, context)
        for problem in filter(None, map(self.problem, words)):
            self.fail(problem, parameter, context)
        return words


def _number_problem(word: str) -> str:
    if word.isascii() and word.isdecimal() and len(word) <= _MOST_DIGITS:
        return ""
    return f"`{word}` is not a whole number; write 1,2,3"


def _task_problem(word: str) -> str:
    task = word.split(":")[0]
    return "" if task in _TASKS else f"`{task}` can't be measured; {did_you_mean(task, _TASKS)}"


_NAMES = _CommaList()
_NUMBERS = _CommaList("N,N,...", _number_problem)
_MEASURES = _CommaList("TASK[:DATASET[:PROTOCOL]],...", _task_problem)


class _Assumed(click.ParamType[str]):
    """A card, or training clips per second."""

    name = "h200|h100|CLIPS/S"

    def convert(
        self, value: str, parameter: click.Parameter | None, context: click.Context | None
    ) -> str:
        number = value.lower().removesuffix("/s")
        try:
            if number in ("h200", "h100") or 1e-6 <= float(number) <= 1e9:
                return number
        except ValueError:
            pass
        self.fail(
            f"`{value}` is neither a known card (h200, h100) nor clips a second", parameter, context
        )


def _complete_table(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of tables, then files as the shell completes them."""
    names = [CompletionItem(name) for name in TABLES.files() if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]


def _row_options(function: Any) -> Any:
    """The options that make rows; their names are the keywords of `flags.draft_from_flags`."""
    options = [
        click.option("--no-motion-module", is_flag=True, help="A row without the motion module."),
        click.option(
            "--no-cross-pathway",
            is_flag=True,
            help="A row with InfoNCE alone, for as many epochs.",
        ),
        click.option(
            "--no-stage-a",
            is_flag=True,
            help="A row without the stages before cross-pathway training.",
        ),
        click.option("--slow-only", is_flag=True, help="A row where only the slow pathway learns."),
        click.option("--fast-only", is_flag=True, help="A row where only the fast pathway learns."),
        click.option(
            "--alpha", type=_NUMBERS, help="A row each: the slow pathway reads every N-th frame."
        ),
        click.option(
            "--neighbours",
            type=_NUMBERS,
            help="A row each: the number of positives that a pathway names.",
        ),
        click.option("--positives", type=_NAMES, help="A row each: other, intersection, union."),
        click.option("--contrast", type=_NAMES, help="A row each: within, across."),
        click.option("--backbone", type=_NAMES, help="A row each; `vcsf plugins` lists them."),
        click.option(
            "--motion", type=_NAMES, help="A row for each motion module; `vcsf plugins` lists them."
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.command("ablate")
@click.argument("table", required=False, shell_complete=_complete_table)
@click.option(
    "--base",
    shell_complete=complete_recipe,
    help=f"The recipe that flags change, or that replaces TABLE's.  [default: {_DEFAULT_BASE}]",
)
@_row_options
@click.option("--seeds", type=_NUMBERS, help="Train with each seed.  [default: the table's]")
@click.option(
    "--splits", type=_NUMBERS, help="Train and test on each split.  [default: the table's]"
)
@click.option(
    "--measure",
    type=_MEASURES,
    help="What to measure.  [default: the table's; with flags: retrieve]",
)
@set_option
@allow_seen_option
@data_option
@runs_option
@click.option(
    "--devices",
    type=_CommaList("auto|cpu|cuda:N|N,...", device_problem),
    default="auto",
    show_default=True,
    help="Devices, each of which works on one row at a time; numbers are GPUs: 0,1 are the first "
    "two.",
)
@precision_option
@click.option(
    "--workers",
    type=click.IntRange(0, MOST_WORKERS),
    help="Processes that read clips, for each running row.",
)
@save_every_option
@click.option(
    "--assume",
    type=_Assumed(),
    help="Calculate the time from the speed of a card, or from training clips per second, instead "
    "of measuring it.",
)
@click.option(
    "--with-published",
    is_flag=True,
    help="Show published rows beside a subset or a short schedule too.",
)
@click.option("--table-only", is_flag=True, help="Make the table of what is measured already.")
@click.option("--dry-run", is_flag=True, help="Check everything and print the plan; train nothing.")
def command(
    table: str | None,
    base: str | None,
    seeds: list[str] | None,
    splits: list[str] | None,
    measure: list[str] | None,
    assignments: tuple[str, ...],
    allow_seen: bool,
    data: Path,
    runs: Path,
    devices: list[str],
    precision: str,
    workers: int | None,
    save_every: float,
    assume: str | None,
    with_published: bool,
    table_only: bool,
    dry_run: bool,
    **row_flags: Any,
) -> None:
    """Train and measure the rows of TABLE (a file, or a name in recipes/tables/), or the rows that flags ask for: the
    recipe as it is, and with one thing changed in each other row.

    \b
      vcsf ablate --no-motion-module
      vcsf ablate --base demo --alpha 2,4,8 --seeds 0,1,2
      vcsf ablate retrieval_ucf101 --dry-run --assume h200

    Rows are ordinary runs: trained ones are found, first stages that rows share are trained once, the same command
    continues where an earlier one stopped, and a row that fails doesn't stop the others. The table is written to
    tables/ in --runs as CSV, Markdown and LaTeX, with a report.html of curves, classes, confusion, a map and a
    gallery.
    """
    from vcsf_cli.ablate.check import check
    from vcsf_cli.ablate.estimate import Costs, describe_plan
    from vcsf_cli.ablate.flags import override
    from vcsf_cli.ablate.numbers import gather_results
    from vcsf_cli.ablate.plan import build_plan
    from vcsf_cli.ablate.rows import resolve_table, with_hashed_name
    from vcsf_cli.ablate.run import RunOptions, parse_devices

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

    options = RunOptions(parse_devices(devices), precision, workers, save_every, allow_seen)
    plan = build_plan(content, data, runs)
    if table_only:
        results = gather_results(plan)
        if not results.specs:
            damaged = [f"  - {name} ({why})" for name, why in results.missing.items() if why]
            message = f"no run of table {content.name} is measured in {runs}"
            raise RunError("\n".join([message, *damaged]), "leave out --table-only")
        _show(results, with_published)
        return
    if not (dry_run and assume):  # a calculated time needs no device
        options.check_devices()
    costs = Costs(plan)
    check(plan, costs, prepared=not dry_run, allow_seen=allow_seen)
    for line in describe_plan(costs, assume, options):
        (click.echo if dry_run else say)(line)
    if not dry_run:
        _run(plan, options, with_published)


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
    from vcsf_cli.ablate.flags import draft_from_flags

    recipe = str(RECIPES.find(base or _DEFAULT_BASE))
    return draft_from_flags(recipe, assignments, **row_flags)


def _run(plan: Plan, options: RunOptions, with_published: bool) -> None:
    """Do what is left, and make the table.

    Raises:
        RunError: If another process makes the table, or a run failed.
    """
    from vcsf_cli.ablate.numbers import gather_results
    from vcsf_cli.ablate.run import LOGS, TableRunner

    plan.folder.mkdir(parents=True, exist_ok=True)
    busy = RunError(f"table {plan.table.name} is being made by another process", "wait for it")
    with lock(plan.folder / "lock", busy):
        with resumable():
            failures = TableRunner(plan, options).run()
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
    """Write and print the table."""
    from rich.console import Console

    from vcsf_cli.ablate import render, report

    table, folder = render.render_table(results, with_published), results.plan.folder
    render.write(folder, results, table)
    console = Console(markup=False, emoji=False)  # brackets and colons in names stay
    if not console.is_terminal:
        console.width = _WIDE  # a name is never cut
    console.print(render.terminal_table(table))
    for note in table.notes:
        say(note)
    say(f"table: {folder / 'table.md'} (.csv, .tex)")
    say(f"to look at: {report.write(results, table)}")
