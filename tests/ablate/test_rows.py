"""What a table's file and flags come to: rows as assignments, all problems at once, one recipe one
row."""

from pathlib import Path
from typing import Any

import pytest

from vcsf_cli.ablate.flags import draft_from_flags
from vcsf_cli.ablate.rows import Table, resolve_table
from vcsf_cli.config import recipe as recipes
from vcsf_cli.config.catalogue import TABLES
from vcsf_cli.config.schedule import epochs_by_pathway
from vcsf_cli.config.table import read
from vcsf_cli.errors import InputError, RecipeError


def table(folder: Path, text: str, *assignments: str) -> Table:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return resolve_table(read(str(path)), assignments)


def of_flags(base: str = "vcsf_coclr", **flags: Any) -> Table:
    return resolve_table(draft_from_flags(base, **flags))


def names(content: Table) -> list[str]:
    return [row.name for row in content.rows]


def stages_of(content: Table, name: str) -> tuple[Any, ...]:
    (row,) = (row for row in content.rows if row.name == name)
    return row.recipe.stages


def test_a_row_is_the_assignments_that_are_typed_by_hand(tmp_path: Path) -> None:
    content = table(
        tmp_path,
        'title: T\nbase: vcsf_coclr\nrows:\n  a:\n  b: {set: {motion: none, optim.lr: 1e-4, name: "1"}}\n',
    )
    assert content.rows[1].assignments == ("motion=none", "optim.lr=0.0001", 'name="1"')
    assert content.name == "mine"
    assert (
        recipes.load("vcsf_coclr", content.rows[0].assignments).hash
        == recipes.load("vcsf_coclr").hash
    )


def test_a_star_means_the_stages_that_have_the_key(tmp_path: Path) -> None:
    text = "title: T\nbase: vcsf_coclr\nvary: {stages.*.loss.neighbours: [5, 9]}\n"
    content = table(tmp_path, text)
    assert names(content) == ["full (neighbours 5)", "neighbours 9"]
    assert content.rows[1].assignments == tuple(
        f"stages.{stage}.loss.neighbours=9" for stage in (1, 2, 3, 4)
    )
    with pytest.raises(RecipeError, match=r"no stage has a `loss\.neighbors` of its own"):
        table(tmp_path, text.replace("neighbours", "neighbors"))


def test_a_grid_is_all_combinations_and_the_recipe_itself_is_among_them(tmp_path: Path) -> None:
    grid = "grid: {sampler.alpha: [4, 8], loss.temperature: [0.07, 0.1]}\n"
    content = table(tmp_path, f"title: T\nbase: vcsf_coclr\n{grid}")
    rest = ["alpha 4, temperature 0.1", "alpha 8, temperature 0.07", "alpha 8, temperature 0.1"]
    assert names(content) == ["full (alpha 4, temperature 0.07)", *rest]


def test_all_problems_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    text = """title: T
base: vcsf
rows:
  a: {}
  b: {set: {loss.temprature: 1}}
  c: {sett: {}}
  d: {set: {sampler.alpha: 0}}
measure:
  - {task: retreive}
  - {task: linear, k: [1]}
  - {task: finetune, protocol: knn}
  - {task: retrieve, k: [0]}
"""
    with pytest.raises(RecipeError) as caught:
        table(tmp_path, text)
    message = caught.value.message
    for said in (
        "`rows.c.sett`",
        "mine.yaml:6",
        "`measure.0.task`",
        "`measure.1.k`",
        "mine.yaml:10",
        "not finetune",
    ):
        assert said in message
    assert "did you mean `set`?" in caught.value.hint
    with pytest.raises(RecipeError) as caught:
        table(tmp_path, text.partition("measure")[0].replace("sett", "set"))
    message = caught.value.message
    for said in (
        "row `b` at `rows.b`",
        "row `d` at `rows.d`",
        "unknown parameter `temprature`",
        "is the same recipe as row `a`",
    ):
        assert said in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "rows: {a: {}, alpha 8: {set: {seed: 3}}}\nvary: {sampler.alpha: [8]}",
            "two rows `alpha 8`",
        ),
        (
            "rows: {a: {}, b: {set: {sampler.alpha: 4}}}",
            "row `b` at `rows.b` .*is the same recipe as row `a`",
        ),
        ("splits: [4]", "splits"),
        ("measure: [{task: knn}, {task: knn}]", "measured twice"),
        ("rows: {a: 5}", "`rows.a` .*is 5"),
        ("nmae: x", "unknown key `nmae`"),
        ("label_gain: {baseline: ful, labels: full}", "unknown row `ful`"),
    ],
)
def test_what_can_be_no_table_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        table(tmp_path, f"title: T\nbase: vcsf_coclr\n{text}\n")


