"""Control: proof from the manifests that the runs of a comparison differ in the declared factor and in nothing else.

Every key that the runs have is of one kind: ``equal``; ``factor`` (lies under the declared factor); ``seed`` (the seed,
or explained by it alone: equal in all variants of a seed); ``follows`` (explained by the factor); ``shown`` (decides no
number); ``allowed`` (differs otherwise, and the user lets it); ``refused`` (differs otherwise: no comparison).

Of children the keys of their parents are compared too, like the same keys one generation up: ``start.parent.model``
lies under the factor ``model``. Runs are paired by the seeds of the whole chain.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.base.errors import UserError
from lab.base.settings import flatten
from lab.runs.facts import ABSENT, PARENT, Table, generation, own, table_of, text, under
from lab.runs.model import Model

SHOWN = ("code.commit", "code.changed", "resume.allow")  # code.sha256, and what was let differ, are compared themselves
# Parameters that only some variants have, and scores that only some runs have; those that have them must agree.
WHERE_PRESENT = ("initial_weights", "measured", "scored_hardware", "scored_kernel")
STATED = (
    *("tokens", "blocks.fingerprint", "initial_weights", "data.corpus", "tokenizer", "optimizer", "schedule"),
    *("kernel", "compute_dtype", "code.sha256", "packages", "hardware"),
)
SEEDS = ("seed", "data.seed")
SHAPE = tuple(f"scale.{key}" for key in ["vocabulary", "layers", "width", "hidden", "heads", "kv_heads", "head_dim"])
EXPLAINING = ("factor", "seed", "follows")
# What may follow from what, and from nothing else; a cause stands before its consequences. A key is explained if runs
# that agree in those of its causes that are of a kind in EXPLAINING agree in it.
CAUSES: dict[str, tuple[str, ...]] = {
    "data.seed": ("seed",),  # ${seed} unless given
    "scale.vocabulary": ("tokenizer",),  # a tokenizer brings its number of token ids
    "scale.micro_batch": ("scale.context",),  # a child's is fitted to its context
    "tokens": ("scale.tokens", "scale.batch_tokens"),  # the budget in whole batches
    "blocks.count": ("tokens", "scale.context"),  # a block trains C tokens
    # Whether a child's data are its parent's; if they are, on or again is a choice.
    "start.data": tuple(f"{above}{key}" for above in ("", "start.parent.") for key in ["data", "tokenizer"])
    + ("scale.context", "start.parent.scale.context"),
    # What an extension left open was found on the weights at hand, and so are the matrices that an edit has changed.
    "found": ("extension", "edit", "seed", "model.position", "model.attention", "start", "weights"),
    "extensions": ("start",),  # those that a child is trained with are its parent's
    # The blocks: order_identity in lab/runs/identity.py, how many of them are read, and where a child begins.
    "blocks.fingerprint": tuple(f"data.{key}" for key in ["corpus", "weights", "seed", "lanes", "tile"])
    + ("tokenizer", "scale.context", "blocks.count", "start.step", "start.data", "start.parent.scale.batch_tokens"),
    "parameter_names": ("scale.layers", "model.position", "model.attention", "model.tied", "adapter"),
    "parameters": (*SHAPE, "parameter_names"),
    "flops_per_token": (*SHAPE, "scale.context", "model.attention"),  # the arguments in lab/model/flops.py
    # By seed, name and shape, not by model (lab/model/initialise.py); of a child they are what its parent had learnt.
    "initial_weights": ("seed", *SHAPE, "start", "adapter", "weights"),  # weights: of imported models
    "kernel_served": ("kernel", "model.position", "model.attention"),  # chosen by setting, bias and window
    # Of a seed all runs are trained, and scored, on one kind of machine.
    "hardware": ("seed",),
    "scored_hardware": ("seed",),
    "scored_kernel": ("kernel", "model.position", "model.attention"),
}
# What conf/ copies by reference is explained only where it equals a declared source in every run.
COPIES = {
    "optimizer.learning_rate": ("scale.learning_rate",),
    "schedule.warmup_steps": ("scale.warmup_steps",),
    "model.attention.window": ("scale.window", "scale.narrow_window"),
}

NAMED_BY_LABEL = ("model", "extension", "extensions", "edit")  # factors that are in what a run is called

Seed = int | str  # of a run; of a child whose parent has another, the seeds of the chain


@dataclass(frozen=True)
class Control:
    """Runs that may be compared: ``variants`` has the runs of each label by seed, ``kinds`` the kind of each key."""

    runs: tuple[Model, ...]
    factor: str
    variants: dict[str, dict[Seed, Model]]
    kinds: dict[str, str]
    table: Table

    def keys(self, kind: str) -> list[str]:
        return [key for key in self.kinds if self.kinds[key] == kind]

    @property
    def allowed(self) -> list[str]:
        """The keys that the user lets differ, each with its values; to be told on every table and picture."""
        return [_values(key, self.table[key], range(len(self.runs)), _names(self.runs)) for key in self.keys("allowed")]

    @property
    def rows(self) -> list[dict[str, str]]:
        """control.csv: key, kind, run, value; a key that is equal in all runs is one row, without a run."""
        rows = []
        for key, kind in self.kinds.items():
            by_run = dict(zip(_names(self.runs), self.table[key], strict=True))
            if kind == "equal":
                by_run = {"": next(value for value in self.table[key] if value != ABSENT)}
            rows += [{"key": key, "kind": kind, "run": run, "value": text(value)} for run, value in by_run.items()]
        return rows

    def statement(self) -> list[str]:
        """Lines for the terminal: what is equal, what follows, what is allowed."""
        equal, seeded = [], []
        for group in STATED:
            found = {self.kinds[key] for key in self.kinds if under(key, group)}
            if found == {"equal"}:
                equal.append(f"{group} {_short(self.table[group][0])}" if group in self.table else group)
            elif found and found <= {"equal", "seed"}:
                seeded.append(group)
        seeds = _in_order(set().union(*self.variants.values()))
        lines = {
            f"{len(self.runs)} runs, {self.factor}": [", ".join(self.variants) + f"; seed {seeds}"],
            f"differs within {self.factor}": [key for key in self.keys("factor") if key != self.factor],
            "equal in all runs": [*equal, f"in all {len(self.keys('equal'))} keys"],
            "equal in all runs of a seed": seeded,
            f"follows from {self.factor}": self.keys("follows"),
            "allowed to differ": self.allowed,
        }
        return [f"{title}: {', '.join(words)}" for title, words in lines.items() if words]


def check(runs: Sequence[Model], factor: str, allow: Sequence[str] = ()) -> Control:
    """Compare all that the manifests say; nothing else is read.

    Args:
        factor: a group or dotted key of the identity: ``model``, ``model.attention``, ``scale.tokens``, ``seed``.
        allow: keys, or groups such as ``code`` or ``packages``, that may differ beside it.

    Raises:
        UserError: an unfinished or damaged run; no such factor, or it has one value; a name in ``allow`` that is no
            key; a difference that is not explained or allowed; two runs of one variant and seed; unbalanced seeds.
    """
    names, manifests = _names(runs), [run.facts for run in runs]
    unfinished = [name for name, manifest in zip(names, manifests, strict=True) if manifest.get("state") != "finished"]
    if unfinished:
        what = "continue with the command that began it, or leave it out of runs"
        raise UserError(f"not finished: {_some(unfinished)}; {what}")
    table = table_of(runs, manifests)
    identity = sorted(set().union(*(flatten(manifest["identity"]) for manifest in manifests)) & table.keys())
    _check_name("factor", factor, [*identity, *map(own, identity)])
    for name in allow:
        _check_name("allow", name, table)
    kinds = _kinds(table, factor, allow)
    members: dict[tuple[Any, ...], list[int]] = {}  # of each value of the factor
    for index in range(len(runs)):
        members.setdefault(tuple(table[key][index] for key in identity if kinds[key] == "factor"), []).append(index)
    if len(members) < 2:
        others = _some([key for key in identity if len(set(table[key])) > 1])
        raise UserError(f"{factor} has one value in all runs given ({len(runs)}); they differ in {others or 'nothing'}")
    if refused := sorted((key for key, kind in kinds.items() if kind == "refused"), key=generation):
        told = [_values(key, table[key], _conflict(table, key, kinds) or range(len(runs)), names) for key in refused]
        if "data.corpus.digest" in refused:
            told[refused.index("data.corpus.digest")] += _texts_apart(manifests)
        passing = ",".join(refused[:6]) + ",..." * (len(refused) > 6)
        raise UserError(
            f"the runs differ in more than {factor}: {_some(told, '; ')}. Leave a run out, or let it pass with "
            f"allow=[{passing}], which every table and picture will tell"
        )
    if kinds["tokenizer.digest"] != "equal":
        differing = _values("tokenizer.digest", table["tokenizer.digest"], range(len(runs)), names)
        raise UserError(
            f"{differing}: nats per token of two tokenizers have no common unit, so no factor lets them pass"
        )
    labels = _labels(runs, table, factor, kinds, [indices[0] for indices in members.values()])
    variants: dict[str, dict[Seed, Model]] = {label: {} for label in labels}
    for label, indices in zip(labels, members.values(), strict=True):
        for index in indices:
            seed, run = _seed(table, index), runs[index]
            if other := variants[label].get(seed):
                raise UserError(f"{other.path} and {run.path} are both {label} with seed {seed}; leave one out")
            variants[label][seed] = run
    seeds = set().union(*variants.values())
    lacking = {label: _in_order(seeds - have.keys()) for label, have in variants.items()}
    told = [f"{label} lacks seed {missing}" for label, missing in lacking.items() if missing]
    if told and own(factor) != "seed":
        raise UserError(
            f"variants must have the same seeds: {_some(told, '; ')}; train these, or leave those seeds out"
        )
    return Control(tuple(runs), factor, variants, *_folded(kinds, table))


def _seed(table: Table, index: int) -> Seed:
    """The seed of a run; of a child whose parent has another, those of the chain, the first parent's last."""
    chain = [table["seed"][index]]
    while (key := PARENT * len(chain) + "seed") in table and table[key][index] != ABSENT:
        chain.append(table[key][index])
    return int(chain[0]) if len(set(chain)) == 1 else " of ".join(map(str, chain))


