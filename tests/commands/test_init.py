"""`vcsf pretrain --init`: the run is another for another file, goes on without it, and says where
it comes from."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import called
from torch import nn

from vcsf_cli import registry
from vcsf_cli.config.recipe import load
from vcsf_cli.export.formats import write_safetensors
from vcsf_cli.export.load import load_encoder
from vcsf_cli.model.pathways import build
from vcsf_cli.runs.stages import stage_fingerprint, weight_digests
from vcsf_cli.storage import checkpoint, files

SMALL = (
    "backbone.channels=[4, 4, 8, 8]",
    "head.hidden=8",
    "head.dim=4",
    "loss.queue=4",
    "train.batch=2",
)
SETTINGS = [*SMALL, "train.epochs=3", "train.log_every=1", "train.check_every=0"]

PLUGIN = """
import signal
from pathlib import Path

from torch import nn
from vcsf_cli import hookimpl
from vcsf_cli.contracts import Layout, identity


class Theirs(nn.Module):
    '''One convolution, which other code calls `body`.'''

    channels = (4,)
    layouts = {
        "elsewhere": Layout(
            {"body.weight": "layer.weight", "body.bias": "layer.bias"}, ("net.", ""), {"net.fc.": "classifier"},
            labels=lambda keys: "net.fc.weight" in keys, remark="a remark of theirs",
        )
    }

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv3d(3, 4, (1, 8, 8), (1, 8, 8))

    def forward(self, clip, between=identity):
        return between(1, self.layer(clip).relu())


class Taught(Theirs):
    '''The same, which labels have trained before.'''

    uses_labels = True


@hookimpl
def vcsf_backbones():
    return {"theirs": Theirs, "taught": Taught}


