"""The slow and the fast pathway: two encoders without lateral links, each with a head; the slow one
with motion modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from traceback import walk_tb
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from vcsf_cli import registry
from vcsf_cli.config.recipe import Recipe
from vcsf_cli.config.schema import Stage
from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.errors import PluginError, RecipeError, VcsfError
from vcsf_cli.model.parts import build_sampler

Windows = Tensor | Mapping[str, Tensor]


class Head(nn.Module):
    """Projection to the space of the loss: 1x1x1 convolution, ReLU, 1x1x1 convolution, on pooled
    features.

    Args:
        channels: C of the backbone's features.
        hidden: Channels in between.
        dim: D of the embedding.
    """

    def __init__(self, channels: int, hidden: int, dim: int) -> None:
        super().__init__()
        # On pooled features a 1x1x1 convolution is a linear layer.
        self.layers = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, dim)
        )

    def forward(self, pooled: Tensor) -> Tensor:
        """Unit-length embeddings (..., D) of pooled features (..., C)."""
        return functional.normalize(self.layers(pooled).float(), dim=-1)


class Pathway(nn.Module):
    """One encoder.

    Args:
        backbone: Its network, as the hook `vcsf_backbones` describes it.
        motion: Motion modules by the number of the stage that they follow.
        head: From pooled features to the space of the loss.
        difference: Whether it reads, instead of each frame, the change to the window's next frame.
    """

    def __init__(
        self, backbone: nn.Module, motion: Mapping[int, nn.Module], head: Head, difference: bool
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.motion = nn.ModuleDict({str(stage): module for stage, module in motion.items()})
        self.head = head
        self.difference = difference

    def clip(self, window: Tensor, positions: Tensor) -> Tensor:
        """The backbone's input (B, 3, T, H, W) of a window (B, 3, L, H, W) at positions (B, T)."""
        return difference(window, positions) if self.difference else select(window, positions)

    def forward(self, clip: Tensor, window: Tensor, pooled: bool = True) -> Tensor:
        """Features before the head, pooled (B, C) or not (B, C, T, h, w), of `clip`'s result for a
        window (B, 3, L, H, W).

        It reads no value of a tensor, so that it compiles to one graph.
        """

        def between(stage: int, features: Tensor) -> Tensor:
            key = str(stage)
            if key not in self.motion:
                return features
            moved: Tensor = self.motion[key](features, window)
            if moved.shape != features.shape:
                raise PluginError(
                    f"a motion module ({type(self.motion[key]).__name__}) makes features of shape "
                    f"{tuple(moved.shape)} of {tuple(features.shape)}",
                    "it must keep their shape",
                )
            return moved

        features: Tensor = self.backbone(clip, between)
        channels = stage_channels(self.backbone)[-1]
        if features.dim() != 5 or features.shape[1] != channels:
            raise PluginError(
                f"a backbone ({type(self.backbone).__name__}) returns features of shape "
                f"{tuple(features.shape)}",
                f"its `channels` promise (B, {channels}, T, h, w)",
            )
        return features.mean((2, 3, 4)) if pooled else features


def _takes_all(window: Tensor, positions: Tensor) -> bool:
    """Whether positions (B, T) are all frames of a window (B, 3, L, H, W) in order."""
    length = window.shape[2]
    return positions.shape[1] == length and bool(
        (positions == torch.arange(length, device=positions.device)).all()
    )


def difference(window: Tensor, positions: Tensor) -> Tensor:
    """x[p + 1] - x[p] of a window (B, 3, L, H, W) at positions p (B, T); the window's last frame
    gives the same as the one before."""
    if _takes_all(window, positions):
        change = torch.empty_like(window)
        torch.sub(window[:, :, 1:], window[:, :, :-1], out=change[:, :, :-1])
        change[:, :, -1] = change[:, :, -2]
        return change
    first = positions.clamp(max=window.shape[2] - 2)
    return select(window, first + 1) - select(window, first)


def select(window: Tensor, positions: Tensor) -> Tensor:
    """Frames of a window (B, 3, L, H, W) at positions (B, T)."""
    if _takes_all(window, positions):
        return window
    if bool((positions == positions[0]).all()):
        return window.index_select(2, positions[0].to(window.device, non_blocking=True))
    rows = torch.arange(len(window), device=window.device)[:, None]
    positions = positions.to(window.device, non_blocking=True)
    return window.transpose(1, 2)[rows, positions].transpose(1, 2)


