"""The numbers of a table: mean and spread over seeds and splits, and each row's difference to the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from vcsf_cli.ablate import measured
from vcsf_cli.ablate.cost import OFFICIAL
from vcsf_cli.ablate.plan import Cell, Plan
from vcsf_cli.ablate.table import Line, Measure
from vcsf_cli.measure.retrieval import paired_interval
from vcsf_cli.schedule import epochs_of, shortness
from vcsf_cli.train.pretrain import training_rows

COLUMNS = (
    "row", "pathway", "dataset", "task", "metric", "mean", "deviation", "lowest", "highest", "runs", "clips",
    "difference", "difference_low", "difference_high",
)  # fmt: skip
"""A line of numbers.csv. `mean`, `lowest` and `highest` are fractions over `runs` seeds and splits, `deviation` the standard
deviation over these (of a sample; empty of one run); `difference` is to the first row over all clips that both have, with
the ends of its 95 % interval; `clips` is the number of these clips."""

NEARLY_ALL = 0.99
"""Share of an official part's clips below which a dataset is a subset; some published copies have a few broken videos."""


@dataclass(frozen=True)
class Group:
    """The columns that one measurement makes.

    Args:
        measure: The measurement.
        dataset: What it is of.
        task: As result rows name it.
        metrics: Its metrics that were measured, the one that stands for all first.
    """

    measure: Measure
    dataset: str
    task: str
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Numbers:
    """All that a table shows of our runs.

    Args:
        plan: The plan.
        groups: Its measurements.
        values: Tidy, columns as in `COLUMNS`.
        rows: The result rows that they are made of, with the table's row in front.
        cells: The runs that were measured.
    """

    plan: Plan
    groups: tuple[Group, ...]
    values: pd.DataFrame
    rows: pd.DataFrame
    cells: tuple[Cell, ...]

    def value(self, line: Line, pathway: str, group: Group, metric: str) -> pd.Series | None:
        """A line of `values`, None where nothing was measured."""
        values = self.values
        same = values[
            (values["row"] == line.name)
            & (values["pathway"] == pathway)
            & (values["dataset"] == group.dataset)
            & (values["task"] == group.task)
            & (values["metric"] == metric)
        ]
        return same.iloc[0] if len(same) else None


Measurements = dict[tuple[int, int], measured.Found]
"""By seed and split."""


def numbers_of(plan: Plan) -> Numbers:
    """Gather what was measured; what is missing is left out."""
    groups, lines, rows, cells = [], [], [], {}
    for measure in plan.table.measures:
        found: dict[str, Measurements] = {line.name: {} for line in plan.table.lines}
        for cell in plan.cells:
            own = plan.found(cell, measure)
            if own is not None:
                found[cell.line.name][cell.seed, cell.split] = own
                cells[cell.name] = cell
                rows.append(own.rows.assign(row=cell.line.name))
        every = [each for of_line in found.values() for each in of_line.values()]
        if not every:
            continue
        dataset, task = (str(every[0].rows[key].iloc[0]) for key in ("dataset", "task"))
        known = {metric for each in every for metric in each.rows["metric"]}
        metrics = tuple(metric for metric in measured.metrics_of(measure) if metric in known)
        groups.append(Group(measure, dataset, task, metrics))
        source = measured.sources(plan.manifest(dataset))
        for line in plan.table.lines:
            for pathway in line.pathways:
                for metric in metrics:
                    first = plan.table.lines[0]
                    against = None if line is first else (found[first.name], like(first, pathway))
                    value = value_of(found[line.name], pathway, metric, against, source)
                    if value:
                        named = {"row": line.name, "pathway": pathway, "dataset": dataset, "task": task}
                        lines.append({**named, "metric": metric, **value})
    gathered = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=["row"])
    gathered = gathered[["row", *(name for name in gathered.columns if name != "row")]]
    values = pd.DataFrame(lines, columns=list(COLUMNS))
    return Numbers(plan, tuple(groups), values, gathered, tuple(cells.values()))


def like(first: Line, pathway: str) -> str:
    """The pathway of the first row that another row's pathway is compared with: the same if it is shown, else the last."""
    return pathway if pathway in first.pathways else first.pathways[-1]


