"""CPU time of a step with the channel last in memory and first: `speed.channels_last`.

pytest tests/benchmarks/test_channels_last.py --benchmark-only -s
"""

from __future__ import annotations

import statistics
import time

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from vcsf_cli.config.recipe import load
from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.data.augment import NEUTRAL
from vcsf_cli.data.clips import pathway_inputs
from vcsf_cli.model.parts import build_sampler
from vcsf_cli.model.pathways import build

SHORT = ("data.size=64", "sampler.frames=16")


@pytest.mark.parametrize(
    ("recipe", "assignments", "batch"),
    [("demo", (), 16), ("vcsf", SHORT, 2), ("vcsf_r3d18", SHORT, 2)],
)
def test_channel_last_against_first(
    benchmark: BenchmarkFixture,
    recipe: str,
    assignments: tuple[str, ...],
    batch: int,
    request: pytest.FixtureRequest,
) -> None:
    """Both layouts in turn, so that they meet the same machine; the ratio is that of the medians."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    recipes = {
        on: load(recipe, [f"speed.channels_last={on}", *assignments]) for on in ("true", "false")
    }
    models = {on: build(each) for on, each in recipes.items()}
    stage = recipes["true"].first_stage
    view = build_sampler(stage).cover(1000)[0]
    size = (batch, 1, len(view.window), stage.data.size, stage.data.size, 3)
    clips = {
        "frames": torch.randint(0, 256, size, dtype=torch.uint8),
        "colour": torch.tensor(NEUTRAL).expand(batch, 1, 1, -1),
        **{f"{name}_part": torch.tensor([[view.part(name)]]) for name in PATHWAYS},
    }
    positions = {name: torch.as_tensor(view.positions(name)).expand(batch, -1) for name in PATHWAYS}
    seconds: dict[str, list[float]] = {"true": [], "false": []}

    def step_both() -> None:
        for on, model in models.items():
            begun = time.process_time()
            window = pathway_inputs(clips, 0, PATHWAYS, torch.device("cpu"), on == "true")
            loss = torch.stack([(out**3).sum() for out in model(window, positions).values()]).sum()
            loss.backward()
            seconds[on].append(time.process_time() - begun)
            model.zero_grad()

    benchmark.pedantic(step_both, rounds=5, warmup_rounds=1)
    torch.set_num_threads(threads)
    last, first = (statistics.median(values[1:]) for values in seconds.values())
    benchmark.extra_info |= {"last": last, "first": first, "ratio": first / last}
    text = f"{stage.backbone.name}: {last:.2f} CPU s with the channel last, {first:.2f} first"
    request.config.get_terminal_writer().line(f"{text}: {first / last:.2f} times")
    with torch.no_grad():
        same = (
            model.eval()(
                pathway_inputs(clips, 0, PATHWAYS, torch.device("cpu"), on == "true"), positions
            )["fast"]
            for on, model in models.items()
        )
        torch.testing.assert_close(*same, rtol=1e-3, atol=1e-3)
