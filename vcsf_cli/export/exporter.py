"""One export of a run: its files are written, compared with the checkpoint, described, and appear
all at once."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from vcsf_cli.contracts import PATHWAYS, Frames
from vcsf_cli.data.augment import to_input
from vcsf_cli.data.clips import EvalClips
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.evaluate.retrieval import training_mean
from vcsf_cli.export import formats
from vcsf_cli.export.card import model_card, read_licence
from vcsf_cli.export.check import compare
from vcsf_cli.export.encoder import Encoder
from vcsf_cli.export.folder import (
    CARD,
    CONFIG,
    FILES,
    check_place,
    describe,
    is_export,
    read_config,
    replacing,
)
from vcsf_cli.model.parts import build_sampler, fixed_geometry
from vcsf_cli.narrate import say
from vcsf_cli.runs import results
from vcsf_cli.runs.restore import restore
from vcsf_cli.runs.run import Run
from vcsf_cli.search.video import FrameTransform, VideoFile
from vcsf_cli.storage import files

COMPARED = 6
"""Windows that files are compared on."""


class Exporter:
    """A run that is exported.

    Args:
        run: The run.
        manifest: Its dataset, if it is here.
        videos: Videos to compare on instead of the dataset's.
        pathway: `slow`, `fast` or `both`.

    Raises:
        RunError: If the run has no whole checkpoint, or can't be exported.
        DataError: If clips can't be read.
    """

    def __init__(
        self, run: Run, manifest: Manifest | None, videos: Iterable[Path], pathway: str
    ) -> None:
        self.run, self.stage = run, run.recipe.last_stage
        self.model, _ = restore(run)
        self.checkpoint = files.sha256(run.checkpoint)
        self.sampler = build_sampler(self.stage)
        # Whoever uses the export may not have the decoder that the store was made with; frames are
        # the same by all.
        self.look = replace(
            FrameTransform.from_stage(self.stage, manifest.settings if manifest else {}), decoder=""
        )
        pathways = PATHWAYS if pathway == "both" else (pathway,)
        geometry = fixed_geometry(self.sampler)
        self.encoder = Encoder(self.model, geometry, pathways).eval()
        paths = list(videos)
        self.clips = np.stack(
            self._file_windows(paths)
            if paths or manifest is None
            else self._store_windows(manifest)
        )
        windows = geometry.split(to_input(torch.from_numpy(self.clips)))
        positions = {
            name: torch.tensor([geometry.positions[name]] * len(self.clips)) for name in pathways
        }
        with torch.no_grad():
            features = self.model.features(windows, positions)
        self.expected = {name: features[name].numpy() for name in pathways}
        self.licence = ""

    def _store_windows(self, manifest: Manifest) -> list[Frames]:
        """The middle windows of clips from all over a dataset."""
        rows = np.unique(np.linspace(0, len(manifest.table) - 1, COMPARED).astype(int)).tolist()
        clips = EvalClips(
            manifest, rows, self.sampler, self.look.border, self.look.size, centre_only=True
        )
        read = (clips[index] for index in range(len(rows)))
        return [clip["frames"][clip["windows"][0]].numpy() for clip in read]

    def _file_windows(self, paths: list[Path]) -> list[Frames]:
        """The first windows of videos."""
        found: list[Frames] = []
        for number, path in enumerate(paths):
            share = -(-(COMPARED - len(found)) // (len(paths) - number))
            windows = VideoFile(path, self.sampler, self.look).windows()
            found += [window.frames for window in islice(windows, share)]
        return found

    def write(self, out: Path, wanted: Iterable[str]) -> None:
        """Write, compare and describe; print each comparison.

        Raises:
            RunError: If a file can't be written in a format, or is not what the checkpoint is.
        """
        widths = {name: values.shape[1] for name, values in self.expected.items()}
        config = describe(self.run, self.checkpoint, self.encoder, widths, self.look) | {
            "compared": {}
        }
        measured = training_mean(self.run, self.checkpoint)
        centre = {name: measured[0][name] for name in widths} if measured else {}
        config["centre"] = measured[1] if measured else None
        with replacing(out) as folder:
            self._keep_others(out, folder, config, set(wanted))
            if {"torch-export", "onnx"} & set(wanted):
                say("tracing the networks")
                program = formats.trace_encoder(self.encoder, self.stage.data.size)
            for kind in (kind for kind in FILES if kind in wanted):
                say(f"writing {FILES[kind]}")
                path = folder / FILES[kind]
                config["files"][kind] = [path.name]
                if kind == "safetensors":
                    formats.write_safetensors(self.encoder, centre, path)
                    config["files"][kind] += formats.write_images(self.encoder, folder)
                elif kind == "torch-export":
                    formats.write_torch_export(program, path)
                else:
                    formats.write_onnx(program, self.encoder.pathways, path)
                    config["files"][kind] += [
                        beside.name for beside in folder.glob(f"{path.name}.*")
                    ]
                self._describe(folder, config)
                config["compared"][kind] = self._compared(kind, path)
            self._describe(folder, config)
            check_place(out)  # again: something may have been put there meanwhile

    def _keep_others(
        self, out: Path, folder: Path, config: dict[str, Any], wanted: set[str]
    ) -> None:
        """Take over other formats from an earlier export of the same checkpoint and pathways."""
        if not is_export(out):
            return
        earlier = read_config(out)
        if (out / CARD).is_file():
            self.licence = read_licence((out / CARD).read_text(encoding="utf-8"))
        others = [kind for kind in earlier["files"] if kind not in wanted]
        same = all(
            earlier[key] == json.loads(json.dumps(config[key]))
            for key in ("run", "features", "input", "video")
        )
        for kind in others:
            if not same:
                say(f"{kind} in {out} is of another checkpoint or pathway: it is left out")
                continue
            for name in earlier["files"][kind]:
                shutil.copy2(out / name, folder / name)
            config["files"][kind], config["compared"][kind] = (
                earlier["files"][kind],
                earlier["compared"][kind],
            )
            if kind == "safetensors":  # what was measured since is not in this file
                config["centre"] = earlier["centre"]

    def _describe(self, folder: Path, config: dict[str, Any]) -> None:
        """Write `config.json` and the card."""
        files.write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
        files.write_text(
            folder / CARD,
            model_card(
                self.run, config, results.read_all(self.run.folder, self.checkpoint), self.licence
            ),
        )

    def _compared(self, kind: str, path: Path) -> dict[str, Any]:
        """Compare a file with the checkpoint, and print how far it is from it."""
        with tempfile.TemporaryDirectory(
            dir=path.parent
        ) as work:  # where the next export cleans, if this one is killed
            clips = Path(work) / "clips.npz"
            arrays: dict[str, Any] = {"clips": self.clips, **self.expected}
            np.savez(clips, **arrays)
            found = compare(kind, path.parent if kind == "safetensors" else path, clips)
        for pathway, comparison in found.items():
            click.echo(f"{kind} {pathway}: {comparison} ({comparison.clips} real clips)")
        return {pathway: asdict(comparison) for pathway, comparison in found.items()}
