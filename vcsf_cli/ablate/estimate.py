"""What a plan costs before it is begun: floating-point operations, hours at a measured or assumed
speed, on one device or on several side by side, and disk."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vcsf_cli.ablate import measured
from vcsf_cli.ablate.plan import Plan, RunSpec
from vcsf_cli.config.protocol import Finetune
from vcsf_cli.config.recipe import Recipe
from vcsf_cli.config.table import Measure
from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.data.manifest import official_split
from vcsf_cli.errors import RunError
from vcsf_cli.model.cost import pathway_costs
from vcsf_cli.model.parts import build_loss, build_sampler
from vcsf_cli.model.pathways import build, stage_channels
from vcsf_cli.runs import stages
from vcsf_cli.runs.restore import own_checkpoint
from vcsf_cli.train.compute import Compute
from vcsf_cli.train.timing import estimate

_PEAKS = {"h200": 989e12, "h100": 989e12}
"""Dense bfloat16 operations a second of a card, as its maker states them (SXM)."""
_SHARE_OF_PEAK = 0.027
"""Measured for separable 3D convolutions (docs/results.md, "On a GPU"); full ones reached 0.15."""
_READING = 0.020
"""Core seconds to read a training clip of two views of 32 frames, measured beside one H200."""
_CORES = 16

_USUAL = (2_000, 1_000)
"""Training and test clips of a dataset that isn't there to be counted."""
FRAMES = 180
"""Frames of a clip of such a dataset."""

_BYTES = 4
"""Of a number in a file."""


@dataclass(frozen=True)
class Speed:
    """How fast the machine is taken to be.

    Args:
        flops: Operations a second.
        reading: Seconds that a training clip takes to read, 0 where the speed includes it.
        words: Where the number comes from.
    """

    flops: float
    reading: float
    words: str


@dataclass(frozen=True)
class Network:
    """What one clip costs in each pathway's network: operations of a forward pass, parameters,
    channels before the head."""

    flops: dict[str, int]
    parameters: dict[str, int]
    channels: int


def _count_network(recipe: Recipe) -> Network:
    """The networks of a recipe, counted.

    Raises:
        InputError: If they can't read clips of its size.
    """
    model = build(recipe)
    costs = pathway_costs(model, recipe.first_stage, build_sampler(recipe.first_stage))
    flops = {name: sum(cost.flops for cost in parts.values()) for name, parts in costs.items()}
    parameters = {
        name: sum(cost.parameters for cost in parts.values()) for name, parts in costs.items()
    }
    return Network(flops, parameters, stage_channels(model.slow.backbone)[-1])


def _step_flops(recipe: Recipe, network: Network) -> list[int]:
    """Operations that a training clip takes in each stage: a learning pathway encodes a query,
    whose gradient costs twice as much again, and a key; a frozen one a key, where the loss asks for
    it."""
    found = []
    for stage in recipe.stages:
        crosses = build_loss(stage).crosses
        factors = {name: 4 if name in stage.train.pathways else int(crosses) for name in PATHWAYS}
        found.append(sum(factor * network.flops[name] for name, factor in factors.items()))
    return found


@dataclass(frozen=True)
class StageWork:
    """What is left of one stage.

    Args:
        epochs: Epochs.
        flops: Their operations.
        clips: Training clips that are read for them, epochs times clips.
    """

    epochs: int
    flops: float
    clips: float

    def seconds(self, speed: Speed) -> float:
        """How long it takes; reading and computing overlap."""
        return max(self.flops / speed.flops, self.clips * speed.reading)


@dataclass(frozen=True)
class Work:
    """What is to be done for one cell.

    Args:
        cell: The run.
        stages: The last stages, which have to be trained; those before are done or taken over.
        measures: Measurements that are missing.
        measure: Operations of these.
        damage: Why nothing can be done, in words.
    """

    cell: RunSpec
    stages: tuple[StageWork, ...] = ()
    measures: tuple[Measure, ...] = ()
    measure: float = 0.0
    damage: str = ""

    @property
    def done(self) -> bool:
        """Whether nothing is left."""
        return not self.stages and not self.measures and not self.damage

    @property
    def is_left(self) -> bool:
        """Whether there is something to do that can be done."""
        return not self.done and not self.damage

    @property
    def words(self) -> str:
        """What is left to do, in words."""
        if self.damage:
            return f"can't be used: {self.damage}"
        if self.done:
            return "done"
        count = len(self.cell.recipe.stages)
        none = "trained" if is_begun(self.cell) else "all stages shared"
        parts = [f"{sum(stage.epochs for stage in self.stages):,} epochs" if self.stages else none]
        if self.stages and len(self.stages) < count:
            first = count - len(self.stages) + 1
            which = f"stages {first} to {count}" if first < count else f"stage {count}"
            parts[0] += f" ({which}; what comes before is shared or done)"
        return ", ".join([*parts, *(each.words for each in self.measures)])

    def moments(self, speed: Speed) -> list[float]:
        """Seconds after which each stage is over, and last the measurements."""
        return list(
            itertools.accumulate(
                [*(stage.seconds(speed) for stage in self.stages), self.measure / speed.flops]
            )
        )

    def seconds(self, speed: Speed) -> float:
        """How long it takes."""
        return self.moments(speed)[-1]


