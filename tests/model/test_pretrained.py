"""Weights of others: after an import our networks compute what theirs do, and a file that does not
fit is one clear error."""

from __future__ import annotations

import copy
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coclr
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import video

from vcsf_cli.config.recipe import load
from vcsf_cli.errors import InputError
from vcsf_cli.model import pretrained
from vcsf_cli.model.pathways import TwoPathways, build

BACKBONES = {"s3d": video.s3d, "r3d18": video.r3d_18, "r2plus1d18": video.r2plus1d_18}
DIGEST = "0" * 64


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def settled(network: nn.Module, clip: Tensor) -> nn.Module:
    """A network whose batch norms have random weights and the statistics of clips, in eval mode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.1, 0.1)
    with torch.no_grad():
        network.train()(clip)
    return network.eval()


@pytest.fixture(scope="module")
def clip() -> Tensor:
    return torch.randn(2, 3, 16, 48, 48, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def ours() -> TwoPathways:
    return build(load("vcsf")).eval()


@pytest.fixture(scope="module")
def theirs(clip: Tensor) -> coclr.S3D:
    torch.manual_seed(2)
    network = coclr.S3D()
    settled(network, clip)
    return network


@pytest.fixture(scope="module")
def checkpoint(theirs: coclr.S3D, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("coclr") / "CoCLR-ucf101-rgb-128-s3d-ep182.tar"
    torch.save(coclr.pretrained(theirs, coclr.S3D()), path)
    return path


def imported(
    path: Path, model: TwoPathways, pathway: str = "fast", backbone: str = "s3d"
) -> pretrained.PathwayWeights:
    return pretrained.read_pathway_weights(path, DIGEST, pathway, model, backbone)


def difference(ours: nn.Module, theirs: nn.Module, clip: Tensor) -> float:
    """Of the features that two networks in double precision give, as a share of the largest."""
    with torch.no_grad():
        expected = theirs.double()(clip.double())
        found = (ours.double()(clip.double()) - expected).abs().max() / expected.abs().max()
    theirs.float()
    return found.item()


def refused(content: Any, folder: Path, model: TwoPathways, backbone: str = "s3d") -> InputError:
    path = folder / "given.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(InputError) as caught:
        imported(path, model, backbone=backbone)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message + caught.value.hint
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("backbone", BACKBONES)
def test_torchvisions_networks_give_the_same_features_here(
    backbone: str, clip: Tensor, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    clip = clip if backbone == "s3d" else clip[:, :, :8, :32, :32]
    network = BACKBONES[backbone](num_classes=7)
    network.avgpool = nn.AdaptiveAvgPool3d(1)  # S3D's own wants 224 px
    settled(network, clip)
    model = build(load("vcsf", [f"backbone.name={backbone}"])).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    found = imported(tmp_path / "weights.pth", model, backbone=backbone)
    pretrained.InitialWeights((found,)).put_into(model)
    stages = (
        [network.stem, network.layer1, network.layer2, network.layer3, network.layer4]
        if backbone != "s3d"
        else []
    )
    assert (
        difference(
            model.fast.backbone, nn.Sequential(*stages) if stages else network.features, clip
        )
        < 1e-4
    )
    classifier = "classifier.1" if backbone == "s3d" else "fc"
    assert [line for line in found.lines if not line[1]] == [
        (
            f"{classifier}.weight",
            "",
            "7x1024x1x1x1" if backbone == "s3d" else "7x512",
            "classifier",
        ),
        (f"{classifier}.bias", "", "7", "classifier"),
    ]
    assert found.layout == "torchvision"
    assert found.labels
    assert "0.43216" in found.remark


def test_coclrs_checkpoints_give_the_same_features_here(
    checkpoint: Path, theirs: coclr.S3D, ours: TwoPathways, clip: Tensor
) -> None:
    model = build(load("vcsf")).eval()
    found = [imported(checkpoint, model, pathway) for pathway in ("slow", "fast")]
    pretrained.InitialWeights(tuple(found)).put_into(model)
    slow = copy.deepcopy(theirs)
    slow.Conv_1a.conv2.stride = (1, 1, 1)  # what `slow=True` does there
    assert difference(model.fast.backbone, theirs, clip) < 1e-12
    assert difference(model.slow.backbone, slow, clip) < 1e-12
    for pathway in ("slow", "fast"):  # what is not the backbone's stays random
        for name, tensor in model.pathway(pathway).state_dict().items():
            taken = name.startswith("backbone.")
            before = ours.pathway(pathway).state_dict()[name]
            assert tensor.to(before.dtype).equal(before) != taken or tensor.dim() == 0


def test_every_key_of_a_coclr_checkpoint_is_in_the_report(
    checkpoint: Path, ours: TwoPathways, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = imported(checkpoint, ours)
    found.narrate()
    content = torch.load(checkpoint, weights_only=True)
    assert {line[0] for line in found.lines} == {*content["state_dict"], *content} - {"state_dict"}
    assert ("encoder_q.0.Mixed_4b.branch1.1.conv2.weight", "208x208x3x1x1") in {
        (line[0], line[2]) for line in found.lines
    }
    assert {line[1] for line in found.lines if line[1]} == {
        f"backbone.{name}" for name in ours.fast.backbone.state_dict()
    }
    assert capsys.readouterr().err.splitlines()[0] == (
        f"fast starts from {checkpoint.name}, by CoCLR's names: 462 tensors taken; left out: "
        "projection head (4), momentum encoder (928), encoder of the other view (928), queue of "
        "keys (5), training state (4)"
    )
    pretrained.InitialWeights((found,)).write(tmp_path)
    rows = (tmp_path / "init.csv").read_text().splitlines()
    assert rows[0] == "pathway,file,key,own_key,shape,what"
    assert len(rows) == 1 + len(found.lines)
    name = checkpoint.name
    assert (
        f"fast,{name},encoder_q.0.Conv_2b.bn.weight,backbone.stages.1.1.1.weight,64,taken" in rows
    )
    assert f"fast,{name},encoder_k.0.Conv_2b.bn.weight,,64,momentum encoder" in rows


@pytest.mark.parametrize(
    ("kind", "labels"),
    [("infonce", False), ("coclr", False), ("ubernce", True), ("classifier", True)],
)
def test_a_coclr_checkpoint_tells_whether_labels_trained_it(
    kind: str, labels: bool, theirs: coclr.S3D, ours: TwoPathways, tmp_path: Path
) -> None:
    made = (
        coclr.classifier(theirs) if kind == "classifier" else coclr.pretrained(theirs, theirs, kind)
    )
    torch.save(made, tmp_path / "epoch1.pth.tar")
    found = imported(tmp_path / "epoch1.pth.tar", ours)
    assert found.labels is labels
    assert len(found.weights) == 462


def test_files_of_several_gpus_old_torch_and_with_numpy_numbers_are_read(
    theirs: coclr.S3D, ours: TwoPathways, tmp_path: Path
) -> None:
    state = {
        f"module.{key}": value
        for key, value in theirs.state_dict().items()
        if "num_batches" not in key
    }
    path = tmp_path / "old.pth.tar"
    torch.save(
        {"state_dict": state, "best_acc": np.float64(0.5), "top": np.float32(1)},
        path,
        _use_new_zipfile_serialization=False,
    )
    found = imported(path, ours)
    assert len(found.weights) == 462 - 77
    assert found.weights["backbone.stages.0.0.0.0.weight"].equal(theirs.Conv_1a.conv1.weight)


def test_what_does_not_fit_is_named(theirs: coclr.S3D, ours: TwoPathways, tmp_path: Path) -> None:
    state = theirs.state_dict()
    gone = {"Conv_2b.bn.bias", "block2.1.bn.bias"}
    message = refused({k: v for k, v in state.items() if k not in gone}, tmp_path, ours).message
    assert "as CoCLR names its weights: 1 missing (Conv_2b.bn.bias)" in message
    message = refused({**state, "gating.fc.weight": torch.zeros(1)}, tmp_path, ours).message
    assert message.endswith(": 1 unexpected (gating.fc.weight)")
    wide = {**state, **dict.fromkeys(("Conv_2b.bn.bias", "block2.1.bn.bias"), torch.zeros(65))}
    message = refused(wide, tmp_path, ours).message
    assert (
        "2 of another shape (Conv_2b.bn.bias [65], not [64], block2.1.bn.bias [65], not [64])"
        in message
    )
    message = refused({**state, "block2.1.bn.bias": torch.ones(64)}, tmp_path, ours).message
    assert message.endswith("1 given twice with two values (block2.1.bn.bias)")
    message = refused(
        {**state, "Conv_2b.bn.bias": torch.full((64,), torch.nan)}, tmp_path, ours
    ).message
    assert "1 not finite (Conv_2b.bn.bias)" in message


def test_another_network_is_told_with_what_would_fit(ours: TwoPathways, tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in video.r3d_18().state_dict().items()}
    error = refused(
        {name: torch.zeros(shape) for name, shape in shapes.items() if sum(shape) < 200},
        tmp_path,
        ours,
    )
    assert "385 missing (features.0.0.0.weight, " in error.message
    assert "unexpected (stem.0.weight, " in error.message
    assert "weights of `s3d` by torchvision or CoCLR would fit" in error.hint


class Evil:
    """Unpickled by a careless reader, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_is_never_run(ours: TwoPathways, tmp_path: Path) -> None:
    for content in (
        {"state_dict": {}, "a": Evil(tmp_path / "ran")},
        pickle.dumps(Evil(tmp_path / "ran"), 2),
    ):
        error = refused(content, tmp_path, ours)
        assert "is damaged" in error.message
        assert "code in it is never run" in error.hint
    assert not (tmp_path / "ran").exists()


def test_what_is_no_file_of_weights(checkpoint: Path, ours: TwoPathways, tmp_path: Path) -> None:
    whole = checkpoint.read_bytes()
    for content in (b"these are no weights\n", b"", whole[: len(whole) // 2]):
        assert "is damaged" in refused(content, tmp_path, ours).message
    assert (
        "holds no weights by name but a dict of 'a', 'b'"
        in refused({"a": 1, "b": 2}, tmp_path, ours).message
    )
    assert "holds no weights by name" in refused([torch.zeros(1)], tmp_path, ours).message
    assert "holds no weights by name" in refused({}, tmp_path, ours).message
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    with pytest.raises(InputError, match=re.escape(f"{broken} is damaged: ")):
        imported(broken, ours)
