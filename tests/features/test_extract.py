"""Features of whole videos: what each pathway sees is what the sampler says, and so in every way of
measuring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vcsf_cli.config.recipe import load
from vcsf_cli.contracts import View
from vcsf_cli.data.augment import to_input
from vcsf_cli.data.clips import EvalClips
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.features.extract import extract
from vcsf_cli.model.pathways import build


class Apart:
    """The slow pathway sees the first half of a window, the fast one the second."""

    length = 16

    def cover(self, frames: int) -> list[View]:
        parts = {"slow": (0, 8), "fast": (8, 16)}
        return [View(np.arange(16) % frames, np.arange(0, 8, 4), np.arange(8), parts)]


def test_a_pathway_sees_its_part_of_a_window(tiny_data: Path) -> None:
    recipe = load(
        "demo", ["data.name=synthetic", "data.size=32", "backbone.channels=[4, 8, 8, 16]"]
    )
    model = build(recipe).eval()
    videos = EvalClips(Manifest.open(tiny_data / "synthetic"), [0, 3], Apart(), 0.875, 32)  # type: ignore[arg-type]  # measuring only covers
    found = extract(model, videos, torch.device("cpu"), 0)
    for index in range(2):
        item = videos[index]
        frames = item["frames"][item["windows"][0]][None]
        (view,) = videos.windows(videos.rows[index])
        for pathway, part in (("slow", frames[:, :8]), ("fast", frames[:, 8:])):
            positions = torch.from_numpy(view.positions(pathway))[None]
            with torch.no_grad():
                expected = model.features(to_input(part), {pathway: positions})[pathway]
            np.testing.assert_allclose(found[pathway][index], expected[0].numpy(), atol=1e-5)


def test_measuring_reads_clips_as_the_last_stage_did() -> None:
    recipe = load("demo", ["stages=[{}, {sampler: {frames: 8}}]"])
    assert [
        stage.sampler.settings["frames"] for stage in (recipe.first_stage, recipe.last_stage)
    ] == [16, 8]


@pytest.mark.parametrize("jitter", ["[-0.4, 0.4, 0.4, 0.1]", "[0.4, 0.4, 0.4, -0.1]"])
def test_a_strength_is_not_negative(jitter: str) -> None:
    from vcsf_cli.errors import RecipeError

    with pytest.raises(RecipeError, match="jitter"):
        load("demo", [f"augment.jitter={jitter}"])
