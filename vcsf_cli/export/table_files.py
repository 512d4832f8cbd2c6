"""The files that a table of features can be in: Parquet, or Lance by an extra."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vcsf_cli.errors import InputError
from vcsf_cli.storage.sealed import check_seal, sealed_parquet

_ROWS_AT_ONCE = 8192


class TableFile(ABC):
    """A table on disk. It is read in the order in which it was written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def schema(self) -> pa.Schema:
        """Its columns and metadata.

        Raises:
            InputError: If it can't be read, or is damaged.
        """

    @abstractmethod
    def read(self, columns: Sequence[str]) -> pa.Table:
        """Some columns of all rows."""

    @abstractmethod
    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows, some thousand at a time."""

    @abstractmethod
    def write(self, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
        """Replace it in one step; `tables` may come from the one before."""


class _Parquet(TableFile):
    """A sealed Parquet file."""

    def schema(self) -> pa.Schema:
        try:
            schema = pq.read_schema(self.path)
        except (OSError, pa.ArrowException) as error:
            raise _not_a_table(self.path, error) from error
        check_seal(self.path, "delete it: the same command makes it again", InputError)
        return schema

    def read(self, columns: Sequence[str]) -> pa.Table:
        return pq.read_table(self.path, columns=list(columns))

    def batches(self) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(self.path) as file:
            yield from file.iter_batches(_ROWS_AT_ONCE)

    def write(self, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
        with sealed_parquet(self.path, schema) as writer:
            for table in tables:
                writer.write_table(table.cast(writer.schema))


class _Lance(TableFile):
    """A table of Lance, which is a folder. A version that was replaced is deleted."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self.lance: Any = import_module("lance")  # optional
        except ImportError as error:
            raise InputError(
                f"{path} needs pylance, which is not installed", "pip install 'vcsf[lance]'"
            ) from error

    def schema(self) -> pa.Schema:
        try:
            return self.lance.dataset(self.path).schema
        except (OSError, ValueError) as error:
            raise _not_a_table(self.path, error) from error

    def read(self, columns: Sequence[str]) -> pa.Table:
        return self.lance.dataset(self.path).to_table(columns=list(columns))

    def batches(self) -> Iterator[pa.RecordBatch]:
        dataset = self.lance.dataset(self.path)
        yield from dataset.to_batches(batch_size=_ROWS_AT_ONCE, scan_in_order=True)

    def write(self, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
        batches = (batch for table in tables for batch in table.cast(schema).to_batches())
        reader = pa.RecordBatchReader.from_batches(schema, batches)
        written = self.lance.write_dataset(reader, self.path, schema=schema, mode="overwrite")
        written.cleanup_old_versions(timedelta(0))


FORMATS: dict[str, type[TableFile]] = {".parquet": _Parquet, ".lance": _Lance}
"""Kinds of table by the ending of their name."""


def _not_a_table(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path} is not a table that vcsf embed can complete: {str(error).splitlines()[0]}",
        "give another -o, or move it away",
    )