def _in_order(seeds: Iterable[Seed]) -> str:
    return ", ".join(sorted(map(str, seeds), key=lambda seed: list(map(int, seed.split(" of ")))))


def _kinds(table: Table, factor: str, allow: Iterable[str]) -> dict[str, str]:
    """The kind of every key, causes before their consequences."""
    kinds: dict[str, str] = {}
    order = ["", *COPIES, *CAUSES]
    for key in sorted(table, key=lambda key: (order.index(_consequence(key)), key)):
        if not _conflict(table, key, kinds, by=()):
            kinds[key] = "equal"
        elif own(key) in SEEDS and own(factor) not in SEEDS and _of_seed(table, key, kinds):
            kinds[key] = "seed"  # under the factor, too: seeds are paired, not compared
        elif _within(key, factor):
            kinds[key] = "factor"
        elif key in SHOWN:
            kinds[key] = "shown"
        elif _of_seed(table, key, kinds):
            kinds[key] = "seed"
        elif not _conflict(table, key, kinds) and not any(isinstance(value, tuple) for value in table[key]):
            kinds[key] = "follows"  # what changed within a run follows from no factor
        else:
            kinds[key] = "allowed" if any(under(key, name) for name in allow) else "refused"
    return kinds


def _of_seed(table: Table, key: str, kinds: dict[str, str]) -> bool:
    """Whether a key is a seed, or explained by seeds alone. That of a parent which only some runs have is none."""
    is_seed = own(key) == "seed" and ABSENT not in table[key]
    return is_seed or not _conflict(table, key, kinds, by=("seed",))