@hookimpl
def vcsf_on_log(run, record):
    if Path("interrupt").exists() and record["step"] == 5:
        signal.raise_signal(signal.SIGTERM)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, with a plugin of its own."""
    folder = tmp_path_factory.mktemp("init")
    (folder / "vcsf_local.py").write_text(PLUGIN)
    registry.load.cache_clear()
    yield folder
    registry.load.cache_clear()


def pretrain(
    place: Path,
    data: Path,
    *arguments: object,
    status: int = 0,
    recipe: str = "smoke",
    **sets: object,
) -> str:
    """What `vcsf pretrain` said."""
    given = (
        [*SETTINGS, *(f"{key.replace('__', '.')}={value}" for key, value in sets.items())]
        if recipe == "smoke"
        else []
    )
    changes = [part for each in given for part in ("--set", each)]
    return called(
        "pretrain",
        recipe,
        *changes,
        "--data",
        data,
        "--workers",
        0,
        *arguments,
        cwd=place,
        status=status,
    ).stderr


def run_named(place: Path, name: str) -> Path:
    (folder,) = (place / "runs").glob(f"{name}-*")
    return folder


@pytest.fixture(scope="module")
def source(place: Path, tiny_data: Path) -> Path:
    """A run from random weights."""
    pretrain(place, tiny_data, name="source")
    return run_named(place, "source")


@pytest.fixture(scope="module")
def begun(place: Path, source: Path, tiny_data: Path) -> tuple[Path, str]:
    """A run from its weights, interrupted after some steps, and what was said."""
    (place / "interrupt").touch()
    said = pretrain(
        place, tiny_data, "--init", source / "checkpoint.pt", name="begun", seed=1, status=130
    )
    (place / "interrupt").unlink()
    return run_named(place, "begun"), said


def test_a_run_starts_from_the_weights_and_says_so(begun: tuple[Path, str], source: Path) -> None:
    run, said = begun
    digest = files.sha256(source / "checkpoint.pt")
    recipe = load(str(run / "recipe.yaml"))
    assert recipe.tree["init"] == {"slow": digest, "fast": digest}
    expected, given = build(recipe), checkpoint.load(source / "checkpoint.pt")["task"]["model"]
    random = weight_digests(expected)
    kept = {name: tensor for name, tensor in expected.state_dict().items() if ".head." in name}
    expected.load_state_dict(given | kept)
    (stage,) = json.loads((run / "stages.json").read_text())
    assert stage["weights_before"] == weight_digests(expected) != random
    assert "slow starts from checkpoint.pt, by vcsf's names: " in said
    assert re.search(r"left out: projection head \(4\), the fast pathway \(\d+\)\n", said)
    status = json.loads((run / "status.json").read_text())
    facts = {"file": "checkpoint.pt", "sha256": digest, "layout": "vcsf", "labels": False}
    assert status["init"] == {"slow": facts, "fast": facts}
    assert status["uses_labels"] is False
    rows = list(csv.DictReader((run / "init.csv").open()))
    assert {row["key"] for row in rows if row["pathway"] == "fast"} == set(given)
    taken = {row["own_key"] for row in rows if row["pathway"] == "fast" and row["what"] == "taken"}
    assert taken == {name for name in expected.fast.state_dict() if not name.startswith("head.")}


def test_it_goes_on_without_the_file(begun: tuple[Path, str], place: Path, tiny_data: Path) -> None:
    run = place / "elsewhere" / begun[0].name
    shutil.copytree(begun[0], run)
    said = pretrain(place, tiny_data, "--runs", run.parent, recipe=str(run / "recipe.yaml"))
    assert "going on after step 5 " in said
    assert "finished: " in said
    assert "is finished" in pretrain(
        place, tiny_data, "--runs", run.parent, recipe=str(run / "recipe.yaml")
    )
    report = called(
        "retrieve", "--from", run, "--data", tiny_data, "--untrained", "--k", 1, cwd=place
    ).stderr
    sentence = "slow started from the weights in checkpoint.pt (vcsf's names, SHA-256 "
    assert sentence in report
    assert sentence in (run / "retrieve" / "synthetic-split1" / "report.md").read_text()


def test_a_new_run_of_its_recipe_needs_the_file_and_no_other(
    begun: tuple[Path, str], source: Path, place: Path, tiny_data: Path
) -> None:
    recipe, digest = str(begun[0] / "recipe.yaml"), files.sha256(source / "checkpoint.pt")
    for more in ((), ("--dry-run",), ("--init", f"fast={source / 'checkpoint.pt'}")):
        said = pretrain(place, tiny_data, "--runs", place / "new", *more, recipe=recipe, status=2)
        assert (
            f"error: the slow pathway of this recipe starts from weights with SHA-256 {digest}\n"
            in said
        )
        assert "give the file: --init slow=FILE" in said
    other = source / "stage-1.pt"
    said = pretrain(
        place, tiny_data, "--runs", place / "new", "--init", other, recipe=recipe, status=2
    )
    assert f"its SHA-256 is {files.sha256(other)}, not {digest}" in said
    assert not (place / "new").exists()


def test_another_file_is_another_run_and_another_first_stage(
    source: Path, place: Path, tiny_data: Path
) -> None:
    def rehearsed(*arguments: object) -> str:
        done = pretrain(place, tiny_data / "nothing", *arguments, "--dry-run", name="begun", seed=1)
        return re.search(r"run folder: (\S+)", done).group(1)

    shutil.copytree(source, place / "copied")
    renamed = (place / "copied" / "checkpoint.pt").rename(place / "copied" / "renamed.pt")
    folders = [
        rehearsed(),
        rehearsed("--init", source / "checkpoint.pt"),
        rehearsed("--init", source / "stage-1.pt"),
        rehearsed("--init", f"slow={renamed}"),
        rehearsed("--init", f"slow={renamed}", "--init", f"fast={source / 'stage-1.pt'}"),
    ]
    assert len(set(folders)) == 5
    assert rehearsed("--init", renamed) == folders[1]
    stages = ("stages=[{}, {optim: {lr: 0.5}}]", "init.fast=" + "a" * 64, "init.fast=" + "b" * 64)
    assert (
        len(
            {
                stage_fingerprint(load("smoke", [stages[0], *stages[1:][:count]]), 1, "data")
                for count in range(3)
            }
        )
        == 3
    )


def test_without_init_nothing_is_said_of_it(source: Path) -> None:
    assert "init" not in (source / "recipe.yaml").read_text()
    assert load("smoke", ["init.slow=null"]).hash == load("smoke").hash
    assert not (source / "init.csv").exists()
    assert "init" not in json.loads((source / "status.json").read_text())


def test_a_stage_cannot_change_it(place: Path) -> None:
    said = called(
        "pretrain", "smoke", "--set", "stages=[{init: {slow: null}}]", cwd=place, status=2
    ).stderr
    assert "a stage can't change `init`" in said
    said = called(
        "pretrain", "smoke", "--set", "init.slow=checkpoint.pt", cwd=place, status=2
    ).stderr
    assert "`init.slow` is 'checkpoint.pt'" in said


@pytest.mark.parametrize("labels", [True, False])
def test_a_plugins_backbone_takes_weights_and_labels_mark_the_run(
    labels: bool, place: Path, tiny_data: Path, source: Path
) -> None:
    layer = nn.Conv3d(3, 4, (1, 8, 8))
    state = {f"net.body.{name}": tensor for name, tensor in layer.state_dict().items()}
    if labels:
        state["net.fc.weight"] = torch.zeros(7, 4)
    name, path = f"marked_{labels}".lower(), place / f"{labels}.pth"
    torch.save({"model": state, "epoch": 1}, path)
    sets = ["smoke", *SMALL[1:], "backbone=theirs", "motion=none", f"name={name}", "train.epochs=1"]
    arguments = [part for each in sets[1:] for part in ("--set", each)]
    done = called(
        "pretrain",
        "smoke",
        *arguments,
        "--data",
        tiny_data,
        "--workers",
        0,
        "--init",
        path,
        cwd=place,
    )
    assert "fast starts from " in done.stderr
    assert "fast: a remark of theirs" in done.stderr
    run = run_named(place, name)
    warning = "warning: labels were used in training: this is not self-supervised"
    assert (
        (warning in done.stderr)
        == ("fast: labels have trained these weights" in done.stderr)
        == labels
    )
    called("retrieve", "--from", run, "--data", tiny_data, "--k", 1, cwd=place)
    rows = list(csv.DictReader((run / "retrieve" / "synthetic-split1" / "results.csv").open()))
    assert {row["variant"] for row in rows} == {"trained_with_labels" if labels else "trained"}
    if labels:  # what starts from that run is marked too
        again = [
            *arguments,
            "--set",
            f"name={name}_again",
            "--init",
            f"fast={run / 'checkpoint.pt'}",
        ]
        called("pretrain", "smoke", *again, "--data", tiny_data, "--workers", 0, cwd=place)
        assert (
            json.loads((run_named(place, f"{name}_again") / "status.json").read_text())[
                "uses_labels"
            ]
            is True
        )


@pytest.mark.parametrize(("name", "taught"), [("theirs", False), ("taught", True)])
def test_a_backbone_that_labels_have_trained_marks_the_run(
    name: str, taught: bool, place: Path, tiny_data: Path
) -> None:
    sets = [
        f"backbone.name={name}",
        "name=mark",
        "motion=none",
        "head.hidden=8",
        "train.batch=2",
        "loss.queue=4",
    ]
    words = [word for each in sets for word in ("--set", each)]
    done = called(
        "pretrain", "smoke", *words, "--data", tiny_data, "--workers", 0, "--runs", name, cwd=place
    )
    (run,) = (place / name).glob("mark-*")
    assert json.loads((run / "status.json").read_text())["uses_labels"] is taught
    assert ("labels" in done.stderr) == taught


def test_what_does_not_fit_is_told_before_data_is_looked_for(
    source: Path, place: Path, tmp_path: Path
) -> None:
    def refused(*arguments: object) -> str:
        said = pretrain(place, tmp_path, *arguments, name="refused", status=2)
        assert said.count("error: ") == 1
        assert "Traceback" not in said
        assert not list((place / "runs").glob("refused-*"))
        return said

    assert "there is no file nothing.pt" in refused("--init", "nothing.pt")
    assert f"there is no file {tmp_path}" in refused("--init", tmp_path)
    both = ("--init", source / "checkpoint.pt", "--init", f"fast={source / 'stage-1.pt'}")
    assert "the fast pathway has two files" in refused(*both)
    wider = refused("--init", source / "checkpoint.pt", "--set", "backbone.channels=[4, 4, 8, 16]")
    assert "does not fit backbone `small`, as vcsf names its weights: " in wider
    assert "of another shape (" in wider
    without = refused("--init", source / "checkpoint.pt", "--set", "motion=none")
    assert re.search(r"\d+ unexpected \(slow\.motion\.", without)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    assert "backbone `small` takes no weights of other code" in refused(
        "--init", tmp_path / "other.pth"
    )
    alone = shutil.copy(source / "checkpoint.pt", tmp_path / "alone.pt")
    assert "there is no status.json beside it" in refused("--init", alone)
    os.truncate(alone, 5000)
    assert "is damaged" in refused("--init", alone)


def test_an_exported_folder_is_a_start(source: Path, place: Path, tiny_data: Path) -> None:
    folder = place / "exported"
    folder.mkdir()
    exported = folder / "model.safetensors"
    write_safetensors(load_encoder(source), {"slow": np.zeros(8, np.float32)}, exported)
    said = pretrain(place, tiny_data, "--init", exported, "--dry-run", status=2)
    assert "there is no config.json beside it" in said
    (folder / "config.json").write_text('{"trained_with_labels": false}')
    for name, path in (("exported", exported), ("checked", source / "checkpoint.pt")):
        pretrain(place, tiny_data, "--init", path, name=name, train__epochs=1)
    first, second = (
        json.loads((run_named(place, name) / "stages.json").read_text())
        for name in ("exported", "checked")
    )
    assert first[0]["weights_before"] == second[0]["weights_before"]
