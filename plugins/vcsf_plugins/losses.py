"""Contrastive losses on two pathways.

All compute in float32 whatever the networks compute in: a sum of exponentials of similarities over
temperature loses too much in bfloat16."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal, cast

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor, nn

from vcsf_cli.contracts import PATHWAYS, Contrast, other_pathway
from vcsf_cli.errors import RecipeError

_Temperature = Annotated[float, Gt(0)]
_Slots = Annotated[int, Ge(0)]
_Weight = Annotated[float, Ge(0)]
_Probability = Annotated[float, Interval(ge=0, le=1)]
_Positives = Literal["other", "intersection", "union", "joint", "mutual"]


def _logits(contrast: Contrast, pathway: str, key_pathway: str, temperature: float) -> Tensor:
    """Similarities of a pathway's queries to keys, over temperature, (B, 1 + K): to the own key,
    then to the queue."""
    query = contrast.query[pathway]
    if query is None:
        raise ValueError(f"the {pathway} pathway is frozen: it has no query and no loss")
    query = query.float()
    own = (query * contrast.key[key_pathway].float()).sum(1, keepdim=True)
    return torch.cat([own, query @ contrast.queue[key_pathway].float().T], 1) / temperature


def _other_video(contrast: Contrast) -> Tensor:
    """Slots that hold another video than the clip's, bool (B, K)."""
    return (contrast.queue_video >= 0) & (contrast.queue_video != contrast.video[:, None])


def _same_recording(contrast: Contrast) -> Tensor:
    """Slots that hold a video of the clip's recording, its own among them, bool (B, K)."""
    return (contrast.queue_source >= 0) & (contrast.queue_source == contrast.source[:, None])


def _with_own(own: Tensor | bool, slots: Tensor) -> Tensor:
    """A mask of the own key (B,) before one of the slots (B, K): (B, 1 + K)."""
    first = torch.as_tensor(own, device=slots.device).expand(len(slots))
    return torch.cat([first[:, None], slots], 1)


def _mil_nce(logits: Tensor, positive: Tensor, compared: Tensor) -> Tensor:
    """-log(sum over positives of e(logit) / sum over all compared) of each clip, (B,) (MIL-NCE, Miech
    et al., CVPR 2020).

    The log of the *sum* over positives, not the mean of the logs: one good positive is enough.

    Args:
        logits: (B, N).
        positive: bool (B, N), at least one per row.
        compared: bool (B, N), positives and negatives.
    """
    total = logits.masked_fill(~compared, -torch.inf).logsumexp(1)
    return total - logits.masked_fill(~positive, -torch.inf).logsumexp(1)


def _own_only(logits: Tensor) -> Tensor:
    """The mask of the own key among logits (B, 1 + K)."""
    own = torch.zeros_like(logits, dtype=torch.bool)
    own[:, 0] = True
    return own


def _own_key_accuracy(logits: Tensor, negative: Tensor) -> Tensor:
    """Share of clips whose own key, the first of logits (B, 1 + K), is nearer than all negatives,
    bool (B, K)."""
    nearest = logits[:, 1:].masked_fill(~negative, -torch.inf).amax(1)
    return (logits[:, 0] > nearest).float().mean()


