"""Line charts as a page draws them: where ticks, lines and labels lie."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from vcsf_cli.contracts import PATHWAYS

WIDTH, HEIGHT = 380, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 86, 14, 36
RIGHT_OF_KEY = 14
"""Where names stand below, not beside their lines."""
_LABEL_HEIGHT = 13
MOST_POINTS = 300
"""Of a line; longer ones are thinned to means of neighbouring points, which the eye can't tell from
them."""
_MARKED = 16
"""Lines of at most so many points get a mark at each."""

PATHWAYS_AND_BOTH = (*PATHWAYS, "both")
_CURVES = (
    ("Loss", "{}_loss", "", 1.0, False),
    ("R@1 of the check on training clips", "{}_check_R@1", " %", 100.0, False),
    ("Mined positives that are of the class", "{}_monitoring_mined_precision", " %", 100.0, True),
)
"""Of a training, each by pathway: title, column of metrics.csv, unit, factor, whether y begins at
0."""
COMPARED = _CURVES[:2]
COLOURS, STROKES = 7, ("", " second", " third")


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Args:
        name: What stands beside it.
        points: (x, y), by rising x.
        kind: How it looks: `slow`, `fast`, `both`, `plain`, `dashed` and `dotted` for others, or
            what `line_style` gives.
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
        title: What it shows.
        lines: At least one, none empty.
        below: What x is.
        unit: Written behind y values: ` %`.
        borders: Where stages begin: x and a short name.
        ticks: Values of x to mark; none: round ones are found.
        logarithmic: Whether x is, as the k of R@k.
        from_zero: Whether y begins at 0.
        key: Whether names stand below the drawing, where there is room for many and for long ones.
    """

    title: str
    lines: Sequence[Line]
    below: str
    unit: str = ""
    borders: Sequence[tuple[float, str]] = ()
    ticks: Sequence[float] = ()
    logarithmic: bool = False
    from_zero: bool = False
    key: bool = False

    def drawn(self) -> Drawing:
        """Everything in its place."""
        right = WIDTH - (RIGHT_OF_KEY if self.key else RIGHT)
        along, up = _Axis.of(self._x(), LEFT, right, self.logarithmic), self._up()
        drawing = Drawing(self.title, self.below, self._in_words(), right)
        values = self.ticks or round_values(along.low, along.high, 4)
        drawing.across = [(along.place(value), number(value)) for value in values]
        drawing.up = [
            (up.place(value), number(value) + self.unit)
            for value in round_values(up.low, up.high, 5)
        ]
        drawing.borders = [
            (along.place(x), name) for x, name in self.borders if along.low <= x <= along.high
        ]
        for line in self.lines:
            places = [(along.place(x), up.place(y)) for x, y in line.points]
            words = [
                f"{line.name}, {self.below} {number(x)}: {number(y)}{self.unit}"
                for x, y in line.points
            ]
            edge = [(along.place(x), up.place(low)) for x, low, _ in line.band]
            edge += [(along.place(x), up.place(high)) for x, _, high in reversed(line.band)]
            drawing.lines.append(
                Drawn(line.name, line.kind, places, words if len(places) <= _MARKED else [], edge)
            )
        if not self.key:
            ends = [line.places[-1][1] for line in drawing.lines]
            drawing.labels = spread_out(ends, _LABEL_HEIGHT, TOP + 4, HEIGHT - BOTTOM)
        return drawing

    def _x(self) -> list[float]:
        return [x for line in self.lines for x, _ in line.points]

    def _up(self) -> _Axis:
        found = [y for line in self.lines for _, y in line.points]
        found += [y for line in self.lines for _, *ends in line.band for y in ends]
        low, high = min(found), max(found)
        room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        axis = _Axis(0.0 if self.from_zero else low - room, high + room, HEIGHT - BOTTOM, TOP)
        return axis

    def _in_words(self) -> str:
        parts = [
            f"{line.name} from {number(line.points[0][1])} to "
            f"{number(line.points[-1][1])}{self.unit}"
            for line in self.lines
        ]
        return f"{self.title} by {self.below}: {'; '.join(parts)}"


