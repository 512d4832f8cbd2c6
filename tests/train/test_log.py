"""metrics.csv."""

from pathlib import Path

from vcsf_cli.train.log import MetricsFile


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
