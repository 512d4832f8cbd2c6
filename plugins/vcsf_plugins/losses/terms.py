"""What the losses are made of: similarities to keys, masks of keys, and the softmax term."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from vcsf_cli.contracts import Contrast

Temperature = Annotated[float, Gt(0)]
Slots = Annotated[int, Ge(0)]
Probability = Annotated[float, Interval(ge=0, le=1)]


def key_logits(contrast: Contrast, pathway: str, key_pathway: str, temperature: float) -> Tensor:
    """Similarities of a pathway's queries to keys, over temperature, (B, 1 + K): to the own key,
    then to the queue."""
    query = contrast.query[pathway]
    if query is None:
        raise ValueError(f"the {pathway} pathway is frozen: it has no query and no loss")
    query = query.float()
    own = (query * contrast.key[key_pathway].float()).sum(1, keepdim=True)
    return torch.cat([own, query @ contrast.queue[key_pathway].float().T], 1) / temperature


def other_video(contrast: Contrast) -> Tensor:
    """Slots that hold another video than the clip's, bool (B, K)."""
    return (contrast.queue_video >= 0) & (contrast.queue_video != contrast.video[:, None])


def same_recording(contrast: Contrast) -> Tensor:
    """Slots that hold a video of the clip's recording, its own among them, bool (B, K)."""
    return (contrast.queue_source >= 0) & (contrast.queue_source == contrast.source[:, None])


def other_recording(contrast: Contrast) -> Tensor:
    """Slots that hold a video of another recording than the clip's, bool (B, K): what may be mined,
    and what may be a negative."""
    return other_video(contrast) & ~same_recording(contrast)


def with_own(own: Tensor | bool, slots: Tensor) -> Tensor:
    """A mask of the own key (B,) before one of the slots (B, K): (B, 1 + K)."""
    first = torch.as_tensor(own, device=slots.device).expand(len(slots))
    return torch.cat([first[:, None], slots], 1)


def mil_nce(logits: Tensor, positive: Tensor, compared: Tensor) -> Tensor:
    """-log(sum over positives of e(logit) / sum over all compared) of each clip, (B,) (MIL-NCE, Miech
    et al., CVPR 2020).

    The log of the *sum* over positives, not the mean of the logs: one good positive is enough. A clip
    without any has a loss of 0.

    Args:
        logits: (B, N).
        positive: bool (B, N).
        compared: bool (B, N), positives and negatives.
    """
    none = ~positive.any(1, keepdim=True)
    total = logits.masked_fill(~(compared | none), -torch.inf).logsumexp(1)
    return total - logits.masked_fill(~(positive | none), -torch.inf).logsumexp(1)


def own_only(logits: Tensor) -> Tensor:
    """The mask of the own key among logits (B, 1 + K)."""
    own = torch.zeros_like(logits, dtype=torch.bool)
    own[:, 0] = True
    return own


def own_key_accuracy(logits: Tensor, negative: Tensor) -> Tensor:
    """Share of clips whose own key, the first of logits (B, 1 + K), is nearer than all negatives,
    bool (B, K)."""
    nearest = logits[:, 1:].masked_fill(~negative, -torch.inf).amax(1)
    return (logits[:, 0] > nearest).float().mean()


def share_of(logits: Tensor, positive: Tensor, chosen: Tensor) -> Tensor:
    """The share of chosen positives in each clip's sum of e(logit) over all positives, (B,).

    Args:
        logits: (B, N).
        positive: bool (B, N).
        chosen: bool (B, N), positives all of them.
    """
    none = ~positive.any(1, keepdim=True)
    share = logits.masked_fill(~(positive | none), -torch.inf).softmax(1)
    return (share * chosen).sum(1)


def mean_of(values: Tensor, chosen: Tensor) -> Tensor:
    """The mean of chosen values; 0 of none."""
    return (values * chosen).sum() / chosen.sum().clamp(min=1)
