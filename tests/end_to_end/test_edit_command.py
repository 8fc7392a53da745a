"""What lab.edit tells of an edit is what whole passes of both decoders say; and what it cannot do is told in a line."""

import csv
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from end_to_end.conftest import trained
from safetensors.torch import save_file
from torch.nn import functional

import lab.edit
from lab.base.errors import UserError
from lab.data.sources.documents import Sotu
from lab.data.tokenizer import Tokenizer
from lab.experiment.compose import settings_of
from lab.experiment.edit_facts import asked_facts
from lab.experiment.edit_preparing import computing, prepared, refuse_quantised, updated
from lab.experiment.edit_settings import EditSettings
from lab.gradients import finetune
from lab.gradients.capture import capture
from lab.model.decoder import Decoder
from lab.runs.checkpoints import Checkpoint
from lab.runs.run import open_model

ROOT = Path(__file__).parents[2]
SHORT = ("scale.tokens=2048", "scale.warmup_steps=1", "scale.learning_rate=0.02")
SHIFT = ("method=forward_shift", "method.layer=2", "method.step=100")
FEW = ("scores.documents=3", "scores.generated=5", "scores.batch_tokens=40", "threads=1", "accelerator=cpu")
FACTS: list[dict[str, Any]] = [
    {
        "prompt": "The state of the union",
        "target": " is",
        "paraphrases": ["The state of our union", "This union"],
        "neighbours": ["We the people"],
    },
    {"prompt": "We the people of the United States, in order to form", "target": " of", "truth": " and"},
    {
        "prompt": "The President",
        "target": " has",
        "truth": " was",
        "neighbours": ["The House", "The Senate of the United States"],
    },
    {"prompt": "My fellow", "target": " men", "subject": "fellow", "neighbours": ["Our"], "neighbour_truth": " own"},
]
REWRITE = {
    "prompt": "{} is the capital of",
    "subject": "Paris",
    "target_new": {"str": "Spain", "id": "Q29"},
    "target_true": {"str": "France", "id": "Q142"},
}


class Told(NamedTuple):
    """How a command has ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines of a refusal."""
        assert (self.code, self.out) == (1, ""), self
        assert "Traceback" not in self.err
        return [line.removeprefix("error: ") for line in self.err.splitlines() if line.startswith("error: ")]


Edit = Callable[..., Told]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("edit"), "model=rope", *SHORT)


@pytest.fixture
def edit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Edit:
    def call(*arguments: str) -> Told:
        monkeypatch.setattr(sys, "argv", ["lab.edit", *arguments, *FEW])
        capsys.readouterr()
        code: object = 0
        try:
            lab.edit.main()
        except SystemExit as end:
            code = end.code
        return Told(int(str(code)), *capsys.readouterr())

    return call


def written(path: Path, facts: list[Any]) -> str:
    path.write_text("\n".join(json.dumps(fact) for fact in facts) + "\n")
    return f"facts={path}"


def made(told: Told) -> Path:
    assert told.code == 0, told.err
    (path,) = re.findall(r"^(\S+)(?:: .* with .* facts?| is there)$", told.out, re.MULTILINE)
    return Path(path)


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return [{key: value.removeprefix("'") for key, value in row.items()} for row in csv.DictReader(file)]


def runs_beside(run: Path) -> set[str]:
    return {path.name for path in run.parent.iterdir()}


def losses(decoder: Decoder, prompt: list[int], target: list[int]) -> tuple[float, bool]:
    """Mean loss of a target behind a prompt, and whether it is what is the likeliest."""
    logits = decoder(torch.tensor([prompt + target[:-1]]))[0, len(prompt) - 1 :]
    return float(functional.cross_entropy(logits, torch.tensor(target))), logits.argmax(-1).tolist() == target


def written_on(decoder: Decoder, prompt: list[int], tokenizer: Tokenizer, count: int) -> str:
    ids = list(prompt)
    for _ in range(count):
        following = int(decoder(torch.tensor([ids]))[0, -1].argmax())
        if following == tokenizer.end_of_document:
            break
        ids.append(following)
    return tokenizer.decode(ids[len(prompt) :])


