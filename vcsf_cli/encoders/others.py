"""Encoders that no run of vcsf has trained here: weights in files, exports, and those of plugins."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from vcsf_cli.config.recipe import Recipe
from vcsf_cli.config.schema import DEFAULTS, Component
from vcsf_cli.contracts import Encoder, Indices, identity
from vcsf_cli.data.augment import MEAN, STD
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.encoders.hub import PREFIX
from vcsf_cli.encoders.source import EncoderSource
from vcsf_cli.errors import PluginError
from vcsf_cli.model.parts import WindowSpec
from vcsf_cli.model.pathways import Head, Networks, OnePathway, Pathway, build
from vcsf_cli.model.pretrained import OWN, InitialWeights
from vcsf_cli.registry import blame
from vcsf_cli.runs import trained_on
from vcsf_cli.runs.trained_on import Exposure
from vcsf_cli.storage import files

FILE = "encoder.json"
"""In the folder of an encoder's measurements: what it is."""

_FOREIGN = re.compile(r"[^\w.-]+")
"""What no name of a folder has here."""
_NOT_IN_MODULES = re.compile(r"\W+")
"""What no name of a network's part has, such as a dot."""


class OtherSource(EncoderSource):
    """An encoder without a run folder. Its measurements are in a folder of `--runs`, named after it
    and what its features depend on."""

    runs: Path

    @property
    @abstractmethod
    def label(self) -> str:
        """Its name without the digest."""

    @property
    def folder(self) -> Path:
        return self.runs / f"{_FOREIGN.sub('-', self.label)}-{self.weights_digest[:12]}"

    def remember(self) -> None:
        super().remember()
        content = dict(self.facts) | {"depends_on": self.identity, "labels": self.uses_labels}
        files.write_text(self.folder / FILE, json.dumps(content, indent=2) + "\n")


@dataclass(frozen=True)
class WeightsSource(OtherSource):
    """Weights of files in the networks of a recipe, without any training.

    Args:
        weights: Of each pathway that is measured.
        given: Words of the command line that name it.
    """

    runs: Path
    networks: Recipe
    weights: InitialWeights
    given: tuple[str, ...]

    @property
    def label(self) -> str:
        names = dict.fromkeys(each.file.stem for each in self.weights.imported)
        return f"{'-'.join(names)}-{self.networks.name}"

    @property
    def words(self) -> Sequence[str]:
        return self.given

    @property
    def identity(self) -> dict[str, Any]:
        digests = {each.pathway: each.digest for each in self.weights.imported}
        return {"weights": digests, "recipe": self.networks.hash}

    @property
    def windows(self) -> WindowSpec:
        return WindowSpec.from_stage(self.networks.last_stage)

    @property
    def pathways(self) -> tuple[str, ...]:
        return tuple(each.pathway for each in self.weights.imported)

    def network(self, seed: int | None = None) -> Networks:
        model = build(self.networks, weights_follow=True)
        self.weights.put_into(model)
        model.names = self.pathways
        return model.eval()

    @property
    def uses_labels(self) -> bool:
        return self.weights.labels

    def exposure(
        self, manifest: Manifest, split: int, test: Indices, leave_one_out: bool = False
    ) -> Exposure:
        own = self.weights.own_files
        others = [each.file for each in self.weights.imported if each.file not in own]
        return trained_on.compare_files(
            self.name, own, others, manifest, split, test, leave_one_out
        )

    @property
    def facts(self) -> list[tuple[str, str]]:
        weights = [
            (
                f"{each.pathway} weights",
                f"{each.file.name} ({each.layout}'s names, SHA-256 {each.digest[:12]}...)",
            )
            for each in self.weights.imported
        ]
        return [*weights, ("networks", f"recipe {self.networks.name}, nothing trained here")]

    @property
    def remarks(self) -> list[str]:
        found = [f"{name}: {value}" for name, value in self.facts]
        stage = self.networks.first_stage
        for each in self.weights.imported:
            reads = (stage.slow if each.pathway == "slow" else stage.fast).get("input")
            if reads == "difference" and each.layout != OWN:
                found.append(
                    f"{each.pathway} of recipe {self.networks.name} reads differences of frames, for "
                    f"which {each.file.name} may not be made"
                )
            found += [each.remark] if each.remark else []
        return list(dict.fromkeys(found))

    @property
    def documents(self) -> list[tuple[str, str]]:
        return [("Recipe of the networks", self.networks.yaml())]

    @property
    def recipe(self) -> Recipe:
        return self.networks


