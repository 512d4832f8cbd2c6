"""Fine-tuning: the whole network learns to name classes, from a checkpoint or from scratch."""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from vcsf_cli.config.protocol import Finetune
from vcsf_cli.contracts import PATHWAYS, Indices
from vcsf_cli.data.clips import Batch, EvalClips, LabelledClips, pathway_inputs
from vcsf_cli.data.loader import ResumableBatchSampler, iterate, training_loader
from vcsf_cli.errors import RunError
from vcsf_cli.evaluate.attentive import predict_attentive
from vcsf_cli.evaluate.classification import Classification
from vcsf_cli.evaluate.knn import predict_knn
from vcsf_cli.evaluate.linear import predict_linear
from vcsf_cli.evaluate.metrics import right, with_both
from vcsf_cli.features.extract import Features, extract
from vcsf_cli.model.pathways import Networks, Pathway, Windows, pathway_window, read_as
from vcsf_cli.narrate import Progress, say
from vcsf_cli.runs.run import RunFolder
from vcsf_cli.storage import checkpoint
from vcsf_cli.train.compute import Compute
from vcsf_cli.train.loop import Log, LoopConfig, Task, Terms, TrainState, fit
from vcsf_cli.train.optim import build_optimizer, learning_rate, load_state
from vcsf_cli.train.timing import time_steps

if TYPE_CHECKING:
    from lightning_fabric import Fabric

KIND = "vcsf-finetune"
"""Kind of the checkpoint of a fine-tuning under way."""

CLASSIFIER = "vcsf-classifier"
"""Kind of the checkpoint of a finished one."""

_TIMED_CLIPS = 4
_TIMED_BATCHES = 3


class Classifier(nn.Module):
    """Pathways without their heads, each followed by dropout and a linear layer of its own.

    Args:
        model: The pathways, which are not copied.
        dropout: Probability that a feature is zero in training.
        seed: Of the new layers.
    """

    def __init__(
        self, model: Networks, pathways: tuple[str, ...], classes: int, dropout: float, seed: int
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: model.pathway(name) for name in pathways})
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleDict()
        with torch.random.fork_rng(devices=[]):
            for name in pathways:
                torch.manual_seed(seed)
                layer = nn.Linear(model.widths[name], classes)
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)
                self.layers[name] = layer
        for name in pathways:
            model.pathway(name).head.requires_grad_(False)

    def forward(
        self, windows: Mapping[str, Tensor], positions: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Logits (B, classes) by pathway.

        Args:
            windows: (B, 3, L, H, W) by pathway.
            positions: Which frames of its window slow and fast read, (B, T).
        """
        found = {}
        for name, layer in self.layers.items():
            encoder, window = cast(Pathway, self.encoders[name]), windows[name]
            features = encoder(encoder.clip(window, positions[read_as(name)]), window)
            found[name] = layer(self.dropout(features)).float()
        return found

    def features(self, windows: Windows, positions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Probabilities (B, classes) by pathway; of a video they are the mean over its windows, as
        features are."""
        own = {name: pathway_window(windows, read_as(name)) for name in self.layers}
        logits = self(own, positions)
        return {name: values.softmax(1) for name, values in logits.items()}

    def groups(self, backbone_scale: float) -> list[dict[str, Any]]:
        """Parameter groups: new layers at the scheduled learning rate, backbones at a share of
        it."""
        backbone = [weight for weight in self.encoders.parameters() if weight.requires_grad]
        return [
            {"params": list(self.layers.parameters()), "lr_scale": 1.0},
            {"params": backbone, "lr_scale": backbone_scale},
        ]

    def parts(self, pathway: str) -> nn.ModuleDict:
        return nn.ModuleDict({"encoder": self.encoders[pathway], "layer": self.layers[pathway]})


class _ClassifyTask(Task):
    """Learning to classify clips, each pathway by itself.

    Args:
        position: How far the training has come; the loop moves it.
        compute: Device and precision of predictions.
    """

    def __init__(
        self,
        evaluation: Classification,
        model: Classifier,
        position: TrainState,
        fabric: Fabric,
        compute: Compute,
    ) -> None:
        self.evaluation, self.model, self.position = evaluation, model, position
        self.manifest, self.fabric, self.compute = evaluation.manifest, fabric, compute
        self.protocol = cast(Finetune, evaluation.protocol)
        self.channels_last = evaluation.source.speed.channels_last
        self.best: dict[str, dict[str, Any]] = {}
        model.train()

    def step(self, batch: Batch) -> Iterator[tuple[float, Terms]]:
        """Cross-entropy of each pathway and their sum, of each part of a batch, with the part's
        share of the batch."""
        size = len(batch["video"])
        for rows in torch.arange(size).chunk(self.protocol.train.accumulate):
            part = {name: values[rows] for name, values in batch.items()}
            windows = pathway_inputs(
                part, 0, self.evaluation.pathways, self.fabric.device, self.channels_last
            )
            with self.fabric.autocast():
                logits = self.model(windows, {name: part[name][:, 0] for name in PATHWAYS})
            target = torch.from_numpy(self.evaluation.target[part["video"].numpy()]).to(
                self.fabric.device
            )
            terms: Terms = {}
            for pathway, values in logits.items():
                terms[f"{pathway}_loss"] = functional.cross_entropy(values, target)
                terms[f"{pathway}_top1"] = (values.argmax(1) == target).float().mean()
            terms["loss"] = torch.stack(
                [terms[f"{pathway}_loss"] for pathway in self.evaluation.pathways]
            ).sum()
            yield len(rows) / size, terms

    def evaluate(self) -> dict[str, float]:
        """Share of right answers on held-out recordings by pathway. The best weights so far are
        kept."""
        rows = self.evaluation.splits.validation
        if not len(rows):
            return {}
        found = predict(self.evaluation, self.model, rows, self.compute, "centre")
        target = self.evaluation.target[rows]
        shares = {
            pathway: float(right(values, target).mean())
            for pathway, values in with_both(found).items()
        }
        for pathway in self.evaluation.pathways:
            if pathway not in self.best or shares[pathway] > self.best[pathway]["share"]:
                weights = copy.deepcopy(self.model.parts(pathway).state_dict())
                self.best[pathway] = {
                    "share": shares[pathway],
                    "epoch": self.position.epoch,
                    "weights": weights,
                }
        return {f"{pathway}_held_out_top1": share for pathway, share in shares.items()}

    def state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "best": self.best}

    def load_state(self, state: Mapping[str, Any], path: Path) -> None:
        """Continue from what `state` gave.

        Raises:
            RunError: If it does not fit; the error names `path` as its source.
        """
        checkpoint.load_weights(self.model, state["model"], path)
        self.best = dict(state["best"])

    def take_best(self, path: Path) -> None:
        """Put each pathway back to its best epoch, if epochs were compared."""
        for pathway, best in self.best.items():
            say(
                f"{pathway}: epoch {best['epoch']} chosen, {best['share']:.1%} right on held-out "
                "recordings"
            )
            checkpoint.load_weights(self.model.parts(pathway), best["weights"], path)


