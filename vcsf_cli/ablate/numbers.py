"""The numbers of a table: mean and spread over seeds and splits, and each row's difference to the
first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from vcsf_cli.ablate import measured
from vcsf_cli.ablate.difference import describe_intervals, mean_difference, share_of_gain
from vcsf_cli.ablate.plan import Plan
from vcsf_cli.ablate.rows import RowSpec, RunSpec
from vcsf_cli.config import published
from vcsf_cli.config.recipe import Recipe
from vcsf_cli.config.schedule import describe_schedule, epochs_by_pathway, shortness
from vcsf_cli.config.table import Measure
from vcsf_cli.data.manifest import official_size, official_split
from vcsf_cli.errors import VcsfError
from vcsf_cli.evaluate.evaluation import Measurement
from vcsf_cli.narrate import counted
from vcsf_cli.train.checks import training_rows

COLUMNS = (
    "row", "pathway", "dataset", "task", "metric", "mean", "deviation", "lowest", "highest", "runs", "clips",
    "difference", "difference_low", "difference_high", "places",
)  # fmt: skip
"""Columns of numbers.csv. `mean`, `lowest` and `highest` are fractions over `runs` seeds and
splits, `deviation` is their sample standard deviation (empty for one run). `difference` is to the
first row: the mean over the `places` (seeds and splits) that both rows have, with the ends of its
95 % interval (empty for too few recordings; of these trainings only for fewer places than
`difference.FEWEST_PLACES`); `clips` is the number of clips it is taken over."""

_NEARLY_ALL = 0.99
"""Share of the official clips below which a dataset is a subset; some published copies have a few
broken videos."""
_LISTED_MISSING = 5
"""Missing measurements that a remark names."""

Measurements = Mapping[tuple[int, int], Measurement]
"""By seed and split."""


@dataclass(frozen=True)
class Group:
    """The columns of one measurement.

    Args:
        metrics: The metrics that were measured, the main one first.
        measurements: What was measured, by the name of the row.
    """

    measure: Measure
    dataset: str
    task: str
    metrics: tuple[str, ...]
    measurements: Mapping[str, Measurements] = field(default_factory=dict)

    def has(self, spec: RunSpec) -> bool:
        return (spec.seed, spec.split) in self.measurements.get(spec.row.name, {})


@dataclass(frozen=True)
class TableResults:
    """The results of the runs of a table.

    Args:
        values: Tidy, columns as in `COLUMNS`.
        rows: The result rows that they come from, with the table's row in front.
        missing: Measurements that are missing, and why if they are damaged.
        seen: Names of the rows with test clips that were seen in training.
        exposures: Remarks about test clips and training clips, by row, a sentence each.
    """

    plan: Plan
    groups: tuple[Group, ...]
    values: pd.DataFrame
    rows: pd.DataFrame
    specs: tuple[RunSpec, ...]
    missing: Mapping[str, str] = field(default_factory=dict)
    seen: frozenset[str] = frozenset()
    exposures: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def remarks(self) -> list[str]:
        """Gaps of the table and of its differences, a sentence each."""
        found = []
        if self.missing:
            total = len(self.plan.specs) * len(self.plan.table.measures)
            names = [f"{name} ({why})" if why else name for name, why in self.missing.items()]
            more = len(names) - _LISTED_MISSING
            found.append(
                f"Not finished: {total - len(names)} of {total} measurements are there, not "
                f"{'; '.join(names[:_LISTED_MISSING])}{f'; and {more} more' if more > 0 else ''}."
            )
        first, *others = self.plan.table.rows
        for group in self.groups:
            own = self.select(group, group.metrics[0]).set_index("row")
            most = own["runs"].groupby(level=0).max()
            for row in (row for row in others if row.name in most and first.name in most):
                runs = max(most[row.name], most[first.name])
                places = own["places"][[row.name]].fillna(0).min()
                if places < runs:
                    found.append(
                        f"{group.task} on {group.dataset}, difference of {row.name} to "
                        f"{first.name}: over {places:.0f} of {runs:.0f} runs, those of the seeds "
                        "and splits that both rows have."
                    )
        return found

    @property
    def intervals(self) -> str:
        """The meaning of the differences' intervals; empty if there are no differences."""
        known = self.values[self.values["difference"].notna()]["difference_low"].notna()
        return describe_intervals(
            self.values["places"][known[known].index].tolist(), bool(known.all())
        )

    def select(self, group: Group, metric: str) -> pd.DataFrame:
        values = self.values
        return values[
            (values["task"] == group.task)
            & (values["dataset"] == group.dataset)
            & (values["metric"] == metric)
        ]

    @property
    def label_gains(self) -> list[str]:
        """Share of the labels' gain that rows with the same networks reach, a sentence for each row
        and measurement."""
        wanted = self.plan.table.label_gain
        if not wanted:
            return []
        rows = {row.name: row for row in self.plan.table.rows}
        networks = _networks(rows[wanted.baseline].recipe)
        found = []
        for group in self.groups:
            metric = group.metrics[0]
            sources = measured.sources(self.plan.manifest(group.dataset), group.measure)
            for row in self.plan.table.rows:
                if row.name in (wanted.baseline, wanted.labels) or (
                    _networks(row.recipe) != networks
                ):
                    continue
                ours, base, labels = (
                    group.measurements[name] for name in (row.name, wanted.baseline, wanted.labels)
                )
                shares = [
                    f"{pathway} {share}"
                    for pathway in row.pathways
                    if (share := describe_share((ours, base, labels), (pathway, metric), sources))
                ]
                if shares:
                    found.append(
                        f"Share of the label gain in {metric}, (row - {wanted.baseline}) / "
                        f"({wanted.labels} - {wanted.baseline}), {row.name}: {', '.join(shares)}."
                    )
        return found

    def value(self, row: RowSpec, pathway: str, group: Group, metric: str) -> pd.Series | None:
        """A line of `values`; None if nothing was measured."""
        values = self.select(group, metric)
        same = values[(values["row"] == row.name) & (values["pathway"] == pathway)]
        return same.iloc[0] if len(same) else None


