"""A prepared dataset in a bucket: shards are kept on this disk as long as there is room, and what
`vcsf prepare` makes is copied there.

fsspec's own `filecache` has no bound, and `simplecache` writes under the final name: a killed
process would leave half a shard that counts as a whole one."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from vcsf_cli.contracts import RemoteFile
from vcsf_cli.errors import BROKEN_DISK, DataError, InputError, RemoteError
from vcsf_cli.narrate import Progress, say
from vcsf_cli.remote import describe, fetch, list_files, local_copy, store
from vcsf_cli.storage import files
from vcsf_cli.storage.cache import CACHE, folder_of
from vcsf_cli.storage.sealed import read_json, write_json

CACHE_SIZE = "VCSF_CACHE_SIZE"
"""Variable with the bytes of shards that are kept on this disk; `--cache-size` sets it, so that processes
that are started keep to it too."""
USUAL_SIZE = 100 * 10**9
_SIZE = re.compile(r"(\d+(?:\.\d+)?) *([KMGT])?B?", re.IGNORECASE)
_SHARDS = "shard-*.tar"
_JOURNAL, _MANIFEST = "journal.jsonl", "manifest.parquet"
_LAST = (_JOURNAL, _MANIFEST)
"""Files that say what others hold: they are copied to a bucket after them."""


def parse_size(text: str) -> int:
    """A number of bytes, such as `50GB`.

    Raises:
        ValueError: If it is none.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"`{text}` is not a size; write such as 500MB, 50GB or 1TB")
    return int(float(found[1]) * 1000 ** " KMGT".index((found[2] or " ").upper()))


