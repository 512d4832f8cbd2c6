"""Options that several commands share: their help is right, and a suggested command means the same
folders."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

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
    assert command.make_context("retrieve", shlex.split(suggested)).params[option] == Path(folder)
    if folder == (variable or option).rstrip("/"):
        assert suggested == ""


def test_the_help_says_how_many_workers_there_are_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(1000)), raising=False)
    most = Compute().num_workers
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(most)), raising=False)
    assert Compute().num_workers == most - 1
    (option,) = workers_option(lambda: None).__click_params__  # type: ignore[attr-defined]
    assert option.help.endswith(f"[default: one less than the cores, at most {most}]")
