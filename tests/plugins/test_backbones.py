"""Backbones: parameters and operations as documented, stages, what sees time, and timm's networks
given back to timm."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.video import R2Plus1D_18_Weights, R3D_18_Weights, S3D_Weights
from vcsf_plugins import backbones
from vcsf_plugins.backbones.temporal import TemporalAttention, TemporalConvolution, temporal_shift
from vcsf_plugins.backbones.torchvision_nets import MaxPool3d

from vcsf_cli import registry
from vcsf_cli.errors import RecipeError, UnknownName, VcsfError
from vcsf_cli.model.cost import costs
from vcsf_cli.model.pathways import Head, Pathway

DOCUMENTED = [
    (backbones.s3d, S3D_Weights.DEFAULT, 224, 1024),
    (backbones.r3d18, R3D_18_Weights.DEFAULT, 112, 512),
    (backbones.r2plus1d18, R2Plus1D_18_Weights.DEFAULT, 112, 512),
]
"""Backbone, its weights in torchvision, the side of the clip that torchvision counts operations on,
C."""

STAGES = {
    "s3d": (64, 192, 480, 832, 1024),
    "r3d18": (64, 64, 128, 256, 512),
    "r2plus1d18": (64, 64, 128, 256, 512),
    "slowfast_r50": (64, 256, 512, 1024, 2048),
    "small": (16, 32, 64, 128),
}


LAST_SIDE = {"s3d": 2, "r3d18": 4, "r2plus1d18": 4, "slowfast_r50": 2, "small": 4}
"""Height and width of the features of 64 px: ResNets of torchvision halve the image once less."""


def parameters(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def multiply_accumulates(network: nn.Module, frames: int, size: int) -> float:
    """In billions; torch's counter counts a multiplication and an addition apart."""
    network.to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, frames, size, size, device="meta"))
    return counter.get_total_flops() / 2e9


def awake(network: nn.Module) -> nn.Module:
    """A network whose norms and projections that start at zero don't any more."""
    for name, weight in network.named_parameters():
        if not weight.any() and not name.endswith("bias"):
            nn.init.normal_(weight)
    return network.eval()


@pytest.mark.parametrize(("backbone", "weights", "size", "channels"), DOCUMENTED)
def test_parameters_and_operations_are_those_that_torchvision_documents(
    backbone: Callable[[], nn.Module], weights: Any, size: int, channels: int
) -> None:
    """It counts multiply-accumulates of 16 frames, and its classifier of 400 classes, which is not
    here."""
    network = backbone()
    classes = len(weights.meta["categories"])
    assert parameters(network) + (channels + 1) * classes == weights.meta["num_params"]
    counted = multiply_accumulates(network, 16, size) + channels * classes / 1e9
    assert round(counted, 3) == weights.meta["_ops"]


def test_slow_of_slowfast_has_the_published_parameters_and_operations() -> None:
    """PyTorchVideo's model zoo: Slow R50 of 8 frames of 256 px has 32.45 M and 54.52 GFLOPs with
    400 classes."""
    slow = backbones.slowfast_r50(pathway="slow")
    classifier = 2048 * 400
    assert round((parameters(slow) + classifier + 400) / 1e6, 2) == 32.45
    assert round(multiply_accumulates(slow, 8, 256) + classifier / 1e9, 2) == 54.52


def test_an_eighth_of_the_width_is_the_papers_fast_pathway() -> None:
    """Table 1 of the paper: 8, 32, 64, 128 and 256 channels, 32 frames all the way."""
    fast = backbones.slowfast_r50(width=0.125, pathway="fast").eval()
    assert fast.channels == (8, 32, 64, 128, 256)
    shapes = []
    with torch.no_grad():
        fast(
            torch.randn(1, 3, 32, 32, 32),
            lambda stage, features: (shapes.append(tuple(features.shape[2:])), features)[1],
        )
    assert shapes == [(32, 16, 16), (32, 8, 8), (32, 4, 4), (32, 2, 2), (32, 1, 1)]


