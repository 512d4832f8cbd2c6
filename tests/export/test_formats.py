"""Writing encoders: every network becomes one graph, image networks go back into timm, ONNX's
missing pool is made up for."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from vcsf_cli.config import recipe as recipes
from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.data.augment import to_input
from vcsf_cli.errors import RunError
from vcsf_cli.export import formats
from vcsf_cli.export.encoder import Encoder
from vcsf_cli.model.parts import build_sampler, fixed_geometry
from vcsf_cli.model.pathways import TwoPathways, build


def networks(*assignments: str) -> tuple[TwoPathways, Encoder]:
    """Tiny networks with random weights, none of them zero, and their encoder."""
    recipe = recipes.load("smoke", assignments)
    model = build(recipe).eval()
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if not weight.any():  # what starts as the identity would be tested as such
            nn.init.normal_(weight, std=0.1, generator=generator)
    return model, Encoder(model, fixed_geometry(build_sampler(recipe.first_stage)), PATHWAYS).eval()


def clips(count: int) -> torch.Tensor:
    return torch.randint(
        0,
        256,
        (count, 8, 32, 32, 3),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(count),
    )


@torch.no_grad()
def expected(model: TwoPathways, windows: torch.Tensor) -> dict[str, torch.Tensor]:
    """Features by the path that training takes."""
    view = build_sampler(recipes.load("smoke").first_stage).cover(8)[0]
    positions = {
        name: torch.from_numpy(view.positions(name)).expand(len(windows), -1) for name in PATHWAYS
    }
    return model.features(to_input(windows), positions)


@pytest.mark.parametrize(
    "assignments",
    [
        ["motion={name: difference_gate, after: [1, 2, 3, 4]}"],
        ["motion={name: difference_map, after: [2, 4]}", "slow.input=difference", "fast.input=rgb"],
        ["motion={name: additive, after: [2]}"],
        ["motion={name: correlation, after: [2]}"],
        ["backbone={name: timm, model: test_resnet, temporal: shift}"],
        ["backbone={name: timm, model: test_vit, temporal: attention}"],
    ],
    ids=lambda assignments: assignments[0],
)
def test_networks_become_one_graph_for_batches_of_any_size(assignments: list[str]) -> None:
    model, encoder = networks(*assignments)
    program = formats.trace_encoder(encoder, 32).module()
    for count in (1, 3):
        theirs = expected(model, clips(count))
        with torch.no_grad():
            found = (encoder(clips(count)), program(clips(count)))
        for ours in found:
            assert ours.keys() == theirs.keys()
            for name, features in theirs.items():
                torch.testing.assert_close(
                    ours[name], features, rtol=0, atol=1e-5 * float(features.abs().max())
                )


def test_what_looks_at_values_can_not_be_made_a_graph_and_that_is_told_in_one_line(
    capfd: pytest.CaptureFixture[str],
) -> None:
    class Stubborn(nn.Module):
        def forward(self, features: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
            return features * 2 if features.mean() > 0 else features

    _, encoder = networks()
    encoder.slow.motion["2"] = Stubborn()  # type: ignore[union-attr,operator]
    with pytest.raises(
        RunError, match="these networks can't be made a graph of PyTorch's: "
    ) as caught:
        formats.trace_encoder(encoder, 32)
    assert "\n" not in caught.value.message
    assert "--format safetensors" in caught.value.hint
    assert capfd.readouterr() == ("", "")  # torch would print the whole graph


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_image_networks_go_back_into_timm(name: str, tmp_path: Path) -> None:
    _, encoder = networks(f"backbone={{name: timm, model: {name}}}")
    assert formats.write_images(encoder, tmp_path) == [
        "timm-slow.safetensors",
        "timm-fast.safetensors",
    ]
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    for pathway in PATHWAYS:
        plain = timm.create_model(name, num_classes=0)
        plain.load_state_dict(load_file(tmp_path / f"timm-{pathway}.safetensors"), strict=True)
        ours = encoder.get_submodule(f"{pathway}.backbone.image")
        with torch.no_grad():
            assert torch.equal(plain.eval().forward_features(images), ours.forward_features(images))


@given(
    old=st.tuples(*[st.integers(1, 9)] * 3),
    new=st.tuples(*[st.integers(1, 9)] * 3),
)
@settings(max_examples=60)
def test_the_pool_that_onnx_lacks(old: tuple[int, int, int], new: tuple[int, int, int]) -> None:
    features = torch.randn(2, 3, *old, generator=torch.Generator().manual_seed(sum(old)))
    torch.testing.assert_close(
        formats.adaptive_average(features, new),
        functional.adaptive_avg_pool3d(features, new),
        rtol=1e-5,
        atol=1e-6,
    )
