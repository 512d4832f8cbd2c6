"""Where ticks, lines and labels of a chart lie, and what of a training is drawn."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcsf_cli.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MOST_POINTS,
    RIGHT,
    RIGHT_OF_KEY,
    TOP,
    WIDTH,
    Chart,
    Line,
    compared_charts,
    line_style,
    number,
    round_values,
    spread_out,
    training_charts,
)

finite = st.floats(-1e6, 1e6, allow_nan=False)


def test_a_line_lies_where_its_values_are() -> None:
    drawing = Chart(
        "R@k",
        [Line("slow", [(1, 0), (10, 50), (100, 100)], "slow")],
        "k",
        logarithmic=True,
        from_zero=True,
    )
    (line,) = drawing.layout().lines
    middle, top = (LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * 100 / 105
    assert line.places[0] == (LEFT, HEIGHT - BOTTOM)
    assert line.places[1] == pytest.approx((middle, (HEIGHT - BOTTOM + top) / 2), abs=0.1)
    assert line.places[2] == pytest.approx((WIDTH - RIGHT, top), abs=0.1)
    assert line.titles[1] == "slow, k 10: 50"


@given(
    st.lists(st.tuples(finite, finite), min_size=1, max_size=20, unique_by=lambda point: point[0])
)
def test_everything_lies_within_the_drawing(points: list[tuple[float, float]]) -> None:
    drawing = Chart("any", [Line("any", sorted(points), "plain")], "x").layout()
    assert all(
        LEFT <= x <= WIDTH - RIGHT and TOP <= y <= HEIGHT - BOTTOM
        for x, y in drawing.lines[0].places
    )
    assert all(TOP - 0.1 <= y <= HEIGHT - BOTTOM + 0.1 for y, _ in drawing.y_ticks)
    assert all(LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1 for x, _ in drawing.x_ticks)


@given(finite, st.floats(1e-3, 1e6))
def test_ticks_are_few_round_and_inside(low: float, width: float) -> None:
    high = low + width
    values = round_values(low, high, 5)
    assert len(values) <= 6
    assert all(low - 1e-6 * width - 1e-6 <= value <= high + 1e-6 * width + 1e-6 for value in values)
    assert values == sorted(set(values))
    assert len(values) >= 1


def test_ticks_by_hand() -> None:
    assert round_values(0, 105, 5) == [0, 50, 100]
    assert round_values(33, 57, 5) == [35, 40, 45, 50, 55]
    assert round_values(0, 0.003, 4) == [0, 0.001, 0.002, 0.003]
    assert [number(value) for value in (0.001, 12.5, 2000.0, 0.0)] == [
        "0.001",
        "12.5",
        "2,000",
        "0",
    ]


@given(st.lists(st.floats(20, 190), min_size=1, max_size=8))
def test_labels_never_lie_on_each_other_and_keep_their_order(places: list[float]) -> None:
    moved = spread_out(places, 13, 18, 194)
    ordered = sorted(moved)
    assert all(b - a >= 12.8 for a, b in pairwise(ordered))
    assert all(
        moved[one] <= moved[other]
        for one in range(len(places))
        for other in range(len(places))
        if places[one] < places[other]
    )
    assert max(moved) <= 194.1


def test_a_band_goes_around_its_line_and_long_names_stand_below() -> None:
    line = Line(
        "a name that is long", [(1, 20), (5, 40)], line_style(0), [(1, 10, 30), (5, 30, 60)]
    )
    drawing = Chart("R@k", [line], "k", " %", from_zero=True, key=True).layout()
    (drawn,) = drawing.lines
    assert drawing.labels == []
    assert drawn.places[-1][0] == WIDTH - RIGHT_OF_KEY
    (left, low), (right, low_end), (_, high_end), (_, high) = drawn.edge
    assert (left, right) == (LEFT, WIDTH - RIGHT_OF_KEY)
    assert low > drawn.places[0][1] > high
    assert TOP < high_end < drawn.places[1][1] < low_end
    assert (
        drawn.band
        == f"M{left:g} {low:g}L{right:g} {low_end:g}L{right:g} {high_end:g}L{left:g} {high:g}Z"
    )


def test_no_two_of_a_dozen_rows_look_alike() -> None:
    assert len({line_style(index) for index in range(21)}) == 21


METRICS = """step,stage,slow_loss,fast_loss,lr,slow_check_R@1,fast_check_R@1,both_check_R@1,fast_monitoring_mined_precision
10,1,3.0,2.5,0.001,,,,
20,1,2.0,2.0,0.002,0.3,0.2,0.4,
30,2,,1.5,0.001,,,,0.5
40,3,,1.0,0.0005,0.35,0.25,0.5,0.75
"""


def test_a_training_is_drawn_from_its_metrics(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(METRICS + "50,3,1.0,9")  # cut short by a kill
    loss, check, mined, rate = training_charts(path)
    assert {line.name: list(line.points) for line in loss.lines} == {
        "slow": [(10, 3.0), (20, 2.0)],
        "fast": [(10, 2.5), (20, 2.0), (30, 1.5), (40, 1.0)],
    }
    assert {line.name: [y for _, y in line.points] for line in check.lines} == {
        "slow": pytest.approx([30, 35]),
        "fast": pytest.approx([20, 25]),
        "both": pytest.approx([40, 50]),
    }
    assert [list(line.points) for line in mined.lines] == [[(30, 50), (40, 75)]]
    assert [list(line.points) for line in rate.lines] == [
        [(10, 0.001), (20, 0.002), (30, 0.001), (40, 0.0005)]
    ]
    assert loss.borders == [(30, "stage 2"), (40, "stage 3")]
    path.write_text(
        "".join(line for line in METRICS.splitlines(keepends=True) if ",1," not in line[:5])
    )
    assert training_charts(path)[0].borders == [(40, "stage 3")]


def test_each_part_of_a_sum_of_losses_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(
        "step,slow_loss,slow_a_loss,slow_b_c_loss,slow_b_c_other,fast_loss,fast_a_loss\n"
        "1,5,3,2,9,4,4\n2,4,3,1,9,3,3\n"
    )
    drawn = {
        chart.title: {line.name: [y for _, y in line.points] for line in chart.lines}
        for chart in training_charts(path)
    }
    assert drawn == {
        "Loss": {"slow": [5, 4], "fast": [4, 3]},
        "Loss `a`": {"slow": [3, 3], "fast": [4, 3]},
        "Loss `b_c`": {"slow": [2, 1]},
    }


def test_a_long_training_is_thinned_to_means(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    count = 4 * MOST_POINTS
    path.write_text(
        "step,stage,slow_loss\n" + "".join(f"{step},1,{step}\n" for step in range(count))
    )
    (loss,) = training_charts(path)
    points = loss.lines[0].points
    assert len(points) == MOST_POINTS
    assert points[0] == (1.5, 1.5)
    assert points[-1] == (count - 2.5, count - 2.5)


@pytest.mark.parametrize("text", [None, "", "step,stage,slow_loss\n", "step,sta"])
def test_a_run_that_logged_nothing_has_no_curves(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "metrics.csv").write_text(text)
    assert training_charts(tmp_path / "metrics.csv") == []


def test_trainings_are_compared_pathway_by_pathway(tmp_path: Path) -> None:
    for name, text in (
        ("whole", METRICS),
        ("late", "step,stage,slow_loss,lr\n30,2,1.5,1\n40,2,inf,1\n"),
        ("empty", ""),
    ):
        (tmp_path / name).write_text(text)
    charts = compared_charts(
        {name: (tmp_path / name, name) for name in ("whole", "late", "empty", "missing")}
    )
    assert {
        chart.title: {line.name: list(line.points) for line in chart.lines} for chart in charts
    } == {
        "Loss, slow": {"whole": [(10, 3.0), (20, 2.0)], "late": [(30, 1.5)]},
        "Loss, fast": {"whole": [(10, 2.5), (20, 2.0), (30, 1.5), (40, 1.0)]},
        "R@1 of the check on training clips, slow": {"whole": [(20, 30), (40, 35)]},
        "R@1 of the check on training clips, fast": {"whole": [(20, 20), (40, 25)]},
        "R@1 of the check on training clips, both": {"whole": [(20, 40), (40, 50)]},
    }
