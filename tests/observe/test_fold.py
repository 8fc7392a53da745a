"""Folds: equal bytes however they were interrupted, equal means however they were parted, and no file is trusted."""

import contextlib
import copy
import json
import math
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save
from torch import Tensor

from lab.base.errors import UserError
from lab.observe import fold as module
from lab.observe.fold import Fold, run_fold

IDENTITY = {"decoder": "abc", "lengths": [8, 16]}
NUMBERS = st.floats(1e-9, 1e9) | st.floats(-1e9, -1e-9) | st.just(0.0)
ROWS = st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=1, max_size=12)
QUICK = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def folded(rows: list[list[float]], indices: list[int] | range | None = None) -> Fold:
    fold = Fold(IDENTITY)
    for index in range(len(rows)) if indices is None else indices:
        fold.add(f"item {index}", {"state": (vector(*rows[index]), index + 1)})
    return fold


def merged(*folds: Fold) -> Fold:
    whole = copy.deepcopy(folds[0])
    for fold in folds[1:]:
        whole.merge(fold)
    return whole


def content(fold: Fold, folder: Path) -> bytes:
    fold.save(folder / "fold")
    return (folder / "fold").read_bytes()


def exact(rows: list[list[float]]) -> list[Fraction]:
    return [sum(map(Fraction, column), Fraction()) for column in zip(*rows, strict=True)]


def assert_near(fold: Fold, rows: list[list[float]]) -> None:
    """Within 1e-12 of the exact sums, but for what is below 1e-28 of the terms' size: all but all of it cancelled."""
    assert fold.count("state").item() == sum(range(len(rows) + 1))
    for got, wanted, column in zip(fold.total("state").tolist(), exact(rows), zip(*rows, strict=True), strict=True):
        room = Fraction(1e-12) * abs(wanted) + Fraction(1e-28) * sum(map(abs, map(Fraction, column)))
        assert abs(Fraction(got) - wanted) <= room


# What a fold says.


def test_a_mean_is_the_sum_over_all_items_by_their_counts_and_squares_give_a_variance():
    draw = np.random.default_rng(0)
    items = [draw.normal(3, 2, (size, 4)) for size in (5, 1, 8)]
    fold = Fold(IDENTITY)
    for number, rows in enumerate(items):
        values = torch.from_numpy(rows)
        observed = {"first": (values.sum(0), len(rows)), "second": (values.square().sum(0), len(rows))}
        fold.add(f"item {number}", observed)
    every = np.concatenate(items)
    assert list(fold.done) == ["item 0", "item 1", "item 2"]
    assert fold.keys == ["first", "second"]
    assert fold.count("first").item() == 14
    np.testing.assert_allclose(fold.mean("first"), every.mean(0), rtol=1e-14)
    np.testing.assert_allclose(fold.mean("second") - fold.mean("first").square(), every.var(0), rtol=1e-13)
    with pytest.raises(KeyError):
        fold.mean("third")


def test_counts_may_differ_by_position_and_the_mean_of_nothing_is_nan():
    lengths, positions, width = (2, 4, 3), 5, 2
    fold, sums, counts = Fold(IDENTITY), np.zeros((positions, width)), np.zeros(positions)
    for length in lengths:
        states = torch.zeros(positions, width, dtype=torch.float64)
        states[:length] = torch.arange(length * width, dtype=torch.float64).view(length, width) + length
        fold.add(f"of {length}", {"state": (states, (torch.arange(positions) < length).int())})
        for position in range(length):
            sums[position] += states[position].numpy()
            counts[position] += 1
    assert fold.count("state").tolist() == [3, 3, 2, 1, 0]
    assert torch.equal(fold.mean("state")[:4], torch.from_numpy(sums[:4] / counts[:4, None]))
    assert fold.mean("state")[4].isnan().all()


