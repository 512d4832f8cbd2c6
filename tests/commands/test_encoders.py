"""Encoders that no run has trained, through whole commands: features, rows, reports, what was seen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from coclr import S3D, pretrained
from conftest import called
from others import save_video_model
from trained import copy_run

from vcsf_cli import registry
from vcsf_cli.data import manifest as manifests
from vcsf_cli.data.augment import to_input
from vcsf_cli.data.clips import EvalClips
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.encoders.find import find_source
from vcsf_cli.encoders.source import EncoderSource

LOCAL = """
import torch
from vcsf_cli import hookimpl
from vcsf_cli.contracts import Encoder


class Brightness(torch.nn.Module):
    def __init__(self, wide):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
        self.wide = wide

    def forward(self, clips):
        found = clips.mean((2, 3, 4)) * self.scale
        return found[:, :1] if self.wide else found


def bright(which, /, *, wide: bool = False) -> Encoder:
    '''Mean colours.'''
    return Encoder(which, "ours", Brightness(wide), 3, 4, 32, (0.0,) * 3, (1.0,) * 3, labels=False)


@hookimpl
def vcsf_encoders():
    return {"bright": bright}
"""


@pytest.fixture(scope="module")
def place(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, with a VideoMAE, a checkpoint of CoCLR's, the dataset and a plugin."""
    folder = tmp_path_factory.mktemp("others")
    (folder / "data").symlink_to(tiny_data)
    save_video_model(folder / "models" / "videomae", "videomae")
    save_video_model(folder / "models" / "classifier", "classifier")
    torch.manual_seed(0)
    torch.save(pretrained(S3D(), S3D()), folder / "coclr.pth.tar")
    (folder / "vcsf_local.py").write_text(LOCAL)
    registry.load.cache_clear()
    yield folder
    registry.load.cache_clear()


def retrieve(place: Path, *words: object, status: int = 0) -> tuple[pd.DataFrame, Path, str]:
    """The rows, the folder and what was said."""
    done = called(
        "retrieve", *words, "--k", 1, "--workers", 0, "--runs", "runs", cwd=place, status=status
    )
    if status:
        return pd.DataFrame(), place, done.stderr
    (report,) = [line for line in done.stderr.splitlines() if line.startswith("report: ")]
    folder = place / Path(report.removeprefix("report: ")).parent
    return pd.read_csv(folder / "results.csv"), folder, done.stderr


def test_a_model_of_transformers_is_measured_like_a_run(place: Path) -> None:
    words = ("synthetic", "--from", "hf:models/videomae")
    rows, folder, said = retrieve(place, *words, "--baselines")
    own = rows[rows["variant"] == "trained"]
    assert own["pathway"].tolist() == ["hf_videomae"]
    assert set(rows["variant"]) == {"trained", "colour_histogram"}
    assert own["training_data"].tolist() == ["unknown"]
    assert own["seen"].isna().all()
    assert own["run"].str.startswith("hf-videomae-").all()
    assert "VideoMAEForPreTraining of transformers from models/videomae" in said
    assert "test clips may be among them" in said
    about = json.loads((folder.parents[1] / "encoder.json").read_text())
    assert about["labels"] is False
    report, page = ((folder / f"report.{ending}").read_text() for ending in ("md", "html"))
    for text in (report, page):
        assert "VideoMAEForPreTraining of transformers" in text
        assert "test clips may be among them" in text
        assert "vcsf retrieve synthetic --from hf:models/videomae" in text

    features = pd.read_parquet(folder / "features.parquet")
    clip = features["video"][0]
    table = Manifest.open(place / "data" / "synthetic")
    source = find_source(place / "runs", f"hf:{place / 'models' / 'videomae'}")
    sampler = source.windows.build_sampler()
    row = int(np.flatnonzero(table.table["video"] == clip)[0])
    read = EvalClips(table, [row], sampler, source.windows.border, source.windows.size)[0]
    windows = torch.stack([read["frames"][window] for window in read["windows"]])
    with torch.no_grad():
        found = source.network().features(to_input(windows), {"fast": read["fast"]})
    expected = found["hf_videomae"].mean(0).numpy()
    np.testing.assert_allclose(features["hf_videomae"][0], expected, atol=1e-5)

    # Other weights in the same place are another encoder: nothing of the old ones is taken.
    save_video_model(place / "models" / "videomae", "videomae", seed=1)
    try:
        _, other, _ = retrieve(place, *words)
    finally:
        save_video_model(place / "models" / "videomae", "videomae")
    assert other.parents[1] != folder.parents[1]


