"""Checkpoints: written whole or not at all, and read only as the kind that they are."""

from __future__ import annotations

import copy
import io
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vcsf_cli.errors import RunError, VcsfError
from vcsf_cli.storage.files import atomic_write, sha256
from vcsf_cli.storage.mirror import save_copy
from vcsf_cli.storage.sealed import reading

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
    save_copy(path)


def load(path: Path, kind: str = KIND) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, without running code from it.

    Raises:
        RunError: If it is missing, damaged, of another kind, or from a newer vcsf.
    """
    if not path.exists():
        raise RunError(
            f"{path} does not exist: nothing was saved yet",
            "run `vcsf pretrain` on the recipe again",
        )
    content = load_tensors(path, "bring it back from a copy, or train again")
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


def load_tensors(
    path: Path, hint: str, error: type[VcsfError] = RunError, safe: Sequence[Any] = ()
) -> Any:
    """Read what torch has saved onto the CPU, without running code from it.

    Args:
        path: The file.
        hint: What to do if it is damaged.
        error: The kind of error to raise.
        safe: Functions and classes beside torch's own that the file may name.

    Raises:
        VcsfError: If it is damaged, or would run code.
    """
    with reading(path, hint, error):
        # torch does not compare the checksums that every member of its archives has.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if (damaged := archive.testzip()) is not None:
                    raise ValueError(damaged)
    try:
        with torch.serialization.safe_globals(list(safe)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as problem:
        # torch's message recommends to run the file's code.
        raise error(
            f"{path} is damaged, or holds more than tensors, numbers and text, which could run "
            "code",
            hint,
        ) from problem
    except MemoryError:
        raise
    except Exception as problem:  # a damaged file can make torch fail in any way
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise error(f"{path} is damaged or not a file of weights: {reason}", hint) from problem


def load_safetensors(
    path: Path, digests: Mapping[str, str], hint: str, error: type[VcsfError] = RunError
) -> dict[str, Tensor]:
    """Read a file of safetensors.

    Args:
        path: The file.
        digests: SHA-256 of files by name, where it is known.
        hint: What to do if it is damaged.
        error: The kind of error to raise.

    Raises:
        VcsfError: If it is missing or damaged.
    """
    with reading(path, hint, error):
        if digests.get(path.name) not in (None, sha256(path)):
            raise ValueError("its SHA-256 is another one")
        try:
            return load_file(path)
        except SafetensorError as problem:
            raise ValueError(problem) from problem


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