@dataclass(frozen=True)
class _Axis:
    """From values to places in the drawing."""

    low: float
    high: float
    begin: float
    end: float
    logarithmic: bool = False

    @classmethod
    def of(cls, values: Sequence[float], begin: float, end: float, logarithmic: bool) -> _Axis:
        """An axis just long enough for values."""
        low, high = min(values), max(values)
        return cls(low, high if high > low else low + 1, begin, end, logarithmic)

    def place(self, value: float) -> float:
        """Where a value lies, to a tenth of a unit."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return round(self.begin + (self.end - self.begin) * (value - low) / (high - low), 1)


@dataclass(frozen=True)
class Drawn:
    """A line in its place; `words` tell what each of its marks means, `edge` goes around its
    band."""

    name: str
    kind: str
    places: list[tuple[float, float]]
    words: list[str]
    edge: list[tuple[float, float]]

    @property
    def path(self) -> str:
        """As SVG writes it."""
        return _svg_path(self.places)

    @property
    def band(self) -> str:
        """As SVG writes it; empty without one."""
        return f"{_svg_path(self.edge)}Z" if self.edge else ""


@dataclass
class Drawing:
    """A chart whose parts have their places."""

    title: str
    below: str
    words: str
    right: int
    across: list[tuple[float, str]] = field(default_factory=list)
    up: list[tuple[float, str]] = field(default_factory=list)
    borders: list[tuple[float, str]] = field(default_factory=list)
    lines: list[Drawn] = field(default_factory=list)
    labels: list[float] = field(default_factory=list)


def _svg_path(places: Sequence[tuple[float, float]]) -> str:
    """A line through places, as SVG writes it."""
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in places)


def line_style(index: int) -> str:
    """How the line of a row looks: colours, and from the eighth on other strokes."""
    return f"k{index % COLOURS}{STROKES[index // COLOURS % len(STROKES)]}"


def number(value: float) -> str:
    """A number as short as it can be read: `0.003`, `12.5`, `2,000`."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def round_values(low: float, high: float, count: int) -> list[float]:
    """About so many round values from low to high: steps of 1, 2 or 5 times a power of ten."""
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
    """What a training logged; no rows without the file."""
    if not path.is_file():
        return pd.DataFrame({"step": []})
    text = path.read_text(encoding="utf-8")
    return pd.read_csv(
        io.StringIO(text[: text.rfind("\n") + 1] or "step\n")
    )  # a kill may have cut the last line


def training_charts(metrics: Path) -> list[Chart]:
    """Curves of a training from its `metrics.csv`: losses, the check's R@1, the precision of mined
    positives and the learning rate; none without the file."""
    table = _read_metrics(metrics)
    if not len(table):
        return []
    stage = table["stage"] if "stage" in table else pd.Series(1, table.index)
    begins = table[stage.ne(stage.shift())].index[1:]
    borders = [(float(table["step"][index]), f"stage {stage[index]:g}") for index in begins]
    charts = []
    for title, column, unit, factor, from_zero in _CURVES:
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
    for title, column, unit, factor, from_zero in COMPARED:
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
    """Lines of what was logged; those without a value are left out.

    Args:
        wanted: Name, table, column and kind of each.
        factor: That values are multiplied by.
    """
    found = [
        Line(name, _thinned_points(table, column, factor), kind)
        for name, table, column, kind in wanted
        if column in table
    ]
    return [line for line in found if line.points]


def _thinned_points(table: pd.DataFrame, column: str, factor: float) -> list[tuple[float, float]]:
    """A column's values by step, thinned if they are many; steps that have none are left out."""
    kept = table[["step", column]].dropna().astype(float).to_numpy()
    kept = kept[np.isfinite(kept).all(1)]
    if len(kept) > MOST_POINTS:
        bounds = np.linspace(0, len(kept), MOST_POINTS + 1).astype(int)
        kept = np.stack([kept[begin:end].mean(0) for begin, end in pairwise(bounds)])
    return [(float(step), factor * float(value)) for step, value in kept]
