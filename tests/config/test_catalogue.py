"""Recipes, protocols and tables are found by name, and those of plugins beside vcsf's own."""

import subprocess
import sys
from pathlib import Path

import pytest

from vcsf_cli.config.catalogue import OWN_FOLDER, PROTOCOLS, RECIPES, TABLES, Catalogue
from vcsf_cli.errors import InputError


@pytest.mark.parametrize(
    ("catalogue", "name", "path"),
    [
        (RECIPES, "demo", "demo.yaml"),
        (PROTOCOLS, "linear", "protocols/linear.yaml"),
        (TABLES, "motion", "tables/motion.yaml"),
    ],
)
def test_a_file_is_found_by_name_and_as_typed_in_a_checkout(
    catalogue: Catalogue,
    name: str,
    path: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert catalogue.find(name) == OWN_FOLDER / path
    assert capsys.readouterr().err == ""
    assert catalogue.find(f"recipes/{path}") == OWN_FOLDER / path
    kind = catalogue.kind
    assert f"using the {kind} `{name}` that vcsf brought along" in capsys.readouterr().err
    with pytest.raises(InputError, match=f"there is no {kind} {name}x") as error:
        catalogue.find(f"{name}x")
    assert error.value.hint == f"did you mean `{name}`?"
    Path(name).touch()
    assert catalogue.find(name) == Path(name)


def test_a_kind_holds_no_files_of_another() -> None:
    assert not {name for name in RECIPES.files() if "/" in name}
    assert "published" not in TABLES.files()


def test_two_protocols_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine" / "protocols").mkdir(parents=True)
    (tmp_path / "mine" / "protocols" / "linear.yaml").touch()
    plugin = tmp_path / "vcsf_local.py"
    plugin.write_text(
        "from pathlib import Path\nfrom vcsf_cli import hookimpl\n"
        "@hookimpl\ndef vcsf_recipe_dirs():\n    return [Path('mine')]\n"
    )
    command = [sys.executable, "-m", "vcsf_cli", "finetune", "x", "--linear", "--dry-run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"protocol `linear` is brought by both `vcsf` and `{plugin}`" in done.stderr
