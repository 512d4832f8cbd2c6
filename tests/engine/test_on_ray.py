"""Work on a Ray cluster of two machines, which are processes here."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import OURS, Vcsf, called
from trained import copy_run
from videos import write_video

from vcsf_cli.commands import common
from vcsf_cli.engine.engine import Failure
from vcsf_cli.engine.on_ray import Ray
from vcsf_cli.errors import DataError, InputError

cluster_utils = pytest.importorskip("ray.cluster_utils")

ONE_CORE = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 80 * 2**20}
"""Of a node; it need not have the GPU that it says it has."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        found = cluster_utils.Cluster(initialize_head=True, head_node_args=ONE_CORE)
        found.add_node(**ONE_CORE)
        yield found
        found.shutdown()


def wait_for(what: Callable[[], Any], process: subprocess.Popen[Any] | None = None) -> Any:
    """The first result that is not empty."""
    while not (found := what()):
        assert process is None or process.poll() is None, "it ended too early"
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def engine(cluster: Any) -> Iterator[Ray]:
    with Ray(cluster.address) as found:
        yield found


def test_an_item_whose_process_dies_every_time_fails_alone(engine: Ray) -> None:
    def work(item: int, path: str) -> int:
        if item == 1:
            os._exit(3)
        return item

    one, failure, three = engine.map(work, range(3))
    assert (one, three) == (0, 2)
    assert isinstance(failure, Failure)
    assert failure.reason == "crashed 4 times (WorkerCrashedError)"


def test_what_a_function_raises_is_raised_here(engine: Ray) -> None:
    def work(item: int, path: str) -> int:
        raise DataError("clip 7 can't be read", "mend it")

    with pytest.raises(DataError, match="clip 7 can't be read") as caught:
        list(engine.map(work, [0]))
    assert (type(caught.value), caught.value.hint) == (DataError, "mend it")


