"""metrics.csv: one line per log interval, appended, and cut back when a run goes on from an earlier
point."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from vcsf_cli.storage.files import whole


class MetricsFile:
    """A CSV file of records with a `step`, a `stage` from 1 and a number of finished epochs,
    `epoch`.

    Args:
        path: The file; made with the first record.
        step: Where the training goes on: what is there of later steps is cut off, for a run that
            was killed does them again.
        stage: The same by stages, counted from 1, and ...
        epoch: ... by finished epochs: while a queue is filled, steps stand still.
    """

    def __init__(self, path: Path, step: int, stage: int, epoch: int) -> None:
        self.path = path
        self.columns: list[str] = []
        records = self.read()
        if records:
            self.columns = list(records[0])
            self._rewrite(
                [
                    each
                    for each in records
                    if int(each["step"]) <= step and _record_place(each) <= (stage, epoch)
                ]
            )

    def read(self) -> list[dict[str, str]]:
        """All records; a line that a kill cut short is left out."""
        if not self.path.is_file():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        return list(csv.DictReader(line for line in lines if line.endswith("\n")))

    def append(self, record: Mapping[str, float]) -> None:
        """Add a record; a new column is added to the lines before it as empty."""
        new = [name for name in record if name not in self.columns]
        if new:
            self.columns += new
            self._rewrite(self.read())
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, lineterminator="\n").writerow(dict(record))

    def last(self) -> dict[str, float]:
        """The last values that the last stage of it has logged."""
        found: dict[str, float] = {}
        for record in self.read():
            found = merge_record(
                found, {name: float(value) for name, value in record.items() if value}
            )
        return found

    def _rewrite(self, records: list[dict[str, str]]) -> None:
        with whole(self.path, "w") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(records)


def _record_place(record: Mapping[str, str]) -> tuple[int, int]:
    """Stage and finished epochs of a record."""
    return int(record["stage"]), int(float(record["epoch"] or 0))


def merge_record(before: Mapping[str, float], record: Mapping[str, float]) -> dict[str, float]:
    """The last values of a stage with a new record; a new stage begins with nothing."""
    return {**(before if before.get("stage") == record["stage"] else {}), **record}
