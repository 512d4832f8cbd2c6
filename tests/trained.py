"""The tiny training that many tests need: its settings, and copies of the run that
`conftest.tiny_run` makes once."""

import shutil
import time
from pathlib import Path

from conftest import called

SETTINGS = ("name=tiny", "train.batch=4", "train.epochs=2", "loss.queue=4")


def sets(*assignments: str) -> tuple[str, ...]:
    """Assignments as words of a command line."""
    return tuple(word for assignment in assignments for word in ("--set", assignment))


TINY = sets(*SETTINGS)

_HOLDING = """
import time
from pathlib import Path
from vcsf_cli import hookimpl

@hookimpl
def vcsf_on_log(run, record):
    if record["step"] >= {step} and run.name.startswith({name!r}):
        while Path("hold").exists():
            time.sleep(0.01)
"""


def pretrain(data: Path | str, folder: Path, *more: str) -> Path:
    """The folder of a tiny run, trained on `data` into the folder `runs` of a folder."""
    before = set((folder / "runs").glob("*/status.json"))
    called("pretrain", "smoke", *TINY, "--data", data, "--workers", 0, *more, cwd=folder)
    (new,) = set((folder / "runs").glob("*/status.json")) - before
    return new.parent


def copy_run(run: Path, folder: Path) -> Path:
    """A copy of a run in the folder `runs` of a folder, without what was measured of it."""
    ignored = shutil.ignore_patterns("retrieve", "finetune", "index", "results.csv")
    return shutil.copytree(run, folder / "runs" / run.name, ignore=ignored)


def hold(folder: Path, step: int, name: str = "") -> None:
    """Make trainings that are started in a folder wait when they log a step, so that who kills them
    is never too late, however busy the machine is.

    Args:
        folder: The folder.
        step: The first step that they wait at; the steps before it may be saved.
        name: The beginning of the names of the runs that wait.
    """
    (folder / "hold").touch()
    with (folder / "vcsf_local.py").open("a") as plugin:
        plugin.write(_HOLDING.format(step=step, name=name))


def let_go(folder: Path) -> None:
    """Let waiting trainings go on, and later ones not wait."""
    (folder / "hold").unlink()


def ends(process: str, seconds: float = 60.0) -> bool:
    """Whether a process is gone, or a zombie that nobody has waited for, before some seconds are
    over."""
    stat = Path(f"/proc/{process}/stat")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False
