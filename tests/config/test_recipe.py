"""Recipes: resolving, replacing components, and all errors at once."""

from pathlib import Path

import pytest

from vcsf_cli.config import recipe as recipes
from vcsf_cli.config.catalogue import RECIPES
from vcsf_cli.errors import InputError, RecipeError

NAMES = sorted(RECIPES.files())


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
    write(
        tmp_path,
        "extends: demo\nname: base\nbackbone: {channels: [4, 8, 8, 16]}\ntrain: {epochs: 3}",
        "base.yaml",
    )
    same = recipes.load(write(tmp_path, "extends: base.yaml\nname: a\ntrain: {batch: 8}"))
    assert same.tree["backbone"] == {
        "name": "small",
        "channels": [4, 8, 8, 16],
        "temporal_strides": None,
    }
    assert (same.first_stage.train.epochs, same.first_stage.train.batch) == (3, 8)
    other = recipes.load(write(tmp_path, "extends: base.yaml\nname: b\nbackbone: {name: r3d18}"))
    assert other.tree["backbone"] == {"name": "r3d18", "temporal_strides": None}


def test_set_names_another_component_without_stale_settings() -> None:
    recipe = recipes.load("vcsf", ["motion.name=none"])
    assert recipe.tree["motion"] == {"name": "none"}
    assert recipes.load("vcsf", ["motion=none"]).hash == recipe.hash
    assert recipes.load("vcsf", ["data.name=mine"]).tree["data"] == {
        "name": "mine",
        "split": 1,
        "size": 128,
    }


def test_set_splits_at_the_first_equals_sign_and_reads_yaml() -> None:
    recipe = recipes.load(
        "demo", ["name=a.b", "optim.lr=1e-2", "augment.area=[0.5, 1]", "fast.input=rgb"]
    )
    assert recipe.name == "a.b"
    assert recipe.first_stage.optim.lr == 0.01
    assert recipe.first_stage.augment.area == (0.5, 1.0)
    assert recipe.tree["fast"]["input"] == "rgb"


@pytest.mark.parametrize("name", ["2024", "1e5", "true", "null", "1.0"])
def test_a_name_given_by_set_is_text_whatever_it_looks_like(name: str) -> None:
    recipe = recipes.load("demo", [f"data.name={name}", f"name={name}"])
    assert (recipe.name, recipe.first_stage.data.name) == (name, name)
    with pytest.raises(RecipeError, match=f"unknown loss `{name}` at `loss.name`"):
        recipes.load("demo", [f"loss.name={name}"])


def test_stages_inherit_what_they_do_not_name(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "extends: demo\nstages:\n  - {}\n  - {loss: {temperature: 0.2}, train: {epochs: 2}}\n",
    )
    recipe = recipes.load(path, ["stages.1.optim.lr=0.5"])
    first, second = recipe.stages
    assert first.train.epochs == recipes.load("demo").first_stage.train.epochs
    assert second.loss.settings == {
        **recipes.load("demo").first_stage.loss.settings,
        "temperature": 0.2,
    }
    assert (second.train.epochs, second.train.batch, second.optim.lr) == (2, 32, 0.5)


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("demo", "90289a3f35dc"),
        ("smoke", "acd7ce52cfa2"),
        ("quick", "d4c547b05671"),
        ("ucf28_cpu", "c9203fac60a6"),
        ("ten_classes", "700e5de6bbcf"),
        ("vcsf", "5804b6dce40e"),
        ("vcsf_coclr", "3d81979856e9"),
        ("vcsf_r3d18", "645b3fd1708f"),
        ("vcsf_r2plus1d18", "3c96dc7422d9"),
        ("vcsf_hmdb51", "36264d37bb14"),
        ("h200", "735a6b4c45b9"),
    ],
)
def test_runs_of_shipped_recipes_are_found_again(name: str, digest: str) -> None:
    """The hash names the run folder: if it changes, everybody's runs are trained anew."""
    assert recipes.load(name).hash == digest


def test_runs_of_recipes_that_had_another_name_go_on() -> None:
    assert recipes.load("vcsf_coclr", ["name=vcsf"]).hash == "70cac8857c28"
    assert recipes.load("ten_classes", ["name=ucf28_cpu"]).hash == "51a17f78581f"


def test_the_hash_depends_on_every_value_and_on_no_path(tmp_path: Path) -> None:
    path = write(tmp_path, Path(RECIPES.find("demo")).read_text())
    assert recipes.load(path).hash == recipes.load("demo").hash
    changes = [
        "seed=1",
        "loss.temperature=0.08",
        "motion.reduction=8",
        "train.epochs=21",
        "slow.input=difference",
    ]
    hashes = {recipes.load("demo", [change]).hash for change in changes} | {
        recipes.load("demo").hash
    }
    assert len(hashes) == len(changes) + 1


