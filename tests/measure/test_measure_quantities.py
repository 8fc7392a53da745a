"""Quantities and effective context, from rows made by hand."""

import numpy as np
import pytest

from lab.evidence.quantities import (
    Quantity,
    effective_context,
    length_text,
    overview,
    quantities,
    range_end,
    weighed,
)

CONTEXT = 8


def row(measure: str, document: str = "a", **columns) -> dict:
    empty = dict.fromkeys(("segment", "length_tokens", "distance_tokens", "start_position", "stop_position"))
    return empty | {"measure": measure, "document": document, "tokens": 1, "loss_nats": None, "correct": None} | columns


def gains(curve: dict[int, float], documents: int = 8, jitter: float = 0.0) -> list[dict]:
    return [
        row("context_gain", f"d{number}", length_tokens=length, loss_nats=loss + number + jitter * number * length)
        for length, loss in curve.items()
        for number in range(documents)
    ]


def test_losses_are_weighted_by_tokens_inside_a_document():
    rows = [row("excess", length_tokens=64, tokens=10, loss_nats=1.0, segment=0)]
    rows += [row("excess", length_tokens=64, tokens=30, loss_nats=2.0, segment=1)]
    assert quantities(rows, CONTEXT) == {Quantity("excess", 64): {"a": 1.75}}


def test_positions_fall_into_ranges_that_double_from_the_context():
    assert [range_end(stop, 8, 64) for stop in (4, 8, 9, 16, 17, 32, 33, 64)] == [8, 8, 16, 16, 32, 32, 64, 64]
    assert range_end(40, 8, 48) == 48
    rows = [
        row("loss_by_position", length_tokens=32, start_position=start, stop_position=start + 4, loss_nats=float(start))
        for start in range(0, 32, 4)
    ]
    found = quantities(rows, CONTEXT)
    assert {key.length_tokens: values["a"] for key, values in found.items()} == {8: 2.0, 16: 10.0, 32: 22.0}


def test_copies_count_by_distance_and_first_copies_not_at_all():
    rows = [row("copy", distance_tokens=16, length_tokens=20, loss_nats=3.0)]
    rows += [row("copy_first", distance_tokens=16, length_tokens=20, loss_nats=9.0)]
    assert quantities(rows, CONTEXT) == {Quantity("copy", 16): {"a": 3.0}}


def test_of_passkeys_the_share_not_found_counts():
    rows = [
        row("passkey", f"p{place}", length_tokens=64, correct=int(trial < 3)) for place in "xy" for trial in range(4)
    ]
    assert quantities(rows, CONTEXT) == {Quantity("passkey", 64): {"px": 0.25, "py": 0.25}}


def test_the_effective_context_ends_before_the_first_context_that_is_worse():
    found = effective_context(gains({4: 3.0, 8: 2.0, 16: 1.9, 32: 2.05, 64: 2.5, 128: 1.0}), CONTEXT)
    assert (found.tokens, found.low, found.high, found.longest) == (32, 32, 32, 128)
    whole = effective_context(gains({8: 2.0, 16: 2.0, 32: 2.0}), CONTEXT)
    assert (whole.tokens, whole.longest) == (32, 32)
    failing = effective_context(gains({8: 2.0, 16: 3.0}), CONTEXT)
    assert failing.tokens == 8


def test_the_margin_decides_and_the_interval_brackets_the_effective_context():
    curve = {8: 2.0, 16: 2.05, 32: 2.3}
    assert effective_context(gains(curve), CONTEXT, margin=0.01).tokens == 8
    assert effective_context(gains(curve), CONTEXT, margin=0.5).tokens == 32
    noisy = effective_context(gains(curve, jitter=0.002), CONTEXT, margin=0.1)
    assert noisy.low <= noisy.tokens <= noisy.high


def test_without_context_gain_there_is_no_effective_context():
    assert effective_context([row("excess", length_tokens=64, loss_nats=1.0)], CONTEXT) is None
    lines = overview([row("excess", length_tokens=64, loss_nats=1.0)], CONTEXT)
    assert lines == [("excess (nats)", "64", "1.000", "not known", "1")]


def test_the_overview_names_every_quantity_and_the_effective_context():
    lines = overview(gains({8: 2.0, 16: 2.0}), CONTEXT)
    names = [("context_gain (nats)", "8"), ("context_gain (nats)", "16"), ("effective context (tokens)", "")]
    assert [line[:2] for line in lines] == names
    assert lines[-1][2:] == ("16 or more", "16 or more", "8")
    assert float(lines[0][2]) == pytest.approx(5.5)


def test_sliding_windows_weigh_every_token_alike():
    given = {"a": (2.0, 100), "b": (4.0, 300), "c": (3.0, 600)}
    rows = [
        row("sliding_perplexity", document=name, length_tokens=64, tokens=tokens, loss_nats=loss)
        for name, (loss, tokens) in given.items()
    ]
    (values,) = quantities(rows, CONTEXT).values()
    mean = (2 * 100 + 4 * 300 + 3 * 600) / 1000
    assert np.mean(list(values.values())) == pytest.approx(mean)
    # The spread of a ratio's mean, by leaving out a document at a time (jackknife), for many documents.
    draw = np.random.default_rng(0)
    losses, tokens = draw.normal(3, 1, 2000), draw.integers(10, 1000, 2000)
    names = [str(number) for number in range(2000)]
    found = weighed(dict(zip(names, losses, strict=True)), dict(zip(names, tokens, strict=True)))
    left_out = ((losses * tokens).sum() - losses * tokens) / (tokens.sum() - tokens)
    jackknife = np.sqrt(1999 / 2000 * ((left_out - left_out.mean()) ** 2).sum())
    assert np.std(list(found.values()), ddof=1) / np.sqrt(2000) == pytest.approx(jackknife, rel=0.01)


def test_ranges_of_positions_are_told_by_both_ends():
    assert [length_text("loss_by_position", end, 8) for end in (8, 16, 32, 48)] == [
        "0 to 8",
        "8 to 16",
        "16 to 32",
        "32 to 48",
    ]
    assert length_text("copy", 1024, 8) == "1,024"


def test_perplexities_are_shown_as_such():
    rows = [row("truncated_perplexity", document=name, length_tokens=16, loss_nats=2.0) for name in "abcd"]
    assert overview(rows, CONTEXT) == [("truncated_perplexity (perplexity)", "16", "7.4", "all equal", "4")]
