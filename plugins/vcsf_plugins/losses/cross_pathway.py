"""Cross-pathway training with a queue of keys."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Gt
from torch import Tensor, nn

from vcsf_cli.contracts import PATHWAYS, Contrast, other_pathway
from vcsf_plugins.losses.mining import mutual_slots, nearest_pairs, nearest_slots
from vcsf_plugins.losses.terms import (
    Probability,
    Slots,
    Temperature,
    key_logits,
    mean_of,
    mil_nce,
    other_recording,
    other_video,
    own_key_accuracy,
    same_recording,
    share_of,
    with_own,
)

Positives = Literal["other", "intersection", "union", "joint", "mutual", "pairs"]


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
        positives: Whose nearest slots count: those of the other pathway (CoCLR), the intersection
            (MVCGC) or union of both pathways', those by the mean of both similarities (joint), of
            the joint ones those that have the clip among their own nearest (mutual), or those of
            the nearest pairs of any clip and a slot, `neighbours` a clip on the average of those
            that a process encodes at once (pairs): a clip whose nearest are far names none.
        contrast: Which keys the query is compared with: its own pathway's (within, CoCLR) or the
            other's (across, MVCGC, Huo et al., NeurIPS 2021).
        siblings: Whether slots of the same recording are positives (CoCLR) or ignored.
        drop_own: Probability that a clip with other positives does not count its own key as one (in
            CoCLR's code since October 2021: an own key that already matches leaves the mined
            positives no gradient). The key stays in the denominator, as there.
    """

    uses_labels = False
    crosses = True
    waits_for_queue = True

    def __init__(
        self,
        *,
        temperature: Temperature = 0.07,
        queue: Slots = 2048,
        neighbours: Annotated[int, Gt(0)] = 5,
        positives: Positives = "other",
        contrast: Literal["within", "across"] = "within",
        siblings: Literal["positives", "ignored"] = "positives",
        drop_own: Probability = 0.9,
    ) -> None:
        super().__init__()
        self.temperature, self.queue, self.neighbours = temperature, queue, neighbours
        self.positives, self.contrast, self.siblings = positives, contrast, siblings
        self.drop_own = drop_own
        # A queue's older keys of the clip itself are positives as its siblings' are. The batch has its
        # own key there once more, and a bank the mean of its keys.
        self.own_slots_count = queue > 0

    def forward(self, contrast: Contrast, pathway: str) -> dict[str, Tensor]:
        """The loss of a pathway, the share of mined keys in the sum over positives, and the mean
        similarity of own and of mined keys."""
        logits = key_logits(contrast, pathway, self.key_pathway(pathway), self.temperature)
        mined, positive = self.positive_slots(contrast, pathway)
        drawn = torch.rand(len(logits), device=logits.device) < self.drop_own
        dropped = drawn & positive.any(1)
        negative = other_recording(contrast) & ~mined
        all_positive = with_own(~dropped, positive)
        similarity = logits.detach() * self.temperature
        return {
            "loss": mil_nce(logits, all_positive, with_own(True, positive | negative)).mean(),
            "own_key_accuracy": own_key_accuracy(logits, negative),
            "mined_share": share_of(logits, all_positive, with_own(False, mined)).mean(),
            "own_similarity": similarity[:, 0].mean(),
            "mined_similarity": mean_of(similarity[:, 1:], mined),
        }

    def key_pathway(self, pathway: str) -> str:
        """The pathway whose keys a pathway's queries are compared with."""
        return pathway if self.contrast == "within" else other_pathway(pathway)

    def positive_slots(self, contrast: Contrast, pathway: str) -> tuple[Tensor, Tensor]:
        """The slots that are mined, and all that are positives, bool (B, K)."""
        mined, sibling = self.mined(contrast, pathway), same_recording(contrast)
        if not self.own_slots_count:
            sibling &= other_video(contrast)
        return mined, mined | sibling if self.siblings == "positives" else mined

    def mined(self, contrast: Contrast, pathway: str) -> Tensor:
        """The slots that are mined positives of a pathway's queries, bool (B, K)."""
        count = self.neighbours
        if self.positives == "joint":
            return nearest_slots(contrast, PATHWAYS, count)
        if self.positives == "mutual":
            return mutual_slots(contrast, count)
        if self.positives == "pairs":
            return nearest_pairs(contrast, count)
        theirs = nearest_slots(contrast, [other_pathway(pathway)], count)
        if self.positives == "other":
            return theirs
        ours = nearest_slots(contrast, [pathway], count)
        return theirs & ours if self.positives == "intersection" else theirs | ours
