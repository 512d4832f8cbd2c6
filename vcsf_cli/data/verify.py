"""`vcsf prepare --verify`: a prepared dataset is compared with what was written, and mended.

Frames come from the videos again, lines of the journal from the manifest, and the manifest from the
journal. What is written is what the journal says, bit for bit, or nothing."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import pandas as pd

from vcsf_cli.contracts import Video
from vcsf_cli.data import manifest
from vcsf_cli.data.journal import Journal
from vcsf_cli.data.pool import Outcome
from vcsf_cli.data.prepare import Preparation
from vcsf_cli.data.store import END_BYTES, ShardWriter, shard_name
from vcsf_cli.errors import DataError, InputError
from vcsf_cli.narrate import Progress, counted, say
from vcsf_cli.storage.sealed import write_json

_Entry = dict[str, Any]
"""A line of the journal."""

_DESCRIBED = ("video", "frames", "fps", "width", "height")
"""Keys that a clip has in the journal, in the manifest and in its description in the shard."""


@dataclass
class Verification:
    """One call of `vcsf prepare --verify`.

    Args:
        preparation: What it was prepared with.
        damaged: What is wrong, by video.
    """

    preparation: Preparation
    damaged: dict[str, str] = field(default_factory=dict)

    def run(self) -> int:
        """Compare everything, and mend what is damaged. Damage is narrated.

        Returns:
            The number of things that were damaged and are mended.

        Raises:
            InputError: If nothing is prepared, or with other settings.
            DataError: If something can't be mended.
        """
        self.folder = self.preparation.folder
        if not (self.folder / "journal.jsonl").is_file():
            raise InputError(f"nothing is prepared in {self.folder}", "leave out --verify")
        with self.preparation.lock():
            self.journal = self.preparation.journal = Journal(self.folder, to_verify=True)
            problems = self._compare()
            for problem in problems:
                say(f"damaged: {problem}")
            if problems:
                self._mend()
            elif self.table is not None and self.table["frame_crc32"].isna().any():
                self._add_checksums(self.table)
        return len(problems)

    def _compare(self) -> list[str]:
        """What is damaged, a line each."""
        problems = []
        self.settings_damaged = not (self.folder / manifest.SETTINGS).is_file()
        try:
            self.preparation.check_settings()
        except DataError:
            self.settings_damaged = True
        if self.settings_damaged:
            problems.append(f"{self.folder / manifest.SETTINGS}")
        if self.journal.damaged_lines:
            problems.append(f"{self.journal.path}: {self.journal.damaged_lines} lines")
        entries = self.journal.entries
        begins = _first_bytes(entries.values())
        with Progress(len(begins), "videos", "comparing") as progress:
            for name, begin in begins.items():
                if problem := _check_video(self.folder, entries[name], begin):
                    self.damaged[name] = problem
                    problems.append(f"{name}: {problem}")
                progress.advance(1, f"damaged: {len(problems)}" if problems else "")
        self.table: pd.DataFrame | None = None
        self.has_manifest = (self.folder / manifest.FILE).is_file()
        if self.has_manifest:
            try:
                self.table = manifest.read_table(self.folder)
            except DataError as error:
                problems.append(error.message)
            else:
                if not _agree(self.table, entries.values()):
                    self.table = None
                    problems.append(f"{self.folder / manifest.FILE}: it is not what was stored")
        return problems

    def _add_checksums(self, table: pd.DataFrame) -> None:
        """Add the checksums that earlier versions did not keep, now that all frames are right."""
        sums = {
            clip["video"]: clip["crc32"]
            for entry in self.journal.entries.values()
            for clip in entry["clips"]
        }
        self.journal.write()
        rows = table.assign(frame_crc32=table["video"].map(sums)).to_dict("records")
        manifest.write(self.folder, cast(list[dict[str, Any]], rows))
        say(f"there are checksums now of {counted(len(rows), 'clip')} of an earlier version")

    def _mend(self) -> None:
        """Mend what is damaged.

        Raises:
            DataError: If something can't be mended.
        """
        entries, lost = self.journal.entries, self.journal.damaged_lines > 0
        if lost and self.table is None:
            raise DataError(
                f"{self.journal.path} can't be mended without a whole manifest",
                f"delete {self.folder} and prepare again",
            )
        wanted = set(self.damaged)
        if self.settings_damaged and not wanted:
            # That the settings given now are the right ones is seen from the bytes of a clip.
            wanted = {name for name, entry in entries.items() if entry["clips"]}
            wanted = {min(wanted)} if wanted else set()
        videos = self._list(needed=bool(wanted) or lost)
        if lost:
            wanted |= {video.name for video in videos if self._lost_rows(video.name)}
        left = self._decode_again([video for video in videos if video.name in wanted])
        listed = {video.name for video in videos}
        if self.has_manifest and self.table is None:  # it is written from the listing
            wanted |= {name for name, entry in entries.items() if entry["clips"]}
        left |= {name: "its video is not in --source" for name in wanted if name not in listed}
        if left:
            lines = [f"{counted(len(left), 'video')} can't be mended in {self.folder}"]
            lines += [f"  - {name}: {why}" for name, why in sorted(left.items())]
            raise DataError(
                "\n".join(lines), f"bring their files back, or delete {self.folder} and start again"
            )
        if self.settings_damaged:
            write_json(self.folder / manifest.SETTINGS, asdict(self.preparation.settings))
        self._end_archives()
        self.journal.write()
        if self.has_manifest and self.table is None:
            self.preparation.finish([video for video in videos if video.name in entries], 0)

    def _end_archives(self) -> None:
        """See that every finished shard ends as archives do."""
        for entry in self.journal.entries.values():
            path = self.folder / shard_name(entry["shard"])
            if path.is_file() and path.stat().st_size < entry["end"] + END_BYTES:
                os.truncate(path, entry["end"] + END_BYTES)

    def _list(self, needed: bool) -> list[Video]:
        """The dataset's videos; from the journal if no file is needed and it knows their parts.

        Raises:
            DataError: If the parts of recordings are lost.
        """
        entries = self.journal.entries.values()
        known = all("split" in entry for entry in entries)
        videos = [
            Video(Path(), each["name"], each["label"], each["group"], each["source"], each["split"])
            for each in entries
            if known
        ]
        if not needed and known:
            return videos
        if self.table is not None or not self.has_manifest:
            return self.preparation.list_videos()
        if not known and hasattr(self.preparation.dataset, "keep_parts"):
            raise DataError(
                f"{self.folder / manifest.FILE} can't be mended: an earlier version prepared this, "
                "and which part each recording was drawn into stands nowhere else",
                f"bring it back from a copy, or delete {self.folder} and prepare again",
            )
        table = pd.DataFrame(
            [[v.label, v.source, *v.split] for v in videos],
            columns=["label", "source", *manifest.SPLITS],
        )
        return self.preparation.list_videos(manifest.parts_by_recording(table))

    def _lost_rows(self, name: str) -> list[dict[str, Any]]:
        """The manifest's rows of a video whose line of the journal is lost."""
        if name in self.journal.entries or self.table is None:
            return []
        clip = re.compile(rf"{re.escape(name)}(#\d{{3,}})?")
        rows = self.table[self.table["video"].map(lambda video: bool(clip.fullmatch(video)))]
        return cast(list[dict[str, Any]], rows.sort_values("offset").to_dict("records"))

    def _decode_again(self, videos: list[Video]) -> dict[str, str]:
        """Write the clips of videos into the store anew; returns why that can't be done, by name."""
        left, members = {}, self.preparation.members(videos)
        with (
            closing(self.preparation.decoded(videos)) as outcomes,
            Progress(len(videos), "videos", "mending") as progress,
        ):
            for video, outcome in outcomes:
                if why := self._rewrite(video, outcome, members[video.name]):
                    left[video.name] = why
                progress.advance()
        return left

    def _rewrite(self, video: Video, outcome: Outcome, member: str) -> str:
        """Write a video's clips into the store anew; returns why they are not those that were
        there; empty: they are."""
        old = self.journal.entries.get(video.name)
        before = self._lost_rows(video.name) if old is None else old["clips"]
        with tempfile.TemporaryDirectory(prefix="work-", dir=self.folder) as work:
            writer = ShardWriter(Path(work), 0, 0)
            new = self.preparation.append(writer, video, outcome, member)
            if [clip["sha256"] for clip in new["clips"]] != [clip["sha256"] for clip in before]:
                reason = outcome.decoded.problem
                return reason or "its frames are others now: another file, or another decoder"
            region = writer.partial.read_bytes()
        begin = before[0]["offset"] - new["clips"][0]["offset"]
        shard = before[0]["shard"] if old is None else old["shard"]
        pieces = [(begin, region)]
        if old is not None and old["end"] != begin + new["end"]:
            # An earlier version wrote other descriptions: frames alone.
            streams = (
                region[clip["offset"] : clip["offset"] + sum(clip["sizes"])]
                for clip in new["clips"]
            )
            pieces = [
                (clip["offset"], stream) for clip, stream in zip(before, streams, strict=True)
            ]
        path = _shard_path(self.folder, shard)
        with path.open("r+b" if path.exists() else "w+b") as file:
            for place, content in pieces:
                file.seek(place)
                file.write(content)
        if old is None:
            for clip in new["clips"]:
                clip["offset"] += begin
            self.journal.entries[video.name] = new | {"shard": shard, "end": begin + new["end"]}
        begins = _first_bytes(self.journal.entries.values())
        return _check_video(self.folder, self.journal.entries[video.name], begins[video.name])


