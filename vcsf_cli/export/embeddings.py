"""The table that `vcsf embed` writes: one row a window, in a file that a later call completes.

Rows of finished videos go into a file beside the table as they come, an Arrow stream whose last
batch a kill may cut short. At the end they and the rows that are still right become the table, in
one step."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from vcsf_cli.contracts import RemoteFile
from vcsf_cli.data.pool import MISSING
from vcsf_cli.errors import InputError
from vcsf_cli.export.embed import with_both
from vcsf_cli.export.table_files import FORMATS
from vcsf_cli.search.video import WindowFeatures

_HEAD_BYTES = 2**20
_ROWS_AT_ONCE = 8192
_SECONDS_BETWEEN_WRITES = 1.0


@dataclass(frozen=True)
class VideoItem:
    """A video to embed.

    Args:
        name: Its `path` in the table.
        file: The file.
        size: Bytes of it.
        modified: When it was modified, in nanoseconds.
        label: Its class, None if unknown.
        split: Its part of the split, such as `train`; None if unknown.
        digest: Of its content; empty: that of its beginning is computed when it is asked for.
    """

    name: str
    file: Path | RemoteFile
    size: int
    modified: int
    label: str | None = None
    split: str | None = None
    digest: str = ""

    @classmethod
    def at(cls, name: str, file: Path | RemoteFile, label: str | None = None) -> Self:
        """The item of a file; one that isn't there, as where a link leads nowhere, has the size
        `MISSING`."""
        if isinstance(file, RemoteFile):
            return cls(name, file, file.size, 0, label, digest=file.version)
        try:
            state = file.stat()
        except OSError:
            return cls(name, file, MISSING, 0, label)
        return cls(name, file, state.st_size, state.st_mtime_ns, label)

    def head(self) -> str:
        """The digest, or one of the beginning of the file."""
        if self.digest:
            return self.digest
        assert isinstance(self.file, Path)
        with self.file.open("rb") as file:
            return hashlib.sha256(file.read(_HEAD_BYTES)).hexdigest()[:16]


class Embeddings:
    """A table of features that is being made or completed. One process works on it at a time.

    Args:
        path: The table; its ending says whether it is Parquet or Lance.
        key: Everything but the videos that the features depend on, such as the encoder's digest.
        about: What else the metadata says, such as the encoder's name; a table is completed
            whatever it said there before.
        widths: Length of the vectors in each column.
        half: Whether vectors are float16.

    Raises:
        InputError: If the file holds something else, or features by another key.
    """

    def __init__(
        self,
        path: Path,
        key: Mapping[str, Any],
        about: Mapping[str, Any],
        widths: Mapping[str, int],
        half: bool,
    ) -> None:
        self.path = path
        self.table = FORMATS[path.suffix](path)
        self.partial = path.with_name(f".{path.name}.unfinished")
        number = pa.float16() if half else pa.float32()
        fields = [
            ("path", pa.string()),
            ("begin", pa.float64()),
            ("end", pa.float64()),
            *((name, pa.list_(number, width)) for name, width in widths.items()),
            ("label", pa.string()),
            ("split", pa.string()),
            ("size", pa.int64()),
            ("modified", pa.int64()),
            ("head", pa.string()),
        ]
        self.key: dict[str, Any] = json.loads(json.dumps(key))
        text = json.dumps({**key, **about}, sort_keys=True)
        self.schema = pa.schema(fields, {"vcsf": text})
        self._waiting: list[pa.RecordBatch] = []
        self._written = time.monotonic()
        self._check()
        self._recover()

    def _check(self) -> None:
        """Check that the table is whole and of the same key, if there is one."""
        if self.path.exists() and not self._fits(self.table.schema()):
            raise InputError(
                f"{self.path} holds features of another encoder, of other windows or of another "
                "kind",
                "give another -o, or move the file away",
            )

    def _fits(self, schema: pa.Schema) -> bool:
        """Whether rows are of the same columns and key."""
        try:
            found = json.loads((schema.metadata or {}).get(b"vcsf", b"{}"))
        except ValueError:
            return False
        same = {name: found.get(name) for name in self.key} == self.key
        return same and schema.equals(self.schema, check_metadata=False)

    def _recover(self) -> None:
        """Begin the file of finished videos, with those of a call that was cut short."""
        before = self.partial.with_name(f"{self.partial.name}.before")
        if self.partial.exists() and not before.exists():
            self.partial.replace(before)
        self._file = self.partial.open("wb")
        self._writer = pa.ipc.new_stream(self._file, self.schema)
        for batch in _whole_batches(before):
            if self._fits(batch.schema):
                self._writer.write_batch(batch.replace_schema_metadata(self.schema.metadata))
        self._sync()
        before.unlink(missing_ok=True)

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def missing(self, items: list[VideoItem]) -> list[VideoItem]:
        """The videos that have no rows, or were changed since. A file with another time is the
        same if its size and its beginning are."""
        known = {**self._known_in_table(), **self._known_in_partial()}
        return [item for item in items if not _is_same(item, known.get(item.name))]

    def _known_in_table(self) -> dict[str, tuple[int, int, str]]:
        if not self.path.exists():
            return {}
        return _identities(self.table.read(["path", "size", "modified", "head"]))

    def _known_in_partial(self) -> dict[str, tuple[int, int, str]]:
        return {name: _identity(batch, 0) for name, batch in self._finished().items()}

    def _finished(self) -> dict[str, pa.RecordBatch]:
        """The rows of each finished video, mapped from disk; of one that is there twice, the last."""
        return {batch["path"][0].as_py(): batch for batch in _whole_batches(self.partial)}

    def add(self, item: VideoItem, features: WindowFeatures) -> None:
        """Add the rows of a video. They are on disk after some seconds, or after `flush`."""
        count = len(features.begin)
        columns: dict[str, Any] = {
            "path": [item.name] * count,
            "begin": features.begin,
            "end": features.end,
            "label": [item.label] * count,
            "split": [item.split] * count,
            "size": [item.size] * count,
            "modified": [item.modified] * count,
            "head": [item.head()] * count,
        }
        for name, values in with_both(features.features).items():
            kind = self.schema.field(name).type
            flat = values.astype(kind.value_type.to_pandas_dtype()).ravel()
            columns[name] = pa.FixedSizeListArray.from_arrays(
                pa.array(flat, kind.value_type), kind.list_size
            )
        arrays = [pa.array(columns[each.name], each.type) for each in self.schema]
        self._waiting.append(pa.record_batch(arrays, schema=self.schema))
        if time.monotonic() - self._written > _SECONDS_BETWEEN_WRITES:
            self.flush()

    def gone(self, items: list[VideoItem]) -> tuple[int, int]:
        """How many windows of how many videos have rows, of this table or of a call that was cut
        short, and are not among the items, or have no file any more: `finish` drops them."""
        windows = {name: len(rows) for name, rows in self._finished().items()}
        if self.path.exists():
            spans = _spans(self.table.read(["path"]))
            windows = {name: count for name, (_, count) in spans.items()} | windows
        there = {item.name for item in items if item.size != MISSING}
        counts = [count for name, count in windows.items() if name not in there]
        return sum(counts), len(counts)

    def close(self) -> None:
        """Leave the table as it is; rows of a call that was cut short stay for the next one."""
        self._writer.close()
        self._file.close()
        if not self._finished():
            self.partial.unlink()

    def flush(self) -> None:
        """Write what was added."""
        for batch in self._waiting:
            self._writer.write_batch(batch)
        self._sync()
        self._waiting, self._written = [], time.monotonic()

    def finish(self, items: list[VideoItem]) -> int:
        """Write the table of these videos, sorted by path, and return its number of rows. Videos
        without rows are left out."""
        self.flush()
        wanted = {item.name: item for item in items}
        rows = 0

        def counted(fresh: Mapping[str, pa.RecordBatch]) -> Iterator[pa.Table]:
            nonlocal rows
            for table in _in_blocks(self._merged(fresh, wanted)):
                rows += len(table)
                yield table

        self.table.write(self.schema, counted(self._finished()))
        self._writer.close()
        self._file.close()
        self.partial.unlink()
        return rows

    def _merged(
        self, fresh: Mapping[str, pa.RecordBatch], wanted: Mapping[str, VideoItem]
    ) -> Iterator[pa.Table]:
        """The rows of each wanted video by rising path: the fresh ones, else those of the table."""
        left = deque(sorted(fresh.keys() & wanted.keys()))
        for name, rows in _groups(self.table.batches()) if self.path.exists() else ():
            while left and left[0] < name:
                yield pa.Table.from_batches([fresh[left.popleft()]])
            if left and left[0] == name:
                yield pa.Table.from_batches([fresh[left.popleft()]])
            elif name in wanted and _is_same(wanted[name], _identity(rows, 0)):
                yield rows
        for name in left:
            yield pa.Table.from_batches([fresh[name]])


def _is_same(item: VideoItem, known: tuple[int, int, str] | None) -> bool:
    """Whether a video is the one of these size, time and beginning."""
    if known is None or item.size != known[0]:
        return False
    return (not item.digest and item.modified == known[1]) or item.head() == known[2]


def _identities(table: pa.Table) -> dict[str, tuple[int, int, str]]:
    """Size, time and beginning of each video."""
    return {name: _identity(table, at) for name, (at, _) in _spans(table).items()}


def _identity(rows: pa.Table | pa.RecordBatch, at: int) -> tuple[int, int, str]:
    """Size, time and beginning of the video of a row."""
    size, modified, head = (rows[name][at].as_py() for name in ("size", "modified", "head"))
    return size, modified, head


def _spans(table: pa.Table) -> dict[str, tuple[int, int]]:
    """First row and number of rows of each video; of one that is there twice, the last."""
    if not len(table):
        return {}
    names = table["path"].to_numpy()
    starts = [0, *(np.flatnonzero(names[1:] != names[:-1]) + 1)]
    ends = [*starts[1:], len(names)]
    return {
        names[begin]: (int(begin), int(end - begin))
        for begin, end in zip(starts, ends, strict=True)
    }


def _groups(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each video of a table, in its order."""
    held: pa.Table | None = None
    for batch in batches:
        table = pa.Table.from_batches([batch])
        held = table if held is None else pa.concat_tables([held, table])
        *whole, (last, (begin, count)) = _spans(held).items()
        for name, span in whole:
            yield name, held.slice(*span)
        held = held.slice(begin, count)
    if held is not None and len(held):
        yield last, held


def _in_blocks(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of some thousand."""
    held: list[pa.Table] = []
    rows = 0
    for table in tables:
        held.append(table)
        rows += len(table)
        if rows >= _ROWS_AT_ONCE:
            yield pa.concat_tables(held).combine_chunks()
            held, rows = [], 0
    if held:
        yield pa.concat_tables(held).combine_chunks()


def _whole_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The batches of an Arrow stream up to where it was cut short; none if there is no file."""
    if not path.exists() or not path.stat().st_size:
        return
    with pa.memory_map(str(path)) as source:
        try:
            with pa.ipc.open_stream(source) as stream:
                yield from stream
        except (pa.ArrowInvalid, OSError):  # what a kill left half written
            return
