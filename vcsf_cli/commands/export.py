"""`vcsf export`: a trained run as a folder that others can use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vcsf_cli.commands.options import data_option, encoder_options, runs_option

FORMATS = ("safetensors", "torch-export", "onnx")


@click.command("export")
@encoder_options
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
@data_option
@runs_option
def command(**options: Any) -> None:
    """Write an encoder as a folder with weights, config.json and a model card, as model hubs
    expect it.

    `torch-export` (model.pt2) and `onnx` (model.onnx) work without vcsf: they take whole windows of
    uint8 frames, in batches of any size. Every file is loaded in a fresh process and compared with
    the checkpoint on real clips before the folder appears."""
    from vcsf_cli.commands.work import export  # torch takes seconds to load

    export.write(**options)
