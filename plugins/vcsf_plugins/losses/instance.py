"""Telling clips apart, nothing mined: within a pathway, or across the two."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from vcsf_cli.contracts import Contrast, other_pathway
from vcsf_plugins.losses.terms import (
    Slots,
    Temperature,
    key_logits,
    mil_nce,
    other_video,
    own_key_accuracy,
    own_only,
    with_own,
)


class InfoNCE(nn.Module):
    """Tell a clip's own key from the keys of other videos (MoCo, He et al., CVPR 2020, eq. 1).

    -log( exp(q.k+ / tau) / (exp(q.k+ / tau) + sum over negatives of exp(q.k- / tau)) ). Empty slots
    and keys of the same video are left out. Other videos of the same recording are negatives, as in
    CoCLR's first stage.

    Args:
        temperature: Softness of the similarity, tau in the paper.
        queue: How many older keys are negatives, K in the paper; 0 takes the other keys of the
            batch instead.
    """

    uses_labels = False

    def __init__(self, *, temperature: Temperature = 0.07, queue: Slots = 2048) -> None:
        super().__init__()
        self.temperature = temperature
        self.queue = queue

    def forward(self, contrast: Contrast, pathway: str) -> dict[str, Tensor]:
        """The loss of a pathway, and the share of clips nearest to their own key."""
        logits = key_logits(contrast, pathway, pathway, self.temperature)
        negative = other_video(contrast)
        loss = mil_nce(logits, own_only(logits), with_own(True, negative)).mean()
        return {"loss": loss, "own_key_accuracy": own_key_accuracy(logits, negative)}


class CrossInstance(InfoNCE):
    """Tell the other pathway's key of the same clip from its keys of other videos (VTHCL, Yang et
    al., 2020).

    InfoNCE whose keys, own and queued, come from the other pathway: slow and fast of one clip are
    the positive pair.

    Args:
        temperature: Softness of the similarity, tau in the paper.
        queue: How many older keys are negatives; 0 takes the other keys of the batch instead.
    """

    crosses = True

    def forward(self, contrast: Contrast, pathway: str) -> dict[str, Tensor]:
        """The loss of a pathway, and the share of clips nearest to their key of the other one."""
        swapped = replace(
            contrast,
            key={name: contrast.key[other_pathway(name)] for name in contrast.key},
            queue={name: contrast.queue[other_pathway(name)] for name in contrast.queue},
        )
        return super().forward(swapped, pathway)
