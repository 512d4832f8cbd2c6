"""`vcsf ablate`: train and measure the rows of a table, and make the table."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from vcsf_cli.commands.options import (
    MOST_WORKERS,
    allow_seen_option,
    cache_option,
    complete_named,
    complete_recipe,
    data_option,
    device_problem,
    engine_options,
    precision_option,
    runs_option,
    save_every_option,
    set_option,
)
from vcsf_cli.config.catalogue import RECIPES, TABLES
from vcsf_cli.errors import did_you_mean

_MOST_DIGITS = 15
_TASKS = ("retrieve", "clusters", "linear", "attentive", "knn", "finetune")


def _parse_names(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise click.BadParameter(f"`{text}` has an empty entry")
    return words


def _parse_numbers(text: str) -> list[str]:
    words = _parse_names(text)
    for word in words:
        if not (word.isascii() and word.isdecimal() and len(word) <= _MOST_DIGITS):
            raise click.BadParameter(f"`{word}` is not a whole number; write 1,2,3")
    return words


def _parse_measures(text: str) -> list[str]:
    words = _parse_names(text)
    for word in words:
        task = word.split(":")[0]
        if task not in _TASKS:
            raise click.BadParameter(f"`{task}` can't be measured; {did_you_mean(task, _TASKS)}")
    return words


def _parse_devices(text: str) -> list[str]:
    words = _parse_names(text)
    for problem in filter(None, map(device_problem, words)):
        raise click.BadParameter(problem)
    return words


def _parse_assumed(text: str) -> str:
    """A card, or training clips per second."""
    number = text.lower().removesuffix("/s")
    try:
        if number in ("h200", "h100") or 1e-6 <= float(number) <= 1e9:
            return number
    except ValueError:
        pass
    raise click.BadParameter(f"`{text}` is neither a known card (h200, h100) nor clips a second")


_names_option = partial(click.option, type=_parse_names, metavar="A,B,...")
_numbers_option = partial(click.option, type=_parse_numbers, metavar="N,N,...")


@click.command("ablate")
@click.argument("table", required=False, shell_complete=complete_named(TABLES))
@click.option(
    "--base",
    shell_complete=complete_recipe,
    help="The recipe that flags change, or that replaces TABLE's.  [default: recipes/vcsf.yaml]",
)
@click.option("--no-motion-module", is_flag=True, help="A row without the motion module.")
@click.option(
    "--no-cross-pathway", is_flag=True, help="A row with InfoNCE alone, for as many epochs."
)
@click.option(
    "--no-stage-a", is_flag=True, help="A row without the stages before cross-pathway training."
)
@click.option("--slow-only", is_flag=True, help="A row where only the slow pathway learns.")
@click.option("--fast-only", is_flag=True, help="A row where only the fast pathway learns.")
@_numbers_option("--alpha", help="A row each: the slow pathway reads every N-th frame.")
@_numbers_option("--neighbours", help="A row each: the number of positives that a pathway names.")
@_names_option("--positives", help="A row each: other, intersection, union, joint, mutual, pairs.")
@_names_option("--contrast", help="A row each: within, across.")
@_names_option("--backbone", help="A row each; `vcsf plugins` lists them.")
@_names_option("--motion", help="A row for each motion module; `vcsf plugins` lists them.")
@_numbers_option("--seeds", help="Train with each seed.  [default: the table's]")
@_numbers_option("--splits", help="Train and test on each split.  [default: the table's]")
@click.option(
    "--measure",
    type=_parse_measures,
    metavar="TASK[:DATASET[:PROTOCOL]],...",
    help="What to measure.  [default: the table's; with flags: retrieve]",
)
@set_option
@allow_seen_option
@data_option
@cache_option
@runs_option
@click.option(
    "--devices",
    type=_parse_devices,
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda:N|N,...",
    help="Devices, each of which works on one row at a time; numbers are GPUs: 0,1 are the first "
    "two.",
)
@engine_options
@click.option(
    "--gpus-per-run",
    type=click.IntRange(0, 1024),
    help="GPUs that each run gets of a Ray cluster, where as many rows as it holds are worked on "
    "side by side.  [default: 0, a CPU]",
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
    type=_parse_assumed,
    metavar="H200|H100|CLIPS/S",
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
def command(**options: Any) -> None:
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
    if options["table"]:
        TABLES.check(options["table"])
    if options["base"]:
        RECIPES.check(options["base"])

    from vcsf_cli.commands.work import ablate  # torch takes seconds to load

    ablate.make_table(**options)
