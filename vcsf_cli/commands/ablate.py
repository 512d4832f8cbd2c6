"""`vcsf ablate`: train and measure the rows of a table, and make the table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from vcsf_cli.ablate import flags
from vcsf_cli.ablate.rows import named_apart, resolve_table
from vcsf_cli.commands.common import resumable
from vcsf_cli.commands.options import (
    allow_seen_option,
    complete_recipe,
    data_option,
    precision_option,
    runs_option,
    save_every_option,
    set_option,
)
from vcsf_cli.config import table as tables
from vcsf_cli.config.catalogue import RECIPES, TABLES
from vcsf_cli.config.table import Draft
from vcsf_cli.errors import InputError, RunError, did_you_mean
from vcsf_cli.narrate import duration, say
from vcsf_cli.storage.files import only_one

# What loads torch or pandas is imported by the functions that need it: --help must be fast.
if TYPE_CHECKING:
    from vcsf_cli.ablate.estimate import Costs
    from vcsf_cli.ablate.numbers import TableResults
    from vcsf_cli.ablate.plan import Plan
    from vcsf_cli.ablate.run import Failure, RunOptions

_DEFAULT_BASE = "recipes/vcsf.yaml"
_WIDE = 10_000
_TASKS = ("retrieve", "linear", "knn", "finetune")


class _NameList(click.ParamType[list[str]]):
    """A comma-separated list."""

    name = "A,B,..."

    def convert(
        self,
        value: str | list[str],
        parameter: click.Parameter | None,
        context: click.Context | None,
    ) -> list[str]:
        found = value if isinstance(value, list) else [word.strip() for word in value.split(",")]
        if not all(found):
            self.fail(f"`{value}` has an empty entry", parameter, context)
        return found


class _IntList(_NameList):
    """A comma-separated list of whole numbers."""

    name = "N,N,..."

    def convert(
        self,
        value: str | list[str],
        parameter: click.Parameter | None,
        context: click.Context | None,
    ) -> list[str]:
        found = super().convert(value, parameter, context)
        if not all(word.isdecimal() for word in found):
            self.fail(f"`{value}` is no list of numbers; write 1,2,3", parameter, context)
        return found


class _Measures(_NameList):
    """What to measure: tasks, each on a dataset and by a protocol of its own if they are named."""

    name = "TASK[:DATASET[:PROTOCOL]],..."

    def convert(
        self,
        value: str | list[str],
        parameter: click.Parameter | None,
        context: click.Context | None,
    ) -> list[str]:
        found = super().convert(value, parameter, context)
        for word in found:
            task = word.split(":")[0]
            if task not in _TASKS:
                self.fail(
                    f"`{task}` can't be measured; {did_you_mean(task, _TASKS)}", parameter, context
                )
        return found


class _Assumed(click.ParamType[str]):
    """A speed to calculate with."""

    name = "h200|h100|CLIPS/S"

    def convert(
        self, value: str, parameter: click.Parameter | None, context: click.Context | None
    ) -> str:
        number = value.lower().removesuffix("/s")
        try:
            if number in ("h200", "h100") or float(number) > 0:
                return number
        except ValueError:
            pass
        self.fail(
            f"`{value}` is neither a card that is known (h200, h100) nor clips a second",
            parameter,
            context,
        )


def _complete_table(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of tables, then files as the shell completes them."""

    names = [CompletionItem(name) for name in TABLES.files() if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]


