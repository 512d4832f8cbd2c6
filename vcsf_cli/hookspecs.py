"""The hooks of vcsf: what a plugin can add, and what its parts must offer. This is the manual for
plugin authors.

Registration hooks return `{name: factory}`. A factory's signature is its schema: positional-only
arguments come from vcsf, keyword-only arguments from the recipe (for datasets: from the command
line). Annotations are checked, defaults are shown, and the `Args:` lines of the docstring are the
help. Types and shapes: `vcsf_cli.contracts`."""

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
      features after stage s (counted from 1) by `between(s, features)`. Motion modules run there.

    Optional attributes:

    - `layouts: dict[str, contracts.Layout]`: names of the weights in the files of other code, which
      `vcsf pretrain --init FILE` then loads, by that code's name.
    - `uses_labels: bool`: labels may have trained the weights that it starts from. Its runs say so.
    - `timm_network: nn.Module`: a network of timm inside it, which `vcsf export` also writes with
      timm's own names.

    vcsf passes `slow` or `fast` to a keyword named `pathway`, so that defaults can differ; a recipe
    never sets it."""


@_hookspec
def vcsf_motion_modules() -> Factories:  # type: ignore[empty-body]
    """Motion perception. `f(channels, /, *, ...) -> nn.Module` with `forward(features (B, C, T, h,
    w), window (B, 3, L, H, W)) -> features` of the same shape.

    The window is the slow pathway's, with all its frames, normalised like the input. Step t covers
    the window's frames [tL/T, (t+1)L/T), rounded down, so a module can see frames that the slow
    pathway skips."""


@_hookspec
def vcsf_samplers() -> Factories:  # type: ignore[empty-body]
    """Which frames a view reads. `f(*, ...) -> contracts.Sampler`."""


@_hookspec
def vcsf_losses() -> Factories:  # type: ignore[empty-body]
    """Contrastive losses. `f(*, ...) -> nn.Module` with

    - `queue: int`, how many older keys the loss wants to see; 0: the keys of the batch instead;
      None: it reads neither,
    - `forward(contrast: contracts.Contrast, pathway: str) -> {"loss": scalar, ...}`; the other
      entries are scalars too, and are logged.

    Optional attributes:

    - `uses_labels: bool`: it reads labels. Its runs are then marked as not self-supervised.
    - `crosses: bool`: it reads the other pathway's keys, so that a frozen pathway has keys too.
    - `waits_for_queue: bool`: no step is taken until the queue is full.
    - `bank_momentum: float`: in place of a queue it sees a bank, with a slot for every training
      clip: the running mean of the clip's keys, in which the older ones weigh this much.
      `Contrast.batch` then has the keys of the batch, which alone are as fresh as the own key.
    - `cluster(keys: {pathway: (N, D)}, seed: int) -> int64 (N,)`, of a stage's own loss with a
      bank: numbers from 0 on for the clips in it, which stand in `Contrast.queue_cluster` from then
      on. Called on the CPU after the first epoch and every `cluster_every: int` epochs (default: 1).
      The same arguments must give the same numbers.
    - `min_clips: int`: fewer training clips are refused before training.
    - `neighbours: int`, of a stage's own loss: how many slots a clip may have as positives. As many as
      there are slots are refused before training, and more than half of them are warned of.
    - `mined(contrast, pathway) -> bool (B, K)`: the slots that it takes as positives. How often
      their labels are right is then logged. It can't be an auxiliary loss.
    - `segments: int`: it sees embeddings of this many equal segments of every window, of the clips
      of which both views show the same window.
    - `steps: int`: it sees embeddings of this many equal spans of time of the features of a whole
      window, of the same clips.

    `weight` and `pathways` of an auxiliary loss are vcsf's own keys: a loss can't have settings of
    these names then.
    Parameters of a loss are trained with the networks and start anew in every stage."""


@_hookspec
def vcsf_datasets() -> Factories:  # type: ignore[empty-body]
    """Kinds of `vcsf prepare KIND`. `f(root: Path, /, *, ...) -> contracts.Dataset`; root is
    `--source`, or a folder of vcsf's for datasets that download or make their videos. Keywords
    become options of the command.

    Optional attributes of the factory:

    - `needs_source: bool`: there are no videos without `--source`, which also names the dataset.
    - `reads_addresses: bool`: its root may also be a `str`, such as `s3://bucket/videos`; its videos
      are then `contracts.RemoteFile`s, which `remote` lists.
    - `recipe: str`: what to train on the dataset, shown after preparing it.
    - `official_size: contracts.OfficialSize`: how large the published dataset is. Measurements on
      less of it then say so.

    Optional attributes of the dataset:

    - `origins: Mapping[str, str]`: where the `label`, `group` and `source` of its videos come from
      (default: `--source`), for the error when one has changed since it was prepared.
    - `keep_parts(parts: Mapping[str, tuple[str, str, str]])`, for datasets that draw their own
      splits: called before `videos` with the part (`train`, `test` or empty) of every prepared
      recording (`Video.source`) in each split. They must stay there: otherwise training clips of a
      run become its test clips."""


@_hookspec
def vcsf_decoders() -> Factories:  # type: ignore[empty-body]
    """Video readers. `f(*, ...) -> contracts.Decoder`."""


@_hookspec
def vcsf_encoders() -> Factories:  # type: ignore[empty-body]
    """Trained encoders of others, which `--from NAME:WHICH` measures and uses like a run.
    `f(which: str, /, *, ...) -> contracts.Encoder`; which is the text after the colon. Keywords are
    set with `--with KEY=VALUE`.

    Results say that its training clips are not known, and whether labels have trained it. What is
    kept of its features is found by its weights, `facts` and normalisation: change `facts` when its
    code gives other features."""


@_hookspec
def vcsf_loggers() -> Factories:  # type: ignore[empty-body]
    """Loggers of `vcsf pretrain --log NAME`. `f() -> object` with methods `vcsf_on_log` and, if it
    likes, `vcsf_on_finish`, each marked with `hookimpl`.

    It is made before the training, so that a package that is missing is an error then; it should
    reach for its service with the first record."""


@_hookspec
def vcsf_recipe_dirs() -> list[Path]:  # type: ignore[empty-body]
    """Folders with more recipes, found by file name without `.yaml`."""


@_hookspec
def vcsf_commands() -> list[click.Command]:  # type: ignore[empty-body]
    """More commands. `vcsf plugins` lists them; `vcsf --help` loads no plugin and does not."""


@_hookspec
def vcsf_on_log(run: Run, record: Mapping[str, float]) -> None:
    """Called with each log record: once per log interval, and after each check.

    A record has `step` and what was measured at that time; a check's has no `loss`. An observer
    that raises is not called again."""


@_hookspec
def vcsf_on_finish(run: Run, results: Mapping[str, float]) -> None:
    """Called at the end of a training, with its last logged values."""