def test_what_is_given_is_neither_kept_nor_changed_and_may_be_of_any_float_type_layout_and_mode():
    fold = Fold(IDENTITY)
    given_ = vector(1, 2, 3)
    with torch.inference_mode():
        fold.add("a", {"state": (given_, 1), "number": (torch.tensor(2.5), 1), "matrix": (torch.eye(2)[:, :1].T, 1)})
    given_ += 100
    weight = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
    fold.add("b", {"state": (weight, torch.tensor(1))})
    assert fold.total("state").tolist() == [2, 3, 4]
    fold.total("state").zero_()
    fold.count("state").zero_()
    assert fold.mean("state").tolist() == [1, 1.5, 2]
    assert fold.mean("number") == 2.5
    assert fold.total("state").dtype == torch.float64


def test_every_shape_comes_back_from_a_file(tmp_path):
    shapes = [(), (3,), (2, 3), (0, 3)]
    fold = Fold(IDENTITY)
    for item in "ab":
        observed: dict[str, tuple[Tensor, int | Tensor]] = {
            f"{shape} {split}": (torch.randn(shape), torch.ones(shape[:split], dtype=torch.int64))
            for shape in shapes
            for split in range(len(shape) + 1)
        }
        observed["transposed"] = (torch.randn(4, 5).T, 2)
        fold.add(item, observed)
    before = content(fold, tmp_path)
    again = Fold.load(tmp_path / "fold", IDENTITY)
    assert content(again, tmp_path) == before
    for key in fold.keys:
        assert torch.equal(again.mean(key), fold.mean(key))
        assert torch.equal(again.count(key), fold.count(key))
        assert again.total(key).shape == fold.total(key).shape


@pytest.mark.parametrize(
    ("observed", "told"),
    [
        ({"state": (vector(1, 2), 1)}, "state has sums of"),
        ({"state": (vector(1, 2, 3), torch.ones(3, dtype=torch.int64))}, "state has sums of"),
        ({"new": (vector(1, 2, 3), torch.ones(2, dtype=torch.int64))}, "new has sums of"),
        ({"new": (vector(1, 2, 3), 1.0)}, "the count of new is not made of whole numbers"),
        ({"new": (vector(1, 2, 3), True)}, "the count of new is not made of whole numbers"),
        ({"new": (vector(1, 2, 3), -1)}, "the count of new is not made of whole numbers"),
    ],
)
def test_sums_and_counts_that_do_not_fit_are_refused_and_leave_the_fold_as_it_was(tmp_path, observed, told):
    fold = folded([[1.0, 2.0, 3.0]])
    before = content(fold, tmp_path)
    with pytest.raises(ValueError, match=told):
        fold.add("next", {"good": (vector(1), 1), **observed})
    assert content(fold, tmp_path) == before


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1.7e308])
def test_an_item_that_would_spoil_the_mean_is_refused_by_name_and_leaves_the_fold_as_it_was(tmp_path, number):
    fold = folded([[1e308, 2.0, 3.0]])
    before = content(fold, tmp_path)
    with pytest.raises(UserError, match=r'^state is not finite in \["bad\\nitem"\]'):
        fold.add("bad\nitem", {"good": (vector(1), 1), "state": (vector(number, 0, 0), 1)})
    assert content(fold, tmp_path) == before


# Order, parts and interruptions.


@QUICK
@given(rows=ROWS, data=st.data())
def test_any_order_and_any_partition_of_the_items_give_the_exact_sum_within_1e_12(rows, data):
    order = data.draw(st.permutations(range(len(rows))))
    part = data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    parts = [folded(rows, [index for index in order if part[index] == number]) for number in range(4)]
    assert_near(folded(rows, order), rows)
    assert_near(merged(*data.draw(st.permutations(parts))), rows)


@QUICK
@given(one=ROWS, two=ROWS, three=ROWS)
def test_merging_is_associative_within_1e_12_and_the_empty_fold_is_neutral_to_the_bit(tmp_path, one, two, three):
    rows, cuts = one + two + three, (len(one), len(one) + len(two))
    a, b, c = folded(rows, range(cuts[0])), folded(rows, range(*cuts)), folded(rows, range(cuts[1], len(rows)))
    left, right = merged(merged(a, b), c), merged(a, merged(b, c))
    assert list(left.done) == list(right.done) == [f"item {index}" for index in range(len(rows))]
    assert_near(left, rows)
    assert_near(right, rows)
    assert content(merged(a, Fold(IDENTITY)), tmp_path) == content(a, tmp_path)
    assert content(merged(Fold(IDENTITY), a), tmp_path) == content(a, tmp_path)


