"""Unpacking archives that are not trusted, nested ones too.

No link in an archive is followed or kept, whatever program unpacked it; it may unpack to a bounded
number of bytes and files and never fills the disk; and an archive that fails leaves nothing
behind."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct
import subprocess
import time
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath

from vcsf_cli.errors import DataError
from vcsf_cli.narrate import say
from vcsf_cli.video import files_below
from vcsf_plugins.datasets.listing import decode_text

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

ENDINGS = frozenset({".zip", ".rar"})
_LARGEST_RATIO = 100
"""How many times its own size an archive may unpack to: videos hardly shrink, lists of names about
tenfold."""
SMALL = 2**28
"""Bytes that any archive may unpack to, however small it is."""
MOST_FILES = 200_000
"""Files and folders in an archive, those of nested archives included; UCF101's holds 13,422."""
DEEPEST = 8
"""How deep archives may be nested; HMDB51's are one deep."""
_HEADROOM = 2**30
"""Bytes of the disk that unpacking leaves free, or a tenth of what was free if that is less."""
_SECONDS_BETWEEN_LOOKS = 0.1
_LAST_LINES = 5
"""Shown of the output of a program that fails: it may say something about every file."""
_COPY_BYTES = 2**20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Python's zipfile bounds the memory of unpacking only for these: with bzip2, 400 bytes become 300
MB at once."""
_UNIX = 3
"""The system in a .zip's entry that keeps a file's mode."""


def unpack(archive: Path, folder: Path) -> list[str]:
    """Unpack an archive and those in it into a folder, which gets its name when it is complete;
    returns remarks. Nothing happens if it is there.

    Raises:
        DataError: If the archive is damaged, leads out of its folder, is too large, or there is no
            program for it.
    """
    if folder.is_dir():
        return []
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        with _in_turn(archive) as lock:
            if folder.is_dir():  # another process has unpacked it meanwhile
                return []
            _remove(partial)  # of a call that was killed
            try:
                partial.mkdir(parents=True)
                left_out = _unpack_nested(archive, partial, lock)
                partial.replace(folder)
            finally:
                _remove(partial)
                _remove_empty(partial.parent)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise DataError(
            f"{archive} can't be unpacked into {folder}: {error.strerror or error}",
            "make room there" if full else "unpack it yourself and name its folder with --source",
        ) from error
    if not left_out:
        return []
    return [f"{archive.name}: {left_out:,} links or special files in it were left out"]


class _Allowance:
    """The bytes and files that an archive, and those in it, may still unpack to.

    Args:
        archive: The outermost archive.
        folder: A folder on the disk that is written to.
    """

    def __init__(self, archive: Path, folder: Path) -> None:
        self.archive, self.folder = archive, folder
        self.most = self.bytes = max(_LARGEST_RATIO * archive.stat().st_size, SMALL)
        self.files = MOST_FILES
        free = shutil.disk_usage(folder).free
        self.headroom = min(_HEADROOM, free // 10)

    def check(self, files: int, size: int, to_write: int = 0) -> None:
        """Raise a DataError if more files or bytes are too many, or bytes to be written would fill
        the disk."""
        if files > self.files or size > self.bytes:
            what = (
                f"{MOST_FILES:,} files and folders"
                if files > self.files
                else f"{self.most // 2**20:,} MiB"
            )
            raise DataError(
                f"{self.archive} unpacks to more than {what}, which no dataset of its size does",
                "do not trust this file; if you do, unpack it yourself and name its folder with "
                "--source",
            )
        if shutil.disk_usage(self.folder).free - to_write < self.headroom:
            raise DataError(
                f"{self.archive} can't be unpacked into {self.folder.parent}: the disk would be "
                "full",
                "make room there",
            )

    def take(self, files: int, size: int) -> None:
        """Count files and bytes that were written, after checking them."""
        self.check(files, size)
        self.files, self.bytes = self.files - files, self.bytes - size


@contextmanager
def _in_turn(archive: Path) -> Iterator[int]:
    """Lock an archive, after waiting for processes that unpack it; gives the file descriptor of the
    lock.

    A program that unpacks inherits the descriptor: if it outlives this process, the next one waits
    for it and doesn't write into the same folder.
    """
    with archive.open("rb") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waiting for another process that unpacks {archive}")
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:  # some network file systems lock no file that is open for reading
                pass
        yield file.fileno()


def _unpack_nested(archive: Path, folder: Path, lock: int) -> int:
    """Unpack an archive and those in it, which are then deleted; returns the number of entries left
    out.

    Raises:
        DataError: If one of them is damaged, too large, or lies too deep.
    """
    allowance = _Allowance(archive, folder)
    left_out = 0
    waiting = {archive: (folder, 0)}  # HMDB51 is an archive of one archive a class
    while waiting:
        packed, (target, depth) = waiting.popitem()
        if target.exists() and not target.is_dir():
            raise DataError(
                f"{packed} would be unpacked over the file {target.name}", "unpack it yourself"
            )
        left_out += _unpack_into(packed, target, archive, allowance, lock) + _sweep(target)
        if packed != archive:
            packed.unlink()
        inner = [path for path in files_below(target, target) if path.suffix.lower() in ENDINGS]
        if inner and depth == DEEPEST:
            raise DataError(
                f"{archive} holds archives in archives, more than {DEEPEST} deep",
                "do not trust this file",
            )
        waiting |= {
            path: (path.with_suffix(""), depth + 1) for path in inner if path not in waiting
        }
    return left_out


def _unpack_into(
    archive: Path, folder: Path, outermost: Path, allowance: _Allowance, lock: int
) -> int:
    """Unpack one archive, perhaps out of another, into a folder; returns the number of entries left
    out.

    Raises:
        DataError: If it is too large or damaged.
    """
    again = f"delete {outermost} and download it again; the same command does that where it had downloaded it"
    program = find_program(str(archive))
    folder.mkdir(exist_ok=True)
    if program is None:
        return _unzip(archive, folder, again, allowance)
    command = [
        program,
        "-quiet",
        "-force-overwrite",
        "-no-directory",
        "-output-directory",
        str(folder),
        str(archive),
    ]
    status, said = _watched(command, folder, allowance, lock)
    if status:
        raise DataError(f"{archive} can't be unpacked: {said}", again)
    return 0


def find_program(archive: str) -> str | None:
    """The program that unpacks an archive, None for a .zip.

    Raises:
        DataError: If it is not installed.
    """
    if archive.lower().endswith(".zip"):
        return None
    program = shutil.which("unar")
    if program is None:
        raise DataError(
            f"{archive} needs the program `unar`",
            "install it (Debian: apt-get install unar), or unpack the archive yourself and name "
            "its folder with --source",
        )
    return program


def _watched(
    command: Sequence[str], folder: Path, allowance: _Allowance, lock: int
) -> tuple[int, str]:
    """Run a program that fills a folder; returns its exit status and the end of its output.

    Raises:
        DataError: If it writes too much, for which it is killed.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,  # it would ask for a password
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        pass_fds=[lock] if fcntl is not None else [],
    ) as process:
        try:
            took = 0.0
            looked = time.monotonic()
            while True:
                try:
                    said, complaints = process.communicate(timeout=_SECONDS_BETWEEN_LOOKS)
                    break
                except subprocess.TimeoutExpired:
                    allowance.check(0, 0)
                # Counting many files must not slow the program down.
                if time.monotonic() - looked > 10 * took:
                    looked = time.monotonic()
                    allowance.check(*_measure(folder))
                    took = time.monotonic() - looked
            allowance.take(*_measure(folder))
        finally:
            process.kill()  # nothing happens if it has ended
    return process.returncode, "\n".join((complaints or said).strip().splitlines()[-_LAST_LINES:])


