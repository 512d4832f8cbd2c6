"""Checkpoints: written whole or not at all, and read only as the kind that they are."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vcsf_cli.errors import RunError
from vcsf_cli.storage.files import atomic_write

KIND = "vcsf-pretrain"
"""The state of a pre-training."""

STAGE = "vcsf-stage"
"""The weights after a stage of a pre-training."""

_VERSION = 1


def save(path: Path, content: dict[str, Any], kind: str = KIND) -> None:
    # Through memory, because torch's own writer hides that a disk is full.
    data = io.BytesIO()
    torch.save({"kind": kind, "version": _VERSION, **content}, data)
    with atomic_write(path) as file:
        file.write(data.getbuffer())


def load(path: Path, kind: str = KIND) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, without running code from it.

    Raises:
        RunError: If it is missing, damaged, of another kind, or from a newer vcsf.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RunError(
            f"{path} does not exist: nothing was saved yet",
            "run `vcsf pretrain` on the recipe again",
        ) from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(
            f"{path} is damaged or not a checkpoint of vcsf: {reason}",
            "restore it from a copy, or train again",
        ) from error
    if not isinstance(content, dict) or content.get("kind") != kind:
        found = content.get("kind") if isinstance(content, dict) else None
        what = (
            f"a checkpoint of kind {found!r}, not of {kind!r}"
            if found
            else "not a checkpoint of vcsf"
        )
        raise RunError(f"{path} is {what}", "restore the file that vcsf wrote there")
    if content["version"] > _VERSION:
        raise RunError(f"{path} was written by a newer vcsf", "upgrade vcsf")
    return content


def check_weights(module: nn.Module, state: dict[str, Any], path: Path) -> None:
    """Check that weights fit a network, without changing it.

    Raises:
        RunError: If a key is missing, unexpected or of another shape.
    """
    load_weights(copy.deepcopy(module), state, path)


def load_weights(module: nn.Module, state: dict[str, Any], path: Path) -> None:
    """Load weights into a network.

    Raises:
        RunError: If a key is missing, unexpected or of another shape.
    """
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise RunError(
            f"the weights in {path} don't fit the recipe's networks: "
            f"{str(error).splitlines()[-1].strip()}",
            "the code of a backbone, motion module or head has changed since; use the version that "
            "trained it",
        ) from error
