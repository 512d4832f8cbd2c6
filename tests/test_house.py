"""The house itself: what the documents promise is there, and what CONTRIBUTING.md asks for is
kept."""

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import torch
import vcsf_plugins
from documents import commands_in

import vcsf_cli
from vcsf_cli import hookspecs, registry
from vcsf_cli.ablate.rows import resolve_table
from vcsf_cli.cli import main
from vcsf_cli.commands import COMMANDS
from vcsf_cli.config import catalogue
from vcsf_cli.config import recipe as recipes
from vcsf_cli.config.table import read as read_table
from vcsf_cli.errors import InputError, PluginError, RecipeError, UnknownName, VcsfError

CHECKOUT = Path(__file__).parent.parent
HOOKS = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("vcsf_")}
YAML = sorted(
    path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "recipes").rglob("*.yaml")
)
TABLES = [
    path for path in YAML if path.startswith("recipes/tables/") and Path(path).stem != "published"
]
RECIPES = [path for path in YAML if not path.startswith(("recipes/protocols/", "recipes/tables/"))]
MODULES = sorted(
    path
    for package in ("vcsf_cli", "plugins/vcsf_plugins")
    for path in CHECKOUT.glob(f"{package}/**/*.py")
)

Vcsf = Callable[..., subprocess.CompletedProcess[str]]


def read(name: str) -> str:
    return (CHECKOUT / name).read_text(encoding="utf-8")


# Hooks


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_documented_with_its_signature(name: str) -> None:
    assert inspect.getdoc(HOOKS[name])
    arguments = ", ".join(inspect.signature(HOOKS[name]).parameters)
    assert f"| `{name}({arguments})` |" in read("plugins/README.md")


def test_the_manual_names_no_hook_that_does_not_exist() -> None:
    assert set(re.findall(r"\bvcsf_\w+(?=\()", read("plugins/README.md"))) == set(HOOKS)


# Recipes


def header(recipe: str) -> list[str]:
    """The comment that a recipe begins with, without its marks."""
    lines = iter(read(recipe).splitlines())
    return [
        line.removeprefix("#").strip()
        for line in iter(lambda: next(lines, ""), "")
        if line.startswith("#")
    ]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_says_what_it_is_and_how_to_run_it(recipe: str) -> None:
    first, *others = header(recipe)
    assert len(first) > 20
    assert f"vcsf pretrain {recipe}" in others


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_says_which_backbone_and_temperature(recipe: str) -> None:
    tree = recipes.load(str(CHECKOUT / recipe)).tree
    assert isinstance(tree["backbone"]["name"], str)
    assert tree["loss"]["temperature"] > 0


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


SMALL: dict[str, dict[str, object]] = {
    "train": {"epochs": 1, "batch": 4, "log_every": 1, "check_every": 0, "parts": 2},
    "optim": {"schedule": "constant", "drops": [], "warmup": 0},
    "loss": {"queue": 3, "neighbours": 2},
}


def tiny(tree: dict[str, Any]) -> list[str]:
    """Settings that make a recipe a matter of seconds on the fixture `tiny_data`."""
    # Compiling takes minutes; that a pathway compiles is tested with the networks.
    found = [
        "data.name=synthetic",
        "data.split=1",
        "data.size=32",
        "sampler.frames=16",
        "speed.compile=false",
    ]
    nodes = [
        ("", tree),
        *((f"stages.{index}.", stage) for index, stage in enumerate(tree["stages"])),
    ]
    for prefix, node in nodes:
        for key, values in SMALL.items():
            found += [
                f"{prefix}{key}.{name}={value}"
                for name, value in values.items()
                if name in node.get(key, {})
            ]
        if node.get("loss", {}).get("name") == "cross_pathway_bank":
            found.append(f"{prefix}train.epochs=2")  # the first one fills the bank
    return found


def with_one_large_network(recipe: str, tree: dict[str, Any]) -> list[str]:
    """Settings after which S3D is trained for one recipe only, the larger R3D-18 for one stage, and
    R(2+1)D-18 not at all: most of the time they would write checkpoints of a gigabyte."""
    name = tree["backbone"]["name"]
    if name == "r2plus1d18" or (name == "s3d" and Path(recipe).stem != "vcsf"):
        return ["backbone.name=small"]
    return ["stages=[{}]"] if name == "r3d18" else []


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.usefixtures("one_thread")
def test_every_recipe_trains(
    recipe: str, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CHECKOUT)
    large = with_one_large_network(recipe, recipes.load(recipe).tree)
    settings = [*tiny(recipes.load(recipe, large).tree), *large]
    words = [word for setting in settings for word in ("--set", setting)]
    words += ["--data", str(tiny_data), "--runs", str(tmp_path), "--workers", "0"]
    assert main(["pretrain", recipe, *words, "--devices", "cpu"]) == 0
    (run,) = tmp_path.iterdir()
    again = recipes.load(str(run / "recipe.yaml"))
    assert run.name == f"{again.name}-{again.hash}"
    assert again.name == recipes.load(recipe).name
    assert (run / "checkpoint.pt").is_file()