@pytest.mark.parametrize("measure", ["--linear", "--knn", "--protocol"])
def test_it_is_classified_by_every_protocol(place: Path, measure: str) -> None:
    words = [measure]
    if measure == "--protocol":
        short = ("train.epochs=1", "train.batch=4", "train.log_every=1", "optim.warmup=0")
        words += ["cpu", *(word for each in short for word in ("--set", each))]
    done = called("finetune", "synthetic", *words, "--from", "hf:models/classifier", "--workers", 0,
                  "--devices", "cpu", cwd=place)  # fmt: skip
    assert "labels were used in training" in done.stderr
    (table,) = place.glob("runs/hf-classifier-*/results.csv")
    rows = pd.read_csv(table)
    assert set(rows["pathway"]) == {"hf_classifier"}
    assert set(rows["variant"]) == {"trained_with_labels"}
    pathway = called("finetune", "synthetic", "--knn", "--from", "hf:models/classifier", "--pathway",
                     "slow", cwd=place, status=2)  # fmt: skip
    assert "has no pathway slow, only hf_classifier" in pathway.stderr


def test_it_embeds_and_searches_video_files(place: Path, tiny_data: Path) -> None:
    originals = sorted((tiny_data / "synthetic" / "original" / "videos").rglob("*.avi"))[:2]
    (place / "videos").mkdir()
    for path in originals:
        shutil.copy(path, place / "videos" / f"{path.parent.name}-{path.name}")
    words = ("--from", "hf:models/videomae", "--workers", 0)
    called("embed", "videos", *words, "-o", "e.parquet", cwd=place)
    table = pd.read_parquet(place / "e.parquet")
    assert "both" not in table.columns
    assert len(table["hf_videomae"][0]) == 16
    done = called("retrieve", "--query", originals[0], "--gallery", "synthetic", "--k", 1, *words,
                  "--csv", "answers.csv", cwd=place)  # fmt: skip
    answer = pd.read_csv(place / "answers.csv").iloc[0]
    assert answer["pathway"] == "hf_videomae"
    assert answer["similarity"] > 0.9
    assert "--from hf:models/videomae" in done.stderr


@torch.no_grad()
def coclr_features(source: EncoderSource, network: S3D) -> tuple[torch.Tensor, ...]:
    """Of random windows: our fast features, and those of CoCLR's own network on the same frames."""
    sampler = source.windows.build_sampler()
    view = sampler.cover(sampler.length)[0]
    drawn = np.random.default_rng(0).integers(0, 256, (2, sampler.length, 64, 64, 3), np.uint8)
    windows = to_input(torch.from_numpy(drawn))
    at = {name: torch.from_numpy(view.positions(name)).expand(2, -1) for name in ("slow", "fast")}
    ours = source.network().features(windows, at)["fast"]
    return ours, network.eval()(windows.contiguous()).mean((2, 3, 4))


def test_a_checkpoint_of_coclr_gives_the_features_of_its_own_network(place: Path) -> None:
    network = S3D()
    state = torch.load(place / "coclr.pth.tar", weights_only=True)["state_dict"]
    prefix = "encoder_q.0."
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    network.load_state_dict(own)
    source = find_source(place, f"fast={place / 'coclr.pth.tar'}", "vcsf_coclr")
    ours, theirs = coclr_features(source, network)
    torch.testing.assert_close(ours, theirs, atol=1e-5 * float(theirs.abs().max()), rtol=1e-4)
    # Slow's network is another one, as its stem keeps every frame.
    assert find_source(place, str(place / "coclr.pth.tar"), "vcsf_coclr").pathways == (
        "slow",
        "fast",
    )


