"""The measurements of a table as evaluations of its runs."""

from __future__ import annotations

from pathlib import Path

from vcsf_cli.ablate.rows import RunSpec
from vcsf_cli.config import protocol as protocols
from vcsf_cli.config.table import DEFAULT_KS, DEFAULT_PROTOCOLS, Measure
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.encoders.run import RunSource
from vcsf_cli.errors import RunError
from vcsf_cli.evaluate.classification import METRICS, Classification
from vcsf_cli.evaluate.evaluation import Evaluation
from vcsf_cli.evaluate.retrieval import RESULTS, Retrieval
from vcsf_cli.runs import results


def evaluation(spec: RunSpec, manifest: Manifest, measure: Measure) -> Evaluation:
    """The evaluation that a measurement of a run is."""
    source = RunSource(spec.run)
    if measure.task == "retrieve":
        return Retrieval(source, manifest, spec.split, recall_ks(measure))
    protocol, pathways = load_protocol(measure), spec.row.classified_pathways
    return Classification(source, manifest, spec.split, protocol, spec.seed, pathways=pathways)


def recall_ks(measure: Measure) -> list[int]:
    """The k of R@k, in order."""
    return sorted(set(measure.k or DEFAULT_KS))


def measured_ks(folder: Path) -> set[int]:
    """The k of the R@k in the folder of a retrieval; measuring again must not lose them."""
    try:
        return set(map(results.recall_k, results.read(folder / RESULTS)["metric"]))
    except (RunError, ValueError):
        return set()


def table_metrics(measure: Measure) -> list[str]:
    """The metrics that a table may show, the main one first."""
    if measure.task == "retrieve":
        return [results.recall_metric(k) for k in recall_ks(measure)]
    return list(METRICS)


def load_protocol(measure: Measure) -> protocols.Protocol:
    return protocols.load(measure.protocol or DEFAULT_PROTOCOLS[measure.task], measure.assignments)


def measurement_key(measure: Measure) -> str:
    """Text that is equal for two measurements of one task that measure the same."""
    return "" if measure.task == "retrieve" else load_protocol(measure).model_dump_json()


def sources(manifest: Manifest) -> dict[str, str]:
    return dict(zip(manifest.table["video"], manifest.table["source"].astype(str), strict=True))
