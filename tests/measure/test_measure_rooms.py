"""A measure lives in its own file: nobody else knows its name, and none needs torch to be known."""

import ast
import inspect
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

import lab
from lab.measure.copying import Copy
from lab.measure.excess import Excess
from lab.observe.measure import Curve, Measure, measures

PACKAGE = Path(lab.__file__).parent
# Names of rows that a measure gives beside its own: a row is told by them wherever rows are read.
OTHERS = {"whole_prefix": Excess, "restarted": Excess, "copy_first": Copy}
every_measure = pytest.mark.parametrize("measure", measures(), ids=lambda measure: measure.label())


def own_file(measure: type[Measure]) -> Path:
    return Path(inspect.getfile(measure))


def literals(text: str) -> list[tuple[int, str]]:
    """(line, text) of every string literal that is no docstring; of an f-string with what stands in its braces."""
    documentation = {
        (node.lineno, node.col_offset)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [
        (token.start[0], token.string)
        for token in tokens
        if token.type == tokenize.STRING and token.start not in documentation
    ]


def test_literals_are_all_strings_but_docstrings_and_comments():
    text = '"""copy"""\n# copy\nx = "copy", f"{copy!r} it"\ndef f():\n    """copy"""\n    return r\'copy\'\n'
    assert literals(text) == [(3, '"copy"'), (3, 'f"{copy!r} it"'), (6, "r'copy'")]


def names(literal: str, name: str) -> bool:
    """Whether a literal names a measure; what is an English word too ("the copy") only where no space is beside it, and
    it is not of a file."""
    return bool(re.search(rf"\b{name}\b" if "_" in name else rf"(?<![\w\s]){name}(?![\w\s]|\.jsonl)", literal))


def test_an_english_word_between_spaces_is_no_name():
    assert names('"copy"', "copy")
    assert names("f'[excess,copy]'", "copy")
    assert names('"measure.copy.string"', "copy")
    assert names('"of copy_first there"', "copy_first")
    assert not names('"copy_first"', "copy")
    assert not names('"make a copy"', "copy")
    assert not names('"answers.jsonl"', "answers")
    assert not names("f'copy {number}'", "copy")


def test_the_name_of_a_measure_or_of_its_rows_stands_in_its_own_file_only():
    owners = {measure.label(): own_file(measure) for measure in measures()}
    owners |= {name: own_file(measure) for name, measure in OTHERS.items()}
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {literal}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, literal in literals(path.read_text(encoding="utf-8"))
        for name, owner in owners.items()
        if path != owner and names(literal, name)
    ]
    assert found == []


@every_measure
def test_a_measure_says_what_its_numbers_are(measure):
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", measure.label())
    assert measure.unit
    assert measure.difference_unit
    assert "length_is" in vars(measure)
    assert measure.length_is
    assert measure.curve is None or isinstance(measure.curve, Curve)
    assert measure.contrast is None or (measure.curve is not None and measure.contrast_label)
    assert (measure.detail_map() is None) == (measure.detail == "")
    if measure.curve is not None:
        assert measure.curve.perplexity == (measure.unit == "perplexity")
        assert all((measure.curve.title, measure.curve.along, measure.curve.upward))


@every_measure
def test_every_key_of_a_measure_is_explained_and_has_no_hidden_default(measure):
    """What is scored is written in conf/measure/, and nowhere else."""
    for name, field in measure.model_fields.items():
        assert name == "name" or (field.description and field.is_required())


def test_measures_are_told_in_one_order_whichever_is_imported_first():
    code = (
        "import lab.measure.{first}; from lab.observe.measure import measures; print([m.label() for m in measures()])"
    )
    told = {run(code.format(first=first)) for first in ("truncated_perplexity", "passkey", "context_gain")}
    assert told == {str([measure.label() for measure in measures()])}


def test_importing_all_measures_loads_no_torch():
    code = "import sys; from lab.observe.measure import measures; print(len(measures()), 'torch' in sys.modules)"
    assert run(code) == f"{len(measures())} False"


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_the_room_of_measures_holds_measures_only_each_in_a_file():
    files = {path for path in (PACKAGE / "measure").rglob("*.py") if path.name != "__init__.py"}
    assert files == {own_file(measure) for measure in measures()}
    assert len(files) == len(measures())
    assert (PACKAGE / "measure" / "__init__.py").read_text() == ""
