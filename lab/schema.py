"""What keys the configuration has and what kind of value each takes; Hydra lets any text through, and any +key."""

import math
import re
from typing import Any

from lab.errors import UserError

KINDS = {
    "seed": "whole number",
    "kernel": "text",
    "runs": "text",
    "overwrite": "true or false",
    "plan": "true, false or the name of a .txt file",
    "table": "name or null",
    "model.name": "name",
    "model.tied": "true or false",
    "model.eps": "positive number",
    "model.position.base": "positive number",
    "model.attention.window": "whole number or null",
    "scale.name": "name",
    "scale.vocabulary": "whole number",
    "scale.context": "whole number",
    "scale.layers": "whole number",
    "scale.width": "whole number",
    "scale.hidden": "whole number",
    "scale.heads": "whole number",
    "scale.kv_heads": "whole number",
    "scale.head_dim": "whole number",
    "scale.window": "whole number",
    "scale.narrow_window": "whole number",
    "scale.tokens": "whole number",
    "scale.batch_tokens": "whole number",
    "scale.micro_batch": "whole number",
    "scale.learning_rate": "positive number",
    "scale.warmup_steps": "whole number",
    "scale.validation_blocks": "whole number",
    "data.name": "name",
    "evaluation.name": "text",
    "evaluation.corpus": "mapping or null",
    "data.seed": "whole number",
    "data.lanes": "whole number",
    "data.tile": "whole number",
    "data.weights": "mapping or null",
    "data.mode": "text",
    "data.blocks": "text",
    "data.workers": "whole number",
    "data.isolate_documents": "true or false",
    "tokenizer.path": "text",
    "tokenizer.vocabulary": "whole number",
    "tokenizer.end_of_document": "text or null",
    "optimizer.learning_rate": "positive number",
    "optimizer.betas": "pair of fractions",
    "optimizer.eps": "positive number",
    "optimizer.weight_decay": "number from 0 on",
    "optimizer.momentum": "fraction",
    "schedule.warmup_steps": "whole number",
    "schedule.final_fraction": "fraction",
    "schedule.decay_fraction": "fraction",
    "trainer.accelerator": "text",
    "trainer.strategy": "one of single, ddp, fsdp",
    "trainer.devices": "positive whole number or auto",
    "trainer.compute_dtype": "text",
    "trainer.compile": "true, false or auto",
    "trainer.deterministic": "true or false",
    "trainer.recompute": "one of none, selective, all",
    "trainer.peak_flops": "positive number or null",
    "trainer.gradient_clip": "positive number",
    "trainer.log_every": "positive whole number",
    "trainer.validate_every": "positive whole number",
    "trainer.checkpoint_every": "positive whole number",
    "trainer.keep_last": "positive whole number",
    "trainer.keep_every": "positive whole number or null",
    "resume.allow": "list of code, packages, hardware, ranks",
    "logger.name": "text",
    "logger.project": "text",
    "logger.offline": "true or false",
    "scoring.longest": "positive whole number",
    "scoring.documents": "positive whole number",
    "scoring.segments": "positive whole number",
    "scoring.batch_tokens": "positive whole number",
}
# What stands under these is checked elsewhere: the keys of a node with a _target_ against that function's own
# arguments, weights against the corpus's subsets.
CHECKED_ELSEWHERE = (
    "data.weights",
    "model.position",
    "model.attention",
    "data.corpus",
    "evaluation.corpus",
    "tokenizer",
    "optimizer",
    "schedule",
    "measure",
)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def fits(value: Any, kind: str) -> bool:
    """Whether a value is of a kind named in ``KINDS``."""
    if kind.startswith("one of "):
        return value in kind.removeprefix("one of ").split(", ")
    whole = isinstance(value, int) and not isinstance(value, bool)
    name = isinstance(value, str) and re.fullmatch(r"\w[\w.-]*", value) is not None  # part of a folder's name
    fractions = isinstance(value, list) and all(is_number(entry) and 0 <= entry < 1 for entry in value)
    return {
        "text": isinstance(value, str) and value != "",
        "text or null": value is None or (isinstance(value, str) and value != ""),
        "name": name,
        "name or null": value is None or name,
        "text or list of texts": isinstance(value, (str, list)) and all(isinstance(each, str) for each in value),
        "text or list of texts or null": value is None
        or (isinstance(value, (str, list)) and len(value) > 0 and all(isinstance(each, str) for each in value)),
        "count such as 50B, or null": not isinstance(value, (bool, list)),
        "list of texts": isinstance(value, list) and all(isinstance(each, str) for each in value),
        "list of whole numbers": isinstance(value, list) and all(type(each) is int for each in value),
        "last or a whole number": whole or value == "last",
        "mapping or null": value is None,  # a mapping's own keys come here one by one
        "true or false": isinstance(value, bool),
        "true, false or auto": isinstance(value, bool) or value == "auto",
        "true, false or the name of a .txt file": isinstance(value, bool)
        or (isinstance(value, str) and value.endswith(".txt")),
        "whole number": whole,
        "whole number or null": whole or value is None,
        "positive whole number or null": value is None or (whole and value > 0),
        "list of code, packages, hardware, ranks": isinstance(value, list)
        and all(entry in ("code", "packages", "hardware", "ranks") for entry in value),
        "positive whole number": whole and value > 0,
        "positive whole number or auto": value == "auto" or (whole and value > 0),
        "whole number of at least 1000": whole and value >= 1000,
        "number from 0 on": is_number(value) and value >= 0,
        "positive number": is_number(value) and value > 0,
        "positive number or null": value is None or (is_number(value) and value > 0),
        "share above 0 and up to 1": is_number(value) and 0 < value <= 1,
        "fraction": is_number(value) and 0 <= value <= 1,
        "pair of fractions": fractions and len(value) == 2,
    }[kind]


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def expected(kind: str) -> str:
    """What to tell of a value that is not of its kind."""
    if kind.startswith(("true", "one of ")):
        return f"it must be {kind}"
    if kind.startswith("list of"):
        return f"it must be a {kind}, such as [code]"
    return f"it must be a {kind}"


