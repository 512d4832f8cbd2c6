"""Image networks of timm as encoders of clips: frame by frame, with temporal parts between their
stages."""

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

_Temporal = Literal["shift", "convolution", "attention", "none"]

_Network = Any
"""A timm network, with `forward_features` and other attributes that timm does not type."""

_GROUPS = 4
"""Stages that a transformer's blocks are cut into, after the stage of its patch embedding."""


@dataclass(frozen=True)
class _Cut:
    """The end of a stage inside an image network.

    Args:
        module: Name of the module whose output ends the stage.
        before: Whether its input does instead.
    """

    module: str
    before: bool = False


@dataclass(frozen=True)
class _FeatureLayout:
    """The order of the axes of an image network's features; all other code sees (N, C, h, w).

    Args:
        kind: `NCHW`, `NHWC`, or tokens `NLC`.
        prefix: Tokens before those of the map, such as a class token. They are passed on unchanged.
    """

    kind: Literal["NCHW", "NHWC", "NLC"]
    prefix: int

    def to_map(self, features: Tensor, height: int, width: int) -> Tensor:
        """The map (N, C, h, w) of features of images (height, width)."""
        if self.kind == "NCHW":
            return features
        if self.kind == "NHWC":
            return features.permute(0, 3, 1, 2)
        tokens = features[:, self.prefix :]
        rows = max(1, round(math.sqrt(tokens.shape[1] * height / width)))
        return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], rows, -1)

    def from_map(self, image_map: Tensor, features: Tensor) -> Tensor:
        """The features with their map replaced."""
        if self.kind == "NCHW":
            return image_map
        if self.kind == "NHWC":
            return image_map.permute(0, 2, 3, 1)
        tokens = image_map.flatten(2).transpose(1, 2)
        return torch.cat([features[:, : self.prefix], tokens], 1) if self.prefix else tokens


class _ImageFrames(nn.Module):
    """A timm network on every frame, with a temporal part after each stage.

    The network runs as timm wrote it. Hooks at the end of each stage reshape its features to those
    of a clip and replace them. So `image` keeps timm's keys, and its weights fit back into timm.

    Args:
        cuts: Ends of its stages but the last, which ends with timm's `forward_features`.
        layouts: Layout of the features at the end of each stage.
        size: The only height and width that the network reads; None: any.
        uses_labels: Whether labels may have trained the network.
    """

    def __init__(
        self,
        image: _Network,
        cuts: Sequence[_Cut],
        layouts: Sequence[_FeatureLayout],
        channels: Sequence[int],
        temporal: _Temporal,
        size: tuple[int, int] | None,
        uses_labels: bool,
    ) -> None:
        super().__init__()
        self.image: _Network = image
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

    @property
    def timm_network(self) -> _Network:
        return self.image

    def forward(self, clip: Tensor, between: Between = identity) -> Tensor:
        """Features (B, C, T, h, w) of clips (B, 3, T, H, W).

        Raises:
            RecipeError: If the network can't read images of this size.
        """
        time, height, width = clip.shape[2:]
        if self.size not in (None, (height, width)):
            raise RecipeError(
                f"this timm model reads images of {self.size[0]} x {self.size[1]} pixels only, not "
                f"{height} x {width}",
                f"set data.size to {self.size[0]}, or take a model that reads any size",
            )

        def end(stage: int, features: Tensor) -> Tensor:
            layout = self.layout[stage - 1]
            image_map = layout.to_map(features, height, width)
            clips = self._after(stage, _as_clips(image_map, time), between)
            return layout.from_map(clips.transpose(1, 2).flatten(0, 1), features)

        with _cutting(self.image, self.cuts, end):
            features = self.image.forward_features(clip.transpose(1, 2).flatten(0, 1))
        image_map = self.layout[-1].to_map(features, height, width)
        return self._after(len(self.channels), _as_clips(image_map, time), between)

    def _after(self, stage: int, features: Tensor, between: Between) -> Tensor:
        """Features (B, C, T, h, w) with the temporal part and `between` of a stage applied."""
        if str(stage) in self.temporal:
            features = self.temporal[str(stage)](features)
        features = between(stage, features)
        return temporal_shift(features) if self.shift and stage < len(self.channels) else features


def _as_clips(frames: Tensor, time: int) -> Tensor:
    """(B * T, C, h, w) to (B, C, T, h, w)."""
    return frames.reshape(-1, time, *frames.shape[1:]).transpose(1, 2)


