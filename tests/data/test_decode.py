"""Decoding one video into clips of JPEG frames: rates, cuts, and what counts as a bad video."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from videos import cut_off, flip_bytes, number_of, picture, write_video

from vcsf_cli import registry
from vcsf_cli.contracts import Frame
from vcsf_cli.data.decode import Decoded, DecodeJob, Settings, decode, judge, resample
from vcsf_cli.video import short_side


def job(path: Path, **changes: Any) -> DecodeJob:
    work = path.parent / "work"
    work.mkdir(exist_ok=True)
    settings = Settings(kind="folder", decoder="pyav", size=64, max_seconds=None)
    return DecodeJob(path, str(work / "clip"), replace(settings, **changes))


def frames_of(decoded: Decoded) -> list[list[int]]:
    """The numbers that the frames of every clip show."""
    shown = []
    for clip in decoded.clips:
        data, begin, numbers = clip.path.read_bytes(), 0, []
        for size in clip.sizes:
            numbers.append(number_of(simplejpeg.decode_jpeg(data[begin : begin + size])))
            begin += size
        assert begin == len(data)
        assert clip.sha256 == hashlib.sha256(data).hexdigest()
        shown.append(numbers)
    return shown


def test_a_short_video_is_one_clip(tmp_path: Path) -> None:
    decoded = decode(job(write_video(tmp_path / "a.avi", 30)))
    assert (decoded.problem, decoded.read, decoded.fps) == ("", 30, 25.0)
    assert frames_of(decoded) == [list(range(30))]
    assert (decoded.clips[0].width, decoded.clips[0].height) == (80, 64)
    assert decoded.sha256 == hashlib.sha256((tmp_path / "a.avi").read_bytes()).hexdigest()


def test_a_long_video_becomes_consecutive_clips(tmp_path: Path) -> None:
    """2 seconds at 25 frames a second are 50 frames; a rest of less than a second joins the clip
    before it."""
    decoded = decode(job(write_video(tmp_path / "a.avi", 130), max_seconds=2.0))
    assert frames_of(decoded) == [list(range(50)), list(range(50, 100)), list(range(100, 130))]
    decoded = decode(job(write_video(tmp_path / "b.avi", 110), max_seconds=2.0))
    assert frames_of(decoded) == [list(range(50)), list(range(50, 110))]


def test_a_broken_video_gives_what_can_be_read_and_the_reason(tmp_path: Path) -> None:
    decoded = decode(job(cut_off(write_video(tmp_path / "cut.avi", 240, b_frames=0), 0.4)))
    assert "of 240 frames" in decoded.problem
    (numbers,) = frames_of(decoded)
    assert 50 < len(numbers) < 150
    assert numbers[:-1] == list(range(len(numbers) - 1))


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    (tmp_path / "a.avi").touch()
    assert decode(job(tmp_path / "a.avi")).problem == "a.avi is empty"


def test_what_is_not_a_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.avi")
    (tmp_path / "zero.avi").symlink_to("/dev/zero")
    (tmp_path / "folder.avi").mkdir()
    for name in ("pipe.avi", "zero.avi", "folder.avi"):
        assert "not a file" in decode(job(tmp_path / name)).problem


@pytest.mark.parametrize(
    ("read", "declared", "problem"),
    [
        (0, 0, "no frame"),
        (1, 1, "one frame only"),
        (240, 240, ""),
        (239, 240, ""),  # a header may count one too many
        (97, 240, "97 of 240"),
        (10, 12, "10 of 12"),
        (100, 0, ""),  # webm says nothing
    ],
)
def test_a_video_is_judged_by_what_was_read_of_what_was_promised(
    read: int, declared: int, problem: str
) -> None:
    found = judge(Decoded(read=read, declared=declared))
    assert problem in found
    assert bool(found) == bool(problem)


def rated(times: list[float | None]) -> list[Frame]:
    return [Frame(np.full((2, 2, 3), index, np.uint8), time) for index, time in enumerate(times)]


def shown(times: list[float | None], own: float, fps: float) -> list[int]:
    frames = list(resample(iter(rated(times)), own, fps))
    assert [frame.time for frame in frames] == pytest.approx(np.arange(len(frames)) / fps)
    return [int(frame.image[0, 0, 0]) for frame in frames]


def test_resampling_shows_what_is_on_screen() -> None:
    quarters: list[float | None] = [0.0, 0.25, 0.5, 0.75]
    assert shown(quarters, own=4, fps=4) == [0, 1, 2, 3]
    assert shown(quarters, own=4, fps=2) == [0, 2]
    assert shown(quarters, own=4, fps=8) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert shown([None] * 4, own=4, fps=2) == [0, 2]
    # A variable rate: the second frame stays for most of a second.
    assert shown([0.0, 0.1, 0.9], own=10, fps=5) == [0, 1, 1, 1, 1]


@given(
    st.integers(1, 80),
    st.sampled_from([10.0, 25.0, 29.97]),
    st.sampled_from([5.0, 12.5, 25.0, 60.0]),
)
def test_resampling_keeps_duration_and_order(count: int, own: float, fps: float) -> None:
    numbers = shown([index / own for index in range(count)], own, fps)
    assert abs(len(numbers) / fps - count / own) <= 1 / fps
    assert numbers == sorted(numbers)
    for tick, number in enumerate(numbers):
        assert number == min(count - 1, int(tick / fps * own + 1e-4))


PAUSE = [*(number / 25 for number in range(50)), *(6 + number / 25 for number in range(50))]


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_times_are_kept_where_they_are_not_regular(tmp_path: Path, decoder: str) -> None:
    steady = write_video(tmp_path / "steady.mkv", 100)
    assert [clip.times for clip in decode(job(steady, decoder=decoder)).clips] == [[]]
    path = write_video(tmp_path / "pause.mp4", 100, times=PAUSE, b_frames=0)
    (clip,) = decode(job(path, decoder=decoder)).clips
    assert clip.times == pytest.approx(PAUSE, abs=2e-3)
    several = decode(job(path, decoder=decoder, max_seconds=2.0)).clips
    assert len(several) > 1
    assert np.concatenate([each.times for each in several]) == pytest.approx(PAUSE, abs=2e-3)
    assert [clip.times for clip in decode(job(path, decoder=decoder, fps=5.0)).clips] == [[]]


def test_a_video_of_the_cases_begins_again_at_six_seconds(
    shared_data: Path, tmp_path: Path
) -> None:
    path = shared_data.parent / "cases" / "pause.mp4"
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    (clip,) = decode(job(Path(shutil.copy(path, tmp_path)))).clips
    later = [time for time in clip.times if time > 2]
    assert min(later) == pytest.approx(6, abs=0.05)


def test_a_video_is_resampled_by_its_times(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.08, 0.12, 0.52, 0.56, 0.6]
    path = write_video(tmp_path / "phone.mp4", 7, times=times, b_frames=0)
    decoded = decode(job(path, fps=10.0))
    (numbers,) = frames_of(decoded)
    assert decoded.fps == 10.0
    assert numbers[:7] == [0, 2, 3, 3, 3, 3, 6]


@given(st.integers(1, 300), st.integers(1, 300), st.integers(16, 200))
def test_the_short_side_becomes_the_size_and_is_never_enlarged(
    width: int, height: int, size: int
) -> None:
    image = short_side(np.zeros((height, width, 3), np.uint8), size)
    assert min(image.shape[:2]) == min(size, width, height)
    if min(width, height) > size:
        assert abs(max(image.shape[:2]) - max(width, height) * size / min(width, height)) <= 0.51


def test_a_resized_picture_shows_the_same() -> None:
    assert number_of(short_side(picture(613, 320, 256), 64)) == 613


def test_pixels_that_are_not_square_are_stored_as_shown_if_wanted(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 5, width=144, height=96, pixel_aspect=Fraction(4, 3))
    sizes = {}
    for square in (False, True):
        for size in (48, 200):
            (clip,) = decode(job(path, square_pixels=square, size=size)).clips
            sizes[square, size] = clip.width, clip.height
    assert sizes == {
        (False, 48): (72, 48),
        (False, 200): (144, 96),
        (True, 48): (96, 48),
        (True, 200): (192, 96),
    }


def test_frames_with_concealed_errors_are_counted(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 120, gop=12)
    assert decode(job(path)).damaged == 0
    decoded = decode(job(flip_bytes(path, 0.3, 0.32)))
    assert (decoded.problem, decoded.read) == ("", 120)
    assert 0 < decoded.damaged < 40


def test_what_was_tried_is_said_where_no_frame_can_be_decoded(tmp_path: Path) -> None:
    pytest.importorskip("decord")
    path = write_video(tmp_path / "a.avi", 20)
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for position, size in packets:
        data[position + 8 : position + 8 + size] = bytes(size)  # behind the head of the chunk
    path.write_bytes(data)
    decoded = decode(job(path, decoder="decord"))
    assert decoded.problem == "no frame could be decoded by decord or pyav"
    assert decode(job(path)).problem == "no frame could be decoded by pyav"


CHANGING = """
from dataclasses import replace
from vcsf_cli import hookimpl
from vcsf_plugins.decoders import PyAV, PyAVReader

class Changing(PyAVReader):
    def stream(self):
        for number, frame in enumerate(super().stream()):
            yield replace(frame, image=frame.image[:90] if number > 10 else frame.image)

def changing():
    decoder = PyAV()
    decoder.reader = Changing
    return decoder

@hookimpl
def vcsf_decoders():
    return {"changing": changing}
"""


def test_frames_of_two_sizes_make_no_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a decoder that does not scale them, as the built-in ones do."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vcsf_local.py").write_text(CHANGING)
    registry.load.cache_clear()
    try:
        decoded = decode(job(write_video(tmp_path / "a.mp4", 30), decoder="changing"))
    finally:
        registry.load.cache_clear()
    assert decoded.problem == "its frames have two sizes, 80 x 64 and 114 x 64"
