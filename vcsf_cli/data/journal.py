"""The journal of a preparation: one line a video, written after its clips are in their shard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vcsf_cli.data.store import shard_name
from vcsf_cli.storage import files


class Journal:
    """The finished videos of a dataset's folder, and where the last of them ends: at byte `end` of
    shard `shard`.

    Reading it cuts off what was not written to its end: a torn line, or after a power cut lines
    that are ahead of their shard.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal.jsonl"
        self.entries: dict[str, dict[str, Any]] = {}
        self.shard = self.end = 0
        if not self.path.is_file():
            return
        whole_bytes = 0
        for line in self.path.read_bytes().splitlines(keepends=True):
            try:
                entry = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n") or not _is_stored(folder, entry):
                break
            whole_bytes += len(line)
            self.entries[entry["name"]] = entry
            self.shard, self.end = entry["shard"], entry["end"]
        with self.path.open("r+b") as file:
            file.truncate(whole_bytes)

    def add(self, entry: dict[str, Any]) -> None:
        self.entries[entry["name"]] = entry
        with self.path.open("ab") as file:
            file.write(_to_line(entry))

    def correct_sizes(self, sizes: dict[str, int]) -> None:
        """Replace the sizes of some videos' files."""
        with self.path.open("rb") as old, files.atomic_write(self.path) as new:
            for line in old:
                entry = json.loads(line)
                entry["size"] = sizes.get(entry["name"], entry["size"])
                new.write(_to_line(entry))
        for name, size in sizes.items():
            self.entries[name]["size"] = size


def _to_line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=False).encode() + b"\n"


def _is_stored(folder: Path, entry: dict[str, Any]) -> bool:
    """Whether an entry's shard is as long as it should be."""
    if not entry["clips"]:
        return True
    for name in (shard_name(entry["shard"]), f"{shard_name(entry['shard'])}.partial"):
        path = folder / name
        if path.is_file():
            return path.stat().st_size >= int(entry["end"])
    return False
