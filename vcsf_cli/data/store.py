"""The store of prepared clips: tar shards with a `.mjpeg` stream of JPEG frames and a `.json` for
each clip.

`tar` lists a shard, WebDataset reads it, and ffmpeg plays its streams. Its bytes depend on the
clips and their order alone, not on who wrote it, when, or with how many interruptions."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import simplejpeg

from vcsf_cli.contracts import Frames
from vcsf_cli.data.bucket import Bucket
from vcsf_cli.data.decoded import DecodedFrames
from vcsf_cli.data.manifest import MEND, Manifest
from vcsf_cli.errors import TOO_FEW, DataError

_BLOCK = 512
SHARD_BYTES = 256 * 2**20
_NAME_BYTES = 200
"""Of a clip's name in a shard; file systems allow 255, its number and ending included."""
_COPY_BYTES = 2**20
END_BYTES = 2 * _BLOCK
"""Zeros at the end of a tar file."""
_OPEN_SHARDS = 32
"""Shards that a store keeps open; a system's limit of open files is often 1024."""
_LOST = (errno.ENOENT, errno.EIO)
"""System errors that say that a shard is gone, or damaged on its disk."""


def shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def member_name(video: str) -> str:
    """A clip's name in a shard, without its ending. Dots, at which WebDataset splits names, and
    other special characters are written as `%` and two hexadecimal digits.

    A name that would be too long for a file is cut, and `~` and a digest of the whole name stand
    for the rest."""
    name = re.sub(
        r"[^A-Za-z0-9_/-]",
        lambda match: "".join(f"%{byte:02X}" for byte in match.group().encode()),
        video,
    )
    if len(name) <= _NAME_BYTES:
        return name
    digest = f"~{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return name[: _NAME_BYTES - len(digest)] + digest


class ShardWriter:
    """Appends clips to shards; the one being written has `.partial` behind its name.

    Args:
        folder: The dataset's folder.
        shard: Number of the shard to continue.
        end: Where its last good member ends; what lies behind is cut off.
        shard_bytes: A shard of this size takes no further video.
    """

    def __init__(self, folder: Path, shard: int, end: int, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder, self.shard, self.end, self.shard_bytes = folder, shard, end, shard_bytes
        self._file: IO[bytes] | None = None

    @property
    def partial(self) -> Path:
        return self.folder / f"{shard_name(self.shard)}.partial"

    def begin_video(self) -> None:
        """Begin a new shard if this one is full: all clips of a video lie in one shard."""
        if (self.folder / shard_name(self.shard)).exists() or self.end >= self.shard_bytes:
            self.finish()
            self.shard, self.end = self.shard + 1, 0

    def append(self, name: str, stream: Path, description: dict[str, Any]) -> int:
        """Append a clip's stream and description; returns where the stream's bytes begin."""
        begin = self._member(f"{name}.mjpeg", stream.stat().st_size)
        assert self._file is not None
        with stream.open("rb") as source:
            while chunk := source.read(_COPY_BYTES):
                self._write(chunk)
        self._pad()
        text = json.dumps(description, sort_keys=True, ensure_ascii=False).encode()
        self._member(f"{name}.json", len(text))
        self._write(text)
        self._pad()
        return begin

    def flush(self) -> None:
        """Hand everything to the operating system, so that nothing is lost with the process."""
        if self._file is not None:
            self._file.flush()

    def finish(self) -> None:
        """Complete the shard, if there is one, and give it its name."""
        if self._file is None and not self.partial.exists():
            return
        self._open()
        self._write(bytes(END_BYTES))
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        self.partial.replace(self.folder / shard_name(self.shard))

    def _open(self) -> None:
        if self._file is None:
            self._file = self.partial.open("r+b" if self.partial.exists() else "w+b")
            self._file.truncate(self.end)
            self._file.seek(self.end)

    def _member(self, name: str, size: int) -> int:
        self._open()
        header = tarfile.TarInfo(name)
        header.size = size  # no time, no owner: equal clips give equal shards
        self._write(header.tobuf(tarfile.GNU_FORMAT, "utf-8"))
        return self.end

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(data)
        self.end += len(data)

    def _pad(self) -> None:
        self._write(bytes(-self.end % _BLOCK))


def read_description(folder: Path, shard: int, end: int) -> dict[str, Any]:
    """The description behind a clip's stream, which ends at byte `end` of a shard.

    Raises:
        DataError: If it isn't there.
    """
    path = folder / shard_name(shard)
    path = path if path.exists() else path.with_name(f"{path.name}.partial")
    try:
        with path.open("rb") as file:
            file.seek(end + -end % _BLOCK)
            with tarfile.open(fileobj=file, mode="r:") as members:
                member = members.next()
                stream = member and members.extractfile(member)
                found = json.load(stream) if stream else None
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, tarfile.TarError) as error:
        raise DataError(f"{path} can't be read: {error}", MEND) from error
    if not isinstance(found, dict):
        raise DataError(f"{path} is damaged at byte {end}", MEND)
    return found