def test_all_problems_at_once_with_line_and_hint(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "extends: demo\nloss:\n  temprature: 1\noptim: {lr: fast, drops: [50]}\ntrian: {epochs: "
        "3}\n"
        "sampler: {name: slow_fst}\nmotion: {after: [two]}\nseed: no\nfast: {input: flow}\n",
    )
    with pytest.raises(RecipeError) as error:
        recipes.load(path)
    message, hint = error.value.message, error.value.hint
    for part in (
        "unknown parameter `temprature` of loss `infonce` at `loss.temprature` (", "mine.yaml:3)",
        "`optim.lr`", "is 'fast'", "unknown key `trian`", "unknown sampler "
                                                          "`slow_fst`", "`motion.after`",
        "`seed`", "is 'no'", "`fast.input`",
    ):  # fmt: skip
        assert part in message
    assert "did you mean `temperature`?" in hint
    assert "did you mean `train`?" in hint


def test_a_problem_of_set_has_no_line() -> None:
    with pytest.raises(RecipeError) as error:
        recipes.load("vcsf", ["loss.temprature=1"])
    assert (
        error.value.message
        == "unknown parameter `temprature` of loss `infonce` at `loss.temprature`"
    )
    assert error.value.hint == "did you mean `temperature`?"


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [
        ("loss.temperature", "not an assignment"),
        ("name.x=1", "is a value"),
        ("stages.3.train=1", "there is no"),
        ("stages=[{loss: infonse}]", "unknown loss"),
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


def test_recipes_are_found_by_name_and_as_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert recipes.load("demo").name == "demo"
    assert recipes.load("recipes/vcsf.yaml").name == "vcsf"
    with pytest.raises(InputError, match="no recipe") as error:
        recipes.load("demmo")
    assert "demo" in error.value.hint


def test_a_folder_of_a_recipes_name_does_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("demo", "other"):
        (tmp_path / folder).mkdir()
    assert recipes.load("demo").name == "demo"
    with pytest.raises(InputError, match="other is a folder, not a recipe"):
        recipes.load("other")


def test_another_backbone_forgets_what_the_pathways_changed_in_the_old_one(tmp_path: Path) -> None:
    base = write(
        tmp_path,
        "extends: demo\nslow: {temporal_strides: [1, 1, 1, 1]}\nfast: {input: rgb}",
        "base.yaml",
    )
    assert recipes.load(base).tree["slow"] == {"input": "rgb", "temporal_strides": [1, 1, 1, 1]}
    assert recipes.load(base, ["backbone.name=r3d18"]).tree["slow"] == {"input": "rgb"}
    other = write(
        tmp_path, "extends: base.yaml\nbackbone: r3d18\nfast: {temporal_strides: [1, 2, 2, 2]}"
    )
    assert recipes.load(other).tree["slow"] == {"input": "rgb"}
    assert recipes.load(other).tree["fast"] == {"input": "rgb", "temporal_strides": [1, 2, 2, 2]}


def test_naming_the_component_that_is_the_default_keeps_its_settings(tmp_path: Path) -> None:
    text = "name: a\ndata: {name: b}\nbackbone: small\nsampler: {frames: 8}\ntrain: {epochs: 1}\n"
    path = write(tmp_path, text)
    assert recipes.load(path, ["sampler.name=slow_fast"]).hash == recipes.load(path).hash
    above = write(
        tmp_path, "extends: mine.yaml\nsampler: {name: slow_fast, alpha: 2}", "above.yaml"
    )
    assert recipes.load(above).tree["sampler"]["frames"] == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: demmo", "`extends` ({path}:1): there is no recipe demmo"),
        ("extends: demo\nloss: infonse", "unknown loss `infonse` at `loss.name` ({path}:2)"),
        (
            "extends: demo\nstages:\n  - loss: infonse",
            "unknown loss `infonse` at `stages.0.loss.name` ({path}:3)",
        ),
        ("extends: demo\nstages: 3", "`stages` ({path}:2) is not a list of stages"),
        (
            "extends: demo\nstages: [{trian: {}}]",
            "unknown key `trian` at `stages.0.trian` ({path}:2)",
        ),
        (
            "extends: demo\nloss: {quue: 1}\nstages: [{}, {seed: 1}, {train: {epochs: 0}}]",
            "3 problems in the recipe\n"
            "  - unknown parameter `quue` of loss `infonce` at `loss.quue` ({path}:2)\n"
            "  - unknown key `seed` at `stages.1.seed` ({path}:3)\n"
            "  - `stages.2.train.epochs` ({path}:3) is 0: input should be greater than 0",
        ),
    ],
)
def test_every_problem_is_reported_once_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(RecipeError) as error:
        recipes.load(path)
    assert error.value.message == message.format(path=path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "sampler: {alpha: 5}",
            "`sampler.alpha` ({path}:2) is 5, which does not divide the 32 frames of a window",
        ),
        (
            "sampler:\n  frames: 30\n  name: slow_fast",
            "`sampler` ({path}:2): `sampler.alpha` is 4, which does not divide the 30 frames of a "
            "window",
        ),
        (
            "stages: [{},\n  {sampler: {alpha: 5}}]",
            "`stages.1.sampler.alpha` ({path}:3) is 5, which does not divide the 32 frames of a "
            "window",
        ),
        (
            "optim: {name: adm}\nstages: [{}, {}]",
            "unknown optimiser `adm` at `optim.name` ({path}:2)",
        ),
        (
            "sampler: {alpha: 5}\noptim: {name: adm, lr: fast}\nstages: [{}, {}]",
            "3 problems in the recipe\n"
            "  - `sampler.alpha` ({path}:2) is 5, which does not divide the 32 frames of a window\n"
            "  - unknown optimiser `adm` at `optim.name` ({path}:3)\n"
            "  - `optim.lr` ({path}:3) is 'fast': input should be a valid number",
        ),
    ],
)
def test_what_only_a_factory_sees_is_reported_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    base = "name: a\nbackbone: small\ndata: {name: b}\ntrain: {epochs: 1}\n"
    write(tmp_path, base, "base.yaml")
    path = write(tmp_path, f"extends: base.yaml\n{text}\n")
    with pytest.raises(RecipeError) as error:
        recipes.load(path)
    assert error.value.message == message.format(path=path)


