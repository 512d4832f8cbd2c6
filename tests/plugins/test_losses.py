"""Losses against their slow twins, forward and gradient, and by hand."""

import math

import losses_by_hand
import pytest
import torch
from torch.nn import functional
from vcsf_plugins.losses import InfoNCE

from vcsf_cli.contracts import Contrast


def contrast_of(seed: int, batch: int = 6, slots: int = 10, dim: int = 8) -> Contrast:
    """A random contrast with empty slots and slots of the batch's own videos."""
    generator = torch.Generator().manual_seed(seed)

    def unit(count: int) -> torch.Tensor:
        return functional.normalize(torch.randn(count, dim, generator=generator, dtype=torch.float64), dim=1).float()

    return Contrast(
        query={"slow": unit(batch).requires_grad_(), "fast": unit(batch).requires_grad_()},
        key={"slow": unit(batch), "fast": unit(batch)},
        queue={"slow": unit(slots), "fast": unit(slots)},
        video=torch.arange(batch),
        source=torch.arange(batch) // 2,
        label=torch.full((batch,), -1),
        queue_video=torch.tensor([0, 1, -1, 20, 21, -1, 3, 22, 23, 24]),
        queue_source=torch.tensor([0, 0, -1, 20, 21, -1, 1, 22, 22, 24]),
        queue_label=torch.full((slots,), -1),
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("queue", [10, 0])
@pytest.mark.parametrize("pathway", ["slow", "fast"])
def test_infonce_equals_its_formula(seed: int, queue: int, pathway: str) -> None:
    contrast = contrast_of(seed)
    query = contrast.query[pathway]
    fast = InfoNCE(temperature=0.2, queue=queue)(contrast, pathway)["loss"]
    slow = losses_by_hand.infonce(contrast, pathway, 0.2, bool(queue))
    torch.testing.assert_close(fast, slow)
    torch.testing.assert_close(torch.autograd.grad(fast, query), torch.autograd.grad(slow, query), atol=1e-5, rtol=1e-4)


def test_infonce_of_two_opposite_clips() -> None:
    """Own key at similarity 1, one negative at -1: log(1 + exp(-2 / tau))."""
    contrast = contrast_of(0, batch=1, dim=2)
    contrast.query["slow"] = contrast.key["slow"] = torch.tensor([[1.0, 0.0]])
    contrast.queue["slow"] = torch.tensor([[-1.0, 0.0]] * 10)
    contrast.queue_video = torch.tensor([-1] * 9 + [5])
    terms = InfoNCE(temperature=0.5, queue=10)(contrast, "slow")
    assert float(terms["loss"]) == pytest.approx(math.log1p(math.exp(-4)), rel=1e-5)
    assert float(terms["own_key_accuracy"]) == 1.0


def test_an_empty_queue_gives_zero_and_no_nan() -> None:
    contrast = contrast_of(1)
    contrast.queue_video = torch.full((10,), -1)
    query = contrast.query["fast"]
    loss = InfoNCE(queue=10)(contrast, "fast")["loss"]
    assert float(loss.detach()) == 0.0
    assert torch.autograd.grad(loss, query)[0].isfinite().all()


def test_keys_of_the_same_video_are_no_negatives() -> None:
    """Slots 0, 1 and 6 hold videos of the batch: changing what they hold for these videos changes nothing."""
    contrast = contrast_of(2, batch=2)
    contrast.video = torch.tensor([0, 0])
    before = InfoNCE(queue=10)(contrast, "slow")["loss"].detach()
    contrast.queue["slow"][0] = contrast.key["slow"][0]
    assert float(InfoNCE(queue=10)(contrast, "slow")["loss"].detach()) == float(before)
    contrast.queue["slow"][1] = contrast.query["slow"][0].detach()
    assert float(InfoNCE(queue=10)(contrast, "slow")["loss"].detach()) > float(before)


def test_bfloat16_embeddings_are_summed_in_float32() -> None:
    contrast = contrast_of(3)
    exact = InfoNCE(queue=10)(contrast, "slow")["loss"].detach()
    contrast.query = {name: query.bfloat16() for name, query in contrast.query.items()}
    rough = InfoNCE(queue=10)(contrast, "slow")["loss"].detach()
    assert rough.dtype == torch.float32
    assert float(rough) == pytest.approx(float(exact), rel=0.02)
