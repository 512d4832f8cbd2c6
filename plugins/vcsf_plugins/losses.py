"""Contrastive losses on two pathways."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from vcsf_cli.contracts import Contrast


def query_of(contrast: Contrast, pathway: str) -> Tensor:
    """The query of a pathway that is trained, in float32: log-sum-exp loses too much in bfloat16."""
    query = contrast.query[pathway]
    if query is None:
        raise ValueError(f"the {pathway} pathway is frozen: it has no query and no loss")
    return query.float()


class InfoNCE(nn.Module):
    """Tell a clip's own key from the keys of other videos (MoCo, He et al., CVPR 2020, eq. 1).

    -log( exp(q.k+ / tau) / (exp(q.k+ / tau) + sum over negatives of exp(q.k- / tau)) ), where empty slots and keys of
    the same video are no negatives. Other videos cut from the same recording are, as in CoCLR's first stage.

    Args:
        temperature: Softness of the similarity, tau in the paper.
        queue: How many older keys are negatives, K in the paper; 0 takes the other keys of the batch instead.
    """

    uses_labels = False

    def __init__(self, *, temperature: Annotated[float, Gt(0)] = 0.07, queue: Annotated[int, Ge(0)] = 2048) -> None:
        super().__init__()
        self.temperature = temperature
        self.queue = queue

    def forward(self, contrast: Contrast, pathway: str) -> dict[str, Tensor]:
        """The loss of one pathway, and how often a clip's own key is nearer than every negative."""
        query, key = query_of(contrast, pathway), contrast.key[pathway].float()
        own = (query * key).sum(1, keepdim=True) / self.temperature
        if self.queue:
            others, video = contrast.queue[pathway].float(), contrast.queue_video
        else:
            others, video = key, contrast.video
        negative = (video >= 0) & (video != contrast.video[:, None])
        logits = (query @ others.T / self.temperature).masked_fill(~negative, -torch.inf)
        loss = torch.cat([own, logits], 1).logsumexp(1) - own[:, 0]
        nearest = own[:, 0] > logits.amax(1)
        return {"loss": loss.mean(), "own_key_accuracy": nearest.float().mean()}
