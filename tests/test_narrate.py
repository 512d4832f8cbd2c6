"""What a terminal shows of narration: a bar, and lines above it."""

from __future__ import annotations

import os
import pty
import re
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr

import pytest

from vcsf_cli.narrate import Progress, say


def screen(data: str) -> list[str]:
    """The lines that a terminal shows after what was written to it."""
    lines, column = [""], 0
    for token in re.findall(r"\x1b\[2K|[\s\S]", data):
        if token == "\x1b[2K":
            lines[-1] = " " * column
        elif token == "\r":
            column = 0
        elif token == "\n":
            lines.append("")
        else:
            line = lines[-1].ljust(column)
            lines[-1] = line[:column] + token + line[column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


@pytest.fixture(autouse=True)
def _no_width_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)


@contextmanager
def terminal(columns: int) -> Iterator[Callable[[], list[str]]]:
    """A terminal on stderr; gives what it shows."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    written = bytearray()

    def shown() -> list[str]:
        os.write(theirs, b"\0")  # what was written before has come when this has
        while not written.endswith(b"\0"):
            written.extend(os.read(ours, 4096))
        del written[-1:]
        return screen(written.decode())

    try:
        with (
            os.fdopen(theirs, "w", encoding="utf-8", closefd=False) as stream,
            redirect_stderr(stream),
        ):
            yield shown
    finally:
        os.close(theirs)
        os.close(ours)


def test_what_is_said_stands_above_the_bar() -> None:
    with terminal(80) as shown:
        with Progress(4, "videos", "embedding") as progress:
            progress.advance()
            say("left out: a.avi is not a video")
            said, bar = shown()
            assert said == "left out: a.avi is not a video"
            assert bar.startswith("█" * 5 + "░" * 15 + " embedding 1/4 videos")
            say("a longer line")
            progress.advance(3)
        say("afterwards")
        first, second, bar, *rest = shown()
    assert [first, second] == ["left out: a.avi is not a video", "a longer line"]
    assert bar.startswith("█" * 20 + " embedding 4/4 videos")
    assert rest == ["afterwards", ""]


def test_a_bar_within_another_one_keeps_what_is_said_apart() -> None:
    with terminal(80) as shown:
        with Progress(2, "videos", "embedding") as outer:
            with Progress(3, "files", "fetching") as inner:
                inner.advance(3)
                say("inner")
            outer.advance(2)
            say("outer")
        said = [line for line in shown() if "█" not in line]
    assert said == ["inner", "outer", ""]


PARTS = (
    "training 12,660/12,660 steps",
    r"\d+\.\d/s",
    "0 s",
    "epoch 30/30",
    r"loss 1\.234",
    "150 clips/s",
)


def trained(columns: int) -> str:
    """The bar's line at the end of a training, without the bar."""
    with terminal(columns) as shown:
        with Progress(12_660, "steps", "training") as progress:
            progress.advance(12_660, "epoch 30/30  loss 1.234  150 clips/s")
        bar, below = shown()
    assert len(bar) < columns
    assert below == ""
    return bar.lstrip("█ ")


@pytest.mark.parametrize("columns", range(len(PARTS[0]) + 1, 130, 4))
def test_a_narrow_terminal_shows_whole_parts(columns: int) -> None:
    parts = trained(columns).split("  ")
    for part, pattern in zip(parts, PARTS, strict=False):
        assert re.fullmatch(pattern, part)
    assert len(parts) == len(PARTS) or columns < 100


def test_in_80_columns_there_are_the_time_and_the_epoch() -> None:
    assert "  0 s  epoch 30/30" in trained(80)


def test_where_the_first_part_has_no_room_the_title_is_cut_and_no_number() -> None:
    assert trained(len(PARTS[0])) == "traini… 12,660/12,660 steps"


@pytest.mark.parametrize(
    ("title", "columns"),
    [
        ("fetching 视频", 13),
        ("fetching 🎬", 11),
        ("fetching vidéo", 14),
        ("fetching vide\u0301o", 14),
    ],
)
def test_wide_characters_take_two_columns_and_accents_none(title: str, columns: int) -> None:
    """`columns`: of the title."""
    room = columns + len(" 1/1 files") + 1  # the last column stays empty
    for width, is_whole in ((room, True), (room - 1, False)):
        with terminal(width) as shown:
            with Progress(1, "files", title) as progress:
                progress.advance()
            assert (shown()[0] == f"{title} 1/1 files") == is_whole


def test_elsewhere_there_are_lines_and_no_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Progress(2, "videos", "preparing") as progress:
        progress.advance(2, "bad: 1")
        say("a line")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "a line"
    assert second.startswith("preparing 2/2 videos  ")
    assert second.endswith("  bad: 1")