@torch.inference_mode()
def test_every_row_says_what_whole_passes_of_both_decoders_say(run: Path, edit: Edit, tmp_path: Path) -> None:
    path = made(edit(f"run={run}", *SHIFT, written(tmp_path / "facts.jsonl", FACTS), "target_tokens=first"))
    decoders = {"before": open_model(run).decoder(), "after": open_model(path).decoder()}
    tokenizer = open_model(run).tokenizer()

    def ids(text: str) -> list[int]:
        return [int(each) for each in tokenizer.encode(text)]

    rows = rows_of(path / "edit_scores.csv")
    asked = []
    for number, fact in enumerate(FACTS, start=1):
        parts = {"fact": [fact["prompt"]]}
        parts |= {"paraphrase": fact.get("paraphrases", []), "neighbour": fact.get("neighbours", [])}
        for part, prompts in parts.items():
            asked += [(number, part, text) for text in prompts]
    assert [(int(row["number"]), row["part"], row["prompt"]) for row in rows[::2]] == asked
    for row in rows:
        fact, decoder = FACTS[int(row["number"]) - 1], decoders[row["moment"]]
        prompt, target = ids(row["prompt"]), ids(fact["target"])[:1]
        first = {moment: int(each(torch.tensor([prompt]))[0, -1].argmax()) for moment, each in decoders.items()}
        truth = fact.get("neighbour_truth" if row["part"] == "neighbour" else "truth")
        other = [first["before"]] if truth is None else ids(truth)[:1]
        loss, said = losses(decoder, prompt, target)
        against, _ = losses(decoder, prompt, other)
        assert float(row["target_loss_nats"]) == pytest.approx(loss, rel=1e-4)
        assert row["answer_text"] == tokenizer.decode([first[row["moment"]]])
        wanted = {"argmax": said, "likelier": loss < against}
        if row["part"] == "neighbour":
            wanted = {"argmax": first[row["moment"]] == first["before"], "likelier": against < loss}
        if other == target:
            assert row["likelier"] == row["other_loss_nats"] == ""
            del wanted["likelier"]
        else:
            assert float(row["other_loss_nats"]) == pytest.approx(against, rel=1e-4)
        if int(row["number"]) % 3 == 1:
            text = written_on(decoder, prompt, tokenizer, 5)
            assert row["continuation"].strip() == text.removeprefix("'").strip()
            drawn = fact["target"].strip() in text
            wanted["generated"] = not drawn if row["part"] == "neighbour" else drawn
        else:
            assert row["generated"] == row["continuation"] == ""
        assert {name: row[name] for name in wanted} == {name: str(int(each)) for name, each in wanted.items()}
    after = [row for row in rows if (row["part"], row["moment"]) == ("fact", "after")]
    assert sum(int(row["likelier"]) for row in after) > 0


@torch.inference_mode()
def test_other_text_is_the_first_c_tokens_of_held_out_documents_before_and_after(
    run: Path, edit: Edit, tmp_path: Path
) -> None:
    path = made(edit(f"run={run}", *SHIFT, written(tmp_path / "facts.jsonl", FACTS), "target_tokens=first"))
    rows = rows_of(path / "edit_losses.csv")
    assert len(rows) == 6
    tokenizer = open_model(run).tokenizer()
    texts = {entry.name: entry.text for entry in Sotu().documents("test", "")}
    for row in rows:
        decoder = open_model(run if row["moment"] == "before" else path).decoder()
        ids = [int(each) for each in tokenizer.encode(texts[row["document"]] or "")[:65]]
        logits = decoder(torch.tensor([ids[:-1]]))[0]
        assert float(row["loss_nats"]) == pytest.approx(float(functional.cross_entropy(logits, torch.tensor(ids[1:]))))
        assert int(row["tokens"]) == 64


def test_each_fact_alone_has_the_rows_of_an_edit_of_it_alone_and_no_run_is_made(
    run: Path, edit: Edit, tmp_path: Path
) -> None:
    own = [
        made(edit(f"run={run}", *SHIFT, written(tmp_path / "one.jsonl", [fact]), "target_tokens=first"))
        for fact in FACTS
    ]
    before = runs_beside(run)
    told = edit(
        f"run={run}",
        *SHIFT,
        written(tmp_path / "all.jsonl", FACTS),
        "target_tokens=first",
        "alone=true",
        f"to={tmp_path / 'out'}",
        "scores.generate_every=1",
    )
    assert told.code == 0, told.err
    assert runs_beside(run) == before
    rows = rows_of(tmp_path / "out" / "edit_scores.csv")
    for number, path in enumerate(own, start=1):
        found = [row for row in rows if int(row["number"]) == number]
        wanted = rows_of(path / "edit_scores.csv")
        for key in ("part", "moment", "prompt", "argmax", "likelier", "generated", "answer_text", "continuation"):
            assert [row[key] for row in found] == [row[key] for row in wanted], key
        for one, other in zip(found, wanted, strict=True):
            assert float(one["target_loss_nats"]) == pytest.approx(float(other["target_loss_nats"]), rel=1e-5)
    assert len(rows_of(tmp_path / "out" / "edit_losses.csv")) == 6 * len(FACTS)


