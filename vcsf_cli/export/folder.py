"""The folder of an export and its `config.json`."""

from __future__ import annotations

import copy
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vcsf_cli import __version__
from vcsf_cli.config.recipe import Recipe, resolve
from vcsf_cli.config.schema import NO_MOTION
from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.data.augment import MEAN, STD
from vcsf_cli.errors import InputError, RunError
from vcsf_cli.export.encoder import Encoder
from vcsf_cli.runs.run import Run
from vcsf_cli.search.video import FrameTransform
from vcsf_cli.storage import files
from vcsf_cli.storage.sealed import read_json, reading

CONFIG = "config.json"
CARD = "README.md"
FILES = {"safetensors": "model.safetensors", "torch-export": "model.pt2", "onnx": "model.onnx"}
"""The main file of each format."""

_EXPORTED = re.compile(r"config\.json$|README\.md$|model\.|timm-|\.(config|README)\..+partial$|tmp")
"""The names in the folder of an export that is being written."""

EXPORT_AGAIN = "export the run again into another folder: vcsf export --from RUN --out FOLDER"

KIND = "vcsf-encoder"
VERSION = 1


def describe(
    run: Run, checkpoint: str, encoder: Encoder, widths: dict[str, int], look: FrameTransform
) -> dict[str, Any]:
    """The contents of `config.json`, but for what is added when files are written.

    Args:
        checkpoint: SHA-256 of its checkpoint.
    """
    stage, status, geometry = run.recipe.last_stage, run.status, encoder.geometry
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
        "trained_with_labels": run.uses_labels,
        "run": {
            "name": run.name,
            "finished": run.finished,
            "dataset": status.get("dataset"),
            "split": stage.data.split,
            "data_hash": status.get("data_hash"),
            "checkpoint": checkpoint,
        },
        "files": {},
        "sha256": {},
        "recipe": run.recipe.tree,
    }


def is_export(folder: Path) -> bool:
    """Whether a folder is an export.

    Raises:
        RunError: If its `config.json` is damaged.
    """
    path = folder / CONFIG
    return path.is_file() and read_json(path, dict, EXPORT_AGAIN).get("model_type") == KIND


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of an exported folder.

    Raises:
        RunError: If it is damaged, something else, or from a newer vcsf.
    """
    path = folder / CONFIG
    config = read_json(path, dict, EXPORT_AGAIN)
    if config.get("model_type") != KIND:
        raise RunError(
            f"{path} is not that of an exported encoder", "name a folder that `vcsf export` made"
        )
    with reading(path, EXPORT_AGAIN):
        if config["version"] > VERSION:
            raise RunError(f"{path} was written by a newer vcsf", "upgrade vcsf")
    return config


def exported_recipe(config: dict[str, Any]) -> Recipe:
    """The recipe in a `config.json`, without the download of weights to start from.

    Raises:
        RecipeError: If a plugin that it needs is not here.
    """
    tree = copy.deepcopy(config["recipe"])
    for node in ("backbone", *PATHWAYS):
        if tree.get(node, {}).get("pretrained"):
            tree[node]["pretrained"] = False
    return resolve(tree, {})


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
    own = {CONFIG, CARD}.union(*read_config(out)["files"].values())
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
