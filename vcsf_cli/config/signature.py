"""The signature of a component's factory as a pydantic model: nothing else lists its parameters."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, create_model

from vcsf_cli.config.schema import Node
from vcsf_cli.contracts import Component
from vcsf_cli.registry import blame


class Settings(Node):
    """Base of the models that `settings_model` makes."""

    component: ClassVar[Component]


def settings_model(
    component: Component, own: Mapping[str, tuple[Any, Any]], *, partial: bool = False
) -> type[Settings]:
    """The model of a component's node in a recipe, without its name.

    Args:
        own: Annotation and default of the keys of this node that are vcsf's own.
        partial: Whether parameters without a default may be left out.

    Raises:
        PluginError: If pydantic can't use an annotation.
    """
    fields: dict[str, Any] = dict(own)
    for name, parameter in component.parameters.items():
        default = ... if parameter.required and not partial else parameter.default
        field = Field(default, description=parameter.help)
        fields.setdefault(name, (parameter.annotation, field))
    with blame(component.plugin, f"{component.kind} `{component.name}`"), warnings.catch_warnings():
        # A parameter may be called like a method of pydantic's models, such as `copy`.
        warnings.filterwarnings("ignore", "Field name", UserWarning)
        model = create_model(component.name, __base__=Settings, **fields)
    model.component = component
    return model
