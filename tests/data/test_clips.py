"""Ten crops of a video, pixel by pixel, and the one view that labels are learned from."""

import errno
import multiprocessing
import subprocess
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import simplejpeg
from torch.utils.data import DataLoader, Dataset

from vcsf_cli.config.recipe import load
from vcsf_cli.config.schema import Augment
from vcsf_cli.data import augment
from vcsf_cli.data.clips import EvalClips, LabelledClips, TwoViewClips
from vcsf_cli.data.loader import iterate, set_up_worker
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.data.store import FrameStore
from vcsf_cli.errors import DataError, InputError, RunError, VcsfError
from vcsf_cli.model.parts import build_sampler


def test_ten_crops_are_corners_and_centre_then_mirrored() -> None:
    crops = augment.ten_crops(100, 160, 0.75)
    assert [(crop.top, crop.left) for crop in crops] == 2 * [
        (0, 0),
        (0, 85),
        (25, 0),
        (25, 85),
        (12, 42),
    ]
    assert {(crop.height, crop.width) for crop in crops} == {(75, 75)}
    assert [crop.flip for crop in crops] == 5 * [False] + 5 * [True]


def test_a_video_in_ten_crops_has_the_windows_of_each(tiny_data: Path) -> None:
    manifest, sampler = (
        Manifest.open(tiny_data / "synthetic"),
        build_sampler(load("smoke").first_stage),
    )
    centre, ten = (
        EvalClips(manifest, [3], sampler, 0.75, 24, crops=crops)[0] for crops in ("centre", "ten")
    )
    count, frames = len(centre["windows"]), len(centre["frames"])
    assert ten["windows"].shape == (10 * count, sampler.length)
    views = sampler.cover(int(manifest.table["frames"][3]))
    images = [
        simplejpeg.decode_jpeg(jpeg)
        for jpeg in FrameStore(manifest).jpegs(3, range(int(manifest.table["frames"][3])))
    ]
    height, width = images[0].shape[:2]
    for number, crop in enumerate(augment.ten_crops(height, width, 0.75)):
        for index, view in enumerate(views):
            got = ten["frames"][ten["windows"][number * count + index]].numpy()
            assert (
                got
                == np.stack([augment.apply_crop(images[frame], crop, 24) for frame in view.window])
            ).all()
            assert ten["slow"][number * count + index].tolist() == view.slow.tolist()
    middle = ten["frames"][4 * frames : 5 * frames]
    assert (middle == centre["frames"]).all()
    assert (ten["frames"][9 * frames :] == middle.flip(2)).all()


def test_two_views_show_the_crops_of_their_windows(tiny_data: Path) -> None:
    """As read plainly: each view's window, whole, then cropped image by image."""
    manifest, sampler = (
        Manifest.open(tiny_data / "synthetic"),
        build_sampler(load("smoke").first_stage),
    )
    standard = Augment(draws="separate")
    for row in range(6):
        item = TwoViewClips(manifest, sampler, standard, 24, 5)[2, row]
        rng = np.random.default_rng((5, 2, row))
        views = sampler.sample(int(manifest.table["frames"][row]), rng)
        bases = augment.draw_base(standard, (views[0].window == views[1].window).all(), rng)
        for view, base, frames, colour in zip(
            views, bases, item["frames"], item["colour"], strict=True
        ):
            images = list(FrameStore(manifest).images(row, view.window.tolist()))
            crop = augment.draw_crop(standard, *images[0].shape[:2], rng)
            assert (
                frames == np.stack([augment.apply_crop(each, crop, 24) for each in images])
            ).all()
            for drawn in colour:
                assert (drawn == augment.draw_colour(standard, base, 24, rng)).all()


def test_one_view_to_learn_a_label_from(tiny_data: Path) -> None:
    """It depends on seed, epoch and video alone; colours change with the probability of the
    protocol."""
    manifest, sampler = (
        Manifest.open(tiny_data / "synthetic"),
        build_sampler(load("smoke").first_stage),
    )

    def clip(key: tuple[int, int], **settings: float) -> dict[str, np.ndarray]:
        return LabelledClips(manifest, sampler, Augment(**settings), 24, 5)[key]

    first, again, later = clip((1, 2)), clip((1, 2)), clip((2, 2))
    assert first["frames"].shape == (1, sampler.length, 24, 24, 3)
    assert (first["frames"] == again["frames"]).all()
    assert (first["frames"] != later["frames"]).any()
    plain = {"base": 0.0}
    strong = {"base": 1.0, "colour": 1.0}
    assert all(
        (clip((epoch, 0), **plain)["colour"] == augment.NEUTRAL).all() for epoch in range(20)
    )
    assert all((clip((epoch, 0), **strong)["colour"][0, 0, :3] != 1).all() for epoch in range(20))


def test_a_reader_ends_when_its_parent_says_so_and_not_when_a_scheduler_does() -> None:
    before = multiprocessing.active_children()
    loader = DataLoader(
        cast(Dataset[int], range(1000)), num_workers=1, worker_init_fn=set_up_worker
    )
    items = iterate(loader)
    assert int(next(items)) == 0
    (reader,) = (child for child in multiprocessing.active_children() if child not in before)
    subprocess.run(["kill", "-TERM", str(reader.pid)], check=True)
    assert [int(next(items)) for _ in range(20)] == list(range(1, 21))
    reader.terminate()
    reader.join(20)
    assert reader.exitcode == 0
    with pytest.raises(RunError, match="exited unexpectedly"):
        list(items)


class Unsendable(Dataset[object]):
    """Its items can't be sent to another process, as if shared memory were full."""

    def __getitem__(self, index: int) -> object:
        return lambda: index

    def __len__(self) -> int:
        return 3


def test_a_batch_that_cant_be_handed_over_is_an_error_and_no_hang(
    capfd: pytest.CaptureFixture[str],
) -> None:
    loader = DataLoader(
        Unsendable(), batch_size=None, num_workers=1, worker_init_fn=set_up_worker, timeout=120
    )
    with pytest.raises(RunError, match="exited unexpectedly"):
        list(iterate(loader))
    assert "a batch could not be handed over: " in capfd.readouterr().err


class Failing(Dataset[object]):
    """Its item raises an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getitem__(self, index: int) -> object:
        raise self.error from DataError("another one", "an inner hint")

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("error", "kind", "message", "hint"),
    [
        (DataError("a\nlong one", "make room"), DataError, "a\nlong one", "make room"),
        (InputError("it is wrong"), InputError, "it is wrong", ""),
        (
            OSError(errno.ENOSPC, "No space left on device", "/a/file"),
            RunError,
            "a process that reads clips failed: [Errno 28] No space left on device: '/a/file'",
            "look at the disk and the limits (ulimit -a); the same command goes on",
        ),
    ],
)
def test_an_error_of_a_reader_keeps_its_own_words_and_hint(
    error: Exception, kind: type[VcsfError], message: str, hint: str
) -> None:
    loader = DataLoader(
        Failing(error), batch_size=None, num_workers=1, worker_init_fn=set_up_worker
    )
    with pytest.raises(kind) as caught:
        list(iterate(loader))
    assert (caught.value.message, caught.value.hint) == (message, hint)
