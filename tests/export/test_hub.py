"""Exports on a hub: a stand-in on this machine speaks the calls of the real one that are needed."""

from pathlib import Path

import pandas as pd
import pytest
from conftest import called
from hubs import Hub, python
from trained import copy_run

from vcsf_cli.cli import main

PUSH_AND_LOAD = """
import sys
from pathlib import Path
import torch
from vcsf_cli import load_encoder
from vcsf_cli.cli import main
from vcsf_cli.errors import InputError
assert main(["export", "--push", "hf:me/clips", *sys.argv[1:]]) == 0
(folder,) = Path("exports").iterdir()
here, there = load_encoder(folder), load_encoder("hf:me/clips")
assert here.digest == there.digest
assert all(map(torch.equal, here.state_dict().values(), there.state_dict().values()))
measured = ["retrieve", "synthetic", *sys.argv[1:], "--from"]
assert main([*measured, "hf:me/clips"]) == 0
assert main([*measured, str(folder)]) == 0
try:
    load_encoder("hf:me/nothing")
except InputError as error:
    print("refused:", error.message)
"""


def test_a_model_is_pushed_and_loaded_again(
    hub: Hub, tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    copy_run(tiny_run, tmp_path)
    hub.private["me/clips"], hub.commits["me/clips"] = True, [{"model.onnx": b"", "notes": b""}]
    done = python(hub, tmp_path, PUSH_AND_LOAD, "--data", tiny_data)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "exports").iterdir()
    pushed = hub.commits["me/clips"][-1]
    # What an earlier export left is gone; what somebody else put there stays.
    assert set(pushed) == {path.name for path in folder.iterdir()} | {"notes"}
    assert pushed["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert b'load_encoder("hf:me/clips")' in pushed["README.md"]
    assert set(hub.cards) == {pushed["README.md"].decode()}
    assert f"pushed: {hub.address}/me/clips" in done.stderr
    assert "refused: hf:me/nothing: " in done.stdout
    assert f"export: me/clips, of {tiny_run.name}" in done.stderr
    tables = [pd.read_csv(path) for path in (tmp_path / "runs").glob("*/retrieve/*/results.csv")]
    there, here = (table.drop(columns="run") for table in tables)
    pd.testing.assert_frame_equal(there, here)
    assert set(there["training_data"]) == {"same"}


def test_a_repository_is_private_and_a_card_is_validated(
    hub: Hub, tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    code = """
import sys
from pathlib import Path
from vcsf_cli.errors import VcsfError
from vcsf_cli.export.hub import check_login, push
folder = Path(sys.argv[1])
push(folder, "me/mine", False)
push(folder, "me/ours", True)
card = folder / "README.md"
card.write_text(card.read_text().replace("---\\n", "---\\nlicense: none of yours\\n", 1))
for attempt in (lambda: push(folder, "me/other", False), lambda: check_login("me/other")):
    try:
        attempt()
        print("done")
    except VcsfError as error:
        print(error.message)
"""
    run = copy_run(tiny_run, tmp_path)
    called("export", "--from", run, "--data", tiny_data, "--out", "clips", cwd=tmp_path)
    done = python(hub, tmp_path, code, tmp_path / "clips")
    assert done.returncode == 0, done.stderr
    assert hub.private == {"me/mine": True, "me/ours": False}
    assert done.stderr.count("names no licence") == 1  # of the public one
    refused, logged_in = done.stdout.splitlines()
    assert refused.startswith('the hub finds the model card wrong: "license" must be')
    assert logged_in == "done"


def test_a_dry_run_lists_the_files_and_asks_no_hub(
    tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    run = copy_run(tiny_run, tmp_path)
    words = ("export", "--from", run, "--data", tiny_data, "--push", "hf:me/clips", "--dry-run")
    listed = [line.split()[0] for line in called(*words, cwd=tmp_path).stdout.splitlines()]
    (folder,) = (tmp_path / "exports").iterdir()
    names = sorted(path.name for path in folder.iterdir())
    assert "README.md" in names
    assert listed[-len(names) :] == [f"hf:me/clips/{name}" for name in names]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--push", "me/clips"], "`me/clips` is not a repository; write hf:USER/NAME"),
        (["--public"], "--public and --dry-run are for --push"),
    ],
)
def test_options_of_a_push_that_make_no_sense_are_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", *words]) == 2
    assert said in capsys.readouterr().err
