"""`vcsf recipes`: list, show and check recipes."""

from __future__ import annotations

from pathlib import Path

import click

from vcsf_cli.commands.options import complete_recipe, data_option, set_option, where
from vcsf_cli.config import recipe as recipes
from vcsf_cli.config.catalogue import RECIPES
from vcsf_cli.errors import RecipeError, VcsfError
from vcsf_cli.narrate import say


@click.group("recipes", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """List, show and check recipes; lists them without a subcommand."""
    if context.invoked_subcommand is None:
        context.invoke(_list_recipes)


@command.command("list")
def _list_recipes() -> None:
    """List the recipes that have a name, with the first line of each."""
    names = RECIPES.files()
    width = max(map(len, names), default=0)
    for name, path in names.items():
        first = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip("# ")
        click.echo(f"{name:<{width}}  {first}".rstrip())
    say("next: vcsf recipes show NAME; tables of recipes: vcsf ablate")


@command.command("show")
@click.argument("recipe", shell_complete=complete_recipe)
@set_option
def show(recipe: str, assignments: tuple[str, ...]) -> None:
    """Print a recipe with everything it extends and all defaults filled in."""
    click.echo(recipes.load(recipe, assignments).yaml(), nl=False)


@command.command("check")
@click.argument("recipe_names", nargs=-1, metavar="[RECIPE]...", shell_complete=complete_recipe)
@set_option
@data_option
def check(recipe_names: tuple[str, ...], assignments: tuple[str, ...], data: Path | str) -> None:
    """Check the keys, values and names of recipes, and build their networks; all recipes if none is
    named.

    If a recipe's dataset is prepared, its sizes are checked against it too.
    """
    names = list(recipe_names or RECIPES.files())
    wrong: dict[str, VcsfError] = {}
    for name in names:
        try:
            _check_one(name, assignments, data)
        except VcsfError as error:
            wrong[name] = error
    if wrong and len(names) == 1:
        raise wrong[names[0]]
    if wrong:
        message = f"{len(wrong)} of {len(names)} recipes are wrong"
        for name, problem in wrong.items():
            message += f"\n{name}: " + problem.message.replace("\n", "\n  ")
        hints = dict.fromkeys(problem.hint for problem in wrong.values() if problem.hint)
        raise RecipeError(message, "\n      ".join(hints))
    say(f"next: vcsf pretrain {names[0] if len(names) == 1 else 'RECIPE'}{where('data', data)}")


def _check_one(name: str, assignments: tuple[str, ...], data: Path | str) -> None:
    """Check one recipe, and say that it is right.

    Raises:
        VcsfError: If it is wrong.
    """
    from vcsf_cli.train.checks import check_recipe  # torch takes seconds to load

    recipe = recipes.load(name, assignments)
    warnings = check_recipe(recipe, data)
    if warnings is None:
        say(
            f"{name} is right ({recipe.first_stage.data.name} is not prepared in {data}: sizes are "
            "unchecked)"
        )
        return
    say(f"{name} is right")
    for warning in warnings:
        say(f"warning: {warning}")
