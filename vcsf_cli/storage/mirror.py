"""Run folders in a bucket: worked on in a folder of this disk, from where files are copied there,
each whole.

fsspec's `rsync` compares sizes or times of both sides; here a checkpoint keeps its size, and clocks
differ. So a file in the folder says what both sides were at the last copy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vcsf_cli.contracts import RemoteFile
from vcsf_cli.errors import InputError, RemoteError
from vcsf_cli.narrate import Progress, is_first, say
from vcsf_cli.remote import describe, fetch, list_files, local_copy, store
from vcsf_cli.storage import files
from vcsf_cli.storage.cache import folder_of
from vcsf_cli.storage.sealed import read_json, write_json

_STATE = ".bucket"
_LAST = ("results.csv", "status.json")
"""Files that say that others are there: they are copied after them."""
_NEVER = (0, 0, "")
"""What a file was that has not been copied."""


@dataclass(frozen=True)
class Mirror:
    """A folder of this disk that has what an address has.

    Args:
        folder: It holds its address, and what each file was at the last copy: size and time here,
            version there, and the checksum of a copy to there that may have arrived or not.
    """

    folder: Path

    @classmethod
    def above(cls, path: Path) -> Mirror | None:
        """The mirror that a path lies in."""
        for folder in (path, *path.parents):
            if (folder / _STATE).is_file():
                return cls(folder)
        return None

    @property
    def address(self) -> str:
        return str(self._read()["address"])

    def _read(self) -> dict[str, Any]:
        found: dict[str, Any] = read_json(
            self.folder / _STATE, dict, "delete it: then what is here is compared with the bucket"
        )
        return found

    def _write(self, state: dict[str, Any]) -> None:
        write_json(self.folder / _STATE, state)

    def begin(self, address: str) -> None:
        """Make the folder, if it is new."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / _STATE).exists():
            self._write({"address": address, "files": {}})

    def download(self) -> None:
        """Have here what is new or has changed in the bucket.

        Raises:
            InputError: If a file has changed both here and there.
            RemoteError: If the bucket can't be reached.
        """
        with files.lock(self.folder / f"{_STATE}.lock"):
            state = self._read()
            known, address = state["files"], state["address"]
            found = list_files(address)
            new = [
                name
                for name, file in found.items()
                if name not in known
                or known[name][2] != file.version
                or not (self.folder / name).parent.is_dir()  # a run that was deleted here
            ]
            changed = {name for name in new if self._has_changed(name, known)}
            for name in changed:
                self._recognise(found[name], name, known)
                self._write(state)
            new = [name for name in new if name not in changed]
            if not new:
                return
            with Progress(len(new), "files", f"fetching {address}") as progress:
                for name in new:
                    path = self.folder / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with files.atomic_write(path) as target:
                        fetch(found[name], Path(target.name))
                    known[name] = [*_look(path), found[name].version]
                    self._write(state)
                    progress.advance()

    def _has_changed(self, name: str, known: dict[str, Any]) -> bool:
        """Whether a file is here, and is not what it was at the last copy."""
        path = self.folder / name
        return path.exists() and known.get(name, [])[:2] != _look(path)

    def _recognise(self, file: RemoteFile, name: str, known: dict[str, Any]) -> None:
        """Note that a file in the bucket came from here, as after a kill or a failure between a copy
        and the note of it.

        Raises:
            InputError: If it did not: both have changed.
        """
        path = self.folder / name
        look = _look(path)
        with local_copy(file) as copy:
            there = files.sha256(copy)
        if there == files.sha256(path):
            known[name] = [*look, file.version]
        elif there in known.get(name, [])[3:]:  # since then it has grown here
            known[name] = [0, 0, file.version]
        else:
            run = self.folder / _run_of(name)
            raise InputError(
                f"{file.address} was changed by another machine, and here too, in {path}",
                f"to take what is in the bucket, delete {run}; to keep what is here, delete it there",
            )

    def upload(self, below: Path) -> None:
        """Copy what is new or has changed in a folder here, in an order in which what is there can
        be used at any time. Nothing is deleted there. A run with changes is there whole afterwards,
        even if files of it were deleted there.

        Raises:
            InputError: If a file has changed both here and there; then nothing is copied.
            RemoteError: If the bucket can't be reached.
        """
        with files.lock(self.folder / f"{_STATE}.lock"):
            state = self._read()
            known, address = state["files"], state["address"]
            changed = {}
            for path in below.rglob("*"):
                name = path.relative_to(self.folder).as_posix()
                if path.is_file() and not _is_private(path) and self._has_changed(name, known):
                    changed[name] = path
            for run in {_run_of(name) for name in changed if name != _run_of(name)}:
                left = list_files(f"{address}/{run}")
                gone = {name for name in known if name.removeprefix(f"{run}/") not in left}
                for name in gone - changed.keys():
                    if _run_of(name) == run and (path := self.folder / name).is_file():
                        known[name] = [*_NEVER]
                        changed[name] = path
            found = describe(f"{address}/{name}" for name in changed)
            for name, there in zip(changed, found, strict=True):
                if there and there.version != known.get(name, _NEVER)[2]:
                    self._recognise(there, name, known)
                    self._write(state)
            for name, path in sorted(changed.items(), key=_order):
                if not self._has_changed(name, known):  # it was recognised
                    continue
                look = _look(path)  # before: it may grow meanwhile, and is then copied again
                known[name] = [*known.get(name, _NEVER)[:3], files.sha256(path)]
                self._write(state)
                store(path, f"{address}/{name}")
                (there,) = describe([f"{address}/{name}"])
                known[name] = [*look, there.version if there else ""]
                self._write(state)


