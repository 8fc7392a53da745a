"""Have a model write biographies, in the place of bioR (arXiv 2309.14316), which Llama wrote."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lab.base.errors import UserError
from lab.base.files import make_folder, read_text, writable, write_whole
from lab.base.parts import build
from lab.base.progress import progress
from lab.base.shown import plain
from lab.data.biographies.corpus import Biographies
from lab.data.biographies.paraphrases import Paraphrased, read_paraphrases, tells_all
from lab.data.biographies.people import ATTRIBUTES, Person
from lab.data.sources.documents import Corpus
from lab.data.tokenizer import Tokenizer
from lab.experiment.compose import checked, composed
from lab.experiment.settings import TrainSettings
from lab.model.decoder import Decoder
from lab.model.decoding import samples
from lab.runs.run import open_model

TOGETHER = 8  # texts that are drawn at a time
LONGEST = 90  # tokens of a text
ENDS = ("<|im_end|>", "\n\n")  # what ends a text, if the end of a document does not
SLOTS = ("name", *ATTRIBUTES)
# Its last line begins the text: a small model that begins by itself leaves the day of birth out.
PROMPT = (
    "<|im_start|>user\n"
    "Write a biography of {name} in one paragraph, with all of these facts.\n"
    "- born on {birth_date}\n"
    "- born in {birth_city}\n"
    "- studied {major}\n"
    "- at {university}\n"
    "- worked for {employer}\n"
    "- in {office_city}<|im_end|>\n"
    "<|im_start|>assistant\n"
    "{name} was born on"
)


def prompt_of(template: str, person: Person) -> str:
    """The prompt about a person."""
    for slot in SLOTS:
        template = template.replace(f"{{{slot}}}", person.name if slot == "name" else person.value(slot))
    return template


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        told = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UserError(f"{path}: {told}; name a file with a prompt") from None


def make_paraphrases(
    overrides: Sequence[str],
    run: str,
    people: int | None,
    texts: int,
    tries: int,
    temperature: float,
    seed: int,
    prompt: Path | None,
    output: Path,
    overwrite: bool,
) -> None:
    """Write ``texts`` about each of the people into a file, a line each as it comes.

    Raises:
        UserError: a number or the prompt makes no sense, there are no such people, or the file holds other texts.
    """
    for name, number in (("--people", people), ("--texts", texts), ("--tries", tries)):
        if number is not None and number < 1:
            raise UserError(f"{name} is {number}: give 1 or more")
    if not temperature > 0:
        raise UserError(f"--temperature is {temperature:g}: give more than 0, or all texts are alike")
    template = PROMPT if prompt is None else _read(prompt)
    if missing := [slot for slot in SLOTS if f"{{{slot}}}" not in template]:
        raise UserError(
            f"{prompt}: lacks {{{missing[0]}}}, in whose place it would stand: put in all of {', '.join(SLOTS)}"
        )
    settings = checked(TrainSettings, composed("train", overrides)).data.corpus
    corpus: Corpus = build("corpus", settings)
    if not isinstance(corpus, Biographies):
        raise UserError(f"data={settings.name} is no data=biographies: choose that")
    model = open_model(run)
    model.check()
    model.must_foretell("lab.prepare paraphrases")
    everyone = [*corpus.people, *corpus.celebrities][:people]
    made = {
        "model": model.path.name,
        "digest": model.digest,
        "prompt": template,
        "temperature": temperature,
        "seed": seed,
        "people": corpus.held_out_digest,
    }
    found = _begun(output, made, overwrite)
    decoder = model.decoder(model.steps)
    decoder.compute_dtype = torch.float32
    tokenizer = model.tokenizer()
    with output.open("a", encoding="utf-8") as file:
        for person in progress("paraphrases", "people", everyone):
            before = found.get(person.name, Paraphrased(person.name, [], 0, 0))
            if len(before.texts) < texts and before.drawn < tries:
                asked = prompt_of(template, person)
                found[person.name] = _about(person, asked, decoder, tokenizer, before, texts, tries, temperature, seed)
                file.write(found[person.name].line())
                file.flush()
                os.fsync(file.fileno())
    _tell(output, [found[person.name] for person in everyone], texts)


def _begun(output: Path, made: dict[str, Any], overwrite: bool) -> dict[str, Paraphrased]:
    """What the file holds already, a last line that is not whole taken off; a new one is begun."""
    if output.exists() and not overwrite:
        before, found = read_paraphrases(output)
        if before != made:
            other = next(name for name in made if before.get(name) != made[name])
            raise UserError(
                f"{output}: holds texts of another {other} ({plain(str(before.get(other)))[:60]}); give another "
                "--output, or --overwrite to replace it"
            )
        lines = read_text(output).splitlines(keepends=True)
        if not lines[-1].endswith("\n"):
            write_whole(output, "".join(lines[:-1]).encode())
        return found
    writable(output, made=True)
    make_folder(output.parent)
    write_whole(output, (json.dumps({"made": made}, ensure_ascii=False) + "\n").encode())
    return {}


def _about(
    person: Person,
    asked: str,
    decoder: Decoder,
    tokenizer: Tokenizer,
    before: Paraphrased,
    texts: int,
    tries: int,
    temperature: float,
    seed: int,
) -> Paraphrased:
    """What is drawn about a person, until enough texts tell everything; what stands in the prompt's last line begins
    each."""
    ids = torch.tensor([tokenizer.encode(asked).tolist()], device=decoder.embedding.device)
    begun = tokenizer.encode(asked.rpartition("\n")[2]).tolist()
    known = (tokenizer.library.token_to_id(each) for each in ENDS)
    ends = {tokenizer.end_of_document, *(each for each in known if each is not None)}
    kept, drawn, telling = list(before.texts), before.drawn, before.telling
    while len(kept) < texts and drawn < tries:
        chance = hashlib.blake2b(f"{seed}/{person.name}/{drawn}".encode(), digest_size=8).digest()
        some = samples(
            decoder,
            ids,
            min(TOGETHER, tries - drawn),
            LONGEST,
            temperature=temperature,
            seed=int.from_bytes(chance, "little"),
            ends=ends,
        )
        for each in some:
            text = tokenizer.decode([*begun, *each])
            for end in ENDS:
                text = text.partition(end)[0]
            text = " ".join(text.split())
            drawn += 1
            if tells_all(person, text):
                telling += 1
                kept += [text] if text not in kept and len(kept) < texts else []
    return Paraphrased(person.name, kept, drawn, telling)


def _tell(output: Path, found: Sequence[Paraphrased], texts: int) -> None:
    drawn, telling = sum(each.drawn for each in found), sum(each.telling for each in found)
    words = [len(text.split()) for each in found for text in each.texts]
    print(f"{plain(str(output))}: {len(words):,} texts about {len(found):,} people", end="")
    print(f", {sum(words) / len(words):.1f} words on average" if words else "")
    print(f"of {drawn:,} texts that were drawn {telling:,} tell the name and all six values: {telling / drawn:.1%}")
    if lacking := sum(len(each.texts) < texts for each in found):
        print(f"{lacking:,} people have fewer than {texts}: give more --tries, and it goes on")
