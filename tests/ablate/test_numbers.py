"""Mean, spread and differences of a table against hand-made cases; what is missing, and what can't
be compared."""

import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vcsf_cli.ablate.numbers import (
    Group,
    TableResults,
    comparability_limits,
    describe_share,
    difference_to,
    summarise,
)
from vcsf_cli.ablate.plan import Plan, build_plan
from vcsf_cli.ablate.rows import RowSpec, RunSpec, Table, resolve_table
from vcsf_cli.config import recipe as recipes
from vcsf_cli.config.table import Measure, read
from vcsf_cli.data.manifest import Manifest, write
from vcsf_cli.evaluate.evaluation import Measurement

KEY = ("both", "R@1")


def found(hits: dict[str, float], pathway: str = "both", metric: str = "R@1") -> Measurement:
    clips = pd.Series(hits, dtype=float)
    rows = pd.DataFrame(
        [{"pathway": pathway, "metric": metric, "value": clips.mean(), "clips": len(clips)}]
    )
    return Measurement(rows, {(pathway, metric): clips})


SOURCE = {"a1": "a", "a2": "a", "b1": "b", "c1": "c", "d1": "d"}


def test_mean_spread_and_difference_by_hand() -> None:
    ours = {
        (0, 1): found({"a1": 1, "a2": 1, "b1": 0, "c1": 1, "d1": 1}),  # 0.8
        (1, 1): found({"a1": 1, "a2": 0, "b1": 0, "c1": 1, "d1": 0}),  # 0.4
    }
    base = {
        (0, 1): found({"a1": 0, "a2": 1, "b1": 0, "c1": 1, "d1": 0}),  # 0.4
        (1, 1): found({"a1": 0, "a2": 0, "b1": 0, "c1": 0, "d1": 0}),  # 0.0
    }
    value = summarise(ours, *KEY, (base, "both"), SOURCE)
    assert value["mean"] == pytest.approx(0.6)
    assert value["deviation"] == pytest.approx(
        math.sqrt(0.08)
    )  # of a sample of two: 0.2 away each, over 1
    assert (value["lowest"], value["highest"], value["runs"], value["clips"]) == (
        pytest.approx(0.4),
        0.8,
        2,
        5,
    )
    assert value["difference"] == pytest.approx(0.4)
    assert value["places"] == 2
    assert math.isnan(value["difference_low"])  # of four recordings


def test_only_seeds_and_splits_that_both_rows_have_are_compared() -> None:
    ours = {(0, 1): found({"a1": 1, "b1": 1}), (5, 1): found({"a1": 0, "b1": 0})}
    base = {(0, 1): found({"a1": 1, "b1": 0}), (7, 1): found({"a1": 1, "b1": 1})}
    value = summarise(ours, *KEY, (base, "both"), SOURCE)
    assert (value["mean"], value["difference"]) == (0.5, 0.5)
    assert "difference" not in summarise({(5, 1): ours[5, 1]}, *KEY, (base, "both"), SOURCE)


def test_only_clips_that_both_rows_have_are_compared() -> None:
    ours, base = (
        {(0, 1): found({"d1": 0, "a1": 1, "b1": 1})},
        {(0, 1): found({"b1": 0, "a1": 1, "c1": 1})},
    )
    value = difference_to(ours, KEY, base, KEY, SOURCE)
    assert (value["clips"], value["difference"]) == (2, 0.5)
    assert difference_to(ours, KEY, {(0, 1): found({"c1": 1})}, KEY, SOURCE) == {}


def test_a_metric_that_is_no_mean_over_clips_has_no_difference() -> None:
    ours = {(0, 1): Measurement(found({"a1": 1}, metric="top5").rows, {})}
    assert "difference" not in summarise(ours, "both", "top5", (ours, "both"), SOURCE)
    assert summarise(ours, "slow", "top5", None, SOURCE) == {}


def test_equal_rows_differ_by_nothing_and_their_interval_is_a_point() -> None:
    source = {f"clip{index}": str(index) for index in range(12)}
    ours = {(seed, 1): found({name: float(len(name) == 5) for name in source}) for seed in range(3)}
    value = difference_to(ours, KEY, ours, KEY, source)
    assert [value[key] for key in ("difference", "difference_low", "difference_high")] == [0, 0, 0]


def test_the_share_of_the_label_gain_is_over_what_all_three_rows_have() -> None:
    source = {f"clip{index}": str(index) for index in range(20)}

    def trained(right: int) -> Measurement:
        return found({name: float(index < right) for index, name in enumerate(source)})

    ours = {(0, 1): trained(8), (1, 1): trained(0)}
    base, labels = {(0, 1): trained(5)}, {(0, 1): trained(17), (2, 1): trained(20)}
    few = "25 % (of 1 training, too few for an interval)"  # 3 of 12 clips
    assert describe_share((ours, base, labels), KEY, source) == few
    many = tuple({(seed, 1): row[0, 1] for seed in range(3)} for row in (ours, base, labels))
    assert re.fullmatch(r"25 % \(-?\d+ to \d+\)", describe_share(many, KEY, source))
    assert describe_share((ours, base, base), KEY, source) == "not known (labels gain nothing sure)"
    assert describe_share((ours, {}, labels), KEY, source) == ""


