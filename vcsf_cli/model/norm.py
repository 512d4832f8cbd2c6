"""Batch norm whose training statistics are of parts of the batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm


class SplitBatchNorm(_BatchNorm):
    """Batch norm of each part of the batch by itself; in eval mode an ordinary batch norm.

    A clip's own key and query are normalised by statistics of the same clips, which tells them
    apart from the keys of a queue: a network can use that and learn nothing (MoCo, He et al., CVPR
    2020, section 3.3). MoCo shuffles keys between GPUs; one process shuffles them between the parts
    of the batch.

    Args:
        norm: The batch norm whose weights and statistics it takes.
    """

    parts = 1

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(
            norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
        )
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any number of dimensions: it stands for norms of all kinds."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.parts == 1:
            return super().forward(input)
        share = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            share = 1 / float(self.num_batches_tracked) if share is None else share
        # Of a few clips, such as segments of those that show them, a part has two or all are one.
        parts = max(1, min(self.parts, len(input) // 2))
        # All parts together move the statistics as one batch would.
        share = 1 - (1 - (share or 0.0)) ** (1 / parts)
        statistics = self.running_mean, self.running_var
        return torch.cat(
            [
                functional.batch_norm(
                    part, *statistics, self.weight, self.bias, True, share, self.eps
                )
                for part in input.tensor_split(parts)
            ]
        )


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def split_batch_norms(network: nn.Module, parts: int) -> None:
    """Let all batch norms of a network take statistics by parts of the batch; 1: the whole
    batch."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if (
                isinstance(child, _BatchNorm)
                and not isinstance(child, SplitBatchNorm | nn.SyncBatchNorm)
                and parts > 1
            ):
                setattr(module, name, SplitBatchNorm(child))
    for norm in batch_norms(network):
        if isinstance(norm, SplitBatchNorm):
            norm.parts = parts
