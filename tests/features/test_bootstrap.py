"""Intervals count recordings, not clips, and are as wide as theory says."""

import numpy as np
import pytest

from vcsf_cli.features.bootstrap import few_recordings, paired_interval


def test_the_interval_counts_recordings_and_not_clips() -> None:
    """Ten recordings of fifty equal clips say no more than ten clips: the interval must be about as
    wide."""
    rng = np.random.default_rng(0)
    ours, theirs = (rng.random(10) < 0.6).astype(float), (rng.random(10) < 0.3).astype(float)
    names = np.array([f"r{index}" for index in range(10)], object)
    few = paired_interval(ours, theirs, names)
    many = paired_interval(ours.repeat(50), theirs.repeat(50), names.repeat(50))
    assert many == pytest.approx(few, abs=1e-9)
    alone = paired_interval(ours.repeat(50), theirs.repeat(50), np.arange(500).astype(object))
    assert alone[2] - alone[1] < 0.4 * (many[2] - many[1])


def test_the_interval_of_a_known_difference() -> None:
    rng = np.random.default_rng(1)
    ours = (rng.random(2000) < 0.5).astype(float)
    difference, low, high = paired_interval(ours, np.zeros(2000), np.arange(2000).astype(object))
    assert difference == ours.mean()
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 2000), rel=0.1)


def test_too_few_recordings_for_an_interval_are_told() -> None:
    assert few_recordings(np.arange(10).astype(object)) == ""
    assert few_recordings(np.array(["a", "b", "a"], object)).startswith("of 2 recordings, fewer")
