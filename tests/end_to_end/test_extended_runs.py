"""Derived runs of every extension, and what is trained from them, are runs like any other, to every command.

Everything here is done to all of them: a method that some command cannot take shows here, by its name. What a command
says of one is held against whole passes of its decoder, one text at a time.
"""

import csv
import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from commands import lab

from lab.base.errors import UserError
from lab.base.parts import parts_of
from lab.data.sources.documents import Sotu
from lab.data.tokenizer import Tokenizer
from lab.experiment.compose import settings_of
from lab.experiment.derive import extend
from lab.experiment.extend_settings import ExtendSettings
from lab.experiment.generation import generate
from lab.experiment.handing_on import hand_on
from lab.experiment.settings import EvaluateSettings, ExportSettings, GenerateSettings
from lab.model.decoder import Decoder
from lab.runs.model import Model
from lab.runs.run import open_model

CONTEXT, TRAINED = 64, 128  # of the parents; of children of RoPE's rules
SHORT = ("scale.tokens=2048", "scale.warmup_steps=1", "scale.learning_rate=0.02", "trainer.compute_dtype=float32")
QUICK = (*SHORT, "measure=none", "logger=csv", "threads=1")
SCORE = ("measure=excess", "scoring.longest=2", "scoring.documents=2", "scoring.segments=1", "threads=1")
FEW = ("vectors.longest=4", "vectors.windows=8", "threads=1")
SEARCH = [f"search.evolution.{each}" for each in ("population=4", "mutants=1", "crossovers=1", "generations=1")]
NEAR, FAR = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.2], [1.0, 1.0, 1.3, 1.7, 2.2, 2.8, 3.5, 4.0]
FARTHER = [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5]
GIVEN = ("extension=longrope", "extension.factor=4", "extension.search=null")


class Method(NamedTuple):
    """A way to read the weights of a model= choice, and why transformers cannot, if it cannot."""

    model: str
    keys: tuple[str, ...]
    refused: str = ""


NOT_ABROAD = "transformers cannot express the extension {}; export its parent"
METHODS = {
    "position_interpolation": Method("rope", ("extension=position_interpolation", "extension.factor=4")),
    "ntk": Method("rope", ("extension=ntk", "extension.factor=8")),
    "dynamic_ntk per text": Method("rope", ("extension=dynamic_ntk", "extension.per=text")),
    "dynamic_ntk per position": Method(
        "rope",
        ("extension=dynamic_ntk", "extension.per=position"),
        "only dynamic_ntk with extension.per=text can be exported",
    ),
    "ntk_by_parts": Method("rope", ("extension=ntk_by_parts", "extension.factor=4", "extension.beta_fast=4")),
    "yarn": Method("rope", ("extension=yarn", "extension.factor=4", "extension.ramp=paper", "extension.beta_fast=4")),
    "llama3": Method("rope", ("extension=llama3", "extension.factor=4")),
    "longrope searched": Method(
        "rope",
        (
            *("extension=longrope", "extension.factor=4", "extension.search=code", "search.temperature=yarn"),
            *("search.documents=1", "search.processes=1", *SEARCH),
        ),
    ),
    "longrope of one set": Method("rope", (*GIVEN, f"extension.factors=[{FARTHER}]")),
    "longrope of two sets": Method("rope", (*GIVEN, f"extension.factors=[{NEAR},{FAR}]", "extension.up_to=[64]")),
    "longrope with kept tokens": Method(
        "rope", (*GIVEN, f"extension.factors=[{FAR}]", "extension.kept=[4]"), "leaves the first 4 as they were"
    ),
    "temperature": Method("rope", ("extension=temperature", "extension.temperature=1.2")),
    "attention_scaling": Method("nope", ("extension=attention_scaling", "extension.factor=4", "extension.k=0.4")),
    "initial_scaling": Method(
        "nope", ("extension=initial_scaling", "extension.factor=4"), NOT_ABROAD.format("initial_scaling")
    ),
    "vector_replacement": Method(
        "nope",
        ("extension=vector_replacement", "extension.contexts=4", "extension.ratio=5", "extension.layer=1", *FEW),
        NOT_ABROAD.format("vector_replacement"),
    ),
    "window_extension": Method("window_nope", ("extension=window_extension", "extension.ratio=2")),
}
MODELS = ("rope", "nope", "window_nope")
TEXT = next(entry.text for entry in Sotu().documents("validation", "") if entry.text)
WORDS = (12, 40, 90, 100, 101)  # of the texts that the harness asks about


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("extended")


