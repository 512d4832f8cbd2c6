"""`vcsf export`: a trained run as a folder that others can use."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from vcsf_cli.commands.options import (
    data_option,
    own_encoder_options,
    refuse_unknown_run,
    runs_option,
)

FORMATS = ("safetensors", "torch-export", "onnx")


def _parse_repository(text: str) -> str:
    if not re.fullmatch(r"hf:[\w.-]+/[\w.-]+", text):
        raise click.BadParameter(f"`{text}` is not a repository; write hf:USER/NAME")
    return text.removeprefix("hf:")


@click.command("export")
@own_encoder_options
@click.option(
    "--format",
    "formats",
    type=click.Choice(FORMATS),
    multiple=True,
    default=("safetensors",),
    show_default=True,
    help="What to write; can be repeated. A format is added to an export of the same checkpoint.",
)
@click.option(
    "--pathway",
    type=click.Choice(["slow", "fast", "both"]),
    default="both",
    show_default=True,
    help="The pathway to export.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="The folder to write.  [default: exports/RUN]"
)
@click.option(
    "--clips",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="VIDEO",
    help="A video to compare the files with the checkpoint on; can be repeated.  [default: clips "
    "of the run's dataset]",
)
@click.option(
    "--push",
    type=_parse_repository,
    metavar="hf:USER/NAME",
    help="Upload the folder to this repository of the Hugging Face hub too.",
)
@click.option("--public", is_flag=True, help="Make a new repository public.  [default: private]")
@click.option("--dry-run", is_flag=True, help="List the files that --push would upload.")
@data_option
@runs_option
def command(push: str | None, public: bool, dry_run: bool, **options: Any) -> None:
    """Write an encoder as a folder with weights, config.json and a model card, as model hubs
    expect it.

    `torch-export` (model.pt2) and `onnx` (model.onnx) work without vcsf: they take whole windows of
    uint8 frames, in batches of any size. Every file is loaded in a fresh process and compared with
    the checkpoint on real clips before the folder appears.

    `load_encoder("hf:USER/NAME")` loads what --push has uploaded."""
    if (public or dry_run) and push is None:
        raise click.UsageError("--public and --dry-run are for --push")

    refuse_unknown_run(options)
    from vcsf_cli.commands.work import export  # torch takes seconds to load

    export.write(push, public, dry_run, **options)
