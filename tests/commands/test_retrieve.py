"""`vcsf retrieve` as a user types it: the numbers, the files behind them, and what it says when it
can't."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import simplejpeg
import torch
from conftest import TINY, called
from trained import SETTINGS, copy_run, pretrain, sets
from videos import write_video

from vcsf_cli.config.recipe import load
from vcsf_cli.data import augment, manifest
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.data.store import FrameStore
from vcsf_cli.model.parts import build_sampler
from vcsf_cli.model.pathways import TwoPathways, build
from vcsf_cli.storage import checkpoint

COLUMNS = [
    "run",
    "variant",
    "seed",
    "dataset",
    "split",
    "task",
    "pathway",
    "metric",
    "value",
    "clips",
    "left_out",
]
COLUMNS += ["training_data", "seen", "duplicates"]
RESULTS = ("results.csv", "neighbours.csv", "features.parquet")


@pytest.fixture(scope="module")
def trained(tiny_run: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, measured with its baselines."""
    folder = tmp_path_factory.mktemp("trained")
    run = copy_run(tiny_run, folder)
    done = called(
        "retrieve", "--k", "1,5,3", "--baselines", "--data", tiny_data, "--workers", 0, cwd=folder
    )
    (folder / "printed.txt").write_text(done.stdout)
    (folder / "said.txt").write_text(done.stderr)
    return run


@pytest.fixture
def measured(trained: Path) -> Path:
    return trained / "retrieve" / "synthetic-split1"


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """A folder of one's own to work in, with a copy of the run that was not measured yet."""
    shutil.copytree(
        trained, tmp_path / "runs" / trained.name, ignore=shutil.ignore_patterns("retrieve")
    )
    return tmp_path


def test_results_are_tidy_and_in_the_table(trained: Path, measured: Path) -> None:
    rows = pd.read_csv(measured / "results.csv")
    assert rows.columns.tolist() == COLUMNS
    assert set(rows["run"]) == {trained.name}
    assert set(rows["task"]) == {"retrieval"}
    assert set(rows["clips"]) == {4}
    found = {(row.variant, row.pathway, row.metric) for row in rows.itertuples()}
    pathways = [("trained", p) for p in ("slow", "fast", "both")] + [
        ("untrained", p) for p in ("slow", "fast", "both")
    ]
    assert found == {
        (*p, f"R@{k}") for p in [*pathways, ("colour_histogram", "none")] for k in (1, 3, 5)
    }
    assert rows["value"].between(0, 1).all()
    printed = (trained.parent.parent / "printed.txt").read_text()
    for variant, pathway in [*pathways, ("colour_histogram", "none")]:
        values = rows[(rows["variant"] == variant) & (rows["pathway"] == pathway)].sort_values(
            "metric"
        )["value"]
        line = next(line for line in printed.splitlines() if variant in line and pathway in line)
        assert [cell.strip() for cell in line.split("│")[3:6]] == [
            f"{100 * value:.1f}" for value in values
        ]
    assert "R@1 of trained both less untrained both: " in printed
    assert "95 % interval" in printed


def test_numbers_and_neighbours_follow_from_the_features(measured: Path) -> None:
    """From `features.parquet` to R@k and neighbours again, as the protocol reads, one query at a
    time."""
    table = pq.read_table(measured / "features.parquet").to_pandas()
    assert set(table["part"]) == {"train", "test"}
    rows = pd.read_csv(measured / "results.csv")
    listed = pd.read_csv(measured / "neighbours.csv")
    assert listed.columns.tolist() == ["query", "pathway", "rank", "neighbour", "similarity", "hit"]
    similarity = {}
    test, train = table[table["part"] == "test"], table[table["part"] == "train"]
    for pathway in ("slow", "fast"):
        query, gallery = np.stack(test[pathway].to_list()), np.stack(train[pathway].to_list())
        assert query.dtype == np.float32
        query, gallery = query - query.mean(0), gallery - gallery.mean(0)
        query /= np.linalg.norm(query, axis=1, keepdims=True)
        gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
        similarity[pathway] = query @ gallery.T
    similarity["both"] = (similarity["slow"] + similarity["fast"]) / 2
    for pathway, values in similarity.items():
        hits = np.zeros((len(test), 5))
        for number, (name, label) in enumerate(zip(test["video"], test["label"], strict=True)):
            nearest = np.argsort(-values[number])[:5]
            hits[number] = train["label"].to_numpy()[nearest] == label
            ours = listed[(listed["query"] == name) & (listed["pathway"] == pathway)]
            assert ours["rank"].tolist() == [1, 2, 3, 4, 5]
            assert ours["similarity"].to_numpy() == pytest.approx(values[number][nearest], abs=1e-4)
            assert ours["hit"].tolist() == hits[number].tolist()
        for k in (1, 3, 5):
            (value,) = rows[
                (rows["variant"] == "trained")
                & (rows["pathway"] == pathway)
                & (rows["metric"] == f"R@{k}")
            ]["value"]
            assert value == pytest.approx(hits[:, :k].any(1).mean())