def _mean_of(values: Tensor, chosen: Tensor) -> Tensor:
    """The mean of chosen values; 0 of none."""
    return (values * chosen).sum() / chosen.sum().clamp(min=1)


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

    def __init__(self, *, temperature: _Temperature = 0.07, queue: _Slots = 2048) -> None:
        super().__init__()
        self.temperature = temperature
        self.queue = queue

    def forward(self, contrast: Contrast, pathway: str) -> dict[str, Tensor]:
        """The loss of a pathway, and the share of clips nearest to their own key."""
        logits = _logits(contrast, pathway, pathway, self.temperature)
        negative = _other_video(contrast)
        loss = _mil_nce(logits, _own_only(logits), _with_own(True, negative)).mean()
        return {"loss": loss, "own_key_accuracy": _own_key_accuracy(logits, negative)}


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
            (MVCGC) or union of both pathways', those by the mean of both similarities (joint), or
            of the joint ones those that have the clip among their own nearest (mutual).
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
        temperature: _Temperature = 0.07,
        queue: _Slots = 2048,
        neighbours: Annotated[int, Gt(0)] = 5,
        positives: _Positives = "other",
        contrast: Literal["within", "across"] = "within",
        siblings: Literal["positives", "ignored"] = "positives",
        drop_own: _Probability = 0.9,
    ) -> None:
        super().__init__()
        self.temperature, self.queue, self.neighbours = temperature, queue, neighbours
        self.positives, self.contrast, self.siblings = positives, contrast, siblings
        self.drop_own = drop_own

    def forward(self, contrast: Contrast, pathway: str) -> dict[str, Tensor]:
        """The loss of a pathway, the share of mined keys in the sum over positives, and the mean
        similarity of own and of mined keys."""
        logits = _logits(contrast, pathway, self.key_pathway(pathway), self.temperature)
        mined, positive = self.positive_slots(contrast, pathway)
        drawn = torch.rand(len(logits), device=logits.device) < self.drop_own
        dropped = drawn & positive.any(1)
        negative = _other_video(contrast) & ~_same_recording(contrast) & ~mined
        all_positive = _with_own(~dropped, positive)
        share = logits.masked_fill(~all_positive, -torch.inf).softmax(1)[:, 1:]
        similarity = logits.detach() * self.temperature
        return {
            "loss": _mil_nce(logits, all_positive, _with_own(True, positive | negative)).mean(),
            "own_key_accuracy": _own_key_accuracy(logits, negative),
            "mined_share": (share * mined).sum(1).mean(),
            "own_similarity": similarity[:, 0].mean(),
            "mined_similarity": _mean_of(similarity[:, 1:], mined),
        }

    def key_pathway(self, pathway: str) -> str:
        """The pathway whose keys a pathway's queries are compared with."""
        return pathway if self.contrast == "within" else other_pathway(pathway)

    def positive_slots(self, contrast: Contrast, pathway: str) -> tuple[Tensor, Tensor]:
        """The slots that are mined, and all that are positives, bool (B, K)."""
        mined, sibling = self.mined(contrast, pathway), _same_recording(contrast)
        if not self.queue:
            sibling &= _other_video(contrast)  # the clip's own slot in the batch is its own key
        return mined, mined | sibling if self.siblings == "positives" else mined

    def mined(self, contrast: Contrast, pathway: str) -> Tensor:
        """The slots that are mined positives of a pathway's queries, bool (B, K)."""
        count = self.neighbours
        if self.positives == "joint":
            return _nearest_slots(contrast, PATHWAYS, count)
        if self.positives == "mutual":
            return _mutual_slots(contrast, count)
        theirs = _nearest_slots(contrast, [other_pathway(pathway)], count)
        if self.positives == "other":
            return theirs
        ours = _nearest_slots(contrast, [pathway], count)
        return theirs & ours if self.positives == "intersection" else theirs | ours


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
        temperature: _Temperature = 0.07,
        bank_momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.8,
        neighbours: Annotated[int, Gt(0)] = 20,
        positives: _Positives = "intersection",
        contrast: Literal["within", "across"] = "across",
        siblings: Literal["positives", "ignored"] = "positives",
        drop_own: _Probability = 1.0,
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
        slots = _logits(contrast, pathway, key_pathway, self.temperature)[:, 1:]
        mined, positive = self.positive_slots(contrast, pathway)
        drawn = torch.rand(len(slots), device=slots.device) < self.drop_own
        named = drawn & positive.any(1)
        negative = _other_video(contrast) & ~_same_recording(contrast) & ~mined
        # A clip that does not learn from the bank has all slots as positives: a loss of 0.
        positive = positive | ~named[:, None]
        own = _logits(batch, pathway, key_pathway, self.temperature)
        others = _other_video(batch) & ~_same_recording(batch)
        loss = torch.where(
            named,
            _mil_nce(slots, positive, positive | negative),
            _mil_nce(own, _own_only(own), _with_own(True, others)),
        )
        used = mined & named[:, None]
        share = slots.masked_fill(~positive, -torch.inf).softmax(1)
        return {
            "loss": loss.mean(),
            "own_key_accuracy": _own_key_accuracy(own, others),
            "mined_share": (share * used).sum(1).mean(),
            "own_similarity": own[:, 0].detach().mean() * self.temperature,
            "mined_similarity": _mean_of(slots.detach() * self.temperature, used),
        }

    def mined(self, contrast: Contrast, pathway: str) -> Tensor:
        """The slots that are mined positives, bool (B, K): those near the clip's own slot, which is
        steadier than its key. A clip without a slot is looked up by its key."""
        held, slot = _own_slot(contrast)
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
        temperature: _Temperature = 0.07,
        bank_momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.8,
        clusters: Annotated[int, Gt(1)] | None = None,
        cluster_every: Annotated[int, Gt(0)] = 5,
        probability: _Probability = 1.0,
        contrast: Literal["within", "across"] = "across",
        siblings: Literal["positives", "ignored"] = "positives",
    ) -> None:
        super().__init__(
            temperature=temperature,
            bank_momentum=bank_momentum,
            contrast=contrast,
            siblings=siblings,
            drop_own=probability,
        )
        self.clusters, self.cluster_every = clusters, cluster_every
        self.min_clips = (clusters or 1) + 1

    def cluster(self, keys: dict[str, Tensor], seed: int) -> Tensor:
        """The clusters of clips by their keys (N, D) in both pathways, int64 (N,)."""
        from vcsf_plugins import clusters  # scikit-learn is slow to load

        vectors = torch.cat([keys[pathway].float() for pathway in PATHWAYS], 1)
        if self.clusters is None:
            return clusters.first_neighbours(vectors)
        return clusters.k_means(vectors, self.clusters, seed)

    def mined(self, contrast: Contrast, pathway: str) -> Tensor:
        """The slots of other recordings in the clip's cluster, bool (B, K)."""
        held, slot = _own_slot(contrast)
        cluster = cast(Tensor, contrast.queue_cluster)
        own = torch.where(held, cluster[slot], -1)[:, None]
        others = _other_video(contrast) & ~_same_recording(contrast)
        return others & (cluster == own) & (own >= 0)


