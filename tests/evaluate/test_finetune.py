"""Fine-tuning through the command line: rates, interruption, and that test clips choose nothing."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import called
from trained import copy_run, hold, let_go

from vcsf_cli.config import protocol
from vcsf_cli.config.recipe import load
from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.data import manifest as manifests
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.encoders.run import RunSource, UntrainedSource
from vcsf_cli.evaluate.classification import Classification
from vcsf_cli.evaluate.finetune import CLASSIFIER, KIND, Classifier, predict
from vcsf_cli.model.pathways import build
from vcsf_cli.runs.run import read_run
from vcsf_cli.storage import checkpoint
from vcsf_cli.train.compute import Compute

FAST = ("train.epochs=5", "optim.schedule=constant", "optim.drops=[]")
TIMINGS = {"clips_per_second", "data_wait"}
SHORT = {"train.epochs": 3, "train.batch": 4, "train.log_every": 1, "optim.warmup": 0}


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A folder of one's own to work in, with the run."""
    copy_run(tiny_run, tmp_path)
    return tmp_path


def arguments(data: Path, *more: object, **changes: object) -> list[str]:
    """`finetune synthetic --protocol cpu` in a few steps, where `train__epochs` means
    `train.epochs`."""
    settings = SHORT | {key.replace("__", "."): value for key, value in changes.items()}
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    places = ["--data", str(data), "--devices", "cpu", "--workers", "0"]
    return ["finetune", "synthetic", "--protocol", "cpu", *sets, *places, *map(str, more)]


def finetuned(folder: Path, data: Path, *more: object, **changes: object) -> Path:
    """The folder of a fine-tuning; what was said lies in `said.txt`."""
    before = set(folder.glob("runs/*/finetune/*/status.json"))
    done = called(*arguments(data, *more, **changes), cwd=folder)
    (folder / "said.txt").write_text(done.stderr)
    (new,) = set(folder.glob("runs/*/finetune/*/status.json")) - before
    return new.parent


def weights(folder: Path) -> dict[str, torch.Tensor]:
    model: dict[str, torch.Tensor] = checkpoint.load(folder / "classifier.pt", CLASSIFIER)["model"]
    return model


def classification(run: Path, data: Path, *assignments: str, **changes: Any) -> Classification:
    loaded = protocol.load(
        "cpu", [f"{key}={value}" for key, value in SHORT.items()] + list(assignments)
    )
    return Classification(
        RunSource(read_run(run)), Manifest.open(data / "synthetic"), 1, loaded, 0, **changes
    )


def initial_weights(evaluation: Classification) -> dict[str, torch.Tensor]:
    return Classifier(
        evaluation.network(), evaluation.pathways, 2, 0.0, evaluation.seed
    ).state_dict()


def difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], names: str) -> float:
    """The largest change of a weight whose name begins so and that is no statistic."""
    kept = ("running", "num_batches", ".head.")
    chosen = [
        name for name in ours if name.startswith(names) and not any(part in name for part in kept)
    ]
    assert chosen
    return max(float((ours[name] - theirs[name]).abs().max()) for name in chosen)


def test_new_layers_and_networks_learn_at_rates_of_their_own(copy: Path, tiny_data: Path) -> None:
    """The first step of Adam moves every weight by just the learning rate."""
    rates = {
        "optim__lr": 1e-2,
        "optim__backbone_lr": 1e-3,
        "optim__weight_decay": 0,
        "optim__schedule": "constant",
    }
    folder = finetuned(copy, tiny_data, train__epochs=1, train__batch=8, **rates)
    start, end = (
        initial_weights(classification(next(copy.glob("runs/*")), tiny_data)),
        weights(folder),
    )
    for pathway in PATHWAYS:
        assert difference(end, start, f"layers.{pathway}") == pytest.approx(1e-2, rel=1e-2)
        assert difference(end, start, f"encoders.{pathway}") == pytest.approx(1e-3, rel=1e-2)
    assert all(torch.equal(end[name], start[name]) for name in start if ".head." in name)


def test_both_rates_follow_the_schedule(copy: Path, tiny_data: Path) -> None:
    """Warming up from zero, the first step changes nothing."""
    folder = finetuned(copy, tiny_data, train__epochs=1, train__batch=8, optim__warmup=1)
    start, end = (
        initial_weights(classification(next(copy.glob("runs/*")), tiny_data)),
        weights(folder),
    )
    assert difference(end, start, "") == 0


