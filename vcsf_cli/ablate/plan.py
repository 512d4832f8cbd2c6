"""Rows x seeds x splits: the trainings and measurements that a table needs, and which are done."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from vcsf_cli.ablate import measured
from vcsf_cli.ablate.rows import RunSpec, Table
from vcsf_cli.config import recipe as recipes
from vcsf_cli.config.table import Measure
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.errors import InputError
from vcsf_cli.evaluate.evaluation import Measurement
from vcsf_cli.model.parts import uses_labels
from vcsf_cli.runs import stages, trained_on
from vcsf_cli.runs.run import Run, run_folder


@dataclass(frozen=True)
class Plan:
    table: Table
    specs: tuple[RunSpec, ...]
    data: Path | str
    runs: Path

    @property
    def folder(self) -> Path:
        """The folder of the finished table."""
        return self.runs / "tables" / self.table.name

    def describe(self) -> list[str]:
        """Lines about the table, and about its datasets that are not prepared."""
        counts = {
            "row": len(self.table.rows),
            "seed": len(self.table.seeds or ()),
            "split": len(self.table.splits or ()),
        }
        product = " x ".join(
            f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items() if count
        )
        measures = ", ".join(measure.description for measure in self.table.measures)
        return [
            f"{self.table.title}: {product} = {len(self.specs)} runs, measured by {measures}; "
            f"table: {self.folder}",
            *(
                f"{name} is not prepared in {self.data}: its sizes are taken to be the official "
                "ones, or usual"
                for name, manifest in self.manifests.items()
                if manifest is None
            ),
        ]

    @cached_property
    def manifests(self) -> dict[str, Manifest | None]:
        """Every dataset that is trained or measured on; None if it isn't prepared."""
        names = {spec.recipe.first_stage.data.name for spec in self.specs}
        names |= {measure.data for measure in self.table.measures if measure.data}
        found: dict[str, Manifest | None] = {}
        for name in sorted(names):
            try:
                found[name] = Manifest.find(self.data, name)
            except InputError:
                found[name] = None
        return found

    def manifest(self, name: str) -> Manifest:
        """A dataset.

        Raises:
            InputError: If it isn't prepared.
        """
        return self.manifests[name] or Manifest.find(self.data, name)

    def measured_on(self, spec: RunSpec, measure: Measure) -> str:
        """The name of the dataset that a run is measured on."""
        return measure.data or spec.recipe.first_stage.data.name

    def is_trained(self, spec: RunSpec) -> bool:
        """Whether the run is finished, on the data that are there now."""
        if not (spec.run.folder / "status.json").is_file() or not spec.run.finished:
            return False
        manifest = self.manifests[spec.recipe.first_stage.data.name]
        return manifest is None or spec.run.status.get("data_hash") == manifest.hash

    def find_measurement(self, spec: RunSpec, measure: Measure) -> Measurement | None:
        """A run's measurement, None if it wasn't made.

        Raises:
            RunError: If the run or its measurement is damaged.
        """
        manifest = self.manifests[self.measured_on(spec, measure)]
        if manifest is None or not self.is_trained(spec):
            return None
        return measured.evaluation(spec, manifest, measure).read()

    def missing(self, spec: RunSpec) -> list[Measure]:
        return [
            measure
            for measure in self.table.measures
            if self.find_measurement(spec, measure) is None
        ]

    def exposure(self, spec: RunSpec, measure: Measure) -> trained_on.Exposure | None:
        """The test clips of a measurement that a run has seen, or will see in training; None if the
        datasets are not prepared.

        Raises:
            VcsfError: If the run is damaged, or the dataset lacks what the measurement needs.
        """
        manifest = self.manifests[self.measured_on(spec, measure)]
        own = self.manifests[spec.recipe.first_stage.data.name]
        if manifest is None:
            return None
        test = measured.evaluation(spec, manifest, measure).test
        left_out = measure.leave_one_out
        if (spec.run.folder / "status.json").is_file():
            found = trained_on.compare(spec.run, manifest, spec.split, test, left_out)
            return replace(found, without_labels=left_out and not spec.run.uses_labels)
        if own is None:
            return None
        clips = trained_on.training_clips(own, spec.split)
        same = own.hash == manifest.hash
        found = trained_on.exposure(
            spec.run.name, clips, own.name, same, manifest, spec.split, test, leave_one_out=left_out
        )
        return replace(found, without_labels=left_out and not uses_labels(spec.recipe))

    @cached_property
    def fingerprints(self) -> dict[str, list[str]]:
        """The fingerprints of each recipe's stages, by the recipe's hash."""
        found = {}
        for spec in self.specs:
            name = spec.recipe.first_stage.data.name
            manifest = self.manifests[name]
            found[spec.recipe.hash] = [
                stages.stage_fingerprint(spec.recipe, count, manifest.hash if manifest else name)
                for count in range(1, len(spec.recipe.stages) + 1)
            ]
        return found

    def must_wait(self, spec: RunSpec, other: RunSpec, finished: int) -> bool:
        """Whether a run should wait, because another one is training a stage that it can take over.

        Args:
            spec: The run that waits.
            other: The run that is being trained.
            finished: Stages that `other` has finished.
        """
        if spec.is_begun or self.is_trained(spec):
            return False
        theirs = self.fingerprints[other.recipe.hash]
        return sum(stage in theirs for stage in self.fingerprints[spec.recipe.hash]) > finished


def build_plan(table: Table, data: Path | str, runs: Path) -> Plan:
    """All runs of a table: every row with every seed and split.

    Raises:
        InputError: If a measurement would be made on several datasets, or is asked for twice.
    """
    specs = []
    for row in table.rows:
        own_split = row.recipe.first_stage.data.split
        for seed in table.seeds or (row.recipe.seed,):
            for split in table.splits or (own_split,):
                changed = [f"seed={seed}"] if seed != row.recipe.seed else []
                changed += [f"data.split={split}"] if split != own_split else []
                assignments = (*row.assignments, *changed)
                recipe = recipes.load(row.base, assignments) if changed else row.recipe
                run = Run(run_folder(runs, recipe), recipe)
                specs.append(RunSpec(row, recipe, assignments, run))
    plan = Plan(table, tuple(specs), data, runs)
    _check_columns(plan)
    return plan


def _check_columns(plan: Plan) -> None:
    """Check that every measurement is made on one dataset, so that rows can be compared, and once.

    Raises:
        InputError: If one isn't.
    """
    columns: dict[tuple[str, str, str], Measure] = {}
    rows: dict[str, str] = {}
    for spec in plan.specs:
        rows.setdefault(spec.recipe.first_stage.data.name, spec.row.name)
    for measure in plan.table.measures:
        if measure.data is None and len(rows) > 1:
            which = ", ".join(f"`{row}` on {name}" for name, row in rows.items())
            raise InputError(
                f"`{measure.description}` would be of several datasets, each row's own: {which}",
                f"say which one all rows are measured on: "
                f"{{task: {measure.task}, data: {next(iter(rows))}}}",
            )
        twin = columns.setdefault(
            (measure.task, measure.data or next(iter(rows)), measured.measurement_key(measure)),
            measure,
        )
        if twin is not measure:
            raise InputError(
                f"`{twin.description}` and `{measure.description}` are one measurement that is "
                "asked for twice",
                "leave one out",
            )
