"""Files at addresses that fsspec knows, such as `s3://bucket/videos`: listed, described, and fetched
whole.

What fails on the way is tried again by the file system's own library, which knows what is worth
it, and a file that still did not arrive is fetched anew, twice."""

from __future__ import annotations

import errno
import posixpath
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any

from vcsf_cli.contracts import RemoteFile
from vcsf_cli.errors import InputError, RemoteError, VcsfError

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://.")  # one letter is a disk of Windows
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
"""Extras of vcsf by scheme."""
_VERSIONS = ("ETag", "etag", "md5Hash", "blob_id", "LastModified", "last_modified", "mtime")
"""What file systems say of a file that changes with its content, the best first."""
_PIECE_BYTES = 2**23
_BLOCK_BYTES = 2**16
_PAUSES = (0.5, 2.0)
"""Seconds before a file is fetched anew. Libraries try requests again, but not all of them a body that
breaks off: s3fs does not where it fetches a large file in parts."""
_THREADS = 16
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def is_address(text: object) -> bool:
    """Whether a text is an address, not a path on this disk."""
    return isinstance(text, str) and _ADDRESS.match(text) is not None


def _load_fsspec() -> Any:
    import fsspec.callbacks  # a tenth of a second, and no help text needs it

    return fsspec


def open_filesystem(address: str) -> tuple[Any, str]:
    """fsspec's file system of an address, and the address as this calls it.

    Raises:
        InputError: If there is no such file system, or its library is not installed.
    """
    scheme = address.partition("://")[0]
    try:
        return _load_fsspec().core.url_to_fs(address, use_listings_cache=False)  # type: ignore[no-any-return]
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        raise InputError(
            f"{address} can't be reached: the library for {scheme}:// is not installed",
            f"pip install 'vcsf[{extra}]'" if extra else str(error),
        ) from error
    except ValueError as error:
        raise InputError(
            f"{address} is not an address that can be reached: {error}",
            "addresses begin with s3://, gs://, hf:// or file://",
        ) from error


@contextmanager
def reaching(address: str) -> Iterator[None]:
    """Turn what the libraries of file systems raise into one error that names the address.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If this disk is full.
        RemoteError: If anything else fails.
    """
    try:
        yield
    except (FileNotFoundError, VcsfError):
        raise
    except Exception as error:  # each library has errors of its own
        if isinstance(error, OSError) and error.errno in _FULL_DISK:
            raise
        reason = str(error).strip() or type(error).__name__
        raise RemoteError(f"{address} can't be reached: {' '.join(reason.split())}") from error


def list_files(address: str) -> dict[str, RemoteFile]:
    """All files below an address by their path from there, sorted, without hidden ones; none if
    there is no such folder.

    Raises:
        RemoteError: If it can't be reached.
    """
    filesystem, root = open_filesystem(address)
    with reaching(address):
        try:
            found = filesystem.find(root, detail=True)
        except FileNotFoundError as error:  # some have folders, others only names
            if (
                error.__cause__
            ):  # a repository or bucket that is not there, or not open to this user
                raise RuntimeError(error) from error
            return {}
    below = {PurePosixPath(path).relative_to(root): info for path, info in found.items()}
    return {
        path.as_posix(): _describe(f"{address.rstrip('/')}/{path.as_posix()}", info)
        for path, info in sorted(below.items())
        if info["type"] == "file" and path.parts and not _is_hidden(path)
    }


def _is_hidden(path: PurePosixPath) -> bool:
    return any(part.startswith(".") for part in path.parts)


