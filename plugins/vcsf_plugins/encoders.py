"""Encoders of others that `--from` names: video models of transformers, and timm's image networks
frame by frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt
from torch import Tensor, nn

from vcsf_cli.contracts import Encoder
from vcsf_cli.errors import InputError, VcsfError

_Positive = Annotated[int, Gt(0)]
_Labels = Literal["yes", "no"]

_KNOWN: Mapping[str | None, bool | None] = {"yes": True, "no": False, None: None}

_LABELS = {"Classification": True, "ForPreTraining": False}
"""Whether labels have trained a model, by the end of the name of the class that it was saved as."""


class _HiddenStates(nn.Module):
    """The features of a video model of transformers: its last hidden states, pooled.

    Args:
        model: Gives hidden states (B, N, C).
        first: Whether to take the first token, which stands for the clip; else the mean of all.
    """

    def __init__(self, model: Any, first: bool) -> None:
        super().__init__()
        self.model, self.first = model, first
        self.options = {"skip_predictor": True} if model.config.model_type == "vjepa2" else {}

    def forward(self, clips: Tensor) -> Tensor:
        """Features (B, C) of clips (B, 3, T, H, W)."""
        frames = clips.transpose(1, 2).contiguous()
        found = self.model(**{self.model.main_input_name: frames}, **self.options)
        states: Tensor = found.last_hidden_state
        return states[:, 0] if self.first else states.mean(1)


def hugging_face(
    name: str,
    /,
    *,
    frames: _Positive | None = None,
    stride: _Positive = 1,
    pool: Literal["auto", "mean", "first"] = "auto",
    labels: _Labels | None = None,
) -> Encoder:
    """A video model of transformers, such as VideoMAE, V-JEPA 2 or TimeSformer: a folder that it was
    saved in, or its name on the hub. No code that comes with a model is run.

    Size, crop and normalisation are those of the model's own processor.

    Args:
        frames: Frames of a clip. Not every model takes another number than its own, the default.
        stride: Frames of the video from one frame of a clip to the next.
        pool: What becomes of the last hidden states: their `mean`, the `first`, or `auto`: the first
            if it is a class token.
        labels: Whether labels have trained the model, where its class does not say it.
    """
    config, model, missing = _load_transformers(name)
    own = getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", None)
    if own is None or not hasattr(config, "hidden_size"):
        raise InputError(
            f"{name} ({config.model_type}) is not a video model that reads clips of frames",
            "name one such as VideoMAE, V-JEPA 2 or TimeSformer; `timm:NAME` reads images",
        )
    if missing:
        raise VcsfError(
            f"{name} lacks {len(missing)} weights of its {type(model).__name__}, such as "
            f"{missing[0]}: they would be random",
            "save the model again with transformers",
        )
    look = _read_processor(name, config)
    first = pool == "first" or (
        pool == "auto" and any(key.endswith("cls_token") for key in model.state_dict())
    )
    saved_as = (getattr(config, "architectures", None) or [type(model).__name__])[0]
    known = [known for ending, known in _LABELS.items() if saved_as.endswith(ending)]
    return Encoder(
        name=_short(name),
        origin=f"{saved_as} of transformers from {name}",
        network=_HiddenStates(model, first),
        width=config.hidden_size,
        frames=frames or own,
        stride=stride,
        labels=known[0] if known else _KNOWN[labels],
        facts={"config": config.to_diff_dict(), "first": first},
        **look,
    )


def _transformers() -> Any:
    """The package.

    Raises:
        InputError: If it is not installed.
    """
    try:
        return import_module("transformers")  # optional, and takes seconds
    except ImportError as error:
        raise InputError(
            "encoders `hf:` need transformers, which is not installed", "pip install 'vcsf[hf]'"
        ) from error


def _load_transformers(name: str) -> tuple[Any, Any, list[str]]:
    """Configuration and network of a model, and the names of weights that its file lacks.

    Raises:
        VcsfError: If it can't be had.
    """
    transformers: Any = _transformers()

    options = {"trust_remote_code": False, "local_files_only": Path(name).is_dir()}
    with _quiet(transformers), _available(f"hf:{name}"):
        config = transformers.AutoConfig.from_pretrained(name, **options)
        model, info = transformers.AutoModel.from_pretrained(
            name, config=config, dtype=torch.float32, output_loading_info=True, **options
        )
    missing = [key for key in info["missing_keys"] if not key.startswith("pooler.")]
    return config, model.eval(), sorted(missing)


def _read_processor(name: str, config: Any) -> dict[str, Any]:
    """Size, crop and normalisation of a model's images, as its processor has them.

    Raises:
        VcsfError: If there is no processor that vcsf understands.
    """
    transformers: Any = _transformers()

    options = {"trust_remote_code": False, "local_files_only": Path(name).is_dir()}
    with _quiet(transformers), _available(f"the processor of hf:{name}"):
        processor = transformers.AutoVideoProcessor.from_pretrained(name, **options)
    size = getattr(config, "image_size", None) or config.crop_size
    size = size if isinstance(size, int) else size[0]
    resized = processor.size.shortest_edge or processor.size.height or size
    if not (processor.do_normalize and processor.do_rescale):
        raise InputError(
            f"the processor of hf:{name} does not normalise pixels from 0 to 1",
            "write an encoder for it: plugins/README.md",
        )
    # A crop of `size` from the short side resized to `resized`, as one crop that is resized once.
    return {
        "size": size,
        "border": min(1.0, size / resized),
        "mean": tuple(processor.image_mean),
        "std": tuple(processor.image_std),
    }


class _FrameMean(nn.Module):
    """The mean over frames of an image network's pooled features."""

    def __init__(self, image: nn.Module) -> None:
        super().__init__()
        self.image = image

    def forward(self, clips: Tensor) -> Tensor:
        """Features (B, C) of clips (B, 3, T, H, W)."""
        frames = clips.transpose(1, 2)
        found: Tensor = self.image(frames.flatten(0, 1).contiguous())
        return found.view(len(clips), -1, found.shape[1]).mean(1)


