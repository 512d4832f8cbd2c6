"""The wheel is all that a user needs: built, installed into a folder of its own, run away from the
checkout."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
YAML = {path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "recipes").rglob("*.yaml")}
PROTOCOLS = {path for path in YAML if path.startswith("recipes/protocols/")}
TABLES = {path for path in YAML if path.startswith("recipes/tables/")}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that was made from it."""
    folder = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder)]
    subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        folder,
        wheel,
    ]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def python(
    installed: Path, elsewhere: Path, *arguments: object, **variables: object
) -> tuple[int, str, str]:
    """Python with the installed wheel and its dependencies, but without `.pth` files: an editable
    checkout is unseen."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("VCSF_")
    }
    environment["PYTHONPATH"] = os.pathsep.join([str(installed), *dependencies()])
    environment |= {"OMP_NUM_THREADS": "1"} | {
        name: str(value) for name, value in variables.items()
    }
    command = [sys.executable, "-S", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def dependencies() -> list[str]:
    paths = sysconfig.get_paths()
    return list(dict.fromkeys([paths["purelib"], paths["platlib"]]))


def test_a_package_index_would_take_both_distributions(built: Path) -> None:
    files = sorted(map(str, built.iterdir()))
    assert [Path(file).suffix for file in files] == [".whl", ".gz"]
    command = [sys.executable, "-m", "twine", "check", "--strict", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("PASSED")) == (0, 2), done.stdout


def test_the_wheel_holds_the_program_its_plugin_and_the_recipes_alone(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"vcsf_cli", "vcsf_plugins"}
    assert len(tops) == 3
    for package in (CHECKOUT / "vcsf_cli", CHECKOUT / "plugins" / "vcsf_plugins"):
        files = [
            path for path in package.rglob("*") if path.suffix in (".py", ".html", ".css", ".js")
        ]
        assert {path.relative_to(package.parent).as_posix() for path in files} <= names
        assert f"{package.name}/py.typed" in names
    assert {name for name in names if name.endswith(".yaml")} == {
        f"vcsf_cli/{recipe}" for recipe in YAML
    }
    kinds = {Path(name).suffix for name in names if ".dist-info/" not in name}
    assert kinds == {".py", ".yaml", ".html", ".css", ".js", ".jinja", ".typed"}


def test_what_is_imported_is_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = (
        "import sys, vcsf_cli, vcsf_plugins\n"
        "print(vcsf_cli.__file__, vcsf_plugins.__file__, vcsf_cli.__version__, *sys.path, "
        "sep='\\n')"
    )
    status, out, error = python(installed, tmp_path, "-c", code)
    assert status == 0, error
    program, plugin, version, *path = out.splitlines()
    assert Path(program) == installed / "vcsf_cli" / "__init__.py"
    assert Path(plugin) == installed / "vcsf_plugins" / "__init__.py"
    assert version in next(installed.glob("vcsf-*.dist-info")).name
    assert not {CHECKOUT, CHECKOUT / "plugins"} & {Path(folder) for folder in path}


def test_recipes_are_found_by_name(installed: Path, tmp_path: Path) -> None:
    status, out, error = python(installed, tmp_path, "-m", "vcsf_cli", "recipes", "show", "demo")
    assert (status, error) == (0, "")
    assert out.startswith("name: demo\n")
    _, out, _ = python(installed, tmp_path, "-m", "vcsf_cli", "recipes")
    assert {
        f"recipes/{line.split()[0]}.yaml" for line in out.splitlines()
    } == YAML - PROTOCOLS - TABLES


def test_protocols_are_found_by_name(installed: Path, tmp_path: Path) -> None:
    code = (
        "from vcsf_cli.config.catalogue import PROTOCOLS\nfrom vcsf_cli.config.protocol import "
        "load\n"
        "for name in PROTOCOLS.files(): print(load(name).name)"
    )
    status, out, error = python(installed, tmp_path, "-c", code)
    assert status == 0, error
    assert {f"recipes/protocols/{name}.yaml" for name in out.splitlines()} == PROTOCOLS


def test_plugins_are_registered(installed: Path, tmp_path: Path) -> None:
    status, out, error = python(installed, tmp_path, "-m", "vcsf_cli", "plugins", "dataset")
    assert status == 0, error
    assert out.splitlines()[1].split()[:2] == ["ucf101", "vcsf_plugins"]


def test_a_training_is_rehearsed_with_the_recipe_that_the_readme_names(
    installed: Path, tmp_path: Path, tiny_data: Path
) -> None:
    settings = ["data.name=synthetic", "data.size=32", "train.batch=4", "loss.queue=4"]
    settings += ["stages.1.loss.queue=4", "stages.1.loss.neighbours=1", "backbone.name=small"]
    command = ["-m", "vcsf_cli", "pretrain", "recipes/vcsf.yaml", "--dry-run"]
    command += [word for setting in settings for word in ("--set", setting)]
    status, out, error = python(installed, tmp_path, *command, VCSF_DATA=tiny_data)
    assert status == 0, error
    assert out.startswith("name: vcsf\n")
    assert "using the recipe `vcsf` that vcsf brought along" in error
    assert "estimated time: " in error
    assert list(tmp_path.iterdir()) == []


def test_the_script_is_the_same_program(installed: Path, tmp_path: Path) -> None:
    status, out, _ = python(installed, tmp_path, installed / "bin" / "vcsf", "--version")
    assert (status, out) == python(installed, tmp_path, "-m", "vcsf_cli", "--version")[:2]
    assert status == 0
