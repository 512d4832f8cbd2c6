"""Decoders are exact on every container and codec, and say what they can't read."""

from __future__ import annotations

import functools
import gc
import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from videos import (
    add_phantom,
    cut_off,
    ffmpeg_frames,
    flip_bytes,
    number_of,
    set_matrix,
    trim,
    write_sound,
    write_video,
)

from vcsf_cli import registry
from vcsf_cli.contracts import Decoder
from vcsf_cli.errors import DataError

needs_ffmpeg = pytest.mark.skipif(
    not shutil.which("ffmpeg"), reason="the ffmpeg program is not installed"
)

DECODERS = ["decord", "pyav", "torchcodec"]
FILES = ["b_frames.avi", "simple.avi", "b_frames.mp4", "simple.mkv", "simple.mov", "simple.webm"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name in FILES:
        write_video(folder / name, 90, b_frames=3 if name.startswith("b_frames") else 0)
    return folder


@pytest.fixture(params=DECODERS)
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return build(request.param)


def build(name: str) -> Decoder:
    try:
        decoder: Decoder = registry.load().build("decoder", name)
    except DataError as error:
        pytest.skip(error.message)
    return decoder


reference = functools.cache(ffmpeg_frames)  # of small files that each decoder reads


def ffmpeg(*arguments: object) -> None:
    command = ["ffmpeg", "-v", "error", "-y", *map(str, arguments)]
    subprocess.run(command, check=True, timeout=60)


def test_the_b_frame_video_has_b_frames(folder: Path) -> None:
    with av.open(str(folder / "b_frames.avi")) as container:
        kinds = {frame.pict_type for frame in container.decode(video=0)}
    assert av.video.frame.PictureType.B in kinds


@pytest.mark.parametrize("name", FILES)
def test_every_frame_is_read_in_order(decoder: Decoder, folder: Path, name: str) -> None:
    frames = list(decoder.open(folder / name).stream())
    assert [number_of(frame.image) for frame in frames] == list(range(90))


@pytest.mark.parametrize("name", FILES)
@needs_ffmpeg
def test_pixels_are_those_of_ffmpeg(decoder: Decoder, folder: Path, name: str) -> None:
    truth = reference(folder / name, 160, 128)
    frames = [frame.image for frame in decoder.open(folder / name).stream()]
    assert len(frames) == len(truth)
    assert np.abs(np.stack(frames).astype(int) - truth).mean() < 1


@needs_ffmpeg
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
@settings(max_examples=15)
@pytest.mark.parametrize("name", DECODERS)
def test_any_frames_can_be_read_in_any_order(folder: Path, name: str, indices: list[int]) -> None:
    reader = build(name).open(folder / "b_frames.avi")
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


@needs_ffmpeg
@pytest.mark.parametrize(
    "matrix",
    [
        (0, 1, -1, 0),
        (0, -1, 1, 0),
        (-1, 0, 0, -1),
        (-1, 0, 0, 1),
        (1, 0, 0, -1),
        (0, 1, 1, 0),
        (0, -1, -1, 0),
    ],
)
def test_pictures_are_turned_and_mirrored_as_the_container_says(
    decoder: Decoder, tmp_path: Path, matrix: tuple[int, int, int, int]
) -> None:
    path = set_matrix(write_video(tmp_path / "phone.mp4", 8), matrix)
    shape = (128, 160) if matrix[0] else (160, 128)
    truth = ffmpeg_frames(path, shape[1], shape[0])
    frames = np.stack([frame.image for frame in decoder.open(path).stream()])
    assert frames.shape == truth.shape
    assert np.abs(frames.astype(int) - truth).mean() < 1


@needs_ffmpeg
@pytest.mark.parametrize(
    "orientation", ["rotate=90", "rotate=180", "flip=horizontal", "rotate=270:flip=vertical"]
)
def test_pictures_are_turned_as_the_codec_says(
    decoder: Decoder, tmp_path: Path, orientation: str
) -> None:
    plain = write_video(tmp_path / "plain.mp4", 8)
    filters = f"h264_metadata=display_orientation=insert:{orientation}"
    ffmpeg("-i", plain, "-c", "copy", "-bsf:v", filters, tmp_path / "turned.mp4")
    frames = np.stack([frame.image for frame in decoder.open(tmp_path / "turned.mp4").stream()])
    truth = ffmpeg_frames(tmp_path / "turned.mp4", frames.shape[2], frames.shape[1])
    assert np.abs(frames.astype(int) - truth).mean() < 1
    assert not np.array_equal(truth[0], ffmpeg_frames(plain, 160, 128)[0])


@pytest.mark.parametrize(
    "name", ["12:30.avi", "concat:a.avi|a.avi", "file:b.avi", "pipe:0.avi", "-i.avi", "%03d.avi"]
)
def test_a_file_name_is_no_address(
    decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "a.avi", 6)
    (tmp_path / "video.avi").write_bytes(write_video(tmp_path / "c.avi", range(6, 12)).read_bytes())
    (tmp_path / "video.avi").rename(name)
    for path in (Path(name), tmp_path / name):
        numbers = [number_of(frame.image) for frame in decoder.open(path).stream()]
        assert numbers == list(range(6, 12))


@pytest.mark.parametrize("name", ["http:/127.0.0.1:1/a.avi", "concat:a.avi", "subfile:a.avi"])
def test_a_name_that_looks_like_an_address_is_not_followed(
    decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "a.avi", 6)
    with pytest.raises(DataError, match="No such file"):
        decoder.open(Path(name))


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("x.mp4", "ffconcat version 1.0\nfile a.mp4\n", "concat"),
        ("x.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\na.mp4\n", "hls"),
    ],
)
def test_a_list_of_other_files_is_refused(
    decoder: Decoder, tmp_path: Path, name: str, text: str, kind: str
) -> None:
    write_video(tmp_path / "a.mp4", 6)
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match=f"files of the kind `{kind}` are not opened"):
        decoder.open(path)