@QUICK
@given(rows=ROWS, data=st.data())
def test_the_same_items_in_the_same_parts_give_the_same_bytes_wherever_each_was_saved_and_loaded(tmp_path, rows, data):
    cut = data.draw(st.integers(0, len(rows)))
    whole = merged(folded(rows, range(cut)), folded(rows, range(cut, len(rows))))
    parts = []
    for indices in (range(cut), range(cut, len(rows))):
        part = Fold(IDENTITY)
        for index in indices:
            part.merge(folded(rows, [index]))  # one item is a part as any
            if data.draw(st.booleans()):
                part.save(tmp_path / "part")
                part = Fold.load(tmp_path / "part", IDENTITY)
        assert content(part, tmp_path) == content(folded(rows, indices), tmp_path)
        parts.append(part)
    assert content(merged(*parts), tmp_path) == content(whole, tmp_path)


def test_ten_thousand_items_of_mixed_size_and_sign_hold_1e_12_where_plain_float64_sums_do_not():
    draw = np.random.default_rng(1)
    values = draw.choice([-1, 1], (10_000, 50)) * 10.0 ** draw.uniform(-8, 8, (10_000, 50))
    # Half of the columns cancel to a millionth, as what two groups of documents have in common does in a difference.
    values[1::2, 25:] = -values[::2, 25:] * (1 + 1e-6 * draw.normal(size=(5_000, 25)))
    wanted = np.array([math.fsum(column) for column in values.T])
    fold, parts, plain = Fold(IDENTITY), [Fold(IDENTITY) for _ in range(7)], np.zeros(50)
    for number, row in enumerate(values):
        observed = {"state": (torch.from_numpy(row), 1)}
        fold.add(str(number), observed)
        parts[number % 7].add(str(number), observed)
        plain += row

    def error(sums: np.ndarray) -> float:
        return float((np.abs(sums - wanted) / np.abs(wanted)).max())

    assert error(fold.total("state").numpy()) < 1e-12
    assert error(merged(*parts).total("state").numpy()) < 1e-12
    assert error(plain) > 1e-11


def test_an_item_counts_once(tmp_path):
    rows = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]
    fold, other = folded(rows, [0, 1]), folded(rows, [2, 1])
    before = content(fold, tmp_path), content(other, tmp_path)
    for refused in (lambda: fold.merge(other), lambda: fold.merge(fold), lambda: fold.add("item 0", {})):
        with pytest.raises(UserError, match=r'^"item [01]" is in the fold already'):
            refused()
    assert (content(fold, tmp_path), content(other, tmp_path)) == before


def test_folds_of_different_identity_or_shape_are_not_merged():
    fold = folded([[1.0, 2.0, 3.0]])
    with pytest.raises(UserError, match=r'^a fold of another "decoder": "xyz" instead of "abc" cannot be merged'):
        fold.merge(Fold({**IDENTITY, "decoder": "xyz"}))
    other = Fold(IDENTITY)
    other.add("other", {"state": (vector(1), 1)})
    with pytest.raises(ValueError, match="state has sums of"):
        fold.merge(other)


# The driver.


def items(count: int) -> list[SimpleNamespace]:
    return [SimpleNamespace(name=f"item {number}", value=10.0 ** (number % 7 - 3)) for number in range(count)]


