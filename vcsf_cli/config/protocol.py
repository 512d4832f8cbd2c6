"""Protocols of `vcsf finetune`: strict YAML in `recipes/protocols/`, read with the strictness of
recipes.

A protocol says how a network is measured by classification, and nothing of which network or which
clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval, MinLen
from pydantic import Field

from vcsf_cli.config import strict_yaml
from vcsf_cli.config.catalogue import PROTOCOLS
from vcsf_cli.config.check import Checker
from vcsf_cli.config.recipe import assign_all
from vcsf_cli.config.schema import Augment, Node, Optim, Optimiser, Probability
from vcsf_cli.errors import RecipeError, UnknownName

Name = Annotated[str, MinLen(1)]
_HeldOut = Annotated[float, Interval(gt=0, le=0.5)]
_Crops = Literal["centre", "ten"]


class _FinetuneAugment(Augment):
    """As in pre-training, but one view and other defaults (CoCLR's fine-tuning: crop, flip, colour
    jitter)."""

    colour: Probability = 0.3
    grey: Probability = 0.0
    blur: Probability = 0.0
    base: Probability = 1.0
    """Probability that a clip is `base` (colour, grey, blur, each with its own probability) at
    all."""


class _FinetuneOptim(Optim):
    """Optimiser and schedule of the new layer; what comes before it learns at a rate of its own."""

    weight_decay: Annotated[float, Ge(0)] = 1e-3
    backbone_lr: Annotated[float, Gt(0)] = 1e-4
    """Learning rate of the pre-trained network, which follows the schedule in step with `lr`."""


class _FinetuneTrain(Node):
    """How long, in what batches, and which epoch counts."""

    epochs: Annotated[int, Gt(0)]
    batch: Annotated[int, Gt(1)] = 64
    accumulate: Annotated[int, Gt(0)] = 1
    """Parts of the batch whose gradients are added up one after the other, for devices with little
    memory."""
    choose: Literal["last", "best"] = "last"
    """`last`: all training clips are learned from, and the last epoch counts; `best`: whole
    recordings are held out, and of the epochs that are checked on them each pathway's best
    counts."""
    log_every: Annotated[int, Gt(0)] = 20
    """Optimiser steps between two lines of metrics.csv."""
    check_every: Annotated[int, Gt(0)] = 10
    """Epochs between two checks on held-out recordings."""


class Finetune(Node):
    """The whole network learns: a new layer of its own for each pathway, after dropout."""

    mode: Literal["finetune"]
    name: Name
    held_out: _HeldOut = 0.2
    """Share of each class's recordings that choose and do not learn, where anything is chosen."""
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    augment: _FinetuneAugment = _FinetuneAugment()
    optim: _FinetuneOptim = _FinetuneOptim()
    train: _FinetuneTrain
    crops: _Crops = "ten"
    """At test: the centre square, or corners and centre of the frame, each also mirrored."""


class _Grid(Node):
    """What the sweep tries, in all combinations; the first is taken where there is nothing to
    choose by."""

    lr: Annotated[list[Annotated[float, Gt(0)]], MinLen(1)]
    weight_decay: Annotated[list[Annotated[float, Ge(0)]], MinLen(1)]


class _LinearOptim(Node):
    """Optimiser and schedule of the layer; learning rate and weight decay are the grid's."""

    name: Optimiser = "sgd"
    momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    schedule: Literal["constant", "step", "cosine"] = "step"
    drops: list[Annotated[int, Gt(0)]] = Field(default_factory=lambda: [60, 80])
    """Epochs after which a `step` schedule divides the learning rate by ten."""
    warmup: Annotated[float, Ge(0)] = 0.0


class LinearTrain(Node):
    """How long and in what batches the layer learns from features."""

    epochs: Annotated[int, Gt(0)] = 100
    batch: Annotated[int, Gt(1)] = 1024


class Linear(Node):
    """One linear layer on frozen features of unit length, after batch norm without weights of its
    own."""

    mode: Literal["linear"]
    name: Name
    held_out: _HeldOut = 0.2
    optim: _LinearOptim = _LinearOptim()
    train: LinearTrain = LinearTrain()
    grid: _Grid
    crops: _Crops = "centre"
    """Of training and test clips alike: a feature is the mean over windows and crops."""


class _KnnGrid(Node):
    """What is tried, in all combinations; the first is taken where there is nothing to choose
    by."""

    k: Annotated[list[Annotated[int, Gt(0)]], MinLen(1)]
    temperature: Annotated[list[Annotated[float, Gt(0)]], MinLen(1)]


class Knn(Node):
    """The nearest training clips vote (Wu et al., CVPR 2018)."""

    mode: Literal["knn"]
    name: Name
    held_out: _HeldOut = 0.2
    grid: _KnnGrid
    crops: _Crops = "centre"


Protocol = Finetune | Linear | Knn

_MODES: Mapping[str, type[Finetune] | type[Linear] | type[Knn]] = {
    "finetune": Finetune,
    "linear": Linear,
    "knn": Knn,
}


def load(named: str, assignments: Sequence[str] = ()) -> Protocol:
    """Read and check a protocol.

    Args:
        named: A protocol's name or file.
        assignments: What `--set` was given, each `key=value`.

    Raises:
        InputError: If there is no such protocol.
        RecipeError: With everything that is wrong in it.
    """
    path = PROTOCOLS.find(named)
    tree, marks = strict_yaml.read(path, "protocol", f"see {PROTOCOLS.files()['linear']}")
    return _validate_protocol(tree, marks, assign_all(tree, marks, assignments))


def is_known(protocol: Protocol) -> bool:
    """Whether a protocol is what its name says wherever vcsf is installed: no file of the user's,
    and no key set."""
    path = PROTOCOLS.files().get(protocol.name)
    return path is not None and load(str(path)) == protocol


def _validate_protocol(
    tree: dict[str, Any], marks: strict_yaml.Marks, problems: Sequence[RecipeError]
) -> Protocol:
    """The protocol of what a file and assignments say.

    Raises:
        RecipeError: With all problems.
    """
    mode = tree.get("mode")
    checker = Checker(marks, problems, "protocol")
    if mode is None:
        raise RecipeError(
            f"the protocol needs {checker.place('mode')}", f"known: {', '.join(_MODES)}"
        )
    if mode not in _MODES:
        raise UnknownName("mode", str(mode), _MODES, checker.place("mode"))
    protocol: Protocol | None = checker.node(_MODES[mode], tree, ())
    if isinstance(protocol, Finetune | Linear):
        checker.drops(protocol.optim.schedule, protocol.optim.drops, protocol.train.epochs)
    checker.finish()
    assert protocol is not None
    return protocol
