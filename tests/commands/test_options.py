"""Options that several commands share: their help is right, and a suggested command means the same
folders."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from vcsf_cli import registry
from vcsf_cli.cli import main, vcsf
from vcsf_cli.commands.options import where, workers_option
from vcsf_cli.commands.retrieve import command
from vcsf_cli.train.compute import Compute


@pytest.mark.parametrize("folder", ["data", "runs", "elsewhere", "my videos", "/somewhere/else"])
@pytest.mark.parametrize("variable", [None, "", "data", "runs/", "elsewhere", "/somewhere/else"])
@pytest.mark.parametrize("option", ["data", "runs"])
def test_a_suggested_command_uses_the_same_folder_in_the_same_shell(
    option: str, variable: str | None, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"VCSF_{option.upper()}"
    if variable is None:
        monkeypatch.delenv(name, raising=False)
    else:
        monkeypatch.setenv(name, variable)
    suggested = where(option, Path(folder))
    # Below `vcsf`, as a command keeps the help option of its first context.
    parent = click.Context(vcsf, **vcsf.context_settings)
    found = command.make_context("retrieve", shlex.split(suggested), parent)
    assert found.params[option] == Path(folder)
    if folder == (variable or option).rstrip("/"):
        assert suggested == ""


def options_of(group: click.Group, context: click.Context) -> Iterator[tuple[str, click.Option]]:
    """Every option of a group's commands, with the command's name."""
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        if isinstance(found, click.Group):
            yield from options_of(found, context)
        elif found is not None:
            yield from ((name, each) for each in found.params if isinstance(each, click.Option))


def test_every_number_has_bounds() -> None:
    context = click.Context(vcsf)
    datasets = registry.load().components("dataset")
    numbers = 0
    for name, option in options_of(vcsf, context):
        kind = option.type
        own = (
            name in datasets and option.name in datasets[name].parameters
        )  # the plugin checks them
        if own or not isinstance(kind, click.types.IntParamType | click.types.FloatParamType):
            continue
        numbers += 1
        for text in ("nan", "inf", "-inf", "1e400", "9" * 5_000, "9" * 30, "-1", "one"):
            with pytest.raises(click.BadParameter):
                kind.convert(text, option, context)
    assert numbers > 20


@pytest.mark.parametrize(
    "line",
    [
        "prepare folder --source . --test-share nan",
        "prepare folder --source . --test-share inf",
        "prepare synthetic --seed -1",
        f"prepare synthetic --frames {'9' * 5_000}",
        "prepare synthetic --name ../elsewhere",
        "retrieve --devices tpu",
        "retrieve --devices cuda:-1",
        f"retrieve --devices {'9' * 5_000}",
        f"retrieve --k {'9' * 30}",
        f"finetune synthetic --seeds {'9' * 5_000}",
        f"finetune synthetic --labels {'9' * 5_000}-per-class",
        "finetune synthetic --labels nan%",
        "pretrain demo --set data.name=../../x",
        "pretrain demo --set data.name=..",
        "pretrain demo --set data.name=/tmp",
        f"pretrain demo --set train.epochs={'9' * 5_000}",
        f"pretrain demo --set {'a.' * 5_000}b=1",
        f"pretrain demo --set stages.{'9' * 5_000}.train=1",
        "pretrain demo --set optim.lr=1e999",
        "pretrain demo --set optim.lr=.nan",
        f"pretrain demo --set name={'[' * 2_000}",
        "ablate --no-motion-module --dry-run --assume h200 --devices cpu,nonsense",
        "ablate --no-motion-module --dry-run --assume inf",
        "ablate --no-motion-module --dry-run --assume nan",
        f"ablate --no-motion-module --dry-run --assume h200 --seeds {'9' * 5_000}",
        f"ablate --alpha {'9' * 5_000} --dry-run --assume h200",
        "ablate --no-motion-module --dry-run --assume h200 --measure retrieve:../x",
    ],
    ids=lambda line: line[:70],
)
def test_a_value_that_means_nothing_is_refused(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    said = capsys.readouterr().err
    assert re.search("^error: (?!.*plugin)", said, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "line",
    [
        "retrieve ../x",
        "retrieve /",
        "retrieve .",
        "retrieve --query {video} --gallery ../x",
        "finetune ../x --knn",
    ],
)
def test_the_name_of_a_dataset_leads_nowhere_else(
    line: str, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = tmp_path / "a.mp4"
    video.touch()
    assert main([*line.format(video=video).split(), "--runs", str(tiny_run.parent)]) == 2
    assert "is not the name of a dataset" in capsys.readouterr().err


def test_the_help_says_how_many_workers_there_are_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(1000)), raising=False)
    most = Compute().num_workers
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(most)), raising=False)
    assert Compute().num_workers == most - 1
    (option,) = workers_option(lambda: None).__click_params__  # type: ignore[attr-defined]
    assert option.help.endswith(f"[default: one less than the cores, at most {most}]")
