"""What kind of value each key of the configuration takes; Hydra lets any text through."""

import math
from typing import Any

from lab.errors import UserError

# A key ending in "*" stands for all keys of a group that are not listed themselves.
KINDS = {
    "seed": "whole number",
    "kernel": "text",
    "runs": "text",
    "overwrite": "true or false",
    "plan": "true or false",
    "scale.name": "text",
    "scale.learning_rate": "positive number",
    "scale.*": "whole number",
    "model.tied": "true or false",
    "model.eps": "positive number",
    "model.position.base": "positive number",
    "model.attention.window": "whole number or null",
    "data.seed": "whole number",
    "data.lanes": "whole number",
    "tokenizer.path": "text",
    "tokenizer.vocabulary": "whole number",
    "tokenizer.end_of_document": "text",
    "optimizer.learning_rate": "positive number",
    "optimizer.betas": "pair of fractions",
    "optimizer.eps": "positive number",
    "optimizer.weight_decay": "number",
    "optimizer.momentum": "fraction",
    "schedule.warmup_steps": "whole number",
    "schedule.final_fraction": "fraction",
    "schedule.decay_fraction": "fraction",
    "trainer.accelerator": "text",
    "trainer.devices": "whole number",
    "trainer.compute_dtype": "text",
    "trainer.compile": "true or false",
    "trainer.gradient_clip": "positive number",
    "trainer.*": "positive whole number",
    "measure.name": "text",
    "measure.*": "whole number",
}


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def fits(value: Any, kind: str) -> bool:
    """Whether a value is of a kind named in ``KINDS``."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    fractions = isinstance(value, list) and all(is_number(entry) and 0 <= entry < 1 for entry in value)
    return {
        "text": isinstance(value, str),
        "true or false": isinstance(value, bool),
        "whole number": whole,
        "whole number or null": whole or value is None,
        "positive whole number": whole and value > 0,
        "number": is_number(value),
        "positive number": is_number(value) and value > 0,
        "fraction": is_number(value) and 0 <= value <= 1,
        "pair of fractions": fractions and len(value) == 2,
    }[kind]


def check_types(config: dict[str, Any]) -> None:
    """Raises UserError for the first key whose value is not of its kind."""
    for key, kind in KINDS.items():
        *path, last = key.split(".")
        node: Any = config
        for name in path:
            node = node.get(name, {})
        named = {other.rpartition(".")[2] for other in KINDS if other.rpartition(".")[0] == ".".join(path)}
        names = [name for name in node if name not in named] if last == "*" else [last]
        for name in names:
            if name in node and not fits(node[name], kind):
                raise UserError(f"{'.'.join([*path, name])} is {node[name]!r}: it must be a {kind}")
