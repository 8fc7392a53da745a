"""lm-evaluation-harness says of the lab's models what its own transformers backend says of them exported."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from lab.base.errors import UserError
from lab.data.sources.documents import Sotu
from lab.experiment.comparison import compare
from lab.experiment.compose import settings_of
from lab.experiment.evaluating import evaluate, interval_of_questions
from lab.experiment.settings import CompareSettings, EvaluateSettings
from lab.observe.scores import Scores
from lab.runs.imported import Imported

LONGEST = 200  # about three contexts C
TASKS = {
    "chosen": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{start}}",
        "doc_to_choice": "{{ends}}",
        "doc_to_target": "answer",
        "target_delimiter": " ",
        "num_fewshot": 1,
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "spoken": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "named": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{start}}",
        "doc_to_choice": "{{ends}}",
        "doc_to_target": "answer",
        "target_delimiter": " ",
        "metric_list": [{"metric": "acc"}, {"metric": "mcc"}],
    },
    "written": {
        "output_type": "generate_until",
        "doc_to_text": "{{start}}  ",
        "doc_to_target": "{{ends[0]}}",
        "generation_kwargs": {"until": ["e", "\n"], "max_gen_toks": 20, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks in the harness's YAML, of State of the Union addresses."""
    folder = tmp_path_factory.mktemp("tasks")
    words = next(entry.text for entry in Sotu().documents("validation", "") if entry.text).split()
    questions = []
    for number in range(24):
        own = words[number * 60 : number * 60 + 60]
        ends = [" ".join(own[40 + 3 * each : 40 + 3 * each + 1 + number % 4]) for each in range(4)]
        start = "" if number == 5 else " ".join(own[: 10 + number])
        questions.append(
            {"start": start, "ends": ends, "answer": number % 4, "text": " ".join(own) + " " * (number % 2)}
        )
    (folder / "questions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in questions))
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "questions.jsonl")}}}
    for name, task in TASKS.items():
        # YAML holds JSON.
        content = (
            {"task": name, "test_split": "test", "fewshot_split": "test", "metadata": {"version": 1}} | data | task
        )
        (folder / f"{name}.yaml").write_text(json.dumps(content))
    return folder


def ask(run: Path, own: Path, **keys: Any) -> None:
    settings = settings_of("evaluate", EvaluateSettings, [f"run={run}", "tasks=[x]"])
    evaluate(settings.with_values(**{"tasks": [*TASKS], "folder": str(own), "longest": LONGEST} | keys))


@pytest.mark.parametrize("variant", ["rope", "window_nope", "alibi"])
def test_every_question_has_the_number_that_the_transformers_backend_gives_on_the_exported_model(
    llama: Path, take: Callable[..., Imported], give: Callable[..., Path], folder: Path, variant: str
) -> None:
    model = take(llama, model=variant, **({"window": 20} if variant.startswith("window") else {}))
    ask(model.path, folder)
    rows = Scores(model.path / "scores.csv").rows
    theirs = simple_evaluate(
        "hf",
        model_args={
            "pretrained": str(give(model.path)),
            "trust_remote_code": True,
            "dtype": "float32",
            "max_length": LONGEST,
        },
        tasks=[*TASKS],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        device="cpu",
        batch_size=1,
        bootstrap_iters=100,
    )
    compared = 0
    for task, samples in theirs["samples"].items():
        for sample in samples:
            for metric in sample["metrics"]:
                told = sample[metric]
                if metric == "mcc":  # a pair of classes, of which no mean is taken
                    continue
                wanted = -told[0] / told[1] if isinstance(told, tuple) else float(told)
                if metric == "bits_per_byte":
                    wanted /= math.log(2)
                named = metric if isinstance(told, float | int) or metric == "bits_per_byte" else f"log_{metric}"
                (row,) = [
                    each
                    for each in rows
                    if (each["measure"], each["document"]) == (f"{task}:{named}", str(sample["doc_id"]))
                ]
                assert math.isclose(row["value"], wanted, rel_tol=2e-5, abs_tol=1e-9), (task, metric)
                compared += 1
    assert compared == len(rows) == 24 * 7
    # What a column says is what its mean over words or bytes is of.
    spoken = theirs["results"]["spoken"]
    for named, wanted in (
        ("bits_per_byte", spoken["bits_per_byte,none"]),
        ("log_byte_perplexity", math.log(spoken["byte_perplexity,none"])),
        ("log_word_perplexity", math.log(spoken["word_perplexity,none"])),
    ):
        own = [row for row in rows if row["measure"] == f"spoken:{named}"]
        mean = sum(row["value"] * row["tokens"] for row in own) / sum(row["tokens"] for row in own)
        assert math.isclose(mean, wanted, rel_tol=2e-5)
    lines = [json.loads(line) for line in (model.path / "answers.jsonl").read_text().splitlines()[1:]]
    likelihoods = [answer for _, answer, _ in lines if isinstance(answer, list)]
    for value, greedy in [response for each in theirs["samples"]["chosen"] for (response,) in each["resps"]]:
        assert any(math.isclose(value, own, rel_tol=2e-5) and bool(greedy) is same for own, same in likelihoods)
    texts = {answer for _, answer, _ in lines if isinstance(answer, str)}
    assert {each["resps"][0][0] for each in theirs["samples"]["written"]} == texts


