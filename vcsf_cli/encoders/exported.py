"""Reading the folder of an export."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from vcsf_cli.config.recipe import Recipe, resolve
from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.errors import RunError
from vcsf_cli.storage.sealed import read_json, reading

CONFIG = "config.json"
FILES = {"safetensors": "model.safetensors", "torch-export": "model.pt2", "onnx": "model.onnx"}
"""The main file of each format."""

EXPORT_AGAIN = "export the run again into another folder: vcsf export --from RUN --out FOLDER"

KIND = "vcsf-encoder"
VERSION = 1


def is_export(folder: Path) -> bool:
    """Whether a folder is an export.

    Raises:
        RunError: If its `config.json` is damaged.
    """
    path = folder / CONFIG
    return path.is_file() and read_json(path, dict, EXPORT_AGAIN).get("model_type") == KIND


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of an exported folder.

    Raises:
        RunError: If it is damaged, something else, or from a newer vcsf.
    """
    path = folder / CONFIG
    config = read_json(path, dict, EXPORT_AGAIN)
    if config.get("model_type") != KIND:
        raise RunError(
            f"{path} is not that of an exported encoder", "name a folder that `vcsf export` made"
        )
    with reading(path, EXPORT_AGAIN):
        if config["version"] > VERSION:
            raise RunError(f"{path} was written by a newer vcsf", "upgrade vcsf")
    return config


def exported_recipe(config: dict[str, Any]) -> Recipe:
    """The recipe in a `config.json`, without the download of weights to start from.

    Raises:
        RecipeError: If a plugin that it needs is not here.
    """
    tree = copy.deepcopy(config["recipe"])
    for node in ("backbone", *PATHWAYS):
        if tree.get(node, {}).get("pretrained"):
            tree[node]["pretrained"] = False
    return resolve(tree, {})
