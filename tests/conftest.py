"""Fixtures that many tests share."""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from buckets import bucket  # noqa: F401 - a fixture
from hubs import hub  # noqa: F401 - a fixture
from hypothesis import HealthCheck, settings

settings.register_profile("vcsf", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("vcsf")

CHECKOUT = Path(__file__).parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")  # another number of threads gives other last bits
OURS = (
    "VCSF_DATA",
    "VCSF_RUNS",
    "VCSF_DECODED",
    "VCSF_DEBUG",
    "VCSF_NO_LOCAL_PLUGIN",
    "_VCSF_COMPLETE",
    "PYTHONPATH",
)
KILLS = int(os.environ.get("VCSF_KILLS", "3"))
"""How often the tests of `kill -9` kill a process; every one costs a start."""
TINY = ("--classes", "2", "--groups", "3", "--clips", "2", "--frames", "20", "--height", "32")

Vcsf = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real video that lies beside the checkout, or where VCSF_SHARED says."""
    folder = Path(os.environ.get("VCSF_SHARED", CHECKOUT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"real video is not there: {folder}; VCSF_SHARED says where it is")
    return folder


@pytest.fixture(scope="session")
def vcsf() -> Vcsf:
    """Runs `vcsf ARGUMENTS` in a process of its own: `vcsf("plugins", cwd=..., VCSF_DATA=...)`."""

    def run(
        *arguments: object, cwd: Path, status: int = 0, **variables: object
    ) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name not in OURS}
        environment |= {"OMP_NUM_THREADS": "1"} | {
            name: str(value) for name, value in variables.items()
        }
        command = [str(Path(sys.executable).parent / "vcsf"), *map(str, arguments)]
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stderr
        return done

    return run


def called(*arguments: object, cwd: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """`vcsf ARGUMENTS` in this process, on one thread: no seconds are spent on importing torch
    again."""
    import torch

    from vcsf_cli.cli import main

    threads, out, err = torch.get_num_threads(), io.StringIO(), io.StringIO()
    torch.set_num_threads(1)
    try:
        with (
            contextlib.chdir(cwd),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            returned = main([str(argument) for argument in arguments])
    finally:
        torch.set_num_threads(threads)
    assert returned == status, err.getvalue()
    return subprocess.CompletedProcess(["vcsf"], returned, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory, vcsf: Vcsf) -> Path:
    """A folder for `--data` with the dataset `synthetic`: 2 classes of 3 groups of 2 clips, about
    20 frames of 32 px."""
    folder = tmp_path_factory.mktemp("tiny")
    vcsf("prepare", "synthetic", *TINY, "--data", "data", cwd=folder)
    return folder / "data"


@pytest.fixture(scope="session")
def tiny_run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on `tiny_data`. Nothing is written into it: `trained.copy_run`
    gives a copy."""
    from trained import pretrain

    return pretrain(tiny_data, tmp_path_factory.mktemp("run"))
