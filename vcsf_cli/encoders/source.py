"""An encoder that is measured, whoever trained it: its networks, and what results say of it."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vcsf_cli.config.recipe import Recipe
from vcsf_cli.config.schema import Speed
from vcsf_cli.contracts import Indices
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.errors import InputError
from vcsf_cli.model.parts import WindowSpec
from vcsf_cli.model.pathways import Networks
from vcsf_cli.runs.run import WITH_LABELS
from vcsf_cli.runs.trained_on import Exposure

_LABELS_UNKNOWN = "whether labels were used in training is not known"

VARIANTS = {False: "trained", True: "trained_with_labels", None: "trained_labels_unknown"}
"""The column `variant` of result rows, by whether labels have trained the encoder."""


class EncoderSource(ABC):
    """What `--from` names."""

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Where its measurements are kept."""

    @property
    def name(self) -> str:
        """Its name in results."""
        return self.folder.name

    @property
    @abstractmethod
    def words(self) -> Sequence[str]:
        """The words of a command line that name it, such as `--from` and a run's name."""

    @property
    def is_there(self) -> bool:
        """Whether there is anything to compute features with."""
        return True

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What its features depend on besides the clips and `windows`, such as a file's SHA-256.

        Raises:
            RunError: If there is nothing to compute features with.
        """

    @property
    def weights_digest(self) -> str:
        """The SHA-256 in `identity`, or one of all of it."""
        parts = list(self.identity.values())
        if len(parts) == 1 and isinstance(parts[0], str):
            return parts[0]
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    @property
    @abstractmethod
    def windows(self) -> WindowSpec:
        """The windows that it is measured on."""

    @property
    @abstractmethod
    def pathways(self) -> tuple[str, ...]:
        """Names of its features: `slow` and `fast`, or one name of its own."""

    @abstractmethod
    def network(self, seed: int | None = None) -> Networks:
        """Its networks, in eval mode on the CPU.

        Args:
            seed: For `is_drawn`; None for the recipe's.

        Raises:
            VcsfError: If they can't be had.
        """

    @property
    def is_drawn(self) -> bool:
        """Whether its weights are random, drawn with the seed of a measurement."""
        return False

    @property
    @abstractmethod
    def uses_labels(self) -> bool | None:
        """Whether labels have trained it; None if that is not known."""

    @abstractmethod
    def exposure(
        self, manifest: Manifest, split: int, test: Indices, leave_one_out: bool = False
    ) -> Exposure:
        """Which test clips it has seen in training.

        Args:
            leave_one_out: As of `trained_on.compare`.

        Raises:
            RunError: If a file that says so is damaged.
        """

    @property
    @abstractmethod
    def facts(self) -> list[tuple[str, str]]:
        """What it is, as names and values for the head of a report."""

    @property
    def variant(self) -> str:
        """The column `variant` of its result rows."""
        return VARIANTS[self.uses_labels]

    @property
    def remarks(self) -> list[str]:
        """Sentences on what it is, that belong beside its numbers."""
        return []

    @property
    def labels_remarks(self) -> list[str]:
        """A sentence on labels in its training, if there were any or that is not known."""
        if self.uses_labels is None:
            return [_LABELS_UNKNOWN]
        return [WITH_LABELS] if self.uses_labels else []

    @property
    def summary(self) -> str:
        """What it is, in a line of a report."""
        return "; ".join(f"{name}: {value}" for name, value in self.facts)

    @property
    def training(self) -> str:
        """A sentence on when it was trained, before the curves of `metrics`."""
        return ""

    @property
    def environment(self) -> dict[str, Any]:
        """The versions that it was trained with, as far as they are known."""
        return {}

    @property
    def provenance(self) -> dict[str, Any]:
        """What an export's `config.json` says of its training: `name`, `finished`, and `dataset`,
        `split` and `data_hash`, None where they are not known."""
        unknown = dict.fromkeys(("dataset", "split", "data_hash"))
        return {"name": self.name, "finished": True, **unknown}

    @property
    def card_facts(self) -> list[str]:
        """Lines on its training for a model card, in Markdown."""
        return [f"{name}: {value}" for name, value in self.facts]

    @property
    def documents(self) -> list[tuple[str, str]]:
        """Titles and texts for the end of a report."""
        return []

    @property
    def metrics(self) -> Path | None:
        """The log of its training, if there is one."""
        return None

    @property
    def recipe(self) -> Recipe | None:
        """The recipe of its networks, if they are vcsf's."""
        return None

    @property
    def seed(self) -> int:
        return self.recipe.seed if self.recipe else 0

    @property
    def speed(self) -> Speed:
        return self.recipe.first_stage.speed if self.recipe else Speed()

    @property
    def dataset(self) -> str:
        """The dataset that is meant where none is named.

        Raises:
            InputError: If there is none.
        """
        raise InputError(
            f"{self.name} was not trained on a dataset that is known here",
            "name the DATASET to measure on",
        )

    @property
    def split(self) -> int:
        """The split that is meant where none is named."""
        return self.recipe.first_stage.data.split if self.recipe else 1

    @property
    def video_settings(self) -> Mapping[str, Any]:
        """How frames of video files are made small, as `Manifest.settings` says it of a store."""
        return {}

    def remember(self) -> None:
        """Make its folder, and write what it is into it, if it is not there yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
