"""Plugins of others: the example package, installed beside vcsf and used by real commands, and
./vcsf_local.py."""

import csv
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vcsf_cli.config import strict_yaml
from vcsf_cli.errors import RecipeError
from vcsf_cli.registry import Registry

CHECKOUT = Path(__file__).parent.parent.parent
EXAMPLE = CHECKOUT / "plugins" / "example"
PARTS = {
    "backbone": "frame_average",
    "motion": "added_change",
    "sampler": "beginning",
    "loss": "in_batch",
}
TINY = (
    "data.size=32",
    "head.dim=8",
    "train.epochs=1",
    "train.batch=4",
    "train.log_every=1",
    "train.check_every=1",
)

Vcsf = Callable[..., subprocess.CompletedProcess[str]]


def vcsf_commands_in(text: str) -> list[list[str]]:
    """The words of each `vcsf` command in a text, continued lines joined."""
    joined = text.replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in joined.splitlines() if line.startswith("vcsf ")]


def setting(*assignments: str) -> list[str]:
    return [word for assignment in assignments for word in ("--set", assignment)]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of its own with the example package installed."""
    folder = tmp_path_factory.mktemp("example")
    options = (
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--target",
        str(folder),
    )
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(EXAMPLE)], check=True)
    return folder


def test_the_parts_are_listed_with_who_registered_them(
    example: Path, vcsf: Vcsf, tmp_path: Path
) -> None:
    listed = vcsf("plugins", cwd=tmp_path, PYTHONPATH=example).stdout
    kinds = dict(re.findall(r"^(\w+):\n((?:  .*\n)+)", listed, re.MULTILINE))
    for kind, name in PARTS.items():
        (line,) = [line for line in kinds[kind].splitlines() if line.split()[0] == name]
        assert line.split()[1] == "example"
    assert listed.splitlines()[-1] == "plugins: vcsf_plugins, example"


def test_the_commands_of_its_manual_train_and_the_run_can_be_searched(
    example: Path, vcsf: Vcsf, tmp_path: Path, tiny_data: Path
) -> None:
    manual = (EXAMPLE / "vcsf_example.py").read_text(encoding="utf-8").split('"""')[1]
    described, trained = vcsf_commands_in(manual)
    variables = {"PYTHONPATH": example, "VCSF_DATA": tiny_data}

    text = vcsf(*described, cwd=tmp_path, **variables).stdout
    assert "backbone frame_average, from plugin example" in text
    assert (
        "width: int, default 16\n      Channels of the first stage; the second has twice as many."
        in text
    )

    vcsf(*trained, *setting(*TINY), "--workers", 1, cwd=tmp_path, **variables)
    (run,) = (tmp_path / "runs").iterdir()
    recipe, _ = strict_yaml.parse((run / "recipe.yaml").read_text(encoding="utf-8"), "recipe.yaml")
    assert {kind: recipe[kind]["name"] for kind in PARTS} == PARTS
    assert json.loads((run / "status.json").read_text(encoding="utf-8"))["finished"]
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]
    assert len(losses) == 2
    assert min(losses) > 0

    table = vcsf("retrieve", "--k", "1,2", "--workers", 0, cwd=tmp_path, **variables).stdout
    for pathway in ("slow", "fast", "both"):
        assert re.search(rf"trained\W+{pathway}\W+\d+\.\d\W+\d+\.\d", table)


def test_the_example_refuses_a_wrong_setting() -> None:
    with pytest.raises(RecipeError, match=r"`sampler\.frames` is 6, not a multiple of 4"):
        Registry(EXAMPLE / "vcsf_example.py").build("sampler", "beginning", frames=6)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A folder with the `vcsf_local.py` that plugins/README.md shows."""
    manual = (CHECKOUT / "plugins" / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", manual, re.DOTALL)
    (tmp_path / "vcsf_local.py").write_text(code, encoding="utf-8")
    return tmp_path


OBSERVER = """
from pathlib import Path

@hookimpl
def vcsf_on_log(record):
    with Path("logged").open("a") as file:
        file.write("".join(f"{name}={value}\\n" for name, value in record.items()))

@hookimpl
def vcsf_on_finish(run, results):
    Path("finished").write_text(f"{run.name} loss={results['loss']}")
"""


def test_the_local_plugin_of_the_manual_is_announced_and_used(
    local: Path, vcsf: Vcsf, tiny_data: Path
) -> None:
    with (local / "vcsf_local.py").open("a", encoding="utf-8") as file:
        file.write(OBSERVER)
    words = setting(
        "motion=scale", "motion.start=2", "backbone.channels=[4, 8, 8, 16]", "loss.queue=4", *TINY
    )
    done = vcsf("pretrain", "demo", *words, "--workers", 0, "--data", tiny_data, cwd=local)
    assert done.stderr.count("using the plugin ./vcsf_local.py") == 1
    (run,) = (local / "runs").iterdir()
    recipe, _ = strict_yaml.parse((run / "recipe.yaml").read_text(encoding="utf-8"), "recipe.yaml")
    assert recipe["motion"] == {"name": "scale", "after": [2, 3, 4], "start": 2.0}
    losses = [
        line for line in (local / "logged").read_text().splitlines() if line.startswith("loss=")
    ]
    assert len(losses) == 2
    assert (local / "finished").read_text() == f"{run.name} {losses[-1]}"


def test_worker_processes_too_leave_a_broken_local_plugin_out(
    vcsf: Vcsf, tmp_path: Path, tiny_data: Path
) -> None:
    (tmp_path / "vcsf_local.py").write_text("raise RuntimeError('bang')")
    source = tiny_data / "synthetic" / "original" / "videos"
    words = ("prepare", "folder", "--source", source, "--workers", 1)
    done = vcsf(*words, cwd=tmp_path, status=2)
    assert "vcsf_local.py` failed: RuntimeError: bang" in done.stderr
    done = vcsf("--no-local-plugin", *words, cwd=tmp_path)
    assert "12 clips of 12 videos" in done.stderr
    assert "vcsf_local" not in done.stderr


def test_a_command_of_the_local_plugin_runs_unless_it_is_left_out(
    vcsf: Vcsf, tmp_path: Path
) -> None:
    (tmp_path / "vcsf_local.py").write_text(
        "import click\nfrom vcsf_cli import hookimpl\n"
        "@click.command('hello')\ndef hello():\n    click.echo('hello')\n"
        "@hookimpl\ndef vcsf_commands():\n    return [hello]\n"
    )
    assert vcsf("hello", cwd=tmp_path).stdout == "hello\n"
    done = vcsf("--no-local-plugin", "hello", cwd=tmp_path, status=2)
    assert done.stderr.startswith("error: unknown command `hello`\n")
    done = vcsf("helo", cwd=tmp_path, status=2)
    assert done.stderr.endswith("hint: did you mean `hello`?\n")