def test_weights_of_a_file_are_measured_in_a_recipe_without_training(
    place: Path, tiny_data: Path
) -> None:
    words = ["synthetic", "--from", "fast=coclr.pth.tar", "--recipe", "vcsf_coclr"]
    words += ["--with", "data.size=32", "--with", "sampler.frames=16"]
    rows, folder, said = retrieve(place, *words)
    assert rows["pathway"].unique().tolist() == ["fast"]
    assert rows["variant"].unique().tolist() == ["trained"]
    assert rows["training_data"].unique().tolist() == ["unknown"]
    assert "coclr.pth.tar (CoCLR's names" in said
    assert "--recipe vcsf_coclr --with data.size=32" in (folder / "report.md").read_text()
    clip = next((tiny_data / "synthetic" / "original").rglob("*.avi"))
    called("export", *words[1:], "--clips", clip, "--out", "weights", cwd=place)
    exported, _, _ = retrieve(place, "synthetic", "--from", "weights")
    assert exported["value"].tolist() == rows["value"].tolist()
    _, _, said = retrieve(place, "synthetic", "--from", "coclr.pth.tar", status=2)
    assert "name a recipe" in said
    _, _, said = retrieve(place, *words[:2], "coclr.pth.tar", "--recipe", "smoke", status=2)
    assert "does not fit backbone" in said or "takes no weights of other code" in said


def test_a_file_or_export_of_vcsf_knows_what_it_was_trained_on(
    place: Path, tiny_run: Path, tiny_data: Path
) -> None:
    run = copy_run(tiny_run, place)
    rows, _, _ = retrieve(place, "--from", run.name)
    words = ("--from", run / "checkpoint.pt", "--recipe", run / "recipe.yaml")
    same, _, _ = retrieve(place, "synthetic", *words)
    assert same["value"].tolist() == rows["value"].tolist()
    assert same["training_data"].unique().tolist() == ["same"]
    assert same["seen"].unique().tolist() == [0]
    called("export", "--from", run.name, "--out", "out", cwd=place)
    exported, _, _ = retrieve(place, "--from", "out")
    assert exported["value"].tolist() == rows["value"].tolist()
    # Elsewhere, under another name and another split, its training clips are still known.
    shutil.copytree(tiny_data / "synthetic", place / "elsewhere" / "mine", symlinks=True)
    manifest = Manifest.open(place / "elsewhere" / "mine")
    swapped = manifest.table["split1"].map({"train": "test", "test": "train"})
    manifests.write(manifest.folder, manifest.table.assign(split1=swapped).to_dict("records"))
    for which in (words, ("--from", "out")):
        _, _, said = retrieve(place, "mine", *which, "--data", "elsewhere", status=2)
        assert "were seen in training" in said


def test_an_encoder_of_a_plugin(place: Path) -> None:
    listed = called("plugins", "encoder", cwd=place).stdout
    assert "bright" in listed
    assert "hf" in listed
    rows, folder, _ = retrieve(place, "synthetic", "--from", "bright:mine")
    assert rows["pathway"].tolist() == ["bright_mine"]
    colours = np.stack(pd.read_parquet(folder / "features.parquet")["bright_mine"].to_list())
    assert ((colours > 0) & (colours < [1, 2, 3])).all()
    _, _, said = retrieve(place, "synthetic", "--from", "bright:m", "--with", "wide=true", status=2)
    assert "gives features of shape" in said
    assert "`width` promises" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["synthetic", "--from", "hff:x"], "unknown kind of encoder `hff`"),
        (["--from", "hf:models/videomae"], "name the DATASET"),
        (["synthetic", "--from", "hf:models/videomae", "--recipe", "vcsf_coclr"], "is no file"),
        (["synthetic", "--from", "hf:models/videomae", "--untrained"], "no untrained network"),
        (["synthetic", "--with", "stride=2"], "has nothing to set"),
        (["synthetic", "--from", "bright:m", "--with", "wide"], "--with wide is not an assignment"),
        (["synthetic", "--from", "scratch:smoke"], "for vcsf finetune alone"),
    ],
)
def test_what_does_not_go_together_is_refused(place: Path, words: list[str], said: str) -> None:
    assert said in retrieve(place, *words, status=2)[2]


def test_an_encoder_is_not_exported_again(place: Path) -> None:
    done = called("export", "--from", "hf:models/videomae", cwd=place, status=2)
    assert "is not vcsf's to export" in done.stderr
