"""Motion modules: each against a slow twin, silent at the start, and able to see motion once
awake."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
import vcsf_plugins
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from vcsf_plugins.motion import Additive, Correlation, DifferenceGate, DifferenceMap, ShortTerm

from vcsf_cli.config import recipe as recipes
from vcsf_cli.errors import RecipeError
from vcsf_cli.model.norm import split_batch_norms
from vcsf_cli.model.pathways import build

SETTINGS: dict[str, dict[str, int]] = {
    "difference_gate": {"reduction": 4},
    "difference_map": {"reduction": 4},
    "short_term": {"width": 4},
    "additive": {"reduction": 4},
    "correlation": {"radius": 2, "reduction": 2},
}
"""What the tests give each module, on features of 8 channels."""

NAMES = list(SETTINGS)

VISIBLE = 0.02
"""How much an awake module must change features of unit variance in the mean."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fresh(name: str, channels: int = 8, **settings: int) -> nn.Module:
    """A module as a recipe gets it."""
    torch.manual_seed(0)
    module: nn.Module = vcsf_plugins.vcsf_motion_modules()[name](
        channels, **SETTINGS[name] | settings
    )
    return module


def awake(name: str, **settings: int) -> nn.Module:
    """A module with random weights and statistics in all convolutions and norms, in eval mode."""
    module = fresh(name, **settings)
    for part in module.modules():
        if isinstance(part, nn.Conv3d):
            nn.init.normal_(part.weight, std=(2 / part.weight[0].numel()) ** 0.5)
        elif isinstance(part, nn.BatchNorm3d):
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias, std=0.5)
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 2)
    return module.eval()


def clip(
    batch: int = 2,
    steps: int = 4,
    covered: int = 4,
    size: tuple[int, int] = (7, 5),
    window: tuple[int, int] = (23, 17),
) -> tuple[Tensor, Tensor]:
    """Features of 8 channels and the window, whose steps cover `covered` frames."""
    generator = torch.Generator().manual_seed(steps)
    features = torch.randn(batch, 8, steps, *size, generator=generator)
    return features, torch.randn(batch, 3, steps * covered, *window, generator=generator)


def test_every_module_that_is_registered_is_tested() -> None:
    assert ["none", *NAMES] == list(vcsf_plugins.vcsf_motion_modules())


# The slow twins: one step at a time, sums and resizing by loops, with the layers of the module.


def gate_by_hand(module: DifferenceGate, features: Tensor, window: Tensor) -> Tensor:
    """TEA's motion excitation: squeeze, align the next step, subtract, average, expand, gate."""
    steps = []
    for step in range(features.shape[2]):
        now = module.squeeze(features[:, :, step : step + 1])
        if step + 1 < features.shape[2]:
            change = module.align(module.squeeze(features[:, :, step + 1 : step + 2])) - now
        else:
            change = torch.zeros_like(now)
        excited = module.norm(module.expand(change.mean((3, 4), keepdim=True)))
        steps.append(features[:, :, step : step + 1] * (0.5 + torch.sigmoid(excited)))
    return torch.cat(steps, 2)


