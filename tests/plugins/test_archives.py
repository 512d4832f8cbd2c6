"""Datasets as they are published: archives, nested ones, by hand or downloaded."""

from __future__ import annotations

import os
import select
import shutil
import stat
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from listings import UNAR, by_name, install_unar, parts, served, tarred, touch, write, zipped
from vcsf_plugins.datasets import HMDB51, UCF101, unpack
from videos import write_video

from vcsf_cli.cli import main
from vcsf_cli.contracts import Video
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.errors import DataError, InputError

ARCHERY = "UCF-101/Archery/v_Archery_g01_c01.avi"
SURFING = "UCF-101/Surfing/v_Surfing_g02_c01.avi"
LISTS = {
    "ucfTrainTestlist/trainlist01.txt": "Archery/v_Archery_g01_c01.avi 1\n",
    "ucfTrainTestlist/testlist01.txt": "Surfing/v_Surfing_g02_c01.avi\n",
}
LISTS_ZIP = "UCF101TrainTestSplits-RecognitionTask.zip"
BRUSH, RUN = "A_brush_hair_u_nm_np1_ba_goo_0.avi", "B_run_f_cm_np1_fr_med_1.avi"
SPLITS = {
    "splits/brush_hair_test_split1.txt": f"{BRUSH} 1\n",
    "splits/run_test_split1.txt": f"{RUN} 2\n",
}


@pytest.fixture
def without_unar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "no programs"))


@pytest.fixture
def with_unar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(install_unar(tmp_path / "programs")))


def ucf(source: Path) -> list[Video]:
    return UCF101(source).videos()


def hmdb(source: Path) -> list[Video]:
    return HMDB51(source).videos()


def test_the_official_archives_in_a_folder_are_unpacked(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"down/UCF101.zip": zipped([ARCHERY, SURFING]), f"down/{LISTS_ZIP}": zipped(LISTS)},
    )
    expected = {"Archery/v_Archery_g01_c01.avi": "train", "Surfing/v_Surfing_g02_c01.avi": "test"}
    assert parts(ucf(tmp_path)) == expected
    (tmp_path / "down" / "UCF101.zip").write_bytes(b"is not read again")
    assert parts(ucf(tmp_path)) == expected


def test_source_may_be_the_archive_itself(tmp_path: Path) -> None:
    write(tmp_path, {"My UCF.ZIP": zipped([ARCHERY, *LISTS])})
    videos = ucf(tmp_path / "My UCF.ZIP")
    assert list(by_name(videos)) == ["Archery/v_Archery_g01_c01.avi"]
    assert videos[0].path.is_file()


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("inner", ["brush_hair/", ""], ids=["with folder", "without folder"])
def test_archives_in_archives_are_unpacked(tmp_path: Path, depth: int, inner: str) -> None:
    classes = {
        "brush_hair.zip": zipped([f"{inner}{BRUSH}"]),
        "run.zip": zipped([f"{inner and 'run/'}{RUN}"]),
    }
    for level in range(depth):
        classes = {
            f"hmdb51_{level}.zip": zipped(
                {f"org/{name}": content for name, content in classes.items()}
            )
        }
    write(tmp_path, {**classes, "test_train_splits.zip": zipped(SPLITS)})
    assert parts(hmdb(tmp_path)) == {f"brush_hair/{BRUSH}": "train", f"run/{RUN}": "test"}


def test_one_archive_a_class_in_several_folders(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "one/videos.zip": zipped([f"run/{RUN}"]),
            "two/videos.zip": zipped([f"brush_hair/{BRUSH}"]),
        },
    )
    assert list(by_name(hmdb(tmp_path))) == [f"brush_hair/{BRUSH}", f"run/{RUN}"]


def test_two_archives_of_one_name_are_an_error_that_names_both(
    tmp_path: Path, with_unar: None
) -> None:
    write(tmp_path, {"UCF101.rar": zipped([ARCHERY]), "UCF101.zip": zipped([ARCHERY])})
    with pytest.raises(DataError) as caught:
        ucf(tmp_path)
    assert "UCF101.rar" in caught.value.message
    assert "UCF101.zip" in caught.value.message


