"""The loop of a training, with a task of one weight."""

import itertools
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning_fabric import Fabric

from vcsf_cli.data.clips import Batch
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.errors import RunError
from vcsf_cli.runs.run import Run, RunFolder
from vcsf_cli.train import loop
from vcsf_cli.train.compute import Compute
from vcsf_cli.train.loop import Log, LoopConfig, Task, Terms, TrainState, fit


class OneWeight(Task):
    """Moves a weight by the learning rate a step, and notes what the loop asks for."""

    def __init__(self, manifest: Manifest, bad_step: int = -1) -> None:
        self.manifest, self.bad_step, self.steps = manifest, bad_step, 0
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.asked: list[str] = []
        self.saved: list[float] = []

    def step(self, batch: Batch) -> Iterator[tuple[float, Terms]]:
        self.steps += 1
        scale = math.nan if self.steps == self.bad_step else -1.0
        yield 1.0, {"loss": scale * self.weight}

    def after_step(self) -> None:
        self.asked.append("after_step")

    def extra_metrics(self) -> dict[str, float]:
        self.asked.append("extra_metrics")
        return {"extra": 1.0}

    def evaluate(self) -> dict[str, float]:
        self.asked.append("evaluate")
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Mapping[str, Any], path: Path) -> None:
        raise NotImplementedError


Train = Callable[..., None]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Trains a task for 6 steps of one epoch; its weight at each save is in `saved`."""

    def run(task: OneWeight, save_every: float = math.inf, log_every: int = 4) -> None:
        position = TrainState()
        config = LoopConfig(
            epochs=1,
            batches=6,
            clips=2,
            seed=0,
            log_every=log_every,
            check_every=1,
            save_every=save_every,
            learning_rate=lambda epoch: 1.0,
        )
        optimizer = torch.optim.SGD([task.weight])
        batches = [cast(Batch, {"video": torch.tensor([step, 0])}) for step in range(6)]
        log, fabric = Log(cast(Run, RunFolder(tmp_path)), position), Compute("cpu").fabric()

        def save() -> None:
            assert all(isinstance(total, float) for total in position.sums.values())
            task.saved.append(float(task.weight.detach()))

        fit(fabric, task, optimizer, batches, config, position, log, save)

    return run


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_lost_folder_is_an_error_of_the_board_not_a_traceback_of_its_thread(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = Log(cast(Run, RunFolder(tmp_path)), TrainState())
    shutil.rmtree(tmp_path / "tensorboard")

    def write() -> None:
        log.board.add_scalar("loss", 1.0, 1)
        log.board.flush()

    with pytest.raises(FileNotFoundError, match="tensorboard"):
        write()
    assert not capfd.readouterr().err


def test_metrics_are_those_of_a_step_before_its_keys_are_queued(
    train: Train, tiny_data: Path
) -> None:
    task = OneWeight(Manifest.open(tiny_data / "synthetic"))
    train(task)
    step = ["after_step"]
    assert task.asked == 3 * step + ["extra_metrics"] + 2 * step + [
        "extra_metrics",
        "after_step",
        "evaluate",
    ]


@pytest.mark.parametrize(("late", "steps"), [(False, 3), (True, 4)])
def test_a_loss_is_looked_at_one_step_late_where_the_device_computes_ahead(
    late: bool, steps: int, train: Train, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_computes_ahead", lambda device: late)
    task = OneWeight(Manifest.open(tiny_data / "synthetic"), bad_step=3)
    with pytest.raises(RunError, match=r"the loss is nan at step 3 \(batch 3 of epoch 1"):
        train(task, log_every=100)
    assert task.steps == steps


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("bad_step", "kept"), [(3, [1, 2]), (6, [1, 2, 3, 4, 5])])
def test_nothing_of_a_spoilt_step_is_saved_logged_or_checked(
    late: bool,
    bad_step: int,
    kept: list[int],
    train: Train,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "_computes_ahead", lambda device: late)
    task = OneWeight(Manifest.open(tiny_data / "synthetic"), bad_step)
    with pytest.raises(RunError, match=f"at step {bad_step} "):
        train(task, save_every=0, log_every=1)
    assert task.saved == kept
    lines = (tmp_path / "metrics.csv").read_text().splitlines()[1:]
    assert [int(line.split(",")[0]) for line in lines] == kept
    assert "evaluate" not in task.asked
    assert task.asked.count("extra_metrics") == len(kept)


class Two:
    """One of two processes."""

    world_size, device = 2, torch.device("cpu")


@pytest.mark.parametrize(("late", "first"), [(False, 3), (True, 4)])
def test_processes_agree_on_a_stop_one_step_late_where_devices_compute_ahead(
    late: bool, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = itertools.count(1)

    def add_up(flag: torch.Tensor) -> None:
        """The other process wants to stop from the third step on."""
        flag += float(next(steps) >= 3)

    monkeypatch.setattr(loop, "_computes_ahead", lambda device: late)
    monkeypatch.setattr(loop, "add_up", add_up)
    vote = loop._Vote(cast(Fabric, Two()))
    assert [vote.is_for(False, at_once=False) for _ in range(5)].index(True) + 1 == first
    vote, steps = loop._Vote(cast(Fabric, Two())), itertools.count(1)
    assert [vote.is_for(False, at_once=step == 3) for step in (1, 2, 3)] == [False, False, True]
    vote, steps = loop._Vote(cast(Fabric, Two())), itertools.count(1)
    assert vote.is_for(True, at_once=False) != late
    assert vote.is_for(True, at_once=False)
