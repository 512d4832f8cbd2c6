"""The momentum key encoder and the queue of older keys (MoCo, He et al., CVPR 2020), and a bank of
all clips in place of the queue."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.model.pathways import TwoPathways


def key_encoder(model: TwoPathways) -> TwoPathways:
    """A copy of the query encoder that no gradient reaches."""
    return copy.deepcopy(model).requires_grad_(False)


@torch.no_grad()
def ema_update(
    keys: TwoPathways, queries: TwoPathways, pathways: Iterable[str], momentum: float
) -> None:
    """Move the key encoder's weights towards the query encoder's: k <- m k + (1 - m) q.

    Batch-norm statistics are not moved: the key encoder gathers its own."""
    for pathway in pathways:
        targets: list[Tensor] = list(keys.pathway(pathway).parameters())
        sources: list[Tensor] = list(queries.pathway(pathway).parameters())
        torch._foreach_lerp_(targets, sources, 1 - momentum)


class _Slots(nn.Module):
    """Keys of both pathways in step, one a slot."""

    _filled = False

    @property
    def full(self) -> bool:
        """Whether it can be used; once true it stays true, and is not read from the device."""
        self._filled = self._filled or self._is_full()
        return self._filled

    def _is_full(self) -> bool:
        raise NotImplementedError

    @property
    def slots(self) -> int:
        """Number of slots, K."""
        return len(self.get_buffer("video"))

    def keys(self) -> dict[str, Tensor]:
        """Keys (K, D) by pathway."""
        return {pathway: self.get_buffer(pathway) for pathway in PATHWAYS}


class Queue(_Slots):
    """The last K keys of both pathways in step, with the video, source and label of each slot.

    Args:
        slots: K; may be 0.
        dim: D of a key.
        seed: Seed of the unit vectors that fill empty slots; losses mask them by their video, -1.
    """

    def __init__(self, slots: int, dim: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for pathway in PATHWAYS:
            keys = functional.normalize(torch.randn(slots, dim, generator=generator), dim=1)
            self.register_buffer(pathway, keys)
        for name in ("video", "source", "label"):
            self.register_buffer(name, torch.full((slots,), -1, dtype=torch.int64))
        self.register_buffer("next", torch.zeros((), dtype=torch.int64))

    def _is_full(self) -> bool:
        """Whether no slot is empty."""
        return bool((self.get_buffer("video") >= 0).all())

    @torch.no_grad()
    def push(
        self, keys: Mapping[str, Tensor], video: Tensor, source: Tensor, label: Tensor
    ) -> None:
        """Replace the oldest keys by those of a batch, (B, D); of more than K the last K stay."""
        if not self.slots:
            return
        position = self.get_buffer("next")
        size = min(len(video), self.slots)
        at = (position + torch.arange(size, device=video.device)) % self.slots
        for pathway, key in keys.items():
            buffer = self.get_buffer(pathway)
            buffer[at] = key[-size:].to(buffer.dtype)
        for name, values in (("video", video), ("source", source), ("label", label)):
            self.get_buffer(name)[at] = values[-size:]
        position.add_(size).remainder_(self.slots)


class Bank(_Slots):
    """A key of every training clip in both pathways: the running mean of its keys, of unit length,
    with the video, source and label of each slot. It is read like a queue; empty slots
    hold zeros.

    A clip's first key is taken as it is; later m <- b m + (1 - b) k, then unit length.

    Args:
        clips: Numbers of the training clips, rising, (K,); slot i is that of clip i.
        dim: D of a key.
        momentum: b.
        batch: Clips of a batch of all processes.
        clustered: Whether slots have clusters, -1 at first.
    """

    def __init__(
        self, clips: Tensor, dim: int, momentum: float, batch: int, clustered: bool = False
    ) -> None:
        super().__init__()
        self.momentum, self.left_out = momentum, len(clips) % batch
        self.register_buffer("clips", clips, persistent=False)
        for pathway in PATHWAYS:
            self.register_buffer(pathway, torch.zeros(len(clips), dim))
        for name in ("video", "source", "label", *(["cluster"] if clustered else [])):
            self.register_buffer(name, torch.full((len(clips),), -1, dtype=torch.int64))

    def assign_clusters(self, find: Callable[[dict[str, Tensor]], Tensor]) -> None:
        """Give every filled slot the cluster that `find` names for its keys, int64 (N,) for (N, D)
        by pathway; the keys are on the CPU."""
        filled = self.get_buffer("video") >= 0
        found = find({pathway: key[filled].cpu() for pathway, key in self.keys().items()})
        if found.dtype != torch.int64 or found.shape != (int(filled.sum()),):
            raise TypeError("`cluster` must return one int64 number for each clip")
        self.get_buffer("cluster")[filled] = found.to(filled.device)

    def _is_full(self) -> bool:
        """Whether an epoch has gone in, which leaves out what is left of a whole batch."""
        return int((self.get_buffer("video") < 0).sum()) <= self.left_out

    @torch.no_grad()
    def push(
        self, keys: Mapping[str, Tensor], video: Tensor, source: Tensor, label: Tensor
    ) -> None:
        """Move the slots of a batch's clips towards their keys (B, D)."""
        at = torch.searchsorted(self.get_buffer("clips"), video)
        kept = torch.where(self.get_buffer("video")[at] < 0, 0.0, self.momentum)[:, None]
        for pathway, key in keys.items():
            bank = self.get_buffer(pathway)
            bank[at] = functional.normalize(kept * bank[at] + (1 - kept) * key.to(bank.dtype))
        for name, values in (("video", video), ("source", source), ("label", label)):
            self.get_buffer(name)[at] = values
