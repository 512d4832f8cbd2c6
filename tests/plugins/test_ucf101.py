"""UCF101: clips and lists wherever they lie, its names, and how complete a copy is."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from listings import by_name, parts, touch, write
from vcsf_plugins.datasets import UCF101
from vcsf_plugins.datasets.ucf101 import CLASSES, CLIPS, LISTS, read_parts
from videos import write_video

from vcsf_cli.cli import main
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.errors import DataError, InputError

ARCHERY = "Archery/v_Archery_g08_c01.avi"
SURFING = "Surfing/v_Surfing_g01_c02.avi"
PUSHUPS = "HandstandPushups/v_HandStandPushups_g01_c01.avi"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three clips and lists of the first split."""
    return write(
        touch(
            tmp_path / "source", f"UCF-101/{ARCHERY}", f"UCF-101/{SURFING}", f"UCF-101/{PUSHUPS}"
        ),
        {
            "lists/trainlist01.txt": f"{ARCHERY} 3\n{PUSHUPS} 37\n",
            "lists/testlist01.txt": f"{SURFING}\n",
            "lists/classInd.txt": "3 Archery\n",
        },
    )


def test_parts_labels_groups_and_sources(source: Path) -> None:
    videos = by_name(UCF101(source).videos())
    assert list(videos) == [ARCHERY, PUSHUPS, SURFING]
    assert [video.split for video in videos.values()] == [
        ("train", "", ""),
        ("train", "", ""),
        ("test", "", ""),
    ]
    assert [video.label for video in videos.values()] == ["Archery", "HandstandPushups", "Surfing"]
    assert [video.group for video in videos.values()] == ["g08", "g01", "g01"]
    assert [video.source for video in videos.values()] == [
        "Archery_g08",
        "HandstandPushups_g01",
        "Surfing_g01",
    ]
    assert all(video.path.is_file() for video in videos.values())
    assert UCF101(source).benchmark


def test_clips_and_lists_are_found_at_any_depth(source: Path, tmp_path: Path) -> None:
    deep = tmp_path / "deep"
    (deep / "a" / "b").mkdir(parents=True)
    shutil.move(source / "UCF-101", deep / "a" / "b" / "videos")
    shutil.move(source / "lists", deep / "z")
    assert parts(UCF101(deep).videos()) == {ARCHERY: "train", PUSHUPS: "train", SURFING: "test"}


def test_folders_behind_links_are_found_and_circles_are_not_followed(
    source: Path, tmp_path: Path
) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "ucf").symlink_to(source)
    (source / "UCF-101" / "up").symlink_to(source)
    assert len(UCF101(linked).videos()) == 3


def test_lists_may_lie_elsewhere(source: Path, tmp_path: Path) -> None:
    shutil.move(source / "lists", tmp_path / "elsewhere")
    dataset = UCF101(source)
    assert set(parts(dataset.videos()).values()) == {""}
    assert any(
        "trainlist01.txt" in remark and "--lists DIR" in remark for remark in dataset.remarks()
    )
    assert parts(UCF101(source, lists=tmp_path / "elsewhere").videos())[SURFING] == "test"


def test_named_lists_are_the_only_ones_that_count(source: Path, tmp_path: Path) -> None:
    lists = write(tmp_path / "mine", {"trainlist01.txt": f"{SURFING} 1\n"})
    assert parts(UCF101(source, lists=lists).videos()) == {
        ARCHERY: "",
        PUSHUPS: "",
        SURFING: "train",
    }