def _conflict(table: Table, key: str, kinds: dict[str, str], by: Sequence[str] = EXPLAINING) -> list[int]:
    """The first runs that agree in the causes of a key (of the kinds ``by``) and yet not in it; [] if explained."""
    values = table[key]
    above = key.removesuffix(own(key))  # the generation: "" of the run itself
    sources = [above + source for source in COPIES.get(own(key), ())]
    if any(kinds.get(source) in by and table[source] == values for source in sources):
        return []
    may = [above + cause for cause in CAUSES.get(_consequence(key), ())]
    starts = [cause for cause in may if cause.startswith("start.")]  # of the parents too: where they began counts
    may += [PARENT * depth + cause for depth in {each.count(PARENT) for each in table} for cause in starts]
    causes = [each for each, kind in kinds.items() if kind in by and any(under(each, cause) for cause in may)]
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, value in enumerate(values):
        if value != ABSENT or key.partition(".")[0] not in WHERE_PRESENT:
            groups.setdefault(tuple(table[cause][index] for cause in causes), []).append(index)
    return next((group for group in groups.values() if len({values[index] for index in group}) > 1), [])


def _labels(
    runs: Sequence[Model], table: Table, factor: str, kinds: dict[str, str], members: Sequence[int]
) -> list[str]:
    """A label for each variant, of which ``members`` has one run: what follows from its content, if that tells all
    apart; else the short name of its part; else what differs."""
    tried = [[runs[index].label for index in members]] if factor in NAMED_BY_LABEL else []
    if factor == "start":
        tried += [["scratch" if table["start.step"][index] == ABSENT else "run" for index in members]]
        parents = [(runs[index].manifest.get("parent") or {}).get("name", "") for index in members]
        tried += [[f"from {name.partition('-')[0]}" if name else "scratch" for name in parents]]
    if factor == "data":
        tried += [[runs[index].config.data.corpus.label for index in members]]
    named = f"{factor}.name"
    tried += [[str(table[named][index]) for index in members]] if named in table else []
    for labels in tried:
        if len(set(labels)) == len(members):
            return labels
    keys = [key for key in table if kinds[key] == "factor" and len({table[key][index] for index in members}) > 1]
    words = {key: "" if key == factor else key.removeprefix(f"{factor}.") + "=" for key in keys}
    return [", ".join(words[key] + _short(table[key][index]) for key in keys) for index in members]


