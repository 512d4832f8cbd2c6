"""metrics.csv, and what is told while training."""

from pathlib import Path

import pytest

from vcsf_cli.runs.metrics import MetricsFile
from vcsf_cli.train.loop import LoopConfig, TrainState, progress_note
from vcsf_cli.train.task import PretrainTask

HEADER = "step,stage,epoch,loss\n"


def test_records_are_appended_and_new_columns_are_empty_before(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv", 0, 1, 0)
    file.append({"step": 1, "loss": 2.5})
    file.append({"step": 2, "check": 0.5})
    assert (tmp_path / "metrics.csv").read_text() == "step,loss,check\n1,2.5,\n2,,0.5\n"


def test_going_on_from_a_step_drops_what_came_later_and_a_line_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(HEADER + "1,1,0.5,9\n2,1,1,8\n3,1,1.5,7\n4")
    file = MetricsFile(path, 2, 1, 1)
    file.append({"step": 3, "stage": 1, "epoch": 1.5, "loss": 7})
    assert path.read_text() == HEADER + "1,1,0.5,9\n2,1,1,8\n3,1,1.5,7\n"


def test_a_line_that_was_cut_is_not_glued_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(HEADER + "1,1,1,9\n2,")
    MetricsFile(path, 5, 1, 5).append({"step": 3, "stage": 1, "epoch": 3, "loss": 7})
    assert path.read_text() == HEADER + "1,1,1,9\n3,1,3,7\n"


@pytest.mark.parametrize(
    ("stage", "epoch", "left"), [(1, 2, 2), (2, 0, 2), (2, 1, 3), (2, 5, 4), (3, 0, 4)]
)
def test_checks_of_epochs_that_only_filled_a_queue_are_dropped_as_well(
    stage: int, epoch: int, left: int, tmp_path: Path
) -> None:
    """Steps stand still meanwhile: stage and epoch say what is done again."""
    path = tmp_path / "metrics.csv"
    lines = ["7,1,1.5,9\n", "8,1,2.0,8\n", "8,2,1.0,\n", "8,2,2.0,\n"]
    path.write_text(HEADER + "".join(lines))
    MetricsFile(path, 8, stage, epoch)
    assert path.read_text() == HEADER + "".join(lines[:left])


def test_the_last_values_are_those_of_the_last_stage(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,stage,epoch,loss,check\n1,1,1,9,0.5\n2,2,1,8,\n2,2,1,,0.6\n3,2,2,7,\n")
    assert MetricsFile(path, 3, 2, 2).last() == {
        "step": 3,
        "stage": 2,
        "epoch": 2,
        "loss": 7,
        "check": 0.6,
    }
    assert MetricsFile(path, 2, 2, 1).last() == {
        "step": 2,
        "stage": 2,
        "epoch": 1,
        "loss": 8,
        "check": 0.6,
    }
    assert MetricsFile(path, 1, 1, 1).last()["check"] == 0.5


def test_while_a_queue_is_filled_the_loss_of_the_stage_before_is_not_told() -> None:
    plan = LoopConfig(5, 10, 8, 0, 1, 0, 60.0, lambda epoch: 1.0)
    last = {"stage": 1, "loss": 2.5, "both_check_R@1": 0.5}
    assert (
        progress_note(last, TrainState(stage=0, epoch=3), plan, PretrainTask.shown)
        == "epoch 4/5  loss 2.500  check R@1 50.0%"
    )
    assert progress_note(last, TrainState(stage=1), plan, PretrainTask.shown) == "epoch 1/5"
