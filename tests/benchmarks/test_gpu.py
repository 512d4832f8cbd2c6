"""`make gpu` as far as it can be tried without a GPU: the same code on the CPU, with tiny sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks import gpu


def run(path: Path, *words: str) -> int:
    return gpu.main(["--device", "cpu", "--small", "--out", str(path), *words])


def test_checks_and_speeds_are_written_down(tmp_path: Path) -> None:
    path = tmp_path / "gpu.md"
    assert run(path, "--parts", "bf16,resume,speed") == 0
    text = path.read_text()
    assert "| resumed against uninterrupted | 4 and 4 steps, at most 0 % apart " in text
    for fed_by in ("memory", "store", "cache"):
        assert text.count(f"| smoke | small | 8 x 32 px | float32 | 4 | {fed_by} | ") == 1
    assert "TFLOP/s" in text
    assert "bf16: vcsf computes in bfloat16 on GPUs only" in text


def test_losses_that_differ_and_parts_without_time_are_written_down(tmp_path: Path) -> None:
    path = tmp_path / "gpu.md"
    assert run(path, "--parts", "norms", "--minutes", "0") == 1
    assert "norms: left out" in path.read_text()
    assert run(path, "--parts", "norms,bf16", "--minutes", "0.01") == 1
    text = path.read_text()
    assert "norms: cut off" in text
    assert "bf16: left out" in text
    bench = gpu.Bench("cpu", 1, gpu.SMALL, tmp_path)
    for name, losses in {"near": [1.0, 2.01], "far": [1.0, 2.1], "short": [1.0]}.items():
        bench.compare(name, losses, [1.0, 2.0], 0.02)
    assert [(name, good) for name, _, good in bench.checks] == [
        ("near", True),
        ("far", False),
        ("short", False),
    ]
    gpu.write(bench, "gpu.py", path)
    assert "| far | 2 and 2 steps, at most 5 % apart (bound 2 %) | **WRONG** |" in path.read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--out", str(tmp_path / "gpu.md")]) == gpu.NO_GPU
    assert "no GPU that torch can use" in capsys.readouterr().err
