"""Rows x seeds x splits: which trainings and measurements a table needs, which are done, and in
which order to work."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vcsf_cli.ablate import measured
from vcsf_cli.ablate.rows import RowSpec, Table
from vcsf_cli.config import recipe as recipes
from vcsf_cli.config.recipe import Recipe
from vcsf_cli.config.table import Measure
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.errors import InputError
from vcsf_cli.runs import stages, trained_on
from vcsf_cli.runs.run import Run, run_folder


@dataclass(frozen=True)
class RunSpec:
    """A row with a seed and a split: one run.

    Args:
        line: The row.
        recipe: Its resolved recipe, with seed and split.
        assignments: What `--set` of `vcsf pretrain` gets.
        run: Its run, which need not be there yet.
    """

    line: RowSpec
    recipe: Recipe
    assignments: tuple[str, ...]
    run: Run

    @property
    def seed(self) -> int:
        """Of everything random."""
        return self.recipe.seed

    @property
    def split(self) -> int:
        """Trained and tested on."""
        return self.recipe.first_stage.data.split

    @property
    def name(self) -> str:
        """As it is narrated."""
        return f"{self.line.name}, seed {self.seed}, split {self.split}"


@dataclass(frozen=True)
class Plan:
    """A table with its runs.

    Args:
        table: The table.
        cells: Its runs, in the table's order.
        data: Folder of prepared datasets.
        runs: Folder of run folders.
    """

    table: Table
    cells: tuple[RunSpec, ...]
    data: Path
    runs: Path

    @property
    def folder(self) -> Path:
        """Where the finished table is."""
        return self.runs / "tables" / self.table.name

    def lines(self) -> list[str]:
        """What the table is, in words, and which of its datasets are not there."""
        counts = {
            "row": len(self.table.lines),
            "seed": len(self.table.seeds or ()),
            "split": len(self.table.splits or ()),
        }
        product = " x ".join(
            f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items() if count
        )
        measures = ", ".join(measure.words for measure in self.table.measures)
        found = [
            f"{self.table.title}: {product} = {len(self.cells)} runs, measured by {measures}; "
            f"table: {self.folder}"
        ]
        for name in (name for name, manifest in self.manifests.items() if manifest is None):
            found.append(
                f"{name} is not prepared in {self.data}: its sizes are taken to be the official "
                f"ones, or usual"
            )
        return found

    @cached_property
    def manifests(self) -> dict[str, Manifest | None]:
        """Every dataset that is trained or measured on, None where it isn't prepared."""
        names = {cell.recipe.first_stage.data.name for cell in self.cells}
        names |= {measure.data for measure in self.table.measures if measure.data}
        found: dict[str, Manifest | None] = {}
        for name in sorted(names):
            try:
                found[name] = Manifest.open(self.data / name)
            except InputError:
                found[name] = None
        return found

    def manifest(self, name: str) -> Manifest:
        """A dataset.

        Raises:
            InputError: If it isn't prepared.
        """
        return self.manifests[name] or Manifest.open(self.data / name)

    def measured_on(self, cell: RunSpec, measure: Measure) -> str:
        """The dataset that a measurement is of."""
        return measure.data or cell.recipe.first_stage.data.name

    def is_trained(self, cell: RunSpec) -> bool:
        """Whether the run is finished, on the data that are there now."""
        if not (cell.run.folder / "status.json").is_file() or not cell.run.finished:
            return False
        manifest = self.manifests[cell.recipe.first_stage.data.name]
        return manifest is None or cell.run.status.get("data_hash") == manifest.hash

    def found(self, cell: RunSpec, measure: Measure) -> measured.Measurement | None:
        """What was measured of a run, None if it wasn't."""
        manifest = self.manifests[self.measured_on(cell, measure)]
        if manifest is None or not self.is_trained(cell):
            return None
        return measured.find_measurement(cell.run, manifest, cell.split, measure, cell.line.trains)

    def exposure(self, cell: RunSpec, measure: Measure) -> trained_on.Exposure | None:
        """What a run has seen, or will have seen when it is trained, of a measurement's test clips;
        None where data for saying so are not prepared.

        Raises:
            VcsfError: If the run is damaged, or the dataset does not have what the measurement
                needs.
        """
        manifest = self.manifests[self.measured_on(cell, measure)]
        own = self.manifests[cell.recipe.first_stage.data.name]
        if manifest is None:
            return None
        test = measured.tested_clips(cell.run, manifest, cell.split, measure, cell.line.trains)
        if (cell.run.folder / "status.json").is_file():
            return trained_on.compare(cell.run, manifest, cell.split, test)
        if own is None:
            return None
        clips = trained_on.training_clips(own, cell.split)
        same = own.hash == manifest.hash
        return trained_on.exposure(cell.run.name, clips, own.name, same, manifest, cell.split, test)

    def missing(self, cell: RunSpec) -> list[Measure]:
        """The measurements that a run still needs."""
        return [measure for measure in self.table.measures if self.found(cell, measure) is None]

    def stages_of(self, cell: RunSpec) -> list[str]:
        """What each stage's weights depend on, with all before it."""
        manifest = self.manifests[cell.recipe.first_stage.data.name]
        data = manifest.hash if manifest else cell.recipe.first_stage.data.name
        return [
            stages.stage_fingerprint(cell.recipe, count, data)
            for count in range(1, len(cell.recipe.stages) + 1)
        ]


def build_plan(table: Table, data: Path, runs: Path) -> Plan:
    """All runs of a table: every row with every seed and split.

    Raises:
        InputError: If a measurement would be of several datasets.
    """
    cells = []
    for line in table.lines:
        own = recipes.load(line.base, line.assignments)
        for seed in table.seeds or (own.seed,):
            for split in table.splits or (own.first_stage.data.split,):
                changed: tuple[str, ...] = (f"seed={seed}",) if seed != own.seed else ()
                changed += (f"data.split={split}",) if split != own.first_stage.data.split else ()
                assignments = (*line.assignments, *changed)
                recipe = recipes.load(line.base, assignments)
                cells.append(
                    RunSpec(line, recipe, assignments, Run(run_folder(runs, recipe), recipe))
                )
    plan = Plan(table, tuple(cells), data, runs)
    _check_columns(plan)
    return plan


def _check_columns(plan: Plan) -> None:
    """See that every measurement is of one dataset, so that its rows can be compared, and is asked
    for once.

    Raises:
        InputError: If one isn't.
    """
    columns: dict[tuple[str, str, str], Measure] = {}
    rows: dict[str, str] = {}
    for cell in plan.cells:
        rows.setdefault(cell.recipe.first_stage.data.name, cell.line.name)
    for measure in plan.table.measures:
        if measure.data is None and len(rows) > 1:
            which = ", ".join(f"`{row}` on {name}" for name, row in rows.items())
            raise InputError(
                f"`{measure.words}` would be of several datasets, each row's own: {which}",
                f"say which one all rows are measured on: "
                f"{{task: {measure.task}, data: {next(iter(rows))}}}",
            )
        twin = columns.setdefault(
            (measure.task, measure.data or next(iter(rows)), measured.measurement_key(measure)),
            measure,
        )
        if twin is not measure:
            raise InputError(
                f"`{twin.words}` and `{measure.words}` are one measurement that is asked for twice",
                "leave one out",
            )
