"""The files of the synthetic dataset: videos named and grouped as those of UCF101, with lists for
three splits."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Annotated

import av
import cv2
import numpy as np
from annotated_types import Interval

from vcsf_cli.contracts import Frames, Video
from vcsf_cli.errors import DataError, InputError
from vcsf_cli.narrate import Progress
from vcsf_plugins.synthetic.actions import ACTIONS
from vcsf_plugins.synthetic.scene import FPS, draw_look, render

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

_SETTINGS = "synthetic.json"
_LISTS = "ucfTrainTestlist"
_B_FRAMES_EVERY = 3
"""Every third clip has B-frames, as many of UCF101's and HMDB51's originals have."""


@dataclass(frozen=True)
class Settings:
    """The settings of `Synthetic`, on which its videos depend."""

    classes: int
    groups: int
    clips: int
    frames: int
    height: int
    seed: int


@dataclass(frozen=True)
class Take:
    """One clip to be made.

    Args:
        label: Name of its class.
        group: Its group's number, from 1.
        clip: Its number in the group, from 1.
    """

    label: str
    group: int
    clip: int

    @property
    def name(self) -> str:
        """`Walk/v_Walk_g01_c01.avi`."""
        return f"{self.label}/v_{self.label}_g{self.group:02d}_c{self.clip:02d}.avi"

    def part(self, split: int) -> str:
        """Its part in a split: every third group is test, other ones in each split."""
        return "test" if self.group % 3 == split % 3 else "train"


class Synthetic:
    """Videos that vcsf draws itself: an articulated figure performs actions before changing scenes.

    Args:
        classes: Number of actions.
        groups: Groups of each action: same performer, clothes, background and camera.
        clips: Clips of each group.
        frames: Frames of a clip, on average.
        height: Of the picture in pixels; it is 4/3 as wide.
        seed: The same seed gives the same frames.
    """

    benchmark = True
    recipe = "recipes/demo.yaml"

    def __init__(
        self,
        root: Path,
        /,
        *,
        classes: Annotated[int, Interval(ge=2, le=len(ACTIONS))] = 10,
        groups: Annotated[int, Interval(ge=3, le=99)] = 21,
        clips: Annotated[int, Interval(ge=1, le=99)] = 3,
        frames: Annotated[int, Interval(ge=8, le=1000)] = 72,
        height: Annotated[int, Interval(ge=32, le=512)] = 96,
        seed: Annotated[int, Interval(ge=0)] = 0,
    ) -> None:
        self.root, self.settings = root, Settings(classes, groups, clips, frames, height, seed)

    def videos(self) -> list[Video]:
        """All videos, sorted by name; what is missing is made first, by all cores.

        Raises:
            InputError: If the folder holds videos of other settings, or other files.
            DataError: If it can't be read which settings they are of.
        """
        self._check_settings()
        takes = list(all_takes(self.settings))
        _remove_abandoned(
            [
                self.root / _SETTINGS,
                *(self.root / _LISTS / name for name in _list_texts(takes)),
                *(self.root / "videos" / take.name for take in takes),
            ]
        )
        missing = [take for take in takes if not (self.root / "videos" / take.name).is_file()]
        if missing:
            self._make(missing)
        (self.root / _LISTS).mkdir(exist_ok=True)
        for name, text in _list_texts(takes).items():
            _write_whole(self.root / _LISTS / name, text)
        videos = [
            Video(
                path=self.root / "videos" / take.name,
                name=take.name,
                label=take.label,
                group=f"g{take.group:02d}",
                source=f"{take.label}_g{take.group:02d}",
                split=(take.part(1), take.part(2), take.part(3)),
            )
            for take in takes
        ]
        return sorted(videos, key=lambda video: video.name)

    def remarks(self) -> list[str]:
        settings = self.settings
        return [
            f"{settings.classes} actions, {settings.groups} groups each, {settings.clips} clips a "
            "group"
        ]

    def _check_settings(self) -> None:
        path, wanted = self.root / _SETTINGS, asdict(self.settings)
        if not path.is_file():
            self.root.mkdir(parents=True, exist_ok=True)
            others = [each.name for each in self.root.iterdir() if not each.name.startswith(".")]
            if others:
                raise InputError(
                    f"{self.root} holds other files, such as {min(others)}: no videos are drawn "
                    "there",
                    "leave out --source, or name a new folder",
                )
            _write_whole(path, json.dumps(wanted, indent=2) + "\n")
            return
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(there, dict):
                raise ValueError("it is not a mapping")
        except ValueError as error:
            raise DataError(
                f"{path} is damaged: {error}",
                f"delete {self.root} and run the same command: its videos are drawn again",
            ) from error
        changed = [key for key in wanted if there.get(key) != wanted[key]]
        if changed:
            what = "; ".join(f"{key} {there.get(key)}, not {wanted[key]}" for key in changed)
            raise InputError(
                f"{self.root} holds synthetic videos of other settings: {what}",
                "give another --name",
            )

    def _make(self, takes: list[Take]) -> None:
        for take in takes:
            (self.root / "videos" / take.label).mkdir(parents=True, exist_ok=True)
        context = multiprocessing.get_context("spawn")
        with (
            ProcessPoolExecutor(os.cpu_count(), context, _end_with_parent) as pool,
            Progress(len(takes), "videos", "drawing") as progress,
        ):
            for _ in pool.map(
                partial(make, self.settings, self.root / "videos"), takes, chunksize=4
            ):
                progress.advance()


def _end_with_parent() -> None:
    """End this process when the one that started it has ended, by `kill -9` too; it would wait for
    work for ever."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        assert parent is not None
        parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()