def test_an_archive_beside_its_unpacked_videos_is_left_alone(
    tmp_path: Path, without_unar: None
) -> None:
    write(tmp_path, {"UCF101.rar": b"not read", LISTS_ZIP: zipped(LISTS)})
    dataset = UCF101(touch(tmp_path, ARCHERY))
    assert parts(dataset.videos()) == {"Archery/v_Archery_g01_c01.avi": "train"}
    remark = next(remark for remark in dataset.remarks() if "left packed" in remark)
    assert "UCF101.rar" in remark
    assert LISTS_ZIP not in remark


def test_packed_lists_beside_unpacked_or_named_ones_are_left_alone(
    tmp_path: Path, without_unar: None
) -> None:
    source = write(tmp_path / "source", {"test_train_splits.rar": b"not read"})
    write(touch(source, f"run/{RUN}"), SPLITS)
    assert parts(hmdb(source)) == {f"run/{RUN}": "test"}
    shutil.move(source / "splits", tmp_path / "lists")
    assert parts(HMDB51(source, lists=tmp_path / "lists").videos()) == {f"run/{RUN}": "test"}


def test_unpacking_that_was_killed_begins_again(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"UCF101.zip": zipped([ARCHERY]), "unpacked/.UCF101.partial/v_Surfing_g02_c01.avi": b""},
    )
    assert list(by_name(ucf(tmp_path))) == ["Archery/v_Archery_g01_c01.avi"]
    assert [path.name for path in (tmp_path / "unpacked").iterdir()] == ["UCF101"]


def test_a_link_in_the_place_of_the_unfinished_folder_leads_to_nothing_that_is_deleted(
    tmp_path: Path, mine: Path
) -> None:
    before = sorted(mine.rglob("*"))
    write(tmp_path / "source", {"UCF101.zip": zipped([ARCHERY])})
    (tmp_path / "source/unpacked").mkdir()
    (tmp_path / "source/unpacked/.UCF101.partial").symlink_to(mine)
    assert list(by_name(ucf(tmp_path / "source"))) == ["Archery/v_Archery_g01_c01.avi"]
    assert sorted(mine.rglob("*")) == before


def damaged(content: bytes) -> bytes:
    middle = len(content) // 2
    return (
        content[:middle]
        + bytes(byte ^ 255 for byte in content[middle : middle + 40])
        + content[middle + 40 :]
    )


