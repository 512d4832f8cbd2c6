"""The store: plain tar shards of playable members, and frames read from them by their offsets."""

from __future__ import annotations

import json
import pickle
import resource
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vcsf_cli.data.manifest import Manifest
from vcsf_cli.data.store import FrameStore, ShardWriter, member_name
from vcsf_cli.errors import DataError

CLIPS = {
    "Run/a": [b"first", b"2nd", b"the third"],
    "Run/b%2Ec": [b"x" * 700, b"y"],
    "single": [b"only"],
}


def write_clips(
    folder: Path, shard_bytes: int = 10**9, clips: dict[str, list[bytes]] = CLIPS
) -> Manifest:
    """Shards of clips and a manifest of them, whose frames are no JPEGs but easily told apart."""
    folder.mkdir()
    writer = ShardWriter(folder, 0, 0, shard_bytes)
    rows: list[dict[str, Any]] = []
    for name, frames in clips.items():
        stream = folder / "stream"
        stream.write_bytes(b"".join(frames))
        writer.begin_video()
        offsets = [writer.append(name, stream, {"video": name})]
        for frame in frames:
            offsets.append(offsets[-1] + len(frame))
        rows.append(
            {"video": name, "frames": len(frames), "shard": writer.shard, "frame_offsets": offsets}
        )
        stream.unlink()
    writer.finish()
    return Manifest(folder, pd.DataFrame(rows), {})


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_clips(tmp_path_factory.mktemp("store") / "data")


def test_a_shard_is_a_plain_tar_file(manifest: Manifest) -> None:
    with tarfile.open(manifest.folder / "shard-000000.tar") as shard:
        names = shard.getnames()
        contents = {name: shard.extractfile(name).read() for name in names}  # type: ignore[union-attr]  # all are files
        assert {(member.mtime, member.uid, member.gid, member.uname) for member in shard} == {
            (0, 0, 0, "")
        }
    assert names == [f"{name}.{ending}" for name in CLIPS for ending in ("mjpeg", "json")]
    for name, frames in CLIPS.items():
        assert contents[f"{name}.mjpeg"] == b"".join(frames)
        assert json.loads(contents[f"{name}.json"]) == {"video": name}


def test_long_names_in_any_script_are_files_that_tar_can_write(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "stream").write_bytes(b"frame")
    names = ["跑" * 80, "跑" * 79 + "步", "b/" + "跑" * 80, "/".join(["跑" * 10] * 300), "a" * 200]
    writer = ShardWriter(folder, 0, 0)
    for name in names:
        writer.append(f"{member_name(name)}+000", tmp_path / "stream", {"video": name})
    writer.finish()
    (tmp_path / "out").mkdir()
    shard = folder / "shard-000000.tar"
    subprocess.run(["tar", "xf", shard], cwd=tmp_path / "out", check=True, timeout=60)
    streams = [*(tmp_path / "out").rglob("*.mjpeg")]
    assert len(streams) == len(names)
    found = [json.loads(stream.with_suffix(".json").read_text())["video"] for stream in streams]
    assert sorted(found) == sorted(names)
    assert member_name("a" * 200) == "a" * 200
    assert member_name("跑/b.c d") == "%E8%B7%91/b%2Ec%20d"


def test_equal_clips_make_equal_shards(manifest: Manifest, tmp_path: Path) -> None:
    again = write_clips(tmp_path / "again")
    assert (again.folder / "shard-000000.tar").read_bytes() == (
        manifest.folder / "shard-000000.tar"
    ).read_bytes()


def test_a_full_shard_takes_no_further_video(tmp_path: Path) -> None:
    folder = write_clips(tmp_path / "small", shard_bytes=2000).folder
    names = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as shard:
            names.append([name for name in shard.getnames() if name.endswith(".mjpeg")])
    assert names == [["Run/a.mjpeg"], ["Run/b%2Ec.mjpeg"], ["single.mjpeg"]] or names == [
        ["Run/a.mjpeg", "Run/b%2Ec.mjpeg"],
        ["single.mjpeg"],
    ]
    assert not list(folder.glob("*.partial"))