def test_slowfast_looks_along_time_where_the_paper_says() -> None:
    for pathway, stem, kernels in (("slow", 1, (1, 1, 3, 3)), ("fast", 5, (3, 3, 3, 3))):
        network = registry.load().build("backbone", "slowfast_r50", width=0.125, pathway=pathway)
        assert network.stages[0][0].kernel_size == (stem, 7, 7)
        for layers, blocks, kernel in zip(network.stages[1:], (3, 4, 6, 3), kernels, strict=True):
            found = [
                [module.kernel_size for module in layer.body if isinstance(module, nn.Conv3d)]
                for layer in layers
                if hasattr(layer, "body")
            ]
            assert found == [[(kernel, 1, 1), (1, 3, 3), (1, 1, 1)]] * blocks


@pytest.mark.parametrize(
    ("name", "pathway", "frames", "steps"),
    [
        ("s3d", "slow", 8, [8, 8, 8, 4, 2]), ("s3d", "fast", 32, [16, 16, 16, 8, 4]),
        ("r3d18", "slow", 8, [8, 8, 8, 4, 2]), ("r3d18", "fast", 32, [32, 32, 16, 8, 4]),
        ("r2plus1d18", "slow", 8, [8, 8, 8, 4, 2]), ("r2plus1d18", "fast", 32, [32, 32, 16, 8, 4]),
        ("slowfast_r50", "slow", 8, [8] * 5), ("slowfast_r50", "fast", 32, [32] * 5),
        ("small", "slow", 8, [8, 8, 8, 4]), ("small", "fast", 32, [16, 8, 4, 2]),
    ],
)  # fmt: skip
def test_stages_have_the_channels_and_steps_they_say(
    name: str, pathway: str, frames: int, steps: list[int]
) -> None:
    network = registry.load().build("backbone", name, pathway=pathway).to("meta")
    assert network.channels == STAGES[name]
    seen = []

    def between(stage: int, features: Tensor) -> Tensor:
        seen.append((stage, tuple(features.shape[:3])))
        return features

    features = network(torch.zeros(2, 3, frames, 64, 64, device="meta"), between)
    channels = zip(STAGES[name], steps, strict=True)
    assert seen == [(stage, (2, *shape)) for stage, shape in enumerate(channels, start=1)]
    assert features.shape == (2, STAGES[name][-1], steps[-1], LAST_SIDE[name], LAST_SIDE[name])


def build(name: str) -> Any:
    settings = {"timm": {"model": "test_resnet"}, "slowfast_r50": {"width": 0.125}}.get(name, {})
    torch.manual_seed(0)
    return registry.load().build("backbone", name, **settings).eval()


@pytest.mark.parametrize("name", [*STAGES, "timm"])
def test_what_between_returns_is_what_the_next_stage_sees(name: str) -> None:
    """A stage whose features are replaced by ones leaves nothing of the clip to the stages after
    it."""
    network = build(name)
    first, other = torch.randn(2, 1, 3, 8, 32, 32)
    last = len(network.channels)
    with torch.no_grad():
        assert not torch.equal(network(first), network(other))
        for replaced in range(1, last + 1):

            def between(stage: int, features: Tensor, replaced: int = replaced) -> Tensor:
                return torch.ones_like(features) if stage == replaced else features

            assert torch.equal(network(first, between), network(other, between))
        assert torch.equal(network(first, between), torch.ones_like(network(first)))


