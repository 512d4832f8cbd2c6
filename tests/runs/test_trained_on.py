"""What a run was trained on: by name, by recording and by content, against hand-made cases."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import called

from vcsf_cli.data.manifest import Manifest
from vcsf_cli.runs.run import read_run
from vcsf_cli.runs.trained_on import compare, exposure, read, training_clips

TINY = (
    "--set",
    "name=tiny",
    "--set",
    "train.batch=4",
    "--set",
    "loss.queue=4",
    "--set",
    "backbone.channels=[4,4,8,8]",
)


def manifest(name: str, clips: dict[str, tuple[str, str, str]]) -> Manifest:
    """A dataset of clips by name: recording, content, part in split 1. Content may be two digests,
    of the stored frames and of the video's file."""
    rows = []
    for video, (source, content, part) in clips.items():
        frames, _, original = content.partition(" from ")
        row = {"video": video, "source": source, "sha256": frames, "original": original}
        rows.append(row | {"split1": part})
    return Manifest(Path(name), pd.DataFrame(rows), {})


TRAINED = manifest(
    "d",
    {
        "a1": ("a", "A1", "train"),
        "b1": ("b", "B1 from file", "train"),
        "t": ("t", "T from test file", "test"),
    },
)


@pytest.mark.parametrize(
    ("name", "clips", "seen"),
    [
        ("d", {"t": ("t", "T", "test"), "new": ("n", "N", "test"), "a1": ("a", "A1", "train")}, []),
        ("d", {"a1": ("a", "A1", "test"), "t": ("t", "T", "test")}, ["a1"]),
        ("d", {"a1": ("a", "made larger", "test")}, ["a1"]),
        ("d", {"a2": ("a", "A2", "test"), "t": ("t", "T", "test")}, ["a2"]),
        ("d", {"renamed": ("r", "A1", "test")}, ["renamed"]),
        ("other", {"a1": ("a", "something else", "test"), "a2": ("a", "A2", "test")}, []),
        (
            "other",
            {"x": ("r", "A1", "test"), "y": ("r", "Y", "test"), "z": ("z", "Z", "test")},
            ["x", "y"],
        ),
        (
            "other",
            {"x": ("r", "B1 made larger from file", "test"), "y": ("r", "Y from y", "test")},
            ["x", "y"],
        ),
        ("other", {"x": ("r", "X from test file", "test"), "y": ("s", "Y", "test")}, []),
        ("d", {"a2": ("a", "A2", "test"), "a3": ("a", "A3", "train")}, []),
        ("d", {"twin": ("w", "A1", "test"), "a1": ("a", "A1", "train")}, []),
    ],
    ids=[
        "added",
        "moved",
        "moved and prepared otherwise",
        "of a recording",
        "renamed",
        "another dataset with such names",
        "another name",
        "another name and prepared otherwise",
        "test clips prepared otherwise",
        "a recording in both parts",
        "a twin in both parts",
    ],
)
def test_test_clips_that_were_seen(
    name: str, clips: dict[str, tuple[str, str, str]], seen: list[str]
) -> None:
    measured = manifest(name, clips)
    test = measured.part(1, "test")
    found = exposure("run", training_clips(TRAINED, 1), "d", False, measured, 1, test)
    assert found.seen is not None
    assert measured.table["video"][found.seen].tolist() == seen
    assert found.training_data == ("changed" if name == "d" else "other")
    assert found.columns["seen"] == len(seen)


def test_without_any_part_all_clips_are_training_clips() -> None:
    whole = manifest("d", {"a": ("a", "A", ""), "b": ("b", "B", "")})
    assert training_clips(whole, 1)["video"].tolist() == ["a", "b"]


def pretrain(data: Path, folder: Path, *more: object) -> Path:
    """The folder of a tiny run."""
    called("pretrain", "smoke", *TINY, "--data", data, "--workers", 0, *more, cwd=folder)
    return max((folder / "runs").iterdir(), key=lambda path: path.stat().st_mtime_ns)


def test_what_a_call_that_was_killed_before_its_run_began_has_left_is_written_anew(
    tiny_data: Path, tmp_path: Path
) -> None:
    run = pretrain(tiny_data, tmp_path)
    kept = (run / "trained_on.parquet").read_bytes()
    begun = tmp_path / "runs-of-a-killed-call" / run.name
    begun.mkdir(parents=True)
    (begun / "trained_on.parquet").write_bytes(b"of data that were there then")
    called(
        "pretrain",
        "smoke",
        *TINY,
        "--data",
        tiny_data,
        "--workers",
        0,
        "--runs",
        begun.parent,
        cwd=tmp_path,
    )
    assert (begun / "trained_on.parquet").read_bytes() == kept


def test_a_run_remembers_its_training_clips_and_those_of_the_run_that_it_started_from(
    tiny_data: Path, tmp_path: Path
) -> None:
    synthetic = Manifest.open(tiny_data / "synthetic")
    first = pretrain(tiny_data, tmp_path)
    kept = read(first)
    assert kept is not None
    clips = synthetic.table.iloc[synthetic.part(1, "train")]
    for column in ("video", "source"):
        assert kept[column].tolist() == clips[column].tolist()
    assert set(kept["dataset"]) == {"synthetic"}
    (
        first / "trained_on.parquet"
    ).unlink()  # as an older vcsf has left it, which this one goes on with
    called("pretrain", "smoke", *TINY, "--data", tiny_data, "--workers", 0, cwd=tmp_path)
    again = read(first)
    assert again is not None
    assert again.equals(kept)

    second = pretrain(
        tiny_data, tmp_path, "--set", "data.split=2", "--init", first / "checkpoint.pt"
    )
    third = pretrain(
        tiny_data,
        tmp_path,
        "--set",
        "data.split=2",
        "--set",
        "seed=1",
        "--init",
        second / "stage-1.pt",
    )
    for run in (second, third):
        found = compare(read_run(run), synthetic, 3, synthetic.part(3, "test"))
        assert found.seen is not None
        assert len(found.seen) == 4  # of each split another third is test
        assert not found.unknown
        tested = compare(read_run(run), synthetic, 2, synthetic.part(2, "test"))
        assert tested.seen is not None
        assert len(tested.seen) == 4  # which the first run has seen
    status = json.loads((third / "status.json").read_text())
    assert status["training_clips_unknown"] == []

    shutil.copytree(first, tmp_path / "older")
    (tmp_path / "older" / "trained_on.parquet").unlink()
    fourth = pretrain(
        tiny_data, tmp_path, "--set", "seed=2", "--init", tmp_path / "older" / "checkpoint.pt"
    )
    found = compare(read_run(fourth), synthetic, 1, synthetic.part(1, "test"))
    assert found.unknown == ("checkpoint.pt",)
    assert any("whose training clips are not known" in remark for remark in found.remarks)
    assert np.array_equal(found.test, synthetic.part(1, "test"))