def timm_frames(
    name: str,
    /,
    *,
    frames: _Positive = 8,
    stride: _Positive = 4,
    labels: _Labels | None = None,
) -> Encoder:
    """An image network of timm with its published weights, frame by frame: the mean of its pooled
    features. Its name in timm, or a folder with `config.json` and weights as timm saves them.

    Size, crop and normalisation are those that timm names for the weights.

    Args:
        frames: Frames of a clip.
        stride: Frames of the video from one frame of a clip to the next.
        labels: Whether labels have trained the weights, where timm does not say it.
    """
    timm: Any = import_module("timm")  # takes a second

    model = f"local-dir:{name}" if Path(name).is_dir() else name
    with _available(f"timm:{name}"):
        image: Any = timm.create_model(model, pretrained=True, num_classes=0).eval()
    look = timm.data.resolve_data_config(model=image)
    # Weights that came with a classifier were trained by labels; of others timm does not say it.
    supervised = True if image.pretrained_cfg.get("num_classes") else _KNOWN[labels]
    return Encoder(
        name=_short(name),
        origin=f"{image.pretrained_cfg['architecture']} of timm from {name}, frame by frame",
        network=_FrameMean(image),
        width=image.num_features,
        frames=frames,
        stride=stride,
        size=look["input_size"][-1],
        border=look["crop_pct"],
        mean=look["mean"],
        std=look["std"],
        labels=supervised,
        facts={"architecture": image.pretrained_cfg["architecture"]},
    )


def _short(name: str) -> str:
    """The last part of a path or of a name on the hub."""
    return Path(name).resolve().name if Path(name).is_dir() else name.rpartition("/")[2]


@contextmanager
def _available(what: str) -> Iterator[None]:
    """Turn whatever goes wrong when a model is fetched or read into one error.

    Raises:
        VcsfError: If anything goes wrong.
    """
    try:
        yield
    except Exception as error:  # clients of the hub raise many kinds
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise VcsfError(
            f"{what} can't be loaded: {reason}",
            "look at the path or the name; what is not a folder here is fetched from the hub once, "
            "for which the machine must be online",
        ) from error


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep progress bars and lists of unused weights off the screen."""
    logging = transformers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()
