"""Files that an earlier vcsf made are measured, continued, exported and loaded: see
`fixtures/old_files/README.md`.

Machines and versions of torch round differently, so that weights and features are compared within
tolerances. They are far above rounding, and far below what another clip, learning rate or draw in
one of the steps would make. Files and columns may have come to those there were."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from conftest import called
from safetensors.numpy import load_file

from vcsf_cli import load_encoder
from vcsf_cli.storage import checkpoint

OLD = Path(__file__).parent / "fixtures" / "old_files"
NAME = "old-50d4672a12e1"
RUN = Path("runs") / NAME
RETRIEVAL = RUN / "retrieve" / "tiny-split1"
LINEAR = ("--linear", "--set", "train.epochs=10", "--set", "optim.drops=[6, 8]")
TIMINGS = ["clips_per_second", "data_wait"]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(OLD / "files.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    shutil.copy(OLD / "old.yaml", folder)
    return folder


@pytest.fixture
def old(unpacked: Path, tmp_path: Path) -> Path:
    """A folder of one's own with the old files."""
    shutil.copytree(unpacked, tmp_path / "old")
    return tmp_path / "old"


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All values of a checkpoint by their path in it."""
    if isinstance(node, dict | list | tuple):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, f"{path}/{key}")
    else:
        yield path, node


def assert_near(path: Path, wanted: Path, kind: str = checkpoint.KIND) -> None:
    """Two checkpoints have the same keys, shapes and counts, and the same weights up to
    rounding."""
    ours, theirs = (dict(leaves(checkpoint.load(file, kind))) for file in (path, wanted))
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(
                ours[key], value, rtol=1e-3, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}"
            )
        else:
            assert ours[key] == (
                pytest.approx(value, rel=1e-3) if isinstance(value, float) else value
            ), key


def test_a_finished_run_is_finished(old: Path) -> None:
    before = content(old / "runs")
    done = called("pretrain", "old.yaml", "--workers", 0, cwd=old)
    assert f"run {NAME} is finished" in done.stderr
    after = content(old / "runs")
    assert {path for path in before if after.get(path) != before[path]} == set()


@pytest.mark.parametrize("recipe", ["old.yaml", f"stopped/{NAME}/recipe.yaml"])
def test_a_stopped_run_goes_on_to_the_weights_of_the_one_that_was_not(
    recipe: str, old: Path
) -> None:
    done = called("pretrain", recipe, "--workers", 0, "--runs", "stopped", cwd=old)
    assert "going on after step 10" in done.stderr
    stopped, whole = old / "stopped" / NAME, old / RUN
    assert_near(stopped / "checkpoint.pt", whole / "checkpoint.pt")
    assert_near(stopped / "stage-2.pt", whole / "stage-2.pt", checkpoint.STAGE)
    logs = [pd.read_csv(run / "metrics.csv").drop(columns=TIMINGS) for run in (stopped, whole)]
    pd.testing.assert_frame_equal(*logs, rtol=1e-3, atol=1e-3)
    noted = [json.loads((run / "stages.json").read_text()) for run in (stopped, whole)]
    assert [entry["prefix"] for entry in noted[0]] == [entry["prefix"] for entry in noted[1]]


def test_its_first_stage_is_taken_over_by_a_run_that_begins_like_it(old: Path) -> None:
    done = called(
        "pretrain", "old.yaml", "--set", "stages.1.train.epochs=1", "--workers", 0, cwd=old
    )
    assert f"stage 1 is the same as those of run {NAME}: its weights are taken" in done.stderr
    (new,) = (path for path in (old / "runs").iterdir() if path.name != NAME)
    assert [entry["trained_by"] for entry in json.loads((new / "stages.json").read_text())] == [
        NAME,
        new.name,
    ]


@pytest.mark.parametrize("features", ["kept", "gone"])
def test_retrieval_gives_the_same_rows(features: str, old: Path) -> None:
    rows, neighbours = (
        pd.read_csv(old / RETRIEVAL / f"{name}.csv") for name in ("results", "neighbours")
    )
    wanted = pq.read_table(old / RETRIEVAL / "features.parquet")
    if features == "gone":
        shutil.rmtree(old / RETRIEVAL)
    called("retrieve", "--from", NAME, "--k", "1,2", "--workers", 0, "--no-html", cwd=old)
    pd.testing.assert_frame_equal(pd.read_csv(old / RETRIEVAL / "results.csv")[list(rows)], rows)
    pd.testing.assert_frame_equal(
        pd.read_csv(old / RETRIEVAL / "neighbours.csv")[list(neighbours)], neighbours, rtol=1e-3
    )
    found = pq.read_table(old / RETRIEVAL / "features.parquet")
    assert found.schema.metadata.keys() >= wanted.schema.metadata.keys()
    kept = [name for name in wanted.column_names if name not in ("slow", "fast")]
    assert found.select(kept).equals(wanted.select(kept))
    for pathway in ("slow", "fast"):
        np.testing.assert_allclose(
            np.stack(found[pathway].to_numpy()),
            np.stack(wanted[pathway].to_numpy()),
            rtol=1e-3,
            atol=1e-5,
        )


@pytest.mark.parametrize(("task", "options"), [("knn", ("--knn",)), ("linear-0d423e", LINEAR)])
def test_classification_gives_the_same_rows(task: str, options: tuple[str, ...], old: Path) -> None:
    path = old / RUN / "results.csv"
    wanted = pd.read_csv(path).query("task == @task").reset_index(drop=True)
    assert len(wanted) == 12
    path.unlink()
    called("finetune", "tiny", "--from", NAME, *options, "--workers", 0, cwd=old)
    pd.testing.assert_frame_equal(pd.read_csv(path)[list(wanted)], wanted)


@pytest.mark.parametrize("index", ["kept", "gone"])
def test_a_search_finds_the_same(index: str, old: Path) -> None:
    wanted, before = pd.read_csv(old / "answers.csv"), content(old / RUN / "index")
    if index == "gone":
        shutil.rmtree(old / RUN / "index")
    words = ("--query", "query.avi", "--gallery", "tiny", "--k", 3, "--csv", "answers.csv")
    done = called("retrieve", "--from", NAME, *words, "--workers", 0, cwd=old)
    pd.testing.assert_frame_equal(pd.read_csv(old / "answers.csv"), wanted, rtol=1e-3)
    if index == "kept":
        assert content(old / RUN / "index") == before
        assert "index of tiny" not in done.stderr


def test_an_old_export_is_loaded_and_a_new_one_is_the_same(old: Path) -> None:
    called("export", "--from", NAME, "--out", "new", cwd=old)
    ours, theirs = (
        load_file(old / "new" / "model.safetensors"),
        load_file(old / "exports" / NAME / "model.safetensors"),
    )
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key], value)
    new, before = (
        json.loads((folder / "config.json").read_text())
        for folder in (old / "new", old / "exports" / NAME)
    )
    measured = {"vcsf", "compared"}  # by whom, and how far off rounding put it there
    before["video"] = new["video"] | before["video"]  # settings that were added since
    assert {key for key, value in before.items() if new.get(key) != value} <= measured
    with np.load(old / "encoded.npz") as wanted:
        for folder in (old / "exports" / NAME, old / "new"):
            found = load_encoder(folder).encode(old / "query.avi")
            assert found.keys() == set(wanted)
            for pathway in wanted:
                np.testing.assert_allclose(found[pathway], wanted[pathway], rtol=1e-3, atol=1e-5)
