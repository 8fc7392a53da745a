"""The gradient lens on one prompt or on a file of them: reads, looks, writes and tells."""

from collections.abc import Sequence
from pathlib import Path

import torch

from lab.base.errors import UserError
from lab.base.progress import progress
from lab.base.tables import write_table
from lab.evidence.prompts import prompt_curves
from lab.experiment.lens_prompts import Fact, asked_of, facts_of, refuse_long
from lab.experiment.lens_settings import LensSettings
from lab.experiment.lens_tables import Tables, Telling
from lab.gradients.capture import NotFinite, Place, batches, capture, places_of
from lab.gradients.ranks import shape_of
from lab.model.decoder import Decoder
from lab.model.memory import is_out_of_memory
from lab.model.precision import device_of, exact_products
from lab.report.lens import print_lens, write_lens_page
from lab.runs.manifest import make_results
from lab.runs.model import Model
from lab.runs.run import open_model

DTYPES = {"float64": torch.float64, "float32": torch.float32}


def lens(settings: LensSettings) -> Tables:
    """Look at the gradients of prompts, print what they are, and write the tables if a folder is given.

    Raises:
        UserError: the run cannot be read, a prompt or a target is missing or cannot be used, there is no such layer, or
            a gradient is not finite.
    """
    asked = asked_of(settings)
    model = open_model(settings.run)
    model.check()
    model.must_foretell("lab.lens")
    step = None if settings.checkpoint == "last" else settings.checkpoint
    tokenizer = model.tokenizer()
    facts = facts_of(asked, tokenizer, settings)
    decoder = model.decoder(step)
    places = places_of(decoder, settings.layers, settings.matrices)
    refuse_long(facts, decoder)
    if settings.to is not None:
        make_results(Path(settings.to))
    decoder.to(device_of(settings.accelerator, settings.threads))
    exact_products()
    found = _observed(model, decoder, facts, places, Telling(decoder, shape_of(decoder), tokenizer, settings), settings)
    texts = [tokenizer.decode([token]) for token in facts[0].example.read]
    tables = {name: rows for name, rows in found._asdict().items() if rows}
    if settings.to is not None:
        for name, rows in tables.items():
            write_table(Path(settings.to) / f"{name}.csv", rows)
        write_lens_page(Path(settings.to), model.path.name, tables, texts, decoder.embedding.shape[0])
    print_lens(model.path.name, tables, texts, decoder.embedding.shape[0])
    if settings.to is not None:
        written = [*(f"{name}.csv" for name in tables), *(["places.png", "lengths.png"] if found.curves else [])]
        print(f"tables and page: {', '.join([*written, 'report.html'])} in {settings.to}")
    return found


def _observed(
    model: Model,
    decoder: Decoder,
    facts: Sequence[Fact],
    places: Sequence[Place],
    telling: Telling,
    settings: LensSettings,
) -> Tables:
    """The tables, in the order of the prompts."""
    by_fact: dict[int, Tables] = {}
    groups = batches([fact.example for fact in facts], settings.batch_tokens, decoder.position)
    bar = progress("prompts", "prompts", total=len(facts), disable=len(facts) == 1)
    try:
        for group in groups:
            here = [facts[each] for each in group]
            try:
                captured = capture(decoder, [fact.example for fact in here], places, DTYPES[settings.dtype])
            except NotFinite as error:
                raise UserError(f"{here[error.number].name or model.path}: {error}") from None
            by_fact |= dict(zip(group, telling.tables(captured, here, [each + 1 for each in group]), strict=True))
            bar.update(len(group))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UserError("out of memory: lower batch_tokens, name fewer layers, or shorten the prompts") from None
    finally:
        bar.close()
    ordered = [by_fact[number] for number in range(len(facts))]
    found = Tables(*([row for tables in ordered for row in tables[field]] for field in range(len(Tables._fields))))
    if len(facts) == 1:
        return found
    return found._replace(curves=prompt_curves(found._asdict(), decoder.embedding.shape[0]))
