"""One measurement by classification: what it depends on, where it lives, which clips learn, choose
and are tested.

Linear probe, k-NN and fine-tuning share it: each gives probabilities of test clips, everything else
is the same."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vcsf_cli.config import strict_yaml
from vcsf_cli.config.protocol import Finetune, Protocol, is_known
from vcsf_cli.config.recipe import Recipe
from vcsf_cli.contracts import PATHWAYS, Indices
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.data.splits import LabelBudget, Labels, draw_labelled, hold_out, missing_classes
from vcsf_cli.errors import BusyError, DataError, InputError, RunError
from vcsf_cli.evaluate import metrics
from vcsf_cli.features.extract import Features
from vcsf_cli.model.pathways import TwoPathways, build
from vcsf_cli.narrate import say
from vcsf_cli.runs import results, trained_on
from vcsf_cli.runs.restore import restore
from vcsf_cli.runs.run import WITH_LABELS, Run, environment, now, run_folder
from vcsf_cli.storage import files
from vcsf_cli.train.compute import Compute

FOLDER = "finetune"
"""Of a run: the measurements by classification, each in a folder of its own."""


@dataclass(frozen=True)
class _Split:
    """Which clips do what, as rows of the manifest.

    Args:
        learns: Learned from.
        chooses: Whole recordings held out of the training part; empty where nothing is chosen, or
            can be.
        test: Measured, once, when everything is chosen.
        left_out: Clips of the dataset that take no part, and why, in words.
    """

    learns: Indices
    chooses: Indices
    test: Indices
    left_out: str

    @property
    def train(self) -> Indices:
        """All that may be learned from once everything is chosen."""
        return np.sort(np.concatenate([self.learns, self.chooses]))


@dataclass(frozen=True)
class Job:
    """One measurement by classification.

    Args:
        run: The run whose checkpoint is measured; of a job from scratch the folder that belongs to
            the recipe.
        manifest: The dataset; it need not be the one that the run was trained on.
        split: The official split.
        protocol: How to measure.
        seed: Of held-out recordings, labels, new layers and training.
        few: How many training clips have a label; None for all.
        pathways: Those that are measured; of two, their mean too.
        scratch: Whether the recipe's untrained networks are taken instead of a checkpoint.
    """

    run: Run
    manifest: Manifest
    split: int
    protocol: Protocol
    seed: int
    few: LabelBudget | None = None
    pathways: tuple[str, ...] = PATHWAYS
    scratch: bool = False

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that the result depends on but for the machine; no path is part of it.

        Raises:
            RunError: If the run has no checkpoint.
        """
        start = (
            {"scratch": self.run.recipe.hash}
            if self.scratch
            else {"checkpoint": self._checkpoint()}
        )
        return {
            "from": start,
            "dataset": self.manifest.name,
            "data": self.manifest.hash,
            "split": self.split,
            "seed": self.seed,
            "labels": self.few.text if self.few else "all",
            "pathways": list(self.pathways),
            "protocol": self.protocol.model_dump(mode="json"),
        }

    def _checkpoint(self) -> str:
        if not self.run.checkpoint.is_file():
            raise RunError(
                f"run {self.run.name} has no checkpoint: nothing was saved yet",
                f"vcsf pretrain {self.run.folder / 'recipe.yaml'}",
            )
        return files.sha256(self.run.checkpoint)

    @property
    def folder(self) -> Path:
        """Where its files are: in the run's folder, named after the hash of `identity`."""
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:12]
        return self.run.folder / FOLDER / f"{self.manifest.name}-{self.protocol.mode}-{digest}"

    @property
    def variant(self) -> str:
        """What is measured, as in every result row."""
        if self.scratch:
            return "scratch"
        return "trained_with_labels" if self.run.uses_labels else "trained"

    @property
    def task(self) -> str:
        """Mode, protocol where it is not named after the mode, and labels: `linear`,
        `finetune-coclr`, `linear-10%`.

        A protocol that is not just as vcsf has it bears a hash besides: `finetune-coclr-3f2a1b`.
        """
        mode, name = self.protocol.mode, self.protocol.name
        parts = [mode, *([name] if name != mode else [])]
        if not is_known(self.protocol):
            content = json.dumps(self.protocol.model_dump(mode="json"), sort_keys=True)
            parts.append(hashlib.sha256(content.encode()).hexdigest()[:6])
        return "-".join([*parts, *([self.few.text] if self.few else [])])

    @property
    def label(self) -> Labels:
        """Class of each row of the manifest, None or NaN where unknown."""
        return self.manifest.table["label"].to_numpy(object)

    @property
    def source(self) -> Labels:
        """Recording of each row of the manifest."""
        return self.manifest.table["source"].to_numpy(object)

    @cached_property
    def division(self) -> _Split:
        """Which clips learn, choose and are tested.

        Raises:
            DataError: If there are no labels, fewer than two classes, or test clips of a class that
                no training clip has.
            InputError: If the dataset has no such split.
        """
        name, split, label = self.manifest.name, self.split, self.label
        known = ~pd.isna(label)
        if not known.any():
            raise DataError(
                f"{name} has no labels: there are no classes to tell apart",
                "prepare it in folders of classes, or with a CSV list of labels; vcsf retrieve "
                "works without",
            )
        train, test = self.manifest.part(split, "train"), self.manifest.part(split, "test")
        train, test = train[known[train]], test[known[test]]
        if not len(train) or not len(test):
            part = "training" if not len(train) else "test"
            raise InputError(
                f"{name} has no labelled {part} clips in split {split}",
                "choose another --split, or prepare the dataset again: it draws splits by group, "
                "or takes yours",
            )
        missing = missing_classes(train, test, label)
        if missing:
            named = ", ".join(f"{each} ({count})" for each, count in list(missing.items())[:5])
            raise DataError(
                f"{sum(missing.values()):,} test clips of split {split} are of {len(missing)} "
                f"classes that no training clip "
                f"has: {named}{', ...' if len(missing) > 5 else ''}",
                "they can only be got wrong: give these classes training clips, or choose another "
                "--split",
            )
        if len(set(label[train])) < 2:
            raise DataError(
                f"{name} has one class only in split {split}", "there is nothing to tell apart"
            )
        outside = len(label) - len(train) - len(test)
        words = (
            [f"{outside:,} clips are in neither part of split {split} or have no label"]
            if outside
            else []
        )
        if self.few:
            labelled = draw_labelled(train, label, self.source, self.few, self.seed)
            words.append(
                f"{len(train) - len(labelled):,} training clips without a label (--labels "
                f"{self.few.text})"
            )
            train = labelled
        learns, chooses = train, train[:0]
        if self.chooses:
            learns, chooses = hold_out(train, label, self.source, self.protocol.held_out, self.seed)
        return _Split(learns, chooses, test, "; ".join(words) or "none")

    @property
    def chooses(self) -> bool:
        """Whether the protocol chooses anything."""
        return not isinstance(self.protocol, Finetune) or self.protocol.train.choose == "best"

    @cached_property
    def classes(self) -> list[str]:
        """The classes of the training part, sorted; probabilities are in this order."""
        return sorted(set(self.label[self.division.train]))

    def target(self, rows: Indices) -> metrics.IntArray:
        """The number of the class of each of some rows."""
        return np.searchsorted(np.array(self.classes), self.label[rows].astype(str)).astype(
            np.int64
        )

    @cached_property
    def known(self) -> metrics.IntArray:
        """The number of the class of each row of the training part, -1 elsewhere: all that is known
        before the test."""
        found = np.full(len(self.label), -1)
        found[self.division.train] = self.target(self.division.train)
        return found

    def network(self) -> TwoPathways:
        """The networks to measure, in eval mode on the CPU.

        Raises:
            RunError: If the run's checkpoint is not whole, of another kind, or another run's.
        """
        if self.scratch:
            return build(dataclasses.replace(self.run.recipe, seed=self.seed)).eval()
        return restore(self.run)[0]

    @property
    def finished(self) -> bool:
        """Whether it was measured before."""
        return (self.folder / "status.json").is_file() and Run(
            self.folder, self.run.recipe
        ).finished

    @cached_property
    def exposure(self) -> trained_on.Exposure | None:
        """What the run has seen of the test clips; None if nothing was trained.

        Raises:
            RunError: If a file of the run is damaged.
        """
        if self.scratch:
            return None
        return trained_on.compare(self.run, self.manifest, self.split, self.division.test)

    @property
    def exposed(self) -> dict[str, Any]:
        """The same as columns of a result row."""
        return self.exposure.columns if self.exposure else trained_on.UNTRAINED

    def remarks(self) -> list[str]:
        """What a reader of the numbers should know, in words."""
        found = []
        if not self.scratch and self.run.uses_labels:
            found.append(f"warning: {WITH_LABELS}")
        found += [] if self.scratch else self.run.imported
        found += [f"warning: {remark}" for remark in self.exposure.remarks] if self.exposure else []
        chosen_by = set(self.label[self.division.chooses])
        if chosen_by and len(chosen_by) < len(self.classes):
            found.append(
                f"{len(self.classes) - len(chosen_by)} of {len(self.classes)} classes have one "
                f"recording with labels only: "
                "they learn, and nothing is chosen by them"
            )
        if self.chooses and not len(self.division.chooses):
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
        """How many clips learn, choose, are tested and are left out."""
        division = self.division
        held = f", {len(division.chooses):,} held out to choose" if len(division.chooses) else ""
        return (
            f"{len(division.learns):,} clips of {len(self.classes)} classes learn{held}, "
            f"{len(division.test):,} test clips; "
            f"left out: {division.left_out}"
        )


