"""`--init`: initial weights from files of other code, or vcsf's own.

A backbone lists how other code names its weights (`layouts`, see `vcsf_cli.contracts.Layout`).
Loading is strict: the file must have every tensor of the backbone, and nothing else but what the
layout leaves out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vcsf_cli.config.recipe import Recipe
from vcsf_cli.config.schema import Init
from vcsf_cli.contracts import PATHWAYS, Layout
from vcsf_cli.errors import InputError
from vcsf_cli.model.pathways import Pathway, TwoPathways
from vcsf_cli.narrate import is_first, say
from vcsf_cli.storage import checkpoint, files
from vcsf_cli.storage.sealed import read_json, reading

FILE = "init.csv"
"""In a run folder: every tensor of the files that the run started from, taken or left out."""

OWN = "vcsf"
_WHOLE = ("state_dict", "model")
"""Keys under which a file with more than weights has them."""

_EXPORTED = tuple(f"{pathway}.backbone." for pathway in PATHWAYS)
"""Prefixes of keys of exported weights."""

_UNCOUNTED = "num_batches_tracked"
"""A batch norm needs it only with a momentum of None, and old files lack it."""

_SHOWN = 3
"""Most keys of a kind that an error names."""


@dataclass(frozen=True)
class _WeightFile:
    """The content of a file.

    Args:
        tensors: Its tensors by name.
        others: Its other keys, such as an optimiser's state.
        own: Whether vcsf wrote it.
        labels: Whether vcsf used labels in its training.
    """

    tensors: dict[str, Tensor]
    others: list[str]
    own: bool = False
    labels: bool = False


@dataclass(frozen=True)
class PathwayWeights:
    """The weights of one pathway from a file.

    Args:
        pathway: `slow` or `fast`.
        file: The file.
        digest: Its SHA-256.
        layout: Name of the layout of its keys.
        labels: Whether labels have trained these weights.
        remark: A sentence for the user, or "".
        weights: Tensors by the pathway's own keys.
        lines: For each key of the file: the key, our key or "", its shape, and `taken` or what it
            is.
    """

    pathway: str
    file: Path
    digest: str
    layout: str
    labels: bool
    remark: str
    weights: dict[str, Tensor]
    lines: list[tuple[str, str, str, str]]

    @property
    def facts(self) -> dict[str, Any]:
        """Its entry in a run's `status.json`."""
        return {
            "file": self.file.name,
            "sha256": self.digest,
            "layout": self.layout,
            "labels": self.labels,
        }

    def narrate(self) -> None:
        """Say what was taken and what was left out."""
        left = Counter(what for _, own, _, what in self.lines if not own)
        named = ", ".join(f"{what} ({count})" for what, count in left.items()) or "nothing"
        say(
            f"{self.pathway} starts from {self.file.name}, by {self.layout}'s names: "
            f"{len(self.weights)} tensors taken; left out: {named}"
        )
        if self.layout != OWN:
            say(f"{self.pathway}: head and motion modules start as the recipe says")
        if self.labels:
            say(f"{self.pathway}: labels have trained these weights")
        if self.remark:
            say(f"{self.pathway}: {self.remark}")


@dataclass(frozen=True)
class InitialWeights:
    """The weights from files that a run starts from.

    Args:
        imported: One entry for each pathway whose weights come from a file.
    """

    imported: tuple[PathwayWeights, ...] = ()

    @property
    def labels(self) -> bool:
        """Whether labels have trained any of these weights."""
        return any(each.labels for each in self.imported)

    @property
    def facts(self) -> dict[str, Any]:
        """Entries in a run's `status.json`, by pathway."""
        return {each.pathway: each.facts for each in self.imported}

    @property
    def own_files(self) -> list[Path]:
        """The files that vcsf itself wrote."""
        return list(dict.fromkeys(each.file for each in self.imported if each.layout == OWN))

    @torch.no_grad()
    def put_into(self, model: TwoPathways) -> None:
        """Copy the weights into the networks."""
        for each in self.imported:
            own = model.pathway(each.pathway).state_dict()
            for name, tensor in each.weights.items():
                own[name].copy_(tensor)

    def write(self, folder: Path) -> None:
        """Write `init.csv` into a run folder, if any weights come from files."""
        if not self.imported or not is_first():
            return
        table = pd.DataFrame(
            [
                (each.pathway, each.file.name, *line)
                for each in self.imported
                for line in each.lines
            ],
            columns=["pathway", "file", "key", "own_key", "shape", "what"],
        )
        with files.atomic_write(folder / FILE, "w") as file:
            table.to_csv(file, index=False, lineterminator="\n")


def init_settings(wanted: Init, given: Mapping[str, Path]) -> list[str]:
    """The recipe settings of `--init`, as `--set` takes them.

    Args:
        wanted: The recipe's own digests.
        given: Files by pathway.

    Raises:
        InputError: If the recipe names another file's digest.
    """
    found = []
    for pathway, path in given.items():
        digest, named = files.sha256(path), getattr(wanted, pathway)
        if named not in (None, digest):
            raise InputError(
                f"{path} is not what the recipe starts the {pathway} pathway from: its SHA-256 is "
                f"{digest}, not {named}",
                f"give the file that the recipe was made with, or --set init.{pathway}=null for "
                "another run",
            )
        found.append(f'init.{pathway}="{digest}"')
    return found


