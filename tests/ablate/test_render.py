"""A table as text: whatever rows are called, every format has one line a row and as many cells as
columns."""

import re
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcsf_cli.ablate.render import (
    Cell,
    RenderedTable,
    escape_latex,
    format_difference,
    format_mean,
    is_best,
    latex_table,
    markdown_page,
    markdown_rows,
    table_notes,
)

harmful = st.one_of(
    st.text(max_size=12),
    st.text("[]*|\\<>_`~&%$#{}^\"' \n\r\t\v\x85\u2028ab", max_size=12),
    st.sampled_from(
        ["[no] motion", "*star*", "a\nb", "| x \\", "<b>k</b>", "![x](y)", "&lt;", "\\"]
    ),
)


@st.composite
def tables(draw: st.DrawFn) -> RenderedTable:
    columns = draw(st.integers(1, 4))
    row = st.lists(st.builds(Cell, harmful, st.booleans()), min_size=columns, max_size=columns).map(
        tuple
    )
    header = tuple(draw(st.lists(harmful, min_size=columns, max_size=columns)))
    ours, theirs = (tuple(draw(st.lists(row, min_size=least, max_size=3))) for least in (1, 0))
    return RenderedTable(
        draw(harmful), header, 1, ours, theirs, tuple(draw(st.lists(harmful, max_size=3)))
    )


@given(tables())
def test_no_name_can_break_the_latex_table(table: RenderedTable) -> None:
    head, toprule, *lines = latex_table(table).splitlines()[1:]
    assert (head[:15], toprule) == (r"\begin{tabular}", r"\toprule")
    end = lines.index(r"\end{tabular}")
    rows = [line for line in lines[:end] if line not in (r"\midrule", r"\bottomrule")]
    assert len(rows) == 1 + len(table.ours) + len(table.theirs)
    for line in rows:
        assert line.endswith(r" \\")
        assert not line.lstrip().startswith(("[", "*"))
        assert len(re.findall(r"(?<!\\)&", line)) == len(table.header) - 1
    assert len(lines) - end - 1 == 1 + len(table.notes)
    assert all(line.startswith("% ") for line in lines[end + 1 :])


@given(tables())
def test_no_name_can_break_the_markdown(table: RenderedTable) -> None:
    head, _, *rows = markdown_rows(table).split("\n")
    assert len(rows) == len(table.ours) + len(table.theirs)
    names = [Cell(name) for name in table.header]
    for line, row in zip([head, *rows], [names, *table.ours, *table.theirs], strict=True):
        assert len(line.splitlines()) == 1
        cells = re.findall(r"((?:\\.|[^|\\])*)\|", line.removeprefix("|"))
        assert line == f"|{'|'.join(cells)}|"
        assert len(cells) == len(table.header)
        for text, cell in zip(cells, row, strict=True):
            own = text.strip(" ")
            own = own[2:-2] if cell.bold else own
            assert not set(re.sub(r"\\[\\`*_\[<|~&]", "", own)) & set("\\`*_[<|~&")
            assert re.sub(r"\\([\\`*_\[<|~&])", r"\1", own) == " ".join(cell.text.split())
    results = SimpleNamespace(plan=SimpleNamespace(specs=()))
    title, empty, *_ = markdown_page(table, results).split("\n")
    assert (title[:2], empty) == ("# ", "")


def test_latex_is_escaped_and_bold_is_bold() -> None:
    cells = (Cell("50 % of a_b & c^2 \\ {x} ~ #1 $"), Cell("1.0 ± 0.1", bold=True))
    text = latex_table(
        RenderedTable("100 % title", ("row", "R@1"), 1, (cells,), (cells,), ("a note",))
    )
    line = next(line for line in text.splitlines() if line.startswith("50"))
    assert line == (
        r"50 \% of a\_b \& c\textasciicircum{}2 \textbackslash{} \{x\} \textasciitilde{} \#1 \$ & \textbf{1.0 $\pm$ 0.1} \\"
    )
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 2, 1]
    assert text.count("50 ") == 2  # ours and the published one


@given(st.text(max_size=40))
def test_nothing_in_a_text_can_become_latex_table(text: str) -> None:
    words = "textbackslash|textasciitilde|textasciicircum|textbar|d?dag|textless|textgreater"
    plain = re.sub(rf"\\({words})\{{\}}", "", escape_latex(text))
    plain = re.sub(r"\\[{}$&#%_]|\$\\pm\$", "", plain)
    assert not set(plain) & set("\\{}$&#%_~^|\n")


def test_numbers_as_text() -> None:
    value = pd.Series(
        {"mean": 0.5, "deviation": 0.0123, "runs": 2, "difference": 0.021, "difference_low": 0.004}
    )
    value["difference_high"], value["places"] = 0.05, 3
    assert format_mean(value) == "50.0 ± 1.2"
    assert format_mean(value.replace({2: 1})) == "50.0"
    assert format_difference(value) == "+2.1 (+0.4 to +5.0) *"
    assert (
        format_difference(value.replace({3: 2})) == "+2.1 (+0.4 to +5.0)"
    )  # of too few trainings to be a finding
    value["difference_low"] = -0.001
    assert format_difference(value) == "+2.1 (-0.1 to +5.0)"
    value["difference_low"] = value["difference_high"] = float("nan")
    assert format_difference(value) == "+2.1"
    assert (format_mean(None), format_difference(None)) == ("–", "")


def test_the_best_row_is_one_without_labels() -> None:
    values = pd.DataFrame({"row": ["a", "b", "labels"], "mean": [0.1, 0.2, 0.3]})

    def best(labelled: set[str]) -> list[bool]:
        return [is_best(values, value, labelled) for _, value in values.iterrows()]

    assert best({"labels"}) == [False, True, False]
    assert best(set()) == [False, False, True]
    assert not is_best(values, None, set())
    assert not is_best(values[:1], values.iloc[0], set())


@pytest.mark.parametrize("rows", [1, 2])
def test_what_bold_and_spread_mean_is_told_where_there_are_any(rows: int) -> None:
    table_rows = tuple(
        SimpleNamespace(name=f"row {row}", pathways=("slow", "fast"), note="")
        for row in range(rows)
    )
    plan = SimpleNamespace(table=SimpleNamespace(rows=table_rows), specs=(1,))
    spec = SimpleNamespace(run=SimpleNamespace(uses_labels=False))
    intervals = "with intervals" if rows > 1 else ""
    for runs, bold in ((1, False), (1, True), (3, True)):
        results = SimpleNamespace(
            plan=plan,
            specs=(spec,),
            values=pd.DataFrame({"runs": [1, runs]}),
            intervals=intervals,
            remarks=["what is missing"],
            label_gains=["Share of the label gain."],
            seen={"row 0"},
            exposures={"row 0": ["retrieve: 1 of 2 test clips seen"]},
        )
        notes = " ".join(table_notes(results, [], bold, False))
        assert ("Bold: " in notes) == bold
        assert ("standard deviation" in notes) == (runs > 1)
        assert ('Differences in points to "row 0", the same pathway, with intervals.' in notes) == (
            rows > 1
        )
        assert ("see the intervals" in notes) == (bold and rows > 1)
        assert "Share of the label gain. what is missing" in notes
        assert "\N{DOUBLE DAGGER} row 0, retrieve: 1 of 2 test clips seen." in notes
