"""Which keys are near a clip: slots of a queue or of a bank, by one pathway or by both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vcsf_cli.contracts import PATHWAYS, Contrast
from vcsf_plugins.losses.terms import other_recording


def own_slot(contrast: Contrast) -> tuple[Tensor, Tensor]:
    """Whether clips have a slot of their own, bool (B,), and which it is, (B,)."""
    own = contrast.queue_video == contrast.video[:, None]
    return own.any(1), own.int().argmax(1)


@torch.no_grad()
def _similarity(keys: dict[str, Tensor], others: dict[str, Tensor]) -> Tensor:
    """Mean similarity over pathways of keys (B, D) to others (K, D), float32 (B, K)."""
    return torch.stack([keys[name].float() @ others[name].float().T for name in keys]).mean(0)


@torch.no_grad()
def nearest_slots(contrast: Contrast, pathways: Sequence[str], count: int) -> Tensor:
    """The slots of other recordings that are nearest to each clip's key by the mean similarity of
    pathways, bool (B, K); empty ones are left out."""
    allowed = other_recording(contrast)
    _, best = _nearest(contrast, pathways, count)
    return torch.zeros_like(allowed).scatter_(1, best, True) & allowed


def _nearest(contrast: Contrast, pathways: Sequence[str], count: int) -> tuple[Tensor, Tensor]:
    """The similarities and the numbers of each clip's nearest slots, (B, k); the similarity of a slot
    that can't be taken is minus infinity."""
    similarity = _similarity({name: contrast.key[name] for name in pathways}, contrast.queue)
    ranked = similarity.masked_fill(~other_recording(contrast), -torch.inf)
    values, slots = ranked.topk(min(count, ranked.shape[1]), 1)
    return values, slots


@torch.no_grad()
def nearest_pairs(contrast: Contrast, count: int) -> Tensor:
    """The slots of the nearest pairs of any clip and a slot of another recording, by the mean
    similarity of both pathways: `count` for each clip on the average, bool (B, K)."""
    allowed = other_recording(contrast)
    ranked = _similarity(contrast.key, contrast.queue).masked_fill(~allowed, -torch.inf).flatten()
    best = ranked.topk(min(count * len(allowed), len(ranked))).indices
    return (
        torch.zeros_like(ranked, dtype=torch.bool).scatter_(0, best, True).view_as(allowed)
        & allowed
    )


@torch.no_grad()
def mutual_slots(contrast: Contrast, count: int) -> Tensor:
    """The joint nearest slots that rank the clip's key among their own nearest too: fewer than
    `count` slots of recordings other than theirs and the clip's are nearer to them, bool (B, K)."""
    similarity, slots = _nearest(contrast, PATHWAYS, count)
    queue = {pathway: keys[slots.flatten()] for pathway, keys in contrast.queue.items()}
    rivals = _similarity(queue, contrast.queue).view(*slots.shape, -1)
    video, source = contrast.queue_video, contrast.queue_source
    same = (video == video[slots, None]) | ((source >= 0) & (source == source[slots, None]))
    rivals = rivals.masked_fill(same | ~other_recording(contrast)[:, None], -torch.inf)
    mutual = (rivals > similarity[..., None]).sum(2) < count
    mutual &= similarity > -torch.inf
    return torch.zeros_like(other_recording(contrast)).scatter_(1, slots, mutual)
