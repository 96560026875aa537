"""Options: what every plugin is."""

from typing import Any

import attrs

from dimo_core.options import field_docs
from dimo_core.testing.expectations import explained, explains, require


@explains
def check_options(plugin: object) -> None:
    """A plugin is a frozen, keyword-only attrs class of documented options, which build an equal plugin."""
    cls: Any = type(plugin)
    name = cls.__qualname__
    require(attrs.has(cls), f"{name} is a frozen attrs class whose fields are its options")
    fields = [field for field in attrs.fields(cls) if field.init]
    for field in fields:
        require(
            field.name != "name", f"{name} has no option 'name', which is the plugin's own name everywhere"
        )
        require(field.kw_only, f"option {field.name} of {name} is keyword-only (attrs.frozen(kw_only=True))")
        where = f"option {field.name} in its 'Attributes:' section"
        require(bool(field_docs(cls).get(field.name)), f"the docstring of {name} describes {where}")
        where, default = f"option {field.name} of {name}", field.default
        require(field.type is not None, f"{where} has an annotation, from which its values are read")
        told = f"{where} has a default of its own in each object: attrs.field(factory=list)"
        require(not isinstance(default, list | dict | set), told)
        takes = isinstance(default, attrs.Factory) and default.takes_self  # type: ignore[arg-type]
        require(not takes, f"the default of {where} depends on no other option: use None, and decide later")
    again = cls(**{field.alias: getattr(plugin, field.name) for field in fields})
    told = f"{name} built again from its own options equals the first: options are plain values"
    with explained(told):
        require(again == plugin, told)
    try:
        setattr(again, fields[0].name if fields else "anything", None)
    except (attrs.exceptions.FrozenInstanceError, AttributeError):
        return
    raise AssertionError(f"expected: {name} is frozen (attrs.frozen): its options cannot be assigned")
