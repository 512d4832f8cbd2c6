"""How torchvision's and CoCLR's files name the weights of our backbones."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from vcsf_cli.contracts import Layout

TORCHVISION = "torchvision"
COCLR = "CoCLR"

_CLASSIFIER = "classifier"
TORCHVISION_EPS = 1e-3
"""The eps of the batch norms of torchvision's S3D."""

_REMARK = (
    "torchvision trained them on frames normalised by mean 0.43216, 0.394666, 0.37645 and "
    "deviation 0.22803, 0.22145, 0.216989; here it is ImageNet's mean and deviation, and features "
    "differ accordingly until training has adapted"
)


def torchvision_layout(network: nn.Module, own: nn.Module, eps: float | None = None) -> Layout:
    """Torchvision's names for the weights of a backbone made of the modules of its network.

    Args:
        own: The backbone; its weights are the network's own tensors.
        eps: Of the batch norms in torchvision, if the backbone has another.
    """
    names = {id(tensor): name for name, tensor in own.state_dict(keep_vars=True).items()}
    theirs = network.state_dict(keep_vars=True)
    keys = {name: names[id(tensor)] for name, tensor in theirs.items() if id(tensor) in names}
    left_out = {f"{name.split('.')[0]}.": _CLASSIFIER for name in theirs if name not in keys}
    return Layout(keys, left_out=left_out, labels=_has_classifier, eps=eps, remark=_REMARK)


def _has_classifier(keys: Collection[str]) -> bool:
    """Whether the keys of a file include a classifier, which only labels can have trained."""
    return any(key.startswith(("fc.", "classifier.")) for key in keys)


_COCLR_BLOCKS = (
    ("Conv_1a",),
    ("MaxPool_2a", "Conv_2b", "Conv_2c"),
    ("MaxPool_3a", "Mixed_3b", "Mixed_3c"),
    ("MaxPool_4a", "Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f"),
    ("MaxPool_5a", "Mixed_5b", "Mixed_5c"),
)
"""The layers of each block of CoCLR's S3D; its blocks are our stages."""


def coclr_layout(own: nn.Module) -> Layout:
    """The names of S3D's weights in CoCLR's checkpoints (github.com/TengdaHan/CoCLR,
    `backbone/s3dg.py`).

    Every weight is there twice, under its layer's name and under its place in a block. The prefix
    is `encoder_q.0.` after pre-training, `backbone.` after a probe or fine-tuning."""
    keys: dict[str, str] = {}
    for name in own.state_dict():
        stage, layer, inside = _coclr_place(name)
        keys[f"{_COCLR_BLOCKS[stage][layer]}.{inside}"] = name
        keys[f"block{stage + 1}.{layer}.{inside}"] = name
    left_out = {
        "encoder_k.": "momentum encoder",
        "sampler.": "encoder of the other view",
        "encoder_q.2.": "projection head",
        "encoder_q.4.": "projection head",
        "queue": "queue of keys",
        "final_bn.": _CLASSIFIER,
        "final_fc.": _CLASSIFIER,
    }
    return Layout(keys, ("encoder_q.0.", "backbone.", ""), left_out, _coclr_labels)


def _coclr_place(name: str) -> tuple[int, int, str]:
    """Stage, layer in the stage, and CoCLR's name inside that layer, for a key of our S3D."""
    parts = name.split(".")
    stage, layer, inside, what = int(parts[1]), int(parts[2]), parts[3:-1], parts[-1]
    branch = inside.pop(0) if inside[0].startswith("branch") else ""
    kind = ("conv", "bn")[int(inside.pop())]
    if branch:
        # In CoCLR a branch with one convolution is a sequence too.
        within = inside.pop(0) if branch != "branch0" else "0"
        branch = f"{branch}.{within}."
    half = str(int(inside.pop()) + 1) if inside else ""
    return stage, layer, f"{branch}{kind}{half}.{what}"


def _coclr_labels(keys: Collection[str]) -> bool:
    """Whether labels trained a checkpoint of CoCLR: it has a classifier, or it is UberNCE's, the
    only one with a queue of labels and no second queue."""
    supervised = "queue_label" in keys and "queue_second" not in keys
    return supervised or any(key.startswith("final_fc.") for key in keys)
