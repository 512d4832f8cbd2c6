"""metrics.csv: one line per log interval, appended, and cut back when a run goes on from an earlier point."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from vcsf_cli.files import whole


class MetricsFile:
    """A CSV file whose first column is `step`.

    Args:
        path: The file; made with the first record.
        step: The last step whose records are kept of what is there: a run that was killed had logged steps that it
            now does again.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.columns: list[str] = []
        records = self.read()
        if records:
            self.columns = list(records[0])
            self._rewrite([record for record in records if int(record["step"]) <= step])

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

    def _rewrite(self, records: list[dict[str, str]]) -> None:
        with whole(self.path, "w") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(records)
