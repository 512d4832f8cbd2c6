"""`vcsf export` as a user types it: what is in the folder, that it computes what the checkpoint
does, and what it refuses."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from conftest import called
from safetensors.torch import load_file
from trained import pretrain, sets
from videos import write_video

from vcsf_cli import load_encoder
from vcsf_cli.config.recipe import load
from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.data.augment import to_input
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.data.store import FrameStore
from vcsf_cli.encoders.exported import exported_recipe
from vcsf_cli.evaluate.retrieval import training_mean
from vcsf_cli.export import formats
from vcsf_cli.export.card import measurements
from vcsf_cli.export.encoder import Encoder
from vcsf_cli.export.exporter import store_windows
from vcsf_cli.model.parts import WindowSpec, build_sampler
from vcsf_cli.model.pathways import TwoPathways, build
from vcsf_cli.runs.results import read_all
from vcsf_cli.runs.run import read_run
from vcsf_cli.search.video import FrameTransform
from vcsf_cli.storage import checkpoint
from vcsf_cli.storage.files import sha256

# Short-term motion is resized by a pool that ONNX does not have, and the fast pathway reads
# differences.
MOTION = sets("motion={name: short_term, after: [2, 3]}")
FORMATS = ("safetensors", "torch-export", "onnx")
ALL = tuple(word for name in FORMATS for word in ("--format", name))


@pytest.fixture(scope="module")
def place(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where a tiny run was trained, measured and exported in every format."""
    folder = tmp_path_factory.mktemp("exported")
    pretrain(tiny_data, folder, *MOTION)
    called("retrieve", "--k", "1,5", "--data", tiny_data, "--workers", 0, cwd=folder)
    done = called("export", *ALL, "--data", tiny_data, cwd=folder)
    (folder / "printed.txt").write_text(done.stdout)
    (folder / "said.txt").write_text(done.stderr)
    return folder


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    (run,) = (place / "runs").iterdir()
    return run


@pytest.fixture(scope="module")
def folder(place: Path) -> Path:
    (folder,) = (place / "exports").iterdir()
    return folder


@pytest.fixture(scope="module")
def model(run: Path) -> TwoPathways:
    """The networks, from the checkpoint alone."""
    model = build(load(str(run / "recipe.yaml"))).eval()
    model.load_state_dict(checkpoint.load(run / "checkpoint.pt")["task"]["model"])
    return model


def features(model: TwoPathways, run: Path, clips: np.ndarray) -> dict[str, np.ndarray]:
    """What the networks make of windows, by the path that training takes."""
    view = build_sampler(load(str(run / "recipe.yaml")).first_stage).cover(clips.shape[1])[0]
    positions = {
        name: torch.from_numpy(view.positions(name)).expand(len(clips), -1) for name in PATHWAYS
    }
    with torch.no_grad():
        found = model.features(to_input(torch.from_numpy(clips)), positions)
    return {name: values.numpy() for name, values in found.items()}


def windows(count: int) -> np.ndarray:
    """Windows of noise: harder to agree on than smooth video."""
    return np.random.default_rng(count).integers(0, 256, (count, 8, 32, 32, 3), np.uint8)


def agree(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-5 * np.abs(values).max())


def test_the_folder_holds_what_was_asked_for_and_every_file_was_compared(
    place: Path, folder: Path, run: Path
) -> None:
    assert folder.name == run.name
    files = {"README.md", "config.json", "model.safetensors", "model.pt2", "model.onnx"}
    files.add("trained_on.parquet")
    assert {path.name for path in folder.iterdir()} == files
    assert {path.name for path in folder.parent.iterdir()} == {
        folder.name
    }  # nothing half-written beside it
    lines = (place / "printed.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"{kind} {name}" for kind in FORMATS for name in PATHWAYS
    ]
    assert all("(6 real clips)" in line and "cosine 1.0000" in line for line in lines)
    assert (place / "said.txt").read_text().splitlines()[-1].startswith("next: python -c ")


