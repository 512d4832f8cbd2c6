"""The costs of a plan before it starts: floating-point operations, disk, and hours at a measured or
assumed speed, on one device or on several side by side."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vcsf_cli.ablate import measured
from vcsf_cli.ablate.plan import Plan
from vcsf_cli.ablate.rows import RunSpec
from vcsf_cli.ablate.run import RunOptions
from vcsf_cli.config.protocol import Finetune
from vcsf_cli.config.table import RETRIEVED, Measure
from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.data.manifest import official_split
from vcsf_cli.errors import RunError
from vcsf_cli.model.cost import pathway_costs
from vcsf_cli.model.parts import Geometry, StageLoss, build_sampler, same_window_share
from vcsf_cli.model.pathways import build, stage_channels
from vcsf_cli.narrate import counted, duration
from vcsf_cli.runs import stages
from vcsf_cli.runs.restore import load_checkpoint
from vcsf_cli.train.timing import estimate

_PEAKS = {"h200": 989e12, "h100": 989e12}
"""Dense bfloat16 operations a second of a card, as its maker states them (SXM)."""
_SHARE_OF_PEAK = 0.027
"""Measured for separable 3D convolutions (docs/results.md, "On a GPU"); full ones reached 0.15."""
_READING = 0.020
"""Core seconds to read a training clip of two views of 32 frames, measured beside one H200."""
_CORES = 16

_USUAL = (2_000, 1_000)
"""Training and test clips of a dataset that isn't prepared."""
_FRAMES = 180
"""Frames of a clip of such a dataset."""

_BYTES = 4
"""Bytes of a number in a file."""
_SHAPE = ("sampler", "backbone", "slow", "fast", "motion", "head")
"""Keys that a network's cost depends on, besides the size of its clips."""


@dataclass(frozen=True)
class Speed:
    """How fast the machine is taken to be.

    Args:
        reading: Seconds to read a training clip, 0 if `flops` includes it.
        source: Where the number comes from.
    """

    flops: float
    reading: float
    source: str


@dataclass(frozen=True)
class Network:
    """The cost of both networks: operations of a forward pass of a clip in each, parameters,
    channels before the head."""

    flops: dict[str, int]
    parameters: int
    channels: int


@dataclass(frozen=True)
class RemainingStage:
    """The rest of one stage.

    Args:
        flops: Operations of all these epochs.
        clips: Training clips to read, epochs times clips.
    """

    epochs: int
    flops: float
    clips: float

    def seconds(self, speed: Speed) -> float:
        """How long it takes; reading and computing overlap."""
        return max(self.flops / speed.flops, self.clips * speed.reading)


@dataclass(frozen=True)
class RemainingWork:
    """The remaining work of one run.

    Args:
        stages: The last stages, which must be trained; earlier ones are done or taken over.
        measuring_flops: Operations of the measurements.
        damage: Why the run can't be used; else empty.
    """

    spec: RunSpec
    stages: tuple[RemainingStage, ...] = ()
    measures: tuple[Measure, ...] = ()
    measuring_flops: float = 0.0
    damage: str = ""

    @property
    def done(self) -> bool:
        return not self.stages and not self.measures and not self.damage

    @property
    def is_left(self) -> bool:
        """Whether there is something to do that can be done."""
        return not self.done and not self.damage

    @property
    def description(self) -> str:
        if self.damage:
            return f"can't be used: {self.damage}"
        if self.done:
            return "done"
        count = len(self.spec.recipe.stages)
        none = "trained" if self.spec.is_begun else "all stages shared"
        parts = [
            counted(sum(stage.epochs for stage in self.stages), "epoch") if self.stages else none
        ]
        if self.stages and len(self.stages) < count:
            first = count - len(self.stages) + 1
            which = f"stages {first} to {count}" if first < count else f"stage {count}"
            parts[0] += f" ({which}; what comes before is shared or done)"
        return ", ".join([*parts, *(each.description for each in self.measures)])

    def end_times(self, speed: Speed) -> list[float]:
        """Seconds after which each stage ends, and last the measurements."""
        seconds = [stage.seconds(speed) for stage in self.stages]
        return list(itertools.accumulate([*seconds, self.measuring_flops / speed.flops]))

    def seconds(self, speed: Speed) -> float:
        """How long all of it takes."""
        return self.end_times(speed)[-1]