def untrained_run(runs: Path, recipe: Recipe) -> Run:
    """The run folder of a recipe for jobs from scratch, whether or not anything was trained
    there."""
    return Run(run_folder(runs, recipe), recipe)


def check(jobs: Sequence[Job], machine: Compute, allow_seen: bool = False) -> None:
    """Everything that can be told before long work, of jobs that start from the same networks.

    Args:
        jobs: The jobs.
        machine: Where to compute.
        allow_seen: Whether test clips may have been seen in training.

    Raises:
        VcsfError: If something is wrong.
    """
    if machine.processes > 1:
        raise InputError(
            f"fine-tuning works on one device, not on {machine.processes}",
            "give auto, cpu, cuda or cuda:N",
        )
    machine.bf16()
    for job in jobs:
        _ = job.division, job.folder
        if job.exposure:
            job.exposure.refuse(allow_seen)
    jobs[0].network()


def run_job(
    job: Job, machine: Compute, predict: Callable[[Job, Compute], Features]
) -> pd.DataFrame:
    """Measure, unless it was done before: tidy rows, which the run's `results.csv` then has too.

    Args:
        job: What to measure.
        machine: Where to compute.
        predict: Gives probabilities (test clips, classes) by pathway.

    Raises:
        RunError: If another process is at it, or the work fails.
    """
    folder = job.folder
    table = job.run.folder / "results.csv"
    if job.finished:
        say(f"finished before: {folder}")
        rows = results.read(folder / "results.csv").assign(**job.exposed).astype({"seen": "Int64"})
        results.merge(table, rows)
        return rows
    if job.scratch and not (job.run.folder / "recipe.yaml").is_file():
        job.run.folder.mkdir(parents=True, exist_ok=True)
        files.write_text(job.run.folder / "recipe.yaml", job.run.recipe.yaml())
    folder.mkdir(parents=True, exist_ok=True)
    busy = BusyError(
        f"{folder} is being worked on by another process",
        "wait for it, or change a key of the protocol",
    )
    with files.only_one(folder / "lock", busy):
        run = begin(job)
        begun = time.monotonic()
        probability = metrics.with_both(predict(job, machine))
        rows = conclude(job, probability)
        run.note(finished=True, ended=now(), seconds=round(time.monotonic() - begun, 1))
    results.merge(table, rows)
    return rows


