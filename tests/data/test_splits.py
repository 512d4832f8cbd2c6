"""Labels and held-out recordings: whole recordings, every class, and the same draw from the same
seed."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcsf_cli.data.splits import (
    LabelBudget,
    count_alone,
    count_equal_across,
    draw_labelled,
    hold_out,
    missing_classes,
)

Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]


@st.composite
def clips(draw: st.DrawFn, recordings_of_many_classes: bool = False) -> Drawn:
    """Rows with labels and recordings; rows are not all there are."""
    classes, count = draw(st.integers(2, 4)), draw(st.integers(4, 40))
    label = [f"class{draw(st.integers(0, classes - 1))}" for _ in range(count)]
    source = [f"r{draw(st.integers(0, 8))}" for _ in range(count)]
    if not recordings_of_many_classes:
        source = [f"{of}_{recording}" for of, recording in zip(label, source, strict=True)]
    rows = np.array(sorted(draw(st.sets(st.integers(0, count - 1), min_size=2))))
    return rows, np.array(label, object), np.array(source, object)


@given(clips() | clips(True), st.floats(0.05, 0.5), st.integers(0, 5))
def test_held_out_recordings_never_straddle_and_leave_every_class_to_learn(
    drawn: Drawn, share: float, seed: int
) -> None:
    rows, label, source = drawn
    learns, chooses = hold_out(rows, label, source, share, seed)
    assert sorted([*learns, *chooses]) == rows.tolist()
    assert not set(source[learns]) & set(source[chooses])
    assert set(label[learns]) == set(label[rows])
    assert set(label[chooses]) <= set(label[rows])
    assert not len(chooses) or 2 * len(set(label[chooses])) >= len(set(label[rows]))
    again = hold_out(rows, label, source, share, seed)
    assert [part.tolist() for part in again] == [learns.tolist(), chooses.tolist()]


@given(clips(), st.integers(0, 5))
def test_recordings_are_held_out_wherever_every_class_has_two(drawn: Drawn, seed: int) -> None:
    rows, label, source = drawn
    chooses = hold_out(rows, label, source, 0.2, seed)[1]
    if all(len(set(source[rows[label[rows] == name]])) > 1 for name in set(label[rows])):
        assert set(label[chooses]) == set(label[rows])


def test_a_class_of_one_recording_learns_and_the_others_choose() -> None:
    label = np.array(["a", "a", "b", "b", "c"], object)
    source = np.array(["a0", "a1", "b0", "b1", "c0"], object)
    learns, chooses = hold_out(np.arange(5), label, source, 0.5, 0)
    assert (set(label[learns]), set(label[chooses])) == ({"a", "b", "c"}, {"a", "b"})
    few = np.array(
        [0, 2, 3, 4]
    )  # two of three classes have one recording now: nothing is chosen by the third alone
    assert len(hold_out(few, label, source, 0.5, 0)[1]) == 0


def test_the_share_is_of_each_class_recordings() -> None:
    label = np.repeat(np.array(["a", "b"], object), 50)
    source = np.array(
        [f"{name}{index // 5}" for index, name in enumerate(label)], object
    )  # ten each, of five clips
    _, chooses = hold_out(np.arange(100), label, source, 0.3, 0)
    assert [len(set(source[chooses[label[chooses] == name]])) for name in "ab"] == [3, 3]
    assert len(chooses) == 30
    other = hold_out(np.arange(100), label, source, 0.3, 1)[1]
    assert set(other) != set(chooses)


@given(
    clips(),
    st.sampled_from(["1%", "10%", "50%", "100%", "1-per-class", "3-per-class"]),
    st.integers(0, 5),
)
def test_labels_are_drawn_by_class_and_by_whole_recordings_but_for_the_last(
    drawn: Drawn, text: str, seed: int
) -> None:
    rows, label, source = drawn
    few = LabelBudget.parse(text)
    labelled = draw_labelled(rows, label, source, few, seed)
    assert set(labelled) <= set(rows)
    assert len(set(labelled)) == len(labelled)
    for name in set(label[rows]):
        members, chosen = rows[label[rows] == name], labelled[label[labelled] == name]
        expected = (
            max(1, round(few.share * len(members)))
            if few.share
            else min(len(members), few.count or 0)
        )
        assert len(chosen) == expected
        in_part = [
            s
            for s in set(source[chosen])
            if (source[chosen] == s).sum() < (source[members] == s).sum()
        ]
        assert len(in_part) <= 1
    assert draw_labelled(rows, label, source, few, seed).tolist() == labelled.tolist()


@pytest.mark.parametrize("text", ["0%", "101%", "5", "0-per-class", "-1%", "five-per-class", "1 %"])
def test_what_is_no_number_of_labels_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write 1%, 10% or 5-per-class"):
        LabelBudget.parse(text)


def test_classes_of_test_clips_alone_are_counted() -> None:
    label = np.array(["a", "b", "b", "c", "a"], object)
    assert missing_classes(np.array([0]), np.array([1, 2, 3, 4]), label) == {"b": 2, "c": 1}


def test_equal_clips_count_where_their_groups_differ() -> None:
    table = pd.DataFrame(
        {
            "sha256": ["a", "a", "b", "b", "c", "d", "a"],
            "original": ["", "", "x", "y", "x", "", ""],
        }
    )
    group = np.array([0, 1, 2, 2, 3, 4, 0])
    # a: rows 0, 1 and 6 of two groups; b: one group; original x: rows 2 and 4 of two; empty: nothing.
    assert count_equal_across(table, np.arange(7), group) == 5
    assert count_equal_across(table, np.array([0, 2, 3, 5, 6]), group) == 0


def test_clips_of_a_class_in_one_group_are_alone() -> None:
    label = np.array(["run", "run", "sit", "sit", "fly"], object)
    group = np.array([0, 1, 2, 2, 0])
    assert count_alone(label, np.arange(5), group) == 3
    assert count_alone(label, np.array([1, 4]), group) == 2
