"""CoCLR's S3D and what is saved beside it, by its names (github.com/TengdaHan/CoCLR:
`backbone/s3dg.py`, `model/pretrain.py`, `model/classifier.py`), so that checkpoints of the same
keys and shapes can be made here."""

from __future__ import annotations

import torch
from torch import Tensor, nn

INCEPTIONS = {
    "3b": (192, 64, 96, 128, 16, 32, 32),
    "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}
"""Channels that go in; of branch 0; of branches 1 and 2 in between and at their end; of branch
3."""

POOLS = {
    "2": ((1, 3, 3), (1, 2, 2), (0, 1, 1)),
    "3": ((1, 3, 3), (1, 2, 2), (0, 1, 1)),
    "4": (3, 2, 1),
    "5": (2, 2, 0),
}


class Basic(nn.Module):
    def __init__(self, given: int, made: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv3d(given, made, 1, bias=False), nn.BatchNorm3d(made)

    def forward(self, clip: Tensor) -> Tensor:
        return self.bn(self.conv(clip)).relu()


class Separable(nn.Module):
    def __init__(self, given: int, made: int, size: int, stride: int) -> None:
        super().__init__()
        pad = size // 2
        self.conv1 = nn.Conv3d(
            given, made, (1, size, size), (1, stride, stride), (0, pad, pad), bias=False
        )
        self.conv2 = nn.Conv3d(made, made, (size, 1, 1), (stride, 1, 1), (pad, 0, 0), bias=False)
        self.bn1, self.bn2 = nn.BatchNorm3d(made), nn.BatchNorm3d(made)

    def forward(self, clip: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.bn1(self.conv1(clip)).relu())).relu()


class Inception(nn.Module):
    def __init__(
        self, given: int, zero: int, one: int, first: int, two: int, second: int, three: int
    ) -> None:
        super().__init__()
        self.branch0 = nn.Sequential(Basic(given, zero))
        self.branch1 = nn.Sequential(Basic(given, one), Separable(one, first, 3, 1))
        self.branch2 = nn.Sequential(Basic(given, two), Separable(two, second, 3, 1))
        self.branch3 = nn.Sequential(nn.MaxPool3d(3, 1, 1), Basic(given, three))

    def forward(self, clip: Tensor) -> Tensor:
        return torch.cat(
            [branch(clip) for branch in (self.branch0, self.branch1, self.branch2, self.branch3)], 1
        )


class S3D(nn.Module):
    """Every layer is registered twice, by itself and in its block, and so is twice in the state
    dict."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv_1a = Separable(3, 64, 7, 2)
        self.block1 = nn.Sequential(self.Conv_1a)
        self.MaxPool_2a = nn.MaxPool3d(*POOLS["2"])
        self.Conv_2b, self.Conv_2c = Basic(64, 64), Separable(64, 192, 3, 1)
        self.block2 = nn.Sequential(self.MaxPool_2a, self.Conv_2b, self.Conv_2c)
        for block in "345":
            layers = {f"MaxPool_{block}a": nn.MaxPool3d(*POOLS[block])}
            layers |= {
                f"Mixed_{name}": Inception(*INCEPTIONS[name])
                for name in INCEPTIONS
                if name[0] == block
            }
            for name, layer in layers.items():
                self.add_module(name, layer)
            self.add_module(f"block{block}", nn.Sequential(*layers.values()))

    def forward(self, clip: Tensor) -> Tensor:
        for block in "12345":
            clip = self.get_submodule(f"block{block}")(clip)
        return clip


def encoder(network: S3D) -> dict[str, Tensor]:
    """An encoder with its projection head."""
    pool, relu = nn.AdaptiveAvgPool3d(1), nn.ReLU()
    return nn.Sequential(
        network, pool, nn.Conv3d(1024, 1024, 1), relu, nn.Conv3d(1024, 128, 1)
    ).state_dict()


def pretrained(network: S3D, others: S3D, kind: str = "coclr", slots: int = 8) -> dict[str, object]:
    """A checkpoint of pre-training, `infonce`, `coclr` or `ubernce`."""
    named = {"encoder_q": encoder(network), "encoder_k": encoder(others)}
    named |= {"sampler": encoder(others)} if kind == "coclr" else {}
    state = {
        f"{name}.{key}": tensor
        for name, tensors in named.items()
        for key, tensor in tensors.items()
    }
    state |= {"queue": torch.randn(128, slots), "queue_ptr": torch.zeros(1, dtype=torch.long)}
    if kind == "coclr":
        state |= {
            "queue_second": torch.randn(128, slots),
            "queue_vname": torch.zeros(slots, dtype=torch.long),
        }
    if kind != "infonce":
        state["queue_label"] = torch.zeros(slots, dtype=torch.long)
    optimizer = torch.optim.Adam(nn.Linear(2, 2).parameters()).state_dict()
    return {
        "epoch": 182,
        "state_dict": state,
        "best_acc": 0.5,
        "optimizer": optimizer,
        "iteration": 100,
    }


def classifier(network: S3D, classes: int = 101) -> dict[str, object]:
    """A checkpoint of a linear probe or of fine-tuning."""
    parts = nn.ModuleDict({"backbone": network, "final_bn": nn.BatchNorm1d(1024)})
    parts["final_fc"] = nn.Sequential(nn.Dropout(0.5), nn.Linear(1024, classes))
    return {"epoch": 499, "state_dict": parts.state_dict(), "best_acc": 0.5}
