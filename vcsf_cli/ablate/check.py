"""Whether all rows of a plan can be trained and measured, told before any work and all at once."""

from __future__ import annotations

from collections.abc import Sequence

from vcsf_cli.ablate import measured
from vcsf_cli.ablate.estimate import Costs
from vcsf_cli.ablate.plan import Plan, RunSpec
from vcsf_cli.config.table import Measure
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.data.splits import query_gallery
from vcsf_cli.errors import DataError, InputError, RunError, VcsfError
from vcsf_cli.train.checks import check_samplers, training_rows


def check(plan: Plan, costs: Costs, prepared: bool, allow_seen: bool = False) -> None:
    """See that all rows can be trained and measured, before any work.

    Args:
        plan: The plan.
        costs: Its counts, for which the networks of every row are run once without numbers.
        prepared: Whether the data must be there.
        allow_seen: Whether test clips may be seen in training.

    Raises:
        VcsfError: With all that can't.
    """
    problems: list[VcsfError] = []
    for cell in {cell.line.name: cell for cell in plan.cells}.values():
        try:
            check_samplers(cell.recipe)
            costs.network(cell)
        except VcsfError as error:
            problems.append(_prefix_error(f"row `{cell.line.name}`: ", error))
    for name, manifest in plan.manifests.items():
        if manifest is None and prepared:
            try:
                plan.manifest(name)
            except InputError as error:
                problems.append(error)
    for cell in plan.cells:
        for problem in _problems_with_data(plan, cell, allow_seen):
            if all(problem.message != known.message for known in problems):
                problems.append(problem)
    if problems:
        raise _combine_errors(problems)


def _problems_with_data(plan: Plan, cell: RunSpec, allow_seen: bool) -> list[VcsfError]:
    """What a run's data lack for its training or its measurements."""
    found: list[VcsfError] = []
    own = plan.manifests[cell.recipe.first_stage.data.name]
    try:
        if own is not None:
            training_rows(cell.recipe, own)
    except DataError as error:
        found.append(error)
    for measure in plan.table.measures:
        manifest = plan.manifests[plan.measured_on(cell, measure)]
        if manifest is None:
            continue
        try:
            check_measure(cell, measure, manifest)
            _check_seen(plan, cell, measure, allow_seen)
        except VcsfError as error:
            found.append(error)
    return found


def check_measure(cell: RunSpec, measure: Measure, manifest: Manifest) -> None:
    """See that a dataset has what a measurement needs.

    Raises:
        VcsfError: If it hasn't.
    """
    if measure.task != "retrieve":
        _ = measured.classification_job(
            cell.run, manifest, cell.split, measure, cell.line.trains
        ).splits
    elif query_gallery(manifest, cell.split).leave_one_out:
        raise InputError(
            f"{manifest.name} has no labelled training and test parts in split {cell.split}",
            "choose other splits, or prepare the dataset with its lists",
        )


def _check_seen(plan: Plan, cell: RunSpec, measure: Measure, allow_seen: bool) -> None:
    """See that no test clip is seen in training, unless that is allowed; a damaged run is passed
    over here and told later.

    Raises:
        InputError: If one is.
    """
    try:
        exposure = plan.exposure(cell, measure)
    except RunError:
        return
    if exposure:
        exposure.refuse(allow_seen)


def _prefix_error(prefix: str, error: VcsfError) -> VcsfError:
    """An error with the row that it is about."""
    kind = InputError if isinstance(error, InputError) else DataError
    return kind(f"{prefix}{error.message}", error.hint)


def _combine_errors(problems: Sequence[VcsfError]) -> VcsfError:
    """One error that says all of several, a wrong command line or recipe first."""
    if len(problems) == 1:
        return problems[0]
    kind = InputError if any(isinstance(problem, InputError) for problem in problems) else DataError
    lines = "\n".join(f"  - {problem.message}".replace("\n", "\n    ") for problem in problems)
    hints = dict.fromkeys(problem.hint for problem in problems if problem.hint)
    return kind(f"the table has {len(problems)} problems\n{lines}", "\n      ".join(hints))
