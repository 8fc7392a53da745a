"""Text from a decoder: one prompt to the terminal as it comes, many into a table."""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from lab.base.errors import UserError
from lab.base.files import writable
from lab.base.interruption import AtOnce
from lab.base.progress import progress
from lab.base.shown import plain
from lab.base.tables import Row, write_table
from lab.data.tokenizer import Tokenizer
from lab.experiment.settings import GenerateSettings
from lab.model.decoder import Decoder
from lab.model.decoding import sample
from lab.model.precision import device_of
from lab.runs.model import Model
from lab.runs.run import open_model


def generate(settings: GenerateSettings) -> None:
    """Write on what is given.

    Raises:
        UserError: the run cannot be read, there is no prompt, or a file cannot be read or written.
    """
    if settings.prompts is not None and settings.prompt is not None:
        raise UserError("prompt and prompts are both given: give one")
    if (settings.prompts is None) != (settings.to is None):
        raise UserError("prompts and to belong together: prompts=FILE to=TABLE.csv")
    lines = None if settings.prompts is None else read_lines(Path(settings.prompts))
    if settings.prompts is not None and settings.to is not None:
        if Path(settings.to).resolve() == Path(settings.prompts).resolve():
            raise UserError(f"to is {settings.to}, which holds the prompts: name another file")
        writable(Path(settings.to))
    model = open_model(settings.run)
    model.check()
    model.must_foretell("lab.generate")
    if lines is None and settings.prompt is None and (sys.stdin is None or sys.stdin.isatty()):
        raise UserError("prompt must be given: add prompt=... to the command, or write to its standard input")
    text = "" if lines is not None else read_input() if settings.prompt is None else settings.prompt
    if any("\ud800" <= sign <= "\udfff" for sign in text):  # so Python hands on bytes that it cannot decode
        raise UserError("prompt is not UTF-8: convert it")
    step = None if settings.checkpoint == "last" else settings.checkpoint
    decoder = model.decoder(step).to(device_of(settings.accelerator, settings.threads))
    if lines is None:
        stream(model, decoder, text, settings)
    else:
        rows: list[Row] = []
        for number, line in enumerate(progress("prompts", "prompts", lines)):
            continued = "".join(pieces(model, decoder, line, settings, settings.seed + number))
            rows.append({"prompt": line, "continuation": continued, "seed": settings.seed + number})
        write_table(Path(str(settings.to)), rows)
        print(f"{settings.to}: {len(rows)} prompts continued")


def read_lines(path: Path) -> list[str]:
    """The prompts of a file, one a line; empty lines are none. Raises UserError if it cannot be read, or has none."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").split("\n") if line]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "it is not UTF-8"
        raise UserError(f"{path} cannot be read: {reason}; give a text file with one prompt a line") from None
    if not lines:
        raise UserError(f"{path} is empty; give a text file with one prompt a line")
    return lines


def read_input() -> str:
    """Standard input without its last line break. Raises UserError if it is not UTF-8."""
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError:
        raise UserError("standard input is not UTF-8: convert it") from None


def stream(model: Model, decoder: Decoder, prompt: str, settings: GenerateSettings) -> None:
    """Print a prompt and what follows, piece by piece; Ctrl-C ends it with the line."""
    # What a decoder says is not to steer the terminal; a file or a pipe gets it as it is.
    told = partial(plain, keep="\n\t") if sys.stdout.isatty() else str
    sys.stdout.write(told(prompt))
    try:
        for piece in pieces(model, decoder, prompt, settings, settings.seed):
            sys.stdout.write(told(piece))
            sys.stdout.flush()
    except KeyboardInterrupt:  # the usual way to end it, and nothing to tell
        sys.stdout.write("\n")
        sys.exit(AtOnce.EXIT_CODE)
    sys.stdout.write("\n")


def pieces(model: Model, decoder: Decoder, prompt: str, settings: GenerateSettings, seed: int) -> Iterator[str]:
    """What follows a prompt, in pieces of whole characters; it ends with the document."""
    tokenizer = model.tokenizer()
    # A decoder never saw a text without a beginning: what stands before a document's first token is an end.
    ids = tokenizer.encode(prompt).tolist() or [tokenizer.end_of_document]
    given = torch.tensor([ids], device=decoder.embedding.device)
    tokens = list(ids)
    # A tokenizer may write a first token otherwise than a later one: what is new is decoded behind some that is not.
    first, told = max(0, len(ids) - 8), len(ids)
    for token in sample(
        decoder,
        given,
        settings.tokens,
        temperature=None if settings.greedy else settings.temperature,
        top_p=settings.top_p,
        seed=seed,
    ):
        if token == tokenizer.end_of_document:
            break
        tokens.append(token)
        text = added(tokenizer, tokens[first:], told - first)
        if text.endswith("\ufffd"):  # half a character: the next token has the rest
            continue
        yield text
        first, told = told, len(tokens)
    yield added(tokenizer, tokens[first:], told - first)


def added(tokenizer: Tokenizer, tokens: list[int], count: int) -> str:
    """The text that tokens add behind the first ``count`` of them."""
    return tokenizer.decode(tokens)[len(tokenizer.decode(tokens[:count])) :]
