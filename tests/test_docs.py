"""The pages of docs/: they are whole, true to the code, and what they show runs."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from browser import browser, chromium
from conftest import called
from trained import copy_run

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