def describe(addresses: Iterable[str]) -> list[RemoteFile | None]:
    """The files at addresses, None where there is none.

    Raises:
        RemoteError: If one can't be reached.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(_find, addresses))


def _find(address: str) -> RemoteFile | None:
    filesystem, path = open_filesystem(address)
    with reaching(address):
        try:
            info = filesystem.info(path)
        except FileNotFoundError:
            return None
    return _describe(address, info) if info["type"] == "file" else None


def _describe(address: str, info: dict[str, Any]) -> RemoteFile:
    version = next((str(info[key]) for key in _VERSIONS if info.get(key)), "unknown")
    return RemoteFile(address, info["size"], version)


def beside(table: Path | str, named: str) -> Path | str:
    """The path or the address of a file that a table names: an address, or a path from where the
    table lies, which may be an address too."""
    if isinstance(table, Path) and not is_address(named):
        return table.parent / named
    address = named if is_address(named) else f"{str(table).rpartition('/')[0]}/{named}"
    scheme, _, path = address.partition("://")
    return f"{scheme}://{posixpath.normpath(path)}"


def find_files(places: Sequence[Path | str]) -> list[Path | RemoteFile | None]:
    """The files at paths and addresses; None where there is none at an address.

    Raises:
        RemoteError: If an address can't be reached.
    """
    addresses = [place for place in places if isinstance(place, str)]
    found = dict(zip(addresses, describe(addresses), strict=True))
    return [found[place] if isinstance(place, str) else place for place in places]


def read_bytes(place: Path | str) -> bytes:
    """The content of a small file, at a path or an address.

    Raises:
        FileNotFoundError: If there is none.
        OSError: If it can't be read.
        RemoteError: If the address can't be reached.
    """
    if isinstance(place, Path):
        return place.read_bytes()
    filesystem, path = open_filesystem(place)
    with reaching(place):
        content: bytes = filesystem.cat_file(path)
    return content


@contextmanager
def open_seekable(place: Path | str) -> Iterator[IO[bytes]]:
    """A file, at a path or an address, that is read here and there: only blocks that are asked for
    are fetched.

    Raises:
        FileNotFoundError: If there is none.
        RemoteError: If the address can't be reached.
    """
    filesystem, path = open_filesystem(str(place))
    with (
        reaching(str(place)),
        filesystem.open(path, "rb", block_size=_BLOCK_BYTES, cache_type="readahead") as file,
    ):
        yield file


def fetch(file: RemoteFile, path: Path, beat: Callable[[], None] = lambda: None) -> None:
    """Write a whole file, or the whole part of one, to a path.

    Args:
        beat: Called with every piece that arrives.

    Raises:
        FileNotFoundError: If it isn't there any more.
        OSError: If this disk is full.
        RemoteError: If it can't be reached, or is of another size.
    """
    for pause in _PAUSES:
        try:
            return _fetch(file, path, beat)
        except RemoteError:
            time.sleep(pause)
    return _fetch(file, path, beat)


def _fetch(file: RemoteFile, path: Path, beat: Callable[[], None]) -> None:
    filesystem, source = open_filesystem(file.address)
    with reaching(file.address):
        if file.begin is None:
            hooks = {"beat": lambda size, value, **_: beat()}
            filesystem.get_file(
                source, str(path), callback=_load_fsspec().callbacks.Callback(hooks=hooks)
            )
        else:
            end = file.begin + file.size
            with path.open("wb") as target:
                for begin in range(file.begin, end, _PIECE_BYTES):
                    piece = min(begin + _PIECE_BYTES, end)
                    target.write(filesystem.cat_file(source, start=begin, end=piece))
                    beat()
    if path.stat().st_size != file.size:
        raise RemoteError(
            f"{file} has {path.stat().st_size:,} bytes, not the {file.size:,} that it was listed "
            "with: it has changed meanwhile"
        )


def store(path: Path, address: str) -> None:
    """Copy a file to an address, where it appears whole or not at all.

    Raises:
        OSError: If it can't be read.
        RemoteError: If the address can't be reached, or is on a full disk.
    """
    filesystem, target = open_filesystem(address)
    with reaching(address):
        if filesystem.protocol == ("file", "local"):
            _store_in_folder(path, Path(target), address)
        else:
            filesystem.put_file(str(path), target)


def _store_in_folder(path: Path, target: Path, address: str) -> None:
    """Copy a file; until it is whole, it has a name that `list_files` leaves out."""
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, partial)
        partial.replace(target)
    except OSError as error:
        if error.errno not in _FULL_DISK:
            raise
        raise RemoteError(
            f"{address} can't be written: {error.strerror}",
            "make room there; the same command goes on",
        ) from error
    finally:
        with suppress(OSError):  # a disk that can only be read
            partial.unlink()


@contextmanager
def local_copy(
    file: Path | RemoteFile, work: str = "", beat: Callable[[], None] = lambda: None
) -> Iterator[Path]:
    """A path where the file can be read meanwhile; one that is not on this disk is fetched.

    Args:
        work: The begin of the paths that may be written to; empty: in the folder of temporary
            files.
        beat: As of `fetch`.

    Raises:
        FileNotFoundError, OSError, RemoteError: As `fetch`.
    """
    if isinstance(file, Path):
        yield file
        return
    begin = Path(work) if work else Path(tempfile.gettempdir(), "vcsf")
    with tempfile.NamedTemporaryFile(
        prefix=f"{begin.name}.", suffix=file.suffix, dir=begin.parent
    ) as copy:
        fetch(file, Path(copy.name), beat)
        yield Path(copy.name)