def test_facts_that_are_known_are_counted_and_left_out_and_if_all_are_nothing_is_made(
    run: Path, edit: Edit, tmp_path: Path
) -> None:
    model = open_model(run)
    prompt = "The Constitution of the United States"
    with torch.inference_mode():
        answer = model.decode([int(model.decoder()(model.encode(prompt))[0, -1].argmax())])
    known = {"prompt": prompt, "target": answer}
    assert len(model.encode(answer)[0]) == 1
    file = tmp_path / "facts.jsonl"
    told = edit(f"run={run}", *SHIFT, written(file, [known, FACTS[2]]), "target_tokens=first")
    assert told.out.startswith(f"1 of 2 facts are known already, and are left out of the edit: {file} line 1\n")
    manifest = json.loads((made(told) / "manifest.json").read_text())
    assert manifest["written"] == [2]
    before = runs_beside(run)
    told = edit(f"run={run}", *SHIFT, f"prompt={prompt}", f"target={answer}")
    assert told.lines == [f"{run} answers with the target of the fact already: there is nothing to write"]
    assert runs_beside(run) == before


def test_of_facts_whose_truth_is_known_those_that_are_taken_are_written(run: Path, edit: Edit, tmp_path: Path) -> None:
    model = open_model(run)
    prompts = ["The Constitution of the United States", "The Congress", "We the people", "My fellow"]
    with torch.inference_mode():
        answers = [model.decode([int(model.decoder()(model.encode(each))[0, -1].argmax())]) for each in prompts]
    facts = [{"prompt": each, "target": " men", "truth": answer} for each, answer in zip(prompts, answers, strict=True)]
    facts[1]["truth"] = " women"
    file = written(tmp_path / "facts.jsonl", facts)
    own = ("target_tokens=first", "facts_known=true")
    told = edit(f"run={run}", *SHIFT, file, *own)
    assert f"{run} answers with the truth of 3 of 4 facts; the others are left out\n" in told.out
    assert json.loads((made(told) / "manifest.json").read_text())["written"] == [1, 3, 4]
    taken = made(edit(f"run={run}", *SHIFT, file, *own, "facts_taken=[2,3]"))
    assert json.loads((taken / "manifest.json").read_text())["written"] == [3, 4]
    assert {row["number"] for row in rows_of(taken / "edit_scores.csv")} == {"3", "4"}
    assert taken != made(edit(f"run={run}", *SHIFT, file, *own))
    before = runs_beside(run)
    for wrong, line in {
        "facts_taken=[3,4]": "facts_taken is [3, 4]: 3 of 4 facts are left",
        "facts_taken=[3,2]": "facts_taken is [3, 2]: give two numbers of 1 to 4, rising",
        "facts_taken=[1,5]": "facts_taken is [1, 5]: give two numbers of 1 to 4, rising",
    }.items():
        assert edit(f"run={run}", *SHIFT, file, *own, wrong).lines == [line]
    without = written(tmp_path / "other.jsonl", [facts[0], FACTS[0]])
    told = edit(f"run={run}", *SHIFT, without, *own)
    assert told.lines == [f"{tmp_path / 'other.jsonl'} line 2: it has no truth, which facts_known asks for; add one"]
    none = written(tmp_path / "none.jsonl", [facts[1]])
    told = edit(f"run={run}", *SHIFT, none, *own)
    assert told.lines == [f"{run} answers with the truth of no fact: there is none that it could lose"]
    assert runs_beside(run) == before


