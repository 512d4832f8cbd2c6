"""The encoder that `--from` names: the one place where that is decided."""

from __future__ import annotations

from pathlib import Path

from vcsf_cli.config import recipe as recipes
from vcsf_cli.config.schema import Init
from vcsf_cli.encoders.run import RunSource, UntrainedSource
from vcsf_cli.encoders.source import EncoderSource
from vcsf_cli.errors import InputError
from vcsf_cli.narrate import say
from vcsf_cli.runs.run import find_run, run_folder

_SCRATCH = "scratch:"


def find_source(runs: Path, named: str | None, doing: str = "measuring") -> EncoderSource:
    """The encoder that `--from` names, or that of the newest finished run.

    Args:
        runs: Folder of run folders.
        named: What the user wrote; None for the newest run.
        doing: What is done with it, for a remark if its training is not finished.

    Raises:
        InputError: If there is none, or several begin like this.
    """
    if named and named.startswith(_SCRATCH):
        return _find_untrained(runs, named)
    run = find_run(runs, named)
    if named is None:
        say(f"using the newest finished run: {run.name}")
    if not run.finished:
        say(f"run {run.name} is not finished: {doing} its newest checkpoint")
    return RunSource(run)


def _find_untrained(runs: Path, named: str) -> UntrainedSource:
    """The networks of `scratch:RECIPE`.

    Raises:
        InputError: If the recipe does not start from random weights.
    """
    recipe = recipes.load(named.removeprefix(_SCRATCH))
    stage = recipe.first_stage
    if stage.init != Init():
        raise InputError(
            f"{named} starts from the weights of a file, not from scratch",
            "leave out its key `init`",
        )
    pathways = (stage.backbone.settings, stage.slow, stage.fast)
    if any(settings.get("pretrained") for settings in pathways):
        raise InputError(
            f"{named} starts from a pretrained backbone, not from scratch",
            "leave out its key `pretrained`",
        )
    return UntrainedSource(run_folder(runs, recipe), recipe)


def describe(source: EncoderSource) -> None:
    """Say what must be known of an encoder before it is used."""
    for remark in source.labels_remarks:
        say(f"warning: {remark}")
    for remark in source.remarks:
        say(remark)


def chosen_pathways(source: EncoderSource, chosen: str) -> tuple[str, ...]:
    """The pathways that `--pathway` chooses: all for `both`.

    Raises:
        InputError: If the encoder has no such pathway.
    """
    if chosen == "both":
        return source.pathways
    if chosen not in source.pathways:
        raise InputError(
            f"{source.name} has no pathway {chosen}, only {' and '.join(source.pathways)}",
            "leave out --pathway",
        )
    return (chosen,)
