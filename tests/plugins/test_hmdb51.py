"""HMDB51: two forms of lists, odd names, and metadata in old encodings."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from listings import by_name, parts, touch, write
from vcsf_plugins.datasets import HMDB51
from vcsf_plugins.datasets.hmdb51 import CLASSES, CLIPS
from videos import write_video

from vcsf_cli.cli import main
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.errors import DataError, InputError

TAIL = "_cartwheel_f_cm_np1_le_med_0.avi"


def source_of(root: Path, *names: str, label: str = "cartwheel") -> Path:
    return touch(root, *(f"{label}/{name}" for name in names))


def test_official_lists_flag_each_clip_in_each_split(tmp_path: Path) -> None:
    names = [f"{letter}{TAIL}" for letter in "ABC"]
    source_of(tmp_path, *names)
    for split, flags in ((1, "120"), (2, "012"), (3, "201")):
        lines = "".join(f"{name} {flag} \n" for name, flag in zip(names, flags, strict=True))
        write(tmp_path, {f"testTrainMulti_7030_splits/cartwheel_test_split{split}.txt": lines})
    dataset = HMDB51(tmp_path)
    videos = by_name(dataset.videos())
    assert {name: video.split for name, video in videos.items()} == {
        f"cartwheel/A{TAIL}": ("train", "", "test"),
        f"cartwheel/B{TAIL}": ("test", "train", ""),
        f"cartwheel/C{TAIL}": ("", "test", "train"),
    }
    assert {video.label for video in videos.values()} == {"cartwheel"}
    assert dataset.benchmark
    assert dataset.remarks() == ["1 of 51 classes, 3 of 6,766 clips"]


@pytest.mark.parametrize(
    "stem",
    [
        "(Rad)Schlag_die_Bank!",
        "Geena_und_die_Radschl_ge___;-)",
        "Brushing__[_NEW_AUDIO_]_UPDATED!!!!",
        "#20_Rhythm_&_clap",
        "name with two  spaces 1",
        "v1.2_final.cut",
        "it's_100%_{odd}+",
        "K\xfcr_\u65e5\u672c",
    ],
)
def test_names_with_odd_characters_are_found_in_lists_of_both_forms(
    tmp_path: Path, stem: str
) -> None:
    name = f"{stem}{TAIL}"
    source_of(tmp_path, name)
    write(tmp_path, {"one/cartwheel_test_split1.txt": f"other{TAIL} 2\n{name} 1\n"})
    write(tmp_path, {"one/testlist02.txt": f"cartwheel/{name.removesuffix('.avi')} 1\n"})
    (video,) = HMDB51(tmp_path).videos()
    assert video.name == f"cartwheel/{name}"
    assert video.split == ("train", "test", "")
    assert video.group == video.source == stem


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_lists_need_be_no_utf_8(tmp_path: Path, encoding: str) -> None:
    source_of(tmp_path, f"K\xfcr{TAIL}", f"plain{TAIL}")
    lines = f"K\xfcr{TAIL} 1\r\nplain{TAIL} 2\r\n"
    write(tmp_path, {"cartwheel_test_split1.txt": lines.encode(encoding)})
    assert parts(HMDB51(tmp_path).videos()) == {
        f"cartwheel/K\xfcr{TAIL}": "train",
        f"cartwheel/plain{TAIL}": "test",
    }


def test_a_line_in_latin_1_spoils_no_other_line(tmp_path: Path) -> None:
    source_of(tmp_path, f"K\xfcr{TAIL}", f"Stra\xdfe\u2026{TAIL}")
    lines = (
        f"K\xfcr{TAIL} 1\n".encode("latin-1")
        + f"Stra\xdfe\u2026{TAIL} 2\n".encode()
        + b"\x85\x85.avi 0\n"
    )
    write(tmp_path, {"cartwheel_test_split1.txt": lines})
    assert list(parts(HMDB51(tmp_path).videos()).values()) == ["train", "test"]


def test_file_names_need_be_no_utf_8(tmp_path: Path) -> None:
    folder = os.fsencode(source_of(tmp_path, f"plain{TAIL}") / "cartwheel")
    Path(os.fsdecode(folder + b"/K\xfcr" + TAIL.encode())).touch()
    Path(os.fsdecode(folder + unicodedata.normalize("NFD", f"/\xc4rger{TAIL}").encode())).touch()
    write(
        tmp_path,
        {"cartwheel_test_split1.txt": f"K\xfcr{TAIL} 1\n\xc4rger{TAIL} 2\n".encode("latin-1")},
    )
    videos = HMDB51(tmp_path).videos()
    assert sorted(video.split[0] for video in videos) == ["", "test", "train"]
    assert all(video.path.is_file() for video in videos)
    assert all(video.name.encode() for video in videos)


def test_classes_and_names_are_compared_without_case_and_by_any_ending(tmp_path: Path) -> None:
    touch(tmp_path, f"Cartwheel/a{TAIL[:-4]}.mp4", f"Cartwheel/B{TAIL[:-4]}.AVI")
    write(tmp_path, {"cartwheel_test_split1.txt": f"A{TAIL} 1\nb{TAIL} 2\n"})
    assert parts(HMDB51(tmp_path).videos()) == {
        f"Cartwheel/B{TAIL[:-4]}.AVI": "test",
        f"Cartwheel/a{TAIL[:-4]}.mp4": "train",
    }


def test_two_classes_may_have_clips_of_one_name(tmp_path: Path) -> None:
    touch(tmp_path, "run/a.avi", "walk/a.avi")
    write(tmp_path, {"run_test_split1.txt": "a.avi 1\n", "walk_test_split1.txt": "a.avi 2\n"})
    assert parts(HMDB51(tmp_path).videos()) == {"run/a.avi": "train", "walk/a.avi": "test"}


@pytest.mark.parametrize(
    ("label", "name", "recording"),
    [
        ("brush_hair", "April_09_brush_hair_u_nm_np1_ba_goo_0", "April_09"),
        ("brush_hair", "April_09_brush_hair_u_nm_np1_ba_goo_1", "April_09"),
        ("run", "How_to_run_fast_run_f_cm_np1_ba_med_2", "How_to_run_fast"),
        ("kick", "Ball_Kick_f_cm_np1_ba_bad_0", "Ball"),
        ("kick", "without_the_class", "without_the_class"),
    ],
)
def test_the_recording_is_what_stands_before_the_class(
    tmp_path: Path, label: str, name: str, recording: str
) -> None:
    (video,) = HMDB51(source_of(tmp_path, f"{name}.avi", label=label)).videos()
    assert (video.group, video.source) == (recording, recording)


@pytest.mark.parametrize("other", ["copy/run/a_run_f.avi", "run/A_run_f.mp4"])
def test_a_clip_that_is_there_twice_is_an_error_that_names_both(tmp_path: Path, other: str) -> None:
    touch(tmp_path, "run/a_run_f.avi", other)
    with pytest.raises(DataError) as caught:
        HMDB51(tmp_path).videos()
    assert str(tmp_path / "run/a_run_f.avi") in caught.value.message
    assert str(tmp_path / other) in caught.value.message


@pytest.mark.parametrize("name", ["run_test_split2.txt", "trainlist03.txt"])
def test_a_list_that_is_there_twice_is_an_error_that_names_both(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "run/a.avi", f"one/{name}", f"two/{name}")
    with pytest.raises(DataError) as caught:
        HMDB51(tmp_path).videos()
    assert str(tmp_path / "one" / name) in caught.value.message
    assert str(tmp_path / "two" / name) in caught.value.message
    assert len(HMDB51(tmp_path, lists=tmp_path / "one").videos()) == 1


def test_lists_that_are_no_folder_are_a_mistake_of_the_command_line(tmp_path: Path) -> None:
    touch(tmp_path, "run/a.avi", "run_test_split1.txt")
    with pytest.raises(InputError, match="is not a folder"):
        HMDB51(tmp_path, lists=tmp_path / "run_test_split1.txt").videos()


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("run_test_split1.txt", "a.avi 1\nb.avi 3\n", "run_test_split1.txt:2: `b.avi 3` is no"),
        ("run_test_split1.txt", "\na.avi\n", "run_test_split1.txt:2: `a.avi` is no"),
        (
            "run_test_split1.txt",
            "a.avi 1\na.avi 2\n",
            "run_test_split1.txt:2: run/a is in two parts of split 1",
        ),
        ("trainlist01.txt", "run/b 0\na 0\n", "trainlist01.txt:2: `a 0` is no"),
        ("trainlist01.txt", "run/a 0\n", "trainlist01.txt:1: run/a is in two parts of split 1"),
    ],
)
def test_a_wrong_line_of_a_list_is_named(
    tmp_path: Path, name: str, content: str, problem: str
) -> None:
    touch(tmp_path, "run/a.avi")
    write(tmp_path, {"testlist01.txt": "run/a 0\n", name: content})
    with pytest.raises(DataError) as caught:
        HMDB51(tmp_path).videos()
    assert problem in caught.value.message


def test_missing_lists_and_unlisted_clips_are_told(tmp_path: Path) -> None:
    touch(tmp_path, "run/a.avi", "run/b.avi")
    dataset = HMDB51(tmp_path)
    assert set(parts(dataset.videos()).values()) == {""}
    assert any(
        "no lists of split 1, 2, 3 were found; --lists" in remark for remark in dataset.remarks()
    )
    write(tmp_path / "lists", {"run_test_split1.txt": "a.avi 0\n"})
    dataset.videos()
    assert dataset.remarks()[1:] == [
        "no lists of split 2, 3 were found; --lists DIR says where they are",
        "in no list, and so in no split: 1 clip",
    ]


@pytest.fixture(scope="module")
def listed(shared_data: Path) -> list[str]:
    """All clips that the lists of the three splits name."""
    lines = (
        line
        for path in (shared_data / "splits" / "hmdb51").iterdir()
        for line in path.read_text().splitlines()
    )
    return sorted({line.rpartition(" ")[0] for line in lines})


def test_all_clips_of_lists_of_one_part_are_found(
    shared_data: Path, listed: list[str], tmp_path: Path
) -> None:
    touch(tmp_path, *(f"{name}.avi" for name in listed))
    lists = shared_data / "splits" / "hmdb51"
    dataset = HMDB51(tmp_path, lists=lists)
    videos = dataset.videos()
    assert dataset.remarks() == [f"51 of 51 classes, {len(listed):,} of 6,766 clips"]
    for split in range(3):
        count = Counter(video.split[split] for video in videos)
        assert (count["train"], count["test"]) == (3570, 1530)
    with pytest.raises(DataError, match="HMDB51 is not complete: 51 of 51 classes"):
        HMDB51(tmp_path, lists=lists, strict=True).videos()


def test_official_lists_of_all_clips_are_a_complete_dataset(tmp_path: Path) -> None:
    clips = [(f"class{number % CLASSES}", f"v{number}.avi") for number in range(CLIPS)]
    touch(tmp_path, *("/".join(clip) for clip in clips))
    for label in {label for label, _ in clips}:
        lines = "".join(f"{name} {int(name[1:-4]) % 3}\n" for its, name in clips if its == label)
        write(tmp_path, {f"splits/{label}_test_split{split}.txt": lines for split in (1, 2, 3)})
    dataset = HMDB51(tmp_path, strict=True)
    assert Counter(video.split for video in dataset.videos()).keys() == {
        ("",) * 3,
        ("train",) * 3,
        ("test",) * 3,
    }
    assert dataset.remarks() == ["51 of 51 classes, 6,766 of 6,766 clips"]
    for path in (tmp_path / "splits").glob("*_split2.txt"):
        path.unlink()
    with pytest.raises(DataError, match="missing are the lists of split 2"):
        dataset.videos()


@pytest.mark.parametrize("bytes_of", ["utf-8", "latin-1"])
def test_odd_names_are_prepared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bytes_of: str
) -> None:
    source = tmp_path / "hmdb"
    odd, plain = "v1.2 (R\xe4d)!;-)" + TAIL, f"#20_[x]{TAIL}"
    write_video(source / "cartwheel" / plain, 8, width=64, height=48)
    video = write_video(source / "cartwheel" / "a.avi", 8, width=64, height=48)
    video.rename(os.fsdecode(os.fsencode(video.parent) + b"/" + odd.encode(bytes_of)))
    write(source, {"cartwheel_test_split1.txt": f"{odd} 1\n{plain} 2\n".encode("latin-1")})
    command = [
        "prepare",
        "hmdb51",
        "--source",
        source,
        "--data",
        tmp_path,
        "--workers",
        1,
        "--decoder",
        "pyav",
    ]
    assert main([str(argument) for argument in command]) == 0
    assert "1 of 51 classes, 2 of 6,766 clips" in capsys.readouterr().err
    table = Manifest.open(tmp_path / "hmdb51").table
    assert table[["video", "label", "frames", "split1"]].to_numpy().tolist() == [
        [f"cartwheel/{plain}", "cartwheel", 8, "test"],
        [f"cartwheel/{odd}", "cartwheel", 8, "train"],
    ]


def test_strict_refuses_a_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = source_of(tmp_path / "hmdb", f"A{TAIL}")
    command = ["prepare", "hmdb51", "--source", str(source), "--data", str(tmp_path), "--strict"]
    assert main(command) == 1
    assert (
        "error: HMDB51 is not complete: 1 of 51 classes, 1 of 6,766 clips"
        in capsys.readouterr().err
    )
