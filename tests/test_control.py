"""Control: every hidden difference is refused by name with its values; what follows from the factor passes."""

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lab.base.errors import UserError
from lab.experiment import lifecycle
from lab.experiment.compose import settings_of
from lab.experiment.settings import TrainSettings
from lab.experiment.setup import Setup
from lab.runs.control import Control, check
from lab.runs.environment import environment
from lab.runs.identity import digest
from lab.runs.manifest import write_manifest
from lab.runs.run import Run

Make = Callable[..., Run]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Run directories that are whole but for the training: the manifest is the one that lab.train writes."""
    folder = tmp_path_factory.mktemp("stored")
    surroundings = environment("banded")  # of all runs: the code may be edited while the tests run

    @cache
    def build(*overrides: str) -> Path:
        runs = f"runs={folder / str(len(list(folder.iterdir())))}"
        setup = Setup(settings_of("train", TrainSettings, ["experiment=smoke", "kernel=matched", *overrides, runs]))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lifecycle, "environment_of", lambda setup: surroundings | {"kernel": setup.kernel})
            lifecycle.make_run(setup)
        # Stands for the blocks that training would read: it depends on what decides them.
        order = json.dumps([setup.order, setup.block_count], sort_keys=True)
        blocks = {"count": setup.block_count, "fingerprint": hashlib.sha256(order.encode()).hexdigest()[:32]}
        setup.run.update_manifest(blocks=blocks, skipped_documents={}, state="finished")
        return setup.run.path

    return build


@pytest.fixture
def make(stored: Callable[..., Path], tmp_path: Path) -> Make:
    """make("model=rope", **{"code.sha256": "f00"}): a run of the test's own, with changes in its manifest.

    A key is a path in the manifest; what stands in an attempt is changed in all of them.
    """

    def one(*overrides: str, **changes: Any) -> Run:
        source = stored(*overrides)
        run = Run(tmp_path / source.name)
        shutil.copytree(source, run.path)
        manifest = run.manifest
        for path, value in changes.items():
            first, *rest = path.split("/")
            nodes = manifest["attempts"] if first in manifest["attempts"][0] else [manifest]
            for node in nodes:
                for key in (first, *rest)[:-1]:
                    node = node.setdefault(key, {})
                node[(first, *rest)[-1]] = value
        run.update_manifest(**manifest)
        return run

    return one


def refusal(runs: list[Run], factor: str = "model", *allow: str) -> str:
    """The one line with which a comparison is refused."""
    with pytest.raises(UserError) as caught:
        check(runs, factor, allow)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def kinds(control: Control) -> dict[str, list[str]]:
    """The keys of each kind but ``equal``."""
    found = {kind: control.keys(kind) for kind in ("factor", "seed", "follows", "shown", "allowed", "refused")}
    return {kind: keys for kind, keys in found.items() if keys}


def attempts_of(run: Run, *attempts: tuple[int, int]) -> None:
    """Give a run attempts: (first step, threads)."""
    (first,) = run.manifest["attempts"]
    run.update_manifest(
        attempts=[
            first | {"first_step": step, "hardware": first["hardware"] | {"threads": threads}, "allowed": ["hardware"]}
            for step, threads in attempts
        ]
    )


MODEL = ["model.position.base", "model.position.name"]


def test_variants_that_differ_in_the_model_alone_may_be_compared(make: Make) -> None:
    runs = [make("model=nope"), make("model=rope")]
    control = check(runs, "model")
    assert kinds(control) == {"factor": MODEL}
    assert control.variants == {"nope": {0: runs[0]}, "rope": {0: runs[1]}}
    assert control.allowed == []


def test_a_window_brings_its_flops_and_under_kernel_auto_its_kernel(make: Make) -> None:
    runs = [
        make("model=nope", "kernel=auto", kernel="sdpa"),
        make("model=window_nope", "kernel=auto", "model.attention.window=20", kernel="banded"),
    ]
    follows = ["flops_per_token.exact", "flops_per_token.full", "kernel_served"]
    assert kinds(check(runs, "model"))["follows"] == follows
    assert kinds(check(runs, "model.attention")) == {
        "factor": ["model.attention.name", "model.attention.window"],
        "follows": follows,
    }


def test_a_tied_head_is_a_parameter_less_and_the_shared_ones_must_still_be_equal(make: Make) -> None:
    runs = [make("model=nope"), make("model=nope", "model.tied=true")]
    control = check(runs, "model.tied")
    assert kinds(control) == {"factor": ["model.tied"], "follows": ["parameter_names", "parameters"]}
    assert list(control.variants) == ["false", "true"]
    names = {row["value"] for row in control.rows if row["key"] == "parameter_names"}
    assert names == {"20 shared + head.weight", "20 shared"}
    runs[1].update_manifest(initial_weights=runs[1].manifest["initial_weights"] | {"embedding": ELSEWHERE})
    assert "more than model.tied: initial_weights.embedding is " in refusal(runs, "model.tied")


ELSEWHERE = "f00d" * 16  # a hash of something else
# What differs, by override or by a change in the manifest: (overrides, changes, key, value of nope, value of rope).
HIDDEN: list[tuple[list[str], dict[str, Any], str, str, str]] = [
    (["optimizer.learning_rate=0.001"], {}, "optimizer.learning_rate", "0.002", "0.001"),
    (["optimizer.weight_decay=0.2"], {}, "optimizer.weight_decay", "0.1", "0.2"),
    (["optimizer.betas=[0.9,0.99]"], {}, "optimizer.betas", "[0.9, 0.95]", "[0.9, 0.99]"),
    (["schedule=wsd"], {}, "schedule.name", "cosine", "wsd"),
    (["kernel=reference"], {}, "kernel", "matched", "reference"),
    (["model.eps=1e-6"], {}, "model.eps", "1e-05", "1e-06"),
    (["trainer.gradient_clip=2.0"], {}, "gradient_clip", "1.0", "2.0"),
    (["trainer.compile=true"], {}, "compile", "false", "true"),
    (["scale.tokens=16384"], {}, "scale.tokens", "8192", "16384"),
    (["scale.tokens=16384"], {}, "tokens", "8192", "16384"),
    (["scale.tokens=16384"], {}, "blocks.count", "128", "256"),
    (["scale.context=128"], {}, "scale.context", "64", "128"),
    (["scale.micro_batch=4"], {}, "scale.micro_batch", "8", "4"),
    (["data.lanes=16"], {}, "data.lanes", "32", "16"),
    (["data.isolate_documents=true"], {}, "data.isolate_documents", "false", "true"),
    (["data.seed=7"], {}, "data.seed", "0", "7"),
    (["tokenizer=sotu_4k"], {}, "scale.vocabulary", "1024", "4096"),
    ([], {"identity/tokenizer/digest": ELSEWHERE}, "tokenizer.digest", "10e3b45af8cb", "f00df00df00d"),
    ([], {"identity/data/corpus/digest": ELSEWHERE}, "data.corpus.digest", "108aa98de27c", "f00df00df00d"),
    ([], {"identity/data/weights": {"web": 3}}, "data.weights.web", "absent", "3"),
    ([], {"identity/compute_dtype": "float64"}, "compute_dtype", "float", "float64"),
    ([], {"blocks/fingerprint": ELSEWHERE[:32]}, "blocks.fingerprint", " in nope", "f00df00df00d"),
    ([], {"initial_weights/embedding": ELSEWHERE}, "initial_weights.embedding", "b8cca78f9a7f", "f00df00df00d"),
    ([], {"parameters": 1}, "parameters", " in nope", "1 in rope"),
    ([], {"code/sha256": ELSEWHERE}, "code.sha256", " in nope", "f00df00df00d"),
    ([], {"packages/torch": "1.0.0"}, "packages.torch", "2.", "1.0.0"),
    ([], {"python": "2.7"}, "packages.python", "3.", "2.7"),
    ([], {"hardware/threads": 99}, "hardware.threads", " in nope", "99"),
    ([], {"hardware/cpu": "abacus"}, "hardware.cpu", " in nope", "abacus"),
    ([], {"hardware/instruction_sets": "avx2"}, "hardware.instruction_sets", " in nope", "avx2"),
    ([], {"hardware/switches/ONEDNN_MAX_CPU_ISA": "AVX2"}, "hardware.switches.ONEDNN_MAX_CPU_ISA", "absent", "AVX2"),
    ([], {"hardware/switches/mkldnn.enabled": "False"}, "hardware.switches.mkldnn.enabled", "True", "False"),
    ([], {"ranks": 4}, "ranks", "1", "4"),
]


@pytest.mark.parametrize(("overrides", "changes", "key", "mine", "other"), HIDDEN, ids=[case[2] for case in HIDDEN])
def test_a_hidden_difference_is_refused_with_its_key_both_values_and_both_runs(
    make: Make, overrides: list[str], changes: dict[str, Any], key: str, mine: str, other: str
) -> None:
    # The factor is the position alone, so that what else the model holds can hide, too.
    nope, rope = make("model=nope"), make("model=rope", *overrides, **changes)
    message = refusal([nope, rope], "model.position")
    clause = next(part for part in message.split("; ") if f"{key} is " in part)
    first, second = clause.split(f"{key} is ")[1].split(" and ", 1)
    assert first.endswith(f" in {nope.path.name}")
    assert f" in {rope.path.name}" in second
    assert mine in first + " "
    assert other in second
    assert "Leave a run out, or let it pass with allow=[" in message


def test_the_message_of_one_difference_is_short_and_of_many_counts_the_rest(make: Make) -> None:
    nope = make("model=nope")
    one = refusal([nope, make("model=rope", "optimizer.eps=1e-7")])
    assert one == (
        "the runs differ in more than model: optimizer.eps is 1e-08 in "
        f"{nope.path.name} and 1e-07 in {Path(one.split('1e-07 in ')[1].split('. Leave')[0]).name}. Leave a run out, "
        "or let it pass with allow=[optimizer.eps], which every table and picture will tell"
    )
    many = refusal([nope, make("model=rope", "scale.width=64", "optimizer.eps=1e-7", "schedule=wsd", "data.tile=1")])
    assert "more than model: data.tile is 128 in " in many, "causes come before what follows from them"
    assert many.count(" is ") == 6
    assert many.count(";") == 6
    assert " more. Leave" in many
    assert ",...], which" in many


def test_a_hidden_difference_of_one_seed_is_refused_and_names_that_seed_only(make: Make) -> None:
    runs = [make(f"model={model}", f"seed={seed}") for model in ("nope", "rope") for seed in (0, 1, 2)]
    runs[4].update_manifest(blocks={"count": 128, "fingerprint": ELSEWHERE[:32]})
    message = refusal(runs)
    assert message.count(" is ") == 1
    assert f" in {runs[1].path.name} and f00df00df00d in {runs[4].path.name}." in message


def test_seeds_vary_together_with_their_weights_and_blocks(make: Make) -> None:
    runs = [make(f"model={model}", f"seed={seed}") for model in ("rope", "nope") for seed in (0, 1)]
    control = check(runs, "model")
    assert kinds(control) == {"factor": MODEL, "seed": ["blocks.fingerprint", "data.seed", "initial_weights", "seed"]}
    assert control.variants == {"rope": {0: runs[0], 1: runs[1]}, "nope": {0: runs[2], 1: runs[3]}}


def test_weights_that_differ_within_a_seed_are_refused_though_seeds_vary(make: Make) -> None:
    runs = [make(f"model={model}", f"seed={seed}") for model in ("nope", "rope") for seed in (0, 1)]
    weights = runs[3].manifest["initial_weights"] | {"norm.weight": ELSEWHERE}
    runs[3].update_manifest(initial_weights=weights)
    assert "initial_weights.norm.weight is " in refusal(runs)
    assert "initial_weights.embedding" not in refusal(runs)


def test_blocks_that_differ_between_seeds_of_one_data_seed_are_refused(make: Make) -> None:
    """The data seed is held fixed, so the seed explains no difference of blocks."""
    runs = [make(f"model={model}", f"seed={seed}", "data.seed=0") for model in ("nope", "rope") for seed in (0, 1)]
    assert kinds(check(runs, "model"))["seed"] == ["initial_weights", "seed"]
    for run in (runs[1], runs[3]):
        run.update_manifest(blocks={"count": 128, "fingerprint": ELSEWHERE[:32]})
    assert "blocks.fingerprint is " in refusal(runs)


def test_unbalanced_seeds_are_refused_with_variant_and_seed(make: Make) -> None:
    runs = [make("model=nope"), make("model=nope", "seed=1"), make("model=rope")]
    assert "rope lacks seed 1; train these" in refusal(runs)


def test_the_same_variant_and_seed_twice_is_refused_with_both_runs(make: Make, tmp_path: Path) -> None:
    runs = [make("model=nope"), make("model=rope")]
    again = Run(tmp_path / "again" / runs[0].path.name)
    shutil.copytree(runs[0].path, again.path)
    assert f"{runs[0].path} and {again.path} are both nope with seed 0" in refusal([*runs, again])
    assert f"{runs[1].path} and {runs[1].path} are both rope" in refusal([*runs, runs[1]])


def test_unfinished_runs_are_refused_by_name(make: Make) -> None:
    nope, rope = make("model=nope"), make("model=rope", state="training")
    message = refusal([nope, rope])
    assert (
        message == f"not finished: {rope.path.name}; continue with the command that began it, or leave it out of runs"
    )


def test_a_manifest_that_lacks_a_key_is_named(make: Make) -> None:
    runs = [make("model=nope"), make("model=rope")]
    manifest = runs[1].manifest
    del manifest["blocks"]
    write_manifest(runs[1].path, manifest)
    assert "manifest.json lacks 'blocks'" in refusal(runs)


def test_a_factor_with_one_value_is_refused_and_told_what_does_differ(make: Make) -> None:
    runs = [make("model=nope"), make("model=nope", "seed=1")]
    assert refusal(runs) == "model has one value in all runs given (2); they differ in data.seed, seed"
    assert "they differ in nothing" in refusal(runs[:1])


def test_an_unknown_factor_is_told_the_choices_and_those_near(make: Make) -> None:
    message = refusal([make("model=nope"), make("model=rope")], "model.atention")
    assert "factor=model.atention is no key of these runs" in message
    assert ": model.attention, " in message
    assert "optimizer, scale, schedule, seed, tokenizer" in message
    assert "code" not in message


def test_a_difference_is_allowed_by_its_key_and_told(make: Make) -> None:
    nope, rope = make("model=nope"), make("model=rope", "optimizer.eps=1e-7")
    control = check([nope, rope], "model", ["optimizer.eps"])
    told = f"optimizer.eps is 1e-08 in {nope.path.name} and 1e-07 in {rope.path.name}"
    assert control.allowed == [told]
    assert f"allowed to differ: {told}" in control.statement()


@pytest.mark.parametrize(
    ("group", "changes", "keys"),
    [
        ("code", {"code/sha256": ELSEWHERE}, ["code.sha256"]),
        ("packages", {"packages/torch": "1", "python": "2"}, ["packages.python", "packages.torch"]),
        ("hardware", {"hardware/threads": 99, "hardware/machine": "abacus"}, ["hardware.machine", "hardware.threads"]),
        ("data", {"identity/data/tile": 1}, ["data.tile"]),
        ("initial_weights", {"initial_weights/embedding": ELSEWHERE}, ["initial_weights.embedding"]),
    ],
)
def test_a_difference_is_allowed_by_its_group(make: Make, group: str, changes: dict[str, Any], keys: list[str]) -> None:
    runs = [make("model=nope"), make("model=rope", **changes)]
    assert all(f"{key} is " in refusal(runs) for key in keys)
    assert kinds(check(runs, "model", [group])) == {"factor": MODEL, "allowed": keys}


def test_an_allowed_difference_lets_no_other_pass(make: Make) -> None:
    runs = [make("model=nope"), make("model=rope", "optimizer.eps=1e-7", "scale.tokens=16384")]
    message = refusal(runs, "model", "optimizer", "scale.tokens")
    assert "optimizer" not in message
    assert "allow=[tokens,blocks.count,blocks.fingerprint]" in message


def test_allowing_what_does_not_differ_is_no_mistake_but_a_key_that_does_not_exist_is(make: Make) -> None:
    runs = [make("model=nope"), make("model=rope")]
    assert check(runs, "model", ["code", "optimizer.eps"]).allowed == []
    assert (
        "allow=optimiser.eps is no key of these runs; choose one of these or a key in them: optimizer.eps"
        in refusal(runs, "model", "optimiser.eps")
    )
    assert "allow=package " in refusal(runs, "model", "package")


def test_commit_and_switches_of_resume_are_shown_and_never_refused(make: Make) -> None:
    nope = make("model=nope", **{"code/commit": "one", "code/changed": False})
    rope = make("model=rope", **{"code/commit": "another", "code/changed": True})
    attempts_of(rope, (1, nope.manifest["attempts"][0]["hardware"]["threads"]))
    shown = ["code.changed", "code.commit", "resume.allow"]
    assert kinds(check([nope, rope], "model")) == {"factor": MODEL, "shown": shown}


def test_a_run_continued_on_other_hardware_is_refused_with_all_its_values(make: Make) -> None:
    runs = [make("model=nope", **{"hardware/threads": 2}), make("model=rope")]
    attempts_of(runs[1], (1, 2), (5, 16))
    message = refusal(runs)
    assert f"hardware.threads is 2 in {runs[0].path.name} and 2 then 16 in {runs[1].path.name}." in message
    control = check(runs, "model", ["hardware"])
    assert kinds(control) == {"factor": MODEL, "shown": ["resume.allow"], "allowed": ["hardware.threads"]}


def test_an_attempt_of_which_no_step_was_kept_does_not_count(make: Make) -> None:
    """The run has 8 steps. Those from 5 on were made twice, and the last attempt found nothing to do."""
    runs = [make("model=nope", **{"hardware/threads": 2}), make("model=rope")]
    attempts_of(runs[1], (1, 2), (7, 16), (5, 16), (5, 2), (9, 16))
    assert "allowed" not in kinds(check(runs, "model"))


def test_a_kernel_that_changed_within_a_run_does_not_follow_from_the_model(make: Make) -> None:
    runs = [make("model=nope"), make("model=rope")]
    (first,) = runs[1].manifest["attempts"]
    runs[1].update_manifest(attempts=[first, first | {"first_step": 5, "kernel": "sdpa"}])
    assert "kernel_served is banded in " in refusal(runs)
    assert "banded then sdpa in " in refusal(runs)


def test_kernel_parameters_and_flops_do_not_follow_from_what_cannot_change_them(make: Make) -> None:
    runs = [
        make("model=nope"),
        make("model=nope", "optimizer=muon", kernel="sdpa", flops_per_token={"exact": 1, "full": 2}),
    ]
    message = refusal(runs, "optimizer")
    for key in ("kernel_served", "flops_per_token.exact", "flops_per_token.full"):
        assert f"{key} is " in message
    rope = [make("model=rope", flops_per_token={"exact": 1, "full": 2}), runs[0]]
    assert "flops_per_token.exact is " in refusal(rope, "model.position")
    eps = make("model=nope", "model.eps=1e-6", kernel="sdpa")
    eps.update_manifest(initial_weights=eps.manifest["initial_weights"] | {"new.weight": ELSEWHERE})
    assert "parameter_names is 21 shared in " in refusal([runs[0], eps], "model.eps")
    assert "kernel_served is banded in " in refusal([runs[0], eps], "model.eps")


def scored_with(label: str = "excess/ab12/kjv-cd34/8/float32", **changes: Any) -> dict[str, Any]:
    """What a manifest says of one scoring."""
    measure, setting, evaluation, step, precision = label.split("/")
    record = {
        "measure": measure,
        "setting": setting,
        "evaluation": evaluation,
        "step": int(step),
        "clusters": "authors",
    }
    record |= {"precision": precision, "settings": {"segments": 4}, "code": "c0de", "python": "3.11", "packages": {}}
    return {label: record | {"hardware": {}, "kernel": "banded"} | changes}


def test_scores_of_one_label_must_be_scored_alike_and_those_that_a_run_lacks_are_not_compared(make: Make) -> None:
    def record(code: str) -> dict[str, Any]:
        return scored_with(code=code)

    runs = [make("model=nope", measured=record("c0de")), make("model=rope", measured=record("c0de"))]
    more = make("model=alibi", measured=record("c0de") | scored_with("passkey/ab12/none/8/float32"))
    assert list(kinds(check([*runs, more, make("model=window_rope")], "model"))) == ["factor"]
    more.update_manifest(measured=record("0ther"))
    assert "measured.excess/ab12/kjv-cd34/8/float32.code is c0de in " in refusal([*runs, more])


def test_scores_that_were_made_with_other_packages_are_not_compared(make: Make) -> None:
    told = refusal([make(f"model={name}", measured=scored_with(packages={"torch": name})) for name in ("nope", "rope")])
    assert "measured.excess/ab12/kjv-cd34/8/float32.packages.torch is nope in " in told


def on(threads: int) -> dict[str, Any]:
    """Changes of a run that was trained and scored on a machine of so many threads."""
    return {"hardware/threads": threads, "measured": scored_with(hardware={"threads": threads})}


def test_seeds_may_be_trained_and_scored_on_machines_of_their_own(make: Make) -> None:
    runs = [make(f"model={model}", f"seed={seed}", **on(seed + 7)) for model in ("nope", "rope") for seed in (0, 1)]
    control = check(runs, "model")
    machines = ["hardware.threads", "scored_hardware.excess/ab12/kjv-cd34/8/float32.threads"]
    seeded = ["blocks.fingerprint", "data.seed", *machines[:1], "initial_weights", *machines[1:], "seed"]
    assert kinds(control) == {"factor": MODEL, "seed": seeded}
    told = next(line for line in control.statement() if line.startswith("equal in all runs of a seed: "))
    assert "hardware" in told.partition(": ")[2].split(", ")
    assert "hardware" not in next(line for line in control.statement() if line.startswith("equal in all runs: "))


@pytest.mark.parametrize("trained", [True, False])
def test_runs_of_one_seed_on_two_machines_are_refused_though_seeds_have_machines_of_their_own(
    make: Make, trained: bool
) -> None:
    runs = [make(f"model={model}", f"seed={seed}", **on(seed + 7)) for model in ("nope", "rope") for seed in (0, 1)]
    if trained:
        attempts_of(runs[3], (1, 99))
    else:
        runs[3].update_manifest(measured=on(99)["measured"])
    key = "hardware.threads" if trained else "scored_hardware.excess/ab12/kjv-cd34/8/float32.threads"
    message = refusal(runs)
    assert f"more than model: {key} is 8 in {runs[1].path.name} and 99 in {runs[3].path.name}. Leave" in message
    assert kinds(check(runs, "model", [key.partition(".")[0]]))["allowed"] == [key]


def test_the_kernel_that_scored_follows_from_the_model_and_from_nothing_else(make: Make) -> None:
    def by(kernel: str) -> dict[str, Any]:
        return {"measured": scored_with(kernel=kernel)}

    runs = [make("model=nope", **by("sdpa")), make("model=window_nope", **by("flex"))]
    assert "scored_kernel.excess/ab12/kjv-cd34/8/float32" in kinds(check(runs, "model"))["follows"]
    runs = [runs[0], make("model=nope", "optimizer=muon", **by("flex"))]
    assert "scored_kernel.excess/ab12/kjv-cd34/8/float32 is sdpa in " in refusal(runs, "optimizer")


def test_factor_optimizer_takes_all_its_keys_and_labels_by_name(make: Make) -> None:
    runs = [make("model=nope"), make("model=nope", "optimizer=muon")]
    control = check(runs, "optimizer")
    assert kinds(control) == {"factor": ["optimizer.momentum", "optimizer.name"]}
    assert list(control.variants) == ["adamw", "muon"]


def test_labels_tell_apart_variants_of_one_name_by_their_keys(make: Make) -> None:
    runs = [make("model=nope"), make("model=nope", "optimizer.eps=1e-7")]
    assert list(check(runs, "optimizer").variants) == ["eps=1e-08", "eps=1e-07"]
    assert list(check(runs, "optimizer.eps").variants) == ["1e-08", "1e-07"]


def test_labels_stay_apart_when_models_of_one_name_differ(make: Make) -> None:
    runs = [make("model=rope"), make("model=rope", "model.position.base=500.0")]
    assert list(check(runs, "model").variants) == ["position.base=10000.0", "position.base=500.0"]


def test_factor_seed_compares_the_runs_of_one_variant_and_needs_no_balance(make: Make) -> None:
    runs = [make("model=nope"), make("model=nope", "seed=1"), make("model=nope", "seed=2")]
    control = check(runs, "seed")
    assert kinds(control) == {"factor": ["seed"], "follows": ["blocks.fingerprint", "data.seed", "initial_weights"]}
    assert control.variants == {str(seed): {seed: run} for seed, run in enumerate(runs)}
    assert "model.position.name is nope in " in refusal([*runs, make("model=rope", "seed=3")], "seed")


def test_factor_scale_tokens_brings_its_tokens_and_blocks(make: Make) -> None:
    runs = [make("model=nope"), make("model=nope", "scale.tokens=16384")]
    assert kinds(check(runs, "scale.tokens")) == {
        "factor": ["scale.tokens"],
        "follows": ["blocks.count", "blocks.fingerprint", "tokens"],
    }
    message = refusal([runs[0], make("model=nope", "scale.tokens=16384", "scale.width=64")], "scale.tokens")
    assert "more than scale.tokens: scale.width is 32 in " in message
    assert "parameters is " in message


def test_factor_scale_brings_learning_rate_warm_up_and_window_only_if_they_are_the_scales_own(make: Make) -> None:
    other = ["scale.learning_rate=0.004", "scale.warmup_steps=1", "scale.window=50", "scale.width=64"]
    runs = [make("model=window_nope"), make("model=window_nope", *other)]
    follows = ["flops_per_token.exact", "flops_per_token.full", "initial_weights", "model.attention.window"]
    assert kinds(check(runs, "scale"))["follows"] == [
        *follows,
        "optimizer.learning_rate",
        "parameters",
        "schedule.warmup_steps",
    ]
    own = make("model=window_nope", *other, "optimizer.learning_rate=0.003")
    assert "optimizer.learning_rate is 0.002 in " in refusal([runs[0], own], "scale")


def test_runs_of_two_tokenizers_are_refused_whatever_the_factor(make: Make) -> None:
    runs = [make("model=nope"), make("model=nope", "tokenizer=sotu_4k")]
    for allow in ([], ["tokenizer"]):
        assert "nats per token of two tokenizers have no common unit" in refusal(runs, "tokenizer", *allow)


def test_factor_kernel_brings_the_kernel_that_served_and_no_setting_of_the_data(make: Make) -> None:
    runs = [make("model=nope", kernel="banded"), make("model=nope", "kernel=reference")]
    assert kinds(check(runs, "kernel")) == {"factor": ["kernel"], "follows": ["kernel_served"]}
    assert list(check(runs, "kernel").variants) == ["matched", "reference"]


def test_paths_workers_and_how_often_it_logs_are_not_compared(make: Make) -> None:
    other = ["trainer.log_every=3", "trainer.validate_every=2", "data.workers=1", "logger=csv", "trainer.keep_last=1"]
    assert kinds(check([make("model=nope"), make("model=rope", *other)], "model")) == {"factor": MODEL}


def test_the_table_has_a_row_for_an_equal_key_and_a_row_for_each_run_of_another(make: Make) -> None:
    runs = [make("model=nope"), make("model=rope", "optimizer.eps=1e-7")]
    control = check(runs, "model", ["optimizer"])
    rows = control.rows
    assert all(list(row) == ["key", "kind", "run", "value"] for row in rows)
    assert len({(row["key"], row["run"]) for row in rows}) == len(rows)
    by_key = {key: [row for row in rows if row["key"] == key] for key in {row["key"] for row in rows}}
    assert by_key["seed"] == [{"key": "seed", "kind": "equal", "run": "", "value": "0"}]
    names = [run.path.name for run in runs]
    assert [(row["kind"], row["run"], row["value"]) for row in by_key["optimizer.eps"]] == [
        ("allowed", names[0], "1e-08"),
        ("allowed", names[1], "1e-07"),
    ]
    assert [row["value"] for row in by_key["model.position.base"]] == ["absent", "10000.0"]
    assert len(by_key["initial_weights"]) == 1


def test_the_statement_tells_what_is_equal_what_follows_and_what_is_allowed(make: Make) -> None:
    models = ("nope", "window_nope")
    runs = [make(f"model={model}", f"seed={seed}", "scale.window=20") for model in models for seed in (0, 1)]
    lines = check(runs, "model").statement()
    assert lines[0] == "4 runs, model: nope, window_nope; seed 0, 1"
    assert lines[1] == "differs within model: model.attention.name, model.attention.window"
    assert lines[2].startswith("equal in all runs: tokens 8192, data.corpus, tokenizer, optimizer, schedule, kernel ")
    assert "code.sha256 " in lines[2]
    assert lines[3] == "equal in all runs of a seed: blocks.fingerprint, initial_weights"
    assert lines[4] == "follows from model: flops_per_token.exact, flops_per_token.full"
    assert len(lines) == 5


# --- children ---

Child = Callable[..., Run]


def sha256(*content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@pytest.fixture
def child(stored: Callable[..., Path], tmp_path: Path) -> Child:
    """child(parent, "model=rope", step=4): a run of these overrides, as it is when it starts from a parent.

    A keyword changes the start; a path changes a key in the parent's identity, as if the parent were another.
    """

    def one(parent: Run, *overrides: str, **changes: Any) -> Run:
        source = Run(stored(*overrides))
        start: dict[str, Any] = {"parent": parent.identity, "step": 8, "data": "on"}
        for path, value in changes.items():
            *above, last = path.split("/")
            node = start
            for key in above:
                node = node[key]
            node[last] = value
        identity = source.identity | {"start": start}
        run = Run(tmp_path / Run.name(source.config, digest(identity)))
        shutil.copytree(source.path, run.path)
        manifest = run.manifest
        blocks = manifest["blocks"]["fingerprint"]
        if start["data"] == "on":  # it begins where its parent ended, and so does that
            blocks = sha256(blocks, start["step"], start["parent"]["scale"]["batch_tokens"], before(start))[:32]
        run.update_manifest(
            identity=identity,
            digest=digest(identity),
            # What a parent had learnt depends on all that it was.
            initial_weights={name: sha256(name, start) for name in manifest["initial_weights"]},
            blocks=manifest["blocks"] | {"fingerprint": blocks},
        )
        return run

    def before(start: dict[str, Any]) -> Any:
        above = start["parent"].get("start")
        return above and [above["step"], above["data"], before(above)]

    return one


PARENTS_MODEL = [f"start.parent.{key}" for key in MODEL]


def test_factor_model_compares_children_whose_parents_differ_in_the_model_too(make: Make, child: Child) -> None:
    runs = [child(make(model), model) for model in ("model=nope", "model=rope")]
    control = check(runs, "model")
    assert kinds(control) == {"factor": [*MODEL, *PARENTS_MODEL], "follows": ["initial_weights"]}
    assert control.variants == {"nope": {0: runs[0]}, "rope": {0: runs[1]}}
    assert "follows from model: initial_weights" in control.statement()


def test_children_of_one_model_whose_parents_differ_are_labelled_by_the_parents(make: Make, child: Child) -> None:
    runs = [child(make(model), "model=rope") for model in ("model=nope", "model=rope")]
    control = check(runs, "model")
    assert kinds(control) == {"factor": PARENTS_MODEL, "follows": ["initial_weights"]}
    assert list(control.variants) == [
        "start.parent.model.position.base=absent, start.parent.model.position.name=nope",
        "start.parent.model.position.base=10000.0, start.parent.model.position.name=rope",
    ]


def test_factor_start_compares_children_of_different_parents_seed_by_seed(make: Make, child: Child) -> None:
    runs = [
        child(make(f"model={model}", f"seed={seed}"), "model=rope", f"seed={seed}")
        for model in ("nope", "rope")
        for seed in (0, 1)
    ]
    control = check(runs, "start")
    seeds = ["data.seed", "seed"]
    assert kinds(control) == {
        "factor": PARENTS_MODEL,
        "seed": ["blocks.fingerprint", *seeds, *(f"start.parent.{key}" for key in seeds)],
        "follows": ["initial_weights"],
    }
    labels = [
        "parent.model.position.base=absent, parent.model.position.name=nope",
        "parent.model.position.base=10000.0, parent.model.position.name=rope",
    ]
    assert control.variants == {
        label: {0: runs[2 * index], 1: runs[2 * index + 1]} for index, label in enumerate(labels)
    }
    assert "lacks seed 1" in refusal(runs[:3], "start")
    assert "more than start: model.position.base is " in refusal([*runs[:3], child(make("model=alibi"))], "start")


def test_factor_start_compares_a_run_from_scratch_with_a_child(make: Make, child: Child) -> None:
    runs = [make("model=rope"), child(make("model=nope"), "model=rope")]
    control = check(runs, "start")
    assert control.variants == {"scratch": {0: runs[0]}, "run": {0: runs[1]}}
    assert kinds(control)["follows"] == ["blocks.fingerprint", "initial_weights"]
    assert all(key.startswith("start.") for key in kinds(control)["factor"])
    assert kinds(control).keys() == {"factor", "follows"}
    assert "more than start: optimizer.eps is " in refusal(
        [runs[0], child(runs[0], "model=rope", "optimizer.eps=1e-7")], "start"
    )


def test_a_child_of_a_later_step_reads_later_blocks_from_other_weights(make: Make, child: Child) -> None:
    parent = make("model=nope")
    runs = [child(parent, step=step) for step in (4, 8)]
    assert kinds(check(runs, "start")) == {
        "factor": ["start.step"],
        "follows": ["blocks.fingerprint", "initial_weights"],
    }
    again = [child(parent, step=step, data="again") for step in (4, 8)]
    assert kinds(check(again, "start.step")) == {"factor": ["start.step"], "follows": ["initial_weights"]}
    assert "start.data is again in " in refusal([again[0], runs[1]], "start.step")


def test_grandchildren_are_compared_over_all_generations(make: Make, child: Child) -> None:
    eldest = {model: make(model) for model in ("model=nope", "model=rope")}
    runs = [child(child(eldest["model=nope"], step=step)) for step in (4, 8)]
    assert kinds(check(runs, "start")) == {
        "factor": ["start.parent.start.step"],
        "follows": ["blocks.fingerprint", "initial_weights"],
    }
    models = [child(child(eldest[model], model, step=6), model) for model in eldest]
    assert kinds(check(models, "model"))["factor"] == [
        *MODEL,
        *PARENTS_MODEL,
        *(f"start.parent.start.parent.{key}" for key in MODEL),
    ]
    other = child(child(eldest["model=rope"], "model=rope", **{"step": 6, "parent/optimizer/eps": 1e-7}), "model=rope")
    assert "start.parent.start.parent.optimizer.eps is 1e-08 in " in refusal([models[0], other])


@pytest.mark.parametrize(
    ("path", "value", "mine", "other"),
    [
        ("parent/optimizer/learning_rate", 0.001, "0.002", "0.001"),
        ("parent/schedule/name", "wsd", "cosine", "wsd"),
        ("parent/scale/tokens", 16384, "8192", "16384"),
        ("parent/data/corpus/digest", ELSEWHERE, "108aa98de27c", "f00df00df00d"),
        ("parent/kernel", "reference", "matched", "reference"),
        ("step", 4, "8", "4"),
        ("data", "again", "on", "again"),
    ],
)
def test_a_hidden_difference_of_parents_is_refused_with_its_key_both_values_and_both_runs(
    make: Make, child: Child, path: str, value: Any, mine: str, other: str
) -> None:
    nope = child(make("model=nope"), "model=nope")
    rope = child(make("model=rope"), "model=rope", **{path: value})
    key = f"start.{path.replace('/', '.')}"
    clause = next(part for part in refusal([nope, rope]).split("; ") if f"{key} is " in part)
    assert f"{key} is {mine} in {nope.path.name} and {other} in {rope.path.name}" in clause
    assert key in kinds(check([nope, rope], "model", ["start", "blocks"]))["allowed"]


def test_a_child_is_not_compared_with_a_run_from_scratch_unless_that_is_the_factor(make: Make, child: Child) -> None:
    rope = make("model=rope")
    message = refusal([make("model=nope"), child(rope, "model=rope")])
    assert "start.data is absent in " in message


def test_children_of_other_data_may_begin_anywhere_but_alike(make: Make, child: Child) -> None:
    runs = [child(make(model), model, data="other") for model in ("model=nope", "model=rope")]
    check(runs, "model")
    runs[1].update_manifest(blocks={"count": 128, "fingerprint": ELSEWHERE[:32]})
    assert "more than model: blocks.fingerprint is " in refusal(runs)


def test_children_are_paired_by_the_seeds_of_the_chain(make: Make, child: Child) -> None:
    seeds = [(0, 0), (1, 0), (0, 1), (10, 1), (2, 1)]  # of the child, of its parent
    parents = {(model, seed): make(f"model={model}", f"seed={seed}") for model in ("nope", "rope") for seed in (0, 1)}
    runs = [
        child(parents[model, above], f"model={model}", f"seed={seed}")
        for model in ("nope", "rope")
        for seed, above in seeds
    ]
    control = check(runs, "model")
    paired = [0, "1 of 0", "0 of 1", "10 of 1", "2 of 1"]
    assert control.variants == {
        "nope": dict(zip(paired, runs[:5], strict=True)),
        "rope": dict(zip(paired, runs[5:], strict=True)),
    }
    assert control.statement()[0] == "10 runs, model: nope, rope; seed 0, 0 of 1, 1 of 0, 2 of 1, 10 of 1"
    assert "rope lacks seed 2 of 1; train these" in refusal(runs[:-1])


def test_factor_seed_compares_children_of_parents_of_other_seeds(make: Make, child: Child) -> None:
    runs = [child(make("model=nope", f"seed={seed}"), "model=nope") for seed in (0, 1)]
    control = check(runs, "seed")
    assert kinds(control)["factor"] == ["start.parent.seed"]
    assert control.variants == {"start.parent.seed=0": {0: runs[0]}, "start.parent.seed=1": {"0 of 1": runs[1]}}


def test_corpora_that_differ_are_told_by_the_files_that_differ(make: Make) -> None:
    def other(*names: str) -> dict[str, Any]:
        files = [{"name": name, "bytes": 9, "sha256": name[0] * 64} for name in names]
        return {"corpus/splits": {"test": {"": files}, "train": {"": [{"name": "t.jsonl", "bytes": 1}]}}}

    runs = [
        make("model=nope", **other("a.jsonl", "t1.jsonl")),
        make("model=rope", **other("a.jsonl", "t2.jsonl"), **{"identity/data/corpus/digest": ELSEWHERE}),
    ]
    told = refusal(runs)
    assert "data.corpus.digest is 108aa98de27c in " in told
    assert "(apart: test t1.jsonl, test t2.jsonl)" in told
