"""Ask models the tasks of lm-evaluation-harness: rows into their ``scores.csv``, tables on the terminal."""

import difflib
import json
import logging
import math
import os
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import yaml

from lab.base.errors import UserError
from lab.base.files import make_folder, read_text, writable
from lab.base.interruption import Interrupted, Interruption
from lab.base.tables import Row, write_table
from lab.evidence.interval import mean_interval
from lab.exchange.exporting import export_tokenizer
from lab.experiment.settings import EvaluateSettings
from lab.model.precision import DTYPES, device_of, exact_products
from lab.observe.scoring import ROOMS, environment_of, store_rows
from lab.runs.environment import digest_of_code
from lab.runs.finding import runs_of, step_of
from lab.runs.identity import digest
from lab.runs.model import Model

# Of a question the harness gives these as a log-likelihood, and of WEIGHTED how many words or bytes it is over; the
# metric is of their mean. A row holds what that mean is of, under a name that says so.
LOGS = {
    "perplexity": "log_perplexity",
    "word_perplexity": "log_word_perplexity",
    "byte_perplexity": "log_byte_perplexity",
}
WEIGHTED = ("word_perplexity", "byte_perplexity", "bits_per_byte")
DOCUMENTS = "task_documents.csv.gz"
BOOTSTRAPPED = 1000  # samples for a standard error that no formula gives

try:
    import lm_eval
    import sklearn  # noqa: F401  # the harness loads it later; it sets variables of OpenMP, which are recorded: before that
    from lm_eval.tasks import TaskManager

    from lab.exchange import harness
    from lab.exchange.answers import Answers
except ImportError as error:
    missing = (error.name or "").partition(".")[0]
    if missing == "lab":
        raise
    raise UserError(f"the package {missing} is missing; install the harness: pip install '.[harness]'") from None


