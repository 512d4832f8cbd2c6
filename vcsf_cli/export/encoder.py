"""The pathways as one network: uint8 windows in, pooled features out, everything in between
fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from vcsf_cli.contracts import PATHWAYS, Sampler
from vcsf_cli.data.augment import to_input
from vcsf_cli.errors import RunError
from vcsf_cli.model.pathways import Head, Pathway, TwoPathways

_LONG_VIDEO = 10
"""Windows' lengths of the video whose windows show what pathways read."""


@dataclass(frozen=True)
class Reading:
    """Which frames of a window each pathway reads; the same for every window.

    Args:
        length: Frames of a window, L.
        positions: Positions in its part of the window that a pathway reads.
        parts: Begin and end of the part of the window that a pathway sees.
    """

    length: int
    positions: Mapping[str, Sequence[int]]
    parts: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, sampler: Sampler) -> Reading:
        """What a sampler's measuring windows are.

        Raises:
            RunError: If they differ in what pathways read.
        """
        found = [
            cls(
                len(view.window),
                {pathway: view.positions(pathway).tolist() for pathway in PATHWAYS},
                {pathway: view.part(pathway) for pathway in PATHWAYS},
            )
            for view in [*sampler.cover(_LONG_VIDEO * sampler.length), *sampler.cover(1)]
        ]
        if any(reading != found[0] for reading in found):
            raise RunError(
                "the sampler's windows differ in the frames that pathways read of them: they "
                "can't be fixed in a graph",
                "export a run whose sampler lets all windows be read alike, as `slow_fast` does",
            )
        return found[0]


class Encoder(nn.Module):
    """Pathways without their heads, which read whole windows as they come from a video.

    The slow pathway's choice of frames, differences and the normalisation are inside, as constants:
    nothing is left to whoever uses it, and nothing looks at a tensor's values, so that it becomes
    one graph for batches of any size.

    Args:
        model: The networks; they are shared, not copied.
        reading: What each pathway reads of a window.
        pathways: The pathways that are wanted.
    """

    def __init__(self, model: TwoPathways, reading: Reading, pathways: Sequence[str]) -> None:
        super().__init__()
        self.reading, self.pathways = reading, tuple(pathways)
        for name in pathways:
            self.add_module(name, headless(model.pathway(name)))
            for number, places in enumerate(self._places(name)):
                index = torch.tensor(places)
                self.register_buffer(f"{name}_frames{number}", index, persistent=False)

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Pooled features (B, C) by pathway of uint8 windows (B, L, H, W, 3)."""
        window = to_input(frames)
        features = {}
        for name in self.pathways:
            pathway = cast(Pathway, self.get_submodule(name))
            part = window[:, :, slice(*self.reading.parts[name])]
            features[name] = pathway(self._clip(name, pathway, part), part)
        return features

    def _places(self, name: str) -> list[list[int]]:
        """Positions that a pathway reads, and of differences those that they are taken from."""
        positions = list(self.reading.positions[name])
        if not cast(Pathway, self.get_submodule(name)).difference:
            return [positions]
        begin, end = self.reading.parts[name]
        first = np.minimum(positions, end - begin - 2).tolist()
        return [[place + 1 for place in first], first]

    def _clip(self, name: str, pathway: Pathway, part: Tensor) -> Tensor:
        """What `Pathway.clip` gives, (B, 3, T, H, W)."""
        frames = part.index_select(2, self.get_buffer(f"{name}_frames0"))
        return (
            frames - part.index_select(2, self.get_buffer(f"{name}_frames1"))
            if pathway.difference
            else frames
        )


def headless(pathway: Pathway) -> Pathway:
    """A pathway of the same networks without head, so that nothing of one is exported."""
    motion = {int(stage): module for stage, module in pathway.motion.items()}
    return Pathway(pathway.backbone, motion, cast(Head, nn.Identity()), pathway.difference)
