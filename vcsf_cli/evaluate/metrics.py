"""Metrics of classification: accuracy with an interval, confusion, and each class by itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import confusion_matrix, recall_score

from vcsf_cli.features.bootstrap import paired_interval
from vcsf_cli.features.extract import Features
from vcsf_cli.storage.files import atomic_write, write_text

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

TOP = 5


def with_both(probability: Features) -> Features:
    """Probabilities (N, classes) by pathway, and their mean as `both` where there are two."""
    if len(probability) < 2:
        return probability
    return {**probability, "both": np.mean(list(probability.values()), axis=0, dtype=np.float32)}


def right(probability: FloatArray, target: IntArray) -> npt.NDArray[np.float64]:
    """1 where the class of the largest probability (N, classes) is the target (N,), else 0."""
    correct: npt.NDArray[np.float64] = (probability.argmax(1) == target).astype(np.float64)
    return correct


def accuracies(
    probability: FloatArray, target: IntArray, recording: npt.NDArray[np.object_], ranks: bool
) -> dict[str, float]:
    """Metrics of test clips by name, fractions from 0 to 1.

    Args:
        probability: (N, classes).
        target: Class of each clip, (N,).
        recording: Recording of each clip, (N,): the interval draws whole recordings.
        ranks: Whether the order of classes after the first means something: only then is there a
            `top5`, if there are more than five classes.

    Returns:
        `top1`, the ends `top1_low` and `top1_high` of its 95 % bootstrap interval, `top5`, and
        `class_mean`: the mean recall over the classes that have test clips."""
    correct = right(probability, target)
    top1, low, high = paired_interval(correct, np.zeros_like(correct), recording)
    found = {"top1": top1, "top1_low": low, "top1_high": high}
    if ranks and probability.shape[1] > TOP:
        first = np.argsort(-probability, axis=1, kind="stable")[:, :TOP]
        found["top5"] = float(np.float32((first == target[:, None]).any(1).mean()))
    # In float32, as every results.csv has it.
    recalls = recall_score(
        target, probability.argmax(1), labels=np.unique(target), average=None
    ).astype(np.float32)
    found["class_mean"] = float(recalls.mean())
    return found


def confusion(probability: FloatArray, target: IntArray, classes: Sequence[str]) -> pd.DataFrame:
    """Numbers of clips by their class (row) and their answer (column)."""
    counts = confusion_matrix(target, probability.argmax(1), labels=np.arange(len(classes)))
    return pd.DataFrame(counts, index=pd.Index(classes, name="class"), columns=list(classes))


def class_table(confused: pd.DataFrame) -> pd.DataFrame:
    """For each class: test clips, right answers, their share, and the most frequent wrong
    answer."""
    counts = confused.to_numpy()
    clips, correct = counts.sum(1), counts.diagonal()
    wrong = counts - np.diag(correct)
    names = np.array(confused.columns)
    return pd.DataFrame(
        {
            "class": confused.index.to_list(),
            "clips": clips,
            "right": correct,
            "share": np.round(correct / np.maximum(clips, 1), 6),
            "most_often_taken_for": np.where(wrong.max(1) > 0, names[wrong.argmax(1)], ""),
        }
    )


def write_confusion(folder: Path, pathway: str, confused: pd.DataFrame) -> None:
    """Write `confusion-<pathway>.csv` and `.png`."""
    write_text(folder / f"confusion-{pathway}.csv", confused.to_csv(lineterminator="\n"))
    _draw(
        folder / f"confusion-{pathway}.png", confused, f"{pathway}: share of a class's test clips"
    )


def _draw(path: Path, confused: pd.DataFrame, title: str) -> None:
    """Draw a confusion matrix, each row as shares of its class."""
    # matplotlib takes a second to load.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = confused.to_numpy()
    side = max(4.0, 2 + 0.16 * len(counts))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(
        counts / np.maximum(counts.sum(1, keepdims=True), 1), vmin=0, vmax=1, cmap="Blues"
    )
    ticks = range(len(counts))
    axes.set_xticks(ticks, list(confused.columns), rotation=90, fontsize=7)
    axes.set_yticks(ticks, list(confused.index), fontsize=7)
    axes.set_xlabel("taken for")
    axes.set_ylabel("is")
    axes.set_title(title, fontsize=9)
    figure.colorbar(image, shrink=0.7)
    with atomic_write(path) as file:
        FigureCanvasAgg(figure).print_png(file)  # type: ignore[no-untyped-call]  # matplotlib's