class Observer:
    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.names: list[str] = []

    def __call__(self, item: SimpleNamespace) -> dict[str, tuple[Tensor, int]]:
        if len(self.names) == self.stop_at:
            raise RuntimeError("stopped")
        self.names.append(item.name)
        return {"state": (vector(item.value, -item.value / 3), 1)}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    command = [sys.executable, str(Path(__file__).with_name("killed_fold.py")), str(tmp_path_factory.mktemp("f")), "5"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_fold_whose_process_is_killed_again_and_again_ends_with_the_same_bytes(killed):
    whole = killed.pop("whole")[1]
    assert len(killed) == 9
    assert sum(times for times, _ in killed.values()) >= 3
    assert {digest for _, digest in killed.values()} == {whole}


@pytest.mark.parametrize("stop_at", range(6))
def test_a_fold_that_is_stopped_is_written_and_goes_on_without_observing_an_item_twice(tmp_path, stop_at):
    whole, path = tmp_path / "whole", tmp_path / "fold"
    run_fold(Fold(IDENTITY), items(6), Observer(), whole)
    first, second = Observer(stop_at), Observer()
    with pytest.raises(RuntimeError, match="stopped"):
        run_fold(Fold(IDENTITY), items(6), first, path)
    assert path.exists() == bool(stop_at)
    fold = Fold.load(path, IDENTITY) if stop_at else Fold(IDENTITY)
    assert list(fold.done) == first.names
    run_fold(fold, iter(items(6)), second, path)
    assert first.names + second.names == [item.name for item in items(6)]
    assert path.read_bytes() == whole.read_bytes()
    assert {each.name for each in tmp_path.iterdir()} == {"whole", "fold"}


def test_the_check_is_asked_before_each_item_and_what_it_raises_is_let_through_once_the_fold_is_written(tmp_path):
    asked = iter(range(10))

    def check() -> None:
        if next(asked) == 2:
            raise KeyboardInterrupt

    observer = Observer()
    with pytest.raises(KeyboardInterrupt):
        run_fold(Fold(IDENTITY), items(6), observer, tmp_path / "fold", check)
    assert observer.names == ["item 0", "item 1"] == list(Fold.load(tmp_path / "fold", IDENTITY).done)


def test_it_is_written_as_often_as_told_but_at_most_a_tenth_of_the_time(tmp_path, monkeypatch):
    clock, writes, path = [0.0], [], tmp_path / "fold"
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    save_, took = Fold.save, [0.0]

    def slow_save(fold: Fold, to: Path) -> None:
        clock[0] += took[0]
        writes.append(len(fold.done))
        save_(fold, to)

    def observe(item: SimpleNamespace) -> dict[str, tuple[Tensor, int]]:
        clock[0] += 1.0
        return {"state": (vector(item.value), 1)}

    monkeypatch.setattr(Fold, "save", slow_save)
    run_fold(Fold(IDENTITY), items(30), observe, path, write_seconds=10.0)
    assert writes == [10, 20, 30, 30]
    writes.clear()
    took[0] = 2.0
    run_fold(Fold(IDENTITY), items(50), observe, path, write_seconds=10.0)
    assert writes == [10, 28, 46, 50]


def test_items_that_share_a_name_and_items_that_there_are_no_longer_are_errors(tmp_path):
    path = tmp_path / "fold"
    with pytest.raises(UserError, match=r'^two items are called "item 1"'):
        run_fold(Fold(IDENTITY), [*items(3), items(3)[1]], Observer(), path)
    run_fold(Fold(IDENTITY), items(3), Observer(), path)
    with pytest.raises(UserError, match='holds "item 2", which is no longer an item'):
        run_fold(Fold.load(path, IDENTITY), items(2), Observer(), path)


def test_a_fold_that_is_merged_from_parts_goes_on_where_items_are_missing(tmp_path):
    parts = []
    for chosen in (items(6)[4:], items(6)[:2]):
        parts.append(Fold(IDENTITY))
        run_fold(parts[-1], chosen, Observer(), tmp_path / "part")
    observer, whole = Observer(), merged(*parts)
    run_fold(whole, items(6), observer, tmp_path / "fold")
    assert observer.names == ["item 2", "item 3"]
    wanted = math.fsum(item.value for item in items(6))
    assert Fold.load(tmp_path / "fold", IDENTITY).total("state")[0].item() == pytest.approx(wanted, rel=1e-12)


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(UserError, match="cannot be written: no such file or directory"):
        run_fold(Fold(IDENTITY), items(1), Observer(), tmp_path / "none" / "fold")


# Files that may hold anything.


def outcome(path: Path, bytes_: bytes) -> Fold | None:
    """The fold that bytes are taken for; None if they are refused in one line that names the file and a remedy."""
    path.write_bytes(bytes_)
    try:
        return Fold.load(path, IDENTITY)
    except UserError as error:
        told = str(error)
        assert told.startswith(str(path))
        assert "delete it" in told
        assert told.isprintable(), told
        assert len(told) < len(str(path)) + 400
        return None


def forged(header: Any, tensors: dict[str, np.ndarray], seal: bool = True) -> bytes:
    """A file whose maker computed the hash anew, if there is a header in which it has a place."""
    if seal and isinstance(header, dict):
        with contextlib.suppress(ValueError):
            header = {**header, "sha256": module._seal(header, tensors)}
    words = header.encode(errors="replace").decode() if isinstance(header, str) else json.dumps(header)
    return save(tensors, {"fold": words})


HEADER = {"format": 1, "identity": IDENTITY, "done": ["a"]}
TENSORS = {"sum/k": np.ones(2), "lost/k": np.zeros(2), "count/k": np.ones((), dtype=np.int64)}


def test_forging_gives_a_fold_if_nothing_is_wrong_with_it(tmp_path):
    fold = outcome(tmp_path / "fold", forged(HEADER, TENSORS))
    assert fold is not None
    assert fold.mean("k").tolist() == [1, 1]


def test_a_file_that_is_missing_or_a_folder_is_told(tmp_path):
    with pytest.raises(UserError, match=r"none cannot be read: no such file or directory; name a file"):
        Fold.load(tmp_path / "none", IDENTITY)
    with pytest.raises(UserError, match=r"cannot be read: is a directory; name a file"):
        Fold.load(tmp_path, IDENTITY)


def test_a_file_that_is_cut_or_has_a_wrong_byte_is_never_taken_for_another_fold(tmp_path):
    path = tmp_path / "fold"
    fold = folded([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    whole = content(fold, tmp_path)
    for length in range(len(whole)):
        assert outcome(path, whole[:length]) is None
    assert outcome(path, whole + b"\0") is None
    for place in range(len(whole)):
        for flip in (0x01, 0x20, 0x80, 0xFF):
            found = outcome(path, whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
            assert found is None or content(found, tmp_path) == whole  # white space between words of the header


@QUICK
@given(bytes_=st.binary(max_size=400), length=st.none() | st.integers(0, 400))
def test_random_bytes_are_refused(tmp_path, bytes_, length):
    if length is not None:  # so that the length of the header may be right
        bytes_ = length.to_bytes(8, "little") + bytes_
    assert outcome(tmp_path / "fold", bytes_) is None


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("\ud800\x1b\n")
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))
ARRAYS = st.builds(
    lambda shape, kind, value: np.full(shape, value).astype(kind),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(["<f8", "<f4", "<f2", "<i8", "<i4", "<u8", "|b1", "<c8"]),
    st.sampled_from([0.0, 1.0, 2.5, 200.0]),
)
NAMES = st.sampled_from(["sum/k", "lost/k", "count/k", "sum/", "lost/", "count/", "sum", "other/k", "", "sum/k/k"])


@settings(QUICK, max_examples=250)
@given(
    header=st.fixed_dictionaries(
        {}, optional={key: st.just(value) | JSON for key, value in HEADER.items()} | {"sha256": JSON, "more": JSON}
    )
    | JSON
    | st.text(),
    tensors=st.just(TENSORS) | st.dictionaries(NAMES, ARRAYS, max_size=6),
    seal=st.booleans(),
)
def test_other_headers_and_other_tensors_are_refused_or_are_a_whole_fold(tmp_path, header, tensors, seal):
    fold = outcome(tmp_path / "fold", forged(header, tensors, seal))
    if fold is not None:
        content(fold, tmp_path)
        assert all(isinstance(fold.mean(key), Tensor) for key in fold.keys)


@pytest.mark.parametrize(
    "change",
    [
        {"sum/k": np.ones(2, dtype=np.float32)},
        {"sum/k": np.ones(2, dtype=np.int64)},
        {"count/k": np.ones((), dtype=np.int32)},
        {"count/k": np.ones(())},
        {"count/k": np.full((), -1)},
        {"count/k": np.ones(3, dtype=np.int64)},
        {"count/k": np.ones((2, 1), dtype=np.int64)},
        {"sum/k": np.ones(3)},
        {"sum/k": np.array([1, np.nan])},
        {"lost/k": np.array([1, np.inf])},
        {"sum/more": np.ones(2)},
        {"more": np.ones(2)},
        {"more/k": np.ones(2)},
    ],
)
def test_tensors_that_are_not_those_of_a_fold_are_refused_though_their_hash_is_right(tmp_path, change):
    assert outcome(tmp_path / "fold", forged(HEADER, TENSORS | change)) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("done", ["a", "a"]),
        ("done", "a"),
        ("done", [1]),
        ("done", [["a"]]),
        ("done", {"a": None}),
        ("identity", []),
        ("identity", None),
        ("identity", {**IDENTITY, "decoder": math.nan}),
        ("format", 2),
        ("format", "1"),
        ("format", None),
    ],
)
def test_a_header_that_is_not_that_of_a_fold_is_refused_though_its_hash_is_right(tmp_path, key, value):
    assert outcome(tmp_path / "fold", forged({**HEADER, key: value}, TENSORS)) is None


