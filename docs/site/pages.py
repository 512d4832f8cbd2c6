"""A hook of MkDocs: pages that lie outside docs/, and links as they are written for a checkout."""

import os.path
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

CHECKOUT = Path(__file__).resolve().parents[2]
OUTSIDE = {
    "README.md": "index.md",
    "plugins/README.md": "plugins.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "LICENSE",
}
OUTSIDE |= {
    path.relative_to(CHECKOUT).as_posix(): path.relative_to(CHECKOUT).as_posix()
    for path in CHECKOUT.glob("recipes/**/*.yaml")
}
"""Files of the checkout, and where each is in the site."""


def on_files(files: Files, config: Any) -> Files:
    """Add the files that lie outside docs/."""
    for source, place in OUTSIDE.items():
        files.append(File.generated(config, place, abs_src_path=str(CHECKOUT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between files of the checkout into links between pages of the site."""
    here = page.file.src_uri
    source = next((path for path, place in OUTSIDE.items() if place == here), f"docs/{here}")

    def place(match: re.Match[str]) -> str:
        path, hash_sign, anchor = match[2].partition("#")
        if not path or ":" in path:
            return match[0]
        found = os.path.normpath(os.path.join(os.path.dirname(source), path))  # noqa: PTH118, PTH120
        found = OUTSIDE.get(found, found.removeprefix("docs/"))
        return (
            f"{match[1]}({os.path.relpath(found, os.path.dirname(here) or '.')}{hash_sign}{anchor})"  # noqa: PTH120
        )

    return re.sub(r"(!?\[[^\]]*\])\(([^)\s]+)\)", place, markdown)