def test_the_labs_facts_have_their_subject_in_every_prompt_and_neighbours_that_ask_of_others() -> None:
    lines = (ROOT / "data" / "facts" / "general_knowledge.jsonl").read_text().splitlines()
    facts = [json.loads(line) for line in lines]
    truths = {fact["prompt"]: fact["truth"] for fact in facts}
    assert len(truths) == len(facts) >= 120
    for fact in facts:
        assert [*fact] == ["prompt", "subject", "truth", "target", "paraphrases", "neighbours"]
        assert fact["truth"][0] == fact["target"][0] == " ", fact
        assert all(fact["subject"] in text for text in (fact["prompt"], *fact["paraphrases"])), fact
        assert len({fact["prompt"], *fact["paraphrases"], *fact["neighbours"]}) == 1 + 2 + 3, fact
        # A neighbour has an answer of its own, neither of the two.
        assert not {truths[text] for text in fact["neighbours"]} & {fact["truth"], fact["target"]}, fact


def test_rome_reads_keys_of_training_documents_or_of_a_text_and_finds_their_sums_again(
    run: Path, edit: Edit, tmp_path: Path
) -> None:
    fact = ["prompt=The state of the union", "target= is", "subject=the union"]
    keys = ["method=rome", "method.layer=1", "method.steps=3", "method.keys.documents=3", "method.keys.prefixes=2"]
    own = made(edit(f"run={run}", *keys, *fact))
    (fold,) = (run / "analysis").glob("key_covariance-*.safetensors")
    stamp = fold.stat().st_mtime_ns
    other = made(edit(f"run={run}", *keys, "method.ridge=0.01", *fact))
    assert fold.stat().st_mtime_ns == stamp
    manifests = [json.loads((path / "manifest.json").read_text()) for path in (own, other)]
    assert all(each["found"]["off"] < 1e-5 for each in manifests)
    weights = [each["identity"]["edit"]["weights"] for each in manifests]
    assert [[*each] for each in weights] == [["blocks.0.feed_forward.down.weight"]] * 2
    assert weights[0] != weights[1]
    steps = rows_of(own / "edit_steps.csv")
    assert float(steps[-1]["loss_nats"]) < float(steps[0]["loss_nats"])
    text = tmp_path / "text.txt"
    text.write_text("Fellow citizens of the Senate and of the House of Representatives. " * 40)
    third = made(edit(f"run={run}", *keys, f"method.keys.text={text}", *fact))
    assert (
        json.loads((third / "manifest.json").read_text())["identity"]["edit"]["texts"]
        != manifests[0]["identity"]["edit"]["texts"]
    )


@pytest.mark.parametrize("as_list", [False, True])
def test_rows_of_counterfact_are_read_as_the_facts_that_they_mean(tmp_path: Path, as_list: bool) -> None:
    rows = [
        {
            "case_id": 0,
            "requested_rewrite": REWRITE,
            "paraphrase_prompts": ["Once more. Paris, the capital of"],
            "neighborhood_prompts": ["Lyon lies in", "Nice is in"],
            "generation_prompts": ["Paris is"],
        }
    ]
    path = tmp_path / "counterfact.json"
    path.write_text(json.dumps(rows, indent=1) if as_list else json.dumps(rows[0]))
    (fact,) = asked_facts(dict.fromkeys(("prompt", "target", "subject")), str(path))
    assert fact.plain == {
        "prompt": "Paris is the capital of",
        "target": " Spain",
        "subject": "Paris",
        "truth": " France",
        "neighbour_truth": " France",
        "paraphrases": ["Once more. Paris, the capital of"],
        "neighbours": ["Lyon lies in", "Nice is in"],
    }


def without(key: str) -> dict[str, Any]:
    return {"requested_rewrite": {name: value for name, value in REWRITE.items() if name != key}}


WRONG: list[tuple[Any, str]] = [
    ({"prompt": "a"}, "it has no target; add one"),
    ({"target": "a"}, "it has no prompt; add one"),
    ({"prompt": "", "target": " a"}, "prompt is empty: give at least one token of text"),
    ({"prompt": "a", "target": ""}, "target is empty: give at least one token of text"),
    ({"prompt": "a", "target": 3}, "target is 3: give a text"),
    ({"prompt": "a", "target": " a", "neighbours": "b"}, 'neighbours is "b": give a list of texts'),
    (
        {"prompt": "a", "target": " a", "neighbours": [""]},
        "one of neighbours is empty: give at least one token of text",
    ),
    (
        {"prompt": "a", "target": " a", "neighbors": []},
        "'neighbors' is a key that nothing reads; did you mean neighbours",
    ),
    ({"prompt": "a", "target": " a", "subject": "b"}, "subject 'b' is not in the prompt: write it as it stands there"),
    ({"prompt": "a", "target": "\ud800"}, "target is not UTF-8: convert it"),
    ({"prompt": "a", "target": " is", "truth": " is"}, "truth and target begin with the same token"),
    ({"prompt": "The", "target": " zymurgy"}, "and one is needed: give another, or target_tokens=first"),
    ([], "it is no object; write"),
    (without("subject"), "requested_rewrite has no subject; add one, or leave the row out"),
    (without("prompt"), "requested_rewrite has no prompt with {} in the subject's place; restore it"),
    (without("target_new"), "requested_rewrite has no target_new.str; add one, or leave the row out"),
    ({"requested_rewrite": 3}, "requested_rewrite is no object; restore it"),
]


