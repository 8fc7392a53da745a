"""Typed settings: which keys there are, of what type, within which bounds, and what each of them means.

pydantic checks them. Hydra's structured configurations, the other choice, know no bounds and no explanations, and stop
at the first mistake; pydantic tells all of them, and its fields carry what ``--help`` and error lines say.
"""

import difflib
import math
import reprlib
from collections.abc import Collection, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lab.base.errors import UserError

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Text = Annotated[str, Field(min_length=1)]
Word = Annotated[str, Field(pattern=r"^\w[\w.-]*$", max_length=100)]  # part of a folder's name
Seed = Annotated[int, Field(ge=0, lt=2**64)]


PATTERNS = {
    r"^\w[\w.-]*$": "a name of letters, digits and . _ -",
    r"\.txt$": "the name of a .txt file",
    r"\{\}": "a text with {} in it",
}


def key(explanation: str, *, decides: bool = True, **bounds: Any) -> Any:
    """A key of settings.

    Args:
        explanation: what it is, in its unit; for ``--help``.
        decides: whether it can change a number of a run or score, and so is part of what these are named by.
        bounds: of pydantic's Field.
    """
    return Field(description=explanation, json_schema_extra=None if decides else {"decides": False}, **bounds)


class Settings(BaseModel):
    """Values that were checked and do not change. A part's settings have its short name as ``name``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @classmethod
    def check(cls, given: Any, under: str = "", following: Collection[str] = ()) -> Self:
        """The settings that a mapping of plain values gives.

        Args:
            under: where the mapping stands, for the message.
            following: keys that take their values from others: if both are wrong, the others alone are told.

        Raises:
            UserError: a line for each wrong key: what it is, and what it may be.
        """
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise UserError(*_lines(cls, error, under, following)) from None
        except RecursionError:
            raise UserError(f"{under or 'the configuration'} is nested too deep; restore it") from None

    def with_values(self, **values: Any) -> Self:
        """The same with other values, checked again. Raises as :meth:`check`."""
        return type(self).check(self.plain() | values)

    def plain(self) -> dict[str, Any]:
        """As plain values, for a file."""
        return self.model_dump()

    def arguments(self) -> dict[str, Any]:
        """What a part is built with: its keys without its name."""
        return {name: getattr(self, name) for name in type(self).model_fields if name != "name"}

    def identity(self) -> dict[str, Any]:
        """As plain values, without the keys that decide no number."""
        fields = type(self).model_fields
        told = {name: getattr(self, name) for name in fields if decides(fields[name])}
        return {name: value.identity() if isinstance(value, Settings) else value for name, value in told.items()}


def decides(field: Any) -> bool:
    extra = field.json_schema_extra
    return not (isinstance(extra, dict) and extra.get("decides") is False)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def near(word: str, words: Sequence[str]) -> str:
    """``; did you mean ...?`` for a word that is none of these, or nothing."""
    found = difflib.get_close_matches(word, list(words), n=3, cutoff=0.65)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def explained(kind: type[Settings], given: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any, str]]:
    """(dotted key, value, explanation) of settings and of those in them; values as given, right or still to come."""
    rows: list[tuple[str, Any, str]] = []
    for name, field in kind.model_fields.items():
        value, inside = given.get(name), kinds(field.annotation)
        if isinstance(value, Mapping) and inside:
            chosen = next(iter(inside.values())) if len(inside) == 1 else inside.get(str(value.get("name")))
            rows += explained(chosen, value, f"{prefix}{name}.") if chosen else []
        elif field.description:
            rows.append((f"{prefix}{name}", value, field.description))
    return rows


def members(annotation: Any) -> list[Any]:
    """The types of a union, without None; of another type itself."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [each for part in get_args(annotation) if part is not type(None) for each in members(part)]
    return [annotation]


def kinds(annotation: Any) -> dict[str, type[Settings]]:
    """The settings that may stand at a field, by the short name of their part (of a group without parts: "")."""
    found = [each for each in members(annotation) if isinstance(each, type) and issubclass(each, Settings)]
    return {each.model_fields["name"].default if "name" in each.model_fields else "": each for each in found}


def _place(kind: type[Settings], place: Sequence[str | int]) -> tuple[str, type[Settings] | None]:
    """The dotted key of pydantic's place, which also names members of unions; and the settings that it stands in."""
    names: list[str] = []
    holder: type[Settings] | None = None
    choices: dict[str, type[Settings]] = {}
    current: type[Settings] | None = kind
    mapping = False
    for each in place:
        if current is not None:
            names.append(str(each))
            holder, field = current, current.model_fields.get(str(each))
            annotation = field.annotation if field else None
            choices = kinds(annotation)
            current = next(iter(choices.values())) if len(choices) == 1 else choices.get("")
            mapping = any(get_origin(member) is dict for member in members(annotation))
        elif each in choices:
            current, choices = choices[str(each)], {}
        elif mapping and not str(each).startswith("dict["):
            names.append(str(each))
            mapping = False
    return ".".join(names), holder