def test_shares_are_of_rows_with_the_networks_of_the_baseline(
    tiny_data: Path, tmp_path: Path
) -> None:
    text = (
        "title: T\nbase: smoke\nrows:\n  none: {}\n  labels: {set: {loss.name: supervised}}\n"
        "  longer: {set: {train.epochs: 9}}\n  still: {set: {motion: none}}\n"
        "label_gain: {baseline: none, labels: labels}\nmeasure: [{task: retrieve}]\npathways: [both]\n"
    )
    (tmp_path / "t.yaml").write_text(text)
    plan = build_plan(resolve_table(read(str(tmp_path / "t.yaml"))), tiny_data, tmp_path / "runs")
    clips = Manifest.open(tiny_data / "synthetic").table["video"]
    right = {"none": 2, "labels": 6, "longer": 3, "still": 5}
    measured = {
        row: {(0, 1): found({clip: float(at < count) for at, clip in enumerate(clips)})}
        for row, count in right.items()
    }
    group = Group(plan.table.measures[0], "synthetic", "retrieval", ("R@1",), measured)
    (said,) = TableResults(plan, (group,), pd.DataFrame(), pd.DataFrame(), ()).label_gains
    assert said.startswith(
        "Share of the label gain in R@1, (row - none) / (labels - none), longer: both "
    )


def test_a_remark_names_what_is_missing_and_how_many_runs_a_difference_is_over() -> None:
    recipe = recipes.load("smoke")
    rows = [RowSpec(name, "smoke", (), recipe, ("both",)) for name in ("a", "b", "c")]
    measure = Measure(task="retrieve", data="x")
    table = Table("t", "T", tuple(rows), None, None, (measure,))
    specs = [RunSpec(row, replace(recipe, seed=seed), (), None) for row in rows for seed in (0, 1)]
    columns = {
        "pathway": "both",
        "dataset": "x",
        "task": "retrieval",
        "metric": "R@1",
        "mean": 0.5,
        "difference": 0.1,
    }
    counted = [("a", 2, np.nan), ("b", 1, 1.0), ("c", 2, np.nan)]
    values = pd.DataFrame(
        [columns | {"row": row, "runs": runs, "places": places} for row, runs, places in counted]
    )
    missing = {"retrieve x of b, seed 1, split 1": "it is broken"}
    group = Group(measure, "x", "retrieval", ("R@1",))
    numbers = TableResults(
        Plan(table, tuple(specs), None, None), (group,), values, pd.DataFrame(), (), missing
    )
    assert numbers.remarks == [
        "Not finished: 5 of 6 measurements are there, not retrieve x of b, seed 1, split 1 (it is "
        "broken).",
        "retrieval on x, difference of b to a: over 1 of 2 runs, those of the seeds and splits "
        "that both rows have.",
        "retrieval on x, difference of c to a: over 0 of 2 runs, those of the seeds and splits "
        "that both rows have.",
    ]


def test_every_row_is_looked_at_before_published_rows_stand_beside_it(
    tiny_data: Path, tmp_path: Path
) -> None:
    clip = Manifest.open(tiny_data / "synthetic").table.to_dict("records")[0]
    clip["frame_offsets"] = list(clip["frame_offsets"])
    (tmp_path / "ucf101").mkdir()
    shutil.copy(tiny_data / "synthetic" / "settings.json", tmp_path / "ucf101")
    parts = ["train"] * 9_537 + ["test"] * 3_783
    write(
        tmp_path / "ucf101",
        [clip | {"video": f"{n}", "split1": part} for n, part in enumerate(parts)],
    )
    shutil.copytree(tiny_data / "synthetic", tmp_path / "synthetic")
    short = "{set: {stages: [], train.epochs: 5, optim.schedule: constant, optim.drops: []}}"
    small = "{set: {data.name: synthetic, train.batch: 4, stages: [], train.epochs: 500, loss.queue: 4}}"
    text = f"title: T\nbase: vcsf\nrows:\n  whole: {{}}\n  short: {short}\n  small: {small}\n"
    (tmp_path / "t.yaml").write_text(f"{text}measure: [{{task: retrieve, data: ucf101}}]\n")
    plan = build_plan(resolve_table(read(str(tmp_path / "t.yaml"))), tmp_path, tmp_path / "runs")
    rows = pd.DataFrame([{"dataset": "ucf101", "split": 1, "clips": 3_783}])

    def limits(count: int) -> list[str]:
        results = TableResults(plan, (), pd.DataFrame(), rows, plan.specs[:count])
        return [str(limit) for limit in comparability_limits(results)]

    assert limits(1) == []
    assert limits(2) == ["short schedule: 5 epochs a pathway, not 500 (short)"]
    assert limits(3)[1] == "subset: trained on 8 clips of synthetic, not 9,537 of ucf101 (small)"
