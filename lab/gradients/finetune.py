"""Fine-tuning of one matrix on a few facts: steps of an optimiser against the gradient of their mean loss."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lab.base.tables import Row
from lab.gradients.capture import Example, NotFinite, Place, batches, capture

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from lab.model.decoder import Decoder


def finetune(
    decoder: "Decoder",
    examples: Sequence[Example],
    place: Place,
    *,
    steps: int,
    learning_rate: float,
    optimizer: str,
    largest: float | None,
    enough: float,
    batch_tokens: int,
    check: Callable[[], object] = lambda: None,
) -> tuple["Float[Tensor, 'outputs inputs']", list[Row]]:
    """What the steps add to the matrix, in float64, and the loss before each of them; the decoder is left as it is.

    Args:
        optimizer: ``sgd`` or ``adam``, torch's own.
        largest: by how much each number of the matrix may have moved in the end, kept after each step; None: any.
        enough: mean loss in nats at which no further step is made.
        check: called before each step; may raise to stop.

    Raises:
        NotFinite: a loss or a gradient.
    """
    import torch

    parameter = decoder.get_parameter(f"{place.module}.weight")
    before = parameter.data
    origin = before.double()
    value = torch.nn.Parameter(origin.clone())
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    stepper = kinds[optimizer]([value], lr=learning_rate)
    groups = batches(examples, batch_tokens, decoder.position)
    rows: list[Row] = []
    try:
        for step in range(steps + 1):
            check()
            parameter.data = value.data
            loss, gradient = 0.0, torch.zeros_like(origin)
            for group in groups:
                try:
                    captured = capture(decoder, [examples[each] for each in group], [place], decoder.compute_dtype)
                except NotFinite as error:
                    error.number = group[error.number]
                    raise
                loss += float(captured.losses.double().sum()) / len(examples)
                for number in range(len(group)):
                    gradient += captured.factors(number, place).gradient.double() / len(examples)
            rows.append({"step": step, "loss_nats": loss})
            if loss <= enough or step == steps:
                break
            value.grad = gradient
            stepper.step()
            if largest is not None:
                with torch.no_grad():
                    value.copy_(origin + (value - origin).clamp(-largest, largest))
    finally:
        parameter.data = before
    return value.detach() - origin, rows