def gather_results(plan: Plan) -> TableResults:
    """Gather what was measured; what is missing or damaged is left out and noted."""
    groups: list[Group] = []
    lines, result_rows = [], []
    specs: dict[str, RunSpec] = {}
    missing: dict[str, str] = {}
    seen: set[str] = set()
    exposures: dict[str, list[str]] = {}
    for measure in plan.table.measures:
        found: dict[str, dict[tuple[int, int], Measurement]] = {
            row.name: {} for row in plan.table.rows
        }
        for spec in plan.specs:
            row, own, exposure, why = spec.row.name, None, None, ""
            try:
                own = plan.find_measurement(spec, measure)
                exposure = plan.exposure(spec, measure) if own else None
            except VcsfError as error:
                why = error.message
            if own is None:
                missing[f"{measure.description} of {spec.name}"] = why
                continue
            found[row][spec.seed, spec.split] = own
            specs[spec.name] = spec
            result_rows.append(own.rows.assign(row=row))
            if exposure:
                seen |= {row} if exposure.count else set()
                about = f"{own.rows['task'].iloc[0]} on {plan.measured_on(spec, measure)}, seed {spec.seed}, split {spec.split}"
                exposures.setdefault(row, []).extend(
                    f"{about}: {remark}" for remark in exposure.remarks
                )
        every = [each for of_row in found.values() for each in of_row.values()]
        if every:
            dataset, task = (str(every[0].rows[key].iloc[0]) for key in ("dataset", "task"))
            known = {metric for each in every for metric in each.rows["metric"]}
            metrics = tuple(each for each in measured.table_metrics(measure) if each in known)
            groups.append(Group(measure, dataset, task, metrics, found))
            lines += _summary_lines(plan, groups[-1])
    gathered = pd.concat(result_rows, ignore_index=True) if result_rows else pd.DataFrame()
    columns = ["row", *(name for name in gathered.columns if name != "row")]
    return TableResults(
        plan,
        tuple(groups),
        pd.DataFrame(lines, columns=list(COLUMNS)),
        gathered.reindex(columns=columns),
        tuple(specs.values()),
        missing,
        frozenset(seen),
        exposures,
    )


def _summary_lines(plan: Plan, group: Group) -> list[dict[str, object]]:
    """The lines of numbers.csv of one measurement."""
    sources = measured.sources(plan.manifest(group.dataset), group.measure)
    first, lines = plan.table.rows[0], []
    for row in plan.table.rows:
        for pathway in row.pathways:
            # A pathway that the first row doesn't show is compared with its last one.
            other = pathway if pathway in first.pathways else first.pathways[-1]
            reference = None if row is first else (group.measurements[first.name], other)
            for metric in group.metrics:
                value = summarise(group.measurements[row.name], pathway, metric, reference, sources)
                if value:
                    names = (row.name, pathway, group.dataset, group.task, metric)
                    lines.append({**dict(zip(COLUMNS, names, strict=False)), **value})
    return lines


