"""A cloze task of a corpus's test split, as a folder for lm-evaluation-harness: which word ends this sentence?

What a longer window costs inside the old one is told by tasks, too (Position Interpolation, arXiv 2306.15595, table 5).
The harness's own need the network, and a decoder that has read more than speeches.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from lab.base.errors import UserError
from lab.base.files import make_folder, write_all
from lab.base.parts import build
from lab.base.shown import plain
from lab.data.sources.documents import Corpus
from lab.experiment.compose import checked, composed
from lab.experiment.preparation import documents, refuse_existing
from lab.experiment.settings import TrainSettings

NAME = "cloze"
CHOICES = 4
NEAR = 40  # words of like frequency, of which the wrong choices are drawn
LAST_WORD = re.compile(r" ([a-z]{4,})[.;!?](?= |$)")


class Gap(NamedTuple):
    """The last word of a sentence: where it begins in its document."""

    at: int
    word: str


def gaps_of(text: str, characters: int) -> list[Gap]:
    """The sentences' last words, of four small letters or more, before which so many characters stand."""
    return [Gap(found.start(1), found[1]) for found in LAST_WORD.finditer(text) if found.start(1) >= characters]


class Document(NamedTuple):
    """``cluster``: its author, or what else documents are alike in."""

    name: str
    cluster: str
    text: str


class Question(NamedTuple):
    """A line of the task's file: ``answer`` is the number of the right one of the ``choices``."""

    document: str
    cluster: str
    passage: str
    choices: list[str]
    answer: int


def questions(texts: Sequence[Document], count: int, characters: int, seed: int) -> list[Question]:
    """Questions about documents, as many of each cluster: a passage that lacks its last word, and four words.

    The wrong ones end sentences elsewhere in these documents, about as often as the right one, so that how frequent a
    word is does not tell it.

    Args:
        count: of questions in all, at most.
        characters: of a passage, at most: it begins with a word.
    """
    drawn = np.random.default_rng(seed)
    gaps: dict[str, list[tuple[Document, Gap]]] = {}
    for each in texts:
        document = each._replace(text=" ".join(each.text.split()))
        gaps.setdefault(each.cluster, []).extend((document, gap) for gap in gaps_of(document.text, characters))
    frequency = Counter(gap.word for each in gaps.values() for _, gap in each)
    # Words as frequent as each other stand in a drawn order.
    ranked = sorted(drawn.permutation(sorted(frequency)).tolist(), key=frequency.__getitem__)
    places = {word: place for place, word in enumerate(ranked)}
    asked: list[Question] = []
    each_cluster = min(count // max(1, len(gaps)), *map(len, gaps.values())) if gaps else 0
    for cluster, held in gaps.items():
        for number in drawn.permutation(len(held))[:each_cluster].tolist():
            document, gap = held[number]
            first = max(0, places[gap.word] - NEAR // 2)
            near = [word for word in ranked[first : first + NEAR + 1] if word != gap.word]
            wrong = drawn.choice(near, min(CHOICES - 1, len(near)), replace=False).tolist()
            answer = int(drawn.integers(len(wrong) + 1))
            passage = document.text[gap.at - characters : gap.at].partition(" ")[2].rstrip()
            asked.append(
                Question(document.name, cluster, passage, [*wrong[:answer], gap.word, *wrong[answer:]], answer)
            )
    return asked


def make_cloze(overrides: Sequence[str], output: Path, count: int, characters: int, seed: int, overwrite: bool) -> None:
    """Write a folder with the task ``cloze``, of the test split of a corpus."""
    files = {"questions": output / f"{NAME}.jsonl", "task": output / f"{NAME}.yaml"}
    for each in files.values():
        refuse_existing(each, overwrite)
    for name, given in (("--count", count), ("--characters", characters)):
        if given < 1:
            raise UserError(f"{name} is {given}: give 1 or more")
    settings = checked(TrainSettings, composed("train", overrides)).data.corpus
    corpus: Corpus = build("corpus", settings)
    texts = [Document(name, corpus.cluster(name), text) for name, text in documents(corpus, "test")]
    clusters = len({each.cluster for each in texts})
    if count < clusters:
        raise UserError(f"--count is {count}, and there are {clusters} {corpus.clusters}: give at least one for each")
    asked = questions(texts, count, characters, seed)
    if not asked or any(len(each.choices) < CHOICES for each in asked):
        raise UserError(
            f"the test split of {settings.label} has too few sentences with {characters:,} characters before their "
            "last word to ask about: give more text, or fewer --characters"
        )
    task = {
        "task": NAME,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(files["questions"])}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{passage}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "target_delimiter": " ",
        "metric_list": [{"metric": "acc"}],
        "metadata": {"version": 1, "clusters": corpus.clusters},
    }
    make_folder(output)
    lines = "".join(json.dumps(each._asdict(), ensure_ascii=False) + "\n" for each in asked)
    write_all({files["questions"]: lines.encode(), files["task"]: yaml.safe_dump(task, sort_keys=False).encode()})
    told = plain(str(output))
    print(f"{told}: {len(asked):,} questions, {len(asked) // clusters:,} of each of {clusters:,} {corpus.clusters}")
    print(f"python -m lab.evaluate run=RUN tasks={NAME} folder={told}")
