"""Which runs can be worked on side by side: one that could take over a stage waits until the other has finished it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vcsf_cli.ablate.cost import Speed, Work, is_begun


def must_wait(ours: Sequence[str], theirs: Sequence[str], finished: int) -> bool:
    """Whether a run that was not begun could take over a stage that another, which is worked on, has yet to finish.

    Args:
        ours: What its stages' weights depend on, with all before each.
        theirs: The same of the other run.
        finished: Stages that the other run has finished.
    """
    return sum(stage in theirs for stage in ours) > finished


def seconds_of(works: Sequence[Work], stages: Mapping[str, Sequence[str]], speed: Speed, lanes: int) -> float:
    """How long some work takes on several devices, by the rule that it is begun by.

    Args:
        works: The work, in its order.
        stages: What the stages of each run's weights depend on, by the hash of its recipe.
        speed: Of one device.
        lanes: How many devices.
    """
    waiting = [work for work in works if work.is_left]
    running: list[tuple[Work, float]] = []
    now = 0.0

    def waits_for(work: Work, other: Work, begun: float) -> bool:
        ours, theirs = (stages[each.cell.recipe.hash] for each in (work, other))
        ended = sum(begun + moment <= now for moment in other.moments(speed)[:-1])
        return not is_begun(work.cell) and must_wait(ours, theirs, len(theirs) - len(other.stages) + ended)

    while waiting or running:
        for work in list(waiting):
            if len(running) < lanes and not any(waits_for(work, *other) for other in running):
                waiting.remove(work)
                running.append((work, now))
        moments = [begun + moment for work, begun in running for moment in work.moments(speed)]
        now = min((moment for moment in moments if moment > now), default=now)
        running = [(work, begun) for work, begun in running if begun + work.seconds(speed) > now]
    return now
