"""Stages: which weights feed which, what is frozen, what waits for the queue, and stages shared
between runs."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import called
from trained import hold, let_go

from vcsf_cli.config.recipe import load
from vcsf_cli.data.clips import TwoViewClips
from vcsf_cli.data.loader import ResumableBatchSampler, training_loader
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.model.parts import build_sampler
from vcsf_cli.runs.run import run_folder
from vcsf_cli.runs.stages import stage_fingerprint
from vcsf_cli.storage import checkpoint
from vcsf_cli.train.checks import training_rows
from vcsf_cli.train.compute import Compute
from vcsf_cli.train.task import PretrainTask

RECIPE = """
extends: smoke
name: {name}
data: {{name: synthetic}}
backbone: {{channels: [4, 4, 8, 8]}}
head: {{hidden: 8, dim: 4}}
loss: {{queue: 4}}
train: {{batch: 2, epochs: 2, log_every: 1, check_every: 0}}
stages:
  - {{}}
  - {{loss: &mined {{name: cross_pathway, queue: 6, neighbours: 2}}, train: {{pathways: [slow], epochs: {epochs}}}}}
  - {{loss: *mined, train: {{pathways: [fast], epochs: 2}}, optim: {{lr: 1e-2}}}}
"""


def test_a_fingerprint_depends_on_data_seed_and_the_stages_so_far() -> None:
    stages = "stages=[{}, {loss: {queue: 8}}]"
    recipe, data = load("smoke", [stages]), "data"
    first = stage_fingerprint(recipe, 1, data)
    assert stage_fingerprint(load("smoke", ["stages=[{}]", "name=other"]), 1, data) == first
    assert stage_fingerprint(load("smoke", [stages.replace("8", "9")]), 1, data) == first
    assert stage_fingerprint(load("smoke", [stages, "seed=1"]), 1, data) != first
    assert stage_fingerprint(load("smoke", [stages, "optim.lr=0.1"]), 1, data) != first
    assert stage_fingerprint(recipe, 1, "other data") != first
    assert stage_fingerprint(recipe, 2, data) != first


TIMES = ("clips_per_second", "data_wait")


def write(folder: Path, name: str = "staged", epochs: int = 2) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(RECIPE.format(name=name, epochs=epochs))
    return path


def pretrain(recipe: Path, data: Path, *more: str, status: int = 0) -> tuple[Path, str]:
    """The run folder, and what was said."""
    command = ("pretrain", recipe, "--data", data, "--workers", 0, *more)
    said = called(*command, cwd=recipe.parent, status=status).stderr
    return recipe.parent / run_folder(Path("runs"), load(str(recipe))), said


@pytest.fixture(scope="module")
def whole(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("staged")
    run, said = pretrain(write(folder), tiny_data)
    assert "stage 2 of 3: cross_pathway, slow, 2 epochs" in said
    return run


def entries(run: Path) -> list[dict[str, object]]:
    return json.loads((run / "stages.json").read_text())


def logged(run: Path) -> list[dict[str, str]]:
    """The records of `metrics.csv`, but for what the clock says."""
    with (run / "metrics.csv").open(newline="") as file:
        return [
            {k: v for k, v in row.items() if k not in TIMES and v} for row in csv.DictReader(file)
        ]


def weights(run: Path, stage: int) -> dict[str, torch.Tensor]:
    return checkpoint.load(run / f"stage-{stage}.pt", "vcsf-stage")["model"]


def test_the_manifest_says_which_weights_fed_which_stage(whole: Path) -> None:
    first, second, third = entries(whole)
    assert [entry["trains"] for entry in (first, second, third)] == [
        ["slow", "fast"],
        ["slow"],
        ["fast"],
    ]
    assert [entry["loss"] for entry in (first, second, third)] == [
        "infonce",
        "cross_pathway",
        "cross_pathway",
    ]
    assert second["weights_before"] == first["weights_after"]
    assert third["weights_before"] == second["weights_after"]
    assert second["weights_after"]["fast"] == first["weights_after"]["fast"]
    assert second["weights_after"]["slow"] != first["weights_after"]["slow"]
    assert third["weights_after"]["slow"] == second["weights_after"]["slow"]
    assert third["weights_after"]["fast"] != second["weights_after"]["fast"]
    assert first["weights_before"]["slow"] != first["weights_after"]["slow"]


def test_a_frozen_pathway_changes_neither_weights_nor_statistics(whole: Path) -> None:
    before, after = weights(whole, 1), weights(whole, 2)
    changed = {key.partition(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"slow"}
    final = checkpoint.load(whole / "checkpoint.pt")["task"]["model"]
    assert all(torch.equal(final[key], value) for key, value in weights(whole, 3).items())


def test_no_step_is_taken_until_the_queue_is_full(whole: Path) -> None:
    """8 clips in batches of 2: stage 1 has 2 x 4 steps, the others fill 6 slots with 3 batches and
    take 5 steps."""
    assert [entry["steps"] for entry in entries(whole)] == [8, 13, 18]
    with (whole / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, 19))
    assert [float(row["epoch"]) for row in rows if row["stage"] == "2"] == [
        1.0,
        1.25,
        1.5,
        1.75,
        2.0,
    ]
    mined = [row for row in rows if row["stage"] == "2"]
    assert all(row["slow_mined_share"] and not row["fast_mined_share"] for row in mined)
    assert all(0 <= float(row["slow_monitoring_mined_precision"]) <= 1 for row in mined)
    assert all(0 <= float(row["agreement"]) <= 1 for row in mined)


def test_a_stage_inherits_what_it_does_not_name(whole: Path) -> None:
    stages = load(str(whole / "recipe.yaml")).stages
    assert [stage.train.batch for stage in stages] == [2, 2, 2]
    assert [stage.optim.lr for stage in stages] == [3e-3, 3e-3, 1e-2]
    assert [stage.loss.settings["queue"] for stage in stages] == [4, 6, 6]


def task_of(
    recipe: Path, data: Path, stage: int
) -> tuple[PretrainTask, list[dict[str, torch.Tensor]]]:
    """A fresh task of a stage, on the weights of the stage before, and some batches."""
    resolved, manifest = load(str(recipe)), Manifest.open(data / "synthetic")
    rows = training_rows(resolved, manifest)
    from vcsf_cli.model.pathways import build

    torch.manual_seed(0)
    model = build(resolved)
    task = PretrainTask(
        resolved, resolved.stages[stage], model, manifest, rows, Compute("cpu").fabric(), 0
    )
    clips = TwoViewClips(
        manifest, build_sampler(resolved.first_stage), resolved.first_stage.augment, 32, 0
    )
    return task, list(training_loader(clips, ResumableBatchSampler(rows, 2, 0, 0, 2), 0, pin=False))


def test_a_phase_begins_with_equal_encoders_and_an_empty_queue(
    tiny_data: Path, tmp_path: Path
) -> None:
    task, batches = task_of(write(tmp_path), tiny_data, 1)
    ours, theirs = task.model.state_dict(), task.key_encoder.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert (task.queue.get_buffer("video") == -1).all()
    assert not task.model.fast.training
    assert not task.key_encoder.fast.training
    assert task.model.slow.training
    frozen = {key: value.clone() for key, value in task.key_encoder.fast.state_dict().items()}
    for batch in batches[:3]:
        assert list(task.step(batch)) == []
    before = {key: value.clone() for key, value in task.key_encoder.slow.state_dict().items()}
    ((share, terms),) = task.step(batches[3])
    assert share == 1
    terms["loss"].backward()
    task.after_step()
    assert all(
        torch.equal(frozen[key], value) for key, value in task.key_encoder.fast.state_dict().items()
    )
    assert any(
        not torch.equal(before[key], value)
        for key, value in task.key_encoder.slow.state_dict().items()
    )
    assert all(weight.grad is None for weight in task.model.fast.parameters())


@pytest.mark.parametrize("stage", [2, 3])
def test_killed_inside_a_stage_it_goes_on_to_the_same_bits(
    whole: Path, tiny_data: Path, tmp_path: Path, stage: int
) -> None:
    recipe = write(tmp_path)
    command = [sys.executable, "-m", "vcsf_cli", "pretrain", str(recipe), "--data", str(tiny_data)]
    hold(tmp_path, 8 * (stage - 1) + 3)
    process = subprocess.Popen(
        [*command, "--save-every", "0", "--workers", "0"],
        cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    path = tmp_path / "runs" / whole.name / "checkpoint.pt"
    while process.poll() is None:
        if path.exists() and checkpoint.load(path)["position"]["stage"] + 1 == stage:
            break
        time.sleep(0.002)
    process.kill()
    process.wait()
    let_go(tmp_path)
    assert checkpoint.load(path)["position"]["stage"] + 1 == stage
    run, _ = pretrain(recipe, tiny_data)
    assert all(torch.equal(value, weights(run, 3)[key]) for key, value in weights(whole, 3).items())
    for ours, theirs in zip(entries(run), entries(whole), strict=True):
        assert {k: v for k, v in ours.items() if k not in ("begun", "ended")} == {
            k: v for k, v in theirs.items() if k not in ("begun", "ended")
        }


def test_stages_that_another_run_has_trained_are_taken_from_it(
    whole: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """Only stage 2 differs: stage 1 is taken, and what comes of it equals a training from the
    start."""
    first, _ = pretrain(write(tmp_path), tiny_data)
    damaged = tmp_path / "runs" / "a-damaged-run"
    damaged.mkdir()
    (damaged / "stages.json").write_text("[{")
    recipe = write(tmp_path, "other", epochs=3)
    other, said = pretrain(recipe, tiny_data)
    assert f"stage 1 is the same as those of run {first.name}: its weights are taken" in said
    assert "stage 1 of 3" not in said
    assert [entry["trained_by"] for entry in entries(other)] == [first.name, other.name, other.name]
    assert entries(other)[2]["steps"] == 8 + 9 + 5
    alone, said = pretrain(recipe, tiny_data, "--no-share-stages", "--runs", "alone")
    assert "its weights are taken" not in said
    alone = tmp_path / "alone" / other.name
    assert all(
        torch.equal(value, weights(alone, 3)[key]) for key, value in weights(other, 3).items()
    )
    assert logged(other) == logged(alone)


def test_a_log_that_is_taken_over_has_nothing_of_later_stages(
    whole: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """Steps stand still while the next stage fills its queue, and its checks are logged
    meanwhile."""
    recipe = write(tmp_path)
    recipe.write_text(
        recipe.read_text()
        .replace("check_every: 0", "check_every: 1")
        .replace("queue: 6", "queue: 10")
    )
    pretrain(recipe, tiny_data)
    alone = write(tmp_path, "alone")
    alone.write_text(
        recipe.read_text().partition("stages:")[0].replace("name: staged", "name: alone")
    )
    run, said = pretrain(alone, tiny_data)
    assert "its weights are taken" in said
    assert {row["stage"] for row in logged(run)} == {"1"}
    assert [row["epoch"] for row in logged(run) if "both_check_R@1" in row] == ["0.0", "1.0", "2.0"]


@pytest.mark.parametrize("harm", ["cut", "reshaped", "no list"])
def test_stages_that_can_not_be_used_are_told_and_trained(
    harm: str, whole: Path, tiny_data: Path, tmp_path: Path
) -> None:
    other = tmp_path / "runs" / "another"
    shutil.copytree(whole, other)
    path = other / "stage-1.pt"
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif harm == "reshaped":
        content = checkpoint.load(path, checkpoint.STAGE)
        content["model"]["slow.head.layers.0.weight"] = torch.zeros(3, 3)
        checkpoint.save(path, content, checkpoint.STAGE)
    else:
        (other / "stages.json").write_text('{"stage": 1}')
    run, said = pretrain(write(tmp_path, "other", epochs=3), tiny_data)
    assert "run another can't be taken: " in said
    assert [entry["trained_by"] for entry in entries(run)] == [run.name] * 3


@pytest.mark.parametrize("stages", [1, 3])
def test_a_run_whose_stages_were_all_trained_by_another_takes_them_and_is_finished(
    whole: Path, tiny_data: Path, tmp_path: Path, stages: int
) -> None:
    """A beginning of another run, and the same stages under another name."""
    first, _ = pretrain(write(tmp_path), tiny_data)
    recipe = write(tmp_path, "again")
    if stages == 1:
        recipe.write_text(recipe.read_text().partition("stages:")[0])
    again, said = pretrain(recipe, tiny_data)
    which = "stage 1 is" if stages == 1 else "stages 1 to 3 are"
    assert f"{which} the same as those of run {first.name}: its weights are taken" in said
    assert "infonce" not in said
    assert " steps" not in said
    assert entries(again) == entries(first)[:stages]
    trained = checkpoint.load(again / "checkpoint.pt")
    assert all(
        torch.equal(value, trained["task"]["model"][key])
        for key, value in weights(first, stages).items()
    )
    assert trained["position"]["step"] == entries(first)[stages - 1]["steps"]
    status = json.loads((again / "status.json").read_text())
    assert status["finished"]
    assert status["steps"] == trained["position"]["step"]
    assert logged(again) == [row for row in logged(first) if int(row["stage"]) <= stages]
    measured = called(
        "retrieve", "--from", again.name, "--data", tiny_data, "--workers", 0, cwd=tmp_path
    ).stdout
    assert "R@1" in measured
    page = (again / "retrieve/synthetic-split1/report.html").read_text()
    assert f"Stage {stages} is from run {first.name}, ended on " in page
    assert "is finished" in pretrain(recipe, tiny_data)[1]


def test_what_was_noted_before_the_first_checkpoint_is_forgotten(
    whole: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """A run that was killed right after it had taken stages over, and now trains them itself."""
    recipe = write(tmp_path)
    run = tmp_path / "runs" / whole.name
    run.mkdir(parents=True)
    foreign = [entry | {"trained_by": "another"} for entry in entries(whole)]
    (run / "stages.json").write_text(json.dumps(foreign))
    pretrain(recipe, tiny_data, "--no-share-stages")
    assert [entry["trained_by"] for entry in entries(run)] == [run.name] * 3
    assert all(torch.equal(value, weights(run, 3)[key]) for key, value in weights(whole, 3).items())


def test_a_changed_first_stage_is_trained_anew(
    whole: Path, tiny_data: Path, tmp_path: Path
) -> None:
    pretrain(write(tmp_path), tiny_data)
    _, said = pretrain(
        write(tmp_path, "other", epochs=3), tiny_data, "--set", "loss.temperature=0.2"
    )
    assert "its weights are taken" not in said


@pytest.mark.parametrize("queue", [15, 16])
def test_a_queue_that_is_never_full_in_time_is_told_before_training(
    queue: int, tiny_data: Path, tmp_path: Path
) -> None:
    """Two epochs are eight batches of two: the last fills a queue of 15 too, and none is left to
    learn from."""
    _, said = pretrain(
        write(tmp_path), tiny_data, "--set", f"stages.1.loss.queue={queue}", status=1
    )
    assert (
        "2 epochs of 8 clips have no batch left when it is full: nothing would be learned" in said
    )
    assert "--set stages.1.loss.queue=4" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("loss", "slots"),
    [
        ("{name: cross_pathway, queue: 4, neighbours: 4}", 4),
        ("{name: cross_pathway, queue: 0, neighbours: 1}", 1),  # of a batch of two
        ("{name: cross_pathway_bank, neighbours: 7}", 7),  # of eight clips
    ],
)
def test_positives_that_leave_nothing_to_tell_apart_are_refused(
    loss: str, slots: int, tiny_data: Path, tmp_path: Path
) -> None:
    _, said = pretrain(write(tmp_path), tiny_data, "--set", f"stages.1.loss={loss}", status=1)
    assert (
        f"nearest of {slots} keys as positives: nothing would be left to tell a clip from" in said
    )
    fewer = "--set stages.1.loss.neighbours=1 would be a tenth"
    assert (fewer if slots > 1 else "set loss.queue or train.batch higher") in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("loss", ["cross_pathway", "cross_instance", "supervised"])
def test_both_pathways_learn_together(loss: str, tiny_data: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "joint.yaml"
    text = RECIPE.format(name="joint", epochs=2).partition("stages:")[0]
    settings = "queue: 0, neighbours: 2" if loss == "cross_pathway" else "queue: 0"
    text = text.replace("loss: {queue: 4}", f"loss: {{name: {loss}, {settings}}}")
    recipe.write_text(text.replace("batch: 2", "batch: 4"))
    run, _ = pretrain(recipe, tiny_data)
    (entry,) = entries(run)
    assert entry["weights_before"]["slow"] != entry["weights_after"]["slow"]
    assert entry["weights_before"]["fast"] != entry["weights_after"]["fast"]
    assert json.loads((run / "status.json").read_text())["uses_labels"] == (loss == "supervised")
    done = called("retrieve", "--from", run.name, "--data", tiny_data, "--workers", 0, cwd=tmp_path)
    said = "labels were used in training: this is not self-supervised"
    assert (said in done.stderr) == (
        said in (run / "retrieve/synthetic-split1/report.md").read_text()
    )
    assert (said in done.stderr) == (loss == "supervised")
    variant = "trained_with_labels" if loss == "supervised" else "trained"
    assert variant in done.stdout
