"""A step of pre-training: what it reads back from the device, and what is watched of it."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch.utils._python_dispatch import TorchDispatchMode

from vcsf_cli.config.recipe import load
from vcsf_cli.data.clips import Batch, EvalClips, TwoViewClips
from vcsf_cli.data.loader import ResumableBatchSampler, training_loader
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.features.extract import extract
from vcsf_cli.model.parts import build_sampler
from vcsf_cli.model.pathways import build
from vcsf_cli.train.checks import training_rows
from vcsf_cli.train.compute import Compute
from vcsf_cli.train.task import PretrainTask

DEVICE = torch.device("meta")
"""Stands in for a GPU: its tensors have no values that the host could read."""


class Device:
    """What a task needs of fabric, on a device whose tensors have no values."""

    device = DEVICE
    world_size = 1

    def to_device(self, module: torch.nn.Module) -> torch.nn.Module:
        return module.to(DEVICE)

    def autocast(self) -> Any:
        return nullcontext()


class Waits(TorchDispatchMode):
    """Notes copies from the host to the device that the host waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        kwargs = kwargs or {}
        devices = {
            value.device for value in args if isinstance(value, torch.Tensor) and value.dim()
        }
        devices |= {kwargs["device"]} if kwargs.get("device") else set()
        is_copy = func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_)
        waits = not (kwargs.get("non_blocking") or args[2:3] == (True,)) if is_copy else True
        if devices == {torch.device("cpu"), DEVICE} and waits:  # an index on the host is copied too
            self.found.append(str(func))
        return func(*args, **kwargs)


def parts(
    data: Path, *assignments: str, device: torch.device = DEVICE
) -> tuple[PretrainTask, list[Batch]]:
    """A task on a device, the stand-in unless said otherwise, and batches of an epoch."""
    recipe = load("smoke", ["train.batch=4", "train.epochs=20", *assignments])
    manifest = Manifest.open(data / "synthetic")
    rows, stage = training_rows(recipe, manifest), recipe.first_stage
    fabric = cast(Fabric, Device()) if device == DEVICE else Compute("cpu").fabric()
    model = cast(Any, build(recipe).to(device))
    task = PretrainTask(recipe, stage, model, manifest, rows, fabric, 0)
    task.queue._filled = True
    clips = TwoViewClips(manifest, build_sampler(stage), stage.augment, stage.data.size, 0)
    order = ResumableBatchSampler(rows, 4, 0, 0, 1)
    return task, list(training_loader(clips, order, 0, pin=False))


@pytest.mark.parametrize(
    "assignments",
    [
        ["loss={name: infonce, queue: 0}"],
        ["loss={name: infonce, queue: 16}", "motion={name: difference_gate, after: [2]}"],
        ["loss={name: cross_pathway, queue: 16, positives: intersection}"],
        ["loss={name: cross_pathway_bank, neighbours: 2}", "fast.input=difference"],
        ["loss={name: supervised, queue: 16}", "sampler.windows=independent"],
        ["loss={name: infonce, queue: 16}", "train.accumulate=2"],
        ["loss={name: infonce, queue: 16}", "train.norm=split", "train.parts=2"],
        ["augment.colour=1", "augment.blur=1", "augment.grey=1", "augment.erase=1"],
        ["motion={name: short_term, after: [2]}"],
        ["motion={name: correlation, after: [3]}"],
    ],
)
def test_a_step_never_waits_for_the_device(assignments: list[str], tiny_data: Path) -> None:
    task, batches = parts(tiny_data, *assignments)
    optimizer = torch.optim.Adam(task.parameters())
    with Waits() as waits:
        for batch in batches[:2]:
            for share, terms in task.step(batch):
                (share * terms["loss"]).backward()  # type: ignore[no-untyped-call]  # torch's
            task.after_step()
    optimizer.step()
    assert waits.found == []


def test_the_check_asks_every_clip_for_its_nearest_of_another_recording(tiny_data: Path) -> None:
    task, _ = parts(tiny_data, device=torch.device("cpu"))
    found, table, stage = task.evaluate(), task.manifest.table, task.stage
    rows = task.check_rows.tolist()
    clips = EvalClips(
        task.manifest, rows, build_sampler(stage), stage.augment.border, stage.data.size, spread=1
    )
    features = extract(task.model, clips, torch.device("cpu"), 0)
    cosines = {}
    for pathway, values in features.items():
        centred = values - values.mean(0)
        centred /= np.linalg.norm(centred, axis=1, keepdims=True)
        cosines[pathway] = centred @ centred.T
    cosines["both"] = (cosines["slow"] + cosines["fast"]) / 2
    labels, sources = (table[name].to_numpy(object)[rows] for name in ("label", "source"))
    for pathway, cosine in cosines.items():
        right = 0
        for clip in range(len(rows)):
            others = [other for other in range(len(rows)) if sources[other] != sources[clip]]
            right += labels[max(others, key=lambda other: cosine[clip, other])] == labels[clip]
        assert found[f"{pathway}_check_R@1"] == pytest.approx(right / len(rows))
