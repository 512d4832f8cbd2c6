"""Clusters of embeddings."""

import losses_by_hand
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from vcsf_plugins.losses import CrossPathwayClusters, clustering


def groups(numbers: Tensor | list[int]) -> set[tuple[int, ...]]:
    """The members of each cluster, whatever its number."""
    found: dict[int, list[int]] = {}
    for member, number in enumerate(map(int, numbers)):
        found.setdefault(number, []).append(member)
    return {tuple(members) for members in found.values()}


def random_vectors(seed: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(count, 5, generator=generator), dim=1)


def test_first_neighbours_link_chains() -> None:
    """By angle: 0, 4 and 9 degrees are linked by 4, 100 and 102 are each other's."""
    angles = torch.deg2rad(torch.tensor([0.0, 100.0, 4.0, 102.0, 9.0]))
    vectors = torch.stack([angles.cos(), angles.sin()], 1)
    assert groups(clustering.first_neighbours(vectors)) == {(0, 2, 4), (1, 3)}
    assert clustering.first_neighbours(vectors[:1]).tolist() == [0]


@pytest.mark.parametrize("rows", [7, 1024])
def test_first_neighbours_equal_their_definition(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clustering, "_ROWS", rows)
    for seed in range(3):
        vectors = random_vectors(seed, 30)
        slow = losses_by_hand.first_neighbours(vectors)
        assert groups(clustering.first_neighbours(vectors)) == groups(slow)


def test_k_means_gives_the_same_again_and_fewer_clusters_of_equal_vectors() -> None:
    vectors = random_vectors(0, 60)
    found = clustering.k_means(vectors, 9, 3)
    assert len(groups(found)) == 9
    assert torch.equal(found, clustering.k_means(vectors, 9, 3))
    assert not torch.equal(found, clustering.k_means(vectors, 9, 4))
    same = torch.cat([vectors[:1].expand(4, -1), vectors[1:2].expand(3, -1)])
    assert groups(clustering.k_means(same, 5, 0)) == {(0, 1, 2, 3), (4, 5, 6)}


@pytest.mark.parametrize("count", [None, 2])
def test_both_pathways_count_alike_in_clusters(count: int | None) -> None:
    """Slow tells clips 0 and 1 from 2 and 3, fast doesn't; the other way round nothing changes."""
    slow = functional.normalize(torch.tensor([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0], [0.1, 1.0]]))
    fast = torch.tensor([[1.0, 0.0]] * 4)
    loss = CrossPathwayClusters(clusters=count)
    for keys in ({"slow": slow, "fast": fast}, {"fast": slow, "slow": fast}):
        assert groups(loss.cluster(keys, 0)) == {(0, 1), (2, 3)}
