"""Published numbers as data: every one has a source, and is what it can be."""

from pathlib import Path

import pytest

from vcsf_cli.config import published
from vcsf_cli.config.published import Entry, entries
from vcsf_cli.data.manifest import official_size, official_split
from vcsf_cli.errors import RecipeError

SOURCES = {
    "TengdaHan/CoCLR (code, README, issues)", "MVCGC, NeurIPS "
                                              "2021", "BestJuly/Pretext-Contrastive-Learning", "BestJuly/IIC",
    "MCG-NJU/VideoMAE", "sunilhoho/EVEREST", "martinetoering/ViCC", "DAVEISHAN/TCLR", "SLIC project page", "ZMHH-H/FIMA",
    "FingerRec/DSM-decoupling-scene-motion", "FingerRec/BE", "yuanyao366/PRP", "lzhangbj/DualVar",
    "amazon-science/video-contrastive-learning", "SSL4VideoSurvey (Schiappa et "
                                                 "al.)", "TransRank, arXiv 2205.02028",
    "Mark12Ding/FAME", "LEViL", "BestJuly/VCP", "DAVEISHAN/nms-webpage", "necla-ml/CPR",
}  # fmt: skip


@pytest.mark.parametrize(
    "entry", entries(), ids=lambda entry: f"{entry.task}-{entry.method}-{entry.backbone}"
)
def test_every_number_has_its_source_and_its_place(entry: Entry) -> None:
    assert entry.source
    assert set(entry.source) <= SOURCES
    assert entry.results
    for values in entry.results.values():
        wanted = ["R@1", "R@5", "R@10", "R@20", "R@50"] if entry.task == "retrieve" else ["top1"]
        assert list(values) == wanted[: len(values)]
        numbers = list(values.values())
        assert numbers == sorted(numbers)  # R@k grows with k
        assert all(0 < number < 100 for number in numbers)
        assert all(round(number, 1) == number for number in numbers)


def test_no_row_is_there_twice() -> None:
    for data in ("ucf101", "hmdb51"):
        rows = [
            (entry.task, entry.method, entry.backbone, entry.training)
            for entry in entries()
            if data in entry.results
        ]
        known = [row for row in rows if rows.count(row) > 1]
        assert not known


def test_all_datasets_with_published_numbers_have_an_official_size() -> None:
    assert published.datasets() == {"ucf101", "hmdb51"}
    for name in published.datasets():
        size = official_size(name)
        assert size is not None
        for split, (train, test) in size.splits.items():
            assert train + test <= size.clips
            assert official_split(name, split) == (train, test)
    assert official_size("synthetic") is official_split("mine", 1) is None


def test_rows_known_by_heart() -> None:
    def number(task: str, method: str, data: str, metric: str) -> list[float]:
        return [
            values[metric]
            for entry, values in published.results(task, data)
            if entry.method == method
        ]

    assert number("retrieve", "CoCLR, RGB", "ucf101", "R@1") == [53.3]
    assert number("retrieve", "MVCGC, RGB", "hmdb51", "R@50") == [87.5]
    assert number("linear", "MVCGC, RGB and motion vectors", "ucf101", "top1") == [77.2]
    assert number("retrieve", "SLIC, RGB only", "ucf101", "R@5") == [77.3]
    assert number("retrieve", "CPR", "hmdb51", "R@1") == [24.4]
    assert number("finetune", "ViCC, RGB and flow", "hmdb51", "top1") == [61.5, 62.2]
    assert [number("retrieve", name, "ucf101", "R@1") for name in ("ViCC, two views", "TCLR")] == [
        [65.1],
        [56.2],
    ]


def test_a_wrong_entry_is_reported_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "published.yaml"
    path.write_text(
        "- {method: A, task: linear, results: {ucf101: {top1: 5}}, source: [x]}\n- {method: B, "
        "task: linear, "
        "src: [x]}\n"
    )
    monkeypatch.setattr(published, "FILE", path)
    entries.cache_clear()
    try:
        with pytest.raises(RecipeError) as caught:
            entries()
    finally:
        entries.cache_clear()
    assert "published.yaml:2" in caught.value.message
