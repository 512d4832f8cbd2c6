"""The pathways as one network with uint8 windows in and pooled features out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from vcsf_cli.data.augment import to_input
from vcsf_cli.model.parts import Geometry
from vcsf_cli.model.pathways import Head, Networks, Pathway, Windows, pathway_window


class Encoder(nn.Module):
    """Pathways without their heads, which read whole windows as they come from a video.

    The choice of frames, differences and the normalisation are inside, as constants. Nothing looks
    at a tensor's values, so that it becomes one graph for batches of any size.

    Args:
        model: The networks; they are shared, not copied.
        geometry: Which frames of a window each pathway reads.
    """

    def __init__(self, model: Networks, geometry: Geometry, pathways: Sequence[str]) -> None:
        super().__init__()
        self.geometry, self.pathways = geometry, tuple(pathways)
        for name in pathways:
            self.add_module(name, headless(model.pathway(name)))
            for number, places in enumerate(self._places(name)):
                index = torch.tensor(places)
                self.register_buffer(f"{name}_frames{number}", index, persistent=False)

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Pooled features (B, C) by pathway of uint8 windows (B, L, H, W, 3)."""
        return self.features(self.geometry.split(to_input(frames)))

    def features(self, windows: Windows, positions: object = None) -> dict[str, Tensor]:
        """Pooled features (B, C) by pathway of windows (B, 3, L, H, W); positions are fixed."""
        features = {}
        for name in self.pathways:
            pathway = cast(Pathway, self.get_submodule(name))
            part = pathway_window(windows, name)
            features[name] = pathway(self._clip(name, pathway, part), part)
        return features

    def _places(self, name: str) -> list[list[int]]:
        """Positions that a pathway reads; for differences also those that are subtracted."""
        positions = list(self.geometry.positions[name])
        if not cast(Pathway, self.get_submodule(name)).difference:
            return [positions]
        begin, end = self.geometry.parts[name]
        first = np.minimum(positions, end - begin - 2).tolist()
        return [[place + 1 for place in first], first]

    def _clip(self, name: str, pathway: Pathway, part: Tensor) -> Tensor:
        """The same as `Pathway.clip`, (B, 3, T, H, W)."""
        frames = part.index_select(2, self.get_buffer(f"{name}_frames0"))
        return (
            frames - part.index_select(2, self.get_buffer(f"{name}_frames1"))
            if pathway.difference
            else frames
        )


def headless(pathway: Pathway) -> Pathway:
    """A pathway of the same networks without the head, which is not exported."""
    motion = {int(stage): module for stage, module in pathway.motion.items()}
    return Pathway(pathway.backbone, motion, cast(Head, nn.Identity()), pathway.difference)
