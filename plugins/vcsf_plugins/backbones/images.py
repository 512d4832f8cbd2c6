"""Image networks of timm as encoders of clips: frame by frame, with a temporal part of ours between
their stages."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vcsf_cli.contracts import identity
from vcsf_cli.errors import RecipeError, UnknownName, VcsfError
from vcsf_plugins.backbones.staged import Between
from vcsf_plugins.backbones.temporal import TemporalAttention, TemporalConvolution, temporal_shift

Temporal = Literal["shift", "convolution", "attention", "none"]

Network = Any
"""A module of timm, with `forward_features` and what else timm gives its networks, none of it
typed."""

GROUPS = 4
"""Stages of a transformer's blocks, which all have one resolution; its patch embedding is one
more."""


@dataclass(frozen=True)
class Cut:
    """Where a stage ends inside an image network.

    Args:
        module: The module's name.
        before: Whether the stage ends with the module's input; else with its output.
    """

    module: str
    before: bool = False


@dataclass(frozen=True)
class Layout:
    """How an image network lays out its features, which are a map (N, C, h, w) to everybody else.

    Args:
        kind: `NCHW`, `NHWC`, or tokens `NLC`.
        prefix: Tokens before those of the map, such as a class token; they pass the end of a stage
            unchanged.
    """

    kind: Literal["NCHW", "NHWC", "NLC"]
    prefix: int

    def to_map(self, features: Tensor, height: int, width: int) -> Tensor:
        """The map (N, C, h, w) in features of images of `height` and `width`."""
        if self.kind == "NCHW":
            return features
        if self.kind == "NHWC":
            return features.permute(0, 3, 1, 2)
        tokens = features[:, self.prefix :]
        rows = max(1, round(math.sqrt(tokens.shape[1] * height / width)))
        return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], rows, -1)

    def from_map(self, image_map: Tensor, features: Tensor) -> Tensor:
        """The features with `image_map` in the place of theirs."""
        if self.kind == "NCHW":
            return image_map
        if self.kind == "NHWC":
            return image_map.permute(0, 2, 3, 1)
        tokens = image_map.flatten(2).transpose(1, 2)
        return torch.cat([features[:, : self.prefix], tokens], 1) if self.prefix else tokens


class ImageFrames(nn.Module):
    """A timm network on every frame, with a temporal part after each stage.

    The network runs as timm wrote it; at the end of a stage its features are taken out, reshaped to
    those of a clip, and what comes back takes their place. So `image` keeps timm's own keys and its
    weights go back into timm.

    Args:
        image: The network of timm.
        cuts: Where its stages end, but for the last, which ends with timm's `forward_features`.
        layouts: How features are laid out at the end of each stage.
        channels: Channels after each stage.
        temporal: Kind of the temporal part.
        size: Height and width of the only images that it can read, if it can't read others.
        uses_labels: Whether labels may have trained the network.
    """

    def __init__(
        self,
        image: Network,
        cuts: Sequence[Cut],
        layouts: Sequence[Layout],
        channels: Sequence[int],
        temporal: Temporal,
        size: tuple[int, int] | None,
        uses_labels: bool,
    ) -> None:
        super().__init__()
        self.image: Network = image
        self.cuts = tuple(cuts)
        self.layout = tuple(layouts)
        self.channels = tuple(channels)
        self.size = size
        self.uses_labels = uses_labels
        self.shift = temporal == "shift"
        self.temporal = nn.ModuleDict()
        if temporal == "convolution":
            for stage, width in enumerate(channels, start=1):
                self.temporal[str(stage)] = TemporalConvolution(width)
        elif temporal == "attention":
            self.temporal[str(len(channels))] = TemporalAttention(channels[-1])

    def forward(self, clip: Tensor, between: Between = identity) -> Tensor:
        """Features (B, C, T, h, w) of clips (B, 3, T, H, W).

        Raises:
            RecipeError: If the network can't read images of this size.
        """
        time, height, width = clip.shape[2:]
        if self.size not in (None, (height, width)):
            raise RecipeError(
                f"this timm model reads images of {self.size[0]} x {self.size[1]} pixels only, "
                f"not {height} x {width}",
                f"set data.size to {self.size[0]}, or take a model for images of any size",
            )

        def end(stage: int, features: Tensor) -> Tensor:
            """The features of `time` frames each, in timm's layout, as the next stage shall see
            them."""
            layout = self.layout[stage - 1]
            image_map = layout.to_map(features, height, width)
            video = self.after(stage, _as_clips(image_map, time), between)
            return layout.from_map(video.transpose(1, 2).flatten(0, 1), features)

        with _cutting(self.image, self.cuts, end):
            features = self.image.forward_features(clip.transpose(1, 2).flatten(0, 1))
        image_map = self.layout[-1].to_map(features, height, width)
        return self.after(len(self.channels), _as_clips(image_map, time), between)

    def after(self, stage: int, features: Tensor, between: Between) -> Tensor:
        """What the next stage sees of a stage's features (B, C, T, h, w)."""
        if str(stage) in self.temporal:
            features = self.temporal[str(stage)](features)
        features = between(stage, features)
        return temporal_shift(features) if self.shift and stage < len(self.channels) else features