def map_by_hand(module: DifferenceMap, features: Tensor, window: Tensor) -> Tensor:
    """TDN's long-term module: the gate of each direction by itself, then half of each."""
    last = features.shape[2] - 1
    squeezed = [module.squeeze(features[:, :, step : step + 1]) for step in range(last + 1)]
    steps = []
    for step, now in enumerate(squeezed):
        output = features[:, :, step : step + 1].clone()
        for neighbour in (step + 1, step - 1):
            change = (
                module.align(squeezed[neighbour]) - now
                if 0 <= neighbour <= last
                else torch.zeros_like(now)
            )
            height, width = change.shape[3:]
            pooled = torch.zeros(*change.shape[:3], math.ceil(height / 2), math.ceil(width / 2))
            for row in range(pooled.shape[3]):
                for column in range(pooled.shape[4]):
                    cell = change[:, :, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                    pooled[:, :, :, row, column] = cell.mean((3, 4))
            coarse, scales = module.coarse(pooled), torch.zeros_like(change)
            for row in range(height):
                for column in range(width):
                    scales[..., row, column] = coarse[..., row // 2, column // 2]
            scales = (scales + change + module.fine(change)) / 3
            gate = torch.sigmoid(module.norm(module.expand(scales))) - 0.5
            output += features[:, :, step : step + 1] * gate / 2
        steps.append(output)
    return torch.cat(steps, 2)


def short_term_by_hand(module: ShortTerm, features: Tensor, window: Tensor) -> Tensor:
    """TDN's short-term module: differences of whole frames first, then what makes features of
    them."""
    steps = []
    for step in range(features.shape[2]):
        middle = math.floor((step + 1 / 2) * window.shape[2] / features.shape[2])
        changes = []
        for frame in range(middle - module.neighbours, middle + module.neighbours):
            before, after = (
                min(max(number, 0), window.shape[2] - 1) for number in (frame, frame + 1)
            )
            changes.append(window[:, :, after] - window[:, :, before])
        pooled = functional.avg_pool2d(torch.cat(changes, 1), 2, ceil_mode=True)
        motion = module.stem(pooled[:, :, None])
        rows, columns = motion.shape[3:]
        height, width = features.shape[3:]
        resized = torch.zeros(*motion.shape[:3], height, width)
        for row in range(height):
            for column in range(width):
                above, below = row * rows // height, math.ceil((row + 1) * rows / height)
                left, right = column * columns // width, math.ceil((column + 1) * columns / width)
                resized[..., row, column] = motion[..., above:below, left:right].mean((3, 4))
        steps.append(features[:, :, step : step + 1] + module.norm(module.expand(resized)))
    return torch.cat(steps, 2)


def additive_by_hand(module: Additive, features: Tensor, window: Tensor) -> Tensor:
    """STM's motion module: squeeze, align the next step, subtract, expand, add."""
    steps = []
    for step in range(features.shape[2]):
        now = module.squeeze(features[:, :, step : step + 1])
        change = torch.zeros_like(now)
        if step + 1 < features.shape[2]:
            change = module.align(module.squeeze(features[:, :, step + 1 : step + 2])) - now
        steps.append(features[:, :, step : step + 1] + module.norm(module.expand(change)))
    return torch.cat(steps, 2)


def volume_by_hand(radius: int, now: Tensor, following: Tensor) -> Tensor:
    """Cosines of (C, h, w) with (C, h, w), number by number; squared lengths have 1e-6 added."""
    height, width = now.shape[1:]
    side = 2 * radius + 1
    volume = torch.zeros(side * side, height, width)
    for row in range(height):
        for column in range(width):
            for down in range(-radius, radius + 1):
                for right in range(-radius, radius + 1):
                    if 0 <= row + down < height and 0 <= column + right < width:
                        ours, theirs = now[:, row, column], following[:, row + down, column + right]
                        lengths = [(vector @ vector + 1e-6).sqrt() for vector in (ours, theirs)]
                        cosine = float(ours @ theirs / (lengths[0] * lengths[1]))
                        place = (down + radius) * side + right + radius
                        volume[place, row, column] = max(0.0, cosine)
    return volume


def correlation_by_hand(module: Correlation, features: Tensor, window: Tensor) -> Tensor:
    """The volume of each step and the next, what is read from it, and the sum; the last step meets
    itself."""
    last = features.shape[2] - 1
    steps = []
    for step in range(last + 1):
        now = module.squeeze(features[:, :, step : step + 1])[:, :, 0]
        later = min(step + 1, last)
        following = module.squeeze(features[:, :, later : later + 1])[:, :, 0]
        volume = torch.stack(
            [volume_by_hand(module.radius, *pair) for pair in zip(now, following, strict=True)]
        )
        steps.append(
            features[:, :, step : step + 1]
            + module.norm(module.expand(module.read(volume[:, :, None])))
        )
    return torch.cat(steps, 2)


BY_HAND: dict[str, Callable[..., Tensor]] = {
    "difference_gate": gate_by_hand,
    "difference_map": map_by_hand,
    "short_term": short_term_by_hand,
    "additive": additive_by_hand,
    "correlation": correlation_by_hand,
}


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_module_equals_its_slow_twin(name: str, steps: int) -> None:
    module, (features, window) = awake(name), clip(steps=steps)
    output = module(features, window)
    torch.testing.assert_close(
        output, BY_HAND[name](module, features, window), atol=1e-5, rtol=1e-4
    )
    assert (output - features).abs().mean() > VISIBLE


@pytest.mark.parametrize("size", [(2, 3), (6, 5), (12, 10)])
@pytest.mark.parametrize(("covered", "neighbours"), [(1, 2), (2, 1), (8, 3)])
@torch.no_grad()
def test_short_term_of_any_step_and_size_equals_its_slow_twin(
    covered: int, neighbours: int, size: tuple[int, int]
) -> None:
    """Features smaller and larger than the motion's own map, which is 3 x 3 here."""
    module, (features, window) = (
        awake("short_term", neighbours=neighbours),
        clip(steps=3, covered=covered, size=size),
    )
    torch.testing.assert_close(
        module(features, window), short_term_by_hand(module, features, window)
    )


@torch.no_grad()
def test_short_term_of_steps_that_do_not_divide_the_window_equals_its_slow_twin() -> None:
    """Twenty frames, five of them slow, and three steps after a stride of two."""
    module, (features, window) = awake("short_term"), clip(steps=4, covered=5)
    features = features[:, :, :3]
    torch.testing.assert_close(
        module(features, window), short_term_by_hand(module, features, window)
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_statistics_of_parts_of_a_batch_are_their_own(name: str) -> None:
    """With `train.norm: split` what one part sees must not change what another gives."""
    module, (features, window) = awake(name), clip()
    features, window = torch.cat([features] * 2), torch.cat([window] * 2)
    split_batch_norms(module, 2)
    module.train()
    before = module(features, window)
    features, window, half = features.clone(), window.clone(), len(features) // 2
    features[half:] += torch.randn_like(features[half:])
    window[half:] += torch.randn_like(window[half:])
    after = module(features, window)
    assert torch.equal(after[:half], before[:half])
    assert not torch.allclose(after[half:], before[half:])


@pytest.mark.parametrize("radius", [1, 3])
@torch.no_grad()
def test_the_volume_of_any_radius_equals_its_slow_twin(radius: int) -> None:
    """A radius wider than half the map, too."""
    squeezed = torch.randn(1, 3, 2, 4, 5)
    volume = awake("correlation", radius=radius).volume(squeezed)
    torch.testing.assert_close(
        volume[0, :, 0], volume_by_hand(radius, squeezed[0, :, 0], squeezed[0, :, 1])
    )
    torch.testing.assert_close(
        volume[0, :, 1], volume_by_hand(radius, squeezed[0, :, 1], squeezed[0, :, 1])
    )


@torch.no_grad()
def test_the_volume_finds_a_shift() -> None:
    """What moves two rows down and one column left is most like what is there one step later."""
    first = torch.randn(1, 6, 1, 12, 12)
    volume = awake("correlation").volume(torch.cat([first, first.roll((2, -1), (3, 4))], 2))
    assert (volume[0, :, 0, 2:-2, 2:-2].argmax(0) == (2 + 2) * 5 + (2 - 1)).all()
    assert (volume[0, :, 1].argmax(0) == 12).all()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=8)
@given(
    batch=st.integers(2, 3),
    steps=st.integers(1, 5),
    covered=st.integers(1, 5),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    window=st.tuples(st.integers(8, 21), st.integers(8, 21)),
    channels_last=st.booleans(),
)
def test_a_new_module_is_exactly_the_identity(
    name: str,
    training: bool,
    batch: int,
    steps: int,
    covered: int,
    size: tuple[int, int],
    window: tuple[int, int],
    channels_last: bool,
) -> None:
    module, (features, frames) = (
        fresh(name).train(training),
        clip(batch, steps, covered, size, window),
    )
    if channels_last:
        features = features.contiguous(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        assert torch.equal(module(features, frames), features)


@pytest.mark.parametrize("name", NAMES)
def test_the_last_norm_learns_from_the_start(name: str) -> None:
    module, (features, window) = fresh(name).train(), clip()
    (module(features, window) * torch.randn_like(features)).sum().backward()
    for parameter in (module.norm.weight, module.norm.bias):
        assert parameter.grad.isfinite().all()
    assert (module.norm.weight.grad != 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_an_awake_module_learns_in_every_weight(name: str) -> None:
    module, (features, window) = awake(name).train(), clip()
    features[:, :, :, 0] = 0  # a black border after a ReLU
    features.requires_grad_()
    (module(features, window) * torch.randn_like(features)).sum().backward()
    for gradient in (features.grad, *(weight.grad for weight in module.parameters())):
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0


def test_channels_that_are_nearly_zero_have_no_steep_gradient() -> None:
    squeezed = torch.ones(1, 4, 2, 3, 3)
    squeezed[:, :, 1] = torch.tensor([1e-9, 0, 0, 0]).view(4, 1, 1)
    squeezed.requires_grad_()
    awake("correlation").volume(squeezed).sum().backward()
    assert squeezed.grad.abs().max() < 1e5


@torch.no_grad()
def test_cosines_are_computed_in_float32() -> None:
    module, squeezed = awake("correlation"), torch.randn(1, 4, 2, 5, 5).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        volume = module.volume(squeezed)
    assert torch.equal(volume, module.volume(squeezed.float()))


def in_order(frames: Tensor, order: list[int]) -> Tensor:
    """Frames (B, C, n * len(order), h, w) with their len(order) parts in another order."""
    return torch.cat([frames.chunk(len(order), 2)[part] for part in order], 2)


@pytest.mark.parametrize("order", [[3, 2, 1, 0], [2, 0, 3, 1]])
@pytest.mark.parametrize("name", ["none", *NAMES])
@torch.no_grad()
def test_a_module_sees_the_order_of_frames(name: str, order: list[int]) -> None:
    """Frames in another order give something else than the same steps in another order; without a
    module they don't, and the map, which treats both neighbours alike, doesn't tell a clip from its
    reverse."""
    module = awake(name) if name != "none" else vcsf_plugins.vcsf_motion_modules()["none"](8)
    features, window = clip()
    # Backwards, the frames within a step are backwards too.
    other = window.flip(2) if order == [3, 2, 1, 0] else in_order(window, order)
    change = module(in_order(features, order), other) - in_order(module(features, window), order)
    blind = name == "none" or (name == "difference_map" and order == [3, 2, 1, 0])
    assert change.abs().max() < 1e-5 if blind else change.abs().mean() > VISIBLE


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("difference_gate", [4]),
        ("difference_map", [0, 4]),
        ("short_term", []),
        ("additive", [4]),
        ("correlation", []),
    ],
)
@torch.no_grad()
def test_a_still_clip_stays_still_but_for_padded_end_steps(name: str, ends: list[int]) -> None:
    module, (features, window) = awake(name), clip(steps=5)
    still = features[:, :, :1].expand_as(features), window[:, :, :1].expand_as(window)
    output = module(*still)
    assert (output - still[0]).abs().mean() > VISIBLE
    for step in range(5):
        same = torch.allclose(output[:, :, step], output[:, :, 2], atol=1e-5)
        assert same == (step not in ends)


@pytest.mark.parametrize("neighbours", [1, 2])
@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16])
@torch.no_grad()
def test_short_term_reads_the_frames_around_the_middle_of_a_step(
    steps: int, neighbours: int
) -> None:
    """A changed frame changes the steps whose middle is near, and no others. With four frames a
    step and two neighbours, a frame that slow skips (it reads 0, 4, 8, 12) belongs to one step, and
    none goes unread."""
    module, (features, window) = (
        awake("short_term", neighbours=neighbours),
        clip(steps=steps, covered=16 // steps),
    )
    before = module(features, window)
    covered = 16 // steps
    for frame in range(16):
        other = window.clone()
        other[:, :, frame] += torch.randn(window.shape[3:])
        changed = (module(features, other) != before).flatten(3).any(3).any(1).any(0)
        near = [abs(frame - (step * covered + covered // 2)) <= neighbours for step in range(steps)]
        assert changed.tolist() == near
        if (steps, neighbours) == (4, 2):
            assert changed.nonzero().flatten().tolist() == (
                [frame // 4] if frame % 4 else steps_near_slow(frame)
            )


def steps_near_slow(frame: int) -> list[int]:
    """The steps of four frames that a slow frame belongs to and ends."""
    return [step for step in (frame // 4 - 1, frame // 4) if step >= 0]


@pytest.mark.parametrize("name", ["difference_gate", "additive", "correlation"])
@torch.no_grad()
def test_one_step_alone_is_as_the_last_of_many(name: str) -> None:
    """Without a neighbour there is no change, and a step is compared with itself."""
    module, (features, window) = awake(name), clip()
    alone = module(features[:, :, -1:], window)
    torch.testing.assert_close(alone, module(features, window)[:, :, -1:])


@torch.no_grad()
def test_a_window_of_one_frame_has_no_short_term_motion() -> None:
    module, (features, window) = awake("short_term"), clip(steps=1, covered=1)
    assert torch.equal(module(features, window), module(features, window * 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_near_float32_and_gives_back_the_features_type(
    name: str, dtype: torch.dtype
) -> None:
    module, (features, window) = awake(name), clip()
    features = features.to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        output = module(features, window)
        assert torch.equal(fresh(name)(features, window), features)
    assert output.dtype == dtype
    output.float().square().sum().backward()
    assert all(weight.grad.isfinite().all() for weight in (features, *module.parameters()))
    exact = module(features.float(), window)
    assert (output - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_channel_last_in_memory_stays_there_and_changes_nothing(name: str) -> None:
    module, (features, window) = awake(name), clip()
    last = [
        tensor.contiguous(memory_format=torch.channels_last_3d) for tensor in (features, window)
    ]
    output = module(*last)
    assert output.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(output, module(features, window))


def norm(channels: int) -> int:
    return 2 * channels


@pytest.mark.parametrize("channels", [192, 5])
def test_the_parameters_are_those_of_the_formulas(channels: int) -> None:
    """Few channels leave one for the differences."""
    squeezed, compared = max(1, channels // 16), max(1, channels // 8)
    gate = (
        channels * squeezed + norm(squeezed) + 9 * squeezed + squeezed * channels + norm(channels)
    )
    wanted = {
        "none": 0,
        "difference_gate": gate,
        "difference_map": gate + 2 * (9 * squeezed**2 + norm(squeezed)),
        "short_term": 12 * 49 * 32 + norm(32) + 32 * channels + norm(channels),
        "additive": gate - norm(squeezed),
        "correlation": (channels * compared + norm(compared) + 25 * 9 * compared + norm(compared))
        + (compared * channels + norm(channels)),
    }
    for name, factory in vcsf_plugins.vcsf_motion_modules().items():
        assert sum(weight.numel() for weight in factory(channels).parameters()) == wanted[name]


TINY = ["backbone.channels=[4, 8, 8, 16]", "head.hidden=8", "head.dim=4", "data.size=32"]


@torch.no_grad()
def test_every_module_in_the_slow_pathway_starts_as_none() -> None:
    window = torch.randn(2, 3, 16, 32, 32)
    positions = torch.arange(0, 16, 4).expand(2, 4)
    none = build(recipes.load("demo", [*TINY, "motion=none"])).slow.eval()
    for name in NAMES:
        # The last stage has half as many steps as the slow pathway has frames.
        slow = build(
            recipes.load("demo", [*TINY, f"motion={{name: {name}, after: [1, 2, 3, 4]}}"])
        ).slow.eval()
        slow.load_state_dict(none.state_dict(), strict=False)
        assert torch.equal(
            slow(slow.clip(window, positions), window), none(none.clip(window, positions), window)
        )


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("difference_gate", "reduction=0"), ("difference_map", "reduction=0"), ("additive", "reduction=-1"),
        ("short_term", "neighbours=0"), ("short_term", "width=0"), ("correlation", "radius=8"),
        ("correlation", "radius=0"), ("correlation", "reduction=0"),
    ],
)  # fmt: skip
def test_a_setting_out_of_bounds_is_an_error_of_the_recipe(name: str, setting: str) -> None:
    with pytest.raises(RecipeError, match=setting.split("=")[0]):
        recipes.load("demo", [*TINY, f"motion={{name: {name}, after: [2]}}", f"motion.{setting}"])