def test_s3ds_batch_norm_follows_fast_enough_for_short_runs() -> None:
    norms = [module for module in backbones.s3d().modules() if isinstance(module, nn.BatchNorm3d)]
    assert norms
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.1, 1e-5)}


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("pathway", ["slow", "fast"])
def test_s3ds_pools_over_space_and_then_time_are_the_same(
    pathway: Any, order: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = backbones.s3d(pathway=pathway).double()
    clip = torch.randn(2, 3, 8, 48, 48, dtype=torch.float64).contiguous(memory_format=order)
    found = []
    for pool in (nn.MaxPool3d.forward, MaxPool3d.separable):
        monkeypatch.setattr(MaxPool3d, "forward", pool)
        network.zero_grad()
        features = network(clip)
        features.square().sum().backward()
        found.append([features, *(weight.grad for weight in network.parameters())])
    # Every pool is one that a GPU may take apart.
    assert {type(each) for each in network.modules() if isinstance(each, nn.MaxPool3d)} == {
        MaxPool3d
    }
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_pools_keep_the_channel_last_in_memory() -> None:
    features = torch.randn(2, 5, 6, 9, 10).contiguous(memory_format=torch.channels_last_3d)
    for settings in ((3, 1, 1), ((1, 3, 3), (1, 2, 2), (0, 1, 1)), (2, 2, 0)):
        pooled = MaxPool3d(*settings).separable(features)
        assert pooled.is_contiguous(memory_format=torch.channels_last_3d)


def test_strides_that_a_residual_network_can_not_have() -> None:
    with pytest.raises(RecipeError, match="layer 1 has no projection"):
        backbones.r2plus1d18(temporal_strides=(2, 2, 2, 2))


TIMM = ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_mambaout"]
"""A CNN that names its stem, a transformer with a class token, a CNN without a stem, one that ends
in a convolution after its last stage, and one with the channels last."""


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("temporal", ["shift", "convolution", "attention", "none"])
def test_timms_networks_have_stages(name: str, temporal: str) -> None:
    network = registry.load().build("backbone", "timm", model=name, temporal=temporal).eval()
    assert len(network.channels) == 5
    seen = []

    def between(stage: int, features: Tensor) -> Tensor:
        seen.append((stage, features.shape[1]))
        assert features.shape[:3] == (2, network.channels[stage - 1], 3)
        return features

    with torch.no_grad():
        features = network(torch.randn(2, 3, 3, 48, 48), between)
    assert seen == list(enumerate(network.channels, start=1))
    assert features.shape[:3] == (2, network.channels[-1], 3)


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("temporal", ["convolution", "attention", "none"])
def test_at_the_start_each_frame_has_timms_own_features(name: str, temporal: Any) -> None:
    network = backbones.timm_images(model=name, temporal=temporal).eval()
    clip = torch.randn(2, 3, 3, 48, 48)
    with torch.no_grad():
        features = network(clip)
        for step in range(3):
            own = network.image.forward_features(clip[:, :, step])
            if own.dim() == 3:
                own = own[:, network.image.num_prefix_tokens :].transpose(1, 2).unflatten(2, (3, 3))
            elif name == "test_mambaout":
                own = own.permute(0, 3, 1, 2)
            torch.testing.assert_close(features[:, :, step], own)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
@pytest.mark.parametrize(
    ("temporal", "sees"),
    [("shift", True), ("convolution", True), ("attention", True), ("none", False)],
)
def test_the_temporal_part_sees_the_order_of_frames(name: str, temporal: Any, sees: bool) -> None:
    torch.manual_seed(0)
    network = awake(backbones.timm_images(model=name, temporal=temporal))
    clip = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        forwards = network(clip).mean((2, 3, 4))
        backwards = network(clip.flip(2)).mean((2, 3, 4))
    assert torch.allclose(forwards, backwards, atol=1e-5) != sees


@pytest.mark.parametrize("name", TIMM)
def test_weights_go_back_into_timm(name: str) -> None:
    """Strictly: the temporal part is outside, and no key has another name."""
    network = backbones.timm_images(model=name, temporal="convolution").eval()
    theirs = timm.create_model(name, num_classes=0).eval()
    theirs.load_state_dict(network.image.state_dict(), strict=True)
    assert not any(key.startswith("image.") and "temporal" in key for key in network.state_dict())
    frame = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(
            theirs.forward_features(frame), network.image.forward_features(frame)
        )


def test_nothing_of_a_clip_stays_in_timms_network() -> None:
    """It is the same network after a clip as before: no hook is left, and a copy works alone."""
    network = backbones.timm_images(model="test_vit").eval()
    clip = torch.randn(1, 3, 2, 32, 32)
    with pytest.raises(ZeroDivisionError):
        network(clip, lambda stage, features: 1 // 0)
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in network.modules()
    )
    twin = copy.deepcopy(network)
    for weight in network.parameters():
        nn.init.zeros_(weight)
    with torch.no_grad():
        assert twin(clip).any()


def test_pretrained_weights_are_loaded_by_timm(tmp_path: Path) -> None:
    """From a folder here: `local-dir:` is a way of timm's to name weights without the network."""
    published = timm.create_model("test_resnet")
    timm.models.save_for_hf(
        published, tmp_path, model_config={"pretrained_cfg": {}}, safe_serialization=True
    )
    for pretrained in (True, False):
        network = backbones.timm_images(model=f"local-dir:{tmp_path}", pretrained=pretrained)
        key = next(iter(network.image.state_dict()))
        same = torch.equal(network.image.state_dict()[key], published.state_dict()[key])
        assert same == pretrained


def test_pretrained_weights_that_can_not_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def offline(name: str, pretrained: bool = False, **settings: Any) -> Any:
        if pretrained:
            raise ConnectionError("no route to host")
        return create(name, **settings)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        VcsfError, match="weights of timm model `test_resnet` can't be loaded: ConnectionError"
    ) as caught:
        backbones.timm_images(model="test_resnet", pretrained=True)
    assert not isinstance(caught.value, RecipeError)
    assert "pretrained to false" in caught.value.hint


