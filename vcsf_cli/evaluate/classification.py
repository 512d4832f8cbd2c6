"""Evaluation by classification, which fine-tuning, linear probe and k-NN share: each gives
probabilities of test clips, all else is the same."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from vcsf_cli.config import strict_yaml
from vcsf_cli.config.protocol import Finetune, Protocol, matches_its_name
from vcsf_cli.contracts import PATHWAYS, Indices
from vcsf_cli.data.splits import (
    LabelBudget,
    check_groups,
    count_alone,
    draw_labelled,
    group_numbers,
    hold_out,
    missing_classes,
)
from vcsf_cli.errors import BusyError, DataError, InputError, RunError
from vcsf_cli.evaluate import metrics
from vcsf_cli.evaluate.evaluation import CLOSE, LEAVE_ONE_OUT, Evaluation, Measurement
from vcsf_cli.features.bootstrap import few_recordings
from vcsf_cli.features.extract import Features
from vcsf_cli.model.pathways import Networks
from vcsf_cli.narrate import say
from vcsf_cli.runs import results
from vcsf_cli.runs.run import RunFolder, environment, now
from vcsf_cli.storage import files
from vcsf_cli.train.compute import Compute

FOLDER = "finetune"
"""In a run's folder: its classifications, each in a folder of its own."""


METRICS = ("top1", "top5", "class_mean")
"""Metrics of a measurement that is read back; the ends of the interval of top1 are left out."""


@dataclass(frozen=True)
class _Splits:
    """Rows of the manifest by what they are used for.

    Args:
        validation: Clips of whole recordings held out of the training clips; empty where nothing is
            chosen, or can be.
        test: Clips that are measured once, when everything is chosen.
        left_out: How many clips take no part, and why, as a sentence.
    """

    train: Indices
    validation: Indices
    test: Indices
    left_out: str

    @property
    def train_and_validation(self) -> Indices:
        """All clips to learn from once everything is chosen."""
        return np.sort(np.concatenate([self.train, self.validation]))