def feature_by_hand(model: TwoPathways, folder: Path, row: int, pathway: str) -> np.ndarray:
    """The mean feature of a video's windows, one window at a time from the stored frames."""
    data = Manifest.open(folder)
    stage = load("smoke").first_stage
    frames = int(data.table["frames"][row])
    store = FrameStore(data)
    images = [simplejpeg.decode_jpeg(jpeg) for jpeg in store.jpegs(row, range(frames))]
    crop = augment.centre_square(*images[0].shape[:2], stage.augment.border)
    found = []
    for view in build_sampler(stage).cover(frames):
        window = np.stack(
            [augment.apply_crop(images[frame], crop, stage.data.size) for frame in view.window]
        )
        clip = augment.to_input(torch.from_numpy(window)[None])
        with torch.no_grad():
            features = model.features(
                clip, {pathway: torch.from_numpy(view.positions(pathway))[None]}
            )
        found.append(features[pathway][0].numpy())
    return np.mean(found, axis=0)


@pytest.mark.parametrize("pathway", ["slow", "fast"])
@pytest.mark.parametrize("variant", ["trained", "untrained"])
def test_a_feature_is_the_mean_over_windows_of_the_whole_video(
    trained: Path, measured: Path, tiny_data: Path, variant: str, pathway: str
) -> None:
    model = build(load(str(trained / "recipe.yaml"))).eval()
    folder = measured / "untrained"
    if variant == "trained":
        model.load_state_dict(checkpoint.load(trained / "checkpoint.pt")["task"]["model"])
        folder = measured
    table = pq.read_table(folder / "features.parquet").to_pandas()
    for row in (0, 7):
        expected = feature_by_hand(model, tiny_data / "synthetic", row, pathway)
        np.testing.assert_allclose(table[pathway][row], expected, rtol=1e-4, atol=1e-5)


def test_measured_again_it_is_the_same_to_the_last_byte(
    measured: Path, copy: Path, tiny_data: Path
) -> None:
    for _ in range(2):
        called(
            "retrieve", "--k", "1,3,5", "--baselines", "--data", tiny_data, "--workers", 1, cwd=copy
        )
        (again,) = copy.glob("runs/*/retrieve/synthetic-split1")
        for name in RESULTS:
            assert (again / name).read_bytes() == (measured / name).read_bytes()


def test_measuring_again_replaces_the_rows_and_keeps_other_variants(
    copy: Path, tiny_data: Path
) -> None:
    """But not those of other data, be they as many clips."""
    shutil.copytree(tiny_data, copy / "data")
    words = ("retrieve", "--data", "data", "--workers", 0)
    for ks, more in (("1,5", ["--untrained"]), ("2", [])):
        called(*words, "--k", ks, *more, cwd=copy)
    rows = pd.read_csv(next(copy.glob("runs/*/retrieve/*/results.csv")))
    metrics = rows.groupby("variant")["metric"].unique()
    assert metrics["trained"].tolist() == ["R@2"]
    assert sorted(metrics["untrained"]) == ["R@1", "R@5"]
    change(copy / "data" / "synthetic", lambda row: row | {"label": f"not {row['label']}"})
    called(*words, cwd=copy)
    rows = pd.read_csv(next(copy.glob("runs/*/retrieve/*/results.csv")))
    assert set(rows["variant"]) == {"trained"}


