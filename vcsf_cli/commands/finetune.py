"""`vcsf finetune`: classification by a trained run, or by its recipe from scratch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vcsf_cli.commands.common import open_run, resumable
from vcsf_cli.commands.options import (
    allow_seen_option,
    complete_run,
    data_option,
    devices_option,
    precision_option,
    runs_option,
    save_every_option,
    workers_option,
)
from vcsf_cli.config import protocol as protocols
from vcsf_cli.config import recipe as recipes
from vcsf_cli.config import strict_yaml
from vcsf_cli.config.protocol import Protocol
from vcsf_cli.config.schema import Init
from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.data.splits import LabelBudget
from vcsf_cli.errors import InputError
from vcsf_cli.narrate import duration, say

# What loads torch or pandas is imported by the functions that need it: --help must be fast.
if TYPE_CHECKING:
    from vcsf_cli.evaluate.classification import Classification
    from vcsf_cli.runs.run import Run
    from vcsf_cli.train.compute import Compute

_SCRATCH = "scratch:"
_DEFAULT_PROTOCOL = "coclr"


class _LabelsType(click.ParamType[LabelBudget]):
    name = "1%|10%|N-per-class"

    def convert(
        self,
        value: str | LabelBudget,
        parameter: click.Parameter | None,
        context: click.Context | None,
    ) -> LabelBudget:
        try:
            return value if isinstance(value, LabelBudget) else LabelBudget.parse(value)
        except ValueError as error:
            self.fail(str(error), parameter, context)


class Seeds(click.ParamType[list[int]]):
    """A comma-separated list of seeds."""

    name = "N,N,..."

    def convert(
        self,
        value: str | list[int],
        parameter: click.Parameter | None,
        context: click.Context | None,
    ) -> list[int]:
        if isinstance(value, list):
            return value
        parts = value.split(",")
        if not all(re.fullmatch("[0-9]{1,10}", part) and int(part) < 2**31 for part in parts):
            self.fail(f"`{value}` is not a list of seeds; write --seeds 0,1,2", parameter, context)
        return list(dict.fromkeys(map(int, parts)))


@click.command("finetune")
@click.argument("dataset")
@click.option(
    "--from",
    "source",
    metavar="RUN|scratch:RECIPE",
    shell_complete=complete_run,
    help="A run folder or name, or the untrained networks of a recipe.  [default: the newest "
    "finished run]",
)
@click.option(
    "--linear",
    is_flag=True,
    help="Leave the networks as they are and train a linear layer on their features.",
)
@click.option(
    "--knn", is_flag=True, help="Let the nearest training clips vote; nothing is trained."
)
@click.option(
    "--labels",
    "label_budget",
    type=_LabelsType(),
    help="Train on this many labelled clips.  [default: all]",
)
@click.option(
    "--split",
    type=click.Choice(["1", "2", "3", "all"]),
    help="Official split, or all three one after the other.  [default: the one that the run was "
    "trained on]",
)
@click.option(
    "--pathway",
    type=click.Choice(["slow", "fast", "both"]),
    default="both",
    show_default=True,
    help="Each pathway is trained by itself; both reports them and the mean of their "
    "probabilities.",
)
@click.option(
    "--protocol",
    "named",
    help="A protocol's name or file.  [default: coclr, or linear or knn as the options say]",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a key of the protocol, such as `train.epochs=100`; may be given often.",
)
@click.option(
    "--seeds", type=Seeds(), help="Measure once with each of these seeds.  [default: the recipe's]"
)
@allow_seen_option
@data_option
@runs_option
@devices_option
@precision_option
@workers_option
@save_every_option
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check everything, print the resolved protocol, measure nothing.",
)
def command(
    dataset: str,
    source: str | None,
    linear: bool,
    knn: bool,
    label_budget: LabelBudget | None,
    split: str | None,
    pathway: str,
    named: str | None,
    assignments: tuple[str, ...],
    seeds: list[int] | None,
    allow_seen: bool,
    data: Path,
    runs: Path,
    devices: str,
    precision: str,
    workers: int | None,
    save_every: float,
    dry_run: bool,
) -> None:
    """Measure how well the networks of a run tell the classes of DATASET apart: the whole network
    fine-tuned, or with --linear or --knn its features as they are.

    Protocols (coclr, cpu, linear, knn, or a file of your own) say how. Nothing is chosen on test
    clips: whole recordings of the training part are held out. The same command goes on where an
    earlier one stopped, and shows the table again when all is done. Rows are in results.csv of the
    run, everything else in its folder `finetune`."""
    from vcsf_cli.data.manifest import Manifest

    protocol = _load_protocol(named, linear, knn, assignments)
    scratch = source is not None and source.startswith(_SCRATCH)
    run = _open_untrained(runs, source) if source and scratch else open_run(runs, source)
    manifest = Manifest.find(data, dataset)

    from vcsf_cli.commands import tables
    from vcsf_cli.evaluate.classification import Classification, check
    from vcsf_cli.evaluate.finetune import measure
    from vcsf_cli.train.compute import Compute

    if precision == "auto":
        trains = protocol.mode == "finetune"
        precision = run.recipe.first_stage.speed.precision if trains else "float32"
    compute = Compute(devices, precision, workers, save_every)
    splits = [1, 2, 3] if split == "all" else [int(split or run.recipe.first_stage.data.split)]
    pathways = PATHWAYS if pathway == "both" else (pathway,)
    evaluations = [
        Classification(run, manifest, each, protocol, seed, label_budget, pathways, scratch)
        for seed in seeds or [run.recipe.seed]
        for each in splits
    ]
    check(evaluations, compute, allow_seen)
    for remark in dict.fromkeys(remark for each in evaluations for remark in each.remarks()):
        say(remark)
    if dry_run:
        _dry_run_report(evaluations, compute)
        return
    measured = []
    for each in evaluations:
        say(
            f"{each.task} of {run.name}, {manifest.name} split {each.split}, seed {each.seed}: "
            f"{each.summary()}"
        )
        with resumable():
            measured.append(measure(each, compute))
        say(f"files: {each.folder}")
    tables.show_classification(measured)
    say(f"results: {run.folder / 'results.csv'}")


def _load_protocol(
    named: str | None, linear: bool, knn: bool, assignments: tuple[str, ...]
) -> Protocol:
    """The protocol that the options ask for.

    Raises:
        InputError: If they ask for two things at once.
        RecipeError: If it is not a valid protocol.
    """
    if linear and knn:
        raise InputError(
            "--linear and --knn are two measurements",
            "give one of them, and the other in a second call",
        )
    mode = "linear" if linear else "knn" if knn else None
    protocol = protocols.load(named or mode or _DEFAULT_PROTOCOL, assignments)
    if mode and protocol.mode != mode:
        raise InputError(
            f"protocol {named} is of mode {protocol.mode}, not {mode}",
            f"leave out --{mode}, or name another protocol",
        )
    return protocol


def _open_untrained(runs: Path, source: str) -> Run:
    """The run folder of `scratch:RECIPE`.

    Raises:
        InputError: If the recipe does not start from random weights.
    """
    from vcsf_cli.runs.run import Run, run_folder

    recipe = recipes.load(source.removeprefix(_SCRATCH))
    stage = recipe.first_stage
    if stage.init != Init():
        raise InputError(
            f"{source} starts from the weights of a file, not from scratch",
            "leave out its key `init`",
        )
    pathways = (stage.backbone.settings, stage.slow, stage.fast)
    if any(settings.get("pretrained") for settings in pathways):
        raise InputError(
            f"{source} starts from a pretrained backbone, not from scratch",
            "leave out its key `pretrained`",
        )
    return Run(run_folder(runs, recipe), recipe)


def _dry_run_report(evaluations: list[Classification], compute: Compute) -> None:
    """`--dry-run`: the resolved protocol on stdout, everything else on stderr."""
    from vcsf_cli.evaluate.finetune import estimate

    protocol = evaluations[0].protocol
    click.echo(strict_yaml.dump(protocol.model_dump(mode="json")), nl=False)
    for each in evaluations:
        say(f"{each.task}, split {each.split}, seed {each.seed}: {each.summary()}")
        say(f"folder: {each.folder}{' (finished)' if each.is_measured else ''}")
    if protocol.mode == "finetune":
        seconds = len(evaluations) * estimate(evaluations[0], compute)
        say(
            f"estimated time: {duration(seconds)} on {compute.device()}, extrapolated from a few "
            "small batches"
        )
