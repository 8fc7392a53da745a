"""The model card of an exported model: what it is, how it was made, how to load it, what it is not."""

import json
from collections.abc import Mapping
from typing import Any

from lab.exchange.exporting import query_factor, rope_rule
from lab.exchange.names import slug
from lab.runs.derived import Derived
from lab.runs.edited import Edited
from lab.runs.identity import variant
from lab.runs.model import Model
from lab.runs.run import Run


def card(model: Model, step: int | None) -> str:
    """README.md of an exported folder."""
    config, facts = model.config, model.facts
    factor, window = query_factor(model), model.window
    alibi = config.model.position.name == "alibi"
    trusting = ", trust_remote_code=True" if alibi else ""
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "license: other",
        "---",
        "",
        f"# {model.path.resolve().name}",
        "",
        f"A decoder with the position encoding `{config.model.position.name}` and "
        f"{'full attention' if window is None else f'attention to the last {window} tokens'}, exported by the "
        "context-window lab.",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'model = AutoModelForCausalLM.from_pretrained("FOLDER"{trusting})',
        f'tokenizer = AutoTokenizer.from_pretrained("FOLDER"{trusting})',
        "```",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in _facts(model, facts, step)),
        "",
        f"{_context(model, facts)} {_reached(model)} It reads longer texts; what happens there is "
        "what the lab studies.",
        "",
        "A text that spells a special token is letters to the lab, and that token to `AutoTokenizer`.",
        "",
        "Licence: that of the weights is for whoever trained or imported them to say; of imported weights it is that "
        "of their source.",
    ]
    rule = rope_rule(model)
    if rule is not None:
        told = f"RoPE turns by `{rule.label}`, as `rope_parameters` say"
        lines += ["", f"{told}; the frequencies are those of the context before."]
    folded = [each.label for each in model.extensions if not each.turns]
    if folded:
        told = ", ".join(folded)
        lines += ["", f"What it was extended with ({told}) is folded in: queries are multiplied by {factor:g}."]
    if model.edits:
        lines += ["", f"Its weights were edited, so that it says some facts otherwise: {', '.join(model.edits)}."]
    return "\n".join(lines) + "\n"


def _facts(model: Model, facts: dict[str, Any], step: int | None) -> list[tuple[str, str]]:
    config = model.config
    scale = config.scale
    told = [
        ("variant", model.label),
        ("shape", f"{scale.layers} layers of {scale.width}, {scale.heads} heads and {scale.kv_heads} key heads"),
        ("digest", f"`{model.digest}`"),
    ]
    if "source" in facts:
        return [*told, *_source(facts["source"])]
    told.append(("optimiser step", f"{step:,}" if step is not None else "the last"))
    told.append(("tokens trained on", f"{facts['tokens']:,}"))
    told.append(("corpus", f"{config.data.corpus.label}, digest `{facts['corpus']['digest'][:12]}`"))
    told.append(("seed", str(config.seed)))
    told.append(("computed in", model.compute_dtype))
    if "parent" in facts and "start" in facts["identity"]:
        parent = facts["parent"]
        told.append(
            ("trained on from", f"`{parent['name']}` at step {parent['step']:,}, digest `{parent['digest'][:12]}`")
        )
    told.append(("optimiser", f"`{json.dumps(config.optimizer.plain())}`"))
    origin = model.parent if isinstance(model, Derived) else model
    rows = origin.metrics(("step", "validation_loss_nats")) if isinstance(origin, Run) else []
    losses = [row["validation_loss_nats"] for row in rows if row["validation_loss_nats"] is not None]
    if losses:
        of = (
            ""
            if origin is model
            else f" of the parent, without the {'edit' if isinstance(model, Edited) else 'extension'}"
        )
        told.append((f"validation loss{of}", f"{losses[-1]:.4f} nats per token"))
    return told


def _source(source: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of an imported model."""
    files = ", ".join(f"`{name}` (sha256 {each[:12]}...)" for name, each in source["files"].items())
    told = [("imported from", f"{slug(source['name'])}: {files}")]
    if "stored_as" in source:
        told.append(("stored there as", f"{', '.join(source['stored_as'])}; here float32, of the same value"))
        told.append(("trained there as", f"`{source['model']}`"))
    return told


def _reached(model: Model) -> str:
    """What max_position_embeddings is."""
    if rope_rule(model) is None:
        return "`max_position_embeddings` says that."
    return "`max_position_embeddings` is the length that transformers' rule of RoPE asks for there."


def _context(model: Model, facts: Mapping[str, Any]) -> str:
    """What C is."""
    context = f"{model.config.scale.context:,} tokens"
    source, read = facts.get("source"), variant(model.config.model, model.config.scale)
    if source is None:
        return f"It was trained on contexts of {context}."
    if source.get("model", read) == read:
        return f"Its context is {context}."
    return (
        f"Its context is {context}. Its weights are read as `{read}` and were trained as `{source['model']}`: "
        "nothing was trained to read them so."
    )