def change(folder: Path, changed: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Write a prepared dataset's manifest anew with its rows changed."""
    rows = Manifest.open(folder).table.to_dict("records")
    manifest.write(
        folder, [changed(row | {"frame_offsets": list(row["frame_offsets"])}) for row in rows]
    )


def test_the_report_holds_what_was_measured_now_alone(copy: Path, tiny_data: Path) -> None:
    """Neither variants measured with other k, nor those of more test clips than there are now,
    stand beside new numbers."""
    shutil.copytree(tiny_data, copy / "data")
    called("retrieve", "--k", "1,5", "--baselines", "--data", "data", "--workers", 0, cwd=copy)
    called("retrieve", "--k", "1,3", "--data", "data", "--workers", 0, cwd=copy)
    (folder,) = copy.glob("runs/*/retrieve/*")
    report = (folder / "report.md").read_text()
    assert "nan" not in report
    assert "untrained" not in report.partition("## Protocol")[0]
    names = Manifest.open(copy / "data" / "synthetic").table["video"][
        lambda videos: videos.str.endswith("c02.avi")
    ]
    change(
        copy / "data" / "synthetic",
        lambda row: row | ({"split1": ""} if row["video"] in set(names) else {}),
    )
    called("retrieve", "--k", "1,3", "--data", "data", "--workers", 0, cwd=copy)
    rows = pd.read_csv(folder / "results.csv")
    assert set(rows["clips"]) == {2}
    assert set(rows["variant"]) == {"trained"}


def test_a_small_gallery_and_a_class_of_its_own_are_told(copy: Path, tiny_data: Path) -> None:
    shutil.copytree(tiny_data, copy / "data")
    change(
        copy / "data" / "synthetic",
        lambda row: (
            row | ({"label": "New"} if row["split1"] == "test" and row["label"] == "Run" else {})
        ),
    )
    done = called("retrieve", "--k", "1,50", "--data", "data", "--workers", 0, cwd=copy)
    assert "there are only 8 training clips: R@50 is R@8" in done.stderr
    assert "2 test clips are of a class that no training clip has" in done.stderr


def test_a_folder_of_the_same_name_does_not_hide_a_run(
    copy: Path, tiny_data: Path, trained: Path
) -> None:
    (copy / "tiny").mkdir()
    called("retrieve", "--from", "tiny", "--data", tiny_data, "--workers", 0, cwd=copy)
    assert list(copy.glob("runs/*/retrieve/*/results.csv"))


def test_features_are_computed_anew_after_more_training(
    trained: Path, measured: Path, copy: Path, tiny_data: Path
) -> None:
    shutil.copytree(measured, next(copy.glob("runs/*")) / "retrieve" / measured.name)
    path = next(copy.glob("runs/*/checkpoint.pt"))
    saved = checkpoint.load(path)
    for weight in saved["task"]["model"].values():
        if weight.is_floating_point():
            weight += 0.1 * torch.rand(weight.shape, generator=torch.Generator().manual_seed(0))
    checkpoint.save(
        path, {key: value for key, value in saved.items() if key not in ("kind", "version")}
    )
    called("retrieve", "--data", tiny_data, "--workers", 0, cwd=copy)
    before, after = (
        pq.read_table(folder / "features.parquet")["slow"]
        for folder in (measured, next(copy.glob("runs/*/retrieve/*")))
    )
    assert before != after


def test_the_report_says_what_was_measured_and_how(trained: Path, measured: Path) -> None:
    said = (trained.parent.parent / "said.txt").read_text()
    assert f"using the newest finished run: {trained.name}" in said
    assert "4 test clips query 8 training clips; left out: none" in said
    assert (
        said.splitlines()[-1]
        == f"report: {Path('runs') / trained.name / 'retrieve' / 'synthetic-split1' / 'report.md'}"
    )
    report = (measured / "report.md").read_text()
    for part in (
        trained.name,
        "| trained | both |",
        "colour_histogram",
        "seed 0",
        "not comparable",
        '"torch"',
        "backbone:",
    ):
        assert part in report


def test_another_dataset_and_the_newest_run(trained: Path, copy: Path, tiny_data: Path) -> None:
    """A run is measured on clips that it was not trained on; a second run begun later is the one
    that is taken."""
    shutil.copytree(tiny_data / "synthetic", copy / "data" / "other")
    second = pretrain(tiny_data, copy, *sets("seed=1"))
    done = called("retrieve", "other", "--data", "data", "--workers", 0, cwd=copy)
    assert f"using the newest finished run: {second.name}" in done.stderr
    rows = pd.read_csv(second / "retrieve" / "other-split1" / "results.csv")
    assert set(rows["dataset"]) == {"other"}
    assert set(rows["seed"]) == {1}
    called("retrieve", "other", "--from", trained.name, "--data", "data", "--workers", 0, cwd=copy)
    assert (copy / "runs" / trained.name / "retrieve" / "other-split1" / "results.csv").is_file()
    error = called("retrieve", "--from", "tiny", "--data", "data", cwd=copy, status=2).stderr
    assert "several runs" in error


def swap(folder: Path) -> None:
    """Let training and test part of split 1 change places, as a draw of new parts can do it."""
    other = {"train": "test", "test": "train"}
    change(folder, lambda row: row | {"split1": other[row["split1"]]})


def forget(work: Path) -> None:
    """Let the run be one of a vcsf that did not remember training clips."""
    (path,) = work.glob("runs/*/trained_on.parquet")
    path.unlink()


def exposed(path: Path) -> set[tuple[str, str, str]]:
    """Whether it was trained, the training data, and how many test clips were seen, of all rows."""
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    return set(rows[["variant", "training_data", "seen"]].itertuples(index=False, name=None))


@pytest.mark.parametrize(
    "case", ["another split", "an older run", "parts have moved", "under another name"]
)
def test_test_clips_that_were_seen_in_training_are_refused(
    case: str, copy: Path, tiny_data: Path
) -> None:
    shutil.copytree(tiny_data, copy / "data")
    named, data, seen = ["--split", 2], "same", "4"
    if case == "parts have moved":
        swap(copy / "data" / "synthetic")
        named, data, seen = [], "changed", "8"
    elif case == "under another name":
        (copy / "data" / "synthetic").rename(copy / "data" / "mine")
        swap(copy / "data" / "mine")
        named, data, seen = ["mine"], "other", "8"
    elif case == "an older run":
        forget(copy)
    words = ("retrieve", *named, "--data", "data", "--workers", 0)
    error = called(*words, cwd=copy, status=2).stderr
    assert f"error: {seen} of {seen} test clips" in error
    assert "--allow-seen measures all the same" in error
    assert not list(copy.glob("runs/*/retrieve"))
    done = called(*words, "--allow-seen", "--untrained", cwd=copy)
    mark = f"{seen} of {seen} test clips seen in training"
    assert f"warning: {mark}: the run was trained on them" in done.stderr
    assert f"R@k in per cent ({mark})" in done.stdout
    (folder,) = copy.glob("runs/*/retrieve/*-split*")
    assert exposed(folder / "results.csv") == {("trained", data, seen), ("untrained", "", "")}
    for name in ("report.md", "report.html"):
        assert mark in (folder / name).read_text()


def test_data_that_changed_without_a_leak_are_measured_and_told(
    copy: Path, tiny_data: Path
) -> None:
    """Clips have come to the test part, and none of it was trained on."""
    shutil.copytree(tiny_data, copy / "data")
    other = {"Run": "Ran"}
    change(
        copy / "data" / "synthetic",
        lambda row: row | {"label": other.get(row["label"], row["label"])},
    )
    done = called("retrieve", "--data", "data", "--workers", 0, cwd=copy)
    said = "the data of synthetic has changed since the run was trained on it; no test clip was seen in training"
    assert f"warning: {said}" in done.stderr
    assert "seen in training" not in done.stdout
    (folder,) = copy.glob("runs/*/retrieve/*")
    assert exposed(folder / "results.csv") == {("trained", "changed", "0")}
    for name in ("report.md", "report.html"):
        assert said in (folder / name).read_text()


def test_what_an_older_run_has_seen_of_changed_data_can_t_be_checked(
    copy: Path, tiny_data: Path
) -> None:
    shutil.copytree(tiny_data, copy / "data")
    forget(copy)
    called("retrieve", "--data", "data", "--workers", 0, cwd=copy)
    (folder,) = copy.glob("runs/*/retrieve/*")
    assert exposed(folder / "results.csv") == {("trained", "same", "0")}
    swap(copy / "data" / "synthetic")
    done = called("retrieve", "--data", "data", "--workers", 0, cwd=copy)
    assert "it can't be checked whether test clips were among them" in done.stderr
    assert "it can&#39;t be checked" in (folder / "report.html").read_text()
    assert exposed(folder / "results.csv") == {("trained", "changed", "")}


def test_the_same_data_in_another_folder_and_another_dataset_need_no_word(
    copy: Path, tiny_data: Path
) -> None:
    shutil.copytree(tiny_data, copy / "elsewhere")
    done = called("retrieve", "--data", "elsewhere", "--workers", 0, cwd=copy)
    assert "warning" not in done.stderr
    (path,) = copy.glob("runs/*/retrieve/synthetic-split1/results.csv")
    assert exposed(path) == {("trained", "same", "0")}
    (copy / "elsewhere" / "synthetic").rename(copy / "elsewhere" / "others")
    number = iter(range(99))
    change(
        copy / "elsewhere" / "others",
        lambda row: (
            row
            | {"original": row["original"][::-1], "sha256": row["video"]}
            | ({"split1": "test"} if next(number) % 3 == 0 else {})
        ),
    )
    done = called("retrieve", "others", "--data", "elsewhere", "--workers", 0, cwd=copy)
    assert "warning" not in done.stderr
    (path,) = copy.glob("runs/*/retrieve/others-split1/results.csv")
    assert exposed(path) == {("trained", "other", "0")}


def test_videos_that_were_prepared_otherwise_under_another_name_are_known_again(
    copy: Path, tiny_data: Path
) -> None:
    source = tiny_data / "synthetic" / "original"
    prepare = ("prepare", "synthetic", *TINY, "--source", source, "--data", "data")
    prepare += ("--name", "large", "--size", 24)
    retrieve = ("retrieve", "large", "--data", "data", "--workers", 0, "--split")
    called(*prepare, cwd=copy)
    done = called(*retrieve, 2, cwd=copy, status=2)
    assert "4 of 4 test clips of large split 2 were seen in training" in done.stderr
    assert "warning" not in called(*retrieve, 1, cwd=copy).stderr

    # Earlier versions kept the digests of the videos' files in the shards alone.
    folder = copy / "data" / "large"
    before = Manifest.open(folder)
    change(folder, lambda row: row | {"original": ""})
    journal = folder / "journal.jsonl"
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    for entry in entries:
        del entry["original"], entry["checksum"]
    journal.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert Manifest.open(folder).hash == before.hash
    assert "everything was prepared already" in called(*prepare, cwd=copy).stderr
    assert Manifest.open(folder).table.equals(before.table)


def test_a_damaged_list_of_training_clips_is_an_error(copy: Path, tiny_data: Path) -> None:
    (path,) = copy.glob("runs/*/trained_on.parquet")
    path.write_bytes(path.read_bytes()[:-9])
    error = called("retrieve", "--data", tiny_data, "--workers", 0, cwd=copy, status=1).stderr
    assert "trained_on.parquet is damaged" in error


def test_a_run_that_goes_on_with_other_processes_says_so(copy: Path, tiny_data: Path) -> None:
    path = next(copy.glob("runs/*/status.json"))
    status = json.loads(path.read_text())
    assert status["processes"] == [1]
    path.write_text(json.dumps(status | {"finished": False, "processes": [2]}))
    words = ("--data", tiny_data, "--workers", 0)
    sentence = "it was trained by 2, then by 1 processes"
    assert (
        f"warning: {sentence}"
        in called("pretrain", "smoke", *sets(*SETTINGS), *words, cwd=copy).stderr
    )
    assert json.loads(path.read_text())["processes"] == [2, 1]
    done = called("retrieve", "--k", 1, "--devices", 2, *words, cwd=copy)
    assert sentence in done.stderr
    assert "measuring works on one device, not on 2" in done.stderr
    (report,) = copy.glob("runs/*/retrieve/*/report.html")
    assert sentence in report.read_text()


def test_test_clips_that_equal_training_clips_are_counted(copy: Path, tiny_data: Path) -> None:
    """They are counted in what is printed, in the results and in both reports."""
    shutil.copytree(tiny_data, copy / "data")
    table = Manifest.open(copy / "data" / "synthetic").table
    train, test = (table[table["split1"] == part] for part in ("train", "test"))
    twins = dict(zip(test["video"].iloc[:2], train["sha256"].iloc[:2], strict=True))
    files = {test["video"].iloc[2]: train["original"].iloc[2]}
    change(
        copy / "data" / "synthetic",
        lambda row: (
            row
            | {
                "sha256": twins.get(row["video"], row["sha256"]),
                "original": files.get(row["video"], row["original"]),
            }
        ),
    )
    retrieve = ("retrieve", "--k", 1, "--baselines", "--workers", 0)
    done = called(*retrieve, "--data", "data", cwd=copy)
    sentence = "3 of 4 test clips are equal to training clips"
    assert f"warning: {sentence}" in done.stderr
    (folder,) = copy.glob("runs/*/retrieve/*")
    assert set(pd.read_csv(folder / "results.csv")["duplicates"]) == {3}
    assert sentence in (folder / "report.md").read_text()
    assert sentence in (folder / "report.html").read_text()
    done = called("finetune", "synthetic", "--knn", "--data", "data", "--workers", 0, cwd=copy)
    assert f"warning: {sentence}" in done.stderr
    done = called(*retrieve, "--data", tiny_data, "--no-html", cwd=copy)
    assert "equal to training clips" not in done.stderr
    assert set(pd.read_csv(folder / "results.csv")["duplicates"]) == {0}


@pytest.mark.parametrize("missing", ["labels", "test part"])
def test_without_labels_or_test_part_there_are_neighbours_and_no_numbers(
    missing: str, copy: Path, tiny_data: Path
) -> None:
    shutil.copytree(tiny_data, copy / "data")
    folder = copy / "data" / "synthetic"
    rows = [
        row | {"frame_offsets": list(row["frame_offsets"])}
        for row in Manifest.open(folder).table.to_dict("records")
    ]
    changed = {"label": None} if missing == "labels" else {"split1": "", "split2": "", "split3": ""}
    manifest.write(folder, [row | changed for row in rows])
    done = called(
        "retrieve", "--k", "1,2", "--baselines", "--data", "data", "--workers", 0, cwd=copy
    )
    lacks = "labels" if missing == "labels" else "test part in split 1"
    assert f"synthetic has no {lacks}: no R@k" in done.stderr
    report = (copy / done.stdout.strip() / "report.html").read_text()
    for said in ("count as misses", "is R@", "not comparable with published tables"):
        assert said not in report
    (found,) = copy.glob("runs/*/retrieve/synthetic-split1")
    assert done.stdout.strip() == str(found.relative_to(copy))
    assert not (found / "results.csv").exists()
    near = pd.read_csv(found / "neighbours.csv")
    assert near["query"].nunique() == 12
    assert (near["query"] != near["neighbour"]).all()
    assert near.groupby(["query", "pathway"]).size().eq(2).all()
    assert len(pq.read_table(found / "features.parquet")) == 12
    assert near["hit"].isna().all() == (missing == "labels")


@pytest.fixture(scope="module")
def people(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run and with real videos of two classes by three people, prepared, and what
    preparing them said."""
    folder = tmp_path_factory.mktemp("people")
    copy_run(tiny_run, folder)
    for number, name in enumerate(
        f"{action}/p{person}_{clip}.mp4"
        for action in ("run", "walk")
        for person in range(3)
        for clip in range(2)
    ):
        write_video(folder / "videos" / name, range(37 * number, 37 * number + 24))
    done = called(
        *("prepare", "folder", "--source", "videos", "--name", "people", "--size", 32),
        *("--group-pattern", "p[0-9]", "--workers", 1),
        cwd=folder,
    )
    (folder / "said.txt").write_text(done.stderr)
    return folder


def test_few_test_clips_suggest_to_leave_one_out(people: Path, tiny_data: Path) -> None:
    said = (people / "said.txt").read_text()
    assert "vcsf retrieve people --leave-one-out measures with all 12 clips" in said


def test_every_clip_queries_the_clips_of_other_groups(people: Path) -> None:
    """R@1 again from `features.parquet`, one query at a time, and what clusters of the same clips
    are."""
    done = called(
        *("retrieve", "people", "--leave-one-out", "--clusters", "--k", "1,20", "--untrained"),
        *("--workers", 0),
        cwd=people,
    )
    (found,) = people.glob("runs/*/retrieve/people-leave-one-out")
    rows, near = pd.read_csv(found / "results.csv"), pd.read_csv(found / "neighbours.csv")
    assert set(rows["task"]) == {"retrieval-leave-one-out"}
    assert set(rows["clips"]) == {12}
    assert set(rows["metric"]) == {"R@1", "R@20", "R@1_low", "R@1_high"}
    person = {name: re.search("p[0-9]", name)[0] for name in {*near["query"], *near["neighbour"]}}
    assert (near["query"].map(person) != near["neighbour"].map(person)).all()
    assert (
        near.groupby(["query", "pathway"]).size().eq(8).all()
    )  # two of three people, 4 clips each
    table = pq.read_table(found / "features.parquet").to_pandas().set_index("video")
    for pathway in ("slow", "fast"):
        values = np.stack(table[pathway].to_list())
        unit = values - values.mean(0)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        hit = []
        for number, query in enumerate(table.index):
            others = [
                each for each, name in enumerate(table.index) if person[name] != person[query]
            ]
            best = max(others, key=lambda each: float(unit[number] @ unit[each]))
            hit.append(table["label"].iloc[best] == table["label"].iloc[number])
        own = rows[(rows["variant"] == "trained") & (rows["pathway"] == pathway)]
        value = own.set_index("metric")["value"]
        assert value["R@1"] == pytest.approx(np.mean(hit))
        assert value["R@1_low"] <= value["R@1"] <= value["R@1_high"]
        assert f"R@1 of trained {pathway}: {100 * value['R@1']:.1f}, 95 % interval" in done.stdout
    assert "there are only 8 clips of other groups: R@20 is R@8" in done.stderr
    assert "less the mean of all clips" in (found / "report.md").read_text()
    assert "--leave-one-out --k 1,20" in (found / "report.html").read_text()

    folder = found.parent.parent / "clusters" / "people-leave-one-out"
    scores = pd.read_csv(folder / "results.csv")
    assert {*scores["variant"]} == {"trained", "untrained"}
    assert {*scores["metric"]} == {
        f"{name}{end}" for name in ("v_measure", "nmi") for end in ("", "_min", "_max")
    }
    listed = pd.read_csv(folder / "clusters.csv")
    for _, own in listed.groupby("pathway"):
        assert {*own["video"]} == {*table.index}
        assert {*own["cluster"]} == {1, 2}
        assert own["cluster"].value_counts()[1] >= 6
    assert "2 clusters of 12 clips" in done.stdout
    assert (folder / "report.html").is_file()


def test_clips_seen_without_labels_are_marked_and_those_seen_with_labels_refused(
    copy: Path, tiny_data: Path
) -> None:
    measure = ("retrieve", "--leave-one-out", "--k", "1", "--no-html", "--data", tiny_data)
    done = called(*measure, "--workers", 0, cwd=copy)
    assert "8 of 12 clips seen in training, without labels" in done.stdout
    assert "the numbers are of these clips, not of new ones" in done.stderr
    (found,) = copy.glob("runs/*/retrieve/synthetic-leave-one-out/results.csv")
    assert set(pd.read_csv(found)["seen"]) == {8}
    (status,) = copy.glob("runs/*/status.json")
    status.write_text(json.dumps(json.loads(status.read_text()) | {"uses_labels": True}))
    refused = called(*measure, "--workers", 0, cwd=copy, status=2)
    assert "8 of 12 test clips of synthetic" in refused.stderr
    allowed = called(*measure, "--workers", 0, "--allow-seen", cwd=copy)
    assert "8 of 12 test clips seen in training" in allowed.stdout


def test_a_dataset_of_one_group_has_none_to_leave_out(copy: Path, tiny_data: Path) -> None:
    shutil.copytree(tiny_data, copy / "data")
    folder = copy / "data" / "synthetic"
    rows = Manifest.open(folder).table.to_dict("records")
    one = {"group": "g01"}
    manifest.write(
        folder, [row | {"frame_offsets": list(row["frame_offsets"])} | one for row in rows]
    )
    done = called("retrieve", "--leave-one-out", "--data", "data", cwd=copy, status=2)
    assert "synthetic has one group only" in done.stderr


def test_an_unfinished_run_is_measured_by_name_and_never_chosen(
    copy: Path, tiny_data: Path, trained: Path
) -> None:
    status = copy / "runs" / trained.name / "status.json"
    status.write_text(status.read_text().replace('"finished": true', '"finished": false'))
    assert (
        "there is no finished run"
        in called("retrieve", "--data", tiny_data, cwd=copy, status=2).stderr
    )
    done = called(
        "retrieve", "--from", trained.name[:6], "--data", tiny_data, "--workers", 0, cwd=copy
    )
    assert "is not finished: measuring its newest checkpoint" in done.stderr


def test_a_newer_run_that_cannot_be_used_is_passed_over_with_a_warning(
    copy: Path, tiny_data: Path, trained: Path
) -> None:
    newer, damaged, older = (copy / "runs" / name for name in ("newer", "damaged", "older"))
    for folder, ended in ((newer, "3000"), (damaged, "3000"), (older, "1000")):
        shutil.copytree(copy / "runs" / trained.name, folder)
        recipe, status = folder / "recipe.yaml", folder / "status.json"
        recipe.write_text(recipe.read_text().replace("name: small", "name: of_an_absent_plugin"))
        status.write_text(json.dumps(json.loads(status.read_text()) | {"ended": ended}))
    (damaged / "status.json").write_text("[")
    done = called("retrieve", "--data", tiny_data, "--workers", 0, "--no-html", cwd=copy)
    said = done.stderr.splitlines()
    assert (
        "warning: run damaged can't be used and is passed over: runs/damaged/status.json is "
        "damaged" in said[0]
    )
    assert (
        "warning: run newer can't be used and is passed over: unknown backbone "
        "`of_an_absent_plugin`" in said[1]
    )
    assert said[2] == f"using the newest finished run: {trained.name}"
    assert "run older" not in done.stderr

    shutil.rmtree(copy / "runs" / trained.name)
    alone = called("retrieve", "--data", tiny_data, cwd=copy, status=1).stderr
    assert "unknown backbone `of_an_absent_plugin`" in alone
    assert "error: no run in runs can be used: runs/damaged/status.json is damaged" in alone


def test_a_run_without_a_checkpoint_or_with_another_kind_of_file_is_told(
    copy: Path, tiny_data: Path
) -> None:
    path = next(copy.glob("runs/*/checkpoint.pt"))
    path.unlink()
    assert (
        "nothing was saved yet"
        in called("retrieve", "--data", tiny_data, cwd=copy, status=1).stderr
    )
    torch.save({"state_dict": {}}, path)
    assert (
        "not a checkpoint of vcsf"
        in called("retrieve", "--data", tiny_data, cwd=copy, status=1).stderr
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "dataset nowhere is not prepared"),
        (["--from", "nothing"], "there is no run nothing"),
        (["--from", "data"], "is not a run folder"),
        (["--split", "4"], "--split"),
        (["--k", "0"], "k starts at 1"),
    ],
)
def test_a_wrong_command_line_is_status_2(
    arguments: list[str], said: str, copy: Path, tiny_data: Path
) -> None:
    shutil.copytree(tiny_data, copy / "data")
    assert said in called("retrieve", *arguments, "--data", "data", cwd=copy, status=2).stderr
