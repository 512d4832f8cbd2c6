"""The baselines beside a run's networks."""

import numpy as np
import pytest

from vcsf_cli.evaluate.retrieval import histogram


def test_a_colour_histogram_by_hand() -> None:
    frames = np.zeros((1, 1, 4, 3), np.uint8)
    frames[0, 0, 0] = (255, 0, 40)
    shares = histogram(frames)
    assert shares.sum() == pytest.approx(1)
    assert shares[0] == 0.75
    assert shares[(7 * 8 + 0) * 8 + 1] == 0.25