def made(folder: Path, *arguments: str) -> list[Path]:
    """The runs that a command makes."""
    before = {*folder.glob("runs/*/manifest.json")}
    command, *rest = arguments
    result = lab(command, *rest, cwd=folder)
    assert result.returncode == 0, result.stderr
    return [path.parent for path in {*folder.glob("runs/*/manifest.json")} - before]


@pytest.fixture(scope="module")
def parents(here: Path) -> dict[str, Path]:
    trained = made(here, "train", "-m", "experiment=smoke", f"model={','.join(MODELS)}", *QUICK)
    return {open_model(path).label: path for path in trained}


@pytest.fixture(scope="module")
def derived(parents: dict[str, Path]) -> dict[str, Path]:
    found = {}
    for name, each in METHODS.items():
        settings = settings_of("extend", ExtendSettings, [f"run={parents[each.model]}", *each.keys])
        found[name] = extend(settings, str(parents[each.model]), "a command").path
    return found


@pytest.fixture(scope="module")
def children(here: Path, parents: dict[str, Path], derived: dict[str, Path]) -> dict[str, Path]:
    """Of every derived run, and of the runs that they are derived of, under their names."""
    found = {}
    every = {name: (each.model, derived[name]) for name, each in METHODS.items()} | {
        model: (model, parents[model]) for model in MODELS
    }
    for model in MODELS:
        longer = [f"scale.context={TRAINED}"] * (model == "rope")
        starts = ",".join(str(path) for of, path in every.values() if of == model)
        trained = made(here, "train", "-m", "start=run", f"start.run={starts}", *longer, *QUICK)
        of_parent = {json.loads((path / "manifest.json").read_text())["parent"]["name"]: path for path in trained}
        found |= {name: of_parent[path.name] for name, (of, path) in every.items() if of == model}
    return found


@pytest.fixture(scope="module")
def extended(derived: dict[str, Path], children: dict[str, Path]) -> dict[str, Path]:
    """What is read with an extension, by name."""
    return derived | {f"child of {name}": children[name] for name in METHODS}


def method_of(name: str) -> Method:
    return METHODS[name.removeprefix("child of ")]


EXTENDED = [*METHODS, *(f"child of {name}" for name in METHODS)]


def test_every_extension_that_there_is_is_among_them() -> None:
    assert {
        key.partition("=")[2] for each in METHODS.values() for key in each.keys if key.startswith("extension=")
    } == {*parts_of("extension")}


def by_model(runs: dict[str, Path], model: str) -> list[Path]:
    return [runs[name] for name, each in METHODS.items() if each.model == model]


def losses_of(run: Path) -> list[str]:
    with open(run / "scores.csv", newline="") as file:
        return [row["loss_nats"] for row in csv.DictReader(file) if row["measure"] == "whole_prefix"]


def listed(paths: list[Path]) -> str:
    return f"runs=[{','.join(str(path) for path in paths)}]"


def test_all_are_scored_beyond_c_and_each_reads_otherwise_than_its_parent(
    here: Path, parents: dict[str, Path], derived: dict[str, Path], children: dict[str, Path]
) -> None:
    every = [*parents.values(), *derived.values(), *children.values()]
    result = lab("extrapolate", listed(every), *SCORE, cwd=here)
    assert result.returncode == 0, result.stderr
    for model in MODELS:
        for untouched, runs in ((parents[model], derived), (children[model], children)):
            losses = {tuple(losses_of(path)) for path in [untouched, *by_model(runs, model)]}
            assert len(losses) == 1 + sum(each.model == model for each in METHODS.values())
            assert len({len(each) for each in losses}) == 1
            assert all(0 < float(loss) < 20 for each in losses for loss in each)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("generation", ["derived", "children"])
def test_all_of_one_model_are_compared_as_extensions_of_it(
    here: Path,
    parents: dict[str, Path],
    derived: dict[str, Path],
    children: dict[str, Path],
    generation: str,
    model: str,
) -> None:
    untouched, runs = (parents[model], derived) if generation == "derived" else (children[model], children)
    compared, output = [untouched, *by_model(runs, model)], f"{generation}_{model}"
    keys = ("factor=extension", f"reference={model}", f"output={output}")
    result = lab("compare", listed(compared), *keys, *SCORE, cwd=here)
    assert result.returncode == 0, result.stderr + result.stdout
    with open(here / output / "estimates.csv", newline="") as file:
        assert {row["variant"] for row in csv.DictReader(file)} == {open_model(path).label for path in compared}
    with open(here / output / "control.csv", newline="") as file:
        kinds = {row["key"]: row["kind"] for row in csv.DictReader(file)}
    assert not [key for key, kind in kinds.items() if kind == "factor" and "extension" not in key]


