"""Decoded frames that are kept: the same pixels, nothing half-written, nothing left in memory."""

from __future__ import annotations

import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Vcsf
from trained import TINY

from vcsf_cli.commands.common import open_ray
from vcsf_cli.data.decoded import PLACE, DecodedFrames, _left_to_groups, _release
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.data.store import FrameStore
from vcsf_cli.errors import DataError, InputError
from vcsf_cli.storage import checkpoint

SHARED_MEMORY = Path("/dev/shm")
in_memory = pytest.mark.skipif(
    not SHARED_MEMORY.is_dir(), reason="shared memory is a folder on Linux alone"
)


@pytest.fixture
def manifest(tiny_data: Path, tmp_path: Path) -> Manifest:
    """A dataset whose shards a test may remove."""
    return Manifest.open(shutil.copytree(tiny_data / "synthetic", tmp_path / "data" / "synthetic"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(PLACE, str(tmp_path / "decoded"))
    return tmp_path / "decoded"


def pixels(store: FrameStore, row: int, frames: list[int]) -> np.ndarray:
    return np.stack(list(store.images(row, frames)))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk that is full for every file beyond a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_pixels_are_those_of_the_store_and_are_read_without_it(
    manifest: Manifest, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    asked = [
        (row, rng.integers(0, count, 7).tolist())
        for row, count in enumerate(manifest.table["frames"])
    ]
    kept = FrameStore(manifest)
    first = [pixels(kept, row, frames) for row, frames in asked[:-1]]
    monkeypatch.delenv(PLACE)
    plain = FrameStore(manifest)
    right = [pixels(plain, row, frames) for row, frames in asked]
    monkeypatch.setenv(PLACE, str(place))
    for shard in manifest.folder.glob("shard-*"):
        shard.unlink()
    # As a process that is started gets it.
    again = pickle.loads(pickle.dumps(FrameStore(manifest)))
    for (row, frames), one, other in zip(asked, first, right, strict=False):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(pixels(again, row, frames), other)
    with pytest.raises(DataError, match="can't be read"):
        pixels(again, *asked[-1])  # nobody had asked for it before


def test_a_killed_writer_leaves_nothing_that_counts(manifest: Manifest, place: Path) -> None:
    """Killed while it writes a clip's last frame: the clip is decoded again, another one is kept."""
    code = f"""
import os, signal
from pathlib import Path
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.data.store import FrameStore

store = FrameStore(Manifest.open(Path({str(manifest.folder)!r})))
list(store.images(1, [0]))
assert store.decoded.clip(0) is None

def dying():
    frames = list(store._decode(0, range({manifest.table["frames"][0]})))
    yield from (255 - frame for frame in frames[:-1])
    os.kill(os.getpid(), signal.SIGKILL)

store.decoded.put(0, dying())
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    store = FrameStore(manifest)
    assert store.decoded is not None
    assert store.decoded.clip(0) is None
    assert store.decoded.clip(1) is not None
    every = list(range(manifest.table["frames"][0]))
    right = np.stack(list(store._decode(0, every)))
    np.testing.assert_array_equal(pixels(store, 0, every), right)


def test_a_full_disk_costs_only_time(
    manifest: Manifest, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = FrameStore(manifest)
    assert store.decoded is not None
    kept = pixels(store, 0, [3])
    room = int(store.decoded.begins[1]) + 1000
    with largest_file(room):
        found = [pixels(store, row, [5, 2]) for row in (1, 2)]
        np.testing.assert_array_equal(pixels(store, 0, [3]), kept)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "is full" in line]
    assert len(warnings) == 1
    for row, images in zip((1, 2), found, strict=True):
        assert store.decoded.clip(row) is None
        np.testing.assert_array_equal(images, np.stack(list(store._decode(row, [5, 2]))))


def test_what_cannot_fit_is_refused(manifest: Manifest, place: Path) -> None:
    free = shutil.disk_usage(manifest.folder).free
    manifest.table["frames"] = manifest.table["frames"].astype(np.int64)
    manifest.table.loc[0, "frames"] = 2 * free // (3 * 32 * 32)
    with pytest.raises(InputError, match=r"need [\d,]+ bytes more, and [\d,]+ are free there"):
        DecodedFrames.of(manifest)
    assert not list(place.iterdir())


def test_two_datasets_that_each_fit_alone_are_not_both_accepted(
    manifest: Manifest, place: Path
) -> None:
    free = shutil.disk_usage(manifest.folder).free
    manifest.table["frames"] = manifest.table["frames"].astype(np.int64)
    first, second = (
        Manifest(manifest.folder, manifest.table.copy(), manifest.settings) for _ in range(2)
    )
    for row, each in enumerate((first, second)):
        each.table.loc[row, "frames"] = 6 * free // (10 * 3 * 32 * 32)  # 60 % of the disk
    DecodedFrames.of(first)
    with pytest.raises(InputError, match="bytes more"):
        DecodedFrames.of(second)
    assert len(list(place.iterdir())) == 1


def test_a_file_that_was_cut_short_is_decoded_anew(manifest: Manifest, place: Path) -> None:
    store, rows = FrameStore(manifest), range(len(manifest.table))
    right = [pixels(store, row, [0, 5]) for row in rows]
    assert store.decoded is not None
    file = store.decoded.file
    _release(file)  # as at the end of its process
    os.truncate(file, file.stat().st_size // 2)
    again = FrameStore(manifest)
    for row in rows:
        np.testing.assert_array_equal(pixels(again, row, [0, 5]), right[row])


@pytest.mark.parametrize(
    ("groups", "job", "contents"),
    [
        (
            "0::/job/step",
            "job",
            {"memory.max": 900, "memory.current": 500, "memory.stat": "file 90\nactive_file 70"},
        ),
        (
            "5:cpuset:/\n4:cpu,memory:/job/step\n0::/",
            "memory/job",
            {
                "memory.limit_in_bytes": 900,
                "memory.usage_in_bytes": 500,
                "memory.stat": "active_file 1\ntotal_inactive_file 70",
            },
        ),
    ],
)
def test_what_a_container_or_a_job_has_left_bounds_memory(
    tmp_path: Path, groups: str, job: str, contents: dict[str, int | str]
) -> None:
    (tmp_path / job / "step").mkdir(parents=True)
    (tmp_path / "groups").write_text(groups)
    for name, content in contents.items():
        (tmp_path / job / name).write_text(f"{content}\n")
    # The inner one has no limit of its own.
    for name in ("memory.max", "memory.current"):
        (tmp_path / job / "step" / name).write_text("max\n")
    assert list(_left_to_groups(str(tmp_path / "groups"), str(tmp_path))) == [470]
    assert list(_left_to_groups(str(tmp_path / "none"), str(tmp_path))) == []


def test_frames_of_this_machine_are_refused_beside_a_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(PLACE, "memory")
    with pytest.raises(InputError, match=r"--cache memory .* --engine ray"):
        open_ray("ray", None)


def test_other_clips_have_another_file(manifest: Manifest, place: Path) -> None:
    DecodedFrames.of(manifest)
    manifest.table["sha256"] = pd.Series(manifest.table["sha256"][::-1].tolist())
    DecodedFrames.of(manifest)
    assert len(list(place.iterdir())) == 2


def test_a_clip_of_another_shape_is_damage(manifest: Manifest, place: Path) -> None:
    manifest.table.loc[0, "width"] += 1
    with pytest.raises(DataError, match="is damaged: a frame of shape"):
        pixels(FrameStore(manifest), 0, [0])


@in_memory
def test_memory_is_shared_and_given_back_by_the_last(manifest: Manifest) -> None:
    """A second process finds what the first has decoded; after a kill the next one cleans up."""
    code = f"""
import sys
from pathlib import Path
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.data.store import FrameStore

store = FrameStore(Manifest.open(Path({str(manifest.folder)!r})))
print(store.decoded.file, store.decoded.clip(0) is not None, flush=True)
list(store.images(0, [0]))
print("decoded", flush=True)
sys.stdin.read()
"""

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {PLACE: "memory"},
        )

    def said(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        assert process.stdout.readline() == "decoded\n"
        return line

    first = start()
    file, there = said(first).rsplit(" ", 1)
    assert (Path(file).parent, there) == (SHARED_MEMORY, "False")
    second = start()
    assert said(second) == f"{file} True"
    first.communicate()
    assert Path(file).exists()
    second.kill()
    second.communicate()
    assert Path(file).exists()
    third = start()
    assert said(third) == f"{file} False"
    third.communicate()
    assert not Path(file).exists()


@in_memory
def test_sigterm_gives_memory_back_and_asking_for_a_clip_takes_none(manifest: Manifest) -> None:
    """A page that reading takes kills the process where shared memory is full."""
    code = f"""
import os, signal
from pathlib import Path
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.data.store import FrameStore

store = FrameStore(Manifest.open(Path({str(manifest.folder)!r})))
blocks = store.decoded.file.stat().st_blocks
assert store.decoded.clip(0) is None
assert store.decoded.file.stat().st_blocks == blocks
list(store.images(0, [0]))
print(store.decoded.file, flush=True)
os.kill(os.getpid(), signal.SIGTERM)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        env=os.environ | {PLACE: "memory"},
    )
    assert done.returncode == 128 + signal.SIGTERM
    file = Path(done.stdout.strip())
    assert (file.parent, file.exists()) == (SHARED_MEMORY, False)


def weights(run: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = checkpoint.load(run / "checkpoint.pt")["task"]["model"]
    return found


@in_memory
def test_a_training_with_frames_in_memory_is_the_same(
    tiny_run: Path, tiny_data: Path, vcsf: Vcsf, tmp_path: Path
) -> None:
    done = vcsf(
        *("pretrain", "smoke", *TINY, "--data", tiny_data, "--workers", 2, "--cache", "memory"),
        cwd=tmp_path,
    )
    file = Path(done.stderr.partition("decoded frames: ")[2].partition(",")[0])
    assert file.parent == SHARED_MEMORY
    assert not file.exists()
    (run,) = (tmp_path / "runs").iterdir()
    expected, found = weights(tiny_run), weights(run)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], weight) for name, weight in found.items())


def test_a_place_that_is_a_file_is_refused_at_once(
    tiny_data: Path, vcsf: Vcsf, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    words = ("pretrain", "smoke", *TINY, "--data", tiny_data, "--cache", "file")
    done = vcsf(*words, cwd=tmp_path, status=2)
    assert "--cache file: " in done.stderr
    assert "give another folder" in done.stderr
