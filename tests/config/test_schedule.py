"""What counts as a short schedule, in tables and reports alike."""

from types import SimpleNamespace

import pytest

from vcsf_cli.config import recipe as recipes
from vcsf_cli.config.schedule import shortness
from vcsf_cli.evaluate.retrieval import Retrieval

ONE_STAGE = ("stages=[]", "optim.schedule=constant", "optim.drops=[]")


@pytest.mark.parametrize(
    ("base", "assignments", "short"),
    [
        ("vcsf", (), ""),
        ("vcsf_coclr", (), ""),
        ("vcsf", (*ONE_STAGE, "train.epochs=500"), ""),
        ("vcsf", (*ONE_STAGE, "train.epochs=499"), "499 epochs a pathway, not 500"),
        (
            "vcsf",
            (
                *ONE_STAGE[1:],
                "stages=[{train: {epochs: 30}}, {train: {epochs: 5, pathways: [slow]}}]",
            ),
            "35 epochs slow, 30 epochs fast, not 500",
        ),
        ("vcsf", (*ONE_STAGE, "train.epochs=1"), "1 epoch a pathway, not 500"),
        # One pathway alone counts by its own epochs, not by those of all stages together.
        ("vcsf_coclr", ("stages.1.train.epochs=99",), ""),
        (
            "vcsf_coclr",
            tuple(f"stages.{stage}.train.epochs=90" for stage in (1, 2, 3, 4)),
            "480 epochs a pathway, not 500",
        ),
    ],
)
def test_a_schedule_is_short_by_the_epochs_of_a_pathway(
    base: str, assignments: tuple[str, ...], short: str
) -> None:
    recipe = recipes.load(base, assignments)
    assert shortness(recipe) == short
    complete = SimpleNamespace(name="ucf101", table=range(13_320))
    measured = SimpleNamespace(
        manifest=complete,
        source=SimpleNamespace(recipe=recipe),
        parts=SimpleNamespace(scored=True),
    )
    assert bool(Retrieval.not_comparable.fget(measured)) == bool(short)
