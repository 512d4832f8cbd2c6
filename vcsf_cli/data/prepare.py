"""Preparing a dataset: every video is decoded once, in parallel, and appended to the store in the
listing's order.

What is finished is in `journal.jsonl`, one line a video, written after the video's clips are in
their shard. A call that finds a journal cuts off whatever lies behind the last line, and goes on:
no finished video is decoded again, and the final bytes are those of an uninterrupted call."""

from __future__ import annotations

import csv
import json
import multiprocessing
import shutil
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError, wait
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pebble import ProcessExpired, ProcessPool

from vcsf_cli import registry
from vcsf_cli.contracts import Dataset, Video
from vcsf_cli.data import manifest
from vcsf_cli.data.decode import (
    Decoded,
    DecodeJob,
    StorageError,
    decode,
    heartbeat_path,
    ignore_interrupts,
)
from vcsf_cli.data.store import SHARD_BYTES, ShardWriter, member_name, read_description, shard_name
from vcsf_cli.errors import DataError, InputError
from vcsf_cli.narrate import Progress, say
from vcsf_cli.storage import files

_JOURNAL = "journal.jsonl"
PROBLEMS = "problems.csv"
_WORK = "work-"
SECONDS_BETWEEN_LOOKS = 0.2
_LONGEST_LOOK = 1.0
_GONE = -1
"""The size of a file that isn't there."""


@dataclass(frozen=True)
class Settings:
    """What the stored frames depend on; a folder holds frames of one setting only.

    Args:
        kind: Which dataset it is.
        decoder: Name of the decoder.
        size: Short side of the stored frames in pixels; a smaller video keeps its size.
        quality: Of the JPEGs, 1 to 100.
        fps: Frames per second that videos are resampled to, None for their own.
        max_seconds: What is longer is cut into clips; None never cuts.
        on_bad: `skip` leaves a bad video out, `keep` keeps what could be read of it.
    """

    kind: str
    decoder: str
    size: int = 128
    quality: int = 90
    fps: float | None = None
    max_seconds: float | None = 60.0
    on_bad: str = "skip"


@dataclass(frozen=True)
class Summary:
    """What a preparation came to.

    Args:
        videos: Videos of the dataset.
        clips: Clips in the manifest.
        frames: Frames in them.
        size: Bytes of their frames.
        bad: Videos with a problem.
        new: Videos that this call decoded.
    """

    videos: int
    clips: int
    frames: int
    size: int
    bad: int
    new: int


class _Journal:
    """What is finished, by video.

    Args:
        folder: The dataset's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / _JOURNAL
        self.entries: dict[str, dict[str, Any]] = {}
        self.shard = self.end = 0
        if not self.path.is_file():
            return
        whole_bytes = 0
        for line in self.path.read_bytes().splitlines(keepends=True):
            try:
                entry = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n") or not self._lies_there(folder, entry):
                break
            whole_bytes += len(line)
            self.entries[entry["name"]] = entry
            self.shard, self.end = entry["shard"], entry["end"]
        with self.path.open("r+b") as file:
            file.truncate(whole_bytes)

    @staticmethod
    def _lies_there(folder: Path, entry: dict[str, Any]) -> bool:
        """Whether an entry's shard is long enough: after a power cut the journal may be ahead of
        it."""
        if not entry["clips"]:
            return True
        for name in (shard_name(entry["shard"]), f"{shard_name(entry['shard'])}.partial"):
            path = folder / name
            if path.is_file():
                return path.stat().st_size >= int(entry["end"])
        return False

    def add(self, entry: dict[str, Any]) -> None:
        """Append an entry."""
        self.entries[entry["name"]] = entry
        with self.path.open("ab") as file:
            file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")

    def correct_sizes(self, sizes: dict[str, int]) -> None:
        """Write the sizes of some videos' files anew."""
        with self.path.open("rb") as old, files.whole(self.path) as new:
            for line in old:
                entry = json.loads(line)
                entry["size"] = sizes.get(entry["name"], entry["size"])
                new.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        for name, size in sizes.items():
            self.entries[name]["size"] = size


@dataclass
class Task:
    """A video that is being decoded, or will be.

    Args:
        future: Its result.
        heartbeat: A file that is touched whenever it gets on; there is none before it begins.
        size: Bytes of the video's file before it is decoded.
    """

    future: Any
    heartbeat: Path
    size: int
    still: float = 0.0
    """Seconds for which it has been seen to stand still."""
    touched: int = -1
    """When the heartbeat was last touched."""

    def still_for(self, seconds: float) -> float:
        """Look at it again after so many seconds: for how long it has stood still."""
        try:
            touched = self.heartbeat.stat().st_mtime_ns
        except OSError:
            return 0.0
        if touched != self.touched or self.future.done():
            self.touched, self.still = touched, 0.0
        else:
            self.still += seconds
        return self.still


