"""`vcsf prepare --verify`: damage anywhere in a store is found, and mended to the same bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from videos import write_video

from vcsf_cli.contracts import Video
from vcsf_cli.data.decode import Settings
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.data.prepare import Preparation
from vcsf_cli.data.verify import Verification
from vcsf_cli.engine.local import Local
from vcsf_cli.errors import DataError, InputError

SETTINGS = Settings("folder", "pyav", size=48, max_seconds=1.0)


class Files:
    benchmark = False

    def __init__(self, root: Path) -> None:
        self.root = root

    def videos(self) -> list[Video]:
        paths = sorted(self.root.rglob("*.avi"))
        return [Video(path, str(path.relative_to(self.root)), path.parent.name) for path in paths]

    def remarks(self) -> list[str]:
        return []


def preparation(place: Path, settings: Settings = SETTINGS) -> Preparation:
    return Preparation(Files(place / "source"), place / "data", settings, 60.0, Local(1), 40_000)


def verify(place: Path, settings: Settings = SETTINGS) -> int:
    return Verification(preparation(place, settings)).run()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if path.name != "journal.jsonl"
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos in `source`, of which one is cut into clips and one is bad, and `data` with two
    shards."""
    folder = tmp_path_factory.mktemp("verify")
    for name, frames in (("Run/a.avi", 20), ("Run/b.avi", 60), ("Jump/c.avi", 20)):
        write_video(folder / "source" / name, frames, width=64, height=48)
    (folder / "source" / "bad.avi").write_text("this is not a video")
    preparation(folder).run()
    assert len(list((folder / "data").glob("shard-*.tar"))) == 2, "two shards"
    return folder


@pytest.fixture
def place(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "place")


def flip(path: Path, byte: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 4
    path.write_bytes(content)


def flip_frame(data: Path) -> None:
    clip = Manifest.open(data).table.iloc[1]
    flip(data / f"shard-{clip['shard']:06d}.tar", clip["offset"] + clip["bytes"] // 2)


def flip_description(data: Path) -> None:
    shard = data / "shard-000000.tar"
    flip(shard, shard.read_bytes().index(b'"label"') + 2)


def flip_header(data: Path) -> None:
    flip(data / "shard-000000.tar", 3)


def cut_shard(data: Path) -> None:
    shard = data / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-5000])


def remove_shard(data: Path) -> None:
    (data / "shard-000001.tar").unlink()


def flip_journal(data: Path) -> None:
    journal = data / "journal.jsonl"
    flip(journal, journal.read_bytes().index(b'"offset": ') + 10)


def flip_manifest(data: Path) -> None:
    flip(data / "manifest.parquet", 300)


def empty_manifest(data: Path) -> None:
    (data / "manifest.parquet").write_bytes(b"")


def change_settings(data: Path) -> None:
    flip(data / "settings.json", 20)


DAMAGES = [
    flip_frame,
    flip_description,
    flip_header,
    cut_shard,
    remove_shard,
    flip_journal,
    flip_manifest,
    empty_manifest,
    change_settings,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_mended_to_the_same_bytes(
    damage: Callable[[Path], None], whole: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (whole / "data" / "journal.jsonl").read_bytes()
    damage(place / "data")
    assert verify(place) > 0
    assert "damaged: " in capsys.readouterr().err
    assert contents(place / "data") == contents(whole / "data")
    assert (place / "data" / "journal.jsonl").read_bytes() == before
    assert verify(place) == 0


def test_nothing_is_changed_where_nothing_is_damaged(whole: Path, place: Path) -> None:
    shutil.rmtree(place / "source")  # which is not needed
    assert verify(place) == 0
    assert contents(place / "data") == contents(whole / "data")


def test_the_manifest_is_mended_without_the_videos(whole: Path, place: Path) -> None:
    shutil.rmtree(place / "source")
    flip_manifest(place / "data")
    assert verify(place) == 1
    assert contents(place / "data") == contents(whole / "data")


def test_what_is_not_those_frames_any_more_is_not_written(place: Path) -> None:
    flip_frame(place / "data")
    damaged = contents(place / "data")
    name = Manifest.open(place / "data").table["video"][1].partition("#")[0]
    write_video(place / "source" / name, range(100, 160), width=64, height=48)
    with pytest.raises(DataError, match=rf"1 video can't be mended.*\n  - {name}: its frames are"):
        verify(place)
    (place / "source" / name).unlink()
    with pytest.raises(DataError, match=rf"{name}: its video is not in --source"):
        verify(place)
    assert contents(place / "data") == damaged


def test_without_journal_and_manifest_nothing_is_mended(place: Path) -> None:
    flip_manifest(place / "data")
    flip_journal(place / "data")
    with pytest.raises(DataError, match="can't be mended without a whole manifest"):
        verify(place)
    with pytest.raises(DataError, match=r"journal\.jsonl is damaged: line"):
        preparation(place).run()


def test_other_settings_are_refused_and_nothing_to_verify_is_said(place: Path) -> None:
    with pytest.raises(InputError, match="other settings"):
        verify(place, Settings("folder", "pyav", size=32))
    (place / "data" / "journal.jsonl").unlink()
    with pytest.raises(InputError, match="nothing is prepared"):
        verify(place)


def test_a_store_of_an_earlier_version_gets_checksums(whole: Path, place: Path) -> None:
    data = place / "data"
    table = pq.read_table(data / "manifest.parquet")
    earlier = table.drop_columns(["frame_crc32"]).replace_schema_metadata(None)
    pq.write_table(earlier, data / "manifest.parquet")
    journal = data / "journal.jsonl"
    entries: list[dict[str, Any]] = [json.loads(line) for line in journal.read_text().splitlines()]
    for entry in entries:
        del entry["checksum"], entry["split"]
        for clip in entry["clips"]:
            del clip["crc32"]
    journal.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    shutil.rmtree(place / "source")
    assert verify(place) == 0
    assert contents(data) == contents(whole / "data")
    assert Manifest.open(data).table["frame_crc32"].notna().all()