def _first_bytes(entries: Iterable[_Entry]) -> dict[str, int]:
    """Where the clips of each stored video begin in their shard, headers included."""
    ends: dict[int, int] = {}
    found = {}
    for entry in sorted(entries, key=lambda entry: (entry["shard"], entry["end"])):
        if entry["clips"]:
            found[entry["name"]] = ends.get(entry["shard"], 0)
            ends[entry["shard"]] = entry["end"]
    return found


def _shard_path(folder: Path, shard: int) -> Path:
    """The file of a shard, which may be unfinished."""
    path = folder / shard_name(shard)
    partial = path.with_name(f"{path.name}.partial")
    return partial if partial.exists() and not path.exists() else path


def _check_video(folder: Path, entry: _Entry, begin: int) -> str:
    """What is wrong with the clips of a stored video; empty: nothing. Checksums of frames that the
    journal lacks are added to the entry.

    Args:
        folder: The dataset's folder.
        entry: What the journal says of it.
        begin: The first byte of its clips in their shard.
    """
    path = _shard_path(folder, entry["shard"])
    try:
        with path.open("rb") as file:
            file.seek(begin)
            data = file.read(entry["end"] - begin)
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name} can't be read: {error.strerror}"
    if len(data) < entry["end"] - begin:
        return f"{path.name} is too short"
    for clip in entry["clips"]:
        start = clip["offset"] - begin
        stream = data[start : start + sum(clip["sizes"])]
        if hashlib.sha256(stream).hexdigest() != clip["sha256"]:
            return f"frames in {path.name}"
        clip.setdefault("crc32", _frame_checksums(stream, clip["sizes"]))
    return "" if _describes(data, entry, begin) else f"names or descriptions in {path.name}"


