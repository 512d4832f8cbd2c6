"""What motion modules react to: frames, and maps of where the modules change the features."""

from __future__ import annotations

import base64
from contextlib import ExitStack
from functools import partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vcsf_cli.data.augment import to_input
from vcsf_cli.data.clips import EvalClips
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.model.parts import Geometry
from vcsf_cli.model.pathways import Pathway
from vcsf_cli.report.page import Picture, Section
from vcsf_cli.report.pictures import frames_to_show

_FRAMES, _SIDE = 4, 80
"""Of a clip's picture: frames side by side, and pixels of their sides."""

_BRIGHTEST = 0.99
"""Share of a module's values below the one that is shown as bright as can be."""

_TINY = 1e-12

Image = npt.NDArray[np.uint8]


@torch.no_grad()
def change_maps(
    slow: Pathway, clip: Tensor, window: Tensor
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Where motion modules change features, by the stage that each follows: the length of the change
    over channels, (B, T, h, w), and its mean as a fraction of the features' mean length.

    Arguments as of `Pathway.forward`; the pathway is in eval mode.
    """
    maps: dict[str, Tensor] = {}
    shares: dict[str, float] = {}
    before: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        before[module] = arguments[0].clone()  # a module may work in place

    def compare(
        stage: str, module: nn.Module, arguments: tuple[Any, ...], features: Tensor
    ) -> None:
        own = before.pop(module)
        maps[stage] = (features - own).float().norm(dim=1)
        length = own.float().norm(dim=1).mean()
        shares[stage] = float(maps[stage].mean() / length.clamp(min=_TINY))

    with ExitStack() as hooks:
        for stage, module in slow.motion.items():
            for handle in (
                module.register_forward_pre_hook(keep),
                module.register_forward_hook(partial(compare, stage)),
            ):
                hooks.callback(handle.remove)
        slow(clip, window)
    return maps, shares


def motion_section(slow: Pathway, manifest: Manifest, clips: EvalClips) -> Section | None:
    """Frames of clips with the maps of motion modules; None if no module changes anything.

    Args:
        slow: In eval mode on the CPU.
        clips: One window each.

    Raises:
        DataError: If a shard can't be read.
    """
    if not slow.motion:
        return None
    items = [clips[index] for index in range(len(clips))]
    frames = torch.stack([item["frames"][item["windows"][0]] for item in items])
    positions = torch.cat([item["slow"] for item in items])
    window = Geometry.from_sampler(clips.sampler).split(to_input(frames))["slow"]
    maps, shares = change_maps(slow, slow.clip(window, positions), window)
    maps = {stage: values for stage, values in maps.items() if values.any()}
    if not maps:
        return None
    begin, _ = Geometry.from_sampler(clips.sampler).parts["slow"]
    stages = _enumeration(list(maps))
    pictures = []
    for index, row in enumerate(clips.rows):
        read = frames[index, begin + positions[index]].numpy()
        lines = [_frames_line(read)]
        lines += [_map_line(values[index], len(read), values) for values in maps.values()]
        image = np.concatenate(lines)
        video, label = manifest.table.loc[row, ["video", "label"]]
        pictures.append(
            Picture(
                _webp(image),
                "Frames, and below each where the motion modules change the features.",
                f"{label}: {video}" if isinstance(label, str) else str(video),
                *image.shape[1::-1],
            )
        )
    text = (
        "Frames of some clips that the slow pathway reads, and below each frame one map for each "
        f"motion module, after stage {stages}: brighter where the module changes the features more. "
        "Equally bright is equally much in all clips, but not in maps of different modules."
    )
    facts = [
        (f"after stage {stage}", f"change of {100 * shares[stage]:.2g} % on average")
        for stage in maps
    ]
    return Section("What motion modules react to", text, "Motion", facts=facts, pictures=pictures)


def _enumeration(names: list[str]) -> str:
    """`2, 3 and 4`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _frames_line(frames: npt.NDArray[np.uint8]) -> Image:
    """Some frames of (T, H, W, 3) RGB side by side, in BGR."""
    shown = dict.fromkeys(frames_to_show(len(frames), _FRAMES))
    return np.concatenate([_square(frames[number][..., ::-1]) for number in shown], axis=1)


def _map_line(values: Tensor, frames: int, scale: Tensor) -> Image:
    """The maps (T, h, w) of the same frames side by side, in BGR."""
    most = max(float(scale.flatten().quantile(_BRIGHTEST)), _TINY)
    shown = dict.fromkeys(frames_to_show(frames, _FRAMES))
    steps = [number * len(values) // frames for number in shown]
    grey = (255 * (values[steps] / most).clamp(max=1)).byte().numpy()
    coloured = [cv2.applyColorMap(_square(each), cv2.COLORMAP_INFERNO) for each in grey]
    return np.concatenate(coloured, axis=1).astype(np.uint8)


def _square(image: Image) -> Image:
    """An image as large as it is shown."""
    shrinks = image.shape[0] > _SIDE
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (_SIDE, _SIDE), interpolation=method).astype(np.uint8)


def _webp(image: Image) -> str:
    """An image in BGR as WebP in base64."""
    data = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, 60])[1]
    return base64.b64encode(data.tobytes()).decode()
