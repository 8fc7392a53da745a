"""Optimisers. Each is made from the model's named parameters and is one ``torch.optim.Optimizer``."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn


def adamw(
    model: nn.Module, learning_rate: float, betas: Sequence[float], eps: float, weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW over all parameters alike, norms and embedding decayed too, as TinyLlama's code does."""
    return torch.optim.AdamW(
        model.parameters(),
        lr=learning_rate,
        betas=(betas[0], betas[1]),
        eps=eps,
        weight_decay=weight_decay,
        fused=True,
    )


class Muon(torch.optim.Optimizer):
    """Muon for the matrices inside the blocks, AdamW for all else, as one optimiser.

    Muon (Jordan et al. 2024) orthogonalises the momentum of a matrix; embedding and head are matrices too but take
    AdamW, as do vectors. Updates are scaled to AdamW's root mean square (Moonlight, Liu et al. 2025), so that one
    learning rate and one weight decay serve both.
    """

    def __init__(
        self,
        model: nn.Module,
        learning_rate: float,
        betas: Sequence[float],
        eps: float,
        weight_decay: float,
        momentum: float,
    ) -> None:
        named = list(model.named_parameters())
        matrices = [p for name, p in named if name.startswith("blocks.") and p.ndim == 2]
        others = [p for name, p in named if not (name.startswith("blocks.") and p.ndim == 2)]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                matrices,
                lr=learning_rate,
                weight_decay=weight_decay,
                momentum=momentum,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(
                others,
                lr=learning_rate,
                betas=(betas[0], betas[1]),
                eps=eps,
                weight_decay=weight_decay,
                fused=True,
            ),
        ]
        super().__init__([{"params": matrices}, {"params": others}], {"lr": learning_rate})
        # The parts' groups are this optimiser's groups: a schedule that sets their learning rate reaches them.
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]
