"""Contrastive losses on two pathways.

All compute in float32 whatever the networks compute in: a sum of exponentials of similarities over
temperature loses too much in bfloat16."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor, nn

from vcsf_cli.contracts import Contrast, other_pathway

_Temperature = Annotated[float, Gt(0)]
Slots = Annotated[int, Ge(0)]
Probability = Annotated[float, Interval(ge=0, le=1)]


def _query_float(contrast: Contrast, pathway: str) -> Tensor:
    """The query of a pathway that is trained, in float32."""
    query = contrast.query[pathway]
    if query is None:
        raise ValueError(f"the {pathway} pathway is frozen: it has no query and no loss")
    return query.float()


def _key_logits(contrast: Contrast, pathway: str, keys: str, temperature: float) -> Tensor:
    """Similarities over temperature of a pathway's queries to keys of a pathway: the own key, then
    the queue, (B, 1 + K)."""
    query = _query_float(contrast, pathway)
    own = (query * contrast.key[keys].float()).sum(1, keepdim=True)
    return torch.cat([own, query @ contrast.queue[keys].float().T], 1) / temperature


def _other_videos(contrast: Contrast) -> Tensor:
    """Which slots hold a video that is not the clip's own, bool (B, K)."""
    return (contrast.queue_video >= 0) & (contrast.queue_video != contrast.video[:, None])


def _same_source(contrast: Contrast) -> Tensor:
    """Which slots hold a video cut from the clip's recording, its own among them, bool (B, K)."""
    return (contrast.queue_source >= 0) & (contrast.queue_source == contrast.source[:, None])


def _with_own(own: Tensor | bool, slots: Tensor) -> Tensor:
    """A mask (B, 1 + K) of the own key and the slots (B, K)."""
    first = torch.as_tensor(own, device=slots.device).expand(len(slots))
    return torch.cat([first[:, None], slots], 1)


def _nce(logits: Tensor, positive: Tensor, taking_part: Tensor) -> Tensor:
    """-log of the share of the positives in the sum of exponentials, the mean over clips (MIL-NCE,
    Miech et al., CVPR 2020).

    The log of the *sum* over positives, not the mean of the logs: one good positive is enough.

    Args:
        logits: (B, N).
        positive: bool (B, N), at least one a row.
        taking_part: bool (B, N), what the whole sum goes over, positives among it.
    """
    whole = logits.masked_fill(~taking_part, -torch.inf).logsumexp(1)
    return (whole - logits.masked_fill(~positive, -torch.inf).logsumexp(1)).mean()


def own_key_accuracy(logits: Tensor, negative: Tensor) -> Tensor:
    """How often the own key, the first of logits (B, 1 + K), is nearer than every slot of negatives
    (B, K)."""
    nearest = logits[:, 1:].masked_fill(~negative, -torch.inf).amax(1)
    return (logits[:, 0] > nearest).float().mean()


class InfoNCE(nn.Module):
    """Tell a clip's own key from the keys of other videos (MoCo, He et al., CVPR 2020, eq. 1).

    -log( exp(q.k+ / tau) / (exp(q.k+ / tau) + sum over negatives of exp(q.k- / tau)) ), where empty
    slots and keys of the same video are no negatives. Other videos cut from the same recording are,
    as in CoCLR's first stage.

    Args:
        temperature: Softness of the similarity, tau in the paper.
        queue: How many older keys are negatives, K in the paper; 0 takes the other keys of the
            batch instead.
    """

    uses_labels = False

    def __init__(self, *, temperature: _Temperature = 0.07, queue: Slots = 2048) -> None:
        super().__init__()
        self.temperature = temperature
        self.queue = queue

    def forward(self, contrast: Contrast, pathway: str) -> dict[str, Tensor]:
        """The loss of one pathway, and how often a clip's own key is nearer than every negative."""
        logits, negative = (
            _key_logits(contrast, pathway, pathway, self.temperature),
            _other_videos(contrast),
        )
        own = torch.zeros_like(logits, dtype=torch.bool)
        own[:, 0] = True
        loss = _nce(logits, own, _with_own(True, negative))
        return {"loss": loss, "own_key_accuracy": own_key_accuracy(logits, negative)}


class CrossInstance(InfoNCE):
    """Tell what the other pathway makes of the same instance from what it makes of others (VTHCL,
    Yang et al., 2020).

    InfoNCE whose keys, own and queued, are the other pathway's: slow and fast of one instance are
    the positive pair.

    Args:
        temperature: Softness of the similarity, tau in the paper.
        queue: How many older keys are negatives; 0 takes the other keys of the batch instead.
    """

    crosses = True

    def forward(self, contrast: Contrast, pathway: str) -> dict[str, Tensor]:
        """The loss of one pathway, and how often the instance's other key is nearer than every
        negative."""
        swapped = Contrast(
            **{
                **vars(contrast),
                "key": _swap_pathways(contrast.key),
                "queue": _swap_pathways(contrast.queue),
            }
        )
        return super().forward(swapped, pathway)


