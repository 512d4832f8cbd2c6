"""`vcsf embed`: the features of videos as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vcsf_cli.commands.options import (
    LONGEST,
    Number,
    data_option,
    devices_option,
    encoder_options,
    engine_options,
    refuse_unknown_run,
    runs_option,
    workers_option,
)


@click.command("embed")
@click.argument("source")
@encoder_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("embeddings.parquet"),
    show_default=True,
    help="The table to write, or to complete; .lance needs `pip install 'vcsf[lance]'`.",
)
@click.option(
    "--every",
    type=Number(0, LONGEST),
    default=0.0,
    metavar="SECONDS",
    help="Take windows that begin at least this long after each other.  [default: all windows]",
)
@click.option("--half", is_flag=True, help="Store float16, which halves the table.")
@click.option(
    "--on-bad",
    type=click.Choice(["skip", "stop"]),
    default="skip",
    show_default=True,
    help="What to do with a video that can't be read: pass over it, or stop.",
)
@click.option(
    "--drop-missing",
    is_flag=True,
    help="Drop rows of videos that are no longer in SOURCE.  [default: refuse to]",
)
@data_option
@runs_option
@devices_option
@workers_option
@engine_options
def command(**options: Any) -> None:
    """Write the features of every window of SOURCE as a table, Parquet or Lance.

    SOURCE is a folder of videos, one video, a list of them (.txt, a path a line; or .csv with a
    column `path` and maybe `label`), or the name of a prepared dataset. Videos are read as they
    are: nothing has to be prepared.

    A row has path, begin and end in seconds, the features `slow` and `fast`, and `both`: the two
    beside each other, each of unit length over the square root of two. An encoder of others has one
    feature, under its own name. The same command again
    encodes only what is new or has changed, and goes on after Ctrl-C or a kill. A table that holds
    videos that are not in SOURCE is left as it is, unless --drop-missing is given."""
    refuse_unknown_run(options)
    from vcsf_cli.commands.work import embed  # torch takes seconds to load

    embed.write(**options)
