"""Run folders, `runs/<name>-<hash of the resolved recipe>/`: everything about a training."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vcsf_cli import __version__
from vcsf_cli.config.recipe import Recipe
from vcsf_cli.config.recipe import load as load_recipe
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.errors import InputError, RunError, VcsfError, did_you_mean
from vcsf_cli.narrate import say
from vcsf_cli.runs import trained_on
from vcsf_cli.storage.files import write_text
from vcsf_cli.storage.sealed import read_json, reading

_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "numpy",
    "opencv-python-headless",
    "simplejpeg",
    "lightning-fabric",
    "decord",
    "av",
    "ray",
    "submitit",
)


DAMAGED = "bring it back from a copy, or delete the run's folder and train again"
"""The hint where a file that a run can't do without is damaged."""

WITH_LABELS = "labels were used in training: this is not self-supervised"


@dataclass(frozen=True)
class RunFolder:
    """A folder in which something is trained."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def metrics(self) -> Path:
        """The log, one line per interval."""
        return self.folder / "metrics.csv"

    @property
    def status(self) -> dict[str, Any]:
        """The content of `status.json`: state, data and times."""
        return _read_status(self.folder)

    @property
    def finished(self) -> bool:
        return bool(self.status.get("finished"))

    def note(self, **changes: Any) -> None:
        """Change entries of `status.json`."""
        write_text(self.folder / "status.json", json.dumps(self.status | changes, indent=2) + "\n")


@dataclass(frozen=True)
class Run(RunFolder):
    """A pre-training."""

    recipe: Recipe

    @property
    def dataset(self) -> str:
        """The name of the dataset that it was trained on.

        Raises:
            RunError: If `status.json` does not say it.
        """
        with reading(self.folder / "status.json", DAMAGED):
            return str(self.status["dataset"])

    @property
    def uses_labels(self) -> bool:
        return bool(self.status.get("uses_labels"))

    @property
    def remarks(self) -> list[str]:
        """Sentences on its training: a pathway that started from the weights in a file, and
        processes that were not as many from beginning to end."""
        processes = self.status.get("processes", [])
        mixed = (
            f"it was trained by {', then by '.join(map(str, processes))} processes, whose "
            "batch-norm statistics and random draws are other ones"
        )
        return [
            *([mixed] if len(processes) > 1 else []),
            *self._imported,
        ]

    @property
    def _imported(self) -> list[str]:
        return [
            f"{pathway} started from the weights in {init['file']} ({init['layout']}'s names, "
            f"SHA-256 {init['sha256'][:12]}...), not from random ones as the untrained network does"
            for pathway, init in self.status.get("init", {}).items()
        ]


def run_folder(runs: Path, recipe: Recipe) -> Path:
    return runs / f"{recipe.name}-{recipe.hash}"


def now() -> str:
    """The time in UTC, to the microsecond."""
    return datetime.now(UTC).isoformat()


def open_run(
    runs: Path,
    recipe: Recipe,
    manifest: Manifest,
    uses_labels: bool,
    init: Mapping[str, Any] | None = None,
    started_from: Sequence[Path] = (),
) -> Run:
    """The run of a recipe: a new folder, or the one of an earlier call.

    Args:
        init: The weights from files that it starts from, for `status.json`.
        started_from: Files of vcsf's own among these; their training clips count as this run's.

    Raises:
        RunError: If the run was begun on other data.
    """
    folder = run_folder(runs, recipe)
    run = Run(folder, recipe)
    if (folder / "status.json").is_file():
        begun_with = run.status.get("data_hash")
        if begun_with != manifest.hash:
            raise RunError(
                f"run {run.name} was begun on other data than what is now in {manifest.place}",
                "bring the data back, or train into another --runs folder",
            )
        if trained_on.read(folder) is None:  # begun before runs remembered it
            trained_on.remember(folder, manifest, recipe.first_stage.data.split)
        return run
    folder.mkdir(parents=True, exist_ok=True)
    trained_on.remember(folder, manifest, recipe.first_stage.data.split, started_from)
    write_text(folder / "recipe.yaml", recipe.yaml())
    write_text(folder / "environment.json", json.dumps(environment(), indent=2) + "\n")
    status = {
        "finished": False,
        "begun": now(),
        "dataset": manifest.name,
        "data_hash": manifest.hash,
        "clips": len(manifest.table),
        "uses_labels": uses_labels,
        **({"init": init} if init else {}),
        **({trained_on.UNKNOWN: trained_on.unremembered(started_from)} if started_from else {}),
    }
    write_text(folder / "status.json", json.dumps(status, indent=2) + "\n")
    return run


def environment() -> dict[str, Any]:
    """Versions, machine and command line: what a result can depend on besides recipe and data."""
    import torch  # it takes seconds, and reading runs does not need it

    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "vcsf": __version__,
        "python": platform.python_version(),
        "packages": versions,
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "command": ["vcsf", *sys.argv[1:]],
    }


def _read_status(folder: Path) -> dict[str, Any]:
    return read_json(folder / "status.json", dict, DAMAGED)


def _newest_run(runs: Path) -> Run:
    """The finished run that ended last.

    Runs that can't be used, because they are damaged or lack a plugin, are skipped with a warning
    if they may be newer.

    Raises:
        InputError: If there is none.
        RunError: If there is none that can be used.
    """
    ended: list[tuple[str, Path]] = []
    unusable: list[VcsfError] = []

    def pass_over(folder: Path, error: VcsfError) -> None:
        say(f"warning: run {folder.name} can't be used and is passed over: {error.message}")
        unusable.append(error)

    for folder in sorted(path.parent for path in runs.glob("*/status.json")):
        try:
            status = _read_status(folder)
        except RunError as error:
            pass_over(folder, error)
            continue
        if status.get("finished"):
            ended.append((str(status.get("ended") or status.get("begun", "")), folder))
    for _, folder in sorted(ended, reverse=True):
        try:
            return read_run(folder)
        except (InputError, RunError) as error:
            pass_over(folder, error)
    if unusable:
        raise RunError(f"no run in {runs} can be used: {unusable[0].message}", unusable[0].hint)
    raise InputError(
        f"there is no finished run in {runs}", "train one first: vcsf pretrain recipes/demo.yaml"
    )


def read_run(folder: Path) -> Run:
    """The run in a folder.

    Raises:
        InputError: If it is not a run folder, or nothing was ever trained in it.
    """
    if not (folder / "recipe.yaml").is_file():
        raise InputError(
            f"{folder} is not a run folder: it has no recipe.yaml",
            "name a folder that `vcsf pretrain` made",
        )
    if not (folder / "status.json").is_file():
        raise InputError(
            f"{folder} holds no pre-trained run, at most networks trained from scratch",
            f"vcsf pretrain {folder / 'recipe.yaml'}",
        )
    return Run(folder, load_recipe(str(folder / "recipe.yaml")))


def find_run(runs: Path, named: str | None) -> Run:
    """A run by its folder, name or the unique beginning of its name; without one the newest
    finished run.

    Raises:
        InputError: If there is none, or several names begin like this.
        RunError: If none can be used.
    """
    return _newest_run(runs) if named is None else read_run(_find_folder(runs, named))


def check_named(runs: Path, named: str | None) -> None:
    """Look whether there is such a run, without reading it: what `--from` names may also be another
    encoder, whose name is a path or has a colon.

    Raises:
        InputError: If it can't be anything but a run, and `find_run` would find none.
    """
    if named is None:
        if not any(runs.glob("*/status.json")):
            _newest_run(runs)
    elif ":" not in named and "=" not in named and not Path(named).exists():
        _find_folder(runs, named)


def _find_folder(runs: Path, named: str) -> Path:
    """The folder of a run, by its path, name or the unique beginning of its name.

    Raises:
        InputError: If there is none, or several names begin like this.
    """
    if (Path(named) / "recipe.yaml").is_file():
        return Path(named)
    if Path(named).is_file():
        raise InputError(f"{named} is a file, not a run folder", "name the folder that it lies in")
    names = sorted(path.parent.name for path in runs.glob("*/status.json"))
    matching = [name for name in names if name == named] or [
        name for name in names if name.startswith(named)
    ]
    if len(matching) > 1:
        raise InputError(
            f"several runs in {runs} begin with {named}", f"they are {', '.join(matching)}"
        )
    if not matching and Path(named).is_dir():
        return Path(named)
    if not matching:
        raise InputError(
            f"there is no run {named} in {runs}",
            did_you_mean(named, names) or "--runs says where runs are",
        )
    return runs / matching[0]
