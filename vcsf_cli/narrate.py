"""Narration on stderr: lines, and progress as a bar on a terminal."""

from __future__ import annotations

import os
import shutil
import sys
import time
import unicodedata
from types import TracebackType

import click

_SECONDS_BETWEEN_LINES = 10.0

_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
"""Environment variables by which torchrun, Slurm and Fabric number processes."""

_CLEAR = "\r\x1b[2K"
"""Empties the terminal's line."""

_BARS = (20, 10)
"""Characters that a bar takes: the most that a line has room for."""

_together = {"several": False}
_open_bars: list[Progress] = []
"""The bars on the terminal; the last one is drawn."""


def work_together(several: bool) -> None:
    """Set whether several processes train together. If not, the ranks that torchrun or Slurm gave
    this process are ignored: each process may do work of its own."""
    _together["several"] = several


def is_first() -> bool:
    """Whether this is the first or only one of the processes that train together; the others print
    and write nothing."""
    return not (
        _together["several"] and any(os.environ.get(name, "0") not in ("", "0") for name in _RANKS)
    )


def say(text: str) -> None:
    """Print a line on stderr, in the first process only; above the bar, if there is one."""
    if not is_first():
        return
    click.echo(f"{_CLEAR if _open_bars else ''}{text}", err=True)
    if _open_bars:
        _open_bars[-1].draw()


def counted(number: int, thing: str, things: str = "") -> str:
    """A number of things as text: `1 video`, `1,200 videos`.

    Args:
        things: The plural where it does not end with `s` alone.
    """
    return f"{number:,} {thing if number == 1 else things or f'{thing}s'}"


def duration(seconds: float) -> str:
    """Seconds as text: `42 s`, `3 min 10 s`, `2 h 5 min`, `3 d 4 h`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


class Progress:
    """Progress of work with a known number of steps: a bar on a terminal, elsewhere a line every 10
    s.

    Args:
        total: Number of steps.
        unit: The steps in the plural, such as `videos`.
        title: The work, such as `preparing`.
        done: Steps that an earlier call has done; the rate leaves them out.
    """

    def __init__(self, total: int, unit: str, title: str = "", done: int = 0) -> None:
        self.total, self.unit, self.title = total, unit, title
        self.done = self.first = done
        self.note = ""
        self._start = self._spoken = time.monotonic()
        self._terminal = sys.stderr.isatty() and is_first()

    def __enter__(self) -> Progress:
        if self._terminal:
            _open_bars.append(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._terminal:
            _open_bars.remove(self)
            self.draw()
            click.echo(err=True)
        elif kind is None:
            say(self.line())

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count steps as done; the note, such as the loss, is shown beside them."""
        self.done += steps
        self.note = note or self.note
        now = time.monotonic()
        if now - self._spoken < (0.1 if self._terminal else _SECONDS_BETWEEN_LINES):
            return
        self._spoken = now
        if self._terminal:
            self.draw()
        else:
            say(self.line())

    def line(self) -> str:
        """Title, count, rate, time left and note as text."""
        return "  ".join(self._parts())

    def _parts(self) -> list[str]:
        elapsed = time.monotonic() - self._start
        worked = self.done - self.first
        rate = worked / elapsed if elapsed > 0 else 0.0
        parts = [f"{self.title} {self._count()}".strip()]
        if worked:
            parts.append(f"{rate:.1f}/s" if rate >= 1 else f"{elapsed / worked:.1f} s each")
            left = self.total - self.done
            parts.append(
                f"{duration(left * elapsed / worked)} left" if left > 0 else duration(elapsed)
            )
        return parts + (self.note.split("  ") if self.note else [])

    def _count(self) -> str:
        return f"{self.done:,}/{self.total:,} {self.unit}"

    def draw(self) -> None:
        """Draw the bar on the terminal, in place of what is in its line."""
        click.echo(_CLEAR + self._fit(_columns() - 1), nl=False, err=True)

    def _fit(self, columns: int) -> str:
        """The bar and as many whole parts as there is room for: half a number says something
        else."""
        parts = self._parts()
        for count in range(len(parts), 0, -1):
            for size in _BARS:
                text = f"{self._bar(size)} {'  '.join(parts[:count])}"
                if _width(text) <= columns:
                    return text
        title, text = self.title, parts[0]
        while title and _width(text) > columns:
            title = title[:-1]
            text = f"{title}… {self._count()}" if title else self._count()
        return text if _width(text) <= columns else ""

    def _bar(self, size: int) -> str:
        filled = round(size * self.done / self.total) if self.total else size
        return "█" * filled + "░" * (size - filled)


def _columns() -> int:
    """How wide the terminal of stderr is; stdout may be a file."""
    try:
        own = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        own = 0
    return shutil.get_terminal_size((own or 80, 24)).columns


def _width(text: str) -> int:
    """How many columns of a terminal a text takes: two for a Chinese character, none for an accent
    that is a character of its own."""
    return sum(
        0
        if unicodedata.category(character) in ("Mn", "Me", "Cf")
        else 1 + (unicodedata.east_asian_width(character) in ("W", "F"))
        for character in text
    )
