"""What an extension leaves open, found: tables of positional vectors, the best layer, the best k."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from torch import Tensor

from lab.base.errors import UserError
from lab.base.interruption import Interruption
from lab.base.parts import build
from lab.base.progress import progress
from lab.base.tables import Row
from lab.experiment.analysis import Folding
from lab.experiment.extend_settings import ExtendSettings, SearchSettings
from lab.experiment.factor_search import length_of, searched
from lab.experiment.found_factors import put_together
from lab.extension.longrope import LongRoPE
from lab.extension.rope_rules import RopeRule, rope_rule
from lab.extension.settings import AttentionScalingSettings, VectorReplacementSettings
from lab.extension.vector_replacement import replacement_table
from lab.model.decoder import Decoder
from lab.observe import taps
from lab.observe.losses import losses_in_one_pass, on_device
from lab.observe.measure import Item
from lab.observe.score_runs import sources_of
from lab.runs.derived import Derived
from lab.runs.extensions import ExtensionSettings
from lab.runs.model import Model

MOST_K = 1.5  # of 1 + k ln s, that is tried


@dataclass
class Found:
    """An extension that leaves nothing open.

    Attributes:
        tables: that its keys name by their sha256, in their order, which are to be put in.
        record: how it was found.
        rows: of all that was tried.
    """

    extension: ExtensionSettings
    tables: list[Tensor] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)


def completed(parent: Model, step: int, settings: ExtendSettings, device: str, interruption: Interruption) -> Found:
    """What an extension leaves open, found on the parent's validation documents.

    Raises:
        UserError: it has no meaning for the parent, or the documents are too short.
        Interrupted: on a signal.
    """
    extension: ExtensionSettings = settings.extension
    searches = isinstance(extension, LongRoPE) and extension.search in ("paper", "code")
    if settings.search.objective != "perplexity" and not searches:
        raise UserError(f"search.objective is {settings.search.objective}: only extension=longrope is searched by it")
    if isinstance(extension, RopeRule):
        rule = _of_first_context(parent, extension)
        if isinstance(rule, LongRoPE) and rule.search == "found":
            found, record = put_together(parent, rule)
            return Found(found, [], record)
        if isinstance(rule, LongRoPE) and rule.search is not None:
            documents = validation(parent, length_of(settings.search, rule) + 1, settings)
            found, record, rows = searched(parent, step, settings, rule, documents, device, interruption)
            return Found(found, [], record, rows)
        return Found(rule)
    if isinstance(extension, VectorReplacementSettings):
        return _replacement(parent, step, settings, extension, device, interruption)
    if isinstance(extension, AttentionScalingSettings) and extension.k == "fit":
        return _scaling(parent, step, settings, extension, device, interruption)
    return Found(extension)


def _of_first_context(parent: Model, rule: RopeRule) -> RopeRule:
    """A rule with the context that the frequencies are of: of a parent that was trained with another rule, that one's.

    Raises:
        UserError: the parent has no RoPE, or is derived by another rule itself.
    """
    position = parent.config.model.position.name
    if position != "rope":
        raise UserError(
            f"extension {rule.name} is for decoders with RoPE, and {parent.path} has {position}: choose a run of "
            "model=rope or model=window_rope"
        )
    before = rope_rule(parent.extensions)
    if before is not None and isinstance(parent, Derived):
        raise UserError(
            f"{parent.path} reads its RoPE with {before.label} already, and one decoder has one such extension: extend "
            f"{parent.parent.path}"
        )
    if isinstance(parent, Derived):
        raise UserError(f"{parent.path} is a derived run; RoPE is extended before anything else is: extend its parent")
    if rule.context is not None:
        return rule
    return rule.with_values(context=parent.context if before is None else before.length)


def _replacement(
    parent: Model,
    step: int,
    settings: ExtendSettings,
    extension: VectorReplacementSettings,
    device: str,
    interruption: Interruption,
) -> Found:
    position = parent.config.model.position.name
    if position != "nope" and not extension.force:
        raise UserError(
            f"extension vector_replacement is for decoders whose states alone tell positions, and {parent.path} has "
            f"{position}: extension.force=true makes it all the same, as a negative control"
        )
    if extension.table_sha256 is not None:
        raise UserError("extension.table_sha256 is found, not given: leave it out")
    if extension.contexts > settings.vectors.longest:
        raise UserError(
            f"extension.contexts is {extension.contexts}, and vectors.longest {settings.vectors.longest}: there are "
            "vectors of no more positions"
        )
    layers = parent.config.scale.layers
    if extension.layer != "sweep" and extension.layer > layers:
        raise UserError(f"extension.layer is {extension.layer}, and the decoder has layers 1 to {layers}")
    if extension.first >= parent.context - 1:
        raise UserError(f"extension.first is {extension.first}: leave two of C = {parent.context} positions at least")
    pairs = _pairs(extension, settings.search)
    settings.vectors.fits(parent.context)
    ((label, source),) = sources_of([parent], settings.evaluation, settings.vectors.documents_of)
    folding = Folding(parent, step, device, interruption)
    items = [*settings.vectors.items(source)]
    vectors = folding.folded_vectors(settings.vectors, label, items)
    length = extension.contexts * parent.context

    def table(layer: int, ratio: float, alpha: float) -> Float[Tensor, "length width"]:
        return replacement_table(
            vectors.p(layer)[:length],
            parent.context,
            ratio=ratio,
            alpha=alpha,
            first=extension.first,
            stretch=extension.stretch,
            beyond=extension.beyond,
        )

    record: dict[str, Any] = {"vectors": vectors.fold.identity, "windows": vectors.windows}
    rows: list[Row] = []
    chosen = (extension.layer, *pairs[0])
    if extension.layer == "sweep":
        decoder = parent.decoder(step).to(device)
        documents = validation(parent, length + 1, settings)
        rows = swept(decoder, documents, parent.context, length, pairs, table, interruption)
        best = min(rows, key=lambda row: row["loss_beyond_nats"])
        chosen = best["layer"], best["ratio"], best["alpha"]
        record |= {"documents": [item.name for item in documents], "agreement": vectors.agreement(best["layer"])}
    layer, ratio, alpha = chosen
    assert isinstance(layer, int)
    found = extension.with_values(layer=layer, ratio=ratio, alpha=alpha)
    return Found(found, [table(layer, ratio, alpha)], record, rows)


def _pairs(extension: VectorReplacementSettings, search: SearchSettings) -> list[tuple[float, float]]:
    if len(search.ratios) != len(search.alphas):
        raise UserError(
            f"search has {len(search.ratios)} ratios and {len(search.alphas)} alphas: give each r its alpha"
        )
    if search.ratios and extension.layer != "sweep":
        raise UserError("search.ratios are tried where extension.layer=sweep; leave them out")
    return [*zip(search.ratios, search.alphas, strict=True)] or [(extension.ratio, extension.alpha)]


def validation(parent: Model, length: int, settings: ExtendSettings) -> list[Item]:
    """The validation documents that are long enough. Raises UserError if there are none."""
    ((_, source),) = sources_of([parent], settings.evaluation, "validation")
    return [*source.long_enough(length, settings.search.documents)]


def swept(
    decoder: Decoder,
    documents: Sequence[Item],
    context: int,
    length: int,
    pairs: Sequence[tuple[float, float]],
    table: Callable[[int, float, float], Tensor],
    interruption: Interruption,
) -> list[Row]:
    """The loss with each layer's vectors replaced, by each pair of r and alpha, inside and beyond C; mean over
    documents.

    The states of a layer are read once a document, and whatever is below it is not formed again.
    """
    tables = {
        (layer, *pair): table(layer, *pair).to(decoder.embedding.device, decoder.compute_dtype)
        for layer in range(1, len(decoder.blocks) + 1)
        for pair in pairs
    }
    losses: dict[tuple[int, float, float], list[Tensor]] = {each: [] for each in tables}
    places = [f"blocks.{index}" for index in range(len(decoder.blocks))]
    for item in progress("sweep over layers", "documents", documents):
        interruption.check("came: nothing is kept of a sweep")
        tokens = on_device(item.ids[: length + 1], decoder)
        with torch.inference_mode(), taps.reading(decoder, places) as seen:
            decoder.hidden(tokens[None, :-1])
            states = [seen[place] for place in places]
        with torch.inference_mode():
            for (layer, *pair), change in tables.items():
                hidden = decoder.continued(states[layer - 1] + change, layer)
                found = decoder.next_token_losses(hidden, tokens[None, 1:])[0]
                losses[layer, pair[0], pair[1]].append(found.double().cpu())
    rows: list[Row] = []
    for (layer, ratio, alpha), each in losses.items():
        mean = torch.stack(each).mean(0)
        told = {"layer": layer, "ratio": ratio, "alpha": alpha, "documents": len(each)}
        rows.append(
            told | {"loss_inside_nats": float(mean[:context].mean()), "loss_beyond_nats": float(mean[context:].mean())}
        )
    return rows


def _scaling(
    parent: Model,
    step: int,
    settings: ExtendSettings,
    extension: AttentionScalingSettings,
    device: str,
    interruption: Interruption,
) -> Found:
    """The k that is best at the length s C."""
    length = round(extension.factor * parent.context)
    if length <= parent.context:
        raise UserError(f"extension.factor is {extension.factor:g}: k is fitted beyond C; give more than 1")
    documents = validation(parent, length + 1, settings)
    rows: list[Row] = []

    def loss(k: float) -> float:
        interruption.check("came: nothing is kept of a fit")
        decoder = parent.decoder(step).to(device)
        build("extension", extension.with_values(k=float(k)))(decoder)
        means = [float(each[parent.context :].mean()) for each in _losses(decoder, documents, length)]
        rows.append({"k": float(k), "loss_beyond_nats": sum(means) / len(means), "documents": len(means)})
        return float(rows[-1]["loss_beyond_nats"])

    best = minimize_scalar(loss, bounds=(0.0, MOST_K), method="bounded", options={"xatol": 0.01})
    k = round(float(best.x), 4)
    return Found(extension.with_values(k=k), [], {"documents": [item.name for item in documents]}, rows)


def _losses(decoder: Decoder, documents: Sequence[Item], length: int) -> Iterator[Tensor]:
    for item in documents:
        with torch.inference_mode():
            yield losses_in_one_pass(decoder, on_device(item.ids[: length + 1], decoder)).double().cpu()