def _unzip(archive: Path, folder: Path, again: str, allowance: _Allowance) -> int:
    """Unpack a .zip into an existing folder, verifying check sums; returns the number of entries
    left out. `again` says what to do if it is damaged.

    Raises:
        DataError: If it is damaged, too large, or leads out of its folder.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            entries = content.infolist()
            size = sum(entry.file_size for entry in entries)
            allowance.check(len(entries), size, to_write=size)
            made = 0
            for entry in entries:
                # A name that isn't marked as UTF-8 was read as code page 437, unless Python found
                # another one beside it.
                if not entry.flag_bits & 0x800 and entry.filename == entry.orig_filename:
                    entry.filename = decode_text(entry.filename.encode("cp437"))
                if not entry.filename:
                    raise ValueError("it holds a file without a name")
                path = PurePath(entry.filename)
                if path.anchor or ".." in path.parts:  # an anchor may be a drive
                    raise DataError(
                        f"{archive} holds `{entry.filename}`, which leads out of its folder",
                        "do not trust this file",
                    )
                made += len(path.parts)
            allowance.take(made, 0)
            plain = [entry for entry in entries if _is_plain(entry)]
            if any(entry.compress_type not in _METHODS for entry in plain):
                raise NotImplementedError("it is packed by another method than Deflate")
            for entry in plain:
                _extract(content, entry, folder, allowance)
            return len(entries) - len(plain)
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        ValueError,
    ) as error:
        raise DataError(f"{archive} is damaged: {error}", again) from error
    except (RuntimeError, NotImplementedError) as error:
        # A password, or a compression that Python lacks.
        raise DataError(
            f"{archive} can't be unpacked: {error}",
            "unpack it yourself and name its folder with --source",
        ) from error


def _is_plain(entry: zipfile.ZipInfo) -> bool:
    """Whether an entry is a folder or a file, not a link or device."""
    kind = stat.S_IFMT(entry.external_attr >> 16) if entry.create_system == _UNIX else 0
    return kind in (0, stat.S_IFREG, stat.S_IFDIR)


def _extract(
    content: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path, allowance: _Allowance
) -> None:
    """Write one entry of a .zip, whose name is known to stay in the folder."""
    path = folder / entry.filename
    if entry.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with content.open(entry) as source, path.open("wb") as target:
        while chunk := source.read(_COPY_BYTES):
            allowance.take(0, len(chunk))
            target.write(chunk)


def _measure(folder: Path) -> tuple[int, int]:
    """Number and bytes of what lies below a folder, without what vanishes meanwhile."""
    count = size = 0
    for above, folders, names in os.walk(folder):
        count += len(folders) + len(names)
        for name in names:
            with suppress(OSError):
                size += Path(above, name).lstat().st_size
    return count, size


def _sweep(folder: Path) -> int:
    """Remove everything but folders and files that lie in this folder only; returns how many that
    were."""
    files = defaultdict(list)
    others = []
    for path, state in _entries(folder):
        if stat.S_ISREG(state.st_mode):
            files[state.st_dev, state.st_ino, state.st_nlink].append(path)
        elif not stat.S_ISDIR(state.st_mode):
            others.append(path)
    for (_, _, links), paths in files.items():
        if links > len(paths):  # a hard link to a file outside
            others += paths
    for path in others:
        path.unlink()
    return len(others)


def _entries(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Everything below a folder with its state. No link is followed; folders that can't be read are
    made readable."""
    waiting = [folder]
    while waiting:
        above = waiting.pop()
        mode = stat.S_IMODE(above.lstat().st_mode)
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            above.chmod(mode | stat.S_IRWXU)
        for path in above.iterdir():
            state = path.lstat()
            if stat.S_ISDIR(state.st_mode):
                waiting.append(path)
            yield path, state


def _remove(folder: Path) -> None:
    """Delete a folder and everything below, if it is there. No link is followed."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        for path, state in reversed([*_entries(folder)]):  # what lies in a folder comes before it
            if stat.S_ISDIR(state.st_mode):
                path.rmdir()
            else:
                path.unlink()
        folder.rmdir()


def _remove_empty(folder: Path) -> None:
    """Delete a folder and those above it, as long as they are empty."""
    with suppress(OSError):
        for each in (folder, *folder.parents):
            each.rmdir()
