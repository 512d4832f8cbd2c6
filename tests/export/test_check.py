"""The comparison of a file with the checkpoint: what passes as rounding, and what does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vcsf_cli.errors import RunError
from vcsf_cli.export.check import compare, measure

CLIPS = np.arange(3, dtype=np.uint8)[:, None]
EXPECTED = {"slow": np.array([[1, 2], [-4, 0.5], [3, 3]], np.float32)}


def computed(values: np.ndarray) -> bool:
    """Whether these features instead of the expected ones are good."""
    seen: list[int] = []

    def encode(batch: np.ndarray) -> dict[str, np.ndarray]:
        seen.append(len(batch))
        return {"slow": values[batch[:, 0]]}

    comparison = measure(encode, CLIPS, EXPECTED)["slow"]
    assert seen == [1, 2]  # batches of two sizes
    assert comparison.clips == 3
    assert comparison.scale == 4
    return comparison.good


def test_rounding_is_good_and_everything_else_is_not() -> None:
    right = EXPECTED["slow"]
    assert computed(right)
    assert computed(right + 3e-4)  # of 4: less than 1e-4
    assert not computed(right + np.float32([[5e-4, 0], [0, 0], [0, 0]]))
    assert not computed(1.01 * right)  # the cosine does not see it
    assert not computed(right[::-1])
    assert not computed(right * np.float32([[1, 1], [1, 1], [1, np.nan]]))


def test_the_cosine_counts_for_small_features_too() -> None:
    expected = {"slow": np.array([[100, 0], [0.001, 0]], np.float32)}
    turned = np.array([[100, 0], [0, 0.001]], np.float32)
    found = measure(lambda batch: {"slow": turned[batch[:, 0]]}, CLIPS[:2], expected)["slow"]
    assert found.difference < 1e-4 * found.scale
    assert not found.good


def test_a_file_that_can_not_be_loaded_is_told_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    np.savez(tmp_path / "clips.npz", clips=CLIPS, slow=EXPECTED["slow"])
    with pytest.raises(
        RunError, match=r"the onnx file was written but can't be used: .*(?i:protobuf)"
    ):
        compare("onnx", tmp_path / "model.onnx", tmp_path / "clips.npz")
