"""Pushing exports to the Hugging Face hub, or a server that HF_ENDPOINT names."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub as hub

from vcsf_cli.encoders.hub import PREFIX, asking
from vcsf_cli.errors import RunError
from vcsf_cli.export.card import read_licence
from vcsf_cli.export.folder import CARD, may_be_exported
from vcsf_cli.narrate import say


def check_login(repo: str) -> None:
    """Check that somebody is logged in, before work begins that is to be pushed.

    Raises:
        InputError: If nobody is, or the hub can't be reached.
    """
    with asking(repo):
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
    with asking(repo):
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