def _folded(kinds: dict[str, str], table: Table) -> tuple[dict[str, str], Table]:
    """Both in order, with the initial weights that all runs have as one key (its value a sha256 of theirs)."""
    weights = [key for key in table if under(key, "initial_weights") and kinds[key] != "allowed"]
    kept = {key: table[key] for key in table if key not in weights}
    columns = zip(*(table[key] for key in weights if ABSENT not in table[key]), strict=True)
    kept["initial_weights"] = tuple(hashlib.sha256(json.dumps(column).encode()).hexdigest() for column in columns)
    found = {kinds[key] for key in weights}
    kinds = kinds | {"initial_weights": next((kind for kind in ("follows", "seed") if kind in found), "equal")}
    return {key: kinds[key] for key in sorted(kept)}, kept


def _names(runs: Sequence[Model]) -> list[str]:
    names = [run.path.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]


def _check_name(option: str, name: str, keys: Iterable[str]) -> None:
    """Raises UserError if no key lies under ``name``."""
    parts = {".".join(key.split(".")[:length]) for key in keys for length in range(1, key.count(".") + 2)}
    if name not in parts:
        near = difflib.get_close_matches(name, sorted(parts), cutoff=0.5)
        choices = ", ".join([*near, *sorted(part for part in parts if "." not in part and part not in near)])
        raise UserError(f"{option}={name} is no key of these runs; choose one of these or a key in them: {choices}")


def _within(key: str, factor: str) -> bool:
    """Whether a key lies under the factor, in any generation."""
    return under(key, factor) or under(own(key), factor)


def _consequence(key: str) -> str:
    """The entry of COPIES or CAUSES that a key belongs to, or nothing."""
    return next((entry for entry in (*COPIES, *CAUSES) if under(own(key), entry)), "")


def _values(key: str, values: Sequence[Any], indices: Iterable[int], names: Sequence[str]) -> str:
    """``key is 1 in run-a and 2 in run-b, run-c``."""
    runs_of: dict[Any, list[str]] = {}
    for index in indices:
        runs_of.setdefault(values[index], []).append(names[index])
    told = [f"{_short(value)} in {_some(runs, most=3)}" for value, runs in runs_of.items()]
    return f"{key} is {_some(told, ' and ')}"


def _texts_apart(manifests: Sequence[Mapping[str, Any]]) -> str:
    """The files or documents by which the corpora of runs differ, by split; nothing if manifests do not list them."""
    held = [dict(_texts(manifest.get("corpus"))) for manifest in manifests]
    differing = sorted(
        name for name in set().union(*held) if len({json.dumps(each.get(name), sort_keys=True) for each in held}) > 1
    )
    return f" (apart: {_some(differing, most=3)})" if differing else ""


def _texts(entries: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """``test t.jsonl`` and what is told of it, for every entry in the manifest of a corpus, whatever else it holds."""
    if isinstance(entries, list):
        for each in entries:
            yield from _texts(each, place)
    elif isinstance(entries, Mapping) and isinstance(entries.get("name"), str):
        yield f"{place}{entries['name']}", entries
    elif isinstance(entries, Mapping):
        for key, each in entries.items():
            yield from _texts(each, f"{place}{key} " if key not in ("", "splits") else place)


def _some(words: Sequence[str], comma: str = ", ", most: int = 6) -> str:
    return comma.join([*words[:most], *([f"{len(words) - most} more"] if len(words) > most else [])])


def _short(value: Any) -> str:
    """With twelve digits of each hash."""
    return re.sub(r"[0-9a-f]{32,}", lambda digits: digits[0][:12], text(value))
