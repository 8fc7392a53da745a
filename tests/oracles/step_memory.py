"""Peak resident memory of training steps, measured: python step_memory.py KEY=VALUE ... prints bytes, and the type.

What the process holds before the decoder is made is taken off; the libraries' code has been loaded by then, with a step
of a very small decoder. To be run with MALLOC_MMAP_THRESHOLD_, so that what is freed is given back: by default glibc
keeps freed memory in pieces that do not fit again, and the process holds up to 1.7 times what is in use.
"""

import gc
import json
import re
import sys
from pathlib import Path

import torch

from lab.base.parts import build
from lab.experiment.compose import settings_of
from lab.experiment.settings import TrainSettings
from lab.model.building import build_decoder
from lab.model.precision import compute_dtype
from lab.model.recompute import recompute


def composed(*overrides: str) -> TrainSettings:
    return settings_of("train", TrainSettings, overrides)


def held(what: str) -> int:
    """Bytes of this process: ``VmRSS`` now, ``VmHWM`` at most. Not ru_maxrss, which counts from the parent's size."""
    found = re.search(rf"^{what}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def train(config: TrainSettings, dtype: str) -> None:
    """One optimiser step of one micro-batch, which makes the moments, and then one of two, as training does it."""
    scale = config.scale
    decoder = build_decoder(config.model, scale, kernel=config.kernel, compute_dtype=dtype, seed=config.seed)
    recompute(decoder, config.trainer.recompute)
    optimizer = build("optimizer", config.optimizer, model=decoder)
    generator = torch.Generator().manual_seed(0)
    for micro_batches in (1, 2):
        for _ in range(micro_batches):
            shape = (scale.micro_batch, scale.context + 1)
            tokens = torch.randint(0, scale.vocabulary, shape, generator=generator)
            losses = decoder.next_token_losses(decoder.hidden(tokens[:, :-1]), tokens[:, 1:])
            (losses.mean() / micro_batches).backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def main() -> None:
    config = composed(*sys.argv[1:])
    dtype = compute_dtype(config.trainer.compute_dtype, "cpu")
    train(composed("experiment=smoke"), dtype)
    gc.collect()
    before = held("VmRSS")
    train(config, dtype)
    print(json.dumps({"bytes": held("VmHWM") - before, "compute_dtype": dtype}))


if __name__ == "__main__":
    main()
