"""The base of most backbones: stages in a row, a motion module possible after each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

from annotated_types import Gt
from torch import Tensor, nn

from vcsf_cli.contracts import Layout, identity

Between = Callable[[int, Tensor], Tensor]
Pathway = Literal["slow", "fast"]
Stride = Annotated[int, Gt(0)]
Strides = tuple[Stride, Stride, Stride, Stride]


class Staged(nn.Module):
    """Stages in a row.

    Args:
        stages: One module per stage; stage 1 is the stem.
    """

    layouts: Mapping[str, Layout]
    """How other code names the same weights, by that code's name."""

    def __init__(self, stages: Sequence[nn.Module], channels: Sequence[int]) -> None:
        super().__init__()
        self.layouts = {}
        self.stages = nn.ModuleList(stages)
        self.channels = tuple(channels)

    def forward(self, clip: Tensor, between: Between = identity) -> Tensor:
        """Features (B, C, T', h, w) of clips (B, 3, T, H, W)."""
        features = clip
        for number, stage in enumerate(self.stages, start=1):
            features = between(number, stage(features))
        return features
