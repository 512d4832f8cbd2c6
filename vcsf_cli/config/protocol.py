"""Protocols of `vcsf finetune`: how a network is measured by classification, on any clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

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
    """As in pre-training, with the defaults of CoCLR's fine-tuning: crop, flip, colour jitter."""

    colour: Probability = 0.3
    grey: Probability = 0.0
    blur: Probability = 0.0
    base: Probability = 1.0
    """Probability that a clip may have colour, grey and blur at all."""


class _FinetuneOptim(Optim):
    """Optimiser and schedule of the new layer; the backbone has its own learning rate."""

    weight_decay: Annotated[float, Ge(0)] = 1e-3
    backbone_lr: Annotated[float, Gt(0)] = 1e-4
    """Learning rate of the pre-trained network; it follows the same schedule as `lr`."""


class _FinetuneTrain(Node):
    epochs: Annotated[int, Gt(0)]
    batch: Annotated[int, Gt(1)] = 64
    accumulate: Annotated[int, Gt(0)] = 1
    """Parts of the batch whose gradients are summed one after the other, to save memory."""
    choose: Literal["last", "best"] = "last"
    """`last`: train on all training clips and keep the last epoch; `best`: hold out recordings, and
    keep each pathway's best epoch on them."""
    log_every: Annotated[int, Gt(0)] = 20
    """Optimiser steps between two lines of metrics.csv."""
    check_every: Annotated[int, Gt(0)] = 10
    """Epochs between two checks on held-out recordings."""


class Finetune(Node):
    """Trains the whole network, with dropout and a new layer for each pathway."""

    mode: Literal["finetune"]
    name: Name
    held_out: _HeldOut = 0.2
    """Share of each class's recordings that are held out for choosing, if anything is chosen."""
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    augment: _FinetuneAugment = _FinetuneAugment()
    optim: _FinetuneOptim = _FinetuneOptim()
    train: _FinetuneTrain
    crops: _Crops = "ten"
    """Test crops: the centre square, or corners and centre of the frame, each also mirrored."""


class _Grid(Node):
    """Values that are tried in all combinations; the first one is used if no clips are held out."""

    lr: Annotated[list[Annotated[float, Gt(0)]], MinLen(1)]
    weight_decay: Annotated[list[Annotated[float, Ge(0)]], MinLen(1)]


class _LinearOptim(Node):
    """Optimiser and schedule; learning rate and weight decay are in the grid."""

    name: Optimiser = "sgd"
    momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    schedule: Literal["constant", "step", "cosine"] = "step"
    drops: list[Annotated[int, Gt(0)]] = Field(default_factory=lambda: [60, 80])
    """Epochs after which a `step` schedule divides the learning rate by ten."""
    warmup: Annotated[float, Ge(0)] = 0.0


class LinearTrain(Node):
    epochs: Annotated[int, Gt(0)] = 100
    batch: Annotated[int, Gt(1)] = 1024


class Linear(Node):
    """Trains a linear layer on frozen unit-length features, after batch norm without weights."""

    mode: Literal["linear"]
    name: Name
    held_out: _HeldOut = 0.2
    optim: _LinearOptim = _LinearOptim()
    train: LinearTrain = LinearTrain()
    grid: _Grid
    crops: _Crops = "centre"
    """Crops of training and test clips; a feature is the mean over windows and crops."""


class _AttentiveOptim(_LinearOptim):
    name: Optimiser = "adamw"
    schedule: Literal["constant", "step", "cosine"] = "cosine"
    drops: list[Annotated[int, Gt(0)]] = Field(default_factory=list)
    warmup: Annotated[float, Ge(0)] = 1.0


class AttentiveTrain(Node):
    epochs: Annotated[int, Gt(0)] = 50
    batch: Annotated[int, Gt(1)] = 32


class Attentive(Node):
    """Trains one cross-attention block and a linear layer on frozen features before pooling."""

    mode: Literal["attentive"]
    name: Name
    held_out: _HeldOut = 0.2
    windows: Annotated[int, Gt(0)] = 4
    """Windows of a clip, spread evenly: one at a time is learned from, the mean of their
    probabilities is the answer."""
    heads: Annotated[int, Gt(0)] = 8
    """Of the attention; fewer where the features' channels can't be divided by it."""
    optim: _AttentiveOptim = _AttentiveOptim()
    train: AttentiveTrain = AttentiveTrain()
    grid: _Grid
    crops: Literal["centre"] = "centre"


class _KnnGrid(Node):
    """Values that are tried in all combinations; the first one is used if no clips are held out."""

    k: Annotated[list[Annotated[int, Gt(0)]], MinLen(1)]
    temperature: Annotated[list[Annotated[float, Gt(0)]], MinLen(1)]


class Knn(Node):
    """A vote of the nearest training clips (Wu et al., CVPR 2018)."""

    mode: Literal["knn"]
    name: Name
    held_out: _HeldOut = 0.2
    grid: _KnnGrid
    crops: _Crops = "centre"


Protocol = Finetune | Linear | Attentive | Knn

_MODES: Mapping[str, type[Finetune] | type[Linear] | type[Attentive] | type[Knn]] = {
    "finetune": Finetune,
    "linear": Linear,
    "attentive": Attentive,
    "knn": Knn,
}


def load(named: str, assignments: Sequence[str] = ()) -> Protocol:
    """Read and check a protocol.

    Args:
        assignments: Those of `--set`, each `key=value`.

    Raises:
        InputError: If there is no such protocol.
        RecipeError: With all of its problems.
    """
    path = PROTOCOLS.find(named)
    tree, marks = strict_yaml.read(path, "protocol", f"see {PROTOCOLS.files()['linear']}")
    problems = assign_all(tree, marks, assignments)
    mode = tree.get("mode")
    checker = Checker(marks, problems, "protocol")
    if mode is None:
        raise RecipeError(
            f"the protocol needs {checker.place('mode')}", f"known: {', '.join(_MODES)}"
        )
    if mode not in _MODES:
        raise UnknownName("mode", str(mode), _MODES, checker.place("mode"))
    protocol: Protocol | None = checker.node(_MODES[mode], tree, ())
    if isinstance(protocol, Finetune | Linear | Attentive):
        checker.check_drops(protocol.optim.schedule, protocol.optim.drops, protocol.train.epochs)
    checker.finish()
    assert protocol is not None
    return protocol


def matches_its_name(protocol: Protocol) -> bool:
    """Whether a protocol equals the one that is found by its name."""
    path = PROTOCOLS.files().get(protocol.name)
    return path is not None and load(str(path)) == protocol
