"""How right each way of finding positives is, without training: a table of a finished run's
networks on its training clips.

    python tests/benchmarks/positives.py runs/RUN --data data

Labels only count what is right. A queue holds single augmented views, as in training. A bank holds
the mean embedding of a clip's windows, and every training clip is a query; then the mean of some
augmented views, as it would be in training, asked by a clip's own slot and by a fresh key. Clips of
the same recording are never positives.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import click
import torch
from torch import Tensor
from torch.nn import functional
from vcsf_plugins.losses import CrossPathway, clustering

from vcsf_cli.contracts import PATHWAYS, Contrast, Indices
from vcsf_cli.data.clips import ClipIds, EvalClips, TwoViewClips, pathway_inputs
from vcsf_cli.data.loader import ResumableBatchSampler, training_loader
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.features.extract import extract
from vcsf_cli.model.parts import build_sampler
from vcsf_cli.model.pathways import TwoPathways
from vcsf_cli.runs.restore import restore
from vcsf_cli.runs.run import read_run

SCHEMES = [
    *(("other", k) for k in (1, 5, 10, 20)),
    *(("union", k) for k in (1, 5, 10, 20)),
    *(("intersection", k) for k in (1, 5, 10, 20, 40)),
    *(("joint", k) for k in (1, 5, 10, 20)),
    *(("mutual", k) for k in (1, 5, 10, 20)),
]
QUEUE = 320
TEMPERATURE = 0.1
"""Of weights that grow with similarity, whose number of positives is 1 / (the sum of their
squares)."""
CPU = torch.device("cpu")
Keys = dict[str, Tensor]


def measure(positive: Tensor, right: Tensor) -> str:
    """A row of the table: precision, positives a clip, and clips with one in per cent."""
    found = positive.sum()
    precision = 100 * float((positive & right).sum() / found.clamp(min=1))
    covered = 100 * float(positive.any(1).float().mean())
    return f"{precision:.1f} | {float(found) / len(positive):.2f} | {covered:.0f}"


def contrast_of(
    query: Keys, ids: dict[str, Tensor], slots: Keys, held: dict[str, Tensor]
) -> Contrast:
    queued = {f"queue_{name}": values for name, values in held.items()}
    return Contrast(query={**query}, key=query, queue=slots, **ids, **queued)


def windows_means(model: TwoPathways, clips: EvalClips, workers: int) -> tuple[Keys, Keys]:
    """Mean features before the head, and unit-length mean embeddings, (N, C) and (N, D)."""

    class Both:
        """Features, and embeddings under names of their own."""

        training = False

        def train(self, mode: bool = True) -> None: ...

        def eval(self) -> None: ...

        def features(self, windows: Tensor, positions: Keys) -> Keys:
            pooled = model.features(windows, positions)
            heads = {name: model.pathway(name).head(value) for name, value in pooled.items()}
            return pooled | {f"{name} head": value for name, value in heads.items()}

    found = {name: torch.from_numpy(x) for name, x in extract(Both(), clips, CPU, workers).items()}
    pooled = {
        name: functional.normalize(found[name] - found[name].mean(0), dim=1) for name in PATHWAYS
    }
    return pooled, {name: functional.normalize(found[f"{name} head"], dim=1) for name in PATHWAYS}


@torch.no_grad()
def single_views(
    model: TwoPathways, clips: TwoViewClips, rows: Indices, epoch: int, workers: int
) -> tuple[Keys, Keys, Tensor]:
    """Embeddings of an epoch's two augmented views of clips in random order, and the clips'
    rows."""
    order = ResumableBatchSampler(rows, 32, 0, epoch, epoch + 1)
    views: list[list[Keys]] = [[], []]
    video: list[Tensor] = []
    for batch in training_loader(clips, order, workers, pin=False):
        for view in (0, 1):
            inputs = pathway_inputs(batch, view, PATHWAYS, CPU, channels_last=False)
            views[view].append(model(inputs, {name: batch[name][:, view] for name in PATHWAYS}))
        video.append(batch["video"])
    first, second = (
        {name: torch.cat([part[name] for part in parts]) for name in PATHWAYS} for parts in views
    )
    return first, second, torch.cat(video)


def of_the_bank(ids: dict[str, Tensor], pooled: Keys, bank: Keys) -> None:
    """Print what thresholds, weights and clusters find in a bank."""
    right = ids["label"] == ids["label"][:, None]
    clips = len(right)
    other = ids["source"] != ids["source"][:, None]
    similarity = torch.stack([bank[name] @ bank[name].T for name in PATHWAYS]).mean(0)
    similarity = similarity.masked_fill(~other, -torch.inf)
    for count in (0.5, 1.5, 5.0):
        threshold = similarity.flatten().topk(round(count * clips)).values[-1]
        row = measure(similarity >= threshold, right)
        click.echo(f"| bank | joint, above {threshold:.2f} | both | {row} |")
    for k in (5, 20):
        nearest = similarity.topk(k, 1)
        weights = (nearest.values / TEMPERATURE).softmax(1)
        precision = 100 * float((weights * right.gather(1, nearest.indices)).sum(1).mean())
        effective = float((1 / weights.square().sum(1)).mean())
        click.echo(
            f"| bank | joint {k}, weighted | both | {precision:.1f} | {effective:.2f} | 100 |"
        )
    for what, vectors in (("features", pooled), ("embeddings", bank)):
        joined = torch.cat([vectors[name] for name in PATHWAYS], 1)
        counts = [round(share * clips) for share in (0.03, 0.06, 0.12, 0.24, 0.48)]
        found = [("FINCH", clustering.first_neighbours(joined))]
        found += [("k-means", clustering.k_means(joined, count, 0)) for count in counts]
        for name, cluster in found:
            row = measure((cluster == cluster[:, None]) & other, right)
            click.echo(f"| bank | {name}, {len(cluster.unique())} | {what} | {row} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--views", type=int, default=5, help="most training views of a slot")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    run = read_run(options.run)
    model, _ = restore(run)
    stage = run.recipe.first_stage
    manifest = Manifest.open(options.data / stage.data.name)
    rows = manifest.training_part(stage.data.split)
    numbers, sampler = ClipIds(manifest), build_sampler(stage)
    if len(rows) <= 2 * QUEUE or (numbers.label[rows] < 0).any():
        parser.error(f"more than {2 * QUEUE} training clips are needed, each with a label")
    ids = {
        "video": torch.from_numpy(rows),
        "source": torch.from_numpy(numbers.source[rows]),
        "label": torch.from_numpy(numbers.label[rows]),
    }
    eval_clips = EvalClips(manifest, rows.tolist(), sampler, stage.augment.border, stage.data.size)
    pooled, bank = windows_means(model, eval_clips, options.workers)
    views = TwoViewClips(manifest, sampler, stage.augment, stage.data.size, run.recipe.seed)
    query, keys, video = single_views(model, views, rows, 0, options.workers)
    at = torch.searchsorted(ids["video"], video)
    view_ids = {name: values[at] for name, values in ids.items()}

    click.echo(
        "| memory | scheme | pathway | precision, % | positives a clip | clips with one, % |"
    )
    click.echo("|---|---|---|---:|---:|---:|")
    whole = contrast_of(bank, ids, bank, ids)
    last = slice(-QUEUE, None)
    queue = contrast_of(
        {name: value[:-QUEUE] for name, value in query.items()},
        {name: value[:-QUEUE] for name, value in view_ids.items()},
        {name: value[last] for name, value in keys.items()},
        {name: value[last] for name, value in view_ids.items()},
    )
    for memory, contrast in (("queue", queue), ("bank", whole)):
        same = contrast.label[:, None] == contrast.queue_label
        for scheme, k in SCHEMES:
            loss = CrossPathway(queue=QUEUE, positives=scheme, neighbours=k)
            for pathway in PATHWAYS if scheme == "other" else PATHWAYS[:1]:
                name = pathway if scheme == "other" else "both"
                mined = loss.mined(contrast, pathway)
                click.echo(f"| {memory} | {scheme} {k} | {name} | {measure(mined, same)} |")
    seen = {name: torch.zeros_like(values) for name, values in bank.items()}
    for epoch in range(options.views):
        fresh, keys, video = single_views(model, views, rows, epoch, options.workers)
        at = torch.searchsorted(ids["video"], video)
        for name, values in keys.items():
            seen[name][at] += values
        slots = {name: functional.normalize(values, dim=1) for name, values in seen.items()}
        own = {name: values[at] for name, values in slots.items()}
        view_ids = {name: values[at] for name, values in ids.items()}
        for asked, asking in (("own slots", own), ("fresh keys", fresh)):
            contrast = contrast_of(asking, view_ids, slots, ids)
            same = contrast.label[:, None] == contrast.queue_label
            for k in (5, 10, 20, 40):
                loss = CrossPathway(queue=QUEUE, positives="intersection", neighbours=k)
                row = measure(loss.mined(contrast, "slow"), same)
                click.echo(f"| {epoch + 1} views | intersection {k} | {asked} | {row} |")
    of_the_bank(ids, pooled, bank)


if __name__ == "__main__":
    main()
