"""Which decoder is exact for which kind of video, and what it costs: the tables of docs/video.md.

python tests/benchmarks/decoders.py [FOLDER]

FOLDER holds `cases/` and `data/originals/`. Each library reads alone here, from the first frame on.
The reference is a sequential decode by the ffmpeg program."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from vcsf_plugins.decoders.checked import DecordReader, TorchCodecReader
from videos import Image, ffmpeg_frames, set_matrix, write_video

from vcsf_cli import registry
from vcsf_cli.contracts import Frames

KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "MPEG-4 part 2, B-frames, yuv420p, AVI": ("a.avi", ("-c:v", "mpeg4", "-bf", "2")),
    "MPEG-4 part 2, yuv420p, MP4": ("a.mp4", ("-c:v", "mpeg4")),
    "H.264, yuv420p, MP4": ("a.mp4", ("-c:v", "libx264")),
    "H.264, yuv420p, MPEG-TS": ("a.ts", ("-c:v", "libx264")),
    "H.264 interlaced, yuv420p, MP4": (
        "a.mp4",
        ("-c:v", "libx264", "-vf", "tinterlace,setfield=tff", "-flags", "+ildct+ilme"),
    ),
    "H.264 turned by a matrix, MP4": ("turned.mp4", ("-c:v", "libx264")),
    "H.264 mirrored by a matrix, MP4": ("mirrored.mp4", ("-c:v", "libx264")),
    "H.264 turned by SEI, MP4": (
        "a.mp4",
        ("-c:v", "libx264", "-bsf:v", "h264_metadata=display_orientation=insert:rotate=90"),
    ),
    "HEVC, yuv420p10le, MP4": (
        "a.mp4",
        ("-c:v", "libx265", "-x265-params", "log-level=none", "-pix_fmt", "yuv420p10le"),
    ),
    "AV1, yuv420p, MP4": ("a.mp4", ("-c:v", "libaom-av1", "-cpu-used", "8")),
    "VP8, yuv420p, WebM without duration": ("a.webm", ("-c:v", "libvpx", "-live", "1")),
    "VP9, yuv420p, WebM": ("a.webm", ("-c:v", "libvpx-vp9", "-cpu-used", "8")),
    "MPEG-1, yuv420p, MPEG-PS": ("a.mpg", ("-c:v", "mpeg1video")),
    "MPEG-2, yuv420p, MPEG-TS": ("a.ts", ("-c:v", "mpeg2video")),
    "WMV 8, yuv420p, ASF": ("a.wmv", ("-c:v", "wmv2")),
    "Sorenson, yuv420p, FLV": ("a.flv", ()),
    "Theora, yuv420p, Ogg": ("a.ogv", ()),
    "Motion JPEG, yuvj420p, AVI": ("a.avi", ("-c:v", "mjpeg")),
    "ProRes, yuv422p10le, MOV": ("a.mov", ("-c:v", "prores")),
    "FFV1, yuv420p10le, Matroska": ("a.mkv", ("-c:v", "ffv1", "-pix_fmt", "yuv420p10le")),
    "QuickTime Animation, pal8, MOV": ("a.mov", ("-c:v", "qtrle", "-pix_fmt", "gray")),
    "GIF, bgra": ("a.gif", ()),
}
MATRICES = {"turned.mp4": (0, 1, -1, 0), "mirrored.mp4": (-1, 0, 0, 1)}
CASES = ("cover_first.mp4", "cut.mkv", "palette.avi", "size_change.mkv")

Read = Callable[[Path], Iterable[Frames]]
LIBRARIES: dict[str, Read] = {
    "decord": lambda path: DecordReader(path)._images(),
    "torchcodec": lambda path: TorchCodecReader(path)._images(),
    "PyAV": lambda path: (frame.image for frame in open_with("pyav", path)),
}


def open_with(decoder: str, path: Path) -> Iterable[object]:
    return registry.load().build("decoder", decoder).open(path).stream()


def verdict(images: Iterable[Frames], truth: Image) -> str:
    count = wrong = 0
    for count, image in enumerate(images, start=1):
        expected = truth[min(count, len(truth)) - 1]
        wrong += image.shape != expected.shape or bool(
            np.abs(image.astype(np.int16) - expected).mean() >= 1
        )
    if not count:
        return "can't"
    lost = len(truth) - count
    found = [f"{wrong} wrong"] * bool(wrong) + [f"{lost} missing"] * bool(lost)
    return ", ".join(found) or "exact"


def show_exactness(folder: Path, cases: Path) -> None:
    click.echo(f"| of {FRAMES} frames | {' | '.join(LIBRARIES)} |\n|---|{'---|' * len(LIBRARIES)}")
    plain = write_video(folder / "plain.mp4", FRAMES)
    files = {name: cases / name for name in CASES if (cases / name).is_file()}
    for number, (kind, (name, arguments)) in enumerate(KINDS.items()):
        path = folder / str(number) / name
        path.parent.mkdir()
        command = ["ffmpeg", "-v", "error", "-i", str(plain), *arguments, str(path)]
        subprocess.run(command, check=True)
        files[kind] = set_matrix(path, MATRICES[name]) if name in MATRICES else path
    for kind, path in files.items():
        height, width = next(iter(LIBRARIES["PyAV"](path))).shape[:2]
        truth = ffmpeg_frames(path, width, height)
        cells = [verdict(read(path), truth) for read in LIBRARIES.values()]
        click.echo(f"| {kind} | {' | '.join(cells)} |")


def show_costs(paths: list[Path]) -> None:
    readers = LIBRARIES | {
        f"--decoder {name}": lambda path, name=name: open_with(name, path)
        for name in ("auto", "decord", "torchcodec")
    }
    for read in readers.values():  # what is loaded once doesn't count
        list(read(paths[0]))
    spent = dict.fromkeys(readers, 0.0)
    for path in paths * 3:
        for name, read in readers.items():
            begun = time.process_time()
            for _ in read(path):
                pass
            spent[name] += time.process_time() - begun
    click.echo(f"\n| {len(paths)} originals | CPU ms per video |\n|---|---|")
    for name, seconds in spent.items():
        click.echo(f"| {name} | {1000 * seconds / 3 / len(paths):.1f} |")


FRAMES = 60

if __name__ == "__main__":
    names = ("av", "decord", "torchcodec", "torch")
    click.echo(", ".join(f"{name} {version(name)}" for name in names) + "\n")
    for name in ("decord", "torchcodec"):
        registry.load().build("decoder", name)  # decord is made silent
    shared = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory() as scratch:
        show_exactness(Path(scratch), shared / "cases" if shared else Path())
    if shared:
        show_costs(sorted((shared / "data" / "originals").rglob("*.avi"))[::3])
