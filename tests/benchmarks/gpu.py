"""What an NVIDIA GPU computes and how fast, on clips that vcsf draws itself: the table gpu.md.

make gpu
python tests/benchmarks/gpu.py --parts resume,speed --out gpu.md

Checks train a few steps in two ways and compare the losses. Nothing but vcsf's own dependencies is
needed, and no network. A part that `--minutes` end is cut off, and later ones are left out. The exit
status is 0 if all parts were run and all checks are good, 1 if not, and 2 without a GPU."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import itertools
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, cast

import click
import torch

# vcsf need not be installed.
sys.path.insert(0, str(Path(__file__).parent.parent.parent / "plugins"))
sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from vcsf_cli.cli import main as vcsf
from vcsf_cli.config import recipe as recipes
from vcsf_cli.data.clips import Batch, TwoViewClips
from vcsf_cli.data.decoded import PLACE
from vcsf_cli.data.loader import ResumableBatchSampler, iterate, training_loader
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.errors import EXIT_INTERRUPTED
from vcsf_cli.model.cost import pathway_costs
from vcsf_cli.model.parts import build_sampler
from vcsf_cli.model.pathways import TwoPathways, build
from vcsf_cli.train.compute import Compute
from vcsf_cli.train.optim import build_optimizer
from vcsf_cli.train.task import PretrainTask

NO_GPU = 2
"""Exit status where there is no GPU."""
STOPS = """
import signal
from pathlib import Path
from vcsf_cli import hookimpl

@hookimpl
def vcsf_on_log(run, record):
    if record["step"] == 3 and not Path("stopped").exists():
        Path("stopped").touch()
        signal.raise_signal(signal.SIGINT)
