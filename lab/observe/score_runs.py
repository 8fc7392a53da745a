"""Score many runs on one set of held-out documents, which is read once for all that share tokenizer and context."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lab.base.parts import build
from lab.data.settings import EvaluationSettings
from lab.data.sources.documents import Corpus
from lab.data.stream.tokenised import held_out
from lab.observe.measure import Measure, Source
from lab.observe.scoring import score_run
from lab.runs.finding import step_of
from lab.runs.model import Model
from lab.runs.settings import RunSettings


def score_runs(
    runs: Sequence[Model],
    measures: Mapping[str, Measure],
    evaluation: EvaluationSettings,
    device: str,
    checkpoint: str | int | Mapping[Path, int] = "last",
    check: Callable[[str], None] = lambda before: None,
    dtype: str = "float32",
) -> list[tuple[str, int]]:
    """Score runs with measures, as far as they are not scored; each is held for this process meanwhile.

    Args:
        measures: by name.
        checkpoint: of all runs, or the step of each by its path.
        evaluation: the documents to score; without a corpus the test split of each run's own.
        dtype: that the decoders compute in.

    Returns:
        For each run what its rows of this evaluation are called in scores.csv, and the step that was scored.

    Raises:
        UserError: as :func:`lab.observe.scoring.score_run`, :func:`step_of`; anything that can be known beforehand is
            told before the first is scored.
    """
    steps = [checkpoint[run.path] if isinstance(checkpoint, Mapping) else step_of(run, checkpoint) for run in runs]
    sources = sources_of(runs, evaluation)
    for run, (_, source) in zip(runs, sources, strict=True):
        for measure in measures.values():
            measure.fits(run.context)
            if measure.foretells:
                run.must_foretell(f"measure={measure.label()}")
            next(measure.items(source))
    for run, (label, source), step in zip(runs, sources, steps, strict=True):
        with run.locked():
            score_run(run, measures, label, source, device, step, check, dtype)
    return [(label, step) for (label, _), step in zip(sources, steps, strict=True)]


def sources_of(runs: Sequence[Model], evaluation: EvaluationSettings, split: str = "test") -> list[tuple[str, Source]]:
    """For each run what its rows of an evaluation are called, and the documents, read once for all that share them.

    Args:
        split: of the documents; another than ``test`` is called by its name.

    Raises UserError if the documents are not there.
    """
    found: list[tuple[str, Source]] = []
    sources: dict[tuple[str, str, int, str], Source] = {}
    corpora: dict[str, Corpus] = {}
    for run in runs:
        role, settings = ("corpus", run.corpus) if evaluation.corpus is None else ("evaluation", evaluation.corpus)
        if repr(settings) not in corpora:
            corpora[repr(settings)] = build(role, settings)
        corpus, tokenizer, context = corpora[repr(settings)], run.tokenizer(), run.context
        digest = corpus.held_out_digest
        if split == "test":
            warn_of_training_text(run, corpus.manifest())
        own = repr(run.corpus) if isinstance(run.config, RunSettings) else ""
        place = (digest, tokenizer.digest, context, own)
        if place not in sources:
            sources[place] = Source(
                partial(held_out, corpus, split, tokenizer),
                tokenizer,
                context,
                corpus.cluster,
                corpus.clusters,
                trained_on=partial(_trained_on, run, corpora) if own else None,
            )
        found.append((f"{evaluation.label if split == 'test' else split}-{digest[:8]}", sources[place]))
    return found


def _trained_on(run: Model, corpora: dict[str, Corpus]) -> Corpus:
    settings = run.corpus
    if repr(settings) not in corpora:
        corpora[repr(settings)] = build("corpus", settings)
    return corpora[repr(settings)]


def warn_of_training_text(run: Model, evaluation: Mapping[str, Any]) -> None:
    """Say on stderr if texts that are scored are texts that the run was trained on.

    Args:
        evaluation: manifest of the documents that are scored.
    """
    trained = run.facts.get("corpus", {}).get("splits", {}).get("train", [])
    scored = set(hashes(evaluation.get("splits", {}).get("test", [])))
    both = scored & set(hashes(trained))
    if both:
        print(
            f"{run.path} was trained on {len(both)} of the {len(scored)} texts that are scored: these are not held out",
            file=sys.stderr,
        )


def hashes(entries: Any) -> Iterator[str]:
    """Every sha256 in the entries of a manifest, however they lie in it."""
    inside = entries.values() if isinstance(entries, Mapping) else entries if isinstance(entries, list) else ()
    if isinstance(entries, Mapping) and isinstance(entries.get("sha256"), str):
        yield entries["sha256"]
    for each in inside:
        yield from hashes(each)
