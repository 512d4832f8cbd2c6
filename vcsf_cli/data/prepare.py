"""Preparing a dataset: every video is decoded once, in parallel, and appended to the store in the
order of the listing.

The journal says what is finished. A later call cuts off what lies behind its last line in the store
and goes on there: no finished video is decoded again, and the files are the same, byte for byte,
as those of one uninterrupted call."""

from __future__ import annotations

import csv
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from vcsf_cli import registry
from vcsf_cli.contracts import Dataset, RemoteFile, Video
from vcsf_cli.data import manifest
from vcsf_cli.data.decode import Clip, Settings, StorageError
from vcsf_cli.data.journal import Journal
from vcsf_cli.data.pool import MISSING, Outcome, decode_all, file_size
from vcsf_cli.data.splits import describe_duplicates
from vcsf_cli.data.store import SHARD_BYTES, ShardWriter, member_name, read_description
from vcsf_cli.engine.engine import Engine
from vcsf_cli.errors import DENIED, TOO_FEW, DataError, InputError
from vcsf_cli.narrate import Progress, say
from vcsf_cli.remote import local_copy
from vcsf_cli.storage import files
from vcsf_cli.storage.sealed import read_json, write_json

PROBLEMS = "problems.csv"
_LOCK = "lock"
_WORK = "work-"


@dataclass(frozen=True)
class Summary:
    """The result of a preparation.

    Args:
        videos: Videos of the dataset.
        clips: Clips in the manifest.
        frames: Frames in them.
        size: Bytes of their frames.
        bad: Videos with a problem.
        damaged: Other videos, some of whose frames had errors that the decoder concealed.
        new: Videos that this call decoded.
    """

    videos: int
    clips: int
    frames: int
    size: int
    bad: int
    damaged: int
    new: int


