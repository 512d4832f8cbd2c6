"""`vcsf finetune` as a user types it: the table, the files behind it, and what it says when it
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
import pytest
import torch
from conftest import CHECKOUT, called
from trained import TINY, copy_run

from vcsf_cli.config import catalogue, protocol
from vcsf_cli.data import manifest
from vcsf_cli.data.clips import EvalClips
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.features.extract import extract
from vcsf_cli.model.parts import build_sampler
from vcsf_cli.runs.restore import restore
from vcsf_cli.runs.run import read_run
from vcsf_cli.storage import checkpoint

FAST = ("train.epochs=5", "optim.schedule=constant", "optim.drops=[]", "grid.lr=[0.1, 1.0]")
LINEAR = ("--linear", *(word for setting in FAST for word in ("--set", setting)))
ATTENTIVE = ("--attentive", "--set", "train.epochs=2", "--set", "grid.lr=[1e-3]")
FULL = ("--protocol", "cpu", "--set", "train.epochs=1", "--set", "train.batch=4")
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
METRICS = {"top1", "top1_low", "top1_high", "class_mean"}
PROTOCOLS = sorted((CHECKOUT / "recipes" / "protocols").glob("*.yaml"))


@pytest.fixture
def work(tiny_run: Path, tmp_path: Path, tiny_data: Path) -> Path:
    """A folder of one's own to work in, with the run and the data."""
    copy_run(tiny_run, tmp_path)
    shutil.copytree(tiny_data, tmp_path / "data")
    return tmp_path


def finetune(*arguments: object, cwd: Path, status: int = 0) -> Any:
    return called(
        "finetune",
        "synthetic",
        *arguments,
        "--devices",
        "cpu",
        "--workers",
        0,
        cwd=cwd,
        status=status,
    )


def rows_of(work: Path) -> pd.DataFrame:
    (path,) = work.glob("runs/*/results.csv")
    return pd.read_csv(path)


def folders(work: Path) -> list[Path]:
    return sorted(path.parent for path in work.glob("runs/*/finetune/*/status.json"))