class Costs:
    """Counts a plan's work; networks that are the same are counted once.

    Args:
        plan: The plan.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._networks: dict[str, Network] = {}

    def network(self, cell: RunSpec) -> Network:
        """The networks of a cell's recipe.

        Raises:
            InputError: If they can't read clips of its size.
        """
        model = cell.recipe.first_stage
        key = model.model_dump_json(include={"data": {"size"}, **dict.fromkeys(_SHAPE, True)})
        if key not in self._networks:
            self._networks[key] = _count_network(cell.recipe)
        return self._networks[key]

    def clips(self, name: str, split: int) -> tuple[int, int, float]:
        """Training and test clips of a split, and a clip's mean number of frames."""
        manifest = self.plan.manifests[name]
        if manifest is None:
            train, test = official_split(name, split) or _USUAL
            return train, test, FRAMES
        train, test = len(manifest.part(split, "train")), len(manifest.part(split, "test"))
        return train or len(manifest.table), test, float(manifest.table["frames"].mean())

    def work(self) -> list[Work]:
        """The work of all cells, in the order in which it is done."""
        available = _trained_stages(self.plan.runs)
        found = []
        for cell in self.plan.cells:
            try:
                found.append(self.work_of(cell, available))
                available |= set(self.plan.stages_of(cell))
            except RunError as error:
                found.append(Work(cell, damage=error.message))
        return found

    def work_of(self, cell: RunSpec, available: set[str]) -> Work:
        """The work of one cell.

        Args:
            cell: The run.
            available: What the weights depend on that could be taken over.

        Raises:
            RunError: If the run is damaged.
        """
        missing = tuple(self.plan.missing(cell))
        measure = sum(self.measuring(cell, each) for each in missing)
        if self.plan.is_trained(cell):
            return Work(cell, (), missing, measure)
        first, done = own_stages(cell), _epochs_done(cell)
        if not is_begun(cell):  # what was noted before the first checkpoint is forgotten
            own = self.plan.stages_of(cell)
            first = max(
                [0, *(count for count in range(1, len(own) + 1) if own[count - 1] in available)]
            )
        left, (clips, _, _) = [], self.clips(*where(cell))
        for index, per_clip in enumerate(_step_flops(cell.recipe, self.network(cell))):
            if index >= first:
                epochs = cell.recipe.stages[index].train.epochs - done.get(index, 0)
                left.append(
                    StageWork(epochs, float(per_clip * clips * epochs), float(clips * epochs))
                )
        return Work(cell, tuple(left), missing, measure)

    def measuring(self, cell: RunSpec, measure: Measure) -> float:
        """Operations of a measurement: features of whole videos, or fine-tuning and its test."""
        train, test, frames = self.clips(self.plan.measured_on(cell, measure), cell.split)
        length = build_sampler(cell.recipe.last_stage).length
        windows = max(1.0, 1 + (frames - length) / max(1, length // 2 - 1))
        every = sum(self.network(cell).flops.values())
        if measure.task == "retrieve":
            return every * windows * (train + test)
        protocol = measured.load_protocol(measure)
        crops = 10 if protocol.crops == "ten" else 1
        if isinstance(protocol, Finetune):
            own = sum(self.network(cell).flops[name] for name in cell.line.trains)
            return float(own * (3 * train * protocol.train.epochs + windows * crops * test))
        return every * windows * crops * (train + test)

    def disk(self, works: list[Work]) -> int:
        """Bytes that are written: checkpoints with optimiser and key encoder, weights after each
        stage, features."""
        total = 0
        for work in works:
            network = self.network(work.cell)
            weights = sum(network.parameters.values()) * _BYTES
            if not work.damage and not self.plan.is_trained(work.cell):
                total += weights * (4 + len(work.cell.recipe.stages))
            for measure in work.measures:
                train, test, _ = self.clips(
                    self.plan.measured_on(work.cell, measure), work.cell.split
                )
                total += (
                    3 * weights
                    if measure.task == "finetune"
                    else (train + test) * 2 * network.channels * _BYTES
                )
        return total


_SHAPE = ("sampler", "backbone", "slow", "fast", "motion", "head")
"""Keys that a network's cost depends on, besides the size of its clips."""


def where(cell: RunSpec) -> tuple[str, int]:
    """Dataset and split that a cell is trained on."""
    return cell.recipe.first_stage.data.name, cell.split


def own_stages(cell: RunSpec) -> int:
    """How many stages of a run are finished, those included that it has taken over."""
    return sum("ended" in entry for entry in stages.read(cell.run.folder))


def is_begun(cell: RunSpec) -> bool:
    """Whether a run goes on from a checkpoint of its own, so that it takes over no stage of
    another."""
    return cell.run.checkpoint.is_file()


def _epochs_done(cell: RunSpec) -> dict[int, int]:
    """Epochs that a begun run has behind it, by the number of the stage that it is in, from 0."""
    if not is_begun(cell):
        return {}
    try:
        position = own_checkpoint(cell.run)["position"]
    except (RunError, OSError):
        return {}  # the training itself will say so
    return {int(position["stage"]): int(position["epoch"])}


def _trained_stages(runs: Path) -> set[str]:
    """What the weights depend on that other runs could take over."""
    found = set()
    for path in runs.glob(f"*/{stages.FILE}"):
        try:
            entries = stages.read(path.parent)
        except RunError:
            continue  # the run itself will say so
        for index, entry in enumerate(entries):
            if "prefix" in entry and stages.weights_file(path.parent, index).is_file():
                found.add(str(entry["prefix"]))
    return found


def choose_speed(
    plan: Plan,
    costs_: Costs,
    works: list[Work],
    assumed: str | None,
    machine: Compute,
    threads: int | None = None,
) -> Speed | None:
    """How fast the work is taken to go.

    Args:
        plan: The plan.
        costs_: Its counts.
        works: What is to be done.
        assumed: `h200`, or training clips a second of the first row's first stage; None: measure
            some batches.
        machine: Where to compute.
        threads: Of the CPU, where several runs share it; None for all.

    Returns:
        None if there is nothing to measure on.
    """
    first = plan.cells[0]
    per_clip = _step_flops(first.recipe, costs_.network(first))[0]
    if assumed in _PEAKS:
        peak = _PEAKS[assumed]
        words = (
            f"calculated, not measured: {_SHARE_OF_PEAK:.1%} of the {peak / 1e12:.0f} TFLOPS that "
            f"one {assumed.upper()} has in bfloat16, as separable networks reached, and clips read "
            f"by {_CORES} cores in {1000 * _READING:.0f} ms each"
        )
        return Speed(_SHARE_OF_PEAK * peak, _READING / _CORES, words)
    if assumed is not None:
        return Speed(
            float(assumed) * per_clip,
            0.0,
            f"from {assumed} training clips a second in stage 1, as you assume",
        )
    left = [work for work in works if work.is_left]
    todo = next((work.cell for work in left if work.stages), left[0].cell if left else None)
    manifest = plan.manifests[todo.recipe.first_stage.data.name] if todo else None
    if todo is None or manifest is None:
        return None
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        timed = estimate(todo.recipe, manifest, machine)
    finally:
        torch.set_num_threads(before)
    flops = _step_flops(todo.recipe, costs_.network(todo))
    counted = sum(
        per * clips * stage.train.epochs
        for per, (clips, _), stage in zip(flops, timed, todo.recipe.stages, strict=True)
    )
    seconds = sum(each for _, each in timed)
    return Speed(
        counted / seconds,
        0.0,
        f"from a few small batches of row `{todo.line.name}` on {machine.device()}, the others by "
        f"their operations",
    )


def must_wait(ours: Sequence[str], theirs: Sequence[str], finished: int) -> bool:
    """Whether a run that was not begun could take over a stage that another, which is worked on,
    has yet to finish.

    Args:
        ours: What its stages' weights depend on, with all before each.
        theirs: The same of the other run.
        finished: Stages that the other run has finished.
    """
    return sum(stage in theirs for stage in ours) > finished


def total_seconds(
    works: Sequence[Work], stages: Mapping[str, Sequence[str]], speed: Speed, lanes: int
) -> float:
    """How long some work takes on several devices, by the rule that it is begun by.

    Args:
        works: The work, in its order.
        stages: What the stages of each run's weights depend on, by the hash of its recipe.
        speed: Of one device.
        lanes: How many devices.
    """
    waiting = [work for work in works if work.is_left]
    running: list[tuple[Work, float]] = []
    now = 0.0

    def waits_for(work: Work, other: Work, begun: float) -> bool:
        ours, theirs = (stages[each.cell.recipe.hash] for each in (work, other))
        ended = sum(begun + moment <= now for moment in other.moments(speed)[:-1])
        return not is_begun(work.cell) and must_wait(
            ours, theirs, len(theirs) - len(other.stages) + ended
        )

    while waiting or running:
        for work in list(waiting):
            if len(running) < lanes and not any(waits_for(work, *other) for other in running):
                waiting.remove(work)
                running.append((work, now))
        moments = [begun + moment for work, begun in running for moment in work.moments(speed)]
        now = min((moment for moment in moments if moment > now), default=now)
        running = [(work, begun) for work, begun in running if begun + work.seconds(speed) > now]
    return now