# Tables


@pytest.mark.parametrize("table", TABLES)
def test_every_table_says_what_it_is_and_each_of_its_rows_is_a_recipe(table: str) -> None:
    first, *others = header(table)
    assert len(first) > 20
    assert f"vcsf ablate {Path(table).stem}" in others
    content = resolve_table(read_table(str(CHECKOUT / table)))
    assert len(content.rows) > 1
    assert content.measures


# Commands in documents


def is_whole(command: str) -> bool:
    """Whether a command can be typed as it is: not where it is only named, or shows its form."""
    return len(command.split()) > 2 and not re.search(
        r"RECIPE|TABLE|KIND|FILE|COMMAND|\.\.\.", command
    )


def documented() -> list[tuple[str, str]]:
    commands = [("README.md", command) for command in commands_in(read("README.md"))]
    commands += [("CONTRIBUTING.md", command) for command in commands_in(read("CONTRIBUTING.md"))]
    for path in sorted((CHECKOUT / "docs").rglob("*.md")):
        page = path.relative_to(CHECKOUT).as_posix()
        commands += [(page, command) for command in commands_in(read(page)) if is_whole(command)]
    for recipe in YAML:
        commands += [(recipe, line) for line in header(recipe) if line.startswith("vcsf ")]
    return list(dict.fromkeys(commands))


def test_the_documents_show_commands() -> None:
    shown = [command for _, command in documented()]
    assert {command.split()[1] for command in shown if command.startswith("vcsf ")} >= set(COMMANDS)
    assert {
        "make demo",
        "make test",
        "make benchmark",
        "vcsf prepare folder --source ~/videos --name mine",
    } <= {*shown}


