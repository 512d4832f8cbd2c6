"""Manners of the command line."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from vcsf_cli.cli import COMMANDS, main, vcsf


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m vcsf_cli`, in a process of its own."""
    command = [sys.executable, "-m", "vcsf_cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def test_help_imports_no_torch_and_calls_no_plugin(tmp_path: Path) -> None:
    (tmp_path / "vcsf_local.py").write_text("raise RuntimeError('loaded')")
    code = (
        "import sys; from vcsf_cli.cli import main; status = main(['--help']); "
        "bad = {'torch', 'pandas', 'pydantic', 'vcsf_plugins'} & set(sys.modules); sys.exit(status or len(bad))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert command in done.stdout


def test_help_is_quick() -> None:
    run("--help")
    times = []
    for _ in range(5):
        start = time.perf_counter()
        assert run("--help").returncode == 0
        times.append(time.perf_counter() - start)
    assert min(times) < 0.3


@pytest.mark.parametrize("command", [*COMMANDS, ""])
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(vcsf, [*([command] if command else []), "--help"])
    assert result.exit_code == 0
    assert "Usage: " in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pretrian", "x"], "did you mean `pretrain`?"),
        (["pretrain"], "RECIPE"),
        (["pretrain", "no/such.yaml"], "there is no recipe"),
        (["pretrain", "demo", "--set", "loss.temprature=1"], "did you mean `temperature`?"),
        (["pretrain", "demo", "--precision", "bf16", "--devices", "cpu"], "needs a GPU"),
        (["pretrain", "demo", "--devices", "tpu"], "is no device"),
        (["retrieve", "--k", "1,x"], "no list of whole numbers"),
        (["retrieve", "--k", "0"], "k starts at 1"),
        (["retrieve", "--from", "nothing"], "there is no run nothing"),
        (["plugins", "backbon"], "did you mean `backbone`?"),
    ],
)
def test_a_wrong_command_line_is_status_2_with_a_hint(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert said in output.err
    assert "Traceback" not in output.err
    assert output.out == ""


def test_missing_data_says_how_to_prepare_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", "recipes/vcsf.yaml"]) != 0
    assert "vcsf prepare ucf101" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
