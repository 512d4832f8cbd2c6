"""Pre-training through the command line: what a run leaves behind, and that no interruption changes
it."""

from __future__ import annotations

import csv
import json
import math
import os
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import KILLS, called
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trained import hold, let_go

import vcsf_cli
from vcsf_cli.cli import main
from vcsf_cli.config.recipe import load
from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.data import manifest as manifests
from vcsf_cli.data.clips import TwoViewClips, pathway_inputs
from vcsf_cli.data.loader import ResumableBatchSampler, training_loader
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.errors import RunError
from vcsf_cli.model.parts import build_sampler
from vcsf_cli.model.pathways import build
from vcsf_cli.runs.restore import load_checkpoint
from vcsf_cli.runs.run import read_run
from vcsf_cli.storage import checkpoint

SETTINGS = {
    "name": "tiny",
    "train.batch": 2,
    "train.epochs": 6,
    "train.log_every": 2,
    "train.check_every": 2,
    "loss.queue": 4,
    "backbone.channels": "[4, 4, 8, 8]",
    "head.hidden": 8,
    "head.dim": 4,
}
STEPS = 24
TIMINGS = {"clips_per_second", "data_wait"}


def arguments(data: Path, runs: Path, **changes: object) -> list[str]:
    """`pretrain smoke` with the settings above and changes, where `train__epochs` means
    `train.epochs`."""
    settings = SETTINGS | {key.replace("__", "."): value for key, value in changes.items()}
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return ["pretrain", "smoke", *sets, "--data", str(data), "--runs", str(runs), "--workers", "1"]


def only_run(runs: Path) -> Path:
    (folder,) = (path for path in runs.iterdir() if path.is_dir())
    return folder


def state(run: Path) -> dict[str, torch.Tensor]:
    """All tensors of a run's checkpoint by their path in it."""
    found: dict[str, torch.Tensor] = {}

    def gather(node: Any, path: str) -> None:
        if isinstance(node, torch.Tensor):
            found[path] = node
        elif isinstance(node, dict):
            for key, value in node.items():
                gather(value, f"{path}/{key}")

    saved = checkpoint.load(run / "checkpoint.pt")
    gather({"task": saved["task"], "optimizer": saved["optimizer"]}, "")
    return found


