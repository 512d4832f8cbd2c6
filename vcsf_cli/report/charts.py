"""Line charts as a page draws them: where ticks, lines and labels lie."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.runs.metrics import HINT
from vcsf_cli.storage.sealed import reading

WIDTH, HEIGHT = 380, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 86, 14, 36
RIGHT_OF_KEY = 14
"""The right margin if names are in a key below, not beside their lines."""
_LABEL_HEIGHT = 13
MOST_POINTS = 300
"""Lines with more points are thinned to means of neighbouring points, which look the same."""
_MARKED = 16
"""Lines with more points get no mark at each."""

PATHWAYS_AND_BOTH = (*PATHWAYS, "both")
_CURVES = (
    ("Loss", "{}_loss", "", 1.0, False),
    ("R@1 of the check on training clips", "{}_check_R@1", " %", 100.0, False),
    ("k-NN top-1 of the check on training clips", "{}_check_kNN", " %", 100.0, False),
    ("Mined positives that are of the class", "{}_monitoring_mined_precision", " %", 100.0, True),
)
"""Curves of a training by pathway: title, column of metrics.csv, unit, factor, whether y begins at
0."""
_COLOURS, _STROKES = 7, ("", " second", " third")


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Args:
        points: (x, y), by rising x.
        kind: Its style: `slow`, `fast`, `both`, `plain`, `dashed`, `dotted`, or what `line_style`
            gives.
        band: (x, lowest, highest), by rising x; empty for none.
    """

    name: str
    points: Sequence[tuple[float, float]]
    kind: str
    band: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True)
class Chart:
    """A line chart.

    Args:
        lines: At least one, each with points.
        unit: Suffix of y values, such as ` %`.
        borders: Where stages begin: x and a short name.
        ticks: Values of x to mark; without any, round ones.
        logarithmic: Whether the x axis is logarithmic, as for the k of R@k.
        from_zero: Whether y begins at 0.
        key: Whether names are in a key below, which has room for many and for long ones.
    """

    title: str
    lines: Sequence[Line]
    x_label: str
    unit: str = ""
    borders: Sequence[tuple[float, str]] = ()
    ticks: Sequence[float] = ()
    logarithmic: bool = False
    from_zero: bool = False
    key: bool = False

    def layout(self) -> ChartLayout:
        """Positions of all parts of the drawing."""
        right = WIDTH - (RIGHT_OF_KEY if self.key else RIGHT)
        x_axis, y_axis = self._x_axis(right), self._y_axis()
        x_values = self.ticks or round_values(x_axis.low, x_axis.high, 4)
        y_values = round_values(y_axis.low, y_axis.high, 5)
        lines = [self._place(line, x_axis, y_axis) for line in self.lines]
        ends = [line.places[-1][1] for line in lines]
        return ChartLayout(
            title=self.title,
            x_label=self.x_label,
            description=self._description(),
            right=right,
            x_ticks=[(x_axis.place(x), number(x)) for x in x_values],
            y_ticks=[(y_axis.place(y), number(y) + self.unit) for y in y_values],
            borders=[
                (x_axis.place(x), name)
                for x, name in self.borders
                if x_axis.low <= x <= x_axis.high
            ],
            lines=lines,
            labels=[] if self.key else spread_out(ends, _LABEL_HEIGHT, TOP + 4, HEIGHT - BOTTOM),
        )

    def _x_axis(self, right: float) -> _Axis:
        values = [x for line in self.lines for x, _ in line.points]
        low, high = min(values), max(values)
        return _Axis(low, high if high > low else low + 1, LEFT, right, self.logarithmic)

    def _y_axis(self) -> _Axis:
        values = [y for line in self.lines for _, y in line.points]
        values += [y for line in self.lines for _, *ends in line.band for y in ends]
        low, high = min(values), max(values)
        room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        return _Axis(0.0 if self.from_zero else low - room, high + room, HEIGHT - BOTTOM, TOP)

    def _place(self, line: Line, x_axis: _Axis, y_axis: _Axis) -> PlacedLine:
        places = [(x_axis.place(x), y_axis.place(y)) for x, y in line.points]
        titles = [
            f"{line.name}, {self.x_label} {number(x)}: {number(y)}{self.unit}"
            for x, y in line.points
        ]
        edge = [(x_axis.place(x), y_axis.place(low)) for x, low, _ in line.band]
        edge += [(x_axis.place(x), y_axis.place(high)) for x, _, high in reversed(line.band)]
        marked = titles if len(places) <= _MARKED else []
        return PlacedLine(line.name, line.kind, places, marked, edge)

    def _description(self) -> str:
        parts = [
            f"{line.name} from {number(line.points[0][1])} to "
            f"{number(line.points[-1][1])}{self.unit}"
            for line in self.lines
        ]
        return f"{self.title} by {self.x_label}: {'; '.join(parts)}"


