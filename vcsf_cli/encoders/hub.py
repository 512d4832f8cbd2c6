"""Exports on the Hugging Face hub, or a server that HF_ENDPOINT names: `hf:USER/NAME`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import huggingface_hub as hub
from huggingface_hub import errors

from vcsf_cli.encoders.exported import CONFIG, FILES, KIND
from vcsf_cli.errors import InputError
from vcsf_cli.runs.trained_on import FILE as TRAINED_ON

PREFIX = "hf:"
_HTTPError: type[Exception] = errors.HfHubHTTPError.__bases__[0]
"""Of the library that the hub's own asks with, which is another in each of its versions."""


def download(address: str) -> Path | None:
    """The folder of an export on the hub, in the hub's own cache; None if the repository is no
    export of vcsf.

    Args:
        address: `hf:USER/NAME`, or `hf:USER/NAME@REVISION`.

    Raises:
        InputError: If there is no such repository, or it can't be reached and is not in the cache.
    """
    repo, _, revision = address.removeprefix(PREFIX).partition("@")
    with asking(repo):
        try:
            config = Path(hub.hf_hub_download(repo, CONFIG, revision=revision or None))
        except errors.EntryNotFoundError as error:
            if isinstance(error, errors.LocalEntryNotFoundError):
                raise
            return None
        if json.loads(config.read_text(encoding="utf-8")).get("model_type") != KIND:
            return None
        folder = config.parent  # named after the commit, so that all files are of one
        for name in (FILES["safetensors"], TRAINED_ON):
            with suppress(errors.RemoteEntryNotFoundError):  # it was exported without
                hub.hf_hub_download(repo, name, revision=folder.name)
        return folder


def answers(address: str) -> bool:
    """Whether the hub answers at all: one try, where a download tries for half a minute."""
    repo, _, revision = address.removeprefix(PREFIX).partition("@")
    try:
        hub.HfApi().model_info(repo, revision=revision or None, timeout=10)
    except (errors.HFValidationError, errors.HfHubHTTPError):
        return True  # a refusal is an answer, and the download says which
    except (_HTTPError, OSError):
        return False
    return True


def is_cached(address: str) -> bool:
    """Whether the hub's own cache has a model's configuration."""
    repo, _, revision = address.removeprefix(PREFIX).partition("@")
    found = hub.try_to_load_from_cache(repo, CONFIG, revision=revision or None)
    return isinstance(found, str)


@contextmanager
def asking(repo: str) -> Iterator[None]:
    """Turn errors of the hub into ours.

    Raises:
        InputError: If the hub refuses or can't be reached.
    """
    try:
        yield
    except (errors.LocalTokenNotFoundError, errors.RepositoryNotFoundError) as error:
        raise InputError(
            f"{PREFIX}{repo}: {_first_line(error)}",
            "look at the name; what is private, and a push, need `hf auth login` or HF_TOKEN",
        ) from error
    except (errors.HFValidationError, _HTTPError, OSError) as error:
        raise InputError(
            f"{PREFIX}{repo}: {_first_line(error)}",
            "look at the name and the connection (HF_ENDPOINT, HF_HUB_OFFLINE)",
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