def read_initial_weights(
    recipe: Recipe, given: Mapping[str, Path], model: TwoPathways
) -> InitialWeights:
    """The weights that a recipe starts from, checked against its networks.

    Args:
        recipe: The recipe.
        given: Files by pathway; the recipe has their digests.
        model: Its networks; they are not changed.

    Raises:
        InputError: If a file is missing, can't be read, or does not fit.
    """
    imported = []
    for pathway in PATHWAYS:
        digest = getattr(recipe.first_stage.init, pathway)
        if digest is None:
            continue
        if pathway not in given:
            raise InputError(
                f"the {pathway} pathway of this recipe starts from weights with SHA-256 {digest}",
                f"give the file: --init {pathway}=FILE, or --init FILE for both pathways",
            )
        imported.append(
            read_pathway_weights(
                given[pathway], digest, pathway, model, recipe.first_stage.backbone.name
            )
        )
    return InitialWeights(tuple(imported))


def read_pathway_weights(
    path: Path, digest: str, pathway: str, model: TwoPathways, backbone: str
) -> PathwayWeights:
    content = _read_weight_file(path)
    network = model.pathway(pathway)
    layouts = {OWN: _own_layout(network, pathway)} if content.own else _backbone_layouts(network)
    if not layouts:
        raise InputError(
            f"backbone `{backbone}` takes no weights of other code, and {path} is not what vcsf "
            "pretrain or export wrote",
            "give a checkpoint.pt, a stage-N.pt or an exported model.safetensors of the same "
            "backbone",
        )
    name, prefix = _closest_layout(content.tensors, layouts)
    layout = layouts[name]
    taken, lines, problems = _match_tensors(content.tensors, layout, prefix, network.state_dict())
    if problems:
        fitting = (
            "the same backbone, motion module and settings" if content.own else f"`{backbone}`"
        )
        raise InputError(
            f"{path} does not fit backbone `{backbone}`, as {name} names its weights: "
            f"{'; '.join(problems)}",
            f"weights of {fitting} by {' or '.join(layouts)} would fit; nothing is loaded in part",
        )
    lines += [(key, "", "", "training state") for key in content.others]
    if layout.eps is not None:
        _fold_eps(network.backbone, layout.eps, taken)
    labels = content.labels or layout.labels(content.tensors)
    return PathwayWeights(pathway, path, digest, name, labels, layout.remark, taken, lines)


def _read_weight_file(path: Path) -> _WeightFile:
    """The content of a file of weights; no code in it is run.

    Raises:
        InputError: If it holds no weights.
    """
    loaded = _load_tensors(path)
    kind = loaded.get("kind") if isinstance(loaded, dict) else None
    if kind in (checkpoint.KIND, checkpoint.STAGE):
        tensors = loaded["task"]["model"] if kind == checkpoint.KIND else loaded["model"]
        return _WeightFile(tensors, [], True, _used_labels(path, "status.json", "uses_labels"))
    if path.suffix == ".safetensors" and any(key.startswith(_EXPORTED) for key in loaded):
        return _WeightFile(
            loaded, [], True, _used_labels(path, "config.json", "trained_with_labels")
        )
    inner = next(
        (key for key in _WHOLE if isinstance(loaded, dict) and isinstance(loaded.get(key), dict)),
        None,
    )
    tensors = loaded if inner is None else loaded[inner]
    if not _is_state(tensors):
        found = (
            f"a dict of {', '.join(map(repr, list(loaded)[:_SHOWN]))}"
            if isinstance(loaded, dict)
            else type(loaded)
        )
        raise InputError(
            f"{path} holds no weights by name but {found}",
            "what is wanted is a state dict: a dict of tensors, by itself or under the key "
            "`state_dict` or `model`",
        )
    others = [] if inner is None else [str(key) for key in loaded if key != inner]
    # torch's wrapper for several GPUs adds this prefix.
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): tensor for key, tensor in tensors.items()}
    return _WeightFile(tensors, others)


def _is_state(content: Any) -> bool:
    """Whether this is a state dict."""
    return (
        isinstance(content, dict)
        and len(content) > 0
        and all(
            isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in content.items()
        )
    )


def _load_tensors(path: Path) -> Any:
    """Load a file with torch or safetensors.

    Raises:
        InputError: If they can't read it.
    """
    scalar = cast(Any, np.float64(0).__reduce__()[0])
    plain = [np.dtype, *(type(np.dtype(name)) for name in ("float64", "float32", "int64"))]
    # Checkpoints may have accuracies beside the weights as numpy numbers; numpy 1 had another name
    # for them.
    safe = [scalar, (scalar, "numpy.core.multiarray.scalar"), *plain]
    hint = (
        "give a file that torch.save wrote and that holds nothing but tensors, numbers and text, "
        "or a .safetensors; code in it is never run"
    )
    if path.suffix != ".safetensors":
        return checkpoint.load_tensors(path, hint, InputError, safe)
    return checkpoint.load_safetensors(path, _digests(path), hint, InputError)


