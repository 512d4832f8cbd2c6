"""Every loss written once more as its formula reads, one clip and one key at a time."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from vcsf_cli.contracts import PATHWAYS, Contrast


def random_contrast(seed: int, batch: int = 6, slots: int = 10, dim: int = 8) -> Contrast:
    """A random contrast with empty slots, slots of the batch's own videos and of their recordings;
    some labels unknown."""
    generator = torch.Generator().manual_seed(seed)

    def unit(count: int) -> torch.Tensor:
        return functional.normalize(
            torch.randn(count, dim, generator=generator, dtype=torch.float64), dim=1
        ).float()

    return Contrast(
        query={"slow": unit(batch).requires_grad_(), "fast": unit(batch).requires_grad_()},
        key={"slow": unit(batch), "fast": unit(batch)},
        queue={"slow": unit(slots), "fast": unit(slots)},
        video=torch.arange(batch),
        source=torch.arange(batch) // 2,
        label=torch.arange(batch) % 3 - 1,
        queue_video=torch.tensor([0, 1, -1, 20, 21, -1, 3, 22, 23, 24]),
        queue_source=torch.tensor([0, 0, -1, 20, 21, -1, 1, 22, 22, 24]),
        queue_label=torch.tensor([-1, 0, -1, 1, 0, -1, -1, 0, 1, -1]),
    )


def infonce(contrast: Contrast, pathway: str, temperature: float, keys: str = "") -> Tensor:
    """-log( e(q.k+) / (e(q.k+) + sum e(q.k-)) ), the mean over the batch; e(x) = exp(x /
    temperature).

    `keys` names the pathway that the keys come from, if it is another.
    """
    query, keys = contrast.query[pathway], keys or pathway
    assert query is not None
    losses = []
    for clip in range(len(query)):
        own = torch.exp(query[clip].dot(contrast.key[keys][clip]) / temperature)
        total = own
        for slot, video in enumerate(contrast.queue_video.tolist()):
            if video not in (-1, int(contrast.video[clip])):
                total = total + torch.exp(query[clip].dot(contrast.queue[keys][slot]) / temperature)
        losses.append(-torch.log(own / total))
    return sum(losses, torch.zeros(())) / len(losses)


def nearest(contrast: Contrast, pathways: Sequence[str], clip: int, neighbours: int) -> set[int]:
    """The slots of other recordings that are nearest to a clip's key, by the mean over pathways."""
    found = []
    for slot, (video, source) in enumerate(
        zip(contrast.queue_video.tolist(), contrast.queue_source.tolist(), strict=True)
    ):
        if video in (-1, int(contrast.video[clip])) or source == int(contrast.source[clip]):
            continue
        near = [float(contrast.key[each][clip] @ contrast.queue[each][slot]) for each in pathways]
        found.append((-sum(near) / len(near), slot))
    return {slot for _, slot in sorted(found)[:neighbours]}


def mutual(contrast: Contrast, clip: int, neighbours: int) -> set[int]:
    """The joint nearest slots to which fewer than `neighbours` other slots are nearer than the
    clip; slots of the recordings of the two don't count."""
    found = set()
    videos, sources = contrast.queue_video.tolist(), contrast.queue_source.tolist()
    for slot in nearest(contrast, PATHWAYS, clip, neighbours):
        own = sum(float(contrast.key[p][clip] @ contrast.queue[p][slot]) for p in PATHWAYS)
        nearer = 0
        for rival in range(len(videos)):
            same = sources[rival] in (sources[slot], int(contrast.source[clip]))
            if rival == slot or videos[rival] == -1 or same:
                continue
            if videos[rival] in (videos[slot], int(contrast.video[clip])):
                continue
            keys = contrast.queue
            nearer += sum(float(keys[p][rival] @ keys[p][slot]) for p in PATHWAYS) > own
        if nearer < neighbours:
            found.add(slot)
    return found


def pairs(contrast: Contrast, clip: int, neighbours: int) -> set[int]:
    """The slots that make a pair with a clip among the nearest `neighbours` x B pairs of all."""
    found = []
    for each in range(len(contrast.video)):
        for slot in nearest(contrast, PATHWAYS, each, len(contrast.queue_video)):
            near = sum(float(contrast.key[p][each] @ contrast.queue[p][slot]) for p in PATHWAYS)
            found.append((-near, each, slot))
    kept = sorted(found)[: neighbours * len(contrast.video)]
    return {slot for _, each, slot in kept if each == clip}


