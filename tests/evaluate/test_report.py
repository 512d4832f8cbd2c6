"""`report.html` of `vcsf retrieve`, looked at in a real browser, with class names and file names
that try to do harm."""

from __future__ import annotations

import base64
import http.server
import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import simplejpeg
from browser import Browser, browser, chromium
from conftest import called
from trained import copy_run

from vcsf_cli.data import manifest
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.report.page import Clips, Table, page
from vcsf_cli.report.pictures import encode_strip, layout_for

BOLD = "</script><b id='harm'>Run"
IMAGE = "<img src=x onerror=document.title='harm'>"
PATHWAYS = ("slow", "fast", "both")


def harmful(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a manifest whose class, or whose video's name, is markup."""
    row = row | {"frame_offsets": list(row["frame_offsets"])}
    if row["label"] == "Run":
        return row | {"label": BOLD}
    return row | {"video": row["video"].replace("v_", f"v{IMAGE}_")}


@pytest.fixture(scope="module")
def folder(tiny_run: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny run and the datasets `harmful` and `bare`, which has no labels."""
    folder = tmp_path_factory.mktemp("report")
    copy_run(tiny_run, folder)
    for name in ("harmful", "bare"):
        shutil.copytree(tiny_data / "synthetic", folder / "data" / name)
    rows = Manifest.open(folder / "data" / "harmful").table.to_dict("records")
    manifest.write(folder / "data" / "harmful", [harmful(row) for row in rows])
    bare = [row | {"label": None, "frame_offsets": list(row["frame_offsets"])} for row in rows]
    manifest.write(folder / "data" / "bare", bare)
    return folder


def retrieve(folder: Path, dataset: str, *more: str) -> Path:
    """The folder of results of a measurement."""
    called("retrieve", dataset, "--k", "1,3", "--data", "data", "--workers", 0, *more, cwd=folder)
    (found,) = folder.glob(f"runs/*/retrieve/{dataset}-split1")
    return found


@pytest.fixture(scope="module")
def measured(folder: Path) -> Path:
    return retrieve(folder, "harmful", "--baselines")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def look(opened: Browser, measured: Path, width: int = 1280, **media: str) -> Browser:
    """The report, opened anew, with its gallery made."""
    opened.open(measured / "report.html", width, **media)
    opened.scroll("#gallery")
    opened.appears(".query")
    return opened


def neighbours(measured: Path) -> pd.DataFrame:
    return pd.read_csv(measured / "neighbours.csv")


def count(opened: Browser) -> tuple[int, int]:
    """How many queries the page says and shows."""
    said = opened.evaluate("document.querySelector('.count').textContent")
    return int(said.split(" of ")[0]), opened.evaluate("document.querySelectorAll('.query').length")


def choose(opened: Browser, name: str, value: str) -> None:
    opened.evaluate(
        f"(() => {{ const e = document.querySelector('[name={name}]'); e.value = {json.dumps(value)}; "
        "e.dispatchEvent(new Event('change')); })()"
    )


@chromium
def test_it_opens_without_an_error_and_asks_for_nothing(opened: Browser, measured: Path) -> None:
    look(opened, measured)
    opened.scroll("#map")
    opened.appears(".point")
    opened.scroll("#confusion")
    opened.appears(".confusion td")
    assert opened.errors == []
    assert opened.requests == [(measured / "report.html").resolve().as_uri()]
    assert opened.evaluate("document.title").startswith("Retrieval report: tiny-")


@chromium
def test_nothing_can_leave_it(opened: Browser, measured: Path, tmp_path: Path) -> None:
    """Whatever is put into the page, its policy lets no request out."""
    asked = []

    class Listens(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listens) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}"
        tries = f"""new Promise((done) => {{
            const seen = [];
            document.addEventListener("securitypolicyviolation", (event) => {{
                seen.push(event.effectiveDirective);
                if (seen.length === 4) done(seen.sort());
            }});
            document.body.append(Object.assign(new Image(), {{src: "{place}/image"}}));
            document.body.append(Object.assign(document.createElement("script"), {{src: "{place}/script"}}));
            document.body.append(Object.assign(document.createElement("script"), {{textContent: "document.title = 'harm'"}}));
            fetch("{place}/fetch").catch(() => null);
        }})"""
        blocked = look(opened, measured).evaluate(tries)
        assert blocked == ["connect-src", "img-src", "script-src-elem", "script-src-elem"]
        assert asked == []
        assert (
            len(opened.errors) >= 4
        )  # the console tells of them: an empty one in other tests means something
        (tmp_path / "plain.html").write_text("<p>no policy</p>")
        opened.open(tmp_path / "plain.html")
        opened.evaluate(f"fetch('{place}/outside', {{mode: 'no-cors'}}).then(() => 1, () => 0)")
        assert asked == ["/outside"]  # from where there is no policy, the server is reached
        server.shutdown()


@chromium
def test_names_stay_text(opened: Browser, measured: Path) -> None:
    look(opened, measured)
    assert opened.evaluate("document.querySelectorAll('#harm, main img[src=x]').length") == 0
    assert "harm" not in opened.evaluate("document.title")
    options = opened.evaluate(
        "[...document.querySelectorAll('[name=class] option')].map((e) => e.textContent)"
    )
    assert BOLD in options
    choose(opened, "class", str(options.index(BOLD) - 1))
    assert opened.evaluate("document.querySelector('.query strong').textContent") == BOLD
    assert (
        opened.evaluate(
            "[...document.querySelectorAll('.classes tbody th')].map((e) => e.textContent)"
        ).count(BOLD)
        == 1
    )
    choose(opened, "class", "")
    assert IMAGE in opened.evaluate("document.querySelector('.queries').textContent")


@chromium
def test_hits_and_misses_are_those_of_the_measurement(opened: Browser, measured: Path) -> None:
    look(opened, measured)
    shown = opened.evaluate(
        """[...document.querySelectorAll(".query")].flatMap((query) => {
            const name = query.getAttribute("aria-label");
            return [...query.querySelectorAll("ol")].flatMap((list) => [...list.children].map((item, rank) => [
                name, list.getAttribute("aria-label"), rank + 1, item.title, item.querySelector("b").textContent,
                item.querySelector(".unseen").textContent, item.className,
                Number(item.querySelector("span").lastChild.textContent),
            ]));
        })"""
    )
    near = neighbours(measured)
    assert len(shown) == len(near) == 4 * 3 * 3
    listed = {(row.query, row.pathway, row.rank): row for row in near.itertuples()}
    for name, pathway, rank, video, mark, words, kind, similarity in shown:
        (query,) = [query for query in near["query"].unique() if name.endswith(f", {query}")]
        row = listed[query, pathway.removeprefix("nearest by "), rank]
        assert row.neighbour == video
        assert (mark, words, kind) == (("✓", "hit", "hit") if row.hit else ("✗", "miss", "miss"))
        assert similarity == pytest.approx(row.similarity, abs=0.006)


@chromium
def test_the_filters_show_what_they_say(opened: Browser, measured: Path) -> None:
    look(opened, measured)
    first = neighbours(measured).query("rank == 1").set_index(["query", "pathway"])["hit"].unstack()
    slow, fast = first["slow"] == 1, first["fast"] == 1
    wanted = {
        "fast": fast & ~slow,
        "slow": slow & ~fast,
        "neither": ~slow & ~fast,
        "each": slow & fast,
    }
    assert count(opened) == (4, 4)
    for name, queries in wanted.items():
        choose(opened, "verdict", name)
        assert count(opened) == (queries.sum(), queries.sum())
        option = opened.evaluate(f"document.querySelector('option[value={name}]').textContent")
        assert option.endswith(f"({queries.sum()})")
        labels = opened.evaluate(
            "[...document.querySelectorAll('.query')].map((e) => e.getAttribute('aria-label'))"
        )
        assert sorted(label.rpartition(", ")[2] for label in labels) == sorted(
            queries[queries].index
        )
    choose(opened, "verdict", "all")
    choose(opened, "class", "0")
    assert count(opened) == (2, 2)
    choose(opened, "class", "")
    opened.click("[name=name]")
    name = first.index[0]
    opened.call("Input.insertText", text=name.upper())
    assert count(opened) == (1, 1)
    opened.call("Input.insertText", text="nothing is called so")
    assert count(opened) == (0, 0)
    assert opened.errors == []


def focused(opened: Browser, expression: str) -> Any:
    return opened.evaluate(
        f"(() => {{ const e = document.activeElement; return {expression}; }})()"
    )


@chromium
def test_it_is_used_by_keyboard_alone(opened: Browser, measured: Path) -> None:
    opened.open(measured / "report.html")
    opened.press("Tab")
    assert focused(opened, "e.className") == "skip"
    assert focused(opened, "e.getBoundingClientRect().left >= 0")
    seen = []
    for _ in range(150):
        opened.press("Tab")
        seen.append(
            focused(opened, "[e.tagName, e.name || '', e.className.baseVal ?? e.className]")
        )
        assert focused(opened, "getComputedStyle(e).outlineStyle !== 'none'"), seen[-1]
        if seen[-1] == ["SELECT", "class", ""]:
            break
        if seen[-1][0] == "svg":
            opened.appears(".point")
            opened.press("ArrowRight")
            opened.press("ArrowLeft")
            assert not opened.evaluate("document.querySelector('.card').hidden")
            assert opened.evaluate("document.querySelector('.card img').alt")
            told = opened.evaluate("document.querySelector('#map .unseen').textContent")
            assert told.endswith((", test clip", ", training clip"))
            opened.press("Escape")
            assert opened.evaluate("document.querySelector('.card').hidden")
    opened.appears(".query")
    opened.press("ArrowDown")
    assert count(opened) == (2, 2)
    assert {"BUTTON", "svg", "A", "SUMMARY", "DIV"} <= {tag for tag, _, _ in seen}
    for _ in range(4):
        opened.press("Tab")
    assert focused(opened, "e.className") == "query"
    assert opened.errors == []


@chromium
def test_enter_on_the_map_leads_to_the_gallery(opened: Browser, measured: Path) -> None:
    opened.open(measured / "report.html")
    opened.scroll("#map")
    opened.appears(".point")
    opened.evaluate("document.querySelector('#map svg').focus()")
    for key in ["ArrowRight"] + ["ArrowLeft", "ArrowUp", "ArrowDown", "ArrowRight"] * 10:
        opened.press(key)
        if "test clip" in opened.evaluate("document.querySelector('.card').textContent"):
            break
    opened.press("Enter")
    opened.appears(".query")
    name = opened.evaluate("document.querySelector('[name=name]').value")
    assert name in set(neighbours(measured)["query"])
    assert count(opened) == (1, 1)


@chromium
def test_the_map_shows_a_clip_under_the_mouse_and_a_class_alone(
    opened: Browser, measured: Path
) -> None:
    opened.open(measured / "report.html")
    opened.scroll("#map")
    assert opened.appears(".point") == 12
    opened.scroll("#map")  # what stands above may have grown meanwhile
    opened.move(*opened.middle(".point"))
    assert opened.wait("document.querySelector('.card img')?.naturalWidth")
    assert not opened.evaluate("document.querySelector('.card').hidden")
    before = opened.evaluate(
        "[...document.querySelectorAll('.point')].map((e) => e.getAttribute('transform'))"
    )
    opened.click("#map .choice button")
    assert (
        opened.evaluate(
            "document.querySelector('#map .choice button').getAttribute('aria-pressed')"
        )
        == "true"
    )
    assert before != opened.evaluate(
        "[...document.querySelectorAll('.point')].map((e) => e.getAttribute('transform'))"
    )
    opened.click(".legend button")
    assert opened.evaluate("document.querySelectorAll('.point.away').length") == 6
    opened.click(".legend button")
    assert opened.evaluate("document.querySelectorAll('.point.away').length") == 0


@chromium
def test_classes_and_confusion_are_those_of_the_neighbours(opened: Browser, measured: Path) -> None:
    opened.open(measured / "report.html")
    opened.scroll("#confusion")
    opened.appears(".confusion td")
    labels = Manifest.open(measured.parents[3] / "data" / "harmful").table.set_index("video")[
        "label"
    ]
    first = (
        neighbours(measured)
        .query("rank == 1")
        .assign(
            asked=lambda rows: rows["query"].map(labels),
            found=lambda rows: rows["neighbour"].map(labels),
        )
    )
    right = first.groupby(["asked", "pathway"])["hit"].mean().unstack()
    rows = opened.evaluate(
        "[...document.querySelectorAll('.classes tbody tr')].map((row) => "
        "[...row.cells].map((cell) => cell.textContent))"
    )
    assert {row[0]: row[1:] for row in rows} == {
        name: ["2", *(f"{100 * right.loc[name, pathway]:.1f} %" for pathway in PATHWAYS)]
        for name in right.index
    }
    for number, pathway in enumerate(PATHWAYS, start=1):
        opened.click(f"#confusion .choice button:nth-child({number})")
        cells = opened.evaluate(
            "[...document.querySelectorAll('.confusion tbody tr')].map((row) => "
            "[...row.cells].map((cell) => cell.textContent))"
        )
        table = pd.crosstab(first["asked"], first["found"])[[]]  # classes in order
        of = first[first["pathway"] == pathway]
        for name, *shares in cells:
            for other, share in zip(sorted(labels.unique()), shares, strict=True):
                expected = ((of["asked"] == name) & (of["found"] == other)).sum() / 2
                assert share == ("" if expected == 0 else f"{100 * expected:.0f}")
        assert [row[0] for row in cells] == list(table.index)


@chromium
def test_a_heading_sorts_the_classes(opened: Browser, measured: Path) -> None:
    look(opened, measured)
    names = "[...document.querySelectorAll('.classes tbody th')].map((e) => e.textContent)"
    opened.click(".classes th:first-child button")
    up = opened.evaluate(names)
    assert (
        opened.evaluate("document.querySelector('.classes th').getAttribute('aria-sort')")
        == "ascending"
    )
    opened.click(".classes th:first-child button")
    assert opened.evaluate(names) == up[::-1]
    assert len(set(up)) == 2


@chromium
def test_every_picture_has_a_text_and_a_shape(opened: Browser, measured: Path) -> None:
    look(opened, measured)
    pictures = "[...document.querySelectorAll('.query img')]"
    opened.wait(f"{pictures}.every((e) => e.complete)")
    frames = int(
        opened.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--frames')")
    )
    shapes = opened.evaluate(f"{pictures}.map((e) => [e.alt, e.naturalWidth, e.naturalHeight])")
    assert len(shapes) == 4 * (1 + 3 * 3)
    assert all(len(alt) > 10 and width == frames * height > 0 for alt, width, height in shapes)
    maps = "[...document.querySelectorAll('figure img')]"
    opened.wait(f"{maps}.every((e) => e.complete)")
    seen = opened.evaluate(f"{maps}.map((e) => [e.alt, e.naturalWidth, e.naturalHeight])")
    # Two frames, and maps of the modules after stages 2 to 4.
    assert seen == [[seen[0][0], 160, 320]] * 4
    assert "motion modules" in seen[0][0]
    drawings = opened.evaluate(
        "[...document.querySelectorAll('svg[role=img]')].map((e) => e.getAttribute('aria-label'))"
    )
    assert len(drawings) >= 5
    assert all(" from " in words for words in drawings)


@chromium
def test_pictures_move_unless_that_is_not_wanted(opened: Browser, measured: Path) -> None:
    moving = "document.getAnimations().length"
    look(opened, measured)
    opened.wait(f"{moving} > 0")
    position = "getComputedStyle(document.querySelector('.query img')).objectPosition"
    opened.wait(f"parseFloat({position}) > 0")
    opened.wait(f"parseFloat({position}) === 0")
    opened.click("[name=moving]")
    assert opened.evaluate(moving) == 0
    look(opened, measured, prefers_reduced_motion="reduce")
    assert opened.evaluate(moving) == 0
    assert opened.evaluate("document.querySelector('[name=moving]').checked") is False


@chromium
@pytest.mark.parametrize("width", [360, 768])
def test_it_is_no_wider_than_a_phone(opened: Browser, measured: Path, width: int) -> None:
    look(opened, measured, width)
    opened.scroll("#map")
    opened.appears(".point")
    for details in range(3):
        opened.evaluate(f"document.querySelectorAll('details')[{details}].open = true")
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    beyond = opened.evaluate(
        f"""[...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > {width} + 1
            && !e.closest(".box, nav, .unseen, caption, .legend")).map((e) => e.outerHTML.slice(0, 100))"""
    )
    assert beyond == []
    assert opened.evaluate(
        "document.querySelector('.query').getBoundingClientRect().width"
    ) > 0.85 * min(width, 700)


@chromium
def test_it_follows_the_colours_of_the_system(opened: Browser, measured: Path) -> None:
    brightness = []
    for scheme in ("light", "dark"):
        opened.open(measured / "report.html", prefers_color_scheme=scheme)
        for name in ("backgroundColor", "color"):
            colour = opened.evaluate(f"getComputedStyle(document.body).{name}")
            brightness.append(
                sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))
            )
    paper, ink, dark_paper, light_ink = brightness
    assert paper > 700 > 120 > ink
    assert dark_paper < 120 < 600 < light_ink


def clips(number: int, pictures: list[str], **more: Any) -> Clips:
    """Clips of two classes, each the neighbour of those before it."""
    near = [[(query + step) % number for step in range(1, 6)] for query in range(number)]
    data = {
        "classes": ["Run", "Walk"],
        "videos": [[f"clip {index}", index % 2] for index in range(number)],
        "queries": list(range(number)),
        "frames": layout_for(number).frames,
        "marked": True,
        "scored": False,
        "words": "words",
        "mapped": [],
        "recall": [],
    }
    view = {
        "name": "run",
        "pathways": list(PATHWAYS),
        "near": dict.fromkeys(PATHWAYS, near),
        "similarity": dict.fromkeys(PATHWAYS, [[900, 800, 700, 600, 500]] * number),
        "k": 5,
    }
    return Clips(data, [view | more], [pictures[index % len(pictures)] for index in range(number)])


@chromium
def test_of_many_queries_only_those_near_the_eye_are_made(opened: Browser, tmp_path: Path) -> None:
    """4,000 clips, whose pictures are as large as they may be: nothing of the gallery is there
    before it is scrolled to, and then a part."""
    number, layout = 4_000, layout_for(4_000)
    noise = np.random.default_rng(0).integers(0, 256, (layout.frames, 12, 12, 3), np.uint8)
    jpegs = [
        simplejpeg.encode_jpeg(cv2.resize(each, (96, 96), interpolation=cv2.INTER_CUBIC))
        for each in noise
    ]
    picture = encode_strip(jpegs, layout)
    assert 0.9 * layout.max_bytes < len(picture) <= layout.max_bytes
    pictures = [base64.b64encode(picture).decode()]
    path = tmp_path / "report.html"
    above = Table("what is above the gallery", ["row"], [["a row"]] * 200)
    path.write_text(page("many", [above], clips=clips(number, pictures)))
    assert path.stat().st_size < 30e6
    opened.open(path, height=600)
    made = "document.querySelectorAll('.query').length"
    assert (
        opened.evaluate("document.querySelector('.count').textContent") == "4,000 of 4,000 queries"
    )
    assert opened.evaluate(made) == 0
    opened.scroll("#gallery")
    first = opened.wait(made)
    assert 0 < first < 100
    opened.evaluate("window.scrollTo({top: document.body.scrollHeight, behavior: 'instant'})")
    opened.wait(f"{made} > {first}")
    assert opened.evaluate(made) < 200
    choose(opened, "verdict", "neither")  # the nearest is of the other class
    assert (
        opened.evaluate("document.querySelector('.count').textContent") == "4,000 of 4,000 queries"
    )
    choose(opened, "verdict", "each")
    assert count(opened) == (0, 0)


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2 of a computed colour: `rgb(1, 2, 3)` or `color(srgb 0.1 0.2
    0.3)`."""
    parts = [float(part) for part in re.findall(r"[\d.e-]+", colour.removeprefix("color(srgb"))]
    assert len(parts) == 3, colour  # none of them lets anything through
    parts = parts if colour.startswith("color") else [part / 255 for part in parts]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_number_of_the_confusion_can_be_read(
    opened: Browser, tmp_path: Path, scheme: str
) -> None:
    """At a contrast of 4.5, as WCAG 2 asks, at every depth of both colours."""
    shares = [
        pair for share in range(1, 100) for pair in ([share, share, share], [share, 0, 100 - share])
    ]
    found = clips(2, [""], confusion=dict.fromkeys(PATHWAYS, shares))
    data = found.data | {"classes": [f"class {number}" for number in range(100)]}
    path = tmp_path / "report.html"
    path.write_text(page("contrast", clips=Clips(data, found.views, found.pictures)))
    opened.open(path, prefers_color_scheme=scheme)
    opened.scroll("#confusion")
    opened.appears(".confusion td.some")
    cells = opened.evaluate(
        """[...document.querySelectorAll(".confusion td.some")].map((cell) => {
            const style = getComputedStyle(cell);
            return [cell.classList.contains("own"), Number(cell.textContent), style.color, style.backgroundColor];
        })"""
    )
    for own_class in (True, False):
        assert {share for own_, share, _, _ in cells if own_ == own_class} == set(range(1, 100))
    assert len({background for *_, background in cells}) > 150
    for _, share, ink, background in cells:
        darker, lighter = sorted((luminance(ink), luminance(background)))
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (share, ink, background)


@chromium
def test_without_labels_there_are_neighbours_and_a_map_and_no_scores(
    opened: Browser, folder: Path
) -> None:
    measured = retrieve(folder, "bare")
    look(opened, measured)
    assert count(opened) == (12, 12)
    for part in ("#classes", "#confusion", "label:has([name=class])", "label:has([name=verdict])"):
        assert opened.evaluate(f"document.querySelector('{part}').hidden")
    assert not opened.evaluate("document.querySelector('#map').hidden")
    assert (
        opened.evaluate("document.querySelectorAll('.hit, .miss, #tables, .figures').length") == 0
    )
    assert "R@" not in opened.evaluate("document.querySelector('nav').textContent")
    opened.scroll("#map")
    opened.appears(".point")
    assert opened.errors == []


@chromium
def test_clusters_of_clips_without_labels_can_be_looked_through(
    opened: Browser, folder: Path
) -> None:
    retrieve(folder, "bare", "--clusters", "--cluster-count", "3")
    (clusters,) = folder.glob("runs/*/clusters/bare-split1")
    assert not (clusters / "results.csv").exists()
    listed = pd.read_csv(clusters / "clusters.csv")
    own = listed[listed["pathway"] == "both"].groupby("cluster")
    look(opened, clusters)
    assert count(opened) == (3, 3)
    said = opened.evaluate("document.querySelector('.count').textContent")
    assert said == "3 of 3 clusters"
    table = opened.evaluate("document.querySelector('main table').textContent")
    assert "cluster" in table
    assert "labels" not in table  # nor what says how clusters agree with them
    assert "V-measure" not in opened.evaluate("document.querySelector('main').textContent")
    pages = "[...document.querySelectorAll('.query')]"
    titles = opened.evaluate(
        f"{pages}.map((each) => each.querySelector('.asked strong').textContent)"
    )
    assert titles == [f"cluster {number} ({size} clips)" for number, size in own.size().items()]
    shown = opened.evaluate(
        f"{pages}.map((each) => [each.querySelector('.asked span').textContent, "
        "...[...each.querySelectorAll('li')].map((item) => item.title)])"
    )
    assert shown == [videos.tolist() for _, videos in own["video"]]
    assert opened.evaluate("document.querySelectorAll('.hit, .miss').length") == 0
    opened.scroll("#map")
    opened.appears(".point")
    assert opened.errors == []


def test_it_says_what_was_measured(measured: Path) -> None:
    text = (measured / "report.html").read_text(encoding="utf-8")
    run = measured.parents[1].name
    for part in (
        run,
        "tiny, seed 0",
        "harmful split 1",
        "4 test clips query 8 training clips",
        "not comparable",
    ):
        assert part in text
    assert "independent reconstruction" in text
    assert "colour_histogram" in text
    rows = pd.read_csv(measured / "results.csv")
    for value in rows["value"]:
        assert f'<td class="number">{100 * value:.1f}</td>' in text
    assert "Date" not in text


def test_it_is_the_same_to_the_last_byte(measured: Path, folder: Path) -> None:
    before = (measured / "report.html").read_bytes()
    assert (retrieve(folder, "harmful", "--baselines") / "report.html").read_bytes() == before


def test_labels_in_training_are_told_first(measured: Path, folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / measured.parents[1].name
    shutil.copytree(measured.parents[1], run)
    shutil.copytree(folder / "data", tmp_path / "data")
    status = json.loads((run / "status.json").read_text()) | {"uses_labels": True}
    (run / "status.json").write_text(json.dumps(status))
    text = (retrieve(tmp_path, "harmful") / "report.html").read_text()
    assert "labels were used in training: this is not self-supervised" in text.partition("<dl")[0]
    assert 'class="figures"' in text
    assert "labels were used" not in (measured / "report.html").read_text()


def test_it_can_be_left_out_and_none_of_before_stays(
    measured: Path, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "runs", tmp_path / "runs")
    shutil.copytree(folder / "data", tmp_path / "data")
    found = retrieve(tmp_path, "harmful", "--no-html")
    assert not (found / "report.html").exists()
    assert (found / "report.md").exists()
    error = called(
        "retrieve", "--no-html", "--query", found / "report.md", cwd=tmp_path, status=2
    ).stderr
    assert "--no-html has no meaning with --query" in error
