"""Losses against their slow twins, forward and gradient, and by hand."""

import itertools
import math
from dataclasses import replace

import losses_by_hand
import pytest
import torch
from losses_by_hand import random_contrast, random_segments
from torch.nn import functional
from vcsf_plugins.losses import (
    CrossInstance,
    CrossPathway,
    CrossPathwayBank,
    CrossPathwayClusters,
    InfoNCE,
    Supervised,
    TemporalContrast,
)

from vcsf_cli.contracts import Contrast
from vcsf_cli.errors import RecipeError

LOSSES = [InfoNCE, CrossInstance, CrossPathway, Supervised]


def batch_as_queue(contrast: Contrast) -> Contrast:
    """What a loss with `queue` 0 sees."""
    queued = {f"queue_{name}": getattr(contrast, name) for name in ("video", "source", "label")}
    return Contrast(**{**vars(contrast), "queue": contrast.key, **queued})


def assert_equal(fast: torch.Tensor, slow: torch.Tensor, contrast: Contrast, pathway: str) -> None:
    """The same loss and the same gradient."""
    query = contrast.query[pathway]
    torch.testing.assert_close(fast, slow)
    torch.testing.assert_close(
        torch.autograd.grad(fast, query), torch.autograd.grad(slow, query), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("queue", [10, 0])
@pytest.mark.parametrize("pathway", ["slow", "fast"])
def test_infonce_and_cross_instance_equal_their_formula(
    seed: int, queue: int, pathway: str
) -> None:
    contrast = random_contrast(seed) if queue else batch_as_queue(random_contrast(seed))
    other = "fast" if pathway == "slow" else "slow"
    loss = InfoNCE(temperature=0.2, queue=queue)(contrast, pathway)["loss"]
    assert_equal(loss, losses_by_hand.infonce(contrast, pathway, 0.2), contrast, pathway)
    loss = CrossInstance(temperature=0.2, queue=queue)(contrast, pathway)["loss"]
    assert_equal(loss, losses_by_hand.infonce(contrast, pathway, 0.2, other), contrast, pathway)


@pytest.mark.parametrize(
    ("positives", "kind", "siblings", "drop_own", "queue"),
    list(
        itertools.product(
            ["other", "intersection", "union", "joint", "mutual", "pairs"],
            ["within", "across"],
            ["positives", "ignored"],
            [0.0, 1.0],
            [10, 0],
        )
    ),
)
def test_cross_pathway_equals_its_formula(
    positives: str, kind: str, siblings: str, drop_own: float, queue: int
) -> None:
    for seed, pathway in ((0, "slow"), (1, "fast")):
        contrast = random_contrast(seed) if queue else batch_as_queue(random_contrast(seed))
        loss = CrossPathway(
            temperature=0.3, queue=queue, neighbours=2, positives=positives, contrast=kind, siblings=siblings,
            drop_own=drop_own,
        )(contrast, pathway)["loss"]  # fmt: skip
        expected = losses_by_hand.cross_pathway(
            contrast,
            pathway,
            0.3,
            2,
            positives,
            kind == "across",
            siblings == "positives",
            drop_own == 1,
            queue == 0,
        )
        assert_equal(loss, expected, contrast, pathway)


def with_batch(contrast: Contrast) -> Contrast:
    """What a loss with a bank sees."""
    return replace(contrast, batch=batch_as_queue(contrast))


@pytest.mark.parametrize(
    "positives", ["other", "intersection", "union", "joint", "mutual", "pairs"]
)
@pytest.mark.parametrize("siblings", ["positives", "ignored"])
@pytest.mark.parametrize("drop_own", [0.0, 1.0])
def test_a_bank_equals_its_formula(positives: str, siblings: str, drop_own: float) -> None:
    for seed, pathway, kind in ((0, "slow", "across"), (1, "fast", "within")):
        contrast = with_batch(random_contrast(seed))
        # No clip of the batch has a slot of its own, so that keys are looked up.
        contrast.queue_video[contrast.queue_video < 10] = 30
        loss = CrossPathwayBank(
            temperature=0.3, neighbours=2, positives=positives, siblings=siblings, drop_own=drop_own,
            contrast=kind,
        )(contrast, pathway)["loss"]  # fmt: skip
        expected = losses_by_hand.bank(
            contrast,
            pathway,
            0.3,
            2,
            positives,
            kind == "across",
            siblings == "positives",
            drop_own == 1,
        )
        assert_equal(loss, expected, contrast, pathway)


def test_a_bank_mines_by_the_clips_own_slot() -> None:
    """Clips 0, 1 and 3 have slots; mining by these equals that by keys that are the slots."""
    contrast = random_contrast(5)
    key = {name: value.clone() for name, value in contrast.key.items()}
    for clip, slot in ((0, 0), (1, 1), (3, 6)):
        for name in key:
            key[name][clip] = contrast.queue[name][slot]
    bank, plain = CrossPathwayBank(neighbours=3), CrossPathway(neighbours=3)
    plain.positives = bank.positives
    expected = plain.mined(replace(contrast, key=key), "slow")
    assert torch.equal(bank.mined(contrast, "slow"), expected)
    assert not torch.equal(plain.mined(contrast, "slow"), expected)


def clustered(seed: int) -> Contrast:
    """Clips 0, 1 and 3 have slots. Clip 0 shares its cluster with its recording and two others, clip
    1 with its recording only, and the slot of clip 3 was empty when clusters were formed."""
    contrast = random_contrast(seed)
    return replace(contrast, queue_cluster=torch.tensor([0, 1, -1, 0, 0, -1, -1, 2, 3, -1]))


@pytest.mark.parametrize("siblings", ["positives", "ignored"])
@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_clusters_equal_their_formula(siblings: str, probability: float) -> None:
    for seed, pathway, kind in ((0, "slow", "across"), (1, "fast", "within")):
        given = with_batch(clustered(seed))
        loss = CrossPathwayClusters(
            temperature=0.3, siblings=siblings, probability=probability, contrast=kind
        )
        expected = losses_by_hand.bank(
            given,
            pathway,
            0.3,
            1,
            "clusters",
            kind == "across",
            siblings == "positives",
            probability == 1,
        )
        assert_equal(loss(given, pathway)["loss"], expected, given, pathway)


def test_positives_are_the_other_recordings_of_the_cluster() -> None:
    found = CrossPathwayClusters().mined(clustered(0), "slow")
    assert found.nonzero().tolist() == [[0, 3], [0, 4]]


def test_positives_of_clusters_are_drawn_for_each_query() -> None:
    """As many as the probability says, and the same after the same seed."""
    slots = torch.arange(1000)
    keys = torch.nn.functional.normalize(torch.randn(1000, 4), dim=1)
    contrast = Contrast(
        query={"slow": keys, "fast": keys},
        key={"slow": keys, "fast": keys},
        queue={"slow": keys, "fast": keys},
        **dict.fromkeys(("video", "source", "label"), slots),
        **dict.fromkeys(("queue_video", "queue_source", "queue_label"), slots),
        queue_cluster=slots // 2,
    )
    contrast = with_batch(contrast)
    loss = CrossPathwayClusters(probability=0.2)

    def share(seed: int) -> float:
        torch.manual_seed(seed)
        return float(loss(contrast, "slow")["mined_share"])

    assert share(0) == pytest.approx(0.2, abs=0.06)
    assert share(0) == share(0) != share(1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("queue", [10, 0])
def test_supervised_equals_its_formula(seed: int, queue: int) -> None:
    contrast = random_contrast(seed) if queue else batch_as_queue(random_contrast(seed))
    loss = Supervised(temperature=0.2, queue=queue)(contrast, "slow")["loss"]
    assert_equal(loss, losses_by_hand.supervised(contrast, "slow", 0.2), contrast, "slow")


def one_clip(slots: torch.Tensor, **queued: list[int]) -> Contrast:
    """Clip 0 of recording 0 and class 0, whose own key is its query, and slots of other videos."""
    key = torch.eye(4)[:1]
    names = {"queue_video": range(1, len(slots) + 1), "queue_label": [0] * len(slots)} | queued
    zero = torch.zeros(1, dtype=torch.int64)
    return Contrast(
        query={"slow": key, "fast": key},
        key={"slow": key.clone(), "fast": key.clone()},
        queue={"slow": slots, "fast": slots},
        **dict.fromkeys(("video", "source", "label"), zero),
        **{name: torch.tensor([*values]) for name, values in names.items()},
    )


def test_labels_pull_a_clip_whose_own_key_matches_already() -> None:
    """A positive's share of the gradient is its softmax term less one half, as there are two."""
    slots = torch.eye(4)[1:].requires_grad_()
    contrast = one_clip(slots, queue_source=[1, 2, 3], queue_label=[0, 1, 1])
    Supervised(temperature=0.1)(contrast, "slow")["loss"].backward()
    assert float(slots.grad[0] @ contrast.query["slow"][0]) == pytest.approx(-0.5 / 0.1, rel=1e-3)


@pytest.mark.parametrize("name", ["bank", "clusters"])
def test_being_fresh_tells_no_own_key_from_a_bank(name: str) -> None:
    """The own key is new, all slots are old, and new keys are all alike in one number of each vector:
    where an own key is the positive, that number must bring nothing."""
    old, new = torch.eye(5)[:3], torch.eye(5)[4]
    query = functional.normalize(torch.eye(5)[:2] + new, dim=1)
    slots = {"slow": old, "fast": old}
    numbers = torch.tensor([0, 1])
    contrast = with_batch(
        Contrast(
            query=dict.fromkeys(slots, query.clone().requires_grad_()),
            key=dict.fromkeys(slots, query),
            queue=slots,
            **dict.fromkeys(("video", "source", "label"), numbers),
            **dict.fromkeys(
                ("queue_video", "queue_source", "queue_label"), torch.tensor([7, 8, 9])
            ),
            queue_cluster=torch.tensor([0, 1, 2]),
        )
    )
    settings = {"bank": {"drop_own": 0.0}, "clusters": {}}[name]
    kind = {"bank": CrossPathwayBank, "clusters": CrossPathwayClusters}[name]
    loss = kind(temperature=1.0, **settings)
    loss(contrast, "slow")["loss"].backward()
    gradient = contrast.query["slow"].grad
    assert gradient[:, :2].abs().min() > 0.1
    assert gradient[:, 4].abs().max() < 1e-6


def test_what_a_bank_tells_of_two_clips_by_hand() -> None:
    """Clip 0 has the sibling 7 and the mined slot 8, at right angles to its query and along it; clip 1
    has neither, and learns from its own key among the keys of the batch."""
    east, north = torch.eye(2)
    slots = torch.stack([north, east, -east])
    numbers = torch.tensor([0, 1])
    contrast = with_batch(
        Contrast(
            query=dict.fromkeys(("slow", "fast"), torch.stack([east, -north])),
            key=dict.fromkeys(("slow", "fast"), torch.stack([(east + north) / 2**0.5, -north])),
            queue=dict.fromkeys(("slow", "fast"), slots),
            **dict.fromkeys(("video", "source", "label"), numbers),
            queue_video=torch.tensor([7, 8, 9]),
            queue_source=torch.tensor([0, 5, 5]),
            queue_label=torch.tensor([0, 0, 1]),
            queue_cluster=torch.tensor([0, 1, 2]),
        )
    )
    bank = CrossPathwayBank(temperature=0.5, neighbours=1, contrast="within")
    bank.mined = lambda contrast, pathway: torch.tensor([[False, True, False], [False] * 3])
    terms = {name: float(value) for name, value in bank(contrast, "slow").items()}
    e = math.exp
    first = math.log((1 + e(2) + e(-2)) / (1 + e(2)))
    second = math.log((e(2) + e(-2 / 2**0.5)) / e(2))  # its key, and that of clip 0
    assert terms == pytest.approx(
        {
            "loss": (first + second) / 2,
            "own_key_accuracy": 1.0,
            "mined_share": e(2) / (1 + e(2)) / 2,  # nothing in clip 1
            "own_similarity": (1 / 2**0.5 + 1) / 2,
            "mined_similarity": 1.0,
        },
        rel=1e-5,
    )


def test_own_keys_are_compared_with_negatives_alone() -> None:
    """A positive that is nearer than the own key is no rival of it, a negative is."""
    slots = torch.stack([torch.eye(4)[0], torch.eye(4)[1]])
    for source, accuracy in (([0, 2], 1.0), ([1, 2], 0.0)):
        contrast = one_clip(slots, queue_source=source)
        contrast.key["slow"] = contrast.key["slow"] * 0.9 + 0.1 * torch.eye(4)[1:2]
        loss = CrossPathway(temperature=0.5, queue=2, neighbours=1, positives="other")
        loss.mined = lambda contrast, pathway: torch.zeros(1, 2, dtype=torch.bool)
        assert float(loss(contrast, "slow")["own_key_accuracy"]) == accuracy


@pytest.mark.parametrize(("local", "whole"), [(1.0, 0.0), (0.0, 1.0), (0.5, 2.0)])
@pytest.mark.parametrize(("clips", "count"), [(6, 4), (1, 2), (0, 3)])
def test_temporal_contrast_equals_its_formulas(
    local: float, whole: float, clips: int, count: int
) -> None:
    contrast = random_segments(random_contrast(0), clips, count)
    loss = TemporalContrast(temperature=0.2, segments=count, local_local=local, global_local=whole)(
        contrast, "slow"
    )["loss"]
    expected = local * losses_by_hand.local_local(contrast, "slow", 0.2)
    expected = expected + whole * losses_by_hand.global_local(contrast, "slow", 0.2)
    torch.testing.assert_close(loss, expected)
    inputs = (contrast.query_segments["slow"], contrast.query_steps["slow"])
    ours = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
    if clips:
        theirs = torch.autograd.grad(expected, inputs, allow_unused=True, materialize_grads=True)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_temporal_contrast_of_two_segments_at_right_angles() -> None:
    """Every key is its segment, and half of the clips have segments. An anchor sees its key at
    similarity 1, the other key and the other segment at 0; a step sees its segment and the other."""
    contrast = random_contrast(0, batch=2)
    same = {"slow": torch.eye(2)[None]}
    contrast = replace(contrast, query_segments=same, key_segments=same, query_steps=same)
    terms = TemporalContrast(temperature=0.5, segments=2)(contrast, "slow")
    local, whole = math.log1p(2 * math.exp(-2)) / 2, math.log1p(math.exp(-2)) / 2
    assert float(terms["local_local"]) == pytest.approx(local, rel=1e-5)
    assert float(terms["global_local"]) == pytest.approx(whole, rel=1e-5)
    assert float(terms["loss"]) == pytest.approx(local + whole, rel=1e-5)


def test_temporal_contrast_of_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match="nothing is left"):
        TemporalContrast(local_local=0, global_local=0)


def test_infonce_of_two_opposite_clips() -> None:
    """Own key at similarity 1, one negative at -1: log(1 + exp(-2 / tau))."""
    contrast = random_contrast(0, batch=1, dim=2)
    contrast.query["slow"] = contrast.key["slow"] = torch.tensor([[1.0, 0.0]])
    contrast.queue["slow"] = torch.tensor([[-1.0, 0.0]] * 10)
    contrast.queue_video = torch.tensor([-1] * 9 + [5])
    terms = InfoNCE(temperature=0.5, queue=10)(contrast, "slow")
    assert float(terms["loss"]) == pytest.approx(math.log1p(math.exp(-4)), rel=1e-5)
    assert float(terms["own_key_accuracy"]) == 1.0


def two_slots() -> Contrast:
    """One clip whose own key and slots lie at right angles in a plane: slot 0 is near in fast, slot
    1 in slow."""
    east, north = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    return Contrast(
        query={"slow": east.clone().requires_grad_(), "fast": None},
        key={"slow": east, "fast": east},
        queue={"slow": torch.cat([north, east]), "fast": torch.cat([east, north])},
        video=torch.tensor([0]),
        source=torch.tensor([0]),
        label=torch.tensor([-1]),
        queue_video=torch.tensor([7, 8]),
        queue_source=torch.tensor([7, 8]),
        queue_label=torch.tensor([-1, -1]),
    )


@pytest.mark.parametrize(
    ("positives", "drop_own", "expected"),
    [
        # e = exp(1 / tau) with tau 1; all: own e + slot 0 with 1 + slot 1 with e.
        ("other", 1.0, math.log((2 * math.e + 1) / 1)),  # slot 0 alone
        ("other", 0.0, math.log((2 * math.e + 1) / (math.e + 1))),
        ("union", 1.0, math.log((2 * math.e + 1) / (math.e + 1))),
        (
            "intersection",
            1.0,
            math.log((2 * math.e + 1) / math.e),
        ),  # nothing is mined: the own key stays
    ],
)
def test_cross_pathway_by_hand(positives: str, drop_own: float, expected: float) -> None:
    loss = CrossPathway(
        temperature=1.0, queue=2, neighbours=1, positives=positives, drop_own=drop_own
    )
    terms = loss(two_slots(), "slow")
    assert float(terms["loss"].detach()) == pytest.approx(expected, rel=1e-5)
    assert float(terms["own_similarity"]) == 1.0
    assert float(terms["mined_similarity"]) == pytest.approx(
        {"other": 0.0, "union": 0.5, "intersection": 0.0}[positives]
    )
    shares = {
        ("other", 1.0): 1.0,
        ("other", 0.0): 1 / (1 + math.e),
        ("union", 1.0): 1.0,
        ("intersection", 1.0): 0.0,
    }
    assert float(terms["mined_share"].detach()) == pytest.approx(
        shares[positives, drop_own], rel=1e-5
    )


def test_mining_follows_the_key_and_not_the_query() -> None:
    """The query's gradient must not reach which positives it gets, and view 1 must not either."""
    contrast = two_slots()
    before = CrossPathway(queue=2, neighbours=1).mined(contrast, "slow")
    contrast.query["slow"] = -contrast.query["slow"]
    assert torch.equal(CrossPathway(queue=2, neighbours=1).mined(contrast, "slow"), before)
    assert before.tolist() == [[True, False]]
    contrast.key["fast"] = torch.tensor([[0.0, 1.0]])
    assert CrossPathway(queue=2, neighbours=1).mined(contrast, "slow").tolist() == [[False, True]]


def test_own_keys_are_dropped_as_often_as_asked() -> None:
    contrast = random_contrast(5, batch=1)
    loss = CrossPathway(queue=10, drop_own=0.3)
    torch.manual_seed(0)
    values = torch.stack([loss(contrast, "slow")["loss"].detach() for _ in range(600)])
    assert len(values.unique()) == 2
    assert (values == values.max()).float().mean() == pytest.approx(0.3, abs=0.06)


@pytest.mark.parametrize("kind", LOSSES)
def test_an_empty_queue_gives_zero_and_no_nan(kind: type[InfoNCE]) -> None:
    contrast = random_contrast(1)
    for name in ("queue_video", "queue_source", "queue_label"):
        setattr(contrast, name, torch.full((10,), -1))
    loss = kind(queue=10)(contrast, "fast")["loss"]
    assert float(loss.detach()) == 0.0
    assert torch.autograd.grad(loss, contrast.query["fast"])[0].isfinite().all()


@pytest.mark.parametrize("kind", LOSSES)
def test_one_positive_alone_gives_no_nan(kind: type[InfoNCE]) -> None:
    """One slot, which is a negative, a sibling, the same video or empty in turn."""
    for video, source in ((9, 9), (9, 0), (0, 0), (-1, -1)):
        contrast = random_contrast(2, batch=1, slots=1)
        contrast.queue_video, contrast.queue_source = torch.tensor([video]), torch.tensor([source])
        contrast.queue_label = torch.tensor([-1])
        terms = kind(queue=1)(contrast, "slow")
        assert all(value.isfinite().all() for value in terms.values())
        assert torch.autograd.grad(terms["loss"], contrast.query["slow"])[0].isfinite().all()


def test_keys_of_the_same_video_are_not_negatives() -> None:
    """Slots 0, 1 and 6 hold videos of the batch: changing what they hold for these videos changes
    nothing."""
    contrast = random_contrast(2, batch=2)
    contrast.video = torch.tensor([0, 0])
    before = InfoNCE(queue=10)(contrast, "slow")["loss"].detach()
    contrast.queue["slow"][0] = contrast.key["slow"][0]
    assert float(InfoNCE(queue=10)(contrast, "slow")["loss"].detach()) == float(before)
    contrast.queue["slow"][1] = contrast.query["slow"][0].detach()
    assert float(InfoNCE(queue=10)(contrast, "slow")["loss"].detach()) > float(before)


@pytest.mark.parametrize("kind", LOSSES)
def test_bfloat16_embeddings_are_summed_in_float32(kind: type[InfoNCE]) -> None:
    contrast = random_contrast(3)
    torch.manual_seed(0)
    exact = kind(queue=10)(contrast, "slow")["loss"].detach()
    contrast.query = {name: query.bfloat16() for name, query in contrast.query.items()}
    torch.manual_seed(0)
    rough = kind(queue=10)(contrast, "slow")["loss"].detach()
    assert rough.dtype == torch.float32
    assert float(rough) == pytest.approx(float(exact), rel=0.02)


def test_only_supervised_reads_labels() -> None:
    for kind in LOSSES:
        contrast, other = random_contrast(4), random_contrast(4)
        other.label, other.queue_label = other.label.roll(1), other.queue_label.roll(3)
        torch.manual_seed(0)
        ours = kind(queue=10)(contrast, "slow")["loss"]
        torch.manual_seed(0)
        theirs = kind(queue=10)(other, "slow")["loss"]
        assert torch.equal(ours, theirs) == (not kind(queue=10).uses_labels)


def test_a_frozen_pathway_has_no_loss() -> None:
    with pytest.raises(ValueError, match="fast pathway is frozen"):
        CrossPathway(queue=2)(two_slots(), "fast")
