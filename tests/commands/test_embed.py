"""`vcsf embed`: features of a folder, a list or a dataset as a table that later calls complete."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import lance
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import called
from trained import copy_run

import vcsf_cli
from vcsf_cli import load_encoder
from vcsf_cli.commands.work import embed as work
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.export.embeddings import Embeddings, VideoItem
from vcsf_cli.search.video import WindowFeatures


@pytest.fixture(scope="module")
def originals(tiny_data: Path) -> list[Path]:
    return sorted((tiny_data / "synthetic" / "original" / "videos").rglob("*.avi"))


@pytest.fixture
def videos(originals: list[Path], tmp_path: Path) -> Path:
    """A folder with four of the videos."""
    for number, path in enumerate(originals[:4]):
        target = tmp_path / "videos" / str(number % 2) / f"{number}.avi"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return tmp_path / "videos"


def embed(
    source: Path | str, run: Path, folder: Path, *more: object, status: int = 0
) -> subprocess.CompletedProcess[str]:
    words = ("embed", source, "--from", run, "--workers", 0, "-o", folder / "e.parquet", *more)
    return called(*words, cwd=folder, status=status)


def read(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "e.parquet")


def assert_same_rows(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    """Equal but for when the files were modified, and for what batches of other windows round."""
    vectors = ["slow", "fast", "both"]
    others = ["modified", *vectors]
    pd.testing.assert_frame_equal(ours.drop(columns=others), theirs.drop(columns=others))
    for name in vectors:
        found, expected = (np.stack(table[name].to_list()) for table in (ours, theirs))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_row_is_a_window_with_the_features_that_the_encoder_gives(
    videos: Path, tiny_run: Path, tmp_path: Path
) -> None:
    done = embed(videos, tiny_run, tmp_path)
    assert done.stdout == ""
    table = read(tmp_path)
    assert table["path"].unique().tolist() == ["0/0.avi", "0/2.avi", "1/1.avi", "1/3.avi"]
    assert f"4 videos, {len(table)} windows, 4 videos of them new" in done.stderr
    encoder = load_encoder(tiny_run)
    for name, rows in table.groupby("path"):
        windows = encoder.encode_windows(videos / str(name))
        assert rows["begin"].tolist() == windows.begin.tolist()
        assert rows["end"].tolist() == windows.end.tolist()
        for pathway in ("slow", "fast"):
            ours = np.stack(rows[pathway].to_list())
            assert ours.dtype == np.float32
            np.testing.assert_allclose(ours, windows.features[pathway], rtol=1e-5, atol=1e-6)
        both, slow, fast = (np.stack(rows[key].to_list()) for key in ("both", "slow", "fast"))
        cosines = [
            (each @ each.T) / np.outer(*(np.linalg.norm(each, axis=1),) * 2)
            for each in (slow, fast)
        ]
        np.testing.assert_allclose(both @ both.T, sum(cosines) / 2, atol=1e-5)
    key = json.loads(pq.read_schema(tmp_path / "e.parquet").metadata[b"vcsf"])
    assert key["encoder"] == tiny_run.name
    assert key["digest"] == encoder.digest
    # In Python the same, in the order of the paths that are given; or of one video.
    frame = encoder.embed([videos / "1/1.avi", videos / "0/0.avi"])
    assert frame["path"].unique().tolist() == [str(videos / "1/1.avi"), str(videos / "0/0.avi")]
    own = table[table["path"] == "0/0.avi"]["both"].to_list()
    for path in (videos / "0/0.avi", str(videos / "0/0.avi")):
        alone = encoder.embed(path)
        assert alone["path"].unique().tolist() == [str(videos / "0/0.avi")]
        np.testing.assert_allclose(np.stack(alone["both"].to_list()), own, atol=1e-6)
    np.testing.assert_allclose(np.stack(frame["both"].to_list())[-len(own) :], own, atol=1e-6)


def test_videos_at_an_address_give_the_same_rows(
    originals: list[Path], videos: Path, tiny_run: Path, tmp_path: Path
) -> None:
    embed(videos, tiny_run, tmp_path)
    before = read(tmp_path).drop(columns="head")
    (tmp_path / "e.parquet").unlink()
    embed(f"file://{videos}", tiny_run, tmp_path)
    assert_same_rows(read(tmp_path).drop(columns="head"), before)
    done = embed(f"file://{videos}", tiny_run, tmp_path)
    assert "0 videos of them new" in done.stderr
    shutil.copy(originals[5], videos / "1/1.avi")
    (tmp_path / "list.txt").write_text(f"file://{videos}/1/1.avi\n")
    assert "1 video of them new" in embed(f"file://{videos}", tiny_run, tmp_path).stderr
    embed(tmp_path / "list.txt", tiny_run, tmp_path, "--drop-missing")
    assert read(tmp_path)["path"].unique().tolist() == [f"file://{videos}/1/1.avi"]


def test_a_second_call_encodes_what_is_new_or_changed(
    originals: list[Path], videos: Path, tiny_run: Path, tmp_path: Path
) -> None:
    embed(videos, tiny_run, tmp_path)
    before = read(tmp_path)
    assert "0 videos of them new" in embed(videos, tiny_run, tmp_path).stderr
    assert_same_rows(read(tmp_path), before)
    os.utime(videos / "0/0.avi")  # touched: the content decides
    (videos / "0/2.avi").unlink()
    shutil.copy(originals[5], videos / "1/1.avi")
    shutil.copy(originals[4], videos / "0/1.avi")
    done = embed(videos, tiny_run, tmp_path, "--drop-missing")
    assert "2 videos of them new" in done.stderr
    after = read(tmp_path)
    (tmp_path / "e.parquet").unlink()
    embed(videos, tiny_run, tmp_path)
    assert_same_rows(after, read(tmp_path))
    assert after["path"].unique().tolist() == ["0/0.avi", "0/1.avi", "1/1.avi", "1/3.avi"]


@pytest.mark.parametrize("ending", ["parquet", "lance"])
def test_rows_of_videos_that_are_not_in_the_source_are_dropped_only_when_told_to(
    ending: str, videos: Path, tiny_run: Path, tmp_path: Path
) -> None:
    output = tmp_path / f"t.{ending}"

    def rows() -> pd.DataFrame:
        lines = lance.dataset(output).to_table().to_pandas() if ending == "lance" else None
        return pd.read_parquet(output) if lines is None else pd.DataFrame(lines)

    embed(videos, tiny_run, tmp_path, "-o", output)
    before = rows()
    gone = len(before[before["path"].str.startswith("0/")])
    shutil.rmtree(videos / "0")
    done = embed("videos", tiny_run, tmp_path, "-o", output, status=2)
    assert f"t.{ending} has {gone} windows of 2 videos not in videos\n" in done.stderr
    assert "hint: write to another file with -o, or drop these rows with --drop-" in done.stderr
    assert "embedding" not in done.stderr
    assert_same_rows(rows(), before)
    assert not (tmp_path / f".t.{ending}.unfinished").exists()
    done = embed("videos", tiny_run, tmp_path, "-o", output, "--drop-missing")
    assert f"dropped: {gone} windows of 2 videos not in videos\n" in done.stderr
    assert rows()["path"].unique().tolist() == ["1/1.avi", "1/3.avi"]
    done = embed("videos", tiny_run, tmp_path, "-o", output, "--drop-missing")
    assert "dropped" not in done.stderr


def test_links_to_a_disk_that_is_gone_cost_no_rows(
    originals: list[Path], tiny_run: Path, tmp_path: Path
) -> None:
    disk, links = tmp_path / "disk", tmp_path / "links"
    disk.mkdir()
    links.mkdir()
    for number in range(2):
        shutil.copy(originals[number], disk / f"{number}.avi")
        (links / f"{number}.avi").symlink_to(disk / f"{number}.avi")
    embed(links, tiny_run, tmp_path)
    before = read(tmp_path)
    (disk / "0.avi").unlink()
    assert "of 1 video not in" in embed(links, tiny_run, tmp_path, status=2).stderr
    assert_same_rows(read(tmp_path), before)


def test_rows_of_an_interrupted_call_are_dropped_only_when_told_to(
    videos: Path, tiny_run: Path, tmp_path: Path
) -> None:
    (videos / "1" / "3.avi").write_bytes(b"no video")
    done = embed(videos, tiny_run, tmp_path, "--on-bad", "stop", status=1)
    assert "3.avi" in done.stderr
    done = embed(videos / "1", tiny_run, tmp_path, status=2)
    assert re.search(r"an interrupted call for .*e\.parquet has \d+ windows of 3 vid", done.stderr)
    (videos / "1" / "3.avi").unlink()
    assert "0 videos of them new" in embed(videos, tiny_run, tmp_path).stderr


def test_a_video_that_changed_after_a_kill_has_its_new_rows_only(tmp_path: Path) -> None:
    video, table = tmp_path / "a.mp4", tmp_path / "table.parquet"

    def opened(content: bytes) -> tuple[Embeddings, VideoItem]:
        video.write_bytes(content)
        embeddings = Embeddings(table, {}, {}, {"slow": 2}, False)
        (item,) = embeddings.missing([VideoItem.at("a.mp4", video)])
        return embeddings, item

    for content, windows in ((b"old", 3), (b"another", 2)):
        embeddings, item = opened(content)
        begins = np.arange(windows, dtype=np.float64)
        features = {"slow": np.zeros((windows, 2), np.float32)}
        embeddings.add(item, WindowFeatures(features, begins, begins + 1))
        embeddings.flush()  # and the first one is killed
    assert embeddings.finish([item]) == 2
    assert pd.read_parquet(table)["size"].tolist() == [7, 7]


def test_killed_at_any_moment_it_goes_on_to_the_same_table(
    originals: list[Path], tiny_run: Path, tmp_path: Path
) -> None:
    for number in range(40):
        target = tmp_path / "videos" / f"{number:02}.avi"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(originals[number % 6], target)
    embed(tmp_path / "videos", tiny_run, tmp_path)
    whole = read(tmp_path)
    (tmp_path / "e.parquet").unlink()
    command = [sys.executable, "-m", "vcsf_cli", "embed", "videos", "--from", str(tiny_run)]
    command += ["-o", "e.parquet", "--workers", "1"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    partial = tmp_path / ".e.parquet.unfinished"
    while process.poll() is None and not (partial.exists() and partial.stat().st_size > 5_000):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if partial.exists():  # the kill came in time: the last rows may be half written
        with partial.open("r+b") as file:
            file.truncate(partial.stat().st_size - 100)
    done = embed(tmp_path / "videos", tiny_run, tmp_path)
    assert "40 videos of them new" not in done.stderr
    assert_same_rows(read(tmp_path), whole)
    assert not partial.exists()


def test_a_bad_video_is_named_and_passed_over_or_stops(
    videos: Path, tiny_run: Path, tmp_path: Path
) -> None:
    (videos / "0" / "1.mp4").write_bytes(b"no video")
    (videos / "notes.txt").write_text("left out")
    (videos / "1" / "dead.mp4").symlink_to("nowhere")
    done = embed(videos, tiny_run, tmp_path, "--on-bad", "stop", status=1)
    assert "0/1.mp4" in done.stderr
    assert "hint: --on-bad skip" in done.stderr
    done = embed(videos, tiny_run, tmp_path)
    assert "left out: " in done.stderr
    assert "1/dead.mp4 is a link that leads nowhere" in done.stderr
    assert "2 could not be read" in done.stderr
    assert ".txt" in done.stderr
    assert len(read(tmp_path)["path"].unique()) == 4
    shutil.rmtree(videos / "0")
    shutil.rmtree(videos / "1")
    (videos / "1.mp4").write_bytes(b"no video")
    (tmp_path / "e.parquet").unlink()
    assert "no video could be read" in embed(videos, tiny_run, tmp_path, status=1).stderr


def test_a_prepared_dataset_brings_labels_and_parts(
    tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    embed("synthetic", tiny_run, tmp_path, "--data", tiny_data, "--half")
    table, manifest = read(tmp_path), Manifest.open(tiny_data / "synthetic").table
    assert table["path"].unique().tolist() == manifest["video"].tolist()
    first = table.groupby("path").first()
    assert first["label"].tolist() == manifest["label"].tolist()
    assert first["split"].tolist() == manifest["split1"].tolist()
    assert table["slow"][0].dtype == np.float16
    again = embed("synthetic", tiny_run, tmp_path, "--data", tiny_data, "--half")
    assert "0 videos of them new" in again.stderr
    # A clip's feature is the mean over its windows, as `retrieve` measures it.
    called("retrieve", "--from", tiny_run.name, "--runs", tmp_path / "runs", "--data", tiny_data,
           "--k", 1, "--no-html", "--workers", 0, cwd=_with_copy(tiny_run, tmp_path))  # fmt: skip
    (features,) = (tmp_path / "runs").rglob("features.parquet")
    measured = pd.read_parquet(features).set_index("video")
    for name, rows in table.groupby("path"):
        ours = np.stack(rows["fast"].to_list()).astype(np.float32).mean(0)
        np.testing.assert_allclose(ours, measured["fast"][name], rtol=0.01, atol=0.01)


def _with_copy(run: Path, folder: Path) -> Path:
    copy_run(run, folder)
    return folder


def test_lists_and_single_videos_and_fewer_windows(
    originals: list[Path], videos: Path, tiny_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "list.csv").write_text(f"path,label\nvideos/0/0.avi,Run\n{originals[5]},\n")
    embed(tmp_path / "list.csv", tiny_run, tmp_path)
    table = read(tmp_path).drop_duplicates("path").set_index("path")
    assert table["label"]["videos/0/0.avi"] == "Run"
    assert pd.isna(table["label"][str(originals[5])])
    (tmp_path / "list.txt").write_text("videos/0/0.avi\n\nvideos/1/1.avi\n")
    embed(tmp_path / "list.txt", tiny_run, tmp_path, "-o", tmp_path / "t.parquet")
    assert len(pd.read_parquet(tmp_path / "t.parquet")["path"].unique()) == 2
    done = embed(videos / "0/0.avi", tiny_run, tmp_path, "-o", tmp_path / "all.parquet")
    everything = pd.read_parquet(tmp_path / "all.parquet")
    assert f"1 video, {len(everything)} windows, 1 video of them new" in done.stderr
    assert everything["path"].unique().tolist() == ["0.avi"]
    hop = everything["begin"][1] - everything["begin"][0]
    embed(
        videos / "0/0.avi", tiny_run, tmp_path, "-o", tmp_path / "few.parquet", "--every", 1.5 * hop
    )
    few = pd.read_parquet(tmp_path / "few.parquet")
    assert few["begin"].tolist() == everything["begin"][::2].tolist()
    (tmp_path / "list.txt").write_text("videos/0/0.avi\nvideos/0/0.avi\n")
    assert "0.avi 2 times" in embed(tmp_path / "list.txt", tiny_run, tmp_path, status=2).stderr
    (tmp_path / "list.csv").write_text("file\na.avi\n")
    assert "no column `path`" in embed(tmp_path / "list.csv", tiny_run, tmp_path, status=2).stderr
    (tmp_path / "list.csv").write_text(f"path\n{'a' * 200_000}\n")
    assert "can't be read" in embed(tmp_path / "list.csv", tiny_run, tmp_path, status=2).stderr


def test_an_exported_folder_gives_the_features_of_its_run(
    videos: Path, tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    _with_copy(tiny_run, tmp_path)
    embed(videos, tiny_run, tmp_path)
    run = read(tmp_path)
    called("export", "--from", tiny_run.name, "--data", tiny_data, "--out", "out", cwd=tmp_path)
    words = ("embed", videos, "--from", "out", "-o", "x.parquet", "--workers", 0)
    called(*words, cwd=tmp_path)
    exported = pd.read_parquet(tmp_path / "x.parquet")
    assert exported["begin"].tolist() == run["begin"].tolist()
    for pathway in ("slow", "fast", "both"):
        ours, theirs = (np.stack(table[pathway].to_list()) for table in (run, exported))
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    # The table is another encoder's.
    done = embed(videos, tmp_path / "out", tmp_path, status=2)
    assert "features of another encoder" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "there is no folder, file or prepared dataset nothing"),
        (["videos", "-o", "e.csv"], "does not end with .parquet or .lance"),
        (["videos", "-o", "no/e.parquet"], "there is no folder no"),
        (["videos", "--every", "nan"], "not a number"),
        (["empty"], "no video was found"),
    ],
)
def test_what_can_not_be_is_refused(
    words: list[str], said: str, videos: Path, tiny_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    done = called(
        "embed", *words, "--from", tiny_run, cwd=tmp_path, status=1 if words == ["empty"] else 2
    )
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_no_such_table_is_left_alone(
    videos: Path, tiny_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "e.parquet").write_bytes(b"mine")
    done = embed(videos, tiny_run, tmp_path, status=2)
    assert "is not a table that vcsf embed can complete" in done.stderr
    assert (tmp_path / "e.parquet").read_bytes() == b"mine"


def test_a_table_of_another_version_or_of_a_renamed_run_is_completed(
    videos: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "__version__", "0.0.1")
    embed(videos, tiny_run, tmp_path)
    before = read(tmp_path)
    monkeypatch.undo()
    renamed = copy_run(tiny_run, tmp_path).rename(tmp_path / "mine")
    (videos / "1" / "1.avi").unlink()
    done = embed(videos, renamed, tmp_path, "--drop-missing")
    assert "0 videos of them new" in done.stderr
    assert_same_rows(read(tmp_path), before[before["path"] != "1/1.avi"].reset_index(drop=True))
    key = json.loads(pq.read_schema(tmp_path / "e.parquet").metadata[b"vcsf"])
    assert (key["encoder"], key["version"]) == ("mine", vcsf_cli.__version__)
    assert "of another kind" in embed(videos, renamed, tmp_path, "--half", status=2).stderr


def test_a_damaged_table_is_named(videos: Path, tiny_run: Path, tmp_path: Path) -> None:
    embed(videos, tiny_run, tmp_path)
    path = tmp_path / "e.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    done = embed(videos, tiny_run, tmp_path, status=2)
    assert "e.parquet is damaged: its content is not what its checksum says" in done.stderr
    assert path.read_bytes() == content


def test_a_table_of_lance_is_that_of_parquet_and_is_completed(
    originals: list[Path], videos: Path, tiny_run: Path, tmp_path: Path
) -> None:
    embed(videos, tiny_run, tmp_path)
    output = tmp_path / "e.lance"
    done = embed(videos, tiny_run, tmp_path, "-o", output)
    assert "lance.dataset" in done.stderr

    def lance_rows() -> pd.DataFrame:
        return pd.DataFrame(lance.dataset(output).to_table().to_pandas())

    assert_same_rows(lance_rows(), read(tmp_path))
    key = json.loads(lance.dataset(output).schema.metadata[b"vcsf"])
    assert key["encoder"] == tiny_run.name
    assert "0 videos of them new" in embed(videos, tiny_run, tmp_path, "-o", output).stderr
    (videos / "0/0.avi").unlink()
    shutil.copy(originals[5], videos / "1/9.avi")
    for more in ((), ("-o", output)):
        assert (
            "1 video of them new"
            in embed(videos, tiny_run, tmp_path, "--drop-missing", *more).stderr
        )
    assert_same_rows(lance_rows(), read(tmp_path))
    assert len(lance.dataset(output).versions()) == 1
    (tmp_path / "f.lance").mkdir()
    done = embed(videos, tiny_run, tmp_path, "-o", tmp_path / "f.lance", status=2)
    assert "is not a table that vcsf embed can complete" in done.stderr


def test_without_lance_the_error_has_the_install_line(
    videos: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lance", None)
    done = embed(videos, tiny_run, tmp_path, "-o", tmp_path / "e.lance", status=2)
    assert "hint: pip install 'vcsf[lance]'" in done.stderr