def same_cluster(contrast: Contrast, clip: int) -> set[int]:
    """The slots of other recordings in the cluster of the clip's own slot."""
    assert contrast.queue_cluster is not None
    videos, clusters = contrast.queue_video.tolist(), contrast.queue_cluster.tolist()
    own = [clusters[slot] for slot, video in enumerate(videos) if video == contrast.video[clip]]
    if not own or own[0] == -1:
        return set()
    return {
        slot
        for slot, source in enumerate(contrast.queue_source.tolist())
        if clusters[slot] == own[0] and source not in (-1, int(contrast.source[clip]))
    }


def first_neighbours(vectors: Tensor) -> list[int]:
    """FINCH's first partition: i and j are linked if one is the other's nearest, or both have the
    same nearest; the number of a cluster is its lowest vector."""
    unit = functional.normalize(vectors.double(), dim=1)
    count = len(unit)
    nearest = [
        max(
            (other for other in range(count) if other != one),
            key=lambda o: float(unit[one] @ unit[o]),
        )
        for one in range(count)
    ]
    cluster = list(range(count))
    for one in range(count):
        for other in range(count):
            linked = nearest[one] == other or nearest[other] == one
            if linked or nearest[one] == nearest[other]:
                low, high = sorted((cluster[one], cluster[other]))
                cluster = [low if each == high else each for each in cluster]
    return cluster


def mined_slots(contrast: Contrast, pathway: str, clip: int, k: int, positives: str) -> set[int]:
    """The slots that are mined positives of a clip."""
    other = "fast" if pathway == "slow" else "slow"
    theirs, ours = (nearest(contrast, [which], clip, k) for which in (other, pathway))
    return {
        "other": theirs,
        "intersection": theirs & ours,
        "union": theirs | ours,
        "joint": nearest(contrast, PATHWAYS, clip, k),
        "mutual": mutual(contrast, clip, k),
        "pairs": pairs(contrast, clip, k) if positives == "pairs" else set(),
        "clusters": same_cluster(contrast, clip) if positives == "clusters" else set(),
    }[positives]


