"""Writing files whole: what killed processes left is removed, what others write at the same time is
not."""

from __future__ import annotations

import errno
import fcntl
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from vcsf_cli.errors import InputError
from vcsf_cli.export.folder import replacing
from vcsf_cli.storage.files import lock, path_meant, write_text

WRITING = """
import sys, time
from pathlib import Path
from vcsf_cli.storage.files import atomic_write
with atomic_write(Path(sys.argv[1]), "w") as file:
    file.write("half")
    file.flush()
    print("begun", flush=True)
    sys.stdin.readline()
    file.write(" and half")
"""
EXPORTING = """
import sys
from pathlib import Path
from vcsf_cli.export.folder import replacing
rename = Path.replace
def stop():
    print("begun", flush=True)
    sys.stdin.readline()
def replace_and_stop(self, target):
    rename(self, target)
    stop()
if sys.argv[2] == "renaming":  # right after the export before was moved away
    Path.replace = replace_and_stop
with replacing(Path(sys.argv[1])) as folder:
    (folder / "a").write_text("half")
    if sys.argv[2] == "writing":
        stop()
"""


def begun(program: str, *arguments: object) -> subprocess.Popen[str]:
    """A process in the middle of its work, which it ends when it reads a line."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def killed(program: str, *arguments: object) -> None:
    """Kill a process in the middle of its work, as `kill -9` does."""
    process = begun(program, *arguments)
    process.kill()
    process.communicate()


def test_what_killed_processes_left_is_removed_by_the_next_that_writes_the_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.[b].csv"
    for _ in range(3):
        killed(WRITING, path)
    killed(WRITING, tmp_path / "c.csv")
    (
        tmp_path / f".{path.name}.1.partial"
    ).touch()  # as earlier versions named it; a process 1 lives everywhere
    kept = [
        tmp_path / f".{path.name}.partial",
        tmp_path / f".{path.name}.1.old",
        tmp_path / ".a.bb.1.partial",
    ]
    for other in kept:
        other.touch()
    assert (
        len(list(tmp_path.iterdir())) == 3 + 3
    )  # those of one file: each call removes the one before
    write_text(path, "whole")
    assert path.read_text() == "whole"
    left = set(tmp_path.iterdir()) - {path, *kept}
    assert [file.name.split(".")[1] for file in left] == ["c"]


def test_what_others_write_at_the_same_time_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    other = begun(WRITING, path)
    write_text(path, "whole")
    assert path.read_text() == "whole"
    assert len(list(tmp_path.iterdir())) == 2
    other.communicate("\n")
    assert other.returncode == 0
    assert path.read_text() == "half and half"
    assert list(tmp_path.iterdir()) == [path]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("there", [False, True])
def test_what_a_killed_export_left_is_removed_by_the_next(tmp_path: Path, there: bool) -> None:
    out = tmp_path / "export"
    if there:
        out.mkdir()
        (out / "b").touch()
    killed(EXPORTING, out, "writing")
    for name in (".export.123.partial", ".export.123.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").touch()
    (tmp_path / ".other.123.old").mkdir()
    if not there:
        (tmp_path / ".export.123.old" / "model.onnx").unlink()
    with replacing(out) as folder:
        assert names(folder) == []
        (folder / "c").touch()
    assert names(tmp_path) == [".other.123.old", "export"]
    assert names(out) == ["c"]


def test_nothing_of_others_is_removed_beside_an_export(tmp_path: Path) -> None:
    mine = [".export.2024.old", ".export.2024.partial", ".export.partial"]
    for name in mine:
        (tmp_path / name).mkdir()
        (tmp_path / name / "diary.txt").touch()
    with replacing(tmp_path / "export") as folder:
        (folder / "a").touch()
    assert names(tmp_path) == [*mine, "export"]
    assert [names(tmp_path / name) for name in mine] == 3 * [["diary.txt"]]


def test_a_file_system_without_locks_is_worked_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with replacing(tmp_path / "export") as folder:
        write_text(folder / "a", "whole")
    with lock(tmp_path / "lock"):
        assert names(tmp_path / "export") == ["a"]
    said = capsys.readouterr().err
    assert f"{tmp_path} can't be locked: let no other process write there" in said


def test_an_export_that_was_killed_between_renamings_loses_nothing(tmp_path: Path) -> None:
    out = tmp_path / "export"
    out.mkdir()
    (out / "before").touch()
    killed(EXPORTING, out, "renaming")
    assert not out.exists()
    with suppress(RuntimeError), replacing(out):
        assert names(out) == ["before"]
        raise RuntimeError
    assert names(tmp_path) == ["export"]
    assert names(out) == ["before"]


def test_two_exports_into_one_folder_at_once_are_refused(tmp_path: Path) -> None:
    other = begun(EXPORTING, tmp_path / "export", "writing")
    with (
        pytest.raises(InputError, match="being written by another process"),
        replacing(tmp_path / "export"),
    ):
        pass
    other.communicate("\n")
    assert other.returncode == 0
    assert names(tmp_path) == ["export"]
    assert names(tmp_path / "export") == ["a"]


@pytest.mark.parametrize("replaced", [False, True])
def test_who_waits_for_a_lock_whose_file_is_removed_holds_that_which_is_there(
    replaced: bool, tmp_path: Path
) -> None:
    path = tmp_path / "lock"

    def wait() -> bool:
        """Whether the file at the path is held."""
        with lock(path), path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    with ThreadPoolExecutor(1) as threads:
        with lock(path):
            found = threads.submit(wait)
            waiting = re.compile(rf"->.*:{path.stat().st_ino} ")
            while not (found.done() or waiting.search(Path("/proc/locks").read_text())):
                pass
            path.unlink()
            if replaced:
                path.touch()
        assert found.result()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("runs/a/.neighbours.csv.2520b88f.partial", "runs/a/neighbours.csv"),
        ("runs/a/results.csv.lock", "runs/a/results.csv"),
        ("runs/a/lock", "runs/a"),
        ("data/x/work-ab_c12z9", "data/x"),
        ("data/x/shard-000000.tar.partial", "data/x/shard-000000.tar"),
        (".table.parquet.lock", "table.parquet"),
        (".table.parquet.unfinished", "table.parquet"),
        ("poetry.lock", "poetry.lock"),
        (".hidden", ".hidden"),
    ],
)
def test_what_stands_beside_a_file_that_is_written_means_that_file(name: str, meant: str) -> None:
    assert path_meant(Path(name)) == Path(meant)