def test_what_lies_behind_the_last_finished_clip_is_cut_off(
    manifest: Manifest, tmp_path: Path
) -> None:
    """As after a kill in the middle of a member."""
    stream = tmp_path / "stream"
    writer = ShardWriter(tmp_path, 0, 0)
    end = 0
    for name, frames in CLIPS.items():
        stream.write_bytes(b"".join(frames))
        writer.flush()
        with (tmp_path / "shard-000000.tar.partial").open("ab") as partial:
            partial.write(b"half a member")
        writer = ShardWriter(tmp_path, 0, end)
        writer.append(name, stream, {"video": name})
        writer.flush()
        end = writer.end
    writer.finish()
    assert (tmp_path / "shard-000000.tar").read_bytes() == (
        manifest.folder / "shard-000000.tar"
    ).read_bytes()


@given(data=st.data())
@settings(max_examples=50)
def test_any_frames_are_read_in_the_order_asked_for(
    manifest: Manifest, data: st.DataObject
) -> None:
    row = data.draw(st.integers(0, len(CLIPS) - 1))
    frames = list(CLIPS.values())[row]
    wanted = data.draw(st.lists(st.integers(0, len(frames) - 1), max_size=8))
    assert FrameStore(manifest).jpegs(row, wanted) == [frames[index] for index in wanted]


def test_a_store_is_sent_to_a_worker_after_it_has_been_read(manifest: Manifest) -> None:
    store = FrameStore(manifest)
    store.jpegs(0, [0])
    assert pickle.loads(pickle.dumps(store)).jpegs(1, [1]) == [b"y"]


def test_a_shard_that_is_too_short_is_named(tmp_path: Path) -> None:
    manifest = write_clips(tmp_path / "data")
    shard = manifest.folder / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[:1800])
    with pytest.raises(DataError, match=r"shard-000000\.tar.*too short for Run/b"):
        FrameStore(manifest).jpegs(1, [0, 1])
    shard.unlink()
    with pytest.raises(DataError, match=r"shard-000000\.tar") as caught:
        FrameStore(manifest).jpegs(0, [0])
    assert "delete the dataset's folder" in caught.value.hint


def count_open_files() -> int:
    return len([*Path("/dev/fd").iterdir()])


def test_a_store_of_many_shards_keeps_few_of_them_open(tmp_path: Path) -> None:
    clips = {f"clip{number}": [b"%d" % number] for number in range(70)}
    manifest = write_clips(tmp_path / "data", shard_bytes=1, clips=clips)
    assert manifest.table["shard"].nunique() == len(clips)
    before = count_open_files()
    store = FrameStore(manifest)
    for _ in range(2):
        for row, frames in enumerate(clips.values()):
            assert store.jpegs(row, [0]) == frames
    assert before < count_open_files() < before + 40
    del store
    assert count_open_files() == before


def test_too_few_open_files_say_nothing_against_the_dataset(manifest: Manifest) -> None:
    store = FrameStore(manifest)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        with pytest.raises(DataError, match="Too many open files") as caught:
            store.jpegs(0, [0])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert "ulimit" in caught.value.hint
    assert "delete" not in caught.value.hint
    assert store.jpegs(0, [0]) == [b"first"]


def test_names_have_no_dot_for_webdataset_to_split_at() -> None:
    assert member_name("Run/v_Run_g01_c01") == "Run/v_Run_g01_c01"
    assert member_name("Run/my video.v2") == "Run/my%20video%2Ev2"
    assert member_name("Lauf/Fuß") == "Lauf/Fu%C3%9F"


@given(st.text(max_size=12), st.text(max_size=12))
def test_different_videos_have_different_members(one: str, other: str) -> None:
    try:
        names = member_name(one), member_name(other)
    except UnicodeEncodeError:  # half a surrogate pair: no text
        return
    assert (names[0] == names[1]) == (one == other)
    assert "." not in names[0]
