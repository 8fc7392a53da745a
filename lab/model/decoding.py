"""Decoding with cached keys and values, greedy or drawn, for every position encoding and window, at any length."""

from collections.abc import Collection, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.model.decoder import Block, Decoder
from lab.model.position import PositionEncoding


class LayerCache:
    """The keys and values that one layer's next queries may see.

    Keys are kept rotated, where the encoding rotates, but for one by which they turn anew with every query.

    With a window of W keys, the query's own included, these are the last W - 1: memory does not grow beyond.
    """

    def __init__(self, window: int | None) -> None:
        self.window = window
        self.keys: Float[Tensor, "batch kv_heads keys head_dim"] | None = None
        self.values: Float[Tensor, "batch kv_heads keys head_dim"] | None = None

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The kept keys and values with the new ones behind them; of these, what later queries need is kept."""
        if self.keys is not None and self.values is not None:
            keys, values = torch.cat((self.keys, keys), dim=2), torch.cat((self.values, values), dim=2)
        first = 0 if self.window is None else max(0, keys.shape[2] - self.window + 1)
        self.keys, self.values = keys, values
        if first:  # copied, or the slice would hold on to the memory of all
            self.keys, self.values = keys[:, :, first:].clone(), values[:, :, first:].clone()
        return keys, values


class Cache:
    """What a decoder keeps of the tokens it has read.

    Attributes:
        length: tokens read so far; the next token stands at this position.
        layers: one :class:`LayerCache` a layer.
    """

    def __init__(self, decoder: Decoder) -> None:
        if not decoder.causal:
            raise ValueError("a decoder that sees what comes after cannot read on: it would have to read all again")
        self._windows = [block.attention.window for block in decoder.blocks if isinstance(block, Block)]
        self._tokens: Int[Tensor, "batch tokens"] | None = None
        self._clear()

    def _clear(self) -> None:
        self.length = 0
        self.layers = [LayerCache(window) for window in self._windows]

    def unread(self, tokens: Int[Tensor, "batch new"], position: PositionEncoding) -> Int[Tensor, "batch unread"]:
        """The tokens that have to be read: the new ones, or all from the first on, if the keys of those before are
        turned otherwise in a text of this length."""
        if not position.depends_on_length:
            return tokens
        before, every = self.length, tokens if self._tokens is None else torch.cat((self._tokens, tokens), dim=1)
        self._tokens = every
        if position.version(before) == position.version(before + tokens.shape[1]):
            return tokens
        self._clear()
        return every


@torch.inference_mode()
def greedy(decoder: Decoder, prompts: Int[Tensor, "batch time"], new_tokens: int) -> Int[Tensor, "batch new_tokens"]:
    """The most likely next token, ``new_tokens`` times, after prompts of one length; of equal ones the lowest id.

    Each token is read once: the cost of a step grows with the keys that it sees, not with their square.

    Raises:
        ValueError: a prompt without tokens.
    """
    if prompts.shape[1] < 1:
        raise ValueError("a prompt needs at least one token")
    cache = Cache(decoder)
    tokens, chosen = prompts, []
    for _ in range(new_tokens):
        hidden = decoder.hidden(tokens, cache=cache)
        tokens = decoder.logits(hidden[:, -1:]).argmax(dim=-1)
        chosen.append(tokens)
    return torch.cat(chosen, dim=1) if chosen else prompts[:, :0]


@torch.inference_mode()
def sample(
    decoder: Decoder,
    prompt: Int[Tensor, "1 time"],
    new_tokens: int,
    *,
    temperature: float | None,
    top_p: float = 1.0,
    seed: int = 0,
) -> Iterator[int]:
    """The tokens that follow a prompt, one at a time, each drawn from what the decoder says.

    Args:
        temperature: divides the logits; None: the most likely token, of equal ones the lowest id.
        top_p: drawn from the fewest most likely tokens that together have this share of the probability (nucleus
            sampling, Holtzman et al. 2020, arXiv 1904.09751).
        seed: of the draws, which are made on the CPU: the same on every device that gives the same logits.

    Raises:
        ValueError: a prompt without tokens, or more than one.
    """
    if prompt.shape[0] != 1 or prompt.shape[1] < 1:
        raise ValueError(f"one prompt of at least one token is needed, not shape {tuple(prompt.shape)}")
    draw = torch.Generator().manual_seed(seed % 2**63)
    cache = Cache(decoder)
    tokens = prompt
    for _ in range(new_tokens):
        logits = decoder.logits(decoder.hidden(tokens, cache=cache)[:, -1:])[:, 0]
        tokens = _chosen(logits, temperature, top_p, draw).to(prompt)[:, None]
        yield int(tokens)


@torch.inference_mode()
def samples(
    decoder: Decoder,
    prompt: Int[Tensor, "1 time"],
    count: int,
    new_tokens: int,
    *,
    temperature: float,
    top_p: float = 1.0,
    seed: int = 0,
    ends: Collection[int] = (),
) -> list[list[int]]:
    """Several texts that follow one prompt, drawn together: each up to a token of ``ends``, which is left out.

    Args and Raises as :func:`sample`.
    """
    if prompt.shape[0] != 1 or prompt.shape[1] < 1:
        raise ValueError(f"one prompt of at least one token is needed, not shape {tuple(prompt.shape)}")
    draw = torch.Generator().manual_seed(seed % 2**63)
    cache = Cache(decoder)
    tokens = prompt.expand(count, -1)
    found: list[list[int]] = [[] for _ in range(count)]
    going = set(range(count))
    for _ in range(new_tokens):
        logits = decoder.logits(decoder.hidden(tokens, cache=cache)[:, -1:])[:, 0]
        chosen = _chosen(logits, temperature, top_p, draw)
        for number in sorted(going):
            token = int(chosen[number])
            if token in ends:
                going.remove(number)
            else:
                found[number].append(token)
        if not going:
            break
        tokens = chosen.to(prompt)[:, None]
    return found


def _chosen(
    logits: Float[Tensor, "rows vocabulary"], temperature: float | None, top_p: float, draw: torch.Generator
) -> Int[Tensor, "rows"]:
    """A token of each row: the likeliest, or one that is drawn from the nucleus."""
    logits = logits.double().cpu()
    if temperature is None:
        return logits.argmax(dim=-1)
    # Less the largest, which divided by a temperature next to nothing is still a number.
    scaled = (logits - logits.amax(dim=-1, keepdim=True)) / temperature
    probabilities, ids = torch.softmax(scaled, dim=-1).sort(dim=-1, descending=True, stable=True)
    before = probabilities.cumsum(-1) - probabilities
    probabilities = torch.where(before < top_p, probabilities, 0.0)
    return ids.gather(-1, torch.multinomial(probabilities, 1, generator=draw))[:, 0]
