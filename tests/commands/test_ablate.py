"""`vcsf ablate` as a user types it: rows trained and measured, stages shared, kills, failures,
tables."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Vcsf, called
from trained import ends, hold, let_go

from vcsf_cli.ablate import run as table_runs
from vcsf_cli.config import recipe as recipes
from vcsf_cli.config import strict_yaml
from vcsf_cli.data.manifest import Manifest, write
from vcsf_cli.errors import RunError
from vcsf_cli.runs.run import run_folder
from vcsf_cli.storage.files import lock
from vcsf_cli.storage.sealed import read_json, write_json

TINY = """
extends: smoke
name: tiny
data: {name: ucf10}
sampler: {frames: 16}
loss: {queue: 3}
train: {batch: 4, check_every: 0}
stages:
  - {}
  - &slow
    loss: {name: cross_pathway, queue: 3, neighbours: 2}
    train: {pathways: [slow]}
  - loss: {name: cross_pathway, queue: 3, neighbours: 2}
    train: {pathways: [fast]}
"""
BASE = ("--base", "tiny.yaml")
FEW = ("--devices", "cpu", "--workers", 0)
ROWS = ("--neighbours", "1,2")
KEPT = ("--cache", "memory") if Path("/dev/shm").is_dir() else ()
NAME = "tiny-no-motion-module-neighbours"


def prepared(folder: Path, tiny_data: Path) -> Path:
    """A folder with the recipe, and the tiny dataset as if it were a subset of UCF101, with a class
    whose name looks like nothing and clips whose names look like numbers."""
    (folder / "tiny.yaml").write_text(TINY)
    shutil.copytree(tiny_data / "synthetic", folder / "data" / "ucf10")
    set_kind(folder, "ucf101")
    clips = Manifest.open(folder / "data" / "ucf10").table.to_dict("records")
    first = clips[0]["label"]
    for number, clip in enumerate(clips):
        label = "None" if clip["label"] == first else clip["label"]
        clips[number] = clip | {
            "video": f"{number:04}",
            "label": label,
            "frame_offsets": list(clip["frame_offsets"]),
        }
    write(folder / "data" / "ucf10", clips)
    return folder


def set_kind(folder: Path, kind: str) -> None:
    """Let the dataset be one that `vcsf prepare KIND` made."""
    path = folder / "data" / "ucf10" / "settings.json"
    write_json(path, read_json(path, dict, "") | {"kind": kind})


def run_of(folder: Path, *assignments: str) -> Path:
    return run_folder(folder / "runs", recipes.load(str(folder / "tiny.yaml"), assignments))


ONE_NEIGHBOUR = ("stages.1.loss.neighbours=1", "stages.2.loss.neighbours=1")


@pytest.fixture(scope="module")
def made(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory, vcsf: Vcsf) -> Path:
    """A folder with three trained rows and their table, two worked on side by side; decoded frames
    are kept in memory where it can be shared."""
    folder = prepared(tmp_path_factory.mktemp("made"), tiny_data)
    options = ("--no-motion-module", *ROWS, "--devices", "cpu,cpu", "--workers", 0, *KEPT)
    done = vcsf("ablate", *BASE, *options, cwd=folder)
    (folder / "out.txt").write_text(done.stdout)
    (folder / "err.txt").write_text(done.stderr)
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def table_of(folder: Path, name: str) -> Path:
    """The folder of a table that options made."""
    (found,) = (folder / "runs" / "tables").glob(f"{name}-??????")
    return found


def numbers(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(table_of(folder, name) / "numbers.csv")


def test_the_plan_is_told_and_every_row_is_in_the_table(made: Path) -> None:
    said = (made / "err.txt").read_text()
    assert "3 rows = 3 runs, measured by retrieve" in said
    assert "full (neighbours 2), seed 0, split 1: " in said
    assert "2 epochs (stages 2 to 3; what comes before is shared or done), retrieve, about " in said
    assert "done: 0 of 3 runs" in said
    assert "estimated time: " in said
    assert "estimated disk: " in said
    table = (made / "out.txt").read_text()
    assert all(
        name in table
        for name in ("full (neighbours 2)", "no motion module", "neighbours 1", "R@1", "R@50")
    )
    folder = table_of(made, NAME)
    for name in ("table.csv", "table.md", "table.tex", "report.html", "numbers.csv", "rows.csv"):
        assert (folder / name).stat().st_size
    assert "<strong>" in (folder / "report.html").read_text()
    assert "vcsf pretrain" in (folder / "table.md").read_text()
    found = numbers(made, NAME)
    assert list(found["row"].unique()) == [
        "full (neighbours 2)",
        "no motion module",
        "neighbours 1",
    ]
    assert found[found["row"] == "full (neighbours 2)"]["difference"].isna().all()
    assert found[found["row"] != "full (neighbours 2)"]["difference"].notna().all()


@pytest.mark.skipif(not KEPT, reason="memory can't be shared here")
def test_runs_of_a_table_share_decoded_frames(made: Path) -> None:
    """The third run begins when another one has read all clips. The command itself keeps them too:
    between two runs no other process may be there."""
    logs = [path.read_text() for path in (table_of(made, NAME) / "logs").iterdir()]
    found = [re.findall(r"decoded frames: (\S+), .*; (\d+) of 12 are", log) for log in logs]
    (place,) = {place for each in found for place, _ in each}
    assert sorted(int(each[0][1]) for each in found)[-1] == 12
    assert f"decoded frames: {place}," in (made / "err.txt").read_text()
    assert not Path(place).exists()


def test_numbers_are_those_of_the_runs_own_results(made: Path) -> None:
    own = pd.read_csv(run_of(made) / "retrieve" / "ucf10-split1" / "results.csv")
    wanted = own[(own["pathway"] == "both") & (own["variant"] == "trained")].set_index("metric")[
        "value"
    ]
    found = numbers(made, NAME)
    assert (
        found[found["row"] == "full (neighbours 2)"].set_index("metric")["mean"].to_dict()
        == wanted.to_dict()
    )


def test_test_clips_that_are_seen_in_training_are_refused_before_any_work(copied: Path) -> None:
    """Measured on a copy of the data whose parts have changed places."""
    shutil.copytree(copied / "data" / "ucf10", copied / "data" / "swapped")
    other = {"train": "test", "test": "train"}
    clips = Manifest.open(copied / "data" / "swapped").table.to_dict("records")
    moved = [
        clip | {"split1": other[clip["split1"]], "frame_offsets": list(clip["frame_offsets"])}
        for clip in clips
    ]
    write(copied / "data" / "swapped", moved)
    words = ("ablate", *BASE, *ROWS, *FEW, "--measure", "knn:swapped")
    for runs in ("runs", "nothing_trained"):
        error = called(*words, "--runs", runs, cwd=copied, status=2).stderr
        assert "8 of 8 test clips of swapped split 1 were seen in training" in error
    done = called(*words, "--allow-seen", cwd=copied)
    (folder,) = (
        path.parent
        for path in copied.glob("runs/tables/*/table.md")
        if "swapped" in path.read_text()
    )
    note = "neighbours 1, knn on swapped, seed 0, split 1: 8 of 8 test clips seen in training"
    assert note in done.stderr
    for name in ("table.md", "table.tex", "report.html"):
        assert note in (folder / name).read_text()
    assert "neighbours 1 \N{DOUBLE DAGGER}" in (folder / "table.csv").read_text()
    assert set(pd.read_csv(folder / "rows.csv")["seen"]) == {8}
    assert "\N{DOUBLE DAGGER}" in called(*words, "--table-only", cwd=copied).stdout


def test_a_stage_that_rows_share_is_trained_once(made: Path) -> None:
    full, other = run_of(made), run_of(made, *ONE_NEIGHBOUR)
    trained_by = [entry["trained_by"] for entry in json.loads((other / "stages.json").read_text())]
    assert trained_by == [full.name, other.name, other.name]
    motionless = json.loads((run_of(made, "motion=none") / "stages.json").read_text())
    assert {entry["trained_by"] for entry in motionless} == {run_of(made, "motion=none").name}


def test_a_run_remembers_the_command_that_trains_it(made: Path) -> None:
    environment = json.loads((run_of(made, "motion=none") / "environment.json").read_text())
    assert environment["command"][:5] == ["vcsf", "pretrain", "tiny.yaml", "--set", "motion=none"]


def test_the_same_command_trains_nothing_again_and_table_only_is_the_same_table(
    copied: Path,
) -> None:
    folder = table_of(copied, NAME)
    before = {path.name: path.read_bytes() for path in folder.glob("*.*")}
    checkpoints = {path: path.stat().st_mtime_ns for path in copied.glob("runs/*/checkpoint.pt")}
    options = (*BASE, "--no-motion-module", *ROWS, *FEW)
    done = called("ablate", *options, cwd=copied)
    assert "done: 3 of 3 runs" in done.stderr
    assert {
        path: path.stat().st_mtime_ns for path in copied.glob("runs/*/checkpoint.pt")
    } == checkpoints
    for path in folder.glob("*.*"):
        path.unlink()
    called("ablate", *options, "--table-only", cwd=copied)
    assert {path.name: path.read_bytes() for path in folder.glob("*.*")} == before


def test_another_measurement_measures_without_training(copied: Path) -> None:
    checkpoints = {path: path.stat().st_mtime_ns for path in copied.glob("runs/*/checkpoint.pt")}
    options = (*BASE, *ROWS, "--measure", "retrieve,knn", *FEW)
    done = called("ablate", *options, cwd=copied)
    assert "trained, knn" in done.stderr
    assert {
        path: path.stat().st_mtime_ns for path in copied.glob("runs/*/checkpoint.pt")
    } == checkpoints
    found = numbers(copied, "tiny-neighbours")
    assert set(found["task"]) == {"retrieval", "knn"}
    for metric in ("top1", "R@1"):
        full, other = found[found["metric"] == metric].to_dict("records")
        assert np.isnan(full["difference"])
        assert other["difference"] == pytest.approx(other["mean"] - full["mean"])
        assert (other["clips"], other["places"]) == (4, 1)


def test_a_table_can_leave_one_out_and_cluster(copied: Path) -> None:
    measures = [
        {"task": "retrieve", "leave_one_out": True, "k": [1]},
        {"task": "clusters"},
        {"task": "knn", "leave_one_out": True},
    ]
    table = {"title": "t", "base": "tiny.yaml", "measure": measures}
    (copied / "measures.yaml").write_text(strict_yaml.dump(table))
    called("ablate", "measures.yaml", *FEW, cwd=copied)
    found = pd.read_csv(copied / "runs" / "tables" / "measures" / "numbers.csv")
    assert [*dict.fromkeys(zip(found["task"], found["metric"], strict=True))] == [
        ("retrieval-leave-one-out", "R@1"),
        ("clusters", "v_measure"),
        ("clusters", "nmi"),
        ("knn-leave-one-out", "top1"),
        ("knn-leave-one-out", "class_mean"),
    ]
    assert (
        "8 of 12 clips seen in training, without labels"
        in (copied / "runs" / "tables" / "measures" / "table.md").read_text()
    )
    logs = copied / "runs" / "tables" / "measures" / "logs"
    shutil.rmtree(logs)
    called("ablate", "measures.yaml", *FEW, cwd=copied)
    assert not logs.exists()  # nothing was left to do


def test_a_row_that_fails_is_told_and_the_others_go_on(copied: Path) -> None:
    broken = run_of(copied, "motion=none")
    status = json.loads((broken / "status.json").read_text())
    (broken / "status.json").write_text(
        json.dumps(status | {"finished": False, "data_hash": "other"})
    )
    shutil.rmtree(run_of(copied, *ONE_NEIGHBOUR) / "retrieve")
    options = (*BASE, "--no-motion-module", *ROWS, *FEW)
    done = called("ablate", *options, cwd=copied, status=1)
    assert "failed: no motion module, seed 0, split 1: run tiny-" in done.stderr
    assert "was begun on other data" in done.stderr
    assert "done: neighbours 1, seed 0, split 1" in done.stderr
    assert "error: 1 of 3 runs failed" in done.stderr
    assert (
        "Not finished: 2 of 3 measurements are there, not retrieve of no motion module, seed 0, "
        "split 1" in done.stderr
    )
    assert set(numbers(copied, NAME)["row"]) == {"full (neighbours 2)", "neighbours 1"}


def test_what_was_measured_of_something_else_is_measured_again(copied: Path) -> None:
    options = (*BASE, *ROWS, *FEW, "--dry-run")
    assert "done: 2 of 2 runs" in called("ablate", *options, cwd=copied).stdout
    called(
        "retrieve",
        "--from",
        run_of(copied),
        "--k",
        "1",
        "--workers",
        0,
        "--devices",
        "cpu",
        cwd=copied,
    )
    assert "done: 1 of 2 runs" in called("ablate", *options, cwd=copied).stdout
    with (run_of(copied, *ONE_NEIGHBOUR) / "checkpoint.pt").open("ab") as file:
        file.write(b"x")
    done = called("ablate", *options, cwd=copied)
    assert "done: 0 of 2 runs" in done.stdout
    assert done.stdout.count(": trained, retrieve") == 2


def test_a_damaged_run_is_passed_over(copied: Path) -> None:
    options = (*BASE, "--no-motion-module", *ROWS, *FEW)
    (run_of(copied, "motion=none") / "status.json").write_text("{brok")
    said = "status.json is damaged"
    done = called("ablate", *options, "--dry-run", cwd=copied)
    assert "can't be used: runs/tiny-" in done.stdout
    assert "done: 2 of 3 runs" in done.stdout
    for more in ((), ("--table-only",)):
        shutil.rmtree(table_of(copied, NAME))
        done = called("ablate", *options, *more, cwd=copied, status=0 if more else 1)
        assert set(numbers(copied, NAME)["row"]) == {"full (neighbours 2)", "neighbours 1"}
        assert (
            "2 of 3 measurements are there, not retrieve of no motion module, seed 0, split 1 ("
            in done.stderr
        )
        assert said in done.stderr


def test_a_measurement_that_fails_of_all_rows_withholds_no_other(copied: Path) -> None:
    (run_of(copied) / "finetune").write_text("no folder")
    text = "title: T\nbase: tiny.yaml\nrows: {a: {}}\nmeasure: [{task: retrieve}, {task: knn}]\n"
    (copied / "mine.yaml").write_text(text)
    done = called("ablate", "mine.yaml", *FEW, cwd=copied, status=1)
    assert "error: 1 of 1 runs failed" in done.stderr
    assert (
        "Not finished: 1 of 2 measurements are there, not knn of a, seed 0, split 1." in done.stderr
    )
    assert "R@1" in (copied / "runs" / "tables" / "mine" / "table.md").read_text()


def test_a_run_that_another_process_has_waits_for_it(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_runs, "RETRY_SECONDS", 0.5)
    run = run_of(copied, *ONE_NEIGHBOUR)
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"finished": False}))
    log = copied / "runs" / "tables" / "mine" / "logs" / f"{run.name}.log"

    def hold() -> None:
        with lock(run / "lock", RunError("")):
            while not log.is_file() or "by another process" not in log.read_text():
                time.sleep(0.05)

    loss = ", ".join(f"{name.replace('=', ': ')}" for name in ONE_NEIGHBOUR)
    (copied / "mine.yaml").write_text(
        f"title: T\nbase: tiny.yaml\nrows: {{a: {{}}, b: {{set: {{{loss}}}}}}}\n"
    )
    holder = threading.Thread(target=hold)
    holder.start()
    done = called("ablate", "mine.yaml", *FEW, cwd=copied)
    holder.join()
    assert "b, seed 0, split 1 is worked on by another process: it waits for that" in done.stderr
    assert "done: b, seed 0, split 1" in done.stderr
    assert json.loads((run / "status.json").read_text())["finished"]


def test_options_that_make_another_table_give_it_a_folder_of_its_own(
    tiny_data: Path, tmp_path: Path
) -> None:
    prepared(tmp_path, tiny_data)
    (tmp_path / "mine.yaml").write_text(
        "title: T\nbase: tiny.yaml\nrows: {a: {}, b: {set: {motion: none}}}\n"
    )

    def folder(*options: object) -> str:
        done = called("ablate", *options, "--dry-run", "--assume", "100", cwd=tmp_path)
        return done.stdout.splitlines()[0].rpartition("/")[2]

    assert folder("mine.yaml") == "mine"
    assert folder("--no-motion-module") == "vcsf-no-motion-module"
    changed = (
        (*BASE, "--neighbours", "1"),
        (*BASE, *ROWS),
        (*BASE, *ROWS, "--seeds", "3"),
        (*BASE, *ROWS, "--set", "seed=4"),
    )
    changed += (
        (*BASE, *ROWS, "--measure", "knn"),
        ("mine.yaml", "--splits", "2"),
        ("mine.yaml", "--measure", "knn"),
    )
    names = [folder(*options) for options in changed]
    assert len(set(names)) == len(names)
    assert all(name.rpartition("-")[0] in ("tiny-neighbours", "mine") for name in names)
    assert folder(*BASE, *ROWS) == names[1]


def test_one_measurement_is_not_asked_for_twice_and_others_differ(
    tiny_data: Path, tmp_path: Path
) -> None:
    prepared(tmp_path, tiny_data)
    for measures, status in (
        ("{task: retrieve}, {task: retrieve, data: ucf10}", 2),
        ("{task: linear}, {task: linear, protocol: linear}", 2),
        ("{task: linear}, {task: linear, set: {grid.lr: [0.5]}}", 0),
    ):
        (tmp_path / "mine.yaml").write_text(f"title: T\nbase: tiny.yaml\nmeasure: [{measures}]\n")
        done = called(
            "ablate", "mine.yaml", "--dry-run", "--assume", "100", cwd=tmp_path, status=status
        )
        assert ("are one measurement that is asked for twice" in done.stderr) == bool(status)
    assert "measured by linear, linear grid.lr=[0.5]" in done.stdout


def started(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vcsf_cli", "ablate", *BASE, *ROWS, *map(str, FEW)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process: subprocess.Popen[str], path: Path) -> None:
    while process.poll() is None and not path.exists():
        time.sleep(0.005)


def test_killed_and_interrupted_it_goes_on_to_the_same_table(
    made: Path, tiny_data: Path, tmp_path: Path
) -> None:
    prepared(tmp_path, tiny_data)
    hold(tmp_path, 1)
    process = started(tmp_path)
    wait_for(process, run_of(tmp_path) / "stages.json")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.communicate()
    assert children
    assert all(ends(child) for child in children)

    second = run_of(tmp_path, *ONE_NEIGHBOUR)
    hold(tmp_path, 1, second.name)
    process = started(tmp_path)
    wait_for(process, second / "recipe.yaml")
    process.send_signal(signal.SIGINT)
    let_go(tmp_path)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "interrupted; the same command goes on: vcsf ablate --base tiny.yaml" in said
    assert "Traceback" not in said

    called("ablate", *BASE, *ROWS, *FEW, cwd=tmp_path)
    wanted = numbers(made, NAME)
    wanted = wanted[wanted["row"] != "no motion module"].reset_index(drop=True)
    pd.testing.assert_frame_equal(numbers(tmp_path, "tiny-neighbours"), wanted)
    for assignments in ((), ONE_NEIGHBOUR):
        ours, theirs = (run_of(folder, *assignments) / "stages.json" for folder in (tmp_path, made))
        after = [
            [entry["weights_after"] for entry in json.loads(path.read_text())]
            for path in (ours, theirs)
        ]
        assert after[0] == after[1]


def test_published_rows_are_left_out_beside_a_subset(copied: Path) -> None:
    text = "title: Retrieval\nbase: tiny.yaml\nrows: {ours: {}}\nmeasure: [{task: retrieve, k: [1, 5]}]\npublished: true\n"
    (copied / "mine.yaml").write_text(text)
    done = called("ablate", "mine.yaml", "--table-only", cwd=copied)
    table = copied / "runs" / "tables" / "mine" / "table.md"
    assert (
        "subset, short schedule; not comparable with published tables"
        in table.read_text().splitlines()[0]
    )
    assert "8 clips of ucf10, not 9,537 of ucf101" in done.stderr
    assert "CoCLR" not in table.read_text()

    called("ablate", "mine.yaml", "--table-only", "--with-published", cwd=copied)
    (line,) = (
        line for line in table.read_text().splitlines() if line.startswith("| CoCLR, RGB (2020)")
    )
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:2] == ["CoCLR, RGB (2020)", "published"]
    assert "MVCGC, NeurIPS 2021" in cells[2]
    assert cells[3:5] == ["53.3", "69.4"]
    ours = next(line for line in table.read_text().splitlines() if line.startswith("| ours"))
    assert "small, 16x32^2; ucf10 split 1, 8 clips; 2 epochs a pathway; seed 0" in ours

    set_kind(
        copied, "folder"
    )  # a name that begins like a benchmark's makes no benchmark: ucf50 is not of ucf101
    called("ablate", "mine.yaml", "--table-only", "--with-published", cwd=copied)
    assert "| ours" in table.read_text()
    assert "CoCLR" not in table.read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "nothing to compare"),
        (("motion", "--slow-only"), "are two tables"),
        (("motoin",), "did you mean `motion`?"),
        (("--alpha", "x"), "`x` is not a whole number"),
        (("--measure", "retreive", "--no-motion-module"), "did you mean `retrieve`?"),
        ((*BASE, "--no-motion-module", "--devices", "gpu"), "is not a device"),
        ((*BASE, "--neighbours", "0"), "row `neighbours 0`"),
        ((*BASE, "--neighbours", "2"), "the table has only one row"),
        ((*BASE, "--no-motion-module", "--assume", "fast"), "clips a second"),
        ((*BASE, "--no-motion-module", "--data", "nowhere"), "is not prepared"),
        ((*BASE, "--no-motion-module", "--measure", "retrieve:hmdb51"), "hmdb51 is not prepared"),
        (("cross_pathway", *BASE), "has a recipe of its own"),
        ((*BASE, "--no-motion-module", "--splits", "4"), "splits"),
        ((*BASE, "--no-motion-module", "--seeds", "²"), "is not a whole number"),
        (
            (*BASE, "--set", "sampler.frames=8", "--backbone", "small,s3d", "--devices", "cpu"),
            "row `backbone s3d`: backbone `s3d` can't read clips of 2 frames",
        ),
    ],
)
def test_mistakes_are_told_before_any_work(
    options: tuple[str, ...], said: str, tiny_data: Path, tmp_path: Path
) -> None:
    prepared(tmp_path, tiny_data)
    done = called("ablate", *options, cwd=tmp_path, status=2)
    assert said in done.stderr
    assert not (tmp_path / "runs").exists()


def test_rows_of_several_datasets_need_one_to_be_measured_on(
    tiny_data: Path, tmp_path: Path
) -> None:
    prepared(tmp_path, tiny_data)
    shutil.copytree(tiny_data / "synthetic", tmp_path / "data" / "other")
    text = "title: T\nbase: tiny.yaml\nrows: {a: {}, b: {set: {data.name: other}}}\n"
    (tmp_path / "mine.yaml").write_text(text)
    for more in ("--dry-run", "--table-only"):
        done = called("ablate", "mine.yaml", more, *FEW, cwd=tmp_path, status=2)
        assert (
            "`retrieve` would be of several datasets, each row's own: `a` on ucf10, `b` on other"
            in done.stderr
        )
        assert "{task: retrieve, data: ucf10}" in done.stderr
    done = called(
        "ablate", "mine.yaml", "--measure", "retrieve:other", "--dry-run", *FEW, cwd=tmp_path
    )
    assert "2 rows = 2 runs, measured by retrieve other" in done.stdout


def test_a_plan_needs_no_data_and_says_that_its_time_is_calculated(tmp_path: Path) -> None:
    done = called("ablate", "retrieval_ucf101", "--dry-run", "--assume", "H200", cwd=tmp_path)
    assert "3 rows x 3 seeds = 9 runs" in done.stdout
    assert "taking turns, seed 2, split 1: vcsf_coclr-" in done.stdout
    assert "400 epochs (stages 2 to 5; what comes before is shared or done)" in done.stdout
    assert "calculated, not measured: 2.7% of the 989 TFLOPS" in done.stdout
    assert not (tmp_path / "runs").exists()
    done = called("ablate", "retrieval_ucf101", "--dry-run", "--assume", "100/s", cwd=tmp_path)
    assert (
        "estimated time: 4 d 4 h (from 100 training clips a second in stage 1, as you assume)"
        in done.stdout
    )
    done = called(
        "ablate",
        "retrieval_ucf101",
        "--dry-run",
        "--assume",
        "h200",
        "--devices",
        "0,1",
        cwd=tmp_path,
    )
    assert ", by 2 side by side " in done.stdout
    done = called("ablate", "retrieval_ucf101", "--dry-run", cwd=tmp_path)
    assert "the time is unknown" in done.stdout
