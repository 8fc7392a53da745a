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
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lab.experiment.compose import configuration_folder
from lab.components import make
from lab.model.precision import compute_dtype
from lab.model.recompute import recompute
from lab.runs.run import Config, build_decoder


def composed(*overrides: str) -> Config:
    config: Any = OmegaConf.to_container(compose("train", list(overrides)), resolve=True)
    config["trainer"]["compute_dtype"] = compute_dtype(config["trainer"]["compute_dtype"], "cpu")
    return config


def held(what: str) -> int:
    """Bytes of this process: ``VmRSS`` now, ``VmHWM`` at most. Not ru_maxrss, which counts from the parent's size."""
    found = re.search(rf"^{what}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def train(config: Config) -> None:
    """One optimiser step of one micro-batch, which makes the moments, and then one of two, as training does it."""
    scale = config["scale"]
    decoder = build_decoder(config)
    recompute(decoder, config["trainer"]["recompute"])
    optimizer = make(config["optimizer"], model=decoder)
    generator = torch.Generator().manual_seed(0)
    for micro_batches in (1, 2):
        for _ in range(micro_batches):
            shape = (scale["micro_batch"], scale["context"] + 1)
            tokens = torch.randint(0, scale["vocabulary"], shape, generator=generator)
            losses = decoder.next_token_losses(decoder.hidden(tokens[:, :-1]), tokens[:, 1:])
            (losses.mean() / micro_batches).backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def main() -> None:
    with initialize_config_dir(configuration_folder(), version_base="1.3"):
        config = composed(*sys.argv[1:])
        train(composed("experiment=smoke", f"trainer.compute_dtype={config['trainer']['compute_dtype']}"))
    gc.collect()
    before = held("VmRSS")
    train(config)
    print(json.dumps({"bytes": held("VmHWM") - before, "compute_dtype": config["trainer"]["compute_dtype"]}))


if __name__ == "__main__":
    main()