@dataclass
class Preparation:
    """One call of `vcsf prepare`.

    Args:
        dataset: What to prepare.
        folder: The dataset's folder.
        settings: What the stored frames depend on.
        time_limit: Seconds without a new frame after which the decoding of a video is killed.
        engine: Where to decode.
        shard_bytes: A shard of this size takes no further video.
    """

    dataset: Dataset
    folder: Path
    settings: Settings
    time_limit: float
    engine: Engine
    shard_bytes: int = SHARD_BYTES

    def run(self) -> Summary:
        """Prepare what is not prepared yet.

        Raises:
            InputError: If the folder holds a dataset of other settings, videos or labels, or
                another process is preparing it.
            DataError: If there is no video, a prepared one has changed, the disk is full, or the
                processes that decode fail.
        """
        made = [
            path
            for path in (self.folder / _LOCK, self.folder, *self.folder.parents)
            if not path.exists()
        ]
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.lock(), _removing_if_empty(self.folder, made):
            self.check_settings()
            videos = self.list_videos()
            path = self.folder / manifest.SETTINGS
            if not path.exists():  # not before: without videos no later call is bound to them
                write_json(path, asdict(self.settings))
            self.journal = Journal(self.folder)
            self._check_listing(videos)
            unfinished = self._unfinished(videos)
            self._decode(videos, unfinished)
            return self.finish(videos, len(unfinished))

    def lock(self) -> AbstractContextManager[None]:
        """Hold the folder's lock.

        Raises:
            InputError: If another process does.
        """
        busy = InputError(
            f"{self.folder} is being prepared by another process",
            "wait for it, or give another --name",
        )
        return files.lock(self.folder / _LOCK, busy)

    def check_settings(self) -> None:
        """Check that the folder is of these settings.

        Raises:
            InputError: If it is of others.
            DataError: If the file of the settings is damaged.
        """
        there = read_settings(self.folder)
        if there is None:
            return
        defaults = {field.name: field.default for field in fields(Settings)}
        there = {
            key: there.get(key, defaults[key])  # earlier versions had fewer settings
            for key in defaults
        }
        differing = [
            f"{key} {there[key]!r}, not {value!r}"
            for key, value in asdict(self.settings).items()
            if there[key] != value
        ]
        if differing:
            raise InputError(
                f"{self.folder} was prepared with other settings: {'; '.join(differing)}",
                "give the same options, or another --name for a dataset beside it",
            )

    def list_videos(self, parts: Mapping[str, tuple[str, str, str]] | None = None) -> list[Video]:
        """The dataset's videos, now.

        Args:
            parts: The part of every recording in each split; None: as the manifest says.
        """
        with registry.load().blame_for("dataset", self.settings.kind):
            if keep_parts := getattr(self.dataset, "keep_parts", None):
                keep_parts(manifest.read_parts(self.folder) if parts is None else parts)
            videos = self.dataset.videos()
            remarks = self.dataset.remarks()
        for remark in remarks:
            say(remark)
        return videos

    def _check_listing(self, videos: list[Video]) -> None:
        """Check that all stored videos are still listed, and described as they were: shards can't
        be rewritten."""
        origins: Mapping[str, str] = getattr(self.dataset, "origins", {})
        stored = [entry for entry in self.journal.entries.values() if entry["clips"]]
        listed = {video.name: _listing_entry(video) for video in videos}
        beside = "give another --name for a dataset beside it"
        gone = [entry["name"] for entry in stored if entry["name"] not in listed]
        if gone:
            more = f" and {len(gone) - 3:,} more" if len(gone) > 3 else ""
            raise InputError(
                f"{self.folder} holds videos that are not there any more: "
                f"{', '.join(gone[:3])}{more}",
                f"if this is another --source, {beside}; else bring them back",
            )
        for entry in stored:
            for key, value in listed[entry["name"]].items():
                if entry.get(key, value) != value:
                    raise InputError(
                        f"{self.folder} was prepared with another {key} of {entry['name']}: "
                        f"{entry[key]!r}, not {value!r}; that comes from "
                        f"{origins.get(key, '--source')}",
                        f"give it as before, or {beside}",
                    )

    def _unfinished(self, videos: list[Video]) -> list[Video]:
        """New videos, bad ones whose file has changed, and those whose decoding crashed or took too
        long.

        Raises:
            DataError: If the file of a finished one has changed.
        """
        found = []
        corrected: dict[str, dict[str, Any]] = {}
        for video in videos:
            entry = self.journal.entries.get(video.name)
            if entry is None:
                found.append(video)
                continue
            size, retry_above = file_size(video.path), entry["retry_above"]
            if size != entry["size"] and not entry["problem"]:
                self._check_original(video, entry, size)
                corrected[video.name] = {"size": size}
            elif size != entry["size"] or (
                retry_above is not None and retry_above < self.time_limit
            ):
                found.append(video)
        if corrected:
            self.journal.change(corrected)
        return found

    def _check_original(self, video: Video, entry: dict[str, Any], size: int) -> None:
        """Check that a file is the one that was decoded, where the journal lacks its size: earlier
        versions looked only after decoding, when a disk may have been unplugged."""
        was = f" (it had {entry['size']:,} bytes then)"
        if entry["size"] == MISSING:
            was = ""
            with local_copy(video.path) as path:
                if _read_original(self.folder, entry) == files.sha256(path):
                    return
        raise DataError(
            f"{video.path} {'is gone' if size == MISSING else 'has changed'} since it was "
            f"prepared{was}",
            "prepare the dataset under another --name, or bring the file back",
        )

    def _decode(self, videos: list[Video], unfinished: list[Video]) -> None:
        """Decode videos and append them to the store in order."""
        members = self.members(videos)
        writer = ShardWriter(self.folder, self.journal.shard, self.journal.end, self.shard_bytes)
        title, done = "preparing", len(videos) - len(unfinished)
        bad = {name for name, entry in self.journal.entries.items() if entry["problem"]}
        with (
            closing(self.decoded(unfinished)) as outcomes,
            Progress(len(videos), "videos", title, done) as progress,
        ):
            for video, outcome in outcomes:
                with _storing(self.folder):
                    entry = self.append(writer, video, outcome, members[video.name])
                    self.journal.add(entry)
                (bad.add if entry["problem"] else bad.discard)(video.name)
                progress.advance(1, f"bad: {len(bad)}" if bad else "")
        with _storing(self.folder):
            writer.finish()

    def members(self, videos: list[Video]) -> dict[str, str]:
        """The name of every video in the shards."""
        stored = [entry for entry in self.journal.entries.values() if entry["clips"]]
        return member_names(
            videos, {entry["member"]: entry["name"] for entry in stored if "member" in entry}
        )

    def decoded(self, videos: list[Video]) -> Generator[tuple[Video, Outcome], None, None]:
        """Decode videos. Their files of clips are there until the next one is asked for.

        Raises:
            DataError: If they can't be written, or the processes that decode fail.
        """
        settings = self.settings
        if self.dataset.benchmark:
            settings = replace(settings, max_seconds=None)
        for left_over in self.folder.glob(f"{_WORK}*"):
            shutil.rmtree(left_over, ignore_errors=True)
        # A folder of this call's own: workers that outlive a killed call write into theirs.
        with _storing(self.folder):
            own = tempfile.TemporaryDirectory(
                prefix=_WORK, dir=self.folder, ignore_cleanup_errors=True
            )
        with own as work, _decoding():
            paths = (video.path for video in videos)
            outcomes = decode_all(paths, settings, self.engine, Path(work), self.time_limit)
            yield from zip(videos, outcomes, strict=True)

    def append(
        self, writer: ShardWriter, video: Video, outcome: Outcome, member: str
    ) -> dict[str, Any]:
        """Append a video's clips to the store; returns its entry for the journal."""
        decoded, size = outcome.decoded, outcome.size
        clips: list[dict[str, Any]] = []
        if decoded.clips and (not decoded.problem or self.settings.on_bad == "keep"):
            writer.begin_video()
            for number, clip in enumerate(decoded.clips):
                # `+` is in no video's member name, so that no other video can have a clip's.
                suffix = f"{number:03d}" if len(decoded.clips) > 1 else ""
                clips.append(
                    _append_clip(
                        writer,
                        f"{member}+{suffix}" if suffix else member,
                        clip,
                        _listing_entry(video) | {"original_sha256": decoded.sha256},
                        video=f"{video.name}#{suffix}" if suffix else video.name,
                        fps=decoded.fps,
                    )
                )
            writer.flush()
        if decoded.problem and size != file_size(video.path):
            size = MISSING  # the file changed meanwhile: the next call tries it again
        return {
            "name": video.name,
            "member": member,
            **_listing_entry(video),
            "split": [*video.split],
            "size": size,
            "original": decoded.sha256,
            "problem": _plain_reason(decoded.problem, video.path),
            "read": decoded.read,
            "declared": decoded.declared,
            "damaged": decoded.damaged,
            "decoder": decoded.decoder,
            "clips": clips,
            "shard": writer.shard,
            "end": writer.end,
            "retry_above": outcome.retry_above,
        }

    def finish(self, videos: list[Video], new: int) -> Summary:
        """Write the list of problems and the manifest, and the parts into the journal too: drawn
        ones stand nowhere else.

        Raises:
            DataError: If there is no clip.
        """
        moved = {
            video.name: {"split": list(video.split)}
            for video in videos
            if self.journal.entries[video.name].get("split") != list(video.split)
        }
        if moved:
            self.journal.change(moved)
        entries = [(video, self.journal.entries[video.name]) for video in videos]
        bad = sum(bool(entry["problem"]) for _, entry in entries)
        noted = {entry["name"]: reason for _, entry in entries if (reason := _reason(entry))}
        with files.atomic_write(self.folder / PROBLEMS, "w") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["video", "reason", "frames_read", "frames_declared", "kept"])
            for name, reason in noted.items():
                entry = self.journal.entries[name]
                kept = "yes" if entry["clips"] else "no"
                table.writerow([name, reason, entry["read"], entry["declared"], kept])
        rows = [
            row for video, entry in entries for row in _manifest_rows(self.folder, video, entry)
        ]
        if not rows:
            raise DataError(
                "the only video could not be prepared"
                if len(videos) == 1
                else f"none of the {len(videos):,} videos could be prepared",
                f"the reasons are in {self.folder / PROBLEMS}",
            )
        manifest.write(self.folder, rows)
        for remark in describe_duplicates(pd.DataFrame(rows)):
            say(f"warning: {remark}")
        frames, size = sum(row["frames"] for row in rows), sum(row["bytes"] for row in rows)
        return Summary(len(videos), len(rows), frames, size, bad, len(noted) - bad, new)


