"""What the manifests of runs say, as one table: of every key its value in each run.

Of children the keys of their parents are among them, one generation up: ``start.parent.model``.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lab.base.errors import UserError
from lab.base.settings import flatten
from lab.runs.model import Model

ABSENT = "absent"  # the value of a key that a run does not have
PARENT = "start.parent."
EDITED = re.compile(r"(start\.parent\.)*edit\.(after\.)*weights\.")  # sha256 of the matrices that an edit has changed
Table = dict[str, tuple[Any, ...]]  # of every key its value in each run


def table_of(runs: Sequence[Model], manifests: Sequence[dict[str, Any]]) -> Table:
    """All keys of all runs."""
    columns = []
    for run, manifest in zip(runs, manifests, strict=True):
        try:
            columns.append(_column(manifest, [each.plain() for each in run.asked]))
        except KeyError as error:
            raise UserError(f"{run.path / 'manifest.json'} lacks {error}; restore it, or leave the run out") from None
    parameters = [set(manifest["initial_weights"]) for manifest in manifests]
    shared = set.intersection(*parameters)
    for column, names in zip(columns, parameters, strict=True):
        column["parameter_names"] = " + ".join([f"{len(shared)} shared", *sorted(names - shared)])
    keys = sorted(set().union(*columns))
    return {key: tuple(column.get(key, ABSENT) for column in columns) for key in keys}


def _column(manifest: dict[str, Any], asked: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All keys of one run. What belongs to an attempt is one value, or a tuple of all if it changed.

    Args:
        asked: its extensions as they were asked for, in order; what was found in their place are keys ``found``.
    """
    trained = manifest.get("kind") != "imported"
    keys = ["identity", "parameters", "initial_weights", *["tokens", "flops_per_token", "blocks"] * trained]
    flat = flatten({key: manifest[key] for key in [*keys, *["measured"] * ("measured" in manifest)]})
    column = {_told_by(key.removeprefix("identity.")): value for key, value in flat.items()}
    for place, extension in zip(_extensions(manifest["identity"]), reversed(asked), strict=False):
        for key, value in flatten({place: extension}).items():
            if column.get(key, value) != value:
                column[key.replace("extension.", "found.", 1)], column[key] = column[key], value
    for key in [each for each in column if EDITED.match(each)]:
        column[key.replace("edit.", "found.", 1)] = column.pop(key)
    if not trained:
        return _hashable(column | {"seed": 0})  # that it was trained with nobody here knows
    attempts = manifest["attempts"]
    steps = manifest["tokens"] // column["scale.batch_tokens"]
    seen: dict[str, dict[Any, None]] = {}
    for index, attempt in enumerate(attempts):
        if attempt["first_step"] >= min([later["first_step"] for later in attempts[index + 1 :]], default=steps + 1):
            continue  # none of its steps was kept: it has left nothing in the weights
        environment = {key: attempt[key] for key in ("code", "packages", "hardware", "ranks")}
        environment |= {"kernel_served": attempt["kernel"], "packages.python": attempt["python"]}
        for key, value in flatten(environment).items():
            seen.setdefault(key, {})[value] = None
    column |= {key: tuple(values) if len(values) > 1 else next(iter(values)) for key, values in seen.items()}
    column["resume.allow"] = sorted({word for attempt in attempts for word in attempt.get("allowed", ())})
    return _hashable(column)


def _extensions(identity: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Where an identity has its extensions, those of its parents too, the last one first."""
    place, told = f"{above}extension", identity.get("extension")
    while told:
        yield place
        place, told = f"{place}.after", told.get("after")
    if "parent" in identity.get("start", ()):
        yield from _extensions(identity["start"]["parent"], above + PARENT)


def _hashable(column: dict[str, Any]) -> dict[str, Any]:
    return {key: text(value) if isinstance(value, list) else value for key, value in column.items()}


def _told_by(key: str) -> str:
    """What a scoring ran on, by measure: ``measured.LABEL.hardware.cpu`` is ``scored_hardware.LABEL.cpu``."""
    for what in ("hardware", "kernel"):
        found = re.fullmatch(rf"measured\.(.*)\.{what}(\..*)?", key)
        if found:
            return f"scored_{what}.{found[1]}{found[2] or ''}"
    return key


def under(key: str, group: str) -> bool:
    return key == group or key.startswith(f"{group}.")


def own(key: str) -> str:
    """A key as it is called in the generation that it is of."""
    while key.startswith(PARENT):
        key = key.removeprefix(PARENT)
    return key


def generation(key: str) -> int:
    """0 of the run itself, 1 of its parent, and so on."""
    return key.count(PARENT)


def text(value: Any) -> str:
    if isinstance(value, tuple):
        return " then ".join(map(text, value))
    return value if isinstance(value, str) else json.dumps(value)
