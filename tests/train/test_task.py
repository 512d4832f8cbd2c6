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
from vcsf_cli.errors import RecipeError
from vcsf_cli.features.extract import extract
from vcsf_cli.model.parts import build_sampler
from vcsf_cli.model.pathways import build
from vcsf_cli.train.checks import check_losses, training_rows
from vcsf_cli.train.compute import Compute
from vcsf_cli.train.task import PretrainTask

STEPS = ["sampler.frames=16", "fast.temporal_strides=[2, 2, 1, 1]"]
"""Fast has 4 time steps."""

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
        ["loss={name: cross_pathway, queue: 16, positives: mutual}"],
        ["loss={name: cross_pathway, queue: 16, positives: pairs}"],
        ["loss={name: cross_pathway_bank, neighbours: 2}", "fast.input=difference"],
        ["loss={name: cross_pathway_clusters, probability: 0.5}"],
        ["loss={name: supervised, queue: 16}", "sampler.windows=independent"],
        ["loss={name: infonce, queue: 16}", "train.accumulate=2"],
        ["loss={name: infonce, queue: 16}", "train.norm=split", "train.parts=2"],
        ["augment.colour=1", "augment.blur=1", "augment.grey=1", "augment.erase=1"],
        ["motion={name: short_term, after: [2]}"],
        ["motion={name: correlation, after: [3]}"],
        ["auxiliary_losses=[{name: temporal_contrast, pathways: [fast]}]", *STEPS],
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


def test_in_a_check_a_clip_without_another_recording_is_not_right(tiny_data: Path) -> None:
    task, _ = parts(tiny_data, device=torch.device("cpu"))
    task.ids.source[:] = 0
    assert set(task.evaluate().values()) == {0.0}


def test_clusters_are_formed_after_the_first_epoch_and_every_few_from_there(
    tiny_data: Path,
) -> None:
    loss = "{name: cross_pathway_clusters, clusters: 2, cluster_every: 3}"
    task, batches = parts(tiny_data, f"loss={loss}", device=torch.device("cpu"))
    for batch in batches:
        for _ in task.step(batch):
            pass
        task.after_step()
    formed = []
    cluster = task.queue.get_buffer("cluster")
    for epoch in range(1, 9):
        cluster.fill_(-1)
        task.after_epoch(epoch)
        if bool((cluster >= 0).any()):
            formed.append(epoch)
    assert formed == [1, 4, 7]


TEMPORAL = "{name: temporal_contrast, weight: 0.5, pathways: [fast]}"


def test_an_auxiliary_loss_is_added_to_the_pathways_that_it_names(tiny_data: Path) -> None:
    """Of the clips whose views show one window; where there are none, it is zero."""
    cpu, rows = torch.device("cpu"), []
    for same in (1, 0.5):
        task, batches = parts(
            tiny_data, f"auxiliary_losses=[{TEMPORAL}]", f"sampler.same_window={same}", *STEPS,
            device=cpu,
        )  # fmt: skip
        for batch in batches[:2]:
            batch["same_window"] &= bool(rows)  # none in the first batch
            ((_, terms),) = task.step(batch)
            segments = cast(Any, task._last).query_segments
            assert list(segments) == ["fast"]
            rows.append(len(segments["fast"]))
            assert rows[-1] == batch["same_window"].sum()
            temporal = terms["fast_temporal_contrast_local_local"]
            temporal = temporal + terms["fast_temporal_contrast_global_local"]
            torch.testing.assert_close(terms["fast_temporal_contrast_loss"], temporal)
            assert bool(temporal > 0) == (rows[-1] > 0)
            fast = terms["fast_infonce_loss"] + 0.5 * temporal
            torch.testing.assert_close(terms["fast_loss"], fast)
            assert "slow_temporal_contrast_loss" not in terms
            torch.testing.assert_close(terms["loss"], terms["slow_loss"] + fast)
    assert rows[:2] == [0, 4]
    assert 0 < rows[2] + rows[3] < 8


def test_a_temporal_loss_by_itself_falls(tiny_data: Path) -> None:
    """Local-local begins near log(7), the logarithm of the segments compared, and so on."""
    task, batches = parts(
        tiny_data,
        "loss={name: temporal_contrast}",
        "sampler.same_window=1",
        "train.pathways=[fast]",
        *STEPS,
        device=torch.device("cpu"),
    )
    optimizer = torch.optim.Adam(task.parameters(), 3e-3)
    losses = []
    for batch in batches[:1] * 30:
        ((_, terms),) = task.step(batch)
        optimizer.zero_grad()
        terms["loss"].backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer.step()
        task.after_step()
        losses.append(float(terms["loss"].detach()))
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["sampler.same_window=0", *STEPS], "`sampler` never gives two views of the same window"),
        (["sampler.frames=20"], "`segments` cuts windows of 20 frames into 8 segments"),
        (["sampler.frames=8"], "`segments` cuts windows of 8 frames into 8 segments"),
        (["sampler.frames=16"], "`segments` wants 8 spans of time, but the features of the fast"),
    ],
)
def test_what_segments_need_is_checked(assignments: list[str], message: str) -> None:
    auxiliary = TEMPORAL.replace("weight", "segments: 8, weight")
    recipe = load("smoke", [f"auxiliary_losses=[{auxiliary}]", *assignments])
    with pytest.raises(RecipeError) as error:
        check_losses(recipe)
    assert error.value.message.startswith(message)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("infonce", "names `infonce`, which is a loss of the stage already"),
        ("cross_pathway", "names `cross_pathway`, which finds positives"),
        ("{name: supervised, queue: 3}", "names `supervised` with queue 3, where `infonce` has 64"),
    ],
)
def test_an_auxiliary_loss_must_fit_the_others(loss: str, message: str) -> None:
    recipe = load("smoke", [f"auxiliary_losses=[temporal_contrast, {loss}]"])
    with pytest.raises(RecipeError) as error:
        check_losses(recipe)
    assert error.value.message.startswith(f"`auxiliary_losses` {message}")
