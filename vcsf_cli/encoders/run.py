"""Encoders of runs, and the untrained networks of a recipe."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vcsf_cli.config.recipe import Recipe
from vcsf_cli.contracts import PATHWAYS, Indices
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.encoders.source import EncoderSource
from vcsf_cli.errors import RunError
from vcsf_cli.model.parts import WindowSpec
from vcsf_cli.model.pathways import Networks, build
from vcsf_cli.runs import stages, trained_on
from vcsf_cli.runs.restore import restore
from vcsf_cli.runs.run import Run
from vcsf_cli.runs.trained_on import Exposure
from vcsf_cli.storage import files
from vcsf_cli.storage.sealed import read_json, reading


@dataclass(frozen=True)
class RunSource(EncoderSource):
    """The newest checkpoint of a run."""

    run: Run

    @property
    def folder(self) -> Path:
        return self.run.folder

    @property
    def words(self) -> Sequence[str]:
        return ["--from", self.run.name]

    @property
    def is_there(self) -> bool:
        return self.run.checkpoint.is_file()

    @property
    def identity(self) -> dict[str, Any]:
        if not self.is_there:
            raise RunError(
                f"run {self.run.name} has no checkpoint: nothing was saved yet",
                f"vcsf pretrain {self.run.folder / 'recipe.yaml'}",
            )
        return {"checkpoint": files.sha256(self.run.checkpoint)}

    @property
    def windows(self) -> WindowSpec:
        return WindowSpec.from_stage(self.run.recipe.last_stage)

    @property
    def pathways(self) -> tuple[str, ...]:
        return PATHWAYS

    def network(self, seed: int | None = None) -> Networks:
        return restore(self.run)[0]

    @property
    def uses_labels(self) -> bool:
        return self.run.uses_labels

    def exposure(
        self, manifest: Manifest, split: int, test: Indices, leave_one_out: bool = False
    ) -> Exposure:
        return trained_on.compare(self.run, manifest, split, test, leave_one_out)

    @property
    def remarks(self) -> list[str]:
        return self.run.remarks

    @property
    def facts(self) -> list[tuple[str, str]]:
        environment, recipe = self.environment, self.run.recipe
        torch = environment.get("packages", {}).get("torch", "?")
        return [
            ("run", self.run.name),
            ("recipe", f"{recipe.name}, seed {recipe.seed}"),
            ("trained on", f"{self.run.dataset} split {recipe.last_stage.data.split}"),
            ("trained for", self._training_length),
            (
                "versions",
                f"vcsf {environment.get('vcsf', '?')}, torch {torch}, Python "
                f"{environment.get('python', '?')}",
            ),
        ]

    @property
    def summary(self) -> str:
        recipe = self.run.recipe
        return (
            f"run: `{self.run.name}`, seed {recipe.seed}, {self._training_length} on "
            f"`{self.run.dataset}` split {recipe.last_stage.data.split}"
        )

    @property
    def _training_length(self) -> str:
        epochs = ", ".join(str(stage.train.epochs) for stage in self.run.recipe.stages)
        return f"{self.run.status.get('steps', '?')} steps ({epochs} {'epoch' if epochs == '1' else 'epochs'})"

    @property
    def provenance(self) -> dict[str, Any]:
        status = self.run.status
        unknown = trained_on.unknown_files(status)
        return {
            "name": self.run.name,
            "finished": self.run.finished,
            "dataset": status.get("dataset"),
            "split": self.run.recipe.last_stage.data.split,
            "data_hash": status.get("data_hash"),
            **({trained_on.UNKNOWN: unknown} if unknown else {}),
        }

    @property
    def card_facts(self) -> list[str]:
        status, split = self.run.status, self.run.recipe.first_stage.data.split
        return [
            f"dataset `{status['dataset']}`, {status['clips']:,} clips prepared; training part of split "
            f"{split}, or all if it has none",
            f"SHA-256 of what the clips are: `{status['data_hash']}`",
            f"run `{self.run.name}`, seed {self.run.recipe.seed}, "
            f"{status.get('steps', 'unfinished: unknown')} steps",
        ]

    @property
    def environment(self) -> dict[str, Any]:
        path = self.run.folder / "environment.json"
        hint = "bring it back from a copy, or write {} into it: only reports need it"
        found = read_json(path, dict, hint)
        with reading(path, hint):
            found.get("packages", {}).get("torch")
        return found

    @property
    def documents(self) -> list[tuple[str, str]]:
        environment = json.dumps(self.environment, indent=2, ensure_ascii=False)
        return [
            ("Recipe", self.run.recipe.yaml()),
            ("Environment of the training", environment),
        ]

    @property
    def metrics(self) -> Path:
        return self.run.metrics

    @property
    def training(self) -> str:
        """When it was trained, and by which runs."""
        status = self.run.status
        begun, ended = (str(status.get(key, ""))[:10] for key in ("begun", "ended"))
        when = (
            f"Begun on {begun}, ended on {ended}." if ended else f"Begun on {begun}, not finished."
        )
        for number, entry in enumerate(stages.read(self.run.folder), start=1):
            if entry.get("trained_by", self.run.name) != self.run.name:
                when += (
                    f" Stage {number} is from run {entry['trained_by']}, ended on "
                    f"{entry['ended'][:10]}."
                )
        return when

    @property
    def recipe(self) -> Recipe:
        return self.run.recipe

    @property
    def dataset(self) -> str:
        return self.run.dataset


@dataclass(frozen=True)
class UntrainedSource(EncoderSource):
    """The networks of a recipe before any training.

    Args:
        place: The folder of the recipe's run.
        drawn: The recipe.
    """

    place: Path
    drawn: Recipe

    @property
    def folder(self) -> Path:
        return self.place

    @property
    def words(self) -> Sequence[str]:
        return ["--from", f"scratch:{self.drawn.name}"]

    @property
    def identity(self) -> dict[str, Any]:
        return {"scratch": self.drawn.hash}

    @property
    def windows(self) -> WindowSpec:
        return WindowSpec.from_stage(self.drawn.last_stage)

    @property
    def pathways(self) -> tuple[str, ...]:
        return PATHWAYS

    def network(self, seed: int | None = None) -> Networks:
        seed = self.drawn.seed if seed is None else seed
        return build(dataclasses.replace(self.drawn, seed=seed)).eval()

    @property
    def is_drawn(self) -> bool:
        return True

    @property
    def uses_labels(self) -> bool:
        return False

    @property
    def variant(self) -> str:
        return "scratch"

    def exposure(
        self, manifest: Manifest, split: int, test: Indices, leave_one_out: bool = False
    ) -> Exposure:
        return Exposure(self.name, manifest, split, test, "", None)

    @property
    def facts(self) -> list[tuple[str, str]]:
        return [("recipe", f"{self.drawn.name}, untrained")]

    @property
    def recipe(self) -> Recipe:
        return self.drawn

    def remember(self) -> None:
        path = self.place / "recipe.yaml"
        if not path.is_file():
            self.place.mkdir(parents=True, exist_ok=True)
            files.write_text(path, self.drawn.yaml())