def test_features_are_those_of_one_machine(
    engine: Ray, tiny_run: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One connection serves all commands: each would start processes that load torch."""
    monkeypatch.setattr(common, "Ray", lambda address, workers: nullcontext(engine))
    videos = shutil.copytree(tiny_data / "synthetic" / "original", tmp_path / "videos")
    (videos / "broken.avi").write_bytes(b"no video")
    found = []
    for place, where in (("local", ()), ("ray", ("--engine", "ray"))):
        run = copy_run(tiny_run, tmp_path / place)
        on = ("--data", tiny_data, "--workers", 0, *where)
        of = ("--from", run, *on)
        called("retrieve", *of, cwd=tmp_path)
        called("finetune", "synthetic", "--knn", *of, cwd=tmp_path)
        query = min(videos.rglob("*_g01_*"))
        called("retrieve", "--query", query, "--csv", f"{place}.csv", *of, cwd=tmp_path)
        table = tmp_path / f"{place}.parquet"
        called("embed", videos, "--on-bad", "skip", "-o", table, *of, cwd=tmp_path)
        called("embed", "synthetic", "-o", table.with_stem(f"{place}-2"), *of, cwd=tmp_path)
        tables = [table, table.with_stem(f"{place}-2"), *sorted(run.rglob("features*.parquet"))]
        found.append([pd.read_csv(tmp_path / f"{place}.csv"), *map(pd.read_parquet, tables)])
        found[-1].append(pd.read_csv(run / "results.csv"))
    assert len(found[0]) == 6
    for local, on_ray in zip(*found, strict=True):
        pd.testing.assert_frame_equal(local, on_ray, rtol=1e-4, atol=1e-5)


def test_a_command_that_is_interrupted_ends_in_its_own_time(engine: Ray, tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, time\n"
        "try:\n    print('begun', flush=True); time.sleep(600)\n"
        "except KeyboardInterrupt:\n    print('saved')\n"
    )
    log = tmp_path / "log"
    job = engine.start(["-c", program], log, {})
    wait_for(lambda: log.exists() and "begun" in log.read_text())
    assert job.poll() is None
    job.interrupt()
    assert job.wait() == 130
    assert log.read_text().split() == ["begun", "saved"]


TABLE = """
title: A row that is trained already
base: recipe.yaml
rows: {tiny: {}}
measure: [{task: retrieve, k: [1]}]
"""


def test_what_is_left_of_a_table_is_done_by_tasks(
    engine: Ray, tiny_run: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "Ray", lambda address, workers: nullcontext(engine))
    run = copy_run(tiny_run, tmp_path)
    (tmp_path / "table.yaml").write_text(TABLE)
    shutil.copy(run / "recipe.yaml", tmp_path)
    words = ("ablate", "table.yaml", "--data", tiny_data, "--workers", 0, "--engine", "ray")
    done = called(*words, cwd=tmp_path)
    assert "1/1 tiny, seed 0, split 1 on cpu: retrieve, log" in done.stderr
    assert "done: tiny, seed 0, split 1 in" in done.stderr
    (log,) = (tmp_path / "runs" / "tables").rglob("*.log")
    assert f"$ vcsf retrieve synthetic --from {run.relative_to(tmp_path)}" in log.read_text()


def test_gpus_are_counted_on_each_machine_and_need_not_be_on_this_one(
    engine: Ray, tiny_run: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (engine.side_by_side(0), engine.side_by_side(1)) == (2, 2)
    with pytest.raises(InputError, match="no machine of the Ray cluster has a CPU and 2 GPUs"):
        engine.side_by_side(2)
    monkeypatch.setattr(common, "Ray", lambda address, workers: nullcontext(engine))
    (tmp_path / "table.yaml").write_text(TABLE)
    shutil.copy(tiny_run / "recipe.yaml", tmp_path)
    words = ("ablate", "table.yaml", "--data", tiny_data, "--engine", "ray", "--dry-run")
    done = called(*words, "--gpus-per-run", 1, cwd=tmp_path)
    assert "done: 0 of 1 runs" in done.stdout
    assert ("the time is unknown" in done.stdout) == (torch.cuda.device_count() == 0)


def test_an_address_where_nothing_answers_is_one_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        for prefix in ("", "ray://"):
            with pytest.raises(InputError, match=r"no Ray cluster at .*Connection refused"):
                Ray(prefix + address)


def test_without_ray_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="is not installed") as caught:
        Ray()
    assert caught.value.hint == "pip install 'vcsf[ray]'"


DECODER = """
import os, signal, time
from pathlib import Path
from vcsf_cli import hookimpl
from vcsf_plugins.decoders import PyAV, PyAVReader

class Reader(PyAVReader):
    '''Crashes at a poisoned video; waits for the test at later ones.'''
    def stream(self):
        if "poison" in self.path.stem:
            os.kill(os.getpid(), signal.SIGKILL)
        while self.path.stem > "d" and Path("hold").exists():
            (Path("held") / f"{os.getppid()}").touch()
            time.sleep(0.01)
        yield from super().stream()

def decoder():
    found = PyAV()
    found.reader = Reader
    return found

@hookimpl
def vcsf_decoders():
    return {"dangerous": decoder}
"""


def stored(folder: Path) -> dict[str, bytes]:
    """All files but the journal, which notes a second try of what crashed."""
    files = (path for path in folder.iterdir() if path.is_file() and path.name != "journal.jsonl")
    return {path.name: path.read_bytes() for path in files}


def test_whatever_is_killed_while_videos_are_prepared_the_store_is_the_same(
    cluster: Any, tmp_path: Path, vcsf: Vcsf
) -> None:
    """A process of Ray, then a machine, then the command itself; one video crashes its decoder. The
    machine is lost to later tests."""
    (tmp_path / "vcsf_local.py").write_text(DECODER)
    (tmp_path / "held").mkdir()
    for number, name in enumerate(("a", "b-poison", "c", "e", "f", "g", "h")):
        write_video(tmp_path / "source" / f"{name}.avi", 16 + number, width=80, height=64)
    words = ["prepare", "folder", "--source", "source", "--name", "mine", "--decoder", "dangerous"]
    words += ["--size", "48", "--max-bad", "100"]
    on_ray = [*words, "--engine", "ray", "--address", cluster.address]
    vcsf(*words, "--data", "local", "--workers", "1", cwd=tmp_path)

    def start() -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if name not in OURS}
        command = [sys.executable, "-m", "vcsf_cli", *on_ray]
        return subprocess.Popen(command, cwd=tmp_path, env=environment)

    (tmp_path / "hold").touch()
    driver = start()
    held = tmp_path / "held"
    wait_for(lambda: len(list(held.iterdir())) == 2, driver)
    before = {path.name for path in held.iterdir()}
    os.kill(int(min(before)), signal.SIGKILL)
    wait_for(lambda: {path.name for path in held.iterdir()} - before, driver)
    cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
    assert len((tmp_path / "data" / "mine" / "journal.jsonl").read_text().splitlines()) == 3
    driver.kill()
    driver.wait()

    driver = start()
    (tmp_path / "hold").unlink()
    assert driver.wait() == 0
    assert stored(tmp_path / "data" / "mine") == stored(tmp_path / "local" / "mine")