def test_a_request_longer_than_longest_is_refused_and_nothing_is_cut(
    llama: Path, take: Callable[..., Imported], folder: Path
) -> None:
    model = take(llama)
    with pytest.raises(UserError, match=r"question \d+ of chosen has \d+ tokens, and longest is 64: raise longest"):
        ask(model.path, folder, tasks=["chosen"], longest=None)


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (
            {"tasks": ["choosen"]},
            "tasks names choosen, .* does not know; .* has .*chosen.*; near it are chosen",
        ),
        ({"folder": "nowhere"}, "folder is nowhere, which is no folder"),
    ],
)
def test_what_cannot_be_asked_is_named(
    llama: Path, take: Callable[..., Imported], folder: Path, keys: dict[str, Any], line: str
) -> None:
    model = take(llama)
    with pytest.raises(UserError, match=line):
        ask(model.path, folder, **keys)


def test_questions_that_cannot_be_had_are_named(llama: Path, take: Callable[..., Imported], tmp_path: Path) -> None:
    content = {"task": "gone", "test_split": "test", "dataset_path": "json"} | TASKS["spoken"]
    (tmp_path / "gone.yaml").write_text(json.dumps(content | {"dataset_kwargs": {"data_files": "nowhere.jsonl"}}))
    model = take(llama)
    with pytest.raises(UserError, match=r"tasks: the questions of gone cannot be had \(FileNotFoundError: .*nowhere"):
        ask(model.path, tmp_path, tasks=["gone"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"metric_list": [{"metric": "nonsense"}]}, "a metric of it is neither the harness's nor of the package"),
        ({"test_split": "spring"}, "it names 'spring', which is not there"),
        ({"dataset_kwargs": {"data_files": {"test": "empty.jsonl"}}}, "there are none"),
        ({"doc_to_text": "{{nothing}}"}, "'nothing' is undefined"),
    ],
)
def test_what_is_wrong_with_a_task_of_ones_own_is_told(
    llama: Path,
    take: Callable[..., Imported],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    told: str,
) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path)
    task = json.loads((folder / "chosen.yaml").read_text()) | {"task": "own"} | changes
    (tmp_path / "own" / "own.yaml").write_text(json.dumps(task))
    with pytest.raises(UserError) as error:
        ask(take(llama).path, tmp_path / "own", tasks=["own"])
    assert told in str(error.value)
    (tmp_path / "own" / "other.yaml").write_text("task: other\n  x: [1\n")
    with pytest.raises(UserError, match=r"own/other\.yaml: no YAML"):
        ask(take(llama).path, tmp_path / "own", tasks=["own"])


