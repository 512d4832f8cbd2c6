"""The slow_fast sampler: in range, right stride, uniform starts, and `cover` reaching every frame."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vcsf_plugins.samplers import SlowFast

from vcsf_cli.errors import RecipeError

shapes = st.sampled_from([(8, 4), (8, 2), (16, 8), (6, 3), (4, 1)])


@given(shapes, st.integers(1, 3), st.integers(1, 200), st.integers(0, 2**32), st.floats(0, 1))
def test_windows_are_in_range_and_strided(
    shape: tuple[int, int], stride: int, frames: int, seed: int, same: float
) -> None:
    length, alpha = shape
    sampler = SlowFast(frames=length, stride=stride, alpha=alpha, same_window=same)
    for view in sampler.sample(frames, np.random.default_rng(seed)):
        assert len(view.window) == sampler.length == length
        assert view.window.min() >= 0
        assert view.window.max() < frames
        if frames >= sampler.span:
            assert (np.diff(view.window) == stride).all()
        else:
            assert ((np.diff(view.window) - stride) % frames == 0).all()
        assert view.fast.tolist() == list(range(length))
        assert view.slow.tolist() == list(range(0, length, alpha))


@given(shapes, st.integers(1, 200))
def test_cover_reaches_every_frame(shape: tuple[int, int], frames: int) -> None:
    length, alpha = shape
    views = SlowFast(frames=length, alpha=alpha).cover(frames)
    assert set(np.concatenate([view.window for view in views])) == set(range(frames))


def test_cover_hops_as_coclr_does() -> None:
    """32 frames: windows start every 15 frames; the last one ends with the video."""
    starts = [int(view.window[0]) for view in SlowFast().cover(80)]
    assert starts == [0, 15, 30, 45, 48]
    assert [int(view.window[0]) for view in SlowFast().cover(32)] == [0]


def test_both_views_read_one_window_as_often_as_asked() -> None:
    rng = np.random.default_rng(0)
    views = [SlowFast(same_window=0.3).sample(10_000, rng) for _ in range(2000)]
    share = np.mean([np.array_equal(first.window, second.window) for first, second in views])
    assert share == pytest.approx(0.3, abs=0.04)


def test_starts_are_uniform() -> None:
    rng = np.random.default_rng(1)
    sampler = SlowFast(frames=8, alpha=2, same_window=0)
    starts = [int(view.window[0]) for _ in range(4000) for view in sampler.sample(17, rng)]
    counts = np.bincount(starts, minlength=10)
    assert len(counts) == 10
    assert (abs(counts / 800 - 1) < 0.15).all()


def test_a_short_video_loops_or_holds() -> None:
    rng = np.random.default_rng(0)
    assert SlowFast(frames=8, alpha=4).sample(3, rng)[0].window.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    held = SlowFast(frames=8, alpha=4, short="hold").sample(3, rng)[0]
    assert held.window.tolist() == [0, 1, 2, 2, 2, 2, 2, 2]


def test_alpha_must_divide_the_window() -> None:
    with pytest.raises(RecipeError, match="does not divide"):
        SlowFast(frames=32, alpha=5)
