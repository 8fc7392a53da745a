"""LongRoPE's search over a decoder: its losses, its log, and what it refuses."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretrained import llama_in

from lab.base.errors import UserError
from lab.base.parts import build
from lab.data.stream.tokenised import held_out
from lab.experiment import candidate_losses
from lab.experiment.compose import settings_of
from lab.experiment.derive import extend
from lab.experiment.extend_settings import ExtendSettings
from lab.experiment.importing import import_model
from lab.experiment.needles import with_needle
from lab.experiment.scoring import extrapolate
from lab.experiment.settings import ImportSettings, ScoreSettings, TrainSettings
from lab.extension.longrope import LongRoPE
from lab.observe.losses import losses_in_one_pass, on_device
from lab.runs.derived import Derived
from lab.runs.imported import Imported

SMALL = [
    "extension=longrope",
    "extension.factor=4",
    "extension.search=paper",
    "evaluation=sotu",
    "search.documents=2",
    "search.evolution.population=6",
    "search.evolution.mutants=3",
    "search.evolution.crossovers=3",
    "search.evolution.parents=4",
    "search.evolution.generations=3",
    "search.processes=1",
]
EVALUATIONS = 6 + 3 * 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    folder = tmp_path_factory.mktemp("model")
    given = {"source": str(llama_in(folder / "llama")), "end_of_document": "<|endoftext|>"}
    settings = settings_of("import_model", ImportSettings, ["source=given"])
    return import_model(settings.with_values(**given, runs=str(folder / "runs")), "a command")


@pytest.fixture
def search(model: Imported, tmp_path: Path) -> Callable[..., Derived]:
    """Search in a folder of its own."""

    def search(*keys: str, place: str = "runs") -> Derived:
        run = tmp_path / place / model.path.name
        if not run.exists():
            shutil.copytree(model.path, run)
        return extend(settings_of("extend", ExtendSettings, [f"run={run}", *SMALL, *keys]), str(run), "a command")

    return search


def found(run: Derived) -> Any:
    (rule,) = run.extensions
    assert isinstance(rule, LongRoPE)
    return rule.factors, rule.kept, run.manifest["found"]["loss_nats"], (run.path / "search.csv").read_text()


def test_the_loss_of_what_was_found_is_that_of_its_decoder_and_the_least_of_all(search: Callable[..., Derived]) -> None:
    run = search()
    told = run.manifest["found"]
    assert told["evaluations"] == EVALUATIONS
    assert told["length_tokens"] == 4 * run.context
    corpus = settings_of("extend", ExtendSettings, [f"run={run.parent.path}", *SMALL]).evaluation.corpus
    documents = dict(held_out(build("evaluation", corpus), "validation", run.tokenizer()))
    decoder = run.decoder()
    losses = [
        float(losses_in_one_pass(decoder, on_device(documents[name][: 4 * 64 + 1], decoder)).detach().double().mean())
        for name in told["documents"]
    ]
    assert told["loss_nats"] == pytest.approx(np.mean(losses), abs=1e-6)
    lines = (run.path / "search.csv").read_text().splitlines()
    column = lines[0].split(",").index("loss_nats")
    every = [float(line.split(",")[column]) for line in lines[1:]]
    assert len(every) == EVALUATIONS
    assert min(every) == told["loss_nats"] < every[0]
    assert not list(run.path.parent.glob(".*search*"))


def test_with_a_needle_factors_are_judged_by_the_digits_of_the_first_line_alone(search: Callable[..., Derived]) -> None:
    run = search("search.objective=needle")
    told, needle = (
        run.manifest["found"],
        settings_of("extend", ExtendSettings, [f"run={run.path}", *SMALL]).search.needle,
    )
    assert told["objective"] == "needle"
    corpus = settings_of("extend", ExtendSettings, [f"run={run.parent.path}", *SMALL]).evaluation.corpus
    tokenizer = run.tokenizer()
    documents = dict(held_out(build("evaluation", corpus), "validation", tokenizer))
    decoder, losses = run.decoder(), []
    for number, name in enumerate(told["documents"]):
        key = np.random.default_rng(number).integers(10_000, 100_000)
        first = tokenizer.encode(needle.key_line.replace("{key}", str(key)) + "\n").tolist()
        last = tokenizer.encode(f"\n{needle.question} {key}").tolist()
        digits = len(tokenizer.encode(f" {key}"))
        tokens = [*first, *documents[name].tolist()[: 4 * 64 + 1 - len(first) - len(last)], *last]
        assert len(tokens) == 4 * 64 + 1
        with torch.no_grad():
            logits = decoder(torch.tensor([tokens[:-1]]))[0].double()
        places = range(len(tokens) - digits, len(tokens))
        losses.append(np.mean([-float(logits[place - 1].log_softmax(0)[tokens[place]]) for place in places]))
    assert told["loss_nats"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert found(search(place="others"))[0] != run.extensions[0].factors


def test_a_needle_that_does_not_fit_is_refused(search: Callable[..., Derived]) -> None:
    with pytest.raises(UserError, match=r"search.length leaves no room for the needle: 20 tokens are read"):
        search("search.objective=needle", "search.length=20")
    with pytest.raises(UserError, match=r"key_line is 'a line': it must hold \{key\}"):
        search("search.objective=needle", "search.needle.key_line=a line")
    with pytest.raises(UserError, match=r"question is ' ': give a text"):
        search("search.objective=needle", "search.needle.question=' '")
    with pytest.raises(UserError, match=r"search.objective is needle: only extension=longrope is searched by it"):
        search("search.objective=needle", "extension.search=null", "extension.factors=[[1,1]]")


def test_a_tokenizer_that_has_no_words_for_the_key_is_refused() -> None:
    settings = settings_of("extend", ExtendSettings, ["run=a", *SMALL])
    words = build("tokenizer", settings_of("train", TrainSettings, ["tokenizer=biographies_words"]).tokenizer)
    with pytest.raises(UserError, match=r"it cannot give back '\d{5}' behind search.needle.question: ask otherwise"):
        with_needle(np.zeros(500, dtype=np.uint32), words, settings.search.needle, 0)


@pytest.mark.parametrize("name", ["sotu_1k", "sotu_4k", "llama_32k"])
def test_a_document_with_a_needle_reads_as_one_text(name: str) -> None:
    settings = settings_of("extend", ExtendSettings, ["run=a", *SMALL])
    tokenizer = build("tokenizer", settings_of("train", TrainSettings, [f"tokenizer={name}"]).tokenizer)
    ids, scored = with_needle(tokenizer.encode("And so on. " * 200), tokenizer, settings.search.needle, 3)
    key = str(np.random.default_rng(3).integers(10_000, 100_000))
    text = tokenizer.decode(ids).strip()
    assert text.startswith(settings.search.needle.key_line.replace("{key}", key))
    assert text.endswith(f"\n{settings.search.needle.question} {key}")
    assert tokenizer.decode(ids[-scored:]).strip() == key


def test_without_a_needle_a_search_is_called_as_before_there_was_one() -> None:
    search = settings_of("extend", ExtendSettings, ["run=a", *SMALL]).search
    assert {"objective", "needle"}.isdisjoint(search.identity())
    asked = settings_of("extend", ExtendSettings, ["run=a", *SMALL, "search.objective=needle"]).search.identity()
    assert asked["needle"]["question"] == search.needle.question


def test_what_is_found_is_the_same_whatever_number_of_processes_searches(search: Callable[..., Derived]) -> None:
    assert found(search()) == found(search("search.processes=2", place="others"))


def test_a_search_that_was_broken_off_anywhere_ends_in_the_same_and_repeats_nothing(
    search: Callable[..., Derived], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wanted = found(search())
    original = candidate_losses._Scorer.losses
    asked: list[int] = []
    breaks = [1, 5, 6, 11, 23]

    class Killed(BaseException):
        """As by kill -9: nothing is tidied up by whom it ends."""

    def losses(self: Any, *given: Any) -> list[float]:
        if breaks and len(asked) == breaks[0]:
            breaks.pop(0)
            raise Killed
        asked.append(1)
        return original(self, *given)

    monkeypatch.setattr(candidate_losses._Scorer, "losses", losses)
    for _ in range(5):
        with pytest.raises(Killed):
            search(place="broken")
        (log,) = (tmp_path / "broken").glob(".*search*/candidates.csv")
        with log.open("a") as file:
            file.write("3,mutant,0,4.1")  # half a line
    assert found(search(place="broken")) == wanted
    assert len(asked) == EVALUATIONS


def test_a_damaged_log_is_named_and_nothing_is_searched(
    search: Callable[..., Derived], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    def losses(self: Any, *given: Any) -> list[float]:
        raise Killed

    monkeypatch.setattr(candidate_losses._Scorer, "losses", losses)
    with pytest.raises(Killed):
        search()
    (folder,) = (tmp_path / "runs").glob(".*search*")
    (folder / "candidates.csv").write_text("generation,origin,kept,loss_nats,losses,factors\n0,seed,none,1,1,1 2\n")
    with pytest.raises(UserError, match=r"candidates.csv: line 2 is no candidate; delete .* and search again"):
        search()


def test_early_stopping_and_screening_keep_what_they_score_honest(search: Callable[..., Derived]) -> None:
    exact = found(search())
    early = search("search.early_stopping=true", place="early")
    assert found(early)[2] >= exact[2]
    screened = search("search.screening=bfloat16", place="screened")
    # Scored again in float32: the loss is no worse than the best seed's by more than bfloat16 can hide.
    assert found(screened)[2] == pytest.approx(exact[2], abs=0.02)


def test_documents_that_were_searched_on_are_not_scored(search: Callable[..., Derived]) -> None:
    run = search("evaluation=sotu")
    (name, digest), *_ = zip(run.manifest["found"]["documents"], run.searched_on, strict=False)
    assert name.startswith("sotu/")
    assert len(digest) == 16
    keys = [f"runs={run.path}", "measure=truncated_perplexity", "scoring.longest=2", "evaluation=sotu"]
    settings = settings_of("extrapolate", ScoreSettings, keys)
    extrapolate(settings)  # the test split holds others
    manifest = run.manifest
    read = next(iter(manifest["documents"].values()))
    run.update_manifest(found=manifest["found"] | {"documents_sha256": [next(iter(read.values()))]})
    with pytest.raises(UserError, match=r"was found by a search on .*, which is to be scored"):
        extrapolate(settings_of("extrapolate", ScoreSettings, [*keys[:2], "scoring.longest=3", keys[3]]))


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (["search.length=9000000"], "no held-out document has the 9,000,001 tokens"),
        (["extension.factors=[[1,2,3,4]]"], "search is paper, and finds factors, up_to and kept"),
        (["extension.factor=1"], "extension.factor is 1"),
    ],
)
def test_what_cannot_be_searched_is_told_in_a_line(search: Callable[..., Derived], keys: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told) as refused:
        search(*keys)
    assert len(refused.value.args) == 1