def test_a_model_that_timm_does_not_have() -> None:
    with pytest.raises(UnknownName, match="unknown timm model `resnet19`") as caught:
        backbones.timm_images(model="resnet19")
    assert caught.value.hint == "did you mean `resnet18`?"
    with pytest.raises(RecipeError, match=r"can't build `resnet18\.of_mine`"):
        backbones.timm_images(model="resnet18.of_mine")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("legacy_xception", "features bypass the end of stage"),
        ("hrnet_w18_small", "no module `stage1`"),
        ("coat_lite_tiny", "not run once and in order"),
        ("crossvit_tiny_240", "not end with one map"),
    ],
)
def test_a_model_that_is_not_a_chain_of_stages(name: str, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason) as caught:
        backbones.timm_images(model=name)
    assert f"`{name}` can't be cut into stages" in caught.value.message


def test_a_model_for_images_of_one_size_says_so() -> None:
    network = backbones.timm_images(model="test_vit_relpos")
    assert network(torch.randn(1, 3, 1, 160, 160)).shape == (1, 96, 1, 10, 10)
    with pytest.raises(RecipeError, match="160 x 160 pixels only, not 128 x 128"):
        network(torch.randn(1, 3, 1, 128, 128))


def test_images_that_are_not_square() -> None:
    network = backbones.timm_images(model="test_vit").eval()
    assert network(torch.randn(1, 3, 2, 32, 64)).shape == (1, 64, 2, 2, 4)


def test_the_shift_moves_an_eighth_each_way() -> None:
    features = torch.arange(1.0, 4.0).view(1, 1, 3, 1, 1).expand(1, 16, 3, 1, 1)
    moved = temporal_shift(features)[0, :, :, 0, 0].tolist()
    assert moved == [[0, 1, 2]] * 2 + [[2, 3, 0]] * 2 + [[1, 2, 3]] * 12


@pytest.mark.parametrize("part", [TemporalConvolution, TemporalAttention])
def test_temporal_parts_learn_from_the_identity(part: Callable[[int], nn.Module]) -> None:
    module, features = part(12), torch.randn(2, 12, 4, 3, 3)
    torch.testing.assert_close(module(features), features)
    module(features).square().sum().backward()
    assert (
        sum(bool(weight.grad.any()) for weight in module.parameters() if weight.grad is not None)
        >= 2
    )


def test_attention_is_over_time_at_one_position() -> None:
    """One head's softmax by hand, at one position, from the module's own weights."""
    torch.manual_seed(0)
    attention = TemporalAttention(3)
    nn.init.normal_(attention.output.weight)
    features = torch.randn(1, 3, 4, 2, 2)
    steps = features[0, :, :, 1, 0].T
    angles = np.arange(4)
    waves = np.stack([np.sin(angles), np.cos(angles), np.sin(angles * 10000 ** (-2 / 3))], 1)
    with torch.no_grad():
        query, key, value = (
            attention.inputs(attention.norm(steps) + torch.tensor(waves).float())
        ).chunk(3, 1)
        expected = steps + attention.output((query @ key.T / 3**0.5).softmax(1) @ value)
        torch.testing.assert_close(attention(features)[0, :, :, 1, 0].T, expected)


