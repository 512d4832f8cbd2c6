"""Which frames of a video a view reads."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Interval

from vcsf_cli.contracts import Indices, View
from vcsf_cli.errors import RecipeError

Positive = Annotated[int, Gt(0)]
Probability = Annotated[float, Interval(ge=0, le=1)]


class SlowFast:
    """One window of consecutive frames per view, which both pathways read: fast every frame, slow
    every alpha-th.

    Windows start anywhere in the video with equal probability. As in CoCLR, both views of a clip
    are the same window with probability `same_window`.

    Args:
        frames: Frames of a window, L.
        stride: Frames of the video from one frame of the window to the next.
        alpha: The slow pathway reads every alpha-th frame of the window; it must divide `frames`.
        same_window: Probability that both views of a clip read the same window.
        near: How close the two windows of a clip are drawn: the probability of their distance falls
            as (1 - distance / largest)^near (CVRL, Qian et al., CVPR 2021). By default they are
            independent, which is about the same as 1.
        speeds: Multiples of `stride`. Each window of training draws one that the video is long
            enough for.
        windows: In training, both pathways read the `shared` window, or each an `independent` one
            of the same length and crop. Measuring always shares.
        short: A video with too few frames starts over (`loop`) or repeats its last frame (`hold`).
            With differences as input, `loop` shows a jump and `hold` stillness.
    """

    def __init__(
        self,
        *,
        frames: Positive = 32,
        stride: Positive = 1,
        alpha: Positive = 4,
        same_window: Probability = 0.5,
        near: Annotated[float, Ge(0)] | None = None,
        speeds: tuple[Positive, ...] = (1,),
        windows: Literal["shared", "independent"] = "shared",
        short: Literal["loop", "hold"] = "loop",
    ) -> None:
        if frames % alpha:
            raise RecipeError(
                f"is {alpha}, which does not divide the {frames} frames of a window",
                "the slow pathway reads every alpha-th frame",
                key="sampler.alpha",
            )
        if not speeds:
            raise RecipeError("is empty", "[1] is every video's own speed", key="sampler.speeds")
        self.length = frames
        self.stride = stride
        self.span = (frames - 1) * stride + 1
        self.same_window, self.near, self.speeds = same_window, near, sorted(speeds)
        self.independent, self.short = windows == "independent", short
        self.fast = np.arange(frames)
        self.slow = np.arange(0, frames, alpha)

    def sample(self, frames: int, rng: np.random.Generator) -> tuple[View, View]:
        windows = self._two_starts(frames, rng)
        same = bool(rng.random() < self.same_window)
        first, second = self._two_windows(windows, same, frames)
        if not self.independent:
            return self._view(first), self._view(second)
        parts = {"slow": (0, self.length), "fast": (self.length, 2 * self.length)}
        # The same window twice in both pathways or in none: a clip has one regime.
        own = self._two_windows(self._two_starts(frames, rng), same, frames)
        slow_and_fast = [np.concatenate(pair) for pair in zip((first, second), own, strict=True)]
        return View(slow_and_fast[0], self.slow, self.fast, parts), View(
            slow_and_fast[1], self.slow, self.fast, parts
        )

    def cover(self, frames: int) -> list[View]:
        """Windows with CoCLR's hop of L/2 - 1 frames of the window, and one that ends with the
        video.

        They reach every frame; with a stride above 1, every stride-th, as in training."""
        hop = max(1, self.length // 2 - 1) * self.stride
        starts = list(range(0, max(1, frames - self.span + 1), hop))
        if starts[-1] + self.span < frames:
            starts.append(frames - self.span)
        return [self._view(self._window(start, frames, self.stride)) for start in starts]

    def _two_starts(self, frames: int, rng: np.random.Generator) -> list[tuple[int, int]]:
        """First frame and stride of two windows."""
        starts = rng.integers(0, max(1, frames - self.span + 1), size=2)
        strides = [self.stride, self.stride]
        if self.near is not None:
            starts = self._near(max(0, frames - self.span), rng)
        if self.speeds != [1]:
            strides = [self._draw_stride(frames, rng) for _ in starts]
            # A faster window is longer: it starts at the same share of its possible starts.
            shares = (starts + rng.random(2)) / max(1, frames - self.span + 1)
            rooms = [max(1, frames - (self.length - 1) * stride) for stride in strides]
            starts = (shares * rooms).astype(np.int64)
        return list(zip(starts.tolist(), strides, strict=True))

    def _two_windows(
        self, starts: list[tuple[int, int]], same: bool, frames: int
    ) -> tuple[Indices, Indices]:
        """Frame numbers of two windows, (L,) each; if `same`, the first one twice."""
        first, second = (self._window(start, frames, stride) for start, stride in starts)
        return first, first if same else second

    def _near(self, largest: int, rng: np.random.Generator) -> Indices:
        """Two starts from 0 to `largest` at a drawn distance, in random order."""
        assert self.near is not None
        # The inverse of the distribution of distances.
        distance = round(largest * (1 - rng.random() ** (1 / (self.near + 1))))
        start = int(rng.integers(0, largest - distance + 1))
        return rng.permutation([start, start + distance])

    def _draw_stride(self, frames: int, rng: np.random.Generator) -> int:
        """A stride whose window fits into the video, or the smallest."""
        strides = [self.stride * speed for speed in self.speeds]
        fitting = [stride for stride in strides if (self.length - 1) * stride < frames] or strides[
            :1
        ]
        return fitting[int(rng.integers(len(fitting)))]

    def _window(self, start: int, frames: int, stride: int) -> Indices:
        """Frame numbers of the window that begins with frame `start`."""
        window: Indices = start + self.fast * stride
        return window % frames if self.short == "loop" else np.minimum(window, frames - 1)

    def _view(self, window: Indices) -> View:
        return View(window, self.slow, self.fast)
