"""Narration on stderr: lines, and progress as a bar on a terminal."""

from __future__ import annotations

import os
import shutil
import sys
import time
from types import TracebackType

import click

_SECONDS_BETWEEN_LINES = 10.0

_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
"""Environment variables by which torchrun, Slurm and Fabric number processes."""

_together = {"several": False}


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
    """Print a line on stderr, in the first process only."""
    if is_first():
        click.echo(text, err=True)


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
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._terminal:
            self._draw()
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
            self._draw()
        else:
            say(self.line())

    def line(self) -> str:
        """Title, count, rate, time left and note as text."""
        elapsed = time.monotonic() - self._start
        worked = self.done - self.first
        rate = worked / elapsed if elapsed > 0 else 0.0
        parts = [f"{self.title} {self.done:,}/{self.total:,} {self.unit}".strip()]
        if worked:
            parts.append(f"{rate:.1f}/s" if rate >= 1 else f"{elapsed / worked:.1f} s each")
            left = self.total - self.done
            parts.append(
                f"{duration(left * elapsed / worked)} left" if left > 0 else duration(elapsed)
            )
        if self.note:
            parts.append(self.note)
        return "  ".join(parts)

    def _draw(self) -> None:
        columns = shutil.get_terminal_size().columns
        filled = round(20 * self.done / self.total) if self.total else 20
        bar = "█" * filled + "░" * (20 - filled)
        text = f"{bar} {self.line()}"[: columns - 1]
        click.echo("\r\x1b[2K" + text, nl=False, err=True)
