"""Writing files whole or not at all, and holding a folder for one process."""

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
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system without locks answers."""


@contextmanager
def whole(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """A file that gets its name only when it is complete and on disk; on any error nothing is left
    of it.

    What a killed process left when it wrote the same file is removed.

    Args:
        path: Its final name; what stood there before is replaced in one step.
        mode: `wb` or `w`; text is UTF-8 with plain newlines.
    """
    _remove_abandoned(path)
    file = _open_partial(path, mode)
    partial = Path(file.name)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if (
                not _LOCKS
            ):  # Windows renames no open file; elsewhere it stays locked until it has its name
                file.close()
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _open_partial(path: Path, mode: str) -> IO[Any]:
    """A new file beside `path` that is locked as long as it is open.

    The lock says that its writer lives. It ends with the process, however that ends, and holds
    across the machines that share a file system, where a process's number says nothing."""
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    while True:
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
        file = partial.open(mode.replace("w", "x"), **text)
        if not _LOCKS:
            return file
        with suppress(
            OSError
        ):  # a file system without locks: there nobody removes what others left
            fcntl.flock(file, fcntl.LOCK_EX)
        if partial.exists():
            return file
        file.close()  # another process removed it before it was locked


def _remove_abandoned(path: Path) -> None:
    """Remove files that were begun as `path` and that no process has locked, among them those that
    earlier versions named after their process."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]+\.partial")
    for partial in path.parent.glob(".*.partial") if _LOCKS else ():
        if name.fullmatch(partial.name):
            # It is open for writing, as some network file systems want it of what is locked.
            with suppress(OSError), partial.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                partial.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with whole(path, "w") as file:
        file.write(text)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Hold a lock file, after whoever holds it now; the lock ends with the process, however it
    ends."""
    with path.open("a") as file:
        _lock(file)
        yield


@contextmanager
def only_one(path: Path, error: VcsfError) -> Iterator[None]:
    """Hold a lock file; the lock ends with the process, however it ends.

    Raises:
        VcsfError: `error`, if another process holds it.
    """
    with path.open("a") as file:
        try:
            _lock(file, wait=False)
        except BlockingIOError:
            raise error from None
        yield


def _lock(file: IO[Any], wait: bool = True) -> None:
    """Lock an open file; a file system without locks is worked on all the same, with a warning.

    Raises:
        BlockingIOError: If another process has locked it and `wait` is false.
    """
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
            folder = Path(file.name).parent
            say(f"warning: {folder} can't be locked: let no other process write there meanwhile")