def _unreadable(path: Path, error: OSError) -> DataError:
    """That a shard can't be read; only one that is lost must be made anew."""
    hint = "look at its disk and its permissions; the same command goes on"
    if error.errno in TOO_FEW:
        hint = "raise the limit (ulimit -n for files, -v for memory); the same command goes on"
    return DataError(
        f"{path} can't be read: {error.strerror}", MEND if error.errno in _LOST else hint
    )


class _OpenShards:
    """The shards that were read last, open; each process opens them for itself."""

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_descriptors": {}}

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def read(self, path: Path, begin: int, end: int) -> bytes:
        """Bytes of a shard.

        Raises:
            OSError: If they can't be read.
        """
        descriptor = self._descriptors.pop(path, None)
        if descriptor is None:
            while len(self._descriptors) >= _OPEN_SHARDS:
                os.close(self._descriptors.pop(next(iter(self._descriptors))))
            descriptor = os.open(path, os.O_RDONLY)
        self._descriptors[path] = descriptor  # the last one: it was used last
        return os.pread(descriptor, end - begin, begin)


class FrameStore:
    """Reads frames of a prepared dataset. Each process opens the files for itself.

    Args:
        manifest: The prepared dataset.

    Raises:
        InputError: If decoded frames can't be kept where `--cache` says.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.folder, self.bucket = manifest.folder, manifest.bucket
        table = manifest.table
        self.videos = table["video"].to_numpy(object)
        self.shards = table["shard"].to_numpy(np.int64)
        lengths = table["frames"].to_numpy(np.int64) + 1
        # One flat array instead of a list a clip: forked workers share it without copies.
        self.offsets = np.concatenate([*table["frame_offsets"], np.empty(0, np.int64)]).astype(
            np.int64
        )
        self.starts = np.concatenate([[0], np.cumsum(lengths)])
        # Clips of earlier versions have no checksums: -1.
        sums = table["frame_crc32"] if "frame_crc32" in table else [None] * len(table)
        self.crc32 = np.full(int(self.starts[-1]), -1)
        for start, each in zip(self.starts, sums, strict=False):
            if each is not None:
                self.crc32[start : start + len(each)] = each
        self.sha256 = table["sha256"].to_numpy(object) if self.bucket else None
        self.decoded = DecodedFrames.of(manifest)
        self._open = _OpenShards()

    def images(self, row: int, frames: Sequence[int]) -> Iterator[Frames]:
        """The images (H, W, 3), RGB, of frames of a clip, in this order. They may be read-only.

        Raises:
            DataError: As `jpegs`, or if a frame is not a JPEG, or decoded ones can't be kept.
        """
        kept = self._kept(row, self.decoded) if self.decoded else None
        if kept is None:
            yield from self._decode(row, frames)
        else:
            yield from (kept[frame] for frame in frames)

    def _kept(self, row: int, decoded: DecodedFrames) -> Frames | None:
        """All frames of a clip, decoded now if they were not before; None if there is no room."""
        try:
            found = decoded.clip(row)
            if found is None:
                every = range(int(self.starts[row + 1] - self.starts[row] - 1))
                found = decoded.put(row, self._decode(row, every))
        except ValueError as error:
            raise DataError(f"{self.videos[row]} is damaged: {error}", MEND) from error
        except OSError as error:
            raise DataError(
                f"{decoded.file} can't be used: {error.strerror}",
                "look at the folder of --cache, or leave --cache out; the same command goes on",
            ) from error
        return found

    def _decode(self, row: int, frames: Sequence[int]) -> Iterator[Frames]:
        for frame, jpeg in zip(frames, self.jpegs(row, frames), strict=True):
            try:
                image: Frames = simplejpeg.decode_jpeg(jpeg, colorspace="RGB")
            except ValueError as error:
                raise self._damaged(row, frame) from error
            yield image

    def jpegs(self, row: int, frames: Sequence[int]) -> list[bytes]:
        """The JPEGs of frames of a clip, in this order; rising runs are read at once.

        Raises:
            DataError: If the shard is missing or too short, or a frame is damaged.
            RemoteError: If it is in a bucket that can't be reached.
        """
        try:
            return self._jpegs(row, frames)
        except DataError:
            if self.bucket is None:
                raise
            self.bucket.drop(shard_name(int(self.shards[row])))
        return self._jpegs(row, frames)

    def _jpegs(self, row: int, frames: Sequence[int]) -> list[bytes]:
        offsets = self.offsets[self.starts[row] : self.starts[row + 1]]
        found: list[bytes] = []
        first = 0
        for index in range(1, len(frames) + 1):
            if index < len(frames) and frames[index] == frames[index - 1] + 1:
                continue
            begin, end = frames[first], frames[index - 1] + 1
            bounds = offsets[begin : end + 1]
            data = self._read(row, int(bounds[0]), int(bounds[-1]))
            bounds = bounds - bounds[0]
            found += [data[bounds[i] : bounds[i + 1]] for i in range(end - begin)]
            first = index
        sums = self.crc32[self.starts[row] + np.asarray(frames, np.int64)].tolist()
        for frame, jpeg, crc32 in zip(frames, found, sums, strict=True):
            if crc32 >= 0 and zlib.crc32(jpeg) != crc32:
                raise self._damaged(row, frame)
        return found

    def _damaged(self, row: int, frame: int) -> DataError:
        path = self.folder / shard_name(int(self.shards[row]))
        return DataError(f"{path} is damaged: frame {frame} of {self.videos[row]}", MEND)

    def _read(self, row: int, begin: int, end: int) -> bytes:
        shard = int(self.shards[row])
        path = self.folder / shard_name(shard)
        if self.bucket is not None:
            data = self._read_kept(self.bucket, shard, begin, end)
        else:
            try:
                data = self._open.read(path, begin, end)
            except OSError as error:
                raise _unreadable(path, error) from error
        if len(data) != end - begin:
            raise DataError(f"{path} is damaged: it is too short for {self.videos[row]}", MEND)
        return data

    def _read_kept(self, bucket: Bucket, shard: int, begin: int, end: int) -> bytes:
        """Bytes of a shard in a bucket. Its file is closed at once: as long as it is open, evicting
        it would give no room."""

        def is_whole(path: Path) -> bool:
            return self._is_whole(path, shard)

        descriptor = bucket.open(shard_name(shard), is_whole)
        try:
            return os.pread(descriptor, end - begin, begin)
        finally:
            os.close(descriptor)

    def _is_whole(self, path: Path, shard: int) -> bool:
        """Whether a file has the clips that a shard should have."""
        assert self.sha256 is not None
        with path.open("rb") as file:
            for row in np.flatnonzero(self.shards == shard).tolist():
                offsets = self.offsets[self.starts[row] : self.starts[row + 1]]
                file.seek(int(offsets[0]))
                clip = file.read(int(offsets[-1] - offsets[0]))
                if hashlib.sha256(clip).hexdigest() != self.sha256[row]:
                    return False
        return True