def locked(content: bytes) -> bytes:
    """An archive whose only file says that it needs a password."""
    changed = bytearray(content)
    changed[6] |= 1
    changed[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(changed)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (zipped({ARCHERY: bytes(range(256)) * 50})[:300], "is damaged"),
        (damaged(zipped({ARCHERY: bytes(range(256))})), "is damaged"),
        (b"no archive", "is damaged"),
        (zipped(["~"]).replace(b"~", b"\0"), "is damaged: it holds a file without a name"),
        (locked(zipped([ARCHERY])), "password"),
        (zipped(["../../v_Archery_g01_c01.avi"]), "leads out of its folder"),
        (zipped(["/tmp/v_Archery_g01_c01.avi"]), "leads out of its folder"),
    ],
    ids=["cut off", "flipped bytes", "text", "no name", "password", "up", "absolute"],
)
def test_a_bad_archive_is_named_and_leaves_nothing(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    write(tmp_path, {"source/UCF101.zip": content})
    with pytest.raises(DataError, match=problem) as caught:
        ucf(tmp_path / "source")
    assert "UCF101.zip" in caught.value.message
    if "is damaged" in problem:
        assert f"delete {tmp_path / 'source/UCF101.zip'} and download it again" in caught.value.hint
    assert not (tmp_path / "source/unpacked/UCF101").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_the_archive_to_be_replaced_is_the_one_that_was_downloaded(tmp_path: Path) -> None:
    write(tmp_path, {"source/UCF101.zip": zipped({"inner.zip": b"no archive"})})
    with pytest.raises(DataError, match=r"inner\.zip is damaged") as caught:
        ucf(tmp_path / "source")
    assert f"delete {tmp_path / 'source/UCF101.zip'} and" in caught.value.hint


class Unmarked(zipfile.ZipInfo):
    """A file's entry whose name is in Latin-1 and not marked as UTF-8, as old programs write it."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.filename.encode("latin-1"), self.flag_bits


def test_names_in_an_archive_need_be_no_utf_8(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "org.zip", "w") as archive:
        archive.writestr(Unmarked("run/Caf\xe9_run_f_cm_np1_fr_med_0.avi"), b"")
    write(
        tmp_path, {"run_test_split1.txt": "Caf\xe9_run_f_cm_np1_fr_med_0.avi 1\n".encode("latin-1")}
    )
    assert parts(hmdb(tmp_path)) == {"run/Caf\xe9_run_f_cm_np1_fr_med_0.avi": "train"}


def test_a_rar_archive_is_unpacked_by_unar(tmp_path: Path, with_unar: None) -> None:
    inner = {
        "org/brush_hair.rar": zipped([f"brush_hair/{BRUSH}"]),
        "org/run.rar": zipped([f"run/{RUN}"]),
    }
    write(
        tmp_path / "source",
        {"hmdb51_org.rar": zipped(inner), "test_train_splits.rar": zipped(SPLITS)},
    )
    assert parts(hmdb(tmp_path / "source")) == {
        f"brush_hair/{BRUSH}": "train",
        f"run/{RUN}": "test",
    }


@pytest.mark.skipif(shutil.which("unar") is None, reason="the program unar is not installed")
def test_the_real_unar_understands_how_it_is_called(tmp_path: Path) -> None:
    write(tmp_path, {"hmdb51_org.rar": zipped({"run.rar": zipped([f"run/{RUN}"])})})
    assert list(by_name(hmdb(tmp_path))) == [f"run/{RUN}"]


def test_a_rar_archive_without_unar_is_an_error_that_names_it(
    tmp_path: Path, without_unar: None, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "source", {"UCF101.rar": b"Rar!"})
    assert (
        main(
            [
                "prepare",
                "ucf101",
                "--source",
                str(tmp_path / "source"),
                "--data",
                str(tmp_path / "data"),
            ]
        )
        == 1
    )
    error = capsys.readouterr().err
    assert f"{tmp_path}/source/UCF101.rar needs the program `unar`" in error
    assert "apt-get install unar" in error


def test_what_unar_says_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = "#!/bin/sh\necho 'Data is corrupted.' >&2\nexit 1\n"
    monkeypatch.setenv("PATH", str(install_unar(tmp_path / "programs", failing)))
    write(tmp_path / "source", {"UCF101.rar": b"Rar!"})
    with pytest.raises(DataError, match=r"UCF101\.rar can't be unpacked: Data is corrupted\."):
        ucf(tmp_path / "source")


# Archives that are not to be trusted


@pytest.fixture(params=["an unar that makes every link", "the real unar"])
def any_unar(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if request.param != "the real unar":
        monkeypatch.setenv("PATH", str(install_unar(tmp_path / "programs")))
    elif shutil.which("unar") is None:
        pytest.skip("the program unar is not installed")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def links_below(folder: Path) -> list[Path]:
    """Whatever below a folder is neither a folder nor a file of its own."""
    return [
        path
        for path in folder.rglob("*")
        if not (
            stat.S_ISDIR(path.lstat().st_mode) or (path.is_file() and path.lstat().st_nlink == 1)
        )
        or path.is_symlink()
    ]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder with a video and an archive that no archive has to do with."""
    video = "Archery/v_Archery_g09_c01.avi"
    return write(
        tmp_path / "mine", {video: b"mine", "more.zip": zipped([video]), "test.rar": tarred()}
    )


def linking(mine: Path) -> bytes:
    """A tar with a video, and every kind of link that leads out of it."""
    return tarred(
        ("folder", "link", str(mine)),
        ("up", "link", "../../../mine"),
        ("v_Archery_g02_c01.avi", "link", str(mine / "Archery/v_Archery_g09_c01.avi")),
        ("v_Archery_g03_c01.avi", "hard link", str(mine / "Archery/v_Archery_g09_c01.avi")),
        ("more.zip", "link", str(mine / "more.zip")),
        ("nowhere.rar", "link", "/nowhere/at/all"),
        ("pipe", "fifo", ""),
        (ARCHERY, "file", b"its own"),
    )


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_links_in_an_archive_are_neither_followed_nor_kept(
    tmp_path: Path, mine: Path, any_unar: None, depth: int
) -> None:
    before = contents(mine)
    content = linking(mine)
    for level in range(depth):
        content = (
            zipped({f"inner{level}.rar": content})
            if level % 2
            else tarred((f"in/inner{level}.rar", "file", content))
        )
    write(tmp_path / "source", {"UCF101.rar": content})
    dataset = UCF101(tmp_path / "source")
    assert list(by_name(dataset.videos())) == ["Archery/v_Archery_g01_c01.avi"]
    assert contents(mine) == before
    assert links_below(tmp_path / "source") == []
    assert any("left out" in remark and "UCF101.rar" in remark for remark in dataset.remarks())


def test_links_in_a_zip_are_left_out(tmp_path: Path, mine: Path) -> None:
    (tmp_path / "source").mkdir()
    with zipfile.ZipFile(tmp_path / "source" / "UCF101.zip", "w") as archive:
        archive.writestr(ARCHERY, b"its own")
        for name, kind in (
            ("UCF-101/v_Surfing_g02_c01.avi", stat.S_IFLNK),
            ("v_Surfing_g03_c01.avi", stat.S_IFIFO),
        ):
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (kind | 0o777) << 16
            archive.writestr(entry, str(mine / "Archery/v_Archery_g09_c01.avi"))
    dataset = UCF101(tmp_path / "source")
    assert list(by_name(dataset.videos())) == ["Archery/v_Archery_g01_c01.avi"]
    assert any("UCF101.zip: 2 links" in remark for remark in dataset.remarks())


@pytest.mark.skipif(shutil.which("unar") is None, reason="the program unar is not installed")
@pytest.mark.parametrize("inside", ["folder/evil.avi", "../../../mine/evil.avi", "{mine}/evil.avi"])
def test_nothing_is_written_outside_of_the_folder(tmp_path: Path, mine: Path, inside: str) -> None:
    before = contents(mine)
    evil = (inside.format(mine=mine), "file", b"evil")
    write(
        tmp_path / "source",
        {"UCF101.rar": tarred(("folder", "link", str(mine)), evil, (ARCHERY, "file", b"its own"))},
    )
    try:
        ucf(tmp_path / "source")
    except DataError:
        assert not contents(tmp_path / "source").keys() - {"UCF101.rar"}
    assert contents(mine) == before
    assert links_below(tmp_path / "source") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "source"]


