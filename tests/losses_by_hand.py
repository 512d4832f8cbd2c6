"""Every loss written once more as its formula reads, one clip and one key at a time."""

import math

import torch
from torch import Tensor

from vcsf_cli.contracts import Contrast


def infonce(contrast: Contrast, pathway: str, temperature: float, queue: bool) -> Tensor:
    """-log( e(q.k+) / (e(q.k+) + sum e(q.k-)) ), the mean over the batch; e(x) = exp(x / temperature)."""
    query, key = contrast.query[pathway], contrast.key[pathway]
    assert query is not None
    others, videos = (contrast.queue[pathway], contrast.queue_video) if queue else (key, contrast.video)
    losses = []
    for clip in range(len(query)):
        own = torch.exp(query[clip].dot(key[clip]) / temperature)
        total = own
        for slot in range(len(others)):
            if videos[slot] != -1 and videos[slot] != contrast.video[clip]:
                total = total + torch.exp(query[clip].dot(others[slot]) / temperature)
        losses.append(-torch.log(own / total))
    return sum(losses, torch.zeros(())) / len(losses)


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