def test_lists_that_are_no_folder_are_a_mistake_of_the_command_line(source: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        UCF101(source, lists=source / "lists" / "trainlist01.txt").videos()


@pytest.mark.parametrize(
    "place",
    [
        "HandstandPushups/v_HandStandPushups_g01_c01.avi",
        "HandStandPushups/v_HandStandPushups_g01_c01.avi",
        "HandstandPushups/v_HandstandPushups_g01_c01.avi",
        "handstandpushups/v_handstandpushups_g01_c01.avi",
        "all/v_HandStandPushups_g01_c01.mp4",
    ],
)
@pytest.mark.parametrize("listed", [True, False])
def test_handstand_pushups_are_one_class_however_they_are_spelled(
    tmp_path: Path, place: str, listed: bool
) -> None:
    touch(tmp_path, place, "HandstandWalking/v_HandstandWalking_g01_c01.avi")
    if listed:
        write(tmp_path, {"testlist01.txt": f"{PUSHUPS}\n"})
    video = UCF101(tmp_path).videos()[0]
    assert (video.label, video.source) == ("HandstandPushups", "HandstandPushups_g01")
    assert video.split[0] == ("test" if listed else "")
    assert video.name == f"HandstandPushups/{Path(place).name}"


def test_without_class_folders_the_names_say_the_class(tmp_path: Path) -> None:
    touch(tmp_path, "v_Archery_g08_c01.avi", "v_Surfing_g01_c02.avi")
    assert list(by_name(UCF101(tmp_path).videos())) == [ARCHERY, SURFING]


@pytest.mark.parametrize(
    "other", [f"copy/{ARCHERY}", "Archery/v_archery_g08_c01.AVI", "Archery/v_Archery_g08_c01.mp4"]
)
def test_a_clip_that_is_there_twice_is_an_error_that_names_both(source: Path, other: str) -> None:
    touch(source, other)
    with pytest.raises(DataError) as caught:
        UCF101(source).videos()
    assert str(source / "UCF-101" / ARCHERY) in caught.value.message
    assert str(source / other) in caught.value.message


def test_a_list_that_is_there_twice_is_an_error_that_names_both(source: Path) -> None:
    shutil.copytree(source / "lists", source / "more")
    with pytest.raises(DataError) as caught:
        UCF101(source).videos()
    assert str(source / "lists" / "testlist01.txt") in caught.value.message
    assert str(source / "more" / "testlist01.txt") in caught.value.message
    assert "--lists" in caught.value.hint
    assert len(UCF101(source, lists=source / "more").videos()) == 3


def test_other_files_are_left_out_and_videos_among_them_told(source: Path) -> None:
    touch(
        source,
        "holiday.mp4",
        "UCF-101/Archery/v_Archery_g08_c01 (1).avi",
        "UCF-101/Archery/._v_Archery_g08_c01.avi",
    )
    touch(source, "UCF-101/Archery/v_Archery_g09_c01.txt", ".hidden/v_Archery_g09_c02.avi")
    dataset = UCF101(source)
    assert len(dataset.videos()) == 3
    assert any(
        "2 videos left out" in remark and "holiday.mp4" in remark for remark in dataset.remarks()
    )


def test_clips_in_no_list_are_counted(source: Path) -> None:
    touch(source, "UCF-101/Archery/v_Archery_g09_c01.avi")
    dataset = UCF101(source)
    assert by_name(dataset.videos())["Archery/v_Archery_g09_c01.avi"].split == ("", "", "")
    assert "in no list, and so in no split: 1 clip" in dataset.remarks()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (
            f"{ARCHERY} 3\nv_Surfing_g01_c02.avi\n",
            "trainlist01.txt:2: `v_Surfing_g01_c02.avi` is no",
        ),
        (
            f"\n\n{SURFING} 88\n",
            "trainlist01.txt:3: v_Surfing_g01_c02.avi is in both parts of split 1",
        ),
    ],
    ids=["no class", "both parts"],
)
def test_a_wrong_line_of_a_list_is_named(source: Path, content: str, problem: str) -> None:
    write(source, {"lists/trainlist01.txt": content})
    with pytest.raises(DataError) as caught:
        UCF101(source).videos()
    assert problem in caught.value.message


@given(st.sampled_from(["\n", "\r\n"]), st.sampled_from([b"", b"\xef\xbb\xbf"]), st.booleans())
def test_lists_are_read_whatever_their_line_ends(end: str, mark: bytes, last_end: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        text = f"{ARCHERY} 3{end}{SURFING} 88{end if last_end else ''}"
        write(Path(folder), {"trainlist02.txt": mark + text.encode()})
        found, labels = read_parts({"trainlist02.txt": Path(folder) / "trainlist02.txt"})
    assert found == {"v_archery_g08_c01": {2: "train"}, "v_surfing_g01_c02": {2: "train"}}
    assert set(labels.values()) == {"Archery", "Surfing"}


def test_no_clip_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"no video was found in {tmp_path}; left out: 1 .txt"):
        UCF101(touch(tmp_path, "notes.txt")).videos()


