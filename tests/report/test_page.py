"""Pages without clips: what every report shares."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from vcsf_cli.report.charts import Chart, Line
from vcsf_cli.report.page import (
    RECONSTRUCTION,
    Clips,
    Figure,
    Interval,
    Section,
    Table,
    as_json,
    page,
)

HARM = "</script><b id='harm'>\"&"


def whole_page(text: str) -> str:
    """A page that says `text` wherever it can say something."""
    line = Line(text, [(1.0, 2.0), (5.0, 3.0)], "slow")
    section = Section(
        text,
        text,
        facts=[(text, text)],
        tables=[Table(text, [text, text], [[text, text]], note=text)],
        charts=[Chart(text, [line], text, text, borders=[(3.0, text)])],
        intervals=[Interval(text, 3.0, -1.0, 5.0, text)],
        documents=[(text, text)],
    )
    return page(
        text,
        [Table(text, [text], [[text]], note=text)],
        [section],
        kind=text,
        warnings=[text],
        facts=[(text, text)],
        figures=[Figure(text, text)],
        clips=Clips({"text": text}, [{"name": text}], [text]),
    )


def test_no_text_becomes_markup() -> None:
    text = whole_page(HARM)
    assert "<b id" not in text
    assert text.count("</script>") == 4
    assert html.unescape(text).count(HARM) >= 30
    assert len(re.findall(r"<\w", text)) == len(re.findall(r"<\w", whole_page("harmless")))


def test_json_stays_inside_its_element_and_reads_back() -> None:
    import json

    value = {"a": ["</script>", "<!--", "\u2028", "ü"]}
    text = as_json(value)
    assert "<" not in text
    assert "\u2028" not in text
    assert json.loads(text) == value


def test_a_page_without_clips_has_no_script() -> None:
    text = page("Ablation", [Table("R@1", ["row", "R@1"], [["ours", "54.9"]])])
    assert "<script" not in text
    assert "script-src 'none'" in text
    assert "default-src 'none'" in text
    assert RECONSTRUCTION in text
    assert 'href="#tables"' in text
    assert re.search(r"<td[^>]*>54.9</td>", text)


def test_a_page_names_no_place_outside() -> None:
    addresses = set(re.findall(r"\w+://[^\s\"'<)]+", whole_page("text")))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not a place that is asked


def test_equal_arguments_give_equal_pages() -> None:
    assert whole_page("text") == whole_page("text")


@pytest.mark.parametrize(
    ("value", "low", "high"), [(14.3, 4.3, 24.8), (-2.0, -8.0, 4.0), (0.0, 0.0, 0.0)]
)
def test_an_interval_is_drawn_where_it_lies(value: float, low: float, high: float) -> None:
    text = page(
        "Title", sections=[Section("Differences", intervals=[Interval("ours", value, low, high)])]
    )
    reach = max(abs(low), abs(high)) or 1.0
    drawn = re.search(r'class="reach" d="M(\S+) 10H(\S+)"/><circle cx="(\S+)"', text)
    assert drawn
    assert [float(number) for number in drawn.groups()] == pytest.approx(
        [100 * each / reach for each in (low, high, value)], abs=0.06
    )
    assert f"<strong>{value:+.1f}</strong> points, 95 % interval {low:+.1f} to {high:+.1f}" in text


def test_the_style_needs_no_files() -> None:
    style = (Path(__file__).parents[2] / "vcsf_cli" / "report" / "page.css").read_text()
    assert "url(" not in style
    assert "@import" not in style
