"""Files that are written whole or not at all, and locks."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from vcsf_cli.errors import VcsfError
from vcsf_cli.narrate import say

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]
_LOCKS = fcntl is not None
_INTERNAL = re.compile(
    r"\.(.+?)(?:\.[0-9a-f]{8})?\.(?:partial|lock|unfinished)|(.+\.(?:csv|tar))\.(?:partial|lock)"
)
"""Names of files that are there while another one is written."""
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of a file system that has no locks."""


@contextmanager
def atomic_write(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file for writing that replaces `path` in one step, once it is complete and on disk.

    On an error nothing is left of it. Leftovers of killed writers of `path` are removed.

    Args:
        path: The final name.
        mode: `wb` or `w`; text is UTF-8 with plain newlines.
    """
    _remove_abandoned(path)
    file = _open_partial(path, mode)
    partial = Path(file.name)
    try:
        with naming(path), file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            # Windows can't rename an open file; elsewhere it stays locked until it is renamed.
            if not _LOCKS:
                file.close()
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name a file in the system's errors that don't, such as those of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def _open_partial(path: Path, mode: str) -> IO[Any]:
    """A new file beside `path` that is locked while it is open.

    The lock shows that its writer is alive. It ends with the process, and holds across machines
    that share a file system, where a process id would say nothing."""
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    while True:
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
        file = partial.open(mode.replace("w", "x"), **text)
        if not _LOCKS:
            return file
        # Where a file system has no locks, nobody removes the files of others.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        if partial.exists():
            return file
        file.close()  # another process removed it before it was locked


def _remove_abandoned(path: Path) -> None:
    """Remove unfinished files of `path` that no process has locked."""
    # Earlier versions put the process id where a random number is now.
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]+\.partial")
    for partial in path.parent.glob(".*.partial") if _LOCKS else ():
        if name.fullmatch(partial.name):
            # Some network file systems lock only files that are open for writing.
            with suppress(OSError), partial.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                partial.unlink()


def path_meant(path: Path) -> Path:
    """The path that a user knows: of what stands beside it while it is written, or lies in it while
    work is done there."""
    if path.name == "lock" or re.fullmatch(r"work-[a-z0-9_]{8}", path.name):
        return path.parent
    found = _INTERNAL.fullmatch(path.name)
    return path.with_name(found[1] or found[2]) if found else path


def is_folder_name(name: str) -> bool:
    """Whether a name is that of a folder in another one, and leads nowhere else."""
    return name not in ("", ".", "..") and "\0" not in name and Path(name).name == name


def write_text(path: Path, text: str) -> None:
    with atomic_write(path, "w") as file:
        file.write(text)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def lock(path: Path, busy: VcsfError | None = None) -> Iterator[None]:
    """Hold a lock file; the lock ends with the process, however it ends.

    A file system without locks is worked on all the same, with a warning.

    Args:
        path: The lock file, which is made if it doesn't exist. Only who holds the lock may remove
            it.
        busy: Raised if another process holds the lock; None: wait for it.
    """
    file = path.open("a")
    try:
        _hold(file, path, busy)
        while not _is_still(file, path):  # who held the lock has removed the file
            file.close()
            file = path.open("a")
            _hold(file, path, busy)
        yield
    finally:
        file.close()


def _is_still(file: IO[Any], path: Path) -> bool:
    """Whether an open file is the one at a path: another process may have put a new one there."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _hold(file: IO[Any], path: Path, busy: VcsfError | None) -> None:
    if not _LOCKS:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
    except BlockingIOError:
        assert busy is not None
        raise busy from None
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        say(f"warning: {path.parent} can't be locked: let no other process write there meanwhile")
