"""One registry of parts: everything that a configuration can name, by role and short name.

A part is a class, or a function that gives an object, with typed settings. These stand in a torch-free file of its
room, and say there where the part itself is, which is imported when one is built. Where a part is nothing but what it
does with its settings (a measure), the two are one class. What is not registered cannot be built, whatever a
configuration says, for it names no address.
"""

import functools
import importlib
import operator
import pkgutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import Field, create_model

from lab.base.errors import UserError
from lab.base.settings import Settings, near

# Where the parts of a role are declared: a file, or all files of a room, or of several, a part a file.
DECLARED: dict[str, str | tuple[str, ...]] = {
    "position": "lab.model.settings",
    "attention": "lab.model.settings",
    "corpus": "lab.data.settings",
    "evaluation": "lab.data.settings",
    "tokenizer": "lab.data.settings",
    "start": "lab.runs.settings",
    "optimizer": "lab.training.settings",
    "schedule": "lab.training.settings",
    "logger": "lab.training.settings",
    "adapter": "lab.training.settings",
    "objective": "lab.training.settings",
    "extension": "lab.extension.settings",
    "measure": "lab.measure",
    "method": "lab.gradients.edits",
    "study": ("lab.analysis", "lab.knowledge", "lab.gradients"),
}


@dataclass(frozen=True)
class Part:
    """One part. ``place`` is ``module:name``, written in code only; empty: the settings are the part."""

    role: str
    name: str
    settings: type[Settings]
    place: str

    def load(self) -> Callable[..., Any]:
        """The class or function itself."""
        module, _, name = self.place.partition(":")
        made: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return made


def name_of(settings: type[Settings]) -> str:
    """The short name of the part that settings are of."""
    return str(settings.model_fields["name"].default)


_parts: dict[tuple[str, str], Part] = {}
Declared = TypeVar("Declared", bound=type[Settings])


def part(role: str, place: str = "") -> Callable[[Declared], Declared]:
    """Register the part whose settings this class is; its short name is the default of its field ``name``.

    Raises:
        ValueError: there is one of this role and name already, or no such role.
    """

    def declare(settings: Declared) -> Declared:
        name = name_of(settings)
        if role not in DECLARED:
            raise ValueError(f"{role} is no role: add it to DECLARED")
        if _parts.get((role, name), Part(role, name, settings, place)).place != place:
            raise ValueError(f"{role} {name} is registered twice")
        _parts[role, name] = Part(role, name, settings, place)
        return settings

    return declare


def parts_of(role: str) -> dict[str, Part]:
    """The parts of a role by short name, in the order in which they are declared."""
    places = DECLARED[role]
    declared = [importlib.import_module(each) for each in ([places] if isinstance(places, str) else places)]
    for place in declared:
        for each in pkgutil.iter_modules(getattr(place, "__path__", ())):
            importlib.import_module(f"{place.__name__}.{each.name}")
    found = {each.name: each for (of, _), each in _parts.items() if of == role}
    # A room's files are imported by whoever comes first: their order is by name.
    return dict(sorted(found.items())) if any(hasattr(place, "__path__") for place in declared) else found


def find(role: str, name: Any) -> Part:
    """The part of a role with this short name. Raises UserError if there is none; names those there are."""
    parts = parts_of(role)
    if not isinstance(name, str) or name not in parts:
        raise UserError(f"{role} {name!r} does not exist: choose one of {', '.join(parts)}{near(str(name), [*parts])}")
    return parts[name]


def build(role: str, settings: Settings, **given: Any) -> Any:
    """The part that settings are of, built with them and with what its role is given besides.

    Raises:
        UserError: as :func:`find`, or the settings are not those of the part.
    """
    found = find(role, getattr(settings, "name", None))
    if type(settings) is not found.settings:
        raise UserError(f"{role} {found.name} has other settings than {type(settings).__name__}")
    return found.load()(**settings.arguments(), **given) if found.place else settings


def one_of(role: str) -> Any:
    """The type of a field that holds the settings of one part of a role, told apart by ``name``."""
    settings = [each.settings for each in parts_of(role).values()]
    if len(settings) == 1:
        return settings[0]
    return Annotated[functools.reduce(operator.or_, settings), Field(discriminator="name")]


class Several(Settings):
    """Settings of several parts of one role, by short name."""

    @property
    def chosen(self) -> dict[str, Settings]:
        """Those that are there, in the order in which they are declared."""
        fields = type(self).model_fields
        return {name: getattr(self, name) for name in fields if getattr(self, name) is not None}


def several_of(role: str) -> Any:
    """The type of a field that holds the settings of any number of parts of a role, by short name."""
    fields: Any = {name: (each.settings | None, None) for name, each in parts_of(role).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a part may be called as a method of pydantic's, such as copy
        return create_model(f"{role.capitalize()}s", __base__=Several, **fields)
