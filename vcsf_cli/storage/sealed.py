"""Files that hold a checksum of themselves, and reading files so that any damage is one error.

A seal is a CRC-32 in a place that the file's own format has for text: a key of a JSON file, the
metadata of a Parquet file. It is that of the whole file with zeros in its place. So a file stays one
file, which is replaced in one step and which others read as before. Files without a seal, such as
those of earlier versions, count as whole."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from vcsf_cli.errors import BROKEN_DISK, TOO_FEW, RunError, VcsfError
from vcsf_cli.storage.files import atomic_write

_KEY = "checksum"
_MARK = b"vcsf-crc32:"
_EMPTY = _MARK + b"0" * 8
_LINE_END = b', "checksum": "%08x"}\n'

_DAMAGE = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    EOFError,
    RecursionError,
    NotImplementedError,
    OverflowError,
    zipfile.BadZipFile,
    zlib.error,
    OSError,
)
"""What reading a file with any content can raise."""

_CHUNK = 2**22

Kind = TypeVar("Kind", dict[str, Any], list[Any])


@contextmanager
def reading(path: Path, hint: str, error: type[VcsfError] = RunError) -> Iterator[None]:
    """Report whatever goes wrong while a file is read and understood as its damage.

    Raises:
        VcsfError: If something goes wrong, of the kind `error`.
    """
    try:
        yield
    except FileNotFoundError as problem:
        raise error(f"{path} is missing", hint) from problem
    except _DAMAGE as problem:
        if isinstance(problem, OSError) and problem.errno in (*TOO_FEW, *BROKEN_DISK):
            raise
        lines = str(problem).strip().splitlines()
        reason = lines[0].rstrip(".:") if lines else type(problem).__name__
        if isinstance(problem, KeyError):
            reason = f"it has no {reason}"
        if isinstance(problem, OSError) and problem.strerror:
            reason = problem.strerror
        raise error(f"{path} is damaged: {reason}", hint) from problem


def read_json(path: Path, kind: type[Kind], hint: str, error: type[VcsfError] = RunError) -> Kind:
    """The content of a JSON file, which must be a dict, or a list of dicts.

    Raises:
        VcsfError: If it is missing or damaged, of the kind `error`.
    """
    with reading(path, hint, error):
        content = json.loads(_read_sealed(path))
        if not isinstance(content, kind):
            raise ValueError(f"it does not hold a {'list' if kind is list else 'dict'}")
        if isinstance(content, list):
            if not all(isinstance(each, dict) for each in content):
                raise ValueError("it does not hold a list of dicts")
        else:
            content.pop(_KEY, None)
        return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a sealed JSON file."""
    text = json.dumps(content | {_KEY: _EMPTY.decode()}, indent=2) + "\n"
    with atomic_write(path) as file:
        file.write(_seal(text.encode()))


def read_parquet(
    path: Path, hint: str, error: type[VcsfError] = RunError, **options: Any
) -> pa.Table:
    """The table in a Parquet file; options as of `pyarrow.parquet.read_table`.

    Raises:
        VcsfError: If it is missing or damaged, of the kind `error`.
    """
    with reading(path, hint, error):
        return pq.read_table(pa.BufferReader(_read_sealed(path)), **options)


def write_parquet(path: Path, table: pa.Table, **options: Any) -> None:
    """Write a sealed Parquet file; options as of `pyarrow.parquet.write_table`."""
    metadata = (table.schema.metadata or {}) | {_KEY.encode(): _EMPTY}
    content = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), content, **options)
    with atomic_write(path) as file:
        file.write(_seal(content.getvalue().to_pybytes()))


@contextmanager
def sealed_parquet(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A writer of a sealed Parquet file that need not fit into memory; its `schema` has a place for
    the checksum. The file appears at the end, in one step."""
    metadata = (schema.metadata or {}) | {_KEY.encode(): _EMPTY}
    with atomic_write(path) as file:
        with pq.ParquetWriter(file, schema.with_metadata(metadata)) as writer:
            yield writer
        file.flush()
        partial = Path(file.name)
        file.seek(_find_mark(partial))
        file.write(b"%08x" % file_crc32(partial))


def check_seal(path: Path, hint: str, error: type[VcsfError] = RunError) -> None:
    """Compare a Parquet file with its checksum, in little memory.

    Raises:
        VcsfError: If it is missing or damaged, of the kind `error`.
    """
    with reading(path, hint, error):
        place = _find_mark(path)
        if not place:
            return
        with path.open("rb") as file:
            checksum = _crc32(file, place)
            found = file.read(8)
            checksum = _crc32(file, None, zlib.crc32(b"0" * 8, checksum))
        if found != b"%08x" % checksum:
            raise ValueError("its content is not what its checksum says")


def _find_mark(path: Path) -> int:
    """Where the checksum of a Parquet file stands, in the metadata at its end; 0 if it has none."""
    with path.open("rb") as file:
        file.seek(-8, 2)
        length = int.from_bytes(file.read(4), "little") + 8
        begin = max(0, path.stat().st_size - length)
        file.seek(begin)
        place = file.read().rfind(_MARK)
    return begin + place + len(_MARK) if place >= 0 else 0


def to_line(entry: dict[str, Any]) -> bytes:
    """An entry as a line of a journal, which ends with a checksum of the rest."""
    text = json.dumps(entry, ensure_ascii=False).encode()[:-1]
    return text + _LINE_END % zlib.crc32(text)


def parse_line(line: bytes) -> dict[str, Any] | None:
    """The entry in a line of a journal; None if it is damaged or not whole."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or not line.endswith(b"\n"):
        return None
    if entry.pop(_KEY, None) is not None:
        text = line[: -len(_LINE_END % 0)]
        if line != text + _LINE_END % zlib.crc32(text):
            return None
    return entry


def file_crc32(path: Path) -> int:
    with path.open("rb") as file:
        return _crc32(file, None)


def _crc32(file: IO[bytes], length: int | None, checksum: int = 0) -> int:
    """The checksum of the next bytes of a file, all that are left if `length` is None, after those
    of an earlier one."""
    while length is None or length > 0:
        chunk = file.read(_CHUNK if length is None else min(_CHUNK, length))
        if not chunk:
            break
        checksum = zlib.crc32(chunk, checksum)
        length = None if length is None else length - len(chunk)
    return checksum


def _seal(content: bytes) -> bytes:
    """Content with the checksum in its place, which must be empty."""
    place = content.rindex(_EMPTY) + len(_MARK)
    return content[:place] + b"%08x" % zlib.crc32(content) + content[place + 8 :]


def _read_sealed(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        ValueError: If they are not those that were sealed.
    """
    content = path.read_bytes()
    place = content.rfind(_MARK) + len(_MARK)
    if place >= len(_MARK):
        checksum = zlib.crc32(memoryview(content)[:place])
        checksum = zlib.crc32(b"0" * 8, checksum)
        checksum = zlib.crc32(memoryview(content)[place + 8 :], checksum)
        if content[place : place + 8] != b"%08x" % checksum:
            raise ValueError("its content is not what its checksum says")
    return content
