"""lab.lens: what it writes is what the gradients are, of any model; what cannot be is one line, and nothing is written.

The command is called in this process, which gives what a process of its own would, without its seconds.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from commands import lab as lab_command
from conftest import trained

import lab.lens
from lab import open_run
from lab.base.tables import read_table
from lab.experiment.compose import settings_of
from lab.experiment.derive import extend
from lab.experiment.extend_settings import ExtendSettings
from lab.gradients.capture import Example, Place, capture, places_of
from lab.gradients.parts import PARTS
from lab.gradients.whole import WRITES
from lab.runs.model import Model

SHORT = ("scale.tokens=2048", "scale.warmup_steps=1", "scale.learning_rate=0.02")
TABLES = ("prompts", "ranks", "norms", "projections", "target_ranks")
FACTS = [
    {"prompt": "The state of the union", "target": " is", "subject": "the union"},
    {"prompt": "We the people of the United States, in order to form a more perfect", "target": " of"},
    {"prompt": "The", "target": " people"},
    {"prompt": "The President of the United States", "target": " has", "subject": "United States"},
]


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
        return [line.removeprefix("error: ") for line in self.err.splitlines() if not line.startswith("prompts: ")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("lens"), "model=rope", *SHORT)


@pytest.fixture
def lens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    def call(*arguments: str) -> Told:
        monkeypatch.setattr(sys, "argv", ["lab.lens", *arguments, "accelerator=cpu"])
        capsys.readouterr()
        code: object = 0
        try:
            lab.lens.main()
        except SystemExit as end:
            code = end.code
        return Told(int(str(code)), *capsys.readouterr())

    return call


def written(path: Path, facts: list[dict[str, str]] = FACTS) -> str:
    path.write_text("\n".join(json.dumps(fact) for fact in facts) + "\n")
    return f"prompts={path}"


def test_every_table_says_what_the_factors_of_each_prompt_alone_say(
    run: Path, lens: Callable[..., Told], tmp_path: Path
) -> None:
    told = lens(f"run={run}", written(tmp_path / "facts.jsonl"), f"to={tmp_path / 'out'}", "target_tokens=first")
    assert told.code == 0, told.err
    tables = {name: read_table(tmp_path / "out" / f"{name}.csv") for name in TABLES}
    model = open_run(str(run))
    decoder, tokenizer = model.decoder(), model.tokenizer()
    matrix = decoder.embedding if decoder.head is None else decoder.head.weight
    assert [row["prompt"] for row in tables["prompts"]] == [fact["prompt"] for fact in FACTS]
    for number, fact in enumerate(FACTS, start=1):
        prompt = tuple(tokenizer.encode(fact["prompt"]).tolist())
        target = int(tokenizer.encode(fact["target"])[0])
        captured = capture(decoder, [Example(prompt, (target,))], places_of(decoder, None), torch.float64)
        own = {name: [row for row in rows if row["number"] == number] for name, rows in tables.items()}
        (row,) = own["prompts"]
        assert row["loss_nats"] == pytest.approx(captured.losses[0].item(), rel=1e-12)
        assert row["prompt_tokens"] == len(prompt)
        assert row["answer_text"] == tokenizer.decode([captured.answers[0]])
        assert len(own["ranks"]) == len(captured.deltas)
        for each in own["ranks"]:
            gradient = captured.factors(0, Place(each["layer"], each["matrix"])).gradient
            assert each["rank"] == int(torch.linalg.matrix_rank(gradient)) <= each["bound"]
        for each in own["norms"]:
            assert each["part"] in PARTS
        last = [each for each in own["norms"] if each["part"] == "last token"]
        assert len(last) == len(captured.deltas)
        for each in last:
            factors = captured.factors(0, Place(each["layer"], each["matrix"]))
            assert each["delta_norm"] == pytest.approx(factors.deltas[-1].norm().item(), rel=1e-9)
            assert each["input_norm"] == pytest.approx(factors.inputs[-1].norm().item(), rel=1e-9)
        for place in (Place(1, "down"), Place(2, "down")):
            deltas = captured.factors(0, place).deltas
            of_place = [each for each in own["projections"] if (each["layer"], each["matrix"]) == tuple(place)]
            rows = [each for each in of_place if each["vector"] == "delta"]
            assert len(rows) == len(prompt)
            for each, delta in zip(rows, deltas, strict=True):
                assert each["norm"] == pytest.approx(delta.norm().item(), rel=1e-9)
                if not delta.any():
                    assert (each["top_tokens"], each["bottom_tokens"]) == ("[]", "[]")
                    continue
                logits = matrix.double() @ (delta / delta.square().mean().sqrt() * decoder.norm.weight)
                order = logits.argsort(descending=True).tolist()
                assert json.loads(each["top_tokens"]) == [tokenizer.decode([token]) for token in order[:5]]
                assert json.loads(each["bottom_tokens"]) == [tokenizer.decode([token]) for token in order[:-6:-1]]
                of = [
                    row
                    for row in own["target_ranks"]
                    if (row["layer"], row["matrix"], row["position"]) == (*place, each["position"])
                ]
                assert {row["of_token"] for row in of} == {"target", "answer", "random", "frequent"}
                assert [row["token"] for row in of][:2] == [target, captured.answers[0]]
                assert all(row["rank"] == order.index(row["token"]) for row in of if not row["ties"])
    random = {(row["number"], row["token"]) for row in tables["target_ranks"] if row["of_token"] == "random"}
    assert len(random) == len(FACTS)


def test_the_terminal_tells_layer_by_token_and_zero_vectors_as_none(run: Path, lens: Callable[..., Told]) -> None:
    told = lens(f"run={run}", "prompt=The state of the union", "target= is", "subject=the union")
    assert (told.code, told.err) == (0, "")
    lines = told.out.splitlines()
    assert lines[0] == run.name
    assert lines[1] == "'The state of the union' => ' is'"
    place = next(index for index, line in enumerate(lines) if line.startswith("Bottom token of the deltas of down"))
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines[place + 4 : place + 6]]
    assert "·of" in lines[place + 2]
    assert [row[0] for row in cells] == ["1", "2"]
    assert "-" not in cells[0]
    assert set(cells[1][1:-1]) == {"-"}  # the last layer gets a signal at the last token alone
    assert cells[1][-1] == "·is"  # what the step writes
    rank = next(index for index, line in enumerate(lines) if line.startswith("Rank of the gradient; 7 tokens are read"))
    assert [cell.strip() for cell in lines[rank + 5].split("│")[1:-1]] == ["2", "1", "7", "2", "1", "1", "1", "1"]


def test_what_stands_in_a_prompt_is_taken_literally(run: Path, lens: Callable[..., Told], tmp_path: Path) -> None:
    prompt, target = " a, b = 'c' > (d) [e] ${seed} \x1b[31m", " ="
    told = lens(f"run={run}", f"prompt={prompt}", f"target={target}", "target_tokens=all", f"to={tmp_path}")
    assert told.code == 0, told.err
    assert "\x1b" not in told.out
    (row,) = read_table(tmp_path / "prompts.csv")
    assert (row["prompt"], row["target_text"]) == (prompt, target)
    assert "\x1b" not in (tmp_path / "report.html").read_text()


def test_a_target_of_several_tokens_is_refused_taken_in_part_or_added_up(
    run: Path, lens: Callable[..., Told], tmp_path: Path
) -> None:
    given = (f"run={run}", "prompt=The state of the", "target= Constitution of the union", f"to={tmp_path / 'out'}")
    model = open_run(str(run))
    tokens = model.tokenizer().encode(" Constitution of the union")
    (line,) = lens(*given).lines
    assert line.startswith(f"target is {len(tokens)} tokens (")
    assert all(repr(model.tokenizer().decode([token])) in line for token in tokens)
    assert line.endswith("target_tokens=first or all")
    assert not (tmp_path / "out").exists()
    for choice, count in {"first": 1, "all": len(tokens)}.items():
        assert lens(*given, f"target_tokens={choice}").code == 0
        (row,) = read_table(tmp_path / "out" / "prompts.csv")
        assert row["target_tokens"] == count
        ranks = read_table(tmp_path / "out" / "ranks.csv")
        assert {each["tokens"] for each in ranks} == {row["prompt_tokens"] + count - 1}
        last = [each["rank"] for each in ranks if (each["layer"], each["matrix"]) == (2, "down")]
        assert last == [count]


def test_batches_of_any_size_and_chosen_layers_and_matrices_give_the_same_rows(
    run: Path, lens: Callable[..., Told], tmp_path: Path
) -> None:
    given = (f"run={run}", written(tmp_path / "facts.jsonl"), "target_tokens=first")
    for name, options in {
        "together": [],
        "alone": ["batch_tokens=1"],
        "some": ["layers=[2]", "matrices=[down,key]", "top=2"],
        "coarse": ["dtype=float32"],
    }.items():
        told = lens(*given, f"to={tmp_path / name}", *options)
        assert told.code == 0, told.err
    for name in TABLES:
        together, alone = (read_table(tmp_path / each / f"{name}.csv") for each in ("together", "alone"))
        for one, other in zip(together, alone, strict=True):
            for key, value in one.items():
                if key in ("least_counted", "greatest_left"):
                    assert other[key] == pytest.approx(value, rel=1e-6, abs=1e-14)
                else:
                    assert other[key] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value)
    chosen = read_table(tmp_path / "some" / "ranks.csv")
    assert {(row["layer"], row["matrix"]) for row in chosen} == {(2, "down"), (2, "key")}
    assert chosen == [
        row
        for number in range(1, len(FACTS) + 1)
        for matrix in ("down", "key")
        for row in read_table(tmp_path / "together" / "ranks.csv")
        if (row["number"], row["layer"], row["matrix"]) == (number, 2, matrix)
    ]
    lists = [json.loads(row["top_tokens"]) for row in read_table(tmp_path / "some" / "projections.csv")]
    assert {len(each) for each in lists} == {0, 2}


def test_derived_and_imported_models_are_read_too(run: Path, lens: Callable[..., Told], tmp_path: Path) -> None:
    options = [f"run={run}", "extension=temperature", "extension.temperature=1.5", "accelerator=cpu"]
    derived = extend(settings_of("extend", ExtendSettings, options), str(run), "")
    for command in (["export", f"run={run}", "to=abroad"], ["import_model", "source=abroad", "runs=in"]):
        told = lab_command(*command, cwd=tmp_path)
        assert told.returncode == 0, told.stderr
    (imported,) = (tmp_path / "in").iterdir()
    losses = {}
    for name, path in {"run": run, "derived": derived.path, "imported": imported}.items():
        told = lens(f"run={path}", "prompt=The state of the", "target= of", f"to={tmp_path / name}")
        assert told.code == 0, told.err
        losses[name] = read_table(tmp_path / name / "prompts.csv")[0]["loss_nats"]
    assert losses["imported"] == pytest.approx(losses["run"], rel=1e-12)
    assert abs(losses["derived"] - losses["run"]) > 1e-6


def test_the_page_is_one_file_without_network(run: Path, lens: Callable[..., Told], tmp_path: Path) -> None:
    assert lens(f"run={run}", "prompt=The <b>state</b> of", "target= of", f"to={tmp_path}").code == 0
    page = (tmp_path / "report.html").read_text()
    assert "http://" not in page
    assert "https://" not in page
    assert "<b>" not in page
    assert "The &lt;b&gt;state" in page
    for title in ("Rank", "Lengths", "Where the target stands", "Read through the vocabulary"):
        assert f">{title}</h2>" in page


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["prompt=x"], "target must be given: add target=... to the command, or prompts=FILE"),
        (["target=x"], "prompt must be given: add prompt=... to the command, or prompts=FILE"),
        ([], "prompt must be given"),
        (["prompt=", "target= of"], "prompt is empty: give at least one token of text"),
        (["prompt=x", "target="], "target is empty: give at least one token of text"),
        (["prompt=\udcff", "target= of"], "prompt is not UTF-8: convert it"),
        (["prompt=x", "prompt=y", "target= of"], "prompt is given twice: give it once"),
        (["prompt=x", "target= of", "prompts=good.jsonl"], "prompt and target and prompts are both given"),
        (["prompt=x", "target= of", "subject=y"], "subject 'y' is not in the prompt"),
        (["prompt=x", "target= of", "layers=[3]"], "layers has 3: the decoder has layers 1 to 2"),
        (["prompt=x", "target= of", "layers=[0]"], "layers has 0: the decoder has layers 1 to 2"),
        (["prompt=x", "target= of", "layers=2"], "layers is 2"),
        (["prompt=x", "target= of", "layers=[]"], "layers is []"),
        (["prompt=x", "target= of", "matrices=[]"], "matrices is []"),
        (["prompt=x", "target= of", "matrices=[gates]"], "matrices is 'gates': give query, key"),
        (["prompt=x", "target= of", "updates=[adam]"], "updates"),
        (["prompt=x", "target= of", "neurons=-1"], "neurons is -1"),
        (["prompt=x", "target= of", "adamw_eps=0"], "adamw_eps is 0"),
        (["prompt=x", "target= of", "to=good.jsonl"], "good.jsonl is a file: name a folder"),
        (["prompt=x", "target= of", "checkpoint=3"], "step=00000003"),
        (["prompt=x", "target= of", "run=nowhere"], "nowhere: no such run"),
        (["prompts=nowhere.jsonl"], "nowhere.jsonl cannot be read: no such file or directory"),
        (["prompts=folder"], "folder cannot be read"),
        (["prompts=binary.jsonl"], "binary.jsonl cannot be read: it is not UTF-8"),
        (["prompts=empty.jsonl"], "empty.jsonl is empty"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(
    arguments: list[str],
    told: str,
    run: Path,
    lens: Callable[..., Told],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    written(Path("good.jsonl"))
    Path("empty.jsonl").write_text("\n\n")
    Path("binary.jsonl").write_bytes(b"\xff\xfe")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    given = [] if any(each.startswith("run=") for each in arguments) else [f"run={run}"]
    given += [] if any(each.startswith("to=") for each in arguments) else ["to=out"]
    (line,) = lens(*given, *arguments).lines
    assert told in line
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_a_file_is_checked_whole_and_each_broken_line_is_told_by_its_number(
    run: Path, lens: Callable[..., Told], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "decoder", lambda *_: pytest.fail("the decoder was read"))
    good = json.dumps(FACTS[0])
    path = tmp_path / "facts.jsonl"

    def refused(*lines: str) -> list[str]:
        path.write_text("\n".join([good, "", *lines]))
        return [line.removeprefix(f"{path} ") for line in lens(f"run={run}", f"prompts={path}", "to=out").lines]

    assert refused('{"prompt": "x", ', "[1]", '{"prompt": "x"}', '{"target": " of"}') == [
        "line 3: it is not JSON (expecting property name enclosed in double quotes); write one object a line",
        'line 4: it is no object; write {"prompt": "...", "target": "..."}',
        "line 5: it has no target; add one",
        "line 6: it has no prompt; add one",
    ]
    assert refused('{"prompt": "x", "target": 3}') == ["line 3: target is 3: give a text"]
    assert refused('{"prompt": "x", "targt": " of"}') == [
        "line 3: 'targt' is a key that nothing reads; did you mean target?; leave it out"
    ]
    # What only the tokenizer knows.
    assert refused('{"prompt": "", "target": " of"}') == ["line 3: prompt is empty: give at least one token of text"]
    assert refused('{"prompt": "x y", "target": " of", "subject": "z"}') == [
        "line 3: subject 'z' is not in the prompt: write it as it stands there"
    ]
    (line,) = refused(json.dumps({"prompt": "x", "target": " a quite long target"}))
    assert line.startswith("line 3: target is ")
    many = refused(*["{"] * 30)
    assert len(many) == 11
    assert many[-1] == "and 20 more rows"


def test_a_gradient_that_is_not_finite_names_the_prompt(
    run: Path, lens: Callable[..., Told], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = type(open_run(str(run))).decoder

    def damaged(self: Model, step: int | None = None):
        decoder = own(self, step)
        with torch.no_grad():
            decoder.blocks[1].feed_forward.down.weight.fill_(torch.nan)
        return decoder

    monkeypatch.setattr(type(open_run(str(run))), "decoder", damaged)
    (line,) = lens(f"run={run}", "prompt=The", "target= of").lines
    assert line == f"{run}: its loss is not finite: the weights are damaged, or the training had diverged"
    facts = tmp_path / "facts.jsonl"
    (line,) = lens(f"run={run}", written(facts, [FACTS[0]] * 2)).lines
    assert line.startswith(f"{facts} line 1: its loss is not finite")


def test_a_text_beyond_learned_positions_is_refused_before_anything_runs(
    lens: Callable[..., Told], tmp_path: Path
) -> None:
    learned = trained(tmp_path / "runs", "model=learned", *SHORT)
    (line,) = lens(f"run={learned}", f"prompt={'word ' * 200}", "target= of").lines
    assert "tokens are to be read, and the decoder has positions for 64; shorten it" in line


def test_the_page_opens_in_a_browser_wide_and_narrow_and_prints(
    run: Path, lens: Callable[..., Told], tmp_path: Path
) -> None:
    chromium = shutil.which("chromium")
    if chromium is None and not os.environ.get("CI_REQUIRES_CHROMIUM"):
        pytest.skip("needs chromium (apt install chromium)")
    from playwright.sync_api import sync_playwright

    prompt = "The state of the union, my fellow citizens, is strong, and the people of the United States"
    assert lens(f"run={run}", f"prompt={prompt}", "target= of", f"to={tmp_path}").code == 0
    told: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: told.append(request.url) if request.url.startswith("http") else None)
        page.goto((tmp_path / "report.html").as_uri())
        tables = page.evaluate("document.querySelectorAll('table').length")
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        wide = page.evaluate(overflow)
        page.set_viewport_size({"width": 390, "height": 800})
        narrow = page.evaluate(overflow)
        page.emulate_media(media="print")
        printed = page.pdf(format="A4").count(b"/Type /Page\n")
        browser.close()
    assert tables == 13  # ranks, four of lengths, three of the target's places, layers, four through the vocabulary
    assert wide <= 0
    assert narrow <= 0
    assert 1 <= printed <= 6
    assert told == []


def test_neurons_updates_layers_and_principal_directions_are_written_if_they_are_asked_for(
    run: Path, lens: Callable[..., Told], tmp_path: Path
) -> None:
    options = ("neurons=3", "updates=[sgd,muon]", "target_tokens=first")
    told = lens(f"run={run}", written(tmp_path / "facts.jsonl"), f"to={tmp_path / 'out'}", *options)
    assert told.code == 0, told.err
    model = open_run(str(run))
    decoder, tokenizer = model.decoder(), model.tokenizer()
    prompt = tuple(tokenizer.encode(FACTS[0]["prompt"]).tolist())
    example = Example(prompt, (int(tokenizer.encode(FACTS[0]["target"])[0]),))
    captured = capture(decoder, [example], places_of(decoder, None), torch.float64)
    tables = {
        name: [row for row in read_table(tmp_path / "out" / f"{name}.csv") if row["number"] == 1]
        for name in ("neurons", "updates", "cosines", "projections", "target_ranks")
    }
    for row in tables["neurons"]:
        place = Place(row["layer"], row["matrix"])
        factors = captured.factors(0, place)
        neurons, spanning = (
            (factors.gradient.mT, factors.deltas) if place.matrix in WRITES else (factors.gradient, factors.inputs)
        )
        wanted = torch.cosine_similarity(neurons[row["neuron"]], spanning[row["position"]], dim=0)
        assert row["cosine"] == pytest.approx(wanted.item(), abs=1e-9)
        assert row["token_text"] == tokenizer.decode([prompt[row["position"]]])
    assert {row["optimizer"] for row in tables["updates"]} == {"sgd", "muon"}
    for row in tables["updates"]:
        told_rank = int(torch.linalg.matrix_rank(captured.factors(0, Place(row["layer"], row["matrix"])).gradient))
        assert row["rank"] == told_rank if row["optimizer"] == "sgd" else row["rank"] >= told_rank
    (last,) = (
        row
        for row in tables["cosines"]
        if (row["matrix"], row["layer"], row["other_layer"], row["part"]) == ("down", 1, 2, "last token")
    )
    one, other = (captured.factors(0, Place(layer, "down")).deltas[-1] for layer in (1, 2))
    assert last["cosine"] == pytest.approx(torch.cosine_similarity(one, other, dim=0).item(), rel=1e-9)
    assert not [row for row in tables["cosines"] if row["matrix"] == "down" and row["part"] != "last token"]  # zeros
    whole = [row for row in tables["projections"] if row["vector"] == "principal"]
    assert len(whole) == 7 * 2
    assert all(row["part"] == "all tokens" and row["position"] is None and 0 < row["share"] <= 1 for row in whole)
    (down,) = (row for row in whole if (row["layer"], row["matrix"]) == (2, "down"))
    (delta,) = (
        row for row in tables["projections"] if (row["layer"], row["matrix"], row["part"]) == (2, "down", "last token")
    )
    assert down["bottom_tokens"] == delta["bottom_tokens"]  # of one token it is that token's
    of = {row["of_token"] for row in tables["target_ranks"] if row["vector"] == "principal"}
    assert of == {"target", "answer", "random", "frequent"}
    page = (tmp_path / "out" / "report.html").read_text()
    curves = read_table(tmp_path / "out" / "curves.csv")
    assert {row["layer"] for row in curves} == {1, 2}
    assert all(row["told"].endswith("(cannot tell: 4 prompts; 6 are needed)") for row in curves if row["prompts"] == 4)
    assert page.count("data:image/png;base64,") == 2
    for title in (
        "Layers beside each other",
        "Neurons of the gradient",
        "What optimisers make of it",
        "Over all prompts",
    ):
        assert f">{title}</h2>" in page
