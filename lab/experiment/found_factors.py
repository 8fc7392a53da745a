"""Factors that searches have found for a run, put together: LongRoPE's sets for short and long texts."""

from typing import Any

from lab.base.errors import UserError
from lab.extension.longrope import LongRoPE
from lab.runs.derived import Derived
from lab.runs.model import Model


def put_together(parent: Model, rule: LongRoPE) -> tuple[LongRoPE, dict[str, Any]]:
    """The factors that were searched for a run, a set for each length, and of which derived runs they are.

    Args:
        rule: has its context, the lengths of all sets but the last, and first tokens if these are not to be as found.

    Raises:
        UserError: there is none that was searched at a length, or more than one.
    """
    if rule.up_to and rule.up_to[-1] >= rule.reached:
        raise UserError(
            f"extension.up_to is {rule.up_to}, and the last set is for texts of up to {rule.reached:,} tokens: give "
            "shorter ones"
        )
    sets: list[tuple[Derived, LongRoPE]] = []
    for length in (*rule.up_to, rule.reached):
        found = [each for each in map(Derived, parent.derived()) if _searched_at(each, rule.factor, length)]
        asked = f"searched for s = {rule.factor:g} at {length:,} tokens"
        if not found:
            raise UserError(
                f"{parent.path} has no derived run that was {asked}, whose factors extension.search=found puts in: "
                f"make it first (extension.search=paper extension.factor={rule.factor:g} search.length={length})"
            )
        if len(found) > 1:
            names = ", ".join(each.path.name for each in found)
            raise UserError(
                f"{parent.path} has {len(found)} derived runs that were {asked}, {names}: remove all but one"
            )
        found[0].check()
        last = found[0].extensions[-1]
        assert isinstance(last, LongRoPE)
        sets.append((found[0], last))
    attention = [each.attention_factors[0] if each.attention_factors else 1.0 for _, each in sets]
    values: dict[str, Any] = {
        "search": None,
        "factors": [each.factors[0] for _, each in sets],
        "attention_factors": attention if any(each != 1 for each in attention) else [],
        "kept": rule.kept or [sum(each.kept) for _, each in sets],
    }
    documents = {
        sha256: name
        for run, _ in sets
        for sha256, name in zip(*(run.manifest["found"][key] for key in ("documents_sha256", "documents")), strict=True)
    }
    record = {
        "documents": [*documents.values()],
        "documents_sha256": [*documents],
        "sets": [run.path.name for run, _ in sets],
    }
    return rule.with_values(**values), record


def _searched_at(run: Derived, factor: float, length: int) -> bool:
    asked = (run.manifest.get("asked") or {}).get("extension", {})
    searched = asked.get("name") == LongRoPE.model_fields["name"].default and asked.get("search") in ("paper", "code")
    return searched and asked["factor"] == factor and run.manifest["found"]["length_tokens"] == length
