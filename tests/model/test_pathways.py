"""Networks: shapes, parameters, what each pathway sees, and the motion slot."""

import pytest
import torch

from vcsf_cli.config import recipe as recipes
from vcsf_cli.errors import RecipeError
from vcsf_cli.model.pathways import Head, Pathway, build, select

TINY = ["backbone.channels=[4, 8, 8, 16]", "head.hidden=8", "head.dim=4", "data.size=32"]
MOTIONS = ["none", "difference_gate", "difference_map", "short_term", "additive", "correlation"]


def test_select_takes_frames_by_clip() -> None:
    window = torch.arange(2 * 3 * 4).view(2, 3, 4, 1, 1).float()
    same = select(window, torch.tensor([[0, 2], [0, 2]]))
    torch.testing.assert_close(same, window[:, :, [0, 2]])
    own = select(window, torch.tensor([[0, 2], [3, 1]]))
    torch.testing.assert_close(own, torch.stack([window[0][:, [0, 2]], window[1][:, [3, 1]]]))
    assert select(window, torch.arange(4).expand(2, 4)) is window


def test_a_difference_is_to_the_windows_next_frame() -> None:
    pathway = Pathway(torch.nn.Identity(), {}, Head(3, 4, 2), difference=True)
    window = torch.tensor([1.0, 2.0, 4.0, 8.0]).view(1, 1, 4, 1, 1).expand(1, 3, 4, 1, 1)
    assert pathway.clip(window, torch.arange(4)[None])[0, 0, :, 0, 0].tolist() == [1, 2, 4, 4]
    assert pathway.clip(window, torch.tensor([[0, 2]]))[0, 0, :, 0, 0].tolist() == [1, 4]


def test_the_same_recipe_builds_the_same_networks_and_a_seed_changes_them() -> None:
    first, again = build(recipes.load("demo", TINY)), build(recipes.load("demo", TINY))
    other = build(recipes.load("demo", [*TINY, "seed=1"]))
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    key = "fast.backbone.stages.0.0.weight"
    assert not torch.equal(first.state_dict()[key], other.state_dict()[key])


def test_other_weights_start_the_same_with_any_motion_module() -> None:
    """Rows of an ablation differ in the module alone: in stage A the fast pathway is then the same
    to the last bit."""
    plain = build(recipes.load("demo", [*TINY, "motion=none"])).state_dict()
    for motion in MOTIONS[1:]:
        node = f"motion={{name: {motion}, after: [2, 3]}}"
        found = build(recipes.load("demo", [*TINY, node])).state_dict()
        assert all(torch.equal(value, found[key]) for key, value in plain.items())
        assert len(found) > len(plain)


def test_differences_of_one_frame_are_refused_in_any_stage() -> None:
    with pytest.raises(RecipeError, match="a window has one frame"):
        build(recipes.load("demo", [*TINY, "stages=[{}, {sampler: {frames: 1, alpha: 1}}]"]))


def test_motion_modules_sit_in_the_slow_pathway_and_start_as_the_identity() -> None:
    with_motion = build(recipes.load("demo", TINY)).eval()
    without = build(recipes.load("demo", [*TINY, "motion=none"])).eval()
    assert list(with_motion.slow.motion) == ["2", "3", "4"]
    assert not with_motion.fast.motion
    missing, unexpected = with_motion.load_state_dict(without.state_dict(), strict=False)
    assert not unexpected
    assert all(".motion." in key for key in missing)
    window = torch.randn(2, 3, 32, 32, 32)
    positions = {
        "slow": torch.arange(0, 32, 4).expand(2, 8),
        "fast": torch.arange(32).expand(2, 32),
    }
    with torch.no_grad():
        ours, theirs = with_motion(window, positions), without(window, positions)
    for pathway, embedding in ours.items():
        assert torch.equal(embedding, theirs[pathway])
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))


def test_a_motion_module_after_a_stage_that_is_not_there() -> None:
    with pytest.raises(RecipeError, match="names stage 5"):
        build(recipes.load("demo", [*TINY, "motion.after=[2, 5]"]))


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_pathway_compiles_to_one_graph_that_computes_the_same(motion: str) -> None:
    node = f"motion={{name: {motion}, after: [2, 3]}}" if motion != "none" else "motion=none"
    model = build(recipes.load("demo", [*TINY, node]))
    window, positions = torch.randn(2, 3, 32, 32, 32), torch.arange(0, 32, 4).expand(2, -1)
    clip = model.slow.clip(window, positions)
    # What dynamo can't follow is an error with `fullgraph`; generating code from the graph is the
    # compiler's business.
    compiled = torch.compile(model.slow.eval(), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(clip, window), model.slow(clip, window))


@pytest.mark.parametrize("input_", ["rgb", "difference"])
def test_segments_are_clips_of_their_own_and_steps_are_spans_of_the_features(input_: str) -> None:
    strides = "slow.temporal_strides=[1, 1, 1, 1]"
    recipe = recipes.load("demo", [*TINY, strides, f"slow.input={input_}"])
    model, window = build(recipe).eval(), torch.randn(2, 3, 32, 32, 32)
    positions = {
        "slow": torch.arange(0, 32, 4).expand(2, -1),
        "fast": torch.arange(32).expand(2, -1),
    }
    found = model.segments(window, positions, {"slow": 2, "fast": 4})
    for name, count, read in (("slow", 2, range(0, 16, 2)), ("fast", 4, range(8))):
        for segment, cut in enumerate(window.chunk(count, 2)):
            own = {name: torch.tensor([list(read)]).expand(2, -1)}
            torch.testing.assert_close(found[name][:, segment], model(cut, own)[name])
    whole, steps = model.with_steps(window, positions, {"slow": 4})
    torch.testing.assert_close(whole["slow"], model(window, positions)["slow"])
    features = model.features(window, positions, pooled=False)["slow"]
    for span in range(4):
        own_features = features[:, :, 2 * span : 2 * span + 2].mean((2, 3, 4))
        torch.testing.assert_close(steps["slow"][:, span], model.slow.head(own_features))
    assert list(steps) == ["slow"]


def test_channels_last_is_a_matter_of_memory_alone() -> None:
    window, positions = torch.randn(2, 3, 32, 32, 32), {"fast": torch.arange(32).expand(2, -1)}
    models = [
        build(recipes.load("demo", [*TINY, f"speed.channels_last={on}"]))
        for on in ("true", "false")
    ]
    last = [
        model.fast.backbone.get_parameter("stages.1.body.0.weight").is_contiguous(
            memory_format=torch.channels_last_3d
        )
        for model in models
    ]
    assert last == [True, False]
    first, second = (model(window, positions)["fast"] for model in models)
    torch.testing.assert_close(first, second)


def test_differences_of_a_single_frame_are_refused() -> None:
    recipe = recipes.load("demo", ["sampler.frames=1", "sampler.alpha=1"])
    with pytest.raises(RecipeError, match="a window has one frame"):
        build(recipe)


def test_pretrained_weights_need_not_be_there_where_others_follow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    recipe = recipes.load("demo", ["backbone={name: timm, model: resnet10t, pretrained: true}"])
    assert build(recipe, weights_follow=True).slow.backbone.channels
