"""Loggers of `vcsf pretrain --log`, each with its real package, on this machine alone."""

import csv
import sqlite3
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import called
from trained import TINY
from vcsf_plugins.loggers import MLflow

from vcsf_cli.cli import main


def train(folder: Path, data: Path, *loggers: str) -> tuple[Path, str]:
    """The folder of a tiny run that was logged, and what was said."""
    words = [word for logger in loggers for word in ("--log", logger)]
    command = ("pretrain", "smoke", *TINY, "--data", data, "--workers", 0, *words)
    done = called(*command, cwd=folder)
    assert done.stdout == ""
    (run,) = (folder / "runs").iterdir()
    return run, done.stderr


def losses(run: Path) -> list[tuple[int, float]]:
    """Step and loss of every record that has one."""
    with (run / "metrics.csv").open() as file:
        return [
            (int(row["step"]), float(row["loss"])) for row in csv.DictReader(file) if row["loss"]
        ]


def test_wandb_keeps_a_training_in_its_run_folder_without_a_network(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    try:
        run, said = train(tmp_path, tiny_data, "wandb")
    finally:
        wandb.teardown()
    assert "warning" not in said
    name = (run / "wandb.id").read_text()
    (written,) = (run / "wandb").glob(f"offline-run-*/run-{name}.wandb")
    content = written.read_bytes()
    assert all(text in content for text in (run.name.encode(), b"fast_own_key_accuracy", b"queue"))


def test_mlflow_has_the_numbers_of_the_log_and_the_recipe(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    run, said = train(tmp_path, tiny_data, "mlflow")
    assert "warning" not in said
    client = mlflow.MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("vcsf").experiment_id])
    assert (found.info.run_name, found.info.status) == (run.name, "FINISHED")
    history = client.get_metric_history(found.info.run_id, "loss")
    assert [(point.step, round(point.value, 6)) for point in history] == losses(run)
    assert found.data.params["loss.queue"] == "4"
    assert "slow_check_R_1" in found.data.metrics

    # One that goes on later is the same training there.
    @dataclass
    class Continued:
        folder: Path
        name: str

    logger = MLflow()
    logger.vcsf_on_log(Continued(run, run.name), {"step": 99, "loss": 0.5})
    assert client.get_run(found.info.run_id).info.status == "RUNNING"
    assert client.get_metric_history(found.info.run_id, "loss")[-1].step == 99


def test_trackio_keeps_a_training_on_this_machine(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip("trackio", reason="trackio is not installed")
    run, said = train(tmp_path, tiny_data, "trackio")
    assert "warning" not in said
    with sqlite3.connect(tmp_path / "trackio" / "vcsf.db") as database:
        rows = database.execute("SELECT step FROM metrics WHERE run_name = ?", [run.name])
        assert {step for step, _ in losses(run)} <= {step for (step,) in rows}


def test_a_logger_that_fails_is_a_warning_and_stops_no_training(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'no' / 'folder' / 'a.db'}")
    (tmp_path / "no").touch()
    run, said = train(tmp_path, tiny_data, "mlflow")
    assert said.count("warning: plugin `mlflow`, `vcsf_on_log`, failed: ") == 1
    assert (run / "stage-1.pt").is_file()


def test_a_missing_package_or_an_unknown_logger_is_an_error_before_the_training(
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "trackio", None)
    command = ["pretrain", "smoke", "--data", str(tiny_data)]
    assert main([*command, "--log", "trackio"]) == 2
    said = capsys.readouterr().err
    assert "--log trackio needs trackio: " in said
    assert said.endswith("hint: pip install 'vcsf[trackio]'\n")
    assert main([*command, "--log", "wandbb"]) == 2
    assert "did you mean `wandb`?" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