@dataclass(frozen=True)
class _Axis:
    """Maps values from `low` to `high` to positions from `begin` to `end`."""

    low: float
    high: float
    begin: float
    end: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """The position of a value, to a tenth of a unit."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return round(self.begin + (self.end - self.begin) * (value - low) / (high - low), 1)


@dataclass(frozen=True)
class PlacedLine:
    """A line of a drawing.

    Args:
        titles: Of the marks at its points; empty without marks.
    """

    name: str
    kind: str
    places: list[tuple[float, float]]
    titles: list[str]
    edge: list[tuple[float, float]]

    @property
    def path(self) -> str:
        """The line as an SVG path."""
        return _svg_path(self.places)

    @property
    def band(self) -> str:
        """The band as an SVG path; empty without one."""
        return f"{_svg_path(self.edge)}Z" if self.edge else ""


@dataclass(frozen=True)
class ChartLayout:
    """The parts of a chart and their positions. `right` is where the axes end, `labels` are the
    heights of the lines' names."""

    title: str
    x_label: str
    description: str
    right: int
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    borders: list[tuple[float, str]]
    lines: list[PlacedLine]
    labels: list[float]


def _svg_path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in places)


def line_style(index: int) -> str:
    """The style of the line of a row: colours, and from the eighth on other strokes."""
    return f"k{index % _COLOURS}{_STROKES[index // _COLOURS % len(_STROKES)]}"


def number(value: float) -> str:
    """A number with three digits, or whole: `0.003`, `12.5`, `2,000`."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def round_values(low: float, high: float, count: int) -> list[float]:
    """About `count` values from low to high, in steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def spread_out(places: Sequence[float], apart: float, low: float, high: float) -> list[float]:
    """Places moved so that no two are nearer than `apart`, in their order, from `low` to about
    `high`."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = [places[index] for index in order]
    for index in range(len(moved)):
        moved[index] = max(moved[index], moved[index - 1] + apart if index else low)
    beyond = moved[-1] - high
    if beyond > 0:
        moved[-1] -= beyond
        for index in range(len(moved) - 2, -1, -1):
            moved[index] = min(moved[index], moved[index + 1] - apart)
    found = [0.0] * len(places)
    for place, index in zip(moved, order, strict=True):
        found[index] = round(place, 1)
    return found


def _read_metrics(path: Path) -> pd.DataFrame:
    """`metrics.csv`; without the file no rows."""
    if not path.is_file():
        return pd.DataFrame({"step": []})
    with reading(path, HINT):
        text = path.read_text(encoding="utf-8")
        whole_lines = text[: text.rfind("\n") + 1]  # a kill may have cut the last line
        table = pd.read_csv(io.StringIO(whole_lines or "step\n")).astype(float)
        _ = table["step"]
        return table


def training_charts(metrics: Path) -> list[Chart]:
    """Curves of a training from its `metrics.csv`: losses, with each part of a sum, the check's R@1,
    the precision of mined positives and the learning rate. Without the file there are none."""
    table = _read_metrics(metrics)
    if not len(table):
        return []
    stage = table["stage"] if "stage" in table else pd.Series(1, table.index)
    begins = table[stage.ne(stage.shift())].index[1:]
    borders = [(float(table["step"][index]), f"stage {stage[index]:g}") for index in begins]
    charts = []
    parts = dict.fromkeys(
        found[1]
        for name in table
        if (found := re.fullmatch(r"(?:slow|fast)_(\w+)_loss", str(name)))
    )
    added = [(f"Loss `{part}`", f"{{}}_{part}_loss", "", 1.0, False) for part in parts]
    for title, column, unit, factor, from_zero in (_CURVES[0], *added, *_CURVES[1:]):
        lines = _logged_lines(
            [(name, table, column.format(name), name) for name in PATHWAYS_AND_BOTH], factor
        )
        if lines:
            charts.append(Chart(title, lines, "step", unit, borders, from_zero=from_zero))
    rate = _logged_lines([("rate", table, "lr", "plain")], 1.0)
    if rate:
        charts.append(Chart("Learning rate", rate, "step", "", borders, from_zero=True))
    return charts


def compared_charts(trainings: Mapping[str, tuple[Path, str]]) -> list[Chart]:
    """Losses and the check's R@1 of several trainings, a chart a pathway.

    Args:
        trainings: `metrics.csv` and kind of line by name.
    """
    tables = [(name, _read_metrics(path), kind) for name, (path, kind) in trainings.items()]
    charts = []
    for title, column, unit, factor, from_zero in _CURVES[:2]:
        for pathway in PATHWAYS_AND_BOTH:
            lines = _logged_lines(
                [(name, table, column.format(pathway), kind) for name, table, kind in tables],
                factor,
            )
            if lines:
                charts.append(
                    Chart(f"{title}, {pathway}", lines, "step", unit, from_zero=from_zero, key=True)
                )
    return charts


def _logged_lines(
    wanted: Iterable[tuple[str, pd.DataFrame, str, str]], factor: float
) -> list[Line]:
    """Lines of logged columns; those without a value are left out.

    Args:
        wanted: Name, table, column and kind of each.
        factor: Multiplies all values.
    """
    found = [
        Line(name, _thinned_points(table, column, factor), kind)
        for name, table, column, kind in wanted
        if column in table
    ]
    return [line for line in found if line.points]


def _thinned_points(table: pd.DataFrame, column: str, factor: float) -> list[tuple[float, float]]:
    """A column's values by step, thinned if they are many; steps without a value are left out."""
    kept = table[["step", column]].dropna().astype(float).to_numpy()
    kept = kept[np.isfinite(kept).all(1)]
    if len(kept) > MOST_POINTS:
        bounds = np.linspace(0, len(kept), MOST_POINTS + 1).astype(int)
        kept = np.stack([kept[begin:end].mean(0) for begin, end in pairwise(bounds)])
    return [(float(step), factor * float(value)) for step, value in kept]
