"""The measurements of a table as evaluations of its runs."""

from __future__ import annotations

from pathlib import Path

from vcsf_cli.ablate.rows import RunSpec
from vcsf_cli.config import protocol as protocols
from vcsf_cli.config.table import DEFAULT_KS, DEFAULT_PROTOCOLS, RETRIEVED, Measure
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.data.splits import group_numbers
from vcsf_cli.encoders.run import RunSource
from vcsf_cli.errors import RunError
from vcsf_cli.evaluate import clusters
from vcsf_cli.evaluate.classification import METRICS, Classification
from vcsf_cli.evaluate.clusters import Clustering
from vcsf_cli.evaluate.evaluation import Evaluation
from vcsf_cli.evaluate.retrieval import RESULTS, Retrieval
from vcsf_cli.runs import results


def evaluation(spec: RunSpec, manifest: Manifest, measure: Measure) -> Evaluation:
    """The evaluation that a measurement of a run is."""
    place = (RunSource(spec.run), manifest, spec.split)
    if measure.task == "retrieve":
        return Retrieval(*place, recall_ks(measure), leave_one_out=measure.leave_one_out)
    if measure.task == "clusters":
        return Clustering(*place, leave_one_out=measure.leave_one_out)
    return Classification(
        *place,
        load_protocol(measure),
        spec.seed,
        pathways=spec.row.classified_pathways,
        leave_one_out=measure.leave_one_out,
    )


def recall_ks(measure: Measure) -> list[int]:
    """The k of R@k, in order."""
    return sorted(set(measure.k or DEFAULT_KS))


def measured_ks(folder: Path) -> set[int]:
    """The k of the R@k in the folder of a retrieval; measuring again must not lose them."""
    try:
        rows = results.without_intervals(results.read(folder / RESULTS))
        return set(map(results.recall_k, rows["metric"]))
    except (RunError, ValueError):
        return set()


def table_metrics(measure: Measure) -> list[str]:
    """The metrics that a table may show, the main one first."""
    if measure.task == "retrieve":
        return [results.recall_metric(k) for k in recall_ks(measure)]
    return list(clusters.METRICS if measure.task == "clusters" else METRICS)


def load_protocol(measure: Measure) -> protocols.Protocol:
    return protocols.load(measure.protocol or DEFAULT_PROTOCOLS[measure.task], measure.assignments)


def measurement_key(measure: Measure) -> str:
    """Text that is equal for two measurements of one task that measure the same."""
    how = "leave-one-out" if measure.leave_one_out else ""
    return how if measure.task in RETRIEVED else how + load_protocol(measure).model_dump_json()


def sources(manifest: Manifest, measure: Measure) -> dict[str, str]:
    """What intervals draw whole by the name of a clip: its recording, or its group."""
    drawn = group_numbers(manifest) if measure.leave_one_out else manifest.table["source"]
    return dict(zip(manifest.table["video"], map(str, drawn), strict=True))
