"""LongRoPE step by step, as the page has the commands: search and train at 4 C, search and train at 8 C, search to 32 C
without training, search again for the short texts, and read each text with the set of its length (Ding et al. 2024,
arXiv 2402.13753)."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import lab, the_one_line
from studies.searched import found as derived_of

from lab.extension.longrope import LongRoPE
from lab.runs.run import open_model

C = 64
QUICK = ("scale.warmup_steps=1", "measure=none", "logger=csv", "trainer.compute_dtype=float32", "threads=1")
FEW = {"population": 6, "mutants": 2, "crossovers": 2, "parents": 4, "generations": 2}
SEARCH = (
    *("extension=longrope", "search.documents=1", "search.processes=1", "threads=1"),
    *(f"search.evolution.{name}={count}" for name, count in FEW.items()),
)


class Chain:
    """The runs of a folder, each made by a command from one before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def made(self, command: str, *arguments: str) -> Path:
        before = {*self.folder.glob("runs/*/manifest.json")}
        result = lab(command, *arguments, cwd=self.folder)
        assert result.returncode == 0, result.stderr
        (manifest,) = {*self.folder.glob("runs/*/manifest.json")} - before
        return manifest.parent

    def search(self, run: Path, factor: int, *keys: str) -> Path:
        return self.made("extend", f"run={run}", f"extension.factor={factor}", *SEARCH, *keys)

    def train(self, run: Path, context: int) -> Path:
        return self.made("train", "start=run", f"start.run={run}", f"scale.context={context}", *QUICK)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    steps = Chain(tmp_path_factory.mktemp("chain"))
    found = {"base": steps.made("train", "experiment=smoke", "model=rope", *QUICK)}
    found["searched for 4 C"] = steps.search(found["base"], 4)
    found["trained at 4 C"] = steps.train(found["searched for 4 C"], 4 * C)
    found["searched for 8 C"] = steps.search(found["trained at 4 C"], 8)
    found["trained at 8 C"] = steps.train(found["searched for 8 C"], 8 * C)
    last = found["trained at 8 C"]
    found["searched for 32 C"] = steps.search(last, 32)
    found["recovered at C"] = steps.search(last, 32, f"search.length={C}")
    found["recovered at 2 C"] = steps.search(last, 32, f"search.length={2 * C}")
    keys = ("extension=longrope", "extension.search=found", "extension.factor=32", f"extension.up_to={[C, 2 * C]}")
    found["switched"] = steps.made("extend", f"run={last}", *keys)
    return found


SETS = ("recovered at C", "recovered at 2 C", "searched for 32 C")  # of texts, the shortest first


def rule_of(run: Path) -> LongRoPE:
    rule = open_model(run).extensions[-1]
    assert isinstance(rule, LongRoPE)
    return rule


def tried(run: Path) -> list[dict[str, Any]]:
    with open(run / "search.csv", newline="") as file:
        return [
            row | {"factors": [float(each) for each in row["factors"].split()], "loss": float(row["loss_nats"])}
            for row in csv.DictReader(file)
        ]


def test_every_step_counts_factors_from_the_first_context(chain: dict[str, Path]) -> None:
    wanted = {"searched for 4 C": 4, "searched for 8 C": 8, "searched for 32 C": 32, "switched": 32}
    for name, factor in wanted.items():
        rule = rule_of(chain[name])
        assert (rule.length, rule.factor, rule.reached) == (C, factor, factor * C)
    for name, context in (("trained at 4 C", 4 * C), ("trained at 8 C", 8 * C)):
        model = open_model(chain[name])
        assert model.context == context
        assert rule_of(chain[name]).context == C
    for searched, trained in (("searched for 4 C", "trained at 4 C"), ("searched for 8 C", "trained at 8 C")):
        assert open_model(chain[trained]).extensions == open_model(chain[searched]).extensions
        assert open_model(chain[trained]).label == open_model(chain[searched]).label
    assert open_model(chain["trained at 8 C"]).label == "rope+longrope(s=4, searched)+longrope(s=8, searched)"
    for name in ("trained at 4 C", "switched"):  # what was searched on is not forgotten on the way
        assert open_model(chain[name]).searched_on >= open_model(chain["searched for 4 C"]).searched_on != frozenset()


def test_a_search_on_what_was_trained_begins_with_the_factors_of_its_training_too(chain: dict[str, Path]) -> None:
    for trained, searched, share in (
        ("trained at 4 C", "searched for 8 C", (8 - 1) / (4 - 1)),
        ("trained at 8 C", "searched for 32 C", (32 - 1) / (8 - 1)),
    ):
        (factors,) = rule_of(chain[trained]).factors
        seeds = [row["factors"] for row in tried(chain[searched]) if row["origin"] == "seed"]
        assert factors in seeds
        assert any(seed == pytest.approx([1 + (each - 1) * share for each in factors], abs=0.006) for seed in seeds)


@pytest.mark.parametrize("name", ["searched for 4 C", "searched for 8 C", "searched for 32 C", *SETS[:2]])
def test_what_a_step_finds_is_no_worse_than_what_it_begins_with(chain: dict[str, Path], name: str) -> None:
    rows = tried(chain[name])
    best = min(rows, key=lambda row: row["loss"])
    assert rule_of(chain[name]).factors == [best["factors"]]
    assert best["loss"] == json.loads((chain[name] / "manifest.json").read_text())["found"]["loss_nats"]
    assert len(rows) == 6 + 2 * 4


