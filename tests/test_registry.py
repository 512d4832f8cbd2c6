"""Plugins: local file, clashes and broken contracts."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from vcsf_cli.commands import COMMANDS
from vcsf_cli.errors import DataError, PluginError, UnknownName
from vcsf_cli.registry import HOOKS, Registry

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
        (loss("mine", "**anything"), "takes anything (`**anything`)"),
        ("@hookimpl\ndef vcsf_losses():\n    return [1]\n", "returns list"),
        ("@hookimpl\ndef vcsf_losses():\n    return {'mine': 3}\n", "not a function or class"),
        ("@hookimpl\ndef vcsf_losses():\n    raise RuntimeError('bang')\n", "RuntimeError: bang"),
        ("@hookimpl\ndef vcsf_losses():\n    raise SystemExit('bye')\n", "SystemExit: bye"),
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
        ("import sys\nsys.exit('bye')\n", "SystemExit: bye"),
        ("@hookimpl\ndef vcsf_loses():\n    return {}\n", "unknown hook `vcsf_loses`"),
        ("@hookimpl\ndef vcsf_losses(extra):\n    return {}\n", "breaks a hook's contract"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_named(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(PluginError) as error:
        registry_with(tmp_path, text)
    assert problem in error.value.message
    assert "vcsf_local.py" in error.value.message


def test_a_factory_that_raises_is_blamed_on_its_plugin(tmp_path: Path) -> None:
    text = "def f(*, tau: float = 1.0):\n    raise KeyError(tau)\n@hookimpl\ndef vcsf_losses():\n    return {'mine': f}\n"
    with pytest.raises(PluginError, match="loss `mine`, failed: KeyError"):
        registry_with(tmp_path, text).build("loss", "mine")


DATASET = """
class Mine:
    benchmark = 'mine'
    def videos(self):
        return {}['videos']
    def remarks(self):
        return []
def f(folder, /):
    return Mine()
@hookimpl
def vcsf_datasets():
    return {'mine': f}
"""


def test_what_a_component_raises_later_is_blamed_on_its_plugin(tmp_path: Path) -> None:
    registry = registry_with(tmp_path, DATASET)
    dataset = registry.build("dataset", "mine", tmp_path)
    with pytest.raises(PluginError) as error, registry.blame_for("dataset", "mine"):
        dataset.videos()
    assert "vcsf_local.py`, dataset `mine`, failed: KeyError: 'videos'" in error.value.message
    with registry.blame_for("dataset", "mine"):
        assert dataset.remarks() == []


@pytest.mark.parametrize(
    "fault", [DataError("a video is missing"), OSError(errno.ENOSPC, "No space left on device")]
)
def test_data_and_disk_are_not_blamed_on_a_plugin(tmp_path: Path, fault: Exception) -> None:
    with (
        pytest.raises(type(fault)) as error,
        registry_with(tmp_path, DATASET).blame_for("dataset", "mine"),
    ):
        raise fault
    assert error.value is fault


@pytest.mark.parametrize(
    ("text", "warnings"),
    [
        (
            "def vcsf_losses():\n    return {}\n",
            ["./vcsf_local.py implements no hook; is @hookimpl missing?"],
        ),
        (
            "@hookimpl\ndef vcsf_losses():\n    return {}\ndef vcsf_samplers():\n    return {}\n",
            ["`vcsf_samplers` of ./vcsf_local.py is not called; is @hookimpl missing?"],
        ),
        ("@hookimpl\ndef vcsf_losses():\n    return {}\n", []),
    ],
)
def test_a_forgotten_hookimpl_is_noticed(tmp_path: Path, text: str, warnings: list[str]) -> None:
    assert registry_with(tmp_path, text).unmarked() == warnings


def test_an_unknown_name_gets_a_hint() -> None:
    with pytest.raises(UnknownName) as error:
        Registry(None).find("backbone", "s3")
    assert error.value.hint == "did you mean `s3d`?"


CLASS = """
class Base:
    'What others build on.'
class Mine(Base):
    {documentation!r}
    def __init__(self, *, tau: float = 1.0) -> None:
        {more!r}
