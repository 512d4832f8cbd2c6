"""What is read back of measurements: names stay text, any k of the ranks that are there, and files
that agree."""

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vcsf_cli.config import protocol as protocols
from vcsf_cli.config import recipe as recipes
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.encoders.run import RunSource
from vcsf_cli.errors import RunError
from vcsf_cli.evaluate.classification import Classification
from vcsf_cli.evaluate.retrieval import Retrieval
from vcsf_cli.runs.run import Run
from vcsf_cli.storage import files

ROW = {
    "run": "r",
    "variant": "trained",
    "seed": 0,
    "dataset": "0101",
    "split": 1,
    "pathway": "both",
    "left_out": 0,
}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "run", recipes.load("smoke"))
    run.folder.mkdir()
    (run.folder / "status.json").write_text('{"finished": true, "dataset": "0101"}')
    run.checkpoint.write_bytes(b"weights")
    return run


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Of clips whose names look like numbers, of classes whose names look like nothing."""
    table = pd.DataFrame(
        {
            "video": ["0001", "0002", "0003"],
            "label": ["None", "None", "NA"],
            "source": ["a", "b", "c"],
        }
    )
    places = dict.fromkeys(("shard", "offset", "frame_offsets", "frame_crc32", "frame_times"), 0)
    return Manifest(tmp_path / "0101", table.assign(**places, original=""), {})


def found_neighbours(run: Run, manifest: Manifest, ks: dict[int, float]) -> Path:
    """Two queries and their three nearest: of one the second, of the other the third is right."""
    folder = run.folder / "retrieve" / "0101-split1"
    folder.mkdir(parents=True)
    key = json.dumps({"checkpoint": files.sha256(run.checkpoint), "data": manifest.hash})
    pq.write_table(
        pa.table({"x": [1]}).replace_schema_metadata({"vcsf": key}), folder / "features.parquet"
    )
    lines = [
        ("0001", 1, 0),
        ("0001", 2, 1),
        ("0001", 3, 0),
        ("0003", 1, 0),
        ("0003", 2, 0),
        ("0003", 3, 1),
    ]
    near = pd.DataFrame(lines, columns=["query", "rank", "hit"]).assign(
        pathway="both", neighbour="0002", similarity=0.5
    )
    near.to_csv(folder / "neighbours.csv", index=False)
    rows = [
        ROW | {"task": "retrieval", "metric": f"R@{k}", "value": value, "clips": 2}
        for k, value in ks.items()
    ]
    pd.DataFrame(rows).to_csv(folder / "results.csv", index=False)
    return folder


def test_any_k_up_to_the_ranks_that_were_found(run: Run, manifest: Manifest) -> None:
    found_neighbours(run, manifest, {1: 0.0, 3: 1.0})
    found = Retrieval(RunSource(run), manifest, 1, [1, 2]).read()
    assert found is not None
    assert found.rows[["dataset", "metric", "value"]].to_numpy().tolist() == [
        ["0101", "R@1", 0.0],
        ["0101", "R@2", 0.5],
    ]
    assert found.clips["both", "R@2"].to_dict() == {"0001": 1.0, "0003": 0.0}
    assert Retrieval(RunSource(run), manifest, 1, [1, 5]).read() is None


@pytest.mark.parametrize("change", ["results", "checkpoint", "gone", "neighbours"])
def test_neighbours_of_something_else_are_none(run: Run, manifest: Manifest, change: str) -> None:
    folder = found_neighbours(run, manifest, {1: 0.5 if change == "results" else 0.0, 3: 1.0})
    if change == "checkpoint":
        run.checkpoint.write_bytes(b"others")
    elif change == "gone":
        run.checkpoint.unlink()
    elif change == "neighbours":
        (folder / "neighbours.csv").write_text("query,pathway\n")
    assert Retrieval(RunSource(run), manifest, 1, [2]).read() is None


def answered(run: Run, manifest: Manifest, top1: float) -> Classification:
    """A finished measurement: of three clips the first and the last are right."""
    job = Classification(RunSource(run), manifest, 1, protocols.load("linear"), 0)
    job.folder.mkdir(parents=True)
    (job.folder / "status.json").write_text('{"finished": true}')
    answers = {
        "video": ["0001", "0002", "0003"],
        "label": ["None", "None", "NA"],
        "answer": ["None", "NA", "NA"],
    }
    pd.DataFrame(answers).assign(pathway="both").to_csv(job.folder / "answers.csv", index=False)
    row = ROW | {"task": "linear", "metric": "top1", "value": top1, "clips": 3}
    pd.DataFrame([row]).to_csv(job.folder / "results.csv", index=False)
    return job


def test_classes_and_clips_keep_their_names(run: Run, manifest: Manifest) -> None:
    found = answered(run, manifest, 2 / 3).read()
    assert found is not None
    assert found.clips["both", "top1"].to_dict() == {"0001": 1.0, "0002": 0.0, "0003": 1.0}


def test_answers_that_are_not_those_of_the_results_are_an_error(
    run: Run, manifest: Manifest
) -> None:
    job = answered(run, manifest, 0.5)
    with pytest.raises(RunError, match="don't agree"):
        job.read()
    (job.folder / "answers.csv").unlink()
    with pytest.raises(RunError, match="don't agree"):
        job.read()
