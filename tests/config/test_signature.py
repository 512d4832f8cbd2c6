"""A factory's signature as the schema of its node."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vcsf_cli.config.check import Checker
from vcsf_cli.errors import PluginError
from vcsf_cli.registry import describe


def factory(*, copy: int, json: tuple[float, ...] = (1,), source: Path | None = None) -> None:
    """A component whose parameters are called like methods of pydantic's models.

    Args:
        copy: How often.
    """


COMPONENT = describe("loss", "mine", factory, "a plugin")


def settings(tree: Any, **options: Any) -> tuple[Any, list[str]]:
    checker = Checker({})
    return checker.settings(COMPONENT, tree, ("loss",), **options), [
        problem.message for problem in checker.problems
    ]


@pytest.mark.filterwarnings("error")
def test_settings_have_the_types_of_the_signature_and_its_defaults() -> None:
    assert settings({"copy": 2}) == ({"copy": 2, "json": (1,), "source": None}, [])
    full = {"copy": 2, "json": [1, 2], "source": "a/b"}
    assert settings(full)[0] == {"copy": 2, "json": (1.0, 2.0), "source": Path("a/b")}
    own = {"after": (list[int], [2])}
    assert settings({"json": []}, own=own, partial=True)[0] == {"after": [2], "json": ()}


def test_all_problems_are_reported() -> None:
    assert settings({"json": [1, "a"], "sorce": "a", "source": 3}) == (
        None,
        [
            "loss `mine` needs `loss.copy`",
            "`loss.json` is [1, 'a']: input should be a valid number",
            "`loss.source` is 3: input should be a valid string",
            "unknown parameter `sorce` of loss `mine` at `loss.sorce`",
        ],
    )


@pytest.mark.parametrize(
    "problem", ['"is odd", key="loss.mark"', '"is odd", key="mark"', '"`loss.mark` is odd"']
)
def test_a_factory_names_the_key_that_is_wrong(tmp_path: Path, problem: str) -> None:
    """By `RecipeError.key`, or in backquotes as plugins did before there was one."""
    plugin = tmp_path / "vcsf_local.py"
    plugin.write_text(
        "from vcsf_cli import hookimpl\nfrom vcsf_cli.errors import RecipeError\n"
        f"def odd(*, mark: int = 1):\n    raise RecipeError({problem})\n"
        "@hookimpl\ndef vcsf_losses():\n    return {'odd': odd}\n"
    )
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("extends: demo\nloss:\n  name: odd\n  mark: 3\n")
    command = [sys.executable, "-m", "vcsf_cli", "recipes", "show", "mine.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "error: `loss.mark` (mine.yaml:4) is odd\n" in done.stderr


def test_a_parameter_that_pydantic_cannot_hold_is_the_plugins_fault() -> None:
    def odd(*, _private: int = 1) -> None:
        pass

    with pytest.raises(PluginError, match="plugin `a plugin`, loss `odd`, failed"):
        Checker({}).settings(describe("loss", "odd", odd, "a plugin"), {}, ())