def _swap_pathways(by_pathway: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is each pathway's given to the other."""
    return {pathway: by_pathway[other_pathway(pathway)] for pathway in by_pathway}


class CrossPathway(nn.Module):
    """Pull a clip to its own key, to clips of its recording, and to the clips that the other
    pathway finds near it.

    Multi-instance InfoNCE (CoCLR, Han et al., NeurIPS 2020, eq. 4): -log of the sum of the
    positives' softmax terms. Mined positives are the slots nearest to the clip's key as the other
    pathway ranks its own queue; slots of the same recording are left out of the ranking.

    Args:
        temperature: Softness of the similarity, tau in the paper.
        queue: How many older keys there are to choose from, K in the paper; 0 takes the other keys
            of the batch instead.
        neighbours: How many slots a pathway may name as positives, k in the paper.
        positives: Whose nearest slots count: those of the other pathway (CoCLR), or the
            intersection (MVCGC) or union of both pathways'.
        contrast: Whose keys the query is compared with: its own pathway's (within, CoCLR) or the
            other's (across, MVCGC, Huo et al., NeurIPS 2021).
        siblings: What slots of the same recording are: positives (CoCLR) or ignored.
        drop_own: Probability that a clip's own key is no positive, if it has others (CoCLR's code
            since October 2021: a key that is already matched leaves the mined positives no
            gradient). It stays in the whole sum, as there.
    """

    uses_labels = False
    crosses = True
    waits_for_queue = True

    def __init__(
        self,
        *,
        temperature: _Temperature = 0.07,
        queue: Slots = 2048,
        neighbours: Annotated[int, Gt(0)] = 5,
        positives: Literal["other", "intersection", "union"] = "other",
        contrast: Literal["within", "across"] = "within",
        siblings: Literal["positives", "ignored"] = "positives",
        drop_own: Probability = 0.9,
    ) -> None:
        super().__init__()
        self.temperature, self.queue, self.neighbours = temperature, queue, neighbours
        self.positives, self.contrast, self.siblings, self.drop_own = (
            positives,
            contrast,
            siblings,
            drop_own,
        )

    def forward(self, contrast: Contrast, pathway: str) -> dict[str, Tensor]:
        """The loss of one pathway; the share of the positives' sum that mined ones make up, and the
        similarity of the own key and of the mined ones."""
        keys = pathway if self.contrast == "within" else other_pathway(pathway)
        logits = _key_logits(contrast, pathway, keys, self.temperature)
        mined, recording = self.mined(contrast, pathway), _same_source(contrast)
        if not self.queue:
            recording &= _other_videos(
                contrast
            )  # the clip's own slot in the batch is its own key once more
        positive = mined | recording if self.siblings == "positives" else mined
        dropped = (torch.rand(len(logits), device=logits.device) < self.drop_own) & positive.any(1)
        negative = _other_videos(contrast) & ~_same_source(contrast) & ~mined
        taking_part = _with_own(True, positive | negative)
        all_positive = _with_own(~dropped, positive)
        share = logits.masked_fill(~all_positive, -torch.inf).softmax(1)[:, 1:]
        similarity = logits.detach() * self.temperature
        return {
            "loss": _nce(logits, all_positive, taking_part),
            "own_key_accuracy": own_key_accuracy(logits, negative),
            "mined_share": (share * mined).sum(1).mean(),
            "own_similarity": similarity[:, 0].mean(),
            "mined_similarity": (similarity[:, 1:] * mined).sum() / mined.sum().clamp(min=1),
        }

    def mined(self, contrast: Contrast, pathway: str) -> Tensor:
        """The slots that are mined positives of a pathway's queries, bool (B, K)."""
        theirs = _nearest_slots(contrast, other_pathway(pathway), self.neighbours)
        if self.positives == "other":
            return theirs
        ours = _nearest_slots(contrast, pathway, self.neighbours)
        return theirs & ours if self.positives == "intersection" else theirs | ours


@torch.no_grad()
def _nearest_slots(contrast: Contrast, pathway: str, count: int) -> Tensor:
    """The slots nearest to each clip's key as a pathway ranks its queue, those of the same
    recording and empty ones left out, bool (B, K)."""
    allowed = _other_videos(contrast) & ~_same_source(contrast)
    ranked = (contrast.key[pathway].float() @ contrast.queue[pathway].float().T).masked_fill(
        ~allowed, -torch.inf
    )
    best = ranked.topk(min(count, ranked.shape[1]), 1).indices
    return torch.zeros_like(allowed).scatter_(1, best, True) & allowed


class Supervised(nn.Module):
    """Pull a clip to its own key and to all keys of its class: UberNCE, the upper bound of CoCLR
    (Han et al., 2020).

    It reads labels, so that nothing trained with it is self-supervised.

    Args:
        temperature: Softness of the similarity, tau in the paper.
        queue: How many older keys there are; 0 takes the other keys of the batch instead.
    """

    uses_labels = True

    def __init__(self, *, temperature: _Temperature = 0.07, queue: Slots = 2048) -> None:
        super().__init__()
        self.temperature = temperature
        self.queue = queue

    def forward(self, contrast: Contrast, pathway: str) -> dict[str, Tensor]:
        """The loss of one pathway, and how often a clip's own key is nearer than every key of
        another class."""
        logits, others = (
            _key_logits(contrast, pathway, pathway, self.temperature),
            _other_videos(contrast),
        )
        positive = (
            others & (contrast.queue_label >= 0) & (contrast.queue_label == contrast.label[:, None])
        )
        loss = _nce(logits, _with_own(True, positive), _with_own(True, others))
        return {"loss": loss, "own_key_accuracy": own_key_accuracy(logits, others & ~positive)}