def _as_clips(frames: Tensor, time: int) -> Tensor:
    """Clips (B, C, T, h, w) of maps (B * T, C, h, w)."""
    return frames.reshape(-1, time, *frames.shape[1:]).transpose(1, 2)


@contextmanager
def _cutting(
    image: Network, cuts: Sequence[Cut], end: Callable[[int, Tensor], Tensor]
) -> Iterator[None]:
    """While it lasts, an image network goes on with `end(stage, features)` where a stage ends."""

    def replace(stage: int, value: Any) -> Any:
        # Some modules return their features and something beside them, such as their size.
        if isinstance(value, tuple):
            return (end(stage, value[0]), *value[1:])
        return end(stage, value)

    handles = []
    for stage, cut in enumerate(cuts, start=1):
        module = image.get_submodule(cut.module)
        if cut.before:
            handles.append(
                module.register_forward_pre_hook(
                    lambda _, inputs, stage=stage: replace(stage, inputs)
                )
            )
        else:
            handles.append(
                module.register_forward_hook(
                    lambda _, inputs, output, stage=stage: replace(stage, output)
                )
            )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def timm_images(
    *, model: str, pretrained: bool = False, temporal: Temporal = "shift"
) -> ImageFrames:
    """Any image network of timm that is a chain of stages, CNN or transformer, on each frame, with
    a temporal part.

    Stages are timm's own (`feature_info`), after a stem where timm names none; a transformer's are
    its patch embedding and four groups of its blocks. The last ends where timm's features end, with
    their final norm or convolution. A class token is carried along and left out of the features. No
    part strides time. What only timm's classifier uses, such as a norm after the pool, stays in
    `image` untrained.

    The temporal part, none of it timm's, follows these papers but for what is said:

    - `shift` (TSM, Lin et al., ICCV 2019): an eighth of the channels comes from the frame before,
      an eighth from the one after. Here all of a stage's input is shifted, there the residual
      branch of every block.
    - `convolution`: a depthwise 3x1x1 convolution beside the features of every stage, as in
      R(2+1)D's factorisation, but residual, and nothing at the start.
    - `attention` (divided attention as in TimeSformer, Bertasius et al., ICML 2021): each position
      over time, residual and nothing at the start. Here after the last stage alone, there in every
      block.

    Clips keep vcsf's normalisation, ImageNet's; some of timm's weights were trained with another.

    Args:
        model: Its name in timm, such as `resnet18`, `convnext_tiny` or `vit_small_patch16_224`.
        pretrained: Start from timm's weights, fetched or from its cache; most of them have seen
            labels.
        temporal: What looks along time: `shift`, `convolution`, `attention`, or `none`.
    """
    blank = _image_network(model)
    cuts, layouts, channels = _describe_stages(model, blank)
    settings = blank.pretrained_cfg
    fixed = settings.get("fixed_input_size") and not _any_size(type(blank))
    size = tuple(settings["input_size"][-2:]) if fixed else None
    image = _image_network(model, pretrained, device="cpu", **_any_size(type(blank)))
    return ImageFrames(image, cuts, layouts, channels, temporal, size, pretrained)


def _any_size(network: type[nn.Module]) -> dict[str, bool]:
    """The settings by which a class of timm networks reads images of any size, as far as it has
    them."""
    known = inspect.signature(network).parameters
    return {name: True for name in ("dynamic_img_size", "dynamic_img_pad") if name in known}


