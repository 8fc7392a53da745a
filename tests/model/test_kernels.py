"""Every kernel computes what the reference defines, and the reference what an independent loop computes."""

import itertools
import math
import resource
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.attention_loops import attention_loops
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention.flex_attention import create_block_mask

from lab.base.errors import UserError
from lab.model.kernels import KERNELS, attend, choose, flash, flex
from lab.model.kernels.case import Case, constant_when_compiled
from lab.model.kernels.reference import reference

HERE = ["reference", "banded", "sdpa"]  # serve float32 on a CPU
FAST = ["banded", "sdpa"]
HEADS = [(2, 2), (6, 2), (4, 1)]
LENGTHS = [1, 2, 63, 127, 128, 129, 257, 300]
WIDTH = 8
RESULTS = ("output", "query gradient", "key gradient", "value gradient")
PLAIN = dict(window=None, slopes=None, scale=0.3, offset=0, documents=None)


def windows(length: int) -> list[int | None]:
    return [None, *sorted({1, 2, 64, max(length - 1, 1), length, length + 100})]


GRID = [(length, window) for length in LENGTHS for window in windows(length)]


def inputs(
    heads: int = 4, kv_heads: int = 2, length: int = 140, offset: int = 0, batch: int = 2, width: int = WIDTH
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Query, key, value and a gradient of the output; float64 normal numbers that float32 holds exactly."""
    draw = torch.Generator().manual_seed(heads * 10_000 + length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float32).to(torch.float64)

    query, gradient = normal(2, batch, heads, length - offset, width)
    key, value = normal(2, batch, kv_heads, length, width)
    return query, key, value, gradient


def steep(heads: int) -> Tensor:
    """Slopes that no short binary fraction equals."""
    return torch.linspace(0.03, 0.9, heads)


def evaluate(kernel: str, tensors: tuple[Tensor, ...], dtype: torch.dtype, **rule) -> list[Tensor]:
    """Output and gradients of query, key and value in ``dtype``, returned as float64."""
    query, key, value = (tensor.to(dtype, copy=True).requires_grad_() for tensor in tensors[:3])
    output = attend(query, key, value, kernel=kernel, **rule)
    output.backward(tensors[3].to(dtype))
    results = (output.detach(), query.grad, key.grad, value.grad)
    assert all(result.dtype == dtype for result in results)
    return [result.to(torch.float64) for result in results]


def assert_equal(actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for name, one, other in zip(RESULTS, actual, expected, strict=True):
        torch.testing.assert_close(
            one, other, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


# The definition.


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    ("length", "window", "offset", "documents"),
    [
        (1, None, 0, None),
        (2, 1, 0, None),
        (19, None, 0, None),
        (19, 5, 0, None),
        (19, 18, 7, None),
        (19, 40, 18, None),
        (19, None, 0, [[0] * 4 + [1] * 15, [5] * 18 + [2]]),
        (19, 6, 9, [[0] * 12 + [1] * 7, [0] * 6 + [3] * 6 + [0] * 7]),
    ],
)
def test_reference_equals_loops_over_the_definition(heads, kv_heads, biased, length, window, offset, documents):
    tensors = inputs(heads, kv_heads, length, offset)
    slopes = steep(heads) if biased else None
    rule = dict(window=window, scale=0.3, offset=offset)
    actual = evaluate(
        "reference",
        tensors,
        torch.float64,
        slopes=slopes,
        documents=None if documents is None else torch.tensor(documents),
        **rule,
    )
    expected = attention_loops(
        *(tensor.numpy() for tensor in tensors),
        slopes=slopes.tolist() if biased else None,
        documents=documents,
        **rule,
    )
    assert_equal(actual, [torch.from_numpy(array) for array in expected], 1e-12)


# The kernels.


@pytest.mark.parametrize(("length", "window"), GRID)
@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_in_float32_kernels_equal_the_float64_reference(heads, kv_heads, length, window):
    tensors = inputs(heads, kv_heads, length)
    for slopes in (None, steep(heads)):
        rule = PLAIN | dict(window=window, slopes=slopes)
        expected = evaluate("reference", tensors, torch.float64, **rule)
        for kernel in HERE:
            assert_equal(evaluate(kernel, tensors, torch.float32, **rule), expected, 1e-5)


@pytest.mark.parametrize(("length", "window"), GRID)
@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_in_bfloat16_kernels_err_at_most_twice_as_much_as_the_plain_formula(heads, kv_heads, length, window):
    tensors = tuple(tensor.to(torch.bfloat16) for tensor in inputs(heads, kv_heads, length))
    for slopes in (None, steep(heads)):
        rule = PLAIN | dict(window=window, slopes=slopes)
        exact = evaluate("reference", tensors, torch.float64, **rule)
        plain = evaluate("reference", tensors, torch.bfloat16, **rule)
        for kernel in FAST:
            if kernel == "sdpa" and slopes is not None:
                continue  # refused, see below
            results = evaluate(kernel, tensors, torch.bfloat16, **rule)
            for name, truth, allowed, result in zip(RESULTS, exact, plain, results, strict=True):
                # In root mean square: the largest single error is luck. The last terms are one rounding more.
                error, plain_error = (result - truth).norm(), (allowed - truth).norm()
                assert error <= 2 * plain_error + 2**-8 * truth.norm() + 1e-6, (kernel, name)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(data=st.data(), kernel=st.sampled_from(FAST), heads=st.sampled_from(HEADS), biased=st.booleans())
def test_kernels_equal_the_reference_at_any_offset_window_and_documents(data, kernel, heads, biased):
    length = data.draw(st.integers(1, 290), label="length")
    offset = data.draw(st.integers(0, length - 1), label="offset")
    window = data.draw(st.none() | st.integers(1, length + 10), label="window")
    cuts = data.draw(st.none() | st.lists(st.integers(0, length), max_size=4), label="cuts")
    documents = None
    if cuts is not None:
        starts = torch.zeros(2, length, dtype=torch.int64)
        for row, cut in enumerate(cuts):
            starts[row % 2, cut:] += 1
        documents = starts % 3  # a document's number may come again
    rule = dict(
        window=window,
        slopes=steep(heads[0]) if biased else None,
        scale=0.3,
        offset=offset,
        documents=documents,
    )
    tensors = inputs(*heads, length, offset)
    expected = evaluate("reference", tensors, torch.float64, **rule)
    assert_equal(evaluate(kernel, tensors, torch.float32, **rule), expected, 1e-5)


@pytest.mark.parametrize("kernel", HERE)
@pytest.mark.parametrize("window", [140, 141, 10_000])
def test_a_window_as_long_as_the_sequence_is_full_attention(kernel, window):
    tensors = inputs(length=140)
    full = evaluate(kernel, tensors, torch.float64, **PLAIN)
    assert_equal(evaluate(kernel, tensors, torch.float64, **PLAIN | dict(window=window)), full, 1e-12)


@pytest.mark.parametrize("kernel", HERE)
@pytest.mark.parametrize("slopes", [None, steep(4)])
def test_a_window_of_one_returns_the_value(kernel, slopes):
    query, key, value, _ = inputs(4, 2)
    output = attend(query, key, value, **PLAIN | dict(window=1, slopes=slopes), kernel=kernel)
    torch.testing.assert_close(output, value.repeat_interleave(2, dim=1), rtol=0, atol=0)


@pytest.mark.parametrize("kernel", HERE)
@pytest.mark.parametrize("window", [None, 50])
def test_slopes_of_zero_equal_no_slopes(kernel, window):
    tensors = inputs(heads=4)
    none = evaluate(kernel, tensors, torch.float64, **PLAIN | dict(window=window))
    zero = evaluate(kernel, tensors, torch.float64, **PLAIN | dict(window=window, slopes=torch.zeros(4)))
    assert_equal(zero, none, 1e-12)


@pytest.mark.parametrize("kernel", HERE)
@pytest.mark.parametrize("slopes", [None, steep(4)])
def test_memory_layout_does_not_matter(kernel, slopes):
    tensors = inputs(heads=4)
    rule = PLAIN | dict(window=50, slopes=slopes, kernel=kernel)
    expected = evaluate(tensors=tensors, dtype=torch.float64, **rule)
    time_first = [tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in tensors]
    every_other = [tensor.repeat_interleave(2, dim=-1)[..., ::2] for tensor in tensors]
    for layout in (time_first, every_other):
        query, key, value = (tensor.detach().requires_grad_() for tensor in layout[:3])
        assert not query.is_contiguous()
        output = attend(query, key, value, **rule)
        output.backward(layout[3])
        assert_equal([output.detach(), query.grad, key.grad, value.grad], expected, 1e-12)


def test_in_bfloat16_banded_sums_a_keys_gradient_over_chunks_in_float32():
    # Equal scores and a gradient of ones: the value at j gets 1 / (i + 1) from every query i >= j, over 16 chunks.
    length = 2048
    query = key = torch.zeros(1, 1, length, WIDTH, dtype=torch.bfloat16)
    value = torch.zeros_like(query, requires_grad=True)
    output = attend(query, key, value, scale=1.0, kernel="banded")
    output.backward(torch.ones_like(output))
    shares = 1 / torch.arange(1, length + 1, dtype=torch.float64)
    exact = shares.flip(0).cumsum(0).flip(0)
    error = value.grad[0, 0, :, 0].double() / exact - 1
    assert error.square().mean().sqrt() < 0.003  # 0.0017; summed in bfloat16, 0.0052


@pytest.mark.parametrize("slopes", [None, steep(4)])
def test_banded_gradients_are_the_derivatives_of_its_output(slopes):
    for length, window, fast in ((7, 3, False), (140, 130, True)):
        tensors = [tensor.requires_grad_() for tensor in inputs(4, 2, length, batch=1, width=2)[:3]]

        def banded(query, key, value, window=window):
            return attend(query, key, value, **PLAIN | dict(window=window, slopes=slopes), kernel="banded")

        assert torch.autograd.gradcheck(banded, tensors, fast_mode=fast)


# What a query sees.


@pytest.mark.parametrize("kernel", HERE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 1, 2, 3, 64, 127, 128, 129, 199, 200, 201])
def test_exactly_the_last_window_keys_have_weight(kernel, dtype, window):
    length = 200
    query, key, _, _ = inputs(2, 1, length, batch=1, width=length)
    one_hot = torch.eye(length).view(1, 1, length, length)  # so the output is the weights
    query, key, one_hot = (tensor.to(dtype) for tensor in (query, key, one_hot))
    weights = attend(query, key, one_hot, **PLAIN | dict(window=window, scale=0.05), kernel=kernel)
    for i in range(length):
        seen = range(0 if window is None else max(0, i + 1 - window), i + 1)
        for head in range(2):
            assert weights[0, head, i].nonzero().flatten().tolist() == list(seen)


@pytest.mark.parametrize("kernel", HERE)
@pytest.mark.parametrize("window", [2, 64, 128, 150])
@pytest.mark.parametrize("slopes", [None, torch.tensor([0.001, 0.002])])
def test_a_key_at_distance_window_minus_one_is_seen_and_at_window_is_not(kernel, window, slopes):
    query, key, value, _ = inputs(2, 1, length=300)
    rule = PLAIN | dict(window=window, slopes=slopes, kernel=kernel)
    before = attend(query, key, value, **rule)
    for needle in (0, 40, 127, 128):
        other_key, other_value = key.clone(), value.clone()
        other_key[:, :, needle] += 1.0
        other_value[:, :, needle] += 1.0
        changed = (attend(query, other_key, other_value, **rule) != before).any(dim=3)
        assert changed[:, :, needle : needle + window].all()
        assert not changed[:, :, :needle].any()
        assert not changed[:, :, needle + window :].any()


@pytest.mark.parametrize("kernel", HERE)
@pytest.mark.parametrize("window", [None, 30])
@pytest.mark.parametrize("slopes", [None, steep(4)])
def test_documents_in_one_sequence_equal_documents_alone(kernel, window, slopes):
    tensors = inputs(heads=4, length=300)
    lengths = [[100, 1, 199], [128, 128, 44]]
    documents = torch.stack([torch.arange(3).repeat_interleave(torch.tensor(row)) for row in lengths])
    rule = PLAIN | dict(window=window, slopes=slopes)
    together = evaluate(kernel, tensors, torch.float64, **rule | dict(documents=documents))
    for row in range(2):
        for document in range(3):
            place = (documents[row] == document).nonzero().flatten()
            alone = evaluate(kernel, tuple(tensor[row, None][:, :, place] for tensor in tensors), torch.float64, **rule)
            part = [result[row, None][:, :, place] for result in together]
            # banded forms its bias in float32 from each chunk's end, so two places differ in its last digits
            assert_equal(part, alone, 1e-12 if slopes is None else 1e-5)


@pytest.mark.parametrize("kernel", HERE)
@pytest.mark.parametrize("window", [None, 1, 70])
@pytest.mark.parametrize("slopes", [None, steep(4)])
def test_a_sequence_in_pieces_equals_one_pass(kernel, window, slopes):
    query, key, value, _ = inputs(heads=4, length=300)
    rule = dict(window=window, slopes=slopes, scale=0.3, kernel=kernel)
    whole = attend(query, key, value, **rule)
    edges = [0, 1, 64, 128, 135, 299, 300]
    pieces = [
        attend(query[:, :, start:stop], key[:, :, :stop], value[:, :, :stop], offset=start, **rule)
        for start, stop in pairwise(edges)
    ]
    torch.testing.assert_close(torch.cat(pieces, dim=2), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("offset", [0, 4, 6])
def test_keys_that_do_not_end_with_the_last_query_are_an_error(offset):
    query, key, value, _ = inputs(length=15, offset=5)
    with pytest.raises(ValueError, match="keys"):
        attend(query, key, value, scale=0.3, offset=offset)


# ALiBi's bias.


@pytest.mark.parametrize(
    ("kernel", "dtype", "tolerance"),
    [
        ("reference", torch.float32, 1e-5),
        ("sdpa", torch.float32, 1e-5),
        ("banded", torch.float32, 1e-5),
        ("reference", torch.bfloat16, 0.02),
        ("banded", torch.bfloat16, 0.02),
    ],
)
def test_the_bias_is_slope_times_distance_at_distance_8192(kernel, dtype, tolerance):
    # Each head's query matches eight far keys so well that this cancels the bias at distance 8192: then a
    # bias that is wrong by 0.5, one step in 8192, shows as a factor on a weight. (In bf16 it steps by 16.)
    distance, far, width = 8192, 8, 16
    slopes = 2.0 ** -torch.arange(1.0, 9.0)
    query, key = torch.zeros(1, 8, 1, width), torch.zeros(1, 1, distance + 1, width)
    value = torch.zeros(1, 1, distance + 1, width)
    query[0, :, 0, 0] = slopes * distance
    key[0, 0, :far, 0] = 1.0
    value[0, 0, :far, :far] = torch.eye(far)
    value[0, 0, -1, far] = 1.0
    weights = attend(
        *(tensor.to(dtype) for tensor in (query, key, value)),
        slopes=slopes,
        scale=1.0,
        offset=distance,
        kernel=kernel,
    )
    for head in range(8):
        slope = 2.0 ** -(head + 1)
        logits = [slope * (distance * (j < far) - (distance - j)) for j in range(distance + 1)]
        total = sum(map(math.exp, logits))
        expected = [math.exp(logits[j]) / total for j in (*range(far), distance)]
        torch.testing.assert_close(
            weights[0, head, 0, : far + 1].double(),
            torch.tensor(expected, dtype=torch.float64),
            rtol=tolerance,
            atol=0,
        )


# Who serves what.

CASES = {
    "plain": dict(window=None, slopes=False),
    "window": dict(window=8, slopes=False),
    "slopes": dict(window=None, slopes=True),
    "both": dict(window=8, slopes=True),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_cpu_auto_and_matched_are_banded(case, dtype):
    assert choose("auto", Case("cpu", dtype, **CASES[case])) == "banded"
    assert choose("matched", Case("cpu", dtype, **CASES[case])) == "banded"


# What is there on a GPU machine (windows in torch, the package flash-attn), and what auto then takes for each case.
ON_A_GPU = {
    (True, True): dict(plain="sdpa", window="varlen", slopes="flash", both="flash"),
    (True, False): dict(plain="sdpa", window="varlen", slopes="flex", both="flex"),
    (False, True): dict(plain="sdpa", window="flash", slopes="flash", both="flash"),
    (False, False): dict(plain="sdpa", window="flex", slopes="flex", both="flex"),
}


@pytest.mark.parametrize("there", ON_A_GPU)
@pytest.mark.parametrize("case", CASES)
def test_on_a_gpu_auto_takes_the_fastest_that_is_there_and_exact(there, case, monkeypatch):
    windows, package = there
    monkeypatch.setattr(flash, "varlen_keys", lambda: {"window_size"} if windows else {"scale"})
    monkeypatch.setattr(flash, "flash_missing", lambda: None if package else "absent")
    assert choose("auto", Case("cuda", torch.bfloat16, **CASES[case])) == ON_A_GPU[there][case]
    single = Case("cuda", torch.float32, **CASES[case])  # the flash family computes in 16 bits
    assert choose("auto", single) == ("sdpa" if case == "plain" else "flex")
    isolated = Case("cuda", torch.bfloat16, **CASES[case], documents=True)
    assert choose("auto", isolated) == "flex"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_matched_is_flex_for_every_case(dtype):
    assert {choose("matched", Case("cuda", dtype, **case)) for case in CASES.values()} == {"flex"}


@pytest.mark.parametrize("kernel", ["varlen", "flash", "flex"])
def test_a_kernel_of_a_gpu_asked_for_on_a_cpu_is_refused(kernel):
    with pytest.raises(UserError, match=rf"kernel {kernel} cannot serve this model .*(needs a GPU|on a CPU)"):
        choose(kernel, Case("cpu", torch.bfloat16, None, False))


def test_what_is_constant_when_compiled_is_marked_as_torch_marks_it():
    def ours():
        pass

    def theirs():
        pass

    assert vars(constant_when_compiled(ours)) == vars(torch.compiler.assume_constant_result(theirs)) != {}


def test_torchs_flash_attention_refuses_slopes():
    with pytest.raises(UserError, match="takes no slopes"):
        choose("varlen", Case("cuda", torch.bfloat16, 8, True))


@pytest.mark.parametrize("window", [None, 1, 100, 300])
@pytest.mark.parametrize("slopes", [None, steep(4)])
@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("offset", [0, 30])
def test_the_masks_and_biases_of_flex_are_those_of_the_reference(window, slopes, isolated, offset):
    query, key, value, _ = inputs(heads=4, length=300, offset=offset)
    documents = torch.stack([torch.arange(3).repeat_interleave(100)] * 2) if isolated else None
    rule = dict(window=window, slopes=slopes, scale=0.3, offset=offset, documents=documents)
    expected = KERNELS["reference"].run(query, key, value, **rule)
    with torch.no_grad():  # on a CPU torch has no more
        actual = KERNELS["flex"].run(query, key, value, **rule)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@given(queries=st.integers(128, 700), offset=st.integers(0, 500), window=st.one_of(st.none(), st.integers(1, 900)))
@settings(max_examples=60, deadline=None)
def test_block_masks_made_from_corners_are_torchs_made_from_every_score(queries, offset, window):
    same_block_masks(queries, offset, window)


@pytest.mark.parametrize("offset", [0, 1, 127])
def test_at_every_window_blocks_at_its_edge_are_torchs(offset):
    for window in range(1, 300):
        same_block_masks(384, offset, window)


def same_block_masks(queries, offset, window):
    cpu = torch.device("cpu")
    ours = flex.banded_blocks(queries, offset + queries, window, offset, cpu)

    def seen(batch, head, row, column):
        distance = row + offset - column
        return (distance >= 0) & (distance < (window or 10**9))

    theirs = create_block_mask(seen, None, None, queries, offset + queries, cpu)
    assert ours.shape == theirs.shape
    assert ours.BLOCK_SIZE == theirs.BLOCK_SIZE
    for counts, places in (("kv_num_blocks", "kv_indices"), ("full_kv_num_blocks", "full_kv_indices")):
        assert torch.equal(getattr(ours, counts), getattr(theirs, counts))
        for count, mine, other in zip(
            getattr(ours, counts).flatten(), getattr(ours, places)[0, 0], getattr(theirs, places)[0, 0], strict=True
        ):
            assert torch.equal(mine[:count], other[:count])


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("slopes", [None, steep(4)])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_serves_all_lengths_and_offsets_of_an_octave_with_few_graphs(window, slopes, monkeypatch):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    monkeypatch.setattr(flex, "flex_attention", torch.compile(flex.flex_attention, dynamic=False, backend=counter))
    with torch.no_grad():
        for length, offset in [(length, 0) for length in range(513, 1025, 47)] + [(600, 10 * far) for far in range(9)]:
            query, key, value, _ = inputs(heads=4, length=length, offset=offset)
            rule = dict(window=window, slopes=slopes, scale=0.3, offset=offset, documents=None)
            actual = flex.flex(query, key, value, **rule)
            torch.testing.assert_close(actual, reference(query, key, value, **rule), rtol=1e-5, atol=1e-5)
    # 640, 768, 896 and 1,024 queries; 640 of them at an offset, with 768 keys.
    assert counter.frame_count == 5


def test_a_block_mask_of_a_long_text_needs_little_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    flex.banded_blocks(131_072, 131_072, 512, 0, torch.device("cpu"))
    # Every score, one byte each, would be 17 GB.
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 2e8


@pytest.mark.parametrize("kernel", HERE)
@pytest.mark.parametrize("case", CASES)
def test_a_kernel_asked_for_by_name_serves_or_refuses(kernel, case):
    assert choose(kernel, Case("cpu", torch.float32, **CASES[case])) == kernel
    sixteen_bits = Case("cpu", torch.bfloat16, **CASES[case])
    if kernel == "sdpa" and CASES[case]["slopes"]:
        with pytest.raises(UserError, match=r"sdpa.*bfloat16"):
            choose(kernel, sixteen_bits)
    else:
        assert choose(kernel, sixteen_bits) == kernel


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sdpa_refuses_slopes_in_sixteen_bits(dtype):
    query, key, value, _ = (tensor.to(dtype) for tensor in inputs(heads=4))
    with pytest.raises(UserError, match="kernel sdpa cannot serve"):
        attend(query, key, value, slopes=steep(4), scale=0.3, kernel="sdpa")


@pytest.mark.parametrize("kernel", ["reference", "sdpa", "auto", "matched"])
@pytest.mark.parametrize("documents", [None, [[0] * 4 + [1] * 15, [5] * 18 + [2]]])
def test_bidirectional_attention_equals_loops_over_all_keys(kernel, documents):
    query, key, value, _ = inputs(heads=4, kv_heads=2, length=19)
    numbered = None if documents is None else torch.tensor(documents)
    found = attend(query, key, value, scale=0.3, documents=numbered, kernel=kernel, causal=False)
    for batch, head, place in itertools.product(range(len(query)), range(4), range(19)):
        own = [other for other in range(19) if documents is None or documents[batch][other] == documents[batch][place]]
        weights = [math.exp(0.3 * float(query[batch, head, place] @ key[batch, head // 2, other])) for other in own]
        said = sum(w * value[batch, head // 2, other] for w, other in zip(weights, own, strict=True)) / sum(weights)
        torch.testing.assert_close(found[batch, head, place], said, rtol=1e-12, atol=1e-12)


def test_what_cannot_be_bidirectional_is_refused():
    for kernel in sorted(KERNELS):
        case = Case("cpu", torch.float32, None, False, causal=False)
        if kernel in ("reference", "sdpa"):
            assert choose(kernel, case) == kernel
        else:
            with pytest.raises(UserError, match=f"kernel {kernel} .* bidirectional .*: choose auto, sdpa or reference"):
                choose(kernel, case)
    query, key, value, _ = inputs(heads=4)
    for more in ({"window": 3}, {"slopes": steep(4)}):
        with pytest.raises(ValueError, match="has no window, no slopes"):
            attend(query, key, value, scale=0.3, causal=False, **more)


def test_an_unknown_kernel_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"kernel flash9 .*auto, matched, reference, banded, sdpa, varlen, flash, flex"):
        choose("flash9", Case("cpu", torch.float32, None, False))


@pytest.mark.parametrize("kernel", sorted(KERNELS))
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 0}, "window is 0"),
        ({"slopes": torch.ones(3)}, "2 heads need as many slopes"),
        ({"value": torch.ones(1, 2, 5, 3)}, "values are 3 wide and queries 4"),
        ({"key": torch.ones(1, 2, 9, 4)}, "5 queries at offset 0 need 5 keys, not 9"),
    ],
)
def test_arguments_that_do_not_fit_together_are_refused_by_every_kernel(
    kernel: str, change: dict[str, Any], message: str
) -> None:
    ones = torch.ones(1, 2, 5, 4)
    arguments = {"query": ones, "key": ones, "value": ones, "scale": 0.5, "kernel": kernel} | change
    with pytest.raises(ValueError, match=message):
        attend(**arguments)


@pytest.mark.parametrize("biased", [False, True])
def test_banded_needs_no_memory_of_length_squared(biased: bool) -> None:
    length = 65_536  # one full score matrix would be 8.6 GB in bf16
    query = torch.randn(1, 1, length, 16).bfloat16().requires_grad_()
    slopes = torch.tensor([0.5]) if biased else None
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    attend(query, query, query, window=64, slopes=slopes, scale=0.25, kernel="banded").sum().backward()
    assert query.grad is not None
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 5e8
