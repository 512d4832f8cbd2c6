"""Decoders are exact on every container and codec, and say what they can't read."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from videos import add_phantom, cut_off, ffmpeg_frames, number_of, trim, write_sound, write_video

from vcsf_cli import registry
from vcsf_cli.contracts import Decoder
from vcsf_cli.errors import DataError

DECODERS = ["decord", "pyav"]
FILES = ["b_frames.avi", "simple.avi", "b_frames.mp4", "simple.mkv", "simple.mov", "simple.webm"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name in FILES:
        write_video(folder / name, 90, b_frames=3 if name.startswith("b_frames") else 0)
    return folder


@pytest.fixture(params=DECODERS)
def decoder(request: pytest.FixtureRequest) -> Decoder:
    decoder: Decoder = registry.load().build("decoder", request.param)
    return decoder


def test_the_b_frame_video_has_b_frames(folder: Path) -> None:
    with av.open(str(folder / "b_frames.avi")) as container:
        kinds = {frame.pict_type for frame in container.decode(video=0)}
    assert av.video.frame.PictureType.B in kinds


@pytest.mark.parametrize("name", FILES)
def test_every_frame_is_read_in_order(decoder: Decoder, folder: Path, name: str) -> None:
    frames = list(decoder.open(folder / name).stream())
    assert [number_of(frame.image) for frame in frames] == list(range(90))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="the ffmpeg program is not installed")
def test_pixels_are_those_of_ffmpeg(decoder: Decoder, folder: Path, name: str) -> None:
    truth = ffmpeg_frames(folder / name, 160, 128)
    frames = [frame.image for frame in decoder.open(folder / name).stream()]
    assert len(frames) == len(truth)
    assert np.abs(np.stack(frames).astype(int) - truth).mean() < 1


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="the ffmpeg program is not installed")
@pytest.mark.parametrize(
    "action", ["Archery", "BodyWeightSquats", "JumpRope", "TennisSwing", "WalkingWithDog"]
)
def test_original_recordings_are_decoded_as_ffmpeg_does(
    decoder: Decoder, shared_data: Path, action: str
) -> None:
    """The first two have B-frames; the headers of the others count one frame more than there is."""
    path = min((shared_data / "originals" / action).glob("*.avi"))
    truth = ffmpeg_frames(path, 320, 240)
    frames = [frame.image for frame in decoder.open(path).stream()]
    assert len(frames) == len(truth)
    worst = max(
        np.abs(frame.astype(np.int16) - expected).mean()
        for frame, expected in zip(frames, truth, strict=True)
    )
    assert worst < 1


@given(st.lists(st.integers(0, 89), min_size=1, max_size=40))
@settings(max_examples=15, deadline=None)
@pytest.mark.parametrize("name", DECODERS)
def test_any_frames_can_be_read_in_any_order(folder: Path, name: str, indices: list[int]) -> None:
    reader = registry.load().build("decoder", name).open(folder / "b_frames.avi")
    frames = reader.read(indices)
    assert [number_of(frame) for frame in frames] == indices


def test_reading_resizes_the_short_side_and_never_enlarges(decoder: Decoder, folder: Path) -> None:
    reader = decoder.open(folder / "b_frames.mp4")
    assert reader.read([3], size=64).shape == (1, 64, 80, 3)
    assert reader.read([3], size=500).shape == (1, 128, 160, 3)


def test_a_frame_that_is_not_there_is_an_index_error(decoder: Decoder, folder: Path) -> None:
    reader = decoder.open(folder / "simple.avi")
    assert len(reader) == 90
    for index in (90, -1):
        with pytest.raises(IndexError):
            reader.read([0, index])


def test_a_packet_without_a_frame_adds_none(decoder: Decoder, tmp_path: Path) -> None:
    path = add_phantom(write_video(tmp_path / "video.avi", 30, b_frames=0), before=12)
    assert [number_of(frame.image) for frame in decoder.open(path).stream()] == list(range(30))


@pytest.mark.parametrize(
    "numbers", [[5] * 30, [*range(20), *[19] * 11]], ids=["always", "at the end"]
)
def test_a_picture_that_stands_still_keeps_its_frames(
    decoder: Decoder, tmp_path: Path, numbers: list[int]
) -> None:
    path = write_video(tmp_path / "still.avi", numbers)
    assert [number_of(frame.image) for frame in decoder.open(path).stream()] == numbers


def test_a_phone_video_is_turned_upright(decoder: Decoder, tmp_path: Path) -> None:
    path = write_video(tmp_path / "phone.mp4", 20, width=96, height=160, turned=True)
    frames = [frame.image for frame in decoder.open(path).stream()]
    assert frames[0].shape == (160, 96, 3)
    assert [number_of(image) for image in frames] == list(range(20))


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="the ffmpeg program is not installed")
def test_what_an_edit_list_cuts_away_is_neither_read_nor_missed(
    decoder: Decoder, tmp_path: Path
) -> None:
    path = trim(write_video(tmp_path / "whole.mp4", 120, gop=25, b_frames=3), 1.5)
    with av.open(str(path)) as container:
        stored = sum(packet.size > 0 for packet in container.demux(video=0))
    reader = decoder.open(path)
    numbers = [number_of(frame.image) for frame in reader.stream()]
    assert numbers == list(range(120 - len(numbers), 120))
    assert len(numbers) == len(ffmpeg_frames(path, 160, 128)) < stored - 5
    assert (
        len(numbers) <= reader.declared <= len(numbers) + 1
    )  # the list may end between two frames


def test_times_are_those_of_a_variable_rate(decoder: Decoder, tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.08, 0.5, 0.54, 1.2]
    path = write_video(tmp_path / "phone.mp4", 6, times=times, b_frames=0)
    read = [frame.time for frame in decoder.open(path).stream()]
    assert read == pytest.approx(times, abs=0.002)


def test_what_the_container_says_is_told(decoder: Decoder, folder: Path) -> None:
    reader = decoder.open(folder / "simple.avi")
    assert (reader.fps, reader.declared) == (25.0, 90)


def test_metadata_that_is_no_utf8_does_not_matter(decoder: Decoder, tmp_path: Path) -> None:
    path = write_video(tmp_path / "umlaut.avi", 10, metadata={"title": "MARKMARK"})
    data = path.read_bytes()
    assert b"MARKMARK" in data
    path.write_bytes(data.replace(b"MARKMARK", b"\xfc\xff\xfe\xe4ARK"))
    assert len(list(decoder.open(path).stream())) == 10


@pytest.mark.parametrize("what", ["empty", "text", "sound only", "missing", "cut header"])
def test_what_is_no_video_is_a_data_error(decoder: Decoder, tmp_path: Path, what: str) -> None:
    path = tmp_path / "bad.avi"
    if what == "empty":
        path.touch()
    elif what == "text":
        path.write_text("no video at all\n" * 40)
    elif what == "sound only":
        write_sound(path)
    elif what == "cut header":
        path = cut_off(write_video(tmp_path / "bad.mp4"), 0.5)
    with pytest.raises(DataError, match=r"bad\.(avi|mp4)"):
        list(decoder.open(path).stream())


def test_frames_before_a_cut_are_read(decoder: Decoder, tmp_path: Path) -> None:
    path = cut_off(write_video(tmp_path / "cut.avi", 240, b_frames=0), 0.4)
    reader = decoder.open(path)
    numbers = [number_of(frame.image) for frame in reader.stream()]
    assert reader.declared == 240
    assert 50 < len(numbers) < 150
    assert numbers[:-1] == list(range(len(numbers) - 1))  # the last one is incomplete


@pytest.mark.parametrize("name", DECODERS)
def test_a_long_video_needs_no_more_memory_than_a_short_one(tmp_path: Path, name: str) -> None:
    """Whoever reads is slower than the decoder, as preparing is: a decoder that runs ahead is found
    out."""

    def peak(frames: int) -> int:
        path = write_video(tmp_path / f"{frames}.mp4", [0] * frames, width=640, height=480)
        code = (
            "import resource, time; from pathlib import Path; from vcsf_cli import registry\n"
            f"reader = registry.load().build('decoder', {name!r}).open(Path({str(path)!r}))\n"
            "count = sum(time.sleep(0.002) is None for _ in reader.stream())\n"
            f"assert count == {frames}\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        return int(
            subprocess.run(
                [sys.executable, "-c", code], capture_output=True, check=True, text=True
            ).stdout
        )

    short, long = peak(30), peak(400)  # all frames of the long one would take 370 MB
    assert long - short < 80 * 1024, f"{short} KiB, then {long} KiB"