def terms_of_slots(
    contrast: Contrast,
    pathway: str,
    clip: int,
    temperature: float,
    mined: set[int],
    across: bool,
    siblings: bool,
    batch: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """e(q.k) of the slots that are positives, and of those that are negatives."""
    query, other = contrast.query[pathway], "fast" if pathway == "slow" else "slow"
    assert query is not None
    keys = contrast.queue[other if across else pathway]
    good, bad = [], []
    for slot in range(len(contrast.queue_video)):
        term = torch.exp(query[clip].dot(keys[slot]) / temperature)
        video, source = int(contrast.queue_video[slot]), int(contrast.queue_source[slot])
        if video == -1 or (batch and video == int(contrast.video[clip])):
            continue
        if source == int(contrast.source[clip]) or video == int(contrast.video[clip]):
            good += [term] if siblings else []
        else:
            (good if slot in mined else bad).append(term)
    return good, bad


def cross_pathway(
    contrast: Contrast,
    pathway: str,
    temperature: float,
    neighbours: int,
    positives: str,
    across: bool,
    siblings: bool,
    drops_own: bool,
    batch: bool,
) -> Tensor:
    """-log( sum over positives of e(q.k) / sum over all that take part of e(q.k) ), the mean over
    the batch."""
    query, other = contrast.query[pathway], "fast" if pathway == "slow" else "slow"
    assert query is not None
    losses = []
    for clip in range(len(query)):
        mined = mined_slots(contrast, pathway, clip, neighbours, positives)
        good, bad = terms_of_slots(
            contrast, pathway, clip, temperature, mined, across, siblings, batch
        )
        key = contrast.key[other if across else pathway][clip]
        own = torch.exp(query[clip].dot(key) / temperature)
        total = own + sum([*good, *bad])
        losses.append(-torch.log((sum(good) if drops_own and good else own + sum(good)) / total))
    return sum(losses, torch.zeros(())) / len(losses)


def bank(
    contrast: Contrast,
    pathway: str,
    temperature: float,
    neighbours: int,
    positives: str,
    across: bool,
    siblings: bool,
    drops_own: bool,
) -> Tensor:
    """Of a clip with positives in the bank -log( sum over these of e(q.k) / sum over all slots of
    e(q.k) ), if it drops its own key; else InfoNCE among the batch's keys of other recordings; the
    mean over the batch."""
    query, other = contrast.query[pathway], "fast" if pathway == "slow" else "slow"
    assert query is not None
    keys = contrast.key[other if across else pathway]
    losses = []
    for clip in range(len(query)):
        mined = mined_slots(contrast, pathway, clip, neighbours, positives)
        good, bad = terms_of_slots(
            contrast, pathway, clip, temperature, mined, across, siblings, True
        )
        if not (good and drops_own):
            good = [torch.exp(query[clip].dot(keys[clip]) / temperature)]
            bad = [
                torch.exp(query[clip].dot(keys[each]) / temperature)
                for each, source in enumerate(contrast.source)
                if source != contrast.source[clip]
            ]
        losses.append(-torch.log(sum(good) / sum([*good, *bad])))
    return sum(losses, torch.zeros(())) / len(losses)


def supervised(contrast: Contrast, pathway: str, temperature: float) -> Tensor:
    """-log( e(q.k) / sum over all of e(q.k) ), the mean over positives and then over the batch.
    Positives are the own key and all slots of other videos that share the clip's label, if it has
    one."""
    query = contrast.query[pathway]
    assert query is not None
    losses = []
    for clip in range(len(query)):
        own = query[clip].dot(contrast.key[pathway][clip]) / temperature
        positives, total = [own], torch.exp(own)
        for slot, (video, label) in enumerate(
            zip(contrast.queue_video.tolist(), contrast.queue_label.tolist(), strict=True)
        ):
            if video in (-1, int(contrast.video[clip])):
                continue
            logit = query[clip].dot(contrast.queue[pathway][slot]) / temperature
            total = total + torch.exp(logit)
            if label != -1 and label == int(contrast.label[clip]):
                positives.append(logit)
        losses += [-torch.log(torch.exp(logit) / total) / len(positives) for logit in positives]
    return sum(losses, torch.zeros(())) / len(query)


def random_segments(contrast: Contrast, clips: int, count: int, seed: int = 0) -> Contrast:
    """The contrast with random segments of some of its clips, and steps, with gradient."""
    generator = torch.Generator().manual_seed(seed)

    def unit() -> dict[str, Tensor]:
        values = torch.randn(clips, count, 8, generator=generator)
        return {"slow": functional.normalize(values, dim=2)}

    query, steps = unit(), unit()
    return replace(
        contrast,
        query_segments={name: value.requires_grad_() for name, value in query.items()},
        key_segments=unit(),
        query_steps={name: value.requires_grad_() for name, value in steps.items()},
    )


def local_local(contrast: Contrast, pathway: str, temperature: float) -> Tensor:
    """-log( e(z_p.k_p) / (sum_q e(z_p.k_q) + sum_{q != p} e(z_p.z_q)) ), the mean over segments,
    and over the batch, where clips without segments add nothing."""
    query, key = contrast.query_segments[pathway], contrast.key_segments[pathway]
    clips, count, _ = query.shape
    total = torch.zeros(())
    for clip in range(clips):
        for p in range(count):
            anchor, compared = query[clip, p], torch.zeros(())
            for q in range(count):
                compared = compared + torch.exp(anchor.dot(key[clip, q]) / temperature)
                if q != p:
                    compared = compared + torch.exp(anchor.dot(query[clip, q]) / temperature)
            good = torch.exp(anchor.dot(key[clip, p]) / temperature)
            total = total - torch.log(good / compared) / count
    return total / len(contrast.video)


def global_local(contrast: Contrast, pathway: str, temperature: float) -> Tensor:
    """-log( e(g_p.s_p) / sum_q e(g_p.s_q) ) and -log( e(g_p.s_p) / sum_q e(g_q.s_p) ), with the
    segments of each view: the mean of the four, over times and over the batch."""
    steps, total = contrast.query_steps[pathway], torch.zeros(())
    clips, count, _ = steps.shape
    for segments in (contrast.query_segments[pathway], contrast.key_segments[pathway]):
        for clip in range(clips):
            for p in range(count):
                good = torch.exp(steps[clip, p].dot(segments[clip, p]) / temperature)
                rows = columns = torch.zeros(())
                for q in range(count):
                    rows = rows + torch.exp(steps[clip, p].dot(segments[clip, q]) / temperature)
                    columns = columns + torch.exp(
                        steps[clip, q].dot(segments[clip, p]) / temperature
                    )
                total = total - (torch.log(good / rows) + torch.log(good / columns)) / (4 * count)
    return total / len(contrast.video)


def effective_rank(embeddings: Tensor) -> float:
    """exp(-sum p log p) with p the singular values as shares of their sum."""
    values = torch.linalg.svd(embeddings).S.tolist()
    shares = [value / sum(values) for value in values if value > 1e-12]
    return math.exp(-sum(share * math.log(share) for share in shares))


def uniformity(embeddings: Tensor) -> float:
    """log of the mean over pairs of exp(-2 |x - y|^2)."""
    terms = []
    for first in range(len(embeddings)):
        for second in range(first + 1, len(embeddings)):
            difference = embeddings[first] - embeddings[second]
            terms.append(math.exp(-2 * float(difference.dot(difference))))
    return math.log(sum(terms) / len(terms))
