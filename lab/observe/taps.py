"""Read and change what is inside a decoder, from outside, with torch's own forward hooks: the decoder knows nothing.

    with taps.reading(decoder, ["embedding", "blocks.3"]) as seen:
        decoder.hidden(tokens)
        seen["blocks.3"]  # the states behind block 3: batch x time x width

A place is a module, called as torch calls it (``blocks.3``, ``blocks.3.attention``, ``blocks.0.feed_forward.down``,
``norm``), and means its output; ``embedding`` means what enters the first block. A pass goes from the first block to
``norm``. Of two taps at one place the one entered first acts first, so a change is seen by a reading inside of it.
"""

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from lab.base.errors import UserError
from lab.model.decoder import Decoder

EMBEDDING = "embedding"  # a parameter, not a module


def states(decoder: Decoder) -> list[str]:
    """The places of what enters the first block and leaves each: layer 0, layer 1, and so on."""
    return [EMBEDDING, *(f"blocks.{index}" for index in range(len(decoder.blocks)))]


class Seen(dict[str, Tensor]):
    """The tensors of the last pass by place. Raises UserError for a place that it did not reach or was not to read."""

    def __missing__(self, name: str) -> Tensor:
        raise UserError(f"nothing was read at {name!r}: name it among the places to read, and run the decoder first")


@contextmanager
def reading(decoder: Decoder, names: Iterable[str], detach: bool = True) -> Iterator[Seen]:
    """Meanwhile each pass leaves the tensors of some places in what is yielded, and forgets those of the pass before.

    Nothing is copied, so numbers do not change and a layer costs the memory of its output: do not write into them.

    Args:
        names: places; one name alone will do.
        detach: False keeps the graph, to take gradients of something with respect to them.

    Raises:
        UserError: as :func:`changing`.
    """
    seen = Seen()

    def keep(name: str, tensor: Tensor) -> None:
        seen[name] = tensor.detach() if detach else tensor

    chosen = (names,) if isinstance(names, str) else names
    with _tapped(decoder, {name: partial(keep, name) for name in chosen}, begin=seen.clear):
        yield seen


@contextmanager
def changing(decoder: Decoder, changes: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Meanwhile each place gives function(tensor) instead of its tensor, in every pass.

    A function returns a new tensor and leaves the given one alone. If gradients are taken, they go through it.

    Raises:
        UserError: no such place (names near ones); a pass that does not reach it, or finds something else than one
            tensor there; a place inside a block that is compiled or formed again in the backward pass.
        ValueError: a function returns no tensor of the same shape, type and device.
    """

    def change(name: str, tensor: Tensor) -> Tensor:
        new: Any = changes[name](tensor)
        if not isinstance(new, Tensor):
            raise ValueError(f"the change of {name} returned a {type(new).__name__}: let it return a tensor")
        if (new.shape, new.dtype, new.device) != (tensor.shape, tensor.dtype, tensor.device):
            raise ValueError(
                f"the change of {name} returned {new.dtype} of {tuple(new.shape)} on {new.device} for {tensor.dtype} "
                f"of {tuple(tensor.shape)} on {tensor.device}"
            )
        return new

    with _tapped(decoder, {name: partial(change, name) for name in changes}, begin=lambda: None):
        yield


@contextmanager
def _tapped(
    decoder: Decoder, acts: Mapping[str, Callable[[Tensor], Tensor | None]], begin: Callable[[], object]
) -> Iterator[None]:
    """Let acts see, and replace unless they return None, what is at their places; ``begin`` is called as a pass is."""
    modules = _modules(decoder, acts)
    first = decoder.blocks[0]
    reached: set[str] | None = None  # in this pass; None before the first

    def start(module: nn.Module, given: Any) -> None:
        nonlocal reached
        reached = set()
        begin()

    def act(name: str, found: Any) -> Tensor | None:
        if not isinstance(found, Tensor):
            raise UserError(f"{name} gives a {type(found).__name__}, not one tensor: name a place inside or around it")
        if reached is not None:
            reached.add(name)
        return acts[name](found)

    def enter(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        new = act(EMBEDDING, given[0])
        return None if new is None else (new, *given[1:])

    def leave(name: str, module: nn.Module, given: Any, found: Any) -> Tensor | None:
        return act(name, found)

    def end(*_: Any) -> None:
        missed = [name for name in acts if reached is not None and name not in reached]
        if missed:
            raise UserError(
                f"{', '.join(missed)}: a pass did not call it, so there is nothing to read or change; name a module "
                "that the decoder calls, such as blocks.0 or norm"
            )

    with ExitStack() as hooks:
        hooks.callback(first.register_forward_pre_hook(start).remove)
        for name, module in modules.items():
            if name == EMBEDDING:
                hooks.callback(first.register_forward_pre_hook(enter).remove)
            else:
                hooks.callback(module.register_forward_hook(partial(leave, name)).remove)
        hooks.callback(decoder.norm.register_forward_hook(end).remove)
        yield
    end()  # for a pass that was left before the norm


def _modules(decoder: Decoder, names: Collection[str]) -> dict[str, nn.Module]:
    """The modules of places. Raises UserError for a place that there is not, or whose hooks torch would pass over."""
    if hasattr(decoder, "_orig_mod"):
        raise UserError("the decoder was given as torch.compile made it: give the one it was made of, and run that")
    known = {name: module for name, module in decoder.named_modules() if name} | {EMBEDDING: decoder}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or [EMBEDDING, "blocks.0", "norm"]
            raise UserError(f"{name!r} is no place in this decoder: did you mean {' or '.join(near)}?")
        parts = name.split(".")
        for depth in range(len(parts)):
            around = ".".join(parts[:depth])
            module = decoder.get_submodule(around)
            remedy = f"name {around} itself" if around else "give a decoder that is not compiled"
            if module._compiled_call_impl is not None:  # torch does not look whether hooks came since it was compiled
                raise UserError(f"{name} is inside compiled code; set trainer.compile=false, or {remedy}")
            if "forward" in vars(module):  # called again in the backward pass, when a tap may be gone: wrong gradients
                raise UserError(f"{name} is formed again in the backward pass; set trainer.recompute=none, or {remedy}")
    return {name: known[name] for name in names}