def _lines(kind: type[Settings], error: ValidationError, under: str, following: Collection[str]) -> list[str]:
    """A line for each wrong key."""
    told: dict[str, list[str]] = {}
    for each in error.errors(include_url=False):
        name, holder = _place(kind, each["loc"])
        dotted = ".".join(filter(None, (under, name)))
        told.setdefault(dotted, []).append(_told(each, dotted, holder, kind))
    own = {name: parts for name, parts in told.items() if name not in following}
    return [line for name, parts in (own or told).items() for line in _joined(name, list(dict.fromkeys(parts)))]


def _joined(name: str, parts: list[str]) -> list[str]:
    """One line of the several that the members of a union give."""
    whole = [part for part in parts if not part.startswith("give ")]
    if whole or len(parts) == 1:
        return whole[:1] if whole else [parts[0].replace("give ", "", 1)]
    head = parts[0].partition(": give ")[0].removeprefix("give ")
    wanted = dict.fromkeys(part.partition(": give ")[2] for part in parts)  # the members of a list may want the same
    return [f"{head}: give {' or '.join(wanted)}"]


def _told(error: Any, name: str, holder: type[Settings] | None, root: type[Settings]) -> str:
    """What is wrong with a key: a whole line, or ``give KEY is VALUE: give``, which members of a union add to."""
    sort, value, context = error["type"], error["input"], error.get("ctx", {})
    if sort == "missing" and holder and _choices(name, holder):
        return f"{name} must be given: {_choices(name, holder)}"
    if sort == "missing":
        return f"{name} must be given: add {name}=... to the command"
    if sort == "extra_forbidden":
        group, _, last = name.rpartition(".")
        known = list(holder.model_fields) if holder else []
        full = [".".join(filter(None, (group, each))) for each in known]
        parts = kinds(root.model_fields[group].annotation) if group in root.model_fields else {}
        others = [choice for choice, other in parts.items() if choice and last in other.model_fields]
        hint = f"; {group}={others[0]} has it" if others else near(last, known)
        return f"{name} is a key that nothing reads{hint}; {group or 'at the top'} has {', '.join(full)}"
    if sort == "value_error":  # of a key itself, or of several keys of a group
        of_key = holder is not None and not kinds(holder.model_fields[name.rpartition(".")[2]].annotation)
        told = str(error["msg"]).removeprefix("Value error, ")
        return f"{name}{' ' if of_key else ': '}{told}" if name else told
    if sort in ("model_type", "model_attributes_type", "dict_type") and not isinstance(value, Mapping):
        return f"{name} is {_shown(value)}: {_choices(name, holder) or 'give a mapping of keys to values'}"
    if sort in ("union_tag_invalid", "union_tag_not_found"):
        choices = [each.strip("'") for each in str(context.get("expected_tags", "")).split(", ") if each]
        if sort == "union_tag_not_found":
            return f"{name}.name must be given: it says which one it is"
        tag = context.get("tag", "")
        return f"{name}.name is {_shown(tag)}: choose one of {', '.join(choices)}{near(str(tag), choices)}"
    return f"give {name} is {_shown(value)}: give {_wanted(sort, context)}"


class _Short(reprlib.Repr):
    """Python's own way to write a value, cut short where a file may hold any number of them in each other."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxdict, self.maxstring, self.maxother, self.maxlong = 3, 20, 20, 400, 400, 40


def _shown(value: Any) -> str:
    """A value as it is written in a configuration."""
    return "null" if value is None else _Short().repr(value)


def _choices(name: str, holder: type[Settings] | None) -> str:
    """What may be chosen at a key that holds settings, "" at another."""
    field = holder.model_fields.get(name.rpartition(".")[2]) if holder else None
    found = kinds(field.annotation) if field else {}
    named = ", ".join(filter(None, found))
    return f"choose one of {named}" if named else "choose one; --help lists them" if found else ""


def _wanted(sort: str, context: Mapping[str, Any]) -> str:
    """What a value must be, by pydantic's name of the error."""
    if sort == "literal_error":
        return str(context["expected"]).replace("'", "")
    bounds = {
        "greater_than": ("gt", "a number above {}"),
        "greater_than_equal": ("ge", "{} or more"),
        "less_than": ("lt", "a number below {}"),
        "less_than_equal": ("le", "{} or less"),
        "too_short": ("min_length", "a list of {} or more"),
        "too_long": ("max_length", "a list of {} or fewer"),
    }
    if sort in bounds:
        word, text = bounds[sort]
        return text.format(_number(context[word]))
    return {
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "finite_number": "a finite number",
        "bool_type": "true or false",
        "string_type": "a text",
        "string_too_short": "a text",
        "string_too_long": f"a text of at most {context.get('max_length')} signs",
        "string_pattern_mismatch": PATTERNS.get(str(context.get("pattern")), "a text of another form"),
        "list_type": "a list, such as [a,b]",
        "dict_type": "a mapping, such as {a:1}",
        "none_required": "null",
    }.get(sort, sort.replace("_", " "))


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) and math.isfinite(value) else str(value)