def change(folder: Path, changed: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Write a prepared dataset's manifest anew with its rows changed."""
    rows = Manifest.open(folder).table.to_dict("records")
    manifest.write(
        folder, [row | {"frame_offsets": list(row["frame_offsets"])} | changed(row) for row in rows]
    )


@pytest.mark.parametrize("mode", ["linear", "attentive", "knn", "finetune"])
def test_a_measurement_is_tidy_in_the_table_and_in_files(
    mode: str, work: Path, tiny_run: Path
) -> None:
    options = {"linear": LINEAR, "attentive": ATTENTIVE, "knn": ("--knn",), "finetune": FULL}
    done = finetune(*options[mode], cwd=work)
    rows = rows_of(work)
    assert rows.columns.tolist() == COLUMNS
    same = {
        "run": tiny_run.name,
        "variant": "trained",
        "seed": 0,
        "dataset": "synthetic",
        "split": 1,
        "clips": 4,
    }
    assert all(set(rows[column]) == {value} for column, value in same.items())
    # Settings that differ from the protocol's own are told by a hash, so that no row passes for the
    # protocol's.
    named = {
        "linear": r"linear-[0-9a-f]{6}",
        "attentive": r"attentive-[0-9a-f]{6}",
        "knn": "knn",
        "finetune": r"finetune-cpu-[0-9a-f]{6}",
    }[mode]
    assert all(re.fullmatch(named, task) for task in rows["task"])
    assert set(rows["left_out"]) == {0}
    assert {(row.pathway, row.metric) for row in rows.itertuples()} == {
        (pathway, metric) for pathway in ("slow", "fast", "both") for metric in METRICS
    }
    (folder,) = folders(work)
    assert re.fullmatch(rf"synthetic-{mode}-[0-9a-f]{{12}}", folder.name)
    assert pd.read_csv(folder / "results.csv").equals(rows)
    answers = pd.read_csv(folder / "answers.csv")
    for pathway, group in answers.groupby("pathway"):
        value = rows[(rows["pathway"] == pathway) & (rows["metric"] == "top1")]["value"].item()
        assert value == pytest.approx((group["label"] == group["answer"]).mean())
        (line,) = (line for line in done.stdout.splitlines() if f" {pathway} " in line)
        assert [cell.strip() for cell in line.split("│")[1:3]] == [pathway, f"{100 * value:.1f}"]
        confused = pd.read_csv(folder / f"confusion-{pathway}.csv", index_col=0)
        assert np.trace(confused.to_numpy()) == round(4 * value)
        assert (folder / f"confusion-{pathway}.png").read_bytes().startswith(b"\x89PNG")
    classes = pd.read_csv(folder / "classes.csv")
    assert classes.groupby("pathway")["clips"].sum().to_dict() == {"slow": 4, "fast": 4, "both": 4}
    status = json.loads((folder / "status.json").read_text())
    assert status["finished"]
    assert status["left_out"] == "none"
    assert (folder / "environment.json").is_file()
    assert protocol.load(str(folder / "protocol.yaml")).mode == mode
    assert "4 test clips; left out: none" in done.stderr
    assert (
        done.stderr.splitlines()[-1] == f"results: {Path('runs') / tiny_run.name / 'results.csv'}"
    )


def test_done_before_it_shows_the_same_table_and_computes_nothing(work: Path) -> None:
    first = finetune(*LINEAR, cwd=work)
    before = {path: path.read_bytes() for path in work.rglob("*") if path.is_file()}
    again = finetune(*LINEAR, cwd=work)
    assert again.stdout == first.stdout
    assert "finished before" in again.stderr
    assert {path: path.read_bytes() for path in work.rglob("*") if path.is_file()} == before


def test_features_are_extracted_once_for_all_splits_and_probes_and_anew_for_other_weights(
    work: Path,
) -> None:
    done = finetune(*LINEAR, "--split", "all", "--allow-seen", cwd=work)
    assert sum("features 12/12 videos" in line for line in done.stderr.splitlines()) == 1
    rows = rows_of(work)
    assert rows.groupby("split")["seen"].unique().to_dict() == {1: [0], 2: [4], 3: [4]}
    assert sorted(rows["split"].unique()) == [1, 2, 3]
    top1 = rows[(rows["metric"] == "top1") & (rows["pathway"] == "both")]["value"] * 100
    expected = f"{top1.mean():.1f} ({top1.min():.1f}–{top1.max():.1f})"
    assert expected in done.stdout.partition("mean of 3 measurements")[2]
    assert "features" not in finetune("--knn", cwd=work).stderr
    path = next(work.glob("runs/*/checkpoint.pt"))
    saved = checkpoint.load(path)
    for weight in saved["task"]["model"].values():
        if weight.is_floating_point():
            weight += 0.1 * torch.rand(weight.shape, generator=torch.Generator().manual_seed(0))
    checkpoint.save(
        path, {key: value for key, value in saved.items() if key not in ("kind", "version")}
    )
    assert "features 12/12 videos" in finetune("--knn", cwd=work).stderr


def test_features_before_pooling_are_kept_and_damage_is_mended(work: Path) -> None:
    """Their mean over places and windows is the mean of what the network pools."""
    finetune(*ATTENTIVE, "--set", "windows=2", cwd=work)
    (path,) = work.glob("runs/*/finetune/maps-synthetic-trained-slow.npy")
    values = np.load(path)
    assert values.shape[:2] == (12, 2)
    run = read_run(path.parents[1])
    stage, data = run.recipe.last_stage, Manifest.open(work / "data" / "synthetic")
    model, _ = restore(run)
    clips = EvalClips(
        data, range(12), build_sampler(stage), stage.augment.border, stage.data.size, spread=2
    )
    pooled = extract(model, clips, torch.device("cpu"), 0)["slow"]
    np.testing.assert_allclose(values.astype(np.float32).mean((1, 2)), pooled, atol=2e-3)

    before = path.stat().st_mtime_ns
    finetune(*ATTENTIVE, "--set", "windows=2", "--seeds", "1", cwd=work)
    assert path.stat().st_mtime_ns == before
    content = bytearray(path.read_bytes())
    content[-1] ^= 255
    path.write_bytes(content)
    done = finetune(*ATTENTIVE, "--set", "windows=2", "--seeds", "2", cwd=work)
    assert "these features are computed again" in done.stderr
    assert (np.load(path) == values).all()


def test_all_clips_of_other_groups_vote_where_one_is_left_out(work: Path) -> None:
    done = finetune("--knn", "--leave-one-out", cwd=work)
    rows = rows_of(work)
    assert set(rows["task"]) == {"knn-leave-one-out"}
    assert set(rows["clips"]) == {12}
    assert set(rows["left_out"]) == {0}
    assert set(rows["seen"]) == {8}
    assert "12 clips, 8 seen in training, without labels" in done.stdout
    assert (
        "for every one of 12 clips of 2 classes those of other groups vote (3 groups)"
        in done.stderr
    )
    (folder,) = folders(work)
    sweep = pd.read_csv(folder / "sweep-slow.csv")
    assert sweep.groupby("fold")["clips"].first().tolist() == [4, 4, 4]
    # Another measurement than with the split, and kept beside it.
    finetune("--knn", cwd=work)
    assert set(rows_of(work)["task"]) == {"knn-leave-one-out", "knn"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--linear",), "--leave-one-out is of --knn"),
        (("--knn", "--split", "2"), "--split has no meaning with --leave-one-out"),
        (("--knn", "--labels", "10%"), "--labels has no meaning with --leave-one-out"),
    ],
)
def test_what_can_t_leave_one_out_is_told(
    options: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    assert said in finetune("--leave-one-out", *options, cwd=tmp_path, status=2).stderr


def test_rows_of_other_measurements_stay_and_those_of_the_same_are_replaced(work: Path) -> None:
    finetune("--knn", cwd=work)
    finetune(*LINEAR, "--seeds", "0,1", cwd=work)
    before = rows_of(work)
    finetune("--knn", "--pathway", "slow", cwd=work)
    after = rows_of(work)
    assert len(after) == len(before)
    assert [task[:6] for task in sorted(after["task"].unique())] == ["knn", "linear"]
    assert not after.duplicated(["seed", "split", "task", "pathway", "metric"]).any()
    assert after.iloc[-4:]["pathway"].tolist() == ["slow"] * 4
    assert len(folders(work)) == 4


def test_few_labels_are_named_in_the_task_and_too_few_choose_nothing(work: Path) -> None:
    done = finetune(*LINEAR, "--labels", "1-per-class", cwd=work)
    assert (
        "too few recordings with labels to hold some of most classes out: the grid's first values "
        "are taken" in done.stderr
    )
    assert (
        "2 clips of 2 classes learn, 4 test clips; left out: 6 training clips without a label"
        in done.stderr
    )
    assert all(
        re.fullmatch("linear-[0-9a-f]{6}-1-per-class", task) for task in rows_of(work)["task"]
    )
    done = finetune(*LINEAR, "--labels", "75%", cwd=work)
    assert re.search(r"[24] clips of 2 classes learn, [24] held out to choose", done.stderr)
    done = finetune(
        *FULL, "--set", "train.choose=best", "--labels", "1%", "--pathway", "slow", cwd=work
    )
    assert "the last epoch counts" in done.stderr
    assert any(re.fullmatch("finetune-cpu-[0-9a-f]{6}-1%", task) for task in rows_of(work)["task"])


def test_from_scratch_nothing_is_taken_for_a_trained_run(work: Path, tiny_run: Path) -> None:
    source = f"scratch:{tiny_run / 'recipe.yaml'}"
    finetune(*FULL, "--from", source, "--runs", "fresh", cwd=work)
    (folder,) = (work / "fresh").iterdir()
    assert folder.name == tiny_run.name
    rows = pd.read_csv(folder / "results.csv")
    assert set(rows["variant"]) == {"scratch"}
    assert (
        "there is no finished run"
        in called("retrieve", "--runs", "fresh", cwd=work, status=2).stderr
    )
    for named in (folder.name, folder):
        error = called("retrieve", "--from", named, "--runs", "fresh", cwd=work, status=2).stderr
        assert "there is no run" in error or "holds no pre-trained run" in error
    assert (
        "there is no finished run"
        in finetune("--knn", "--runs", "fresh", cwd=work, status=2).stderr
    )
    done = called(
        "pretrain", "smoke", *TINY, "--data", "data", "--runs", "fresh", "--workers", 0, cwd=work
    )
    assert "going on" not in done.stderr
    assert checkpoint.load(folder / "checkpoint.pt")["position"]["step"] == 4
    assert set(pd.read_csv(folder / "results.csv")["variant"]) == {"scratch"}
    finetune("--knn", "--runs", "fresh", cwd=work)
    assert set(pd.read_csv(folder / "results.csv")["variant"]) == {"scratch", "trained"}


def test_weights_of_others_are_not_from_scratch(work: Path) -> None:
    (work / "own.yaml").write_text(
        "extends: smoke\nbackbone: {name: timm, model: test_vit}\nfast: {pretrained: true}\n"
    )
    done = finetune("--knn", "--from", "scratch:own.yaml", cwd=work, status=2)
    assert "starts from a pretrained backbone, not from scratch" in done.stderr


def test_brackets_in_a_dataset_s_name_are_printed_as_they_are(work: Path) -> None:
    (work / "data" / "synthetic").rename(work / "data" / "[red] own")
    done = called("finetune", "[red] own", "--knn", "--workers", 0, cwd=work)
    assert "[red] own, knn" in done.stdout


def test_a_fine_tuning_is_no_run_and_the_newest_run_stays_the_newest(
    work: Path, tiny_run: Path
) -> None:
    finetune("--knn", cwd=work)
    (folder,) = folders(work)
    assert "is not a run folder" in finetune("--knn", "--from", folder, cwd=work, status=2).stderr
    done = called("retrieve", "--k", "1", "--data", "data", "--workers", 0, cwd=work)
    assert f"using the newest finished run: {tiny_run.name}" in done.stderr


def test_another_dataset_is_a_transfer_and_a_run_with_labels_says_so(
    work: Path, tiny_run: Path
) -> None:
    shutil.copytree(work / "data" / "synthetic", work / "data" / "other")
    status = work / "runs" / tiny_run.name / "status.json"
    status.write_text(json.dumps(json.loads(status.read_text()) | {"uses_labels": True}))
    done = called("finetune", "other", "--knn", "--data", "data", "--workers", 0, cwd=work)
    assert "labels were used in training" in done.stderr
    assert "seen in training" not in done.stderr
    rows = rows_of(work)
    assert set(rows["dataset"]) == {"other"}
    assert set(rows["variant"]) == {"trained_with_labels"}


@pytest.mark.parametrize("mode", ["linear", "knn", "finetune"])
def test_test_clips_that_were_seen_in_training_are_refused(mode: str, work: Path) -> None:
    """Parts have changed places since the training, as a draw of new parts can do it."""
    other = {"train": "test", "test": "train"}
    change(work / "data" / "synthetic", lambda row: {"split1": other[row["split1"]]})
    words = {"linear": LINEAR, "knn": ("--knn",), "finetune": FULL}[mode]
    for more in ((), ("--dry-run",)):
        error = finetune(*words, *more, cwd=work, status=2).stderr
        assert "error: 8 of 8 test clips of synthetic split 1 were seen in training" in error
        assert "--allow-seen measures all the same" in error
    assert not folders(work)
    done = finetune(*words, "--allow-seen", cwd=work)
    assert (
        "warning: the data of synthetic has changed since the run was trained on it" in done.stderr
    )
    assert "warning: 8 of 8 test clips seen in training" in done.stderr
    assert "8 test clips, 8 seen in training" in done.stdout
    rows = rows_of(work)
    assert set(rows["training_data"]) == {"changed"}
    assert set(rows["seen"]) == {8}
    (folder,) = folders(work)
    status = json.loads((folder / "status.json").read_text())
    assert (status["training_data"], status["seen"]) == ("changed", 8)
    assert (
        "were seen in training" in finetune(*words, cwd=work, status=2).stderr
    )  # finished before, and not asked for


def test_from_scratch_nothing_was_seen(work: Path, tiny_run: Path) -> None:
    source = f"scratch:{tiny_run / 'recipe.yaml'}"
    done = finetune("--knn", "--split", "all", "--from", source, "--runs", "fresh", cwd=work)
    assert "seen in training" not in done.stdout + done.stderr
    (path,) = work.glob("fresh/*/results.csv")
    rows = pd.read_csv(path, keep_default_na=False)
    assert set(rows["training_data"]) == set(rows["seen"]) == {""}


def test_rows_of_an_older_vcsf_stay_and_are_completed_when_they_are_shown_again(work: Path) -> None:
    for seed in (0, 1):
        finetune("--knn", "--seeds", seed, cwd=work)
    for path in work.glob("runs/**/results.csv"):
        pd.read_csv(path).drop(columns=COLUMNS[-3:]).to_csv(path, index=False)
    finetune("--knn", "--seeds", 1, cwd=work)
    rows = rows_of(work)
    assert rows.columns.tolist() == COLUMNS
    assert rows.groupby("seed")["seen"].count().to_dict() == {0: 0, 1: 12}
    assert set(rows[rows["seed"] == 1]["training_data"]) == {"same"}


def test_clips_outside_the_split_are_counted_as_left_out(work: Path) -> None:
    name = Manifest.open(work / "data" / "synthetic").table["video"][0]
    change(work / "data" / "synthetic", lambda row: {"split1": ""} if row["video"] == name else {})
    done = finetune("--knn", cwd=work)
    assert "left out: 1 clips are in neither part of split 1 or have no label" in done.stderr


def test_ten_crops_and_one_crop_are_two_measurements(work: Path) -> None:
    for crops in ("centre", "ten"):
        finetune(*FULL, "--set", f"crops={crops}", "--pathway", "slow", cwd=work)
    one, ten = (pd.read_csv(folder / "answers.csv") for folder in folders(work))
    assert (one["probability"] != ten["probability"]).any()


def test_a_dry_run_checks_prints_the_protocol_and_writes_nothing(work: Path) -> None:
    before = {path for path in work.rglob("*") if path.is_file()}
    done = finetune(*FULL, "--split", "all", "--allow-seen", "--dry-run", cwd=work)
    assert {path for path in work.rglob("*") if path.is_file()} == before
    assert "estimated time: " in done.stderr
    assert done.stderr.count("folder: runs/") == 3
    (work / "printed.yaml").write_text(done.stdout)
    printed = protocol.load(str(work / "printed.yaml"))
    assert printed == protocol.load("cpu", ["train.epochs=1", "train.batch=4"])


@pytest.mark.parametrize(
    ("changed", "arguments", "status", "said"),
    [
        ({"label": None}, ["--knn"], 1, "synthetic has no labels"),
        (
            {"split1": "", "split2": "", "split3": ""},
            ["--knn"],
            2,
            "no labelled training clips in split 1",
        ),
        ({"split2": ""}, ["--knn", "--split", "all"], 2, "no labelled training clips in split 2"),
        ({"split1": "train"}, ["--knn"], 2, "no labelled test clips in split 1"),
        ({"label": "Run"}, ["--knn"], 1, "synthetic has one class only in split 1"),
    ],
)
def test_data_that_does_not_serve_is_told_before_any_work(
    changed: dict[str, Any], arguments: list[str], status: int, said: str, work: Path
) -> None:
    change(work / "data" / "synthetic", lambda row: changed)
    assert said in finetune(*arguments, cwd=work, status=status).stderr
    assert not folders(work)
    assert not list(work.glob("runs/*/finetune/*.parquet"))


def test_a_class_that_only_test_clips_have_is_told(work: Path) -> None:
    change(
        work / "data" / "synthetic", lambda row: {"label": "New"} if row["split1"] == "test" else {}
    )
    error = finetune(*FULL, cwd=work, status=1).stderr
    assert "4 test clips of split 1 are of 1 classes that no training clip has: New (4)" in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--linear", "--knn"], "two measurements"),
        (["--linear", "--protocol", "coclr"], "protocol coclr is of mode finetune, not linear"),
        (["--protocol", "linaer"], "did you mean `linear`?"),
        (["--linear", "--set", "grid.lrs=[1]"], "did you mean `lr`?"),
        (["--linear", "--set", "mode=full"], "unknown mode `full`"),
        (["--set", "train.epochs=100"], "training ends after epoch 100"),
        (["--labels", "5"], "write 1%, 10% or 5-per-class"),
        (["--seeds", "a"], "write --seeds 0,1,2"),
        (["--split", "4"], "--split"),
        (["--from", "nothing"], "there is no run nothing"),
        (["--from", "scratch:nothing"], "there is no recipe nothing"),
        (["--devices", "2"], "works on one device"),
        (["--precision", "bf16", "--devices", "cpu"], "bf16 needs a GPU"),
        (["--linear", "--precision", "bf16", "--devices", "cpu"], "bf16 needs a GPU"),
    ],
)
def test_a_wrong_command_line_is_status_2(arguments: list[str], said: str, work: Path) -> None:
    places = ("--data", "data", "--workers", 0)
    assert said in called("finetune", "synthetic", *arguments, *places, cwd=work, status=2).stderr
    assert not folders(work)