class Networks(nn.Module):
    """Encoders, each under the name of its pathway.

    Attributes:
        names: The pathways whose features are wanted.
    """

    names: tuple[str, ...]

    def pathway(self, name: str) -> Pathway:
        return cast(Pathway, self.get_submodule(name))

    @property
    def widths(self) -> dict[str, int]:
        """Length C of the features by pathway."""
        return {name: stage_channels(self.pathway(name).backbone)[-1] for name in self.names}

    def features(
        self, windows: Windows, positions: Mapping[str, Tensor], pooled: bool = True
    ) -> dict[str, Tensor]:
        """Features by pathway, pooled (B, C) or not (B, C, T, h, w).

        Args:
            windows: (B, 3, L, H, W), one for all pathways, or one for slow and one for fast.
            positions: Which frames of its window slow and fast read, (B, T); pathways without any
                are left out.
        """
        return {
            name: self.pathway(name)(clip, window, pooled)
            for name, clip, window in self._inputs(windows, positions)
        }

    def _inputs(
        self, windows: Windows, positions: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, Tensor, Tensor]]:
        """What each pathway takes: the frames that it reads, and the window."""
        for name in (name for name in self.names if read_as(name) in positions):
            window = pathway_window(windows, read_as(name))
            yield name, self.pathway(name).clip(window, positions[read_as(name)]), window


class OnePathway(Networks):
    """A single encoder, under a name of its own. It reads the frames that fast would."""

    def __init__(self, name: str, pathway: Pathway) -> None:
        super().__init__()
        self.names = (name,)
        self.add_module(name, pathway)