def test_videos_without_names_of_ucf101_are_not_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"none of the 2 videos in {tmp_path} has a name of UCF101"):
        UCF101(touch(tmp_path, "holiday.mp4", "party.mp4")).videos()


def test_a_complete_copy_by_the_official_lists(shared_data: Path, tmp_path: Path) -> None:
    lists = shared_data / "splits" / "ucf101"
    lines = [
        line
        for part in ("train", "test")
        for line in (lists / f"{part}list01.txt").read_text().splitlines()
    ]
    source = touch(tmp_path / "UCF-101", *(line.split()[0] for line in lines))
    dataset = UCF101(source, lists=lists, strict=True)
    videos = dataset.videos()
    assert len(videos) == CLIPS
    assert len({video.label for video in videos}) == CLASSES
    assert len({video.source for video in videos}) == 101 * 25
    assert dataset.remarks() == ["101 of 101 classes, 13,320 of 13,320 clips"]
    counts = [Counter(video.split[split] for video in videos) for split in range(3)]
    assert [(count["train"], count["test"]) for count in counts] == [
        (9537, 3783),
        (9586, 3734),
        (9624, 3696),
    ]
    for split in range(3):
        train, test = (
            {video.source for video in videos if video.split[split] == part}
            for part in ("train", "test")
        )
        assert not train & test

    (source / ARCHERY).rename(source / "Archery" / "v_Archery_g99_c01.avi")
    with pytest.raises(DataError, match=r"13,320 of 13,320 clips; missing are v_archery_g08_c01"):
        dataset.videos()
    with pytest.raises(DataError, match=r"13,320 of 13,320 clips; missing are trainlist01\.txt"):
        UCF101(source, strict=True).videos()


def test_a_part_of_the_dataset_says_how_much_it_is(shared_data: Path) -> None:
    dataset = UCF101(shared_data / "ucf28")
    videos = dataset.videos()
    assert dataset.remarks() == ["28 of 101 classes, 2,552 of 13,320 clips", "left out: 1 .txt"]
    counts = [Counter(video.split[split] for video in videos) for split in range(3)]
    assert counts == [
        {"train": 1831, "test": 721},
        {"train": 1839, "test": 713},
        {"train": 1840, "test": 712},
    ]
    with pytest.raises(DataError, match=r"28 of 101 classes, 2,552 of 13,320 clips") as caught:
        UCF101(shared_data / "ucf28", strict=True).videos()
    assert "--strict" in caught.value.hint


def test_lists_of_two_datasets_below_one_folder_are_not_mixed(shared_data: Path) -> None:
    with pytest.raises(DataError, match="is there twice"):
        UCF101(shared_data).videos()


def test_a_part_is_prepared_and_strict_refuses_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "ucf", dict.fromkeys((f"lists/{name}" for name in LISTS), ""))
    write(
        source, {"lists/trainlist01.txt": f"{ARCHERY} 3\n", "lists/testlist01.txt": f"{PUSHUPS}\n"}
    )
    for name in (ARCHERY, PUSHUPS):
        write_video(source / name, 8, width=64, height=48)
    command = [
        "prepare",
        "ucf101",
        "--source",
        str(source),
        "--data",
        str(tmp_path / "data"),
        "--workers",
        "1",
    ]
    assert main([*command, "--strict", "--name", "strict"]) == 1
    assert (
        "error: UCF101 is not complete: 2 of 101 classes, 2 of 13,320 clips"
        in capsys.readouterr().err
    )
    assert main(command) == 0
    assert "2 of 101 classes, 2 of 13,320 clips" in capsys.readouterr().err.splitlines()
    table = Manifest.open(tmp_path / "data" / "ucf101").table
    assert table[["video", "label", "group", "source", "split1", "split2"]].to_numpy().tolist() == [
        [ARCHERY, "Archery", "g08", "Archery_g08", "train", ""],
        [PUSHUPS, "HandstandPushups", "g01", "HandstandPushups_g01", "test", ""],
    ]