def test_every_wrong_assignment_is_reported_beside_all_other_problems() -> None:
    with pytest.raises(RecipeError) as error:
        recipes.load(
            "demo",
            [
                "optim.name=adm",
                "loss.temperature",
                "sampler.alpha=5",
                "name.x=1",
                "loss.temprature=1",
                "seed=[1",
            ],
        )
    first, *problems = error.value.message.splitlines()
    assert first == "6 problems in the recipe"
    assert [problem.removeprefix("  - ") for problem in problems] == [
        "--set loss.temperature is not an assignment",
        "--set name.x: `name` is a value, not a node",
        "--set seed:1 is not YAML: expected ',' or ']', but got '<stream end>'",
        "`sampler.alpha` is 5, which does not divide the 16 frames of a window",
        "unknown parameter `temprature` of loss `infonce` at `loss.temprature`",
        "unknown optimiser `adm` at `optim.name`",
    ]


LENGTHS = "needs 4 values, has "


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("backbone.channels=[4]", f"`backbone.channels` is [4]: {LENGTHS}1"),
        (
            "backbone.channels=[4, 4, 4, 4, 4]",
            f"`backbone.channels` is [4, 4, 4, 4, 4]: {LENGTHS}5",
        ),
        (
            "backbone.channels=[4, a, b, 4]",
            "`backbone.channels` is [4, 'a', 'b', 4]: input should be a valid integer",
        ),
        ("slow.temporal_strides=[1]", f"`slow.temporal_strides` is [1]: {LENGTHS}1"),
        ("slow.chanels=[1]", "unknown parameter `chanels` of backbone `small` at `slow.chanels`"),
        ("augment.jitter=[1]", f"`augment.jitter` is [1]: {LENGTHS}1"),
        ("optim.drops=[3, 0, 0]", "`optim.drops` is [3, 0, 0]: input should be greater than 0"),
        (
            "speed.fused=3",
            "`speed.fused` is 3: input should be 'auto'; input should be a valid boolean",
        ),
        ("augment.jitter=[1, 1, 1, 1, 1]", f"`augment.jitter` is [1, 1, 1, 1, 1]: {LENGTHS}5"),
    ],
)
def test_a_value_that_does_not_fit_is_reported_once(assignment: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        recipes.load("demo", [assignment])
    assert error.value.message == message


@pytest.mark.parametrize(
    ("assignment", "message", "hint"),
    [
        (
            "data=synthetic",
            "`data` is 'synthetic': input should be an object",
            "write its keys: data.name, data.split, data.size",
        ),
        ("data.split=4", "`data.split` is 4: input should be 1, 2 or 3", "known: 1, 2, 3"),
        (
            "augment.area=[0.5, 0.2]",
            "`augment.area` is [0.5, 0.2]: write two positive numbers, the smaller first",
            "the default is [0.2, 1.0]",
        ),
        (
            "augment.area=[0.5, 2]",
            "`augment.area` is [0.5, 2]: a fraction is at most 1",
            "the default is [0.2, 1.0]",
        ),
        (
            "optim.lr=fast",
            "`optim.lr` is 'fast': input should be a valid number",
            "the default is 0.001",
        ),
        (
            "optim.lr=.inf",
            "`optim.lr` is inf: input should be a finite number",
            "the default is 0.001",
        ),
        (
            "optim.weight_decay=.nan",
            "`optim.weight_decay` is nan: input should be a finite number",
            "the default is 1e-05",
        ),
        (
            "loss.temperature=.inf",
            "`loss.temperature` is inf: input should be a finite number",
            "loss `infonce`: Softness of the similarity, tau in the paper.",
        ),
        (
            f"name={'a' * 101}",
            f"`name` is '{'a' * 101}': give at most 100 letters: folders bear it",
            "",
        ),
        ("name=a/b", "`name` is 'a/b': give letters, digits, `-`, `_` and `.`", ""),
        ("data.name=../x", "`data.name` is '../x': give the name of a folder in --data", ""),
        ("data.name=..", "`data.name` is '..': give the name of a folder in --data", ""),
        (
            "seed=2147483648",
            "`seed` is 2147483648: input should be less than or equal to 2147483647",
            "the default is 0",
        ),
        (
            "seed=99999999999",
            "`seed` is 99999999999: input should be less than or equal to 2147483647",
            "the default is 0",
        ),
    ],
)
def test_a_wrong_value_is_reported_with_what_to_write(
    assignment: str, message: str, hint: str
) -> None:
    with pytest.raises(RecipeError) as error:
        recipes.load("demo", [assignment])
    assert (error.value.message, error.value.hint) == (message, hint)


def test_the_largest_seed_is_fine() -> None:
    assert recipes.load("demo", ["seed=2147483647"]).seed == 2**31 - 1


def test_a_recipe_that_extends_itself_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "extends: b.yaml", "a.yaml")
    write(tmp_path, "extends: a.yaml", "b.yaml")
    with pytest.raises(RecipeError, match="extends itself"):
        recipes.load(str(tmp_path / "a.yaml"))