def _image_network(
    model: str, pretrained: bool = False, device: str = "meta", **settings: Any
) -> Network:
    """A network of timm without its classifier; on the device `meta` it costs next to nothing.

    Raises:
        UnknownName: If timm has no such model.
        RecipeError: If it can't be built.
        VcsfError: If its weights can't be had.
    """
    import timm  # it takes a second to import, so only those who use it wait

    named = model.split(".")[0]  # after the dot: which of its weights
    if ":" not in model and not timm.is_model(named):
        raise UnknownName("timm model", named, timm.list_models(), "`backbone.model`")
    try:
        with torch.device(device):
            return timm.create_model(model, pretrained=pretrained, num_classes=0, **settings)
    except Exception as error:  # what the clients of weight hosts raise is theirs, and changes
        reason = f"{type(error).__name__}: {error}"
        if not pretrained:
            raise RecipeError(
                f"timm can't build `{model}`: {reason}", "see backbone.model"
            ) from error
        raise VcsfError(
            f"the weights of timm model `{model}` can't be had: {reason}",
            "timm fetches them once and keeps them, so be online that once; or set "
            "backbone.pretrained to false",
        ) from error


def _stage_cuts(image: Network) -> list[Cut]:
    """Where the stages of a network end, but for its last, as timm describes them."""
    stages = [dict(image.feature_info[index]) for index in range(len(image.feature_info))]
    if len(stages) > GROUPS and len({stage["reduction"] for stage in stages}) == 1:
        ends = [stages[len(stages) * group // GROUPS - 1]["module"] for group in range(1, GROUPS)]
        return [Cut(stages[0]["module"], before=True), *map(Cut, ends)]
    named = stages[0]["reduction"] <= 2 or "stem" in stages[0]["module"]
    stem = [] if named else [Cut(stages[0]["module"], before=True)]
    return [*stem, *(Cut(stage["module"]) for stage in stages[:-1])]


def _describe_stages(model: str, image: Network) -> tuple[list[Cut], list[Layout], list[int]]:
    """Cuts, layouts and channels of the stages of a network on the device `meta`.

    It is run once. At each cut the gradient must come from the cut before and from nowhere else:
    whatever passes by a cut would never see a motion module.

    Raises:
        RecipeError: If its stages are no such chain.
    """
    cuts = _stage_cuts(image)
    layouts: list[Layout] = []
    channels: list[int] = []
    starts = [
        torch.zeros(2, *image.pretrained_cfg["input_size"], device="meta", requires_grad=True)
    ]

    def refuse(reason: str) -> RecipeError:
        return RecipeError(
            f"timm model `{model}` can't be cut into stages: {reason}",
            "take one that is a chain of stages, such as resnet18, convnext_tiny or "
            "vit_small_patch16_224",
        )

    def end(stage: int, features: Any) -> Tensor:
        if stage != len(starts):
            raise refuse("its stages are not run once and in order")
        layout = _feature_layout(
            features, getattr(image, "num_prefix_tokens", 0), getattr(image, "output_fmt", None)
        )
        if layout is None:
            raise refuse(f"stage {stage} does not end with one map of features")
        gradients = torch.autograd.grad(
            features.sum(), starts, allow_unused=True, retain_graph=True
        )
        if [gradient is not None for gradient in gradients] != [False] * (stage - 1) + [True]:
            raise refuse(f"something passes by the end of stage {stage - 1}")
        layouts.append(layout)
        channels.append(layout.to_map(features, *starts[0].shape[2:]).shape[1])
        starts.append(features.detach().requires_grad_())
        return starts[-1] * 1  # so that the network may work in place

    unknown = {cut.module for cut in cuts} - {name for name, _ in image.named_modules()}
    if unknown:
        raise refuse(f"it has no module `{min(unknown)}`, where timm says that a stage ends")
    with _cutting(image.eval(), cuts, end):
        features = image.forward_features(starts[0])
    end(len(cuts) + 1, features)
    return cuts, layouts, channels


def _feature_layout(features: Any, prefix: int, declared: str | None) -> Layout | None:
    """The layout of features of square images; None if it is none of those known."""
    if not isinstance(features, Tensor) or features.dim() not in (3, 4):
        return None
    if features.dim() == 3:
        for count in (prefix, 0):  # a class token may be added by the last blocks only
            tokens = features.shape[1] - count
            if math.isqrt(tokens) ** 2 == tokens:
                return Layout("NLC", count)
        return None
    _, first, second, third = features.shape
    if first == second == third:
        return Layout("NHWC" if declared == "NHWC" else "NCHW", 0)
    if second == third:
        return Layout("NCHW", 0)
    return Layout("NHWC", 0) if first == second else None
