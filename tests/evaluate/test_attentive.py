"""The attentive probe on hand-made features, against a slow twin."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from vcsf_cli.config.protocol import Attentive
from vcsf_cli.config.schema import Optim
from vcsf_cli.evaluate.attentive import AttentiveLayer, Maps, fit_layer

CPU = torch.device("cpu")
PROTOCOL = Attentive.model_validate(
    {
        "mode": "attentive",
        "name": "x",
        "heads": 4,
        "train": {"epochs": 40, "batch": 16},
        "grid": {"lr": [3e-3], "weight_decay": [0.01]},
    }
)
OPTIM = Optim.model_validate(PROTOCOL.optim.model_dump() | {"lr": 3e-3, "weight_decay": 0.01})


def one_place_tells(seed: int, count: int) -> tuple[Maps, np.ndarray]:
    """Clips of two windows of six places, of which one, anywhere, is of the clip's class; the mean
    over places is nearly the same for all."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 3, count)
    values = 0.1 * rng.normal(size=(count, 2, 6, 8))
    mark = 2 * np.random.default_rng(99).normal(size=(3, 8))
    for clip in range(count):
        for window in range(2):
            first, second = rng.choice(6, 2, replace=False)
            values[clip, window, first] += mark[target[clip]]
            values[clip, window, second] -= mark[target[clip]]
    return Maps(values.astype(np.float16), np.arange(count)), target


def logits_by_hand(layer: AttentiveLayer, places: np.ndarray) -> list[float]:
    """One clip, head by head and place by place: softmax(q k / sqrt(d)) v, the residual, then the
    MLP with its residual, then the linear layer."""
    state = {name: value.double().numpy() for name, value in layer.state_dict().items()}
    channels, heads = places.shape[1], layer.attention.num_heads
    size = channels // heads

    def normed(vector: np.ndarray, name: str) -> np.ndarray:
        scaled = (vector - vector.mean()) / math.sqrt(vector.var() + 1e-5)
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    weight, bias = state["attention.in_proj_weight"], state["attention.in_proj_bias"]
    to_query, to_key, to_value = (
        (
            weight[part * channels : (part + 1) * channels],
            bias[part * channels : (part + 1) * channels],
        )
        for part in range(3)
    )
    query = state["query"][0, 0]
    asked = to_query[0] @ query + to_query[1]
    seen = [normed(place, "norm") for place in places]
    keys = [to_key[0] @ place + to_key[1] for place in seen]
    values = [to_value[0] @ place + to_value[1] for place in seen]
    together = np.zeros(channels)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = [math.exp(asked[part] @ key[part] / math.sqrt(size)) for key in keys]
        for score, value in zip(scores, values, strict=True):
            together[part] += score / sum(scores) * value[part]
    query = query + state["attention.out_proj.weight"] @ together + state["attention.out_proj.bias"]
    hidden = state["mlp.1.weight"] @ normed(query, "mlp.0") + state["mlp.1.bias"]
    hidden = np.array([x / 2 * (1 + math.erf(x / math.sqrt(2))) for x in hidden])
    query = query + state["mlp.3.weight"] @ hidden + state["mlp.3.bias"]
    return (state["linear.weight"] @ query + state["linear.bias"]).tolist()


def test_the_block_is_what_it_says() -> None:
    torch.manual_seed(0)
    layer = AttentiveLayer(8, 3, heads=4).eval()
    for weight in layer.parameters():  # nothing stays zero or one
        torch.nn.init.normal_(weight, std=0.5)
    places = torch.randn(2, 6, 8)
    with torch.no_grad():
        found = layer(places)
    for clip in range(2):
        by_hand = logits_by_hand(layer, places[clip].double().numpy())
        assert found[clip].tolist() == pytest.approx(by_hand, abs=1e-4)


def test_it_finds_the_place_that_the_mean_over_places_hides() -> None:
    features, target = one_place_tells(0, 96)
    seen, known = one_place_tells(1, 60)
    layer = fit_layer(features, target, 3, OPTIM, PROTOCOL, 0, CPU)
    probability = layer.probabilities(seen)
    assert (probability.argmax(1) == known).mean() > 0.9
    pooled = seen.values.astype(np.float32).mean((1, 2))
    centres = np.stack([pooled[known == each].mean(0) for each in range(3)])
    nearest = ((pooled[:, None] - centres) ** 2).sum(2).argmin(1)
    assert (nearest == known).mean() < 0.7


def test_a_clip_s_answer_is_the_mean_over_its_windows_whatever_stands_beside_it() -> None:
    features, target = one_place_tells(0, 20)
    layer = fit_layer(features, target, 3, OPTIM, PROTOCOL, 0, CPU)
    some = features[np.array([7, 2])]
    windows = torch.from_numpy(features.values[[7, 2]].astype(np.float32))
    with torch.no_grad():
        by_hand = [
            torch.stack([functional.softmax(layer(one[None])[0], 0) for one in clip]).mean(0)
            for clip in windows
        ]
    np.testing.assert_allclose(layer.probabilities(some), torch.stack(by_hand).numpy(), atol=1e-5)


def test_the_same_seed_learns_the_same_and_heads_divide_the_channels() -> None:
    features, target = one_place_tells(0, 20)
    layers = [fit_layer(features, target, 3, OPTIM, PROTOCOL, seed, CPU) for seed in (0, 0, 1)]
    assert torch.equal(layers[0].linear.weight, layers[1].linear.weight)
    assert not torch.equal(layers[0].linear.weight, layers[2].linear.weight)
    assert AttentiveLayer(12, 2, heads=8).attention.num_heads == 4
