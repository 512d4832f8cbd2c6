"""`vcsf finetune` at work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from vcsf_cli.commands.common import open_ray, resumable, submit_command
from vcsf_cli.commands.work import tables
from vcsf_cli.config import strict_yaml
from vcsf_cli.config.protocol import Protocol
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.data.splits import LabelBudget
from vcsf_cli.encoders.find import chosen_pathways, find_source
from vcsf_cli.errors import InputError
from vcsf_cli.evaluate.classification import Classification, check
from vcsf_cli.evaluate.finetune import estimate, measure
from vcsf_cli.narrate import duration, say
from vcsf_cli.train.compute import Compute


def measure_all(
    protocol: Protocol,
    dataset: str,
    named: str | None,
    recipe: str | None,
    settings: tuple[str, ...],
    label_budget: LabelBudget | None,
    split: str | None,
    leave_one_out: bool,
    pathway: str,
    seeds: list[int] | None,
    allow_seen: bool,
    data: Path | str,
    runs: Path,
    devices: str,
    precision: str,
    workers: int | None,
    save_every: float,
    launch: str | None,
    slurm: dict[str, str],
    engine: str,
    address: str | None,
    dry_run: bool,
) -> None:
    if engine != "local" and protocol.mode == "finetune":
        raise InputError(
            f"--engine {engine} computes features, and here the whole network is trained",
            "add --linear or --knn, or leave it out",
        )
    encoder = find_source(runs, named, recipe, settings, scratch=True)
    manifest = Manifest.find(data, dataset)
    if precision == "auto":
        trains = protocol.mode == "finetune"
        precision = encoder.speed.precision if trains else "float32"
    submits = launch and not dry_run
    # The devices are the cluster's then.
    compute = Compute("cpu") if submits else Compute(devices, precision, workers, save_every)
    splits = [1, 2, 3] if split == "all" else [int(split or encoder.split)]
    pathways = chosen_pathways(encoder, pathway)
    evaluations = [
        Classification(
            encoder,
            manifest,
            each,
            protocol,
            seed,
            label_budget,
            pathways,
            leave_one_out=leave_one_out,
        )
        for seed in seeds or [encoder.seed]
        for each in splits
    ]
    check(evaluations, compute, allow_seen)
    for remark in dict.fromkeys(remark for each in evaluations for remark in each.remarks()):
        say(remark)
    if dry_run:
        _dry_run_report(evaluations, compute)
        return
    if launch:
        folder = evaluations[0].folder
        # While the job waits, another run may become the newest.
        added = () if named else encoder.words
        job = f"{encoder.name}-{folder.name}"
        submit_command(launch, slurm, job, folder, devices, added=added)
        return
    compute = replace(compute, engine=open_ray(engine, address))
    measured = []
    for each in evaluations:
        say(f"{each.task} of {encoder.name}, {_place(each)}, seed {each.seed}: {each.summary()}")
        with resumable():
            measured.append(measure(each, compute))
        say(f"files: {each.folder}")
    tables.show_classification(measured)
    say(f"results: {encoder.folder / 'results.csv'}")


def _place(evaluation: Classification) -> str:
    """What is measured on."""
    name = evaluation.manifest.name
    return name if evaluation.leave_one_out else f"{name} split {evaluation.split}"


def _dry_run_report(evaluations: list[Classification], compute: Compute) -> None:
    """`--dry-run`: the resolved protocol on stdout, everything else on stderr."""
    protocol = evaluations[0].protocol
    click.echo(strict_yaml.dump(protocol.model_dump(mode="json")), nl=False)
    for each in evaluations:
        say(f"{each.task}, {_place(each)}, seed {each.seed}: {each.summary()}")
        say(f"folder: {each.folder}{' (finished)' if each.is_measured else ''}")
    if protocol.mode == "finetune":
        seconds = len(evaluations) * estimate(evaluations[0], compute)
        say(
            f"estimated time: {duration(seconds)} on {compute.device()}, extrapolated from a few "
            "small batches"
        )
