"""Encoders of transformers and timm give the features that their own libraries give."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from others import FRAMES, SIZE, save_image_model, save_video_model
from torch import Tensor
from vcsf_plugins.encoders import hugging_face, timm_frames

from vcsf_cli.data.augment import to_input
from vcsf_cli.encoders.find import find_source
from vcsf_cli.encoders.others import PluginSource
from vcsf_cli.encoders.source import EncoderSource
from vcsf_cli.errors import InputError, RecipeError, UnknownName, VcsfError


def clips(length: int = FRAMES, size: int = SIZE) -> Tensor:
    """Three windows, uint8 (3, L, size, size, 3)."""
    drawn = np.random.default_rng(0).integers(0, 256, (3, length, size, size, 3), np.uint8)
    return torch.from_numpy(drawn)


@torch.no_grad()
def features(source: EncoderSource, windows: Tensor) -> Tensor:
    positions = torch.arange(windows.shape[1]).expand(len(windows), -1)
    found = source.network().features(to_input(windows), {"slow": positions, "fast": positions})
    assert tuple(found) == source.pathways
    return found[source.pathways[0]]


@torch.no_grad()
def hidden_states(model: Any, folder: Path, windows: Tensor) -> Tensor:
    """What the model gives of windows as its own processor makes them."""
    from transformers import AutoVideoProcessor

    processor = AutoVideoProcessor.from_pretrained(folder)
    videos = [list(window.permute(0, 3, 1, 2).numpy()) for window in windows]
    read = processor(videos, return_tensors="pt", do_resize=False, do_center_crop=False)
    (pixels,) = (value for name, value in read.items() if name.startswith("pixel_values"))
    base = getattr(model, "videomae", model)
    more = {"skip_predictor": True} if model.config.model_type == "vjepa2" else {}
    states: Tensor = base(pixels, **more).last_hidden_state
    return states


@pytest.mark.parametrize(
    ("kind", "labels", "border"),
    [
        ("videomae", False, 1.0),
        ("classifier", True, 1.0),
        ("vjepa2", None, SIZE / 36),
        ("timesformer", None, 1.0),
    ],
)
def test_features_are_the_pooled_hidden_states_of_the_model(
    kind: str, labels: bool | None, border: float, tmp_path: Path
) -> None:
    folder = tmp_path / kind
    model = save_video_model(folder, kind)
    source = find_source(tmp_path, f"hf:{folder}")
    assert source.uses_labels is labels
    assert (source.windows.size, source.windows.border) == (SIZE, pytest.approx(border))
    states = hidden_states(model, folder, clips())
    expected = states[:, 0] if kind == "timesformer" else states.mean(1)
    torch.testing.assert_close(features(source, clips()), expected, atol=1e-5, rtol=1e-4)
    first = find_source(tmp_path, f"hf:{folder}", settings=["pool=first", "stride=2"])
    torch.testing.assert_close(features(first, clips()), states[:, 0], atol=1e-5, rtol=1e-4)
    assert first.windows.key["sampler"]["stride"] == 2


def test_a_digest_is_of_the_weights_and_of_what_else_features_depend_on(tmp_path: Path) -> None:
    save_video_model(tmp_path / "one", "videomae")
    save_video_model(tmp_path / "elsewhere", "videomae")
    save_video_model(tmp_path / "other", "videomae", seed=1)

    def digest(folder: str, *settings: str) -> object:
        return find_source(tmp_path, f"hf:{tmp_path / folder}", settings=settings).identity

    assert digest("one") == digest("elsewhere") != digest("other")
    assert digest("one") != digest("one", "pool=first")
    encoder = hugging_face(str(tmp_path / "one"))
    brighter = dataclasses.replace(encoder, mean=(0.1, 0.1, 0.1))
    ours, theirs = (PluginSource(tmp_path, "hf", each, "p", ()) for each in (encoder, brighter))
    assert ours.identity != theirs.identity


def test_images_of_timm_are_read_frame_by_frame(tmp_path: Path) -> None:
    image = save_image_model(tmp_path / "image")
    source = find_source(tmp_path, f"timm:{tmp_path / 'image'}", settings=["frames=2"])
    size = source.windows.size
    windows = clips(2, size)
    cfg = image.pretrained_cfg
    pixels = (windows / 255 - torch.tensor(cfg["mean"])) / torch.tensor(cfg["std"])
    with torch.no_grad():
        frames = pixels.flatten(0, 1).permute(0, 3, 1, 2)
        pooled = image.forward_head(image.forward_features(frames), pre_logits=True)
    expected = pooled.view(3, 2, -1).mean(1)
    torch.testing.assert_close(features(source, windows), expected, atol=1e-5, rtol=1e-4)
    assert source.uses_labels is True
    save_image_model(tmp_path / "bare", classes=0)
    assert timm_frames(str(tmp_path / "bare")).labels is None
    assert timm_frames(str(tmp_path / "bare"), labels="no").labels is False


def test_what_can_not_be_loaded_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(VcsfError, match="can't be loaded"):
        find_source(tmp_path, f"hf:{tmp_path / 'empty'}")
    with pytest.raises(VcsfError, match="timm:no-such-network can't be loaded"):
        find_source(tmp_path, "timm:no-such-network")
    with pytest.raises(UnknownName, match="hff"):
        find_source(tmp_path, "hff:x")
    folder = tmp_path / "videomae"
    save_video_model(folder, "videomae")
    with pytest.raises(RecipeError, match="unknown parameter `strid`"):
        find_source(tmp_path, f"hf:{folder}", settings=["strid=2"])
    with pytest.raises(InputError, match="not a folder that vcsf exported"):
        find_source(tmp_path, str(folder))
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(VcsfError, match="the processor of hf:"):
        find_source(tmp_path, f"hf:{folder}")


def test_a_model_that_reads_no_clips_or_lacks_weights_is_refused(tmp_path: Path) -> None:
    import transformers
    from safetensors.torch import load_file, save_file

    small = transformers.ViTConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=1)
    transformers.ViTModel(small).save_pretrained(tmp_path / "vit")
    with pytest.raises(InputError, match="is not a video model"):
        find_source(tmp_path, f"hf:{tmp_path / 'vit'}")
    save_video_model(tmp_path / "half", "timesformer")
    path = tmp_path / "half" / "model.safetensors"
    tensors = load_file(path)
    del tensors["layernorm.weight"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(VcsfError, match=r"lacks 1 weights .* layernorm.weight"):
        find_source(tmp_path, f"hf:{tmp_path / 'half'}")


def test_without_transformers_the_error_has_the_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError) as caught:
        find_source(tmp_path, f"hf:{tmp_path}")
    assert caught.value.hint == "pip install 'vcsf[hf]'"


OFFLINE = """
import sys
sys.modules["transformers"] = None  # as if it were not installed
from vcsf_cli.cli import main
sys.exit(main(["retrieve", "--from", "hf:someone/video"]))
"""


def test_without_transformers_a_hub_that_does_not_answer_is_asked_once(tmp_path: Path) -> None:
    with socket.socket() as closed:  # bound, but nobody listens
        closed.bind(("127.0.0.1", 0))
        place = f"http://127.0.0.1:{closed.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-c", OFFLINE],
            cwd=tmp_path,
            env=os.environ | {"HF_ENDPOINT": place, "HF_HOME": str(tmp_path / "hub")},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert "pip install 'vcsf[hf]'" in done.stderr
    assert "Retrying" not in done.stderr


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "evil"
    save_video_model(folder, "videomae")
    text = (folder / "config.json").read_text()
    auto = '"auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}, "model_type": "x"'
    (folder / "config.json").write_text(text.replace('"model_type": "videomae"', auto))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(VcsfError, match="can't be loaded"):
        find_source(tmp_path, f"hf:{folder}")
    assert not (tmp_path / "ran").exists()
