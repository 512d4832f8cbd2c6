"""The keys of a recipe that are vcsf's own; those of components are in their signatures."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval, MinLen
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
)
from pydantic_core import PydanticCustomError

from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.storage.files import is_folder_name

Probability = Annotated[float, Interval(ge=0, le=1)]
_Strength = Annotated[float, Ge(0)]
Range = Annotated[tuple[float, float], "lowest and highest"]


class Node(BaseModel):
    """A node of a recipe: unknown keys are errors, and text is never converted."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, arbitrary_types_allowed=True, allow_inf_nan=False
    )


LARGEST_SEED = 2**31 - 1


def _check_name(name: str) -> str:
    if not name or not all(letter.isalnum() or letter in "-_." for letter in name):
        raise ValueError("give letters, digits, `-`, `_` and `.`")
    if len(name.encode()) > 100:
        raise ValueError("give at most 100 letters: folders bear it")
    return name


class Top(Node):
    """The keys of a recipe that no stage has."""

    name: Annotated[str, AfterValidator(_check_name)]
    seed: Annotated[int, Interval(ge=0, le=LARGEST_SEED)] = 0


class Component(BaseModel):
    """A node that names a component; its other keys are settings."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str

    @property
    def settings(self) -> dict[str, Any]:
        """Parameters of the factory, and vcsf's own keys such as `motion.after`."""
        return dict(self.model_extra or {})


def _check_dataset(name: str) -> str:
    if not is_folder_name(name):
        raise ValueError("give the name of a folder in --data")
    return name


Dataset = Annotated[str, AfterValidator(_check_dataset)]
"""The name of a prepared dataset."""


class Data(Node):
    """A folder under `--data`, an official split, and the side of a clip in pixels."""

    name: Dataset
    split: Literal[1, 2, 3] = 1
    size: Annotated[int, Interval(ge=16, le=512)] = 128


class Augment(Node):
    """Transforms after CoCLR's pre-training; one draw per clip for all frames and both pathways.

    CoCLR crops from the whole frame, here crops lie in the centre square; its grey copies a random
    channel, here it is the luma."""

    name: Literal["standard"] = "standard"
    border: Annotated[float, Interval(gt=0, le=1)] = 0.875
    """Side of the centre square with all crops, as a fraction of the short side; measuring takes
    that square (CoCLR's test crop: 224/256)."""
    area: Range = (0.2, 1.0)
    """Area of the crop as a fraction of that square."""
    aspect: Range = (3 / 4, 4 / 3)
    """Width over height of the crop before it is resized."""
    flip: Probability = 0.5
    colour: Probability = 0.8
    """Probability of colour jitter in a `base` view."""
    jitter: Annotated[
        tuple[_Strength, _Strength, _Strength, _Strength], "brightness, contrast, saturation, hue"
    ] = (0.4, 0.4, 0.4, 0.1)
    grey: Probability = 0.2
    blur: Probability = 0.5
    sigma: Range = (0.1, 2.0)
    """Standard deviation of the blur in pixels of a 128 px clip; it scales with the clip's size."""
    draws: Literal["shared", "separate"] = "shared"
    """Whether both pathways share the colour draw of a view; they always share the crop."""
    erase: Probability = 0.0
    """Probability that a random frame of the clip is mixed into all its frames, so that the scene
    says less and movement more (BE, Wang et al., CVPR 2021)."""
    still: Annotated[float, Interval(ge=0, lt=1)] = 0.3
    """Largest share of that frame in the mixture; the share is uniform from 0."""
    base: Probability = 0.3
    """Probability that a view has colour, grey and blur (`base`), besides crop and flip. If both
    views are of the same window, exactly one of them is `base`."""

    @field_validator("area", "aspect", "sigma")
    @classmethod
    def _ordered(cls, ends: tuple[float, float]) -> tuple[float, float]:
        if not 0 < ends[0] <= ends[1]:
            raise ValueError("write two positive numbers, the smaller first")
        return ends

    @field_validator("area")
    @classmethod
    def _fraction(cls, ends: tuple[float, float]) -> tuple[float, float]:
        if ends[1] > 1:
            raise ValueError("a fraction is at most 1")
        return ends


class Head(Node):
    """1x1x1 convolution C -> hidden, ReLU, 1x1x1 convolution hidden -> dim, unit length."""

    hidden: Annotated[int, Gt(0)] | None = None
    """None: the backbone's channels."""
    dim: Annotated[int, Gt(0)] = 128


