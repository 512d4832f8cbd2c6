"""metrics.csv: one line per log interval, appended, and cut back when a run resumes."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from vcsf_cli.storage.files import atomic_write, naming
from vcsf_cli.storage.sealed import reading

HINT = "it is the log of the training: delete it, and what follows is logged anew"


class MetricsFile:
    """A CSV file of records with a `step`, a `stage` from 1 and a number of finished epochs,
    `epoch`.

    Args:
        path: The file; made with the first record.
        step: Steps that are done. Records of later steps are cut off: a run that was killed does
            these steps again.
        stage: The stage under way, from 1, and ...
        epoch: ... its finished epochs, which cut off too: while a queue fills, steps stand still.
    """

    def __init__(self, path: Path, step: int, stage: int, epoch: int) -> None:
        self.path = path
        self.columns: list[str] = []
        records = self.read()
        if records:
            self.columns = list(records[0])
            kept = [
                each
                for each in records
                if int(each["step"]) <= step
                and (int(each["stage"]), int(float(each["epoch"] or 0))) <= (stage, epoch)
            ]
            self._rewrite(kept)

    def read(self) -> list[dict[str, str]]:
        """All records, without a line that a kill cut short.

        Raises:
            RunError: If the file is damaged.
        """
        if not self.path.is_file():
            return []
        with reading(self.path, HINT):
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            records = list(csv.DictReader(line for line in lines if line.endswith("\n")))
            for record in records:
                numbers = {name: float(value or 0) for name, value in record.items()}
                _ = numbers["step"]
            return records

    def append(self, record: Mapping[str, float]) -> None:
        """Append a record; a new column is empty in the lines before it."""
        new = [name for name in record if name not in self.columns]
        if new:
            self.columns += new
            self._rewrite(self.read())
        with naming(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, lineterminator="\n").writerow(dict(record))

    def last(self) -> dict[str, float]:
        """The last value of each column in the last stage."""
        found: dict[str, float] = {}
        for record in self.read():
            found = merge_record(
                found, {name: float(value) for name, value in record.items() if value}
            )
        return found

    def _rewrite(self, records: list[dict[str, str]]) -> None:
        with atomic_write(self.path, "w") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(records)


def merge_record(before: Mapping[str, float], record: Mapping[str, float]) -> dict[str, float]:
    """The last values of a stage with a new record; a new stage begins with nothing."""
    return {**(before if before.get("stage") == record["stage"] else {}), **record}
