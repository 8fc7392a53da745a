"""Export a model: checked, written beside, renamed."""

import contextlib
from pathlib import Path

from lab.base.errors import UserError
from lab.base.files import discard, make_folder, refuse_link
from lab.exchange.card import card
from lab.exchange.exporting import export
from lab.exchange.gguf_writing import export_gguf
from lab.exchange.peft_writing import export_peft
from lab.experiment.settings import ExportSettings
from lab.runs.finding import step_of
from lab.runs.run import open_model

READERS = {
    "huggingface": "transformers",
    "gguf": "llama.cpp",
    "peft": "PEFT, which adds it to its parent as that is exported",
}


def hand_on(settings: ExportSettings) -> None:
    """Write what ``settings`` ask for.

    Raises:
        UserError: the target exists, the model is missing, unfinished or damaged, or cannot be expressed abroad.
    """
    to = Path(settings.to)
    if (to.suffix == ".gguf") != (settings.format == "gguf"):
        told = "add format=gguf, or name a folder" if to.suffix == ".gguf" else "name a file that ends in .gguf"
        raise UserError(f"to is {to} and format {settings.format}: {told}")
    refuse_link(to)
    if to.exists():
        raise UserError(f"{to} exists; name another, or delete it")
    model = open_model(settings.run)
    model.check()
    model.must_foretell("an export")
    step = step_of(model, settings.checkpoint)
    beside = to.with_name(f".{to.name}.new")
    refuse_link(beside)
    above = [each for each in to.parents if not each.exists()]
    make_folder(to.parent)
    try:
        discard(beside)
        if settings.format == "gguf":
            export_gguf(model, beside, step)
        else:
            beside.mkdir()
            if settings.format == "peft":
                export_peft(model, beside, step)
            else:
                export(model, beside, step, card(model, step))
        beside.rename(to)
    finally:
        with contextlib.suppress(OSError):
            discard(beside)
        if not to.exists():
            for each in above:
                with contextlib.suppress(OSError):
                    each.rmdir()
    print(f"{to}: {model.label}, for {READERS[settings.format]}")
