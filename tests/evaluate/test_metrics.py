"""Accuracies and tables by hand."""

from pathlib import Path

import numpy as np
import pytest

from vcsf_cli.evaluate.metrics import accuracies, class_table, confusion, with_both, write_confusion

CLASSES = ["a", "b", "c"]
PROBABILITY = np.array(
    [[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.5, 0.4, 0.1]],
    np.float32,
)
TARGET = np.array([0, 0, 1, 1, 1])
"""Right, wrong, right, wrong (c), wrong (a)."""


def test_top1_and_the_mean_over_classes_that_have_test_clips() -> None:
    found = accuracies(PROBABILITY, TARGET, np.array(list("vwxyz"), object), ranks=True)
    assert found["top1"] == pytest.approx(2 / 5)
    assert found["class_mean"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert "top5" not in found  # of three classes it would be 1


def test_the_interval_is_over_recordings_not_over_clips() -> None:
    rng = np.random.default_rng(0)
    target = np.repeat(
        rng.integers(0, 2, 20), 10
    )  # twenty recordings of ten clips, right or wrong together
    probability = np.repeat(rng.random((20, 2)), 10, axis=0).astype(np.float32)
    clips, recordings = np.arange(200).astype(object), np.repeat(np.arange(20), 10).astype(object)
    wide, narrow = (
        accuracies(probability, target, cluster, True) for cluster in (recordings, clips)
    )
    assert wide["top1"] == narrow["top1"]
    ratio = (wide["top1_high"] - wide["top1_low"]) / (narrow["top1_high"] - narrow["top1_low"])
    assert 2 < ratio < 4.5  # the root of ten
    assert wide["top1_low"] < wide["top1"] < wide["top1_high"]


def test_top5_by_hand_and_only_where_ranks_mean_something() -> None:
    rng = np.random.default_rng(1)
    probability, target = rng.random((50, 9)).astype(np.float32), rng.integers(0, 9, 50)
    expected = np.mean([target[row] in np.argsort(-probability[row])[:5] for row in range(50)])
    cluster = np.arange(50).astype(object)
    assert accuracies(probability, target, cluster, True)["top5"] == pytest.approx(expected)
    assert "top5" not in accuracies(probability, target, cluster, False)


def test_who_is_taken_for_whom(tmp_path: Path) -> None:
    confused = confusion(PROBABILITY, TARGET, CLASSES)
    assert confused.to_numpy().tolist() == [[1, 1, 0], [1, 1, 1], [0, 0, 0]]
    table = class_table(confused)
    assert table["clips"].tolist() == [2, 3, 0]
    assert table["right"].tolist() == [1, 1, 0]
    assert table["share"].tolist() == pytest.approx([0.5, 0.333333, 0])
    assert table["most_often_taken_for"].tolist() == ["b", "a", ""]
    write_confusion(tmp_path, "slow", confused)
    assert (
        tmp_path / "confusion-slow.csv"
    ).read_text() == "class,a,b,c\na,1,1,0\nb,1,1,1\nc,0,0,0\n"
    assert (tmp_path / "confusion-slow.png").read_bytes().startswith(b"\x89PNG")


def test_both_is_the_mean_of_the_probabilities() -> None:
    other = PROBABILITY[::-1].copy()
    found = with_both({"slow": PROBABILITY, "fast": other})
    assert list(found) == ["slow", "fast", "both"]
    np.testing.assert_allclose(found["both"], (PROBABILITY + other) / 2)
    assert list(with_both({"fast": other})) == ["fast"]
