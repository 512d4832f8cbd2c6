"""Several processes train like one: batches divided, keys gathered, gradients averaged; and batches
in parts."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import called

from vcsf_cli.data.loader import ResumableBatchSampler
from vcsf_cli.storage import checkpoint
from vcsf_cli.train.timing import overlapped

RECIPE = """
extends: smoke
name: together
backbone: {channels: [4, 4, 8, 8]}
head: {hidden: 8, dim: 4}
loss: {queue: 4}
train: {batch: 4, epochs: 3, log_every: 1, check_every: 2, norm: frozen}
slow: {temporal_strides: [1, 1, 1, 1]}
auxiliary_losses: [{name: temporal_contrast, segments: 2, pathways: [slow]}]
stages:
  - {}
  - loss: {name: cross_pathway, queue: 4, neighbours: 2, drop_own: 0.0, positives: union}
    train: {pathways: [slow], epochs: 3}
  - loss: {name: cross_pathway_clusters, clusters: 3, cluster_every: 1, siblings: ignored}
    auxiliary_losses: []
    optim: {lr: 1e-4}  # less than rounding, which Adam magnifies where a gradient is near 0
    train: {epochs: 3}
"""
KILLS_ALL = """
import os, signal
from vcsf_cli import hookimpl

@hookimpl
def vcsf_on_log(run, record):
    if record["stage"] == 3 and record["step"] == 13:
        os.killpg(os.getpgrp(), signal.SIGKILL)
