"""The order of work: nobody trains a stage that another is about to finish."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from vcsf_cli.ablate.estimate import Costs, RemainingStage, RemainingWork, Speed, total_seconds
from vcsf_cli.ablate.plan import Plan, build_plan
from vcsf_cli.ablate.rows import RunSpec, resolve_table
from vcsf_cli.ablate.run import RunOptions, parse_devices, remaining_commands
from vcsf_cli.config import recipe as recipes
from vcsf_cli.config.table import read
from vcsf_cli.runs.results import COLUMNS
from vcsf_cli.runs.run import Run
from vcsf_cli.storage import checkpoint

TABLE = """
title: T
base: tiny.yaml
rows:
  whole: {}
  one neighbour: {set: {stages.1.loss.neighbours: 1}}
  no motion module: {set: {motion: none}, pathways: [slow]}
  stage A alone: {set: {stages: []}}
measure: [{task: retrieve, k: [5, 1]}, {task: knn, set: {grid.k: [3]}}]
"""
RECIPE = """
extends: smoke
name: tiny
sampler: {frames: 16}
stages: [{}, {loss: {name: cross_pathway, queue: 3, neighbours: 2}}]
"""


@pytest.fixture
def plan(tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    (tmp_path / "table.yaml").write_text(TABLE)
    return build_plan(resolve_table(read("table.yaml")), tiny_data, tmp_path / "runs")


def spec_of(plan: Plan, name: str) -> RunSpec:
    (spec,) = (spec for spec in plan.specs if spec.row.name == name)
    return spec


OPTIONS = RunOptions(("cpu", "cpu"), "auto", 0, 60.0)


def test_a_run_waits_only_for_a_stage_that_it_will_take(plan: Plan) -> None:

    def waits_for(spec: RunSpec, other: RunSpec) -> bool:
        return plan.must_wait(spec, other, other.finished_stages)

    whole, other, motionless = (
        spec_of(plan, name) for name in ("whole", "one neighbour", "no motion module")
    )
    assert waits_for(other, whole)
    assert not waits_for(motionless, whole)
    alone = spec_of(plan, "stage A alone")
    assert waits_for(whole, alone)
    assert waits_for(alone, whole)
    whole.run.folder.mkdir(parents=True)
    (whole.run.folder / "stages.json").write_text(
        json.dumps([{"stage": 1, "ended": "now", "prefix": "x"}])
    )
    assert not waits_for(other, whole)
    assert not waits_for(alone, whole)
    (whole.run.folder / "stages.json").write_text(json.dumps([{"stage": 1}]))
    assert waits_for(other, whole)


def test_commands_are_those_that_are_typed_by_hand(plan: Plan) -> None:
    spec = spec_of(plan, "no motion module")
    places = [
        "--data",
        str(plan.data),
        "--runs",
        str(plan.runs),
        "--devices",
        "cuda:1",
        "--workers",
        "0",
    ]
    arithmetic = ["--precision", "auto", "--save-every", "60.0"]
    start = ["synthetic", "--from", str(spec.run.folder), "--split", "1"]
    assert remaining_commands(plan, spec, OPTIONS, "cuda:1") == [
        ["pretrain", "tiny.yaml", "--set", "motion=none", *places, *arithmetic],
        ["retrieve", *start, "--k", "1,5", *places],
        [
            "finetune",
            *start,
            "--pathway",
            "slow",
            "--protocol",
            "knn",
            "--set",
            "grid.k=[3]",
            *places,
            *arithmetic,
        ],
    ]


def test_measuring_again_keeps_the_k_that_were_measured(plan: Plan) -> None:
    spec = spec_of(plan, "whole")
    folder = spec.run.folder / "retrieve" / "synthetic-split1"
    folder.mkdir(parents=True)
    rows = [dict.fromkeys(COLUMNS, "") | {"metric": metric} for metric in ("R@3", "R@10")]
    pd.DataFrame(rows).to_csv(folder / "results.csv", index=False)
    _, retrieve, _ = remaining_commands(plan, spec, OPTIONS, "cpu")
    assert retrieve[retrieve.index("--k") + 1] == "1,3,5,10"


def test_numbers_are_gpus_and_two_cpus_are_two() -> None:
    assert parse_devices(["0", "1"]) == ("cuda:0", "cuda:1")
    assert parse_devices(["cpu", "cpu"]) == ("cpu", "cpu")


def test_the_time_of_several_devices_is_that_of_the_rule_by_which_runs_wait(plan: Plan) -> None:
    seconds = {
        "whole": (10, 5),
        "one neighbour": (5,),
        "no motion module": (10, 5),
        "stage A alone": (),
    }
    works = [
        RemainingWork(
            spec,
            tuple(RemainingStage(1, each, 0.0) for each in seconds[spec.row.name]),
            measuring_flops=1e-9,
        )
        for spec in plan.specs
    ]
    # By two: whole and no motion module until 15, then the others. By three: one neighbour waits
    # for stage A until 10.
    taken = [total_seconds(plan, works, Speed(1.0, 0.0, ""), devices) for devices in (1, 2, 3)]
    assert taken == pytest.approx([35, 20, 15])
    measured = [replace(work, measuring_flops=2.0) for work in works]
    assert total_seconds(plan, measured, Speed(1.0, 0.0, ""), 2) == 24  # ... until 17, 24


def test_threads_of_the_cpu_are_shared_out_unless_the_user_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(7))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [OPTIONS.threads, replace(OPTIONS, devices=("cpu",)).threads] == [3, None]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert OPTIONS.threads is None


def test_epochs_that_a_begun_run_has_behind_it_cost_nothing(plan: Plan) -> None:
    spec = spec_of(plan, "no motion module")
    spec = replace(spec, recipe=recipes.load("tiny.yaml", ("motion=none", "train.epochs=5")))
    spec = replace(spec, run=Run(plan.runs / "begun", spec.recipe))
    plan = replace(plan, specs=(spec,))
    assert Costs(plan).remaining()[0].description.startswith("10 epochs, retrieve")
    spec.run.folder.mkdir(parents=True)
    (spec.run.folder / "recipe.yaml").write_text(spec.recipe.yaml())
    (spec.run.folder / "status.json").write_text('{"data_hash": "x"}')
    position = {"stage": 0, "epoch": 3, "batch": 1, "step": 9}
    checkpoint.save(
        spec.run.checkpoint, {"recipe": spec.recipe.yaml(), "data_hash": "x", "position": position}
    )
    (work,) = Costs(plan).remaining()
    assert [stage.epochs for stage in work.stages] == [2, 5]
    assert work.stages[0].flops == pytest.approx(2 / 5 * work.stages[1].flops)
    spec.run.checkpoint.write_bytes(b"damaged")
    assert Costs(plan).remaining()[0].description.startswith("10 epochs")
