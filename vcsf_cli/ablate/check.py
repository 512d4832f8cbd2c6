"""Checking that all rows of a plan can be trained and measured, before any work and all at once."""

from __future__ import annotations

from collections.abc import Sequence

from vcsf_cli.ablate import measured
from vcsf_cli.ablate.estimate import Costs
from vcsf_cli.ablate.plan import Plan
from vcsf_cli.ablate.rows import RunSpec
from vcsf_cli.errors import DataError, InputError, RunError, VcsfError
from vcsf_cli.train.checks import check_losses, check_samplers, training_rows


def check(plan: Plan, costs: Costs, prepared: bool, allow_seen: bool = False) -> None:
    """Check that all rows can be trained and measured.

    Args:
        costs: Counting them runs the networks of every row once.
        prepared: Whether the data must be there.
        allow_seen: Whether test clips may be seen in training.

    Raises:
        VcsfError: With all problems.
    """
    problems: list[VcsfError] = []
    for spec in {spec.row.name: spec for spec in plan.specs}.values():
        try:
            check_samplers(spec.recipe)
            check_losses(spec.recipe)
            costs.network(spec)
        except VcsfError as error:
            kind = InputError if isinstance(error, InputError) else DataError
            problems.append(kind(f"row `{spec.row.name}`: {error.message}", error.hint))
    for name, manifest in plan.manifests.items():
        if manifest is None and prepared:
            try:
                plan.manifest(name)
            except InputError as error:
                problems.append(error)
    for spec in plan.specs:
        for problem in _data_problems(plan, spec, allow_seen):
            if all(problem.message != known.message for known in problems):
                problems.append(problem)
    if problems:
        raise _combine_errors(problems)


def _data_problems(plan: Plan, spec: RunSpec, allow_seen: bool) -> list[VcsfError]:
    """Why a run can't be trained or measured on the prepared data."""
    found: list[VcsfError] = []
    own = plan.manifests[spec.recipe.first_stage.data.name]
    try:
        if own is not None:
            training_rows(spec.recipe, own)
    except DataError as error:
        found.append(error)
    for measure in plan.table.measures:
        manifest = plan.manifests[plan.measured_on(spec, measure)]
        if manifest is None:
            continue
        try:
            if not len(measured.evaluation(spec, manifest, measure).test):
                raise InputError(
                    f"{manifest.name} has no labelled training and test parts in split "
                    f"{spec.split}",
                    "choose other splits, or prepare the dataset with its lists",
                )
            try:
                exposure = plan.exposure(spec, measure)
            except RunError:  # a damaged run fails by itself, the others go on
                continue
            if exposure:
                exposure.refuse(allow_seen)
        except VcsfError as error:
            found.append(error)
    return found


def _combine_errors(problems: Sequence[VcsfError]) -> VcsfError:
    """One error for several; a wrong command line or recipe decides the exit status."""
    if len(problems) == 1:
        return problems[0]
    kind = InputError if any(isinstance(problem, InputError) for problem in problems) else DataError
    lines = "\n".join(f"  - {problem.message}".replace("\n", "\n    ") for problem in problems)
    hints = dict.fromkeys(problem.hint for problem in problems if problem.hint)
    return kind(f"the table has {len(problems)} problems\n{lines}", "\n      ".join(hints))
