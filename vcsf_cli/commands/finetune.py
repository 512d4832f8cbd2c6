"""`vcsf finetune`: classification by a trained encoder, or by a recipe from scratch."""

from __future__ import annotations

import re
from typing import Any

import click

from vcsf_cli.commands.options import (
    allow_seen_option,
    cache_option,
    data_option,
    devices_option,
    encoder_options,
    engine_options,
    launch_options,
    leave_one_out_option,
    precision_option,
    refuse_split,
    refuse_unknown_run,
    runs_option,
    save_every_option,
    workers_option,
)
from vcsf_cli.config import protocol as protocols
from vcsf_cli.config.protocol import Protocol
from vcsf_cli.data.splits import LabelBudget
from vcsf_cli.errors import InputError

_DEFAULT_PROTOCOL = "coclr"


def _parse_labels(text: str) -> LabelBudget:
    try:
        return LabelBudget.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _parse_seeds(text: str) -> list[int]:
    parts = text.split(",")
    if not all(re.fullmatch("[0-9]{1,10}", part) and int(part) < 2**31 for part in parts):
        raise click.BadParameter(f"`{text}` is not a list of seeds; write --seeds 0,1,2")
    return list(dict.fromkeys(map(int, parts)))


@click.command("finetune")
@click.argument("dataset")
@encoder_options
@click.option(
    "--linear",
    is_flag=True,
    help="Leave the networks as they are and train a linear layer on their features.",
)
@click.option(
    "--attentive",
    is_flag=True,
    help="Leave the networks as they are and train a cross-attention block on their features "
    "before pooling.",
)
@click.option(
    "--knn", is_flag=True, help="Let the nearest training clips vote; nothing is trained."
)
@click.option(
    "--labels",
    "label_budget",
    type=_parse_labels,
    metavar="1%|10%|N-PER-CLASS",
    help="Train on this many labelled clips.  [default: all]",
)
@click.option(
    "--split",
    type=click.Choice(["1", "2", "3", "all"]),
    help="Official split, or all three one after the other.  [default: the one that the run was "
    "trained on]",
)
@leave_one_out_option
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
    "protocol_name",
    help="A protocol's name or file.  [default: coclr, or as the options say]",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a key of the protocol, such as `train.epochs=100`; may be given often.",
)
@click.option(
    "--seeds",
    type=_parse_seeds,
    metavar="N,N,...",
    help="Measure once with each of these seeds.  [default: the recipe's]",
)
@allow_seen_option
@data_option
@cache_option
@runs_option
@devices_option
@precision_option
@workers_option
@engine_options
@save_every_option
@launch_options
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check everything, print the resolved protocol, measure nothing.",
)
def command(
    linear: bool,
    attentive: bool,
    knn: bool,
    protocol_name: str | None,
    assignments: tuple[str, ...],
    **options: Any,
) -> None:
    """Measure how well the networks of a run tell the classes of DATASET apart: the whole network
    fine-tuned, or with --linear, --attentive or --knn its features as they are.

    Protocols (coclr, cpu, linear, attentive, knn, or a file of your own) say how. Nothing is chosen on test
    clips: whole recordings of the training part are held out. The same command goes on where an
    earlier one stopped, and shows the table again when all is done. Rows are in results.csv of the
    run, everything else in its folder `finetune`."""
    flags = {"linear": linear, "attentive": attentive, "knn": knn}
    modes = [mode for mode, given in flags.items() if given]
    protocol = _load_protocol(protocol_name, modes, assignments)
    if options["leave_one_out"]:
        _refuse_leave_one_out(protocol, options)

    refuse_unknown_run(options)
    from vcsf_cli.commands.work import finetune  # torch takes seconds to load

    finetune.measure_all(protocol, **options)


def _refuse_leave_one_out(protocol: Protocol, options: dict[str, Any]) -> None:
    """Refuse what can't be measured by leaving one out.

    Raises:
        InputError: If something can't.
    """
    refuse_split(True, options["split"])
    if protocol.mode != "knn":
        raise InputError(
            f"--leave-one-out is of --knn; a protocol of mode {protocol.mode} would be trained once "
            "for each group",
            "add --knn, or measure with vcsf retrieve --leave-one-out",
        )
    if options["label_budget"]:
        raise InputError(
            "--labels has no meaning with --leave-one-out", "all clips of other groups vote"
        )


def _load_protocol(named: str | None, modes: list[str], assignments: tuple[str, ...]) -> Protocol:
    """The protocol that the options ask for.

    Raises:
        InputError: If they ask for two things at once.
        RecipeError: If it is not a valid protocol.
    """
    if len(modes) > 1:
        raise InputError(
            f"--{modes[0]} and --{modes[1]} are two measurements",
            "give one of them, and the other in a second call",
        )
    mode = modes[0] if modes else None
    protocol = protocols.load(named or mode or _DEFAULT_PROTOCOL, assignments)
    if mode and protocol.mode != mode:
        raise InputError(
            f"protocol {named} is of mode {protocol.mode}, not {mode}",
            f"leave out --{mode}, or name another protocol",
        )
    return protocol
