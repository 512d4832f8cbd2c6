"""The journal of a preparation: one line a video, written after its clips are in their shard."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vcsf_cli.data.manifest import MEND
from vcsf_cli.data.store import shard_name
from vcsf_cli.errors import DataError
from vcsf_cli.storage import files
from vcsf_cli.storage.sealed import parse_line, reading, to_line


class Journal:
    """The finished videos of a dataset's folder, and where the last of them ends: at byte `end` of
    shard `shard`.

    Reading it cuts off what was not written to its end: a torn line, or after a power cut lines
    that are ahead of the shard that was being written.

    Args:
        folder: The dataset's folder.
        to_verify: Whether to leave the file as it is, and out the lines that are damaged.

    Raises:
        DataError: If a line is damaged, or a finished shard is missing or too short.
    """

    def __init__(self, folder: Path, to_verify: bool = False) -> None:
        self.path = folder / "journal.jsonl"
        self.entries: dict[str, dict[str, Any]] = {}
        self.shard = self.end = 0
        self.damaged_lines = 0
        if not self.path.is_file():
            return
        whole_bytes = 0
        with reading(self.path, MEND, DataError):
            for number, line in enumerate(self.path.read_bytes().splitlines(keepends=True), 1):
                if not line.endswith(b"\n"):
                    break
                entry = parse_line(line)
                if entry is None and to_verify:
                    self.damaged_lines += 1
                    continue
                if entry is None:
                    raise ValueError(f"line {number}")
                if not (to_verify or _is_stored(folder, entry)):
                    break
                whole_bytes += len(line)
                self._keep(entry)
                self.shard, self.end = entry["shard"], entry["end"]
        if not to_verify:
            os.truncate(self.path, whole_bytes)

    def add(self, entry: dict[str, Any]) -> None:
        self._keep(entry)
        with files.naming(self.path), self.path.open("ab") as file:
            file.write(to_line(entry))

    def _keep(self, entry: dict[str, Any]) -> None:
        self.entries.pop(entry["name"], None)  # the order is that of the lines
        self.entries[entry["name"]] = entry

    def change(self, changes: Mapping[str, dict[str, Any]]) -> None:
        """Change keys of some videos' entries."""
        for name, changed in changes.items():
            self.entries[name] |= changed
        self.write()

    def write(self) -> None:
        """Write all lines anew, in the order of the store."""
        entries = sorted(self.entries.values(), key=lambda entry: (entry["shard"], entry["end"]))
        with files.atomic_write(self.path) as file:
            file.writelines(map(to_line, entries))


def _is_stored(folder: Path, entry: dict[str, Any]) -> bool:
    """Whether an entry's shard is as long as it should be.

    Raises:
        DataError: If it is not, though it was finished.
    """
    if not entry["clips"]:
        return True
    path = folder / shard_name(entry["shard"])
    partial = path.with_name(f"{path.name}.partial")
    if path.is_file():
        if path.stat().st_size < entry["end"]:
            raise DataError(f"{path} is damaged: it is too short", MEND)
        return True
    if (folder / shard_name(entry["shard"] + 1)).exists():
        raise DataError(f"{path} is missing", MEND)
    return partial.is_file() and partial.stat().st_size >= entry["end"]
