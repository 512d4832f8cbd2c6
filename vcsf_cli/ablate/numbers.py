"""The numbers of a table: mean and spread over seeds and splits, and each row's difference to the
first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from vcsf_cli.ablate import measured
from vcsf_cli.ablate.difference import describe_intervals, mean_difference
from vcsf_cli.ablate.plan import Plan, RunSpec
from vcsf_cli.ablate.rows import RowSpec
from vcsf_cli.config import published
from vcsf_cli.config.schedule import describe_schedule, epochs_by_pathway, shortness
from vcsf_cli.config.table import Measure
from vcsf_cli.data.manifest import official_size, official_split
from vcsf_cli.errors import VcsfError
from vcsf_cli.train.checks import training_rows

COLUMNS = (
    "row", "pathway", "dataset", "task", "metric", "mean", "deviation", "lowest", "highest", "runs", "clips",
    "difference", "difference_low", "difference_high", "places",
)  # fmt: skip
"""A line of numbers.csv. `mean`, `lowest` and `highest` are fractions over `runs` seeds and splits,
`deviation` the standard deviation over these (of a sample; empty of one run); `difference` is to
the first row, the mean over the `places` (seeds and splits) that both rows have, with the ends of
its 95 % interval (empty of fewer recordings than can be drawn from, and of these trainings only for
fewer places than `difference.FEWEST_PLACES`); `clips` is the number of clips that it is of."""

_NEARLY_ALL = 0.99
"""Share of an official part's clips below which a dataset is a subset; some published copies have a
few broken videos."""


_NAMED = 5
"""Missing measurements that are told one by one."""


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
class Missing:
    """A measurement of a run that a table lacks.

    Args:
        cell: The run.
        measure: The measurement.
        why: What is damaged; empty if it just was not done.
    """

    cell: RunSpec
    measure: Measure
    why: str = ""

    @property
    def words(self) -> str:
        """What is missing, in words."""
        return f"{self.measure.words} of {self.cell.name}{f' ({self.why})' if self.why else ''}"


@dataclass(frozen=True)
class TableResults:
    """All that a table shows of our runs.

    Args:
        plan: The plan.
        groups: Its measurements.
        values: Tidy, columns as in `COLUMNS`.
        rows: The result rows that they are made of, with the table's row in front.
        cells: The runs that were measured.
        missing: What was not.
        seen: Names of the rows that have numbers of test clips which were seen in training.
        exposures: What a reader has to know of test clips and training clips, by row, a sentence
            each.
    """

    plan: Plan
    groups: tuple[Group, ...]
    values: pd.DataFrame
    rows: pd.DataFrame
    cells: tuple[RunSpec, ...]
    missing: tuple[Missing, ...] = ()
    seen: frozenset[str] = frozenset()
    exposures: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def remarks(self) -> list[str]:
        """What is missing of the table, and of its differences, a sentence each."""
        found = []
        if self.missing:
            every = len(self.plan.cells) * len(self.plan.table.measures)
            named = "; ".join(each.words for each in self.missing[:_NAMED])
            more = f"; and {len(self.missing) - _NAMED} more" if len(self.missing) > _NAMED else ""
            found.append(
                f"Not finished: {every - len(self.missing)} of {every} measurements are there, "
                f"not {named}{more}."
            )
        first, *others = self.plan.table.lines
        for group in self.groups:
            own = self.values[
                (self.values["task"] == group.task)
                & (self.values["dataset"] == group.dataset)
                & (self.values["metric"] == group.metrics[0])
            ].set_index("row")
            most = own["runs"].groupby(level=0).max()
            for line in (line for line in others if line.name in most and first.name in most):
                runs, places = (
                    max(most[line.name], most[first.name]),
                    own["places"][[line.name]].fillna(0).min(),
                )
                if places < runs:
                    found.append(
                        f"{group.task} on {group.dataset}, difference of {line.name} to "
                        f"{first.name}: over {places:.0f} of "
                        f"{runs:.0f} runs, those of the seeds and splits that both rows have."
                    )
        return found

    @property
    def words_of_differences(self) -> str:
        """What the intervals of the differences are, in words; empty if there are no
        differences."""
        known = self.values[self.values["difference"].notna()]["difference_low"].notna()
        return describe_intervals(
            self.values["places"][known[known].index].tolist(), bool(known.all())
        )

    def value(self, line: RowSpec, pathway: str, group: Group, metric: str) -> pd.Series | None:
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


Measurements = dict[tuple[int, int], measured.Measurement]
"""By seed and split."""


def gather_results(plan: Plan) -> TableResults:
    """Gather what was measured; what is missing or damaged is left out, and remembered."""
    groups, lines, rows, cells, missing = [], [], [], {}, []
    seen: set[str] = set()
    exposures: dict[str, list[str]] = {}
    for measure in plan.table.measures:
        found: dict[str, Measurements] = {line.name: {} for line in plan.table.lines}
        for cell in plan.cells:
            own, exposure, why = None, None, ""
            try:
                own = plan.found(cell, measure)
                exposure = plan.exposure(cell, measure) if own else None
            except VcsfError as error:
                why = error.message
            if own is None:
                missing.append(Missing(cell, measure, why))
            else:
                found[cell.line.name][cell.seed, cell.split] = own
                cells[cell.name] = cell
                rows.append(own.rows.assign(row=cell.line.name))
            if own and exposure:
                seen |= {cell.line.name} if exposure.count else set()
                about = f"{measure.task} on {plan.measured_on(cell, measure)}, seed {cell.seed}, split {cell.split}"
                exposures.setdefault(cell.line.name, []).extend(
                    f"{about}: {remark}" for remark in exposure.remarks
                )
        every = [each for of_line in found.values() for each in of_line.values()]
        if not every:
            continue
        dataset, task = (str(every[0].rows[key].iloc[0]) for key in ("dataset", "task"))
        known = {metric for each in every for metric in each.rows["metric"]}
        metrics = tuple(metric for metric in measured.table_metrics(measure) if metric in known)
        groups.append(Group(measure, dataset, task, metrics))
        source = measured.sources(plan.manifest(dataset))
        for line in plan.table.lines:
            for pathway in line.pathways:
                for metric in metrics:
                    first = plan.table.lines[0]
                    against = (
                        None
                        if line is first
                        else (found[first.name], _matching_pathway(first, pathway))
                    )
                    value = summarise(found[line.name], pathway, metric, against, source)
                    if value:
                        named = {
                            "row": line.name,
                            "pathway": pathway,
                            "dataset": dataset,
                            "task": task,
                        }
                        lines.append({**named, "metric": metric, **value})
    gathered = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=["row"])
    gathered = gathered[["row", *(name for name in gathered.columns if name != "row")]]
    values = pd.DataFrame(lines, columns=list(COLUMNS))
    return TableResults(
        plan,
        tuple(groups),
        values,
        gathered,
        tuple(cells.values()),
        tuple(missing),
        frozenset(seen),
        exposures,
    )


def _matching_pathway(first: RowSpec, pathway: str) -> str:
    """The pathway of the first row that another row's pathway is compared with: the same if it is
    shown, else the last."""
    return pathway if pathway in first.pathways else first.pathways[-1]


def summarise(
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
    return result | difference_to(
        found, (pathway, metric), against[0], (against[1], metric), source
    )


def difference_to(
    ours: Measurements,
    key: tuple[str, str],
    theirs: Measurements,
    other_key: tuple[str, str],
    source: dict[str, str],
) -> dict[str, float]:
    """The mean difference over the seeds and splits, and there over the clips, that both rows have;
    empty if there are none, or the metric is no mean over clips."""
    pairs = [
        (place[1], ours[place].clips[key], theirs[place].clips[other_key])
        for place in ours
        if place in theirs and key in ours[place].clips and other_key in theirs[place].clips
    ]
    found = mean_difference(pairs, source)
    if found is None:
        return {}
    return {
        "clips": found.clips,
        "difference": found.value,
        "difference_low": found.low,
        "difference_high": found.high,
        "places": found.places,
    }


def describe_training(plan: Plan, cells: Sequence[RunSpec]) -> str:
    """Network, data, epochs and seeds of a row's runs, in words."""
    first = cells[0]
    model = first.recipe.first_stage
    splits, seeds = (sorted({getattr(cell, key) for cell in cells}) for key in ("split", "seed"))
    clips = "/".join(
        f"{len(training_rows(cell.recipe, plan.manifest(model.data.name))):,}"
        for cell in _one_a_split(cells)
    )
    frames = f"{model.sampler.settings['frames']}x" if "frames" in model.sampler.settings else ""
    return (
        f"{model.backbone.name}, {frames}{model.data.size}^2; {model.data.name} split "
        f"{_join_numbers(splits)}, {clips} clips; "
        f"{describe_schedule(epochs_by_pathway(first.recipe))}; "
        f"seed{'s' if len(seeds) > 1 else ''} {_join_numbers(seeds)}"
    )


