"""The shapes and protocols that vcsf and its plugins agree on.

B clips, L frames in a window, T frames or time steps of one pathway, C channels, K queue slots, D
dimensions of an embedding, n segments of a window, M clips of a batch of which both views show the
same window. Images are RGB. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

PATHWAYS: tuple[Literal["slow"], Literal["fast"]] = ("slow", "fast")


def other_pathway(pathway: str) -> Literal["slow", "fast"]:
    """`fast` for `slow`, `slow` for `fast`."""
    return "fast" if pathway == "slow" else "slow"


Frames = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RemoteFile:
    """A file that is not on this disk, or a part of a file, such as a member of an archive. It is
    fetched whole when its turn comes, see `remote`.

    Args:
        address: Where the file is, as fsspec writes it.
        size: Bytes of it, or of the part.
        version: Another one where the content is another one.
        begin: The part's first byte; None for a whole file.
        member: What the part is called.
    """

    address: str
    size: int
    version: str = ""
    begin: int | None = None
    member: str = ""

    def __str__(self) -> str:
        return f"{self.address}: {self.member}" if self.member else self.address

    @property
    def name(self) -> str:
        """As of a `Path`."""
        return PurePosixPath(self.member or self.address).name

    @property
    def stem(self) -> str:
        """As of a `Path`."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """As of a `Path`."""
        return PurePosixPath(self.name).suffix


@dataclass(frozen=True)
class Video:
    """One video file of a dataset, before it is prepared.

    Args:
        path: The file.
        name: Its path relative to the dataset's root, with `/`; unique within the dataset.
        label: Its class, None if unknown.
        group: Videos of one group are never divided by a split, such as `g07` in UCF101's names;
            empty if unknown.
        source: The recording that it was cut from; videos of equal source show the same scene.
            Empty: a recording of its own.
        split: `train`, `test` or empty in each of up to three official splits.
    """

    path: Path | RemoteFile
    name: str
    label: str | None = None
    group: str = ""
    source: str = ""
    split: tuple[str, str, str] = ("", "", "")


@dataclass(frozen=True)
class OfficialSize:
    """How large a published dataset is, so that measurements on less of it can say so.

    Args:
        clips: All its clips.
        splits: Training and test clips by number of the official split.
    """

    clips: int
    splits: Mapping[int, tuple[int, int]]


class Dataset(Protocol):
    """A dataset, as `vcsf_datasets` factories return it."""

    def videos(self) -> list[Video]:
        """All videos, sorted by name; downloads or makes them first if the dataset can.

        Raises:
            DataError: If there are none, or one is there twice.
        """
        ...

    def remarks(self) -> list[str]:
        """Sentences for the user, such as how complete a copy is; called after `videos`."""
        ...

    benchmark: bool
    """Whether the videos are a benchmark's clips, which must not be cut further."""


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Args:
        image: uint8 (H, W, 3), upright.
        time: Its presentation time in seconds from the first frame, None if the container has no
            usable one.
        damaged: Whether the decoder found errors in its data, which it concealed.
        pixel_aspect: Width of a pixel by its height, as shown.
    """

    image: Frames
    time: float | None
    damaged: bool = False
    pixel_aspect: float = 1.0


class Reader(Protocol):
    """An open video. It is exact or fails: frame i is frame i of a sequential decode from the
    start.

    Raises:
        DataError: From any method, if the file can't be decoded. `stream` yields the frames before
            the damage first.
    """

    fps: float
    """Frames per second by the container, 0.0 if unknown."""

    declared: int
    """Number of frames by the container, 0 if unknown. If fewer decode, the file is damaged."""

    def __len__(self) -> int:
        """Number of frames that decode."""
        ...

    def stream(self) -> Iterator[Frame]:
        """All frames in presentation order, in bounded memory."""
        ...

    def read(self, indices: Sequence[int], size: int | None = None) -> Frames:
        """The frames `indices` in that order, repeats allowed: uint8 (T, H, W, 3).

        Args:
            indices: Numbers of frames.
            size: Largest short side; larger frames are scaled down, their aspect kept.

        Raises:
            IndexError: If an index is not in `range(len(self))`.
        """
        ...


class Decoder(Protocol):
    """A decoder, as `vcsf_decoders` factories return it."""

    def open(self, path: Path) -> Reader:
        """Open a video file.

        Raises:
            DataError: If the decoder can't read it.
        """
        ...


@dataclass(frozen=True)
class View:
    """The frames of one view of a video.

    Args:
        window: Frame numbers of the window that both pathways see, int64 (L,). If each pathway has
            a window of its own: both, one after the other.
        slow: Positions that slow reads in its window, int64 (T_slow,).
        fast: Positions that fast reads in its window, int64 (T_fast,).
        parts: Start and end of a pathway's window in `window`, for pathways that don't see all of
            it. Equal in all views that a sampler gives for training, and in all for measuring.
    """

    window: Indices
    slow: Indices
    fast: Indices
    parts: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def positions(self, pathway: str) -> Indices:
        """Positions that a pathway reads in its window."""
        return self.slow if pathway == "slow" else self.fast

    def part(self, pathway: str) -> tuple[int, int]:
        """Start and end of a pathway's window in `window`."""
        return self.parts.get(pathway, (0, len(self.window)))


