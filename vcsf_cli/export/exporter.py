"""Exporting a run: files are written, compared with the checkpoint and described; the folder
appears at once."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import click
import numpy as np
import torch

from vcsf_cli.config.recipe import Recipe
from vcsf_cli.contracts import PATHWAYS, Frames, Sampler
from vcsf_cli.data.augment import to_input
from vcsf_cli.data.clips import EvalClips
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.encoders.exported import CONFIG, FILES, is_export, read_config
from vcsf_cli.encoders.run import RunSource
from vcsf_cli.encoders.source import EncoderSource
from vcsf_cli.errors import RunError
from vcsf_cli.evaluate.retrieval import training_mean
from vcsf_cli.export import formats as writers
from vcsf_cli.export.card import model_card, read_licence
from vcsf_cli.export.check import compare
from vcsf_cli.export.encoder import Encoder
from vcsf_cli.export.folder import CARD, check_place, describe, replacing
from vcsf_cli.features.extract import Features
from vcsf_cli.model.parts import WindowSpec, build_sampler, fixed_geometry
from vcsf_cli.model.pathways import Networks
from vcsf_cli.narrate import say
from vcsf_cli.runs import results, trained_on
from vcsf_cli.search.video import FrameTransform, VideoFile
from vcsf_cli.storage import files
from vcsf_cli.storage.sealed import write_json

_COMPARED = 6
"""Windows that files are compared on."""


def export_encoder(
    source: EncoderSource,
    recipe: Recipe,
    out: Path,
    formats: Iterable[str],
    pathways: Sequence[str] = PATHWAYS,
    manifest: Manifest | None = None,
    videos: Sequence[Path] = (),
) -> None:
    """Export an encoder, and print how each file compares with it.

    Args:
        recipe: Of its networks.
        out: The folder; an earlier export there is replaced, but its other formats are kept if they
            are of the same checkpoint and pathways.
        formats: Keys of `FILES`.
        manifest: A dataset to compare on, if it is here.
        videos: Videos to compare on instead of the dataset's; required without a dataset.

    Raises:
        RunError: If the encoder has no whole file, can't be written in a format, or a file is not
            what the checkpoint is.
        DataError: If clips can't be read.
        InputError: If something was put into `out` meanwhile.
    """
    stage, wanted = recipe.last_stage, set(formats)
    model = source.network()
    sampler = build_sampler(stage)
    # Whoever uses the export may not have the decoder of the store; all decoders give equal frames.
    settings = manifest.settings if manifest else {}
    transform = replace(
        FrameTransform.from_windows(WindowSpec.from_stage(stage), settings), decoder=""
    )
    encoder = Encoder(model, fixed_geometry(sampler), pathways).eval()
    clips = (
        _file_windows(videos, sampler, transform)
        if videos or manifest is None
        else store_windows(manifest, sampler, transform)
    )
    expected = _checkpoint_features(model, encoder, clips)
    widths = {name: values.shape[1] for name, values in expected.items()}
    run = source.run if isinstance(source, RunSource) else None
    measured = training_mean(run, source.weights_digest) if run else None
    centre = {name: measured[0][name] for name in widths} if measured else {}
    config = describe(source, recipe, encoder, widths, transform) | {"compared": {}}
    config["centre"] = measured[1] if measured else None
    with replacing(out) as folder:
        card = out / CARD  # a user may have written a licence into it
        licence = read_licence(card.read_text(encoding="utf-8")) if card.is_file() else ""
        _keep_other_formats(out, folder, config, wanted)
        trained_on.copy_list(source.folder, folder)
        if {"torch-export", "onnx"} & wanted:
            say("tracing the networks")
            program = writers.trace_encoder(encoder, stage.data.size)
        for kind in (kind for kind in FILES if kind in wanted):
            say(f"writing {FILES[kind]}")
            path = folder / FILES[kind]
            if kind == "safetensors":
                writers.write_safetensors(encoder, centre, path)
                beside = writers.write_images(encoder, folder)
            elif kind == "torch-export":
                writers.write_torch_export(program, path)
                beside = []
            else:
                writers.write_onnx(program, encoder.pathways, path)
                beside = [each.name for each in folder.glob(f"{path.name}.*")]
            config["files"][kind] = [path.name, *beside]
            for name in config["files"][kind]:
                config["sha256"][name] = files.sha256(folder / name)
            _write_description(folder, source, recipe, config, licence)
            config["compared"][kind] = _compare(kind, path, clips, expected)
        _write_description(folder, source, recipe, config, licence)
        check_place(out)  # again: something may have been put there meanwhile


def store_windows(manifest: Manifest, sampler: Sampler, transform: FrameTransform) -> Frames:
    """The middle windows of clips from all over a dataset, uint8 (N, L, size, size, 3)."""
    rows = np.unique(np.linspace(0, len(manifest.table) - 1, _COMPARED).astype(int)).tolist()
    clips = EvalClips(manifest, rows, sampler, transform.border, transform.size, spread=1)
    read = (clips[index] for index in range(len(rows)))
    return np.stack([clip["frames"][clip["windows"][0]].numpy() for clip in read])


def _file_windows(paths: Sequence[Path], sampler: Sampler, transform: FrameTransform) -> Frames:
    """The first windows of videos, uint8 (N, L, size, size, 3)."""
    found: list[Frames] = []
    for number, path in enumerate(paths):
        share = -(-(_COMPARED - len(found)) // (len(paths) - number))
        windows = VideoFile(path, sampler, transform).windows()
        found += [window.frames for window in islice(windows, share)]
    return np.stack(found)


def _checkpoint_features(model: Networks, encoder: Encoder, clips: Frames) -> Features:
    """Features (N, C) by pathway of the checkpoint's own networks."""
    windows = encoder.geometry.split(to_input(torch.from_numpy(clips)))
    positions = {
        name: torch.tensor([encoder.geometry.positions[name]] * len(clips))
        for name in encoder.pathways
    }
    with torch.no_grad():
        features = model.features(windows, positions)
    return {name: features[name].numpy() for name in encoder.pathways}