def evaluate(settings: EvaluateSettings) -> None:
    """Ask what ``settings`` say.

    Raises:
        UserError: no such task, its questions cannot be had or do not fit, or a model is missing or damaged.
        Interrupted: on a signal; what is answered is kept.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    models = runs_of(settings.run)
    output = None if settings.output is None else Path(settings.output)
    if output is not None:
        writable(output / DOCUMENTS, made=True)
    for model in models:
        model.must_foretell("lab.evaluate")
        step_of(model, settings.checkpoint)
    told = [row for model in models for row in _evaluated(model, settings)]
    if output is not None:
        if not told:
            raise UserError("output: no task asked has a number for each question; take one that has, such as acc")
        make_folder(output)
        write_table(output / DOCUMENTS, told)
        print(f"{output / DOCUMENTS}: for python -m lab.claims --documents")


def _evaluated(model: Model, settings: EvaluateSettings) -> list[Row]:
    """Ask one model; what it said as rows with the columns OBSERVED of :mod:`lab.evidence.weighing`."""
    step, device = step_of(model, settings.checkpoint), device_of(settings.accelerator, settings.threads)
    longest = settings.longest or model.context
    with tempfile.TemporaryDirectory() as made:
        export_tokenizer(model.tokenizer(), Path(made), longest)
        tasks = load_tasks(settings, made)
    decoder = model.decoder(step).to(device)
    decoder.compute_dtype = DTYPES[settings.dtype]
    exact_products()
    code = digest_of_code(ROOMS, Path(harness.__file__))
    surroundings = environment_of(decoder, device, settings.dtype)
    made_with = {"code": code, **surroundings}
    answering = digest({"model": model.digest, "step": step, "dtype": settings.dtype, "made_with": made_with})
    observed: list[Row] = []
    with Interruption() as interruption, model.locked():
        interruption.install()
        asked = harness.HarnessModel(
            decoder,
            model.tokenizer(),
            longest,
            settings.batch_tokens,
            Answers(model.path / "answers.jsonl", answering),
            partial(interruption.check, "came: what is answered is kept"),
        )
        found = _asked(asked, tasks, settings)
        for name, rows, record in _scorings(found):
            record["settings"] |= {"longest": longest, "limit": settings.limit, "lm_eval": version("lm_eval")}
            record |= {"setting": digest(record["settings"])[:8], "step": step, "precision": settings.dtype}
            store_rows(model, name, record | made_with, rows)
            observed += [_observed(model, record, row) for row in rows]
    from lab.report.terminal import print_tasks

    print_tasks(model.path.name, task_lines(found))
    print(f"every question: {model.path / 'scores.csv'}")
    return observed


def _observed(model: Model, record: Mapping[str, Any], row: Row) -> Row:
    """What a claim knows of an answer: ``cloze: acc``, one number a question, at no length, whatever the context."""
    return {
        "evaluation": record["evaluation"],
        "clusters_told": record["clusters"],
        "context_tokens": 1,
        "variant": model.label,
        "seed": model.identity.get("seed", 0),
        "measure": row["measure"].replace(":", ": ", 1),
        "length_tokens": 1,
        "cluster": row["cluster"],
        "document": row["document"],
        "mean": row["value"],
        "weight": row["tokens"] or 1.0,
    }


def load_tasks(settings: EvaluateSettings, tokenizer: str) -> list[Any]:
    """The tasks and groups of the harness, with their questions.

    Args:
        tokenizer: a folder with the model's, for tasks that make up texts of a length in tokens.

    Raises:
        UserError: no such task, or its questions cannot be had.
    """
    if settings.folder is not None and not Path(settings.folder).is_dir():
        raise UserError(f"folder is {settings.folder}, which is no folder; name one with the tasks' YAML files")
    names = [settings.tasks] if isinstance(settings.tasks, str) else settings.tasks
    if not names:
        raise UserError("tasks is empty; name tasks of the harness: tasks=[arc_easy,piqa]")
    about = {"tokenizer": tokenizer} | ({"max_seq_lengths": settings.lengths} if settings.lengths else {})
    if settings.folder is not None:
        _check_spelling(Path(settings.folder))
    try:
        # The harness's own are thousands of files: not read where the folder has what is asked.
        manager = TaskManager(include_path=settings.folder, metadata=about, include_defaults=False)
        if not set(names) <= set(manager.all_subtasks):
            manager = TaskManager(include_path=settings.folder, metadata=about)
    except Exception as error:
        raise UserError(f"{settings.folder}: its tasks cannot be read ({_line(error)})") from None
    for name in names:
        if name not in manager.all_tasks:
            near = difflib.get_close_matches(name, manager.all_tasks)
            hint = f"; near it are {', '.join(near)}" if near else ""
            if settings.folder is not None:
                own = sorted(TaskManager(include_path=settings.folder, include_defaults=False).all_tasks)
                hint = f"; {settings.folder} has {', '.join(own) or 'none'}{hint}"
            raise UserError(f"tasks names {name}, which the harness does not know{hint}; lm-eval ls tasks lists all")
    try:
        loaded = manager.load(list(names))
    except Exception as error:  # a task is foreign code and foreign data
        raise UserError(f"tasks: the questions of {', '.join(names)} cannot be had ({_line(error)})") from None
    groups = loaded.get("groups", {})
    within = {name for group in groups.values() for name in group.child_names}
    return [each for name, each in (groups | loaded["tasks"]).items() if name not in within]


def _check_spelling(folder: Path) -> None:
    """The harness leaves out a file that is no YAML without a word. Raises UserError for one."""
    for path in sorted(folder.rglob("*.yaml")):
        try:
            yaml.compose(read_text(path))  # without making anything of it: it may name Python
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(f"{path}: no YAML ({' '.join(str(error).split())[:200]}); mend it") from None


def raised_abroad(error: BaseException) -> bool:
    """Whether no code of the lab stands between the harness and an error."""
    frames = [str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    last = max((number for number, name in enumerate(frames) if name.startswith("lm_eval")), default=-1)
    return last >= 0 and not any(name.startswith("lab.") for name in frames[last:])


def _line(error: Exception) -> str:
    """What a library has to say, in one line."""
    if isinstance(error, StopIteration):
        return "there are none"
    if isinstance(error, KeyError) and error.args == (None,):
        return "a metric of it is neither the harness's nor of the package evaluate"
    if isinstance(error, KeyError):
        return f"it names {error}, which is not there"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _asked(model: "harness.HarnessModel", tasks: Sequence[Any], settings: EvaluateSettings) -> dict[str, Any]:
    """The harness's own results."""
    # Its processes for bootstrapping would take over our handlers of signals, and never end.
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        found = lm_eval.simple_evaluate(
            model,
            tasks=tasks,
            task_manager=TaskManager(include_defaults=False),  # they are loaded: the harness's own are not read again
            num_fewshot=settings.shots,
            limit=settings.limit,
            bootstrap_iters=BOOTSTRAPPED,
        )
    except (UserError, Interrupted):
        raise
    except torch.OutOfMemoryError:
        raise UserError(f"out of memory: batch_tokens is {settings.batch_tokens:,}, give less") from None
    except Exception as error:  # a task is foreign code
        if not raised_abroad(error):
            raise
        raise UserError(f"tasks: {', '.join(map(str, settings.tasks))} cannot be asked ({_line(error)})") from None
    assert found is not None
    return dict(found)