class TwoPathways(Networks):
    """The slow and the fast pathway of one recipe."""

    names: tuple[str, ...] = PATHWAYS

    def __init__(self, slow: Pathway, fast: Pathway) -> None:
        super().__init__()
        self.slow = slow
        self.fast = fast
        # Weights that a part has frozen stay frozen whatever a stage trains.
        self.fixed = frozenset(
            name for name, weight in self.named_parameters() if not weight.requires_grad
        )

    @property
    def uses_labels(self) -> bool:
        """Whether a backbone says that labels may have trained the weights that it starts from."""
        return any(
            getattr(pathway.backbone, "uses_labels", False) for pathway in (self.slow, self.fast)
        )

    def pathway(self, name: str) -> Pathway:
        return self.slow if name == "slow" else self.fast

    def forward(self, windows: Windows, positions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Embeddings (B, D) by pathway, arguments as of `features`."""
        found = {}
        for name, clip, window in self._inputs(windows, positions):
            pathway = self.pathway(name)
            found[name] = pathway.head(pathway(clip, window))
        return found

    def with_steps(
        self, windows: Windows, positions: Mapping[str, Tensor], counts: Mapping[str, int]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Embeddings (B, D) by pathway, arguments as of `features`; and (B, n, D) of the same
        features in n equal spans of time, for pathways with a count n that divides their steps."""
        whole, steps = {}, {}
        for name, clip, window in self._inputs(windows, positions):
            pathway = self.pathway(name)
            if name not in counts:
                whole[name] = pathway.head(pathway(clip, window))
                continue
            over_time = pathway(clip, window, pooled=False).mean((3, 4)).transpose(1, 2)
            whole[name] = pathway.head(over_time.mean(1))
            spans = [span.mean(1) for span in over_time.chunk(counts[name], 1)]
            steps[name] = pathway.head(torch.stack(spans, 1))
        return whole, steps

    def segments(
        self, windows: Windows, positions: Mapping[str, Tensor], counts: Mapping[str, int]
    ) -> dict[str, Tensor]:
        """Embeddings (B, n, D) of n equal segments of a window, each a clip of its own, by the
        pathways that have a count n; windows and positions as of `features`.

        Of a segment a pathway reads as many frames, evenly spread, as of the whole window, or all
        if the segment has fewer."""
        found = {}
        for name, count in counts.items():
            window = pathway_window(windows, name)
            batch, channels, _, *size = window.shape
            segment = window.reshape(batch, channels, count, -1, *size).transpose(1, 2)
            segment = segment.flatten(0, 1)  # without a copy where the channel is last in memory
            length = segment.shape[2]
            frames = min(length, positions[name].shape[1])
            own = (torch.arange(frames) * length // frames).expand(len(segment), -1)
            pathway = self.pathway(name)
            embeddings = pathway.head(pathway(pathway.clip(segment, own), segment))
            found[name] = embeddings.view(-1, count, embeddings.shape[1])
        return found


@contextmanager
def blame_parts(stage: Stage, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn an exception in the `forward` of a stage's backbone or motion module into an error that
    names it and its plugin.

    Whose it is stands in the traceback, so that a forward pass costs nothing more, and compiles as
    before.

    Args:
        stage: Has the names of the parts.
        passing: Exceptions that pass unchanged, beside a `VcsfError` and what a GPU raises.

    Raises:
        PluginError: In place of such an exception.
    """
    try:
        yield
    except Exception as error:
        unchanged = (VcsfError, torch.OutOfMemoryError, torch.AcceleratorError, *passing)
        kind = None if isinstance(error, unchanged) else failing_part(error)
        if kind is None:
            raise
        with registry.load().blame_for(kind, getattr(stage, kind).name):
            raise


def failing_part(error: Exception) -> Literal["backbone", "motion"] | None:
    """The part of a pathway that raised an error: the innermost that was being called."""
    found: Literal["backbone", "motion"] | None = None
    pathway: Pathway | None = None
    for frame, _ in walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if isinstance(owner, Pathway):
            pathway, found = owner, None
        elif pathway is not None and owner is pathway.backbone:
            found = "backbone"
        elif pathway is not None and any(owner is each for each in pathway.motion.values()):
            found = "motion"
    return found


def read_as(pathway: str) -> Literal["slow", "fast"]:
    """Whose frames of a sampler's window a pathway reads: slow's its own, any other fast's."""
    return "slow" if pathway == "slow" else "fast"


def pathway_window(windows: Windows, pathway: str) -> Tensor:
    return windows if isinstance(windows, Tensor) else windows[pathway]


def build(recipe: Recipe, *, weights_follow: bool = False) -> TwoPathways:
    """The networks of a recipe, initialised from its seed: always the same weights.

    Motion modules are drawn last: with another module or none, all other weights start the same.

    Args:
        recipe: The recipe.
        weights_follow: Whether all weights are loaded next: pretrained ones are then not fetched.

    Raises:
        RecipeError: If a motion module follows a stage that the backbone doesn't have, or a
            pathway reads differences of a single frame.
    """
    _check_frames(recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        slow, slow_head = _build_network(recipe, "slow", weights_follow)
        fast, fast_head = _build_network(recipe, "fast", weights_follow)
        motion = _build_motion(recipe, slow)
    model = TwoPathways(
        Pathway(slow, motion, slow_head, _sees_difference(recipe.first_stage, "slow")),
        Pathway(fast, {}, fast_head, _sees_difference(recipe.first_stage, "fast")),
    )
    if recipe.first_stage.speed.channels_last:
        for weight in model.parameters():
            if weight.dim() == 5:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last_3d)
    return model


def _sees_difference(stage: Stage, pathway: str) -> bool:
    return bool(_own_settings(stage, pathway).get("input", "rgb") == "difference")


def _own_settings(stage: Stage, pathway: str) -> dict[str, Any]:
    return dict(stage.slow if pathway == "slow" else stage.fast)


def _check_frames(recipe: Recipe) -> None:
    """Check that no pathway reads differences of windows of one frame.

    Raises:
        RecipeError: If one does.
    """
    for stage in recipe.stages:
        for pathway in PATHWAYS:
            if _sees_difference(stage, pathway) and build_sampler(stage).length < 2:
                raise RecipeError(
                    "is `difference`, but a window has one frame: nothing changes in it",
                    f"set sampler.frames to 2 or more, or {pathway}.input to rgb",
                    key=f"{pathway}.input",
                )


def _build_network(recipe: Recipe, pathway: str, weights_follow: bool) -> tuple[nn.Module, Head]:
    """Backbone and head of a pathway."""
    stage, plugins = recipe.first_stage, registry.load()
    component = plugins.find("backbone", stage.backbone.name)
    settings = stage.backbone.settings | _own_settings(stage, pathway)
    settings.pop("input", None)
    if registry.takes(component, "pathway"):
        settings["pathway"] = pathway
    if weights_follow and settings.get("pretrained"):
        settings["pretrained"] = False
    backbone: nn.Module = plugins.build("backbone", component.name, **settings)
    channels = stage_channels(backbone)[-1]
    return backbone, Head(channels, stage.head.hidden or channels, stage.head.dim)


def stage_channels(backbone: nn.Module) -> tuple[int, ...]:
    return cast(tuple[int, ...], backbone.channels)


def _build_motion(recipe: Recipe, backbone: nn.Module) -> dict[int, nn.Module]:
    """The motion modules of a backbone by the stage that they follow."""
    settings, channels = recipe.first_stage.motion.settings, stage_channels(backbone)
    after = settings.pop("after", [])
    for number in after:
        if not 1 <= number <= len(channels):
            raise RecipeError(
                f"names stage {number}, `{recipe.first_stage.backbone.name}` has only "
                f"{len(channels)}",
                "stage 1 is the stem",
                key="motion.after",
            )
    build_one = partial(registry.load().build, "motion", recipe.first_stage.motion.name, **settings)
    return {number: build_one(channels[number - 1]) for number in after}
