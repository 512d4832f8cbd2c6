"""Learning rates over time."""

from typing import Any

import pytest
import torch

from vcsf_cli.config.schema import Optim
from vcsf_cli.errors import InputError
from vcsf_cli.train.optim import build_optimizer, learning_rate, load_state


def test_step_drops_to_a_tenth_at_each_epoch() -> None:
    optim = Optim(lr=1.0, schedule="step", drops=[250, 280])
    rates = [learning_rate(optim, epoch, 300) for epoch in (0, 249.9, 250, 279.9, 280, 299)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_cosine_goes_from_the_rate_to_zero_after_the_warmup() -> None:
    optim = Optim(lr=2.0, schedule="cosine", warmup=10)
    rates = [learning_rate(optim, epoch, 110) for epoch in (0, 5, 10, 60, 110)]
    assert rates == pytest.approx([0, 1, 2, 1, 0])


def test_optimisers_go_by_timms_names() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = build_optimizer(Optim(name="adam", lr=0.5, weight_decay=0.1), [weight])
    assert type(optimizer) is torch.optim.Adam
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.5, 0.1)


def test_a_fused_optimiser_steps_like_the_other_and_is_refused_where_there_is_none() -> None:
    weights = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    fused = build_optimizer(Optim(name="adam"), weights[:1], fused=True)
    plain = build_optimizer(
        Optim(name="adam"), weights[1:], fused="auto"
    )  # not on a GPU, so not fused
    assert (fused.defaults["fused"], plain.defaults["fused"]) == (True, None)
    for weight, optimizer in zip(weights, (fused, plain), strict=True):
        weight.grad = torch.tensor([1.0, -2.0, 3.0])
        optimizer.step()
    torch.testing.assert_close(weights[0], weights[1])
    with pytest.raises(InputError, match="no fused `lamb`"):
        build_optimizer(Optim(name="lamb"), weights, fused=True)


@pytest.mark.parametrize("grouped", [False, True])
def test_the_default_optimiser_is_what_timm_makes_of_its_settings(grouped: bool) -> None:
    from timm.optim import create_optimizer_v2

    made = []
    for make in (
        lambda weights: build_optimizer(Optim(lr=0.02, weight_decay=0.3), weights),
        lambda weights: create_optimizer_v2(
            weights, opt="adam", lr=0.02, weight_decay=0.3, momentum=0.9
        ),
    ):
        torch.manual_seed(0)
        network = torch.nn.Linear(3, 2)
        weights = list(network.parameters())
        optimizer = make(
            [{"params": [each], "lr_scale": 0.5} for each in weights] if grouped else weights
        )
        for _ in range(3):
            network(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        made.append((optimizer.defaults, [type(optimizer), *map(torch.Tensor.tolist, weights)]))
    assert made[0] == made[1]


@pytest.mark.parametrize("fused", [False, True])
def test_a_state_with_the_channel_last_in_memory_goes_on_where_it_is_first(fused: bool) -> None:
    last, first = torch.channels_last_3d, torch.contiguous_format
    start, slope = torch.randn(2, 4, 3, 3, 3, 3)
    found = []
    for orders in ((last, last), (last, first)):
        weight = torch.nn.Parameter(start)
        saved: dict[str, Any] | None = None
        for order in orders:
            weight = torch.nn.Parameter(weight.detach().contiguous(memory_format=order))
            optimizer = build_optimizer(Optim(lr=0.1), [weight], fused)
            if saved is not None:
                load_state(optimizer, saved)
            for step in range(3):
                weight.grad = (slope * step).contiguous(memory_format=order)
                optimizer.step()
            saved = optimizer.state_dict()
        found.append(weight.detach().contiguous())
    torch.testing.assert_close(found[0], found[1])
