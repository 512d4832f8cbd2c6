"""metrics.csv, and what is told while training."""

from pathlib import Path

from vcsf_cli.train.log import MetricsFile
from vcsf_cli.train.loop import Plan, Position, note_of


def test_records_are_appended_and_new_columns_are_empty_before(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv", 0)
    file.append({"step": 1, "loss": 2.5})
    file.append({"step": 2, "check": 0.5})
    assert (tmp_path / "metrics.csv").read_text() == "step,loss,check\n1,2.5,\n2,,0.5\n"


def test_going_on_from_a_step_drops_what_came_later_and_a_line_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n1,9\n2,8\n3,7\n4")
    file = MetricsFile(path, 2)
    file.append({"step": 3, "loss": 7})
    assert path.read_text() == "step,loss\n1,9\n2,8\n3,7\n"


def test_a_line_that_was_cut_is_not_glued_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n1,9\n2,")
    MetricsFile(path, 5).append({"step": 3, "loss": 7})
    assert path.read_text() == "step,loss\n1,9\n3,7\n"


def test_while_a_queue_is_filled_the_loss_of_the_stage_before_is_not_told() -> None:
    plan = Plan(5, 10, 8, 0, 1, 0, 60.0, lambda epoch: 1.0)
    last = {"stage": 1, "loss": 2.5, "both_check_R@1": 0.5}
    assert note_of(last, Position(stage=0, epoch=3), plan) == "epoch 4/5  loss 2.500  check R@1 50.0%"
    assert note_of(last, Position(stage=1), plan) == "epoch 1/5  check R@1 50.0%"
