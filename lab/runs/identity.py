"""What decides a run's numbers, as plain values, their digest, and the names that follow from them."""

import hashlib
import json
from typing import Any

from lab.model.settings import ModelSettings, ShapeSettings
from lab.runs.settings import RunSettings

FORMAT = 3  # of manifests; raised when what stands in them changes its meaning


def identity(
    config: RunSettings,
    corpus: str,
    tokenizer: str,
    ancestry: dict[str, Any] | None = None,
    extensions: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """What decides a run's numbers, and nothing else: not hardware, loggers, paths, or how often it logs.

    Args:
        config: with ``trainer.compute_dtype`` and ``compile`` no longer ``auto``.
        corpus, tokenizer: digests of what their paths hold.
        ancestry: of a child, what its start is: see :mod:`lab.runs.parents`.
        extensions: of a child, those that it is trained with.
    """
    trainer = config.trainer
    order = order_identity(config, corpus, tokenizer)
    return {
        "model": config.model.identity(),
        "scale": config.scale.identity(),
        "data": order["data"] | {"isolate_documents": config.data.isolate_documents},
        "tokenizer": order["tokenizer"],
        "optimizer": config.optimizer.identity(),
        "schedule": config.schedule.identity(),
        "seed": config.seed,
        "kernel": config.kernel,
        "compute_dtype": trainer.compute_dtype,
        "compile": trainer.compile,
        "gradient_clip": trainer.gradient_clip,
        "deterministic": trainer.deterministic,
        # It changes no bit unless blocks are compiled.
        **({"recompute": trainer.recompute} if trainer.compile and trainer.recompute != "none" else {}),
        **({"adapter": config.adapter.identity()} if config.adapter is not None else {}),
        **({"objective": config.objective.identity()} if config.objective is not None else {}),
        **({"start": ancestry} if ancestry else {}),
        **({"extensions": extensions} if extensions else {}),
    }


def order_identity(config: RunSettings, corpus: str, tokenizer: str) -> dict[str, Any]:
    """What decides the blocks of training: two runs of the same order identity read the same ones."""
    data = config.data.identity()
    del data["isolate_documents"]
    return {
        "data": data | {"corpus": data["corpus"] | {"digest": corpus}},
        "tokenizer": config.tokenizer.identity() | {"digest": tokenizer},
        "context": config.scale.context,
    }


def digest(identity: dict[str, Any]) -> str:
    """sha256 of the identity's canonical JSON."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def variant(model: ModelSettings, scale: ShapeSettings) -> str:
    """What a model is called, from what it is: ``rope``, ``narrow_window_nope``, ``window20_alibi``."""
    window, position = model.attention.window, model.position.name
    if not model.attention.causal:
        return f"{model.attention.name}_{position}"
    if window is None:
        return str(position)
    named = {getattr(scale, f"{name}window", None): f"{name}window" for name in ("narrow_", "")}
    return f"{named.get(window, f'window{window}')}_{position}"


def shape_label(scale: ShapeSettings) -> str:
    """E.g. ``8x192-C256``: layers x width, and the context."""
    return f"{scale.layers}x{scale.width}-C{scale.context}"


def run_name(config: RunSettings, digest: str) -> str:
    """E.g. ``nope-8x192-C256-sotu-seed0-1a2b3c4d``."""
    parts = (variant(config.model, config.scale), shape_label(config.scale), config.data.corpus.label)
    return f"{'-'.join(parts)}-seed{config.seed}-{digest[:8]}"
