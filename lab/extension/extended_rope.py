"""RoPE as a rule has it: other frequencies, a factor on the logits, by the length of a text if need be."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from lab.base.errors import UserError
from lab.model.decoder import Decoder
from lab.model.position import RoPE

if TYPE_CHECKING:
    from lab.extension.rope_rules import Frequencies, RopeRule

COARSE = 64


def extend(decoder: Decoder, rule: "RopeRule") -> None:
    """Have a decoder's RoPE turn as a rule says, in place of another that it has by training.

    Raises:
        UserError: it has no RoPE, its logits are scaled already, or the rule does not fit its heads.
    """
    position = decoder.position
    if not isinstance(position, RoPE):
        raise UserError(
            f"extension {rule.name} is for decoders with RoPE, and this one has {type(position).__name__}: choose a "
            "run of model=rope or model=window_rope, before anything else is changed in it"
        )
    rule.frequencies(position.base, position.head_dim, rule.length)
    decoder.position = ExtendedRoPE(position, rule)


class ExtendedRoPE(RoPE):
    """At position t the pair i turns by t theta_i / lambda_i, and cosine and sine are multiplied by a factor.

    The factor is left out of the tables: both queries and keys have it, so the logits have its square.
    """

    def __init__(self, plain: RoPE, rule: "RopeRule") -> None:
        super().__init__(plain.heads, plain.head_dim, plain.base)
        self.rule = rule
        self.depends_on_length = rule.by_length == "text"
        self.turns_keys = rule.by_length == "position"
        self._version = 0
        self.to(plain.inverse_frequencies.device)

    def version(self, length: int) -> int:
        return self.rule.version(length)

    def frequencies(self, length: int) -> "Frequencies":
        """How positions of a text of ``length`` tokens turn."""
        return self.rule.frequencies(self.base, self.head_dim, length)

    def scale(self, length: int) -> float:
        return self.frequencies(length).attention_factor ** 2

    def reach(self, length: int) -> None:
        if self.turns_keys:
            return
        if self.version(length) != self._version:
            self._version, self.table = self.version(length), self.table[:, :0]
        super().reach(length)

    def angles(self, length: int) -> Float[Tensor, "positions half"]:
        found = self.frequencies(length)
        plain = super().angles(length)
        interpolated = plain / torch.from_numpy(found.divisors).to(plain)
        interpolated[: found.kept] = plain[: found.kept]
        return interpolated

    def rotate(self, query: Tensor, key: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Raises UserError where keys turn anew with every query."""
        if self.turns_keys:
            raise UserError(f"{self.rule.label} turns a key anew for each query: it cannot be read off a whole text")
        return super().rotate(query, key, positions)

    def phases(
        self, lengths: Sequence[int], positions: Int[Tensor, "positions"]
    ) -> Complex[Tensor, "lengths positions half"]:
        # e^(i t theta) = e^(i 64 a theta) e^(i b theta), t = 64 a + b: a product is had sooner than a sine.
        turning = torch.stack(
            [
                self.inverse_frequencies
                / torch.from_numpy(self.frequencies(each).divisors).to(self.inverse_frequencies)
                for each in lengths
            ]
        )
        last = int(positions[-1]) // COARSE + 1
        coarse, fine = (
            torch.polar(torch.ones((), dtype=torch.float64, device=positions.device), angles).to(torch.complex64)
            for angles in (
                turning[:, None] * (COARSE * torch.arange(last, device=positions.device))[:, None],
                turning[:, None] * torch.arange(COARSE, device=positions.device)[:, None],
            )
        )
        return coarse[:, positions // COARSE] * fine[:, positions % COARSE]