def all_takes(settings: Settings) -> Iterator[Take]:
    for label in list(ACTIONS)[: settings.classes]:
        for group in range(1, settings.groups + 1):
            for clip in range(1, settings.clips + 1):
                yield Take(label, group, clip)


def make(settings: Settings, folder: Path, take: Take) -> None:
    """Draw a clip and write its file."""
    cv2.setNumThreads(1)
    path = folder / take.name
    b_frames = 2 if (take.group * settings.clips + take.clip) % _B_FRAMES_EVERY == 0 else 0
    with _whole(path, ".avi") as partial_path:
        encode(partial_path, draw(settings, take), b_frames)


def draw(settings: Settings, take: Take) -> Frames:
    """A clip's frames: the same for the same settings, whatever else is drawn."""
    number = list(ACTIONS).index(take.label)
    width, height = round(settings.height * 4 / 3 / 2) * 2, settings.height
    look_rng = np.random.default_rng((settings.seed, number, take.group))
    look = draw_look(number / settings.classes, width, height, look_rng)
    clip_rng = np.random.default_rng((settings.seed, number, take.group, take.clip))
    frames = round(settings.frames * clip_rng.uniform(0.85, 1.15))
    return render(ACTIONS[take.label], look, frames, width, height, clip_rng)


def encode(path: Path, frames: Frames, b_frames: int) -> None:
    """Write an MPEG-4 AVI file, as UCF101's are."""
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 12
        stream.max_b_frames = b_frames
        stream.codec_context.thread_count = 1  # equal bytes on every machine
        stream.codec_context.qmin = stream.codec_context.qmax = 4
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with (
        _whole(path, ".partial") as partial_path,
        partial_path.open("w", encoding="utf-8", newline="") as file,
    ):
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _whole(path: Path, ending: str) -> Iterator[Path]:
    """A path to write to, which becomes `path` at the end; after an error nothing is left of it.

    The file is locked while its process lives: one that isn't was left by a process that was
    killed."""
    partial_path = path.with_name(f".{path.name}.{os.getpid()}{ending}")
    try:
        with ExitStack() as held:
            if fcntl is not None:  # Windows renames no file that is open
                file = held.enter_context(partial_path.open("wb"))
                with suppress(OSError):  # of a file system without locks
                    fcntl.flock(file, fcntl.LOCK_EX)
            yield partial_path
            partial_path.replace(path)
    finally:
        partial_path.unlink(missing_ok=True)


def _remove_abandoned(paths: Sequence[Path]) -> None:
    """Remove what killed processes left of files that they were writing."""
    written = set(paths)
    for folder in {path.parent for path in paths} if fcntl is not None else ():
        for path in folder.glob(".*"):
            name = re.fullmatch(r"\.(.+)\.\d+\.(avi|partial)", path.name)
            if name and folder / name[1] in written:
                with suppress(OSError), path.open("r+b") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()


def _list_texts(takes: list[Take]) -> dict[str, str]:
    """The official lists by file name: `classInd.txt`, `trainlist01.txt` and so on."""
    labels = list(dict.fromkeys(take.label for take in takes))
    lines = [f"{number} {label}" for number, label in enumerate(labels, start=1)]
    found = {"classInd.txt": "\n".join(lines) + "\n"}
    for split in (1, 2, 3):
        for part in ("train", "test"):
            chosen = [take for take in takes if take.part(split) == part]
            number = {
                label: f" {index}" if part == "train" else ""
                for index, label in enumerate(labels, start=1)
            }
            found[f"{part}list{split:02d}.txt"] = "".join(
                f"{take.name}{number[take.label]}\n" for take in chosen
            )
    return found
