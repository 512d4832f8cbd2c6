"""Prepared datasets in a bucket: read through a bounded cache, and prepared into it."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import zlib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from buckets import WITH_FAILURES, Bucket
from conftest import called
from trained import pretrain
from videos import write_video

from vcsf_cli.data import bucket as buckets
from vcsf_cli.data import manifest as manifests
from vcsf_cli.data.bucket import WorkingCopy, working_copy
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.data.store import FrameStore, ShardWriter
from vcsf_cli.errors import DataError, InputError, RemoteError
from vcsf_cli.remote import RemoteFile, fetch, read_bytes
from vcsf_cli.runs.restore import restore
from vcsf_cli.runs.run import read_run
from vcsf_cli.storage.sealed import write_json

CLIPS = {f"clip{number}": [bytes([number]) * 3000, b"second"] for number in range(4)}
"""Frames, no JPEGs but easily told apart."""
SHARD = 5632
"""Bytes of a shard with one of them."""


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with a shard for each clip."""
    folder = tmp_path_factory.mktemp("local") / "mine"
    folder.mkdir()
    writer, rows = ShardWriter(folder, 0, 0, shard_bytes=1), []
    for name, frames in CLIPS.items():
        (folder / "stream").write_bytes(b"".join(frames))
        writer.begin_video()
        offset = writer.append(name, folder / "stream", {"video": name})
        size = [len(frame) for frame in frames]
        row: dict[str, Any] = dict.fromkeys(manifests.SPLITS, "")
        rows.append(
            row
            | {"video": name, "source": name, "frames": 2, "fps": 25.0, "shard": writer.shard}
            | {"offset": offset, "bytes": sum(size)}
            | {"frame_offsets": [offset, offset + size[0], offset + sum(size)]}
            | {"frame_crc32": [zlib.crc32(frame) for frame in frames]}
            | {"sha256": hashlib.sha256(b"".join(frames)).hexdigest()}
        )
    writer.finish()
    (folder / "stream").unlink()
    manifests.write(folder, rows)
    write_json(folder / manifests.SETTINGS, {"size": 48})
    assert {path.stat().st_size for path in folder.glob("*.tar")} == {SHARD}
    return folder


def read_all(manifest: Manifest) -> dict[str, list[bytes]]:
    store = FrameStore(manifest)
    return {video: store.jpegs(row, [0, 1]) for row, video in enumerate(manifest.table["video"])}


def kept(cache: Path) -> set[str]:
    return {path.name for path in (cache / "data").rglob("*.tar*")}


