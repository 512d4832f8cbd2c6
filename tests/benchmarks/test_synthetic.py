"""Whether there is something to be learned on the synthetic dataset: its classes, with labels, on
groups never seen.

pytest tests/benchmarks/test_synthetic.py --benchmark-only -s
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import called
from pytest_benchmark.fixture import BenchmarkFixture
from torch import nn
from torch.nn import functional

from vcsf_cli.config.recipe import load
from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.data.augment import to_input
from vcsf_cli.data.clips import ClipIds, EvalClips, TwoViewClips
from vcsf_cli.data.loader import ResumableBatchSampler, training_loader
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.features.extract import extract
from vcsf_cli.model.parts import build_sampler
from vcsf_cli.model.pathways import build

EPOCHS = 30


def accuracies(data: Path) -> dict[str, float]:
    """Test accuracy of the demo's networks with a linear layer each, trained with labels; `both`
    adds probabilities."""
    torch.manual_seed(0)
    recipe = load("demo", ["sampler.same_window=0.0"])
    stage, manifest = recipe.first_stage, Manifest.open(data / "synthetic")
    train, test = manifest.part(1, "train"), manifest.part(1, "test")
    labels = ClipIds(manifest).label
    model = build(recipe)
    layers = nn.ModuleDict({name: nn.Linear(128, int(labels.max()) + 1) for name in PATHWAYS})
    optimizer = torch.optim.AdamW([*model.parameters(), *layers.parameters()], weight_decay=0.01)
    order = ResumableBatchSampler(train, 16, 0, 0, EPOCHS)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, len(order))
    clips = TwoViewClips(manifest, build_sampler(stage), stage.augment, stage.data.size, 0)
    for batch in training_loader(clips, order, 1, pin=False):
        loss = torch.zeros(())
        for view in (0, 1):
            window = to_input(batch["frames"][:, view], batch["colour"][:, view, 0])
            features = model.features(window, {name: batch[name][:, view] for name in PATHWAYS})
            for name, feature in features.items():
                loss = loss + functional.cross_entropy(layers[name](feature), batch["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    videos = EvalClips(
        manifest, test.tolist(), build_sampler(stage), stage.augment.border, stage.data.size
    )
    found = extract(model, videos, torch.device("cpu"), 1)
    with torch.no_grad():
        chances = {
            name: layers[name](torch.from_numpy(values)).softmax(1).numpy()
            for name, values in found.items()
        }
    chances["both"] = chances["slow"] + chances["fast"]
    return {
        name: float(np.mean(values.argmax(1) == labels[test])) for name, values in chances.items()
    }


def test_a_small_network_learns_the_classes_from_labels(
    benchmark: BenchmarkFixture, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    called("prepare", "synthetic", cwd=tmp_path)
    found = benchmark.pedantic(accuracies, [tmp_path / "data"], rounds=1)
    benchmark.extra_info |= found
    text = ", ".join(f"{name} {100 * value:.1f} %" for name, value in found.items())
    request.config.get_terminal_writer().line(f"accuracy on groups never seen: {text}")
    assert found["both"] >= 0.8