def _scorings(found: Mapping[str, Any]) -> Iterator[tuple[str, list[Row], dict[str, Any]]]:
    """Each task's name, its rows, a question and a metric each, and what they were made with."""
    for name, samples in found["samples"].items():
        config = found["configs"][name]
        told = json.loads(json.dumps({key: value for key, value in config.items() if key != "metadata"}, default=str))
        texts = digest({f"{each['doc_id']}": [each["doc_hash"], each["prompt_hash"]] for each in samples})
        record = {
            "measure": name,
            "settings": told | {"version": found["versions"].get(name)},
            "evaluation": f"{name}-{texts[:8]}",
            "clusters": _clusters(config) or "questions",
        }
        yield name, [row for each in samples for row in _rows(name, each, config)], record


def _clusters(config: Mapping[str, Any]) -> str | None:
    """What a task calls its questions' clusters, which their field ``cluster`` names; None: each is by itself."""
    found = (config.get("metadata") or {}).get("clusters")
    return None if found is None else str(found)


def _rows(task: str, sample: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[Row]:
    """What a question is worth by each metric that is a number, or the logarithm of one, as a mean is taken of."""
    for metric in sample["metrics"]:
        value, weight = sample[metric], None
        if _of_another_length(metric, value):
            continue
        if metric in WEIGHTED and isinstance(value, (tuple, list)) and len(value) == 2 and value[1]:
            value, weight = value[0] / value[1], value[1]
        if _number(value):
            if metric in LOGS or metric in WEIGHTED:
                value = -value / (math.log(2) if metric == "bits_per_byte" else 1)
            question = str(sample["doc_id"])
            yield {
                "measure": column(task, metric, sample["filter"]),
                "document": question,
                "cluster": str(sample["doc"].get("cluster", question)) if _clusters(config) else question,
                "tokens": None if weight is None else int(weight),
                "value": float(value),
            }


def _of_another_length(metric: str, value: Any) -> bool:
    """So RULER, whose metrics are lengths, says that a text has another."""
    return bool(metric.isdigit() and value == -1)


def _number(value: Any) -> bool:
    try:
        return (
            not isinstance(value, (str, bytes)) and float(value) == float(value) and abs(float(value)) != float("inf")
        )
    except (TypeError, ValueError):
        return False


def column(task: str, metric: str, filtered: str) -> str:
    """What rows of a task and a metric are called."""
    return f"{task}:{LOGS.get(metric, metric)}" + ("" if filtered == "none" else f",{filtered}")


def task_lines(found: Mapping[str, Any]) -> list[Row]:
    """Of each task and metric, groups of tasks too: task, metric, value and stderr as the harness has them, low and
    high of the 95 % interval where the value is the mean over questions, else None, and questions."""
    values: dict[str, dict[str, list[float]]] = {}
    for name, samples in found["samples"].items():
        for row in (row for each in samples for row in _rows(name, each, found["configs"][name])):
            values.setdefault(row["measure"], {}).setdefault(row["cluster"], []).append(row["value"])
    lines: list[Row] = []
    for task, results in found["results"].items():
        for label, value in results.items():
            metric, _, filtered = label.partition(",")
            if not filtered or not _number(value) or metric.endswith("_stderr") or _of_another_length(metric, value):
                continue
            questions = values.get(column(task, metric, filtered), {})
            low, high = None, None
            if len(questions) > 1 and abs(fmean(map(fmean, questions.values())) - value) < 1e-9:
                low, high = interval_of_questions([*questions.values()])
            stderr = results.get(f"{metric}_stderr,{filtered}")
            better = found.get("higher_is_better", {}).get(task, {}).get(metric)
            lines.append(
                {
                    "task": task,
                    "metric": metric if filtered == "none" else f"{metric}, {filtered}",
                    "value": float(value),
                    "stderr": float(stderr) if _number(stderr) else None,
                    "low": low,
                    "high": high,
                    "questions": found.get("n-samples", {}).get(task, {}).get("effective"),
                    "better": "" if better is None else "higher" if better else "lower",
                }
            )
    return lines


def interval_of_questions(clusters: Sequence[Sequence[float]]) -> tuple[float | None, float | None]:
    """The 95 % interval of a mean over questions, or over clusters of as many: Wilson's of a share, which all right and
    all wrong have too; otherwise Student's."""
    if {value for each in clusters for value in each} <= {0.0, 1.0} and all(len(each) == 1 for each in clusters):
        from scipy.stats import binomtest  # a second to load

        share = binomtest(int(sum(each[0] for each in clusters)), len(clusters)).proportion_ci(method="wilson")
        return float(share.low), float(share.high)
    means = np.array([[fmean(each) for each in clusters]])
    interval = mean_interval(means, [len(each) for each in clusters], over_seeds=False)
    if not interval.known:
        return None, None
    if all(0 <= value <= 1 for each in clusters for value in each):  # nor is a mean of shares less or more
        return max(0.0, interval.low), min(1.0, interval.high)
    return interval.low, interval.high
