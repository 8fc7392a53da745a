"""What an edit is made of: the run, its facts as tokens, and the decoder that the edit is computed on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor

from lab.base.errors import UserError
from lab.base.interruption import Interruption
from lab.experiment.edit_facts import Fact, Tokens, as_tokens, asked_facts, facts_digest
from lab.experiment.edit_settings import EditSettings
from lab.experiment.edit_texts import Stretches, digest_of_stretches, stretches_of, texts_of
from lab.experiment.fact_files import refuse
from lab.gradients.answers import answers
from lab.gradients.capture import Example, NotFinite
from lab.gradients.edits import BATCH_TOKENS, EditMethod, Texts, Update
from lab.model.attention import Attention
from lab.model.decoder import Decoder
from lab.model.precision import device_of, exact_products
from lab.runs.checkpoints import Checkpoint
from lab.runs.model import Model
from lab.runs.run import open_model

DTYPES = {"float64": torch.float64, "float32": torch.float32}


@dataclass(frozen=True)
class Prepared:
    """Everything that is asked, and can be done.

    Attributes:
        asked: the method, the facts and the texts by value: what is asked twice is found.
        edit: what of them goes into the identity.
        stretches: of other texts, for a method that reads them.
    """

    parent: Model
    method: EditMethod
    facts: list[Fact]
    tokens: list[Tokens]
    stretches: list[Stretches]
    asked: dict[str, Any]
    edit: dict[str, Any]

    @property
    def step(self) -> int:
        return self.parent.steps

    @property
    def checkpoint(self) -> Checkpoint:
        return self.parent.checkpoint(self.step)


def prepared(settings: EditSettings) -> Prepared:
    """Whatever can be known before anything is computed.

    Raises:
        UserError: the parent is missing, unfinished or damaged; a fact cannot be used; there is no such layer.
    """
    alone = {name: getattr(settings, name) for name in ("prompt", "target", "subject")}
    facts = asked_facts(alone, settings.facts)
    method: EditMethod = settings.method
    if method.one_token and settings.target_tokens == "all":
        raise UserError(f"{method.name} writes one token of a target: give target_tokens=one or first")
    parent = _parent(settings.run)
    layers = parent.config.scale.layers
    if method.layer > layers:
        raise UserError(f"method.layer is {method.layer}: the decoder has layers 1 to {layers}")
    longest = parent.context if parent.config.model.position.ends else None
    tokens = as_tokens(facts, parent.tokenizer(), method, settings.target_tokens, longest)
    refuse_quantised(parent.checkpoint(parent.steps))
    sample = method.sample
    stretches = [] if sample is None else stretches_of(parent, sample)
    read = {} if sample is None else {"texts": digest_of_stretches(stretches)}
    chosen = chosen_of(settings, facts)
    told = {"facts": facts_digest(facts), "target_tokens": settings.target_tokens, **chosen, **read}
    asked = {"method": method.plain(), "dtype": settings.dtype, **told}
    return Prepared(parent, method, facts, tokens, stretches, asked, {**method.identity(), **told})


def computing(ready: Prepared, settings: EditSettings) -> Decoder:
    """The parent's decoder, where and in the type in which the edit is computed."""
    decoder = ready.parent.decoder(ready.step).to(device_of(settings.accelerator, settings.threads))
    exact_products()
    _compute_in(decoder, DTYPES[settings.dtype])
    return decoder


def given_texts(ready: Prepared, decoder: Decoder, interruption: Interruption) -> Texts | None:
    """What the method is given of other texts. Raises as :func:`texts_of`."""
    sample = ready.method.sample
    if sample is None:
        return None
    return texts_of(ready.parent, decoder, ready.step, ready.method.place, sample, ready.stretches, interruption)


def _parent(run: str) -> Model:
    where = Path(run)
    if where.is_symlink() or where.name in ("", ".."):  # beside the run itself, not beside what leads to it
        where = where.resolve()
    parent = open_model(where)
    parent.check()
    parent.must_foretell("an edit")
    if parent.manifest["state"] != "finished":
        raise UserError(f"{parent.path} is unfinished: train it to its end with the command that began it")
    return parent


def refuse_quantised(checkpoint: Checkpoint) -> None:
    """Raises UserError for a checkpoint with a matrix whose numbers are not floating ones."""
    path = checkpoint.path / "weights.safetensors"
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 it is no dict
            kind = file.get_slice(name).get_dtype()
            if kind not in ("F64", "F32", "F16", "BF16"):
                raise UserError(f"{path} has {name} stored as {kind}: an edit needs floating numbers; restore them")


