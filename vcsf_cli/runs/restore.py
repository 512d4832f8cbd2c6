"""The trained networks of a run, from its checkpoint."""

from __future__ import annotations

from typing import Any

from vcsf_cli.errors import RunError
from vcsf_cli.model.pathways import TwoPathways, build
from vcsf_cli.runs.run import DAMAGED, Run
from vcsf_cli.storage import checkpoint
from vcsf_cli.storage.sealed import reading


def restore(run: Run) -> tuple[TwoPathways, dict[str, Any]]:
    """The trained networks of a run, in eval mode on the CPU, and its checkpoint.

    Raises:
        RunError: If there is no whole checkpoint, or it belongs to another recipe.
    """
    saved = load_checkpoint(run)
    model = build(run.recipe, weights_follow=True)
    checkpoint.load_weights(model, saved["task"]["model"], run.checkpoint)
    return model.eval(), saved


def load_checkpoint(run: Run) -> dict[str, Any]:
    """The checkpoint of a run.

    Raises:
        RunError: If there is no whole checkpoint, or it is another run's.
    """
    saved = checkpoint.load(run.checkpoint)
    with reading(run.folder / "recipe.yaml", DAMAGED):
        recipe = (run.folder / "recipe.yaml").read_text(encoding="utf-8")
    if saved["recipe"] != recipe or saved["data_hash"] != run.status.get("data_hash"):
        what = "recipe" if saved["recipe"] != recipe else "data"
        raise RunError(
            f"{run.checkpoint} is another run's: it was trained with another {what}",
            "bring back the run's own checkpoint, or delete the folder and train again",
        )
    return saved