def test_what_was_answered_is_not_asked_again_and_a_torn_line_is(
    llama: Path, take: Callable[..., Imported], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = take(llama)
    ask(model.path, folder)
    before = (model.path / "scores.csv").read_bytes()
    answers = model.path / "answers.jsonl"
    whole = answers.read_text()
    lines = whole.splitlines(keepends=True)
    answers.write_text("".join(lines[:-4]) + lines[-4][:20])
    asked = []
    from lab.exchange.harness import HarnessModel

    scored, written = HarnessModel._scored, HarnessModel._written
    monkeypatch.setattr(HarnessModel, "_scored", lambda self, each: asked.extend(each) or scored(self, each))
    monkeypatch.setattr(HarnessModel, "_written", lambda self, *each: asked.append(each) or written(self, *each))
    ask(model.path, folder)
    assert len(asked) == 4
    assert (model.path / "scores.csv").read_bytes() == before
    assert sorted(answers.read_text().splitlines()) == sorted(whole.splitlines())


def test_without_the_harness_its_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "lm_eval.py").write_text("raise ImportError('none', name='lm_eval')")
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import lab.experiment.evaluating"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "the package lm_eval is missing; install the harness: pip install '.[harness]'" in result.stderr


def test_answers_that_were_edited_are_refused(llama: Path, take: Callable[..., Imported], folder: Path) -> None:
    model = take(llama)
    ask(model.path, folder, tasks=["chosen"])
    answers = model.path / "answers.jsonl"
    lines = answers.read_text().splitlines(keepends=True)
    key, (value, greedy), seal = json.loads(lines[3])
    for other in (json.dumps([key, [value + 1, greedy], seal]), json.dumps([key, value]), '"text"'):
        answers.write_text("".join([*lines[:3], other + "\n", *lines[4:]]))
        with pytest.raises(UserError, match=r"answers\.jsonl was edited; delete it"):
            ask(model.path, folder, tasks=["chosen"])
    answers.write_text("".join([*lines[:3], "{\n", *lines[4:]]))
    with pytest.raises(UserError, match=r"answers\.jsonl is damaged; delete it"):
        ask(model.path, folder, tasks=["chosen"])


def test_a_task_that_fails_is_one_line(
    llama: Path, take: Callable[..., Imported], folder: Path, tmp_path: Path
) -> None:
    model = take(llama)
    for name in ("questions.jsonl", "chosen.yaml"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "own.py").write_text("def judged(doc, results):\n    raise ValueError('not today')\n")
    task = json.loads((tmp_path / "chosen.yaml").read_text()) | {"task": "failing"}
    text = json.dumps(task)[:-1] + ', "process_results": !function own.judged}'
    (tmp_path / "failing.yaml").write_text(text)
    with pytest.raises(UserError, match=r"tasks: failing cannot be asked \(ValueError: not today\)"):
        ask(model.path, tmp_path, tasks=["failing"])
    with pytest.raises(UserError, match=r"tasks: chosen cannot be asked \("):
        ask(model.path, folder, tasks=["chosen"], shots=50)


def test_a_model_that_was_asked_tasks_is_compared_as_before(
    llama: Path, take: Callable[..., Imported], folder: Path, tmp_path: Path
) -> None:
    models = [take(llama, model=name) for name in ("rope", "nope")]
    ask(models[0].path, folder, tasks=["chosen"])
    scored = ("evaluation=sotu", "measure=excess", "scoring.longest=2", "scoring.documents=3", "scoring.segments=1")
    runs = ",".join(str(model.path) for model in models)
    settings = settings_of("compare", CompareSettings, [f"runs=[{runs}]", "factor=model", *scored])
    compare(settings.with_values(output=str(tmp_path / "compared")), "a command")
    assert (tmp_path / "compared" / "differences.csv").exists()


def test_the_interval_of_a_share_over_clusters_lies_within_0_and_1_and_is_over_clusters() -> None:
    few = [[0.0, 1.0], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    low, high = interval_of_questions(few)
    assert low == 0.0
    assert high is not None
    assert 1 / 7 < high < 1
    assert interval_of_questions([[1 - value for value in each] for each in few]) == pytest.approx((1 - high, 1.0))
    assert interval_of_questions(few[:5]) == (None, None)  # too few clusters, though ten questions
    alone = [[value] for each in few for value in each]
    assert interval_of_questions(alone)[0] is not None
