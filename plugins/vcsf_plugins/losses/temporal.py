"""Telling the segments of one clip apart."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from vcsf_cli.contracts import Contrast
from vcsf_cli.errors import RecipeError
from vcsf_plugins.losses.terms import Temperature

_Weight = Annotated[float, Ge(0)]


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
        temperature: Temperature = 0.1,
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
