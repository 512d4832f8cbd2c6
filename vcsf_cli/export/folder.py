"""The folder of an export and its `config.json`."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vcsf_cli import __version__
from vcsf_cli.config.recipe import Recipe
from vcsf_cli.config.schema import NO_MOTION
from vcsf_cli.data.augment import MEAN, STD
from vcsf_cli.encoders.exported import CONFIG, KIND, VERSION, is_export, read_config
from vcsf_cli.encoders.source import EncoderSource
from vcsf_cli.errors import InputError
from vcsf_cli.export.encoder import Encoder
from vcsf_cli.runs import trained_on
from vcsf_cli.search.video import FrameTransform
from vcsf_cli.storage import files

CARD = "README.md"
_EXPORTED = re.compile(r"config\.json$|README\.md$|model\.|timm-|\.(config|README)\..+partial$|tmp")
"""The names in the folder of an export that is being written."""


def describe(
    source: EncoderSource,
    recipe: Recipe,
    encoder: Encoder,
    widths: dict[str, int],
    look: FrameTransform,
) -> dict[str, Any]:
    """The contents of `config.json`, but for what is added when files are written.

    Args:
        recipe: Of its networks.
    """
    stage, geometry = recipe.last_stage, encoder.geometry
    return {
        "model_type": KIND,
        "version": VERSION,
        "vcsf": __version__,
        "architecture": {
            pathway: {
                "backbone": stage.backbone.model_dump()
                | (stage.slow if pathway == "slow" else stage.fast),
                "motion": stage.motion.model_dump() if pathway == "slow" else {"name": NO_MOTION},
            }
            for pathway in encoder.pathways
        },
        "input": {
            "name": "frames",
            "type": "uint8",
            "layout": "batch, frames, height, width, RGB",
            "frames": geometry.length,
            "stride": stage.sampler.settings.get("stride"),
            "height": stage.data.size,
            "width": stage.data.size,
        },
        "reads": {
            pathway: {"window": geometry.parts[pathway], "frames": geometry.positions[pathway]}
            for pathway in encoder.pathways
        },
        "normalisation": {"divided_by": 255, "mean": MEAN, "std": STD, "inside": True},
        # Without what is off, as exports that were made before have it.
        "video": {key: value for key, value in asdict(look).items() if value is not False},
        "features": widths,
        "centre": None,
        "trained_with_labels": source.uses_labels,
        "run": {**source.provenance, "checkpoint": source.weights_digest},
        "files": {},
        "sha256": {},
        "recipe": recipe.tree,
    }


def may_be_exported(name: str) -> bool:
    """Whether `vcsf export` writes files of this name."""
    return bool(_EXPORTED.match(name))


def check_place(out: Path) -> None:
    """Check that nothing but an earlier export is replaced.

    Raises:
        InputError: If something else is there, or nothing can be written there.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file", "name a folder")
    above = next(folder for folder in out.resolve().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise InputError(
            f"--out {out} can't be made in {above}", "name a place that you can write to"
        )
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not is_export(out):
        raise InputError(
            f"--out {out} holds something else than an export",
            "name another folder, or an empty one",
        )
    own = {CONFIG, CARD, trained_on.FILE}.union(*read_config(out)["files"].values())
    others = sorted(path.name for path in out.iterdir() if path.name not in own)
    if others:
        raise InputError(
            f"--out {out} holds {', '.join(others)} beside an export, which would be lost",
            "export into another folder and copy what is there",
        )


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A folder to write into that becomes `out` on success; on any error it is removed.

    What a killed process left is removed; where it was killed between two renamings, the export
    before is put back.

    Raises:
        InputError: If another process is writing the same export.
    """
    out = out.resolve()
    work = out.with_name(f".{out.name}.partial")
    new, old = work / "new", work / "old"
    work.mkdir(parents=True, exist_ok=True)
    busy = InputError(
        f"{out} is being written by another process", "wait for it, or give another --out"
    )
    with files.lock(work / "lock", busy):
        by_earlier_versions = [*_named_by_process(out, "old"), *_named_by_process(out, "partial")]
        for before in (old, *_named_by_process(out, "old")):
            if before.exists() and not out.exists():
                before.replace(out)
        for left_over in (new, old, *by_earlier_versions):
            shutil.rmtree(left_over, ignore_errors=True)
        new.mkdir()
        try:
            yield new
            if out.exists():  # a folder that is not empty can't be replaced in one step
                out.replace(old)
            new.replace(out)
        finally:
            if old.exists() and not out.exists():
                old.replace(out)
            for done in (new, old):
                shutil.rmtree(done, ignore_errors=True)
            with suppress(OSError):  # not empty: somebody has put something else there
                (work / "lock").unlink()
                work.rmdir()


def _named_by_process(out: Path, ending: str) -> list[Path]:
    """Unfinished exports of earlier versions, which named them after their process; folders that
    hold anything else are left alone."""
    name = re.compile(rf"\.{re.escape(out.name)}\.\d+\.{ending}")
    folders = [path for path in out.parent.iterdir() if name.fullmatch(path.name)]
    return [
        folder
        for folder in folders
        if folder.is_dir() and all(_EXPORTED.match(path.name) for path in folder.iterdir())
    ]