def measure(evaluation: Classification, compute: Compute) -> pd.DataFrame:
    """Measure by classification as the protocol says, and return the rows of `results.csv`.
    Fine-tuning continues where an earlier call stopped.

    Raises:
        Interrupted: After Ctrl-C while fine-tuning, with a checkpoint saved.
        RunError: If another process is at it, or the work fails.
    """
    by_mode = {
        "finetune": _predict_finetuned,
        "linear": predict_linear,
        "attentive": predict_attentive,
        "knn": predict_knn,
    }
    rows = evaluation.measure(compute, by_mode[evaluation.protocol.mode])
    # Of a finished fine-tuning classifier.pt stays.
    RunFolder(evaluation.folder).checkpoint.unlink(missing_ok=True)
    return rows


def _predict_finetuned(evaluation: Classification, compute: Compute) -> Features:
    """Probabilities (test clips, classes) by pathway of the epoch that counts."""
    run = RunFolder(evaluation.folder)
    fabric = compute.fabric()
    fabric.launch()
    model = _build_classifier(evaluation, fabric)
    try:
        task = _learn(evaluation, run, model, fabric, compute)
        task.take_best(run.checkpoint)
        crops = cast(Finetune, evaluation.protocol).crops
        with Progress(len(evaluation.test), "videos", "testing") as progress:
            found = predict(evaluation, model, evaluation.test, compute, crops, progress)
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"{fabric.device} has too little memory: {str(error).splitlines()[0]}",
            "--set train.accumulate=4 divides a batch into parts",
        ) from error
    content = {
        "job": json.dumps(evaluation.identity),
        "classes": evaluation.classes,
        "model": model.state_dict(),
    }
    checkpoint.save(run.folder / "classifier.pt", content, CLASSIFIER)
    return found


def _build_classifier(evaluation: Classification, fabric: Fabric) -> Classifier:
    """The untrained classifier, on its device."""
    dropout = cast(Finetune, evaluation.protocol).dropout
    pathways, classes = evaluation.pathways, len(evaluation.classes)
    model = Classifier(evaluation.network(), pathways, classes, dropout, evaluation.seed)
    return cast(Classifier, fabric.to_device(model))