AUXILIARY = "auxiliary_losses: [{name: temporal_contrast, weight: 0.5}]"


def test_auxiliary_losses_are_inherited_replaced_and_left_out_by_stages(tmp_path: Path) -> None:
    stages = "stages: [{}, {auxiliary_losses: [supervised]}, {auxiliary_losses: []}]"
    path = write(tmp_path, f"extends: demo\n{AUXILIARY}\n{stages}\n")
    recipe = recipes.load(path, ["auxiliary_losses.0.pathways=[fast]"])
    first, second, third = (stage.auxiliary_losses for stage in recipe.stages)
    (temporal,) = first
    assert (temporal.name, temporal.settings["weight"]) == ("temporal_contrast", 0.5)
    assert temporal.settings["pathways"] == ("fast",)
    assert [loss.name for loss in second] == ["supervised"]
    assert second[0].settings["weight"] == 1.0
    assert third == ()
    again = recipes.load(write(tmp_path, recipe.yaml(), "again.yaml"))
    assert (again.tree, again.hash) == (recipe.tree, recipe.hash)
    assert again.stages == recipe.stages


def test_no_auxiliary_losses_are_the_recipe_without_them() -> None:
    assert recipes.load("demo", ["auxiliary_losses=[]"]).hash == recipes.load("demo").hash


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("temporal_contrast", "`auxiliary_losses` ({path}:2) is not a list of losses"),
        ("[temporal]", "unknown loss `temporal` at `auxiliary_losses.0.name` ({path}:2)"),
        (
            "[infonce, {name: temporal_contrast, weihgt: 1}]",
            "unknown parameter `weihgt` of loss `temporal_contrast` at "
            "`auxiliary_losses.1.weihgt` ({path}:2)",
        ),
        ("[{name: temporal_contrast, weight: 0}]", "`auxiliary_losses.0.weight` ({path}:2) is 0"),
        ("[{name: temporal_contrast, pathways: [third]}]", "`auxiliary_losses.0.pathways`"),
        (
            "[{name: temporal_contrast, local_local: 0, global_local: 0}]",
            "`auxiliary_losses.0.local_local` ({path}:2) is 0, as is global_local",
        ),
    ],
)
def test_a_wrong_auxiliary_loss_is_reported_with_its_line(
    text: str, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path, f"extends: demo\nauxiliary_losses: {text}\nstages: [{{}}]\n")
    with pytest.raises(RecipeError) as error:
        recipes.load(path)
    assert error.value.message.startswith(message.format(path=path))
