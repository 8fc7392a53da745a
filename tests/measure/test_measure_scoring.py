"""Scoring a run on the disk: what is scored stays, what is missing is added, what has become wrong is replaced."""

import hashlib
import json
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lab.base.errors import UserError
from lab.base.parts import several_of
from lab.data.tokenizer import Tokenizer
from lab.experiment.compose import configuration_folder, settings_of
from lab.experiment.settings import TrainSettings
from lab.measure.excess import Excess
from lab.measure.loss_by_position import LossByPosition
from lab.measure.passkey import Passkey
from lab.model.building import build_decoder
from lab.model.decoder import Decoder
from lab.observe import scoring
from lab.observe.measure import Item, Measure, Source
from lab.observe.scores import Scores, proof
from lab.observe.scoring import code_of, rows_of, score_run, setting_of
from lab.runs import environment
from lab.runs.checkpoints import Checkpoints
from lab.runs.environment import hardware, packages
from lab.runs.run import Run
from lab.runs.settings import RunSettings

CONTEXT, STEP = 64, 8
BY_POSITION = LossByPosition(longest=2, segments=1, bin_tokens=64, documents=None)
EXCESS = Excess(longest=2, segments=2, documents=None, batch_tokens=1024)
EXCESS_ROWS = {"whole_prefix", "restarted", "excess", "inside_gain", "excess_by_position"}


