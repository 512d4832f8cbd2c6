"""Small random encoders of others, saved by their own libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

transformers.utils.logging.disable_progress_bar()

SIZE, FRAMES = 32, 4
_SMALL = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "patch_size": 16}
_CROP = {
    "crop_size": {"height": SIZE, "width": SIZE},
    "image_mean": [0.45, 0.4, 0.5],
    "image_std": [0.225, 0.2, 0.25],
}


def save_video_model(folder: Path, kind: str, seed: int = 0) -> Any:
    """A model of a few thousand weights with its processor: `videomae`, `vjepa2` or `timesformer`,
    or `classifier`, a VideoMAE that names classes."""
    torch.manual_seed(seed)
    read = {"image_size": SIZE, "num_frames": FRAMES, "intermediate_size": 32}
    resized = SIZE
    if kind == "vjepa2":
        config = transformers.VJEPA2Config(
            crop_size=SIZE,
            frames_per_clip=FRAMES,
            pred_hidden_size=16,
            pred_num_attention_heads=2,
            pred_num_hidden_layers=1,
            **_SMALL,
        )
        model, resized = transformers.VJEPA2Model(config), 36
        processor = transformers.VJEPA2VideoProcessor
    elif kind == "timesformer":
        config = transformers.TimesformerConfig(**_SMALL, **read)
        model = transformers.TimesformerModel(config)
        processor = transformers.VideoMAEImageProcessor  # what the published ones have
    else:
        config = transformers.VideoMAEConfig(
            **_SMALL,
            **read,
            decoder_hidden_size=16,
            decoder_num_attention_heads=2,
            decoder_num_hidden_layers=1,
            decoder_intermediate_size=16,
        )
        kinds = {
            "videomae": transformers.VideoMAEForPreTraining,
            "classifier": transformers.VideoMAEForVideoClassification,
        }
        model = kinds[kind](config)
        processor = transformers.VideoMAEImageProcessor
    model.eval().save_pretrained(folder)
    processor(size={"shortest_edge": resized}, **_CROP).save_pretrained(folder)
    return model


def save_image_model(folder: Path, classes: int = 10) -> Any:
    """A small network of timm with weights and configuration as timm's own hub code saves them."""
    import timm

    torch.manual_seed(0)
    image = timm.create_model("test_vit", num_classes=classes)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(image.state_dict(), folder / "model.safetensors")
    cfg = {key: value for key, value in image.pretrained_cfg.items() if value is not None}
    content = {"architecture": "test_vit", "num_classes": classes, "pretrained_cfg": cfg}
    (folder / "config.json").write_text(json.dumps(content, default=str))
    return image.eval()