def _run_of(name: str) -> str:
    """The run folder that a file lies in."""
    return name.partition("/")[0]


def _look(path: Path) -> list[int]:
    state = path.stat()
    return [state.st_size, state.st_mtime_ns]


def _is_private(path: Path) -> bool:
    """Whether a file is of use to this machine only."""
    return path.name.startswith(".") or path.name == "lock" or path.suffix in (".lock", ".partial")


def _order(item: tuple[str, Path]) -> tuple[int, str]:
    name = item[1].name
    return (_LAST.index(name) + 1 if name in _LAST else 0), item[0]


def save_copy(path: Path) -> None:
    """Copy the folder that a checkpoint was written into to its bucket, if it has one. A bucket that
    can't be reached, or that another machine has changed, does not end the work: the next checkpoint
    tries it again."""
    mirror = Mirror.above(path.parent)
    if mirror is None:
        return
    try:
        mirror.upload(path.parent)
    except (RemoteError, InputError) as error:
        say(f"warning: {error.message}; what was saved is in {path.parent}")


def address_of(folder: Path | str) -> str | None:
    """The address that a folder has the files of, None if it is no mirror."""
    if isinstance(folder, str) or not (folder / _STATE).is_file():
        return None
    return Mirror(folder).address


@contextmanager
def mirrored(runs: Path | str) -> Iterator[Path]:
    """A folder of this disk to work on runs in. When the work ends, however it ends, what has changed
    is copied to the bucket, if they are in one.

    Raises:
        InputError: If a run was changed here and in the bucket.
        RemoteError: If the bucket can't be reached.
    """
    if isinstance(runs, str):
        mirror = Mirror(folder_of("runs", runs.rstrip("/")))
        mirror.begin(runs.rstrip("/"))
        mirror.download()
    elif address_of(runs):  # of a command that `vcsf ablate` has started
        mirror = Mirror(runs)
    else:
        yield runs
        return
    try:
        yield mirror.folder
    except BaseException:
        if is_first():
            save_copy(mirror.folder / _STATE)
        raise
    if is_first():
        try:
            mirror.upload(mirror.folder)
        except RemoteError as error:
            raise RemoteError(
                error.message,
                f"what was done is kept in {mirror.folder}; the same command copies it",
            ) from error