@dataclass(frozen=True)
class ExportSource(WeightsSource):
    """A folder that `vcsf export` made.

    Args:
        exported: The folder.
        config: The content of its `config.json`.
    """

    exported: Path
    config: Mapping[str, Any]

    @property
    def label(self) -> str:
        named = self.given[1]
        on_hub = named.startswith(PREFIX)
        return named.removeprefix(PREFIX) if on_hub else self.exported.resolve().name

    @property
    def facts(self) -> list[tuple[str, str]]:
        run = self.config["run"]
        trained = [("trained on", f"{run['dataset']} split {run['split']}")]
        return [
            ("export", f"{self.label}, of {run['name']}"),
            *(trained if run["dataset"] else []),
            ("recipe", f"{self.networks.name}, seed {self.networks.seed}"),
        ]

    @property
    def identity(self) -> dict[str, Any]:
        (digest,) = {each.digest for each in self.weights.imported}
        return {"export": digest}

    @property
    def dataset(self) -> str:
        return str(self.config["run"]["dataset"] or super().dataset)

    @property
    def video_settings(self) -> Mapping[str, Any]:
        video = dict(self.config["video"])
        return {"size": video.pop("stored"), **video}


@dataclass(frozen=True)
class PluginSource(OtherSource):
    """An encoder that a plugin has loaded.

    Args:
        scheme: The name that the plugin registered, the word before the colon in `--from`.
        encoder: What it gave.
        plugin: The plugin's name.
        given: Words of the command line that name it.
    """

    runs: Path
    scheme: str
    encoder: Encoder
    plugin: str
    given: tuple[str, ...]

    @property
    def label(self) -> str:
        return f"{self.scheme}-{self.encoder.name}"

    @property
    def words(self) -> Sequence[str]:
        return self.given

    @property
    def identity(self) -> dict[str, Any]:
        return {"encoder": self._content}

    @cached_property
    def _content(self) -> str:
        """SHA-256 of its weights and of what else its features depend on."""
        look = {name: getattr(self.encoder, name) for name in ("mean", "std", "facts")}
        digest = hashlib.sha256(json.dumps(look, sort_keys=True, default=str).encode())
        for name, value in sorted(self.encoder.network.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    @property
    def windows(self) -> WindowSpec:
        settings = {"frames": self.encoder.frames, "stride": self.encoder.stride, "alpha": 1}
        sampler = Component.model_validate(DEFAULTS["sampler"] | settings)
        return WindowSpec(sampler, self.encoder.size, self.encoder.border)

    @property
    def pathways(self) -> tuple[str, ...]:
        return (_NOT_IN_MODULES.sub("_", self.label),)

    def network(self, seed: int | None = None) -> Networks:
        # A copy, as fine-tuning changes it.
        backbone = copy.deepcopy(_AsBackbone(self.encoder, self.plugin))
        pathway = Pathway(backbone, {}, cast(Head, nn.Identity()), difference=False)
        return OnePathway(self.pathways[0], pathway).eval()

    @property
    def uses_labels(self) -> bool | None:
        return self.encoder.labels

    def exposure(
        self, manifest: Manifest, split: int, test: Indices, leave_one_out: bool = False
    ) -> Exposure:
        return Exposure(self.name, manifest, split, test, "unknown", None)

    @property
    def facts(self) -> list[tuple[str, str]]:
        encoder = self.encoder
        spread = f", one of every {encoder.stride}" if encoder.stride > 1 else ""
        return [
            ("encoder", encoder.origin),
            ("weights", f"SHA-256 {self._content[:12]}..."),
            ("reads", f"{encoder.frames} frames{spread}, {encoder.size} px"),
        ]

    @property
    def remarks(self) -> list[str]:
        return [*(f"{name}: {value}" for name, value in self.facts), *self.encoder.remarks]

    @property
    def video_settings(self) -> Mapping[str, Any]:
        return {"size": round(self.encoder.size / self.encoder.border)}


class _AsBackbone(nn.Module):
    """An encoder of a plugin as a backbone of one stage, whose features are one place large."""

    def __init__(self, encoder: Encoder, plugin: str) -> None:
        super().__init__()
        self.encoder, self.plugin = encoder.network, plugin
        self.channels = (encoder.width,)
        # Windows come normalised by ImageNet's mean and deviation.
        deviation = torch.tensor(encoder.std)
        scale = torch.tensor(STD) / deviation
        shift = (torch.tensor(MEAN) - torch.tensor(encoder.mean)) / deviation
        self.register_buffer("scale", scale.view(3, 1, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(3, 1, 1, 1), persistent=False)

    def forward(self, clip: Tensor, between: object = identity) -> Tensor:
        """Features (B, C, 1, 1, 1) of clips (B, 3, T, H, W).

        Raises:
            PluginError: If they are of another shape.
        """
        own = clip * self.get_buffer("scale") + self.get_buffer("shift")
        with blame(self.plugin, "an encoder"):
            features: Tensor = self.encoder(own.contiguous())
        if features.shape != (len(clip), *self.channels):
            raise PluginError(
                f"an encoder of plugin `{self.plugin}` gives features of shape "
                f"{tuple(features.shape)} for {len(clip)} clips",
                f"its `width` promises ({len(clip)}, {self.channels[0]})",
            )
        return features[:, :, None, None, None]
