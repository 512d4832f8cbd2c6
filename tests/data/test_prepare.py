"""Preparing: exact, complete, and the same however often it is killed."""

from __future__ import annotations

import csv
import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from conftest import KILLS
from hypothesis import given
from hypothesis import strategies as st
from videos import cut_off, ffmpeg_frames, flip_bytes, number_of, write_sound, write_video

from vcsf_cli.cli import main
from vcsf_cli.contracts import Video
from vcsf_cli.data.decode import Settings
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.data.prepare import Preparation, Summary, member_names
from vcsf_cli.data.store import FrameStore
from vcsf_cli.engine.local import Local
from vcsf_cli.errors import DataError, InputError

SETTINGS = Settings("folder", "pyav", size=48)


@dataclass
class Files:
    """All files below a folder, labelled by the folder that they lie in."""

    root: Path
    benchmark: bool = False

    def videos(self) -> list[Video]:
        paths = sorted(path for path in self.root.rglob("*") if not path.is_dir())
        return [Video(path, str(path.relative_to(self.root)), path.parent.name) for path in paths]

    def remarks(self) -> list[str]:
        return []


def prepare(source: Path, folder: Path, settings: Settings = SETTINGS, **options: Any) -> Summary:
    options = {"time_limit": 60.0, "engine": Local(options.pop("workers", 1))} | options
    return Preparation(
        Files(source, options.pop("benchmark", False)), folder, settings, **options
    ).run()


def numbers(manifest: Manifest) -> dict[str, list[int]]:
    """What the frames of every clip show."""
    store = FrameStore(manifest)
    return {
        row["video"]: [
            number_of(simplejpeg.decode_jpeg(jpeg))
            for jpeg in store.jpegs(index, list(range(row["frames"])))
        ]
        for index, row in enumerate(manifest.table.to_dict("records"))
    }


def contents(folder: Path) -> dict[str, bytes]:
    """What a prepared folder is for others: shards, manifest, problems, settings."""
    wanted = ("shard-*", "manifest.parquet", "problems.csv", "settings.json")
    return {
        path.name: path.read_bytes() for pattern in wanted for path in sorted(folder.glob(pattern))
    }


