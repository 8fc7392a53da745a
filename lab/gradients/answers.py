"""What a decoder answers behind prompts, and how likely it holds what is wanted there."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from lab.gradients.capture import Example, batches

if TYPE_CHECKING:
    from lab.model.decoder import Decoder


class Answer(NamedTuple):
    """What a decoder makes of one example.

    Attributes:
        loss: -log p(target | prompt) in nats, mean over the target's tokens.
        first: the likeliest token behind the prompt.
        said: whether each of the target's tokens is the likeliest behind those before it.
    """

    loss: float
    first: int
    said: bool


def answers(decoder: "Decoder", examples: Sequence[Example], batch_tokens: int) -> list[Answer]:
    """By forward passes in the decoder's type; of equal logits the lowest id is the likeliest.

    Args:
        batch_tokens: of texts that are read together, at most, if none is longer.
    """
    import torch

    found: dict[int, Answer] = {}
    device = decoder.embedding.device
    for group in batches(examples, batch_tokens, decoder.position):
        here = [examples[number] for number in group]
        tokens = torch.zeros(len(here), max(len(each.read) for each in here), dtype=torch.int64, device=device)
        for row, example in zip(tokens, here, strict=True):
            row[: len(example.read)] = torch.tensor(example.read, device=device)
        with torch.inference_mode():
            hidden = decoder.hidden(tokens)
            for number, states, example in zip(group, hidden, here, strict=True):
                logits = decoder.logits(states[len(example.prompt) - 1 : len(example.read)])
                likeliest = logits.argmax(dim=-1).tolist()
                shares = logits.double().log_softmax(dim=-1)
                own = shares[range(len(example.target)), list(example.target)]
                found[number] = Answer(-float(own.mean()), likeliest[0], likeliest == list(example.target))
    return [found[number] for number in range(len(examples))]
