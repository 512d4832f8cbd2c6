"""CPU time and peak memory of each command against the number of clips: what docs/scale.md shows.

python tests/benchmarks/scale.py 300 2700 9900 29700 --picture docs/figures/scale.svg

Numbers are multiples of 300, up to 29,700, that divide the largest: training has as many steps
whatever their number is. Clips are tiny, so that what grows with their number shows. Memory is that
of the largest process. A picture needs matplotlib."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np

CLASSES, GROUPS, BATCH = 10, 30, 8


def commands(count: int, most: int) -> dict[str, list[str]]:
    """The command lines for a number of clips, the largest of which is `most`."""
    clips, epochs = count // (CLASSES * GROUPS), most // count
    drawn = ("--classes", CLASSES, "--groups", GROUPS, "--clips", clips)
    keys = ("train.check_every=0", "loss.queue=0", f"train.batch={BATCH}", f"train.epochs={epochs}")
    settings = [word for key in keys for word in ("--set", key)]
    one = ("--workers", 1)
    lines: dict[str, tuple[object, ...]] = {
        "prepare": ("prepare", "synthetic", *drawn, "--frames", 20, "--height", 32, *one),
        "pretrain": ("pretrain", "smoke", *settings, "--devices", "cpu", *one),
        "retrieve": ("retrieve", "--k", 1, "--devices", "cpu", *one),
        "embed": ("embed", "synthetic", "-o", "table.parquet", "--devices", "cpu", *one),
    }
    return {name: [str(word) for word in line] for name, line in lines.items()}


def measure(folder: Path, words: list[str]) -> tuple[float, float]:
    """CPU seconds of a command with all that it starts, and MiB of its largest process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vcsf_cli", *words],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=(folder / "said").open("w"),
    )
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit((folder / "said").read_text())
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


@click.command(help=__doc__)
@click.argument("counts", nargs=-1, type=int, required=True)
@click.option("--picture", type=click.Path(path_type=Path), help="Draw the lines into this file.")
def main(counts: tuple[int, ...], picture: Path | None) -> None:
    measured: dict[str, list[tuple[float, float]]] = {}
    click.echo("| command | clips | CPU s | MiB |\n|---|---:|---:|---:|")
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="vcsf-scale-") as folder:
            for name, words in commands(count, max(counts)).items():
                found = measure(Path(folder), words)
                measured.setdefault(name, []).append(found)
                click.echo(f"| {name} | {count:,} | {found[0]:.1f} | {found[1]:,.0f} |")
    if len(counts) > 2:
        click.echo(
            "\n| command | CPU ms a clip | off the line | KiB a clip | off the line |"
            "\n|---|---:|---:|---:|---:|"
        )
        for name, found in measured.items():
            cells = []
            for scale, values in zip((1000, 1024), np.array(found).T, strict=True):
                slope, start = np.polyfit(counts, values, 1)
                off = np.abs(values - start - slope * np.array(counts)).max() / values.max()
                cells += [f"{scale * slope:.1f}", f"{off:.1%}"]
            click.echo(f"| {name} | {' | '.join(cells)} |")
    if picture is not None:
        draw(counts, measured, picture)


def draw(
    counts: tuple[int, ...], measured: dict[str, list[tuple[float, float]]], picture: Path
) -> None:
    """Draw both measures against the number of clips, with the straight line of each command."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for panel, column, title in zip(panels, (0, 1), ("CPU seconds", "peak MiB"), strict=True):
        for name, found in measured.items():
            values = [each[column] for each in found]
            (points,) = panel.plot(counts, values, "o", markersize=4, label=name)
            panel.plot(
                counts,
                np.polyval(np.polyfit(counts, values, 1), counts),
                color=points.get_color(),
                linewidth=1,
            )
        panel.set(title=title, xlabel="clips", ylim=(0, None))
        panel.grid(alpha=0.3)
    panels[0].legend()
    figure.savefig(picture)


if __name__ == "__main__":
    main()
