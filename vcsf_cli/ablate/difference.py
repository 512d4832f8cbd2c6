"""The difference of two rows of a table, with an interval over trainings and test clips.

A row's number varies with the seed it is trained with, and with the recordings that happen to be in
the test. The interval has both: the spread of the difference over places (seed and split), and a
paired bootstrap over recordings, whose variances are added, with Student's t of as many degrees of
freedom as Satterthwaite's formula gives (Biometrics Bulletin 2, 1946). Recordings are drawn, not
single clips: clips cut from one recording are right or wrong together, so drawing clips would
overstate the evidence (Efron and Tibshirani 1993, ch. 8).

Measured on pairs of rows that do not differ (one split, 1,000 clips in 100 recordings, seeds that
scatter by 5 points): the interval leaves zero out in 8 % of the cases with 3 seeds and in 5 % with
5 (1,200 pairs each; 7 % and 5 % by the normal distribution), and in 2 % where seeds scatter by 1
point.
Drawing places as well as recordings gives 14 % and 11 % instead (600 pairs), because three places
are too few to draw from; drawing recordings alone, with means over seeds, gives 58 % and 60 %.
`tests/ablate/test_difference.py` bounds it.

Seeds of one split share its training clips, so with three splits or more they are no trainings of
their own: the spread is then that of the splits, over the means of their seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import cast

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtrit

from vcsf_cli.features.bootstrap import FEWEST_RECORDINGS

FloatArray = npt.NDArray[np.float64]

DRAWS = 2_000
"""Draws of recordings."""
FEWEST_PLACES = 3
"""Seeds and splits needed for an interval over other trainings."""
_ENDS = (0.025, 0.975)


Place = tuple[int, int]
"""A seed and a split."""


@dataclass(frozen=True)
class Difference:
    """A difference of two rows.

    Args:
        low: Lower end of its 95 % interval, NaN if there is none.
        clips: How many clips it is taken over.
        places: How many pairs of seed and split it is taken over.
    """

    value: float
    low: float
    high: float
    clips: int
    places: int


def mean_difference(
    pairs: Mapping[Place, tuple[pd.Series, pd.Series]], source: Mapping[str, str]
) -> Difference | None:
    """The mean over places of the difference of two rows' means, with its interval.

    Args:
        pairs: For every place each row's value for every clip (index), such as 1 or 0.
        source: The recording of each clip.

    Returns:
        None if the rows have no clip in common. With fewer places than `FEWEST_PLACES` the interval
        is over recordings only, with fewer recordings than `FEWEST_RECORDINGS` there is none.
    """
    differences = {place: (ours - theirs).dropna() for place, (ours, theirs) in pairs.items()}
    found = _mean_over_places(differences, source)
    if found is None:
        return None
    low, high = np.clip((found.low, found.high), -1.0, 1.0).tolist()
    return replace(found, low=low, high=high)


def share_of_gain(
    places: Mapping[Place, tuple[pd.Series, pd.Series, pd.Series]], source: Mapping[str, str]
) -> Difference | str:
    """Share of a gain that a row reaches: its difference to a baseline over that of another row.

    The interval is that of a ratio of means by linearisation (Cochran, Sampling Techniques, 1977,
    chapter 6): the share, and the interval of the mean over clips of (row - baseline - share *
    (other - baseline)) / gain, which is zero.

    Args:
        places: For every place the values of the row, of the baseline and of the other row for every
            clip.
        source: The recording of each clip.

    Returns:
        The share, or why it is not known. With fewer places than `FEWEST_PLACES` it has no interval:
        one over recordings alone would hold it in half of the cases where seeds scatter by 5 points.
    """
    common = {
        place: pd.concat(rows, axis=1, join="inner", keys=("row", "base", "other")).dropna()
        for place, rows in places.items()
    }
    gain = mean_difference(
        {at: (each["other"], each["base"]) for at, each in common.items()}, source
    )
    own = mean_difference({at: (each["row"], each["base"]) for at, each in common.items()}, source)
    if gain is None or own is None:
        return "no clip in common"
    if np.isnan(gain.low):
        return f"fewer than {FEWEST_RECORDINGS} recordings"
    if gain.low <= 0:
        return "labels gain nothing sure"
    share = own.value / gain.value
    if gain.places < FEWEST_PLACES:
        return replace(own, value=share, low=np.nan, high=np.nan)
    left = {
        place: (each["row"] - each["base"] - share * (each["other"] - each["base"])) / gain.value
        for place, each in common.items()
    }
    found = cast(Difference, _mean_over_places(left, source))
    return replace(found, value=share, low=share + found.low, high=share + found.high)


def _mean_over_places(
    places: Mapping[Place, pd.Series], source: Mapping[str, str]
) -> Difference | None:
    """The mean over places of values of clips, with its interval; None if there are no clips."""
    filled = [values for values in places.values() if len(values)]
    splits = [split for (_, split), values in places.items() if len(values)]
    if not filled:
        return None
    # A recording is drawn as often in every split that tests it.
    codes, names = pd.factorize(pd.concat(filled).index.map(source))
    recordings = len(names)
    means = np.array([float(values.mean()) for values in filled])
    low = high = np.nan
    if recordings >= FEWEST_RECORDINGS:
        drawn = redrawn([values.to_numpy() for values in filled], codes, recordings)
        low, high = interval(means, splits, drawn.mean(1), recordings)
    clips = len(set().union(*(values.index for values in filled)))
    return Difference(float(means.mean()), low, high, clips, len(filled))


def redrawn(
    differences: Sequence[FloatArray], codes: npt.NDArray[np.int64], recordings: int
) -> FloatArray:
    """Means (draws, places) when recordings are drawn with replacement, the same ones for all
    places. A place none of whose recordings is drawn keeps its own mean.

    Args:
        differences: Those of each place's clips, (clips,).
        codes: The number of each clip's recording, places one after the other.
    """
    place = np.repeat(np.arange(len(differences)), [len(each) for each in differences])
    cell, shape = place * recordings + codes, (len(differences), recordings)
    sums = np.bincount(cell, np.concatenate(differences), shape[0] * recordings).reshape(shape)
    sizes = np.bincount(cell, minlength=shape[0] * recordings).reshape(shape).astype(np.float64)
    weights = draw_recordings(recordings)
    counts = weights @ sizes.T
    own = sums.sum(1) / sizes.sum(1)
    return np.where(counts > 0, weights @ sums.T / np.maximum(counts, 1), own)


@lru_cache(maxsize=2)
def draw_recordings(recordings: int) -> FloatArray:
    """How often each recording is drawn, (draws, recordings); the same for all numbers of a
    table."""
    drawn = np.random.default_rng(0).integers(recordings, size=(DRAWS, recordings))
    cell = drawn + recordings * np.arange(DRAWS)[:, None]
    return (
        np.bincount(cell.ravel(), minlength=DRAWS * recordings)
        .reshape(DRAWS, recordings)
        .astype(np.float64)
    )


def interval(
    means: FloatArray, splits: Sequence[int], drawn: FloatArray, recordings: int
) -> tuple[float, float]:
    """The ends of the 95 % interval.

    Args:
        means: The mean of each place, (places,).
        splits: The split of each place. Where there are `FEWEST_PLACES` or more, the places of one
            are taken together: the variance is that of means over clusters (Cameron and Miller,
            Journal of Human Resources 2015, sec. II).
        drawn: The mean over places for each draw of recordings, (draws,).
    """
    if len(means) < FEWEST_PLACES:
        low, high = np.quantile(drawn, _ENDS)
        return float(low), float(high)
    value = float(means.mean())
    together = np.unique(splits, return_inverse=True)[1]
    if together.max() + 1 < FEWEST_PLACES:
        together = np.arange(len(means))
    spread = np.bincount(together, means - value)
    freely = len(spread) - 1
    of_trainings = (spread**2).sum() / len(means) ** 2 * len(spread) / freely
    of_recordings = drawn.var(ddof=1)
    both = of_trainings + of_recordings
    if not both:
        return value, value
    freedom = both**2 / (of_trainings**2 / freely + of_recordings**2 / (recordings - 1))
    reach = float(stdtrit(freedom, _ENDS[1]) * np.sqrt(both))
    return value - reach, value + reach


def is_finding(places: int, low: float, high: float) -> bool:
    """Whether a difference holds for other trainings too: its interval leaves zero out."""
    return places >= FEWEST_PLACES and (low > 0 or high < 0)


def describe_intervals(places: Sequence[int], recordings: bool) -> str:
    """A sentence about the intervals of a table.

    Args:
        places: How many pairs of seed and split each difference is taken over.
        recordings: Whether there are enough for an interval of every difference.
    """
    drawn = f"the recordings that test clips were cut from (paired bootstrap, {DRAWS:,} draws)"
    whole = "whole recordings are drawn because clips of one are right or wrong together"
    found = []
    if any(count >= FEWEST_PLACES for count in places):
        found.append(
            f"with a 95 % interval over trainings (Student's t) and over {drawn}; {whole}; * where "
            "it leaves zero out"
        )
    if any(count < FEWEST_PLACES for count in places):
        few = f"of fewer than {FEWEST_PLACES} seeds and splits " if found else ""
        found.append(
            f"{few}with a 95 % interval over {drawn} of these trainings only, which other seeds "
            "may leave, so without *"
        )
        found[-1] += "" if len(found) > 1 else f"; {whole}"
    if not recordings:
        found.append(f"of fewer than {FEWEST_RECORDINGS} recordings without an interval")
    return "; ".join(found)