class Preparation:
    """One call of `vcsf prepare`.

    Args:
        dataset: What to prepare.
        folder: The dataset's folder.
        settings: How.
        time_limit: Seconds without a new frame after which a video's decoding is killed.
        workers: Processes that decode.
        shard_bytes: A shard that has so many bytes takes no further video.
    """

    def __init__(
        self,
        dataset: Dataset,
        folder: Path,
        settings: Settings,
        time_limit: float,
        workers: int,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self.dataset, self.folder, self.settings = dataset, folder, settings
        self.time_limit, self.workers, self.shard_bytes = time_limit, workers, shard_bytes

    def run(self) -> Summary:
        """Prepare what is not prepared yet.

        Raises:
            InputError: If the folder holds a dataset of other settings, videos or labels, or
                another process is preparing it.
            DataError: If there is no video, a prepared one has changed, or the disk is full.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        busy = InputError(
            f"{self.folder} is being prepared by another process",
            "wait for it, or give another --name",
        )
        with files.only_one(self.folder / "lock", busy):
            self._check_settings()
            with registry.load().blame_for("dataset", self.settings.kind):
                if keep_parts := getattr(self.dataset, "keep_parts", None):
                    keep_parts(manifest.read_parts(self.folder))
                videos = self.dataset.videos()
                remarks = self.dataset.remarks()
            for remark in remarks:
                say(remark)
            path = self.folder / manifest.SETTINGS
            if (
                not path.exists()
            ):  # only now: a call that finds no video binds nobody to its options
                files.write_text(path, json.dumps(asdict(self.settings), indent=2) + "\n")
            self.journal = _Journal(self.folder)
            self._check_listing(videos)
            todo = self._todo(videos)
            for left_over in self.folder.glob(f"{_WORK}*"):
                shutil.rmtree(left_over, ignore_errors=True)
            try:
                # Every call has its own: a worker that outlives a killed call goes on writing into
                # its call's.
                with tempfile.TemporaryDirectory(
                    prefix=_WORK, dir=self.folder, ignore_cleanup_errors=True
                ) as work:
                    self._store(todo, len(videos), self._members(videos), Path(work))
            except (OSError, StorageError) as error:
                message = (
                    error.message
                    if isinstance(error, StorageError)
                    else f"{error.filename or self.folder}: {error.strerror}"
                )
                hint = "make room or mend the disk, then run the same command: what is finished is kept"
                raise DataError(f"the store can't be written: {message}", hint) from error
            return self._conclude(videos, len(todo))

    def _check_settings(self) -> None:
        path = self.folder / manifest.SETTINGS
        wanted = asdict(self.settings)
        if not path.is_file():
            return
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            there = error
        if not isinstance(there, dict):
            raise DataError(
                f"{path} is damaged" + (f": {there}" if isinstance(there, ValueError) else ""),
                f"delete {self.folder} and prepare again, or give another --name",
            )
        differing = [
            f"{key} {there.get(key)!r}, not {value!r}"
            for key, value in wanted.items()
            if there.get(key) != value
        ]
        if differing:
            raise InputError(
                f"{self.folder} was prepared with other settings: {'; '.join(differing)}",
                "give the same options, or another --name for a dataset beside it",
            )

    def _check_listing(self, videos: list[Video]) -> None:
        """See that what is stored is among the videos, and described as it was then: the shards
        can't be rewritten."""
        origins: Mapping[str, str] = getattr(self.dataset, "origins", {})
        stored = [entry for entry in self.journal.entries.values() if entry["clips"]]
        listed = {video.name: _listing_entry(video) for video in videos}
        beside = "give another --name for a dataset beside it"
        vanished = [entry["name"] for entry in stored if entry["name"] not in listed]
        if vanished:
            more = f" and {len(vanished) - 3:,} more" if len(vanished) > 3 else ""
            raise InputError(
                f"{self.folder} holds videos that are not there any more: "
                f"{', '.join(vanished[:3])}{more}",
                f"if this is another --source, {beside}; else bring them back",
            )
        for entry in stored:
            for key, value in listed[entry["name"]].items():
                if entry.get(key, value) != value:
                    raise InputError(
                        f"{self.folder} was prepared with another {key} of {entry['name']}: "
                        f"{entry[key]!r}, not "
                        f"{value!r}; that comes from {origins.get(key, '--source')}",
                        f"give it as before, or {beside}",
                    )

    def _members(self, videos: list[Video]) -> dict[str, str]:
        entries = self.journal.entries.values()
        stored = {
            entry["member"]: entry["name"]
            for entry in entries
            if entry["clips"] and "member" in entry
        }
        return member_names(videos, stored)

    def _todo(self, videos: list[Video]) -> list[Video]:
        """The videos that are not finished: new ones, bad ones whose file has changed, what crashed
        or took too long."""
        todo = []
        corrected = {}
        for video in videos:
            entry = self.journal.entries.get(video.name)
            if entry is None:
                todo.append(video)
                continue
            size = file_size(video.path)
            changed = size != entry["size"]
            if changed and not entry["problem"]:
                if not self._is_the_original(video, entry):
                    was = (
                        f" (it had {entry['size']:,} bytes then)" if entry["size"] != _GONE else ""
                    )
                    raise DataError(
                        f"{video.path} {'is gone' if size == _GONE else 'has changed'} since it "
                        f"was prepared{was}",
                        "prepare the dataset under another --name, or bring the file back",
                    )
                corrected[video.name] = size
                continue
            retry_above = entry["retry_above"]
            if changed or (retry_above is not None and retry_above < self.time_limit):
                todo.append(video)
        if corrected:
            self.journal.correct_sizes(corrected)
        return todo

    def _is_the_original(self, video: Video, entry: dict[str, Any]) -> bool:
        """Whether a file is the one that was decoded, where the journal lacks its size: earlier
        versions looked only after decoding, when a disk may have been unplugged."""
        if entry["size"] != _GONE:
            return False
        clip = entry["clips"][0]
        description = read_description(
            self.folder, entry["shard"], clip["offset"] + sum(clip["sizes"])
        )
        return bool(description["original_sha256"] == files.sha256(video.path))

    def _store(self, todo: list[Video], total: int, members: dict[str, str], work: Path) -> None:
        """Decode videos and append them in order."""
        writer = ShardWriter(self.folder, self.journal.shard, self.journal.end, self.shard_bytes)
        with Progress(total, "videos", "preparing", total - len(todo)) as progress:
            for video, size, decoded, retry_above in self._decoded(todo, work):
                entry = self._append(writer, video, size, decoded, members[video.name])
                self.journal.add({**entry, "retry_above": retry_above})
                progress.advance(1, f"bad: {self._bad()}" if self._bad() else "")
        writer.finish()

    def _bad(self) -> int:
        return sum(bool(entry["problem"]) for entry in self.journal.entries.values())

    def _decoded(
        self, todo: list[Video], work: Path
    ) -> Iterator[tuple[Video, int, Decoded, float | None]]:
        """Every video in order, its file's size before it was decoded, what came of it, and the
        time limit above which it is worth another try, None if never."""
        waiting: deque[tuple[Video, Task]] = deque()
        left = iter(enumerate(todo))
        context = multiprocessing.get_context("spawn")
        with ProcessPool(
            max_workers=self.workers, context=context, initializer=ignore_interrupts
        ) as pool:
            try:
                while True:
                    while (
                        len(waiting) < 3 * self.workers
                        and (following := next(left, None)) is not None
                    ):
                        number, video = following
                        recording = self._recording(video, str(work / f"{number:07d}"))
                        size = file_size(
                            video.path
                        )  # not later: a disk may be unplugged while it is decoded
                        future = pool.schedule(decode, args=[recording])
                        waiting.append((video, Task(future, heartbeat_path(recording.work), size)))
                    if not waiting:
                        return
                    self._await(waiting[0][1], [task for _, task in waiting])
                    video, task = waiting.popleft()
                    try:
                        decoded = task.future.result()
                        yield video, task.size, decoded, 0.0 if decoded.unread else None
                    except CancelledError:
                        problem = f"no frame for {self.time_limit:g} s: killed; see --time-limit"
                        yield video, task.size, Decoded(problem=problem), self.time_limit
                    except (
                        ProcessExpired
                    ) as error:  # perhaps the system had no memory left: the next call tries again
                        problem = f"the decoder crashed (exit status {error.exitcode})"
                        yield video, task.size, Decoded(problem=problem), 0.0
                    for left_over in work.glob(f"{task.heartbeat.stem}*"):
                        left_over.unlink(missing_ok=True)
            except BaseException:
                pool.stop()  # type: ignore[no-untyped-call]  # pebble's
                raise

    def _recording(self, video: Video, work: str) -> DecodeJob:
        settings = self.settings
        longest = None if self.dataset.benchmark else settings.max_seconds
        return DecodeJob(
            video.path,
            work,
            settings.decoder,
            settings.size,
            settings.quality,
            settings.fps,
            longest,
        )

    def _await(self, first: Task, tasks: list[Task]) -> None:
        """Wait until one task is done, killing every one that stands still for too long."""
        before = time.monotonic()
        while not wait([first.future], SECONDS_BETWEEN_LOOKS).done:
            now = time.monotonic()
            # A look that took longer was no look: this process itself stood still, and perhaps all
            # of them.
            seconds, before = min(now - before, _LONGEST_LOOK), now
            for task in tasks:
                if task.still_for(seconds) >= self.time_limit:
                    task.future.cancel()  # which kills its process

    def _append(
        self, writer: ShardWriter, video: Video, size: int, decoded: Decoded, member: str
    ) -> dict[str, Any]:
        """Append a video's clips to the store and describe them for the journal."""
        keeps = decoded.clips and (not decoded.problem or self.settings.on_bad == "keep")
        clips = []
        if keeps:
            writer.begin_video()
        for number, clip in enumerate(decoded.clips):
            suffix = f"#{number:03d}" if len(decoded.clips) > 1 else ""
            if keeps:
                shape = {
                    "frames": len(clip.sizes),
                    "fps": decoded.fps,
                    "width": clip.width,
                    "height": clip.height,
                }
                description = {
                    "video": video.name + suffix,
                    **_listing_entry(video),
                    **shape,
                    "repeated_frames": clip.repeated,
                    "original_sha256": decoded.sha256,
                    "frame_bytes": clip.sizes,
                }
                # `+` is in no video's member name, so that no other video can have a clip's.
                offset = writer.append(member + suffix.replace("#", "+"), clip.path, description)
                clips.append(
                    {
                        "video": video.name + suffix,
                        **shape,
                        "offset": offset,
                        "sizes": clip.sizes,
                        "sha256": clip.sha256,
                    }
                )
            clip.path.unlink(missing_ok=True)
        writer.flush()
        return {
            "name": video.name,
            "member": member,
            **_listing_entry(video),
            # A bad video whose file changed or vanished meanwhile gets no file's size: the next
            # call tries it again.
            "size": size if not decoded.problem or size == file_size(video.path) else _GONE,
            "problem": decoded.problem,
            "read": decoded.read,
            "declared": decoded.declared,
            "clips": clips,
            "shard": writer.shard,
            "end": writer.end,
        }

    def _conclude(self, videos: list[Video], new: int) -> Summary:
        """Write the list of problems and the manifest."""
        entries = [(video, self.journal.entries[video.name]) for video in videos]
        problems = [entry for _, entry in entries if entry["problem"]]
        with files.whole(self.folder / PROBLEMS, "w") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["video", "reason", "frames_read", "frames_declared", "kept"])
            for entry in problems:
                kept = "yes" if entry["clips"] else "no"
                table.writerow(
                    [entry["name"], entry["problem"], entry["read"], entry["declared"], kept]
                )
        rows = [row for video, entry in entries for row in _manifest_rows(video, entry)]
        if not rows:
            raise DataError(
                f"none of the {len(videos)} videos could be prepared",
                f"the reasons are in {self.folder / PROBLEMS}",
            )
        manifest.write(self.folder, rows)
        frames, size = sum(row["frames"] for row in rows), sum(row["bytes"] for row in rows)
        return Summary(len(videos), len(rows), frames, size, len(problems), new)


