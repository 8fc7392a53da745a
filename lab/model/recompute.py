"""Activations that are formed again in the backward pass instead of kept: less memory for more computation."""

from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from lab.base.errors import UserError
from lab.model.decoder import Decoder

CHOICES = ("none", "selective", "all")
# What costs most to form again; norms, rotations, casts and the products of SwiGLU are nearly free.
# Not products of batches: a kernel that writes scores out has them.
KEPT = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)


def recompute(decoder: Decoder, choice: str) -> None:
    """Let each block keep all its activations (``none``), its matrix products (``selective``) or its input (``all``).

    Numbers stay the same, to the bit unless blocks are compiled, which fuses other operations then.

    Raises:
        UserError: no such choice.
    """
    if choice not in CHOICES:
        raise UserError(f"recompute is {choice!r}: choose one of {', '.join(CHOICES)}")
    if choice == "none":
        return
    contexts: dict[str, Any] = {}
    if choice == "selective":
        contexts["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    for block in decoder.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, **contexts)


def _policy(context: Any, operation: Any, *arguments: Any, **keywords: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in KEPT else CheckpointPolicy.PREFER_RECOMPUTE
