"""Every file of a run, a store, an index and an export, damaged in three ways: what a command says
then names the file, or it does as if the file were whole."""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path

import pytest
from conftest import TINY as VIDEOS
from conftest import called
from trained import TINY, copy_run
from videos import write_video

from vcsf_cli import load_encoder
from vcsf_cli.cli import main
from vcsf_cli.errors import VcsfError

NOISE = bytes(range(256)) * 3
"""Not UTF-8, no archive, no table."""

RETRIEVE = ("retrieve", "--k", "1,2", "--workers", 0)
KNN = ("finetune", "synthetic", "--knn", "--workers", 0)
SEARCH = ("retrieve", "--query", "query.avi", "--workers", 0, "--index", "faiss")
PRETRAIN = ("pretrain", "smoke", *TINY, "--workers", 0)
PREPARE = ("prepare", "synthetic", *VIDEOS, "--workers", 1)
EXPORT = ("export", "--out", "exports")
LOAD = ("load_encoder", "runs")
LOAD_EXPORT = ("load_encoder", "exports")

READERS = {
    "runs/*/recipe.yaml": (RETRIEVE, LOAD),
    "runs/*/status.json": (RETRIEVE, KNN, PRETRAIN),
    "runs/*/environment.json": (RETRIEVE,),
    "runs/*/metrics.csv": (RETRIEVE,),
    "runs/*/stages.json": (RETRIEVE,),
    "runs/*/trained_on.parquet": (RETRIEVE, PRETRAIN),
    "runs/*/checkpoint.pt": (RETRIEVE, LOAD),
    "runs/*/results.csv": (KNN,),
    "runs/*/retrieve/*/results.csv": (RETRIEVE,),
    "runs/*/retrieve/*/features.parquet": (RETRIEVE,),
    "runs/*/finetune/*/status.json": (KNN,),
    "runs/*/finetune/*/results.csv": (KNN,),
    "runs/*/index/*/key.json": (SEARCH,),
    "runs/*/index/*/windows.jsonl": (SEARCH,),
    "runs/*/index/*/slow.npy": (SEARCH,),
    "runs/*/index/*/mean.npz": (SEARCH,),
    "runs/*/index/*/faiss-both.json": (SEARCH,),
    "runs/*/index/*/faiss-both-*.index": (SEARCH,),
    "data/synthetic/manifest.parquet": (RETRIEVE, PREPARE),
    "data/synthetic/settings.json": (RETRIEVE, PREPARE),
    "data/synthetic/journal.jsonl": (PREPARE,),
    "data/synthetic/shard-000000.tar": (RETRIEVE, PREPARE),
    "exports/config.json": (LOAD_EXPORT, EXPORT),
    "exports/model.safetensors": (LOAD_EXPORT,),
}
"""Which commands read a file."""


def run(words: tuple[object, ...], place: Path) -> tuple[int, str, str]:
    """Status, stdout and stderr of a command, or of loading an encoder."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(place), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        if words[0] != "load_encoder":
            return main([str(word) for word in words]), out.getvalue(), err.getvalue()
        folder = Path(str(words[1]))
        try:
            encoder = load_encoder(folder if words == LOAD_EXPORT else next(folder.iterdir()))
        except VcsfError as error:
            return error.exit_code, "", error.message
        return 0, str([float(value.sum()) for value in encoder.state_dict().values()]), ""


@pytest.fixture(scope="module")
def whole(
    tiny_run: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[tuple[object, ...], str], dict[Path, bytes]]:
    """A folder with everything, what each command prints there, and the contents of its files."""
    place = tmp_path_factory.mktemp("whole")
    copy_run(tiny_run, place)
    shutil.copytree(tiny_data, place / "data")
    write_video(place / "query.avi", 20)
    called(*EXPORT, cwd=place)
    commands = dict.fromkeys(words for readers in READERS.values() for words in readers)
    for words in (RETRIEVE, KNN, SEARCH):
        called(*words, cwd=place)
    printed = {words: called(*words, cwd=place).stdout for words in (RETRIEVE, KNN, SEARCH)}
    printed |= {words: run(words, place)[1] for words in commands if words not in printed}
    files = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    return place, printed, files


def restore(place: Path, files: dict[Path, bytes]) -> None:
    for path in place.rglob("*"):
        if path.is_file() and path not in files:
            path.unlink()
    for path, content in files.items():
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


@pytest.mark.parametrize("pattern", READERS)
def test_a_damaged_file_is_named_or_harmless(
    pattern: str, whole: tuple[Path, dict[tuple[object, ...], str], dict[Path, bytes]]
) -> None:
    place, printed, files = whole
    (path,) = place.glob(pattern)
    content = files[path]
    other = b"[]" if content[:1] == b"{" else b"{}" if content[:1] == b"[" else NOISE
    for way, damaged in {
        "empty": b"",
        "half": content[: len(content) // 2],
        "other": other,
    }.items():
        for words in READERS[pattern]:
            path.write_bytes(damaged)
            status, out, err = run(words, place)
            if status:
                assert status in (1, 2), way
                assert path.name in err, (way, words, err)
                assert "damaged" in err or path.suffix == ".yaml", (way, words, err)
            elif words != PREPARE:
                assert out == printed[words], (way, words, err)
            restore(place, files)
