"""Where work runs: a function over items, in processes of this machine or of many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Function = Callable[[Item, str], Result]
"""What is done with an item, in another process. The text is the begin of the paths that it may
write to."""


@dataclass(frozen=True)
class Failure:
    """Why an item has no result: the process that worked on it was killed or died.

    Args:
        reason: What happened.
        is_stuck: Whether it was killed because it gave no sign of life.
    """

    reason: str
    is_stuck: bool = False


class Job(Protocol):
    """A command that runs."""

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""

    def interrupt(self) -> None:
        """What Ctrl-C does: it saves and ends."""

    def wait(self) -> int:
        """Its exit status, when it has ended."""
        ...


class Engine(Protocol):
    """Processes that work."""

    def start(
        self, words: Sequence[str], log: Path, variables: Mapping[str, str], gpus: int = 0
    ) -> Job:
        """Start Python with these words in a process of its own. Its stdin stays open as long as
        the process that waits for it lives.

        Args:
            words: What follows `python`.
            log: Where its output is appended.
            variables: Of its environment, beside those of the engine's processes.
            gpus: GPUs that it has for itself where an engine shares them out.
        """
        ...

    def map(
        self,
        function: Function[Item, Result],
        items: Iterable[Item],
        folder: Path | None = None,
        time_limit: float | None = None,
        gpus: int = 0,
    ) -> Iterator[Result | Failure]:
        """The result of every item, in order, or why it has none. What the function raises is
        raised here.

        Args:
            function: What to do. It can be pickled.
            items: Taken one by one, a few more than are worked on.
            folder: Where the files that the function writes appear, until the next result is asked
                for; None if it writes none.
            time_limit: Seconds after which a process is killed that has not touched its
                `heartbeat_path`; they begin when it does so first. None: never.
            gpus: GPUs that an item has for itself where an engine shares them out.
        """
        ...


def heartbeat_path(work: str) -> Path:
    """The heartbeat of a function that writes to `work`."""
    return Path(f"{work}.beat")