@needs_ffmpeg
@pytest.mark.parametrize("default", [0, 1])
def test_the_stream_is_the_one_that_ffmpeg_takes(
    decoder: Decoder, tmp_path: Path, default: int
) -> None:
    """The default one, which here is the small one or the large one."""
    small = write_video(tmp_path / "small.mp4", range(100, 110), width=80, height=64)
    large = write_video(tmp_path / "large.mp4", 10)
    marks = [f"-disposition:v:{number}" for number in (0, 1)]
    marks = [marks[default], "default", marks[1 - default], "0"]
    path = tmp_path / "both.mkv"
    ffmpeg("-i", small, "-i", large, "-map", 0, "-map", 1, "-c", "copy", *marks, path)
    numbers = [number_of(frame.image) for frame in decoder.open(path).stream()]
    assert numbers == (list(range(10)) if default else list(range(100, 110)))


@needs_ffmpeg
def test_a_cover_picture_is_no_film(decoder: Decoder, tmp_path: Path) -> None:
    sound = write_sound(tmp_path / "sound.wav")
    cover = tmp_path / "cover.png"
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=320x320", "-frames:v", 1, cover)
    path = tmp_path / "song.m4a"
    tags = ("-map", 0, "-map", 1, "-c:v", "copy", "-disposition:v", "attached_pic")
    ffmpeg("-i", sound, "-i", cover, *tags, path)
    with pytest.raises(DataError, match="no video stream, only a picture"):
        decoder.open(path)


CASES = {
    "av1.mp4": 50,
    "cover_first.mp4": 100,
    "cut.mkv": 100,
    "late_start.mkv": 100,
    "live.webm": 50,
    "mirrored.mp4": 100,
    "palette.avi": 50,
    "pause.mp4": 99,
    "size_change.mkv": 50,
}


@needs_ffmpeg
@pytest.mark.parametrize("name", CASES)
def test_difficult_videos_are_decoded_as_ffmpeg_does(
    decoder: Decoder, shared_data: Path, name: str
) -> None:
    path = shared_data.parent / "cases" / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    reader = decoder.open(path)
    frames = np.stack([frame.image for frame in reader.stream()])
    truth = reference(path, frames.shape[2], frames.shape[1])
    assert len(frames) == len(truth) == CASES[name] == reader.declared
    assert np.abs(frames.astype(int) - truth).mean(axis=(1, 2, 3)).max() < 1


