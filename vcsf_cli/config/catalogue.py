"""YAML files that are found by name in the folders of recipes, vcsf's own and those of plugins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vcsf_cli import registry
from vcsf_cli.errors import InputError, PluginError, did_you_mean
from vcsf_cli.narrate import say

_PACKAGE = Path(__file__).parents[1]
OWN_FOLDER = next(
    folder
    for folder in (_PACKAGE / "recipes", _PACKAGE.parent / "recipes")
    if folder.is_dir()  # beside the package in a checkout, inside it in a wheel
)


@dataclass(frozen=True)
class Catalogue:
    """The files of one kind.

    Args:
        kind: What they are, for messages.
        folder: Sub-folder of the folders of recipes that holds them.
        left_out: Files and folders in it that are of another kind, without `.yaml`.
    """

    kind: str
    folder: str = ""
    left_out: tuple[str, ...] = ()

    def files(self) -> dict[str, Path]:
        """All files by name, such as `demo`.

        Raises:
            PluginError: If two plugins bring files of one name.
        """
        found: dict[str, tuple[str, Path]] = {}
        for owner, recipes in [("vcsf", OWN_FOLDER), *registry.load().recipe_dirs()]:
            folder = recipes / self.folder
            for path in sorted(folder.rglob("*.yaml")):
                name = PurePosixPath(path.relative_to(folder).with_suffix(""))
                if any(name.is_relative_to(other) for other in self.left_out):
                    continue
                first, same = found.setdefault(str(name), (owner, path))
                if not path.samefile(same):
                    raise PluginError(
                        f"{self.kind} `{name}` is brought by both `{first}` and `{owner}`",
                        registry.RENAME,
                    )
        return {name: path for name, (_, path) in found.items()}

    def find(self, named: str) -> Path:
        """The file of a name or a path. Where there is no `recipes/vcsf.yaml`, it is the one that
        vcsf brought along.

        Raises:
            InputError: If there is none.
        """
        path, name = self._look_up(named)
        if name not in (None, named):
            say(
                f"{named} is not in this folder: using the {self.kind} `{name}` that vcsf brought "
                "along"
            )
        return path

    def check(self, named: str) -> None:
        """As `find`, without a word.

        Raises:
            InputError: If there is none.
        """
        self._look_up(named)

    def _look_up(self, named: str) -> tuple[Path, str | None]:
        """The file of a name or a path, and its name if it is one that was brought along."""
        path = Path(named)
        if path.is_file():
            return path, None
        files = self.files()
        folder = f"recipes/{self.folder}/" if self.folder else "recipes/"
        name = named.removeprefix(folder).removesuffix(".yaml")
        if name in files:
            return files[name], name
        if path.is_dir():
            raise InputError(f"{named} is a folder, not a {self.kind}", "name a .yaml file in it")
        raise InputError(f"there is no {self.kind} {named}", did_you_mean(name, files))


PROTOCOLS = Catalogue("protocol", "protocols")
"""Of `vcsf finetune`."""

TABLES = Catalogue("table", "tables", left_out=("published",))
"""Of `vcsf ablate`."""

RECIPES = Catalogue("recipe", left_out=(PROTOCOLS.folder, TABLES.folder))