@hookimpl
def vcsf_losses():
    return {{'mine': Mine}}
"""


@pytest.mark.parametrize(
    ("documentation", "more", "summary", "help"),
    [
        ("A loss.", "Start it.", "A loss.", ""),
        ("A loss.\n\nArgs:\n    tau: Softness.", "Start it.", "A loss.", "Softness."),
        ("A loss.", "Start it.\n\nArgs:\n    tau: Softness.", "A loss.", "Softness."),
        (None, None, "", ""),
    ],
)
def test_a_class_is_described_by_its_own_docstring(
    tmp_path: Path, documentation: str | None, more: str | None, summary: str, help: str
) -> None:
    component = registry_with(tmp_path, CLASS.format(documentation=documentation, more=more)).find(
        "loss", "mine"
    )
    assert (component.summary, component.parameters["tau"].help) == (summary, help)


@pytest.mark.parametrize(
    ("kind", "hook", "positional", "missing"),
    [
        ("backbone", "vcsf_backbones", (), "channels"),
        ("motion", "vcsf_motion_modules", (8,), "forward"),
        ("sampler", "vcsf_samplers", (), "length"),
        ("loss", "vcsf_losses", (), "queue"),
        ("dataset", "vcsf_datasets", (Path(),), "benchmark"),
        ("decoder", "vcsf_decoders", (), "open"),
    ],
)
def test_a_factory_that_returns_something_else_is_named(
    tmp_path: Path, kind: str, hook: str, positional: tuple[object, ...], missing: str
) -> None:
    text = f"def f(x=None, /):\n    return 3\n@hookimpl\ndef {hook}():\n    return {{'mine': f}}\n"
    with pytest.raises(PluginError) as error:
        registry_with(tmp_path, text).build(kind, "mine", *positional)
    assert error.value.message.endswith(
        f"vcsf_local.py` returns int as {kind} `mine`, which has no `{missing}`"
    )
    assert error.value.hint == f"see `{hook}` in `vcsf_cli.hookspecs`"


@pytest.mark.parametrize(
    ("hook", "returned", "problem"),
    [
        ("vcsf_recipe_dirs", "None", "returns NoneType from `vcsf_recipe_dirs`"),
        ("vcsf_recipe_dirs", "[3]", "returns int from `vcsf_recipe_dirs`"),
        ("vcsf_commands", "None", "returns NoneType from `vcsf_commands`"),
        ("vcsf_commands", "[len]", "returns builtin_function_or_method from `vcsf_commands`"),
        (
            "vcsf_commands",
            "[click.Command('retrieve')]",
            "command `retrieve` is registered by both `vcsf` and",
        ),
        (
            "vcsf_commands",
            "[click.Command('a'), click.Command('a')]",
            "command `a` is registered by both",
        ),
    ],
)
def test_wrong_folders_and_commands_name_the_plugin(
    tmp_path: Path, hook: str, returned: str, problem: str
) -> None:
    registry = registry_with(
        tmp_path, f"import click\n@hookimpl\ndef {hook}():\n    return {returned}\n"
    )
    with pytest.raises(PluginError) as error:
        registry.recipe_dirs() if hook == "vcsf_recipe_dirs" else registry.commands(COMMANDS)
    assert problem in error.value.message
    assert "vcsf_local.py" in error.value.message


def test_a_local_plugin_is_imported_by_processes_that_start_afresh(tmp_path: Path) -> None:
    (tmp_path / "vcsf_local.py").write_text("class Mine:\n    pass\n")
    code = (
        "import multiprocessing, sys; from pathlib import Path; from vcsf_cli.registry import "
        "Registry\n"
        "if __name__ == '__main__':\n"
        "    Registry(Path(sys.argv[1]))\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(type(pool.map(id, [sys.modules['vcsf_local'].Mine()])[0]))\n"
    )
    (tmp_path / "other").mkdir()
    program = tmp_path / "other" / "program.py"
    program.write_text(code)
    command = [sys.executable, program, tmp_path / "vcsf_local.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout) == (0, "<class 'int'>\n"), done.stderr
