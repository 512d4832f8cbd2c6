"""Exports on the Hugging Face hub, or a server that HF_ENDPOINT names: `hf:USER/NAME`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import huggingface_hub as hub
from huggingface_hub import errors

from vcsf_cli.encoders.exported import CONFIG, FILES, KIND
from vcsf_cli.errors import InputError, RunError
from vcsf_cli.export.card import read_licence
from vcsf_cli.export.folder import CARD, may_be_exported
from vcsf_cli.narrate import say

PREFIX = "hf:"
_HTTPError: type[Exception] = errors.HfHubHTTPError.__bases__[0]
"""Of the library that the hub's own asks with, which is another in each of its versions."""


def check_login(repo: str) -> None:
    """Check that somebody is logged in, before work begins that is to be pushed.

    Raises:
        InputError: If nobody is, or the hub can't be reached.
    """
    with _asking(repo):
        hub.whoami()


def files_to_push(folder: Path) -> list[tuple[str, int]]:
    """Names and bytes of an export's files."""
    return [(path.name, path.stat().st_size) for path in sorted(folder.iterdir())]


def push(folder: Path, repo: str, public: bool) -> None:
    """Upload an export as one commit; what an earlier export left in the repository is removed.

    Args:
        repo: `USER/NAME`. It is made if there is none, and then private unless `public`.

    Raises:
        InputError: If the hub refuses.
        RunError: If the hub finds the card wrong.
    """
    card = (folder / CARD).read_text(encoding="utf-8")
    if public and not read_licence(card):
        say("warning: the card names no licence, so that nobody may use the weights")
    card = card.replace('load_encoder("this folder")', f'load_encoder("{PREFIX}{repo}")')
    names = [name for name, _ in files_to_push(folder)]
    with _asking(repo):
        try:
            hub.ModelCard(card).validate()
        except ValueError as error:
            raise RunError(
                f"the hub finds the model card wrong: {error}", f"mend {folder / CARD}"
            ) from error
        url = hub.create_repo(repo, private=not public, exist_ok=True)
        there = [name for name in hub.list_repo_files(repo) if may_be_exported(name)]
        operations: list[hub.CommitOperationAdd | hub.CommitOperationDelete] = [
            hub.CommitOperationAdd(name, card.encode() if name == CARD else folder / name)
            for name in names
        ]
        operations += [hub.CommitOperationDelete(name) for name in there if name not in names]
        hub.create_commit(repo, operations, commit_message="Export of vcsf")
    say(f"pushed: {url}")


def download(address: str) -> Path | None:
    """The folder of an export on the hub, in the hub's own cache; None if the repository is no
    export of vcsf.

    Args:
        address: `hf:USER/NAME`, or `hf:USER/NAME@REVISION`.

    Raises:
        InputError: If there is no such repository, or it can't be reached and is not in the cache.
    """
    repo, _, revision = address.removeprefix(PREFIX).partition("@")
    with _asking(repo):
        try:
            config = Path(hub.hf_hub_download(repo, CONFIG, revision=revision or None))
        except errors.EntryNotFoundError as error:
            if isinstance(error, errors.LocalEntryNotFoundError):
                raise
            return None
        if json.loads(config.read_text(encoding="utf-8")).get("model_type") != KIND:
            return None
        folder = config.parent  # named after the commit, so that all files are of one
        with suppress(errors.RemoteEntryNotFoundError):  # it was exported without
            hub.hf_hub_download(repo, FILES["safetensors"], revision=folder.name)
        return folder


@contextmanager
def _asking(repo: str) -> Iterator[None]:
    """Turn errors of the hub into ours."""
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
