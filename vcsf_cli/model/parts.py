"""A stage's sampler and loss, built, and which frames pathways read of a window."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from vcsf_cli import registry
from vcsf_cli.config.recipe import Recipe
from vcsf_cli.config.schema import Component, Stage
from vcsf_cli.contracts import PATHWAYS, Contrast, View
from vcsf_cli.contracts import Sampler as WindowSampler
from vcsf_cli.errors import RecipeError, RunError


class _Loss(nn.Module):
    """A loss as the hook `vcsf_losses` describes it."""

    queue: int | None
    uses_labels: bool = False
    crosses: bool = False
    waits_for_queue: bool = False
    bank_momentum: float | None = None
    segments: int = 0
    steps: int = 0
    cluster: Callable[[dict[str, Tensor], int], Tensor] | None = None
    cluster_every: int = 1
    min_clips: int = 0
    neighbours: int = 0


_OPTIONAL = {
    "uses_labels": False,
    "crosses": False,
    "waits_for_queue": False,
    "bank_momentum": None,
    "segments": 0,
    "steps": 0,
    "cluster": None,
    "cluster_every": 1,
    "min_clips": 0,
    "neighbours": 0,
}


class StageLoss(nn.Module):
    """The loss of a stage, and the weighted auxiliary losses of some or all pathways.

    Attributes:
        main: The loss.
        auxiliary: The auxiliary losses.
        queue: Older keys that they see, 0 for those of the batch.
        bank_momentum: Of the bank that they see in place of a queue, or None.
        segments: Number of segments by trained pathway; pathways without are left out.
        steps: Number of spans of time, in the same way.
        mined: The method of `main`, or None; `cluster` and `cluster_every` likewise.
        min_clips: Training clips that they need.
        neighbours: Of `main`: how many slots a clip may have as positives, 0 where it does not say.

    Raises:
        RecipeError: If the losses don't fit each other.
    """

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.main = _build_loss(stage.loss.name, stage.loss.settings)
        self.mined = getattr(self.main, "mined", None)
        self.cluster, self.cluster_every = self.main.cluster, self.main.cluster_every
        self.neighbours = self.main.neighbours
        self.auxiliary = nn.ModuleList()
        self._named = [(stage.loss.name, self.main, 1.0, PATHWAYS)]
        for node in stage.auxiliary_losses:
            settings = node.settings
            weight, pathways = settings.pop("weight"), settings.pop("pathways")
            loss = _build_loss(node.name, settings)
            self._check_auxiliary(node.name, loss)
            self.auxiliary.append(loss)
            self._named.append((node.name, loss, weight, pathways))
        losses = [loss for _, loss, _, _ in self._named]
        self.uses_labels = any(loss.uses_labels for loss in losses)
        self.crosses = any(loss.crosses for loss in losses)
        self.waits_for_queue = any(loss.waits_for_queue for loss in losses)
        self.min_clips = max(loss.min_clips for loss in losses)
        readers = [(name, loss) for name, loss, _, _ in self._named if loss.queue is not None]
        _check_readers(readers)
        self.queue: int = _agreed("queue", readers) or 0
        self.bank_momentum: float | None = _agreed("bank_momentum", readers)
        self.segments: dict[str, int] = {}
        self.steps: dict[str, int] = {}
        for pathway in stage.train.pathways:
            own = [(name, loss) for name, loss, _, pathways in self._named if pathway in pathways]
            for setting in ("segments", "steps"):
                wanting = [(name, loss) for name, loss in own if getattr(loss, setting)]
                if wanting:
                    getattr(self, setting)[pathway] = _agreed(setting, wanting)

    def forward(self, contrast: Contrast, pathway: str) -> dict[str, Tensor]:
        """The loss and its other terms. With auxiliary losses `loss` is the weighted sum; the loss
        of each, and the terms of auxiliary ones, have its name before theirs.

        Raises:
            PluginError: If a loss's terms are not what the hook asks for.
        """
        (name, main, _, _), *others = self._named
        terms = _terms(name, main, contrast, pathway)
        for other, loss, weight, pathways in others:
            terms.setdefault(f"{name}_loss", terms["loss"])
            if pathway in pathways:
                own = _terms(other, loss, contrast, pathway)
                terms["loss"] = terms["loss"] + weight * own["loss"]
                terms |= {f"{other}_{term}": value for term, value in own.items()}
        return terms

    def _check_auxiliary(self, name: str, loss: _Loss) -> None:
        """Check that a loss can be added to those before it."""
        if name in [before for before, _, _, _ in self._named]:
            raise RecipeError(
                f"names `{name}`, which is a loss of the stage already",
                "set its weight instead",
                key="auxiliary_losses",
            )
        if hasattr(loss, "mined"):
            raise RecipeError(
                f"names `{name}`, which finds positives and can't be an auxiliary loss",
                f"make it the stage's `loss`, and `{self._named[0][0]}` an auxiliary one",
                key="auxiliary_losses",
            )


def _check_readers(losses: Sequence[tuple[str, _Loss]]) -> None:
    """Check that all losses that compare with older keys read a bank, or none does.

    Raises:
        RecipeError: If they don't.
    """
    with_bank = [name for name, loss in losses if loss.bank_momentum is not None]
    others = [name for name, loss in losses if loss.bank_momentum is None]
    if with_bank and others:
        raise RecipeError(
            f"puts `{others[0]}`, which can't read a bank, beside `{with_bank[0]}`, which keeps one in "
            "place of a queue",
            "leave it out, or take a loss that reads neither",
            key="auxiliary_losses",
        )


def _agreed(setting: str, losses: Sequence[tuple[str, _Loss]]) -> Any:
    """The value of a setting that all losses have alike; None without losses.

    Raises:
        RecipeError: If they don't.
    """
    values = [(name, getattr(loss, setting)) for name, loss in losses]
    for name, value in values:
        if value != values[0][1]:
            raise RecipeError(
                f"names `{name}` with {setting} {value}, where `{values[0][0]}` has {values[0][1]}",
                "the losses of a stage share it: set it alike",
                key="auxiliary_losses",
            )
    return values[0][1] if values else None


def _build_loss(name: str, settings: Mapping[str, Any]) -> _Loss:
    loss = cast(_Loss, registry.load().build("loss", name, **settings))
    for attribute, default in _OPTIONAL.items():
        if not hasattr(loss, attribute):
            setattr(loss, attribute, default)
    return loss


def _terms(name: str, loss: nn.Module, contrast: Contrast, pathway: str) -> dict[str, Tensor]:
    """A new dict of the terms of a loss.

    Raises:
        PluginError: If they are not what the hook asks for.
    """
    with registry.blame(registry.load().find("loss", name).plugin, f"loss `{name}`"):
        terms = loss(contrast, pathway)
        if (
            not isinstance(terms, Mapping)
            or "loss" not in terms
            or any(value.numel() != 1 for value in terms.values())
        ):
            raise TypeError("`forward` must return a dict of scalars, `loss` among them")
        return dict(terms)


def uses_labels(recipe: Recipe) -> bool:
    """Whether any stage of a recipe reads labels, so that its runs are not self-supervised."""
    return any(StageLoss(stage).uses_labels for stage in recipe.stages)


def build_sampler(stage: Stage) -> WindowSampler:
    return WindowSpec.from_stage(stage).build_sampler()


def same_window_share(sampler: WindowSampler) -> float:
    """How often both views of a long video show the same window, from 1000 draws."""
    rng = np.random.default_rng(0)
    draws = (sampler.sample(100_000, rng) for _ in range(1000))
    return float(np.mean([np.array_equal(one.window, two.window) for one, two in draws]))


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

    def segment_frames(self, pathway: str, segments: int) -> int:
        """Frames that a pathway reads of one of its window's segments."""
        begin, end = self.parts[pathway]
        return min((end - begin) // segments, len(self.positions[pathway]))

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
