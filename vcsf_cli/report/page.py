"""One HTML file with everything in it: text, tables, drawings, and a few lines of script for the
clips."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from vcsf_cli.report.charts import Chart

RECONSTRUCTION = (
    "vcsf is an independent reconstruction of VCSF (Li, Yang, Jiang, Chen, Du, IEEE SMC 2023), of "
    "which only the abstract is public. No table of that paper is claimed to be reproduced."
)


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        names: Number of columns, from the left, that hold names; the others hold numbers.
        texts: Number of columns, from the right, that hold sentences.
        note: A sentence below it.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1
    texts: int = 0
    note: str = ""


@dataclass(frozen=True)
class Interval:
    """A difference with the ends of its interval, in `unit`."""

    name: str
    value: float
    low: float
    high: float
    unit: str = "points"


@dataclass(frozen=True)
class Figure:
    """A number in large type at the top; `kind` as in `charts.Line`."""

    value: str
    name: str
    kind: str = "plain"


@dataclass(frozen=True)
class Picture:
    """A still picture.

    Args:
        data: WebP in base64.
        alt: What is to be seen, for those who can't.
        width: Pixels, and `height`.
    """

    data: str
    alt: str
    caption: str
    width: int
    height: int


@dataclass(frozen=True)
class Section:
    """A part of the page under its own heading.

    Args:
        short: Its name in the navigation; empty for the title.
        listed: Whether it is in the navigation.
        charts: Line charts, side by side where there is room.
        intervals: Differences, drawn around zero.
        pictures: Side by side where there is room.
        documents: Names and texts, such as a recipe, folded up.
    """

    title: str
    text: str = ""
    short: str = ""
    listed: bool = True
    facts: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    charts: Sequence[Chart] = ()
    intervals: Sequence[Interval] = ()
    pictures: Sequence[Picture] = ()
    documents: Sequence[tuple[str, str]] = ()

    @property
    def reach(self) -> float:
        """The largest distance of an interval from zero."""
        return (
            max([abs(end) for each in self.intervals for end in (each.low, each.high)], default=0.0)
            or 1.0
        )


@dataclass(frozen=True)
class Clips:
    """The clips of a page, for the parts that its script builds: classes, confusion, map and
    gallery.

    Args:
        data: What all runs share, from `report.clips`.
        views: Neighbours and map of each run, read when it is chosen; without any there are classes
            only.
        pictures: A picture in base64 for each video.
    """

    data: dict[str, Any]
    views: Sequence[dict[str, Any]]
    pictures: Sequence[str]


def page(
    title: str,
    tables: Sequence[Table] = (),
    sections: Sequence[Section] = (),
    *,
    kind: str = "Report",
    warnings: Sequence[str] = (),
    facts: Sequence[tuple[str, str]] = (),
    figures: Sequence[Figure] = (),
    clips: Clips | None = None,
) -> str:
    """A whole page. Equal arguments give equal pages; nothing in them can become markup.

    Args:
        title: Its subject, such as a run's name.
        kind: The kind of report, above the title.
        clips: Clips to show; without them the page has no script.
    """
    script = _read_asset("page.js") if clips else ""
    return template("report", "page.html").render(
        title=title,
        tables=tables,
        sections=sections,
        kind=kind,
        warnings=warnings,
        facts=facts,
        figures=figures,
        reconstruction=RECONSTRUCTION,
        style=Markup(_read_asset("page.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=as_json(clips.data | {"names": [each["name"] for each in clips.views]})
        if clips
        else "",
        views=[as_json(each) for each in clips.views] if clips else [],
        pictures=as_json(clips.pictures) if clips else "",
    )


def template(folder: str, name: str, autoescape: bool = True) -> Template:
    """A template in a folder of vcsf_cli; a name that it is not given is an error."""
    return Environment(
        loader=PackageLoader("vcsf_cli", folder),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    ).get_template(name)


def _read_asset(name: str) -> str:
    return (resources.files("vcsf_cli.report") / name).read_text(encoding="utf-8")


def as_json(value: Any) -> Markup:
    """JSON for a script element: no text in it can end that element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(
        text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    )