@contextmanager
def _removing_if_empty(folder: Path, made: list[Path]) -> Iterator[None]:
    """After an error remove a folder in which nothing was prepared.

    Args:
        made: What this call has made: the lock, which it holds, the folder and those above it.
    """
    try:
        yield
    except BaseException:
        for path in folder.iterdir():
            with suppress(OSError):  # a file, or a folder that holds something
                path.rmdir()
        if [path.name for path in folder.iterdir()] == [_LOCK]:
            with suppress(OSError):  # something else was put there meanwhile
                for path in made:
                    path.rmdir() if path.is_dir() else path.unlink()
        raise


@contextmanager
def _storing(folder: Path) -> Iterator[None]:
    """Say of an error of the disk that the store can't be written.

    Raises:
        DataError: If it can't.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (*TOO_FEW, *DENIED):
            raise
        raise _unwritable(f"{error.filename or folder}: {error.strerror}") from error


@contextmanager
def _decoding() -> Iterator[None]:
    """Say what is wrong with the processes that decode. An error of a video is its own.

    Raises:
        DataError: If they fail, or can't write clips.
    """
    try:
        yield
    except StorageError as error:
        raise _unwritable(error.message) from error
    except OSError as error:
        if error.errno in TOO_FEW:
            raise
        raise DataError(
            f"the processes that decode failed: {error.strerror or error}",
            "perhaps memory or processes run out (ulimit -v, -u): use fewer --workers; the same "
            "command goes on",
        ) from error


def _unwritable(message: str) -> DataError:
    return DataError(
        f"the store can't be written: {message}",
        "make room or mend the disk, then run the same command: what is finished is kept",
    )


def _reason(entry: dict[str, Any]) -> str:
    """What is wrong with a video, or with frames of one that was kept; empty: nothing."""
    if entry["problem"] or not entry.get("damaged"):
        return str(entry["problem"])
    return f"{entry['damaged']} of {entry['read']} frames had errors that the decoder concealed"


def read_settings(folder: Path) -> dict[str, Any] | None:
    """The settings that a dataset's folder was prepared with, None before that.

    Raises:
        DataError: If they are damaged.
    """
    path = folder / manifest.SETTINGS
    if not path.is_file():
        return None
    return read_json(path, dict, manifest.MEND, DataError)


def _append_clip(
    writer: ShardWriter,
    member: str,
    clip: Clip,
    origin: dict[str, Any],
    video: str,
    fps: float,
) -> dict[str, Any]:
    """Append a clip to a shard; returns what the journal says of it."""
    shape = {"frames": len(clip.sizes), "fps": fps, "width": clip.width, "height": clip.height}
    description = {
        "video": video,
        **origin,
        **shape,
        "repeated_frames": clip.repeated,
        "frame_bytes": clip.sizes,
    }
    offset = writer.append(member, clip.path, description)
    return {
        "video": video,
        **shape,
        "offset": offset,
        "sizes": clip.sizes,
        "crc32": clip.crc32,
        **({"times": [round(time, 6) for time in clip.times]} if clip.times else {}),
        "sha256": clip.sha256,
    }


def _plain_reason(problem: str, path: Path | RemoteFile) -> str:
    """What is wrong with a video, the same on every machine and whenever it is tried: without its
    path, numbers of errors, times of day and lines of a library's code."""
    own = rf"(?:file:)?{re.escape(str(path))}"
    for pattern in (
        r"\[\d\d:\d\d:\d\d\] \S+:\d+: ",  # as decord begins
        r"\[Errno -?\d+\] ",
        rf": '{own}'$",
        rf"\[{own}\] ",
        rf"^{own}:? ",
    ):
        problem = re.sub(pattern, "", problem)
    return problem.replace(str(path), "it")


