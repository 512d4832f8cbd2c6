"""`vcsf export`: a trained run as a folder that others can use."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vcsf_cli.commands.common import open_run
from vcsf_cli.commands.options import data_option, from_option, runs_option
from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.errors import InputError
from vcsf_cli.narrate import say

# What loads torch or pandas is imported by the functions that need it: --help must be fast.
if TYPE_CHECKING:
    from vcsf_cli.data.manifest import Manifest
    from vcsf_cli.runs.run import Run

FORMATS = ("safetensors", "torch-export", "onnx")


@click.command("export")
@from_option
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
    "--out",
    type=click.Path(path_type=Path),
    help="The folder to write.  [default: exports/RUN]",
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
def command(
    source: str | None,
    formats: tuple[str, ...],
    pathway: str,
    out: Path | None,
    clips: tuple[Path, ...],
    data: Path,
    runs: Path,
) -> None:
    """Write a run's encoder as a folder with weights, config.json and a model card, as model hubs
    expect it.

    `torch-export` (model.pt2) and `onnx` (model.onnx) work without vcsf: they take whole windows of
    uint8 frames, in batches of any size. Every file is loaded in a fresh process and compared with
    the checkpoint on real clips before the folder appears."""
    from vcsf_cli.export.folder import check_place
    from vcsf_cli.export.formats import check_packages
    from vcsf_cli.runs.run import WITH_LABELS

    run = open_run(runs, source, "exporting")
    if run.uses_labels:
        say(f"warning: {WITH_LABELS}")
    check_packages(formats)
    out = out or Path("exports") / run.name
    check_place(out)
    manifest = _open_dataset(run, data, clips)

    from vcsf_cli.export.exporter import export_run

    export_run(run, out, formats, PATHWAYS if pathway == "both" else (pathway,), manifest, clips)
    say(f"exported: {out}")
    if (out / "model.safetensors").is_file():
        code = f'import vcsf_cli; print(vcsf_cli.load_encoder({str(out)!r}).encode("VIDEO"))'
        say(f"next: python -c {shlex.quote(code)}")
    else:
        say(f"next: {out / 'README.md'} shows how to use it")


def _open_dataset(run: Run, data: Path, clips: tuple[Path, ...]) -> Manifest | None:
    """The dataset of a run, if it is here.

    Raises:
        InputError: If neither it nor a video is there to compare with.
    """
    from vcsf_cli.data.manifest import Manifest

    missing = [path for path in clips if not path.is_file()]
    if missing:
        raise InputError(
            f"there is no video file {missing[0]}", "--clips takes the path of a video"
        )
    try:
        return Manifest.find(data, run.status["dataset"])
    except InputError as error:
        if clips:
            say(f"{error.message}: videos are taken as prepared at 128 px, at their own rate")
            return None
        raise InputError(
            f"there are no clips to compare with: {error.message}",
            "--data says where datasets are; or give a video of the kind that it was trained on: "
            "--clips VIDEO",
        ) from error