@dataclass(frozen=True)
class Classification(Evaluation):
    """An evaluation by classification.

    Args:
        seed: Of held-out recordings, labels, new layers and training.
        label_budget: How many training clips have a label; None for all.
        pathways: Those that are measured; if two, their mean too. Empty: all that the encoder has.
    """

    protocol: Protocol
    seed: int
    label_budget: LabelBudget | None = None
    pathways: tuple[str, ...] = PATHWAYS

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that the result depends on except the machine. It holds no path.

        Raises:
            RunError: If there is nothing to measure.
        """
        return {
            "from": self.source.identity,
            "dataset": self.manifest.name,
            "data": self.manifest.hash,
            "split": self.split,
            "seed": self.seed,
            "labels": self.label_budget.text if self.label_budget else "all",
            "pathways": list(self.pathways),
            **({"leave_one_out": True} if self.leave_one_out else {}),
            "protocol": self.protocol.model_dump(mode="json"),
        }

    @property
    def folder(self) -> Path:
        """Where its files are: in the encoder's folder, named after the hash of `identity`."""
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:12]
        return self.source.folder / FOLDER / f"{self.manifest.name}-{self.protocol.mode}-{digest}"

    @property
    def task(self) -> str:
        """Mode, protocol where it is not named after the mode, and labels: `linear`,
        `finetune-coclr`, `linear-10%`.

        A protocol that differs from the one that vcsf ships bears a hash: `finetune-coclr-3f2a1b`.
        """
        mode, name = self.protocol.mode, self.protocol.name
        parts = [
            f"{mode}{LEAVE_ONE_OUT}" if self.leave_one_out else mode,
            *([name] if name != mode else []),
        ]
        if not matches_its_name(self.protocol):
            content = json.dumps(self.protocol.model_dump(mode="json"), sort_keys=True)
            parts.append(hashlib.sha256(content.encode()).hexdigest()[:6])
        return "-".join([*parts, *([self.label_budget.text] if self.label_budget else [])])

    @cached_property
    def splits(self) -> _Splits:
        """The clips to learn from, to choose by and to test.

        Raises:
            DataError: If there are no labels, fewer than two classes, or test clips of a class that
                no training clip has.
            InputError: If the dataset has no such split.
        """
        name, split, labels = self.manifest.name, self.split, self.labels
        labelled = ~pd.isna(labels)
        if not labelled.any():
            raise DataError(
                f"{name} has no labels: there are no classes to tell apart",
                "prepare it in folders of classes, or with a CSV list of labels; vcsf retrieve "
                "works without",
            )
        if self.leave_one_out:
            rows = np.flatnonzero(labelled)
            check_groups(self.manifest, rows)
            _check_classes(name, labels[rows], "")
            outside = len(labels) - len(rows)
            words = f"{outside:,} clips have no label" if outside else "none"
            return _Splits(rows, rows[:0], rows, words)
        train, test = self.manifest.part(split, "train"), self.manifest.part(split, "test")
        train, test = train[labelled[train]], test[labelled[test]]
        if not len(train) or not len(test):
            part = "training" if not len(train) else "test"
            raise InputError(
                f"{name} has no labelled {part} clips in split {split}",
                "choose another --split, or prepare the dataset again: it draws splits by group, "
                "or takes yours",
            )
        if missing := missing_classes(train, test, labels):
            named = ", ".join(f"{each} ({count})" for each, count in list(missing.items())[:5])
            raise DataError(
                f"{sum(missing.values()):,} test clips of split {split} are of {len(missing)} "
                f"classes that no training clip has: {named}{', ...' if len(missing) > 5 else ''}",
                "they can only be got wrong: give these classes training clips, or choose another "
                "--split",
            )
        _check_classes(name, labels[train], f" in split {split}")
        left_out = []
        if outside := len(labels) - len(train) - len(test):
            left_out.append(
                f"{outside:,} clips are in neither part of split {split} or have no label"
            )
        if self.label_budget:
            kept = draw_labelled(train, labels, self.recordings, self.label_budget, self.seed)
            left_out.append(
                f"{len(train) - len(kept):,} training clips without a label (--labels "
                f"{self.label_budget.text})"
            )
            train = kept
        validation = train[:0]
        if self.chooses:
            train, validation = hold_out(
                train, labels, self.recordings, self.protocol.held_out, self.seed
            )
        return _Splits(train, validation, test, "; ".join(left_out) or "none")

    @property
    def test(self) -> Indices:
        return self.splits.test

    @property
    def left_out(self) -> int:
        used = np.union1d(self.test, self.splits.train_and_validation)
        return len(self.labels) - len(used)

    @property
    def chooses(self) -> bool:
        """Whether the protocol chooses anything by validation clips."""
        return not isinstance(self.protocol, Finetune) or self.protocol.train.choose == "best"

    @cached_property
    def classes(self) -> list[str]:
        """The classes of the training clips, sorted; probabilities are in this order."""
        return sorted(set(self.labels[self.splits.train_and_validation]))

    def class_numbers(self, rows: Indices) -> metrics.IntArray:
        """The number of the class of each of these rows."""
        numbers = np.searchsorted(np.array(self.classes), self.labels[rows].astype(str))
        return numbers.astype(np.int64)

    @cached_property
    def target(self) -> metrics.IntArray:
        """The number of the class of each row to learn from or to choose by, -1 elsewhere: nothing
        of test clips is in it, but for leave-one-out."""
        found = np.full(len(self.labels), -1)
        rows = self.splits.train_and_validation
        found[rows] = self.class_numbers(rows)
        return found

    def network(self) -> Networks:
        """The networks to measure, in eval mode on the CPU."""
        return self.source.network(self.seed)

    @property
    def is_measured(self) -> bool:
        """Whether it was measured to its end before."""
        return (self.folder / "status.json").is_file() and RunFolder(self.folder).finished

    def remarks(self) -> list[str]:
        """Sentences that belong beside the numbers, about the encoder and about what was chosen."""
        plain = self.source.remarks
        found = [text if text in plain else f"warning: {text}" for text in self.caveats]
        if few := few_recordings(self.drawn[self.test]):
            found.append(f"warning: test clips are {few}")
        if self.leave_one_out:
            alone = count_alone(self.labels, self.test, group_numbers(self.manifest))
            some = f"{alone:,} clips are of a class that no other group has, and count as misses"
            return [*found, some] if alone else found
        validation = self.splits.validation
        without = len(self.classes) - len(set(self.labels[validation]))
        if len(validation) and without:
            found.append(
                f"{without} of {len(self.classes)} classes have one recording with labels only: "
                "they learn, and nothing is chosen by them"
            )
        if self.chooses and not len(validation):
            taken = (
                "the last epoch counts"
                if isinstance(self.protocol, Finetune)
                else "the grid's first values are taken"
            )
            found.append(
                f"too few recordings with labels to hold some of most classes out: {taken}"
            )
        return found

    def summary(self) -> str:
        """How many clips are used for what, and how many are left out."""
        splits = self.splits
        if self.leave_one_out:
            groups = len(np.unique(self.drawn[splits.test]))
            return (
                f"for every one of {len(splits.test):,} clips of {len(self.classes)} classes those "
                f"of other groups vote ({groups:,} groups); left out: {splits.left_out}"
            )
        held = f", {len(splits.validation):,} held out to choose" if len(splits.validation) else ""
        return (
            f"{len(splits.train):,} clips of {len(self.classes)} classes learn{held}, "
            f"{len(splits.test):,} test clips; left out: {splits.left_out}"
        )

    def measure(
        self, compute: Compute, predict: Callable[[Classification, Compute], Features]
    ) -> pd.DataFrame:
        """Measure, unless it was done before, and return the rows of its `results.csv`. The run's
        `results.csv` has them too.

        Args:
            predict: Gives probabilities (test clips, classes) by pathway.

        Raises:
            RunError: If another process is at it, or the work fails.
        """
        table = self.source.folder / "results.csv"
        if self.is_measured:
            say(f"finished before: {self.folder}")
            rows = results.read(self.folder / "results.csv")
            rows = rows.assign(**self.exposure.columns, duplicates=self.duplicates)
            rows = rows.astype(results.COUNTS)
            results.merge(table, rows)
            return rows
        self.source.remember()
        self.folder.mkdir(parents=True, exist_ok=True)
        busy = BusyError(
            f"{self.folder} is being worked on by another process",
            "wait for it, or change a key of the protocol",
        )
        with files.lock(self.folder / "lock", busy):
            self._open()
            begun = time.monotonic()
            rows = self._write(metrics.with_both(predict(self, compute)))
            RunFolder(self.folder).note(
                finished=True, ended=now(), seconds=round(time.monotonic() - begun, 1)
            )
        results.merge(table, rows)
        return rows

    def read(self) -> Measurement | None:
        if not self.source.is_there or not self.is_measured:
            return None
        damaged = RunError(
            f"the files of the measurement {self.folder} don't agree with each other",
            "delete that folder: the same command measures it again",
        )
        try:
            rows = results.read(self.folder / "results.csv")
            columns = ["video", "pathway", "label", "answer"]
            answers = results.read(self.folder / "answers.csv", columns)
            top1 = rows[rows["metric"] == "top1"].set_index("pathway")["value"].to_dict()
        except (RunError, ValueError) as error:
            raise damaged from error
        answers["hit"] = (answers["label"] == answers["answer"]).astype(float)
        clips = {
            (str(pathway), "top1"): own.set_index("video")["hit"]
            for pathway, own in answers.groupby("pathway", sort=False)
        }
        if {pathway for pathway, _ in clips} != set(top1) or any(
            abs(hit.mean() - top1[pathway]) > CLOSE for (pathway, _), hit in clips.items()
        ):
            raise damaged
        return Measurement(rows[rows["metric"].isin(METRICS)].reset_index(drop=True), clips)

    def _open(self) -> None:
        """Write what the measurement is into its folder, if nothing was begun there."""
        if (self.folder / "status.json").is_file():
            return
        protocol = strict_yaml.dump(self.protocol.model_dump(mode="json"))
        status = {
            "finished": False,
            "begun": now(),
            **self.identity,
            "variant": self.variant,
            **self.exposure.columns,
            "clips": {
                "learn": len(self.splits.train),
                "choose": len(self.splits.validation),
                "test": len(self.splits.test),
            },
            "left_out": self.splits.left_out,
            "classes": self.classes,
        }
        files.write_text(self.folder / "protocol.yaml", protocol)
        for name, content in (("environment.json", environment()), ("status.json", status)):
            files.write_text(self.folder / name, json.dumps(content, indent=2) + "\n")

    def _write(self, probability: Features) -> pd.DataFrame:
        """Write what was measured, and return the result rows.

        Args:
            probability: (test clips, classes) by pathway, `both` included.
        """
        test, classes = self.test, np.array(self.classes)
        target = self.class_numbers(test)
        found, tables, answers = {}, [], []
        for pathway, scores in probability.items():
            confused = metrics.confusion(scores, target, self.classes)
            metrics.write_confusion(self.folder, pathway, confused)
            tables.append(metrics.class_table(confused).assign(pathway=pathway))
            answer = {
                "video": self.videos[test],
                "pathway": pathway,
                "label": classes[target],
                "answer": classes[scores.argmax(1)],
                "probability": scores.max(1).round(6),
            }
            answers.append(pd.DataFrame(answer))
            found[pathway] = metrics.accuracies(
                scores, target, self.drawn[test], ranks=self.protocol.mode != "knn"
            )
        for name, parts in (("classes.csv", tables), ("answers.csv", answers)):
            text = pd.concat(parts).to_csv(index=False, lineterminator="\n")
            files.write_text(self.folder / name, text)
        rows = self.result_rows(self.variant, self.seed, found)
        return results.write(self.folder / "results.csv", rows)


def _check_classes(name: str, labels: npt.NDArray[Any], where: str) -> None:
    """Check that there is something to tell apart.

    Raises:
        DataError: If there is one class only.
    """
    if len(set(labels)) < 2:
        raise DataError(f"{name} has one class only{where}", "there is nothing to tell apart")


def check(
    evaluations: Sequence[Classification], compute: Compute, allow_seen: bool = False
) -> None:
    """Check everything that can be checked before long work.

    Args:
        evaluations: Of the same networks.
        allow_seen: Whether test clips may have been seen in training.

    Raises:
        VcsfError: If something is wrong.
    """
    if compute.processes > 1:
        raise InputError(
            f"fine-tuning works on one device, not on {compute.processes}",
            "give auto, cpu, cuda or cuda:N",
        )
    compute.bf16()
    for evaluation in evaluations:
        _ = evaluation.splits, evaluation.folder
        evaluation.exposure.refuse(allow_seen)
    evaluations[0].network()
