"""Mean, spread and differences of a table against hand-made cases and a slow twin; LaTeX and marks."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcsf_cli.ablate.measured import Found
from vcsf_cli.ablate.numbers import difference_to, value_of
from vcsf_cli.ablate.writing import Cell, Shown, difference_of, escaped, latex, mean_of

KEY = ("both", "R@1")


def found(hits: dict[str, float], pathway: str = "both", metric: str = "R@1") -> Found:
    clips = pd.Series(hits, dtype=float)
    rows = pd.DataFrame([{"pathway": pathway, "metric": metric, "value": clips.mean(), "clips": len(clips)}])
    return Found(rows, {(pathway, metric): clips})


SOURCE = {"a1": "a", "a2": "a", "b1": "b", "c1": "c", "d1": "d"}


def test_mean_spread_and_difference_by_hand() -> None:
    ours = {
        (0, 1): found({"a1": 1, "a2": 1, "b1": 0, "c1": 1, "d1": 1}),  # 0.8
        (1, 1): found({"a1": 1, "a2": 0, "b1": 0, "c1": 1, "d1": 0}),  # 0.4
    }
    base = {
        (0, 1): found({"a1": 0, "a2": 1, "b1": 0, "c1": 1, "d1": 0}),  # 0.4
        (1, 1): found({"a1": 0, "a2": 0, "b1": 0, "c1": 0, "d1": 0}),  # 0.0
    }
    value = value_of(ours, *KEY, (base, "both"), SOURCE)
    assert value["mean"] == pytest.approx(0.6)
    assert value["deviation"] == pytest.approx(math.sqrt(0.08))  # of a sample of two: 0.2 away each, over 1
    assert (value["lowest"], value["highest"], value["runs"], value["clips"]) == (pytest.approx(0.4), 0.8, 2, 5)
    # Clip by clip, means over the two seeds: 1, 0, 0, 0.5, 0.5.
    assert value["difference"] == pytest.approx(0.4)
    assert 0 <= value["difference_low"] <= 0.4 <= value["difference_high"] <= 1


def test_only_seeds_and_splits_that_both_rows_have_are_compared() -> None:
    ours = {(0, 1): found({"a1": 1, "b1": 1}), (5, 1): found({"a1": 0, "b1": 0})}
    base = {(0, 1): found({"a1": 1, "b1": 0}), (7, 1): found({"a1": 1, "b1": 1})}
    value = value_of(ours, *KEY, (base, "both"), SOURCE)
    assert (value["mean"], value["difference"]) == (0.5, 0.5)
    assert "difference" not in value_of({(5, 1): ours[5, 1]}, *KEY, (base, "both"), SOURCE)


def test_only_clips_that_both_rows_have_are_compared() -> None:
    ours, base = {(0, 1): found({"d1": 0, "a1": 1, "b1": 1})}, {(0, 1): found({"b1": 0, "a1": 1, "c1": 1})}
    value = difference_to(ours, KEY, base, KEY, SOURCE)
    assert (value["clips"], value["difference"]) == (2, 0.5)
    assert difference_to(ours, KEY, {(0, 1): found({"c1": 1})}, KEY, SOURCE) == {}


def test_a_metric_that_is_no_mean_over_clips_has_no_difference() -> None:
    ours = {(0, 1): Found(found({"a1": 1}, metric="top5").rows, {})}
    assert "difference" not in value_of(ours, "both", "top5", (ours, "both"), SOURCE)
    assert value_of(ours, "slow", "top5", None, SOURCE) == {}


def test_equal_rows_differ_by_nothing_and_their_interval_is_a_point() -> None:
    ours = {(0, 1): found({"a1": 1, "b1": 0, "c1": 1})}
    value = difference_to(ours, KEY, ours, KEY, SOURCE)
    assert [value[key] for key in ("difference", "difference_low", "difference_high")] == [0, 0, 0]


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 3)), min_size=1, max_size=12))
def test_the_interval_is_that_of_recordings_drawn_one_by_one(clips: list[tuple[bool, bool, int]]) -> None:
    names = [f"clip{index:02}" for index in range(len(clips))]
    source = {name: str(clip[2]) for name, clip in zip(names, clips, strict=True)}
    ours = {(0, 1): found({name: float(clip[0]) for name, clip in zip(names, clips, strict=True)})}
    base = {(0, 1): found({name: float(clip[1]) for name, clip in reversed(list(zip(names, clips, strict=True)))})}
    value = difference_to(ours, KEY, base, KEY, source)
    assert value["difference"] == pytest.approx(np.mean([float(ours_) - float(theirs) for ours_, theirs, _ in clips]))

    by_recording: dict[int, list[float]] = {}
    for mine, theirs, recording in clips:
        by_recording.setdefault(recording, []).append(float(mine) - float(theirs))
    groups, generator, means = list(by_recording.values()), np.random.default_rng(1), []
    for _ in range(400):
        drawn = [item for index in generator.integers(len(groups), size=len(groups)) for item in groups[index]]
        means.append(float(np.mean(drawn)))
    low, high = np.quantile(means, [0.01, 0.99])
    assert low - 1e-9 <= value["difference_high"]
    assert value["difference_low"] <= high + 1e-9
    assert min(means) - 0.51 <= value["difference_low"] <= value["difference_high"] <= max(means) + 0.51


def test_numbers_as_text() -> None:
    value = pd.Series({"mean": 0.5, "deviation": 0.0123, "runs": 2, "difference": 0.021, "difference_low": 0.004})
    value["difference_high"] = 0.05
    assert mean_of(value) == "50.0 ± 1.2"
    assert mean_of(value.replace({2: 1})) == "50.0"
    assert difference_of(value) == "+2.1 (+0.4 to +5.0) *"
    value["difference_low"] = -0.001
    assert difference_of(value) == "+2.1 (-0.1 to +5.0)"
    assert (mean_of(None), difference_of(None)) == ("–", "")


def test_latex_is_escaped_and_bold_is_bold() -> None:
    cells = (Cell("50 % of a_b & c^2 \\ {x} ~ #1 $"), Cell("1.0 ± 0.1", bold=True))
    text = latex(Shown("100 % title", ("row", "R@1"), 1, (cells,), (cells,), ("a note",)))
    line = next(line for line in text.splitlines() if line.startswith("50"))
    assert line == (
        r"50 \% of a\_b \& c\textasciicircum{}2 \textbackslash{} \{x\} \textasciitilde{} \#1 \$ & \textbf{1.0 $\pm$ 0.1} \\"
    )
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 2, 1]
    assert text.count("50 ") == 2  # ours and the published one


@given(st.text(max_size=40))
def test_nothing_in_a_text_can_become_latex(text: str) -> None:
    plain = re.sub(r"\\(textbackslash|textasciitilde|textasciicircum|dag|textless|textgreater)\{\}", "", escaped(text))
    plain = re.sub(r"\\[{}$&#%_]|\$\\pm\$", "", plain)
    assert not set(plain) & set("\\{}$&#%_~^")
