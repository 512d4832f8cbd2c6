"""`vcsf prepare` as a user types it: options, narration, exit statuses."""

from __future__ import annotations

import json
import shlex
from fractions import Fraction
from pathlib import Path

import pytest
from conftest import Vcsf
from videos import write_video

from vcsf_cli.cli import main
from vcsf_cli.commands.work.prepare import next_command
from vcsf_cli.config.recipe import load
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.data.prepare import Preparation


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four videos of two classes, below a folder with a dot in its name, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VCSF_DATA", raising=False)
    for name in ("Run/a.avi", "Run/b.mp4", "Jump/c.avi", "Jump/d.webm"):
        write_video(tmp_path / "my.videos" / name, 20, width=96, height=64)
    return Path("my.videos")


def run(*arguments: object) -> int:
    return main(["prepare", *(str(argument) for argument in arguments), "--workers", "1"])


def test_videos_become_a_dataset_named_after_their_folder(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("folder", "--source", source, "--size", 32, "--quality", 80) == 0
    manifest = Manifest.open(Path("data") / "my.videos")
    assert manifest.table["video"].tolist() == [
        "Jump/c.avi",
        "Jump/d.webm",
        "Run/a.avi",
        "Run/b.mp4",
    ]
    assert manifest.table["label"].tolist() == ["Jump", "Jump", "Run", "Run"]
    assert set(manifest.table["height"]) == {32}
    assert (manifest.settings["size"], manifest.settings["quality"]) == (32, 80)
    output = capsys.readouterr()
    assert output.out == ""
    assert "4 clips of 4 videos, 80 frames" in output.err
    *_, parts, without, following = output.err.splitlines()
    assert parts.startswith("2 clips to train on and 2 to test with say little: ")
    assert without == "without a GPU, take recipes/ucf28_cpu.yaml in place of recipes/vcsf.yaml:"
    assert following.startswith("next: vcsf pretrain ")
    assert run("folder", "--source", source, "--size", 32, "--quality", 80) == 0
    assert "everything was prepared already" in capsys.readouterr().err


def test_one_video_is_said_in_the_singular(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "Jump" / "d.webm").unlink()
    assert run("folder", "--source", source / "Jump") == 0
    said = capsys.readouterr().err
    for text in ("1 video, unlabelled", "prepared 1 video in", "1 clip of 1 video, 20 frames"):
        assert text in said


def test_data_and_name_say_where_it_lies(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VCSF_DATA", "elsewhere")
    assert run("folder", "--source", source, "--name", "mine") == 0
    assert Manifest.open(Path("elsewhere/mine")).name == "mine"
    assert run("folder", "--source", source, "--data", "here", "--name", "mine", "--fps", 5) == 0
    assert Manifest.open(Path("here/mine")).table["frames"].tolist() == [4] * 4


def test_the_next_command_reads_the_same_folder(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VCSF_DATA", "elsewhere")
    assert run("folder", "--source", source, "--name", "mine", "--data", "data") == 0
    assert capsys.readouterr().err.splitlines()[-1].endswith(" --data data")
    assert run("folder", "--source", source, "--name", "mine") == 0
    assert "--data" not in capsys.readouterr().err.splitlines()[-1]


def test_a_source_that_does_not_exist_is_told_before_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in ("folder", "ucf101", "csv"):
        assert run(kind, "--source", "nowhere") == 2
        assert "nowhere" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["folder"],
        ["folder", "--source", "my.videos", "--name", "a/b"],
        ["folder", "--source", "my.videos", "--decoder", "pyaw"],
        ["folder", "--source", "my.videos", "--size", "0"],
        ["folders", "--source", "my.videos"],
    ],
    ids=["no source", "name", "decoder", "size", "kind"],
)
def test_a_wrong_command_line_is_exit_status_2(source: Path, arguments: list[str]) -> None:
    assert run(*arguments) == 2
    assert not Path("data").exists()


def test_no_video_is_exit_status_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    assert run("folder", "--source", "empty") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize("kind", ["folder", "csv", "ucf101", "hmdb51", "webdataset"])
def test_a_refusal_leaves_nothing_where_nothing_was_prepared(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wrong").mkdir()
    (tmp_path / "wrong" / "notes.txt").write_text("no video")
    assert run(kind, "--source", "wrong", "--data", "a/b", "--name", "mine") != 0
    assert [path.name for path in tmp_path.iterdir()] == ["wrong"]

    Path("a/b/mine").mkdir(parents=True)
    assert run(kind, "--source", "wrong", "--data", "a/b", "--name", "mine") != 0
    assert list(Path("a/b/mine").iterdir()) == []

    Path("a/b/mine/notes.txt").write_text("of mine")
    assert run(kind, "--source", "wrong", "--data", "a/b", "--name", "mine") != 0
    assert Path("a/b/mine/notes.txt").exists()


def test_a_refusal_leaves_what_was_prepared(source: Path) -> None:
    assert run("folder", "--source", source) == 0
    before = sorted(path.name for path in Path("data/my.videos").iterdir())
    assert run("folder", "--source", source, "--size", 32) == 2
    assert sorted(path.name for path in Path("data/my.videos").iterdir()) == before


def test_too_many_bad_videos_are_exit_status_1_and_the_rest_is_usable(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "Run" / "text.avi").write_text("no video")
    assert run("folder", "--source", source) == 1
    error = capsys.readouterr().err
    assert "error: too many are bad: 1 of 5 videos, more than 1 %" in error
    assert "problems.csv" in error
    assert "--max-bad 20 says that so many are fine" in error
    assert len(Manifest.open(Path("data/my.videos")).table) == 4
    assert run("folder", "--source", source, "--max-bad", 20) == 0


def test_other_settings_need_another_name(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("folder", "--source", source) == 0
    assert run("folder", "--source", source, "--size", 32) == 2
    assert "size 128, not 32" in capsys.readouterr().err
    assert run("folder", "--source", source, "--size", 32, "--name", "small") == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--labels", "none"], "label of Jump/c.avi: 'Jump', not None; that comes from --labels"),
        (
            ["--group-pattern", "/([ab])"],
            "group of Run/a.avi: '', not 'a'; that comes from --group-pattern",
        ),
    ],
    ids=["labels", "groups"],
)
def test_other_labels_or_groups_need_another_name(
    source: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert run("folder", "--source", source) == 0
    before = Manifest.open(Path("data/my.videos")).hash
    assert run("folder", "--source", source, *options) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "--name" in error
    assert Manifest.open(Path("data/my.videos")).hash == before
    assert run("folder", "--source", source, *options, "--name", "other") == 0


def test_other_parts_are_taken(source: Path) -> None:
    assert run("folder", "--source", source) == 0
    Path("splits.csv").write_text("video,part\nRun/a.avi,test\nRun/b.mp4,train\n")
    assert run("folder", "--source", source, "--splits", "splits.csv") == 0
    assert Manifest.open(Path("data/my.videos")).table["split1"].tolist() == [
        "",
        "",
        "test",
        "train",
    ]


def test_a_call_that_finds_no_video_binds_nobody_to_its_options(source: Path) -> None:
    Path("empty").mkdir()
    assert run("folder", "--source", "empty", "--name", "mine", "--size", 32) == 1
    assert run("folder", "--source", source, "--name", "mine") == 0


@pytest.mark.parametrize(
    "name",
    [
        "mine",
        "2024",
        "true",
        "~",
        "1e-4",
        "012",
        "my videos",
        "it's",
        'a"b',
        "a: b",
        "#1",
        "synthetic",
        "[x]",
    ],
)
def test_the_next_command_means_this_dataset(name: str) -> None:
    """Typed into a shell, it reads as the name and nothing else."""
    words = shlex.split(next_command("folder", name, Path("data")))
    assert words[:4] == ["next:", "vcsf", "pretrain", "recipes/vcsf.yaml"]
    assert words[4] == "--set"
    assert load("recipes/vcsf.yaml", [words[5]]).tree["data"]["name"] == name


@pytest.mark.parametrize(
    ("kind", "recipe"),
    [
        ("synthetic", "recipes/demo.yaml"),
        ("ucf101", "recipes/vcsf.yaml"),
        ("hmdb51", "recipes/vcsf_hmdb51.yaml"),
    ],
)
def test_the_next_command_names_the_recipe_of_the_kind(kind: str, recipe: str) -> None:
    assert next_command(kind, kind, Path("data")) == f"next: vcsf pretrain {recipe}"
    assert load(recipe).tree["data"]["name"] == kind
    assert (
        next_command(kind, "other", Path("data"))
        == f"next: vcsf pretrain {recipe} --set data.name=other"
    )


PLUGIN = """
from pathlib import Path
from vcsf_cli import hookimpl
from vcsf_cli.contracts import OfficialSize, Video
from vcsf_cli.video import videos_below

class Mine:
    'Videos of a camera.'
    benchmark = False
    needs_source = True
    recipe = "mine.yaml"
    origins = {"label": "the camera's number"}

    def __init__(self, root: Path, /, *, camera: str = "1"):
        self.root, self.camera = root, camera

    def videos(self):
        return [Video(path, path.name, self.camera) for path in sorted(videos_below(self.root))]

    def remarks(self):
        return []

@hookimpl
def vcsf_datasets():
    return {"mine": Mine}
"""


def test_a_plugin_s_dataset_says_what_the_built_in_ones_say(source: Path, vcsf: Vcsf) -> None:
    Path("vcsf_local.py").write_text(PLUGIN)
    done = vcsf("prepare", "mine", cwd=source.parent, status=2)
    assert "error: vcsf prepare mine needs --source" in done.stderr
    done = vcsf("prepare", "mine", "--source", source, "--workers", 1, cwd=source.parent)
    last = "next: vcsf pretrain mine.yaml --set data.name=my.videos"
    assert done.stderr.splitlines()[-1] == last
    changed = ("--camera", 2, "--workers", 1)
    done = vcsf("prepare", "mine", "--source", source, *changed, cwd=source.parent, status=2)
    assert (
        "another label of c.avi: '1', not '2'; that comes from the camera's number" in done.stderr
    )
    done = vcsf("pretrain", "smoke", "--set", "data.name=mine", cwd=source.parent, status=2)
    assert "vcsf prepare folder --source VIDEOS --name mine" in done.stderr


def test_interrupted_it_says_how_to_go_on(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: Preparation) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Preparation, "run", interrupted)
    monkeypatch.setattr("sys.argv", ["vcsf", "prepare", "folder", "--source", "my videos"])
    assert run("folder", "--source", source) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "interrupted; the same command goes on: vcsf prepare folder --source 'my videos'"


def test_help_lists_the_kinds_and_each_kind_its_own_options(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["prepare", "--help"]) == 0
    kinds = capsys.readouterr().out
    assert all(kind in kinds for kind in ("ucf101", "hmdb51", "folder", "csv", "synthetic"))
    assert main(["prepare", "folder", "--help"]) == 0
    options = capsys.readouterr().out
    assert all(
        option in options for option in ("--source", "--max-bad", "--group-pattern", "--splits")
    )
    assert main(["prepare", "ucf101", "--help"]) == 0
    assert "--strict" in capsys.readouterr().out


def test_a_folder_that_was_prepared_before_goes_on_as_it_was(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Earlier versions had another default decoder, and no setting for the shape of pixels."""
    arguments = ("folder", "--source", source)
    assert run(*arguments) == 0
    settings = Path("data/my.videos/settings.json")
    made = json.loads(settings.read_text())
    assert (made["decoder"], made["square_pixels"]) == ("auto", True)
    old = {key: value for key, value in made.items() if key != "square_pixels"}
    del old["checksum"]  # which they did not write either
    settings.write_text(json.dumps(old | {"decoder": "pyav"}))
    write_video(source / "Run" / "new.mp4", 10, pixel_aspect=Fraction(2))
    assert run(*arguments) == 0
    table = Manifest.open(settings.parent).table.set_index("video")
    assert tuple(table.loc["Run/new.mp4", ["width", "height"]]) == (160, 128)
    capsys.readouterr()
    assert run(*arguments, "--decoder", "auto", "--square-pixels") == 2
    message = capsys.readouterr().err
    assert "decoder 'pyav', not 'auto'; square_pixels False, not True" in message


@pytest.mark.parametrize("option", [[], ["--no-square-pixels"]])
def test_own_videos_are_stored_in_the_shape_they_are_shown_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "mine" / "a.mp4", 10, pixel_aspect=Fraction(2))
    assert run("folder", "--source", "mine", *option) == 0
    manifest = Manifest.open(Path("data/mine"))
    assert manifest.table["width"].tolist() == [160 if option else 320]
    assert manifest.settings["square_pixels"] == (not option)
