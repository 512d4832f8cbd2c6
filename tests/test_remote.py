"""Videos at addresses: the same bytes as from this disk, whatever fails on the way."""

from __future__ import annotations

import json
import resource
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from buckets import Bucket
from conftest import called
from hubs import Hub, python
from vcsf_plugins.datasets import Table, WebDataset
from videos import write_video

from vcsf_cli.cli import main
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.errors import DataError, InputError, RemoteError
from vcsf_cli.remote import store

NAMES = ("Jump/a.avi", "Jump/b.mp4", "Run/c.avi", "Run/d.avi")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "videos"
    for number, name in enumerate(NAMES):
        write_video(folder / name, 16 + number, width=80, height=64)
    (folder / "notes.txt").write_text("no video")
    (folder / "list.csv").write_text(
        "video,label,part\n" + "".join(f"{name},x,train\n" for name in NAMES)
    )
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a prepared dataset but the lock."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}


def prepare(kind: str, source: object, data: Path, status: int = 0) -> str:
    words = (kind, "--source", source, "--name", "d", "--data", data, "--size", 48)
    return called("prepare", *words, "--workers", 1, cwd=data.parent, status=status).stderr


@pytest.fixture(scope="module")
def local(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of the videos on this disk."""
    data = tmp_path_factory.mktemp("local") / "data"
    assert "left out: 1 .csv, 1 .txt" in prepare("folder", videos, data)
    return data / "d"


def test_a_folder_in_a_bucket_is_prepared_to_the_same_bytes_after_all_kinds_of_failures(
    bucket: Bucket, videos: Path, local: Path, tmp_path: Path
) -> None:
    address = bucket.upload(videos, "my/videos")
    if bucket.can_fail:
        # One that always breaks off: what is finished is kept, and one error says what to do.
        bucket.faults = lambda method, path: "cut" if path.endswith("c.avi") else ""
        failed = prepare("folder", address, tmp_path / "remote", status=1)
        assert failed.count("error: ") == 1
        assert f"error: {address}/Run/c.avi can't be reached: " in failed
        assert "the same command goes on" in failed
        assert not (tmp_path / "remote" / "d" / "manifest.parquet").exists()
        # Then each a little: tried again until it is there.
        seen = Counter[str]()

        def some_fail(method: str, path: str) -> str:
            seen[path] += 1
            faults = {"b.mp4": "503", "c.avi": "cut", "d.avi": "hang"}
            return faults.get(path.rpartition("/")[2], "") if seen[path] == 1 else ""

        bucket.faults = some_fail
    remote = prepare("folder", address, tmp_path / "remote")
    assert "left out: 1 .csv, 1 .txt" in remote
    assert "4 clips of 4 videos" in remote
    assert contents(tmp_path / "remote" / "d") == contents(local)


PREPARE = """
import sys
from vcsf_cli.cli import main
for source in sys.argv[1:]:
    main(["prepare", "folder", "--source", source, "--name", "d", "--size", "48", "--workers", "1"])
"""


def test_a_folder_on_the_hub_is_prepared_to_the_same_bytes(
    hub: Hub, videos: Path, local: Path, tmp_path: Path
) -> None:
    files = {f"my/videos/{path.relative_to(videos)}": path for path in videos.rglob("*.*")}
    hub.private["datasets/me/clips"] = False
    hub.commits["datasets/me/clips"] = [{name: path.read_bytes() for name, path in files.items()}]
    sources = [f"hf://datasets/me/{name}" for name in ("none", "clips/nothing", "clips/my/videos")]
    said = python(hub, tmp_path, PREPARE, *sources).stderr
    assert said.count("error: ") == 2
    assert "none can't be reached: datasets/me/none (repository not found). If the repo is" in said
    assert "no video was found" in said
    assert "4 clips of 4 videos" in said
    assert contents(tmp_path / "data" / "d") == contents(local)


def test_a_full_disk_behind_an_address_is_one_of_its_errors_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    (tmp_path / "large").write_bytes(bytes(200_000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(RemoteError, match="can't be written"):
            store(tmp_path / "large", f"file://{tmp_path}/bucket/large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "bucket").iterdir())


def test_a_list_names_videos_beside_it_and_addresses(
    bucket: Bucket, videos: Path, tmp_path: Path
) -> None:
    address = bucket.upload(videos, "my/videos")
    expected = [
        (video.name, video.label, video.split) for video in Table(videos / "list.csv").videos()
    ]
    listed = Table(f"{address}/list.csv").videos()
    assert [(video.name, video.label, video.split) for video in listed] == expected
    assert [str(video.path) for video in listed] == [f"{address}/{name}" for name in NAMES]
    (tmp_path / "l.csv").write_text(f"video,label\n{address}/{NAMES[0]},x\n{address}/gone.avi,x\n")
    with pytest.raises(DataError, match=f"line 3: there is no file {address}/gone.avi"):
        Table(tmp_path / "l.csv").videos()


def write_tars(videos: Path, folder: Path) -> str:
    """Two tars of WebDataset; returns the pattern of their names."""
    folder.mkdir()
    for number in range(2):
        with tarfile.open(folder / f"part-{number:03d}.tar", "w") as tar:
            for name in NAMES[number::2]:
                key, _, ending = name.rpartition(".")
                about = {"label": key.partition("/")[0], "group": key[-1]}
                (folder / "about.json").write_text(json.dumps(about))
                tar.add(folder / "about.json", f"{key}.json")
                tar.add(videos / name, f"{key}.{ending}")
    (folder / "about.json").unlink()
    return "part-{000..001}.tar"


def test_tars_of_webdataset_are_prepared_to_the_clips_that_they_hold(
    bucket: Bucket, videos: Path, local: Path, tmp_path: Path
) -> None:
    pattern = write_tars(videos, tmp_path / "tars")
    address = bucket.upload(tmp_path / "tars", "tars")
    listed = WebDataset(tmp_path / "tars" / pattern).videos()
    assert [(video.name, video.label, video.group) for video in listed] == [
        ("part-000/Jump/a.avi", "Jump", "a"),
        ("part-000/Run/c.avi", "Run", "c"),
        ("part-001/Jump/b.mp4", "Jump", "b"),
        ("part-001/Run/d.avi", "Run", "d"),
    ]
    assert [video.name for video in WebDataset(address).videos()] == [v.name for v in listed]
    assert "2 tars, 2 classes" in prepare("webdataset", f"{address}/{pattern}", tmp_path / "data")
    sums = [set(Manifest.open(each).table["sha256"]) for each in (tmp_path / "data" / "d", local)]
    assert sums[0] == sums[1]
    with pytest.raises(InputError, match="1 of the 3 tars of --source are not there"):
        WebDataset(f"{address}/part-{{000..002}}.tar").videos()
    (tmp_path / "tars" / "part-001.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(DataError, match=r"part-001\.tar can't be read as a tar"):
        WebDataset(tmp_path / "tars").videos()


@pytest.mark.parametrize(
    ("kind", "source", "said"),
    [
        ("folder", "gs://bucket/videos", "pip install 'vcsf[gs]'"),
        ("folder", "nosuch://bucket/videos", "addresses begin with s3://, gs://, hf:// or file://"),
        ("ucf101", "file:///videos", "vcsf prepare ucf101 reads no addresses"),
        ("folder", "file:///no/such/folder", "no video was found"),
    ],
)
def test_an_address_that_can_not_be_used_is_one_error_with_what_to_do(
    kind: str,
    source: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # as if it were not installed
    status = 1 if source == "file:///no/such/folder" else 2
    assert main(["prepare", kind, "--source", source, "--data", str(tmp_path / "data")]) == status
    assert said in capsys.readouterr().err