def in_float32(run: Path) -> tuple[Model, Decoder, Tokenizer]:
    model = open_model(run)
    decoder = model.decoder()
    decoder.compute_dtype = torch.float32
    return model, decoder, model.tokenizer()


@pytest.mark.parametrize("name", EXTENDED)
@torch.inference_mode()
def test_what_it_writes_beyond_c_is_what_whole_passes_over_the_text_so_far_say(
    extended: dict[str, Path], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    model, decoder, tokenizer = in_float32(extended[name])
    # It begins inside of the context and ends beyond it.
    prompt = tokenizer.decode(tokenizer.encode(TEXT)[: model.context - 3].tolist())
    ids = tokenizer.encode(prompt).tolist()
    assert len(ids) < model.context
    keys = [f"run={model.path}", "tokens=8", "greedy=true", "threads=1"]
    generate(settings_of("generate", GenerateSettings, keys).with_values(prompt=prompt))
    for _ in range(8):
        following = int(decoder(torch.tensor([ids]))[0, -1].argmax())
        if following == tokenizer.end_of_document:
            break
        ids.append(following)
    assert capsys.readouterr().out == tokenizer.decode(ids) + "\n"


@pytest.mark.parametrize("name", EXTENDED)
@torch.inference_mode()
def test_abroad_it_has_the_same_logits_or_is_refused_in_a_line(
    extended: dict[str, Path], tmp_path: Path, name: str
) -> None:
    from transformers import AutoModelForCausalLM

    model, decoder, _ = in_float32(extended[name])
    settings = settings_of("export", ExportSettings, [f"run={model.path}", f"to={tmp_path / 'abroad'}"])
    if method_of(name).refused:
        with pytest.raises(UserError) as refused:
            hand_on(settings)
        assert method_of(name).refused in str(refused.value)
        assert not [*tmp_path.iterdir()]
        return
    hand_on(settings)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "abroad", dtype=torch.float32).eval()
    for length in (CONTEXT - 10, 3 * CONTEXT):
        tokens = torch.randint(0, 1024, (1, length), generator=torch.Generator().manual_seed(0))
        ours, found = decoder(tokens), theirs(tokens).logits
        assert float((found - ours).abs().max()) < 1e-4 * float(ours.abs().max())


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task in the harness's YAML: the likelihood of texts within C and beyond it."""
    folder = tmp_path_factory.mktemp("tasks")
    lines = [json.dumps({"text": " ".join(TEXT.split()[:words])}) for words in WORDS]
    (folder / "texts.jsonl").write_text("\n".join(lines) + "\n")
    task = {
        "task": "spoken",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "texts.jsonl")}},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "byte_perplexity"}],
        "metadata": {"version": 1},
    }
    (folder / "spoken.yaml").write_text(json.dumps(task))  # YAML holds JSON
    return folder


@pytest.mark.parametrize("name", EXTENDED)
@torch.inference_mode()
def test_the_harness_is_told_the_likelihood_that_a_pass_over_each_text_alone_gives(
    extended: dict[str, Path], questions: Path, name: str
) -> None:
    pytest.importorskip("lm_eval")
    from lab.experiment.evaluating import evaluate

    model, decoder, tokenizer = in_float32(extended[name])
    keys = [f"run={model.path}", "tasks=spoken", "longest=250", "threads=1"]
    evaluate(settings_of("evaluate", EvaluateSettings, keys).with_values(folder=str(questions)))
    with open(model.path / "scores.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["measure"] == "spoken:log_byte_perplexity"]
    assert len(rows) == len(WORDS)
    for row, words in zip(sorted(rows, key=lambda each: int(each["document"])), WORDS, strict=True):
        ids = tokenizer.encode(" ".join(TEXT.split()[:words])).tolist()
        assert len(ids) <= 250
        shares = decoder(torch.tensor([[tokenizer.end_of_document, *ids[:-1]]]))[0].double().log_softmax(-1)
        wanted = -float(shares[torch.arange(len(ids)), ids].sum())
        assert float(row["value"]) * int(row["tokens"]) == pytest.approx(wanted, rel=2e-5)