def _one_a_split(cells: Sequence[RunSpec]) -> list[RunSpec]:
    """One run of each split."""
    return list({cell.split: cell for cell in cells}.values())


def _join_numbers(numbers: Sequence[int]) -> str:
    """Numbers with commas."""
    return ",".join(map(str, numbers))


@dataclass(frozen=True)
class Limit:
    """A reason why numbers can't stand beside published ones.

    Args:
        kind: `subset` or `short schedule`.
        detail: What is smaller than the benchmark's, and by how much.
    """

    kind: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"


def comparability_limits(results: TableResults) -> list[Limit]:
    """Why a table can't stand beside published ones, with the rows concerned if it isn't all; empty
    if it can."""
    limited: dict[Limit, list[str]] = {}
    rows = {
        line.name: [cell for cell in results.cells if cell.line is line]
        for line in results.plan.table.lines
    }
    rows = {name: cells for name, cells in rows.items() if cells}
    for name, cells in rows.items():
        limits = [
            limit for cell in _one_a_split(cells) for limit in _training_limits(results.plan, cell)
        ]
        for limit in dict.fromkeys(limits):
            limited.setdefault(limit, []).append(name)
    found = [
        limit
        if len(names) == len(rows)
        else replace(limit, detail=f"{limit.detail} ({', '.join(names)})")
        for limit, names in limited.items()
    ]
    trained_on = {cell.recipe.first_stage.data.name for cell in results.plan.cells}
    for dataset, split, clips in (
        results.rows[["dataset", "split", "clips"]].drop_duplicates().to_numpy()
    ):
        tested = official_split(dataset, split)
        if tested is None and dataset not in trained_on:
            found.append(Limit("subset", f"measured on {dataset}"))
        elif tested is not None and clips < _NEARLY_ALL * tested[1]:
            detail = f"{clips:,} test clips of {dataset} split {split}, not {tested[1]:,}"
            found.append(Limit("subset", f"measured on {detail}"))
    return list(dict.fromkeys(found))


def _training_limits(plan: Plan, cell: RunSpec) -> list[Limit]:
    name = cell.recipe.first_stage.data.name
    clips = len(training_rows(cell.recipe, plan.manifest(name)))
    usual = official_split(published.TRAINED_ON, cell.split)
    found = []
    if usual and (not official_size(name) or clips < _NEARLY_ALL * usual[0]):
        detail = f"trained on {clips:,} clips of {name}, not {usual[0]:,} of {published.TRAINED_ON}"
        found.append(Limit("subset", detail))
    short = shortness(cell.recipe)
    return [*found, Limit("short schedule", short)] if short else found
