"""`stages.json` of a run: which weights fed which stage; and stages that another run has trained.

Two runs share their first stages if those have the same recipe, seed and data. The later run then
takes the weights of the earlier one instead of training them again: on a CPU they would be the same
to the last bit."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from vcsf_cli.config.recipe import Recipe, with_default_memory
from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.errors import RunError
from vcsf_cli.model.pathways import TwoPathways
from vcsf_cli.narrate import is_first, say
from vcsf_cli.runs.run import DAMAGED, Run, now
from vcsf_cli.storage import checkpoint
from vcsf_cli.storage.files import write_text
from vcsf_cli.storage.sealed import read_json

FILE = "stages.json"


def weights_file(folder: Path, stage: int) -> Path:
    """The file of the weights after a stage, counted from 0 here and from 1 in the name."""
    return folder / f"stage-{stage + 1}.pt"


def stage_fingerprint(recipe: Recipe, stages: int, data_hash: str) -> str:
    """Hash of everything but the machine that the weights after the first stages depend on."""
    content = [
        recipe.seed,
        data_hash,
        [with_default_memory(stage.model_dump(mode="json")) for stage in recipe.stages[:stages]],
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def weight_digests(model: TwoPathways) -> dict[str, str]:
    """The first 16 hexadecimal digits of the SHA-256 of each pathway's weights and statistics."""
    found: dict[str, str] = {}
    for pathway in PATHWAYS:
        digest = hashlib.sha256()
        for name, value in sorted(model.pathway(pathway).state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        found[pathway] = digest.hexdigest()[:16]
    return found


def read(folder: Path) -> list[dict[str, Any]]:
    """The entries of a run's `stages.json`; none without the file.

    Raises:
        RunError: If it is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return []
    return read_json(path, list, DAMAGED)


class Stages:
    """The stages of one run, as they begin and end."""

    def __init__(self, run: Run, data_hash: str) -> None:
        self.run, self.data_hash = run, data_hash
        # Without a checkpoint the training starts anew, and so do its entries.
        self.entries = read(run.folder) if run.checkpoint.exists() else []

    def begin(self, index: int, model: TwoPathways) -> None:
        """Write which weights a stage starts from, unless an earlier call has begun it."""
        if len(self.entries) > index:
            return
        if len(self.entries) < index:
            raise RunError(f"{self.run.folder / FILE} is damaged: stages are missing", DAMAGED)
        stage = self.run.recipe.stages[index]
        entry = {
            "stage": index + 1,
            "loss": stage.loss_names,
            "trains": list(stage.train.pathways),
            "epochs": stage.train.epochs,
            "weights_before": weight_digests(model),
            "begun": now(),
        }
        self._write([*self.entries, entry])

    def end(self, index: int, model: TwoPathways, step: int) -> None:
        """Keep the weights after a stage for other runs, unless another run trained it or an
        earlier call has ended it."""
        if "ended" in self.entries[index]:
            return
        agreed = stage_fingerprint(self.run.recipe, index + 1, self.data_hash)
        content = {"prefix": agreed, "step": step, "model": model.state_dict()}
        if is_first():
            checkpoint.save(weights_file(self.run.folder, index), content, checkpoint.STAGE)
        entry = {
            "weights_after": weight_digests(model),
            "steps": step,
            "ended": now(),
            "trained_by": self.run.name,
        }
        self._write([*self.entries[:index], self.entries[index] | entry | {"prefix": agreed}])

    def find_trained(self, model: TwoPathways) -> tuple[str, int] | None:
        """The run beside this one that has trained the most of this one's first stages, and their
        number; None without one. Stages that can't be used are skipped with a warning.

        Args:
            model: The networks that the weights must fit.
        """
        for count in range(len(self.run.recipe.stages), 0, -1):
            wanted = stage_fingerprint(self.run.recipe, count, self.data_hash)
            for folder in sorted(path.parent for path in self.run.folder.parent.glob(f"*/{FILE}")):
                source = weights_file(folder, count - 1)
                if folder == self.run.folder or not source.is_file():
                    continue
                try:
                    entries = read(folder)
                    if len(entries) < count or entries[count - 1].get("prefix") != wanted:
                        continue
                    checkpoint.check_weights(
                        model, checkpoint.load(source, checkpoint.STAGE)["model"], source
                    )
                except RunError as error:
                    say(
                        f"warning: stage {count} of run {folder.name} can't be taken: "
                        f"{error.message}"
                    )
                    continue
                return folder.name, count
        return None

    def take_over(self, model: TwoPathways, run: str, count: int) -> tuple[int, str]:
        """Load the weights of the first stages from the run that `find_trained` named, and copy its
        log.

        Returns:
            Optimiser steps of these stages, and the run that trained them.
        """
        folder = self.run.folder.parent / run
        source, entries = weights_file(folder, count - 1), read(folder)[:count]
        content = checkpoint.load(source, checkpoint.STAGE)
        checkpoint.load_weights(model, content["model"], source)
        if is_first():
            body = {key: value for key, value in content.items() if key not in ("kind", "version")}
            checkpoint.save(weights_file(self.run.folder, count - 1), body, checkpoint.STAGE)
            log = folder / self.run.metrics.name
            if log.is_file():  # it is cut back to these stages when it is opened
                shutil.copyfile(log, self.run.metrics)
        self._write(entries)
        return int(content["step"]), str(entries[-1]["trained_by"])

    def _write(self, entries: list[dict[str, Any]]) -> None:
        self.entries = entries
        if is_first():
            write_text(self.run.folder / FILE, json.dumps(entries, indent=2) + "\n")