def summarise(
    found: Measurements,
    pathway: str,
    metric: str,
    reference: tuple[Measurements, str] | None,
    sources: Mapping[str, str],
) -> dict[str, float]:
    """Mean, spread and difference of one number; empty if it was not measured.

    Args:
        reference: The first row's measurements and their pathway; None for the first row itself.
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
    if reference is None:
        return result
    theirs, other = reference
    return result | difference_to(found, (pathway, metric), theirs, (other, metric), sources)


def difference_to(
    ours: Measurements,
    key: tuple[str, str],
    theirs: Measurements,
    other_key: tuple[str, str],
    sources: Mapping[str, str],
) -> dict[str, float]:
    """The mean difference over the seeds, splits and clips that both rows have; empty if there are
    none, or the metric is not a mean over clips."""
    pairs = {
        place: (ours[place].clips[key], theirs[place].clips[other_key])
        for place in ours
        if place in theirs and key in ours[place].clips and other_key in theirs[place].clips
    }
    found = mean_difference(pairs, sources)
    if found is None:
        return {}
    return {
        "clips": found.clips,
        "difference": found.value,
        "difference_low": found.low,
        "difference_high": found.high,
        "places": found.places,
    }


def describe_share(
    rows: tuple[Measurements, Measurements, Measurements],
    key: tuple[str, str],
    sources: Mapping[str, str],
) -> str:
    """The share of the label gain in per cent with its interval, or why there is none; empty if
    nothing was measured.

    Args:
        rows: Measurements of the row, of the baseline and of the row with labels.
        key: Pathway and metric.
        sources: The recording of each clip.
    """
    ours, base, labels = rows
    places = {
        place: (ours[place].clips[key], base[place].clips[key], labels[place].clips[key])
        for place in ours
        if all(place in row and key in row[place].clips for row in rows)
    }
    if not places:
        return ""
    share = share_of_gain(places, sources)
    if isinstance(share, str):
        return f"not known ({share})"
    if np.isnan(share.low):
        trainings = counted(share.places, "training")
        return f"{100 * share.value:.0f} % (of {trainings}, too few for an interval)"
    return f"{100 * share.value:.0f} % ({100 * share.low:.0f} to {100 * share.high:.0f})"


def describe_training(plan: Plan, specs: Sequence[RunSpec]) -> str:
    """Network, data, epochs and seeds of a row's runs."""
    recipe = specs[0].recipe
    stage = recipe.first_stage
    splits, seeds = (sorted({getattr(spec, key) for spec in specs}) for key in ("split", "seed"))
    clips = "/".join(
        f"{len(training_rows(spec.recipe, plan.manifest(stage.data.name))):,}"
        for spec in _one_per_split(specs)
    )
    frames = f"{stage.sampler.settings['frames']}x" if "frames" in stage.sampler.settings else ""
    return (
        f"{stage.backbone.name}, {frames}{stage.data.size}^2; {stage.data.name} split "
        f"{','.join(map(str, splits))}, {clips} clips; "
        f"{describe_schedule(epochs_by_pathway(recipe))}; seed{'s' if len(seeds) > 1 else ''} "
        f"{','.join(map(str, seeds))}"
    )


def _networks(recipe: Recipe) -> tuple[object, ...]:
    """What a recipe's networks are made of."""
    stage = recipe.first_stage
    return stage.backbone, stage.slow, stage.fast, stage.motion, stage.head


def _one_per_split(specs: Sequence[RunSpec]) -> list[RunSpec]:
    return list({spec.split: spec for spec in specs}.values())


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
    measured_rows = {spec.row.name for spec in results.specs}
    for row in (row for row in results.plan.table.rows if row.name in measured_rows):
        specs = _one_per_split([spec for spec in results.specs if spec.row is row])
        limits = [limit for spec in specs for limit in _training_limits(results.plan, spec)]
        for limit in dict.fromkeys(limits):
            limited.setdefault(limit, []).append(row.name)
    found = [
        limit
        if len(names) == len(measured_rows)
        else replace(limit, detail=f"{limit.detail} ({', '.join(names)})")
        for limit, names in limited.items()
    ]
    trained_on = {spec.recipe.first_stage.data.name for spec in results.plan.specs}
    tested = results.rows[["dataset", "split", "clips"]].drop_duplicates()
    for dataset, split, clips in tested.to_numpy():
        official = official_split(dataset, split)
        if official is None and dataset not in trained_on:
            found.append(Limit("subset", f"measured on {dataset}"))
        elif official is not None and clips < _NEARLY_ALL * official[1]:
            detail = f"{clips:,} test clips of {dataset} split {split}, not {official[1]:,}"
            found.append(Limit("subset", f"measured on {detail}"))
    return list(dict.fromkeys(found))


def _training_limits(plan: Plan, spec: RunSpec) -> list[Limit]:
    name = spec.recipe.first_stage.data.name
    clips = len(training_rows(spec.recipe, plan.manifest(name)))
    usual = official_split(published.TRAINED_ON, spec.split)
    found = []
    if usual and (not official_size(name) or clips < _NEARLY_ALL * usual[0]):
        detail = f"trained on {clips:,} clips of {name}, not {usual[0]:,} of {published.TRAINED_ON}"
        found.append(Limit("subset", detail))
    short = shortness(spec.recipe)
    return [*found, Limit("short schedule", short)] if short else found