def _own_slot(contrast: Contrast) -> tuple[Tensor, Tensor]:
    """Whether clips have a slot of their own, bool (B,), and which it is, (B,)."""
    own = contrast.queue_video == contrast.video[:, None]
    return own.any(1), own.int().argmax(1)


@torch.no_grad()
def _similarity(keys: dict[str, Tensor], others: dict[str, Tensor]) -> Tensor:
    """Mean similarity over pathways of keys (B, D) to others (K, D), float32 (B, K)."""
    return torch.stack([keys[name].float() @ others[name].float().T for name in keys]).mean(0)


@torch.no_grad()
def _nearest_slots(contrast: Contrast, pathways: Sequence[str], count: int) -> Tensor:
    """The slots of other recordings that are nearest to each clip's key by the mean similarity of
    pathways, bool (B, K); empty ones are left out."""
    allowed = _other_video(contrast) & ~_same_recording(contrast)
    similarity = _similarity({name: contrast.key[name] for name in pathways}, contrast.queue)
    ranked = similarity.masked_fill(~allowed, -torch.inf)
    best = ranked.topk(min(count, ranked.shape[1]), 1).indices
    return torch.zeros_like(allowed).scatter_(1, best, True) & allowed


@torch.no_grad()
def _mutual_slots(contrast: Contrast, count: int) -> Tensor:
    """The joint nearest slots that rank the clip's key among their own nearest too: fewer than
    `count` slots of recordings other than theirs and the clip's are nearer to them, bool (B, K)."""
    nearest = _nearest_slots(contrast, PATHWAYS, count)
    clip, slot = nearest.nonzero(as_tuple=True)
    queue = {pathway: keys[slot] for pathway, keys in contrast.queue.items()}
    rivals = _similarity(queue, contrast.queue)
    filled = contrast.queue_video >= 0
    source = contrast.queue_source
    own = (source == source[slot, None]) & (source >= 0) | (
        contrast.queue_video == contrast.queue_video[slot, None]
    )
    clips = _same_recording(contrast) | ~_other_video(contrast)
    rivals = rivals.masked_fill(own | clips[clip] | ~filled, -torch.inf)
    similarity = _similarity(contrast.key, contrast.queue)[clip, slot]
    nearest[clip, slot] = (rivals > similarity[:, None]).sum(1) < count
    return nearest


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

    def __init__(self, *, temperature: _Temperature = 0.07, queue: _Slots = 2048) -> None:
        super().__init__()
        self.temperature = temperature
        self.queue = queue

    def forward(self, contrast: Contrast, pathway: str) -> dict[str, Tensor]:
        """The loss of a pathway, and the share of clips whose own key is nearer than all keys of
        other classes."""
        logits = _logits(contrast, pathway, pathway, self.temperature)
        others = _other_video(contrast)
        same_class = (contrast.queue_label >= 0) & (contrast.queue_label == contrast.label[:, None])
        same_class &= others
        positive = _with_own(True, same_class)
        total = logits.masked_fill(~_with_own(True, others), -torch.inf).logsumexp(1, keepdim=True)
        loss = ((total - logits) * positive).sum(1) / positive.sum(1)
        accuracy = _own_key_accuracy(logits, others & ~same_class)
        return {"loss": loss.mean(), "own_key_accuracy": accuracy}


