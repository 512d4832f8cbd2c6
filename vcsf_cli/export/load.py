"""Loading a trained encoder in Python: features of videos and frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from vcsf_cli.config.schema import Stage
from vcsf_cli.contracts import PATHWAYS, Frames
from vcsf_cli.data.decode import USUAL_FPS
from vcsf_cli.encoders import hub
from vcsf_cli.encoders.exported import CONFIG, EXPORT_AGAIN, FILES, exported_recipe, read_config
from vcsf_cli.errors import DataError, InputError, RunError
from vcsf_cli.export.embed import VideoWindows, embed_files, with_both
from vcsf_cli.export.encoder import Encoder
from vcsf_cli.features.extract import Features
from vcsf_cli.model.parts import WindowSpec, build_sampler, fixed_geometry
from vcsf_cli.model.pathways import TwoPathways, build, stage_channels
from vcsf_cli.runs.restore import restore
from vcsf_cli.runs.run import read_run
from vcsf_cli.search.video import (
    FrameTransform,
    GivenFrames,
    VideoFile,
    WindowFeatures,
    encode_windows,
)
from vcsf_cli.storage import checkpoint, files
from vcsf_cli.storage.sealed import reading

_Source = str | Path | Frames | Tensor
"""A video file, or its frames: uint8 (T, H, W, 3), RGB."""


class VideoEncoder(Encoder):
    """An encoder that also reads videos. Called, it is its pathways on uint8 windows (B, L, H, W,
    3), as `Encoder`.

    Features are pooled, before any centring or scaling. To compare videos as `vcsf retrieve` does,
    subtract a centre (`centre`, or the mean over your own videos), scale to unit length, and take
    cosines; the similarity by both pathways is the mean of the two cosines.

    Args:
        model: The networks; they are shared, not copied.
        stage: Says which sampler gives a video's windows.
        centre: Mean feature (C,) of the training clips by pathway, where it was measured; else
            empty.
        digest: SHA-256 of the file that the weights come from.
    """

    def __init__(
        self,
        model: TwoPathways,
        stage: Stage,
        look: FrameTransform,
        pathways: Sequence[str],
        centre: Mapping[str, Tensor],
        digest: str = "",
    ) -> None:
        sampler = build_sampler(stage)
        super().__init__(model, fixed_geometry(sampler), pathways)
        self.stage, self.sampler, self.look, self.digest = stage, sampler, look, digest
        self.widths = {
            name: stage_channels(model.pathway(name).backbone)[-1] for name in self.pathways
        }
        """Length of the features, C, by pathway."""
        self.centre: Features = {pathway: values.numpy() for pathway, values in centre.items()}
        self.requires_grad_(False).eval()

    @property
    def protocol(self) -> dict[str, Any]:
        """How videos are cut into windows and made small."""
        return {
            **WindowSpec.from_stage(self.stage).key,
            "stored": self.look.stored,
            "fps": self.look.fps,
        }

    def encode(self, video: _Source) -> Features:
        """The feature of a video, the mean over its windows: float32 (C,) by pathway.

        A prepared clip's feature differs a little from its original's, because the store keeps
        frames as JPEGs: of 40 synthetic videos and the demo's run the cosine of the two was at
        least 0.9999 in the slow pathway and 0.995 in the fast one, which reads differences; each
        video was nearest to its own clip.

        Args:
            video: A file, or any number of frames: uint8 (T, H, W, 3), RGB.

        Raises:
            InputError: If there is no such file, or the frames have another shape or type.
            DataError: If the file can't be decoded.
        """
        return self.encode_windows(video).mean()

    def encode_windows(self, video: _Source, fps: float | None = None) -> WindowFeatures:
        """Features of each window of a video, with the seconds when it begins and ends.

        Args:
            video: As `encode` takes it.
            fps: Frames per second of frames, None for the rate that windows are taken at; a file
                says its own.
        """
        source = (
            Path(video)
            if isinstance(video, str | Path)
            else _frames_as_video(video, fps or self.look.fps or USUAL_FPS)
        )
        opened = VideoFile(source, self.sampler, self.look)
        return encode_windows(self, opened, next(self.parameters()).device)

    def embed(self, paths: str | Path | Iterable[str | Path], every: float = 0.0) -> pd.DataFrame:
        """Features of every window of video files, a row each: `path`, `begin` and `end` in
        seconds, a vector in the column of each pathway, and in `both` the two beside each other,
        each of unit length over the square root of two.

        `vcsf embed` does the same for many videos, with processes that read, and goes on after a
        kill.

        Args:
            paths: The files, or one.
            every: Seconds from the begin of a window to that of the next, at least; 0 for all
                windows.

        Raises:
            DataError: If a file can't be read.
        """
        several = [paths] if isinstance(paths, str | Path) else paths
        videos = [Path(path) for path in several]
        windows = VideoWindows(videos, self.sampler, self.look, every)
        device = next(self.parameters()).device
        tables = {}
        for number, found in embed_files(self, self.geometry, windows, device, workers=0):
            if isinstance(found, str):
                raise DataError(found, f"leave out {videos[number]}")
            columns = {name: list(values) for name, values in with_both(found.features).items()}
            times = {"path": str(videos[number]), "begin": found.begin, "end": found.end}
            tables[number] = pd.DataFrame(times | columns)
        return pd.concat([tables[number] for number in sorted(tables)], ignore_index=True)


def _frames_as_video(frames: Frames | Tensor, fps: float) -> GivenFrames:
    """Frames as a video.

    Raises:
        InputError: If they are none.
    """
    array = frames.cpu().numpy() if isinstance(frames, Tensor) else frames
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or not len(array):
        raise InputError(
            f"frames of type {array.dtype} and shape {array.shape} are not a video",
            "give uint8 (T, H, W, 3), RGB",
        )
    return GivenFrames(array, fps)


def load_encoder(path: str | Path, device: str | torch.device = "cpu") -> VideoEncoder:
    """The encoder in a folder that `vcsf export` made, in a run folder, or in a repository of the hub
    that `vcsf export --push` filled. Runs no code from it.

    Of an exported folder it needs `config.json` and `model.safetensors`. A run folder does not say
    how its store was prepared: frames are then made 128 px on their short side, at the video's own
    rate, as `vcsf prepare` does unless told otherwise.

    Args:
        path: The folder, or `hf:USER/NAME`, with `@REVISION` for another than the newest.
        device: Where to compute.

    Raises:
        InputError: If there is no such folder or repository.
        RunError: If it is damaged, or was exported without `model.safetensors`.
        RecipeError: If a plugin that it needs is not here.
    """
    folder = _from_hub(path) if str(path).startswith(hub.PREFIX) else Path(path)
    if not folder.is_dir():
        raise InputError(
            f"there is no folder {folder}", "name one that `vcsf export` made, or a run folder"
        )
    if (folder / CONFIG).is_file():
        return _load_export(folder).to(device)
    run = read_run(folder)
    model, stage = restore(run)[0], run.recipe.last_stage
    transform = FrameTransform.from_windows(WindowSpec.from_stage(stage), {})
    digest = files.sha256(run.checkpoint)
    return VideoEncoder(model, stage, transform, PATHWAYS, {}, digest).to(device)


def _from_hub(address: str | Path) -> Path:
    folder = hub.download(str(address))
    if folder is None:
        raise InputError(
            f"{address} is no export of vcsf", "name a repository that `vcsf export --push` filled"
        )
    return folder


def _load_export(folder: Path) -> VideoEncoder:
    config = read_config(folder)
    path = folder / FILES["safetensors"]
    if not path.is_file():
        raise RunError(f"{folder} has no {path.name}", "export the run with --format safetensors")
    tensors = checkpoint.load_safetensors(path, config.get("sha256", {}), EXPORT_AGAIN)
    with reading(folder / CONFIG, EXPORT_AGAIN):
        pathways, recipe = tuple(config["features"]), exported_recipe(config)
        look = FrameTransform(**config["video"])
    centre = {
        name: tensors.pop(f"centre.{name}") for name in pathways if f"centre.{name}" in tensors
    }
    encoder = VideoEncoder(
        build(recipe), recipe.last_stage, look, pathways, centre, files.sha256(path)
    )
    checkpoint.load_weights(encoder, tensors, path)
    return encoder
