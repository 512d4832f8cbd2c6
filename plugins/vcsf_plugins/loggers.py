"""Loggers of `vcsf pretrain --log`: observers that pass a training's records on to experiment
trackers.

Each remembers its own identifier of the training in a file of the run folder, so that a training
that goes on later is the same one there."""

from __future__ import annotations

import importlib
import os
import re
import secrets
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import yaml

from vcsf_cli import hookimpl
from vcsf_cli.contracts import Run
from vcsf_cli.errors import InputError

_PROJECT = "vcsf"


class _Logger(ABC):
    """A tracker; its package is imported when it is asked for, its training begins with the first
    record.

    Raises:
        InputError: If the package is not installed.
    """

    package: ClassVar[str]

    def __init__(self) -> None:
        try:
            self.api: Any = importlib.import_module(self.package)
        except ImportError as error:
            raise InputError(
                f"--log {self.package} needs {self.package}: {error}",
                f"pip install 'vcsf[{self.package}]'",
            ) from error
        self.begun = False

    @hookimpl
    def vcsf_on_log(self, run: Run, record: Mapping[str, float]) -> None:
        with redirect_stdout(sys.stderr):  # stdout is for results
            if not self.begun:
                self._begin(run, run.folder / f"{self.package}.id")
                self.begun = True
            values = {name: value for name, value in record.items() if name != "step"}
            self._log(values, int(record["step"]))

    @hookimpl
    def vcsf_on_finish(self, run: Run, results: Mapping[str, float]) -> None:
        with redirect_stdout(sys.stderr):
            if self.begun:
                self._finish()

    @abstractmethod
    def _begin(self, run: Run, identifier: Path) -> None:
        """Open the training: the one in the file `identifier`, or a new one."""

    @abstractmethod
    def _log(self, values: dict[str, float], step: int) -> None: ...

    @abstractmethod
    def _finish(self) -> None: ...


def _recipe(run: Run) -> dict[str, Any]:
    recipe: dict[str, Any] = yaml.safe_load((run.folder / "recipe.yaml").read_text("utf-8"))
    return recipe


class WandB(_Logger):
    """Weights & Biases. Project `vcsf`, or WANDB_PROJECT; WANDB_MODE=offline keeps it in the run."""

    package = "wandb"

    def _begin(self, run: Run, identifier: Path) -> None:
        if not identifier.exists():
            identifier.write_text(secrets.token_hex(4))
        self.run = self.api.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=run.name,
            id=identifier.read_text(),
            resume="allow",
            dir=str(run.folder),
            config=_recipe(run),
            settings=self.api.Settings(console="off"),  # it would write between our own lines
        )

    def _log(self, values: dict[str, float], step: int) -> None:
        self.run.log(values, step=step)

    def _finish(self) -> None:
        self.run.finish()


class MLflow(_Logger):
    """MLflow. Experiment `vcsf`, or MLFLOW_EXPERIMENT_NAME; where it is stored says
    MLFLOW_TRACKING_URI."""

    package = "mlflow"

    def _begin(self, run: Run, identifier: Path) -> None:
        self.client = self.api.MlflowClient()
        if identifier.exists():
            self.id = identifier.read_text()
            self.client.update_run(self.id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        known = self.client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self.client.create_experiment(name)
        self.id = self.client.create_run(experiment, run_name=run.name).info.run_id
        parameters = (self.api.entities.Param(*pair) for pair in _flat(_recipe(run)))
        while some := list(islice(parameters, 100)):  # as many as it takes at once
            self.client.log_batch(self.id, params=some)
        identifier.write_text(self.id)

    def _log(self, values: dict[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics = [
            self.api.entities.Metric(re.sub(r"[^\w./ -]", "_", name), value, now, step)
            for name, value in values.items()
        ]
        self.client.log_batch(self.id, metrics=metrics)

    def _finish(self) -> None:
        self.client.set_terminated(self.id)


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Keys of a recipe as on the command line, `loss.temperature`, with their values as text."""
    entries = dict(enumerate(tree)) if isinstance(tree, list) else tree
    for key, value in entries.items():
        if isinstance(value, dict) or (isinstance(value, list) and dict in map(type, value)):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


class Trackio(_Logger):
    """Trackio, on this machine. Project `vcsf`, or TRACKIO_PROJECT; TRACKIO_DIR is its folder."""

    package = "trackio"

    def _begin(self, run: Run, identifier: Path) -> None:
        self.run = self.api.init(
            project=os.environ.get("TRACKIO_PROJECT", _PROJECT),
            name=run.name,
            resume="allow",
            config=_recipe(run),
        )

    def _log(self, values: dict[str, float], step: int) -> None:
        self.run.log(values, step=step)

    def _finish(self) -> None:
        self.run.finish()
