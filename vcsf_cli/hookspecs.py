"""The hooks of vcsf: what a plugin can add, and what it must look like. This is the plugin author's
manual.

Registration hooks return `{name: factory}`. A factory's signature is its schema: positional-only
arguments come from vcsf, keyword-only arguments from the recipe (or, for datasets, from the command
line), with their annotations checked, their defaults shown and the `Args:` lines of the docstring
as help. Types and shapes: `vcsf_cli.contracts`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click

    from vcsf_cli.contracts import Run

_hookspec = pluggy.HookspecMarker("vcsf")

Factories = Mapping[str, Callable[..., Any]]


@_hookspec
def vcsf_backbones() -> Factories:  # type: ignore[empty-body]
    """Encoders. `f(*, ...) -> nn.Module` with

    - `channels: tuple[int, ...]`, the channels after each stage (stage 1 is the stem),
    - `forward(clip (B, 3, T, H, W), between=identity) -> (B, C, T', h, w)`, which replaces the
      features after stage s (counted from 1) by `between(s, features)`: that is where motion
      modules sit.

    Optional attribute: `layouts: dict[str, contracts.Layout]`, how other code names the same
    weights, by that code's name; `vcsf pretrain --init FILE` then takes its files. Another:
    `uses_labels: bool`, whether it starts from weights that labels may have trained; its runs then
    say so.

    A keyword named `pathway` is filled by vcsf with `slow` or `fast`, so that a backbone can have
    other defaults in each; a recipe never names it."""


@_hookspec
def vcsf_motion_modules() -> Factories:  # type: ignore[empty-body]
    """Motion perception. `f(channels, /, *, ...) -> nn.Module` with `forward(features (B, C, T, h,
    w), window (B, 3, L, H, W)) -> features`, same shape. The window is the slow pathway's own dense
    one, normalised like the input; step t covers window frames [tL/T, (t+1)L/T), rounded down, so a
    module can see the frames that the slow pathway skips."""


@_hookspec
def vcsf_samplers() -> Factories:  # type: ignore[empty-body]
    """Which frames a view reads. `f(*, ...) -> contracts.Sampler`."""


@_hookspec
def vcsf_losses() -> Factories:  # type: ignore[empty-body]
    """`f(*, ...) -> nn.Module` with `forward(contrast: contracts.Contrast, pathway: str) ->
    {"loss": scalar, ...}`; the other entries, scalars too, are logged. Attribute `queue: int` says
    how many older keys it wants to see (0: the keys of the batch in their place), `uses_labels:
    bool` whether it reads labels. Optional attributes: `crosses`, whether it reads the keys of a
    pathway that does not learn; `waits_for_queue`, whether nothing is learned until the queue is
    full; `mined(contrast, pathway) -> bool (B, K)`, the slots that it takes for positives, whose
    labels are then watched. A loss's own parameters are trained with the networks and begin anew in
    every stage."""


@_hookspec
def vcsf_datasets() -> Factories:  # type: ignore[empty-body]
    """What `vcsf prepare NAME` can read. `f(root: Path, /, *, ...) -> contracts.Dataset`; root is
    `--source`, or a folder of vcsf's where the dataset may download or make its videos. Keywords
    become options of `vcsf prepare NAME`.

    Optional, for datasets that draw the parts of their splits: `keep_parts(parts: Mapping[str,
    tuple[str, str, str]])`, called before `videos` with the part in each split of every recording
    (`Video.source`) that is prepared already. A draw must leave them there, or clips that a run was
    trained on become its test clips."""


@_hookspec
def vcsf_decoders() -> Factories:  # type: ignore[empty-body]
    """Video readers. `f(*, ...) -> contracts.Decoder`; exact or an error."""


@_hookspec
def vcsf_recipe_dirs() -> list[Path]:  # type: ignore[empty-body]
    """Folders with more recipes, found by file name without `.yaml`."""


@_hookspec
def vcsf_commands() -> list[click.Command]:  # type: ignore[empty-body]
    """More commands. They are not listed in `vcsf --help`, which loads no plugin, but in `vcsf
    plugins`."""


@_hookspec
def vcsf_on_log(run: Run, record: Mapping[str, float]) -> None:
    """Called with what is logged, once per log interval and after each check; never per step. A
    record has `step` and whatever was measured then: that of a check has no `loss`. An observer
    that raises is not called again."""


@_hookspec
def vcsf_on_finish(run: Run, results: Mapping[str, float]) -> None:
    """Called when a training run has finished, with its last logged values."""