def test_the_snippet_that_is_said_last_runs(
    place: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(place / "VIDEO.mp4", 20)
    *_, code = shlex.split((place / "said.txt").read_text().splitlines()[-1])
    monkeypatch.chdir(place)
    exec(code.replace("VIDEO", "VIDEO.mp4"))
    assert "'slow': array(" in capsys.readouterr().out


@pytest.mark.parametrize("count", [1, 2, 5])
def test_all_formats_compute_what_the_checkpoint_does_for_batches_of_any_size(
    folder: Path, run: Path, model: TwoPathways, count: int
) -> None:
    clips = windows(count)
    expected = features(model, run, clips)
    session = onnxruntime.InferenceSession(
        folder / "model.onnx", providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    agree(dict(zip(names, session.run(None, {"frames": clips}), strict=True)), expected)
    program = torch.export.load(folder / "model.pt2").module()
    agree(
        {
            name: values.detach().numpy()
            for name, values in program(torch.from_numpy(clips)).items()
        },
        expected,
    )
    for source in (folder, run):
        agree(
            {
                n: values.numpy()
                for n, values in load_encoder(source)(torch.from_numpy(clips)).items()
            },
            expected,
        )


def test_onnx_is_checked_and_used_without_torch(
    folder: Path, run: Path, model: TwoPathways, tmp_path: Path
) -> None:
    clips = windows(3)
    np.savez(tmp_path / "clips.npz", clips=clips, **features(model, run, clips))
    code = (
        "import sys; sys.modules['torch'] = None\n"  # whoever imports it now fails
        "from vcsf_cli.export.check import main\n"
        f"main(['onnx', {str(folder / 'model.onnx')!r}, {str(tmp_path / 'clips.npz')!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["slow"]["clips"] == 3
    assert found["fast"]["difference"] < 1e-5 * found["fast"]["scale"]


def test_an_encoded_video_has_the_feature_that_retrieval_computed(
    folder: Path, run: Path, tiny_data: Path
) -> None:
    """Of the stored frames the very same; of the original video all but what JPEG changed."""
    encoder = load_encoder(folder)
    data = Manifest.open(tiny_data / "synthetic")
    table = pq.read_table(run / "retrieve" / "synthetic-split1" / "features.parquet").to_pandas()
    for row in (0, 7):
        name = table["video"][row]
        assert data.table["video"][row] == name
        images = FrameStore(data).images(row, range(data.table["frames"][row]))
        stored = encoder.encode(np.stack(list(images)))
        (path,) = (tiny_data / "synthetic" / "original").rglob(Path(name).name)
        original = encoder.encode(str(path))
        for pathway in PATHWAYS:
            expected = table[pathway][row]
            np.testing.assert_allclose(stored[pathway], expected, rtol=1e-4, atol=1e-6)
            ours = original[pathway]
            assert ours @ expected / np.linalg.norm(ours) / np.linalg.norm(expected) > 0.99


def test_windows_come_with_their_seconds_and_average_to_the_video(
    folder: Path, tmp_path: Path
) -> None:
    video = write_video(tmp_path / "own.mp4", 40, fps=20)
    encoder = load_encoder(folder)
    found = encoder.encode_windows(video)
    starts = [view.window[0] for view in build_sampler(load("smoke").first_stage).cover(40)]
    np.testing.assert_allclose(found.begin, np.array(starts) / 20, atol=1e-3)
    np.testing.assert_allclose(found.end - found.begin, 8 / 20, atol=1e-3)
    for pathway, feature in encoder.encode(video).items():
        assert found.features[pathway].shape == (len(starts), 16)
        np.testing.assert_allclose(feature, found.features[pathway].mean(0), rtol=1e-5)


def test_config_and_weights_say_everything(folder: Path, run: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["features"] == {"slow": 16, "fast": 16}
    assert config["input"] == {
        "name": "frames",
        "type": "uint8",
        "layout": "batch, frames, height, width, RGB",
        "frames": 8,
        "stride": 1,
        "height": 32,
        "width": 32,
    }
    assert config["reads"]["slow"] == {"window": [0, 8], "frames": [0, 4]}
    assert config["video"] == {
        "size": 32,
        "border": 0.875,
        "stored": 128,
        "fps": None,
        "decoder": "",
    }
    assert config["run"]["name"] == run.name
    assert config["recipe"]["name"] == "tiny"
    weights = load_file(folder / "model.safetensors")
    assert not any("head" in name for name in weights)
    saved = checkpoint.load(run / "checkpoint.pt")["task"]["model"]
    for name, tensor in weights.items():
        if not name.startswith("centre."):
            assert torch.equal(tensor, saved[name]), name


def test_the_centre_is_the_mean_of_the_training_clips(folder: Path, run: Path) -> None:
    table = pq.read_table(run / "retrieve" / "synthetic-split1" / "features.parquet").to_pandas()
    train = table[table["part"] == "train"]
    encoder = load_encoder(folder)
    for pathway in PATHWAYS:
        np.testing.assert_allclose(
            encoder.centre[pathway], np.stack(train[pathway].to_list()).mean(0), rtol=1e-5
        )
    config = json.loads((folder / "config.json").read_text())
    assert config["centre"] == {"dataset": "synthetic", "split": 1, "clips": len(train)}
    assert load_encoder(run).centre == {}


def test_the_card_says_what_was_measured_and_nothing_else(folder: Path, run: Path) -> None:
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "vcsf"
    assert "self-supervised-learning" in yaml.safe_load(front)["tags"]
    rows = pd.read_csv(run / "retrieve" / "synthetic-split1" / "results.csv")
    for pathway in ("slow", "fast", "both"):
        values = rows[rows["pathway"] == pathway].set_index("metric")["value"] * 100
        assert f"| trained | {pathway} | {values['R@1']:.1f} | {values['R@5']:.1f} |" in text
    assert "untrained" not in text
    assert (run / "recipe.yaml").read_text() in text
    assert "labels: not used" in text
    assert "independent reconstruction" in text


@pytest.fixture
def copy(place: Path, tmp_path: Path) -> Path:
    """A folder of one's own with the run and its export."""
    shutil.copytree(place / "runs", tmp_path / "runs")
    shutil.copytree(place / "exports", tmp_path / "exports")
    return tmp_path


def test_a_file_that_computes_something_else_is_an_error_and_no_export(
    copy: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(encoder: Encoder, centre: dict[str, np.ndarray], path: Path) -> None:
        write(encoder, centre, path)
        encoder.state_dict()["fast.backbone.stages.3.body.4.weight"].mul_(1.01)
        write(encoder, centre, path)

    write = formats.write_safetensors
    monkeypatch.setattr(formats, "write_safetensors", damaged)
    done = called("export", "--data", tiny_data, "--out", "elsewhere", cwd=copy, status=1)
    assert (
        "error: the safetensors file does not compute what the checkpoint does: fast: "
        in done.stderr
    )
    assert "hint: " in done.stderr
    assert sorted(path.name for path in copy.iterdir()) == ["exports", "runs"]


def test_a_format_is_added_to_an_export_of_the_same_checkpoint(copy: Path, tiny_data: Path) -> None:
    (folder,) = (copy / "exports").iterdir()
    before, readme = (folder / "model.onnx").read_bytes(), folder / "README.md"
    readme.write_text(
        readme.read_text().replace(
            "library_name: vcsf\n", "library_name: vcsf\nlicense: cc0-1.0\n", 1
        )
    )
    called("export", "--data", tiny_data, cwd=copy)
    assert (folder / "model.onnx").read_bytes() == before
    assert readme.read_text().startswith("---\nlibrary_name: vcsf\nlicense: cc0-1.0\ntags:\n")
    config = json.loads((folder / "config.json").read_text())
    assert config["files"].keys() == config["compared"].keys() == set(FORMATS)


def test_the_centre_is_that_of_the_weights_that_are_there(copy: Path, tiny_data: Path) -> None:
    (run,), (folder,) = (copy / "runs").iterdir(), (copy / "exports").iterdir()
    shutil.move(run / "retrieve", copy / "retrieve")
    called("export", "--data", tiny_data, cwd=copy)
    shutil.move(copy / "retrieve", run / "retrieve")  # measured after the weights were written
    called("export", "--format", "onnx", "--data", tiny_data, cwd=copy)
    assert json.loads((folder / "config.json").read_text())["centre"] is None
    assert "No centre is in this folder" in (folder / "README.md").read_text()


def test_what_others_put_beside_an_export_is_not_lost(copy: Path, tiny_data: Path) -> None:
    (folder,) = (copy / "exports").iterdir()
    (folder / ".git").mkdir()
    (folder / "LICENSE").write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    done = called("export", "--data", tiny_data, cwd=copy, status=2)
    assert f"exports/{folder.name} holds .git, LICENSE beside an export" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_what_is_put_there_while_an_export_is_written_is_not_lost(
    copy: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disturbed(encoder: Encoder, centre: dict[str, np.ndarray], path: Path) -> None:
        write(encoder, centre, path)
        (copy / "elsewhere").mkdir()
        (copy / "elsewhere" / "diary.txt").touch()

    write = formats.write_safetensors
    monkeypatch.setattr(formats, "write_safetensors", disturbed)
    done = called("export", "--data", tiny_data, "--out", "elsewhere", cwd=copy, status=2)
    assert "--out elsewhere holds something else than an export" in done.stderr
    assert [path.name for path in (copy / "elsewhere").iterdir()] == ["diary.txt"]


def test_one_pathway_of_an_unfinished_run_compared_on_videos(copy: Path) -> None:
    (run,), (folder,) = (copy / "runs").iterdir(), (copy / "exports").iterdir()
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"finished": False, "uses_labels": True}))
    shutil.rmtree(run / "retrieve")
    video = write_video(copy / "own.mp4", 30)
    done = called("export", "--from", "tiny", "--pathway", "slow", "--clips", video, cwd=copy)
    assert "is not finished: exporting its newest checkpoint" in done.stderr
    assert "warning: labels were used" in done.stderr
    assert "onnx in" in done.stderr  # of both pathways: no more of this folder's encoder
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "trained_on.parquet",
    }
    card = (folder / "README.md").read_text()
    assert "**The training had not come to its end.**" in card
    assert "**Labels were used in training" in card
    assert "Nothing was measured" in card
    config = json.loads((folder / "config.json").read_text())
    assert config["centre"] is None
    assert config["trained_with_labels"]
    assert {name.split(".")[0] for name in load_file(folder / "model.safetensors")} == {"slow"}
    clips = torch.from_numpy(windows(2))
    assert torch.equal(load_encoder(folder)(clips)["slow"], load_encoder(run)(clips)["slow"])


def test_only_what_was_measured_of_this_checkpoint_counts(copy: Path) -> None:
    (folder,) = (copy / "runs").iterdir()
    run = read_run(folder)
    checkpoint_hash = sha256(run.checkpoint)
    measured = read_all(run.folder, {"checkpoint": checkpoint_hash})
    assert set(measured["task"]) == {"retrieval"}
    (path,) = folder.glob("retrieve/*/results.csv")
    for name, start in [
        ("own", {"checkpoint": checkpoint_hash}),
        ("old", {"checkpoint": "0"}),
        ("new", {"scratch": "0"}),
    ]:
        (folder / "finetune" / name).mkdir(parents=True)
        (folder / "finetune" / name / "status.json").write_text(json.dumps({"from": start}))
        pd.read_csv(path).assign(task=name).to_csv(
            folder / "finetune" / name / "results.csv", index=False
        )
    (folder / "lost" / "x").mkdir(parents=True)
    shutil.copy(path, folder / "lost" / "x")
    assert set(read_all(run.folder, {"checkpoint": checkpoint_hash})["task"]) == {
        "retrieval",
        "own",
    }
    assert read_all(run.folder, {"checkpoint": "another"}).empty
    for name, value, ended in [("later", 0.25, "2026-01-02"), ("sooner", 0.75, "2026-01-01")]:
        (folder / "finetune" / name).mkdir()
        status = {"from": {"checkpoint": checkpoint_hash}, "ended": ended}
        (folder / "finetune" / name / "status.json").write_text(json.dumps(status))
        again = pd.read_csv(path).assign(task="own", value=value)
        again.to_csv(folder / "finetune" / name / "results.csv", index=False)
    rows = read_all(run.folder, {"checkpoint": checkpoint_hash})
    assert set(rows[rows["task"] == "own"]["value"]) == {0.25}  # never the mean of several settings
    assert len(rows) == 2 * len(measured)
    assert training_mean(run, "another") is None


def test_results_of_several_seeds_are_told_as_their_mean(run: Path) -> None:
    rows = pd.read_csv(next(run.glob("retrieve/*/results.csv")))
    text = measurements(pd.concat([rows.assign(value=0.2), rows.assign(value=0.4, seed=7)]))
    assert "mean of 2 seeds" in text
    assert "| trained | slow | 30.0 | 30.0 |" in text
    assert "seen in training" not in text


def test_the_card_says_that_test_clips_were_seen_in_training(run: Path) -> None:
    rows = pd.read_csv(next(run.glob("retrieve/*/results.csv")))
    assert "4 test clips, **4 of them seen in training**" in measurements(rows.assign(seen=4))
    assert "seen in training" not in measurements(rows.drop(columns=["training_data", "seen"]))


def test_nothing_is_fetched_to_load_what_started_from_weights_of_others(run: Path) -> None:
    tree = load(
        "smoke",
        ["backbone={name: timm, model: test_vit, pretrained: true}", "slow.pretrained=true"],
    ).tree
    loaded = exported_recipe({"recipe": tree})
    assert loaded.first_stage.backbone.settings["pretrained"] is False
    assert loaded.first_stage.slow["pretrained"] is False
    assert tree["backbone"]["pretrained"] is True


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--format", "pickle"), "'pickle' is not one of"),
        (("--from", "absent"), "there is no run absent"),
        (("--out", "runs"), "--out runs holds something else than an export"),
        (("--out", "file"), "--out file is a file"),
        (("--out", "file/below"), "--out file/below can't be made in "),
        (("--clips", "absent.mp4"), "there is no video file absent.mp4"),
        (("--data", "nowhere"), "there are no clips to compare with"),
    ],
)
def test_a_wrong_command_line_is_told_before_any_work(
    copy: Path, arguments: tuple[str, ...], error: str
) -> None:
    (copy / "file").touch()
    done = called("export", *arguments, cwd=copy, status=2)
    assert f"error: {error}" in done.stderr or error in done.stderr.splitlines()[-3]
    assert "writing" not in done.stderr


def test_a_missing_package_is_told_before_any_work(
    copy: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(formats.NEEDED, "onnx", ("no_such_package",))
    done = called("export", "--format", "onnx", "--data", tiny_data, cwd=copy, status=2)
    assert "error: --format onnx needs no_such_package, which is not installed" in done.stderr
    assert "hint: pip install 'vcsf[export]'" in done.stderr


def test_what_is_compared_comes_from_all_over_the_dataset(run: Path, tiny_data: Path) -> None:
    stage, manifest = read_run(run).recipe.last_stage, Manifest.open(tiny_data / "synthetic")
    transform = FrameTransform.from_windows(WindowSpec.from_stage(stage), manifest.settings)
    found = store_windows(manifest, build_sampler(stage), transform)
    assert found.shape == (6, 8, 32, 32, 3)
    assert len(np.unique(found.reshape(6, -1), axis=0)) == 6