class TemporalContrast(nn.Module):
    """Tell the segments of a clip apart: the temporal losses of TCLR (Dave et al., CVIU 2022), to add
    to another loss.

    A window is cut into n equal segments, each encoded as a clip of its own. `local_local`: a
    segment z_p of view 1 finds the same segment k_p of view 2 among all others of the clip,
    -log( e(z_p.k_p) / (sum over q of e(z_p.k_q) + sum over q other than p of e(z_p.z_q)) ), with
    e(x) = exp(x / tau). `global_local`: the features of the whole window by spans of time, g_p,
    and the segments at that time find each other, in both directions: -log( e(g_p.s_p) / sum over
    q of e(g_p.s_q) ) and -log( e(g_p.s_p) / sum over q of e(g_q.s_p) ), with s the segments of each
    view.

    Of a segment a pathway reads as many frames as of the whole window, if there are as many: with
    alpha segments slow does, as in the paper. Fast, which skips no frame of the window, reads fewer.

    Both views must show the same window, which `sampler.same_window` makes more frequent; other
    clips count as zero. `global_local` needs features with a multiple of n time steps.

    Differences from the paper: view 2 goes through the momentum encoder, so that segments of view 1
    alone are anchors, and only the features of view 1 are divided in time. The terms are means over
    segments and clips, there sums.

    Args:
        temperature: Softness of the similarity, tau.
        segments: How many segments a window has, n.
        local_local: Weight of `local_local`.
        global_local: Weight of `global_local`.
    """

    queue = None
    uses_labels = False

    def __init__(
        self,
        *,
        temperature: _Temperature = 0.1,
        segments: Annotated[int, Ge(2)] = 4,
        local_local: _Weight = 1.0,
        global_local: _Weight = 1.0,
    ) -> None:
        super().__init__()
        if not local_local and not global_local:
            raise RecipeError(
                "is 0, as is global_local: nothing is left", "leave it out", key="loss.local_local"
            )
        self.temperature, self.segments = temperature, segments
        self.local_local, self.global_local = local_local, global_local
        self.steps = segments if global_local else 0

    def forward(self, contrast: Contrast, pathway: str) -> dict[str, Tensor]:
        """The weighted sum, and each term that has a weight."""
        query = contrast.query_segments[pathway].float()
        key = contrast.key_segments[pathway].float()
        terms = {}
        if self.local_local:
            terms["local_local"] = _local_local(query, key, self.temperature)
        if self.global_local:
            steps = contrast.query_steps[pathway].float()
            found = [_global_local(steps, each, self.temperature) for each in (query, key)]
            terms["global_local"] = torch.stack(found).mean(0)
        means = {name: values.sum() / len(contrast.video) for name, values in terms.items()}
        loss = torch.stack([getattr(self, name) * value for name, value in means.items()]).sum()
        return {"loss": loss, **means}


def _local_local(query: Tensor, key: Tensor, temperature: float) -> Tensor:
    """The mean over the segments (M, n, D) of each clip, (M,)."""
    across = query @ key.transpose(1, 2) / temperature
    within = query @ query.transpose(1, 2) / temperature
    itself = torch.eye(query.shape[1], dtype=torch.bool, device=query.device)
    compared = torch.cat([across, within.masked_fill(itself, -torch.inf)], 2)
    return (compared.logsumexp(2) - across.diagonal(dim1=1, dim2=2)).mean(1)


def _global_local(steps: Tensor, segments: Tensor, temperature: float) -> Tensor:
    """The mean over times (M, n, D) of each clip and both directions, (M,)."""
    logits = steps @ segments.transpose(1, 2) / temperature
    both = (logits.logsumexp(2) + logits.logsumexp(1)) / 2
    return (both - logits.diagonal(dim1=1, dim2=2)).mean(1)
