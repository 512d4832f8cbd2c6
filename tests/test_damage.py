"""Damaged files are noticed: single flipped bits, as disks and memory make them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from vcsf_cli.data import manifest as manifests
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.data.store import FrameStore
from vcsf_cli.errors import DataError, RunError
from vcsf_cli.runs import trained_on
from vcsf_cli.storage import checkpoint

FLIPS = 24


@contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    """A bit of a file flipped for a while."""
    with path.open("r+b") as file:
        for _ in range(2):
            file.seek(bit // 8)
            (byte,) = file.read(1)
            file.seek(bit // 8)
            file.write(bytes([byte ^ 1 << bit % 8]))
            file.flush()
            if _ == 0:
                yield


@pytest.fixture
def data(tiny_data: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_data / "synthetic", tmp_path / "data" / "synthetic")


def test_flipped_bits_of_stored_frames_are_noticed(data: Path) -> None:
    manifest, rng = Manifest.open(data), np.random.default_rng(0)
    for _ in range(FLIPS):
        row = int(rng.integers(len(manifest.table)))
        clip = manifest.table.iloc[row]
        bit = 8 * int(clip["offset"]) + int(rng.integers(8 * clip["bytes"]))
        path = data / f"shard-{clip['shard']:06d}.tar"
        with flipped(path, bit), pytest.raises(DataError) as error:
            FrameStore(manifest).jpegs(row, range(clip["frames"]))
        assert f"{path} is damaged: frame " in error.value.message
        assert f"of {clip['video']}" in error.value.message
    FrameStore(manifest).jpegs(0, range(manifest.table["frames"][0]))


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("checkpoint.pt", checkpoint.load),
        ("stage-1.pt", lambda path: checkpoint.load(path, checkpoint.STAGE)),
        ("trained_on.parquet", lambda path: trained_on.read(path.parent)),
    ],
)
def test_flipped_bits_in_files_of_a_run_are_noticed_or_harmless(
    name: str, read: Callable[[Path], Any], tiny_run: Path, tmp_path: Path
) -> None:
    path, rng = Path(shutil.copy(tiny_run / name, tmp_path)), np.random.default_rng(0)
    whole, said = repr(flat(read(path))), []
    for _ in range(FLIPS):
        with flipped(path, int(rng.integers(8 * path.stat().st_size))):
            try:
                assert repr(flat(read(path))) == whole
            except RunError as error:
                said.append(error.message)
    assert len(said) > FLIPS // 4
    assert all(str(path) in message for message in said)


def flat(node: Any) -> Any:
    """The values of a checkpoint or a table, tensors as lists of bytes."""
    if isinstance(node, dict):
        return [(key, flat(value)) for key, value in node.items()]
    if isinstance(node, list | tuple):
        return [flat(value) for value in node]
    if isinstance(node, torch.Tensor):
        return node.dtype, node.shape, node.numpy().tobytes()
    return node.to_json() if isinstance(node, pd.DataFrame) else node


def test_flipped_bits_of_a_manifest_are_noticed(data: Path) -> None:
    path, rng = data / "manifest.parquet", np.random.default_rng(0)
    for _ in range(FLIPS):
        bit = int(rng.integers(8 * path.stat().st_size))
        with flipped(path, bit), pytest.raises(DataError, match=r"manifest\.parquet is damaged"):
            Manifest.open(data)


def test_a_store_without_checksums_is_read_and_a_frame_that_is_not_a_jpeg_is_named(
    data: Path,
) -> None:
    rows = Manifest.open(data).table.drop(columns="frame_crc32").to_dict("records")
    manifests.write(data, rows)
    manifest = Manifest.open(data)
    clip = manifest.table.iloc[0]
    wanted = list(range(clip["frames"]))
    assert len(list(FrameStore(manifest).images(0, wanted))) == len(wanted)
    path = data / f"shard-{clip['shard']:06d}.tar"
    with flipped(path, 8 * int(clip["offset"])), pytest.raises(DataError) as error:
        list(FrameStore(manifest).images(0, wanted))
    assert f"{path} is damaged: frame 0 of {clip['video']}" in error.value.message
