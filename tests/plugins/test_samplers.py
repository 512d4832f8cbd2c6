"""The slow_fast sampler: in range, right stride, uniform starts, same window where promised,
`cover` reaching every frame."""

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


@given(shapes, st.integers(2, 4), st.integers(1, 200))
def test_cover_of_a_stride_leaves_no_longer_gap_than_that(
    shape: tuple[int, int], stride: int, frames: int
) -> None:
    length, alpha = shape
    sampler = SlowFast(frames=length, alpha=alpha, stride=stride)
    read = np.unique(np.concatenate([view.window for view in sampler.cover(frames)]))
    assert read[0] == 0
    if frames >= sampler.span:
        assert read[-1] == frames - 1
    assert (np.diff(read) <= stride).all()


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


def test_starts_of_a_faster_window_are_uniform() -> None:
    rng = np.random.default_rng(1)
    sampler = SlowFast(frames=8, alpha=2, same_window=0, speeds=(2,))
    starts = [int(view.window[0]) for _ in range(4000) for view in sampler.sample(24, rng)]
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


kinds = st.fixed_dictionaries(
    {},
    optional={
        "near": st.floats(0, 8),
        "speeds": st.sampled_from([(1, 2), (1, 2, 4), (2,)]),
        "windows": st.just("independent"),
        "short": st.just("hold"),
    },
)


@given(kinds, st.integers(1, 200), st.integers(0, 2**32), st.integers(1, 2))
def test_every_kind_of_window_is_in_range_and_strided(
    kind: dict, frames: int, seed: int, stride: int
) -> None:
    sampler = SlowFast(frames=8, alpha=4, stride=stride, **kind)
    allowed = {stride * speed for speed in kind.get("speeds", (1,))}
    for view in sampler.sample(frames, np.random.default_rng(seed)):
        assert view.window.min() >= 0
        assert view.window.max() < frames
        for pathway in ("slow", "fast"):
            begin, end = view.part(pathway)
            window = view.window[begin:end]
            assert len(window) == 8
            assert view.positions(pathway).max() < 8
            found = set(np.diff(window).tolist())
            if frames > 7 * min(allowed):
                assert len(found) == 1
                assert found <= allowed


@given(kinds, st.integers(1, 200), st.integers(0, 2**32))
def test_both_views_are_the_same_where_that_is_promised(kind: dict, frames: int, seed: int) -> None:
    sampler = SlowFast(frames=8, alpha=4, same_window=1, **kind)
    first, second = sampler.sample(frames, np.random.default_rng(seed))
    assert np.array_equal(first.window, second.window)


def test_independent_windows_are_one_after_the_other() -> None:
    rng = np.random.default_rng(0)
    sampler = SlowFast(frames=8, alpha=4, windows="independent")
    views = [view for _ in range(300) for view in sampler.sample(100, rng)]
    assert {view.part("slow") for view in views} == {(0, 8)}
    assert {view.part("fast") for view in views} == {(8, 16)}
    starts = np.array([(view.window[0], view.window[8]) for view in views])
    assert abs(np.corrcoef(starts.T)[0, 1]) < 0.15
    assert sampler.cover(100)[0].part("fast") == (0, 8)


@pytest.mark.parametrize("near", [0, 1, 3])
def test_near_windows_are_as_far_apart_as_their_law_says(near: float) -> None:
    """The density (near + 1) (1 - d)^near on [0, 1] has the mean 1 / (near + 2)."""
    rng = np.random.default_rng(0)
    sampler = SlowFast(frames=8, alpha=4, same_window=0, near=near)
    pairs = np.array([[view.window[0] for view in sampler.sample(108, rng)] for _ in range(3000)])
    distance = np.abs(pairs[:, 0] - pairs[:, 1]) / 100
    assert distance.mean() == pytest.approx(1 / (near + 2), abs=0.015)
    assert (pairs[:, 0] < pairs[:, 1]).mean() == pytest.approx(0.5, abs=0.04)


def test_speeds_are_drawn_equally_and_only_where_they_fit() -> None:
    rng = np.random.default_rng(0)
    sampler = SlowFast(frames=8, alpha=4, same_window=0, speeds=(4, 1, 2))
    strides = [
        int(np.diff(view.window)[0]) for _ in range(1500) for view in sampler.sample(100, rng)
    ]
    assert np.bincount(strides)[[1, 2, 4]] / 3000 == pytest.approx([1 / 3] * 3, abs=0.03)
    strides = [int(np.diff(view.window)[0]) for _ in range(300) for view in sampler.sample(15, rng)]
    assert set(strides) == {1, 2}
    last = max(int(view.window[-1]) for _ in range(500) for view in sampler.sample(100, rng))
    assert last == 99


def test_independent_windows_are_the_same_twice_in_both_pathways_or_in_none() -> None:
    """CoCLR's regime holds for a clip: a pathway with one window seen twice must get one `base`
    view."""
    rng = np.random.default_rng(0)
    sampler = SlowFast(frames=8, alpha=4, same_window=0.5, windows="independent")
    same = []
    for _ in range(400):
        views = sampler.sample(10_000, rng)
        slow, fast = (
            [view.window[slice(*view.part(pathway))] for view in views]
            for pathway in ("slow", "fast")
        )
        assert not np.array_equal(slow[0], fast[0])
        same.append((np.array_equal(*slow), np.array_equal(*fast)))
    assert all(slow == fast for slow, fast in same)
    assert np.mean([slow for slow, _ in same]) == pytest.approx(0.5, abs=0.08)


def test_what_a_seed_gave_before_it_gives_still() -> None:
    """Windows of the default kind, pinned: another draw would change every run."""
    first, second = SlowFast().sample(100, np.random.default_rng(7))
    assert (int(first.window[0]), int(second.window[0])) == (65, 43)


def test_no_speed_is_an_error() -> None:
    with pytest.raises(RecipeError, match="is empty"):
        SlowFast(speeds=())