def test_a_pathway_is_trained_as_if_it_were_alone(copy: Path, tiny_data: Path) -> None:
    together = weights(finetuned(copy, tiny_data, dropout=0, train__epochs=1))
    alone = weights(finetuned(copy, tiny_data, "--pathway", "fast", dropout=0, train__epochs=1))
    assert {name for name in together if "fast" in name} == alone.keys()
    assert all(torch.equal(value, together[name]) for name, value in alone.items())
    rows = pd.read_csv(next(copy.glob("runs/*")) / "results.csv")
    assert rows["pathway"].unique().tolist() == ["slow", "both", "fast"]


def test_killed_it_goes_on_to_the_same_bits(
    copy: Path, tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    long = {"train__epochs": 8, "train__choose": "best", "train__check_every": 2}
    hold(copy, 5)
    command = [sys.executable, "-m", "vcsf_cli", *arguments(tiny_data, "--save-every", 0, **long)]
    process = subprocess.Popen(
        command, cwd=copy, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL
    )
    step = 0
    while process.poll() is None and step < 3:
        for path in copy.glob("runs/*/finetune/*/checkpoint.pt"):
            step = checkpoint.load(path, KIND)["position"]["step"]
        time.sleep(0.005)
    process.kill()
    process.communicate()
    let_go(copy)
    (folder,) = (path.parent for path in copy.glob("runs/*/finetune/*/status.json"))
    assert not json.loads((folder / "status.json").read_text())["finished"]
    done = called(*arguments(tiny_data, **long), cwd=copy)
    assert "going on after step " in done.stderr
    copy_run(tiny_run, tmp_path / "whole")
    whole = finetuned(tmp_path / "whole", tiny_data, **long)
    ours, theirs = weights(folder), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert records(folder) == records(whole)
    assert (folder / "answers.csv").read_bytes() == (whole / "answers.csv").read_bytes()
    assert (folder / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()
    assert not (folder / "checkpoint.pt").exists()


def test_interrupted_it_saves_says_how_to_go_on_and_ends_with_130(
    copy: Path, tiny_data: Path
) -> None:
    command = [sys.executable, "-m", "vcsf_cli", *arguments(tiny_data, train__epochs=1000)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=copy, env=environment, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not list(copy.glob("runs/*/finetune/*/metrics.csv")):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, narration = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "interrupted; the same command goes on: vcsf finetune synthetic" in narration
    (path,) = copy.glob("runs/*/finetune/*/checkpoint.pt")
    assert checkpoint.load(path, KIND)["position"]["step"] >= 1


def records(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return [
            {key: value for key, value in row.items() if key not in TIMINGS}
            for row in csv.DictReader(file)
        ]


def test_the_best_epoch_on_held_out_recordings_is_taken(copy: Path, tiny_data: Path) -> None:
    """The first of the best; its weights are those of a training that ended there, and give its
    share again."""
    changes: dict[str, object] = {
        "train__choose": "best",
        "train__batch": 2,
        "optim__schedule": "constant",
    }
    changes["optim__lr"] = 1e-2
    folder = finetuned(
        copy, tiny_data, "--pathway", "slow", train__epochs=6, train__check_every=1, **changes
    )
    assert json.loads((folder / "status.json").read_text())["clips"] == {
        "learn": 4,
        "choose": 4,
        "test": 4,
    }
    shares = [
        float(row["slow_held_out_top1"]) for row in records(folder) if row["slow_held_out_top1"]
    ]
    assert len(shares) == 6
    best = int(np.argmax(shares)) + 1
    assert best < 6
    assert f"slow: epoch {best} chosen" in (copy / "said.txt").read_text()
    ended = finetuned(
        copy, tiny_data, "--pathway", "slow", train__epochs=best, train__check_every=best, **changes
    )
    assert all(torch.equal(value, weights(ended)[name]) for name, value in weights(folder).items())
    evaluation = classification(
        next(copy.glob("runs/*")), tiny_data, "train.choose=best", pathways=("slow",)
    )
    model = Classifier(evaluation.network(), evaluation.pathways, 2, 0.0, 0)
    model.load_state_dict(weights(folder))
    found = predict(
        evaluation, model, evaluation.splits.validation, Compute("cpu", workers=0), "centre"
    )
    right = (found["slow"].argmax(1) == evaluation.target[evaluation.splits.validation]).mean()
    assert right == pytest.approx(max(shares), abs=1e-6)


def test_with_the_last_epoch_all_training_clips_learn(copy: Path, tiny_data: Path) -> None:
    folder = finetuned(copy, tiny_data)
    assert json.loads((folder / "status.json").read_text())["clips"] == {
        "learn": 8,
        "choose": 0,
        "test": 4,
    }
    assert not [name for name in records(folder)[0] if "held_out" in name]


def swap_test_labels(folder: Path) -> None:
    """Call each test clip of split 1 what the other class is called."""
    rows = Manifest.open(folder).table.to_dict("records")
    names = sorted({row["label"] for row in rows})
    other = dict(zip(names, names[::-1], strict=True))
    changed = [{"label": other[row["label"]]} if row["split1"] == "test" else {} for row in rows]
    lists = [{"frame_offsets": list(row["frame_offsets"])} for row in rows]
    manifests.write(
        folder,
        [row | offsets | new for row, offsets, new in zip(rows, lists, changed, strict=True)],
    )


@pytest.mark.parametrize("mode", ["finetune", "linear", "knn"])
def test_labels_of_test_clips_change_nothing_but_the_score(
    mode: str, copy: Path, tiny_data: Path
) -> None:
    shutil.copytree(tiny_data, copy / "swapped")
    swap_test_labels(copy / "swapped" / "synthetic")
    found = []
    for data in (tiny_data, copy / "swapped"):
        before = set(copy.glob("runs/*/finetune/*/status.json"))
        words = arguments(data, train__choose="best", train__check_every=1)
        if mode != "finetune":
            words = ["finetune", "synthetic", f"--{mode}", "--data", str(data), "--workers", "0"]
            words += [word for setting in FAST if mode == "linear" for word in ("--set", setting)]
        called(*words, cwd=copy)
        found.append(({*copy.glob("runs/*/finetune/*/status.json")} - before).pop().parent)
    right, swapped = found
    answers = [pd.read_csv(folder / "answers.csv") for folder in found]
    assert answers[0].drop(columns="label").equals(answers[1].drop(columns="label"))
    assert (answers[0]["label"] != answers[1]["label"]).all()
    scores = [
        pd.read_csv(folder / "results.csv").query("metric == 'top1'")["value"] for folder in found
    ]
    assert (scores[0] + scores[1]).tolist() == pytest.approx([1, 1, 1])
    for name in ("sweep-slow.csv", "sweep-fast.csv") if mode != "finetune" else ():
        assert (right / name).read_bytes() == (swapped / name).read_bytes()
    if mode == "finetune":
        assert all(
            torch.equal(weights(right)[name], weights(swapped)[name]) for name in weights(right)
        )


def test_from_scratch_each_seed_is_another_network(
    copy: Path, tiny_data: Path, tiny_run: Path
) -> None:
    recipe = load(str(tiny_run / "recipe.yaml"))
    for seed in (0, 1):
        evaluation = Classification(
            UntrainedSource(tiny_run, recipe),
            Manifest.open(tiny_data / "synthetic"),
            1,
            protocol.load("cpu"),
            seed,
        )
        expected = build(load(str(tiny_run / "recipe.yaml"), [f"seed={seed}"])).state_dict()
        assert all(
            torch.equal(value, expected[name])
            for name, value in evaluation.network().state_dict().items()
        )
    source = f"scratch:{tiny_run / 'recipe.yaml'}"
    more = ("--from", source, "--runs", "fresh", "--seeds", "0,1")
    called(*arguments(tiny_data, *more, train__epochs=1), cwd=copy)
    rows = pd.read_csv(copy / "fresh" / f"tiny-{recipe.hash}" / "results.csv")
    assert set(rows["variant"]) == {"scratch"}
    assert sorted(rows["seed"].unique()) == [0, 1]


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        ({}, "vcsf-pretrain", "a checkpoint of kind 'vcsf-pretrain', not of 'vcsf-finetune'"),
        (
            {"classes": ["a", "b", "c"], "job": "{}"},
            KIND,
            "tells 3 classes apart, synthetic has 2 others",
        ),
        ({"classes": ["Run", "Bow"], "job": "{}"}, KIND, ""),
    ],
)
def test_a_checkpoint_of_another_kind_or_of_other_classes_is_refused(
    content: dict[str, Any], kind: str, said: str, copy: Path, tiny_data: Path
) -> None:
    evaluation = classification(next(copy.glob("runs/*")), tiny_data)
    if not said:
        content, said = content | {"classes": evaluation.classes}, "is another fine-tuning's"
    evaluation.folder.mkdir(parents=True)
    checkpoint.save(evaluation.folder / "checkpoint.pt", content, kind)
    done = called(*arguments(tiny_data), cwd=copy, status=1)
    assert said in done.stderr