@dataclass(frozen=True)
class Bucket:
    """A prepared dataset in a bucket, which is kept as the environment of this machine says: it may
    have come here from another one.

    Args:
        address: Of the dataset.
    """

    address: str

    @classmethod
    def of(cls, data: str, name: str) -> Bucket:
        """The dataset of a name below an address."""
        return cls(f"{data.rstrip('/')}/{name}")

    @property
    def folder(self) -> Path:
        """Where its files are kept; named as the dataset."""
        return folder_of("data", self.address)

    @property
    def limit(self) -> int:
        """Bytes of shards, of all datasets together, that are kept.

        Raises:
            InputError: If the environment's is no size.
        """
        try:
            return parse_size(os.environ.get(CACHE_SIZE) or str(USUAL_SIZE))
        except ValueError as error:
            raise InputError(
                f"{CACHE_SIZE}: {error}", "set it anew, or give --cache-size"
            ) from error

    @property
    def cache(self) -> Path:
        """The folder of all datasets that are kept."""
        return self.folder.parent.parent

    def refresh(self, *names: str) -> None:
        """Have small files here as they are in the bucket now; those that are not there are removed.

        Raises:
            RemoteError: If the bucket can't be reached.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        found = describe(f"{self.address}/{name}" for name in names)
        for name, file in zip(names, found, strict=True):
            path = self.folder / name
            if file is None:
                path.unlink(missing_ok=True)
                continue
            with files.atomic_write(path) as target:
                fetch(file, Path(target.name))

    def check_limit(self, largest: int, total: int) -> None:
        """Check that a shard fits, and warn if not all do.

        Args:
            largest: Bytes of clips up to the end of the largest shard.
            total: Of all shards.

        Raises:
            InputError: If the largest one does not fit.
        """
        if largest > self.limit:
            raise InputError(
                f"--cache-size {self.limit:,} bytes is less than a shard of {self.address}, which has "
                f"{largest:,}",
                "give more",
            )
        if total > self.limit:
            say(
                f"warning: {self.address} has {total:,} bytes, and --cache-size is {self.limit:,}: "
                "shards are fetched again and again"
            )

    def open(self, shard: str, is_whole: Callable[[Path], bool]) -> int:
        """A descriptor of a shard's file, which is fetched if it isn't here.

        Args:
            is_whole: Whether a file holds what the manifest says.

        Raises:
            DataError: If the shard is not there, or damaged, or finds no room on this disk.
            RemoteError: If the bucket can't be reached.
        """
        while True:  # another process may evict it before it is opened
            with suppress(FileNotFoundError):
                return os.open(self.folder / shard, os.O_RDONLY)
            self.cache.mkdir(parents=True, exist_ok=True)
            # One at a time, so that the bound holds; file systems fetch parts side by side. All that
            # is kept may be deleted at any time.
            with suppress(FileNotFoundError), files.lock(self.cache / "lock"):
                if not (self.folder / shard).exists():
                    self._fetch(shard, is_whole)

    def _fetch(self, shard: str, is_whole: Callable[[Path], bool]) -> None:
        address = f"{self.address}/{shard}"
        (file,) = describe([address])
        if file is None:
            raise DataError(f"{address} is missing", "prepare the dataset there again")
        self._make_room(file.size)
        wrong = ""
        for _ in range(2):  # damage on the way happens once
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                with files.atomic_write(self.folder / shard) as target:
                    fetch(file, Path(target.name))
                    if is_whole(Path(target.name)):
                        return
                    raise _Damaged
            except _Damaged:
                wrong = "is damaged: its clips are not those of the manifest"
            except FileNotFoundError:
                wrong = f"is gone, or {self.folder} is"
            except OSError as error:
                if error.errno not in BROKEN_DISK:
                    raise
                raise DataError(
                    f"{self.folder}: {error.strerror}; --cache-size bounds what is kept there, and "
                    f"{CACHE} names another disk",
                    "make room; the same command goes on",
                ) from error
        raise DataError(f"{address} {wrong}", "prepare the dataset there again")

    def _make_room(self, size: int) -> None:
        """Evict shards, the oldest first."""
        for left_over in self.cache.glob(f"*/*/.{_SHARDS}.*.partial"):
            left_over.unlink(missing_ok=True)  # of a killed process: this one has the lock
        kept = []
        for path in self.cache.glob(f"*/*/{_SHARDS}"):
            with suppress(FileNotFoundError):  # `drop` of another process takes no lock
                kept.append((path.stat(), path))
        used = sum(state.st_size for state, _ in kept)
        for state, path in sorted(kept, key=lambda each: each[0].st_mtime_ns):
            if used + size <= self.limit:
                return
            path.unlink(missing_ok=True)
            used -= state.st_size

    def drop(self, shard: str) -> None:
        """Forget a shard: what is kept of it is damaged, or of an earlier preparation."""
        (self.folder / shard).unlink(missing_ok=True)


class _Damaged(Exception):
    """A shard that was fetched is not what it should be."""


@dataclass
class WorkingCopy:
    """A folder on this disk in which a dataset in a bucket is prepared: a journal can't be appended
    to in a bucket.

    Args:
        address: Of the dataset.
        folder: The folder; it is deleted when the bucket has everything.
        there: Size and time of each file that is in the bucket.
    """

    address: str
    folder: Path
    there: dict[str, tuple[int, int]] = field(default_factory=dict)
    is_done: bool = False

    def download(self) -> None:
        """Have the dataset here as it is in the bucket, unless an earlier call was interrupted: then
        what is here is newer.

        Raises:
            InputError: If another machine has prepared it since that call.
            RemoteError: If the bucket can't be reached.
        """
        if (self.folder / _JOURNAL).exists():
            self._check_bucket()
            return
        for name in self._states():  # of a call that was interrupted before all was here
            (self.folder / name).unlink()
        found = list_files(self.address)
        self._note(found.get(_MANIFEST))
        # The journal says that all is here.
        names = sorted((name for name in found if "/" not in name), key=_JOURNAL.__eq__)
        if not names:
            return
        with Progress(len(names), "files", f"fetching {self.address}") as progress:
            for name in names:
                with files.atomic_write(self.folder / name) as target:
                    fetch(found[name], Path(target.name))
                progress.advance()
        self.there = self._states()

    def upload(self) -> None:
        """Copy what is new or has changed, the manifest last: before it, nothing of it counts.

        Raises:
            InputError: If another machine has prepared the dataset meanwhile.
            RemoteError: If the bucket can't be reached.
        """
        self._check_bucket()
        changed = self._states().items() - self.there.items()
        names = sorted((name for name, _ in changed), key=_order)
        try:
            with Progress(len(names), "files", f"copying to {self.address}") as progress:
                for name in names:
                    store(self.folder / name, f"{self.address}/{name}")
                    progress.advance()
        except RemoteError:
            say(f"what is prepared is kept in {self.folder}")
            raise
        self.is_done = True

    @property
    def _begun(self) -> Path:
        """The file with the version of the manifest that the bucket had when the folder was begun,
        beside the folder: it is not copied."""
        return self.folder.parent / "begun.json"

    def _note(self, manifest: RemoteFile | None) -> None:
        write_json(self._begun, {"manifest": manifest.version if manifest else ""})

    def _check_bucket(self) -> None:
        """Check that the bucket has the manifest that this was begun with, or none."""
        path, before = self.folder / _MANIFEST, ""
        if self._begun.exists():
            before = read_json(self._begun, dict, "delete it", DataError).get("manifest", "")
        (there,) = describe([f"{self.address}/{_MANIFEST}"])
        if there is None or there.version == before:
            return
        with local_copy(there) as copy:
            if not path.exists() or files.sha256(copy) != files.sha256(path):
                raise InputError(
                    f"{self.address} was prepared by another machine since {self.folder} was begun, "
                    "which is to be copied there",
                    "to go on from what is in the bucket, delete that folder and run the same command "
                    "again; to keep what is in the folder, delete the dataset in the bucket",
                )
        self._note(there)  # this machine was stopped after it had copied the manifest

    def _states(self) -> dict[str, tuple[int, int]]:
        found = {path.name: path.stat() for path in self.folder.iterdir() if path.is_file()}
        return {
            name: (state.st_size, state.st_mtime_ns)
            for name, state in found.items()
            if name != "lock" and not name.endswith(".partial")
        }


def _order(name: str) -> tuple[int, str]:
    return (_LAST.index(name) + 1 if name in _LAST else 0), name


@contextmanager
def working_copy(data: str, name: str) -> Iterator[WorkingCopy]:
    """A folder to prepare a dataset in that lies in a bucket.

    Raises:
        InputError: If another process of this machine prepares it.
        RemoteError: If the bucket can't be reached.
    """
    address = f"{data.rstrip('/')}/{name}"
    folder = folder_of("prepare", address)
    folder.mkdir(parents=True, exist_ok=True)
    busy = InputError(f"{address} is being prepared by another process", "wait for it")
    with files.lock(folder.parent / "lock", busy):
        copy = WorkingCopy(address, folder)
        copy.download()
        try:
            yield copy
        finally:
            if copy.is_done:
                shutil.rmtree(folder, ignore_errors=True)