def value_of(
    found: Measurements,
    pathway: str,
    metric: str,
    against: tuple[Measurements, str] | None,
    source: dict[str, str],
) -> dict[str, float]:
    """Mean, spread and difference of one number; empty if it was not measured.

    Args:
        found: The row's measurements.
        pathway: Of them.
        metric: Of them.
        against: The first row's measurements, and their pathway; None for the first row itself.
        source: The recording of each clip.
    """
    values = []
    for each in found.values():
        same = each.rows[(each.rows["pathway"] == pathway) & (each.rows["metric"] == metric)]
        values += same["value"].tolist()
    if not values:
        return {}
    result = {
        "mean": float(np.mean(values)),
        "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else np.nan,
        "lowest": min(values),
        "highest": max(values),
        "runs": len(values),
    }
    if against is None:
        return result
    return result | difference_to(found, (pathway, metric), against[0], (against[1], metric), source)


def difference_to(
    ours: Measurements,
    key: tuple[str, str],
    theirs: Measurements,
    other_key: tuple[str, str],
    source: dict[str, str],
) -> dict[str, float]:
    """The difference over the clips that both rows were measured on, with the same seeds and splits; empty if there are
    none, or the metric is no mean over clips. A clip counts with its mean over seeds and splits, and whole recordings are
    drawn."""
    both = [
        place for place in ours if place in theirs and key in ours[place].clips and other_key in theirs[place].clips
    ]
    if not both:
        return {}
    mine = measured.mean_over([ours[place].clips[key] for place in both])
    base = measured.mean_over([theirs[place].clips[other_key] for place in both])
    mine, base = mine.align(base, join="inner")
    if mine.empty:
        return {}
    cluster = np.array([source[clip] for clip in mine.index], object)
    difference, low, high = paired_interval(mine.to_numpy(), base.to_numpy(), cluster)
    return {"clips": len(mine), "difference": difference, "difference_low": low, "difference_high": high}


def in_words(epochs: Mapping[str, int]) -> str:
    """Epochs by pathway in words."""
    if len(set(epochs.values())) == 1:
        return f"{max(epochs.values()):,} epochs a pathway"
    return ", ".join(f"{count:,} epochs {pathway}" for pathway, count in epochs.items() if count)


def training_of(plan: Plan, cells: Sequence[Cell]) -> str:
    """Network, data, epochs and seeds of a row's runs, in words."""
    first = cells[0]
    model = first.recipe.model
    splits, seeds = (sorted({getattr(cell, key) for cell in cells}) for key in ("split", "seed"))
    clips = "/".join(
        f"{len(training_rows(cell.recipe, plan.manifest(model.data.name))):,}" for cell in one_a_split(cells)
    )
    frames = f"{model.sampler.settings['frames']}x" if "frames" in model.sampler.settings else ""
    return (
        f"{model.backbone.name}, {frames}{model.data.size}^2; {model.data.name} split {listed(splits)}, {clips} clips; "
        f"{in_words(epochs_of(first.recipe))}; seed{'s' if len(seeds) > 1 else ''} {listed(seeds)}"
    )


def one_a_split(cells: Sequence[Cell]) -> list[Cell]:
    """One run of each split."""
    return list({cell.split: cell for cell in cells}.values())


def listed(numbers: Sequence[int]) -> str:
    """Numbers with commas."""
    return ",".join(map(str, numbers))


def incomparable(numbers: Numbers) -> list[str]:
    """Why the numbers can't stand beside published ones, in words; empty if they can."""
    plan, found = numbers.plan, []
    for cell in one_a_split([cell for cell in plan.cells if cell.line is plan.table.lines[0]]):
        name = cell.recipe.model.data.name
        clips = len(training_rows(cell.recipe, plan.manifest(name)))
        wanted = OFFICIAL["ucf101"][cell.split][0]
        if name not in OFFICIAL or clips < NEARLY_ALL * wanted:
            found.append(f"subset: trained on {clips:,} clips of {name}, not {wanted:,} of ucf101")
        short = shortness(cell.recipe)
        if short:
            found.append(short)
    trained_on = {cell.recipe.model.data.name for cell in plan.cells}
    for dataset, split, clips in numbers.rows[["dataset", "split", "clips"]].drop_duplicates().to_numpy():
        tested = OFFICIAL.get(dataset, {}).get(split)
        if tested is None and dataset not in trained_on:
            found.append(f"subset: measured on {dataset}")
        elif tested is None:
            continue
        elif clips < NEARLY_ALL * tested[1]:
            found.append(f"subset: measured on {clips:,} test clips of {dataset} split {split}, not {tested[1]:,}")
    return list(dict.fromkeys(found))
