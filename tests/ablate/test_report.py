"""`report.html` of `vcsf ablate`, made through the command line and looked at in a real browser."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from browser import Browser, browser, chromium
from conftest import called

from vcsf_cli.ablate.numbers import Group, TableResults
from vcsf_cli.ablate.plan import build_plan
from vcsf_cli.ablate.report import difference_sections
from vcsf_cli.ablate.rows import resolve_table
from vcsf_cli.ablate.run import RunOptions, remaining_commands
from vcsf_cli.config import table as tables
from vcsf_cli.data.manifest import Manifest

FIRST, SECOND = "[the] whole", "<b id='harm'>no *motion*"
TINY = """
extends: smoke
name: tiny
train: {batch: 4, epochs: 2}
loss: {queue: 4}
"""
TABLE = f"""
title: A table
base: tiny.yaml
rows:
  "{FIRST}": {{}}
  "{SECOND}": {{set: {{motion: none}}}}
seeds: [0, 1]
measure: [{{task: retrieve, k: [1, 3]}}, {{task: knn, set: {{grid.k: [3]}}}}]
pathways: [slow, both]
"""


@pytest.fixture(scope="module")
def folder(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ablation")
    (folder / "tiny.yaml").write_text(TINY)
    (folder / "mine.yaml").write_text(TABLE)
    with contextlib.chdir(folder):
        plan = build_plan(resolve_table(tables.read("mine.yaml")), tiny_data, Path("runs"))
        done = RunOptions(("cpu",), "auto", 0, 600.0)
        for spec in plan.specs:  # here, where torch is loaded; `vcsf ablate` finds them finished
            for words in remaining_commands(plan, spec, done, "cpu"):
                called(*words, cwd=folder)
    options = ("--data", tiny_data, "--workers", 0, "--devices", "cpu")
    said = called("ablate", "mine.yaml", *options, cwd=folder).stderr
    assert "done: 4 of 4 runs" in said
    assert "report.html" in said
    return folder


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def report(folder: Path, table: str = "mine") -> Path:
    return folder / "runs" / "tables" / table / "report.html"


def run_of(folder: Path, row: str, seed: int = 0) -> Path:
    rows = pd.read_csv(report(folder).with_name("rows.csv"))
    (name,) = rows[(rows["row"] == row) & (rows["seed"] == seed)]["run"].unique()
    return folder / "runs" / str(name)


def neighbours(folder: Path, row: str, seed: int = 0) -> pd.DataFrame:
    return pd.read_csv(
        run_of(folder, row, seed) / "retrieve" / "synthetic-split1" / "neighbours.csv"
    )


def choose(opened: Browser, selector: str, value: str) -> None:
    opened.evaluate(
        f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.value = {json.dumps(value)}; "
        "e.dispatchEvent(new Event('change')); })()"
    )


def listed(opened: Browser) -> set[tuple[str, str, str]]:
    """Query, pathway and neighbour of everything in the gallery."""
    opened.appears(".query")
    found = opened.evaluate(
        """[...document.querySelectorAll(".query")].flatMap((query) => [...query.querySelectorAll("ol")].flatMap((list) =>
            [...list.children].map((item) => [
                query.getAttribute("aria-label"), list.getAttribute("aria-label"), item.title,
            ])))"""
    )
    return {
        (query.rpartition(", ")[2], pathway.removeprefix("nearest by "), near)
        for query, pathway, near in found
    }


@chromium
def test_it_opens_without_an_error_and_asks_for_nothing(opened: Browser, folder: Path) -> None:
    opened.open(report(folder))
    for part in ("confusion td", "map .point", "gallery .query"):
        opened.scroll(f"#{part.split()[0]}")
        opened.appears(f"#{part}")
    assert opened.errors == []
    assert opened.requests == [report(folder).resolve().as_uri()]
    assert opened.evaluate("document.querySelectorAll('#harm').length") == 0
    assert opened.evaluate("document.querySelector('main section').id") == "tables"
    names = opened.evaluate(
        "[...document.querySelectorAll('nav a:not([hidden])')].map((e) => e.textContent)"
    )
    assert names == [
        *("Table", "Notes", "R@k curves", "Training", "Runs"),
        *("Classes", "Confusion", "Map", "Gallery"),
    ]


@chromium
def test_another_row_has_its_own_neighbours_and_the_filter_stays(
    opened: Browser, folder: Path
) -> None:
    opened.open(report(folder))
    opened.scroll("#gallery")
    for number, row in enumerate((FIRST, SECOND)):
        choose(opened, "#gallery .of select", str(number))
        near = neighbours(folder, row)
        assert listed(opened) == set(
            zip(near["query"], near["pathway"], near["neighbour"], strict=True)
        )
        link = opened.evaluate("document.querySelector('#gallery .of a').getAttribute('href')")
        assert (report(folder).parent / unquote(link)).resolve() == (
            run_of(folder, row) / "retrieve" / "synthetic-split1" / "report.html"
        )
        for part in ("confusion", "map"):
            assert (
                opened.evaluate(
                    f"document.querySelector('#{part} .of select').selectedOptions[0].textContent"
                )
                == row
            )
        opened.scroll("#confusion")
        opened.appears("#confusion td")
        opened.click("#confusion .choice button:nth-child(1)")
        hits = opened.evaluate(
            "[...document.querySelectorAll('#confusion td.own')].map((e) => Number(e.textContent))"
        )
        own = near[(near["rank"] == 1) & (near["pathway"] == "slow")]
        assert sum(hits) / len(hits) == pytest.approx(100 * own["hit"].mean(), abs=0.6)
        opened.scroll("#gallery")
    choose(opened, "[name=class]", "1")
    assert len({query for query, _, _ in listed(opened)}) == 2
    choose(opened, "#gallery .of select", "0")
    near = neighbours(folder, FIRST)
    second = {query for query, _, _ in listed(opened)}
    assert second == {
        query for query in near["query"] if query.startswith(sorted(set(near["query"].str[:3]))[1])
    }
    assert opened.evaluate("document.activeElement.closest('section').id") == "gallery"
    assert opened.errors == []


@chromium
def test_classes_are_means_over_seeds_row_by_row(
    opened: Browser, folder: Path, tiny_data: Path
) -> None:
    opened.open(report(folder))
    shown = opened.evaluate(
        """[...document.querySelectorAll("table.classes")].map((table) => [table.caption.textContent,
            [...table.tHead.rows[0].cells].map((cell) => cell.textContent),
            [...table.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.textContent))])"""
    )
    title, header, rows = shown[0]
    assert title == "R@1 by class: retrieval on synthetic"
    assert header == ["class", "test clips", f"{FIRST}, both", f"{SECOND}, both"]
    label = Manifest.open(tiny_data / "synthetic").table.set_index("video")["label"]
    wanted: dict[str, list[Any]] = {}
    for row in (FIRST, SECOND):
        hits = pd.concat([neighbours(folder, row, seed) for seed in (0, 1)])
        hits = hits[(hits["rank"] == 1) & (hits["pathway"] == "both")]
        for name, share in hits.groupby(hits["query"].map(label))["hit"].mean().items():
            wanted.setdefault(str(name), ["2"]).append(f"{100 * share:.1f} %")
    assert {name: cells for name, *cells in rows} == wanted
    assert re.fullmatch(r"top1 by class: knn-\w+ on synthetic", shown[1][0])


@chromium
@pytest.mark.parametrize(("width", "columns"), [(390, 1), (1280, 4)])
def test_numbers_of_the_table_are_seen_at_once(
    opened: Browser, folder: Path, width: int, columns: int
) -> None:
    opened.open(report(folder), width)
    opened.scroll("#tables")
    seen = opened.evaluate(
        f"""[...document.querySelector("#tables tbody tr").querySelectorAll("td.number")].filter((cell) =>
            cell.getBoundingClientRect().right <= {width}).length"""
    )
    assert seen >= columns
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    opened.evaluate("document.querySelector('#tables .box').scrollLeft = 1000")
    edges = [
        f"document.querySelector('#tables {part}').getBoundingClientRect().left"
        for part in (".box", "tbody th")
    ]
    assert opened.evaluate(f"Math.abs({edges[0]} - {edges[1]})") < 3
    how = opened.evaluate("document.querySelector('#tables tbody tr').lastElementChild.textContent")
    assert how.startswith("small, ")


def test_curves_are_means_and_bands_of_all_seeds(folder: Path) -> None:
    text = report(folder).read_text(encoding="utf-8")
    numbers = pd.read_csv(report(folder).with_name("numbers.csv"))
    numbers = numbers[(numbers["task"] == "retrieval") & (numbers["row"] == FIRST)]
    for _, value in numbers.iterrows():
        k = value["metric"].removeprefix("R@")
        assert f"<title>{FIRST}, k {k}: {100 * value['mean']:.3g} %</title>" in text
    assert len(re.findall('<path class="band"', text)) == 4
    assert "Loss, slow" in text
    assert "R@1 of the check on training clips, both" in text


def test_every_run_is_linked_by_its_row(folder: Path) -> None:
    text = report(folder).read_text(encoding="utf-8")
    links = dict(re.findall(r'<a href="(\.\./[^"]+)">([^<]+)</a>', text))
    assert sorted(links.values()) == sorted(
        f"{row}, seed {seed}, split 1"
        for row in (FIRST, "&lt;b id=&#39;harm&#39;&gt;no *motion*")
        for seed in (0, 1)
    )
    assert all((report(folder).parent / unquote(link)).is_file() for link in links)


@chromium
def test_without_retrieval_there_are_classes_and_curves(
    opened: Browser, folder: Path, tiny_data: Path
) -> None:
    text = re.sub(r"\{task: retrieve[^}]*\}, ", "", TABLE)
    (folder / "knn.yaml").write_text(text)
    called("ablate", "knn.yaml", "--table-only", "--data", tiny_data, cwd=folder)
    opened.open(report(folder, "knn"))
    names = opened.evaluate(
        "[...document.querySelectorAll('nav a:not([hidden])')].map((e) => e.textContent)"
    )
    assert names == ["Table", "Notes", "Training", "Runs", "Classes"]
    assert opened.evaluate("document.querySelectorAll('.classes tbody tr').length") == 2
    assert opened.evaluate("document.querySelector('#gallery').hidden")
    assert opened.errors == []


def test_it_is_the_same_to_the_last_byte(folder: Path, tiny_data: Path) -> None:
    before = report(folder).read_bytes()
    called("ablate", "mine.yaml", "--table-only", "--data", tiny_data, cwd=folder)
    assert report(folder).read_bytes() == before
    assert np.log10(len(before)) < 7


def test_differences_without_an_interval_are_not_drawn() -> None:
    rows = tuple(SimpleNamespace(name=name, pathways=("both",)) for name in ("full", "a", "b"))
    groups = tuple(
        Group(SimpleNamespace(task=task), "ucf101", task, ("R@1",))
        for task in ("one", "two", "three")
    )
    ends = ["difference", "difference_low", "difference_high"]
    values = [
        ["a", "one", 0.02, -0.01, 0.05],
        ["b", "one", -0.1, np.nan, np.nan],
        ["b", "three", 0.1, 0.05, 0.15],
    ]
    frame = pd.DataFrame(values, columns=["row", "task", *ends]).assign(
        pathway="both", dataset="ucf101", metric="R@1"
    )
    plan = SimpleNamespace(table=SimpleNamespace(rows=rows))
    first, second = difference_sections(TableResults(plan, groups, frame, frame, ()))
    assert [(each.name, each.value, each.low, each.high) for each in first.intervals] == [
        ("a, both", 2.0, -1.0, 5.0)
    ]
    assert first.title == "Differences of R@1 to full: one on ucf101"
    assert (first.listed, second.listed) == (True, False)
    assert [each.name for each in second.intervals] == ["b, both"]