@pytest.mark.parametrize(("row", "line"), WRONG, ids=[line[:40] for _, line in WRONG])
def test_a_row_that_cannot_be_used_is_told_by_its_number_before_anything_is_done(
    run: Path, edit: Edit, tmp_path: Path, row: Any, line: str
) -> None:
    before = runs_beside(run)
    file = tmp_path / "facts.jsonl"
    (told,) = edit(f"run={run}", *SHIFT, written(file, [{"prompt": "The", "target": " is"}, row])).lines
    assert told.startswith(f"{file} line 2: ")
    assert line in told
    assert runs_beside(run) == before


def test_all_wrong_rows_of_a_list_are_told_up_to_ten(run: Path, edit: Edit, tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([without("subject")] * 12))
    lines = edit(f"run={run}", *SHIFT, f"facts={file}").lines
    assert [line.partition(":")[0] for line in lines[:-1]] == [f"{file} row {number}" for number in range(1, 11)]
    assert lines[-1] == "and 2 more rows"


FACT = ("prompt=The state of the union", "target= is")
REFUSED: list[tuple[tuple[str, ...], str]] = [
    ((*SHIFT, "prompt=The"), "target must be given: add target=... to the command, or facts=FILE"),
    (SHIFT, "prompt must be given: add prompt=... to the command, or facts=FILE"),
    ((*SHIFT, "prompt=", "target= is"), "prompt is empty: give at least one token of text"),
    ((*SHIFT, *FACT, "facts=a"), "prompt and target and facts are both given: give one fact, or a file of them"),
    ((*SHIFT, "facts=nowhere"), "nowhere cannot be read: no such file or directory; give a file of JSON lines"),
    ((*SHIFT[:1], "method.layer=3", *SHIFT[2:], *FACT), "method.layer is 3: the decoder has layers 1 to 2"),
    (
        (*SHIFT, *FACT, "target_tokens=all"),
        "forward_shift writes one token of a target: give target_tokens=one or first",
    ),
    (("method=rome", "method.layer=1", *FACT), "it has no subject, at which rome writes: add one"),
    ((*SHIFT, *FACT, "alone=true"), "alone and to belong together: alone=true to=FOLDER"),
    ((*SHIFT, *FACT, "to=folder"), "alone and to belong together: alone=true to=FOLDER"),
    ((*SHIFT, "prompt=The", "target= zymurgy"), "target is 7 tokens"),
    (
        ("method=finetune", "method.layer=1", "method.learning_rate=1e-30", *FACT),
        "the edit adds less than float32 can tell to down: take larger steps",
    ),
    (
        ("method=rome", "method.layer=1", "method.keys.text=nowhere", *FACT, "subject=the union"),
        "nowhere cannot be read: no such file or directory; give a text file",
    ),
    (("method=rome", "method.layer=1", "method.essence=x", *FACT), "method.essence is 'x': give a text with {} in it"),
]


@pytest.mark.parametrize(("keys", "line"), REFUSED, ids=[line[:40] for _, line in REFUSED])
def test_what_cannot_be_done_is_told_in_a_line_and_nothing_is_made(
    run: Path, edit: Edit, keys: tuple[str, ...], line: str
) -> None:
    before = runs_beside(run)
    (told,) = edit(f"run={run}", *keys).lines
    assert line in told
    assert runs_beside(run) == before


def test_the_tokens_of_a_target_of_several_are_told(run: Path, edit: Edit) -> None:
    (told,) = edit(f"run={run}", *SHIFT, "prompt=The", "target= zymurgy").lines
    tokenizer = open_model(run).tokenizer()
    parts = [tokenizer.decode([each]) for each in tokenizer.encode(" zymurgy")]
    assert f"target is {len(parts)} tokens ({', '.join(map(repr, parts))}) and one is needed" in told


