"""The shapes and protocols that vcsf and its plugins agree on, stated once.

B clips, L frames in a window, T frames or time steps of one pathway, C channels, K queue slots, D
head dimensions. Images are RGB. Nothing here imports torch when it is merely read by the data
commands."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

PATHWAYS: tuple[Literal["slow"], Literal["fast"]] = ("slow", "fast")


def other_pathway(pathway: str) -> Literal["slow", "fast"]:
    """The pathway that is not this one."""
    return "fast" if pathway == "slow" else "slow"


Frames = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Video:
    """One video file of a dataset, before it is prepared.

    Args:
        path: The file.
        name: Its path relative to the dataset's root, with `/`; unique within the dataset.
        label: Its class, None if unknown.
        group: What never straddles a split, such as `g07` in UCF101's names; empty if unknown.
        source: The recording that it was cut from; videos of equal source show the same scene.
            Empty: its own.
        split: Its part, `train`, `test` or empty, in each of up to three official splits.
    """

    path: Path
    name: str
    label: str | None = None
    group: str = ""
    source: str = ""
    split: tuple[str, str, str] = ("", "", "")


class Dataset(Protocol):
    """What a `vcsf_datasets` factory returns."""

    def videos(self) -> list[Video]:
        """All videos, sorted by name; downloads or makes them first where the dataset can do that.

        Raises:
            DataError: If none are found, or one is found twice.
        """
        ...

    def remarks(self) -> list[str]:
        """Sentences for the user, such as how complete a copy is; called after `videos`."""
        ...

    benchmark: bool
    """Whether clips are already cut as the benchmark wants them, so that none is ever cut up
    further."""


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Args:
        image: uint8 (H, W, 3), upright.
        time: Its presentation time in seconds from the first frame, None where the container has no
            usable one.
    """

    image: Frames
    time: float | None


class Reader(Protocol):
    """An open video: exact, that is frame i is frame i of a sequential decode from the start, or an
    error.

    Raises:
        DataError: From any method, if the file can't be decoded. Frames before the damage are
            yielded first.
    """

    fps: float
    """Frames per second as the container says, 0.0 if unknown."""

    declared: int
    """Number of frames that there should be, 0 if unknown; fewer that decode mean a damaged
    file."""

    def __len__(self) -> int:
        """Number of frames that really decode."""
        ...

    def stream(self) -> Iterator[Frame]:
        """All frames in presentation order, in bounded memory."""
        ...

    def read(self, indices: Sequence[int], size: int | None = None) -> Frames:
        """The frames `indices`, any order, repeats allowed: uint8 (T, H, W, 3), short side `size`
        if given.

        Raises:
            IndexError: If an index is not in `range(len(self))`.
        """
        ...


class Decoder(Protocol):
    """What a `vcsf_decoders` factory returns."""

    def open(self, path: Path) -> Reader:
        """Open a video file.

        Raises:
            DataError: If it is no video that this decoder can read.
        """
        ...


@dataclass(frozen=True)
class View:
    """The frames of one view of a video.

    Args:
        window: Frame numbers of the window that both pathways see, int64 (L,); where each has its
            own, one after the other.
        slow: Positions in the slow pathway's window that it reads, int64 (T_slow,).
        fast: Positions in the fast pathway's window that it reads, int64 (T_fast,).
        parts: Begin and end of each pathway's window in `window`, for pathways that don't see all
            of it. The same for all views that a sampler gives for training, and for all that it
            gives for measuring.
    """

    window: Indices
    slow: Indices
    fast: Indices
    parts: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def positions(self, pathway: str) -> Indices:
        """Positions in a pathway's window that it reads."""
        return self.slow if pathway == "slow" else self.fast

    def part(self, pathway: str) -> tuple[int, int]:
        """Begin and end of a pathway's window in `window`."""
        return self.parts.get(pathway, (0, len(self.window)))


class Sampler(Protocol):
    """What a `vcsf_samplers` factory returns. Pure: it needs no video, only its number of
    frames."""

    length: int
    """L, frames of a window."""

    def sample(self, frames: int, rng: np.random.Generator) -> tuple[View, View]:
        """Two views of a video of `frames` frames for training."""
        ...

    def cover(self, frames: int) -> list[View]:
        """Deterministic windows that together reach every frame they can, for measuring."""
        ...


@dataclass
class Contrast:
    """What every contrastive loss sees: keyed by pathway, vectors of unit length.

    `video`, `source` and `label` are int64; -1 as video or source marks an empty slot and equals
    nothing, -1 as label is unknown. Videos of equal source were cut from one recording; a video
    without group is its own source. A loss may read a label only if its class attribute
    `uses_labels` is true.

    Args:
        query: View 1 through the trained encoder, (B, D), with gradient; None for a frozen pathway.
        key: View 2 through the momentum encoder, (B, D). Of a pathway that does not learn, only if
            the loss `crosses`.
        queue: Older keys, (K, D), kept in step across pathways; the batch's own keys for a loss
            with `queue` 0.
        video: Batch video numbers, (B,), and `queue_video` (K,).
        source: Batch source numbers, (B,), and `queue_source` (K,).
        label: Batch labels, (B,), and `queue_label` (K,).
    """

    query: dict[str, Tensor | None]
    key: dict[str, Tensor]
    queue: dict[str, Tensor]
    video: Tensor
    source: Tensor
    label: Tensor
    queue_video: Tensor
    queue_source: Tensor
    queue_label: Tensor


def identity(stage: int, features: Any) -> Any:
    """The `between` of a backbone without motion modules."""
    return features


def never(keys: Collection[str]) -> bool:
    """The `labels` of a layout whose files never come from a training with labels."""
    return False


@dataclass(frozen=True)
class Layout:
    """How files of another code name the weights of a backbone, so that `--init` can take them.

    A file fits if, after one of the prefixes, every tensor of the backbone is there, and nothing is
    there besides that is not left out. Counters of batch norm (`num_batches_tracked`) may be
    missing.

    Args:
        keys: The backbone's own key by the file's. Two of the file's may stand for one; they must
            then be equal.
        prefixes: What may stand before each of those keys in a file, such as `encoder_q.0.`.
        left_out: What is known and not taken: the beginning of a key, prefix included, and what
            that is.
        labels: Whether a file's keys say that labels trained these weights.
        eps: That of its batch norms, where it is not the backbone's own. Running variances then
            take up the difference: evaluated, the networks are the same.
        remark: A sentence for whoever takes such weights.
    """

    keys: Mapping[str, str]
    prefixes: Sequence[str] = ("",)
    left_out: Mapping[str, str] = field(default_factory=dict)
    labels: Callable[[Collection[str]], bool] = never
    eps: float | None = None
    remark: str = ""


class Run(Protocol):
    """What an observer may ask a run folder."""

    @property
    def folder(self) -> Path:
        """Where it is."""
        ...

    @property
    def name(self) -> str:
        """The folder's name, which names the run."""
        ...


@dataclass(frozen=True)
class Parameter:
    """One keyword of a factory, as its signature and docstring say it."""

    name: str
    annotation: Any
    default: Any
    help: str = ""
    required: bool = False


@dataclass(frozen=True)
class Component:
    """A named factory of one kind, and the plugin that registered it."""

    kind: str
    name: str
    factory: Callable[..., Any]
    plugin: str
    parameters: dict[str, Parameter] = field(default_factory=dict)
    summary: str = ""
