"""An attentive probe: one cross-attention block on frozen features before pooling.

It is the probe of V-JEPA (Bardes et al., 2024, sec. 4, and `AttentivePooler` of its code): a learned
query attends to the features of all places over time and space; residual, layer norm and an MLP
follow, then a linear layer. The attention is torch's, which has an output projection too."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from vcsf_cli.config.protocol import Attentive
from vcsf_cli.config.schema import Optim
from vcsf_cli.contracts import Indices
from vcsf_cli.data.clips import EvalClips
from vcsf_cli.errors import RunError
from vcsf_cli.evaluate.classification import FOLDER, Classification
from vcsf_cli.evaluate.metrics import FloatArray, IntArray
from vcsf_cli.evaluate.probe import classify_features
from vcsf_cli.features.extract import FeatureMaps, Features, extract_windows
from vcsf_cli.narrate import Progress, say
from vcsf_cli.storage import checkpoint, files
from vcsf_cli.storage.sealed import file_crc32, read_json, reading, write_json
from vcsf_cli.train.compute import Compute
from vcsf_cli.train.optim import build_optimizer, learning_rate

KIND = "vcsf-attentive"
_MLP = 4
"""Hidden channels of the MLP for each channel."""
_LARGEST = float(np.finfo(np.float16).max)


def predict_attentive(evaluation: Classification, compute: Compute) -> Features:
    """Probabilities (test clips, classes) by pathway, of attentive layers on frozen features."""
    protocol, classes = cast(Attentive, evaluation.protocol), evaluation.classes
    device = compute.device()

    def fit(features: Maps, target: IntArray, setting: dict[str, Any]) -> AttentiveLayer:
        optim = Optim.model_validate(protocol.optim.model_dump() | setting)
        return fit_layer(features, target, len(classes), optim, protocol, evaluation.seed, device)

    probability, layers = classify_features(evaluation, _labelled_maps(evaluation, compute), fit)
    states = {pathway: layer.cpu().state_dict() for pathway, layer in layers.items()}
    content = {"classes": classes, "layers": states}
    checkpoint.save(evaluation.folder / "classifier.pt", content, KIND)
    return probability


@dataclass(frozen=True)
class Maps:
    """Features before pooling of some clips, which stay on disk.

    Args:
        values: Of each clip's windows, float16 (N, W, P, C) for P places over time and space.
        place: Which of them belong to each clip, (clips,); -1 for none.
    """

    values: npt.NDArray[np.float16]
    place: Indices

    def __len__(self) -> int:
        return len(self.place)

    def __getitem__(self, rows: Indices) -> Maps:
        return replace(self, place=self.place[rows])

    def read(self, window: Indices | slice = slice(None)) -> Tensor:
        """Features (clips, P, C) of one window of each clip, or (clips, W, P, C) of all."""
        return torch.from_numpy(self.values[self.place, window].astype(np.float32))


class AttentiveLayer(nn.Module):
    """A cross-attention block with one learned query, and a linear layer.

    Args:
        heads: Of the attention, at most; as many as divide the channels.
    """

    def __init__(self, channels: int, classes: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, 1, channels))
        self.norm = nn.LayerNorm(channels)
        self.attention = nn.MultiheadAttention(
            channels, math.gcd(channels, heads), batch_first=True
        )
        widen, narrow = nn.Linear(channels, _MLP * channels), nn.Linear(_MLP * channels, channels)
        self.mlp = nn.Sequential(nn.LayerNorm(channels), widen, nn.GELU(), narrow)
        self.linear = nn.Linear(channels, classes)
        for weight in (self.query, widen.weight, narrow.weight, self.linear.weight):
            nn.init.trunc_normal_(weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, places: Tensor) -> Tensor:
        """Logits (B, classes) of features (B, P, C)."""
        places = self.norm(places)
        query = self.query.expand(len(places), -1, -1)
        query = query + self.attention(query, places, places, need_weights=False)[0]
        query = query + self.mlp(query)
        return cast(Tensor, self.linear(query[:, 0]))

    @torch.no_grad()
    def probabilities(self, features: Maps) -> FloatArray:
        """Probabilities (N, classes) of N clips: the mean over their windows."""
        self.eval()
        device, found = self.query.device, []
        for row in range(len(features)):
            logits = self(features[np.array([row])].read()[0].to(device))
            found.append(logits.softmax(1).mean(0).cpu().numpy())
        return np.stack(found)


def fit_layer(
    features: Maps,
    target: IntArray,
    classes: int,
    optim: Optim,
    protocol: Attentive,
    seed: int,
    device: torch.device,
) -> AttentiveLayer:
    """Learn a layer from the features of clips and their classes (N,): in each epoch one window of
    every clip, in batches of a seeded order."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = AttentiveLayer(features.values.shape[-1], classes, protocol.heads)
    layer.to(device).train()
    optimizer, wanted = build_optimizer(optim, layer.parameters()), torch.from_numpy(target)
    size, epochs = min(protocol.train.batch, len(features)), protocol.train.epochs
    batches, rng = len(features) // size, np.random.default_rng(seed)
    for epoch in range(epochs):
        order = rng.permutation(len(features))
        window = rng.integers(features.values.shape[1], size=len(features))
        for number in range(batches):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(optim, epoch + (number + 1) / batches, epochs)
            rows = order[number * size : (number + 1) * size]
            logits = layer(features[rows].read(window[rows]).to(device))
            torch.autograd.backward(functional.cross_entropy(logits, wanted[rows].to(device)))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return layer