def begin(job: Job) -> Run:
    """The job's own folder as a run, with what it is resolved to."""
    run, division = Run(job.folder, job.run.recipe), job.division
    if not (run.folder / "status.json").is_file():
        files.write_text(
            run.folder / "protocol.yaml", strict_yaml.dump(job.protocol.model_dump(mode="json"))
        )
        files.write_text(
            run.folder / "environment.json", json.dumps(environment(), indent=2) + "\n"
        )
        status = {
            "finished": False,
            "begun": now(),
            **job.identity,
            "variant": job.variant,
            **job.exposed,
            "clips": {
                "learn": len(division.learns),
                "choose": len(division.chooses),
                "test": len(division.test),
            },
            "left_out": division.left_out,
            "classes": job.classes,
        }
        files.write_text(run.folder / "status.json", json.dumps(status, indent=2) + "\n")
    return run


def conclude(job: Job, probability: Features) -> pd.DataFrame:
    """Write what was measured, and return tidy rows.

    Args:
        job: What was measured.
        probability: (test clips, classes) by pathway, `both` included.
    """
    folder, test = job.folder, job.division.test
    target, classes = job.target(test), np.array(job.classes)
    video = job.manifest.table["video"].to_numpy(object)[test]
    rows, lines, answers = [], [], []
    for pathway, scores in probability.items():
        confused = metrics.confusion(scores, target, job.classes)
        metrics.write_confusion(folder, pathway, confused)
        lines.append(metrics.by_class(confused).assign(pathway=pathway))
        answer = {
            "video": video,
            "pathway": pathway,
            "label": classes[target],
            "answer": classes[scores.argmax(1)],
        }
        answers.append(pd.DataFrame(answer | {"probability": scores.max(1).round(6)}))
        found = metrics.accuracies(
            scores, target, job.source[test], ranks=job.protocol.mode != "knn"
        )
        rows += [
            {
                "run": job.run.name,
                "variant": job.variant,
                "seed": job.seed,
                "dataset": job.manifest.name,
                "split": job.split,
                "task": job.task,
                "pathway": pathway,
                "metric": metric,
                "value": value,
                "clips": len(test),
                "left_out": len(job.manifest.table) - len(test) - len(job.division.train),
                **job.exposed,
            }
            for metric, value in found.items()
        ]
    for name, tables in (("classes.csv", lines), ("answers.csv", answers)):
        with files.whole(folder / name, "w") as file:
            pd.concat(tables).to_csv(file, index=False, lineterminator="\n")
    return results.write(folder / "results.csv", rows)