@pytest.mark.parametrize(("document", "command"), documented())
def test_every_documented_command_can_be_typed(
    document: str, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options and arguments are parsed by the real command, which then isn't run."""
    monkeypatch.chdir(CHECKOUT)
    program, *words = shlex.split(re.sub(r"^([A-Z_]+=\S+ )+", "", command), comments=True)
    theirs = {"my.mp4": "README.md", "~/queries": "docs", "LISTS": "docs"}  # the reader's own
    words = [theirs.get(word, word) for word in words]
    for word in words:
        assert Path(word).exists() or not re.match(
            r"(\./)?(recipes|plugins|tests|docs)/|\.$", word
        ), word
    if program == "make":
        assert set(words) <= set(re.findall(r"^(\w+):", read("Makefile"), re.MULTILINE))
        return
    if program == "pip":
        assert words[0] == "install"
        return
    if program == "python":
        assert Path(words[0]).is_file()
        return
    assert program == "vcsf"
    parsed: list[click.Context] = []
    monkeypatch.setattr(click.Command, "invoke", lambda self, context: parsed.append(context))
    assert main(words) == 0, capsys.readouterr().err
    if words[0] == "pretrain":
        recipes.load(parsed[-1].params["recipe"], parsed[-1].params["assignments"])
    if words[:2] == ["recipes", "show"]:
        catalogue.RECIPES.find(words[2])


def test_the_demo_of_the_readme_runs_to_its_report(vcsf: Vcsf, tmp_path: Path) -> None:
    block = commands_in(read("README.md"))[1:4]
    assert re.findall(r'"(vcsf [^"]+)"', read("Makefile")) == block
    prepare, pretrain, retrieve = (shlex.split(command)[1:] for command in block)
    sizes = ("--classes", 2, "--groups", 3, "--clips", 2, "--frames", 20, "--height", 32)
    vcsf(*prepare, *sizes, "--workers", 1, cwd=tmp_path)
    words = [word for setting in tiny(recipes.load("smoke").tree) for word in ("--set", setting)]
    done = vcsf(*pretrain, *words, "--workers", 1, cwd=tmp_path)
    (run,) = (tmp_path / "runs").iterdir()
    assert done.stderr.splitlines()[-1] == f"next: vcsf retrieve --from {run.name} --k 1,5,10"

    done = vcsf(*retrieve, "--workers", 1, cwd=tmp_path)
    assert all(f"R@{k}" in done.stdout for k in (1, 5, 10))
    for variant in ("trained", "untrained"):
        for pathway in ("slow", "fast", "both"):
            assert re.search(rf"\b{variant}\W+{pathway}\W+(\d+\.\d\W+){{3}}", done.stdout)
    assert re.search(r"\bcolour[_ ]histogram\b", done.stdout)
    (report,) = re.findall(r"^report: (.+)$", done.stderr, re.MULTILINE)
    assert (tmp_path / report).read_text(encoding="utf-8").startswith("# ")


# Code


def all_subclasses(kind: type) -> Iterator[type]:
    for below in kind.__subclasses__():
        yield below
        yield from all_subclasses(below)


def test_the_exit_status_is_2_for_wrong_input_and_1_for_work_that_failed() -> None:
    for package in (vcsf_cli, vcsf_plugins):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    ours = [
        VcsfError,
        *(kind for kind in all_subclasses(VcsfError) if kind.__module__.startswith("vcsf_")),
    ]
    wrong_input = {InputError, PluginError, RecipeError, UnknownName}
    assert {kind for kind in ours if kind.exit_code == 2} == wrong_input
    assert {kind for kind in ours if kind.exit_code == 1} == {*ours} - wrong_input


FOR_OUTSIDERS = {
    "vcsf_cli.contracts",
    "vcsf_cli.errors",
    "vcsf_cli.narrate",
    "vcsf_cli.remote",
    "vcsf_cli.video",
}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, with the name where one is imported from `vcsf_cli`
    itself."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno} imports relatively"
            if node.module == "vcsf_cli":
                yield from (f"vcsf_cli.{alias.name}" for alias in node.names)
            else:
                yield str(node.module)


def test_built_in_parts_import_only_what_outsiders_may() -> None:
    found = {name for path in MODULES if "vcsf_plugins" in path.parts for name in imports(path)}
    used = {name for name in found if name.partition(".")[0] == "vcsf_cli"}
    assert used <= FOR_OUTSIDERS | {"vcsf_cli.hookimpl", "vcsf_cli.__version__"}
    for name in FOR_OUTSIDERS:
        assert f"`{name}`" in read("plugins/README.md")


def texts(path: Path) -> set[str]:
    """The texts in a file's code, without docstrings."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    bare = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    constants = (node for node in nodes if isinstance(node, ast.Constant) and id(node) not in bare)
    return {node.value for node in constants if isinstance(node.value, str)}


ORDINARY = {"additive", "auto", "correlation", "csv", "folder", "small", "supervised", "timm"}
"""Built-ins whose names are words with other meanings too: only a text that is such a word
counts."""

NAMED = {
    ("commands/export.py", "hf"): "addresses of the hub, as the hub's own library writes them",
    ("encoders/hub.py", "hf"): "addresses of the hub, as the hub's own library writes them",
    ("remote.py", "hf"): "addresses of the hub, as the hub's own library writes them",
    ("commands/options.py", "hf"): "an example in the help of `--from`",
    ("config/published.py", "ucf101"): "what published methods are trained on",
    ("config/schema.py", "infonce"): "the loss of a recipe that names none",
    ("config/schema.py", "slow_fast"): "the sampler of a recipe that names none",
    ("runs/run.py", "decord"): "a package whose version is noted",
    ("runs/run.py", "timm"): "a package whose version is noted",
}
"""Names of built-in components in the core, and why they are there."""


def test_the_core_names_no_built_in_component() -> None:
    names = {name for hook in registry.HOOKS.values() for name in getattr(vcsf_plugins, hook)()}
    found = set()
    for path in (CHECKOUT / "vcsf_cli").rglob("*.py"):
        whole = texts(path)
        words = {word for text in whole for word in re.findall(r"\w+", text)}
        for name in (names - ORDINARY) & words | ORDINARY & whole:
            found.add((path.relative_to(CHECKOUT / "vcsf_cli").as_posix(), name))
    # `none` and `auto` are what many settings call nothing and the best there is.
    assert {pair for pair in found if pair[1] not in ("none", "auto")} == set(NAMED)


LAYERS = (
    {"contracts", "hookspecs", "errors", "narrate", "remote", "video"},
    {"registry"},
    {"storage"},
    {"config"},
    {"engine"},
    {"data"},
    {"model"},
    {"features"},
    {"runs"},
    {"encoders"},
    {"train"},
    {"report"},
    {"evaluate"},
    {"search"},
    {"export"},
    {"ablate"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
"""The folders and modules of vcsf_cli, top to bottom: each may import from its own layer and from
those above it."""
FACE = {"__version__", "hookimpl"}
"""What everybody may import from the package itself."""


def layer_of(name: str) -> int:
    """The layer of a module, such as `vcsf_cli.data.clips`."""
    return next(number for number, names in enumerate(LAYERS) if name.split(".")[1] in names)


def imports_downward(path: Path) -> list[str]:
    """The modules from layers below its own that a file imports, in functions and for type checkers
    too."""
    own = ".".join(path.relative_to(CHECKOUT).with_suffix("").parts)
    used = {
        name
        for name in imports(path)
        if name.startswith("vcsf_cli.") and name.split(".")[1] not in FACE
    }
    return sorted(f"{own} imports {name}" for name in used if layer_of(name) > layer_of(own))


def test_every_folder_imports_only_from_those_above_it() -> None:
    ours = [path for path in MODULES if "vcsf_plugins" not in path.parts]
    face = CHECKOUT / "vcsf_cli" / "__init__.py"
    assert [found for path in ours if path != face for found in imports_downward(path)] == []
    assert {name for name in imports(face) if name.startswith("vcsf_cli")} == {
        "vcsf_cli.export.load"
    }


def test_an_import_from_below_is_found_wherever_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "CHECKOUT", tmp_path)
    path = tmp_path / "vcsf_cli" / "data" / "clips.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "from vcsf_cli import __version__, cli, registry\n"
        "if TYPE_CHECKING:\n    from vcsf_cli.train.loop import Task\n"
        "def load():\n    import vcsf_cli.model.pathways\n"
    )
    below = ("vcsf_cli.cli", "vcsf_cli.model.pathways", "vcsf_cli.train.loop")
    assert imports_downward(path) == [f"vcsf_cli.data.clips imports {name}" for name in below]


def imports_when_called(source: str) -> tuple[int, list[int]]:
    """How many imports stand in functions, and the lines of those without a reason: a comment beside
    or above them."""
    lines, found = source.splitlines(), set()
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef):
            nodes = ast.walk(function)
            found |= {n.lineno for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)}
    above = {number for number in found if number - 1 not in found}
    return len(found), [n for n in sorted(above) if "#" not in "".join(lines[n - 2 : n])]


def test_a_function_imports_only_what_is_slow_or_optional() -> None:
    found = {path: imports_when_called(path.read_text(encoding="utf-8")) for path in MODULES}
    assert sum(count for count, _ in found.values()) <= 40
    registrations = CHECKOUT / "plugins" / "vcsf_plugins" / "__init__.py"  # one reason for all
    assert {path: lines for path, (_, lines) in found.items() if lines}.keys() <= {registrations}


def test_an_import_in_a_function_is_found() -> None:
    reasons = "def f():\n    import torch  # slow\n    # slow\n    import timm\n    import av\n"
    assert imports_when_called(f"import numpy\n{reasons}") == (3, [])
    assert imports_when_called("def f():\n    x = 1\n    from timm import models\n") == (1, [3])


# The page of the architecture

PAGE = "docs/architecture.md"
FILE = r"[\w./-]+\.(csv|html|json|md|parquet|pt|py|toml|yaml)"


def tree_in(text: str) -> list[str]:
    """The paths in a text's drawing of the tree, each from the top; folders end with a slash."""
    (drawing,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    paths: list[str] = []
    for line in drawing.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        folders = (
            [paths[-1][: match.end()] for match in re.finditer("/", paths[-1])] if paths else []
        )
        paths.append((folders[depth - 1] if depth else "") + line.split()[0])
    return paths


def test_the_paths_of_the_architecture_are_those_of_the_code() -> None:
    text = read(PAGE)
    paths = tree_in(text)
    assert len(paths) > 80
    beside = re.findall(r"`((?:vcsf_cli|plugins|recipes|tests|docs)/[^`]*)`", text)
    assert [path for path in (*paths, *beside) if not (CHECKOUT / path).exists()] == []
    assert [path for path in paths if path.endswith("/") != (CHECKOUT / path).is_dir()] == []
    modules = {path.relative_to(CHECKOUT).as_posix() for path in MODULES}
    core = {path for path in modules if path.startswith("vcsf_cli/") and "__" not in path}
    assert core - {*paths} == set(), "give each of these a line in the tree"


def test_the_tree_of_the_architecture_is_whole_and_in_the_order_of_the_layers() -> None:
    folders = [path.split("/")[1] for path in tree_in(read(PAGE)) if path.startswith("vcsf_cli/")]
    drawn = [name.removesuffix(".py") for name in dict.fromkeys(folders) if name]
    layers = [layer_of(f"vcsf_cli.{name}") for name in drawn]
    assert layers == sorted(layers)
    assert set(drawn) == {name for layer in LAYERS for name in layer} - {"__main__"}


def test_every_name_of_the_architecture_exists() -> None:
    text = re.sub(r"```.*?```", "", read(PAGE), flags=re.DOTALL)
    spans = set(re.findall(r"`([a-z_]+(?:\.\w+)+)`", text))
    names = {span for span in spans if not re.fullmatch(FILE, span)}
    assert len(names) > 50
    for name in names:
        ours = importlib.util.find_spec(f"vcsf_cli.{name.split('.')[0]}")
        pkgutil.resolve_name(f"{'vcsf_cli' if ours else 'vcsf_plugins'}.{name}")