def _keep_other_formats(out: Path, folder: Path, config: dict[str, Any], wanted: set[str]) -> None:
    """Take over other formats from an earlier export of the same checkpoint and pathways."""
    if not is_export(out):
        return
    earlier = read_config(out)
    config_now = json.loads(json.dumps(config))
    # Earlier versions knew fewer settings of videos, and did as the new ones' defaults.
    config_before = earlier | {"video": config_now["video"] | earlier["video"]}
    same = all(
        config_before[key] == config_now[key] for key in ("run", "features", "input", "video")
    )
    for kind in (kind for kind in earlier["files"] if kind not in wanted):
        if not same:
            say(f"{kind} in {out} is of another checkpoint or pathway: it is left out")
            continue
        for name in earlier["files"][kind]:
            digest = config["sha256"][name] = files.sha256(out / name)
            if earlier.get("sha256", {}).get(name, digest) != digest:
                raise RunError(f"{out / name} is damaged", f"remove {out}, and export {kind} again")
            shutil.copy2(out / name, folder / name)
        for key in ("files", "compared"):
            config[key][kind] = earlier[key][kind]
        if kind == "safetensors":  # what was measured since is not in this file
            config["centre"] = earlier["centre"]


def _write_description(
    folder: Path, source: EncoderSource, recipe: Recipe, config: dict[str, Any], licence: str
) -> None:
    """Write `config.json` and the card."""
    write_json(folder / CONFIG, config)
    measured = results.read_all(source.folder, source.identity)
    files.write_text(folder / CARD, model_card(source, recipe, config, measured, licence))


def _compare(kind: str, path: Path, clips: Frames, expected: Features) -> dict[str, Any]:
    """Compare a file with the checkpoint, and print how far it is from it."""
    # In the new folder, so that the next export cleans up if this one is killed.
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        arrays = Path(work) / "clips.npz"
        np.savez(arrays, clips=clips, **cast(dict[str, Any], expected))
        found = compare(kind, path.parent if kind == "safetensors" else path, arrays)
    for pathway, comparison in found.items():
        click.echo(f"{kind} {pathway}: {comparison} ({comparison.clips} real clips)")
    return {pathway: asdict(comparison) for pathway, comparison in found.items()}
