"""Commands as jobs: submitit's local executor stands in for Slurm."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
from conftest import Vcsf, called
from trained import TINY, copy_run, sets

from vcsf_cli.engine.slurm import _minutes
from vcsf_cli.errors import InputError

SETTINGS = (*TINY, *sets("train.norm=frozen", "train.log_every=1", "train.epochs=3"))
WARNS = """
import os, signal
from pathlib import Path
from vcsf_cli import hookimpl

@hookimpl
def vcsf_on_log(run, record):
    if record["step"] == 2 and not Path("warned").exists():
        Path("warned").touch()
        os.kill(os.getpid(), signal.SIGUSR2)
"""
SBATCH = """#!/bin/sh
cp "$1" submitted.sh
echo "Submitted batch job 7"
"""


def losses(folder: Path) -> list[float]:
    (path,) = folder.glob("*/metrics.csv")
    with path.open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]


def test_a_job_that_is_warned_saves_and_goes_on(
    tiny_data: Path, tmp_path: Path, vcsf: Vcsf
) -> None:
    """Two processes; the first one gets the signal that comes before the time limit."""
    words = ("pretrain", "smoke", *SETTINGS, "--data", tiny_data, "--workers", 0)
    called(*words, "--runs", "one", "--devices", "cpu", cwd=tmp_path)
    (tmp_path / "vcsf_local.py").write_text(WARNS)
    # The job holds this command's output, so that it is waited for.
    launch = ("--devices", 2, "--launch", "local", "--slurm", "time=30")
    vcsf(*words, "--runs", "two", *launch, cwd=tmp_path)
    (log,) = (tmp_path / "two").glob("*/jobs/*_0_log.err")
    said = log.read_text()
    assert said.count("interrupted; the same command goes on: vcsf pretrain smoke") == 1
    assert said.count("going on after step 2 ") == 1
    assert said.count("finished: ") == 1
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)

    done = called(*words, "--runs", "two", *launch, cwd=tmp_path)
    assert "is finished" in done.stderr


def test_fine_tuning_as_a_job_goes_on_to_the_same_weights(
    tiny_data: Path, tiny_run: Path, tmp_path: Path, vcsf: Vcsf
) -> None:
    words = ("finetune", "synthetic", "--protocol", "cpu", "--data", tiny_data, "--workers", 0)
    words += sets("train.epochs=3", "train.batch=4", "train.log_every=1", "optim.warmup=0")
    for folder in ("plain", "job"):
        copy_run(tiny_run, tmp_path / folder)
    called(*words, "--devices", "cpu", cwd=tmp_path / "plain")
    (tmp_path / "job" / "vcsf_local.py").write_text(WARNS)
    vcsf(*words, "--devices", "cpu", "--launch", "local", cwd=tmp_path / "job")
    (log,) = (tmp_path / "job").glob("runs/*/finetune/*/jobs/*_0_log.err")
    said = log.read_text()
    assert said.count("interrupted; the same command goes on: vcsf finetune synthetic") == 1
    assert said.count("going on after step 2 ") == 1
    # The job names its run, as another may have become the newest.
    assert f"--from {tiny_run.name}" in said
    assert "newest" not in said
    ours, theirs = (
        next((tmp_path / folder).glob("runs/*/finetune/*/answers.csv")).read_bytes()
        for folder in ("job", "plain")
    )
    assert ours == theirs


def test_slurm_gets_what_the_command_needs(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sbatch", "srun"):
        (tmp_path / name).write_text(SBATCH)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    words = ["pretrain", "smoke", *SETTINGS, "--data", tiny_data, "--devices", "2", "--nodes", "2"]
    words += ["--slurm=time=1-2", "--slurm", "partition=gpu", "--launch", "slurm"]
    monkeypatch.setattr(sys, "argv", ["vcsf", *map(str, words)])
    said = called(*words, cwd=tmp_path).stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert f"job 7 is submitted; its log: {run / 'jobs' / '7_0_log.err'}" in said
    script = (tmp_path / "submitted.sh").read_text()
    for option in ("nodes=2", "ntasks-per-node=2", "gpus-per-node=2", "time=1-2", "partition=gpu"):
        assert f"#SBATCH --{option}\n" in script
    assert f"#SBATCH --job-name={run.name}\n" in script


@pytest.mark.parametrize(
    ("launch", "error"),
    [
        ("--launch slurm", "needs Slurm's sbatch and srun"),
        ("--launch local --slurm time=soon", "time=soon is not a time"),
        ("--launch local --slurm requeue=always", "requeue=always is not a number"),
        ("--launch local --slurm nodes=2", "follows from the command"),
        ("--launch local --slurm time", "`time` is not KEY=VALUE"),
        ("--slurm time=30", "it does nothing without --launch"),
        ("--launch local --set train.batch=3 --devices 2", "can't be divided among 2 processes"),
    ],
)
def test_what_can_not_be_submitted_is_refused(
    launch: str, error: str, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    words = ("pretrain", "smoke", *SETTINGS, "--data", tiny_data, *launch.split())
    assert error in called(*words, cwd=tmp_path, status=2).stderr


def test_without_submitit_the_error_says_how_to_install_it(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    words = ("pretrain", "smoke", *SETTINGS, "--data", tiny_data, "--launch", "local")
    assert "pip install 'vcsf[slurm]'" in called(*words, cwd=tmp_path, status=2).stderr


def test_times_are_read_as_slurm_reads_them() -> None:
    times = {"90": 90, "90:30": 90, "2:30:00": 150, "1-12": 2160, "1-12:30": 2190, "0:10": 1}
    assert {text: _minutes(text) for text in times} == times
    with pytest.raises(InputError, match="is not a time"):
        _minutes("1d")