def test_sets_that_were_searched_are_put_together_for_the_lengths_that_they_were_searched_at(
    chain: dict[str, Path],
) -> None:
    last, model = chain["trained at 8 C"], open_model(chain["switched"])
    rule = rule_of(chain["switched"])
    alone = [rule_of(chain[name]) for name in SETS]
    assert rule.factors == [each.factors[0] for each in alone]
    assert rule.kept == [sum(each.kept) for each in alone]
    assert rule.up_to == [C, 2 * C]
    assert model.label.endswith("+longrope(s=32, searched, 3 sets)")  # whatever was found: seeds are compared
    assert json.loads((model.path / "manifest.json").read_text())["found"]["sets"] == [
        chain[name].name for name in SETS
    ]
    assert model.searched_on >= frozenset().union(*(open_model(chain[name]).searched_on for name in SETS))
    for name, length in zip(SETS, (C, 2 * C, 32 * C), strict=True):
        assert derived_of(last, 32, length) == chain[name]
    assert derived_of(last, 32, None) == chain["switched"]
    with pytest.raises(SystemExit, match="no derived run with searched factors, s = 32, length 99"):
        derived_of(last, 32, 99)


def test_first_tokens_may_turn_otherwise_than_a_search_has_found(chain: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(chain["base"].parent, tmp_path / "runs")
    steps = Chain(tmp_path)
    base = tmp_path / "runs" / chain["base"].name
    keys = ("extension=longrope", "extension.search=found", "extension.factor=4")
    other = steps.made("extend", f"run={base}", *keys, "extension.kept=[3]")
    assert rule_of(other).factors == rule_of(chain["searched for 4 C"]).factors
    assert rule_of(other).kept == [3]
    assert open_model(other).label == "rope+longrope(s=4, searched, first=3)"
    # Another search at that length: which of the two is meant?
    steps.search(base, 4, "search.evolution.seed=1")
    line = the_one_line(lab("extend", f"run={base}", *keys, "extension.kept=[3]", cwd=tmp_path))
    assert "has 2 derived runs that were searched for s = 4 at 256 tokens" in line


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (["extension.factor=16"], "no derived run that was searched for s = 16 at 1,024 tokens"),
        (["extension.factor=4", "extension.up_to=[64]"], "search.length=64"),
        (["extension.factor=4", "extension.factors=[[1,1]]"], "search is found, and finds factors"),
        (["extension.factor=4", "extension.kept=[1,2]"], "kept has 2 values and there are 1 sets"),
        (["extension.factor=4", "extension.up_to=[64,32]"], "give 2 rising lengths"),
        (["extension.factor=4", "extension.up_to=[256]"], "the last set is for texts of up to 256 tokens"),
    ],
)
def test_sets_that_were_not_searched_are_told(chain: dict[str, Path], keys: list[str], told: str) -> None:
    before = {*chain["base"].parent.iterdir()}
    arguments = ("extension=longrope", "extension.search=found", *keys)
    line = the_one_line(lab("extend", f"run={chain['base']}", *arguments, cwd=chain["base"].parents[1]))
    assert told in line
    assert {*chain["base"].parent.iterdir()} == before


def test_for_short_texts_factors_are_looked_for_up_to_a_lower_bound(chain: dict[str, Path]) -> None:
    for name, times in (("recovered at C", 1), ("recovered at 2 C", 2)):
        assert json.loads((chain[name] / "manifest.json").read_text())["found"]["length_tokens"] == times * C
        assert max(max(row["factors"]) for row in tried(chain[name])) <= 1.25 * times
    assert max(max(row["factors"]) for row in tried(chain["searched for 32 C"])) > 2 * 1.25


@torch.inference_mode()
def test_a_text_is_read_with_the_set_of_its_length(chain: dict[str, Path]) -> None:
    tokens = torch.randint(0, 1024, (1, 40 * C), generator=torch.Generator().manual_seed(0))
    switched = open_model(chain["switched"]).decoder()
    alone = {name: open_model(chain[name]).decoder() for name in SETS}
    for decoder in (switched, *alone.values()):
        decoder.compute_dtype = torch.float32
    for length, name in ((20, 0), (C, 0), (C + 1, 1), (2 * C, 1), (2 * C + 1, 2), (300, 2), (50, 0)):
        found = switched(tokens[:, :length])
        torch.testing.assert_close(found, alone[SETS[name]](tokens[:, :length]), atol=0, rtol=0)
    assert len({tuple(rule_of(chain[name]).factors[0]) for name in SETS}) == 3


def test_the_end_of_the_chain_is_compared_with_its_steps(chain: dict[str, Path]) -> None:
    folder = chain["base"].parents[1]
    runs = ",".join(str(chain[name]) for name in ("trained at 8 C", "searched for 32 C", "switched"))
    keys = ("scoring.longest=2", "scoring.documents=2", "scoring.segments=1", "threads=1")
    result = lab("compare", f"runs=[{runs}]", "factor=extension", "measure=truncated_perplexity", *keys, cwd=folder)
    assert result.returncode == 0, result.stderr + result.stdout