"""
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "together.yaml"
    path.write_text(RECIPE)
    return path


def arguments(recipe: Path, data: Path, runs: str, *more: str) -> list[str]:
    return ["pretrain", str(recipe), "--data", str(data), "--runs", runs, "--workers", "0", *more]


def two_processes(recipe: Path, data: Path, runs: str, *more: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "vcsf_cli",
        *arguments(recipe, data, runs, "--devices", "2", *more),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        command,
        cwd=recipe.parent,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def losses(folder: Path, runs: str) -> list[float]:
    (path,) = (folder / runs).glob("*/metrics.csv")
    with path.open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]


def weights(folder: Path, runs: str) -> dict[str, torch.Tensor]:
    (path,) = (folder / runs).glob("*/checkpoint.pt")
    saved = checkpoint.load(path)["task"]
    return {**saved["model"], **{f"queue {name}": value for name, value in saved["queue"].items()}}


def assert_close(folder: Path, ours: str, theirs: str) -> None:
    assert losses(folder, ours) == pytest.approx(losses(folder, theirs), rel=1e-4, abs=1e-5)
    ours_weights, theirs_weights = weights(folder, ours), weights(folder, theirs)
    for name, value in ours_weights.items():
        torch.testing.assert_close(value, theirs_weights[name], **TOLERANCE)


def test_two_processes_train_like_one_and_go_on_after_a_kill(recipe: Path, tiny_data: Path) -> None:
    """The batch of 4 is 2 in each process; batch norm is frozen. Both are killed in the stage
    with a bank and its clusters and go on."""
    folder = recipe.parent
    called(*arguments(recipe, tiny_data, "one", "--devices", "cpu"), cwd=folder)
    (folder / "vcsf_local.py").write_text(KILLS_ALL)
    process = two_processes(recipe, tiny_data, "two", "--save-every", "0")
    process.communicate(timeout=300)
    assert process.returncode == -9
    (folder / "vcsf_local.py").unlink()
    process = two_processes(recipe, tiny_data, "two")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "going on after step" in said
    assert said.count("finished: ") == 1
    assert_close(folder, "two", "one")


@pytest.mark.parametrize("queue", [4, 0])
def test_a_batch_in_parts_trains_like_a_whole_one(
    queue: int, recipe: Path, tiny_data: Path
) -> None:
    folder, words = recipe.parent, ("--devices", "cpu", "--set", f"loss.queue={queue}")
    called(*arguments(recipe, tiny_data, "whole", *words), cwd=folder)
    called(
        *arguments(recipe, tiny_data, "parts", *words, "--set", "train.accumulate=2"), cwd=folder
    )
    assert_close(folder, "parts", "whole")


def test_split_statistics_train_and_are_another_training(recipe: Path, tiny_data: Path) -> None:
    folder = recipe.parent
    words = ("--devices", "cpu", "--set", "train.norm={}", "--set", "train.parts=2")
    for norm in ("batch", "split"):
        called(
            *arguments(recipe, tiny_data, norm, *(word.format(norm) for word in words)), cwd=folder
        )
    assert losses(folder, "split")[1] != losses(folder, "batch")[1]
    assert all(value.isfinite().all() for value in weights(folder, "split").values())
    assert weights(folder, "split").keys() == weights(folder, "batch").keys()


def test_every_process_gets_its_own_clips_of_the_same_batches() -> None:
    import numpy as np

    rows = np.arange(17)
    whole = list(ResumableBatchSampler(rows, 6, 3, 0, 2))
    parts = [
        list(ResumableBatchSampler(rows, 6, 3, 0, 2, process=process, processes=3))
        for process in range(3)
    ]
    assert [
        [key for piece in pieces for key in piece] for pieces in zip(*parts, strict=True)
    ] == whole
    assert all(len(piece) == 2 for pieces in parts for piece in pieces)
    assert len(ResumableBatchSampler(rows, 6, 3, 0, 2, process=1, processes=3)) == len(whole)


def test_parts_of_less_than_two_clips_are_told(recipe: Path, tiny_data: Path) -> None:
    split = ("--set", "train.norm=split", "--set", "train.parts=3")
    done = called(
        *arguments(recipe, tiny_data, "runs", "--devices", "1", *split), cwd=recipe.parent, status=2
    )
    assert "a batch of 4 clips of a process is divided into 3 parts" in done.stderr
    accumulate = ("--set", "train.accumulate=4", "--set", "train.norm=batch")
    done = called(
        *arguments(recipe, tiny_data, "runs", "--devices", "1", *accumulate),
        cwd=recipe.parent,
        status=2,
    )
    assert "batch statistics need two clips or more in each" in done.stderr
    done = called(
        *arguments(recipe, tiny_data, "runs", *accumulate, "--dry-run"), cwd=recipe.parent, status=2
    )
    assert "batch statistics need two clips or more in each" in done.stderr
    done = called(
        *arguments(
            recipe,
            tiny_data,
            "runs",
            "--devices",
            "1",
            "--set",
            "train.accumulate=5",
            "--set",
            "train.norm=frozen",
        ),
        cwd=recipe.parent,
        status=2,
    )
    assert "some would have no clip" in done.stderr


def test_parts_that_are_not_equal_are_told(recipe: Path, tiny_data: Path) -> None:
    words = (
        "--devices",
        "1",
        "--set",
        "train.batch=8",
        "--set",
        "train.norm=split",
        "--set",
        "train.parts=3",
    )
    done = called(*arguments(recipe, tiny_data, "runs", *words), cwd=recipe.parent, status=2)
    assert "a batch of 8 clips of a process can't be divided into 3 equal parts" in done.stderr


def test_a_dry_run_estimates_the_time_of_several_processes(recipe: Path, tiny_data: Path) -> None:
    done = called(
        *arguments(recipe, tiny_data, "runs", "--devices", "2", "--dry-run"), cwd=recipe.parent
    )
    assert "stage 2: 8 clips an epoch, 3 epochs, " in done.stderr
    assert re.search(r"estimated time: \d+ (s|min)", done.stderr)


@pytest.mark.parametrize(
    ("num_workers", "processes", "seconds"), [(1, 1, 6.0), (4, 1, 2.0), (0, 1, 6.0), (4, 2, 1.0)]
)
def test_reading_and_computing_overlap_and_processes_share_the_clips(
    num_workers: int, processes: int, seconds: float
) -> None:
    assert overlapped(6.0, 2.0, num_workers, processes) == seconds


def test_synced_and_plain_batch_norm_in_one_training_are_refused(
    recipe: Path, tiny_data: Path
) -> None:
    stages = ("--set", "stages=[{train: {norm: synced}}, {train: {norm: batch}}]")
    done = called(
        *arguments(recipe, tiny_data, "runs", "--devices", "1", *stages),
        cwd=recipe.parent,
        status=2,
    )
    assert "`synced` in one stage and not in another" in done.stderr


def test_a_batch_that_can_not_be_divided_is_told(recipe: Path, tiny_data: Path) -> None:
    done = called(
        *arguments(recipe, tiny_data, "runs", "--devices", "3"), cwd=recipe.parent, status=2
    )
    assert "a batch of 4 clips can't be divided among 3 processes" in done.stderr


def test_a_number_of_slurms_does_not_silence_a_process_that_trains_alone(
    recipe: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`srun -n 4` also starts four trainings of their own: each must say what it does and save."""
    monkeypatch.setenv("SLURM_PROCID", "3")
    monkeypatch.setenv("LOCAL_RANK", "3")
    done = called(*arguments(recipe, tiny_data, "runs", "--devices", "cpu"), cwd=recipe.parent)
    assert "finished: " in done.stderr
    assert losses(recipe.parent, "runs")
    assert weights(recipe.parent, "runs")


def test_torchrun_starts_the_processes_as_well(recipe: Path, tiny_data: Path) -> None:
    words = arguments(recipe, tiny_data, "torchrun", "--devices", "2")
    launcher = [
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "vcsf_cli",
        *words,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", *launcher],
        cwd=recipe.parent,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("finished: ") == 1  # one process speaks for all
    called(*arguments(recipe, tiny_data, "one", "--devices", "cpu"), cwd=recipe.parent)
    assert_close(recipe.parent, "torchrun", "one")
