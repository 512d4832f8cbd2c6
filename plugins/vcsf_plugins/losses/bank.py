"""Cross-pathway training with a bank of all training clips: nearest slots, or clusters."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal, cast

import torch
from annotated_types import Gt, Interval
from torch import Tensor

from vcsf_cli.contracts import PATHWAYS, Contrast
from vcsf_plugins.losses.cross_pathway import CrossPathway, Positives
from vcsf_plugins.losses.mining import own_slot
from vcsf_plugins.losses.terms import (
    Probability,
    Temperature,
    key_logits,
    mean_of,
    mil_nce,
    other_recording,
    own_key_accuracy,
    own_only,
    share_of,
    with_own,
)


class CrossPathwayBank(CrossPathway):
    """Cross-pathway training whose positives come from a bank of all training clips, in place of a
    queue.

    A slot of the bank holds the running mean of a clip's keys, over epochs and windows. It is
    steadier than one key, and every clip's slot finds its nearest among all others. But the own key is
    fresh where the bank is old: being new would tell it apart, and embeddings would collapse to
    that. So a clip with other positives leaves it out, and one without any is told by its own key
    from the keys of the batch, which are as fresh, as in `infonce`; those of its recording are left
    out.

    Args:
        temperature: Softness of the similarity, tau.
        bank_momentum: How much a clip's older keys weigh in the running mean.
        neighbours: How many slots a pathway may name as positives, k.
        positives: Whose nearest slots count, as in `cross_pathway`.
        contrast: Whether a query is compared with its own pathway's bank (within) or the other's
            (across).
        siblings: Whether slots of the same recording are positives or ignored.
        drop_own: Probability that a clip with other positives learns from these; otherwise it
            learns from its own key among those of the batch.
    """

    def __init__(
        self,
        *,
        temperature: Temperature = 0.07,
        bank_momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.8,
        neighbours: Annotated[int, Gt(0)] = 20,
        positives: Positives = "intersection",
        contrast: Literal["within", "across"] = "across",
        siblings: Literal["positives", "ignored"] = "positives",
        drop_own: Probability = 1.0,
    ) -> None:
        super().__init__(
            temperature=temperature,
            queue=0,
            neighbours=neighbours,
            positives=positives,
            contrast=contrast,
            siblings=siblings,
            drop_own=drop_own,
        )
        self.bank_momentum = bank_momentum

    def forward(self, contrast: Contrast, pathway: str) -> dict[str, Tensor]:
        """As of `CrossPathway`; the own key is compared with the batch."""
        batch, key_pathway = cast(Contrast, contrast.batch), self.key_pathway(pathway)
        slots = key_logits(contrast, pathway, key_pathway, self.temperature)[:, 1:]
        mined, positive = self.positive_slots(contrast, pathway)
        drawn = torch.rand(len(slots), device=slots.device) < self.drop_own
        named = drawn & positive.any(1)
        negative = other_recording(contrast) & ~mined
        own = key_logits(batch, pathway, key_pathway, self.temperature)
        others = other_recording(batch)
        loss = torch.where(
            named,
            mil_nce(slots, positive, positive | negative),
            mil_nce(own, own_only(own), with_own(True, others)),
        )
        used = mined & named[:, None]
        return {
            "loss": loss.mean(),
            "own_key_accuracy": own_key_accuracy(own, others),
            "mined_share": share_of(slots, positive, used).mean(),
            "own_similarity": own[:, 0].detach().mean() * self.temperature,
            "mined_similarity": mean_of(slots.detach() * self.temperature, used),
        }

    def mined(self, contrast: Contrast, pathway: str) -> Tensor:
        """The slots that are mined positives, bool (B, K): those near the clip's own slot, which is
        steadier than its key. A clip without a slot is looked up by its key."""
        held, slot = own_slot(contrast)
        keys = {
            name: torch.where(held[:, None], contrast.queue[name][slot].to(key.dtype), key)
            for name, key in contrast.key.items()
        }
        return super().mined(replace(contrast, key=keys), pathway)


class CrossPathwayClusters(CrossPathwayBank):
    """Cross-pathway training whose positives are clips of the same cluster, out of a bank of all
    training clips.

    Every few epochs the bank is clustered by both pathways' embeddings, one after the other in one
    vector: by FINCH, as in SLIC (Khorasgani et al., CVPR 2022), or by k-means. Clips of the same
    recording are positives as siblings, not as mined ones.

    Args:
        temperature: Softness of the similarity, tau.
        bank_momentum: How much a clip's older keys weigh in the running mean.
        clusters: How many clusters k-means makes; none for the first partition of FINCH, which
            needs no number.
        cluster_every: Epochs from one clustering to the next; the first one follows the first
            epoch.
        probability: How often a query with other positives learns from these (SLIC: 0.2); otherwise
            it learns from its own key among those of the batch.
        contrast: Whether a query is compared with its own pathway's bank (within) or the other's
            (across).
        siblings: Whether slots of the same recording are positives or ignored.
    """

    def __init__(
        self,
        *,
        temperature: Temperature = 0.07,
        bank_momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.8,
        clusters: Annotated[int, Gt(1)] | None = None,
        cluster_every: Annotated[int, Gt(0)] = 5,
        probability: Probability = 1.0,
        contrast: Literal["within", "across"] = "across",
        siblings: Literal["positives", "ignored"] = "positives",
    ) -> None:
        super().__init__(
            temperature=temperature,
            bank_momentum=bank_momentum,
            neighbours=0,  # a cluster may have any number
            contrast=contrast,
            siblings=siblings,
            drop_own=probability,
        )
        self.clusters, self.cluster_every = clusters, cluster_every
        self.min_clips = (clusters or 1) + 1

    def cluster(self, keys: dict[str, Tensor], seed: int) -> Tensor:
        """The clusters of clips by their keys (N, D) in both pathways, int64 (N,)."""
        from vcsf_plugins.losses import clustering  # scikit-learn is slow to load

        vectors = torch.cat([keys[pathway].float() for pathway in PATHWAYS], 1)
        if self.clusters is None:
            return clustering.first_neighbours(vectors)
        return clustering.k_means(vectors, self.clusters, seed)

    def mined(self, contrast: Contrast, pathway: str) -> Tensor:
        """The slots of other recordings in the clip's cluster, bool (B, K)."""
        held, slot = own_slot(contrast)
        cluster = cast(Tensor, contrast.queue_cluster)
        own = torch.where(held, cluster[slot], -1)[:, None]
        return other_recording(contrast) & (cluster == own) & (own >= 0)
