"""What is fixed in an encoder: which frames of a window each pathway reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vcsf_cli.config import recipe as recipes
from vcsf_cli.contracts import PATHWAYS, View
from vcsf_cli.data.augment import to_input
from vcsf_cli.errors import RunError
from vcsf_cli.export.encoder import Encoder
from vcsf_cli.model.parts import build_sampler, fixed_geometry
from vcsf_cli.model.pathways import build


class Own:
    """A sampler of a plugin's: the fast pathway sees the second half of the window, and perhaps
    something else each time."""

    length = 8

    def __init__(self, moves: bool = False) -> None:
        self.moves = moves

    def cover(self, frames: int) -> list[View]:
        count = max(1, frames // 16)
        parts = {"slow": (0, 8), "fast": (8, 16)}
        slow = [np.arange(0, 8, 2) + (number % 2 if self.moves else 0) for number in range(count)]
        return [
            View((16 * n + np.arange(16)) % frames, slow[n], np.arange(8), parts)
            for n in range(count)
        ]


def test_the_geometry_is_what_the_recipe_s_windows_are() -> None:
    geometry = fixed_geometry(build_sampler(recipes.load("demo").first_stage))
    assert geometry.length == 16
    assert geometry.positions == {"slow": list(range(0, 16, 4)), "fast": list(range(16))}
    assert geometry.parts == {"slow": (0, 16), "fast": (0, 16)}


def test_pathways_may_see_windows_of_their_own() -> None:
    model = build(recipes.load("smoke")).eval()
    encoder = Encoder(model, fixed_geometry(Own()), PATHWAYS).eval()  # type: ignore[arg-type]
    frames = torch.randint(
        0, 256, (2, 16, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    window = to_input(frames)
    with torch.no_grad():
        found = encoder(frames)
        theirs = model.features(
            {"slow": window[:, :, :8], "fast": window[:, :, 8:]},
            {"slow": torch.arange(0, 8, 2).expand(2, -1), "fast": torch.arange(8).expand(2, -1)},
        )
    for pathway in PATHWAYS:
        torch.testing.assert_close(found[pathway], theirs[pathway])


def test_windows_that_are_read_in_different_ways_are_refused() -> None:
    with pytest.raises(RunError, match="differ in the frames that pathways read"):
        fixed_geometry(Own(moves=True))  # type: ignore[arg-type]
