"""`load_encoder` by itself: what it takes, what it refuses, and that asking for it is what imports
torch."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import vcsf_cli
from vcsf_cli import load_encoder
from vcsf_cli.config import recipe as recipes
from vcsf_cli.errors import InputError, RunError
from vcsf_cli.export.folder import replacing
from vcsf_cli.export.load import VideoEncoder
from vcsf_cli.model.parts import WindowSpec
from vcsf_cli.model.pathways import build
from vcsf_cli.search.video import FrameTransform


@pytest.fixture(scope="module")
def encoder() -> VideoEncoder:
    recipe = recipes.load("smoke")
    return VideoEncoder(
        build(recipe),
        recipe.first_stage,
        FrameTransform.from_windows(WindowSpec.from_stage(recipe.first_stage), {}),
        ("slow", "fast"),
        {},
    )


def test_torch_is_imported_only_for_who_asks_for_the_encoder() -> None:
    code = "import sys, vcsf_cli; assert 'torch' not in sys.modules; vcsf_cli.load_encoder; assert 'torch' in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="load_decoder"):
        _ = vcsf_cli.load_decoder  # type: ignore[attr-defined]


@pytest.mark.parametrize("count", [1, 7, 8, 30])
def test_any_number_of_frames_is_a_video_as_arrays_and_as_tensors(
    encoder: VideoEncoder, count: int
) -> None:
    frames = np.random.default_rng(count).integers(0, 256, (count, 50, 40, 3), np.uint8)
    found = encoder.encode(frames)
    again = encoder.encode(torch.from_numpy(frames))
    for pathway in ("slow", "fast"):
        assert found[pathway].shape == (16,)
        assert np.isfinite(found[pathway]).all()
        assert np.array_equal(found[pathway], again[pathway])


def test_frames_have_the_seconds_of_the_rate_that_is_given(encoder: VideoEncoder) -> None:
    found = encoder.encode_windows(np.zeros((20, 32, 32, 3), np.uint8), fps=10)
    assert found.begin[0] == 0
    assert found.end[-1] == pytest.approx(2.0)


def test_frames_are_resampled_to_the_rate_that_windows_are_taken_at() -> None:
    recipe = recipes.load("smoke")
    look = FrameTransform.from_windows(WindowSpec.from_stage(recipe.first_stage), {"fps": 10.0})
    encoder = VideoEncoder(build(recipe), recipe.first_stage, look, ("slow", "fast"), {})
    frames = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)
    twice = encoder.encode_windows(frames, fps=20)
    once = encoder.encode_windows(frames[::2])
    assert twice.end.tolist() == once.end.tolist()
    assert twice.end[-1] == pytest.approx(2.0)
    assert np.array_equal(twice.features["slow"], once.features["slow"])


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((4, 32, 32, 3)),
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((4, 3, 32, 32), np.uint8),
        np.zeros((0, 9, 9, 3), np.uint8),
    ],
    ids=["float", "image", "channels first", "none"],
)
def test_what_is_no_video_is_refused(encoder: VideoEncoder, frames: np.ndarray) -> None:
    with pytest.raises(InputError, match="are not a video"):
        encoder.encode(frames)


def test_a_video_that_is_not_there(encoder: VideoEncoder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no video file"):
        encoder.encode(tmp_path / "absent.mp4")


def test_folders_that_hold_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        load_encoder(tmp_path / "absent")
    with pytest.raises(InputError, match="is not a run folder"):
        load_encoder(tmp_path)
    config = tmp_path / "config.json"
    for text, message in [
        ("{", "is damaged"),
        ("{}", "is not that of an exported encoder"),
        (json.dumps({"model_type": "vcsf-encoder", "version": 99}), "newer vcsf"),
        (json.dumps({"model_type": "vcsf-encoder", "version": 1}), "has no model.safetensors"),
    ]:
        config.write_text(text)
        with pytest.raises(RunError, match=message):
            load_encoder(tmp_path)


def test_a_pickle_in_the_place_of_weights_is_never_loaded(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "was_run",)  # type: ignore[return-value]

    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vcsf-encoder", "version": 1}))
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(RunError, match="is damaged"):
        load_encoder(tmp_path)
    assert not (tmp_path / "was_run").exists()


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "exports" / "mine"
    with replacing(out) as folder:
        (folder / "one").touch()
        assert not out.exists()
    assert [path.name for path in out.iterdir()] == ["one"]
    with pytest.raises(FileNotFoundError), replacing(out) as folder:
        (folder / "two").rename(folder / "absent")
    assert [path.name for path in out.iterdir()] == ["one"]
    with replacing(out) as folder:
        (folder / "three").touch()
    assert [path.name for path in out.iterdir()] == ["three"]
    assert [path.name for path in out.parent.iterdir()] == ["mine"]
