"""The parts of a prompt: whose tokens' inputs and backward signals are told together."""

from collections.abc import Sequence
from itertools import groupby
from statistics import fmean

from lab.base.errors import UserError
from lab.data.tokenizer import Tokenizer

# As Katz et al. 2024 (arXiv 2402.12865, section 6) have them; "target" are those tokens of a target that are read.
OF_SUBJECT = ("subject first", "subject middle", "subject last", "rest", "last token", "target")
OF_TEXT = ("first", "middle", "last", "last token", "target")
PARTS = ("subject first", "subject middle", "subject last", "first", "middle", "last", "rest", "last token", "target")


def subject_tokens(tokenizer: Tokenizer, prompt: str, subject: str) -> range:
    """The tokens of a prompt in which letters of the subject are, where it stands first.

    Raises:
        UserError: the subject is empty or not in the prompt, or cannot be told from the rest.
    """
    start = prompt.find(subject)
    if not subject or start < 0:
        raise UserError(f"subject {subject[:60]!r} is not in the prompt: write it as it stands there")
    stop = start + len(subject)
    encoding = tokenizer.library.encode(prompt, add_special_tokens=False)
    if encoding.ids != tokenizer.encode(prompt).tolist():
        raise UserError(
            "the prompt spells the end of a document, so that its subject's tokens are not known: reword it"
        )
    inside = [
        number for number, (first, end) in enumerate(encoding.offsets) if first < stop and end > start and end > first
    ]
    if not inside:
        raise UserError(f"subject {subject[:60]!r} has no token of its own in the prompt")
    return range(inside[0], inside[-1] + 1)


def parts_of(tokens: int, prompt: int, subject: range | None) -> list[str]:
    """The part of each token that is read.

    The prompt's last token is ``last token``, even where a subject ends there, and what stands behind it ``target``.
    The subject's last token is ``subject last``, its first, if it has more than one, ``subject first``. Without a
    subject the tokens before the prompt's last are in thirds, ``first``, ``middle``, ``last``; what does not divide is
    the middle's.
    """
    found = []
    before = prompt - 1
    third = before // 3
    for number in range(tokens):
        if number >= prompt:
            found.append("target")
        elif number == before:
            found.append("last token")
        elif subject is None:
            found.append("first" if number < third else "last" if number >= before - third else "middle")
        elif number not in subject:
            found.append("rest")
        elif number == subject[-1]:
            found.append("subject last")
        else:
            found.append("subject first" if number == subject[0] else "subject middle")
    return found


def means(values: Sequence[float], parts: Sequence[str]) -> dict[str, tuple[float, int]]:
    """The mean over the tokens of each part, and how many they are, in the order of PARTS."""
    pairs = sorted(zip(parts, values, strict=True), key=lambda pair: PARTS.index(pair[0]))
    told = {part: [value for _, value in rows] for part, rows in groupby(pairs, key=lambda pair: pair[0])}
    return {part: (fmean(rows), len(rows)) for part, rows in told.items()}