@pytest.mark.parametrize("depth", [300, 900, 990, 1000, 3000, 100_000])
@pytest.mark.parametrize("key", ["identity", "done", "format", "sha256"])
def test_a_header_that_is_nested_however_deep_is_refused(tmp_path, depth, key):
    for nested in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth, "[" * depth):
        header = json.dumps({**HEADER, "sha256": "", key: "HERE"}).replace('"HERE"', nested)
        assert outcome(tmp_path / "fold", forged(header, TENSORS)) is None
        assert outcome(tmp_path / "fold", forged(nested, TENSORS)) is None


def test_layouts_that_numpy_does_not_have_are_refused(tmp_path):
    for description, size in [
        ({"dtype": "BF16", "shape": [8]}, 16),
        ({"dtype": "F8_E4M3", "shape": [8]}, 8),
        ({"dtype": "F64", "shape": [2**62, 0]}, 0),
        ({"dtype": "F64", "shape": [2**64 - 1, 0]}, 0),
        ({"dtype": "F64", "shape": [2**64, 0]}, 0),
        ({"dtype": "F64", "shape": [1] * 70}, 8),
    ]:
        words = json.dumps(
            {"__metadata__": {"fold": json.dumps(HEADER)}, "sum/k": {**description, "data_offsets": [0, size]}}
        ).encode()
        assert outcome(tmp_path / "fold", len(words).to_bytes(8, "little") + words + bytes(size)) is None
    huge = json.dumps({**HEADER, "sha256": ""}).replace('"format": 1', '"format": ' + "9" * 5000)
    assert outcome(tmp_path / "fold", forged(huge, TENSORS)) is None


