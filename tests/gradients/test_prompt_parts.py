"""Which tokens of a prompt are its subject, and the parts that the others are."""

import pytest

from lab.base.errors import UserError
from lab.data.tokenizer import Tokenizer
from lab.gradients.parts import PARTS, means, parts_of, subject_tokens


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer("sotu_4k/tokenizer.json")


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("The capital of France is", "France"),
        ("The capital of France is", "The"),
        ("Lionel Messi plays for", "Lionel Messi"),
        ("In the city of Montevideo, the people", "Montevideo"),
        ("naïve 東京 is the capital", "東京"),
        ("Twice: Paris and Paris again", "Paris"),
    ],
)
def test_the_subjects_tokens_spell_it_and_no_more(tokenizer, prompt, subject):
    tokens = subject_tokens(tokenizer, prompt, subject)
    ids = tokenizer.encode(prompt)
    assert tokenizer.decode(ids[tokens.start : tokens.stop]).strip() == subject
    assert len(tokenizer.decode(ids[: tokens.stop])) <= prompt.find(subject) + len(subject)


@pytest.mark.parametrize("subject", ["Spain", "", "france"])
def test_a_subject_that_is_not_in_the_prompt_is_told(tokenizer, subject):
    with pytest.raises(UserError, match="is not in the prompt: write it as it stands there"):
        subject_tokens(tokenizer, "The capital of France is", subject)


def test_a_prompt_that_spells_the_end_of_a_document_has_no_known_subject(tokenizer, monkeypatch):
    # As for a library that takes these letters for the token itself.
    monkeypatch.setattr(tokenizer, "encode", lambda text: tokenizer._without_end(text)[1:])
    with pytest.raises(UserError, match="spells the end of a document"):
        subject_tokens(tokenizer, "a <|endoftext|> of France", "France")


def test_parts():
    rest, last = "rest", "last token"
    first, middle, end = (f"subject {each}" for each in ("first", "middle", "last"))
    assert parts_of(8, 7, range(1, 5)) == [rest, first, middle, middle, end, rest, last, "target"]
    assert parts_of(4, 4, range(1, 3)) == [rest, first, end, last]
    assert parts_of(3, 3, range(1, 2)) == [rest, end, last]
    assert parts_of(4, 4, range(1, 4)) == [rest, first, middle, last]  # where it ends with the prompt
    assert parts_of(1, 1, range(0, 1)) == [last]
    assert parts_of(8, 8, None) == ["first"] * 2 + ["middle"] * 3 + ["last"] * 2 + [last]
    assert parts_of(3, 2, None) == ["middle", last, "target"]
    assert parts_of(1, 1, None) == [last]


def test_means_are_over_the_tokens_of_each_part():
    found = means([1.0, 2.0, 4.0, 8.0], ["rest", "subject last", "rest", "last token"])
    assert found == {"subject last": (2.0, 1), "rest": (2.5, 2), "last token": (8.0, 1)}
    assert [*found] == sorted(found, key=PARTS.index)
