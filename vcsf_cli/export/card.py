"""The model card, `README.md`: what the encoder is, how it is used, what was measured, what it is
not."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from vcsf_cli.export.folder import FILES
from vcsf_cli.runs import results
from vcsf_cli.runs.run import WITH_LABELS, Run

_FRONT = """\
---
library_name: vcsf{licence}
tags:
- video
- feature-extraction
- {kind}
---
"""
"""No `license`: whoever publishes the weights chooses it. `datasets` would have to be names of the
hub."""

_LICENCE = """\
The weights have no licence until you give them one: choose it before you publish this folder, and add `license:` to the
head of this file. The data that trained them has terms of its own: UCF101 and HMDB51 were gathered from web videos for
research, and synthetic videos are drawn by vcsf. The code of vcsf is under the MIT licence."""

_ORIGIN = """\
The method is an independent reconstruction of VCSF (Li, Yang, Jiang, Chen, Du: "Video Self-Supervised Cross-Pathway Training
Based on Slow and Fast Pathways", IEEE SMC 2023), of which only the abstract is public. No table of that paper is reproduced."""

_USES = {
    "safetensors": """\
```python
from vcsf_cli import load_encoder          # reads videos

encoder = load_encoder("this folder")
features = encoder.encode("video.mp4")     # float32 (C,) by pathway, the mean over windows
windows = encoder.encode_windows("video.mp4")  # features (W, C) by pathway, begin and end in seconds
```""",
    "torch-export": """\
```python
import torch                               # without vcsf

encoder = torch.export.load("model.pt2").module()
features = encoder(windows)                # uint8 {shape} in, (batch, C) by pathway out
```""",
    "onnx": """\
```python
import onnxruntime                         # without vcsf and PyTorch

encoder = onnxruntime.InferenceSession("model.onnx")
{names} = encoder.run(None, {{"frames": windows}})  # uint8 {shape} in, (batch, C) each out
```""",
}


def licence_in(text: str) -> str:
    """The line of a card's head that names a licence, as whoever publishes the weights wrote it;
    empty if there is none."""
    found = re.match(r"---\n(?:(?!---).*\n)*?(license:.*)\n", text)
    return found[1] if found else ""


def card(run: Run, config: dict[str, Any], measured: pd.DataFrame, licence: str = "") -> str:
    """The model card in Markdown.

    Args:
        run: What is exported.
        config: The contents of `config.json`.
        measured: Result rows of this very checkpoint.
        licence: A line of the head that names one, or nothing.
    """
    kind = "supervised" if config["trained_with_labels"] else "self-supervised-learning"
    sections = [
        (f"# {run.name}", introduction(run, config)),
        ("## Use", use(config)),
        ("## Training data", data(run, config)),
        ("## Measured", measurements(measured)),
        ("## Same as the checkpoint", comparisons(config)),
        ("## Limits", limits(config)),
        ("## Licence", _LICENCE),
        ("## Recipe", f"```yaml\n{(run.folder / 'recipe.yaml').read_text(encoding='utf-8')}```"),
    ]
    front = _FRONT.format(kind=kind, licence=f"\n{licence}" if licence else "")
    return front + "\n" + "\n\n".join(f"{head}\n\n{text.strip()}" for head, text in sections) + "\n"


def introduction(run: Run, config: dict[str, Any]) -> str:
    """What it is."""
    widths = ", ".join(
        f"{pathway} ({width} numbers)" for pathway, width in config["features"].items()
    )
    backbone = run.recipe.first_stage.backbone.name
    lines = [
        f"An encoder of video: features of windows of {config['input']['frames']} RGB frames, by "
        f"pathway: {widths}; backbone "
        f"`{backbone}`. Trained with vcsf {config['vcsf']}.",
        f"**{WITH_LABELS[:1].upper()}{WITH_LABELS[1:]}.**" if config["trained_with_labels"] else "",
        "**The training had not come to its end.**" if not config["run"]["finished"] else "",
        _ORIGIN,
    ]
    return "\n\n".join(line for line in lines if line)


def use(config: dict[str, Any]) -> str:
    """How it is used, for the formats that are there."""
    given, video = config["input"], config["video"]
    shape = f"(batch, {given['frames']}, {given['height']}, {given['width']}, 3)"
    names = ", ".join(config["features"])
    parts = [
        _USES[kind].format(shape=shape, names=names) for kind in FILES if kind in config["files"]
    ]
    rate = "the video's own rate" if video["fps"] is None else f"{video['fps']:g} frames a second"
    taken = {1: "one after the other", None: "as the recipe's sampler takes them"}.get(
        given["stride"], f"one of every {given['stride']}"
    )
    parts.append(
        f"A window is {given['frames']} frames, {taken} at {rate}, RGB. They are made "
        f"{video['stored']} px on the short side "
        f"if they are larger (by area), cut to the centre square of {video['border']:g} of it and "
        f"resized to "
        f"{given['height']} px. Choosing each pathway's frames and normalising happens inside. "
        f"`load_encoder` does all that "
        "from a video file."
    )
    centre = config["centre"]
    parts.append(
        "To compare two videos take each one's mean feature over its windows, subtract a centre, "
        "scale to unit length and "
        "multiply; for both pathways take the mean of the two similarities. "
        + (
            f"The centre of the {centre['clips']:,} training clips of {centre['dataset']} is in "
            f"`model.safetensors` under "
            "`centre.` and the pathway's name; vcsf's benchmark subtracts from each set the mean "
            "of its own."
            if centre and "safetensors" in config["files"]
            else "No centre is in this folder: take the mean over your own videos."
        )
    )
    images = [
        name for names in config["files"].values() for name in names if name.startswith("timm-")
    ]
    if images:
        parts.append(
            f"The image network alone is in {' and '.join(f'`{name}`' for name in images)}, with "
            f"timm's names: "
            "`timm.create_model(NAME, num_classes=0)` loads it strictly. It was trained on frames "
            "normalised by ImageNet's mean "
            "and deviation, with the temporal part between its stages that is not in there."
        )
    return "\n\n".join(parts)


def data(run: Run, config: dict[str, Any]) -> str:
    """What it was trained on."""
    status, split = run.status, run.recipe.first_stage.data.split
    lines = [
        f"- dataset `{status['dataset']}`, {status['clips']:,} clips prepared; training part of "
        f"split {split}, or all if it "
        "has none",
        f"- SHA-256 of what the clips are: `{status['data_hash']}`",
        f"- run `{run.name}`, seed {run.recipe.seed}, "
        f"{status.get('steps', 'unfinished: unknown')} steps",
        f"- labels: {'used' if config['trained_with_labels'] else 'not used'}",
        *(f"- {sentence}" for sentence in run.imported),
    ]
    if run.recipe.first_stage.backbone.settings.get("pretrained"):
        lines.append(
            "- the backbone started from weights of others, most of which have seen labels"
        )
    return "\n".join(lines)


def measurements(measured: pd.DataFrame) -> str:
    """Tables of all results, one for each dataset, split and task."""
    if measured.empty:
        return "Nothing was measured of this checkpoint before it was exported."
    parts = []
    for (dataset, split, task), rows in measured.groupby(["dataset", "split", "task"], sort=False):
        order = rows[["variant", "pathway"]].drop_duplicates()
        table = rows.pivot_table(
            index=["variant", "pathway"], columns="metric", values="value", sort=False
        )
        table = table.reindex(pd.MultiIndex.from_frame(order)) * 100
        clips, seeds = f"{rows['clips'].iloc[0]:,} test clips", rows["seed"].nunique()
        mean = f", mean of {seeds} seeds" if seeds > 1 else ""
        seen = rows["seen"].max() if "seen" in rows and rows["seen"].notna().any() else 0
        mark = f", **{seen:,} of them seen in training**" if seen else ""
        parts.append(
            f"{task} on `{dataset}` split {split}, {clips}{mark}{mean}, in per "
            f"cent:\n\n{results.markdown(table)}"
        )
    parts.append(
        "Numbers of one training on data and schedule as above; not comparable with published "
        "tables."
    )
    return "\n".join(parts)


def comparisons(config: dict[str, Any]) -> str:
    """How far the files were from the checkpoint when they were written."""
    lines = [
        f"| {kind} | {pathway} | {found['difference'] / found['scale']:.1e} | "
        f"{found['cosine']:.7f} |"
        for kind, by_pathway in config["compared"].items()
        for pathway, found in by_pathway.items()
    ]
    head = [
        "| format | pathway | largest difference / largest feature | smallest cosine |",
        "| --- | --- | ---: | ---: |",
    ]
    return "Each file was loaded in a fresh process and compared on real clips:\n\n" + "\n".join(
        head + lines
    )


def limits(config: dict[str, Any]) -> str:
    """What it can't do."""
    given = config["input"]
    lines = [
        f"- It knows clips like those of `{config['run']['dataset']}`; how it does on others was "
        f"not measured unless it says so "
        "above.",
        f"- Frames are {given['height']} px: what is small in the picture is lost.",
        "- Features are neither centred nor scaled, and mean nothing by themselves.",
        "- It says which videos are alike, not what happens in them, and must not decide about "
        "people.",
    ]
    return "\n".join(lines)