def test_the_rows_of_the_label_gain_are_known_by_the_names_that_rows_of_vary_give_them(
    tmp_path: Path,
) -> None:
    text = (
        "title: T\nbase: vcsf_coclr\nrows:\n  none: {}\n"
        "  labels: {set: {loss: {name: supervised, queue: 8}}}\n"
        "vary: {sampler.alpha: [4, 8]}\nlabel_gain: {baseline: none, labels: labels}\n"
    )
    content = table(tmp_path, text)
    assert names(content) == ["none (alpha 4)", "labels", "alpha 8"]
    assert content.label_gain is not None
    assert content.label_gain.model_dump() == {"baseline": "none (alpha 4)", "labels": "labels"}


def test_set_goes_before_the_rows_own(tmp_path: Path) -> None:
    content = table(
        tmp_path,
        "title: T\nbase: vcsf_coclr\nrows: {a: {}, b: {set: {sampler.alpha: 8}}}\n",
        "sampler.alpha=2",
    )
    assert [row.recipe.first_stage.sampler.settings["alpha"] for row in content.rows] == [
        2,
        8,
    ]


def test_without_cross_pathway_training_each_pathway_learns_for_as_many_epochs() -> None:
    content = of_flags(no_cross_pathway=True, slow_only=True, fast_only=True)
    assert names(content) == ["full", "no cross-pathway training", "slow only", "fast only"]
    full, none, slow, fast = (row.recipe for row in content.rows)
    assert epochs_by_pathway(full) == epochs_by_pathway(none) == {"slow": 500, "fast": 500}
    assert epochs_by_pathway(slow) == {"slow": 500, "fast": 0}
    assert epochs_by_pathway(fast) == {"slow": 0, "fast": 500}
    for recipe in (none, slow, fast):
        assert {
            (stage.loss.name, stage.loss.settings["temperature"]) for stage in recipe.stages
        } == {("infonce", 0.07)}
    assert [row.pathways for row in content.rows[2:]] == [("slow",), ("fast",)]
    assert set(content.rows[0].pathways) == {"slow", "fast", "both"}
    joint = of_flags("vcsf", slow_only=True).rows[1]
    assert epochs_by_pathway(joint.recipe) == {
        "slow": 500,
        "fast": 0,
    }
    # Stage A is the same, so that it is trained once.
    assert full.stages[0] == none.stages[0]


def test_flags_with_values_change_one_thing_each() -> None:
    values = {"alpha": ["2", "4", "8"], "positives": ["union"], "backbone": ["r3d18"]}
    content = of_flags(no_motion_module=True, no_stage_a=True, **values)
    rows = [
        "no motion module",
        "no stage A",
        "alpha 2",
        "alpha 8",
        "positives union",
        "backbone r3d18",
    ]
    assert names(content) == ["full (alpha 4)", *rows]
    assert [stage.loss.name for stage in stages_of(content, "no stage A")] == ["cross_pathway"] * 4
    assert [
        stage.loss.settings.get("positives") for stage in stages_of(content, "positives union")
    ][1:] == ["union"] * 4
    assert content.name == "vcsf_coclr-no-motion-module-no-stage-a-alpha-positives-backbone"


def test_flags_that_the_recipe_has_nothing_for_are_refused() -> None:
    for flags in (
        {"no_cross_pathway": True},
        {"no_stage_a": True},
        {"neighbours": ["1"]},
    ):
        with pytest.raises(InputError, match="no stage of demo trains across pathways"):
            of_flags("demo", **flags)
    with pytest.raises(InputError, match="has none"):
        resolve_table(draft_from_flags("demo", ["motion=none"], no_motion_module=True))


def test_tables_are_found_by_name() -> None:
    assert {"retrieval_ucf101", "recognition_hmdb51", "motion"} <= set(TABLES.files())
    assert "published" not in TABLES.files()
    with pytest.raises(InputError) as caught:
        read("motoin")
    assert "did you mean `motion`?" in caught.value.hint
