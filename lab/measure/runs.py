"""Score many runs on one set of held-out documents, which is read once for all that share tokenizer and context."""

import glob
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lab.components import make
from lab.data.documents import Corpus
from lab.data.tokenised import held_out
from lab.data.tokenizer import Tokenizer
from lab.errors import UserError
from lab.measure.measure import Source
from lab.measure.scoring import make_measures, score_run
from lab.runs import Run

Node = Mapping[str, Any]


def runs_of(given: str | Sequence[str]) -> list[Run]:
    """The runs that paths and patterns name, each once, in the order given; those of a pattern by name.

    Raises:
        UserError: nothing is given, nothing is found, or something is no run directory.
    """
    patterns = [given] if isinstance(given, str) else list(given)
    if not patterns or not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise UserError("runs is empty: name run directories, runs=[runs/a,runs/b] or runs='runs/*'")
    found: dict[Path, Run] = {}
    for pattern in patterns:
        paths = sorted(Path(path) for path in glob.glob(pattern)) if glob.has_magic(pattern) else [Path(pattern)]
        if glob.has_magic(pattern):
            paths = [path for path in paths if (path / "manifest.json").exists()]
        if not paths:
            raise UserError(f"{pattern}: no run directory there; python -m lab.status lists runs")
        for path in paths:
            if not path.exists():
                raise UserError(f"{path}: no such run; python -m lab.status {path.parent} lists those there are")
            run = Run(path)
            run.check()
            found.setdefault(path.resolve(), run)
    return list(found.values())


def step_of(run: Run, checkpoint: str | int) -> int:
    """The optimiser step of ``last`` or of a number.

    Raises:
        UserError: ``last`` of an unfinished run, or neither a number nor ``last``.
    """
    if checkpoint == "last":
        if run.manifest.get("state") != "finished":
            raise UserError(
                f"{run.path} is unfinished: train it to its end with the command that began it, or score one of its "
                "checkpoints with checkpoint=STEP"
            )
        manifest, scale = run.manifest, run.config["scale"]
        return int(manifest["tokens"] // scale["batch_tokens"])
    if isinstance(checkpoint, bool) or not isinstance(checkpoint, int) or checkpoint < 1:
        raise UserError(f"checkpoint is {checkpoint!r}: give last, or the number of an optimiser step")
    return checkpoint


def score_runs(
    runs: Sequence[Run],
    nodes: Mapping[str, Node],
    evaluation: Mapping[str, Any],
    device: str,
    checkpoint: str | int = "last",
    check: Callable[[str], None] = lambda before: None,
) -> list[tuple[str, int]]:
    """Score runs with measures, as far as they are not scored; each is held for this process meanwhile.

    Args:
        nodes: the measures' configurations, by name.
        evaluation: ``name``, and the ``corpus`` of documents to score, None for the test split of each run's own.

    Returns:
        For each run what its rows of this evaluation are called in scores.csv, and the step that was scored.

    Raises:
        UserError: as :func:`lab.measure.scoring.score_run`, :func:`step_of`; anything that can be known beforehand is
            told before the first is scored.
    """
    steps = [step_of(run, checkpoint) for run in runs]
    sources: dict[tuple[str, str, int], Source] = {}
    labels, chosen = [], []
    corpora: dict[str, Corpus] = {}
    for run in runs:
        config = run.config
        node = evaluation["corpus"] or config["data"]["corpus"]
        if repr(node) not in corpora:
            corpora[repr(node)] = make(node)
        corpus = corpora[repr(node)]
        tokenizer: Tokenizer = make(config["tokenizer"])
        if tokenizer.digest != run.manifest["identity"]["tokenizer"]["digest"]:
            raise UserError(f"{tokenizer.path} is no longer the tokenizer that {run.path} was trained with; restore it")
        digest, context = corpus.manifest()["digest"], config["scale"]["context"]
        place = (digest, tokenizer.digest, context)
        if place not in sources:
            sources[place] = Source(partial(held_out, corpus, "test", tokenizer), tokenizer, context)
            for measure in make_measures(nodes, context):
                next(measure.items(sources[place]))
        chosen.append(sources[place])
        labels.append(f"{evaluation['name']}-{digest[:8]}")
    for run, label, source, step in zip(runs, labels, chosen, steps, strict=True):
        with run.locked():
            score_run(run, nodes, label, source, device, step, check)
    return list(zip(labels, steps, strict=True))