FORMATS = {
    "a.dv": ("-s", "720x576", "-pix_fmt", "yuv420p"),
    "a.3gp": ("-c:v", "h263", "-s", "176x144"),
    "a.flv": (),
    "a.gif": (),
    "a.h264": ("-c:v", "libx264"),
    "a.y4m": (),
    "a.m2ts": ("-c", "copy"),
    "a.mpg": ("-c:v", "mpeg1video"),
    "a.ogv": (),
    "a.ts": ("-c:v", "mpeg2video"),
    "a.wmv": ("-c:v", "wmv2"),
    "grey.mov": ("-c:v", "qtrle", "-pix_fmt", "gray"),
    "interlaced.mp4": ("-vf", "tinterlace,setfield=tff", "-flags", "+ildct+ilme"),
    "ms.avi": ("-c:v", "msmpeg4v3"),
    "ten_bit.mkv": ("-c:v", "ffv1", "-pix_fmt", "yuv420p10le"),
    "tiny.avi": ("-s", "2x2", "-c:v", "mpeg4"),
    "wide.mp4": ("-vf", "scale=out_color_matrix=bt709:out_range=pc", "-colorspace", "bt709"),
}


@needs_ffmpeg
@pytest.mark.parametrize("name", FORMATS)
def test_all_kinds_of_video_are_decoded_as_ffmpeg_does(
    decoder: Decoder, folder: Path, name: str
) -> None:
    path = folder / "formats" / name
    if not path.exists():  # each decoder reads the same file
        plain = write_video(folder / "formats" / "plain.mp4", 12)
        ffmpeg("-i", plain, *FORMATS[name], path)
    reader = decoder.open(path)
    frames = np.stack([frame.image for frame in reader.stream()])
    truth = reference(path, frames.shape[2], frames.shape[1])
    assert len(frames) == len(truth) == (6 if name == "interlaced.mp4" else 12)
    assert len(frames) <= reader.declared <= len(frames) + 1
    assert reader.fps == pytest.approx(25 * len(frames) / 12)
    assert np.abs(frames.astype(int) - truth).mean(axis=(1, 2, 3)).max() < 1


def test_a_codec_that_is_not_known_is_said(decoder: Decoder, tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.avi", 10)
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"QQQQ"))
    with pytest.raises(DataError, match="video of a codec that is not known"):
        decoder.open(path)


def test_where_data_is_destroyed_it_goes_on_behind(decoder: Decoder, tmp_path: Path) -> None:
    path = flip_bytes(write_video(tmp_path / "video.mp4", 120, gop=12), 0.3, 0.4)
    frames = list(decoder.open(path).stream())
    assert [number_of(frame.image) for frame in frames[-20:]] == list(range(100, 120))
    assert 0 < sum(frame.damaged for frame in frames) < 60
    assert not any(frame.damaged for frame in frames[-20:])


@pytest.mark.parametrize("name", ["steady.mkv", "a.avi"])
def test_packets_without_data_are_no_frames(decoder: Decoder, tmp_path: Path, name: str) -> None:
    """Five in the middle and four at the end, as where a recorder had no new picture."""
    plain = write_video(tmp_path / f"plain{Path(name).suffix}", 30, b_frames=0)
    with av.open(str(plain)) as source, av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        unit = source.streams.video[0].time_base
        assert unit is not None
        packets = [packet for packet in source.demux(video=0) if packet.size]
        for number in range(39):
            packet = av.Packet(b"") if 15 <= number < 20 or number >= 35 else packets.pop(0)
            packet.pts = packet.dts = round(number / 25 / unit)
            packet.time_base, packet.stream = unit, stream
            container.mux(packet)
    reader = decoder.open(tmp_path / name)
    times = [frame.time for frame in reader.stream()]
    steps = [*range(15), *range(20, 35)]
    assert times == pytest.approx([number / 25 for number in steps], abs=0.002)
    assert reader.declared == 30


