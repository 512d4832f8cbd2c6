"""Metrics that are logged and never trained on: do embeddings collapse, are positives right?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vcsf_cli.contracts import Contrast

_COLLAPSED = 0.1
"""Share of the dimensions that a batch could use below which embeddings collapse."""

NEIGHBOURS = 5
"""Nearest slots on which the pathways' agreement is measured."""


def embedding_metrics(query: Tensor, key: Tensor) -> dict[str, float]:
    """Alignment, uniformity (Wang and Isola, ICML 2020) and effective rank (Roy and Vetterli,
    EUSIPCO 2007) of a batch's embeddings (B, D): how near the views of a clip are, how spread out
    the clips are, and how many dimensions they use. A single clip has no uniformity."""
    query, key = query.float(), key.float()
    found = {
        "alignment": float((query - key).square().sum(1).mean()),
        "effective_rank": effective_rank(query),
    }
    return found | {"uniformity": uniformity(query)} if len(query) > 1 else found


def uniformity(vectors: Tensor) -> float:
    """log of the mean over pairs of exp(-2 |x - y|^2), for unit-length vectors (B, D); lower is
    more even."""
    return float(torch.pdist(vectors).square().mul(-2).exp().mean().log())


def effective_rank(vectors: Tensor) -> float:
    """exp of the entropy of the singular values of vectors (B, D), as shares of their sum."""
    values = torch.linalg.svdvals(functional.normalize(vectors, dim=1))
    share = values / values.sum()
    return float(torch.special.entr(share).sum().exp())


@dataclass(frozen=True)
class Warned:
    """A warning, and what it is about: the same again says nothing new."""

    about: str
    text: str


def collapse_warning(pathway: str, rank: float, shape: Sequence[int]) -> Warned | None:
    """A warning if embeddings of a shape (B, D) use few of their dimensions."""
    most = min(shape)
    if rank >= _COLLAPSED * most or most < 1 / _COLLAPSED:
        return None
    return Warned(
        f"{pathway} embeddings",
        f"the {pathway} pathway's embeddings use {rank:.1f} of {most} dimensions: they collapse, "
        "and little is learned. A lower optim.lr, a loss.queue that is small beside the number of "
        "steps, or negatives of the batch (loss.queue=0) help",
    )


def unlearning_warning(
    pathway: str, check: float, before: float | None, clips: int
) -> Warned | None:
    """A warning if a pathway finds less among training clips than it did before it was trained.

    Args:
        check: R@1, the share of the clips that find one of their class.
        before: That before training; None if it is not known.
        clips: How many they are. A fall within one standard error of the difference of two such
            shares is no sign of anything.
    """
    if before is None:
        return None
    error = math.sqrt((check * (1 - check) + before * (1 - before)) / clips)
    if check >= before - error:
        return None
    return Warned(
        f"{pathway} check",
        f"the {pathway} pathway's check R@1 is {check:.1%}, less than the {before:.1%} before "
        "training: it unlearns what its first weights found. A lower optim.lr or other positives "
        "may help",
    )


def positive_metrics(contrast: Contrast, mined: Tensor) -> dict[str, float]:
    """Mean number of mined positives (B, K) of a clip, and the share of them, where labels are
    known, that are of its class: the only metric of training that reads labels."""
    known = mined & (contrast.queue_label >= 0) & (contrast.label[:, None] >= 0)
    right = known & (contrast.queue_label == contrast.label[:, None])
    found = {"mined": float(mined.sum(1).float().mean())}
    if known.any():
        found["monitoring_mined_precision"] = float(right.sum() / known.sum())
    return found


def agreement_metrics(contrast: Contrast, count: int = NEIGHBOURS) -> dict[str, float]:
    """Share of the slots nearest to a clip's key that slow and fast have in common, without other
    clips of its recording, as in mining; empty while there are no slots."""
    same = (contrast.queue_video == contrast.video[:, None]) | (
        contrast.queue_source == contrast.source[:, None]
    )
    allowed = (contrast.queue_video >= 0) & ~same
    count = min(count, int(allowed.sum(1).min()))
    if not count:
        return {}
    nearest = []
    for pathway, key in contrast.key.items():
        ranked = (key.float() @ contrast.queue[pathway].float().T).masked_fill(~allowed, -torch.inf)
        nearest.append(torch.zeros_like(allowed).scatter_(1, ranked.topk(count, 1).indices, True))
    return {"agreement": float((nearest[0] & nearest[1]).sum(1).float().mean() / count)}