def problems(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "problems.csv").open(encoding="utf-8", newline="") as file:
        return {row["video"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    for index in range(18):
        write_video(
            folder / ("Run" if index % 2 else "Jump") / f"v_{index:02d}.avi",
            16 + index,
            width=80,
            height=64,
        )
    return folder


@pytest.fixture(scope="module")
def prepared(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "data"
    prepare(source, folder, shard_bytes=60_000)
    return folder


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_every_frame_is_stored_in_its_place(tmp_path: Path, decoder: str) -> None:
    for name in ("b.avi", "b.mp4", "b.mkv", "v.webm"):
        write_video(tmp_path / "source" / name, 60)
    prepare(tmp_path / "source", tmp_path / "data", replace(SETTINGS, decoder=decoder))
    found = numbers(Manifest.open(tmp_path / "data"))
    assert found == {name: list(range(60)) for name in ("b.avi", "b.mkv", "b.mp4", "v.webm")}


def test_original_recordings_are_stored_as_ffmpeg_decodes_them(
    shared_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "source").mkdir()
    originals = [
        min((shared_data / "originals" / action).glob("*.avi"))
        for action in ("Archery", "TennisSwing")
    ]
    for path in originals:
        (tmp_path / "source" / path.name).symlink_to(path)
    prepare(
        tmp_path / "source",
        tmp_path / "data",
        replace(SETTINGS, decoder="decord", size=240, quality=95),
    )
    manifest = Manifest.open(tmp_path / "data")
    store = FrameStore(manifest)
    for row, path in enumerate(originals):
        truth = ffmpeg_frames(path, 320, 240)
        stored = [
            simplejpeg.decode_jpeg(jpeg)
            for jpeg in store.jpegs(row, range(manifest.table["frames"][row]))
        ]
        assert len(stored) == len(truth)
        for index, image in enumerate(stored):
            near = [
                np.abs(image.astype(int) - truth[other]).mean()
                for other in range(max(0, index - 2), index + 3)
                if other < len(truth)
            ]
            assert np.abs(image.astype(int) - truth[index]).mean() < 4
            assert np.abs(image.astype(int) - truth[index]).mean() <= min(near) + 0.3


def test_the_manifest_says_what_every_clip_is(source: Path, prepared: Path) -> None:
    manifest = Manifest.open(prepared)
    table = manifest.table
    assert table["video"].tolist() == [video.name for video in Files(source).videos()]
    first = table.iloc[0]
    assert (first["video"], first["label"], first["group"]) == ("Jump/v_00.avi", "Jump", "")
    assert (first["frames"], first["fps"], first["width"], first["height"]) == (16, 25.0, 60, 48)
    assert first["source"] == "Jump/v_00.avi"
    assert all(
        len(offsets) == frames + 1
        for offsets, frames in zip(table["frame_offsets"], table["frames"], strict=True)
    )
    assert numbers(manifest)["Run/v_17.avi"] == list(range(33))


def test_shards_are_read_by_tar_alone(prepared: Path) -> None:
    shards = sorted(prepared.glob("shard-*.tar"))
    assert len(shards) > 1
    count = 0
    for path in shards:
        with tarfile.open(path) as shard:
            for member in shard:
                if member.name.endswith(".json"):
                    count += 1
                    described = json.load(shard.extractfile(member))  # type: ignore[arg-type]  # all are files
                    stream = shard.extractfile(member.name.replace(".json", ".mjpeg"))
                    assert stream is not None
                    sizes = described["frame_bytes"]
                    assert simplejpeg.decode_jpeg(stream.read()[: sizes[0]]).shape == (48, 60, 3)
                    assert described["frames"] == len(sizes)
    assert count == 18


def test_the_number_of_workers_does_not_matter(
    source: Path, prepared: Path, tmp_path: Path
) -> None:
    prepare(source, tmp_path / "data", workers=3, shard_bytes=60_000)
    assert contents(tmp_path / "data") == contents(prepared)


PROGRAM = """
import sys
from pathlib import Path

if __name__ == "__main__":  # what stands outside is imported by every worker too
    import importlib.util

    spec = importlib.util.spec_from_file_location("test_prepare", sys.argv[1])
    test_prepare = importlib.util.module_from_spec(spec)
    sys.modules["test_prepare"] = test_prepare
    spec.loader.exec_module(test_prepare)
    test_prepare.prepare(Path(sys.argv[2]), Path(sys.argv[3]), workers=2, shard_bytes=60_000)
"""


def started(source: Path, folder: Path, program: Path, **options: Any) -> subprocess.Popen[bytes]:
    """A preparation in a process of its own, leader of a process group of its own."""
    program.write_text(PROGRAM)
    paths = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, str(program), __file__, str(source), str(folder)]
    return subprocess.Popen(
        command,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        **options,
    )


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(
    source: Path, prepared: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    journal = folder / "journal.jsonl"
    finished: set[str] = set()
    moments = random.Random(0)
    for kill, target in enumerate(sorted(moments.randrange(16) for _ in range(KILLS))):
        process = started(source, folder, tmp_path / "program.py")
        while process.poll() is None and lines(journal) < target:
            time.sleep(0.002)
        time.sleep(
            moments.random() * (0.03 if target > len(finished) else 2.0)
        )  # there, or while it starts
        os.killpg(process.pid, signal.SIGKILL) if kill % 2 else process.kill()
        process.wait()
        written = journal.read_bytes().splitlines() if journal.exists() else []
        names = {json.loads(line)["name"] for line in written if line.endswith(b"}")}
        assert finished <= names
        finished = names
    rest = prepare(source, folder, shard_bytes=60_000)
    assert rest.new == 18 - len(finished)
    assert contents(folder) == contents(prepared)
    assert not list(folder.glob("work-*"))


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_full_disk_is_said_and_nothing_is_lost(
    source: Path, prepared: Path, tmp_path: Path
) -> None:
    """No file may grow beyond 30 kB: the first shard fails as it would on a full disk."""
    import resource

    folder = tmp_path / "data"
    limit = (30_000, 30_000)
    process = started(
        source,
        folder,
        tmp_path / "program.py",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    _, stderr = process.communicate(timeout=300)
    assert process.returncode != 0
    assert b"DataError: the store can't be written" in stderr
    prepare(source, folder, shard_bytes=60_000)
    assert contents(folder) == contents(prepared)


class Breaking(Local):
    """Processes of which one can't be started after the first video."""

    def map(self, *arguments: Any, **options: Any) -> Iterator[Any]:
        yield next(iter(super().map(*arguments, **options)))
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_a_process_that_can_not_start_is_no_error_of_the_disk(
    source: Path, prepared: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    with pytest.raises(DataError, match="the processes that decode failed: Broken pipe") as error:
        prepare(source, folder, engine=Breaking(1), shard_bytes=60_000)
    assert "the same command goes on" in error.value.hint
    assert lines(folder / "journal.jsonl") == 1
    prepare(source, folder, shard_bytes=60_000)
    assert contents(folder) == contents(prepared)


def test_a_finished_folder_is_left_alone_and_new_videos_are_added(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "data"
    for name in ("b.avi", "d.avi"):
        write_video(source / name, 20)
    assert prepare(source, folder).new == 2
    before = contents(folder)
    assert prepare(source, folder).new == 0
    assert contents(folder) == before
    write_video(source / "c.avi", 25)
    assert prepare(source, folder).new == 1
    after = contents(folder)
    assert after["shard-000000.tar"] == before["shard-000000.tar"]
    found = numbers(Manifest.open(folder))
    assert {name: len(shown) for name, shown in found.items()} == {
        "b.avi": 20,
        "c.avi": 25,
        "d.avi": 20,
    }
    assert found["c.avi"] == list(range(25))


def test_a_video_that_changed_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "source" / "a.avi", 20)
    prepare(tmp_path / "source", tmp_path / "data")
    write_video(tmp_path / "source" / "a.avi", 35)
    with pytest.raises(DataError, match=r"a\.avi has changed"):
        prepare(tmp_path / "source", tmp_path / "data")


VANISHING = """
import time
from pathlib import Path
from vcsf_cli import hookimpl
from vcsf_plugins.decoders import PyAV, PyAVReader

class Vanishing(PyAVReader):
    '''The whole source is gone as soon as the frames of `b` are read, and half of those of `c`.

    With two workers `c` begins when `a` is done, so `b` waits for that: what is lost is then
    the same however slowly a worker starts.
    '''
    def stream(self):
        half = Path("half-of-c")
        for number, frame in enumerate(super().stream()):
            if number == 10 and "c" in self.path.stem:
                half.touch()
                while self.path.exists():
                    time.sleep(0.01)
                raise OSError(5, "Input/output error")
            yield frame
        if "b" in self.path.stem and self.path.parent.exists():
            while not half.exists():
                time.sleep(0.01)
            self.path.parent.rename(self.path.parent.with_name("unplugged"))

def vanishing():
    decoder = PyAV()
    decoder.reader = Vanishing
    return decoder

@hookimpl
def vcsf_decoders():
    return {"vanishing": vanishing}
"""


def test_a_source_that_vanishes_while_it_is_prepared_may_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vcsf_local.py").write_text(VANISHING)
    source, folder = tmp_path / "source", tmp_path / "data"
    for index, name in enumerate(("a.avi", "b.avi", "c.avi", "d.avi")):
        write_video(source / name, 20 + index)
    settings = replace(SETTINGS, decoder="vanishing")
    summary = prepare(source, folder, settings, workers=2)
    assert (summary.clips, summary.bad) == (2, 2)
    (tmp_path / "unplugged").rename(source)
    (tmp_path / "vcsf_local.py").write_text(VANISHING.replace('"c"', '"-"').replace('"b"', '"-"'))
    summary = prepare(source, folder, settings, workers=2)
    assert (summary.clips, summary.bad, summary.new) == (4, 0, 2)
    assert {name: len(shown) for name, shown in numbers(Manifest.open(folder)).items()} == {
        "a.avi": 20,
        "b.avi": 21,
        "c.avi": 22,
        "d.avi": 23,
    }
    write_video(source / "a.avi", 35)
    with pytest.raises(DataError, match=r"a\.avi has changed"):
        prepare(source, folder, settings)


def without_sizes(folder: Path) -> None:
    """Write a journal as earlier versions did where the source had vanished before they looked."""
    path = folder / "journal.jsonl"
    entries = [json.loads(line) | {"size": -1} for line in path.read_text().splitlines()]
    for entry in entries:
        del entry["checksum"]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def test_sizes_that_the_journal_lacks_are_noted_when_the_files_are_there(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "data"
    for name in ("a.avi", "b.avi"):
        write_video(source / name, 20)
    prepare(source, folder)
    before, journal = contents(folder), (folder / "journal.jsonl").read_bytes()
    without_sizes(folder)
    assert prepare(source, folder).new == 0
    assert contents(folder) == before
    assert (folder / "journal.jsonl").read_bytes() == journal
    write_video(source / "c.avi", 20)
    assert prepare(source, folder).new == 1
    without_sizes(folder)
    write_video(source / "a.avi", 35)
    with pytest.raises(DataError, match=r"a\.avi has changed since it was prepared"):
        prepare(source, folder)


def test_a_video_whose_link_leads_nowhere_any_more_is_said_to_be_gone(tmp_path: Path) -> None:
    write_video(tmp_path / "disk" / "a.avi", 20)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.avi").symlink_to(tmp_path / "disk" / "a.avi")
    prepare(tmp_path / "source", tmp_path / "data")
    (tmp_path / "disk").rename(tmp_path / "unplugged")
    with pytest.raises(DataError, match=r"a\.avi is gone since it was prepared"):
        prepare(tmp_path / "source", tmp_path / "data")
    (tmp_path / "unplugged").rename(tmp_path / "disk")
    assert prepare(tmp_path / "source", tmp_path / "data").new == 0


def test_other_settings_are_refused_with_both_values(source: Path, prepared: Path) -> None:
    before = contents(prepared)
    with pytest.raises(InputError, match=r"size 48, not 64; quality 90, not 80") as caught:
        prepare(source, prepared, replace(SETTINGS, size=64, quality=80))
    assert "--name" in caught.value.hint
    assert contents(prepared) == before


@pytest.mark.parametrize("content", ["", '{"kind": "fol', "[]"])
def test_damaged_settings_are_an_error_that_says_what_to_do(
    source: Path, tmp_path: Path, content: str
) -> None:
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(DataError, match=r"settings\.json is damaged") as caught:
        prepare(source, tmp_path)
    assert "delete" in caught.value.hint


def test_two_at_once_are_refused(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    process = started(source, folder, tmp_path / "program.py")
    try:
        while process.poll() is None and not (folder / "settings.json").exists():
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGSTOP)
        with pytest.raises(InputError, match="is being prepared by another process"):
            prepare(source, folder)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_equal_videos_of_two_classes_or_parts_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("Run/a.avi", "Run/b.avi", "Jump/d.avi"):
        write_video(tmp_path / "source" / name, [ord(name[-5]), *range(8)])
    for copied in ("Run/c.avi", "Jump/c.avi"):
        shutil.copyfile("source/Run/b.avi", f"source/{copied}")
    Path("parts.csv").write_text("video,part\nRun/b.avi,train\nRun/c.avi,test\n")
    words = ["--source", "source", "--splits", "parts.csv", "--size", "32", "--workers", "1"]
    for _ in range(2):
        assert main(["prepare", "folder", *words]) == 0
        said = capsys.readouterr().err
        equal = "clips are equal to others in"
        assert f"3 {equal} another class, such as Jump/c.avi and Run/b.avi" in said
        assert f"2 {equal} the other part of a split, such as Run/b.avi and Run/c.avi" in said


def test_one_stem_twice_gives_two_members(tmp_path: Path) -> None:
    for name in ("a.avi", "a.mp4", "a%2Eavi.mkv", "a.b.avi"):
        write_video(tmp_path / "source" / name, 10)
    prepare(tmp_path / "source", tmp_path / "data")
    with tarfile.open(tmp_path / "data" / "shard-000000.tar") as shard:
        names = [name for name in shard.getnames() if name.endswith(".mjpeg")]
    assert sorted(names) == ["a%252Eavi.mjpeg", "a%2Eavi.mjpeg", "a%2Eb.mjpeg", "a%2Emp4.mjpeg"]


def test_no_two_videos_have_one_member_whenever_they_came(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "data"
    for name in ("x/a.mp4", "x/a.avi", "x/a.mp4.mkv", "x/b.mp4.mkv"):
        write_video(source / name, 10)
    prepare(source, folder)
    for name in (
        "x/b.mp4",
        "x/b.avi",
    ):  # the first one's path is what the member of b.mp4.mkv is called
        write_video(source / name, 10)
    prepare(source, folder)
    names = []
    for path in sorted(folder.glob("shard-*.tar")):
        with tarfile.open(path) as shard:
            names += [name for name in shard.getnames() if name.endswith(".mjpeg")]
    first = ["x/a%2Eavi.mjpeg", "x/a%2Emp4.mjpeg", "x/a%2Emp4%2Emkv.mjpeg", "x/b%2Emp4.mjpeg"]
    assert names == [*first, "x/b%2Eavi.mjpeg", "x/b%2Emp4%2Emp4.mjpeg"]


@given(
    st.lists(st.from_regex(r"a(\.(mp4|avi)){0,4}", fullmatch=True), unique=True), st.integers(0, 5)
)
def test_members_are_different_for_any_names(names: list[str], first: int) -> None:
    videos = [Video(Path(name), name) for name in sorted(names)]
    before = member_names(videos[:first], {})
    stored = {member: name for name, member in before.items()}
    after = member_names(videos, stored)
    both = [*before.values(), *(after[video.name] for video in videos[first:])]
    assert len(set(both)) == len(videos)


def test_another_source_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    for index, name in enumerate(("one/a.avi", "one/b.avi", "other/b.avi", "other/c.avi")):
        write_video(tmp_path / name, 20 + index)
    prepare(tmp_path / "one", tmp_path / "data")
    before = contents(tmp_path / "data")
    with pytest.raises(
        InputError, match=r"holds videos that are not there any more: a\.avi"
    ) as caught:
        prepare(tmp_path / "other", tmp_path / "data")
    assert "--name" in caught.value.hint
    assert contents(tmp_path / "data") == before


def test_a_bad_video_may_vanish(tmp_path: Path) -> None:
    write_video(tmp_path / "source" / "a.avi", 20)
    (tmp_path / "source" / "text.avi").write_text("no video")
    assert prepare(tmp_path / "source", tmp_path / "data").bad == 1
    (tmp_path / "source" / "text.avi").unlink()
    assert prepare(tmp_path / "source", tmp_path / "data").bad == 0


def test_clips_of_a_long_video_share_source_and_group(tmp_path: Path) -> None:
    write_video(tmp_path / "source" / "a.avi", 130)
    write_video(tmp_path / "source" / "a#000.avi", 10)
    prepare(tmp_path / "source", tmp_path / "data", replace(SETTINGS, max_seconds=2.0))
    manifest = Manifest.open(tmp_path / "data")
    clips = manifest.table[manifest.table["source"] == "a.avi"]
    assert clips["frames"].tolist() == [50, 50, 30]
    assert (
        sum(
            numbers(manifest)[name] == list(range(begin, begin + 50))
            for name, begin in zip(clips["video"][:2], (0, 50), strict=True)
        )
        == 2
    )
    with tarfile.open(tmp_path / "data" / "shard-000000.tar") as shard:
        names = shard.getnames()
    assert len(names) == len(set(names)) == 8


def test_benchmark_clips_are_never_cut(tmp_path: Path) -> None:
    write_video(tmp_path / "source" / "a.avi", 130)
    prepare(
        tmp_path / "source", tmp_path / "data", replace(SETTINGS, max_seconds=2.0), benchmark=True
    )
    assert Manifest.open(tmp_path / "data").table["frames"].tolist() == [130]


@pytest.fixture
def bad_source(tmp_path: Path) -> Path:
    """Every kind of bad video, and a good one."""
    folder = tmp_path / "source"
    write_video(folder / "good.avi", 30)
    (folder / "empty.avi").touch()
    (folder / "text.avi").write_text("no video")
    cut_off(write_video(folder / "cut.avi", 240, b_frames=0), 0.4)
    cut_off(write_video(folder / "cut.mp4", 30), 0.5)
    write_sound(folder / "sound.avi")
    flip_bytes(write_video(folder / "flipped.avi", 240), 0.3, 0.5)
    write_video(folder / "single.avi", 1)
    return folder


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_bad_videos_are_left_out_with_the_reason(
    bad_source: Path, tmp_path: Path, decoder: str
) -> None:
    folder = tmp_path / "data"
    summary = prepare(bad_source, folder, replace(SETTINGS, decoder=decoder))
    assert (summary.videos, summary.clips, summary.bad) == (8, 1, 7)
    assert Manifest.open(folder).table["video"].tolist() == ["good.avi"]
    listed = problems(folder)
    assert set(listed) == {
        "cut.avi",
        "cut.mp4",
        "empty.avi",
        "flipped.avi",
        "single.avi",
        "sound.avi",
        "text.avi",
    }
    assert {row["kept"] for row in listed.values()} == {"no"}
    assert "of 240 frames" in listed["cut.avi"]["reason"]
    assert 50 < int(listed["cut.avi"]["frames_read"]) < 150
    assert "no video stream" in listed["sound.avi"]["reason"]
    assert all(len(row["reason"].splitlines()) == 1 for row in listed.values())


def test_what_could_be_read_of_bad_videos_is_kept_if_wanted(
    bad_source: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    prepare(bad_source, folder, replace(SETTINGS, on_bad="keep"))
    found = numbers(Manifest.open(folder))
    assert set(found) == {"good.avi", "cut.avi", "flipped.avi", "single.avi"}
    assert found["cut.avi"][:50] == list(range(50))
    listed = problems(folder)
    assert {name for name, row in listed.items() if row["kept"] == "yes"} == {
        "cut.avi",
        "flipped.avi",
        "single.avi",
    }


CRASHING = """
import os, signal
from pathlib import Path
from vcsf_cli import hookimpl
from vcsf_plugins.decoders import PyAV, PyAVReader

class Crashing(PyAVReader):
    def stream(self):
        if Path("crash").exists():
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().stream()

def crashing():
    decoder = PyAV()
    decoder.reader = Crashing
    return decoder

@hookimpl
def vcsf_decoders():
    return {"crashing": crashing}
"""


def test_a_video_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens a named pipe that nobody writes to hangs in the operating system."""
    monkeypatch.chdir(tmp_path)
    hanging = CRASHING.replace('Path("crash").exists()', '"hanging" in self.path.name')
    hanging = hanging.replace("os.kill(os.getpid(), signal.SIGSEGV)", 'open("pipe")')
    (tmp_path / "vcsf_local.py").write_text(hanging)
    os.mkfifo(tmp_path / "pipe")
    for name in ("good.avi", "hanging.avi"):
        write_video(tmp_path / "source" / name, 20)
    settings = replace(SETTINGS, decoder="crashing")
    summary = prepare(tmp_path / "source", tmp_path / "data", settings, time_limit=5.0)
    assert (summary.clips, summary.bad) == (1, 1)
    assert "no frame for 5 s: killed" in problems(tmp_path / "data")["hanging.avi"]["reason"]


def test_a_decoder_that_crashes_is_a_bad_video_until_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vcsf_local.py").write_text(CRASHING)
    (tmp_path / "crash").touch()
    write_video(tmp_path / "source" / "a.avi", 20)
    settings = replace(SETTINGS, decoder="crashing")
    with pytest.raises(DataError, match="the only video could not be"):
        prepare(tmp_path / "source", tmp_path / "data", settings)
    assert "crashed" in problems(tmp_path / "data")["a.avi"]["reason"]
    (tmp_path / "crash").unlink()
    assert prepare(tmp_path / "source", tmp_path / "data", settings).bad == 0
    assert numbers(Manifest.open(tmp_path / "data")) == {"a.avi": list(range(20))}


def test_a_video_that_could_not_be_read_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    failing = CRASHING.replace(
        "os.kill(os.getpid(), signal.SIGSEGV)", 'raise OSError(5, "Input/output error")'
    )
    (tmp_path / "vcsf_local.py").write_text(failing)
    (tmp_path / "crash").touch()
    write_video(tmp_path / "source" / "a.avi", 20)
    settings = replace(SETTINGS, decoder="crashing")
    with pytest.raises(DataError, match="the only video could not be"):
        prepare(tmp_path / "source", tmp_path / "data", settings)
    assert "can't be read: Input/output error" in problems(tmp_path / "data")["a.avi"]["reason"]
    (tmp_path / "crash").unlink()
    assert prepare(tmp_path / "source", tmp_path / "data", settings).bad == 0


SLOW = """
import time
from vcsf_cli import hookimpl
from vcsf_plugins.decoders import PyAV, PyAVReader

class Slow(PyAVReader):
    def stream(self):
        for number, frame in enumerate(super().stream()):
            time.sleep(600 if number == 20 and "stuck" in self.path.name else 0.2)
            yield frame

def slow():
    decoder = PyAV()
    decoder.reader = Slow
    return decoder

@hookimpl
def vcsf_decoders():
    return {"slow": slow}
"""


@pytest.mark.parametrize("fps", [None, 1.0])
def test_a_slow_video_is_waited_for_while_it_gets_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fps: float | None
) -> None:
    """25 frames of 0.2 s take longer than the limit; at one frame a second nothing is written
    meanwhile."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vcsf_local.py").write_text(SLOW)
    write_video(tmp_path / "source" / "slow.avi", 25)
    settings = replace(SETTINGS, decoder="slow", fps=fps)
    assert prepare(tmp_path / "source", tmp_path / "data", settings, time_limit=4.0).bad == 0
    assert numbers(Manifest.open(tmp_path / "data")) == {
        "slow.avi": list(range(25)) if fps is None else [0]
    }


def test_what_gets_stuck_half_way_is_killed_and_tried_again_with_a_longer_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vcsf_local.py").write_text(SLOW)
    for name in ("fine.avi", "stuck.avi"):
        write_video(tmp_path / "source" / name, 25)
    options: dict[str, Any] = {"settings": replace(SETTINGS, decoder="slow"), "workers": 2}
    summary = prepare(tmp_path / "source", tmp_path / "data", **options, time_limit=4.0)
    assert (summary.clips, summary.bad) == (1, 1)
    assert "no frame for 4 s" in problems(tmp_path / "data")["stuck.avi"]["reason"]
    assert prepare(tmp_path / "source", tmp_path / "data", **options, time_limit=4.0).new == 0
    (tmp_path / "vcsf_local.py").write_text(SLOW.replace("600 if", "0 if"))
    assert prepare(tmp_path / "source", tmp_path / "data", **options, time_limit=60.0).new == 1
    assert numbers(Manifest.open(tmp_path / "data"))["stuck.avi"] == list(range(25))


def test_a_source_of_bad_videos_alone_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "text.avi").write_text("no video")
    with pytest.raises(DataError, match="the only video could not be"):
        prepare(tmp_path / "source", tmp_path / "data")
    assert "text.avi" in problems(tmp_path / "data")


def test_an_unprepared_or_unfinished_dataset_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not prepared") as caught:
        Manifest.open(tmp_path / "ucf101")
    assert "vcsf prepare ucf101" in caught.value.hint
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "settings.json").write_text("{}")
    with pytest.raises(InputError, match="not prepared to its end"):
        Manifest.open(tmp_path / "mine")


def test_the_hash_is_of_the_clips_and_not_of_the_place(
    source: Path, prepared: Path, tmp_path: Path
) -> None:
    prepare(source, tmp_path / "elsewhere", shard_bytes=10**9)
    one, other = Manifest.open(prepared), Manifest.open(tmp_path / "elsewhere")
    assert one.hash == other.hash
    changed = other.table.assign(label="Else")
    assert Manifest(other.folder, changed, {}).hash != one.hash


def journal_of(folder: Path) -> dict[str, dict[str, Any]]:
    lines = (folder / "journal.jsonl").read_text().splitlines()
    return {entry["name"]: entry for entry in map(json.loads, lines)}


def test_errors_that_the_decoder_concealed_are_said_of_videos_that_are_kept(tmp_path: Path) -> None:
    write_video(tmp_path / "source" / "good.mp4", 60, gop=12)
    flip_bytes(write_video(tmp_path / "source" / "spots.mp4", 60, gop=12), 0.3, 0.32)
    summary = prepare(tmp_path / "source", tmp_path / "data")
    assert (summary.clips, summary.bad, summary.damaged) == (2, 0, 1)
    (row,) = problems(tmp_path / "data").values()
    assert re.fullmatch(r"\d+ of \d+ frames had errors that the decoder concealed", row["reason"])
    assert (row["video"], row["kept"]) == ("spots.mp4", "yes")


def test_what_lies_behind_destroyed_bytes_is_kept_if_wanted(tmp_path: Path) -> None:
    flip_bytes(write_video(tmp_path / "source" / "a.avi", 120, gop=12, b_frames=0), 0.4, 0.6)
    prepare(tmp_path / "source", tmp_path / "data", replace(SETTINGS, on_bad="keep"))
    (found,) = numbers(Manifest.open(tmp_path / "data")).values()
    assert found[-30:] == list(range(90, 120))
    assert "of 120 frames" in problems(tmp_path / "data")["a.avi"]["reason"]


def test_the_journal_says_what_decoded_each_video(tmp_path: Path) -> None:
    pytest.importorskip("decord")
    for name in ("a.avi", "a.mp4"):
        write_video(tmp_path / "source" / name, 20)
    prepare(tmp_path / "source", tmp_path / "data", replace(SETTINGS, decoder="auto"))
    entries = journal_of(tmp_path / "data")
    assert {name: entry["decoder"] for name, entry in entries.items()} == {
        "a.avi": "decord",
        "a.mp4": "pyav",
    }


def test_reasons_do_not_depend_on_where_the_videos_lie(bad_source: Path, tmp_path: Path) -> None:
    listed = []
    for place in ("here", "there/deeper"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        shutil.copytree(bad_source, tmp_path / place)
        prepare(tmp_path / place, tmp_path / f"data {place[0]}")
        listed.append((tmp_path / f"data {place[0]}" / "problems.csv").read_text())
    assert listed[0] == listed[1]
    assert str(tmp_path) not in listed[0]
