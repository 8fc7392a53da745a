"""Score many runs on one set of held-out documents, which is read once for all that share tokenizer and context."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from lab.base.parts import build
from lab.data.settings import EvaluationSettings
from lab.data.sources.documents import Corpus
from lab.data.stream.tokenised import held_out
from lab.observe.measure import Measure, Source
from lab.observe.scoring import score_run
from lab.runs.finding import step_of
from lab.runs.run import Model


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
            next(measure.items(source))
    for run, (label, source), step in zip(runs, sources, steps, strict=True):
        with run.locked():
            score_run(run, measures, label, source, device, step, check, dtype)
    return [(label, step) for (label, _), step in zip(sources, steps, strict=True)]


def sources_of(runs: Sequence[Model], evaluation: EvaluationSettings) -> list[tuple[str, Source]]:
    """For each run what its rows of an evaluation are called, and the documents, read once for all that share them.

    Raises UserError if the documents are not there.
    """
    found: list[tuple[str, Source]] = []
    sources: dict[tuple[str, str, int], Source] = {}
    corpora: dict[str, Corpus] = {}
    for run in runs:
        role, settings = (
            ("corpus", run.config.data.corpus) if evaluation.corpus is None else ("evaluation", evaluation.corpus)
        )
        if repr(settings) not in corpora:
            corpora[repr(settings)] = build(role, settings)
        corpus, tokenizer, context = corpora[repr(settings)], run.tokenizer(), run.context
        digest = corpus.manifest()["digest"]
        place = (digest, tokenizer.digest, context)
        if place not in sources:
            sources[place] = Source(
                partial(held_out, corpus, "test", tokenizer), tokenizer, context, corpus.cluster, corpus.clusters
            )
        found.append((f"{evaluation.label}-{digest[:8]}", sources[place]))
    return found