class Scaled(nn.Module):
    """A motion module whose operations are easily counted, a pointwise convolution; its norm of one
    value a channel works in evaluation alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(channels, channels, 1)
        self.norm = nn.BatchNorm3d(channels)

    def forward(self, features: Tensor, window: Tensor) -> Tensor:
        return self.convolution(features) * self.norm(features.mean((2, 3, 4), keepdim=True))


class Counted(nn.Module):
    """A backbone of one convolution of 3x3x3 to 4 channels on T frames."""

    channels = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(3, 4, 3, padding=1, bias=False)

    def forward(self, clip: Tensor, between: Callable[[int, Tensor], Tensor]) -> Tensor:
        return between(1, self.convolution(clip))


def test_costs_are_those_counted_by_hand() -> None:
    pathway = Pathway(Counted(), {1: Scaled(4)}, Head(4, 5, 6), difference=False).train()
    found = costs(pathway, torch.tensor([0, 4]), length=8, size=10)
    values = 4 * 2 * 10 * 10  # channels, frames, pixels
    assert found["backbone"].flops == 2 * values * (3 * 27)
    assert found["motion"].flops == 2 * values * 4
    assert found["head"].flops == 2 * (4 * 5 + 5 * 6)
    assert {part: cost.parameters for part, cost in found.items()} == {
        "backbone": 4 * 3 * 27,
        "motion": 4 * 4 + 4 + 2 * 4,
        "head": 4 * 5 + 5 + 5 * 6 + 6,
    }
    assert pathway.training
    assert all(weight.device.type == "cpu" for weight in pathway.parameters())


class Curious(nn.Module):
    """A backbone that reads values, so that its operations can't be counted from shapes alone."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone, self.channels = backbone, backbone.channels

    def forward(self, clip: Tensor, between: Callable[[int, Tensor], Tensor]) -> Tensor:
        assert float(clip.sum()) == 0
        features: Tensor = self.backbone(clip, between)
        return features


def backbone_flops(backbone: nn.Module, size: int) -> int:
    """Operations of a backbone on a clip of two frames."""
    head = Head(backbone.channels[-1], 4, 2)
    pathway = Pathway(backbone, {}, head, difference=False)
    return costs(pathway, torch.arange(2), 2, size)["backbone"].flops


def test_a_part_that_must_see_numbers_is_counted_too() -> None:
    assert backbone_flops(Curious(Counted()), 10) == 2 * 4 * 2 * 100 * 81


@pytest.mark.parametrize("temporal", ["convolution", "attention"])
def test_shapes_alone_are_enough_to_count(temporal: Any) -> None:
    """Attention included, whose fused kernels torch does not count on a CPU."""
    network = backbones.timm_images(model="test_vit", temporal=temporal)
    counted = backbone_flops(network, 32)
    assert counted == backbone_flops(Curious(network), 32)
    blocks = [block.attn for block in network.image.blocks]
    tokens, channels = 5, 64
    products = 2 * sum(
        4 * tokens * channels**2 + 2 * tokens**2 * channels for _ in blocks
    )  # of two frames
    perceptrons = 2 * sum(
        2 * tokens * block.mlp.fc1.weight.numel() for block in network.image.blocks
    )
    embedding = 2 * 4 * channels * 3 * 16 * 16
    ours = {
        "convolution": 2 * 4 * channels * 3 * 5,
        "attention": 4 * (2 * 4 * channels**2 + 2 * 2 * 2 * channels),
    }
    assert counted == 2 * (products + perceptrons + embedding + ours[temporal])


@pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
def test_a_temporal_part_costs_what_it_adds(model: str) -> None:
    """A depthwise convolution is three multiply-accumulates a value, a shift none."""
    none = backbone_flops(backbones.timm_images(model=model, temporal="none"), 32)
    shift = backbone_flops(backbones.timm_images(model=model, temporal="shift"), 32)
    assert shift == none > 0
    network = backbones.timm_images(model=model, temporal="convolution")
    values = []
    with torch.no_grad():
        network.eval()(
            torch.zeros(1, 3, 2, 32, 32),
            lambda stage, features: (values.append(features.numel()), features)[1],
        )
    assert backbone_flops(network, 32) - none == 2 * 3 * sum(values)
