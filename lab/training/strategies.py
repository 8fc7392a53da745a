"""How Lightning spreads a run over ranks: DDP and FSDP2, in processes that somebody else has started."""

import warnings
from typing import Any

import torch
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict, set_optimizer_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel, OptimStateKeyType

from lab.cluster.ranks import Ranks


class Started(ClusterEnvironment):
    """Tells Lightning what :mod:`lab.cluster.ranks` has found out; the connection is made already."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self.ranks = ranks

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return self.ranks.address

    @property
    def main_port(self) -> int:
        return self.ranks.port

    @staticmethod
    def detect() -> bool:
        return False  # it is given, never looked for

    def world_size(self) -> int:
        return self.ranks.world

    def set_world_size(self, size: int) -> None:
        pass

    def global_rank(self) -> int:
        return self.ranks.rank

    def set_global_rank(self, rank: int) -> None:
        pass

    def local_rank(self) -> int:
        return self.ranks.local_rank

    def node_rank(self) -> int:
        return self.ranks.rank // self.ranks.local_world


class FullySharded(ModelParallelStrategy):
    """FSDP2, saving and loading the lab's own checkpoints: whole tensors, whatever the number of ranks.

    Lightning's strategy saves whole tensors through a CheckpointIO, but loads only files of its own.
    """

    def __init__(self, ranks: int) -> None:
        super().__init__(data_parallel_size=ranks, tensor_parallel_size=1, save_distributed_checkpoint=False)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        checkpoint = self.checkpoint_io.load_checkpoint(checkpoint_path)
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.model, checkpoint["state_dict"], options=options)
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            named = FullyShardedDataParallel.rekey_optim_state_dict(state, OptimStateKeyType.PARAM_NAME, self.model)
            set_optimizer_state_dict(self.model, optimizer, named, options=options)
            for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
                # torch turns what are tuples into lists, and a checkpoint would no longer be the same.
                group.update({key: value for key, value in saved.items() if key != "params"})
        return checkpoint


def strategy_of(name: str, ranks: Ranks) -> Strategy | str:
    """Lightning's strategy for ``trainer.strategy``."""
    if ranks.world == 1:
        return "auto"
    if name == "fsdp":
        return FullySharded(ranks.world)
    return DDPStrategy(find_unused_parameters=False, gradient_as_bucket_view=True, broadcast_buffers=False)


def shard(decoder: torch.nn.Module, mesh: Any) -> None:
    """Shard a decoder's weights over a mesh of ranks, block by block (FSDP2); computation stays as it is."""
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    # Losses are a view of their chunks' and nothing changes them in place, of which torch warns.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    for block in decoder.blocks:  # type: ignore[union-attr]
        fully_shard(block, mesh=mesh)
    fully_shard(decoder, mesh=mesh)
    for method in ("hidden", "next_token_losses"):
        register_fsdp_forward_method(decoder, method)