def test_links_that_people_made_are_followed_and_nothing_is_deleted_through_them(
    tmp_path: Path, mine: Path
) -> None:
    before = contents(mine)
    write(tmp_path / "source", {"UCF101TrainTestSplits-RecognitionTask.zip": zipped(LISTS)})
    (tmp_path / "source" / "linked").symlink_to(mine)
    (tmp_path / "source" / "v_Surfing_g02_c01.avi").symlink_to(
        mine / "Archery/v_Archery_g09_c01.avi"
    )
    names = ["Archery/v_Archery_g09_c01.avi", "Surfing/v_Surfing_g02_c01.avi"]
    assert list(by_name(ucf(tmp_path / "source"))) == names
    assert contents(mine) == before


def test_links_in_what_an_earlier_version_unpacked_are_not_followed(
    tmp_path: Path, mine: Path
) -> None:
    write(
        tmp_path,
        {
            "source/UCF101.zip": zipped([ARCHERY]),
            "source/unpacked/UCF101/v_Archery_g01_c01.avi": b"",
        },
    )
    (tmp_path / "source/unpacked/UCF101/folder").symlink_to(mine)
    (tmp_path / "source/unpacked/UCF101/v_Archery_g03_c01.avi").symlink_to(
        mine / "Archery/v_Archery_g09_c01.avi"
    )
    assert list(by_name(ucf(tmp_path / "source"))) == ["Archery/v_Archery_g01_c01.avi"]


def fails_and_leaves_nothing(source: Path, match: str) -> None:
    before = sorted(source.rglob("*"))
    with pytest.raises(DataError, match=match):
        ucf(source)
    assert sorted(source.rglob("*")) == before


def understated(content: bytes, size: int) -> bytes:
    """A .zip of one file whose entries say that it has so many bytes."""
    changed = bytearray(content)
    for begin in (22, content.index(b"PK\x01\x02") + 24):
        changed[begin : begin + 4] = size.to_bytes(4, "little")
    return bytes(changed)


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "SMALL", 2**20)
    bomb = zipped({ARCHERY: bytes(2**23)})
    assert len(bomb) < 2**23 / 900
    with monkeypatch.context() as unwritable:
        unwritable.setattr(
            unpack, "_extract", None
        )  # nothing is written where an archive says what it holds
        fails_and_leaves_nothing(
            write(tmp_path / "one", {"UCF101.zip": bomb}), "unpacks to more than 1 MiB"
        )
    fails_and_leaves_nothing(
        write(tmp_path / "two", {"UCF101.zip": understated(bomb, 1000)}), "is damaged"
    )
    inner = zipped({ARCHERY: bytes(2**19)})
    many = zipped({f"{number}.zip": inner for number in range(4)})
    fails_and_leaves_nothing(
        write(tmp_path / "three", {"UCF101.zip": many}), "unpacks to more than 1 MiB"
    )