def _compute_in(decoder: Decoder, dtype: torch.dtype) -> None:
    """Let a decoder that has no other use compute in a type, by the kernel that serves every type and case; its weights
    get no gradient."""
    decoder.requires_grad_(False)
    decoder.compute_dtype = dtype
    for block in decoder.blocks:
        cast(Attention, block.attention).kernel = "banded"


def chosen_of(settings: EditSettings, facts: Sequence[Fact]) -> dict[str, Any]:
    """Which of the facts are meant, as far as that is asked. Raises UserError if they do not tell, or are fewer."""
    found: dict[str, Any] = {}
    if settings.facts_known:
        refuse(
            [
                f"{each.name or 'the fact'}: it has no truth, which facts_known asks for; add one"
                for each in facts
                if each.truth is None
            ]
        )
        found["facts_known"] = True
    if settings.facts_taken is not None:
        first, last = settings.facts_taken
        if not first <= last <= len(facts):
            raise UserError(f"facts_taken is [{first}, {last}]: give two numbers of 1 to {len(facts)}, rising")
        found["facts_taken"] = [first, last]
    return found


def to_write(ready: Prepared, decoder: Decoder) -> list[int]:
    """The numbers of the facts that are to be written: what a decoder says already is not, and what was not chosen.

    Says how many are left out. Raises UserError if none is left, or fewer than were chosen.
    """
    parent, facts = ready.parent, ready.facts
    right = _said(decoder, [each.example for each in ready.tokens])
    names = [fact.name or "the fact" for fact, each in zip(facts, right, strict=True) if each]
    if all(right):
        raise UserError(
            f"{parent.path} answers with the target of {'the fact' if len(facts) == 1 else f'all {len(facts)} facts'} "
            "already: there is nothing to write"
        )
    told = []
    if names:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        told.append(f"{len(names)} of {len(facts)} facts are known already, and are left out of the edit: {shown}")
    left = [number for number, each in enumerate(right) if not each]
    if "facts_known" in ready.edit:
        truths = [Example(ready.tokens[number].example.prompt, ready.tokens[number].truth or ()) for number in left]
        left = [number for number, each in zip(left, _said(decoder, truths), strict=True) if each]
        if not left:
            raise UserError(f"{parent.path} answers with the truth of no fact: there is none that it could lose")
        told.append(
            f"{parent.path} answers with the truth of {len(left)} of {len(facts)} facts; the others are left out"
        )
    if "facts_taken" in ready.edit:
        first, last = ready.edit["facts_taken"]
        if last > len(left):
            raise UserError(f"facts_taken is [{first}, {last}]: {len(left)} of {len(facts)} facts are left")
        left = left[first - 1 : last]
    print(*told, sep="\n", end="\n" if told else "")
    return left


def _said(decoder: Decoder, examples: Sequence[Example]) -> list[bool]:
    """Whether each token of a target is the decoder's answer."""
    return [each.said for each in answers(decoder, examples, BATCH_TOKENS)]


def updated(
    ready: Prepared,
    decoder: Decoder,
    numbers: Sequence[int],
    texts: Texts | None,
    check: Callable[[], object] = lambda: None,
) -> Update:
    """What the method adds for some of the facts. Raises UserError if that is not finite, or cannot be done.

    Args:
        check: called before each step; may raise to stop.
    """
    requests = [ready.tokens[number].request for number in numbers]
    try:
        update = ready.method.update(decoder, requests, texts, check)
    except NotFinite as error:
        raise UserError(f"{requests[error.number].name or ready.parent.path}: {error}") from None
    if not bool(update.change.isfinite().all()):
        raise UserError(f"{ready.parent.path}: what {ready.method.name} adds is not finite; take smaller steps")
    return update


def changed_matrix(decoder: Decoder, update: Update) -> Tensor:
    """The matrix with what is added to it, in float32. Raises UserError if that changes nothing, or is too much."""
    before = decoder.get_parameter(f"{update.place.module}.weight").detach().cpu()
    after = (before.double() + update.change.cpu()).float()
    if not bool(after.isfinite().all()):
        raise UserError(f"the edit makes numbers in {update.place.matrix} that are not finite: take smaller steps")
    if torch.equal(before.float(), after):
        raise UserError(f"the edit adds less than float32 can tell to {update.place.matrix}: take larger steps")
    return after