def _row_options(function: Any) -> Any:
    """The options that make rows."""
    options = [
        click.option("--no-motion-module", is_flag=True, help="A row without the motion module."),
        click.option(
            "--no-cross-pathway", is_flag=True, help="A row of as many epochs with InfoNCE alone."
        ),
        click.option(
            "--no-stage-a",
            is_flag=True,
            help="A row without the stages before cross-pathway training.",
        ),
        click.option(
            "--slow-only", is_flag=True, help="A row where the slow pathway learns by itself."
        ),
        click.option(
            "--fast-only", is_flag=True, help="A row where the fast pathway learns by itself."
        ),
        click.option(
            "--alpha",
            type=_IntList(),
            help="A row for each: the slow pathway reads every N-th frame.",
        ),
        click.option(
            "--neighbours",
            type=_IntList(),
            help="A row for each: positives that a pathway may name.",
        ),
        click.option(
            "--positives", type=_NameList(), help="A row for each: other, intersection, union."
        ),
        click.option("--contrast", type=_NameList(), help="A row for each: within, across."),
        click.option(
            "--backbone", type=_NameList(), help="A row for each; `vcsf plugins` lists them."
        ),
        click.option(
            "--motion",
            type=_NameList(),
            help="A row for each motion module; `vcsf plugins` lists them.",
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
    help=f"The recipe that flags change, or that takes the place of TABLE's.  [default: "
    f"{_DEFAULT_BASE}]",
)
@_row_options
@click.option(
    "--seeds", type=_IntList(), help="Train with each of these seeds.  [default: the table's]"
)
@click.option(
    "--splits",
    type=_IntList(),
    help="Train and test on each of these splits.  [default: the table's]",
)
@click.option(
    "--measure",
    type=_Measures(),
    help="What to measure.  [default: the table's; of flags: retrieve]",
)
@set_option
@allow_seen_option
@data_option
@runs_option
@click.option(
    "--devices",
    type=_NameList(),
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda:N|N,...",
    help="Devices, each of which works on a row of its own; numbers are GPUs: 0,1 are the first "
    "two.",
)
@precision_option
@click.option(
    "--workers",
    type=click.IntRange(0),
    help="Processes that read clips, for each row that is worked on.",
)
@save_every_option
@click.option(
    "--assume",
    type=_Assumed(),
    help="Calculate the time with the speed of a card, or of so many training clips a second, "
    "instead of measuring.",
)
@click.option(
    "--with-published",
    is_flag=True,
    help="Show published rows beside a subset or a short schedule too.",
)
@click.option("--table-only", is_flag=True, help="Make the table of what was measured before.")
@click.option("--dry-run", is_flag=True, help="Check everything and print the plan, train nothing.")
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
    assume: str | None,
    with_published: bool,
    table_only: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Train the rows of TABLE (a file, or a name in recipes/tables/) and measure them, or the rows that flags ask for:
    the recipe as it is, and changed in one thing each.

    \b
      vcsf ablate --no-motion-module
      vcsf ablate --base demo --alpha 2,4,8 --seeds 0,1,2
      vcsf ablate retrieval_ucf101 --dry-run --assume h200

    Rows are ordinary runs: what was trained before is found, first stages that rows share are trained once, the same
    command goes on where an earlier one stopped, and a row that fails doesn't stop the others. The table is in tables/
    of --runs, as CSV, Markdown and LaTeX, with a report.html of curves, classes, confusion, a map and a gallery.
    """

    devices, precision, workers, save_every = (
        options.pop(name) for name in ("devices", "precision", "workers", "save_every")
    )
    draft = _read_draft(table, base, options, assignments)
    override(draft, base if table else None, seeds, splits, measure)
    content = resolve_table(draft, assignments)
    if table is None and len(content.lines) == 1:
        raise InputError(
            f"a table of one row: {content.lines[0].name}",
            "give values that the recipe doesn't have already",
        )

    from vcsf_cli.ablate.check import check
    from vcsf_cli.ablate.estimate import Costs
    from vcsf_cli.ablate.plan import build_plan
    from vcsf_cli.ablate.run import RunOptions, parse_devices

    if (
        base
        or seeds
        or splits
        or measure
        or assignments
        or any(isinstance(value, list) for value in options.values())
    ):
        content = named_apart(content)
    machine = RunOptions(parse_devices(devices), precision, workers, save_every, allow_seen)
    plan = build_plan(content, data, runs)
    if table_only:
        _make_table(plan, with_published)
        return
    if not (dry_run and assume):  # what is only calculated needs no device
        machine.machines()
    costs = Costs(plan)
    check(plan, costs, prepared=not dry_run, allow_seen=allow_seen)
    tell(plan, costs, assume, machine, dry_run)
    if not dry_run:
        _carry_out(plan, machine, with_published)


def _read_draft(
    table: str | None, base: str | None, options: dict[str, Any], assignments: tuple[str, ...]
) -> Draft:
    """The table of a file, or of flags.

    Raises:
        InputError: If both are given, or neither.
    """

    given = [name for name, value in options.items() if value]
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
    wanted = flags.Flags(
        options["no_motion_module"],
        options["no_cross_pathway"],
        options["no_stage_a"],
        tuple(pathway for pathway in ("slow", "fast") if options[f"{pathway}_only"]),
        {name: options[name] for name in flags.LISTS if options[name]},
    )
    return flags.draft_from_flags(wanted, str(RECIPES.find(base or _DEFAULT_BASE)), assignments)


def override(
    draft: Draft,
    base: str | None,
    seeds: list[str] | None,
    splits: list[str] | None,
    measure: list[str] | None,
) -> None:
    """What options say instead of the table.

    Raises:
        InputError: If a row's own recipe stands in the way of another for all.
    """
    if base:
        for name, row in dict(draft.tree.get("rows") or {}).items():
            if isinstance(row, dict) and row.get("base"):
                raise InputError(
                    f"row `{name}` of {draft.name} has a recipe of its own, so that --base can't "
                    f"take its place",
                    "copy the table and change it there, or leave out --base",
                )
        draft.tree["base"] = base
    for key, numbers in (("seeds", seeds), ("splits", splits)):
        if numbers:
            draft.tree[key] = [int(number) for number in numbers]
    if measure:
        keys = ("task", "data", "protocol")
        draft.tree["measure"] = [
            {key: word for key, word in zip(keys, each.split(":", 2), strict=False) if word}
            for each in measure
        ]


def _carry_out(plan: Plan, how: RunOptions, with_published: bool) -> None:
    """Do what is left, and make the table.

    Raises:
        RunError: If another process is at it, or a row failed.
    """
    from vcsf_cli.ablate.numbers import gather_results
    from vcsf_cli.ablate.run import LOGS, TableRun

    failures: list[Failure] = []
    plan.folder.mkdir(parents=True, exist_ok=True)
    busy = RunError(f"table {plan.table.name} is being made by another process", "wait for it")
    with only_one(plan.folder / "lock", busy):
        with resumable():
            failures = TableRun(plan, how).run()
        numbers = gather_results(plan)
        if numbers.cells:
            show(numbers, with_published)
    if failures:
        lines = "\n".join(f"  - {failure.cell.name}: {failure.why}" for failure in failures)
        raise RunError(
            f"{len(failures)} of {len(plan.cells)} runs failed\n{lines}",
            f"see {plan.folder / LOGS}; the same command tries them again",
        )


def tell(plan: Plan, costs: Costs, assume: str | None, how: RunOptions, dry_run: bool) -> None:
    """The plan: rows, what is done, time and disk; on stdout if that is all that was asked for."""
    from vcsf_cli.ablate.estimate import choose_speed, total_seconds

    write = click.echo if dry_run else say
    works = costs.work()
    threads = None if assume else how.threads
    speed = choose_speed(plan, costs, works, assume, how.machine(how.devices[0]), threads)
    for line in plan.lines():
        write(line)
    for work in works:
        about = f", about {duration(work.seconds(speed))}" if speed and work.is_left else ""
        write(f"  {work.cell.name}: {work.cell.run.name}: {work.words}{about}")
    left = [work for work in works if work.is_left]
    write(f"done: {sum(work.done for work in works)} of {len(works)} runs")
    if not left:
        return
    if speed:
        stages = {work.cell.recipe.hash: plan.stages_of(work.cell) for work in left}
        together = total_seconds(left, stages, speed, len(how.devices))
        several = (
            f", by {len(how.devices)} side by side {duration(together)}" if how.several else ""
        )
        write(
            f"estimated time: {duration(sum(work.seconds(speed) for work in left))}{several} "
            f"({speed.words})"
        )
    else:
        write(
            "the time is unknown: nothing is there to be measured on; --assume h200 calculates it"
        )
    write(f"estimated disk: {max(1, round(costs.disk(works) / 1e6)):,} MB in {plan.runs}")


def _make_table(plan: Plan, with_published: bool) -> None:
    """Make the table of what was measured before.

    Raises:
        RunError: If nothing was.
    """
    from vcsf_cli.ablate.numbers import gather_results

    numbers = gather_results(plan)
    if not numbers.cells:
        damaged = "\n".join(f"  - {missing.words}" for missing in numbers.missing if missing.why)
        raise RunError(
            f"no run of table {plan.table.name} is measured in {plan.runs}\n{damaged}".rstrip(),
            "leave out --table-only",
        )
    show(numbers, with_published)


def show(numbers: TableResults, with_published: bool) -> None:
    """Show and write a table."""
    from rich.console import Console

    from vcsf_cli.ablate import render, report

    table, folder = render.shown(numbers, with_published), numbers.plan.folder
    render.write(folder, numbers, table)
    console = Console(markup=False, emoji=False)  # brackets and colons in names stay
    if not console.is_terminal:
        console.width = _WIDE  # a name is never cut
    console.print(render.drawn(table))
    for note in table.notes:
        say(note)
    say(f"table: {folder / 'table.md'} (.csv, .tex)")
    say(f"to look at: {report.write(numbers, table)}")
