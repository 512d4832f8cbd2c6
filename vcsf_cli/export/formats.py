"""Writing encoders: safetensors, PyTorch's exported programs, ONNX."""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save
from torch import Tensor

from vcsf_cli.errors import InputError, RunError
from vcsf_cli.export.encoder import Encoder

_Program = Any
"""A `torch.export.ExportedProgram`."""

NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime")}
"""Packages that a format needs, of the extra `export`."""

_LARGEST_FILE = 2**31 - 2**24
"""Bytes of weights in one ONNX file; larger ones are written into `model.onnx.data` beside it."""


def check_packages(formats: Sequence[str]) -> None:
    """Check that everything is installed that writing and checking needs.

    Raises:
        InputError: If something is missing.
    """
    for name in formats:
        missing = [
            package for package in NEEDED.get(name, ()) if importlib.util.find_spec(package) is None
        ]
        if missing:
            raise InputError(
                f"--format {name} needs {' and '.join(missing)}, which is not installed",
                "pip install 'vcsf[export]'",
            )


def write_safetensors(
    encoder: Encoder, centre: Mapping[str, npt.NDArray[np.float32]], path: Path
) -> None:
    """Write weights, `slow.backbone...` and so on, and the centres of features (C,), `centre.slow`
    and so on."""
    tensors = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    tensors |= {f"centre.{pathway}": torch.from_numpy(values) for pathway, values in centre.items()}
    path.write_bytes(save(tensors, {"format": "pt"}))


def write_images(encoder: Encoder, folder: Path) -> list[str]:
    """Write each pathway's network of timm with timm's own names; returns the names of the
    files."""
    written = []
    for pathway in encoder.pathways:
        image = getattr(encoder.get_submodule(f"{pathway}.backbone"), "timm_network", None)
        if image is None:
            continue
        written.append(f"timm-{pathway}.safetensors")
        tensors = {name: tensor.contiguous() for name, tensor in image.state_dict().items()}
        (folder / written[-1]).write_bytes(save(tensors, {"format": "pt"}))
    return written


def trace_encoder(encoder: Encoder, size: int) -> _Program:
    """An encoder as one graph for batches of any size.

    Args:
        encoder: On the CPU, in eval mode.
        size: Pixels of a clip's side.

    Raises:
        RunError: If it can't be traced.
    """
    example = torch.zeros(2, encoder.geometry.length, size, size, 3, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1)
    with quiet(), torch.no_grad(), _one_line_errors("a graph of PyTorch's"):
        return torch.export.export(
            encoder.eval(), (example,), dynamic_shapes={"frames": {0: batch}}
        )


def write_torch_export(program: _Program, path: Path) -> None:
    with quiet():
        torch.export.save(program, path)


def write_onnx(program: _Program, pathways: Sequence[str], path: Path) -> None:
    """Write a graph as ONNX, its input `frames`, an output for each pathway.

    Raises:
        RunError: If something in it has no counterpart in ONNX.
    """
    (example,), _ = program.example_inputs
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    with quiet(), torch.no_grad(), _one_line_errors("ONNX"):
        program = program.run_decompositions(
            {torch.ops.aten.adaptive_avg_pool3d.default: adaptive_average}
        )
        translated = torch.onnx.export(
            program,
            (example,),
            dynamo=True,
            dynamic_shapes={"frames": {0: "batch"}},
            input_names=["frames"],
            output_names=list(pathways),
            verbose=False,
        )
        assert translated is not None
        translated.save(path, external_data=size > _LARGEST_FILE)


def adaptive_average(features: Tensor, size: Sequence[int]) -> Tensor:
    """`adaptive_avg_pool3d` of features (..., T, h, w) by axes; ONNX has no such operation."""
    for axis, length in zip((-3, -2, -1), size, strict=True):
        old = features.shape[axis]
        if old % length == 0:
            around = features.shape[:axis], features.shape[axis:][1:]
            features = features.reshape(*around[0], length, old // length, *around[1]).mean(axis)
            continue
        bounds = [(step * old // length, -(-(step + 1) * old // length)) for step in range(length)]
        parts = [
            features.narrow(axis, begin, end - begin).mean(axis, keepdim=True)
            for begin, end in bounds
        ]
        features = torch.cat(parts, axis)
    return features


@contextmanager
def _one_line_errors(what: str) -> Iterator[None]:
    """Turn any error of a translation into a `RunError` of one line."""
    try:
        yield
    except Exception as error:  # the exporters raise much of their own
        cause = error
        while cause.__cause__ is not None and isinstance(cause.__cause__, Exception):
            cause = cause.__cause__
        reason = next((line.strip() for line in str(cause).splitlines() if line.strip()), "")
        raise RunError(
            f"these networks can't be made {what}: {type(cause).__name__}: {reason}",
            "--format safetensors works with every network; --debug shows where it failed",
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the exporters' warnings, logs and printed graphs."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