def test_the_decoder_is_chosen_for_each_file_and_says_so(folder: Path) -> None:
    auto = build("auto")
    build("decord")
    read = {}
    for name in ("b_frames.avi", "b_frames.mp4", "simple.webm"):
        reader = auto.open(folder / name)
        assert [number_of(frame.image) for frame in reader.stream()] == list(range(90))
        read[name] = reader.decoder  # type: ignore[attr-defined]
    assert read == {"b_frames.avi": "decord", "b_frames.mp4": "pyav", "simple.webm": "pyav"}
    documentation = inspect.getdoc(type(auto)) or ""
    assert "MPEG-4 part 2" in documentation


def test_original_recordings_keep_the_pixels_of_decord(shared_data: Path) -> None:
    build("decord")
    import decord

    for action in ("BasketballDunk", "Archery", "TennisSwing"):
        path = min((shared_data / "originals" / action).glob("*.avi"))
        images = decord.VideoReader(str(path), num_threads=1)
        for frame in build("auto").open(path).stream():
            assert np.array_equal(frame.image, images.next().asnumpy())


@needs_ffmpeg
def test_from_the_first_wrong_frame_on_another_decoder_is_taken(
    tmp_path: Path, shared_data: Path
) -> None:
    path = shared_data.parent / "cases" / "size_change.mkv"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    reader = build("decord").open(path)
    assert len(list(reader.stream())) == 50
    assert reader.decoder == "decord to frame 24, then pyav"  # type: ignore[attr-defined]


@needs_ffmpeg
@pytest.mark.parametrize(("turn", "aspect"), [((1, 0, 0, 1), 4 / 3), ((0, 1, -1, 0), 3 / 4)])
def test_the_shape_of_pixels_is_told(
    decoder: Decoder, tmp_path: Path, turn: tuple[int, int, int, int], aspect: float
) -> None:
    ffmpeg("-i", write_video(tmp_path / "a.mp4", 5), "-vf", "setsar=4/3", tmp_path / "wide.mp4")
    set_matrix(tmp_path / "wide.mp4", turn)
    frames = list(decoder.open(tmp_path / "wide.mp4").stream())
    assert [frame.pixel_aspect for frame in frames] == pytest.approx([aspect] * 5)


@needs_ffmpeg
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


@needs_ffmpeg
def test_a_wmv_of_variable_rate_is_whole(decoder: Decoder, tmp_path: Path) -> None:
    times = [number / 25 + (number >= 40) for number in range(60)]
    plain = write_video(tmp_path / "plain.mkv", 60, times=times, b_frames=0)
    ffmpeg("-i", plain, "-c:v", "wmv2", "-fps_mode", "passthrough", tmp_path / "a.wmv")
    reader = decoder.open(tmp_path / "a.wmv")
    assert [frame.time for frame in reader.stream()] == pytest.approx(times, abs=0.002)
    assert 60 <= reader.declared <= 61


@needs_ffmpeg
def test_times_count_from_the_first_frame_shown(decoder: Decoder, tmp_path: Path) -> None:
    """Whether the file begins late, or its first frames before time zero or without times."""
    steady = [number / 25 for number in range(60)]
    whole = write_video(tmp_path / "whole.mp4", 60, gop=60, b_frames=3)
    avi = write_video(tmp_path / "b.avi", 60, b_frames=3)
    late, early = tmp_path / "late.mkv", tmp_path / "early.mkv"
    ffmpeg("-itsoffset", 5, "-i", whole, "-c", "copy", "-copyts", late)
    ffmpeg("-itsoffset", -1, "-i", whole, "-c", "copy", "-copyts", early)
    for path in (whole, avi, late, early):
        reader = decoder.open(path)
        times = [frame.time for frame in reader.stream()]
        assert times == pytest.approx(steady, abs=0.002), path.name
        assert reader.declared == 60, path.name


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


def test_a_frame_is_freed_when_the_next_is_read(folder: Path) -> None:
    """Without garbage collection, which may come much later."""
    gc.collect()
    gc.disable()
    try:
        most = 0
        for number, _ in enumerate(build("pyav").open(folder / "simple.avi").stream()):
            if number % 20 == 19:
                alive = sum(type(each) is av.VideoFrame for each in gc.get_objects())
                most = max(most, alive)
    finally:
        gc.enable()
    assert 0 < most < 10


@pytest.mark.parametrize("name", ["decord", "pyav"])
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
