"""The momentum encoder and the queue."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vcsf_cli.config import recipe as recipes
from vcsf_cli.model.momentum import Bank, Queue, ema_update, key_encoder
from vcsf_cli.model.pathways import build


def test_keys_follow_by_one_minus_m_and_get_no_gradient() -> None:
    model = build(recipes.load("demo", ["backbone.channels=[4, 8, 8, 16]"]))
    keys = key_encoder(model)
    assert not any(weight.requires_grad for weight in keys.parameters())
    with torch.no_grad():
        for weight in model.parameters():
            weight += 1
    before = {name: weight.clone() for name, weight in keys.named_parameters()}
    ema_update(keys, model, ["slow"], 0.9)
    for name, weight in keys.named_parameters():
        moved = 0.1 if name.startswith("slow") else 0.0
        torch.testing.assert_close(weight, before[name] + moved)


@given(st.integers(1, 12), st.lists(st.integers(1, 7), min_size=1, max_size=8))
def test_the_queue_holds_the_last_keys_in_step(slots: int, sizes: list[int]) -> None:
    queue = Queue(slots, dim=2, seed=0)
    pushed: list[int] = []
    for size in sizes:
        video = torch.arange(len(pushed), len(pushed) + size)
        pushed += video.tolist()
        keys = {
            name: video[:, None].float().expand(-1, 2) + offset
            for name, offset in (("slow", 0.25), ("fast", 0.5))
        }
        queue.push(keys, video, video + 1000, video - 1)
    held = queue.get_buffer("video")
    assert sorted(held[held >= 0].tolist()) == pushed[-slots:]
    full = held >= 0
    assert torch.equal(queue.keys()["slow"][full][:, 0], held[full] + 0.25)
    assert torch.equal(queue.keys()["fast"][full][:, 0], held[full] + 0.5)
    assert torch.equal(queue.get_buffer("source")[full], held[full] + 1000)
    assert torch.equal(queue.get_buffer("label")[full], held[full] - 1)
    assert (queue.get_buffer("source")[~full] == -1).all()


def test_a_bank_keeps_the_running_mean_of_every_clips_keys() -> None:
    bank = Bank(torch.tensor([3, 5, 8]), dim=2, momentum=0.75, batch=2)
    assert bank.slots == 3
    assert not bank.full

    def push(video: list[int], slow: list[list[float]]) -> None:
        keys = torch.tensor(slow)
        clips = torch.tensor(video)
        bank.push({"slow": keys, "fast": -keys}, clips, clips + 10, clips + 20)

    push([8, 3], [[1.0, 0.0], [0.0, 1.0]])
    assert bank.full  # an epoch of three clips is one batch of two
    assert bank.get_buffer("video").tolist() == [3, -1, 8]
    assert bank.keys()["slow"].tolist() == [[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
    push([5, 8], [[0.6, 0.8], [0.0, 1.0]])
    assert bank.get_buffer("source").tolist() == [13, 15, 18]
    assert bank.get_buffer("label").tolist() == [23, 25, 28]
    # 0.75 (1, 0) + 0.25 (0, 1) has the length sqrt(0.625).
    moved = [0.75 / 0.625**0.5, 0.25 / 0.625**0.5]
    torch.testing.assert_close(bank.keys()["slow"], torch.tensor([[0.0, 1.0], [0.6, 0.8], moved]))
    assert torch.equal(bank.keys()["fast"], -bank.keys()["slow"])


def test_a_bank_is_full_when_no_more_is_empty_than_an_epoch_leaves_out() -> None:
    bank = Bank(torch.tensor([3, 5, 8, 9, 11]), dim=2, momentum=0.75, batch=2)
    key = torch.tensor([[1.0, 0.0]])
    full = []
    for clip in (5, 3, 11, 8, 9):
        number = torch.tensor([clip])
        bank.push({"slow": key, "fast": key}, number, number, number)
        full.append(bank.full)
    assert full == [False, False, False, True, True]


def test_only_filled_slots_of_a_bank_get_clusters() -> None:
    bank = Bank(torch.tensor([3, 5, 8]), dim=2, momentum=0.75, batch=2, clustered=True)
    clips = torch.tensor([8, 3])
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    bank.push({"slow": keys, "fast": -keys}, clips, clips, clips)
    assert bank.get_buffer("cluster").tolist() == [-1, -1, -1]

    def find(keys: dict[str, torch.Tensor]) -> torch.Tensor:
        assert keys["slow"].tolist() == [[0.0, 1.0], [1.0, 0.0]]
        return torch.tensor([4, 6])

    bank.assign_clusters(find)
    assert bank.get_buffer("cluster").tolist() == [4, -1, 6]
    with pytest.raises(TypeError, match="one int64 number for each clip"):
        bank.assign_clusters(lambda keys: torch.tensor([1]))
