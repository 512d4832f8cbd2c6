"""Bootstrap intervals over recordings."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FEWEST_RECORDINGS = 10
"""With fewer, a bootstrap interval is much too narrow: of five it holds the truth in 84 %."""


def paired_interval(
    ours: npt.NDArray[np.float64],
    theirs: npt.NDArray[np.float64],
    cluster: npt.NDArray[np.object_],
    seed: int = 0,
    draws: int = 10_000,
) -> tuple[float, float, float]:
    """The difference of two means over the same queries, with a 95 % bootstrap interval.

    Whole clusters are drawn, because clips cut from one recording are right or wrong together
    (Efron and Tibshirani 1993, ch. 8: the unit that is drawn is the one that was sampled).

    Args:
        ours: One number a query, such as its R@1, (Q,).
        theirs: The same for the other measurement, (Q,).
        cluster: The recording that each query was cut from, (Q,).

    Returns:
        The difference, and the lower and upper end of the interval.
    """
    difference = ours - theirs
    _, number = np.unique(cluster.astype(str), return_inverse=True)
    sums = np.bincount(number, difference)
    sizes = np.bincount(number).astype(np.float64)
    weights = np.random.default_rng(seed).multinomial(
        len(sums), np.full(len(sums), 1 / len(sums)), size=draws
    )
    means = (weights @ sums) / (weights @ sizes)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)


def few_recordings(cluster: npt.NDArray[np.object_]) -> str:
    """What to say if queries are of too few recordings for their interval; else empty."""
    count = len(np.unique(cluster.astype(str)))
    if count >= FEWEST_RECORDINGS:
        return ""
    return f"of {count} recordings, fewer than {FEWEST_RECORDINGS}: the 95 % interval is too narrow"