def file_size(path: Path) -> int:
    """Bytes of a file, `_GONE` if it is not there: a link may lead nowhere."""
    try:
        return path.stat().st_size
    except OSError:
        return _GONE


def _listing_entry(video: Video) -> dict[str, str | None]:
    """What a listing says of a video and its shard repeats."""
    return {"label": video.label, "group": video.group, "source": video.source or video.name}


def _manifest_rows(video: Video, entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The manifest's rows of a video: labels and parts are the listing's, the rest is the
    journal's."""
    for clip in entry["clips"]:
        offsets = [clip["offset"]]
        for size in clip["sizes"]:
            offsets.append(offsets[-1] + size)
        yield {
            "video": clip["video"],
            **_listing_entry(video),
            **{key: clip[key] for key in ("frames", "fps", "width", "height", "offset", "sha256")},
            **{f"split{number}": part for number, part in enumerate(video.split, start=1)},
            "shard": entry["shard"],
            "bytes": offsets[-1] - offsets[0],
            "frame_offsets": offsets,
        }


def member_names(videos: list[Video], stored: dict[str, str]) -> dict[str, str]:
    """Names in the shards, no two alike: the path without its ending, or with it where that is
    another video's name too.

    Args:
        videos: All videos.
        stored: The video whose clips have a name already, by name; a video added later can't have
            it.
    """
    endings = {video.name: PurePosixPath(video.name).suffix for video in videos}
    names = {name: name.removesuffix(ending) for name, ending in endings.items()}
    while shared := {name for name, count in Counter(names.values()).items() if count > 1}:
        # All of them get their own path, which no two share, so this ends.
        names = {video: video if name in shared else name for video, name in names.items()}
    taken = {*names.values()}
    found = {}
    for video, name in names.items():
        while stored.get(member_name(name), video) != video or (
            name != names[video] and name in taken
        ):
            name += endings[video] or "~"
        taken.add(name)
        found[video] = member_name(name)
    return found
