"""Initial weights by name: a parameter's value depends on (seed, name, shape, rule) and on nothing else.

So every variant of one seed starts from the same shared weights, whatever else it holds, in whatever order its
modules were made. Values are drawn in float64 on the CPU and cast: float32 draws differ between instruction sets.
"""

import hashlib
import math
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn


def standard_deviation(name: str, width: int, layers: int) -> float | None:
    """TinyLlama's rule (lit_gpt/model.py, after GPT-NeoX) for the parameter ``name``; ``None`` means ones.

    sqrt(2 / (5 width)) for embedding, head and the matrices that read the residual stream;
    1 / (sqrt(width) layers) for those that write to it.
    """
    if "norm" in name:
        return None
    if name.endswith(("attention.output.weight", "feed_forward.down.weight")):
        return 1 / (math.sqrt(width) * layers)
    return math.sqrt(2 / (5 * width))


def draw(seed: int, name: str, shape: tuple[int, ...], deviation: float | None) -> Tensor:
    """The float32 initial value of one parameter."""
    if deviation is None:
        return torch.ones(shape, dtype=torch.float32, device="cpu")
    key = f"{seed}/{name}/{'x'.join(map(str, shape))}/normal({deviation!r})"
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    # torch's CPU generator uses the lower 32 bits: two of a model's few hundred draws coincide once in 100,000 models.
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest, "little"))
    values = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    return (values * deviation).to(torch.float32)


def initialise(model: nn.Module, seed: int, width: int, layers: int) -> None:
    """Fill every parameter of ``model`` in place; on the meta device there is nothing to fill."""

    def fill(named: tuple[str, Tensor]) -> None:
        name, parameter = named
        values = draw(seed, name, tuple(parameter.shape), standard_deviation(name, width, layers))
        parameter.detach().copy_(values)

    # A generator draws with one thread, and each parameter has its own.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(fill, ((name, each) for name, each in model.named_parameters() if not each.is_meta)))


def fingerprints(model: nn.Module) -> dict[str, str]:
    """A sha256 of each parameter's float32 bytes, by name: equal values, equal hashes."""
    return {
        name: hashlib.sha256(parameter.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
        for name, parameter in model.named_parameters()
    }