@pytest.mark.parametrize(
    ("identity", "told"),
    [
        ({**IDENTITY, "decoder": "x\ny"}, r'"decoder": "abc" instead of "x\ny"'),
        ({**IDENTITY, "lengths": [8]}, '"lengths": [8, 16] instead of [8]'),
        ({"decoder": "abc"}, '"lengths": [8, 16] instead of null'),
        ({**IDENTITY, "seed": 1}, '"seed": null instead of 1'),
        ({**IDENTITY, "decoder": "z" * 500}, '"decoder": "abc" instead of "zzz'),
    ],
)
def test_a_fold_of_another_identity_is_refused_and_what_differs_is_named(tmp_path, identity, told):
    folded([[1.0, 2.0, 3.0]]).save(tmp_path / "fold")
    with pytest.raises(UserError) as error:
        Fold.load(tmp_path / "fold", identity)
    assert f"{tmp_path / 'fold'} was made with another {told}" in str(error.value)
    assert str(error.value).isprintable()


def test_an_identity_is_compared_by_what_json_says_of_it(tmp_path):
    Fold({"lengths": (8, 16), "decoder": "abc"}).save(tmp_path / "fold")
    assert Fold.load(tmp_path / "fold", IDENTITY).keys == []
    for other in ({"number": True}, {"number": 1.0}):
        Fold({"number": 1}).save(tmp_path / "fold")
        with pytest.raises(UserError, match="was made with another"):
            Fold.load(tmp_path / "fold", other)
    with pytest.raises(ValueError, match="not JSON compliant"):
        Fold({"number": math.nan})
