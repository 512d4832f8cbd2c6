"""Tidy result rows, and tables made from them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vcsf_cli.features.cache import read_key
from vcsf_cli.storage.files import lock, write_text
from vcsf_cli.storage.sealed import read_json, reading

COLUMNS = (
    "run", "variant", "seed", "dataset", "split", "task", "pathway", "metric", "value", "clips", "left_out",
    "training_data", "seen", "duplicates",
)  # fmt: skip
"""One measured number a row. `variant`: `trained`, `trained_with_labels`, `untrained` or a
baseline's name; `value`: a fraction from 0 to 1; `clips`: how many clips it was measured on;
`left_out`: how many clips of the dataset took no part; `training_data`: whether the dataset is the
`same` as in the training, has `changed` since or is an `other` one, empty for what was not trained;
`seen`: how many of `clips` are of recordings that were trained on, empty where that is unknown or
nothing was trained; `duplicates`: how many of `clips` equal a training clip of the dataset. Rows
that an older vcsf has written lack these three."""

_FIRST_COLUMNS = COLUMNS[: COLUMNS.index("training_data")]

COUNTS: dict[str, Any] = {"seen": "Int64", "duplicates": "Int64"}
"""Types of columns that may be empty."""


NUMBERS = (
    "seed",
    "split",
    "value",
    "clips",
    "left_out",
    *COUNTS,
    "rank",
    "similarity",
    "hit",
    "cluster",
)
"""Columns of result files that hold numbers."""


def recall_metric(k: int) -> str:
    return f"R@{k}"


INTERVAL_ENDS = ("_low", "_high")
"""What the name of a metric ends with that is an end of another's 95 % interval."""


def without_intervals(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of metrics themselves."""
    return rows[~rows["metric"].str.endswith(INTERVAL_ENDS)]


def intervals(rows: pd.DataFrame) -> list[list[str]]:
    """Variant, pathway, metric, value and the ends of its interval in per cent, one decimal, of
    each metric that has one."""
    value = rows.set_index(["variant", "pathway", "metric"])["value"] * 100
    ends = ("", *INTERVAL_ENDS)
    return [
        [*key, metric, *(f"{value[(*key, metric + end)]:.1f}" for end in ends)]
        for *key, metric in value.index
        if (*key, metric + INTERVAL_ENDS[0]) in value.index
    ]


def recall_k(metric: str) -> int:
    """The k of a metric `R@k`.

    Raises:
        ValueError: If it is another metric.
    """
    return int(metric.removeprefix("R@"))


def read(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """A table of results. Names stay text: a class may be called None, a clip 0001.

    Raises:
        RunError: If the file is missing or damaged.
    """
    with reading(path, "delete it, and run the same command again"):
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            raise ValueError("its last line is not whole")
        names = list(pd.read_csv(io.BytesIO(content), nrows=0).columns)
        if missing := [name for name in columns or _FIRST_COLUMNS if name not in names]:
            raise ValueError(f"it has no columns {', '.join(missing)}")
        return pd.read_csv(
            io.BytesIO(content),
            usecols=columns,
            dtype={
                name: COUNTS.get(name, str)
                for name in names
                if name in COUNTS or name not in NUMBERS
            },
            keep_default_na=False,
            na_values={name: [""] for name in names if name in NUMBERS},
        )


def write(
    path: Path,
    rows: Iterable[dict[str, object]],
    is_of_same_data: Callable[[str], bool] = lambda variant: True,
) -> pd.DataFrame:
    """Write `results.csv`, keeping the rows of variants that are not measured now if they are of
    as many clips and of the same data."""
    new = pd.DataFrame(list(rows), columns=list(COLUMNS)).astype(COUNTS)
    if path.is_file():
        old = read(path)
        old = old[
            ~old["variant"].isin(new["variant"].unique()) & old["clips"].isin(new["clips"].unique())
        ]
        old = old[old["variant"].map(is_of_same_data).astype(bool)]
        new = pd.concat([new, old], ignore_index=True) if len(old) else new
    write_text(path, new.to_csv(index=False, lineterminator="\n"))
    return new


SAME = ("variant", "seed", "dataset", "split", "task", "pathway")
"""Columns that identify a measurement in a run's own `results.csv`."""


def merge(path: Path, rows: pd.DataFrame) -> None:
    """Write rows into a file of many measurements, in place of earlier rows of the same ones;
    several processes may do so at a time."""
    with lock(path.with_name(f"{path.name}.lock")):
        if path.is_file():
            old = read(path)
            now = set(map(tuple, rows[list(SAME)].astype(str).to_numpy()))
            kept = [tuple(row) not in now for row in old[list(SAME)].astype(str).to_numpy()]
            rows = pd.concat([old[kept], rows], ignore_index=True) if any(kept) else rows
        write_text(path, rows.to_csv(index=False, lineterminator="\n"))


def read_all(folder: Path, wanted: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of every `results.csv` that `vcsf retrieve` and `vcsf finetune` wrote for an encoder;
    if one was measured again with other settings, the last.

    Args:
        folder: Of its measurements.
        wanted: Its `EncoderSource.identity`, such as the SHA-256 of a `checkpoint`.
    """
    folders = []
    for place in (path.parent for path in folder.glob("*/*/results.csv")):
        path = place / "status.json"  # of a classification
        status = read_json(path, dict, "delete its folder") if path.is_file() else {}
        identity = read_key(place / "features.parquet") or status.get("from", {})
        if wanted.items() <= identity.items():
            folders.append((str(status.get("ended", "")), place.name, place))
    if not folders:
        return pd.DataFrame(columns=list(COLUMNS))
    tables = [read(place / "results.csv") for *_, place in sorted(folders)]
    rows = pd.concat(tables, ignore_index=True)
    return rows.drop_duplicates([*SAME, "metric"], keep="last", ignore_index=True)


def spread(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean, lowest and highest value over splits and seeds: a line a variant, task, pathway and
    metric, in their order."""
    grouped = rows.groupby(["variant", "task", "pathway", "metric"], sort=False)["value"]
    return grouped.agg(["mean", "min", "max", "count"]).reset_index()


def pivot(rows: pd.DataFrame) -> pd.DataFrame:
    """A table of percentages: a line a variant and pathway, a column a metric R@k."""
    rows = without_intervals(rows)
    order = rows[["variant", "pathway"]].drop_duplicates()
    table = rows.pivot(index=["variant", "pathway"], columns="metric", values="value")
    metrics = sorted(table.columns, key=recall_k)
    wanted = pd.MultiIndex.from_frame(order)
    return table.reindex(index=wanted, columns=metrics) * 100


def cells(table: pd.DataFrame) -> list[list[str]]:
    """The lines of a pivoted table as text: variant, pathway, then percentages with one decimal."""
    names = [[str(part) for part in index] for index in table.index.to_list()]
    return [
        [*name, *[f"{value:.1f}" for value in values]]
        for name, values in zip(names, table.to_numpy(), strict=True)
    ]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], names: int) -> str:
    """A Markdown table; its first `names` columns are aligned left, the others right."""
    rule = ["---"] * names + ["---:"] * (len(header) - names)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def markdown(table: pd.DataFrame) -> str:
    """A pivoted table in Markdown, percentages with one decimal."""
    header = ["variant", "pathway", *map(str, table.columns)]
    return markdown_table(header, cells(table), names=2) + "\n"