# Of lab.extrapolate and lab.compare.
SCORING_KINDS = {key: kind for key, kind in KINDS.items() if key.startswith(("scoring.", "evaluation."))} | {
    "runs": "text or list of texts",
    "checkpoint": "last or a whole number",
    "accelerator": "text",
}

COMPARING_KINDS = {key: kind for key, kind in SCORING_KINDS.items() if key != "checkpoint"} | {
    "factor": "text",
    "reference": "text or null",
    "allow": "list of texts",
    "output": "text",
    "margin_nats": "positive number",
    "resamples": "whole number of at least 1000",
    "noise": "text or null",
    "noise_seeds": "list of whole numbers",
}

PLANNED_GROUPS = ("model.", "scale.", "tokenizer.", "data.", "optimizer.", "trainer.")

# Of lab.plan; tokens is an amount such as 50B, read in lab/planning.py.
PLANNING_KINDS = {key: kind for key, kind in KINDS.items() if key.startswith(PLANNED_GROUPS)} | {
    "tokens": "count such as 50B, or null",
    "gpus": "positive whole number",
    "seeds": "positive whole number",
    "bench": "text or list of texts or null",
    "csv": "text or null",
    "device": "name",
    "peak_tflops": "positive number or null",
    "memory_gb": "positive number or null",
    "utilisation": "share above 0 and up to 1",
    "scaling": "share above 0 and up to 1",
    "bytes_per_token": "positive number",
    "seed": "whole number",
}

GROUPS = {key.partition(".")[0] for key in KINDS if "." in key}


def check_groups(config: dict[str, Any]) -> None:
    """Raises UserError for a group of lab.train without a choice."""
    for group in sorted(GROUPS):
        if not isinstance(config.get(group), dict):
            raise UserError(f"{group} is {config.get(group)!r}: choose one; conf/{group}/ lists them")


def check_values(config: dict[str, Any], kinds: dict[str, str] = KINDS) -> None:
    """Raises UserError for a group without a choice, a key that nothing reads, a value that is not of its kind."""
    if kinds is KINDS:
        check_groups(config)
    for key, value in flatten(config).items():
        if key in kinds:
            if not fits(value, kinds[key]):
                raise UserError(f"{key} is {value!r}: {expected(kinds[key])}")
        elif not key.startswith(tuple(f"{node}." for node in CHECKED_ELSEWHERE)):
            group = key.rpartition(".")[0]
            known = ", ".join(other for other in kinds if other.rpartition(".")[0] == group)
            raise UserError(f"{key} is a key that nothing reads; {group or 'at the top'} has {known}")
