"""Plugins: local file, clashes, broken contracts, and the example package."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vcsf_cli.errors import PluginError, UnknownName
from vcsf_cli.registry import HOOKS, Registry

CHECKOUT = Path(__file__).parent.parent
HEAD = "from vcsf_cli import hookimpl\n"


def registry_with(folder: Path, text: str) -> Registry:
    path = folder / "vcsf_local.py"
    path.write_text(HEAD + text, encoding="utf-8")
    return Registry(path)


def loss(name: str, signature: str) -> str:
    return f"def f({signature}):\n    'A loss.'\n@hookimpl\ndef vcsf_losses():\n    return {{{name!r}: f}}\n"


def test_every_first_party_component_is_described() -> None:
    registry = Registry(None)
    for kind in HOOKS:
        assert registry.components(kind)
        for component in registry.components(kind).values():
            assert component.plugin == "vcsf_plugins"
            assert component.summary.endswith((".", ")"))
            for parameter in component.parameters.values():
                assert parameter.help, f"{kind} {component.name}: {parameter.name} has no help"


def test_a_local_plugin_adds_a_component(tmp_path: Path) -> None:
    component = registry_with(tmp_path, loss("mine", "*, tau: float = 0.3")).find("loss", "mine")
    assert component.plugin.endswith("vcsf_local.py")
    assert component.parameters["tau"].default == 0.3


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (loss("infonce", "*, tau: float = 1.0"), "registered by both `vcsf_plugins` and"),
        (loss("mine", "tau"), "not keyword-only"),
        ("@hookimpl\ndef vcsf_losses():\n    return [1]\n", "returns list"),
        ("@hookimpl\ndef vcsf_losses():\n    return {'mine': 3}\n", "no function or class"),
        ("@hookimpl\ndef vcsf_losses():\n    raise RuntimeError('bang')\n", "RuntimeError: bang"),
    ],
)
def test_a_broken_registration_names_the_plugin(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(PluginError) as error:
        registry_with(tmp_path, text).components("loss")
    assert problem in error.value.message
    assert "vcsf_local.py" in error.value.message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1 / 0\n", "ZeroDivisionError"),
        ("def broken(:\n", "SyntaxError"),
        ("@hookimpl\ndef vcsf_loses():\n    return {}\n", "unknown hook `vcsf_loses`"),
        ("@hookimpl\ndef vcsf_losses(extra):\n    return {}\n", "breaks a hook's contract"),
    ],
)
def test_a_plugin_that_can_not_be_loaded_is_named(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(PluginError) as error:
        registry_with(tmp_path, text)
    assert problem in error.value.message
    assert "vcsf_local.py" in error.value.message


def test_a_factory_that_raises_is_blamed_on_its_plugin(tmp_path: Path) -> None:
    text = (
        "def f(*, tau: float = 1.0):\n    raise KeyError(tau)\n@hookimpl\ndef vcsf_losses():\n    return {'mine': f}\n"
    )
    with pytest.raises(PluginError, match="loss `mine`, failed: KeyError"):
        registry_with(tmp_path, text).build("loss", "mine")


def test_an_unknown_name_gets_a_hint() -> None:
    with pytest.raises(UnknownName) as error:
        Registry(None).find("backbone", "s3")
    assert error.value.hint == "did you mean `s3d`?"


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of its own with the example plugin installed."""
    folder = tmp_path_factory.mktemp("example")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", folder,
         CHECKOUT / "plugins" / "example"],
        check=True,
    )  # fmt: skip
    return folder


def test_the_example_package_is_found_through_its_entry_point(example: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(example)}
    command = [sys.executable, "-m", "vcsf_cli", "plugins"]
    listed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    for name in ("frame_average", "added_change", "beginning", "in_batch"):
        assert any(name in line and "example" in line for line in listed.splitlines())
    described = subprocess.run(
        [*command, "loss", "in_batch"], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "temperature: float, default 0.1" in described