class Sampler(Protocol):
    """A sampler, as `vcsf_samplers` factories return it. It sees no video, only a number of frames, and the
    same generator gives the same views."""

    length: int
    """L, frames of a window."""

    def sample(self, frames: int, rng: np.random.Generator) -> tuple[View, View]:
        """Two views of a video of `frames` frames for training."""
        ...

    def cover(self, frames: int) -> list[View]:
        """Fixed windows for measuring, which together reach every frame that they can."""
        ...


@dataclass(frozen=True)
class Encoder:
    """A trained encoder of others, as `vcsf_encoders` factories return it.

    vcsf cuts clips of `frames` frames out of a video, resizes the centre square to `size` and
    normalises RGB from 0 to 1 by `mean` and `std`.

    Args:
        name: What it is called, such as `videomae-base`.
        origin: Whose it is and where it comes from, for reports.
        network: An `nn.Module`: features (B, `width`) of clips (B, 3, `frames`, `size`, `size`).
        width: Length of the features.
        frames: Frames of a clip.
        size: Pixels of a side.
        mean: Of the pixels that it was trained on, red, green and blue.
        std: Their standard deviation.
        border: Side of the centre square as a fraction of the short side.
        stride: Frames of the video from one frame of a clip to the next.
        labels: Whether labels have trained it; None if that is not known.
        remarks: Sentences that belong beside its results.
        facts: What else than the weights its features depend on, such as its configuration; it
            becomes JSON.
    """

    name: str
    origin: str
    network: Any
    width: int
    frames: int
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    border: float = 1.0
    stride: int = 1
    labels: bool | None = None
    remarks: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Contrast:
    """The arguments of a contrastive loss. Embeddings have unit length and are keyed by pathway.

    Numbers are int64. As video or source, -1 marks an empty slot and equals nothing; as label it
    means unknown. Videos of equal source were cut from one recording. Only a loss whose
    `uses_labels` is true may read labels. `hookspecs.vcsf_losses` lists the attributes of a loss.

    Args:
        query: View 1 through the trained encoder, (B, D), with gradient; None for a frozen pathway.
        key: View 2 through the momentum encoder, (B, D); a frozen pathway has keys only if the loss
            `crosses`.
        queue: Older keys, (K, D); slot i is the same clip in both pathways. The batch's own keys
            for a loss with `queue` 0.
        video: Numbers of the batch's videos, (B,), and `queue_video` (K,) of the queue's.
        source: Numbers of their recordings, (B,), and `queue_source` (K,).
        label: Their classes, (B,), and `queue_label` (K,).
        query_segments: For a loss with `segments`: each segment of view 1 as a clip of its own
            through the trained encoder, (M, n, D), with gradient. M may be 0.
        key_segments: The same of view 2 through the momentum encoder, (M, n, D).
        query_steps: For a loss with `steps`: the features of all of view 1, as in `query`, but by
            equal spans of time in place of all of it, (M, n, D), with gradient.
        queue_cluster: Clusters of the slots, (K,), of a loss that can `cluster`; -1 for those that
            were empty when they were formed.
        batch: For a loss with a bank, which its `queue` then is: the same with the batch's own keys
            as queue.
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
    query_segments: Mapping[str, Tensor] = field(default_factory=dict)
    key_segments: Mapping[str, Tensor] = field(default_factory=dict)
    query_steps: Mapping[str, Tensor] = field(default_factory=dict)
    queue_cluster: Tensor | None = None
    batch: Contrast | None = None


def identity(stage: int, features: Any) -> Any:
    """The `between` of a backbone without motion modules: features as they are."""
    return features


def never(keys: Collection[str]) -> bool:
    """The `labels` of a layout whose files are never trained with labels."""
    return False


@dataclass(frozen=True)
class Layout:
    """Names of a backbone's weights in the files of other code, so that `--init` can load them.

    A file fits if, after one of the prefixes, it has every tensor of the backbone, and no other
    tensor but those left out. Counters of batch norm (`num_batches_tracked`) may be missing.

    Args:
        keys: The backbone's own key for each key of the file. Two keys of the file may lead to one
            if their tensors are equal.
        prefixes: Possible prefixes of those keys in a file, such as `encoder_q.0.`.
        left_out: Tensors that are not loaded: the beginning of their keys, prefix included, and
            what they are, such as `projection head`.
        labels: Whether the keys of a file show that labels trained the weights.
        eps: Of the file's batch norms, if the backbone's differs. Running variances are then
            adjusted, so that in eval mode the networks are the same.
        remark: A sentence shown to users of such weights.
    """

    keys: Mapping[str, str]
    prefixes: Sequence[str] = ("",)
    left_out: Mapping[str, str] = field(default_factory=dict)
    labels: Callable[[Collection[str]], bool] = never
    eps: float | None = None
    remark: str = ""


class Run(Protocol):
    """A run, as observers see it."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        ...

    @property
    def name(self) -> str:
        """The folder's name."""
        ...


@dataclass(frozen=True)
class Parameter:
    """One keyword of a factory, from its signature and docstring."""

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
