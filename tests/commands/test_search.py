"""`vcsf retrieve --query` as a user types it: the right video at the right time, from files that
were never prepared."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import called
from trained import copy_run
from videos import cut_off, write_video

from vcsf_cli.search.gallery import Gallery
from vcsf_cli.storage import checkpoint

COLUMNS = [
    "query",
    "query_begin",
    "query_end",
    "pathway",
    "rank",
    "video",
    "label",
    "similarity",
    "begin",
    "end",
]
NUMBERS = {"Run/a.mp4": range(100), "Run/b.mp4": range(300, 360), "Sit/c.mp4": range(700, 760)}
"""The numbers that the frames of the gallery's videos show; 25 frames are a second."""
WHERE = ("--query", "query.mp4", "--gallery", "mine", "--where")


@pytest.fixture(scope="module")
def trained(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on the dataset `synthetic`, and own videos prepared as `mine`, the long
    one cut into clips."""
    folder = tmp_path_factory.mktemp("search")
    copy_run(tiny_run, folder)
    for name, numbers in NUMBERS.items():
        write_video(folder / "videos" / name, numbers)
    prepare(folder)
    write_video(folder / "query.mp4", range(62, 82))
    return folder


def prepare(folder: Path, *more: object, source: str = "videos") -> None:
    arguments = ["--source", source, "--name", "mine", "--max-seconds", 2.0, "--workers", 1, *more]
    called("prepare", "folder", *arguments, cwd=folder)


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """A copy of all that to work in, without an index."""
    shutil.copytree(trained, tmp_path / "copy", ignore=shutil.ignore_patterns("index", "*.csv.got"))
    return tmp_path / "copy"


def search(folder: Path, *arguments: object, status: int = 0) -> tuple[pd.DataFrame, str, str]:
    """The answers, and what was printed and said."""
    arguments = ("--gallery", "mine", "--workers", 0, "--csv", "found.csv", *arguments)
    done = called("retrieve", *arguments, cwd=folder, status=status)
    return pd.read_csv(folder / "found.csv"), done.stdout, done.stderr


def test_a_part_of_a_gallery_video_finds_that_video_at_its_time(trained: Path) -> None:
    found, printed, said = search(trained, "--query", "query.mp4")
    assert found.columns.tolist() == COLUMNS
    assert found["rank"].tolist() == [1, 2, 3]
    assert sorted(found["video"]) == sorted(NUMBERS)
    first = found.iloc[0]
    assert (first["query"], first["video"], first["label"], first["pathway"]) == (
        "query.mp4",
        "Run/a.mp4",
        "Run",
        "both",
    )
    assert first["similarity"] > 0.95
    assert first["end"] - first["begin"] == pytest.approx(8 / 25, abs=0.002)
    assert first["begin"] - first["query_begin"] == pytest.approx(62 / 25, abs=0.002)
    assert found["similarity"].is_monotonic_decreasing
    for text in (
        "query.mp4",
        "Run/a.mp4",
        f"{first['similarity']:.3f}",
        f"{first['begin']:.1f}-{first['end']:.1f} s",
    ):
        assert text in printed
    run = next((trained / "runs").iterdir()).name
    assert (
        said.splitlines()[-1]
        == f"next: vcsf retrieve --query query.mp4 --gallery mine --from {run} --windows"
    )


def test_both_is_the_mean_of_the_pathways_and_k_cuts(trained: Path) -> None:
    every = {
        pathway: search(trained, "--query", "query.mp4", "--windows", "--pathway", pathway)[0]
        for pathway in ("slow", "fast")
    }
    both, _, said = search(trained, "--query", "query.mp4", "--windows", "--k", "1,2")
    assert (
        both.groupby("query_begin")["rank"].apply(list).tolist() == [[1, 2]] * 5
    )  # 20 frames, windows of 8 with hop 3
    assert (both["query_begin"] * 25).round().unique().tolist() == [0, 3, 6, 9, 12]
    assert said.splitlines()[-1].startswith("next: vcsf retrieve mine --from ")
    nearest = both[both["rank"] == 1].set_index("query_begin")
    assert (nearest["video"] == "Run/a.mp4").all()
    assert (nearest["begin"] - nearest.index).to_numpy() == pytest.approx(62 / 25, abs=0.002)
    one = {p: t[(t["video"] == "Run/a.mp4")].set_index("query_begin") for p, t in every.items()}
    same = [
        at
        for at in nearest.index
        if one["slow"]["begin"][at] == one["fast"]["begin"][at] == nearest["begin"][at]
    ]
    assert same
    for at in same:
        mean = (one["slow"]["similarity"][at] + one["fast"]["similarity"][at]) / 2
        assert nearest["similarity"][at] == pytest.approx(mean, abs=1e-5)


def test_a_broken_video_among_others_is_told_and_the_others_are_answered(trained: Path) -> None:
    folder = trained / "asked"
    write_video(folder / "good.mp4", range(310, 335))
    write_video(folder / "deeper" / "other.avi", range(710, 720))
    cut_off(write_video(folder / "broken.avi", 60), 0.4)
    (folder / "notes.txt").write_text("no video")
    (folder / "dead.mp4").symlink_to("nowhere")
    found, printed, said = search(trained, "--query-dir", "asked", "--query", "query.mp4", status=1)
    (folder / "dead.mp4").unlink()  # tests copy this folder
    nearest = found[found["rank"] == 1].set_index("query")["video"]
    assert nearest.to_dict() == {
        "query.mp4": "Run/a.mp4",
        "asked/deeper/other.avi": "Sit/c.mp4",
        "asked/good.mp4": "Run/b.mp4",
    }
    assert "asked/broken.avi" in said
    assert "notes.txt" not in said
    assert "left out: asked/dead.mp4 is a link that leads nowhere" in said
    assert "2 of 5 queries could not be read" in said
    assert "asked/good.mp4" in printed


def on_terminal(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: object
) -> tuple[str, list[list[str]]]:
    """What is above the table on a terminal of 80 columns, and the cells of each column, with what
    goes on in the next line joined."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    found, printed, _ = search(folder, *arguments)
    monkeypatch.delenv("FORCE_COLOR")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", printed).splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in printed
    assert found.columns.tolist() == COLUMNS
    above = lines[0].strip() if lines[0][0] not in "┏" else ""
    rows = [
        [cell.strip() for cell in line[1:-1].split(line[0])] for line in lines if line[0] in "┃│"
    ]
    columns = [[column[0]] for column in zip(*rows, strict=True)]
    rank = rows[0].index("rank")
    for row in rows[1:]:
        for column, cell in zip(columns, row, strict=True):
            if row[rank]:
                column.append(cell)
            else:
                column[-1] += cell
    return above, columns


def test_on_a_terminal_names_are_whole_and_what_says_nothing_gets_no_column(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = f"{'the same room again, seen from the door ' * 2}.mp4"
    (copy / "flat").mkdir()
    for number, path in enumerate(sorted((copy / "videos").rglob("*.mp4"))):
        shutil.copy(path, copy / "flat" / f"{number} {long}")
    prepare(copy, "--name", "flat", source="flat")
    one = ("--gallery", "flat", "--query", "query.mp4")
    above, columns = on_terminal(monkeypatch, copy, *one)
    assert above == "query: query.mp4"
    assert [column[0] for column in columns] == ["query at", "rank", "video", "similarity", "at"]
    names = sorted(name.replace(" ", "") for name in columns[2][1:])
    assert names == [f"{number} {long}".replace(" ", "") for number in range(3)]
    # What is piped has all columns, and lines as long as they are.
    _, printed, _ = search(copy, *one)
    assert "│ query.mp4 │" in printed
    assert f"│ 0 {long} │       │" in printed
    assert "┃ label ┃" in printed

    write_video(copy / "questions" / "deeper" / "other.avi", range(710, 720))
    write_video(copy / "questions" / "good.mp4", range(310, 335))
    above, columns = on_terminal(
        monkeypatch, copy, "--query-dir", "questions", "--query", "query.mp4"
    )
    assert above == ""
    assert columns[0] == [
        "query",
        "query.mp4",
        "",
        "",
        "deeper/other.avi",
        "",
        "",
        "good.mp4",
        "",
        "",
    ]
    assert {"label", "Run", "Sit"} == set(columns[4])
    assert "│ questions/good.mp4 " in search(copy, "--query-dir", "questions")[1]


def test_a_condition_leaves_the_answers_of_the_videos_that_it_holds_for(trained: Path) -> None:
    every, _, _ = search(trained, "--query", "query.mp4")
    for condition, videos in {
        "label = 'Run'": {"Run/a.mp4", "Run/b.mp4"},
        "video like '%/c.%' or label is null": {"Sit/c.mp4"},
        "seconds > 1 and \"group\" = ''": {"Run/a.mp4", "Run/b.mp4", "Sit/c.mp4"},
    }.items():
        found, _, said = search(trained, "--query", "query.mp4", "--where", condition)
        assert f"searched: {len(videos)} of 3 videos\n" in said
        kept = every[every["video"].isin(videos)].reset_index(drop=True)
        pd.testing.assert_frame_equal(
            found.drop(columns="rank"), kept.drop(columns="rank"), atol=1e-6
        )


def test_faiss_answers_as_exact_does_and_keeps_its_file(copy: Path) -> None:
    exact, _, _ = search(copy, "--query", "query.mp4", "--index", "exact")
    (folder,) = copy.glob("runs/*/index/mine")
    assert not list(folder.glob("faiss*"))
    for _ in range(2):
        found, _, said = search(copy, "--query", "query.mp4", "--index", "faiss")
        pd.testing.assert_frame_equal(found, exact)
        assert "of the exact neighbours" in said
        assert len(list(folder.glob("faiss-both-*.index"))) == 1
    assert "drawing up the lists" not in said


def test_videos_that_were_added_are_taken_in_and_nothing_is_computed_twice(copy: Path) -> None:
    search(copy, "--query", "query.mp4", "--index", "faiss")
    (folder,) = copy.glob("runs/*/index/mine")
    before = np.load(folder / "slow.npy")
    write_video(copy / "videos" / "Sit" / "new.mp4", range(900, 940))
    prepare(copy)
    write_video(copy / "later.mp4", range(909, 925))
    for index in ("exact", "faiss"):
        found, _, said = search(copy, "--query", "later.mp4", "--index", index)
        assert found["video"][0] == "Sit/new.mp4"
        assert found["begin"][0] - found["query_begin"][0] == pytest.approx(9 / 25, abs=0.002)
        assert ("index of mine 5/5 clips" in said) == (index == "exact")
    after = np.load(folder / "slow.npy")
    np.testing.assert_array_equal(after[: len(before)], before)
    shutil.rmtree(folder)
    again, _, _ = search(copy, "--query", "later.mp4")
    pd.testing.assert_frame_equal(again, found, atol=1e-4)


def test_a_run_that_was_trained_on_gets_a_new_index(copy: Path) -> None:
    before, _, _ = search(copy, "--query", "query.mp4")
    path = next(copy.glob("runs/*/checkpoint.pt"))
    saved = checkpoint.load(path)
    for weight in saved["task"]["model"].values():
        if weight.is_floating_point():
            weight += 0.1 * torch.rand(weight.shape, generator=torch.Generator().manual_seed(0))
    checkpoint.save(
        path, {key: value for key, value in saved.items() if key not in ("kind", "version")}
    )
    after, _, said = search(copy, "--query", "query.mp4")
    assert "index of mine 4/4 clips" in said
    assert (before["similarity"] != after["similarity"]).any()


def test_an_interrupted_index_goes_on(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add, added = Gallery.add, []

    def interrupted(self: Gallery, clip: int, features: dict[str, np.ndarray]) -> None:
        if len(added) == 2:
            raise KeyboardInterrupt
        added.append(clip)
        add(self, clip, features)

    with monkeypatch.context() as patch:
        patch.setattr(Gallery, "add", interrupted)
        done = called(
            "retrieve",
            "--query",
            "query.mp4",
            "--gallery",
            "mine",
            "--workers",
            0,
            cwd=copy,
            status=130,
        )
    assert "the same command goes on" in done.stderr
    monkeypatch.setattr(
        Gallery, "add", lambda self, clip, features: added.append(clip) or add(self, clip, features)
    )
    found, _, _ = search(copy, "--query", "query.mp4")
    assert found["video"][0] == "Run/a.mp4"
    assert sorted(added) == [0, 1, 2, 3]


def test_a_query_of_fewer_frames_than_a_window_and_a_gallery_without_labels(copy: Path) -> None:
    shutil.rmtree(copy / "data" / "mine")
    prepare(copy, "--labels", "none")
    write_video(copy / "short.mp4", range(705, 710))
    found, printed, _ = search(copy, "--query", "short.mp4")
    assert found[["query_begin", "query_end"]].drop_duplicates().to_numpy().tolist() == [[0.0, 0.2]]
    assert found["label"].isna().all()
    assert not {"nan", "None"} & set(printed.split())


def test_a_folder_without_videos_is_told_by_its_option(trained: Path) -> None:
    (trained / "empty").mkdir()
    done = called("retrieve", "--query-dir", "empty", "--gallery", "mine", cwd=trained, status=1)
    assert "--query-dir empty: no video was found" in done.stderr
    assert "--source" not in done.stderr


def test_brackets_and_colons_in_names_are_printed_as_they_are(trained: Path) -> None:
    name = "[bold] a [b :smile:.mp4"
    shutil.copy(trained / "query.mp4", trained / name)
    _, printed, _ = search(trained, "--query", name)
    assert name in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--query", "nowhere.mp4"], "nowhere.mp4"),
        (["--query-dir", "query.mp4"], "query.mp4"),
        (["--query", "query.mp4", "--gallery", "none"], "dataset none is not prepared"),
        (["--query", "query.mp4", "--baselines"], "--baselines has no meaning with --query"),
        (["--query", "query.mp4", "--split", "1"], "--split has no meaning with --query"),
        (["mine", "--query", "query.mp4"], "write --gallery mine"),
        (["--gallery", "mine"], "--gallery needs --query or --query-dir"),
        (["--windows"], "--windows needs --query or --query-dir"),
        (["--csv", "found.csv"], "--csv needs --query or --query-dir"),
        (
            ["--query", "query.mp4", "--gallery", "mine", "--csv", "no/folder.csv"],
            "there is no folder no",
        ),
        (["--query", "query.mp4", "--from", "nothing"], "there is no run nothing"),
        (["--where", "fps > 1"], "--where needs --query or --query-dir"),
        ([*WHERE, "colour = 'red'"], "no such column: colour"),
        ([*WHERE, "label = 'Run"], "unrecognized token"),
        ([*WHERE, "1); DROP TABLE clips; --"], "--where '1); DROP"),
        ([*WHERE, "label = 'Fly'"], "holds for none of 4 clips of mine"),
        ([*WHERE, "fps > 1", "--index", "faiss"], "--index faiss has no meaning with --where"),
    ],
)
def test_a_wrong_command_line_is_status_2(arguments: list[str], said: str, trained: Path) -> None:
    error = called("retrieve", *arguments, cwd=trained, status=2).stderr
    assert said in error
    assert "hint: " in error


def test_faiss_that_is_not_installed_is_told_before_anything_is_read(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    arguments = ["--query", "query.mp4", "--gallery", "mine", "--index", "faiss"]
    error = called("retrieve", *arguments, cwd=trained, status=2).stderr
    assert "pip install 'vcsf[faiss]'" in error
    assert "reading" not in error


def test_no_query_that_can_be_read_is_status_1_without_an_index(copy: Path) -> None:
    cut_off(write_video(copy / "broken.avi", 60), 0.4)
    error = called(
        "retrieve", "--query", "broken.avi", "--gallery", "mine", cwd=copy, status=1
    ).stderr
    assert "no query could be read" in error
    (copy / "empty.avi").touch()
    error = called(
        "retrieve", "--query", "empty.avi", "--gallery", "mine", cwd=copy, status=1
    ).stderr
    assert "empty.avi is empty" in error
    error = called(
        "retrieve", "--query", "empty.avi", "--gallery", "mein", cwd=copy, status=2
    ).stderr
    assert "hint: did you mean `mine`?" in error
    assert not list(copy.glob("runs/*/index"))
    (copy / "nothing").mkdir()
    (copy / "nothing" / "videos.zip").touch()
    error = called(
        "retrieve", "--query-dir", "nothing", "--gallery", "mine", cwd=copy, status=1
    ).stderr
    assert "no video was found; left out: 1 .zip" in error