# Features on disk


def _labelled_maps(evaluation: Classification, compute: Compute) -> dict[str, Maps]:
    """Features before pooling of all labelled clips of the dataset, by pathway; computed once for
    all splits and seeds."""
    table, source = evaluation.manifest.table, evaluation.source
    count = cast(Attentive, evaluation.protocol).windows
    rows = np.flatnonzero(table["label"].notna().to_numpy())
    device, bf16 = compute.device(), compute.bf16()
    key = {
        "from": evaluation.identity["from"],
        "seed": evaluation.seed if source.is_drawn else None,
        "data": evaluation.manifest.hash,
        "windows": count,
        "device": device.type,
        "bf16": bf16,
        **source.windows.key,
    }
    name = f"maps-{evaluation.manifest.name}-{evaluation.variant}"
    folder = source.folder / FOLDER
    paths = {pathway: folder / f"{name}-{pathway}.npy" for pathway in evaluation.pathways}
    found = {pathway: _read(path, key) for pathway, path in paths.items()}
    if any(values is None for values in found.values()):
        clips = EvalClips(
            evaluation.manifest,
            rows.tolist(),
            source.windows.build_sampler(),
            source.windows.border,
            source.windows.size,
            spread=count,
        )
        model = evaluation.network().to(device)
        folder.mkdir(parents=True, exist_ok=True)
        with (
            ExitStack() as stack,
            Progress(len(rows), "videos", "features before pooling") as shown,
        ):
            opened = {
                pathway: stack.enter_context(files.atomic_write(path))
                for pathway, path in paths.items()
            }
            first = True
            for owners, features in extract_windows(
                FeatureMaps(model).eval(), clips, device, compute.num_workers, bf16, compute.engine
            ):
                for pathway, file in opened.items():
                    shape = (len(rows), count, *features[pathway].shape[1:])
                    _append(file, features[pathway], shape if first else None)
                first = False
                shown.advance(int(owners[-1]) - shown.done)
            shown.advance(len(rows) - shown.done)
        for path in paths.values():
            write_json(path.with_suffix(".json"), {"key": key, "crc32": file_crc32(path)})
        if any(np.load(path, mmap_mode="r").shape[2] == 1 for path in paths.values()):
            say(
                f"warning: features of {source.name} are of one place: the attention has nothing to "
                "choose from"
            )
        size = sum(path.stat().st_size for path in paths.values())
        say(f"{size / 2**20:,.0f} MiB of features are kept in {folder / name}-*: yours to delete")
        found = {pathway: np.load(path, mmap_mode="r") for pathway, path in paths.items()}
    place = np.full(len(table), -1)
    place[rows] = np.arange(len(rows))
    return {pathway: Maps(values, place) for pathway, values in found.items() if values is not None}


def _append(file: IO[bytes], values: FloatArray, shape: tuple[int, ...] | None) -> None:
    """Append features to a `.npy` file, which begins with its shape."""
    if shape:
        header = {"shape": shape, "fortran_order": False, "descr": "<f2"}
        np.lib.format.write_array_header_1_0(file, header)
    file.write(np.clip(values, -_LARGEST, _LARGEST).astype("<f2").tobytes())


def _read(path: Path, key: dict[str, Any]) -> npt.NDArray[np.float16] | None:
    """Features that depend on exactly what `key` says, mapped from their file; None if there are
    none, or they are damaged."""
    state = path.with_suffix(".json")
    if not state.is_file() or not path.is_file():
        return None
    try:
        kept = read_json(state, dict, "")
        if kept.get("key") != json.loads(json.dumps(key)):
            return None
        with reading(path, ""):
            if kept["crc32"] != file_crc32(path):
                raise ValueError("its content is not what its checksum says")
            values: npt.NDArray[np.float16] = np.load(path, mmap_mode="r")
            return values
    except RunError as error:
        say(f"warning: {error.message}: these features are computed again")
        return None
