"""Sealed Parquet files that are written and checked in pieces."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vcsf_cli.errors import RunError
from vcsf_cli.storage import sealed


@pytest.mark.parametrize("chunk", [7, 64, 2**20])
def test_any_changed_byte_of_a_table_written_in_pieces_is_found(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealed, "_CHUNK", chunk)
    path = tmp_path / "table.parquet"
    table = pa.table({"x": list(range(50))}).replace_schema_metadata({"vcsf": "key"})
    with sealed.sealed_parquet(path, table.schema) as writer:
        for start in (0, 20):
            writer.write_table(table.slice(start, 20).cast(writer.schema))
    sealed.check_seal(path, "")
    read = sealed.read_parquet(path, "")  # all at once: the same seal
    assert read["x"].to_pylist() == list(range(40))
    assert read.schema.metadata[b"vcsf"] == b"key"
    whole = path.read_bytes()
    mark = whole.rindex(b"vcsf-crc32:")
    for place in range(4, len(whole) - 8, 5):
        if mark <= place < mark + len(b"vcsf-crc32:"):
            continue  # without its mark a file counts as one that was never sealed
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(RunError, match="its content is not what its checksum says"):
            sealed.check_seal(path, "")


def test_a_file_without_a_seal_counts_as_whole(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"x": [1]}), path)
    sealed.check_seal(path, "")
    path.write_bytes(b"none")
    with pytest.raises(RunError, match=r"table.parquet is damaged"):
        sealed.check_seal(path, "")
