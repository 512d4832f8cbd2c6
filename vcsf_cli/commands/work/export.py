"""`vcsf export` at work."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from vcsf_cli.data.manifest import Manifest
from vcsf_cli.encoders.find import chosen_pathways, describe, find_source
from vcsf_cli.encoders.hub import PREFIX
from vcsf_cli.encoders.others import ExportSource
from vcsf_cli.encoders.source import EncoderSource
from vcsf_cli.errors import InputError
from vcsf_cli.export import hub
from vcsf_cli.export.exporter import export_encoder
from vcsf_cli.export.folder import check_place
from vcsf_cli.export.formats import check_packages
from vcsf_cli.narrate import say


def write(
    push: str | None,
    public: bool,
    dry_run: bool,
    named: str | None,
    recipe: str | None,
    settings: tuple[str, ...],
    formats: tuple[str, ...],
    pathway: str,
    out: Path | None,
    clips: tuple[Path, ...],
    data: Path | str,
    runs: Path,
) -> None:
    """Export an encoder of vcsf's networks.

    Raises:
        InputError: If it is not vcsf's, or is an export already.
    """
    source = find_source(runs, named, recipe, settings, "exporting")
    if source.recipe is None or isinstance(source, ExportSource):
        raise InputError(
            f"{source.name} is not vcsf's to export",
            "an export gets another format from its run; an encoder of others is exported by its own "
            "library",
        )
    describe(source)
    check_packages(formats)
    if push and not dry_run:
        hub.check_login(push)
    out = out or Path("exports") / source.name
    check_place(out)
    pathways = chosen_pathways(source, pathway)
    manifest = _open_dataset(source, data, clips)
    export_encoder(source, source.recipe, out, formats, pathways, manifest, clips)
    say(f"exported: {out}")
    if push and dry_run:
        for name, size in hub.files_to_push(out):
            click.echo(f"{PREFIX}{push}/{name}  {size:,} bytes")
    elif push:
        hub.push(out, push, public)
    if (out / "model.safetensors").is_file():
        code = f'import vcsf_cli; print(vcsf_cli.load_encoder({str(out)!r}).encode("VIDEO"))'
        say(f"next: python -c {shlex.quote(code)}")
    else:
        say(f"next: {out / 'README.md'} shows how to use it")


def _open_dataset(
    source: EncoderSource, data: Path | str, clips: tuple[Path, ...]
) -> Manifest | None:
    """The dataset of an encoder, if it is here.

    Raises:
        InputError: If neither it nor a video is there to compare with.
    """
    missing = [path for path in clips if not path.is_file()]
    if missing:
        raise InputError(
            f"there is no video file {missing[0]}", "--clips takes the path of a video"
        )
    try:
        return Manifest.find(data, source.dataset)
    except InputError as error:
        if clips:
            say(f"{error.message}: videos are taken as prepared at 128 px, at their own rate")
            return None
        raise InputError(
            f"there are no clips to compare with: {error.message}",
            "--data says where datasets are; or give a video of the kind that it was trained on: "
            "--clips VIDEO",
        ) from error