ENDLESS = f"""#!{sys.executable}
import os, pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("-output-directory") + 1])
pathlib.Path({{pid!r}}).write_text(str(os.getpid()))
{{how}}
"""
ONE_FILE = """
with (folder / "v_Archery_g01_c01.avi").open("wb") as file:
    while True:
        file.write(bytes(2**16))
        file.flush()
"""
MANY_FILES = """
for number in range(10**9):
    (folder / f"v_Archery_g01_c{number}.avi").touch()
"""


@pytest.mark.parametrize(
    ("how", "match"), [(ONE_FILE, "more than 1 MiB"), (MANY_FILES, "more than 1,000 files")]
)
def test_a_program_that_does_not_stop_writing_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, match: str
) -> None:
    monkeypatch.setattr(unpack, "SMALL", 2**20)
    monkeypatch.setattr(unpack, "MOST_FILES", 1000)
    text = ENDLESS.format(pid=str(tmp_path / "pid"), how=how)
    monkeypatch.setenv("PATH", str(install_unar(tmp_path / "programs", text)))
    fails_and_leaves_nothing(write(tmp_path / "source", {"UCF101.rar": b"Rar!"}), match)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.skipif(shutil.which("unar") is None, reason="the program unar is not installed")
def test_the_real_unar_is_stopped_at_a_bomb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpack, "SMALL", 2**20)
    source = write(tmp_path / "source", {"UCF101.rar": zipped({ARCHERY: bytes(2**27)})})
    fails_and_leaves_nothing(source, "unpacks to more than 1[0-9] MiB")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_whose_unpacking_takes_any_memory_is_refused(tmp_path: Path, method: int) -> None:
    (tmp_path / "source").mkdir()
    path = tmp_path / "source" / "UCF101.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(ARCHERY, bytes(2**26))
    path.write_bytes(understated(path.read_bytes(), 100))
    tracemalloc.start()
    fails_and_leaves_nothing(tmp_path / "source", "packed by another method than Deflate")
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()


