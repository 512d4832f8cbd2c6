"""The pages of docs/: they are whole, true to the code, and what they show runs."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import coclr
import numpy as np
import pytest
import torch
from browser import browser, chromium
from conftest import called
from documents import shell_blocks
from listings import write
from others import save_video_model
from trained import copy_run
from videos import write_video

CHECKOUT = Path(__file__).parent.parent
DOCS = CHECKOUT / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    command += ["--config-file", str(DOCS / "site" / "mkdocs.yml")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_in_the_site_and_in_its_menu(site: Path) -> None:
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")} | {
        "plugins",
        "contributing",
        "changelog",
    }
    assert {page for page in pages if not (site / page / "index.html").is_file()} == set()
    menu = set(re.findall(r'href="([\w/]+)/"', (site / "index.html").read_text(encoding="utf-8")))
    assert pages <= menu
    assert "figures/method.svg" in (site / "index.html").read_text(encoding="utf-8")


@chromium
@pytest.mark.parametrize("width", [360, 1280])
def test_no_page_is_wider_than_the_window_or_asks_others(
    site: Path, width: int, tmp_path: Path
) -> None:
    with browser(tmp_path) as page:
        for name in ("", "method/", "recipes/", "commands/", "results/", "howto/lancedb/"):
            page.open(site / name / "index.html", width)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
            assert [url for url in page.requests if not url.startswith("file:")] == []


def reference() -> ModuleType:
    """The script that makes pages from the code."""
    spec = importlib.util.spec_from_file_location("reference", DOCS / "site" / "reference.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["recipes.md", "commands.md"])
def test_the_references_are_what_the_code_says(page: str) -> None:
    made = reference().PAGES[page]()
    stored = (DOCS / page).read_text(encoding="utf-8")
    assert stored == made, "run `python docs/site/reference.py`"


# Code


def blocks(page: str) -> list[str]:
    """The blocks of Python in a page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def videos(tiny_data: Path, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, its export, the videos that it was trained on and their embeddings."""
    folder = tmp_path_factory.mktemp("docs")
    run = copy_run(tiny_run, folder)
    source = tiny_data / "synthetic" / "original" / "videos"
    (folder / "my.mp4").symlink_to(next(source.rglob("*01_c01.avi")))
    (folder / "other.mp4").symlink_to(next(source.rglob("*02_c01.avi")))
    called("embed", source, "--from", run, "-o", "embeddings.parquet", "--workers", 0, cwd=folder)
    called("export", "--from", run, "--data", tiny_data, "--out", "exports/RUN", cwd=folder)
    return folder


def run_blocks(page: str, count: int, **names: Any) -> dict[str, Any]:
    """Run the first blocks of a page one after the other; the names that they define."""
    found = blocks(page)
    assert len(found) >= count
    for code in found[:count]:
        exec(compile(code, page, "exec"), names)
    return names


def test_the_table_of_the_page_is_one(tmp_path: Path) -> None:
    (content,) = re.findall(
        r"```yaml\n(.*?)```", (DOCS / "ablations.md").read_text("utf-8"), re.DOTALL
    )
    (tmp_path / "my.yaml").write_text(content)
    said = called("ablate", "my.yaml", "--dry-run", "--data", "none", cwd=tmp_path).stdout
    assert "3 rows x 3 seeds = 9 runs, measured by retrieve, linear" in said


def test_the_code_of_the_export_page_runs(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(videos)
    names = run_blocks("export.md", 1)
    assert set(names["table"]["path"]) == {"my.mp4", "other.mp4"}
    np.testing.assert_allclose(
        names["windows"].mean()["slow"], names["features"]["slow"], rtol=1e-5, atol=1e-6
    )


def test_the_notebook_draws_a_map_and_finds_neighbours(
    videos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(videos)
    monkeypatch.setenv("MPLBACKEND", "agg")
    (table, umap, neighbours) = blocks("howto/notebook.md")
    names: dict[str, Any] = {}
    exec(table, names)
    assert names["points"].shape == (12, 2)
    assert (videos / "map.png").is_file()
    exec(neighbours, names)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12 * 6
    assert lines[0].strip() not in map(str.strip, lines[1:6])
    if importlib.util.find_spec("umap"):
        exec(umap, names)
        assert names["points"].shape == (12, 2)


def test_lancedb_finds_the_windows_that_numpy_finds(
    videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lancedb", reason="lancedb is not installed")
    monkeypatch.chdir(videos)
    names = run_blocks("howto/lancedb.md", 2)
    windows, found = names["windows"], names["found"]
    vectors = np.stack(windows["both"].to_list())
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    distance = np.where(windows["path"] == windows["path"][0], np.inf, 1 - unit @ unit[0])
    np.testing.assert_allclose(found["_distance"], np.sort(distance)[:5], atol=1e-5)
    assert windows["path"][0] not in set(found["path"])


# Commands

REHEARSED = {
    "vcsf pretrain": "--dry-run --set train.batch=16 --set data.size=32 --set backbone=small",
    "vcsf ablate": "--dry-run --assume h200",
    "vcsf finetune": "--dry-run",
    "python tests/benchmarks/": "--help",
}
"""What is added to commands that work for long: they check everything, and train nothing. The small
backbone is measured in a second, and every recipe's own is trained by another test."""

STANDS_FOR = {
    "--from demo": "--from RUN",
    "--from scratch:vcsf": "--from scratch:demo",
    " --format onnx": "",
    " --format torch-export": "",
}
"""What takes the place of a run that isn't there, and of what takes half a minute: formats are
exported and compared in commands/test_export.py."""

RUN_BY = {
    r"vcsf prepare (ucf101|synthetic)$": "plugins/test_archives.py and test_house.py",
    r"vcsf prepare hmdb51": "plugins/test_hmdb51.py",
    r"vcsf .* s3://": "test_remote.py, data/test_bucket.py and storage/test_mirror.py",
    r"vcsf .* --engine ray": "engine/test_on_ray.py",
    r"vcsf .* --nodes 2$": "train/test_processes.py",
    r"vcsf export --push hf:USER/NAME$": "export/test_hub.py",
    r"make gpu$": "benchmarks/test_gpu.py",
}
"""Commands that need a server, other machines or minutes, and the tests that run them."""


def pages_with_commands() -> list[str]:
    pages = {path.relative_to(DOCS).as_posix(): path for path in sorted(DOCS.rglob("*.md"))}
    return [name for name, path in pages.items() if shell_blocks(path.read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def reader(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that readers of the docs are said to have: videos, UCF101 and other
    datasets, and models of others. Its only run is `tiny_run`, its home the folder `home`."""
    folder = tmp_path_factory.mktemp("reader")
    home = folder / "home"
    many = ("--classes", 2, "--groups", 6, "--clips", 8, "--frames", 20, "--height", 40)
    called("prepare", "synthetic", *many, cwd=folder)
    videos = folder / "data" / "synthetic" / "original" / "videos"
    clips = sorted(videos.rglob("*.avi"))
    shutil.copytree(videos, home / "UCF101" / "UCF-101")
    lines = [f"{clip.parent.name}/{clip.name} 1\n" for clip in clips]
    for split in range(1, 4):
        lists = {f"trainlist0{split}.txt": "".join(lines[1:]), f"testlist0{split}.txt": lines[0]}
        write(home / "UCF101" / "lists", lists)
    shutil.copytree(folder / "data" / "synthetic", folder / "data" / "hmdb51")
    called("prepare", "ucf101", "--source", home / "UCF101", cwd=folder)
    (home / "videos" / "Run").mkdir(parents=True)
    write_video(home / "videos" / "Run" / "long.avi", 150, width=40, height=32)
    places = [home / "queries" / "query.avi", folder / "my.mp4"]
    places += [home / "pile" / f"{number}.avi" for number in range(40)]
    places += [home / "videos" / "Jump" / clip.name for clip in clips[:48]]
    for clip, place in zip(clips, places, strict=False):
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, place)
    called("prepare", "folder", "--source", home / "videos", "--name", "mine", cwd=folder)
    called("prepare", "folder", "--source", home / "pile", "--name", "pile", cwd=folder)
    shutil.copytree(CHECKOUT / "recipes", folder / "recipes")
    copy_run(tiny_run, folder)
    save_video_model(folder / "videomae-random", "videomae")
    torch.save(coclr.pretrained(coclr.S3D(), coclr.S3D()), folder / "coclr-random.pth.tar")
    return folder


@pytest.mark.parametrize("page", pages_with_commands())
def test_every_command_of_a_page_works(
    page: str, reader: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = (path.name for path in (reader / "runs").glob("tiny-*"))
    home = reader / "home"
    monkeypatch.setenv("HOME", str(home))
    theirs = {"RUN": run, "runs/RUN": f"runs/{run}"}
    theirs |= {"VIDEOS": f"{home}/UCF101/UCF-101", "LISTS": f"{home}/UCF101/lists"}
    for line in shell_blocks((DOCS / page).read_text(encoding="utf-8")):
        command = line.removeprefix("OMP_NUM_THREADS=1 ")
        for written, ours in STANDS_FOR.items():
            command = command.replace(written, ours)
        if command.startswith("pip install") or any(
            re.match(pattern, command) for pattern in RUN_BY
        ):
            continue
        program, *words = shlex.split(command, comments=True)
        words = [theirs.get(word, word) for word in words]
        words = [str(home) + word[1:] if word.startswith("~/") else word for word in words]
        for begin, more in REHEARSED.items():
            words += more.split() if command.startswith(begin) else []
        if program == "python":
            script, *words = words
            done = subprocess.run(
                [sys.executable, CHECKOUT / script, *words],
                cwd=reader,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
        else:
            assert program == "vcsf"
            called(*words, cwd=reader)
