"""Which frames of a video a view reads."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from annotated_types import Gt, Interval

from vcsf_cli.contracts import Indices, View
from vcsf_cli.errors import RecipeError

Positive = Annotated[int, Gt(0)]
Probability = Annotated[float, Interval(ge=0, le=1)]


class SlowFast:
    """One window of consecutive frames per view, which both pathways read: fast every frame, slow every alpha-th.

    A window's start is uniform over the video. A view of training is, as in CoCLR, with probability `same_window` the
    same window as the other view's, else a window of its own.

    Args:
        frames: Frames of a window, L.
        stride: Frames of the video from one frame of the window to the next.
        alpha: The slow pathway reads every alpha-th frame of the window; it must divide `frames`.
        same_window: Probability that both views of a clip read the same window.
        short: What a video with too few frames gets: `loop` starts it over, `hold` repeats its last frame.
    """

    def __init__(
        self,
        *,
        frames: Positive = 32,
        stride: Positive = 1,
        alpha: Positive = 4,
        same_window: Probability = 0.5,
        short: Literal["loop", "hold"] = "loop",
    ) -> None:
        if frames % alpha:
            raise RecipeError(
                f"`sampler.alpha` is {alpha}, which does not divide the {frames} frames of a window",
                "the slow pathway reads every alpha-th frame",
            )
        self.length = frames
        self.stride = stride
        self.span = (frames - 1) * stride + 1
        self.same_window = same_window
        self.short = short
        self.fast = np.arange(frames)
        self.slow = np.arange(0, frames, alpha)

    def sample(self, frames: int, rng: np.random.Generator) -> tuple[View, View]:
        """Two views of a video of `frames` frames."""
        starts = rng.integers(0, max(1, frames - self.span + 1), size=2)
        if rng.random() < self.same_window:
            starts[1] = starts[0]
        return self._view(int(starts[0]), frames), self._view(int(starts[1]), frames)

    def cover(self, frames: int) -> list[View]:
        """Windows with CoCLR's hop of L/2 - 1 frames of the window, and one that ends with the video."""
        hop = max(1, self.length // 2 - 1) * self.stride
        starts = list(range(0, max(1, frames - self.span + 1), hop))
        if starts[-1] + self.span < frames:
            starts.append(frames - self.span)
        return [self._view(start, frames) for start in starts]

    def _view(self, start: int, frames: int) -> View:
        window: Indices = start + self.fast * self.stride
        window = window % frames if self.short == "loop" else np.minimum(window, frames - 1)
        return View(window, self.slow, self.fast)
