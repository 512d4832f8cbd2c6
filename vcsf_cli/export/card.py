"""The model card, `README.md`, made from the template `card.md.jinja`."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from vcsf_cli.config.recipe import Recipe
from vcsf_cli.encoders.source import EncoderSource
from vcsf_cli.report.page import template
from vcsf_cli.runs import results
from vcsf_cli.runs.run import WITH_LABELS


def read_licence(text: str) -> str:
    """The line of a card's head that names a licence, as whoever publishes the weights wrote it;
    empty if there is none. vcsf writes none: they choose it."""
    found = re.match(r"---\n(?:(?!---).*\n)*?(license:.*)\n", text)
    return found[1] if found else ""


def model_card(
    source: EncoderSource,
    recipe: Recipe,
    config: dict[str, Any],
    measured: pd.DataFrame,
    licence: str = "",
) -> str:
    """The model card in Markdown.

    Args:
        config: The contents of `config.json`.
        licence: A line of the head that names one, or nothing.
    """
    rows = [
        [kind, pathway, f"{found['difference'] / found['scale']:.1e}", f"{found['cosine']:.7f}"]
        for kind, by_pathway in config["compared"].items()
        for pathway, found in by_pathway.items()
    ]
    header = ["format", "pathway", "largest difference / largest feature", "smallest cosine"]
    names = [name for names in config["files"].values() for name in names]
    return template("export", "card.md.jinja", autoescape=False).render(
        source=source,
        config=config,
        stage=recipe.first_stage,
        with_labels=f"{WITH_LABELS[:1].upper()}{WITH_LABELS[1:]}",
        images=[name for name in names if name.startswith("timm-")],
        measured=measurements(measured),
        compared=results.markdown_table(header, rows, names=2),
        recipe=recipe.yaml(),
        licence=licence,
    )


def measurements(measured: pd.DataFrame) -> str:
    """Tables of all results, one for each dataset, split and task."""
    if measured.empty:
        return "Nothing was measured of this checkpoint before it was exported."
    parts = []
    for (dataset, split, task), rows in measured.groupby(["dataset", "split", "task"], sort=False):
        order = rows[["variant", "pathway"]].drop_duplicates()
        table = rows.pivot_table(
            index=["variant", "pathway"], columns="metric", values="value", sort=False
        )
        table = table.reindex(pd.MultiIndex.from_frame(order)) * 100
        clips, seeds = f"{rows['clips'].iloc[0]:,} test clips", rows["seed"].nunique()
        mean = f", mean of {seeds} seeds" if seeds > 1 else ""
        seen = rows["seen"].max() if "seen" in rows and rows["seen"].notna().any() else 0
        mark = f", **{seen:,} of them seen in training**" if seen else ""
        parts.append(
            f"{task} on `{dataset}` split {split}, {clips}{mark}{mean}, in per "
            f"cent:\n\n{results.markdown(table)}"
        )
    parts.append(
        "Numbers of one training on data and schedule as above; not comparable with published "
        "tables."
    )
    return "\n".join(parts)