def test_shards_are_read_through_a_cache_that_evicts_the_oldest(
    bucket: Bucket, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.upload(local, "prepared/mine")
    data = f"{bucket.address}/prepared"
    monkeypatch.setenv("VCSF_CACHE_SIZE", str(2 * SHARD))
    manifest = Manifest.find(data, "mine")
    assert (manifest.name, manifest.hash) == ("mine", Manifest.open(local).hash)
    store = FrameStore(manifest)
    for row, frames in enumerate(CLIPS.values()):
        assert store.jpegs(row, [1, 0]) == frames[::-1]
        assert kept(tmp_path / "cache") == {
            f"shard-{number:06d}.tar" for number in range(max(0, row - 1), row + 1)
        }
    # What is kept is not fetched again, and damage of it is mended from the bucket.
    bucket.requests.clear()
    assert store.jpegs(3, [0]) == CLIPS["clip3"][:1]
    assert not bucket.requests
    shard = manifest.folder / "shard-000003.tar"
    shard.write_bytes(bytes(SHARD))
    assert store.jpegs(3, [0]) == CLIPS["clip3"][:1]
    # Damage in the bucket is an error, and is not kept.
    shard.unlink()
    bucket.write("prepared/mine/shard-000003.tar", bytes(SHARD))
    with pytest.raises(DataError, match=r"shard-000003\.tar is damaged"):
        store.jpegs(3, [0])
    assert "shard-000003.tar" not in kept(tmp_path / "cache")
    monkeypatch.setenv("VCSF_CACHE_SIZE", str(SHARD // 2))
    with pytest.raises(InputError, match="is less than a shard"):
        Manifest.find(data, "mine")
    with pytest.raises(InputError, match=f"there is no {data}/other/manifest.parquet"):
        Manifest.find(data, "other")
    monkeypatch.setenv("VCSF_CACHE_SIZE", "much")
    with pytest.raises(InputError, match="VCSF_CACHE_SIZE: `much` is not a size"):
        Manifest.find(data, "mine")


def test_what_is_kept_may_be_deleted_at_any_time(
    bucket: Bucket, local: Path, tmp_path: Path
) -> None:
    bucket.upload(local, "mine")
    manifest = Manifest.find(bucket.address, "mine")
    shutil.rmtree(tmp_path / "cache" / "data")
    assert read_all(manifest) == CLIPS
    folder = manifest.folder
    (folder / "shard-000000.tar").unlink()
    (folder / "shard-000009.tar").symlink_to("evicted")  # listed, and gone when it is looked at
    calls = []

    def delete_all(path: Path) -> bool:
        calls.append(path)
        if len(calls) == 1:
            shutil.rmtree(tmp_path / "cache" / "data")
        return True

    assert manifest.bucket
    os.close(manifest.bucket.open("shard-000000.tar", delete_all))
    assert len(calls) == 2


def test_another_machine_keeps_shards_as_its_own_environment_says(
    bucket: Bucket, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.upload(local, "mine")
    sent = pickle.dumps(FrameStore(Manifest.find(bucket.address, "mine")))
    monkeypatch.setenv("VCSF_CACHE", str(tmp_path / "other"))
    monkeypatch.setenv("VCSF_CACHE_SIZE", "6KB")
    store = pickle.loads(sent)
    assert [store.jpegs(row, [0, 1]) for row in range(4)] == [*CLIPS.values()]
    assert kept(tmp_path / "cache") == set()
    assert kept(tmp_path / "other") == {"shard-000003.tar"}


def test_a_shard_that_arrives_in_part_does_not_count(
    bucket: Bucket, local: Path, tmp_path: Path
) -> None:
    if not bucket.can_fail:
        pytest.skip(f"a folder does not fail: {WITH_FAILURES}")
    bucket.upload(local, "mine")
    manifest = Manifest.find(bucket.address, "mine")
    bucket.faults = lambda method, path: "cut" if path.endswith(".tar") and method == "GET" else ""
    with pytest.raises(RemoteError, match="can't be reached"):
        read_all(manifest)
    assert kept(tmp_path / "cache") == set()
    first = iter(["cut", "503"])
    bucket.faults = lambda method, path: next(first, "") if path.endswith(".tar") else ""
    assert read_all(manifest) == CLIPS


def test_training_and_measuring_from_a_bucket_gives_the_same(
    bucket: Bucket, tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    for name in ("manifest.parquet", "settings.json", "shard-000000.tar"):
        content = (tiny_data / "synthetic" / name).read_bytes()
        (tmp_path / "store").mkdir(exist_ok=True)
        (tmp_path / "store" / name).write_bytes(content)
    bucket.upload(tmp_path / "store", "synthetic")
    run = pretrain(bucket.address, tmp_path, "--workers", "2", "--cache-size", "1GB")
    ours, theirs = (restore(read_run(each))[0].state_dict() for each in (run, tiny_run))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    words = ("--data", bucket.address, "--workers", 0, "--k", 1, "--no-html")
    done = called("retrieve", "synthetic", "--from", run, *words, cwd=tmp_path)
    assert "R@1" in done.stdout


def prepare(data: object, source: Path, status: int = 0) -> str:
    words = ("folder", "--source", source, "--name", "d", "--data", data, "--size", 48)
    return called("prepare", *words, "--workers", 1, cwd=source.parent, status=status).stderr


def test_a_dataset_is_prepared_into_a_bucket_and_goes_on_from_there(
    bucket: Bucket, tmp_path: Path
) -> None:
    source = tmp_path / "videos"
    write_video(source / "Run/a.avi", 16, width=80, height=64)
    write_video(source / "Jump/b.avi", 17, width=80, height=64)
    data = f"{bucket.address}/prepared"
    if bucket.can_fail:
        bucket.faults = lambda method, path: "503" if method == "PUT" and "manifest" in path else ""
        said = prepare(data, source, status=1)
        assert said.count("error: ") == 1
        assert "can't be reached" in said
        with pytest.raises(InputError, match="is not prepared to its end"):
            Manifest.find(data, "d")
        bucket.faults = lambda method, path: ""
    prepare(data, source)
    prepare(tmp_path / "data", source)
    write_video(source / "Run/c.avi", 18, width=80, height=64)
    assert f"{data}/d: 3 clips of 3 videos" in prepare(data, source)
    prepare(tmp_path / "data", source)
    ours, theirs = Manifest.find(data, "d"), Manifest.open(tmp_path / "data" / "d")
    pd.testing.assert_frame_equal(ours.table, theirs.table)
    assert read_frames(ours) == read_frames(theirs)
    assert not list((tmp_path / "cache" / "prepare").rglob("*.tar"))


FILES = ("journal.jsonl", "manifest.parquet", "settings.json", "shard-000000.tar")


def write_files(folder: Path, text: str) -> None:
    for name in FILES:
        (folder / name).write_text(text)


@pytest.mark.parametrize("arrived", range(len(FILES)))
def test_a_dataset_that_was_fetched_in_part_is_fetched_again(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, arrived: int
) -> None:
    for name in FILES:
        bucket.write(f"d/{name}", name.encode())
    left = iter(range(arrived))

    def break_off(file: RemoteFile, path: Path) -> None:
        if next(left, None) is None:
            raise RemoteError("the connection broke")
        fetch(file, path)

    with monkeypatch.context() as patch:
        patch.setattr(buckets, "fetch", break_off)
        with pytest.raises(RemoteError):
            working_copy(bucket.address, "d").__enter__()
    with working_copy(bucket.address, "d") as copy:
        assert [(copy.folder / name).read_text() for name in FILES] == [*FILES]


def test_what_another_machine_has_prepared_meanwhile_is_not_overwritten(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work_as(machine: str) -> WorkingCopy:
        monkeypatch.setenv("VCSF_CACHE", str(tmp_path / machine))
        with working_copy(bucket.address, "d") as copy:
            pass
        return copy

    copy = work_as("first")
    write_files(copy.folder, "first")  # its upload fails
    other = work_as("second")
    write_files(other.folder, "second")
    other.upload()
    for go_on in (copy.upload, lambda: work_as("first")):
        with pytest.raises(
            InputError, match=f"{bucket.address}/d was prepared by another"
        ) as caught:
            go_on()
        assert str(copy.folder) in caught.value.message
    for name in FILES:
        assert read_bytes(f"{bucket.address}/d/{name}") == b"second"
    shutil.rmtree(copy.folder)  # as the hint says
    assert (work_as("first").folder / "journal.jsonl").read_text() == "second"
    # One that was killed when all was in the bucket is not taken for another.
    work_as("second")
    write_files(other.folder, "third")
    work_as("second").upload()


def read_frames(manifest: Manifest) -> list[list[bytes]]:
    store = FrameStore(manifest)
    frames = manifest.table["frames"].tolist()
    return [store.jpegs(row, list(range(count))) for row, count in enumerate(frames)]
