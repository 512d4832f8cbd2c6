"""The difference of two rows of a table, with an interval over trainings and test clips.

A row's number varies with the seed it is trained with, and with the recordings that happen to be in
the test. The interval has both: the spread of the difference over places (seed and split), and a
paired bootstrap over recordings, whose variances are added, with Student's t of as many degrees of
freedom as Satterthwaite's formula gives (Biometrics Bulletin 2, 1946). Recordings are drawn, not
single clips: clips cut from one recording are right or wrong together, so drawing clips would
overstate the evidence (Efron and Tibshirani 1993, ch. 8).

Measured on pairs of rows that do not differ (1,000 clips in 100 recordings, seeds that scatter by 5
points): the interval leaves zero out in 8 % of the cases with 3 seeds and in 5 % with 5 (1,200
pairs each; 7 % and 5 % by the normal distribution), and in 2 % where seeds scatter by 1 point.
Drawing places as well as recordings gives 14 % and 11 % instead (600 pairs), because three places
are too few to draw from; drawing recordings alone, with means over seeds, gives 58 % and 60 %.
`tests/ablate/test_difference.py` bounds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

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
    pairs: Sequence[tuple[pd.Series, pd.Series]], source: Mapping[str, str]
) -> Difference | None:
    """The mean over places of the difference of two rows' means, with its interval.

    Args:
        pairs: For every place each row's value for every clip (index), such as 1 or 0.
        source: The recording of each clip.

    Returns:
        None if the rows have no clip in common. With fewer places than `FEWEST_PLACES` the interval
        is over recordings only, with fewer recordings than `FEWEST_RECORDINGS` there is none.
    """
    found = _mean_over_places([(ours - theirs).dropna() for ours, theirs in pairs], source)
    if found is None:
        return None
    low, high = np.clip((found.low, found.high), -1.0, 1.0).tolist()
    return replace(found, low=low, high=high)


def share_of_gain(
    places: Sequence[tuple[pd.Series, pd.Series, pd.Series]], source: Mapping[str, str]
) -> Difference | None:
    """Share of a gain that a row reaches: its difference to a baseline over that of another row.

    The interval is that of a ratio of means by linearisation (Cochran, Sampling Techniques, 1977,
    chapter 6): of the clips' (row - baseline - share * (other - baseline)) / gain.

    Args:
        places: For every place the values of the row, of the baseline and of the other row for every
            clip.
        source: The recording of each clip.

    Returns:
        None if the other row's gain is not sure: its interval holds zero, or there is none.
    """
    gain = mean_difference([(other, base) for _, base, other in places], source)
    own = mean_difference([(row, base) for row, base, _ in places], source)
    if gain is None or own is None or not gain.low > 0:
        return None
    share = own.value / gain.value
    residuals = [
        ((row - base - share * (other - base)) / gain.value).dropna() for row, base, other in places
    ]
    found = _mean_over_places(residuals, source)
    if found is None:
        return None
    return replace(found, value=share, low=share + found.low, high=share + found.high)


def _mean_over_places(places: Sequence[pd.Series], source: Mapping[str, str]) -> Difference | None:
    """The mean over places of values of clips, with its interval; None if there are no clips."""
    filled = [values for values in places if len(values)]
    if not filled:
        return None
    # A recording is drawn as often in every split that tests it.
    codes, names = pd.factorize(pd.concat(filled).index.map(source))
    recordings = len(names)
    means = np.array([float(values.mean()) for values in filled])
    low = high = np.nan
    if recordings >= FEWEST_RECORDINGS:
        drawn = redrawn([values.to_numpy() for values in filled], codes, recordings)
        low, high = interval(means, drawn.mean(1), recordings)
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


@lru_cache(maxsize=8)
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


def interval(means: FloatArray, drawn: FloatArray, recordings: int) -> tuple[float, float]:
    """The ends of the 95 % interval.

    Args:
        means: The mean of each place, (places,).
        drawn: The mean over places for each draw of recordings, (draws,).
    """
    if len(means) < FEWEST_PLACES:
        low, high = np.quantile(drawn, _ENDS)
        return float(low), float(high)
    value = float(means.mean())
    of_trainings, of_recordings = means.var(ddof=1) / len(means), drawn.var(ddof=1)
    both = of_trainings + of_recordings
    if not both:
        return value, value
    freedom = both**2 / (of_trainings**2 / (len(means) - 1) + of_recordings**2 / (recordings - 1))
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
