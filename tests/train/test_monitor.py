"""What is watched while training: measures against slow twins and by hand."""

import losses_by_hand
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from losses_by_hand import random_contrast
from torch.nn import functional

from vcsf_cli.contracts import Contrast
from vcsf_cli.train import monitor


def unit(seed: int, count: int, dim: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(
        torch.randn(count, dim, generator=generator, dtype=torch.float64), dim=1
    )


@pytest.mark.parametrize("seed", range(3))
def test_measures_equal_their_definitions(seed: int) -> None:
    query, key = unit(seed, 7, 5), unit(seed + 10, 7, 5)
    found = monitor.embedding_metrics(query, key)
    assert found["uniformity"] == pytest.approx(losses_by_hand.uniformity(query), rel=1e-4)
    assert found["effective_rank"] == pytest.approx(losses_by_hand.effective_rank(query), rel=1e-4)
    distances = [float((query[clip] - key[clip]).square().sum()) for clip in range(7)]
    assert found["alignment"] == pytest.approx(sum(distances) / 7, rel=1e-4)


def test_rank_is_one_where_all_are_equal_and_full_where_all_differ() -> None:
    assert monitor.effective_rank(torch.ones(6, 4)) == pytest.approx(1, abs=1e-3)
    assert monitor.effective_rank(torch.eye(4).repeat(2, 1)) == pytest.approx(4, abs=1e-3)


@given(st.integers(0, 100), st.integers(2, 12), st.integers(2, 8))
def test_rank_lies_between_one_and_the_dimensions(seed: int, count: int, dim: int) -> None:
    assert 0.999 <= monitor.effective_rank(unit(seed, count, dim).float()) <= min(count, dim) + 1e-3


def test_collapse_is_warned_of_below_a_tenth_of_the_dimensions() -> None:
    warned = monitor.collapse_warning("slow", 2.3, (32, 64))
    assert "slow pathway's embeddings use 2.3 of 32" in warned.text
    assert monitor.collapse_warning("slow", 3.3, (32, 64)) is None
    assert monitor.collapse_warning("slow", 1.0, (4, 64)) is None  # four clips say nothing


def test_a_pathway_that_falls_below_its_first_value_is_warned_of() -> None:
    """Of 400 clips, the difference of two shares of about 22 % has a standard error of 2.9 points."""
    warned = monitor.unlearning_warning("fast", 0.2, 0.24, 400)
    assert "fast pathway's check R@1 is 20.0%, less than the 24.0% before" in warned.text
    assert monitor.unlearning_warning("fast", 0.215, 0.24, 400) is None
    assert monitor.unlearning_warning("fast", 0.215, 0.24, 4000) is not None
    assert monitor.unlearning_warning("fast", 0.1, None, 400) is None


@pytest.mark.parametrize("clips", [7, 12, 721, 881])
def test_a_check_that_stays_the_same_is_no_warning(clips: int) -> None:
    """Whatever metrics.csv has rounded of the first one."""
    for hits in range(clips + 1):
        assert (
            monitor.unlearning_warning("slow", hits / clips, round(hits / clips, 6), clips) is None
        )


def test_precision_counts_mined_slots_of_known_labels_alone() -> None:
    contrast = random_contrast(0, batch=2, slots=4)
    contrast.label, contrast.queue_label = torch.tensor([1, -1]), torch.tensor([1, 0, -1, 1])
    mined = torch.tensor([[True, True, True, False], [True, True, False, False]])
    assert monitor.positive_metrics(contrast, mined) == {
        "mined": 2.5,
        "monitoring_mined_precision": 0.5,
    }
    contrast.label = torch.tensor([-1, -1])
    assert monitor.positive_metrics(contrast, mined) == {"mined": 2.5}


def agreement_by_hand(contrast: Contrast, count: int) -> float:
    shares = []
    for clip in range(len(contrast.video)):
        nearest = []
        for pathway in ("slow", "fast"):
            slots = [
                slot
                for slot, video in enumerate(contrast.queue_video.tolist())
                if video not in (-1, int(contrast.video[clip]))
                and int(contrast.queue_source[slot]) != int(contrast.source[clip])
            ]
            slots.sort(
                key=lambda slot: -float(contrast.key[pathway][clip] @ contrast.queue[pathway][slot])
            )
            nearest.append(set(slots[:count]))
        shares.append(len(nearest[0] & nearest[1]) / count)
    return sum(shares) / len(shares)


@pytest.mark.parametrize("seed", range(3))
def test_agreement_is_the_share_of_nearest_slots_in_common(seed: int) -> None:
    contrast = random_contrast(seed)
    assert monitor.agreement_metrics(contrast, 3)["agreement"] == pytest.approx(
        agreement_by_hand(contrast, 3)
    )
    contrast.queue["fast"], contrast.key["fast"] = contrast.queue["slow"], contrast.key["slow"]
    assert monitor.agreement_metrics(contrast) == {"agreement": 1.0}
    contrast.queue_video = torch.full_like(contrast.queue_video, -1)
    assert monitor.agreement_metrics(contrast) == {}
