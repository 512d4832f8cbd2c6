"""A person's own videos: folders of any kind and CSV files, groups, and parts that are given or
drawn."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from listings import by_name, parts, touch, write
from vcsf_plugins.datasets import Folder, Table
from vcsf_plugins.datasets.draw import draw_splits
from videos import write_video

from vcsf_cli.cli import main
from vcsf_cli.contracts import Video
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.errors import DataError, InputError
from vcsf_cli.video import VIDEO_ENDINGS, left_out

CLASSES = ("Run/a.avi", "Run/b.avi", "Jump/c.avi", "Jump/d.avi")


def labels(videos: Iterable[Video]) -> dict[str, str | None]:
    return {video.name: video.label for video in videos}


def message_of(source: Path, **options: object) -> str:
    """What is wrong with a folder or CSV file."""
    listing = Folder if source.is_dir() else Table
    with pytest.raises(DataError) as caught:
        listing(source, **options).videos()  # type: ignore[operator]
    return caught.value.message


def test_folders_of_videos_are_classes(tmp_path: Path) -> None:
    dataset = Folder(touch(tmp_path, *CLASSES))
    assert labels(dataset.videos()) == {
        "Jump/c.avi": "Jump",
        "Jump/d.avi": "Jump",
        "Run/a.avi": "Run",
        "Run/b.avi": "Run",
    }
    (said,) = dataset.remarks()
    assert said == (
        "4 videos, 2 classes, named as the folders (Jump, Run); --labels none if these are no classes"
    )
    assert not dataset.benchmark


def test_every_ending_of_video_is_taken_in_any_case(tmp_path: Path) -> None:
    names = [
        f"{case}/a{getattr(each, case)()}" for each in VIDEO_ENDINGS for case in ("lower", "upper")
    ]
    dataset = Folder(touch(tmp_path, *names))
    assert {video.name for video in dataset.videos()} == {*names}
    said = ["MTS", "3gp", "m2ts", "ts", "ogv", "vob", "gif", "mts", "divx", "f4v", "rmvb"]
    assert {f".{each.lower()}" for each in said} <= VIDEO_ENDINGS
    (remark,) = dataset.remarks()
    assert remark.startswith(f"{len(names)} videos, 2 classes, named as the folders (lower, upper)")


def test_files_that_are_left_out_are_counted_and_classes_of_them_named(tmp_path: Path) -> None:
    source = touch(
        tmp_path, *CLASSES, "Run/a.txt", "Run/b.TXT", "Run/readme", "Swim/a.xyz", "Fly/1/a.jpg"
    )
    os.mkfifo(source / "Run" / "pipe.avi")
    (source / "Swim" / "zero.avi").symlink_to("/dev/zero")
    (source / ".hidden").touch()
    dataset = Folder(source)
    assert len(dataset.videos()) == 4
    counts, folders = dataset.remarks()[1:]
    assert counts == "left out: 2 .txt, 2 pipes or devices, 1 .jpg, 1 without ending, 1 .xyz"
    assert folders == "warning: folders without a video: Fly, Swim"


def test_files_that_are_used_otherwise_are_not_left_out(tmp_path: Path) -> None:
    source = touch(tmp_path, *CLASSES, "lists/train.txt", "lists/classes.txt")
    assert left_out(source, used={"train.txt"}.__contains__) == ["left out: 1 .txt"]


@pytest.mark.parametrize(
    "names",
    [
        ("a.avi", "b.avi"),
        ("Run/a.avi", "Run/b.avi"),
        ("Run/a.avi", "Jump/b.avi", "intro.avi"),
        ("2023/may/a.avi", "2024/june/1/b.avi"),
    ],
    ids=["no folder", "one folder", "a video outside", "deep folders"],
)
def test_videos_that_do_not_lie_in_folders_of_classes_have_no_label(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    dataset = Folder(touch(tmp_path, *names))
    videos = dataset.videos()
    assert labels(videos) == dict.fromkeys(sorted(names))
    assert {video.split for video in videos} == {("", "", "")}
    assert "unlabelled" in dataset.remarks()[0]
    assert "--labels" in dataset.remarks()[0]


def test_labels_can_be_taken_from_the_first_folder_or_not_at_all(tmp_path: Path) -> None:
    touch(tmp_path, "Run/outside/1/a.avi", "Run/b.avi")
    assert labels(Folder(tmp_path, labels="folder").videos()) == {
        "Run/b.avi": "Run",
        "Run/outside/1/a.avi": "Run",
    }
    touch(tmp_path, "Jump/c.avi")
    dataset = Folder(tmp_path, labels="none")
    assert set(labels(dataset.videos()).values()) == {None}
    assert dataset.remarks() == ["3 videos, unlabelled"]


def test_a_video_outside_all_folders_has_no_class_to_take(tmp_path: Path) -> None:
    assert "intro.avi lies in no folder" in message_of(
        touch(tmp_path, *CLASSES, "intro.avi"), labels="folder"
    )


def test_videos_are_known_by_their_endings(tmp_path: Path) -> None:
    videos = ["a.mp4", "b.avi", "c.mkv", "d.webm", "e.mov", "F.MP4", "g.Mov"]
    touch(
        tmp_path,
        *videos,
        "notes.txt",
        "a.srt",
        "b.jpg",
        ".h.mp4",
        ".trash/i.mp4",
        "mp4",
        "dir.mp4/j.avi",
    )
    assert set(by_name(Folder(tmp_path).videos())) == {*videos, "dir.mp4/j.avi"}


@pytest.mark.parametrize("kind", ["folder", "csv"])
def test_a_source_of_the_wrong_kind_is_a_mistake_of_the_command_line(
    tmp_path: Path, kind: str
) -> None:
    source = touch(tmp_path, "a.avi") / "a.avi" if kind == "folder" else tmp_path
    with pytest.raises(InputError) as caught:
        {"folder": Folder, "csv": Table}[kind](source).videos()
    assert str(source) in caught.value.message
    assert ("vcsf prepare csv" if kind == "folder" else "vcsf prepare folder") in caught.value.hint


def test_a_folder_without_videos_is_an_error(tmp_path: Path) -> None:
    message = message_of(touch(tmp_path, "notes.txt", "videos.zip"))
    assert f"no video was found in {tmp_path}; left out: " in message
    assert "1 .zip" in message


def test_names_need_be_no_utf_8(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/K\xfcr.avi")).touch()
    touch(tmp_path, "Stra\xdfe.avi")
    assert list(by_name(Folder(tmp_path).videos())) == ["K\xfcr.avi", "Stra\xdfe.avi"]


@pytest.mark.parametrize(
    ("pattern", "groups"),
    [
        (r"_(p\d+)_", ["p1", "p1", "p2"]),
        (r"p\d+", ["p1", "p1", "p2"]),
        (r"_(p\d+)_(?P<group>k\d)", ["k1", "k2", "k1"]),
        (r"^(\w+)/", ["Jump", "Run", "Run"]),
        (r"_(k9)?", ["", "", ""]),
    ],
    ids=["first group", "all of it", "named group", "of the path", "empty"],
)
def test_the_pattern_says_the_group_and_so_the_source(
    tmp_path: Path, pattern: str, groups: list[str]
) -> None:
    touch(tmp_path, "Jump/a_p1_k1.avi", "Run/a_p1_k2.avi", "Run/b_p2_k1.avi")
    if not any(groups):
        assert "fits none of the videos, such as Jump/a_p1_k1.avi" in message_of(
            tmp_path, group_pattern=pattern
        )
        return
    videos = Folder(tmp_path, group_pattern=pattern).videos()
    assert [video.group for video in videos] == [video.source for video in videos] == groups


def test_videos_that_the_pattern_does_not_fit_are_told(tmp_path: Path) -> None:
    dataset = Folder(touch(tmp_path, "p1.avi", "other.avi"), group_pattern=r"p\d")
    assert by_name(dataset.videos())["other.avi"].group == ""
    assert any("doesn't fit 1 video, such as other.avi" in remark for remark in dataset.remarks())


def test_a_pattern_that_is_none_is_a_mistake_of_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'p\(' is not a regular expression"):
        Folder(tmp_path, group_pattern="p(")


def splits(root: Path, text: str) -> Path:
    write(root, {"splits.csv": text})
    return root / "splits.csv"


def test_splits_of_a_file(tmp_path: Path) -> None:
    source = touch(tmp_path / "source", *CLASSES)
    rows = "video,part,split\nRun/a.avi,train,\n./Run/a.avi,test,2\nRun/b.avi,test,1\n\nJump/c.avi,train,3\n"
    dataset = Folder(source, splits=splits(tmp_path, rows))
    assert {name: video.split for name, video in by_name(dataset.videos()).items()} == {
        "Jump/c.avi": ("", "", "train"),
        "Jump/d.avi": ("", "", ""),
        "Run/a.avi": ("train", "test", ""),
        "Run/b.avi": ("test", "", ""),
    }
    assert any(re.fullmatch("in no part of .*: 1 video", remark) for remark in dataset.remarks())


def test_splits_of_a_file_without_split_and_for_videos_without_label(tmp_path: Path) -> None:
    source = touch(tmp_path / "source", "a.avi", "b.avi")
    videos = Folder(
        source, splits=splits(tmp_path, "part;video\ntest;a.avi\ntrain;b.avi\n")
    ).videos()
    assert parts(videos) == {"a.avi": "test", "b.avi": "train"}


def test_all_wrong_lines_of_splits_are_told_at_once(tmp_path: Path) -> None:
    source = touch(tmp_path / "source", "Run/p1_a.avi", "Run/p1_b.avi", "Jump/p2_a.avi")
    rows = [
        "video,part,split",
        "Run/p1_a.avi,train,1",
        "Run/p1_b.avi,test,1",
        "Run/p3.avi,train,1",
        "Run/p1_b.avi,testing,2",
        "Run/p1_b.avi,test,4",
        "",
        "Run/p1_a.avi,test,1",
    ]
    message = message_of(source, splits=splits(tmp_path, "\n".join(rows)), group_pattern=r"p\d")
    for problem in (
        "5 problems",
        "line 4: there is no video Run/p3.avi",
        "line 5: part `testing` is not train, test or empty",
        "line 6: split `4` is not 1, 2 or 3",
        "line 8: Run/p1_a.avi is in both parts of split 1",
        "group p1 is in both parts of split 1",
    ):
        assert problem in message


def test_many_problems_are_counted_and_the_first_shown(tmp_path: Path) -> None:
    source = touch(tmp_path / "source", "a.avi")
    rows = "".join(f"missing{number}.avi,train\n" for number in range(50))
    message = message_of(source, splits=splits(tmp_path, "video,part\n" + rows))
    assert "50 problems" in message
    assert "line 2: " in message
    assert "and 30 more" in message


GROUPS = st.lists(st.tuples(st.sampled_from("ABCD"), st.integers(0, 5)), min_size=1, max_size=40)
"""Class and group number of each video."""

SHARES = st.sampled_from([0.1, 0.25, 0.5, 0.9])


def drawn(videos: list[tuple[str | None, str]], share: float, seed: int) -> list[Video]:
    """Videos of classes and groups with drawn parts."""
    listed = [
        Video(Path(f"{number}"), f"{number}", label, group, group)
        for number, (label, group) in enumerate(videos)
    ]
    return draw_splits(listed, share, seed)


def groups_of(videos: list[Video], split: int) -> dict[str | None, dict[str, set[str]]]:
    """Groups by class and part."""
    found: dict[str | None, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for video in videos:
        found[video.label][video.split[split]].add(video.group or video.name)
    return found


@given(GROUPS, SHARES, st.integers(0, 9))
def test_every_class_of_several_groups_is_in_both_parts(
    videos: list[tuple[str, int]], share: float, seed: int
) -> None:
    found = drawn([(label, f"{label}{group}") for label, group in videos], share, seed)
    for split in range(3):
        for its in groups_of(found, split).values():
            assert not its["train"] & its["test"]
            assert its["train"]
            assert bool(its["test"]) == (len(its["train"] | its["test"]) > 1)
            assert not its[""]


@given(GROUPS, SHARES, st.integers(0, 9))
def test_a_group_of_several_classes_straddles_no_split(
    videos: list[tuple[str, int]], share: float, seed: int
) -> None:
    found = drawn([(label, f"{group}") for label, group in videos], share, seed)
    for split in range(3):
        its = groups_of(found, split)
        train, test = (
            set().union(*(groups[part] for groups in its.values())) for part in ("train", "test")
        )
        assert not train & test
        assert all(groups["train"] for groups in its.values())
        for groups in its.values():
            if not groups["test"]:  # each of its groups is the last training group of some class
                assert all(
                    any(other["train"] == {group} for other in its.values())
                    for group in groups["train"]
                )


@given(
    st.lists(
        st.tuples(st.sampled_from(["A", "B", None]), st.integers(0, 5)), min_size=1, max_size=30
    ),
    SHARES,
)
def test_videos_without_label_are_never_tested_nor_straddle(
    videos: list[tuple[str | None, int]], share: float
) -> None:
    found = drawn([(label, f"{group}") for label, group in videos], share, 0)
    for split in range(3):
        its = groups_of(found, split)
        assert not its[None]["test"]
        train, test = (
            set().union(*(groups[part] for groups in its.values())) for part in ("train", "test")
        )
        assert not train & test


@given(st.integers(4, 30), st.integers(1, 4), SHARES, st.integers(0, 99))
def test_the_test_part_is_as_large_as_asked(
    groups: int, each: int, share: float, seed: int
) -> None:
    found = drawn([("A", f"{group}") for group in range(groups) for _ in range(each)], share, seed)
    test = sum(video.split[0] == "test" for video in found)
    assert test == each * min(max(1, int(share * groups)), groups - 1)


@pytest.mark.parametrize("small", [1, 4])
def test_a_large_group_is_not_tested_where_a_small_one_will_do(small: int) -> None:
    for seed in range(20):
        found = drawn([("A", "large")] * 9 + [("A", "small")] * small, 0.25, seed)
        assert {video.group for video in found if video.split[0] == "test"} == {"small"}


def as_kept(videos: list[Video]) -> dict[str, tuple[str, str, str]]:
    """The parts of the groups of videos that all have labels."""
    return {video.group: video.split for video in videos}


@given(GROUPS, GROUPS, SHARES, st.integers(0, 9), st.integers(0, 9))
def test_groups_that_have_a_part_never_move(
    old: list[tuple[str, int]], new: list[tuple[str, int]], share: float, seed: int, other: int
) -> None:
    first = drawn([(label, f"{group}") for label, group in old], share, seed)
    kept = as_kept(first)
    more = [
        *first,
        *(Video(Path(f"n{n}"), f"n{n}", label, f"{g}", f"{g}") for n, (label, g) in enumerate(new)),
    ]
    found = draw_splits(more, share, other, kept)
    assert {video.group: video.split for video in found} | kept == {
        video.group: video.split for video in found
    }
    assert draw_splits(found, share, other, as_kept(found)) == found
    for split in range(3):
        its = groups_of(found, split)
        train, test = (
            set().union(*(groups[part] for groups in its.values())) for part in ("train", "test")
        )
        assert not train & test
        assert all(groups["train"] or groups["test"] <= kept.keys() for groups in its.values())


@given(st.integers(4, 20), st.integers(1, 20), SHARES, st.integers(0, 99))
def test_added_groups_bring_the_test_part_to_its_share(
    old: int, new: int, share: float, seed: int
) -> None:
    """Old and new videos together, in each class; a class that is new is divided as if it were
    alone."""
    first = drawn([("A", f"{group}") for group in range(old)], share, seed)
    more = [
        Video(Path(f"n{n}{label}"), f"n{n}{label}", label, f"n{n}{label}")
        for n in range(new)
        for label in "AB"
    ]
    found = draw_splits([*first, *more], share, seed, as_kept(first))
    test = {
        label: sum(video.split[1] == "test" for video in found if video.label == label)
        for label in "AB"
    }
    assert test["A"] == max(1, int(share * (old + new)))
    assert test["B"] == min(max(1, int(share * new)), new - 1)


def test_groups_that_were_left_out_of_a_split_stay_out_and_count_for_nothing() -> None:
    listed = [Video(Path(f"{number}"), f"{number}", "A", f"{number}") for number in range(20)]
    kept = {f"{number}": ("", "train", "test") for number in range(10)}
    found = draw_splits(listed, 0.5, 0, kept)
    assert [sum(video.split[0] == part for video in found) for part in ("train", "test", "")] == [
        5,
        5,
        10,
    ]
    assert all(found[number].split == ("", "train", "test") for number in range(10))


def test_draws_are_seeded_and_differ_between_splits() -> None:
    videos: list[tuple[str | None, str]] = [("A", f"{number}") for number in range(40)]
    one, again, other = drawn(videos, 0.25, 0), drawn(videos, 0.25, 0), drawn(videos, 0.25, 1)
    assert one == again
    assert parts(one) != parts(other)
    assert len({tuple(parts(one, split).items()) for split in (1, 2, 3)}) == 3


def test_videos_without_group_are_drawn_one_by_one(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{label}/{number}.avi" for label in ("Run", "Jump") for number in range(8)))
    videos = Folder(tmp_path, test_share=0.25).videos()
    for split in range(3):
        for label in ("Run", "Jump"):
            assert (
                sum(video.split[split] == "test" for video in videos if video.label == label) == 2
            )


def listed(root: Path, text: str, encoding: str = "utf-8") -> Path:
    write(root, {"list.csv": text.encode(encoding)})
    return root / "list.csv"


def test_a_manifest_with_all_columns(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.avi", "b.mp4", "c.mov")
    text = "video,label,group,part\none/a.avi,Run,p1,train\nb.mp4, Jump ,p2,test\nc.mov,,,\n"
    dataset = Table(listed(tmp_path, text))
    videos = by_name(dataset.videos())
    assert {
        name: (video.label, video.group, video.source, video.split) for name, video in videos.items()
    } == {
        "b.mp4": ("Jump", "p2", "p2", ("test", "", "")),
        "c.mov": (None, "", "", ("", "", "")),
        "one/a.avi": ("Run", "p1", "p1", ("train", "", "")),
    }  # fmt: skip
    assert all(video.path.is_file() for video in videos.values())
    assert dataset.remarks() == ["3 videos, 2 classes"]
    assert not dataset.benchmark


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ('video,label\n"K\xfcr, 1.avi",Run\n', "utf-8"),
        ("label;video\r\nRun;K\xfcr, 1.avi\r\n", "utf-8-sig"),
        (' video , label \n"K\xfcr, 1.avi", Run\n\n', "utf-8"),
    ],
    ids=["quoted", "semicolons", "spaces"],
)
def test_a_manifest_as_spreadsheets_save_it(tmp_path: Path, text: str, encoding: str) -> None:
    touch(tmp_path, "K\xfcr, 1.avi")
    assert labels(Table(listed(tmp_path, text, encoding)).videos()) == {"K\xfcr, 1.avi": "Run"}


def test_paths_may_be_absolute_lead_elsewhere_or_to_a_link(tmp_path: Path) -> None:
    touch(tmp_path, "lists/in/a.avi", "elsewhere/b.avi", "elsewhere/c.avi", "blobs/1234")
    (tmp_path / "lists" / "d.avi").symlink_to(tmp_path / "blobs" / "1234")
    rows = [
        tmp_path / "lists/in/a.avi",
        tmp_path / "elsewhere/b.avi",
        "../elsewhere/c.avi",
        "d.avi",
    ]
    videos = Table(
        listed(tmp_path / "lists", "video\n" + "".join(f"{row}\n" for row in rows))
    ).videos()
    place = tmp_path.as_posix().lstrip("/")
    assert list(by_name(videos)) == sorted(
        ["d.avi", "in/a.avi", f"{place}/elsewhere/b.avi", f"{place}/elsewhere/c.avi"]
    )
    assert all(video.path.is_file() for video in videos)


def test_a_video_needs_no_known_ending_in_a_manifest(tmp_path: Path) -> None:
    assert list(by_name(Table(listed(touch(tmp_path, "a.ts"), "video\na.ts\n")).videos())) == [
        "a.ts"
    ]


def test_all_wrong_lines_of_a_manifest_are_told_at_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.avi", "b.avi", "c.avi", "folder/d.avi")
    rows = [
        "video,label,group,part",
        "a.avi,Run,p1,train",
        "missing.avi,Run,p2,train",
        "",
        "b.avi,Run,p2,trian",
        f"{tmp_path}/./a.avi,Run,p1,train",
        ",Run,p2,train",
        "folder,Run,p2,train",
        "c.avi,Run,p1,test",
    ]
    message = message_of(listed(tmp_path, "\n".join(rows)))
    for problem in (
        "list.csv has 6 problems",
        f"line 3: there is no file {tmp_path / 'missing.avi'}",
        "line 5: part `trian` is not train, test or empty",
        f"line 6: {tmp_path}/./a.avi is on line 2 too",
        "line 7: it names no video",
        f"line 8: there is no file {tmp_path / 'folder'}",
        "group p1 is in both parts of split 1",
    ):
        assert problem in message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("file,label\na.avi,Run\n", "lacks the column `video`, its columns are file, label"),
        ("video,lable\na.avi,Run\n", "has an unknown column `lable`"),
        ("", "lacks the column `video`"),
        ("video,label\n", "lists no video"),
        ("video,label\na.avi,Run,p1\n", "line 2: it has more cells than the first line"),
        ("video,label\na.avi,R\xfcn\n", "can't be read as UTF-8"),
        ('video,label\n"a.avi,Run\n', "line 2: unexpected end"),
    ],
    ids=["no video", "unknown", "empty", "no line", "too many cells", "encoding", "open quote"],
)
def test_what_is_no_manifest_is_told(tmp_path: Path, text: str, problem: str) -> None:
    assert problem in message_of(listed(touch(tmp_path, "a.avi"), text, "latin-1"))


def test_parts_of_a_manifest_are_drawn_by_group_where_none_is_given(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number}.avi" for number in range(24)))
    rows = "".join(f"{number}.avi,{'AB'[number // 12]},g{number // 3}\n" for number in range(24))
    videos = Table(listed(tmp_path, "video,label,group\n" + rows)).videos()
    for split in range(3):
        test = [video for video in videos if video.split[split] == "test"]
        assert sorted(str(video.label) for video in test) == ["A"] * 3 + ["B"] * 3
        assert len({video.group for video in test}) == 2
    assert parts(videos) != parts(Table(tmp_path / "list.csv", seed=1).videos())


def test_a_manifest_without_labels_is_not_divided(tmp_path: Path) -> None:
    videos = Table(listed(touch(tmp_path, "a.avi", "b.avi"), "video\na.avi\nb.avi\n")).videos()
    assert {video.split for video in videos} == {("", "", "")}


def prepare(*arguments: object) -> int:
    return main(["prepare", *(str(argument) for argument in arguments), "--workers", "1"])


def test_a_folder_is_prepared_with_groups_and_splits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("Run/p1_a.avi", "Run/p2_b.mp4", "Jump/p1_c.webm"):
        write_video(tmp_path / "mine" / name, 8, width=64, height=48)
    rows = splits(
        tmp_path, "video,part\nRun/p1_a.avi,train\nJump/p1_c.webm,train\nRun/p2_b.mp4,test\n"
    )
    command = [
        "folder",
        "--source",
        tmp_path / "mine",
        "--data",
        tmp_path / "data",
        "--group-pattern",
        r"p\d",
    ]
    assert prepare(*command, "--splits", rows) == 0
    assert "3 videos, 2 classes" in capsys.readouterr().err
    table = Manifest.open(tmp_path / "data" / "mine").table
    assert table[["video", "label", "group", "source", "split1"]].to_numpy().tolist() == [
        ["Jump/p1_c.webm", "Jump", "p1", "p1", "train"],
        ["Run/p1_a.avi", "Run", "p1", "p1", "train"],
        ["Run/p2_b.mp4", "Run", "p2", "p2", "test"],
    ]


def make(root: Path, *names: str) -> None:
    """Write small videos."""
    for name in names:
        write_video(root / name, 8, width=64, height=48)


def own(kind: str, root: Path, unlabelled: tuple[str, ...] = ()) -> list[object]:
    """The words that prepare all videos of a folder, as a folder or as a list; of a list some may
    have no label."""
    if kind == "folder":
        return [
            "folder",
            "--source",
            root,
            "--data",
            root.parent / "data",
            "--name",
            "mine",
            "--test-share",
            0.5,
        ]
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.avi"))
    rows = "".join(f"{name},{'' if name in unlabelled else name.split('/')[0]}\n" for name in names)
    write(root, {"list.csv": "video,label\n" + rows})
    return [
        "csv",
        "--source",
        root / "list.csv",
        "--data",
        root.parent / "data",
        "--name",
        "mine",
        "--test-share",
        0.5,
    ]


def splits_of(data: Path) -> dict[str, tuple[str, ...]]:
    table = Manifest.open(data / "mine").table
    return {
        row[0]: tuple(row[1:])
        for row in table[["video", "split1", "split2", "split3"]].to_numpy().tolist()
    }


@pytest.mark.parametrize("kind", ["folder", "csv"])
def test_no_prepared_recording_moves_when_videos_are_added(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "videos"
    make(source, *(f"{label}/{number}.avi" for label in ("Run", "Jump") for number in (2, 4, 6, 8)))
    assert prepare(*own(kind, source)) == 0
    first = splits_of(tmp_path / "data")
    manifest = (tmp_path / "data/mine/manifest.parquet").read_bytes()
    capsys.readouterr()
    assert prepare(*own(kind, source), "--seed", 1) == 0
    assert "8 recordings keep the parts that they have\n" in capsys.readouterr().err
    assert (tmp_path / "data/mine/manifest.parquet").read_bytes() == manifest
    make(source, "Run/1.avi", "Run/3.avi", "Jump/5.avi", "Jump/7.avi", "Walk/1.avi", "Walk/2.avi")
    assert prepare(*own(kind, source)) == 0
    assert (
        "8 recordings keep the parts that they have; those of 6 new ones are drawn"
        in capsys.readouterr().err
    )
    found = splits_of(tmp_path / "data")
    assert {name: found[name] for name in first} == first
    for split in range(3):
        for label, count in {"Run": 3, "Jump": 3, "Walk": 1}.items():
            assert [p[split] for name, p in found.items() if name.startswith(label)].count(
                "test"
            ) == count


def test_videos_without_label_keep_the_part_of_their_recording(tmp_path: Path) -> None:
    source = tmp_path / "videos"
    names = [f"{label}/{number}.avi" for label in ("Run", "Jump") for number in range(3)]
    make(source, *names)
    assert prepare(*own("csv", source, unlabelled=tuple(names))) == 0
    assert set(splits_of(tmp_path / "data").values()) == {("", "", "")}
    make(source, *(f"New/{number}.avi" for number in range(4)))
    assert prepare(*own("csv", source, unlabelled=tuple(names))) == 0
    found = splits_of(tmp_path / "data")
    assert all(
        found[name] == ("train", "train", "train") for name in names
    )  # so far a training took them all
    assert [parts[0] for name, parts in found.items() if name.startswith("New")].count("test") == 2


def test_a_recording_whose_videos_all_were_bad_has_no_part_yet(tmp_path: Path) -> None:
    source = tmp_path / "videos"
    make(source, *(f"{label}/{number}.avi" for label in ("Run", "Jump") for number in range(4)))
    (source / "Run" / "9.avi").write_text("no video yet")
    command = [*own("folder", source), "--max-bad", 50]
    assert prepare(*command) == 0
    first = splits_of(tmp_path / "data")
    assert prepare(*command) == 0
    assert splits_of(tmp_path / "data") == first
    make(source, "Run/9.avi")
    assert prepare(*command) == 0
    found = splits_of(tmp_path / "data")
    assert found.keys() - first.keys() == {"Run/9.avi"}
    assert {name: found[name] for name in first} == first


def test_an_interrupted_first_preparation_has_drawn_nothing_yet(tmp_path: Path) -> None:
    """Without a manifest nobody can have trained: the parts are those of a preparation of all
    videos at once."""
    source = tmp_path / "videos"
    old, new = (
        [f"{label}/{n}.avi" for label in ("Run", "Jump") for n in numbers]
        for numbers in ((2, 4, 6), (1, 3, 5))
    )
    make(source, *old)
    assert prepare(*own("folder", source)) == 0
    (tmp_path / "data/mine/manifest.parquet").unlink()  # it is written last
    make(source, *new)
    assert prepare(*own("folder", source)) == 0
    assert splits_of(tmp_path / "data") == {
        video.name: video.split for video in Folder(source, test_share=0.5).videos()
    }


def test_parts_are_the_same_however_often_a_call_is_killed(tmp_path: Path) -> None:
    source = tmp_path / "videos"
    make(source, *(f"{label}/{number}.avi" for label in ("Run", "Jump") for number in (2, 4, 6)))
    assert prepare(*own("folder", source)) == 0
    first = splits_of(tmp_path / "data")
    shutil.copytree(tmp_path / "data" / "mine", tmp_path / "data" / "whole")
    make(source, *(f"{label}/{number}.avi" for label in ("Run", "Jump") for number in (1, 3, 5, 7)))
    words = [str(word) for word in own("folder", source)]
    program = "import sys; from vcsf_cli.cli import main; sys.exit(main(sys.argv[1:]))"
    journal = tmp_path / "data/mine/journal.jsonl"
    for lines in (8, 11):
        process = subprocess.Popen(
            [sys.executable, "-c", program, "prepare", *words, "--workers", "1"],
            start_new_session=True,
        )
        while process.poll() is None and journal.read_bytes().count(b"\n") < lines:
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for _ in range(2):
        assert prepare(*words) == 0
    found = splits_of(tmp_path / "data")
    assert {name: found[name] for name in first} == first
    words[words.index("mine")] = "whole"
    assert prepare(*words) == 0
    whole, killed = (
        (tmp_path / "data" / name / "manifest.parquet").read_bytes() for name in ("whole", "mine")
    )
    assert whole == killed


def test_a_damaged_manifest_is_told_before_parts_are_drawn_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "videos"
    make(source, "Run/1.avi", "Jump/1.avi")
    assert prepare(*own("folder", source)) == 0
    path = tmp_path / "data/mine/manifest.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    assert prepare(*own("folder", source)) == 1
    error = capsys.readouterr().err
    assert f"{path} is damaged" in error
    assert "with --verify added" in error


def test_a_manifest_is_prepared_under_its_name(tmp_path: Path) -> None:
    write_video(tmp_path / "clips" / "a.avi", 8, width=64, height=48)
    elsewhere = write_video(tmp_path / "elsewhere" / "b.mp4", 8, width=64, height=48)
    rows = f"video,label,group,part\na.avi,Run,p1,train\n{elsewhere},Jump,p2,test\n"
    assert (
        prepare("csv", "--source", listed(tmp_path / "clips", rows), "--data", tmp_path / "data")
        == 0
    )
    table = Manifest.open(tmp_path / "data" / "list").table
    assert table[["video", "label", "source", "split1"]].to_numpy().tolist() == [
        ["a.avi", "Run", "p1", "train"],
        [str(elsewhere).lstrip("/"), "Jump", "p2", "test"],
    ]


@pytest.mark.parametrize(
    "options",
    [
        ("--labels", "name"),
        ("--test-share", "0"),
        ("--test-share", "1"),
        ("--group-pattern", "p("),
        ("--splits", "missing.csv"),
        ("--splits", "."),
        ("--seed", "x"),
    ],
    ids=" ".join,
)
def test_a_wrong_option_is_exit_status_2(
    tmp_path: Path, options: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    source = touch(tmp_path / "mine", *CLASSES)
    assert prepare("folder", "--source", source, "--data", tmp_path / "data", *options) == 2
    assert options[0] in capsys.readouterr().err


def test_wrong_lines_are_exit_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        prepare(
            "csv",
            "--source",
            listed(tmp_path, "video\nx.avi\ny.avi\n"),
            "--data",
            tmp_path / "data",
        )
        == 1
    )
    error = capsys.readouterr().err
    assert "line 2" in error
    assert "line 3" in error
