"""The synthetic dataset: real files of UCF101's kind, the same every time, whose scenes do not give
the action away."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import Vcsf
from hypothesis import given
from hypothesis import strategies as st
from trained import ends
from vcsf_plugins.synthetic import Synthetic
from vcsf_plugins.synthetic.actions import ACTIONS
from vcsf_plugins.synthetic.dataset import Settings, Take, all_takes, draw
from vcsf_plugins.synthetic.figure import Body, place_joints

from vcsf_cli.data.manifest import Manifest
from vcsf_cli.errors import DataError, InputError
from vcsf_cli.evaluate.retrieval import NO_PATHWAY, histogram
from vcsf_cli.features.neighbours import centred_unit, hits, nearest, recall

FEW = {"classes": 3, "groups": 6, "clips": 2, "frames": 20, "height": 48}
ALL_TAKES = list(all_takes(Settings(10, 21, 3, 72, 96, 0)))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "original"
    Synthetic(root, **FEW).videos()
    return root


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def test_the_same_seed_gives_the_same_files_and_another_seed_others(
    root: Path, tmp_path: Path
) -> None:
    Synthetic(tmp_path / "again", **FEW).videos()
    assert digests(tmp_path / "again") == digests(root)
    Synthetic(tmp_path / "other", **FEW, seed=1).videos()
    ours, theirs = digests(root), digests(tmp_path / "other")
    assert ours.keys() == theirs.keys()
    assert not any(ours[name] == theirs[name] for name in ours if name.endswith(".avi"))


DRAWING = """
import sys
from pathlib import Path
from vcsf_plugins.synthetic import Synthetic
if __name__ == "__main__":
    Synthetic(Path(sys.argv[1]), classes=3, groups=6, clips=2, frames=20, height=48).videos()
