"""What Lightning trains: a decoder's loss, step by step."""

import math
from collections.abc import Callable
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lab.base.errors import UserError
from lab.base.failpoints import point
from lab.cluster.ranks import Ranks
from lab.data.stream.fingerprint import Fingerprint
from lab.data.stream.module import Batch
from lab.model.decoder import Decoder
from lab.model.recompute import recompute
from lab.training.objectives import Objective, next_token
from lab.training.schedules import Factor
from lab.training.strategies import shard


class Training(lightning.LightningModule):
    """Mean loss over micro-batches, accumulated to one optimiser step.

    Where not all places of a micro-batch are learned, its loss is the mean over those that are, whatever their number.

    Args:
        decoder: trained in place.
        make_optimizer: from the decoder to its optimiser.
        factor: learning-rate factor at each optimiser step.
        gradient_clip: largest global norm of the gradient.
        compiled: run each block through ``torch.compile``, one graph for a shape.
        recomputed: of :data:`lab.model.recompute.CHOICES`.
        ranks: that train together; every one has its micro-batches of each step.
        objective: what is to be told of a block.

    Attributes:
        fingerprint: of the global blocks that all ranks have trained on at the last optimiser step.
        step_loss: mean loss of the last optimiser step's micro-batches of all ranks, nats per token.
        gradient_norm: global norm at the last optimiser step, before clipping.

    Raises:
        UserError: from a step whose loss or gradient norm is not finite; names the step and its blocks. From a
            validation without a token that is learned.
    """

    def __init__(
        self,
        decoder: Decoder,
        make_optimizer: Callable[[Decoder], torch.optim.Optimizer],
        factor: Factor,
        gradient_clip: float,
        compiled: bool,
        recomputed: str,
        ranks: Ranks,
        objective: Objective = next_token,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.make_optimizer = make_optimizer
        self.factor = factor
        self.gradient_clip = gradient_clip
        self.ranks = ranks
        self.objective = objective
        self.fingerprint = Fingerprint()
        self._read = Fingerprint()  # by this rank; the first's starts with what a checkpoint holds
        self.step_loss = float("nan")
        self.gradient_norm = float("nan")
        self._losses: list[Tensor] = []
        self._blocks: list[int] = []
        self._validation: dict[int, tuple[Tensor, int]] = {}  # of each batch the sum of its losses, and their number
        recompute(decoder, recomputed)
        if compiled:
            for block in decoder.blocks:
                block.compile(dynamic=False)

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Losses [batch, C] of a batch of blocks [batch, C + 1], and which of them are learned; None: all."""
        asked, documents = self.objective(batch), batch.get("documents")
        hidden = self.decoder.hidden(asked.inputs, documents=None if documents is None else documents[:, :-1])
        return self.decoder.next_token_losses(hidden, asked.targets), asked.learned

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        point("accumulation")
        losses, learned = self.losses(batch)
        loss = losses.mean() if learned is None else (losses * learned).sum() / max(1, int(learned.sum()))
        self._losses.append(loss.detach())
        blocks = batch["blocks"].tolist()
        self._blocks += blocks
        for number, tokens in zip(blocks, batch["tokens"].cpu().numpy(), strict=True):
            self._read.add(number, tokens)
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        norm = torch.nn.utils.clip_grad_norm_(self.decoder.parameters(), self.gradient_clip)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        told = self.ranks.gather((torch.stack(self._losses).mean().item(), self._blocks, self._read.total))
        losses, blocks, totals = zip(*told, strict=True)
        self.step_loss, self.gradient_norm = sum(losses) / len(losses), norm.item()
        self.fingerprint = Fingerprint(sum(totals) % 2**128)
        if not (math.isfinite(self.step_loss) and math.isfinite(self.gradient_norm)):
            first, last = min(map(min, blocks)), max(map(max, blocks))
            raise UserError(
                f"loss is {self.step_loss} and the gradient's norm {self.gradient_norm} at optimiser step "
                f"{self.global_step + 1}, blocks {first} to {last}: stopped before the "
                "weights changed; lower scale.learning_rate or raise scale.warmup_steps"
            )
        self._losses, self._blocks = [], []

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.trainer.datamodule.trained(batch)  # type: ignore[attr-defined]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["order_fingerprint"] = self.fingerprint.hex

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.fingerprint = Fingerprint(int(checkpoint["order_fingerprint"], 16))
        self._read = Fingerprint(self.fingerprint.total if self.ranks.first else 0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        point("validation")
        losses, learned = self.losses(batch)
        learned = torch.ones_like(losses) if learned is None else learned
        self._validation[int(batch["blocks"][0])] = (losses.double() * learned).sum(), int(learned.sum())

    def on_validation_epoch_end(self) -> None:
        mine = {first: (total.item(), count) for first, (total, count) in self._validation.items()}
        batches: dict[int, tuple[float, int]] = {}
        for each in self.ranks.gather(mine):
            batches |= each  # a batch that two ranks have scored counts once
        totals, counts = zip(*(batches[first] for first in sorted(batches)), strict=True)
        if not sum(counts):
            raise UserError("no token of the validation blocks is learned: raise scale.validation_blocks")
        self.log("validation_loss_nats", sum(totals) / sum(counts), logger=False)
        self._validation = {}

    def configure_model(self) -> None:
        if self.device_mesh is not None:  # of FSDP2
            shard(self.decoder, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> dict[str, object]:  # type: ignore[override]
        optimizer = self.make_optimizer(self.decoder)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
