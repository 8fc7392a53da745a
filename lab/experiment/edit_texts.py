"""The other texts that a method of editing reads: the covariance of keys over them, as a fold, and prefixes."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from lab.base.errors import UserError
from lab.base.files import make_folder, read_text, refuse_link
from lab.base.interruption import Interruption
from lab.base.progress import progress
from lab.data.settings import EvaluationSettings
from lab.gradients import covariance
from lab.gradients.capture import Place
from lab.gradients.covariance import KEY, observe_keys
from lab.gradients.edits import Sample, Texts
from lab.model.decoder import Decoder
from lab.observe.fold import Fold, Observed, run_fold
from lab.observe.measure import segment_starts
from lab.observe.score_runs import sources_of
from lab.observe.scoring import ROOMS
from lab.runs.environment import digest_of_code
from lab.runs.model import Model
from lab.runs.settings import RunSettings

TOGETHER = 8  # stretches that are read at a time


class Stretches(NamedTuple):
    """Stretches of C tokens of one document."""

    name: str
    ids: list[tuple[int, ...]]


def stretches_of(parent: Model, sample: Sample) -> list[Stretches]:
    """What is read: of a text file, or of the documents that the parent was trained on.

    Raises:
        UserError: the file cannot be read, or there are no training documents, or nothing is long enough.
    """
    context, found = parent.context, list[Stretches]()
    for name, ids in _texts(parent, sample):
        starts = segment_starts(len(ids), context, sample.stretches)
        found.append(Stretches(name, [tuple(ids[start : start + context]) for start in starts]))
    return found


def _texts(parent: Model, sample: Sample) -> Iterator[tuple[str, list[int]]]:
    if sample.text is not None:
        path = Path(sample.text)
        try:
            ids = parent.encode(read_text(path))[0].tolist()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "it is not UTF-8"
            raise UserError(f"{path} cannot be read: {reason}; give a text file") from None
        if len(ids) < parent.context:
            raise UserError(f"{path} has {len(ids):,} tokens: give a text of C = {parent.context:,} at least")
        # One text may be the whole of it: it is cut, so that as many stretches are read as of documents.
        pieces = min(sample.documents, len(ids) // parent.context)
        for number in range(pieces):
            first, stop = (each * len(ids) // pieces for each in (number, number + 1))
            yield f"text/{number}", ids[first:stop]
        return
    if not isinstance(parent.config, RunSettings):
        raise UserError(
            f"{parent.path} is an imported model, whose training documents are not known: give method.keys.text=FILE"
        )
    ((_, source),) = sources_of([parent], EvaluationSettings(corpus=None), "train")
    for item in source.long_enough(parent.context, sample.documents):
        yield item.name, [int(each) for each in item.ids]


def digest_of_stretches(stretches: Sequence[Stretches]) -> str:
    """sha256 of all that is read."""
    return hashlib.sha256(json.dumps([each.ids for each in stretches]).encode()).hexdigest()


def texts_of(
    parent: Model,
    decoder: Decoder,
    step: int,
    place: Place,
    sample: Sample,
    stretches: Sequence[Stretches],
    interruption: Interruption,
) -> Texts:
    """The covariance of the inputs of a matrix, kept in the parent's ``analysis/`` and taken up where it was left; and
    the prefixes, the beginnings of the first stretches.

    Raises:
        UserError: the inputs are not finite, or what is kept is damaged.
        Interrupted: on a signal, after which the same command goes on.
    """
    code = digest_of_code(ROOMS, Path(covariance.__file__))
    identity = {
        "run": parent.digest,
        "weights_sha256": parent.checkpoint(step).weights_digest(),
        "step": step,
        "place": place.module,
        "texts": digest_of_stretches(stretches),
        "precision": str(decoder.compute_dtype),
        "code": code,
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    path = parent.path / "analysis" / f"key_covariance-{digest}.safetensors"
    refuse_link(path.parent)
    make_folder(path.parent)
    fold = Fold.load(path, identity) if path.exists() else Fold(identity)
    bar = progress("keys", "documents", total=len(stretches), initial=len(fold.done))

    def observe(document: Stretches) -> Observed:
        each = Fold({})
        for first in range(0, len(document.ids), TOGETHER):
            each.add(f"{first}", observe_keys(decoder, place, document.ids[first : first + TOGETHER]))
        bar.update()
        return {KEY: (each.total(KEY), each.count(KEY))}

    stop = "came before all keys were counted; the same command goes on"
    with bar:
        if fold.done.keys() != {each.name for each in stretches}:
            run_fold(fold, stretches, observe, path, partial(interruption.check, stop))
    prefixes = [ids[: sample.prefix_tokens] for each in stretches for ids in each.ids[:1]][: sample.prefixes]
    return Texts(fold.mean(KEY).to(decoder.embedding.device), prefixes)