"""


@dataclass(frozen=True)
class Sizes:
    """How much is computed.

    Args:
        clips: Options of `vcsf prepare synthetic`.
        check: Assignments of the recipe that checks train.
        speed: Recipes that are timed, and their assignments.
        matrix: Side of the matrices whose product is timed.
        steps: Timed steps.
    """

    clips: tuple[str, ...]
    check: tuple[str, ...]
    speed: dict[str, tuple[str, ...]]
    matrix: int
    steps: int


_CHECK = ("data.name=synthetic", "train.log_every=1", "train.check_every=0", "stages=[{}]")
_QUEUE = "loss.queue=0"  # every step learns from the first one on
FULL = Sizes(
    clips=("--classes=8", "--groups=6", "--clips=3", "--frames=48", "--height=128"),
    check=(
        *(*_CHECK, _QUEUE, "data.size=64", "sampler.frames=16", "train.batch=16"),
        *("optim.schedule=constant", "optim.drops=[]"),
    ),
    speed={"vcsf": (), "vcsf_r3d18": ()},
    matrix=8192,
    steps=15,
)
SMALL = Sizes(
    clips=("--classes=2", "--groups=3", "--clips=2", "--frames=20", "--height=32"),
    check=(*_CHECK, _QUEUE, "train.batch=4"),
    speed={"smoke": ("train.batch=4",)},
    matrix=64,
    steps=2,
)
"""For a test of this script on a CPU."""


@dataclass
class Bench:
    """A machine, and what was found on it.

    Args:
        processes: Devices that train together in checks of several.
        folder: Where data and runs go.
    """

    device: str
    processes: int
    sizes: Sizes
    folder: Path
    checks: list[tuple[str, str, bool]] = field(default_factory=list)
    speeds: list[tuple[str, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def is_gpu(self) -> bool:
        return self.device != "cpu"

    @property
    def check_recipe(self) -> str:
        return "vcsf" if self.sizes is FULL else "smoke"

    def compare(self, what: str, ours: list[float], theirs: list[float], bound: float) -> None:
        """Note the largest relative difference of two trainings' losses, and whether it is within a
        bound."""
        same = len(ours) == len(theirs) > 0 and all(map(math.isfinite, (*ours, *theirs)))
        pairs = zip(ours, theirs, strict=True) if same else ()
        difference = max((abs(a - b) / max(abs(b), 1e-9) for a, b in pairs), default=math.inf)
        steps = f"{len(ours)} and {len(theirs)} steps, at most {100 * difference:.3g} % apart"
        self.checks.append((what, f"{steps} (bound {100 * bound:g} %)", difference <= bound))


def prepare(bench: Bench) -> None:
    """Make the clips, once."""
    if not (bench.folder / "data").exists():
        status, said = run_here(bench.folder, ["prepare", "synthetic", *bench.sizes.clips])
        if status:
            raise RuntimeError(f"clips can't be prepared:\n{said}")


def train(
    bench: Bench, name: str, *words: str, devices: str = "", stops: bool = False
) -> list[float]:
    """The losses of a short training.

    Raises:
        RuntimeError: If it fails.
    """
    assignments = (*bench.sizes.check, f"name={name}", "train.epochs=2")
    recipe = [word for each in assignments for word in ("--set", each)]
    arguments = ["pretrain", bench.check_recipe, *recipe, *words, "--no-share-stages"]
    arguments += ["--devices", devices or bench.device, "--workers", "2"]
    expected = EXIT_INTERRUPTED if stops else 0
    run = run_alone if devices or stops else run_here
    status, said = run(bench.folder, arguments)
    if status != expected:
        raise RuntimeError(f"vcsf {' '.join(arguments)} ended with {status}:\n{said}")
    return [record["loss"] for record in records(bench.folder, name) if "loss" in record]


def run_here(folder: Path, arguments: list[str]) -> tuple[int, str]:
    said = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stderr(said):
        return vcsf(arguments), said.getvalue()


def run_alone(folder: Path, arguments: list[str]) -> tuple[int, str]:
    """Run a command in a process of its own: one that starts others, or is interrupted."""
    paths = os.pathsep.join([*sys.path[:2], *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "vcsf_cli", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr


def records(folder: Path, name: str) -> list[dict[str, float]]:
    """The log of a run."""
    (path,) = folder.glob(f"runs/{name}-*/metrics.csv")
    with path.open(newline="") as file:
        return [
            {key: float(value) for key, value in row.items() if value}
            for row in csv.DictReader(file)
        ]


def check_bf16(bench: Bench) -> None:
    """bfloat16 against float32."""
    if not bench.is_gpu:
        bench.notes.append("bf16: vcsf computes in bfloat16 on GPUs only")
        return
    single = train(bench, "float32", "--precision", "float32")
    bench.compare("bf16 against float32", train(bench, "bf16", "--precision", "bf16"), single, 0.1)


def check_compile(bench: Bench) -> None:
    """Compiled networks against eager ones, in float32."""
    words = ("--precision", "float32")
    eager = train(bench, "eager", *words)
    compiled = train(bench, "compiled", *words, "--set", "speed.compile=true")
    bench.compare("compile against eager", compiled, eager, 0.02)


def check_norms(bench: Bench) -> None:
    """Statistics of batch norm: split ones train, and synced ones do what those of the batch do on one
    device, and on several what they do on one. torch syncs them on GPUs only; on a CPU they are
    frozen."""
    words = ("--precision", "float32", "--set")
    split = (*words, "train.norm=split", "--set", "train.parts=2")
    first, again = (train(bench, name, *split) for name in ("split", "again"))
    bench.compare("split statistics, twice", again, first, 0.02)
    if bench.is_gpu:
        batch, synced = (
            train(bench, name, *words, f"train.norm={name}") for name in ("batch", "synced")
        )
        bench.compare("synced statistics against the batch's", synced, batch, 0.02)
    if bench.processes < 2:
        bench.notes.append("norms: there is one device, so nothing is compared over two")
        return
    several, norm = str(bench.processes), "synced" if bench.is_gpu else "frozen"
    one, two = (
        train(bench, f"devices_{count}", *words, f"train.norm={norm}", devices=count)
        for count in ("1", several)
    )
    bench.compare(f"{norm} statistics, {several} devices against one", two, one, 0.02)
    losses = train(bench, f"split_{several}", *split, devices=several)
    bench.compare(f"split statistics, {several} devices: finite", losses, losses, 0.0)


def check_resume(bench: Bench) -> None:
    """A training that is interrupted and goes on against one that is not."""
    words = ("--precision", "float32")
    whole = train(bench, "uninterrupted", *words)
    plugin = bench.folder / "vcsf_local.py"
    plugin.write_text(STOPS)
    train(bench, "resumed", *words, stops=True)
    plugin.unlink()
    bench.compare("resumed against uninterrupted", train(bench, "resumed", *words), whole, 0.02)


def measure_speed(bench: Bench) -> None:
    """Steps of the recipes on clips in memory, fed by the store, and by decoded frames (`--cache`); a
    matrix product to compare with."""
    for precision in ("bf16", "float32") if bench.is_gpu else ("float32",):
        peak = matrix_flops(bench, torch.bfloat16 if precision == "bf16" else torch.float32)
        bench.notes.append(
            f"product of two {precision} matrices of side {bench.sizes.matrix}: "
            f"{peak / 1e12:.3g} TFLOP/s"
        )
        for name, assignments in bench.sizes.speed.items():
            bench.speeds += time_recipe(bench, name, assignments, precision, peak)


def measure_compiled(bench: Bench) -> None:
    """Steps of the first of these recipes with compiled networks, in bfloat16."""
    if not bench.is_gpu:
        bench.notes.append("compiled: measured on GPUs only")
        return
    name, assignments = next(iter(bench.sizes.speed.items()))
    assignments = (*assignments, "speed.compile=true")
    peak = matrix_flops(bench, torch.bfloat16)
    bench.speeds += time_recipe(bench, name, assignments, "bf16", peak)


def matrix_flops(bench: Bench, kind: torch.dtype) -> float:
    """Operations a second of a matrix product; of float32 in TF32 where there is, as torch's
    convolutions compute."""
    side, matmul = bench.sizes.matrix, torch.backends.cuda.matmul
    left, right = (torch.rand(side, side, dtype=kind, device=bench.device) for _ in range(2))
    before, matmul.allow_tf32 = matmul.allow_tf32, True
    left @ right
    synchronize(bench)
    begun = time.perf_counter()
    for _ in range(bench.sizes.steps):
        left @ right
    synchronize(bench)
    matmul.allow_tf32 = before
    return bench.sizes.steps * 2 * side**3 / (time.perf_counter() - begun)


def time_recipe(
    bench: Bench, name: str, assignments: Iterable[str], precision: str, peak: float
) -> Iterator[tuple[str, ...]]:
    """Rows of the table: of steps on a batch in memory, of steps that read the store, and of steps
    that read decoded frames."""
    recipe = recipes.load(name, ["data.name=synthetic", _QUEUE, *assignments])
    stage, manifest = recipe.first_stage, Manifest.find(bench.folder / "data", "synthetic")
    rows = manifest.training_part(stage.data.split)
    compute = Compute(bench.device, precision)
    fabric = compute.fabric()
    model = cast(TwoPathways, fabric.to_device(build(recipe)))
    costs = pathway_costs(model, stage, build_sampler(stage))
    # A query, its gradient for twice as much again, and a key.
    flops = 4 * sum(cost.flops for parts in costs.values() for cost in parts.values())
    task = PretrainTask(recipe, stage, model, manifest, rows, fabric, 0)
    optimizer = build_optimizer(stage.optim, task.parameters(), stage.speed.fused)
    size, pin = stage.train.batch, fabric.device.type == "cuda"

    def read() -> Iterator[Batch]:
        clips = TwoViewClips(manifest, build_sampler(stage), stage.augment, stage.data.size, 0)
        order = ResumableBatchSampler(rows, size, recipe.seed, 0, 1000)
        return iterate(training_loader(clips, order, compute.num_workers, pin))

    def read_decoded() -> Iterator[Batch]:
        os.environ[PLACE] = str(bench.folder / "decoded")
        try:
            return read()
        finally:
            del os.environ[PLACE]

    def read_once() -> Iterator[Batch]:
        return itertools.repeat(next(read()))

    for fed_by, feed in {"memory": read_once, "store": read, "cache": read_decoded}.items():
        if pin:
            torch.cuda.reset_peak_memory_stats()
        waited, seconds = time_steps(bench, task, optimizer, feed())
        rate = size / seconds
        memory = f"{torch.cuda.max_memory_allocated() / 2**30:.1f}" if pin else "-"
        frames = f"{len(build_sampler(stage).cover(1000)[0].window)} x {stage.data.size} px"
        yield (
            *(name + ", compiled" * stage.speed.compile, stage.backbone.name, frames),
            *(precision, str(size), fed_by),
            *(f"{1000 * seconds:.0f}", f"{rate:.0f}", f"{waited / seconds:.0%}", memory),
            *(f"{rate * flops / 1e12:.3g}", f"{rate * flops / peak:.1%}"),
        )


def time_steps(
    bench: Bench, task: PretrainTask, optimizer: torch.optim.Optimizer, batches: Iterator[Batch]
) -> tuple[float, float]:
    """Mean seconds that a step waits for its batch and takes in all; the host waits for the device
    only at the end."""
    for _ in range(3):  # algorithms are chosen, and workers read ahead
        step(task, optimizer, next(batches))
    synchronize(bench)
    begun, waited = time.perf_counter(), 0.0
    for _ in range(bench.sizes.steps):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        step(task, optimizer, batch)
    synchronize(bench)
    return waited / bench.sizes.steps, (time.perf_counter() - begun) / bench.sizes.steps


def step(task: PretrainTask, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    for share, terms in task.step(batch):
        task.fabric.backward(share * terms["loss"])
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    task.after_step()


def synchronize(bench: Bench) -> None:
    if bench.is_gpu:
        torch.cuda.synchronize()


PARTS: dict[str, Callable[[Bench], None]] = {
    "bf16": check_bf16,
    "resume": check_resume,
    "norms": check_norms,
    "speed": measure_speed,
    "compile": check_compile,
    "compiled": measure_compiled,
}
"""In the order in which they are run; compiling takes longest."""
COLUMNS = "recipe, network, clip, arithmetic, batch, fed by, ms a step, clips/s, waiting, GiB, TFLOP/s, share of the product"


def write(bench: Bench, command: str, path: Path) -> None:
    """Write what was found."""
    name = torch.cuda.get_device_name() if bench.is_gpu else platform.processor() or "CPU"
    lines = [
        f"# {name}",
        "",
        f"torch {torch.__version__}, CUDA {torch.version.cuda}, {os.cpu_count()} cores, "
        f"{bench.processes} devices. `{command}`",
    ]
    if bench.checks:
        lines += ["", "| check | losses | |", "|---|---|---|"]
        lines += [
            f"| {a} | {b} | {'good' if good else '**WRONG**'} |" for a, b, good in bench.checks
        ]
    if bench.speeds:
        columns = COLUMNS.split(", ")
        lines += ["", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
        lines += [f"| {' | '.join(row)} |" for row in bench.speeds]
    lines += ["", *(f"- {note}" for note in bench.notes)]
    path.write_text("\n".join(lines) + "\n")


class TimeIsUp(BaseException):  # so that no command takes it for an error of its own
    """A part has taken the time of `--minutes`."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeIsUp in the block after some seconds."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 5)  # again, where it was not heard
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_part(bench: Bench, name: str, seconds: float) -> None:
    """Run a part for at most some seconds; if it fails, the others are worth knowing."""
    try:
        with time_limit(seconds):
            prepare(bench)
            PARTS[name](bench)
    except TimeIsUp:
        bench.left_out.append(name)
        bench.notes.append(f"{name}: cut off, the time was over")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is written down
        traceback.print_exc()
        bench.checks.append((name, f"{type(error).__name__}: {error}".splitlines()[0], False))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try this script")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of the parts, with commas")
    parser.add_argument("--minutes", type=float, default=9.5, help="parts end before this time")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try this script")
    parser.add_argument(
        "--processes", type=int, help="devices of checks of several  [all, at most 2]"
    )
    parser.add_argument("--out", type=Path, default=Path("gpu.md"))
    options: Any = parser.parse_args(arguments)
    chosen = options.parts.split(",")
    if unknown := {*chosen} - {*PARTS}:
        parser.error(f"no part is named {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if options.device != "cpu" and not torch.cuda.is_available():
        click.echo("this machine has no GPU that torch can use", err=True)
        return NO_GPU
    if torch.device(options.device).index is not None:
        torch.cuda.set_device(options.device)  # synchronises, and counts memory, on that one
    processes = options.processes or max(1, min(2, torch.cuda.device_count()))
    begun, failed = time.monotonic(), False
    with tempfile.TemporaryDirectory(prefix="vcsf-gpu-") as folder:
        sizes = SMALL if options.small else FULL
        bench = Bench(options.device, processes, sizes, Path(folder))
        for name in chosen:
            spent = time.monotonic() - begun
            if spent >= 60 * options.minutes:
                bench.left_out.append(name)
                bench.notes.append(f"{name}: left out, the time was over")
            else:
                click.echo(f"{name} ...", err=True)
                run_part(bench, name, 60 * options.minutes - spent)
                bench.notes.append(f"{name}: {time.monotonic() - begun - spent:.0f} s")
            # After each part: the machine may be taken away before the last one.
            write(bench, f"gpu.py {' '.join(arguments or sys.argv[1:])}".strip(), options.out)
        failed = bool(bench.left_out) or not all(good for _, _, good in bench.checks)
    click.echo(options.out.read_text())
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