def _learn(
    evaluation: Classification, run: RunFolder, model: Classifier, fabric: Fabric, compute: Compute
) -> _ClassifyTask:
    protocol = cast(Finetune, evaluation.protocol)
    saved = _own_checkpoint(evaluation, run) if run.checkpoint.exists() else None
    position = TrainState(**saved["position"]) if saved else TrainState()
    task = _ClassifyTask(evaluation, model, position, fabric, compute)
    optim = protocol.optim
    fused = evaluation.source.speed.fused
    optimizer = build_optimizer(optim, model.groups(optim.backbone_lr / optim.lr), fused)
    if saved:
        say(f"going on after step {position.step:,} (epoch {position.epoch + 1})")
        task.load_state(saved["task"], run.checkpoint)
        load_state(optimizer, saved["optimizer"])
    plan = _loop_config(evaluation, compute.save_every)
    rows, begin = evaluation.splits.train, (position.epoch, plan.epochs, position.batch)
    order = ResumableBatchSampler(rows, plan.clips, evaluation.seed, *begin)
    pin = fabric.device.type == "cuda"
    batches = iterate(
        training_loader(_labelled_clips(evaluation), order, compute.num_workers, pin=pin)
    )

    def save() -> None:
        content = {
            "job": json.dumps(evaluation.identity),
            "classes": evaluation.classes,
            "position": dataclasses.asdict(position),
            "task": task.state(),
            "optimizer": optimizer.state_dict(),
        }
        checkpoint.save(run.checkpoint, content, KIND)

    log = Log(run, position)
    fit(fabric, task, optimizer, batches, plan, position, log, save)
    save()
    log.close()
    return task


def _loop_config(evaluation: Classification, save_every: float) -> LoopConfig:
    """The loop's settings; a batch is never larger than the training clips."""
    protocol = cast(Finetune, evaluation.protocol)
    train, optim = protocol.train, protocol.optim
    size = min(train.batch, len(evaluation.splits.train))
    return LoopConfig(
        epochs=train.epochs,
        batches=len(evaluation.splits.train) // size,
        clips=size,
        seed=evaluation.seed,
        log_every=train.log_every,
        check_every=train.check_every if len(evaluation.splits.validation) else 0,
        save_every=save_every,
        learning_rate=lambda epoch: learning_rate(optim, epoch, train.epochs),
    )


def _labelled_clips(evaluation: Classification) -> LabelledClips:
    windows = evaluation.source.windows
    augment = cast(Finetune, evaluation.protocol).augment
    return LabelledClips(
        evaluation.manifest, windows.build_sampler(), augment, windows.size, evaluation.seed
    )


def _own_checkpoint(evaluation: Classification, run: RunFolder) -> dict[str, Any]:
    """The checkpoint of an interrupted fine-tuning.

    Raises:
        RunError: If it is not whole, or another fine-tuning's.
    """
    saved = checkpoint.load(run.checkpoint, KIND)
    if saved["classes"] != evaluation.classes:
        raise RunError(
            f"{run.checkpoint} tells {len(saved['classes'])} classes apart, "
            f"{evaluation.manifest.name} has {len(evaluation.classes)} others",
            f"it is another dataset's: delete {run.folder} and start again",
        )
    if json.loads(saved["job"]) != evaluation.identity:
        raise RunError(
            f"{run.checkpoint} is another fine-tuning's",
            f"bring back its own, or delete {run.folder} and start again",
        )
    return saved


def predict(
    evaluation: Classification,
    model: Classifier,
    rows: Indices,
    compute: Compute,
    crops: Literal["centre", "ten"],
    progress: Progress | None = None,
) -> Features:
    """Probabilities (rows, classes) by pathway: the mean over windows with hop L/2 - 1 over the
    whole video, and crops."""
    windows = evaluation.source.windows
    border = cast(Finetune, evaluation.protocol).augment.border
    sampler, size = windows.build_sampler(), windows.size
    videos = EvalClips(evaluation.manifest, rows.tolist(), sampler, border, size, crops=crops)

    def done(count: int) -> None:
        if progress:
            progress.advance(count - progress.done)

    return extract(model, videos, compute.device(), compute.num_workers, done, compute.bf16())


def estimate(evaluation: Classification, compute: Compute) -> float:
    """Seconds that training and testing take, extrapolated from a few batches, small ones on a CPU,
    and one test clip.

    Reading and computing overlap in training, so a clip takes as long as the slower of the two."""
    protocol, fabric = cast(Finetune, evaluation.protocol), compute.fabric()
    model, plan = _build_classifier(evaluation, fabric), _loop_config(evaluation, 0)
    task = _ClassifyTask(evaluation, model, TrainState(), fabric, compute)
    optimizer = build_optimizer(protocol.optim, model.groups(1.0))
    # A GPU takes about as long for a few clips as for many.
    size = plan.clips if fabric.device.type == "cuda" else min(_TIMED_CLIPS, plan.clips)
    order = ResumableBatchSampler(evaluation.splits.train, size, evaluation.seed, 0, 1000)
    batches = iterate(training_loader(_labelled_clips(evaluation), order, 0, pin=False))
    read, step = time_steps(fabric, task, optimizer, batches, _TIMED_BATCHES)
    clip = max(read / max(1, compute.num_workers), step) / size
    begun = time.monotonic()
    predict(
        evaluation,
        model,
        evaluation.test[:1],
        dataclasses.replace(compute, workers=0),
        protocol.crops,
    )
    test = (time.monotonic() - begun) * len(evaluation.test)
    return float(clip * plan.clips * plan.batches * plan.epochs + test)
