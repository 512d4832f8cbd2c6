"""A stage's sampler and loss, built, and which frames pathways read of a window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from vcsf_cli import registry
from vcsf_cli.config.recipe import Recipe
from vcsf_cli.config.schema import Component, Stage
from vcsf_cli.contracts import PATHWAYS, View
from vcsf_cli.contracts import Sampler as WindowSampler
from vcsf_cli.errors import RunError


class Loss(nn.Module):
    """A loss as the hook `vcsf_losses` describes it."""

    queue: int
    uses_labels: bool = False
    crosses: bool = False
    waits_for_queue: bool = False
    bank_momentum: float | None = None


_OPTIONAL = {
    "uses_labels": False,
    "crosses": False,
    "waits_for_queue": False,
    "bank_momentum": None,
}


def build_loss(stage: Stage) -> Loss:
    loss = cast(Loss, registry.load().build("loss", stage.loss.name, **stage.loss.settings))
    for name, default in _OPTIONAL.items():
        if not hasattr(loss, name):
            setattr(loss, name, default)
    return loss


def uses_labels(recipe: Recipe) -> bool:
    """Whether any stage of a recipe reads labels, so that its runs are not self-supervised."""
    return any(build_loss(stage).uses_labels for stage in recipe.stages)


def build_sampler(stage: Stage) -> WindowSampler:
    return WindowSpec.from_stage(stage).build_sampler()


@dataclass(frozen=True)
class WindowSpec:
    """How windows are cut out of clips to measure them.

    Args:
        sampler: Which frames they are.
        size: Pixels of their side.
        border: Side of the centre square as a fraction of the short side.
    """

    sampler: Component
    size: int
    border: float

    @classmethod
    def from_stage(cls, stage: Stage) -> WindowSpec:
        return cls(stage.sampler, stage.data.size, stage.augment.border)

    @property
    def key(self) -> dict[str, Any]:
        """Its part of the key of a cache."""
        return {"sampler": self.sampler.model_dump(), "size": self.size, "border": self.border}

    def build_sampler(self) -> WindowSampler:
        sampler = self.sampler
        return cast(
            WindowSampler, registry.load().build("sampler", sampler.name, **sampler.settings)
        )


@dataclass(frozen=True)
class Geometry:
    """Which frames of a measuring window each pathway reads.

    Args:
        length: Frames of a window, L.
        parts: Begin and end of the part of the window that a pathway sees; the same for all
            windows.
        positions: Positions in its part that a pathway reads.
    """

    length: int
    parts: Mapping[str, tuple[int, int]]
    positions: Mapping[str, Sequence[int]]

    @classmethod
    def from_view(cls, view: View) -> Geometry:
        return cls(
            len(view.window),
            {pathway: view.part(pathway) for pathway in PATHWAYS},
            {pathway: view.positions(pathway).tolist() for pathway in PATHWAYS},
        )

    @classmethod
    def from_sampler(cls, sampler: WindowSampler) -> Geometry:
        """The geometry of the window of a video of `length` frames."""
        return cls.from_view(sampler.cover(sampler.length)[0])

    def split(self, windows: Tensor) -> dict[str, Tensor]:
        """The part of windows (B, 3, L, H, W) that each pathway sees."""
        return {pathway: windows[:, :, slice(*part)] for pathway, part in self.parts.items()}


def fixed_geometry(sampler: WindowSampler) -> Geometry:
    """The geometry that all windows of a sampler have.

    Raises:
        RunError: If they differ in what pathways read.
    """
    fixed, *others = map(
        Geometry.from_view, [*sampler.cover(10 * sampler.length), *sampler.cover(1)]
    )
    if any(other != fixed for other in others):
        raise RunError(
            "the sampler's windows differ in the frames that pathways read of them: they can't be "
            "fixed in a graph",
            "export a run whose sampler reads all windows alike, as the built-in sampler does",
        )
    return fixed