def test_a_run_without_a_checkpoint_or_with_another_kind_of_file_is_told(work: Path) -> None:
    path = next(work.glob("runs/*/checkpoint.pt"))
    path.unlink()
    assert "nothing was saved yet" in finetune("--knn", cwd=work, status=1).stderr
    checkpoint.save(path, {}, "vcsf-finetune")
    assert "a checkpoint of kind 'vcsf-finetune'" in finetune("--knn", cwd=work, status=1).stderr


@pytest.mark.parametrize("path", PROTOCOLS, ids=lambda path: path.stem)
def test_every_protocol_is_named_after_its_file_says_how_to_use_it_and_is_no_recipe(
    path: Path,
) -> None:
    loaded = protocol.load(path.stem)
    assert loaded.name == path.stem
    head, *others = [
        line.strip("# ") for line in path.read_text().splitlines() if line.startswith("#")
    ]
    assert len(head) > 20
    assert any(line.startswith("vcsf finetune ") for line in others)
    assert not {name for name in catalogue.RECIPES.files() if "protocol" in name}
    assert path.stem in catalogue.PROTOCOLS.files()


def test_what_a_protocol_leaves_out_is_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("mode: finetune\nname: mine\ntrain: {epochs: 3}\n")
    mine = protocol.load(str(tmp_path / "mine.yaml"))
    coclr = protocol.load("coclr")
    assert isinstance(mine, protocol.Finetune)
    assert isinstance(coclr, protocol.Finetune)
    assert mine.augment == coclr.augment
    assert (mine.optim.backbone_lr, mine.optim.lr, mine.dropout, mine.crops) == (
        1e-4,
        1e-3,
        0.9,
        "ten",
    )