def _frame_checksums(stream: bytes, sizes: Iterable[int]) -> list[int]:
    found, start = [], 0
    for size in sizes:
        found.append(zlib.crc32(stream[start : start + size]))
        start += size
    return found


def _describes(data: bytes, entry: _Entry, begin: int) -> bool:
    """Whether the members of an archive hold the clips of an entry, and say so."""
    clips = entry["clips"]
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            members = archive.getmembers()[-2 * len(clips) :]
            read = [archive.extractfile(member) for member in members[1::2]]
            texts = [json.loads(file.read()) for file in read if file is not None]
    except (tarfile.TarError, ValueError, OSError):
        return False
    places = [(member.name[-6:], member.offset_data, member.size) for member in members[::2]]
    expected = [(".mjpeg", clip["offset"] - begin, sum(clip["sizes"])) for clip in clips]
    if places != expected or len(texts) != len(clips):
        return False
    said = [
        {key: clip[key] for key in _DESCRIBED}
        | {key: entry[key] for key in ("label", "group", "source")}
        | {"frame_bytes": clip["sizes"]}
        for clip in clips
    ]
    return all(
        isinstance(text, dict) and text | about == text
        for text, about in zip(texts, said, strict=True)
    )


def _agree(table: pd.DataFrame, entries: Iterable[_Entry]) -> bool:
    """Whether a manifest's rows say what the journal says."""
    rows = {row["video"]: row for row in table.to_dict("records")}
    for entry in entries:
        for clip in entry["clips"]:
            row = rows.get(clip["video"])
            if row is None:  # it was added by a call that was interrupted
                continue
            ends = row["frame_offsets"][-1] - row["frame_offsets"][0]
            if row["shard"] != entry["shard"] or ends != sum(clip["sizes"]):
                return False
            if any(row[key] != clip[key] for key in (*_DESCRIBED, "offset", "sha256")):
                return False
    return True
