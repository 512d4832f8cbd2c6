"""Run folders in a bucket: what one machine saves, another goes on with."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from buckets import WITH_FAILURES, Bucket
from conftest import called
from trained import TINY

from vcsf_cli.errors import InputError, RemoteError, RunError
from vcsf_cli.remote import RemoteFile, fetch, list_files, read_bytes, store
from vcsf_cli.runs.restore import restore
from vcsf_cli.runs.run import read_run
from vcsf_cli.storage import checkpoint, mirror
from vcsf_cli.storage.mirror import mirrored

Machine = Any
"""Makes this process work as another machine, with a disk of its own."""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return lambda name: monkeypatch.setenv("VCSF_CACHE", str(tmp_path / name))


def test_what_a_machine_changes_the_next_one_has(bucket: Bucket, machine: Machine) -> None:
    address = f"{bucket.address}/runs"
    machine("first")
    with mirrored(address) as runs:
        (runs / "run").mkdir()
        (runs / "run" / "status.json").write_text("{}")
        (runs / "run" / "lock").touch()
        # A checkpoint is in the bucket as soon as it is saved, and what it needs before it.
        checkpoint.save(runs / "run" / "checkpoint.pt", {"step": 1})
        assert list(list_files(address)) == ["run/checkpoint.pt", "run/status.json"]
        (runs / "run" / "results.csv").write_text("1\n")
    machine("second")
    with mirrored(address) as runs:
        assert checkpoint.load(runs / "run" / "checkpoint.pt")["step"] == 1
        (runs / "run" / "results.csv").write_text("2\n")  # as many bytes as before
    assert read_bytes(f"{address}/run/results.csv") == b"2\n"
    machine("first")
    with mirrored(address) as runs:
        assert (runs / "run" / "results.csv").read_text() == "2\n"
        with mirrored(runs) as again:  # what a command of `vcsf ablate` is given
            (again / "run" / "log.txt").write_text("a")
        assert read_bytes(f"{address}/run/log.txt") == b"a"
        (runs / "run" / "log.txt").write_text("both")
        bucket.write("runs/run/log.txt", b"changed")
        with pytest.raises(InputError, match=r"log\.txt was changed by another machine"):
            mirrored(address).__enter__()
        (runs / ".bucket").write_text("no JSON")
        with pytest.raises(RunError, match="is damaged"):
            mirrored(address).__enter__()
        (runs / ".bucket").unlink()
        shutil.rmtree(runs / "run")  # as the hint says: what is in the bucket is taken
        with mirrored(address):
            assert (runs / "run" / "log.txt").read_text() == "changed"
            assert (runs / "run" / "status.json").read_text() == "{}"


def test_what_another_machine_has_changed_meanwhile_is_not_overwritten(
    bucket: Bucket, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"{bucket.address}/runs"
    bucket.write("runs/run/results.csv", b"head\n")
    work = {}
    for name in ("first", "second"):
        machine(name)
        work[name] = mirrored(address)
        runs = work[name].__enter__()
        (runs / "run" / "results.csv").write_text(f"head\n{name}\n")
    work["first"].__exit__(None, None, None)
    checkpoint.save(runs / "run" / "checkpoint.pt", {"step": 1})
    assert "warning: " in (said := capsys.readouterr().err)
    assert f"{address}/run/results.csv was changed by another machine" in said
    with pytest.raises(InputError, match=r"results\.csv was changed by another machine"):
        work["second"].__exit__(None, None, None)
    assert read_bytes(f"{address}/run/results.csv") == b"head\nfirst\n"
    assert list(list_files(address)) == ["run/results.csv"]


def test_a_run_that_was_deleted_in_the_bucket_is_copied_whole_when_it_is_worked_on(
    bucket: Bucket, machine: Machine
) -> None:
    """As the hint says of a run that has changed on both sides: to keep what is here, delete it
    there."""
    address = f"{bucket.address}/runs"
    machine("first")
    with mirrored(address) as runs:
        for name in ("run/recipe.yaml", "run/status.json", "other/status.json"):
            (runs / name).parent.mkdir(exist_ok=True)
            (runs / name).write_text(name)
    (runs / "run" / "status.json").write_text("here")
    bucket.write("runs/run/status.json", b"there")
    with pytest.raises(InputError, match="to keep what is here, delete it there"):
        mirrored(address).__enter__()
    bucket.delete("runs/run")
    bucket.delete("runs/other")
    with mirrored(address):
        pass
    assert list(list_files(address)) == ["run/recipe.yaml", "run/status.json"]
    assert read_bytes(f"{address}/run/status.json") == b"here"
    with mirrored(address) as runs:  # deleted while it is worked on
        bucket.delete("runs/run")
        (runs / "run" / "status.json").write_text("later")
    machine("second")
    with mirrored(address) as runs:
        assert (runs / "run" / "recipe.yaml").read_text() == "run/recipe.yaml"
        assert (runs / "run" / "status.json").read_text() == "later"


def test_a_copy_whose_end_was_not_heard_of_is_no_change_by_another_machine(
    bucket: Bucket, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def store_and_break_off(path: Path, address: str) -> None:
        store(path, address)
        if path.name == "log.txt":
            raise RemoteError("the connection broke")

    address = f"{bucket.address}/runs"
    with mirrored(address) as runs:
        (runs / "log.txt").write_text("a")
        with monkeypatch.context() as patch:
            patch.setattr(mirror, "store", store_and_break_off)
            checkpoint.save(runs / "checkpoint.pt", {"step": 1})
        (runs / "log.txt").write_text("ab")
        with mirrored(address):  # nor for another command
            assert (runs / "log.txt").read_text() == "ab"
    assert read_bytes(f"{address}/log.txt") == b"ab"


def test_a_download_that_was_stopped_goes_on(
    bucket: Bucket, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"{bucket.address}/runs"
    for number in range(3):
        bucket.write(f"runs/run/{number}", b"old")
    asked: list[str] = []

    def fetch_some(file: RemoteFile, path: Path) -> None:
        asked.append(file.address.removeprefix(f"{address}/run/"))
        if len(asked) == 3:
            raise KeyboardInterrupt
        fetch(file, path)

    monkeypatch.setattr(mirror, "fetch", fetch_some)
    with pytest.raises(KeyboardInterrupt):
        mirrored(address).__enter__()
    bucket.write("runs/run/0", b"newer")
    with mirrored(address) as runs:
        assert asked == ["0", "1", "2", "0", "2"]
        assert (runs / "run" / "0").read_text() == "newer"


def test_a_bucket_that_fails_stops_no_training_and_loses_nothing(
    bucket: Bucket, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    if not bucket.can_fail:
        pytest.skip(f"a folder does not fail: {WITH_FAILURES}")
    address = f"{bucket.address}/runs"
    work = mirrored(address)
    runs = work.__enter__()
    bucket.faults = lambda method, path: "503" if method == "PUT" else ""
    (runs / "run").mkdir()
    checkpoint.save(runs / "run" / "checkpoint.pt", {"step": 1})
    assert capsys.readouterr().err.count("warning: ") == 1
    with pytest.raises(RemoteError) as caught:
        work.__exit__(None, None, None)
    assert f"is kept in {runs}" in caught.value.hint
    assert list_files(address) == {}
    bucket.faults = lambda method, path: ""
    with mirrored(address):
        pass
    assert list(list_files(address)) == ["run/checkpoint.pt"]


def test_a_training_that_was_stopped_goes_on_elsewhere_to_the_same_weights(
    bucket: Bucket,
    machine: Machine,
    tiny_data: Path,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = f"{bucket.address}/runs"
    words = ("pretrain", "smoke", *TINY, "--data", tiny_data, "--runs", address)
    words = (*words, "--workers", 0, "--save-every", 0)
    save, saved = checkpoint.save, []

    def save_and_stop(path: Path, *content: Any) -> None:
        save(path, *content)
        saved.append(path)
        if len(saved) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    machine("first")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_stop)
        called(*words, cwd=tmp_path, status=130)
    machine("second")
    done = called(*words, cwd=tmp_path)
    assert "going on after step" in done.stderr
    (following,) = (line for line in done.stderr.splitlines() if line.startswith("next: "))
    assert f"--runs {address}" in following
    machine("third")
    measure = ("retrieve", "--data", tiny_data, "--runs", address, "--workers", 0, "--k", 1)
    called(*measure, "--no-html", cwd=tmp_path)
    assert [name for name in list_files(address) if name.endswith("results.csv")]
    (found,) = (tmp_path / "third" / "runs").rglob("checkpoint.pt")
    ours, theirs = (restore(read_run(each))[0].state_dict() for each in (found.parent, tiny_run))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
