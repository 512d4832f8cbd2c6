"""`vcsf recipes` as a user types it: list, show, check."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from vcsf_cli.cli import main
from vcsf_cli.config import recipe as recipes
from vcsf_cli.config.catalogue import RECIPES

Vcsf = Callable[..., subprocess.CompletedProcess[str]]


def setting(*assignments: str) -> list[str]:
    return [word for assignment in assignments for word in ("--set", assignment)]


def write(name: str, text: str) -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VCSF_DATA", raising=False)
    return tmp_path


def test_the_list_says_what_each_recipe_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    output = capsys.readouterr()
    listed = dict(line.split(maxsplit=1) for line in output.out.splitlines())
    assert list(listed) == list(RECIPES.files())
    for name, path in RECIPES.files().items():
        assert path.read_text(encoding="utf-8").startswith(f"# {listed[name]}\n")
    assert output.err == "next: vcsf recipes show NAME; tables of recipes: vcsf ablate\n"
    assert main(["recipes", "list"]) == 0
    assert capsys.readouterr() == output


def test_a_recipe_of_a_plugin_is_found_by_name_unless_the_name_is_taken(
    vcsf: Vcsf, folder: Path
) -> None:
    (folder / "more" / "sizes").mkdir(parents=True)
    write("more/sizes/mine.yaml", "# A recipe of mine\nextends: demo\n")
    write("more/empty.yaml", "")
    hook = "@hookimpl\ndef vcsf_recipe_dirs():\n    return [Path('more')]\n"
    write("vcsf_local.py", f"from pathlib import Path\nfrom vcsf_cli import hookimpl\n{hook}")
    listed = vcsf("recipes", cwd=folder).stdout.splitlines()
    assert ["sizes/mine", "A recipe of mine"] in [line.split(maxsplit=1) for line in listed]
    assert "empty" in listed
    write("more/demo.yaml", "extends: smoke\n")
    error = vcsf("recipes", cwd=folder, status=2).stderr
    assert f"recipe `demo` is brought by both `vcsf` and `{folder / 'vcsf_local.py'}`" in error


def test_show_prints_a_whole_recipe_that_is_the_same_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["recipes", "show", "smoke", *setting("loss.temperature=0.2")]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    again = recipes.load(write("again.yaml", output.out))
    assert again.hash == recipes.load("smoke", ["loss.temperature=0.2"]).hash
    assert again.tree["augment"]["grey"] == 0.2
    assert again.tree["optim"]["momentum"] == 0.9


def test_check_takes_all_recipes_if_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "check"]) == 0
    *said, last = capsys.readouterr().err.splitlines()
    assert [line.partition(" is right (")[0] for line in said] == list(RECIPES.files())
    assert all(line.endswith("is not prepared in data: sizes are unchecked)") for line in said)
    assert last == "next: vcsf pretrain RECIPE"


@pytest.mark.parametrize(("queue", "warned"), [(4, False), (5, True)])
def test_check_warns_of_a_queue_of_more_than_half_the_clips(
    queue: int, warned: bool, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = setting(f"loss.queue={queue}", "train.batch=4")
    assert main(["recipes", "check", "demo", "--data", str(tiny_data), *words]) == 0
    right, *warning, last = capsys.readouterr().err.splitlines()
    assert (right, last) == ("demo is right", f"next: vcsf pretrain demo --data {tiny_data}")
    assert len(warning) == warned
    for line in warning:
        assert line.startswith("warning: loss.queue is 5, more than half of the 8 training clips")
        assert "--set loss.queue=4 or less" in line


@pytest.mark.parametrize(("neighbours", "warned"), [(3, False), (4, True), (6, True)])
def test_check_warns_of_more_than_half_the_keys_as_positives(
    neighbours: int, warned: bool, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = setting(f"loss={{name: cross_pathway_bank, neighbours: {neighbours}}}", "train.batch=4")
    assert main(["recipes", "check", "demo", "--data", str(tiny_data), *words]) == 0
    said = capsys.readouterr().err
    text = f"warning: loss.neighbours is {neighbours}, more than half of the 7 keys"
    assert (text in said) == warned


def test_a_loss_that_reads_no_bank_is_refused_beside_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = setting("loss=cross_pathway_bank", "auxiliary_losses=[infonce]")
    assert main(["recipes", "check", "demo", *words]) == 2
    said = capsys.readouterr().err
    assert "puts `infonce`, which can't read a bank, beside `cross_pathway_bank`" in said


def test_check_compares_the_batch_with_the_clips(
    tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipes", "check", "demo", "--data", str(tiny_data)]) == 1
    error = capsys.readouterr().err
    assert "has 8 clips to train on in split 1, fewer than a batch of 32" in error
    assert "--set train.batch=" in error


def test_check_says_everything_that_is_wrong_in_every_recipe(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write("a.yaml", "extends: demo\nloss: {temprature: 1}\ntrain:\n  epoch: 3\n")
    write("b.yaml", "extends: demo\nmotion: {name: diference_gate}\n")
    assert main(["recipes", "check", "a.yaml", "demo", "b.yaml"]) == 2
    assert capsys.readouterr().err == (
        "demo is right (synthetic is not prepared in data: sizes are unchecked)\n"
        "error: 2 of 3 recipes are wrong\n"
        "a.yaml: 2 problems in the recipe\n"
        "    - unknown parameter `temprature` of loss `infonce` at `loss.temprature` (a.yaml:2)\n"
        "    - unknown key `epoch` at `train.epoch` (a.yaml:4)\n"
        "b.yaml: unknown motion `diference_gate` at `motion.name` (b.yaml:2)\n"
        "\n"
        "hint: did you mean `temperature`?\n"
        "      did you mean `epochs`?\n"
        "      did you mean `difference_gate`?\n"
    )


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("motion.after=[2, 5]", "`motion.after` names stage 5, `small` has only 4"),
        (
            "sampler.alpha=5",
            "`sampler.alpha` is 5, which does not divide the 16 frames of a window",
        ),
        ("optim.name=adm", "did you mean `adam`?"),
    ],
)
def test_check_finds_what_only_the_parts_can_see(
    assignment: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipes", "check", "demo", *setting(assignment)]) == 2
    assert said in capsys.readouterr().err