def _check_optimiser(name: str) -> str:
    if name == _OPTIMISER:
        return name
    # timm loads torch, which takes seconds.
    from timm.optim import list_optimizers  # type: ignore[attr-defined]  # it has no __all__

    known = [str(optimiser) for optimiser in list_optimizers()]
    if name not in known:
        context = {"what": "optimiser", "known": known}
        raise PydanticCustomError("unknown_name", "timm has no such optimiser", context)
    return name


_OPTIMISER = "adam"

Optimiser = Annotated[str, AfterValidator(_check_optimiser)]
"""The name of an optimiser of timm."""


class Optim(Node):
    name: Optimiser = _OPTIMISER
    lr: Annotated[float, Gt(0)] = 1e-3
    weight_decay: Annotated[float, Ge(0)] = 1e-5
    momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    """Ignored by optimisers without one."""
    schedule: Literal["constant", "step", "cosine"] = "constant"
    drops: list[Annotated[int, Gt(0)]] = Field(default_factory=list)
    """Epochs after which a `step` schedule divides the learning rate by ten."""
    warmup: Annotated[float, Ge(0)] = 0.0
    """Epochs of linear rise at the start."""


class Train(Node):
    epochs: Annotated[int, Gt(0)]
    batch: Annotated[int, Gt(1)] = 32
    """Clips per optimiser step, over all processes."""
    accumulate: Annotated[int, Gt(0)] = 1
    """Parts of the batch whose gradients are summed one after the other, to save memory. Each part
    has its own batch-norm statistics and random draws."""
    norm: Literal["batch", "split", "synced", "frozen"] = "batch"
    """Batch-norm statistics of a process's batch; of parts of it, with keys shuffled between them
    (MoCo's shuffle-BN within a process); of all processes' batches (GPUs only); or the running
    statistics."""
    parts: Annotated[int, Gt(1)] = 4
    """Parts of a process's batch with `norm: split`."""
    pathways: Annotated[tuple[Literal["slow", "fast"], ...], MinLen(1)] = PATHWAYS
    """The pathways that are trained."""
    key_momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.999
    """Momentum m of the key encoder."""
    log_every: Annotated[int, Gt(0)] = 20
    """Optimiser steps between two lines of metrics.csv."""
    check_every: Annotated[int, Ge(0)] = 10
    """Epochs between two leave-one-source-out retrieval checks on training clips; 0: never."""
    check_clips: Annotated[int, Gt(1)] = 1000
    """The most training clips in a check."""


class Speed(Node):
    """How a step is computed. `precision` changes results; the others change them by rounding alone."""

    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Arithmetic in training; auto: bf16 on a GPU that has it, else float32."""
    compile: bool = False
    """Whether torch compiles each pathway, which takes minutes. What it gains is not measured."""
    fused: Literal["auto"] | bool = "auto"
    """Whether the optimiser updates all weights in one kernel; auto: on a GPU, where it can."""
    channels_last: bool = True
    """Whether clips and weights have the channel last in memory: faster, but on a CPU
    not for S3D and R3D-18. A run is the same run with either."""


_Digest = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


def _is_default(value: Any) -> bool:
    return value in (None, (), Init())


class Init(Node):
    """SHA-256 of the files of initial weights, which `--init FILE` sets; None: random weights."""

    slow: _Digest | None = Field(default=None, exclude_if=_is_default)
    fast: _Digest | None = Field(default=None, exclude_if=_is_default)


class Stage(Node):
    data: Data
    sampler: Component
    augment: Augment = Augment()
    backbone: Component
    slow: dict[str, Any] = Field(default_factory=dict)
    fast: dict[str, Any] = Field(default_factory=dict)
    motion: Component
    head: Head = Head()
    loss: Component
    auxiliary_losses: tuple[Component, ...] = Field(default=(), exclude_if=_is_default)
    optim: Optim = Optim()
    train: Train
    speed: Speed = Speed()
    init: Init = Field(default=Init(), exclude_if=_is_default)

    @property
    def loss_names(self) -> str:
        return " + ".join(loss.name for loss in (self.loss, *self.auxiliary_losses))


NO_MOTION = "none"
"""The motion module of a recipe without one."""

DEFAULTS: dict[str, Any] = {
    "sampler": {"name": "slow_fast"},
    "motion": {"name": NO_MOTION},
    "loss": {"name": "infonce"},
    "stages": [],
}
"""Top-level keys with defaults that no model above has."""

MODEL_KEYS = frozenset({"data", "backbone", "slow", "fast", "motion", "head", "speed", "init"})
"""Keys that a stage can't change: its networks and clips are those of the stage before."""

COMPONENTS = {"sampler": "sampler", "backbone": "backbone", "motion": "motion", "loss": "loss"}
"""The keys of component nodes, with the kind of component."""
