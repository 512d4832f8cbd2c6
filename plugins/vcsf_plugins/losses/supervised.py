"""Labels as positives: what finding all clips of a class would give."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vcsf_cli.contracts import Contrast
from vcsf_plugins.losses.terms import (
    Slots,
    Temperature,
    key_logits,
    other_video,
    own_key_accuracy,
    with_own,
)


class Supervised(nn.Module):
    """Pull a clip to its own key and to all keys of its class: UberNCE, the upper bound of CoCLR
    (Han et al., 2020).

    -log of the softmax term of each positive, the mean over positives, as in the authors' code. In a
    log of their sum the own key, which already matches, would take the whole of it and leave labels no
    gradient. It reads labels: nothing trained with it is self-supervised.

    Args:
        temperature: Softness of the similarity, tau in the paper.
        queue: How many older keys there are; 0 takes the other keys of the batch instead.
    """

    uses_labels = True

    def __init__(self, *, temperature: Temperature = 0.07, queue: Slots = 2048) -> None:
        super().__init__()
        self.temperature = temperature
        self.queue = queue

    def forward(self, contrast: Contrast, pathway: str) -> dict[str, Tensor]:
        """The loss of a pathway, and the share of clips whose own key is nearer than all keys of
        other classes."""
        logits = key_logits(contrast, pathway, pathway, self.temperature)
        others = other_video(contrast)
        same_class = (contrast.queue_label >= 0) & (contrast.queue_label == contrast.label[:, None])
        same_class &= others
        positive = with_own(True, same_class)
        total = logits.masked_fill(~with_own(True, others), -torch.inf).logsumexp(1, keepdim=True)
        loss = ((total - logits) * positive).sum(1) / positive.sum(1)
        accuracy = own_key_accuracy(logits, others & ~same_class)
        return {"loss": loss.mean(), "own_key_accuracy": accuracy}
