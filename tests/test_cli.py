"""Manners of the command line."""

import contextlib
import ctypes
import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import OURS, TINY
from trained import copy_run
from videos import write_video

from vcsf_cli.cli import main
from vcsf_cli.cli import vcsf as group
from vcsf_cli.commands import COMMANDS
from vcsf_cli.data.manifest import SETTINGS
from vcsf_cli.errors import InputError

linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="capabilities of root are Linux's"
)
Vcsf = Callable[..., subprocess.CompletedProcess[str]]


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m vcsf_cli`, in a process of its own."""
    command = [sys.executable, "-m", "vcsf_cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


IMPORTED = """
import sys
from vcsf_cli.cli import main
assert main(sys.argv[2:]) == 0
print(*(name for name in sys.argv[1].split() if name in sys.modules))
"""
FOR_TRAINING = "lightning_fabric tensorboard timm onnx faiss torchcodec"


@pytest.mark.parametrize(
    ("words", "unneeded"),
    [
        (
            f"prepare synthetic {' '.join(TINY)} --workers 1",
            f"torch torchvision sklearn scipy matplotlib rich {FOR_TRAINING}",
        ),
        (
            "embed synthetic --from RUN --data DATA --workers 0 -o table.parquet",
            f"sklearn scipy matplotlib torchvision {FOR_TRAINING}",
        ),
        ("retrieve --from RUN --data DATA --workers 0 --k 1", f"torchvision {FOR_TRAINING}"),
        ("plugins", f"torchvision torch._dynamo {FOR_TRAINING}"),
        ("pretrain smoke --dry-run --data DATA --set train.batch=2", "torchvision timm onnx faiss"),
    ],
)
def test_a_command_imports_no_package_that_it_does_not_need(
    words: str, unneeded: str, tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    places = {"RUN": str(copy_run(tiny_run, tmp_path)), "DATA": str(tiny_data)}
    command = [places.get(word, word) for word in words.split()]
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, unneeded, *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == ""


HELPS = f"""
import sys
from vcsf_cli.cli import main
def imports(names, *words, status=0):
    assert main(words) == status
    found = {{*names.split()}} & {{*sys.modules}}
    assert not found, (words, found)
imports("torch pandas pydantic numpy vcsf_plugins", "--help")
for name in {list(COMMANDS)}:
    imports("torch pandas pebble sklearn ray submitit", "--no-local-plugin", name, "--help")
refused = "--no-local-plugin", "pretrain", "smoke", "--set", "optim.lr=x"
imports("pandas torchvision torch._dynamo sklearn {FOR_TRAINING}", *refused, status=2)
"""


def test_help_and_a_refused_recipe_import_little(tmp_path: Path) -> None:
    """`vcsf --help` loads no plugin either."""
    (tmp_path / "vcsf_local.py").write_text("raise RuntimeError('loaded')")
    done = subprocess.run(
        [sys.executable, "-c", HELPS], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert f"vcsf {command} " in done.stdout


TYPOS = """
import sys
from vcsf_cli.cli import main
for words in [
    "retrieve",
    "retrieve --from dmo",
    "finetune demo --from dmo",
    "embed x -o x.parquet --from dmo",
    "export --from dmo",
    "ablate motoin",
    "ablate --no-motion-module --base dmo",
]:
    assert main(words.split()) == 2
    assert not {"torch", "sklearn"} & {*sys.modules}, words
"""


def test_a_name_that_is_wrong_is_refused_without_torch(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", TYPOS], cwd=tmp_path, check=True)


def test_the_module_is_the_command(vcsf: Vcsf, tmp_path: Path) -> None:
    for arguments, status in (
        (["--help"], 0),
        (["recipes", "show", "--help"], 0),
        (["recipes", "shwo"], 2),
    ):
        done = vcsf(*arguments, cwd=tmp_path, status=status)
        module = run(*arguments, cwd=tmp_path)
        assert (module.returncode, module.stdout, module.stderr) == (
            status,
            done.stdout,
            done.stderr,
        )


@pytest.mark.parametrize("command", [*COMMANDS, ""])
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(group, [*([command] if command else []), "--help"])
    assert result.exit_code == 0
    assert "Usage: " in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pretrian", "x"], "did you mean `pretrain`?"),
        (["ablate"], "nothing to compare"),
        (["recipes", "shwo"], "vcsf recipes --help"),
        (["pretrain", "demo", "--sett", "seed=1"], "no such option"),
        (["retrieve", "--split", "4"], "1<=x<=3"),
        (["--nope"], "no such option"),
        (["pretrain"], "RECIPE"),
        (["pretrain", "no/such.yaml"], "there is no recipe"),
        (["pretrain", "demo", "--set", "loss.temprature=1"], "did you mean `temperature`?"),
        (["pretrain", "demo", "--precision", "bf16", "--devices", "cpu"], "needs a GPU"),
        (["pretrain", "demo", "--set", "speed.precision=bf16", "--devices", "cpu"], "needs a GPU"),
        (["pretrain", "demo", "--devices", "tpu"], "is not a device"),
        (["pretrain", "demo", "--set", "temperature=1"], "did you mean `loss.temperature`?"),
        (["pretrain", "demo", "--set", "batch=8"], "did you mean `train.batch`?"),
        (["prepare", "folder", "my videos"], "write --source 'my videos'"),
        (["retrieve", "--query", "."], "write --query-dir ."),
        (["retrieve", "--k", "1,x"], "not a list of whole numbers"),
        (["retrieve", "--k", "0"], "k starts at 1"),
        (["retrieve", "--from", "nothing"], "there is no run nothing"),
        (["plugins", "backbon"], "did you mean `backbone`?"),
    ],
)
def test_a_wrong_command_line_is_status_2_with_a_hint(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert said in output.err
    assert re.fullmatch(r"error: [^\n]+(\n\nhint: .+)?\n", output.err, re.DOTALL)
    assert output.out == ""


def test_debug_shows_where_an_error_comes_from(vcsf: Vcsf, tmp_path: Path) -> None:
    for arguments, variables in ((["--debug"], {}), ([], {"VCSF_DEBUG": "1"})):
        done = vcsf(*arguments, "recipes", "show", "demmo", cwd=tmp_path, status=1, **variables)
        assert done.stderr.startswith("Traceback")
    done = vcsf("recipes", "show", "demmo", cwd=tmp_path, status=2, VCSF_DEBUG="0")
    assert done.stderr == "error: there is no recipe demmo\n\nhint: did you mean `demo`?\n"


@pytest.mark.parametrize("debug", [True, False])
def test_the_error_file_has_the_kind_and_message_of_the_error(
    debug: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "error.json"
    monkeypatch.setenv("VCSF_ERROR_FILE", str(path))
    options = ["--debug"] if debug else []
    with pytest.raises(InputError) if debug else contextlib.nullcontext():
        main([*options, "recipes", "show", "demmo"])
    content = json.loads(path.read_text())
    assert content == {"kind": "InputError", "message": "there is no recipe demmo"}
    path.unlink()
    assert main([*options, "recipes", "list"]) == 0
    assert not path.exists()


def test_nothing_to_do_shows_the_help(vcsf: Vcsf, tmp_path: Path) -> None:
    assert vcsf(cwd=tmp_path, status=2).stderr == vcsf("--help", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prepare", "synthetic", "--data", "file/sub"], "Not a directory: "),
        (["pretrain", "a" * 300], "File name too long: "),
        (["recipes", "show", "a" * 300], "File name too long: "),
        (["prepare", "synthetic", "--data", "circle"], "Too many levels of symbolic links: "),
    ],
)
def test_a_path_that_can_not_be_is_status_2(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to("circle")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert f"error: {said}" in error
    assert error.endswith("\n\nhint: look at the folders and names that you gave\n")


def give_up_power() -> None:
    """Bind this process and its children to permissions, which do not bind root: without the
    capabilities CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH after the next `exec`."""
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(24, capability)  # PR_CAPBSET_DROP


def denied(*arguments: str, cwd: Path, **variables: str) -> str:
    """What `vcsf` says where it may not write."""
    environment = {name: value for name, value in os.environ.items() if name not in OURS[:2]}
    done = subprocess.run(
        [sys.executable, "-m", "vcsf_cli", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment | variables,
        preexec_fn=give_up_power,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder with a video that can be read only."""
    folder = tmp_path / "read-only"
    write_video(folder / "videos" / "Run" / "a.avi", 5)
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


@linux
@pytest.mark.parametrize(
    ("options", "variables", "meant"),
    [
        ([], {}, "data"),
        (["--data", "a/b"], {}, "a"),
        ([], {"VCSF_DATA": "c"}, "c"),
    ],
)
def test_where_a_folder_can_not_be_written_the_hint_names_the_option(
    options: list[str], variables: dict[str, str], meant: str, read_only: Path
) -> None:
    command = ["prepare", "folder", "--source", "videos", "--workers", "1"]
    assert denied(*command, *options, cwd=read_only, **variables) == (
        f"error: the folder {read_only} can't be written: Permission denied: {meant}\n\n"
        "hint: name a place that you can write to with --data or VCSF_DATA\n"
    )


@linux
def test_the_hint_names_no_option_that_would_not_help(
    read_only: Path, tiny_data: Path, tiny_run: Path
) -> None:
    command = ["embed", "synthetic", "--from", str(tiny_run), "--data", str(tiny_data)]
    error = denied(*command, "--workers", "0", "-o", "table.parquet", cwd=read_only)
    assert error.endswith(
        f"error: the folder {read_only} can't be written: Permission denied: table.parquet\n\n"
        "hint: name a place that you can write to\n"
    )


@linux
def test_a_run_that_can_not_be_written_is_said_without_names_of_unfinished_files(
    tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    run = copy_run(tiny_run, tmp_path)
    command = ["retrieve", "--from", run.name, "--runs", "runs", "--data", str(tiny_data)]
    run.chmod(0o555)
    error = denied(*command, "--workers", "0", cwd=tmp_path)
    run.chmod(0o755)
    assert f"error: the folder {run} can't be written: Permission denied: runs/" in error
    assert ".partial" not in error
    assert error.endswith("hint: name a place that you can write to with --runs or VCSF_RUNS\n")


@linux
def test_what_can_not_be_read_is_not_said_to_be_written(tmp_path: Path) -> None:
    settings = Path("data", "synthetic", SETTINGS)
    (tmp_path / settings).parent.mkdir(parents=True)
    (tmp_path / settings).touch(0o000)
    assert denied("prepare", "synthetic", *TINY, "--workers", "1", cwd=tmp_path) == (
        f"error: Permission denied: {settings}\n\n"
        "hint: look at its permissions, and at those of the folders above it\n"
    )


def test_a_full_disk_is_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("vcsf_cli.config.catalogue.Catalogue.files", full)
    assert main(["recipes"]) == 1
    assert capsys.readouterr().err.startswith(
        "error: No space left on device: while writing\n\nhint: what was finished"
    )


WRITES_INTO_BROKEN_PIPES = """
import click, os, sys
from vcsf_cli import hookimpl
@click.command()
def fill():
    for _ in range(10000):
        click.echo("a line that nobody reads")
@click.command()
def breaks():
    reader, writer = os.pipe()
    os.close(reader)
    os.write(writer, b"x")
@hookimpl
def vcsf_commands():
    return [fill, breaks]
"""


@pytest.mark.parametrize("command", [["plugins"], ["fill"], ["recipes", "show", "demo"]])
def test_a_reader_that_has_gone_ends_a_command_quietly(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "vcsf_local.py").write_text(WRITES_INTO_BROKEN_PIPES)
    reader, writer = os.pipe()
    os.close(reader)
    whole = [sys.executable, "-m", "vcsf_cli", *command]
    done = subprocess.run(
        whole, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "using the plugin ./vcsf_local.py\n")


def test_another_pipe_that_breaks_is_no_quiet_end(tmp_path: Path) -> None:
    (tmp_path / "vcsf_local.py").write_text(WRITES_INTO_BROKEN_PIPES)
    done = run("breaks", cwd=tmp_path)
    assert done.returncode == 1
    assert "BrokenPipeError" in done.stderr


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for folder in ("runs/demo-1", "runs/smoke-2", "elsewhere/demo-3"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "recipe.yaml").touch()
    (tmp_path / "runs" / "no-run").mkdir()
    (tmp_path / "vcsf_local.py").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "variables", "completions"),
    [
        ("vcsf pret", {}, ["plain,pretrain"]),
        ("vcsf pretrain d", {}, ["plain,demo"]),
        ("vcsf recipes show dem", {}, ["plain,demo"]),
        ("vcsf recipes check vcsf dem", {}, ["plain,demo"]),
        ("vcsf pretrain recipes/", {}, ["file,recipes/"]),
        ("vcsf retrieve --from ", {}, ["plain,demo-1", "plain,smoke-2"]),
        ("vcsf retrieve --from s", {}, ["plain,smoke-2"]),
        ("vcsf retrieve --runs elsewhere --from ", {}, ["plain,demo-3"]),
        ("vcsf retrieve --from ", {"VCSF_RUNS": "elsewhere"}, ["plain,demo-3"]),
    ],
)
def test_the_shell_completes_commands_recipes_and_runs(
    vcsf: Vcsf, runs: Path, words: str, variables: dict[str, str], completions: list[str]
) -> None:
    variables = {
        "_VCSF_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    } | variables
    done = vcsf(cwd=runs, **variables)
    assert (done.stdout.splitlines(), done.stderr) == (completions, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_completion_script(vcsf: Vcsf, tmp_path: Path, shell: str) -> None:
    assert (
        f"_VCSF_COMPLETE={shell}_complete"
        in vcsf(cwd=tmp_path, _VCSF_COMPLETE=f"{shell}_source").stdout
    )


def test_missing_data_says_how_to_prepare_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", "recipes/vcsf.yaml"]) != 0
    assert "vcsf prepare ucf101" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
