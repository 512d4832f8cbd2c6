"""Parameters and floating-point operations of a pathway, by its parts."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vcsf_cli import registry
from vcsf_cli.config.schema import Stage
from vcsf_cli.contracts import PATHWAYS, Sampler
from vcsf_cli.errors import InputError
from vcsf_cli.model.parts import Geometry
from vcsf_cli.model.pathways import Pathway, TwoPathways, blame_parts, failing_part

PARTS = ("backbone", "motion", "head")


@dataclass(frozen=True)
class _Cost:
    """Cost of one part of a pathway.

    Args:
        parameters: Weights and biases, without statistics of batch norms.
        flops: Floating-point operations of a forward pass of one clip.
    """

    parameters: int
    flops: int


WRONG_SHAPES = (RuntimeError, ValueError, TypeError, IndexError, ArithmeticError)
"""Errors of torch and of parts when clips are too small for them."""


def pathway_costs(
    model: TwoPathways, stage: Stage, sampler: Sampler
) -> dict[str, dict[str, _Cost]]:
    """The costs of both pathways' parts, by pathway.

    Args:
        model: The networks.
        stage: Has the size of a clip.
        sampler: Has the frames of a window that each pathway reads.

    Raises:
        InputError: If the networks can't read such clips.
        PluginError: If a part fails in a way that has nothing to do with the size of clips.
    """
    size = stage.data.size
    geometry = Geometry.from_sampler(sampler)
    found: dict[str, dict[str, _Cost]] = {}
    for name in PATHWAYS:
        (begin, end), positions = geometry.parts[name], torch.tensor(geometry.positions[name])
        try:
            with blame_parts(stage, passing=WRONG_SHAPES):
                found[name] = costs(model.pathway(name), positions, end - begin, size)
        except WRONG_SHAPES as error:
            kind = failing_part(error) or "backbone"
            part = getattr(stage, kind).name
            plugin = registry.load().find(kind, part).plugin
            reason = next(iter(str(error).splitlines()), "")
            raise InputError(
                f"{kind} `{part}` can't read clips of {len(positions)} frames of {size} x {size} "
                f"pixels in the {name} pathway: {type(error).__name__}: {reason}",
                f"set data.size or sampler.frames higher, take another {kind}, or mend the plugin "
                f"`{plugin}`; `vcsf --debug` shows where",
            ) from error
    return found


def costs(pathway: Pathway, positions: Tensor, length: int, size: int) -> dict[str, _Cost]:
    """The costs of a pathway's parts, by `PARTS`.

    FLOPs are torch's count of convolutions, matrix products and attention, where a multiplication
    and an addition are two: twice the multiply-accumulates that papers and torchvision call FLOPs.
    Norms, activations, pools and gates are not counted.

    Args:
        pathway: The encoder; it is left as it is.
        positions: Positions in the window that it reads, (T,).
        length: L, frames of the window.
        size: Height and width of the clip.
    """
    try:
        flops = _count_flops(pathway, positions, length, size, "meta")
    except RuntimeError:  # a part that reads values of tensors, or is wrong and will fail again
        flops = _count_flops(pathway, positions, length, size, "cpu")
    return {
        part: _Cost(
            sum(weight.numel() for weight in getattr(pathway, part).parameters()), flops[part]
        )
        for part in PARTS
    }


def _count_flops(
    pathway: Pathway, positions: Tensor, length: int, size: int, device: str
) -> dict[str, int]:
    """FLOPs of a pathway's parts; the device `meta` has shapes alone, and counts in no time."""
    blank = copy.deepcopy(pathway).to(device).eval()
    window = torch.zeros(1, 3, length, size, size, device=device)
    # The counter does not know the CPU's fused attention, but its matrix products.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        blank.head(blank(blank.clip(window, positions[None]), window))
    by_module = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    root = type(blank).__name__
    head = by_module.get(f"{root}.head", 0)
    motion = sum(by_module.get(f"{root}.motion.{stage}", 0) for stage in blank.motion)
    # Motion modules run inside the backbone's forward, and its count includes theirs.
    return {"backbone": counter.get_total_flops() - motion - head, "motion": motion, "head": head}