def _listing_entry(video: Video) -> dict[str, str | None]:
    """The keys that a video's description in the shard, journal and manifest have in common."""
    return {"label": video.label, "group": video.group, "source": video.source or video.name}


def _read_original(folder: Path, entry: dict[str, Any]) -> str:
    """The SHA-256 of the file that a stored video was decoded from. Earlier versions kept it in the
    shards alone."""
    if "original" in entry:
        return str(entry["original"])
    clip = entry["clips"][0]
    end = clip["offset"] + sum(clip["sizes"])
    return str(read_description(folder, entry["shard"], end)["original_sha256"])


def _manifest_rows(folder: Path, video: Video, entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The manifest's rows of a video: labels and parts from the listing, the rest from the
    journal."""
    for clip in entry["clips"]:
        offsets = [clip["offset"]]
        for size in clip["sizes"]:
            offsets.append(offsets[-1] + size)
        yield {
            "video": clip["video"],
            **_listing_entry(video),
            **{key: clip[key] for key in ("frames", "fps", "width", "height", "offset", "sha256")},
            **{f"split{number}": part for number, part in enumerate(video.split, start=1)},
            "original": _read_original(folder, entry),
            "shard": entry["shard"],
            "bytes": offsets[-1] - offsets[0],
            "frame_offsets": offsets,
            "frame_crc32": clip.get("crc32"),  # which earlier versions did not keep
            "frame_times": clip.get("times"),
        }


def member_names(videos: list[Video], stored: Mapping[str, str]) -> dict[str, str]:
    """The name of every video in the shards, no two alike: its path without the ending, or with it
    where another video has that name too.

    Args:
        videos: All videos.
        stored: Video by name in the shards, of what is stored: no other video can have its name.
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