@contextmanager
def _cutting(
    image: _Network, cuts: Sequence[_Cut], end: Callable[[int, Tensor], Tensor]
) -> Iterator[None]:
    """In this context an image network continues with `end(stage, features)` after each stage."""

    def replace(stage: int, value: Any) -> Any:
        # Some modules return features and something else, such as their size.
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
    *, model: str, pretrained: bool = False, temporal: _Temporal = "shift"
) -> _ImageFrames:
    """An image network of timm, CNN or transformer, on each frame, with a temporal part.

    The network must be a chain of stages. Stages are timm's own (`feature_info`), after a stem if
    timm names none; a transformer's are its patch embedding and four groups of blocks. The last
    stage includes the final norm or convolution of timm's features. A class token is carried along
    and left out of the features. No part strides time. Weights that only timm's classifier uses,
    such as a norm after the pool, stay in `image` untrained.

    The temporal part is not timm's. It follows these papers, with the differences named:

    - `shift` (TSM, Lin et al., ICCV 2019): an eighth of the channels comes from the frame before,
      an eighth from the one after. Here the whole input of a stage is shifted, in TSM the residual
      branch of every block.
    - `convolution`: a depthwise 3x1x1 convolution after every stage, as in R(2+1)D's factorisation,
      but residual and zero at the start.
    - `attention` (divided attention of TimeSformer, Bertasius et al., ICML 2021): each position
      over time, residual and zero at the start. Here after the last stage alone, in TimeSformer in
      every block.

    Clips keep vcsf's normalisation, ImageNet's; some of timm's weights were trained with another.

    Args:
        model: Its name in timm, such as `resnet18`, `convnext_tiny` or `vit_small_patch16_224`.
        pretrained: Start from timm's weights, downloaded or cached; most of them have seen labels.
        temporal: How frames see each other: `shift`, `convolution`, `attention`, or `none`.
    """
    blank = _image_network(model)
    cuts, layouts, channels = _describe_stages(model, blank)
    settings = blank.pretrained_cfg
    fixed = settings.get("fixed_input_size") and not _any_size(type(blank))
    size = tuple(settings["input_size"][-2:]) if fixed else None
    image = _image_network(model, pretrained, device="cpu", **_any_size(type(blank)))
    return _ImageFrames(image, cuts, layouts, channels, temporal, size, pretrained)


def _any_size(network: type[nn.Module]) -> dict[str, bool]:
    """The settings with which a class of timm networks reads images of any size; empty if it has
    none."""
    parameters = inspect.signature(network).parameters
    return {name: True for name in ("dynamic_img_size", "dynamic_img_pad") if name in parameters}


def _image_network(
    model: str, pretrained: bool = False, device: str = "meta", **settings: Any
) -> _Network:
    """A network of timm without its classifier; on the device `meta` it costs next to nothing.

    Raises:
        UnknownName: If timm has no such model.
        RecipeError: If it can't be built.
        VcsfError: If its weights can't be loaded.
    """
    import timm  # takes a second to import

    name = model.split(".")[0]  # after the dot: which of its weights
    if ":" not in model and not timm.is_model(name):
        raise UnknownName("timm model", name, timm.list_models(), "`backbone.model`")
    try:
        with torch.device(device):
            return timm.create_model(model, pretrained=pretrained, num_classes=0, **settings)
    except Exception as error:  # clients of weight hosts raise many kinds
        reason = f"{type(error).__name__}: {error}"
        if not pretrained:
            raise RecipeError(
                f"timm can't build `{model}`: {reason}", "see backbone.model"
            ) from error
        raise VcsfError(
            f"the weights of timm model `{model}` can't be loaded: {reason}",
            "timm downloads them once and keeps them: go online for that, or set "
            "backbone.pretrained to false",
        ) from error


def _stage_cuts(image: _Network) -> list[_Cut]:
    """The ends of all stages of a network but the last, from timm's description."""
    stages = [dict(image.feature_info[index]) for index in range(len(image.feature_info))]
    if len(stages) > _GROUPS and len({stage["reduction"] for stage in stages}) == 1:
        ends = [stages[len(stages) * group // _GROUPS - 1]["module"] for group in range(1, _GROUPS)]
        return [_Cut(stages[0]["module"], before=True), *map(_Cut, ends)]
    named = stages[0]["reduction"] <= 2 or "stem" in stages[0]["module"]
    stem = [] if named else [_Cut(stages[0]["module"], before=True)]
    return [*stem, *(_Cut(stage["module"]) for stage in stages[:-1])]


def _describe_stages(
    model: str, image: _Network
) -> tuple[list[_Cut], list[_FeatureLayout], list[int]]:
    """Cuts, layouts and channels of the stages of a network on the device `meta`.

    The network runs once. At each cut the gradient must come from the previous cut and from nowhere
    else: features that bypass a cut would never pass a motion module.

    Raises:
        RecipeError: If its stages are not a chain.
    """
    cuts = _stage_cuts(image)
    layouts: list[_FeatureLayout] = []
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
            raise refuse(f"features bypass the end of stage {stage - 1}")
        layouts.append(layout)
        channels.append(layout.to_map(features, *starts[0].shape[2:]).shape[1])
        starts.append(features.detach().requires_grad_())
        return starts[-1] * 1  # a copy, which the network may change in place

    unknown = {cut.module for cut in cuts} - {name for name, _ in image.named_modules()}
    if unknown:
        raise refuse(f"it has no module `{min(unknown)}`, where timm says that a stage ends")
    with _cutting(image.eval(), cuts, end):
        features = image.forward_features(starts[0])
    end(len(cuts) + 1, features)
    return cuts, layouts, channels


def _feature_layout(features: Any, prefix: int, declared: str | None) -> _FeatureLayout | None:
    """The layout of features of square images; None if it is unknown."""
    if not isinstance(features, Tensor) or features.dim() not in (3, 4):
        return None
    if features.dim() == 3:
        for count in (prefix, 0):  # a class token may be added by the last blocks only
            tokens = features.shape[1] - count
            if math.isqrt(tokens) ** 2 == tokens:
                return _FeatureLayout("NLC", count)
        return None
    _, first, second, third = features.shape
    if first == second == third:
        return _FeatureLayout("NHWC" if declared == "NHWC" else "NCHW", 0)
    if second == third:
        return _FeatureLayout("NCHW", 0)
    return _FeatureLayout("NHWC", 0) if first == second else None