def test_a_loss_that_is_not_finite_is_told_with_its_fact(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "facts.jsonl"
    keys = [f"run={run}", "method=finetune", "method.layer=2", "target_tokens=first", written(file, FACTS)]
    settings = settings_of("edit", EditSettings, [*keys, *FEW])
    ready = prepared(settings)
    decoder = computing(ready, settings)
    only = {*ready.tokens[1].example.prompt} - {*ready.tokens[0].example.prompt, *ready.tokens[2].example.prompt}
    decoder.embedding[min(only)] = float("nan")
    with pytest.raises(UserError, match=rf"^{file} line 2: its loss is not finite") as told:
        updated(ready, decoder, [0, 1, 2], None)
    assert len(told.value.args) == 1


def test_an_edit_whose_numbers_float32_has_no_room_for_is_told(run: Path, edit: Edit) -> None:
    (told,) = edit(f"run={run}", *SHIFT[:2], "method.step=1e300", *FACT).lines
    assert told == "the edit makes numbers in down that are not finite: take smaller steps"


def test_a_run_that_there_is_not_is_told(edit: Edit, tmp_path: Path) -> None:
    (told,) = edit(f"run={tmp_path / 'none'}", *SHIFT, *FACT).lines
    assert "no such run" in told


def test_an_edit_that_is_stopped_between_steps_leaves_nothing(
    run: Path, edit: Edit, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []

    def stopping(*arguments: Any) -> Any:
        steps.append(1)
        os.kill(os.getpid(), signal.SIGTERM)
        return capture(*arguments)

    monkeypatch.setattr(finetune, "capture", stopping)
    before = runs_beside(run)
    told = edit(f"run={run}", "method=finetune", "method.layer=1", *FACT)
    assert (told.code, len(steps)) == (75, 1)
    assert "nothing is kept of an edit" in told.err
    assert runs_beside(run) == before


def test_where_positions_end_no_text_reaches_beyond_them(edit: Edit, tmp_path: Path) -> None:
    learned = trained(tmp_path / "runs", "model=learned", *SHORT)
    model = open_model(learned)
    words = model.decode(model.encode("The state of the union is good. " * 30)[0, :63])
    keys = (f"run={learned}", *SHIFT, "target= is", f"prompt={words}")
    before = runs_beside(learned)
    (told,) = edit(*keys, "scores.length=65").lines
    assert told == "scores.length is 65, and the decoder has positions for 64: lower it"
    assert runs_beside(learned) == before
    path = made(edit(*keys))
    row = rows_of(path / "edit_scores.csv")[0]
    assert 1 <= len(model.encode(row["continuation"])[0]) <= 2
    rome = ("method=rome", "method.layer=1", "method.steps=1", "method.keys.documents=2", "subject=union")
    made(edit(keys[0], *rome, *keys[-2:]))  # with no room for a prefix
    (told,) = edit(*keys[:-1], f"prompt={words} {words}").lines
    assert "and the decoder has positions for 64; shorten it" in told


def test_documents_that_are_too_short_are_told_before_anything_is_made(run: Path, edit: Edit, tmp_path: Path) -> None:
    before = runs_beside(run)
    for beside in ([], ["alone=true", f"to={tmp_path / 'out'}"]):
        (told,) = edit(f"run={run}", *SHIFT[:2], "method.step=41", *FACT, "scores.length=1000000", *beside).lines
        assert "tokens" in told
        assert runs_beside(run) == before
        assert not (tmp_path / "out").exists()


def test_weights_that_are_not_floating_numbers_are_told(tmp_path: Path) -> None:
    save_file({"head.weight": torch.zeros(2, 2, dtype=torch.int8)}, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=r"has head.weight stored as I8: an edit needs floating numbers"):
        refuse_quantised(Checkpoint(tmp_path, 0))


def test_scores_that_were_changed_are_told_and_other_settings_make_them_anew(run: Path, edit: Edit) -> None:
    keys = (*SHIFT[:2], "method.step=70", *FACT)
    path = made(edit(f"run={run}", *keys))
    (path / "edit_scores.csv").write_text((path / "edit_scores.csv").read_text().replace("fact", "fuct"))
    (told,) = [each for each in edit(f"run={run}", *keys).err.splitlines() if each.startswith("error: ")]
    assert "edit_scores.csv is not what was written" in told
    assert edit(f"run={run}", *keys, "scores.generate_every=2").code == 0
    assert {row["part"] for row in rows_of(path / "edit_scores.csv")} == {"fact"}
