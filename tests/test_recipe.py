"""Recipes: resolving, replacing components, and all errors at once."""

from pathlib import Path

import pytest

from vcsf_cli import recipe as recipes
from vcsf_cli.errors import InputError, RecipeError

NAMES = sorted(recipes.recipe_names())


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_resolves_to_itself(name: str, tmp_path: Path) -> None:
    recipe = recipes.load(name)
    assert "temperature" in recipe.tree["loss"]
    assert recipe.tree["backbone"]["name"]
    again = tmp_path / "again.yaml"
    again.write_text(recipe.yaml(), encoding="utf-8")
    assert recipes.load(str(again)).tree == recipe.tree
    assert recipes.load(str(again)).hash == recipe.hash


def write(folder: Path, text: str, name: str = "mine.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_extends_merges_key_by_key_and_replaces_components_whole(tmp_path: Path) -> None:
    write(tmp_path, "extends: demo\nname: base\nbackbone: {channels: [4, 8, 8, 16]}\ntrain: {epochs: 3}", "base.yaml")
    same = recipes.load(write(tmp_path, "extends: base.yaml\nname: a\ntrain: {batch: 8}"))
    assert same.tree["backbone"] == {"name": "small", "channels": [4, 8, 8, 16], "temporal_strides": None}
    assert (same.model.train.epochs, same.model.train.batch) == (3, 8)
    other = recipes.load(write(tmp_path, "extends: base.yaml\nname: b\nbackbone: {name: r3d18}"))
    assert other.tree["backbone"] == {"name": "r3d18", "temporal_strides": None}


def test_set_names_another_component_without_stale_settings() -> None:
    recipe = recipes.load("vcsf", ["motion.name=none"])
    assert recipe.tree["motion"] == {"name": "none"}
    assert recipes.load("vcsf", ["motion=none"]).hash == recipe.hash
    assert recipes.load("vcsf", ["data.name=mine"]).tree["data"] == {"name": "mine", "split": 1, "size": 128}


def test_set_splits_at_the_first_equals_sign_and_reads_yaml() -> None:
    recipe = recipes.load("demo", ["name=a.b", "optim.lr=1e-2", "augment.area=[0.5, 1]", "fast.input=rgb"])
    assert recipe.name == "a.b"
    assert recipe.model.optim.lr == 0.01
    assert recipe.model.augment.area == (0.5, 1.0)
    assert recipe.tree["fast"]["input"] == "rgb"


def test_stages_inherit_what_they_do_not_name(tmp_path: Path) -> None:
    path = write(tmp_path, "extends: demo\nstages:\n  - {}\n  - {loss: {temperature: 0.2}, train: {epochs: 2}}\n")
    recipe = recipes.load(path, ["stages.1.optim.lr=0.5"])
    first, second = recipe.stages
    assert first.train.epochs == 20
    assert second.loss.settings == {"temperature": 0.2, "queue": 192}
    assert (second.train.epochs, second.train.batch, second.optim.lr) == (2, 32, 0.5)


def test_the_hash_depends_on_every_value_and_on_no_path(tmp_path: Path) -> None:
    path = write(tmp_path, Path(recipes.find_recipe("demo")).read_text())
    assert recipes.load(path).hash == recipes.load("demo").hash
    changes = ["seed=1", "loss.temperature=0.08", "motion.reduction=8", "train.epochs=21", "slow.input=difference"]
    hashes = {recipes.load("demo", [change]).hash for change in changes} | {recipes.load("demo").hash}
    assert len(hashes) == len(changes) + 1


def test_all_problems_at_once_with_line_and_hint(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "extends: demo\nloss:\n  temprature: 1\noptim: {lr: fast, drops: [50]}\ntrian: {epochs: 3}\n"
        "sampler: {name: slow_fst}\nmotion: {after: [two]}\nseed: no\nfast: {input: flow}\n",
    )
    with pytest.raises(RecipeError) as error:
        recipes.load(path)
    message, hint = error.value.message, error.value.hint
    for part in (
        "unknown parameter `temprature` of loss `infonce` at `loss.temprature` (", "mine.yaml:3)",
        "`optim.lr`", "is 'fast'", "unknown key `trian`", "unknown sampler `slow_fst`", "`motion.after`",
        "`seed`", "is 'no'", "`fast.input`",
    ):  # fmt: skip
        assert part in message
    assert "did you mean `temperature`?" in hint
    assert "did you mean `train`?" in hint


def test_a_problem_of_set_has_no_line() -> None:
    with pytest.raises(RecipeError) as error:
        recipes.load("vcsf", ["loss.temprature=1"])
    assert error.value.message == "unknown parameter `temprature` of loss `infonce` at `loss.temprature`"
    assert error.value.hint == "did you mean `temperature`?"


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [
        ("loss.temperature", "no assignment"),
        ("name.x=1", "is a value"),
        ("stages.3.train=1", "there is no"),
        ("train.epochs=0", "train.epochs"),
        ("train.epochs=2.5", "train.epochs"),
        ('train.epochs="3"', "train.epochs"),
        ("augment.area=[1, 0.2]", "the smaller first"),
        ("optim.schedule=step", "without `drops`"),
        ("stages=[{backbone: {name: s3d}}]", "can't change `backbone`"),
        ("backbone.pathway=slow", "unknown parameter `pathway`"),
    ],
)
def test_wrong_assignments(assignment: str, problem: str) -> None:
    with pytest.raises(RecipeError) as error:
        recipes.load("demo", [assignment])
    assert problem in error.value.message


def test_recipes_are_found_by_name_and_as_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert recipes.load("demo").name == "demo"
    assert recipes.load("recipes/vcsf.yaml").name == "vcsf"
    with pytest.raises(InputError, match="no recipe") as error:
        recipes.load("demmo")
    assert "demo" in error.value.hint


def test_a_recipe_that_extends_itself_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "extends: b.yaml", "a.yaml")
    write(tmp_path, "extends: a.yaml", "b.yaml")
    with pytest.raises(RecipeError, match="extends itself"):
        recipes.load(str(tmp_path / "a.yaml"))
