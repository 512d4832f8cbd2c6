"""Result files: what was measured before stays unless it was measured again, and names stay
text."""

from pathlib import Path

import pandas as pd

from vcsf_cli.runs import results


def rows(run: str, dataset: str, value: float, split: int = 1) -> pd.DataFrame:
    known = {
        "run": run,
        "variant": "trained",
        "seed": 0,
        "dataset": dataset,
        "split": split,
        "task": "retrieve",
    }
    return pd.DataFrame(
        [known | {"pathway": "slow", "metric": "R@1", "value": value, "clips": 9, "left_out": 0}]
    )


def test_what_is_measured_again_is_replaced_whatever_a_dataset_is_called(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    for dataset, value in [("0001", 0.1), ("1", 0.2), ("None", 0.3), ("0001", 0.4), ("None", 0.5)]:
        results.merge(path, rows("007", dataset, value))
    table = results.read(path)
    assert dict(zip(table["dataset"], table["value"], strict=True)) == {
        "0001": 0.4,
        "1": 0.2,
        "None": 0.5,
    }
    assert set(table["run"]) == {"007"}
    results.merge(path, rows("007", "1", 0.6, split=2))
    assert len(results.read(path)) == 4
    assert results.read(path, ["dataset", "split"]).columns.tolist() == ["dataset", "split"]


def test_other_variants_of_as_many_clips_stay(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    for variant, value in [("trained", 0.1), ("NA", 0.2), ("trained", 0.3)]:
        results.write(path, rows("007", "x", value).assign(variant=variant).to_dict("records"))
    table = results.read(path)
    assert dict(zip(table["variant"], table["value"], strict=True)) == {"trained": 0.3, "NA": 0.2}
