"""Comparing an exported file with the checkpoint, in a process of its own and by its own runtime.

`python -m vcsf_cli.export.check FORMAT PATH CLIPS.npz` prints how far the file is from the features
in `CLIPS.npz`. It imports nothing but numpy and the format's runtime, so that ONNX is checked
without PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vcsf_cli.errors import RunError

Values = npt.NDArray[np.float32]
Encode = Callable[[npt.NDArray[np.uint8]], Mapping[str, Values]]

_LARGEST_DIFFERENCE = 1e-4
"""As a share of the largest feature; float32 sums in another order differ by about 1e-6 of it."""
_SMALLEST_COSINE = 0.9999


@dataclass(frozen=True)
class _Comparison:
    """How far features of a file are from the checkpoint's, over all clips compared.

    Args:
        scale: The largest absolute feature of the checkpoint.
        cosine: The smallest cosine of a clip's two features.
    """

    clips: int
    difference: float
    scale: float
    cosine: float

    @property
    def good(self) -> bool:
        """Whether that is only rounding; NaN is not good."""
        return (
            self.difference <= _LARGEST_DIFFERENCE * self.scale and self.cosine >= _SMALLEST_COSINE
        )

    def __str__(self) -> str:
        relative = self.difference / self.scale if self.scale else float("nan")
        return f"largest difference {self.difference:.1e}, {relative:.1e} of the largest feature; cosine {self.cosine:.7f}"


def compare(kind: str, path: Path, clips: Path) -> dict[str, _Comparison]:
    """Compare a file in a fresh process, by pathway.

    Args:
        path: The file, or for safetensors the folder.
        clips: An .npz of `clips`, uint8 (N, L, H, W, 3), and of the features (N, C) expected by
            pathway.

    Raises:
        RunError: If it can't be loaded, or is further from the checkpoint than rounding explains.
    """
    command = [sys.executable, "-m", "vcsf_cli.export.check", kind, str(path), str(clips)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise RunError(
            f"the {kind} file was written but can't be used: {reason}",
            "nothing was exported; try other versions of the packages",
        )
    found = {
        pathway: _Comparison(**values)
        for pathway, values in json.loads(done.stdout.splitlines()[-1]).items()
    }
    for pathway, comparison in found.items():
        if not comparison.good:
            raise RunError(
                f"the {kind} file does not compute what the checkpoint does: {pathway}: "
                f"{comparison}",
                f"at most {_LARGEST_DIFFERENCE:g} of the largest feature and a cosine of at least "
                f"{_SMALLEST_COSINE} are rounding; nothing was exported, try other versions of the "
                "packages",
            )
    return found


def measure(
    encode: Encode, clips: npt.NDArray[np.uint8], expected: Mapping[str, Values]
) -> dict[str, _Comparison]:
    """Compare the features of clips, the first alone and the others in a batch, with the
    expected."""
    batches = [batch for batch in (clips[:1], clips[1:]) if len(batch)]
    parts = [encode(batch) for batch in batches]
    found = {}
    for pathway, ours in expected.items():
        theirs = np.concatenate([part[pathway] for part in parts]).astype(np.float64)
        if theirs.shape != ours.shape:
            raise ValueError(f"{pathway} has shape {theirs.shape}, not {ours.shape}")
        lengths = np.linalg.norm(theirs, axis=1) * np.linalg.norm(ours.astype(np.float64), axis=1)
        cosine = (theirs * ours).sum(1) / np.maximum(lengths, 1e-30)
        found[pathway] = _Comparison(
            len(clips),
            float(np.abs(theirs - ours).max()),
            float(np.abs(ours).max()),
            float(cosine.min()),
        )
    return found


def onnx(path: Path) -> Encode:
    """An ONNX file as a function, by onnxruntime."""
    import onnxruntime  # optional; see _torch_export

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda clips: dict(zip(names, session.run(None, {"frames": clips}), strict=True))


def _torch_export(path: Path) -> Encode:
    """An exported program as a function, by PyTorch alone."""
    import torch  # the other files are checked without vcsf or without torch

    return _without_gradients(torch.export.load(path).module())


def safetensors(folder: Path) -> Encode:
    """An exported folder as a function, by `vcsf_cli.load_encoder`."""
    from vcsf_cli.export.load import load_encoder  # see _torch_export

    return _without_gradients(load_encoder(folder))


def _without_gradients(module: Any) -> Encode:
    import torch  # see _torch_export

    def encode(clips: npt.NDArray[np.uint8]) -> Mapping[str, Values]:
        with torch.no_grad():
            found = module(torch.from_numpy(clips))
        return {name: features.numpy() for name, features in found.items()}

    return encode


_RUNTIMES: dict[str, Callable[[Path], Encode]] = {
    "onnx": onnx,
    "torch-export": _torch_export,
    "safetensors": safetensors,
}


def main(arguments: list[str]) -> None:
    """Compare FORMAT PATH CLIPS, and print the comparison as JSON."""
    kind, path, clips = arguments
    with np.load(clips, allow_pickle=False) as arrays:
        expected = {name: arrays[name] for name in arrays.files if name != "clips"}
        found = measure(_RUNTIMES[kind](Path(path)), arrays["clips"], expected)
    sys.stdout.write(
        json.dumps({pathway: asdict(comparison) for pathway, comparison in found.items()}) + "\n"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