"""


def test_what_a_killed_call_left_is_removed_by_the_next(root: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(DRAWING)
    place = tmp_path / "original"
    command = [sys.executable, str(tmp_path / "program.py"), str(place)]
    process = subprocess.Popen(command, start_new_session=True)
    while True:
        os.killpg(process.pid, signal.SIGSTOP)
        if list(place.glob("videos/*/.*")):  # in the middle of a video
            break
        os.killpg(process.pid, signal.SIGCONT)
        assert process.poll() is None
        time.sleep(0.005)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    os.killpg(process.pid, signal.SIGCONT)
    process.wait()
    assert len(workers) > 1
    assert all(ends(worker) for worker in workers)
    for left in place.glob("videos/*/.*"):
        with left.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # it is free when its process is really gone
    (place / ".synthetic.json.1.partial").touch()
    with (place / ".synthetic.json.2.partial").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        Synthetic(place, **FEW).videos()
        Path(other.name).unlink()
    assert digests(place) == digests(root)


def test_the_files_are_ucf101s_kind(root: Path, tmp_path: Path, vcsf: Vcsf) -> None:
    """`prepare ucf101` reads them: names, groups, recordings and the three lists."""
    vcsf("prepare", "ucf101", "--source", root, "--size", 48, cwd=tmp_path)
    prepared = Manifest.open(tmp_path / "data" / "ucf101").table
    videos = Synthetic(root, **FEW).videos()
    assert prepared["video"].tolist() == [video.name for video in videos]
    for column in ("label", "group", "source"):
        assert prepared[column].tolist() == [getattr(video, column) for video in videos]
    for split in (1, 2, 3):
        assert prepared[f"split{split}"].tolist() == [video.split[split - 1] for video in videos]
    assert prepared["video"][0] == "Jump/v_Jump_g01_c01.avi"
    assert set(prepared["height"]) == {48}
    assert prepared["frames"].between(16, 24).all()
    assert prepared["frames"].nunique() > 2


def test_they_are_mpeg4_in_avi_and_some_have_b_frames(root: Path) -> None:
    with_b_frames = 0
    paths = sorted(root.rglob("*.avi"))
    for path in paths:
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.name == "mpeg4"
            kinds = {frame.pict_type for frame in container.decode(video=0)}
        with_b_frames += av.video.frame.PictureType.B in kinds
    assert with_b_frames == len(paths) // 3


def test_groups_never_straddle_a_split_and_every_split_tests_others() -> None:
    for split in (1, 2, 3):
        parts = defaultdict(set)
        for take in ALL_TAKES:
            parts[take.label, take.group].add(take.part(split))
        assert all(len(found) == 1 for found in parts.values())
    tests = [{take.name for take in ALL_TAKES if take.part(split) == "test"} for split in (1, 2, 3)]
    assert sum(map(len, tests)) == len(set.union(*tests)) == len(ALL_TAKES) == 630


def test_an_interrupted_call_goes_on(root: Path, tmp_path: Path) -> None:
    Synthetic(tmp_path, **FEW).videos()
    paths = sorted(tmp_path.rglob("*.avi"))
    for path in paths[::3]:
        path.unlink()
    kept = paths[1].stat().st_mtime_ns
    Synthetic(tmp_path, **FEW).videos()
    assert digests(tmp_path) == digests(root)
    assert paths[1].stat().st_mtime_ns == kept


def test_a_folder_that_holds_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "ucfTrainTestlist").mkdir()
    (tmp_path / "ucfTrainTestlist" / "classInd.txt").write_text("1 ApplyEyeMakeup\n")
    (tmp_path / ".holiday.2019.avi").write_bytes(b"mine")
    before = digests(tmp_path)
    with pytest.raises(InputError, match="holds other files, such as"):
        Synthetic(tmp_path, **FEW).videos()
    assert digests(tmp_path) == before


def test_only_what_was_begun_as_one_of_its_files_is_removed(root: Path, tmp_path: Path) -> None:
    place = tmp_path / "original"
    shutil.copytree(root, place)
    mine = [place / ".holiday.2019.avi", place / "videos" / "Walk" / ".me.1.partial"]
    for path in mine:
        path.touch()
    (place / "videos" / "Walk" / ".v_Walk_g01_c01.avi.1.avi").touch()
    Synthetic(place, **FEW).videos()
    assert digests(place).keys() - digests(root).keys() == {
        str(path.relative_to(place)) for path in mine
    }


def test_a_file_system_without_locks_will_do(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    place = tmp_path / "original"
    shutil.copytree(root, place)
    (place / "ucfTrainTestlist" / "classInd.txt").unlink()
    Synthetic(place, **FEW).videos()
    assert digests(place) == digests(root)


def test_other_settings_are_refused_with_both_values(root: Path) -> None:
    with pytest.raises(InputError, match="groups 6, not 7; clips 2, not 3") as caught:
        Synthetic(root, **FEW | {"groups": 7, "clips": 3}).videos()
    assert "--name" in caught.value.hint


@pytest.mark.parametrize("name", ["synthetic.json", "classInd.txt", "trainlist02.txt"])
def test_killed_while_it_writes_it_leaves_no_half_file(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    shutil.copytree(root, tmp_path / "original")
    (path,) = (tmp_path / "original").rglob(name)
    path.unlink()
    if name == "synthetic.json":  # it is written first
        shutil.rmtree(tmp_path / "original")
    replace = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if target == path:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            Synthetic(tmp_path / "original", **FEW).videos()
    assert not path.exists()
    Synthetic(tmp_path / "original", **FEW).videos()
    assert path.read_bytes() == next(root.rglob(name)).read_bytes()


@pytest.mark.parametrize("content", ["", '{"classes": 3,', "[]"])
def test_damaged_settings_are_an_error_that_says_what_to_delete(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "synthetic.json").write_text(content)
    with pytest.raises(DataError, match=r"synthetic\.json is damaged") as caught:
        Synthetic(tmp_path, **FEW).videos()
    assert f"delete {tmp_path}" in caught.value.hint


def test_clips_of_a_group_show_one_scene_and_different_performances() -> None:
    settings = Settings(10, 21, 3, 24, 96, 0)
    first, second, other = (
        draw(settings, take)
        for take in (Take("Wave", 1, 1), Take("Wave", 1, 2), Take("Wave", 2, 1))
    )
    shares = [histogram(clip) for clip in (first, second, other)]
    assert np.minimum(shares[0], shares[1]).sum() > 0.7
    assert np.minimum(shares[0], shares[2]).sum() < 0.7
    assert not np.array_equal(first[:16], second[:16])


@pytest.mark.parametrize("label", ACTIONS)
def test_every_action_moves_and_comes_back_to_its_start(label: str) -> None:
    action = ACTIONS[label]
    poses = [place_joints(action.pose(phase), Body()) for phase in np.linspace(0, 1, 97)]
    points = np.array([[tuple(point) for point in joints.values()] for joints in poses])
    assert np.isfinite(points).all()
    np.testing.assert_allclose(points[0], points[-1], atol=1e-6)
    assert np.abs(points - points[0]).max() > 0.08
    assert (
        np.abs(np.diff(points, axis=0)).max() < 0.1
    )  # of a body height in a hundredth of the period


@given(st.sampled_from(sorted(ACTIONS)), st.floats(0, 1))
def test_bones_keep_their_lengths_and_feet_the_ground(label: str, phase: float) -> None:
    pose, body = ACTIONS[label].pose(phase), Body()
    joints = place_joints(pose, body)
    assert min(point.y for point in joints.values()) == pytest.approx(pose.height, abs=1e-9)
    for start, end, length in (
        ("right_knee", "right_foot", body.shin),
        ("left_elbow", "left_hand", body.forearm),
    ):
        across = (joints[start].x - joints[end].x) / (pose.turn or 1)
        if abs(pose.turn) > 1e-3:
            assert np.hypot(across, joints[start].y - joints[end].y) == pytest.approx(length)


def test_the_scene_goes_along_with_the_action_but_does_not_give_it_away() -> None:
    """All clips of the default set but fewer frames of each: colour histograms find between 15 and
    35 % of the classes."""
    settings = Settings(10, 21, 3, 10, 48, 0)
    shares = np.stack([histogram(draw(settings, take)) for take in ALL_TAKES])
    labels = np.array([take.label for take in ALL_TAKES], object)
    test = np.array([take.part(1) == "test" for take in ALL_TAKES])
    unit = [{NO_PATHWAY: centred_unit(shares[part])} for part in (test, ~test)]
    value = recall(
        hits(nearest(unit[0], unit[1], NO_PATHWAY, 1), labels[test], labels[~test]), [1]
    )[1]
    assert 0.15 <= value <= 0.35