def test_a_name_that_python_found_beside_the_one_in_code_page_437_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_names = zipfile.ZipFile.infolist

    def as_newer_pythons_do(self: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
        for entry in find_names(self):
            entry.filename = "UCF-101/Archery日本/v_Archery_g01_c01.avi"
        return find_names(self)

    monkeypatch.setattr(zipfile.ZipFile, "infolist", as_newer_pythons_do)
    write(tmp_path, {"source/UCF101.zip": zipped([ARCHERY])})
    (video,) = ucf(tmp_path / "source")
    assert video.path.parent.name == "Archery日本"


def test_the_disk_is_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk seems to have 10 MB free, and less with every look: a disk of that size can't be had
    everywhere."""
    free = iter(range(10_000_000, 0, -100_000))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=next(free)))
    source = write(tmp_path / "source", {"UCF101.zip": zipped({ARCHERY: bytes(2**24)})})
    fails_and_leaves_nothing(source, "the disk would be full")
    many = {f"v_Archery_g01_c{number:02d}.avi": bytes(1000) for number in range(100)}
    fails_and_leaves_nothing(
        write(tmp_path / "many", {"UCF101.zip": zipped(many)}), "the disk would be full"
    )
    text = ENDLESS.format(pid=str(tmp_path / "pid"), how=ONE_FILE)
    monkeypatch.setenv("PATH", str(install_unar(tmp_path / "programs", text)))
    monkeypatch.setattr(unpack, "SMALL", 2**60)
    free = iter(range(10_000_000, -1, -1_000_000))
    fails_and_leaves_nothing(
        write(tmp_path / "rar", {"UCF101.rar": b"Rar!"}), "the disk would be full"
    )


def test_archives_in_archives_end(tmp_path: Path) -> None:
    content = zipped([ARCHERY])
    for _ in range(unpack.DEEPEST + 1):
        content = zipped({"inner.zip": content})
    fails_and_leaves_nothing(
        write(tmp_path / "source", {"UCF101.zip": content}), "more than 8 deep"
    )


def test_an_absurd_number_of_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpack, "MOST_FILES", 100)
    flat = zipped([f"v_Archery_g01_c{number}.avi" for number in range(101)])
    deep = zipped([f"{letter}/" * 30 + "v_Archery_g01_c01.avi" for letter in "abcd"])
    fails_and_leaves_nothing(write(tmp_path / "flat", {"UCF101.zip": flat}), "more than 100 files")
    fails_and_leaves_nothing(write(tmp_path / "deep", {"UCF101.zip": deep}), "more than 100 files")


def test_an_archive_beside_a_file_of_its_name_in_an_archive_is_said(tmp_path: Path) -> None:
    content = zipped({"a": b"", "a.zip": zipped([ARCHERY])})
    fails_and_leaves_nothing(
        write(tmp_path / "source", {"UCF101.zip": content}), "unpacked over the file a"
    )


@pytest.mark.skipif(shutil.which("unar") is None, reason="the program unar is not installed")
def test_the_real_unar_does_not_ask_for_a_password(tmp_path: Path) -> None:
    source = write(tmp_path / "source", {"UCF101.rar": locked(zipped({ARCHERY: bytes(1000)}))})
    fails_and_leaves_nothing(source, "password")


UNTIL_TOLD = (
    UNAR.replace("import sys", "import pathlib, sys, time")
    + """
while not pathlib.Path({go!r}).exists():
    time.sleep(0.01)
(pathlib.Path(folder) / "late").touch()
"""
)
LIST_VIDEOS = """
import sys
from pathlib import Path
from vcsf_plugins.datasets import UCF101
print(len(UCF101(Path(sys.argv[1])).videos()))
"""


def test_after_a_kill_the_next_call_waits_for_what_still_unpacks_and_cleans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = UNTIL_TOLD.format(go=str(tmp_path / "go"))
    monkeypatch.setenv("PATH", str(install_unar(tmp_path / "programs", text)), prepend=os.pathsep)
    source = write(tmp_path / "source", {"UCF101.rar": zipped([ARCHERY])})
    command = [sys.executable, "-c", LIST_VIDEOS, str(source)]
    killed = subprocess.Popen(command)
    while not list(source.glob("unpacked/.*/UCF-101/*/*.avi")):
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    following = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert following.stderr is not None
        assert select.select([following.stderr], [], [], 300)[0]
        assert "waiting for another process" in following.stderr.readline()
    finally:
        (tmp_path / "go").touch()
    assert following.communicate(timeout=300)[0] == "1\n"
    assert following.returncode == 0
    assert [path.name for path in (source / "unpacked").iterdir()] == ["UCF101"]


def test_a_source_that_is_another_file_is_a_mistake_of_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a folder nor"):
        ucf(touch(tmp_path, "videos.tar") / "videos.tar")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """HMDB51's two archives with two real clips."""
    folder = tmp_path_factory.mktemp("published")
    brush, run = (
        write_video(folder / name, 8, width=64, height=48).read_bytes() for name in (BRUSH, RUN)
    )
    classes = {
        "brush_hair.rar": zipped({f"brush_hair/{BRUSH}": brush}),
        "run.rar": zipped({f"run/{RUN}": run}),
    }
    return {"hmdb51_org.rar": zipped(classes), "test_train_splits.rar": zipped(SPLITS)}


def prepare(*arguments: object) -> int:
    return main(["prepare", *(str(argument) for argument in arguments), "--workers", "1"])


def test_without_source_the_dataset_is_downloaded_once(
    published: dict[str, bytes], tmp_path: Path, with_unar: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(dict(published)) as site:
        site.breaks = [100]
        assert prepare("hmdb51", "--data", tmp_path, "--mirror", site.address) == 0
        assert site.requests[:2] == [("hmdb51_org.rar", ""), ("hmdb51_org.rar", "bytes=100-")]
        table = Manifest.open(tmp_path / "hmdb51").table
        assert table[["video", "label", "frames", "split1"]].to_numpy().tolist() == [
            [f"brush_hair/{BRUSH}", "brush_hair", 8, "train"],
            [f"run/{RUN}", "run", 8, "test"],
        ]
        error = capsys.readouterr().err
        assert "downloading hmdb51_org.rar" in error
        assert "2 of 51 classes, 2 of 6,766 clips" in error
        before = len(site.requests)
        for archive in published:
            (tmp_path / "hmdb51" / "original" / archive).unlink()
        assert prepare("hmdb51", "--data", tmp_path, "--mirror", site.address) == 0
        assert len(site.requests) == before
    assert "everything was prepared already" in capsys.readouterr().err


def test_a_download_that_fails_says_which_files_to_put_where(
    published: dict[str, bytes], tmp_path: Path, with_unar: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with served({}) as site:
        assert prepare("hmdb51", "--data", tmp_path, "--mirror", site.address) == 1
        error = capsys.readouterr().err
        place = tmp_path / "hmdb51" / "original"
        assert f"{site.address}/hmdb51_org.rar can't be downloaded: the server says 404" in error
        assert f"get hmdb51_org.rar, test_train_splits.rar yourself, put them into {place}" in error
        assert "--source" in error
        write(place, published)
        assert prepare("hmdb51", "--data", tmp_path, "--mirror", site.address) == 0
    assert len(site.requests) == 1
    assert len(Manifest.open(tmp_path / "hmdb51").table) == 2


def test_the_next_call_goes_on_with_the_archive_that_is_missing(
    published: dict[str, bytes], tmp_path: Path, with_unar: None
) -> None:
    with served({"hmdb51_org.rar": published["hmdb51_org.rar"]}) as site:
        with pytest.raises(DataError, match=r"test_train_splits\.rar can't be downloaded"):
            HMDB51(tmp_path / "original", mirror=site.address).videos()
        site.files |= published
        assert len(HMDB51(tmp_path / "original", mirror=site.address).videos()) == 2
        assert [name for name, _ in site.requests].count("hmdb51_org.rar") == 1


@pytest.mark.parametrize("name", ["hmdb51_org.rar", "test_train_splits.rar"])
def test_a_damaged_archive_that_is_deleted_is_downloaded_again(
    published: dict[str, bytes], tmp_path: Path, with_unar: None, name: str
) -> None:
    with served(published | {name: b"no archive"}) as site:
        for _ in range(2):
            with pytest.raises(DataError, match="can't be unpacked") as caught:
                HMDB51(tmp_path / "original", mirror=site.address).videos()
            assert f"delete {tmp_path / 'original' / name} and" in caught.value.hint
        (tmp_path / "original" / name).unlink()
        site.files |= published
        assert len(HMDB51(tmp_path / "original", mirror=site.address).videos()) == 2
    assert [requested for requested, _ in site.requests].count(name) == 2
    assert not (tmp_path / "original" / ".downloading").exists()


def test_an_unexpected_file_is_noticed_by_its_check_sum(tmp_path: Path, with_unar: None) -> None:
    with served({"UCF101.rar": zipped([ARCHERY]), LISTS_ZIP: zipped(LISTS)}) as site:
        with pytest.raises(
            DataError, match="is not the file that was expected: its SHA-256 is"
        ) as caught:
            UCF101(tmp_path / "original", mirror=site.address).videos()
        assert LISTS_ZIP in caught.value.message
        assert f"put them into {tmp_path / 'original'}" in caught.value.hint


def test_nothing_is_downloaded_that_could_not_be_unpacked(
    tmp_path: Path, without_unar: None
) -> None:
    with served({"UCF101.rar": b"Rar!"}) as site:
        with pytest.raises(DataError, match=r"/UCF101\.rar needs the program `unar`"):
            UCF101(tmp_path / "original", mirror=site.address).videos()
        assert site.requests == []


def test_nothing_is_downloaded_into_a_folder_that_source_names(
    tmp_path: Path, with_unar: None
) -> None:
    with served({}) as site:
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match="no video was found"):
            UCF101(tmp_path / "empty", mirror=site.address).videos()
        write(tmp_path, {"down/UCF101.rar": zipped([ARCHERY])})
        assert len(UCF101(tmp_path / "down", mirror=site.address).videos()) == 1
        assert site.requests == []


def test_an_address_that_is_none_is_exit_status_2(tmp_path: Path, with_unar: None) -> None:
    assert prepare("ucf101", "--data", tmp_path, "--mirror", "my server") == 2