def records(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return [
            {key: value for key, value in row.items() if key not in TIMINGS}
            for row in csv.DictReader(file)
        ]


def assert_same(run: Path, other: Path) -> None:
    """Equal to the last bit, but for times."""
    ours, theirs = state(run), state(other)
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    assert records(run) == records(other)


@pytest.fixture(scope="module")
def whole(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    done = called(*arguments(tiny_data, Path("runs")), cwd=folder)
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    run = only_run(folder / "runs")
    assert last == f"next: vcsf retrieve --from {run.name} --k 1,5,10 --data {tiny_data}"
    return run


def test_a_run_folder_remembers_everything(whole: Path, tiny_data: Path) -> None:
    resolved = load(str(whole / "recipe.yaml"))
    assert whole.name == f"tiny-{resolved.hash}"
    environment = json.loads((whole / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__.partition("+")[0]
    status = json.loads((whole / "status.json").read_text())
    assert (status["finished"], status["steps"], status["dataset"]) == (True, STEPS, "synthetic")
    assert status["data_hash"] == Manifest.open(tiny_data / "synthetic").hash
    assert not [path for path in whole.rglob("*") if "partial" in path.name]


def test_with_the_channel_first_in_memory_it_is_the_same_run_with_the_same_losses(
    whole: Path, tiny_data: Path, tmp_path: Path
) -> None:
    called(*arguments(tiny_data, Path("runs"), speed__channels_last="false"), cwd=tmp_path)
    other = only_run(tmp_path / "runs")
    assert "channels_last: false" in (other / "recipe.yaml").read_text()
    assert other.name == whole.name
    first, last = (pd.read_csv(run / "metrics.csv")["loss"].dropna() for run in (other, whole))
    assert first.tolist() == pytest.approx(last.tolist(), rel=1e-4)
    fingerprints = [
        [entry["prefix"] for entry in json.loads((run / "stages.json").read_text())]
        for run in (other, whole)
    ]
    assert fingerprints[0] == fingerprints[1]


def test_metrics_are_in_a_table_and_in_tensorboard(whole: Path) -> None:
    with (whole / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    logged = [row for row in rows if row["loss"]]
    assert [int(row["step"]) for row in logged] == list(range(2, STEPS + 1, 2))
    wanted = ("loss", "own_key_accuracy", "alignment", "uniformity", "effective_rank")
    for row in logged:
        assert all(
            math.isfinite(float(row[f"{pathway}_{name}"]))
            for pathway in ("slow", "fast")
            for name in wanted
        )
        assert float(row["loss"]) == pytest.approx(
            float(row["slow_loss"]) + float(row["fast_loss"]), abs=1e-5
        )
        assert float(row["clips_per_second"]) > 0
        assert 0 <= float(row["data_wait"]) <= 1
    checks = [row for row in rows if row["both_check_R@1"]]
    assert [int(row["step"]) for row in checks] == [0, 8, 16, 24]
    assert all(
        0 <= float(row[f"{pathway}_check_{metric}"]) <= 1
        for row in checks
        for pathway in ("slow", "fast", "both")
        for metric in ("R@1", "kNN")
    )
    board = EventAccumulator(str(whole / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss")] == [int(row["step"]) for row in logged]
    assert [event.value for event in board.Scalars("lr")] == pytest.approx(
        [float(row["lr"]) for row in logged], abs=1e-6
    )


def test_the_same_command_on_a_finished_run_changes_nothing(whole: Path, tiny_data: Path) -> None:
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    done = called(*arguments(tiny_data, Path("runs")), cwd=whole.parent.parent)
    assert f"run {whole.name} is finished" in done.stderr
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


def started(
    folder: Path, data: Path, *more: str, epochs: object = SETTINGS["train.epochs"], **options: Any
) -> subprocess.Popen[str]:
    """A training in a process of its own, which saves after every step."""
    command = [
        sys.executable,
        "-m",
        "vcsf_cli",
        *arguments(data, Path("runs"), train__epochs=epochs),
    ]
    command += ["--save-every", "0", *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, **options
    )


def wait_for_steps(process: subprocess.Popen[str], folder: Path, steps: int) -> None:
    """Until so many steps more are saved than before, or it ends."""
    position = 0
    while process.poll() is None and position < steps:
        found = list(folder.glob("runs/*/checkpoint.pt"))
        if found:
            position = checkpoint.load(found[0])["position"]["step"]
        time.sleep(0.005)


def test_killed_at_any_moment_it_goes_on_to_the_same_bits(
    whole: Path, tiny_data: Path, tmp_path: Path
) -> None:
    moments = random.Random(1)
    targets = sorted(moments.randrange(STEPS - 4) for _ in range(KILLS))
    hold(tmp_path, STEPS - 2)
    before = 0
    for target in targets:
        process = started(tmp_path, tiny_data)
        wait_for_steps(process, tmp_path, target)
        time.sleep(
            moments.random() * (0.05 if target > before else 4.0)
        )  # there, or while it starts
        process.kill()
        before = target
        process.communicate()
    let_go(tmp_path)
    run = only_run(tmp_path / "runs")
    position = checkpoint.load(run / "checkpoint.pt")["position"]
    assert targets[-1] <= position["step"] < STEPS
    done = called(*arguments(tiny_data, Path("runs")), cwd=tmp_path)
    assert f"going on after step {position['step']}" in done.stderr
    assert_same(run, whole)
    environment = json.loads((run / "environment.json").read_text())
    assert environment["command"][:3] == ["vcsf", "pretrain", "smoke"]


def test_clusters_of_a_bank_and_an_auxiliary_loss_go_on_to_the_same_bits(
    tiny_data: Path, tmp_path: Path
) -> None:
    clusters = "{name: cross_pathway_clusters, clusters: 3, cluster_every: 2, probability: 0.5}"
    auxiliary = "[{name: temporal_contrast, segments: 2, global_local: 0}]"
    settings = {"loss": clusters, "auxiliary_losses": auxiliary}
    called(*arguments(tiny_data, Path("whole"), **settings), cwd=tmp_path)
    whole = only_run(tmp_path / "whole")
    logged = [row for row in records(whole) if row["loss"]]
    assert logged[-1]["step"] == "20"  # one epoch fills it
    assert all(0 <= float(row["slow_mined"]) <= 7 for row in logged)
    assert any(float(row["slow_mined_share"]) > 0 for row in logged)
    hold(tmp_path, 10)
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    process = started(tmp_path, tiny_data, *sets)
    wait_for_steps(process, tmp_path, 7)
    process.kill()
    process.communicate()
    let_go(tmp_path)
    done = called(*arguments(tiny_data, Path("runs"), **settings), cwd=tmp_path)
    assert "going on after step" in done.stderr
    assert_same(only_run(tmp_path / "runs"), whole)


def test_more_clusters_than_clips_are_an_error_before_training(
    tiny_data: Path, tmp_path: Path
) -> None:
    loss = "{name: cross_pathway_clusters, clusters: 8}"
    done = called(*arguments(tiny_data, Path("runs"), loss=loss), cwd=tmp_path, status=1)
    assert "loss `cross_pathway_clusters` needs 9 clips or more as it is set" in done.stderr
    assert not (tmp_path / "runs").exists()
    done = called(
        *arguments(tiny_data, Path("runs"), loss="{name: cross_pathway_clusters, clusters: 1}"),
        cwd=tmp_path,
        status=2,
    )
    assert "loss.clusters" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_saves_says_how_to_go_on_and_ends_with_130(
    number: int, whole: Path, tiny_data: Path, tmp_path: Path
) -> None:
    hold(tmp_path, 1)
    process = started(tmp_path, tiny_data, "--save-every", "1000", start_new_session=True)
    log = tmp_path / "runs" / whole.name / "metrics.csv"
    while process.poll() is None and not (log.exists() and "\n2," in log.read_text()):
        time.sleep(0.005)
    os.killpg(
        process.pid, number
    )  # a terminal and a cluster's scheduler tell the processes that read as well
    let_go(tmp_path)
    _, narration = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "the same command goes on: vcsf pretrain smoke" in narration
    assert "Traceback" not in narration
    assert (
        checkpoint.load(tmp_path / "runs" / whole.name / "checkpoint.pt")["position"]["step"] >= 2
    )
    called(*arguments(tiny_data, Path("runs")), cwd=tmp_path)
    assert_same(tmp_path / "runs" / whole.name, whole)


def test_a_pathway_that_falls_below_its_untrained_value_is_warned_of(
    tiny_data: Path, tmp_path: Path
) -> None:
    """In the first stage of a new run, which `optim.lr` spoils."""
    words = arguments(tiny_data, tmp_path / "runs", optim__lr=1.0, train__check_every=1)
    said = called(*words, cwd=tmp_path).stderr
    table = pd.read_csv(only_run(tmp_path / "runs") / "metrics.csv")
    checks = {pathway: table[f"{pathway}_check_R@1"].dropna().to_numpy() for pathway in PATHWAYS}
    fell = [pathway for pathway, check in checks.items() if check.min() < check[0]]
    assert fell
    warned = [pathway for pathway in PATHWAYS if f"the {pathway} pathway's check R@1 is" in said]
    assert warned == fell


def test_a_polite_kill_during_checks_saves_too(tiny_data: Path, tmp_path: Path) -> None:
    process = started(
        tmp_path,
        tiny_data,
        "--save-every",
        "1000",
        "--set",
        "train.check_every=1",
        epochs=2000,
        start_new_session=True,
    )
    while process.poll() is None and not list(tmp_path.glob("runs/*/metrics.csv")):
        time.sleep(0.005)
    time.sleep(1)  # a check starts processes that read, which lasts longer than the steps between
    os.killpg(process.pid, signal.SIGTERM)
    _, narration = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in narration
    assert list(tmp_path.glob("runs/*/checkpoint.pt"))


def test_the_death_of_a_reader_is_one_error(tiny_data: Path, tmp_path: Path) -> None:
    process = started(tmp_path, tiny_data, epochs=2000)
    wait_for_steps(process, tmp_path, 1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    reader = next(
        int(child) for child in children if "pt_data" in Path(f"/proc/{child}/comm").read_text()
    )
    os.kill(reader, signal.SIGKILL)
    _, narration = process.communicate(timeout=300)
    assert process.returncode == 1
    before, found, behind = narration.partition("error: a process that reads clips died")
    assert found
    assert "Traceback" not in before  # torch may complain once more when it tidies up
    assert "--workers 0 does without" in behind


def test_the_number_of_workers_does_not_matter(
    whole: Path, tiny_data: Path, tmp_path: Path
) -> None:
    called(*arguments(tiny_data, Path("runs")), "--workers", 0, cwd=tmp_path)
    assert_same(only_run(tmp_path / "runs"), whole)


def test_a_full_disk_stops_with_one_error_and_the_run_goes_on_later(
    whole: Path, tiny_data: Path, tmp_path: Path
) -> None:
    limit = (
        40_000,
        40_000,
    )  # bytes of a file; with workers their shared memory would be what is full
    process = started(
        tmp_path,
        tiny_data,
        "--workers",
        "0",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    _, narration = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "error: " in narration
    assert "Traceback" not in narration
    assert not list((tmp_path / "runs" / whole.name).glob(".*partial"))
    called(*arguments(tiny_data, Path("runs")), cwd=tmp_path)
    assert_same(tmp_path / "runs" / whole.name, whole)


def test_too_few_open_files_are_one_error_and_no_hang(tiny_data: Path, tmp_path: Path) -> None:
    command = shlex.join([sys.executable, "-m", "vcsf_cli", *arguments(tiny_data, Path("runs"))])
    done = subprocess.run(
        ["bash", "-c", f"ulimit -n 40; {command}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 1
    assert "error: a process may open 40 files here, and --workers 1 needs 96" in done.stderr
    assert "Traceback" not in done.stderr
    # A limit that may be raised is raised.
    raised = f"ulimit -Sn 40; {command}"
    subprocess.run(["bash", "-c", raised], cwd=tmp_path, check=True, timeout=300)


def test_a_run_folder_that_is_removed_while_it_trains_is_one_error(
    tiny_data: Path, tmp_path: Path
) -> None:
    process = started(tmp_path, tiny_data, epochs=2000)
    wait_for_steps(process, tmp_path, 1)
    folder = only_run(tmp_path / "runs")
    folder.rename(tmp_path / "gone")
    _, narration = process.communicate(timeout=300)
    assert process.returncode == 1
    assert f"error: No such file or directory: runs/{folder.name}/" in narration
    assert "was it removed meanwhile?" in narration
    assert "Traceback" not in narration


def test_two_at_once_are_refused(tiny_data: Path, tmp_path: Path) -> None:
    process = started(tmp_path, tiny_data, epochs=1000)
    try:
        wait_for_steps(process, tmp_path, 1)
        done = called(
            *arguments(tiny_data, Path("runs"), train__epochs=1000), cwd=tmp_path, status=1
        )
        assert "is being trained by another process" in done.stderr
    finally:
        process.kill()
        process.communicate()


def test_a_lack_of_memory_is_one_error(tiny_data: Path, tmp_path: Path) -> None:
    words = arguments(tiny_data, Path("runs"), loss__queue=10**13)
    done = called(*words, "--workers", 0, cwd=tmp_path, status=1)
    assert "error: there is too little memory" in done.stderr


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_gpu_with_too_little_memory_is_one_error_before_and_in_training(
    more: tuple[str, ...], tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def update(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr("vcsf_cli.train.task.ema_update", update)
    words = arguments(tiny_data, Path("runs"))
    done = called(*words, "--workers", 0, *more, cwd=tmp_path, status=1)
    assert "cpu has too little memory: CUDA out of memory. Tried" in done.stderr
    assert "hint: set a smaller train.batch (now 2)" in done.stderr


@pytest.mark.parametrize("command", ["pretrain smoke", "finetune synthetic --linear", "plugins"])
def test_too_little_memory_for_torch_itself_is_one_error(command: str, tmp_path: Path) -> None:
    words = f"ulimit -v 1500000; {sys.executable} -m vcsf_cli {command}"
    done = subprocess.run(
        ["bash", "-c", words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "error: there is too little memory" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_loss_that_is_no_number_stops_with_the_batch_named(
    tiny_data: Path, tmp_path: Path
) -> None:
    done = called(*arguments(tiny_data, Path("runs"), optim__lr=1e30), cwd=tmp_path, status=1)
    assert "error: the loss is nan at step" in done.stderr
    batch = json.loads((only_run(tmp_path / "runs") / "bad_batch.json").read_text())
    assert len(batch["videos"]) == 2
    assert set(batch["videos"]) <= set(Manifest.open(tiny_data / "synthetic").table["video"])
    assert batch["videos"][0] in done.stderr


def test_other_data_under_the_same_name_is_refused(
    whole: Path, tiny_data: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(whole.parent, runs)
    called(
        "prepare",
        "synthetic",
        "--classes",
        2,
        "--groups",
        3,
        "--clips",
        2,
        "--frames",
        20,
        "--height",
        32,
        "--seed",
        1,
        cwd=tmp_path,
    )
    done = called(*arguments(tmp_path / "data", runs), cwd=tmp_path, status=1)
    assert "was begun on other data" in done.stderr


def test_a_damaged_checkpoint_is_told_and_left_alone(
    whole: Path, tiny_data: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(whole.parent, runs)
    run = only_run(runs)
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"finished": False}))
    (run / "checkpoint.pt").write_bytes((whole / "checkpoint.pt").read_bytes()[:5000])
    done = called(*arguments(tiny_data, runs), cwd=tmp_path, status=1)
    assert "checkpoint.pt is damaged" in done.stderr
    assert (run / "checkpoint.pt").stat().st_size == 5000


def test_the_checkpoint_of_a_training_on_other_data_is_refused(whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / whole.name)
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps(status | {"data_hash": "of other data"}))
    with pytest.raises(RunError, match="it was trained with another data"):
        load_checkpoint(read_run(folder))


@pytest.mark.parametrize(
    "changes", [{"optim__lr": 0.5}, {"head__dim": 6}], ids=["optimiser", "network"]
)
def test_another_runs_checkpoint_is_refused(
    changes: dict[str, object], whole: Path, tiny_data: Path, tmp_path: Path
) -> None:
    called(*arguments(tiny_data, Path("runs"), **changes), cwd=tmp_path)
    run = only_run(tmp_path / "runs")
    shutil.copy(whole / "checkpoint.pt", run / "checkpoint.pt")
    said = "checkpoint.pt is another run's: it was trained with another recipe"
    assert (
        said
        in called(
            "retrieve", "--from", run.name, "--data", tiny_data, cwd=tmp_path, status=1
        ).stderr
    )
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"finished": False}))
    assert (
        said
        in called(*arguments(tiny_data, Path("runs"), **changes), cwd=tmp_path, status=1).stderr
    )


def test_test_clips_are_never_read(whole: Path, tiny_data: Path, tmp_path: Path) -> None:
    """With every frame of every test clip overwritten, the training and its checks are the same to
    the last bit."""
    shutil.copytree(tiny_data, tmp_path / "data")
    manifest = Manifest.open(tmp_path / "data" / "synthetic")
    for row in manifest.part(1, "test"):
        clip = manifest.table.iloc[row]
        with (manifest.folder / f"shard-{clip['shard']:06d}.tar").open("r+b") as shard:
            shard.seek(clip["offset"])
            shard.write(bytes(clip["bytes"]))
    called(*arguments(tmp_path / "data", Path("runs")), cwd=tmp_path)
    assert_same(only_run(tmp_path / "runs"), whole)


def test_a_damaged_shard_is_told_in_one_line(tiny_data: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    shard = tmp_path / "data" / "synthetic" / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[:20_000])
    done = called(*arguments(tmp_path / "data", Path("runs")), cwd=tmp_path, status=1)
    assert "error: " in done.stderr
    assert "shard-000000.tar is damaged: it is too short for " in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr


def test_labels_change_what_is_watched_and_nothing_that_is_learned(
    whole: Path, tiny_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    folder = tmp_path / "data" / "synthetic"
    rows = Manifest.open(folder).table.to_dict("records")
    manifests.write(
        folder, [row | {"label": None, "frame_offsets": list(row["frame_offsets"])} for row in rows]
    )
    called(*arguments(tmp_path / "data", Path("runs")), cwd=tmp_path)
    run = only_run(tmp_path / "runs")
    ours, theirs = state(run), state(whole)
    assert [
        key
        for key in ours
        if not key.endswith("queue/label") and not torch.equal(ours[key], theirs[key])
    ] == []
    assert "both_check_R@1" not in records(run)[0]


def test_a_pathway_that_is_not_trained_stays_as_it_is(tiny_data: Path, tmp_path: Path) -> None:
    called(
        *arguments(tiny_data, Path("runs"), train__pathways="[slow]", train__epochs=1), cwd=tmp_path
    )
    run = only_run(tmp_path / "runs")
    untrained = build(load(str(run / "recipe.yaml"))).state_dict()
    trained = checkpoint.load(run / "checkpoint.pt")["task"]["model"]
    changed = {
        key.partition(".")[0] for key in trained if not torch.equal(trained[key], untrained[key])
    }
    assert changed == {"slow"}


def test_nine_calls_at_most_lead_from_the_command_to_the_backbone(
    tiny_data: Path, tmp_path: Path
) -> None:
    depths = []

    def measure(module: torch.nn.Module, _: object) -> None:
        names = [
            frame.name
            for frame in traceback.extract_stack()
            if Path(vcsf_cli.__file__).parent in Path(frame.filename).parents
        ]
        if isinstance(getattr(module, "channels", None), tuple | list) and "step" in names:
            depths.append(len(names) - names.index("command"))

    hook = torch.nn.modules.module.register_module_forward_pre_hook(measure)
    try:
        assert main(arguments(tiny_data, tmp_path / "runs", train__epochs=1)) == 0
    finally:
        hook.remove()
    assert depths
    assert max(depths) <= 9


VIEWS = [
    {"augment__draws": "separate"},
    {"augment__erase": 0.5},
    {"sampler__windows": "independent"},
    {"sampler__speeds": "[1, 2]", "sampler__near": 1},
    {"slow__input": "difference", "fast__input": "rgb"},
]


@pytest.mark.parametrize("changes", VIEWS, ids=lambda changes: "+".join(changes))
def test_every_kind_of_view_trains_and_is_another_training(
    changes: dict[str, object], whole: Path, tiny_data: Path, tmp_path: Path
) -> None:
    called(*arguments(tiny_data, Path("runs"), **changes), cwd=tmp_path)
    run = only_run(tmp_path / "runs")
    assert [row["loss"] for row in records(run)] != [row["loss"] for row in records(whole)]
    assert all(torch.isfinite(value).all() for value in state(run).values())


def test_pathways_share_or_separate_colours_and_windows_as_the_recipe_says(tiny_data: Path) -> None:
    manifest = Manifest.open(tiny_data / "synthetic")

    def windows(*assignments: str) -> dict[str, torch.Tensor]:
        recipe = load(
            "smoke",
            ["augment.base=1.0", "augment.colour=1.0", "sampler.same_window=0.0", *assignments],
        )
        stage, rows = recipe.first_stage, manifest.part(1, "train")
        clips = TwoViewClips(manifest, build_sampler(stage), stage.augment, 32, 0)
        (batch,) = training_loader(clips, ResumableBatchSampler(rows, 8, 0, 0, 1), 0, pin=False)
        return pathway_inputs(batch, 0, ["slow", "fast"], torch.device("cpu"), channels_last=True)

    shared = windows()
    assert shared["slow"] is shared["fast"]
    apart = windows("augment.draws=separate")
    assert apart["slow"].shape == apart["fast"].shape == shared["slow"].shape
    assert not torch.equal(apart["slow"], apart["fast"])
    independent = windows("sampler.windows=independent")
    assert independent["slow"].shape == shared["slow"].shape
    assert not torch.equal(independent["slow"], independent["fast"])


def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    tiny_data: Path, tmp_path: Path
) -> None:
    done = called(*arguments(tiny_data, Path("runs")), "--dry-run", cwd=tmp_path)
    (tmp_path / "printed.yaml").write_text(done.stdout)
    printed = load(str(tmp_path / "printed.yaml"))
    assert f"run folder: runs/tiny-{printed.hash}" in done.stderr
    for name in ("slow", "fast"):
        count = sum(weight.numel() for weight in build(printed).pathway(name).parameters())
        assert re.search(
            rf"^{name}: {count:,} parameters \(.*\), 0\.\d+ GFLOPs a clip \(backbone 0\.\d+, motion ",
            done.stderr,
            re.M,
        )
    assert "stage 1: 8 clips an epoch, 6 epochs, " in done.stderr
    assert "estimated time: " in done.stderr
    assert "extrapolated from a few batches" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_what_is_wrong_with_a_recipe_is_said_before_data_is_looked_for(tmp_path: Path) -> None:
    done = called(
        "pretrain",
        "smoke",
        "--set",
        "loss.temprature=1",
        "--set",
        "train.epoch=1",
        cwd=tmp_path,
        status=2,
    )
    assert "2 problems" in done.stderr
    assert "did you mean `temperature`?" in done.stderr
    assert "did you mean `epochs`?" in done.stderr
    done = called("pretrain", "smoke", "--set", "sampler.alpha=3", cwd=tmp_path, status=2)
    assert "does not divide" in done.stderr
    assert "vcsf prepare synthetic" in called("pretrain", "smoke", cwd=tmp_path, status=2).stderr


def test_fewer_clips_than_a_batch(tiny_data: Path, tmp_path: Path) -> None:
    done = called(*arguments(tiny_data, Path("runs"), train__batch=9), cwd=tmp_path, status=1)
    assert "has 8 clips to train on in split 1, fewer than a batch of 9" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_every_epoch_is_a_permutation_and_goes_on_from_any_batch() -> None:
    rows = np.array([3, 5, 8, 9, 11])
    order = list(ResumableBatchSampler(rows, 2, seed=4, first_epoch=0, last_epoch=3))
    assert len(order) == len(ResumableBatchSampler(rows, 2, 4, 0, 3)) == 6
    for epoch in range(3):
        keys = [key for batch in order[2 * epoch : 2 * epoch + 2] for key in batch]
        assert {key[0] for key in keys} == {epoch}
        assert len({key[1] for key in keys}) == 4
        assert {key[1] for key in keys} <= set(rows.tolist())
    assert order[0] != [(0, row) for _, row in order[2]]
    assert list(ResumableBatchSampler(rows, 2, 4, 1, 3, offset=1)) == order[3:]


def test_a_clip_depends_on_seed_epoch_and_video_alone(tiny_data: Path) -> None:
    manifest = Manifest.open(tiny_data / "synthetic")
    stage = load("smoke").first_stage

    def clip(seed: int, key: tuple[int, int]) -> bytes:
        item = TwoViewClips(manifest, build_sampler(stage), stage.augment, 32, seed)[key]
        return item["frames"].tobytes() + item["colour"].tobytes()

    first = clip(0, (2, 1))
    assert clip(0, (2, 1)) == first
    assert len({first, clip(1, (2, 1)), clip(0, (3, 1)), clip(0, (2, 2))}) == 4