def untrained(config: RunSettings) -> Decoder:
    return build_decoder(config.model, config.scale, kernel=config.kernel, compute_dtype="float32", seed=config.seed)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of experiment=smoke with a checkpoint of its initial weights."""
    overrides = ["experiment=smoke", "measure=none", "trainer=cpu", "trainer.compute_dtype=float32"]
    config = settings_of("train", TrainSettings, overrides).of_run()
    run = Run(tmp_path_factory.mktemp("runs") / "smoke")
    run.create(config, {"digest": "0123abcd", "state": "finished"})
    Checkpoints(run.path / "checkpoints", run.digest).save(STEP, untrained(config).state_dict(), {})
    return run.path


@pytest.fixture
def run(smoke: Path, tmp_path: Path) -> Run:
    shutil.copytree(smoke, tmp_path / "run")
    return Run(tmp_path / "run")


def source_of(*lengths: int) -> Source:
    draw = np.random.default_rng(0)
    documents = [("abcdefg"[at], draw.integers(0, 1024, tokens).astype(np.uint32)) for at, tokens in enumerate(lengths)]
    tokenizer = Tokenizer("sotu_1k/tokenizer.json")
    return Source(lambda: iter(documents), tokenizer, CONTEXT, lambda name: f"author of {name}", "authors")


SOURCE = (200, 150, 300, 100, 129)  # d is too short


@dataclass
class Log:
    """Notes what is about to be scored; stops before ``stop``."""

    stop: str | None = None
    asked: list[str] = field(default_factory=list)
    watch: Callable[[], None] = lambda: None

    def __call__(self, name: str) -> None:
        self.watch()
        if name == self.stop:
            raise KeyboardInterrupt(name)
        self.asked.append(name)


def scored(run: Run, measures: dict[str, Measure] | None = None, stop: str | None = None, **changes) -> list[str]:
    """Score, and return what was scored now, in order."""
    log = Log(stop)
    settings = {"evaluation": "held_out-1234", "source": source_of(*SOURCE), "device": "cpu", "step": STEP} | changes
    measures = {"loss_by_position": BY_POSITION} if measures is None else measures
    if stop is None:
        score_run(run, measures, check=log, **settings)
    else:
        with pytest.raises(KeyboardInterrupt):
            score_run(run, measures, check=log, **settings)
    return log.asked


def rows(run: Run) -> list[dict]:
    return Scores(run.path / "scores.csv").rows


def documents(run: Run) -> list[str]:
    return list(dict.fromkeys(row["document"] for row in rows(run)))


def record(run: Run) -> dict:
    (only,) = run.manifest["measured"].values()
    return only


def spoil(run: Run) -> None:
    """Give every row a loss that no code would find, as if it had been scored so."""
    scores = Scores(run.path / "scores.csv")
    scores.add([row | {"loss_nats": 99.0} for row in scores.rows])
    scores.write()
    measured = run.manifest["measured"]
    proven = {label: proof(scores.select(setting=entry["setting"])) for label, entry in measured.items()}
    run.update_manifest(scored=proven)


# What is written.


def test_rows_are_what_the_measures_observe_of_the_runs_decoder_named_in_full(run):
    measures = {"loss_by_position": BY_POSITION, "excess": EXCESS}
    assert scored(run, measures) == ["a", "b", "c", "e"] * 2
    decoder = run.decoder(STEP)
    expected = []
    for measure in measures.values():
        for item in measure.items(source_of(*SOURCE)):
            with torch.inference_mode():
                observed = measure.score(decoder, item, CONTEXT)
            named = {
                "measure": measure.name,
                "setting": setting_of(measure),
                "evaluation": "held_out-1234",
                "step": STEP,
                "precision": "float32",
                "document": item.name,
                "cluster": f"author of {item.name}",
            }
            expected += [named | row for row in observed]
    assert [{column: value for column, value in row.items() if value is not None} for row in rows(run)] == expected
    assert {row["measure"] for row in rows(run)} == {"loss_by_position"} | EXCESS_ROWS


def test_the_manifest_spells_out_what_was_measured_and_keeps_the_rest(run):
    scored(run)
    assert run.manifest["state"] == "finished"
    assert record(run) == {
        "measure": "loss_by_position",
        "setting": setting_of(BY_POSITION),
        "settings": {key: value for key, value in BY_POSITION.plain().items() if key != "documents"},
        "evaluation": "held_out-1234",
        "step": STEP,
        "precision": "float32",
        "clusters": "authors",
        "code": code_of(BY_POSITION),
        "python": platform.python_version(),
        "packages": packages(),
        "hardware": hardware(),
        "kernel": "banded",
    }
    assert list(run.manifest["scored"].values()) == [proof(rows(run))]


def test_the_manifest_names_the_documents_with_the_sha256_of_their_token_ids(run):
    scored(run)
    expected = {
        item.name: hashlib.sha256(item.ids.tobytes()).hexdigest()[:16] for item in BY_POSITION.items(source_of(*SOURCE))
    }
    assert run.manifest["documents"] == {"held_out-1234": expected}
    assert list(expected) == ["a", "b", "c", "e"]


def test_items_that_are_made_up_belong_to_no_held_out_documents(run):
    node = yaml.safe_load(Path(configuration_folder(), "measure", "passkey.yaml").read_text())
    measure = Passkey.check(node | {"lengths": [128], "longest": 1, "distances": 2, "trials": 1})
    names = ["length=128 distance=64", "length=128 distance=128"]
    assert scored(run, {"passkey": measure}, source=source_of(3)) == names
    assert {row["evaluation"] for row in rows(run)} == {record(run)["evaluation"]} == {"none"}
    assert [row["cluster"] for row in rows(run)] == names
    assert record(run)["clusters"] == "trials"
    assert scored(run, {"passkey": measure}, evaluation="kjv-5678") == []


def test_no_measures_is_nothing_to_do(run):
    assert scored(run, {}) == []
    assert not (run.path / "scores.csv").exists()


# What is scored already.


def test_what_is_scored_is_found_again_without_its_weights(run):
    scored(run)
    before = (run.path / "scores.csv").read_bytes(), (run.path / "manifest.json").read_bytes()
    shutil.rmtree(run.path / "checkpoints")
    assert scored(run) == []
    assert before == ((run.path / "scores.csv").read_bytes(), (run.path / "manifest.json").read_bytes())


def test_it_tells_whether_there_was_anything_left_to_score(run):
    def left() -> bool:
        return score_run(run, {"loss_by_position": BY_POSITION}, "held_out-1234", source_of(*SOURCE), "cpu", STEP)

    assert [left(), left()] == [True, False]


def test_scores_that_were_deleted_are_scored_again(run):
    scored(run)
    expected = rows(run)
    (run.path / "scores.csv").unlink()
    assert scored(run) == ["a", "b", "c", "e"]
    assert rows(run) == expected


@pytest.mark.parametrize(("stop", "kept"), [("a", ""), ("b", "a"), ("c", "ab"), ("e", "abc")])
def test_scoring_that_is_stopped_keeps_what_is_scored_and_goes_on_with_the_next(run, smoke, tmp_path, stop, kept):
    assert scored(run, stop=stop) == list(kept)
    assert run.manifest["scored"] == {}
    assert documents(run) == list(kept)
    shutil.copytree(smoke, tmp_path / "whole")
    scored(Run(tmp_path / "whole"))
    assert scored(run) == [name for name in "abce" if name not in kept]
    assert (run.path / "scores.csv").read_bytes() == (tmp_path / "whole" / "scores.csv").read_bytes()
    assert record(run) == record(Run(tmp_path / "whole"))
    assert scored(run) == []


def test_scoring_that_is_stopped_in_its_second_measure_does_not_score_the_first_again(run):
    measures = {"loss_by_position": BY_POSITION, "excess": EXCESS}
    log = Log()
    log.watch = lambda: log.asked.count("b") == 2 and (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        score_run(run, measures, "held_out-1234", source_of(*SOURCE), "cpu", STEP, log)
    assert log.asked == ["a", "b", "c", "e", "a", "b"]
    assert scored(run, measures) == ["c", "e"]
    # Of a document two bins; of a segment four means, and the excess of eight eighths of C.
    assert len(rows(run)) == 4 * 2 + (4 + 8) * (1 + 1 + 2 + 1)


def test_rows_reach_the_disk_while_scoring_goes_on(run, monkeypatch):
    monkeypatch.setattr(scoring, "WRITE_SECONDS", 0.0)
    seen = []
    log = Log()
    log.watch = lambda: seen.append(documents(run))
    score_run(run, {"loss_by_position": BY_POSITION}, "held_out-1234", source_of(*SOURCE), "cpu", STEP, log)
    assert seen == [[], ["a"], ["a", "b"], ["a", "b", "c"]]


def test_more_documents_are_added_to_those_that_are_scored_and_fewer_change_nothing(run):
    asked = [
        scored(run, {"loss_by_position": BY_POSITION.with_values(documents=count)}) for count in (1, 3, 3, 2, None)
    ]
    assert asked == [["a"], ["b", "c"], [], [], ["e"]]
    assert documents(run) == ["a", "b", "c", "e"]
    assert list(run.manifest["scored"].values()) == [proof(rows(run))]


def changed(text: str) -> str:
    lines = text.splitlines(keepends=True)
    return "".join([*lines[:5], lines[5].replace("author of c", "author of a"), *lines[6:]])


EDITS: dict[str, Callable[[str], str]] = {
    "a number": lambda text: text.replace(",7.", ",6.", 1),
    "a cluster": changed,
    "removed": lambda text: "".join(text.splitlines(keepends=True)[:-1]),
    "added": lambda text: text + text.splitlines(keepends=True)[-1].replace(",e,", ",f,"),
    "of another document": lambda text: text.replace(",e,", ",f,"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_rows_that_are_not_those_that_were_written_are_refused_with_measure_and_documents(run, edit):
    scored(run)
    path = run.path / "scores.csv"
    edited = EDITS[edit](path.read_text())
    assert edited != path.read_text()
    path.write_text(edited)
    for read in (lambda: scored(run), lambda: found_rows(run)):
        with pytest.raises(
            UserError, match=r"scores\.csv: the rows of loss_by_position held_out-1234 are not what was"
        ):
            read()
    assert path.read_text() == edited


def found_rows(run: Run, *measures: Measure, **place) -> list[dict]:
    """As whoever shows or compares them reads them."""
    return rows_of(run, {setting_of(measure) for measure in measures or (BY_POSITION,)}, **place)


def test_rows_of_a_measure_that_are_all_gone_are_noticed(run):
    measures = {"loss_by_position": BY_POSITION, "excess": EXCESS}
    scored(run, measures)
    scores = Scores(run.path / "scores.csv")
    scores.drop(scores.select(measure="loss_by_position"))
    scores.write()
    for read in (lambda: scored(run, measures), lambda: found_rows(run, *measures.values())):
        with pytest.raises(UserError, match="the rows of loss_by_position held_out-1234 are gone"):
            read()
    assert {row["measure"] for row in found_rows(run, EXCESS)} == EXCESS_ROWS


@pytest.mark.parametrize("column", ["evaluation", "step", "precision"])
def test_rows_that_no_scoring_of_the_run_has_written_are_refused(run, column):
    scored(run)
    other = {"evaluation": "kjv-5678", "step": 16, "precision": "bfloat16"}
    scores = Scores(run.path / "scores.csv")
    scores.add([row | {column: other[column]} for row in scores.rows])
    scores.write()
    place = {"dtype": other[column]} if column == "precision" else {}
    with pytest.raises(UserError, match=r"the rows of loss_by_position .* were not written by a scoring of this run"):
        found_rows(run, **place)


def test_rows_of_another_run_are_refused(run, smoke, tmp_path):
    shutil.copytree(smoke, tmp_path / "other")
    other = Run(tmp_path / "other")
    shutil.rmtree(other.path / "checkpoints")
    config = other.config.with_values(seed=1)
    Checkpoints(other.path / "checkpoints", other.digest).save(STEP, untrained(config).state_dict(), {})
    for each in (run, other):
        scored(each)
    shutil.copy(other.path / "scores.csv", run.path / "scores.csv")
    with pytest.raises(UserError, match="the rows of loss_by_position held_out-1234 are not what was written"):
        scored(run)


def test_a_scoring_that_was_stopped_is_not_taken_for_a_whole_one(run):
    scored(run)
    scored(run, evaluation="kjv-5678", stop="c")
    assert {row["evaluation"] for row in found_rows(run, evaluation="held_out-1234")} == {"held_out-1234"}
    for evaluation in ("kjv-5678", None):
        with pytest.raises(
            UserError, match=r"scores\.csv: loss_by_position is not scored to its end; score the run again"
        ):
            found_rows(run, evaluation=evaluation)
    scored(run, evaluation="kjv-5678")
    assert len(found_rows(run)) == len(rows(run)) == 2 * len(found_rows(run, evaluation="kjv-5678"))


def test_a_scoring_that_was_killed_after_its_last_row_is_whole_when_it_is_scored_again(run):
    scored(run)
    run.update_manifest(scored={})
    with pytest.raises(UserError, match="not scored to its end"):
        found_rows(run)
    assert scored(run) == []
    assert found_rows(run) == rows(run)


def test_a_scoring_goes_on_only_on_what_it_was_begun_on(run, capsys):
    scored(run, stop="c")
    (label,) = run.manifest["measured"]
    begun = record(run)
    run.update_manifest(measured={label: begun | {"hardware": begun["hardware"] | {"cpu": "another"}}})
    assert scored(run) == ["a", "b", "c", "e"]
    assert "loss_by_position was begun with another hardware and is scored again" in capsys.readouterr().err
    assert record(run) == begun


def test_a_document_that_is_no_longer_what_it_was_is_refused_by_name(run):
    scored(run)

    def reversed_c() -> Iterator[tuple[str, np.ndarray]]:
        return (
            (item.name, item.ids[:: -1 if item.name == "c" else 1].copy()) for item in source_of(*SOURCE).documents()
        )

    source = Source(reversed_c, Tokenizer("sotu_1k/tokenizer.json"), CONTEXT)
    with pytest.raises(UserError, match=r"was scored on another c of held_out-1234; restore that document"):
        scored(run, source=source)
    with pytest.raises(UserError, match=r"was scored on another c of held_out-1234"):
        scored(run, {"excess": EXCESS}, source=source)
    (run.path / "scores.csv").unlink()  # which is the remedy that messages name
    assert scored(run, source=source) == ["a", "b", "c", "e"]


def test_another_batch_size_scores_nothing_again(run):
    scored(run, {"excess": EXCESS})
    before = rows(run)
    assert scored(run, {"excess": EXCESS.with_values(batch_tokens=64)}) == []
    assert rows(run) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"measures": {"loss_by_position": BY_POSITION.with_values(bin_tokens=32)}},
        {"evaluation": "kjv-5678"},
        {"step": 16},
    ],
)
def test_another_setting_evaluation_or_checkpoint_is_scored_beside(run, changes):
    Checkpoints(run.path / "checkpoints", run.digest).save(16, untrained(run.config).state_dict(), {})
    scored(run)
    first = rows(run)
    assert scored(run, **changes) == ["a", "b", "c", "e"]
    assert rows(run)[: len(first)] == first
    assert len(rows(run)) > len(first)
    assert len(run.manifest["measured"]) == 2
    assert scored(run) == scored(run, **changes) == []


# Other code.


def test_other_code_scores_again_and_replaces(run, monkeypatch, capsys):
    measures = {"loss_by_position": BY_POSITION, "excess": EXCESS}
    scored(run, measures)
    expected = rows(run)
    spoil(run)
    monkeypatch.setattr(scoring, "code_of", lambda measure: f"other {measure.name}"[:21])
    assert scored(run, measures) == ["a", "b", "c", "e"] * 2
    assert capsys.readouterr().err.count("was scored by other code and is scored again") == 2
    found = rows(run)
    assert sorted(map(str, found)) == sorted(map(str, expected))
    assert {entry["code"] for entry in run.manifest["measured"].values()} == {"other loss_by_positio", "other excess"}
    assert scored(run, measures) == []


def test_other_code_of_one_measure_leaves_the_others_alone(run, monkeypatch):
    measures = {"loss_by_position": BY_POSITION, "excess": EXCESS}
    scored(run, measures)
    spoil(run)
    old = {name: code_of(measure) for name, measure in measures.items()}
    monkeypatch.setattr(scoring, "code_of", lambda measure: {**old, "excess": "other"}[measure.name])
    assert scored(run, measures) == ["a", "b", "c", "e"]
    assert {row["loss_nats"] == 99.0 for row in rows(run) if row["measure"] == "loss_by_position"} == {True}
    assert {row["loss_nats"] == 99.0 for row in rows(run) if row["measure"] != "loss_by_position"} == {False}


@pytest.mark.parametrize("stop", ["a", "b", "e"])
def test_other_code_that_is_stopped_leaves_nothing_of_the_old_and_goes_on(run, monkeypatch, stop):
    scored(run)
    expected = rows(run)
    spoil(run)
    monkeypatch.setattr(scoring, "code_of", lambda measure: "other")
    before = scored(run, stop=stop)
    assert 99.0 not in {row["loss_nats"] for row in rows(run)}
    assert before + scored(run) == ["a", "b", "c", "e"]
    assert rows(run) == expected


def test_the_manifest_never_calls_old_rows_new_whenever_the_process_dies(run, monkeypatch):
    scored(run)
    spoil(run)
    monkeypatch.setattr(scoring, "code_of", lambda measure: "other")
    seen = []
    log = Log()
    log.watch = lambda: seen.append((record(run)["code"], {row["loss_nats"] for row in rows(run)}))
    score_run(run, {"loss_by_position": BY_POSITION}, "held_out-1234", source_of(*SOURCE), "cpu", STEP, log)
    assert len(seen) == 4
    assert all(99.0 not in losses for code, losses in seen if code == "other")


def test_other_code_without_the_weights_to_score_again_keeps_what_there_is(run, monkeypatch):
    scored(run)
    before = rows(run)
    shutil.rmtree(run.path / "checkpoints")
    monkeypatch.setattr(scoring, "code_of", lambda measure: "other")
    for _ in range(2):
        with pytest.raises(UserError, match=r"step=00000008: checkpoint.json is missing; checkpoints .* steps none"):
            scored(run)
        assert rows(run) == before


def test_the_code_of_a_measure_is_its_own_and_the_same_every_time():
    assert code_of(BY_POSITION) == code_of(BY_POSITION.with_values(longest=4))
    assert code_of(BY_POSITION) != code_of(EXCESS)


@pytest.mark.parametrize("room", scoring.ROOMS)
def test_the_code_of_a_measure_is_all_files_of_the_rooms_that_score_and_no_other(tmp_path, monkeypatch, room):
    package = tmp_path / "lab"
    shutil.copytree(Path(scoring.__file__).parents[1], package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(environment, "PACKAGE", package)
    monkeypatch.setattr(scoring.inspect, "getfile", lambda kind: str(package / "measure" / "excess.py"))
    before = code_of(EXCESS)
    assert before == code_of(BY_POSITION)  # of which only the file tells
    (package / "report" / "new.py").write_text("")
    (package / "measure" / "copying.py").write_text("")
    assert code_of(EXCESS) == before
    (package / room / "new.py").write_text("")
    assert code_of(EXCESS) != before
    (package / room / "new.py").unlink()
    assert code_of(EXCESS) == before
    (package / "measure" / "excess.py").write_text("")
    assert code_of(EXCESS) != before


def test_a_setting_is_named_by_what_decides_an_observation_whatever_the_order_of_keys():
    assert setting_of(BY_POSITION) == setting_of(LossByPosition(**dict(reversed(BY_POSITION.plain().items()))))
    assert setting_of(EXCESS) == setting_of(EXCESS.with_values(documents=3, batch_tokens=7))
    others = [EXCESS, EXCESS.with_values(longest=4), EXCESS.with_values(segments=1), BY_POSITION]
    assert len({setting_of(measure) for measure in others}) == len(others)


# What cannot be scored.


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"speed": 3}, r"measure\.loss_by_position\.speed is a key that nothing reads; measure\.loss_by_position has"),
        ({"segmets": 3}, r"measure\.loss_by_position\.segmets .* did you mean segments"),
        ({"segments": 0}, r"measure\.loss_by_position\.segments is 0"),
        ({"_target_": "os.system"}, r"measure\.loss_by_position\._target_ is a key that nothing reads"),
        ({"name": "excess"}, r"measure\.loss_by_position\.name is 'excess': give loss_by_position"),
    ],
)
def test_settings_of_a_measure_that_make_no_sense_are_refused_with_their_key(changes, reason):
    given = {"excess": EXCESS.plain(), "loss_by_position": BY_POSITION.plain() | changes}
    with pytest.raises(UserError, match=reason):
        several_of("measure").check(given, "measure")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"nothing": {"longest": 2}}, r"measure\.nothing is a key that nothing reads"),
        ({"loss_by_position": {"longest": 2}}, r"measure\.loss_by_position\.segments must be given"),
        ({"loss_by_position": 3}, r"measure\.loss_by_position is 3"),
    ],
)
def test_measures_that_do_not_exist_or_are_none_are_refused(given, reason):
    with pytest.raises(UserError, match=reason):
        several_of("measure").check(given, "measure")


def test_settings_that_do_not_fit_the_context_are_refused_before_anything_is_scored(run):
    measure = BY_POSITION.with_values(bin_tokens=48)
    with pytest.raises(UserError, match=r"measure\.loss_by_position\.bin_tokens is 48.*C = 64"):
        scored(run, {"excess": EXCESS, "loss_by_position": measure})
    assert not (run.path / "scores.csv").exists()


def test_without_a_document_that_is_long_enough_the_longest_is_named(run):
    with pytest.raises(UserError, match=r"has the 129 tokens.*C = 64.*the longest, b, has 128;"):
        scored(run, source=source_of(20, 128, 100))
    with pytest.raises(UserError, match=r"the longest, none, has 0;"):
        scored(run, source=source_of())
    assert not (run.path / "scores.csv").exists()


def test_a_checkpoint_that_is_not_there_is_refused_and_those_that_are_named(run):
    with pytest.raises(UserError, match=r"step=00000012.*checkpoints are there of steps 8"):
        scored(run, step=12)


def test_a_damaged_table_of_scores_is_refused_by_name(run):
    scored(run)
    path = run.path / "scores.csv"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"scores\.csv is empty or ends in the middle of a line"):
        scored(run)


def failing(error: Exception) -> Callable:
    def score(self: LossByPosition, decoder: object, item: Item, context: int) -> list[dict]:
        if item.name == "c":
            raise error
        return [{"segment": 0, "loss_nats": 1.0}]

    return score


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate")],
)
def test_without_enough_memory_the_item_and_what_to_lower_are_named_and_the_rest_is_kept(run, monkeypatch, error):
    monkeypatch.setattr(LossByPosition, "score", failing(error))
    with pytest.raises(UserError, match=r"out of memory at c in loss_by_position: score shorter texts"):
        scored(run)
    assert documents(run) == ["a", "b"]


def test_a_bug_is_not_taken_for_a_lack_of_memory_and_what_was_scored_is_kept(run, monkeypatch):
    monkeypatch.setattr(LossByPosition, "score", failing(RuntimeError("shapes do not fit")))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        scored(run)
    assert documents(run) == ["a", "b"]
    assert json.loads((run.path / "manifest.json").read_text())["state"] == "finished"


@pytest.mark.parametrize("needs_gradients", [False, True])
def test_only_a_measure_that_asks_for_gradients_is_given_them(run, monkeypatch, needs_gradients):
    seen = []

    def score(self: LossByPosition, decoder: object, item: Item, context: int) -> list[dict]:
        seen.append(torch.is_inference_mode_enabled())
        return [{"segment": 0, "loss_nats": 1.0}]

    monkeypatch.setattr(LossByPosition, "needs_gradients", needs_gradients)
    monkeypatch.setattr(LossByPosition, "score", score)
    scored(run)
    assert seen == [not needs_gradients] * 4


def test_rows_are_found_by_setting_evaluation_and_step_and_those_of_made_up_items_with_any_evaluation(run):
    node = yaml.safe_load(Path(configuration_folder(), "measure", "passkey.yaml").read_text())
    keys = Passkey.check(node | {"lengths": [128], "longest": 1, "distances": 1, "trials": 1})
    scored(run, {"loss_by_position": BY_POSITION, "excess": EXCESS, "passkey": keys})
    scored(run, evaluation="kjv-5678")

    def found(*measures: Measure, evaluation: str = "held_out-1234", step: int = STEP) -> set[tuple]:
        told = found_rows(run, *measures, evaluation=evaluation, step=step) if measures else rows_of(run, set())
        return {(row["measure"], row["evaluation"]) for row in told}

    assert found(BY_POSITION) == {("loss_by_position", "held_out-1234")}
    assert found(BY_POSITION, keys, evaluation="kjv-5678") == {("loss_by_position", "kjv-5678"), ("passkey", "none")}
    assert {name for name, _ in found(EXCESS)} == EXCESS_ROWS
    assert found(BY_POSITION, EXCESS, keys, step=9) == found() == set()


# Documents.


def test_documents_are_read_once_and_no_further_than_needed():
    read = []

    def documents_of():
        for name in "abcd":
            read.append(name)
            yield name, np.zeros(100 if name != "a" else 5, dtype=np.uint32)

    source = Source(documents_of, Tokenizer("sotu_1k/tokenizer.json"), CONTEXT)
    assert [item.name for item in source.long_enough(50, 1)] == ["b"]
    assert read == ["a", "b"]
    assert [item.name for item in source.long_enough(50, 2)] == ["b", "c"]
    assert [item.name for item in source.documents()] == ["a", "b", "c", "d"]
    assert [item.name for item in source.long_enough(1, None)] == ["a", "b", "c", "d"]
    assert read == ["a", "b", "c", "d"]


def test_two_measures_may_read_the_documents_in_turn():
    first, second = (source_of(*SOURCE),) * 2
    one, other = first.documents(), second.documents()
    names = [(next(one).name, next(other).name) for _ in range(3)]
    assert names == [("a", "a"), ("b", "b"), ("c", "c")]
    assert [item.name for item in one] == [item.name for item in other] == ["d", "e"]
