"""Checkpoints: whole or not at all, strict, and never of the wrong kind."""

from pathlib import Path
from typing import Any

import pytest
import torch

from vcsf_cli.errors import RunError
from vcsf_cli.storage import checkpoint
from vcsf_cli.storage.files import atomic_write


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"task": {"a": torch.ones(2)}, "position": {"step": 3}})
    loaded = checkpoint.load(path)
    assert torch.equal(loaded["task"]["a"], torch.ones(2))
    assert loaded["position"] == {"step": 3}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_text("old")

    def fill_the_disk() -> None:
        with atomic_write(path) as file:
            file.write(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        fill_the_disk()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


class Evil:
    """Pickles into a call."""

    def __reduce__(self) -> Any:
        return print, ("code ran",)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "damaged"),
        (b"not a zip", "damaged"),
        ({"kind": "timm", "version": 1}, "of kind 'timm'"),
        ({"state_dict": {}}, "not a checkpoint of vcsf"),
        ({"kind": checkpoint.KIND, "version": 99}, "newer vcsf"),
        (Evil(), "damaged"),
    ],
)
def test_what_is_not_a_checkpoint_is_refused(
    content: Any, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "checkpoint.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(RunError, match=problem):
        checkpoint.load(path)
    assert "code ran" not in capsys.readouterr().out


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"task": {"a": torch.ones(1000)}})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(RunError, match="damaged"):
        checkpoint.load(path)


def test_weights_fit_wholly_or_not_at_all(tmp_path: Path) -> None:
    small, large = torch.nn.Linear(2, 2), torch.nn.Linear(2, 3)
    with pytest.raises(RunError, match="don't fit"):
        checkpoint.load_weights(small, large.state_dict(), tmp_path)
    with pytest.raises(RunError, match="don't fit"):
        checkpoint.load_weights(small, {"weight": small.weight}, tmp_path)
