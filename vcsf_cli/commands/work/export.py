"""`vcsf export` at work."""

from __future__ import annotations

import shlex
from pathlib import Path

from vcsf_cli.commands.common import open_run
from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.errors import InputError
from vcsf_cli.export.exporter import export_run
from vcsf_cli.export.folder import check_place
from vcsf_cli.export.formats import check_packages
from vcsf_cli.narrate import say
from vcsf_cli.runs.run import WITH_LABELS, Run


def write(
    named: str | None,
    runs: Path,
    formats: tuple[str, ...],
    pathway: str,
    out: Path | None,
    clips: tuple[Path, ...],
    data: Path,
) -> None:
    run = open_run(runs, named, "exporting")
    if run.uses_labels:
        say(f"warning: {WITH_LABELS}")
    check_packages(formats)
    out = out or Path("exports") / run.name
    check_place(out)
    manifest = _open_dataset(run, data, clips)
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
    missing = [path for path in clips if not path.is_file()]
    if missing:
        raise InputError(
            f"there is no video file {missing[0]}", "--clips takes the path of a video"
        )
    try:
        return Manifest.find(data, run.dataset)
    except InputError as error:
        if clips:
            say(f"{error.message}: videos are taken as prepared at 128 px, at their own rate")
            return None
        raise InputError(
            f"there are no clips to compare with: {error.message}",
            "--data says where datasets are; or give a video of the kind that it was trained on: "
            "--clips VIDEO",
        ) from error