class Costs:
    """Counts what a plan's runs cost; equal networks are counted once."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._networks: dict[str, Network] = {}

    def network(self, spec: RunSpec) -> Network:
        """The cost of a run's networks.

        Raises:
            InputError: If they can't read clips of the recipe's size.
        """
        stage = spec.recipe.first_stage
        key = stage.model_dump_json(include={"data": {"size"}, **dict.fromkeys(_SHAPE, True)})
        if key not in self._networks:
            model = build(spec.recipe)
            costs = pathway_costs(model, stage, build_sampler(stage))
            self._networks[key] = Network(
                {name: sum(cost.flops for cost in parts.values()) for name, parts in costs.items()},
                sum(cost.parameters for parts in costs.values() for cost in parts.values()),
                stage_channels(model.slow.backbone)[-1],
            )
        return self._networks[key]

    def step_flops(self, spec: RunSpec) -> list[int]:
        """Operations for a training clip in each stage.

        A pathway that learns encodes a query, whose gradient costs twice as much again, and a key;
        a frozen one encodes a key where the loss asks for it. Segments cost as much a frame, for
        the clips of which both views show the same window."""
        network, found = self.network(spec), []
        for stage in spec.recipe.stages:
            loss, sampler = StageLoss(stage), build_sampler(stage)
            factors: dict[str, float] = {
                name: 4 if name in stage.train.pathways else int(loss.crosses) for name in PATHWAYS
            }
            for name, count in loss.segments.items():
                geometry = Geometry.from_sampler(sampler)
                frames = count * geometry.segment_frames(name, count)
                share = same_window_share(sampler) * frames / len(geometry.positions[name])
                factors[name] *= 1 + share
            flops = sum(factor * network.flops[name] for name, factor in factors.items())
            found.append(round(flops))
        return found

    def remaining(self) -> list[RemainingWork]:
        """The remaining work of every run, in the order in which it is done."""
        available = _trained_stages(self.plan.runs)
        found = []
        for spec in self.plan.specs:
            try:
                found.append(self._remaining(spec, available))
                available |= set(self.plan.fingerprints[spec.recipe.hash])
            except RunError as error:
                found.append(RemainingWork(spec, damage=error.message))
        return found

    def _remaining(self, spec: RunSpec, available: set[str]) -> RemainingWork:
        """The remaining work of one run.

        Args:
            available: Fingerprints of the stages that it could take over.

        Raises:
            RunError: If the run is damaged.
        """
        missing = tuple(self.plan.missing(spec))
        measuring = sum(self._measuring_flops(spec, each) for each in missing)
        if self.plan.is_trained(spec):
            return RemainingWork(spec, (), missing, measuring)
        first, done = spec.finished_stages, _epochs_done(spec)
        if not spec.is_begun:  # stages noted before the first checkpoint are trained again
            own = self.plan.fingerprints[spec.recipe.hash]
            first = max([0, *(n for n, stage in enumerate(own, start=1) if stage in available)])
        clips, _, _ = self._clips(spec.recipe.first_stage.data.name, spec.split)
        left = []
        for index, per_clip in enumerate(self.step_flops(spec)):
            if index >= first:
                epochs = spec.recipe.stages[index].train.epochs - done.get(index, 0)
                read = float(clips * epochs)
                left.append(RemainingStage(epochs, per_clip * read, read))
        return RemainingWork(spec, tuple(left), missing, measuring)

    def disk(self, works: Sequence[RemainingWork]) -> int:
        """Bytes that are written: checkpoints with optimiser and key encoder, weights after each
        stage, features."""
        total = 0
        for work in works:
            spec, network = work.spec, self.network(work.spec)
            weights = network.parameters * _BYTES
            if not work.damage and not self.plan.is_trained(spec):
                total += weights * (4 + len(spec.recipe.stages))
            for measure in work.measures:
                train, test, _ = self._clips(self.plan.measured_on(spec, measure), spec.split)
                features = (train + test) * 2 * network.channels * _BYTES
                total += 3 * weights if measure.task == "finetune" else features
        return total

    def _clips(self, name: str, split: int) -> tuple[int, int, float]:
        """Training and test clips of a split, and a clip's mean number of frames."""
        manifest = self.plan.manifests[name]
        if manifest is None:
            train, test = official_split(name, split) or _USUAL
            return train, test, _FRAMES
        train, test = len(manifest.part(split, "train")), len(manifest.part(split, "test"))
        return train or len(manifest.table), test, float(manifest.table["frames"].mean())

    def _measuring_flops(self, spec: RunSpec, measure: Measure) -> float:
        """Operations of a measurement: features of whole videos, or fine-tuning and its test."""
        train, test, frames = self._clips(self.plan.measured_on(spec, measure), spec.split)
        length = build_sampler(spec.recipe.last_stage).length
        windows = max(1.0, 1 + (frames - length) / max(1, length // 2 - 1))
        flops = self.network(spec).flops
        if measure.task in RETRIEVED:
            return sum(flops.values()) * windows * (train + test)
        protocol = measured.load_protocol(measure)
        crops = 10 if protocol.crops == "ten" else 1
        if isinstance(protocol, Finetune):
            own = sum(flops[name] for name in spec.row.classified_pathways)
            return float(own * (3 * train * protocol.train.epochs + windows * crops * test))
        return sum(flops.values()) * windows * crops * (train + test)


def _epochs_done(spec: RunSpec) -> dict[int, int]:
    """Finished epochs of the stage that a run is in, by the index of the stage."""
    if not spec.is_begun:
        return {}
    try:
        position = load_checkpoint(spec.run)["position"]
    except (RunError, OSError):
        return {}  # the training itself will say so
    return {int(position["stage"]): int(position["epoch"])}


def _trained_stages(runs: Path) -> set[str]:
    """Fingerprints of the stages that other runs could take over."""
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


def _choose_speed(
    costs: Costs, works: Sequence[RemainingWork], assumed: str | None, options: RunOptions
) -> Speed | None:
    """How fast the work is taken to go; None if there is nothing to measure on.

    Args:
        assumed: A card's name, or training clips per second of the first row's first stage; None:
            measure a few batches.
    """
    plan = costs.plan
    if assumed in _PEAKS:
        peak = _PEAKS[assumed]
        source = (
            f"calculated, not measured: {_SHARE_OF_PEAK:.1%} of the {peak / 1e12:.0f} TFLOPS that "
            f"one {assumed.upper()} has in bfloat16, as separable networks reached, and clips read "
            f"by {_CORES} cores in {1000 * _READING:.0f} ms each"
        )
        return Speed(_SHARE_OF_PEAK * peak, _READING / _CORES, source)
    if assumed is not None:
        return Speed(
            float(assumed) * costs.step_flops(plan.specs[0])[0],
            0.0,
            f"from {assumed} training clips a second in stage 1, as you assume",
        )
    left = [work for work in works if work.is_left]
    timed = next((work.spec for work in left if work.stages), left[0].spec if left else None)
    manifest = plan.manifests[timed.recipe.first_stage.data.name] if timed else None
    if timed is None or manifest is None or not options.here:
        return None
    compute = options.compute(options.devices[0])
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads or threads)
    try:
        times = estimate(timed.recipe, manifest, compute)
    finally:
        torch.set_num_threads(threads)
    flops = sum(
        per_clip * clips * stage.train.epochs
        for per_clip, (clips, _), stage in zip(
            costs.step_flops(timed), times, timed.recipe.stages, strict=True
        )
    )
    return Speed(
        flops / sum(seconds for _, seconds in times),
        0.0,
        f"from a few batches of row `{timed.row.name}` on {compute.device()}, the others by "
        "their operations",
    )


def total_seconds(plan: Plan, works: Sequence[RemainingWork], speed: Speed, devices: int) -> float:
    """How long the work takes on several devices, if runs start in the order of `TableRunner`."""
    waiting = [work for work in works if work.is_left]
    running: list[tuple[RemainingWork, float]] = []
    now = 0.0

    def must_wait(work: RemainingWork, other: RemainingWork, begun: float) -> bool:
        ended = sum(begun + end <= now for end in other.end_times(speed)[:-1])
        finished = len(other.spec.recipe.stages) - len(other.stages) + ended
        return plan.must_wait(work.spec, other.spec, finished)

    while waiting or running:
        for work in list(waiting):
            if len(running) < devices and not any(must_wait(work, *other) for other in running):
                waiting.remove(work)
                running.append((work, now))
        ends = [begun + end for work, begun in running for end in work.end_times(speed)]
        now = min((end for end in ends if end > now), default=now)
        running = [(work, begun) for work, begun in running if begun + work.seconds(speed) > now]
    return now


def describe_plan(costs: Costs, assumed: str | None, options: RunOptions) -> list[str]:
    """The plan in lines: rows, what is left for each run, time and disk.

    Args:
        assumed: A card's name or training clips per second; None: measure a few batches.
    """
    plan, works = costs.plan, costs.remaining()
    speed = _choose_speed(costs, works, assumed, options)
    lines = plan.describe()
    for work in works:
        about = f", about {duration(work.seconds(speed))}" if speed and work.is_left else ""
        lines.append(f"  {work.spec.name}: {work.spec.run.name}: {work.description}{about}")
    left = [work for work in works if work.is_left]
    lines.append(f"done: {sum(work.done for work in works)} of {len(works)} runs")
    if not left:
        return lines
    if speed:
        several = ""
        if options.several:
            together = duration(total_seconds(plan, left, speed, len(options.devices)))
            several = f", by {len(options.devices)} side by side {together}"
        alone = duration(sum(work.seconds(speed) for work in left))
        lines.append(f"estimated time: {alone}{several} ({speed.source})")
    else:
        lines.append(
            "the time is unknown: nothing is there to be measured on; --assume h200 calculates it"
        )
    lines.append(f"estimated disk: {max(1, round(costs.disk(works) / 1e6)):,} MB in {plan.runs}")
    return lines
