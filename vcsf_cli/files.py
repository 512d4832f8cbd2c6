"""Writing files whole or not at all, and holding a folder for one process."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from vcsf_cli.errors import VcsfError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]


@contextmanager
def whole(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """A file that gets its name only when it is complete and on disk; on any error nothing is left of it.

    Args:
        path: Its final name; what stood there before is replaced in one step.
        mode: `wb` or `w`; text is UTF-8 with plain newlines.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with partial.open(mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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
    """Hold a lock file, after whoever holds it now; the lock ends with the process, however it ends."""
    with path.open("a") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def only_one(path: Path, error: VcsfError) -> Iterator[None]:
    """Hold a lock file; the lock ends with the process, however it ends.

    Raises:
        VcsfError: `error`, if another process holds it.
    """
    with path.open("a") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise error from None
        yield
