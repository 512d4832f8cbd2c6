"""Whose statistics batch norm takes."""

import copy

import pytest
import torch
from torch import nn

from vcsf_cli.model.norm import SplitBatchNorm, batch_norms, split_batch_norms


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv3d(3, 4, 1), nn.Sequential(nn.BatchNorm3d(4), nn.ReLU()))


def test_each_part_is_normalised_by_itself() -> None:
    clips = torch.randn(6, 3, 2, 4, 4)
    whole, parted = network(), network()
    split_batch_norms(parted, 3)
    expected = torch.cat([copy.deepcopy(whole)(clips[start : start + 2]) for start in (0, 2, 4)])
    torch.testing.assert_close(parted(clips), expected)
    assert not torch.allclose(parted(clips), whole(clips), atol=1e-2)


def test_running_statistics_move_as_far_as_with_the_whole_batch() -> None:
    """Parts that are alike move the statistics just as the whole batch does."""
    clips = torch.randn(2, 3, 2, 4, 4).repeat(4, 1, 1, 1, 1)
    whole, parted = network(), network()
    split_batch_norms(parted, 4)
    whole(clips)
    parted(clips)
    (ours,), (theirs,) = batch_norms(parted), batch_norms(whole)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(
        ours.running_var, theirs.running_var, rtol=0.02, atol=1e-3
    )  # n / (n - 1) differs


def test_weights_keep_their_names_and_eval_mode_is_as_before() -> None:
    clips = torch.randn(4, 3, 2, 4, 4)
    whole, parted = network(), network()
    split_batch_norms(parted, 2)
    assert list(parted.state_dict()) == list(whole.state_dict())
    assert torch.equal(parted.eval()(clips), whole.eval()(clips))
    assert {id(weight) for weight in parted.parameters()} >= {
        id(norm.weight) for norm in batch_norms(parted)
    }


def test_a_split_network_can_be_copied_split_again_and_made_whole() -> None:
    clips = torch.randn(4, 3, 2, 4, 4)
    parted = network()
    split_batch_norms(parted, 2)
    split_batch_norms(parted, 4)
    assert [
        norm.parts
        for norm in batch_norms(copy.deepcopy(parted))
        if isinstance(norm, SplitBatchNorm)
    ] == [4]
    parted(clips)
    whole = network()
    whole.load_state_dict(parted.state_dict())
    split_batch_norms(parted, 1)
    torch.testing.assert_close(parted(clips), whole(clips))
    torch.testing.assert_close(parted.state_dict(), whole.state_dict())


def test_a_cumulative_mean_counts_a_batch_once() -> None:
    clips = torch.randn(2, 4, 2, 4, 4)
    whole, parted = (nn.Sequential(nn.BatchNorm3d(4, momentum=None)) for _ in range(2))
    split_batch_norms(parted, 2)
    for _ in range(3):
        whole(clips.repeat(2, 1, 1, 1, 1))
        parted(clips.repeat(2, 1, 1, 1, 1))
    torch.testing.assert_close(parted.state_dict(), whole.state_dict(), rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d])
def test_norms_of_other_dimensions_are_split_too(kind: type[nn.Module]) -> None:
    one = nn.Sequential(kind(4))
    other = copy.deepcopy(one)
    split_batch_norms(other, 2)
    features = torch.randn(4, 4, *([5, 5] if kind is nn.BatchNorm2d else []))
    torch.testing.assert_close(other(features), torch.cat([one(features[:2]), one(features[2:])]))
