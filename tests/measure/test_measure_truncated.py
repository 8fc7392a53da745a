"""One pass at the longest length is a pass at each length, unless the position encoding depends on the length."""

import numpy as np
import pytest
import torch
from tiny_decoders import CONTEXT, VARIANTS, document, rows_of, tiny

from lab.measure.truncated_perplexity import TruncatedPerplexity
from lab.model.decoder import Decoder
from lab.model.position import RoPE
from lab.observe.losses import losses_in_one_pass

LONGEST = 64
LENGTHS = [4, 8, 16, 32, 64, 128, 256, 512]
every_variant = pytest.mark.parametrize(("position", "window"), VARIANTS)
every_kernel = pytest.mark.parametrize("kernel", ["reference", "sdpa", "banded"])


class DynamicNTK(RoPE):
    """RoPE whose base grows with the length that is read (transformers' ``dynamic``, factor 1)."""

    depends_on_length = True

    def reach(self, length: int) -> None:
        exponents = torch.arange(0, self.head_dim, 2, dtype=torch.float64) / self.head_dim
        base = 10_000.0 * max(1.0, length / CONTEXT) ** (self.head_dim / (self.head_dim - 2))
        self.inverse_frequencies = base**-exponents
        self.table = self.table[:, :0]
        super().reach(length)


@torch.inference_mode()
def separate(decoder: Decoder, ids: np.ndarray) -> list[torch.Tensor]:
    tokens = torch.from_numpy(ids.astype(np.int64))
    return [losses_in_one_pass(decoder, tokens[: length + 1]) for length in LENGTHS]


def scored(decoder: Decoder, ids: np.ndarray) -> list[float]:
    rows = rows_of(TruncatedPerplexity(lengths=None, longest=LONGEST, documents=None), decoder, ids)
    assert [row["length_tokens"] for row in rows] == LENGTHS
    return [row["loss_nats"] for row in rows]


@every_variant
@every_kernel
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_each_token_has_the_same_loss_in_one_pass_and_in_a_pass_of_its_length(
    position, window, kernel, dtype, tolerance
):
    decoder, ids = tiny(position, window, dtype, kernel=kernel), document(512 + 1)
    (*shorter, whole) = separate(decoder, ids)
    for losses in shorter:
        torch.testing.assert_close(whole[: len(losses)], losses, rtol=0, atol=tolerance)
    means = [losses.double().mean().item() for losses in (*shorter, whole)]
    np.testing.assert_allclose(scored(decoder, ids), means, rtol=0, atol=tolerance)


@every_variant
@pytest.mark.parametrize("kernel", ["reference", "banded"])
def test_in_bfloat16_the_means_of_one_pass_and_of_a_pass_each_are_close(position, window, kernel):
    decoder, ids = tiny(position, window, torch.bfloat16, kernel=kernel), document(512 + 1)
    means = [losses.double().mean().item() for losses in separate(decoder, ids)]
    np.testing.assert_allclose(scored(decoder, ids), means, rtol=0, atol=2e-3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_a_position_encoding_that_depends_on_the_length_is_read_anew_for_each(dtype, tolerance):
    decoder, ids = tiny(DynamicNTK, compute_dtype=dtype), document(512 + 1)
    passes = separate(decoder, ids)
    found = scored(decoder, ids)
    np.testing.assert_allclose(found, [losses.double().mean().item() for losses in passes], rtol=0, atol=tolerance)
    one_pass = [passes[-1][:length].double().mean().item() for length in LENGTHS]
    assert min(np.abs(np.subtract(one_pass, found))[:-1]) > 1e-3
    assert one_pass[-1] == pytest.approx(found[-1], abs=tolerance)


def test_within_the_context_the_encoding_of_this_test_is_plain_rope():
    ((dynamic, *_), (plain, *_)) = (separate(tiny(position), document(512 + 1)) for position in (DynamicNTK, RoPE))
    torch.testing.assert_close(dynamic, plain, rtol=0, atol=0)


class Counting(Decoder):
    """Notes the lengths of its passes."""

    def hidden(self, tokens, documents=None, cache=None):
        self.passes = [*getattr(self, "passes", []), tokens.shape[1]]
        return super().hidden(tokens, documents, cache)


@pytest.mark.parametrize(("position", "passes"), [(RoPE, [512]), (DynamicNTK, LENGTHS)])
def test_one_pass_serves_all_lengths_where_it_may(position, passes):
    decoder = tiny(position, kind=Counting)
    scored(decoder, document(600))
    assert decoder.passes == passes