def _digests(path: Path) -> Mapping[str, str]:
    """SHA-256 of the files of an export, if the file lies in one that says them."""
    config = path.with_name("config.json")
    if not config.is_file():
        return {}
    digests = read_json(config, dict, "give a file beside a whole one", InputError).get("sha256")
    return digests if isinstance(digests, dict) else {}


def _used_labels(path: Path, beside: str, key: str) -> bool:
    """Whether labels have trained one of vcsf's own files, by a key of the JSON file beside it.

    Raises:
        InputError: If that file is missing or damaged.
    """
    hint = "name the file in the folder where vcsf wrote it"
    if not path.with_name(beside).is_file():
        raise InputError(
            f"{path} is vcsf's own, but there is no {beside} beside it that says whether labels "
            "were used",
            hint,
        )
    with reading(path.with_name(beside), hint, InputError):
        return bool(read_json(path.with_name(beside), dict, hint, InputError)[key])


def _own_layout(network: Pathway, pathway: str) -> Layout:
    """The layout of vcsf's own files: the pathway is taken without its head, nothing else is."""
    keys = {key: key for key in network.state_dict() if not key.startswith("head.")}
    left_out = {f"{other}.": f"the {other} pathway" for other in PATHWAYS if other != pathway}
    left_out |= {f"{pathway}.head.": "projection head", "centre.": "the centre of features"}
    return Layout(keys, (f"{pathway}.",), left_out)


def _backbone_layouts(network: Pathway) -> dict[str, Layout]:
    """The layouts of a pathway's backbone, with the pathway's own keys."""
    found: Mapping[str, Layout] = getattr(network.backbone, "layouts", {})
    return {
        name: replace(layout, keys={key: f"backbone.{own}" for key, own in layout.keys.items()})
        for name, layout in found.items()
    }


def _closest_layout(
    tensors: Mapping[str, Tensor], layouts: Mapping[str, Layout]
) -> tuple[str, str]:
    """The layout, by name, and its prefix that match the most tensors of a file."""
    known = {
        (name, prefix): sum(
            key.startswith(prefix) and key.removeprefix(prefix) in layout.keys for key in tensors
        )
        for name, layout in layouts.items()
        for prefix in layout.prefixes
    }
    return max(known, key=lambda pair: known[pair])


def _match_tensors(
    tensors: Mapping[str, Tensor], layout: Layout, prefix: str, own: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[tuple[str, str, str, str]], list[str]]:
    """A file's tensors by our keys, the lines of `PathwayWeights`, and problems in words."""
    taken: dict[str, Tensor] = {}
    lines: list[tuple[str, str, str, str]] = []
    wrong: dict[str, list[str]] = {
        "unexpected": [],
        "of another shape": [],
        "not finite": [],
        "given twice with two values": [],
    }
    for key, tensor in tensors.items():
        shape = "x".join(map(str, tensor.shape))
        name = layout.keys.get(key.removeprefix(prefix)) if key.startswith(prefix) else None
        what = next(
            (what for begin, what in layout.left_out.items() if key.startswith(begin)), None
        )
        if name is None:
            if what is None:
                wrong["unexpected"].append(key)
            lines.append((key, "", shape, what or "unexpected"))
            continue
        lines.append((key, name, shape, "taken"))
        if tensor.shape != own[name].shape:
            wrong["of another shape"].append(
                f"{key} {list(tensor.shape)}, not {list(own[name].shape)}"
            )
        elif not tensor.isfinite().all():
            wrong["not finite"].append(key)
        elif name in taken and not taken[name].equal(tensor):
            wrong["given twice with two values"].append(key)
        taken[name] = tensor
    wanted: dict[str, str] = {}
    for key, name in layout.keys.items():
        if not name.endswith(_UNCOUNTED):
            wanted.setdefault(name, prefix + key)
    missing = [key for name, key in wanted.items() if name not in taken]
    return taken, lines, _in_words({"missing": missing, **wrong})


def _in_words(wrong: Mapping[str, Sequence[str]]) -> list[str]:
    """For each kind of problem the number of keys and the first of them."""
    return [
        f"{len(keys)} {how} ({', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''})"
        for how, keys in wrong.items()
        if keys
    ]


def _fold_eps(backbone: nn.Module, eps: float, taken: dict[str, Tensor]) -> None:
    """Add the difference between the file's eps and that of our batch norms to running variances.

    A batch norm divides by the root of variance + eps, so that it computes the same in eval mode.
    In training it divides by the batch's own variance + our eps."""
    for name, module in backbone.named_modules():
        key = f"backbone.{name}.running_var"
        if isinstance(module, _BatchNorm) and key in taken:
            taken[key] = taken[key] + (eps - module.eps)
