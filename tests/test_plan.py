"""Plans: the memory model against what is measured, counts against what is built, rates, refusals."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import lab, the_one_line

from lab import bench
from lab.base.errors import UserError
from lab.base.parts import build
from lab.base.tables import write_table
from lab.experiment.compose import choices, settings_of
from lab.experiment.settings import TrainSettings
from lab.model.building import build_decoder
from lab.model.decoder import Decoder, parameter_count
from lab.model.memory import Memory, kept_by_block, moments, shape_of, step_memory
from lab.planning.forecast import DEVICES, Batch, Measured, amount, plan, rate_of, read_bench, rows
from lab.planning.settings import PlanSettings
from lab.training.planned import check_optimizer

VARIANTS = [each for each in choices("model") if not each.startswith("bidirectional")]
MEASURE = Path(__file__).parent / "oracles" / "step_memory.py"
SMALL_SHAPE = [
    *("scale.vocabulary=96", "scale.context=128", "scale.layers=3", "scale.width=64", "scale.hidden=160"),
    *("scale.heads=4", "scale.kv_heads=2", "scale.head_dim=16", "scale.window=48", "scale.micro_batch=2"),
]


def training(*overrides: str) -> TrainSettings:
    return settings_of("train", TrainSettings, overrides)


def planned(*overrides: str) -> PlanSettings:
    return settings_of("plan", PlanSettings, overrides)


def decoder_of(config: TrainSettings, dtype: str = "float32") -> Decoder:
    return build_decoder(config.model, config.scale, kernel=config.kernel, compute_dtype=dtype, seed=config.seed)


def memory_of(config: TrainSettings, dtype: str, **keywords: Any) -> Memory:
    return step_memory(
        shape_of(config.scale, config.model),
        micro_batch=config.scale.micro_batch,
        compute_dtype=dtype,
        optimizer=config.optimizer.name,
        **keywords,
    )


# --- the memory model ---


@pytest.mark.parametrize(
    "overrides",
    [
        ["scale=pilot", "model=rope"],
        ["scale=pilot", "model=rope", "trainer.recompute=selective"],
        ["scale=pilot", "model=rope", "trainer.recompute=all"],
        ["scale=small", "scale.micro_batch=1"],
    ],
)
def test_the_memory_of_a_step_is_within_30_percent_of_the_measured_peak(overrides: list[str]) -> None:
    # What is freed is given back, so that what is resident is what is in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(MEASURE), *overrides]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    config = training(*overrides)
    model = memory_of(config, measured["compute_dtype"], recompute=config.trainer.recompute, kernel="banded")
    assert model.total == pytest.approx(measured["bytes"], rel=0.3)
    # Neither the state nor the activations alone would do.
    assert model.state < 0.7 * measured["bytes"]
    assert model.activations < 0.7 * measured["bytes"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("model", "kernel"),
    [*((each, "banded") for each in VARIANTS), ("rope", "reference"), ("bidirectional_rope objective=masked", "sdpa")],
)
def test_activations_and_copies_are_what_autograd_keeps(model: str, kernel: str, dtype: str) -> None:
    config = training(*f"model={model}".split(), f"kernel={kernel}", *SMALL_SHAPE)
    decoder, scale = decoder_of(config, dtype), config.scale
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    tokens = torch.zeros(scale.micro_batch, scale.context + 1, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = decoder.next_token_losses(decoder.hidden(tokens[:, :-1]), tokens[:, 1:]).mean()
    for parameter in decoder.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    predicted = memory_of(config, dtype, kernel=kernel)
    # The gradient is not yet there, nor its copy in 16 bits.
    gradient = (4 + (2 if dtype == "bfloat16" else 0)) * scale.vocabulary * tokens[:, 1:].numel()
    assert predicted.activations + predicted.copies + predicted.logits - gradient == pytest.approx(
        sum(kept.values()), rel=0.05
    )
    assert loss.isfinite()


@pytest.mark.parametrize("scale", ["pilot", "small", "tinyllama_120m", "tinyllama_1b"])
@pytest.mark.parametrize("tied", ["false", "true"])
def test_parameters_are_those_of_the_decoder(scale: str, tied: str) -> None:
    config = training(f"scale={scale}", f"model.tied={tied}")
    with torch.device("meta"):
        decoder = decoder_of(config)
    assert shape_of(config.scale, config.model).parameters == parameter_count(decoder)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_optimiser_states_are_those_of_the_optimiser(optimizer: str) -> None:
    config = training(f"optimizer={optimizer}", *SMALL_SHAPE)
    decoder = decoder_of(config)
    made = build("optimizer", config.optimizer, model=decoder)
    decoder(torch.zeros(1, 4, dtype=torch.int64)).sum().backward()
    made.step()
    parts = getattr(made, "parts", [made])
    held = [value for part in parts for state in part.state.values() for value in state.values()]
    counted = sum(value.numel() for value in held if torch.is_tensor(value) and value.ndim)
    assert moments(shape_of(config.scale, config.model), config.optimizer.name) == counted


def test_fsdp_shards_the_state_and_not_the_activations() -> None:
    config = training("scale=tinyllama_1b")
    ddp = memory_of(config, "bfloat16", strategy="ddp", ranks=16)
    fsdp = memory_of(config, "bfloat16", strategy="fsdp", ranks=16)
    assert ddp == memory_of(config, "bfloat16")
    assert 16 * fsdp.state == pytest.approx(ddp.state, rel=1e-6)
    assert (fsdp.activations, fsdp.logits) == (ddp.activations, ddp.logits)
    assert ddp.copies < fsdp.copies < ddp.copies + ddp.parameters


def test_only_a_kernel_that_writes_its_scores_out_keeps_more_than_linear_in_the_length() -> None:
    config = training("scale=tinyllama_1b", "model=window_alibi")
    shape = shape_of(config.scale, config.model)
    assert kept_by_block(shape, 2, "reference", 4) > 2 * kept_by_block(shape, 2, "banded", 4)
    masked = memory_of(config, "bfloat16", kernel="sdpa").activations - memory_of(config, "bfloat16").activations
    assert masked == 22 * 2 * 2048**2 * 32


# --- what is planned ---


@pytest.mark.parametrize(
    ("text", "count"),
    [("50B", 50_000_000_000), ("950b", 950 * 10**9), ("4.7M", 4_700_000), ("2e9", 2 * 10**9), (2e9, 2 * 10**9)]
    + [
        ("1.5T", 1500 * 10**9),
        ("64k", 64_000),
        (4_718_592, 4_718_592),
        ("4_718_592", 4_718_592),
        ("1.5e3M", 1500 * 10**6),
    ],
)
def test_amounts_are_understood(text: Any, count: int) -> None:
    assert amount("tokens", text) == count


@pytest.mark.parametrize("text", ["fifty", "50X", "B", "-5B", 0, "0M", 1.5, "4.7123456M", "1e400", "nan", "5 0B", ""])
def test_wrong_amounts_are_refused(text: Any) -> None:
    with pytest.raises(UserError, match=re.escape(f"tokens is {text!r}: give a whole number")):
        amount("tokens", text)


def test_a_plan_is_what_its_parts_say() -> None:
    config = planned("scale=tinyllama_1b", "model=rope", "tokens=50B", "gpus=16")
    found = plan(config, [])
    assert (found.steps, found.batch.micro_batches, found.batch.divides) == (23_841, 8, True)
    # 40 % of 989 TFLOP/s by 6N + 12LHQT: 6 x 1.034512e9 weights of products, 12 x 22 x 32 x 64 x 2048.
    assert found.flops.full == pytest.approx(
        6 * (found.shape.parameters - 32_000 * 2048 - 45 * 2048) + 12 * 22 * 2048**2
    )
    assert found.rate.tokens_per_second == pytest.approx(0.4 * 989e12 / found.flops.full)
    assert found.gpu_hours == pytest.approx(found.tokens * found.flops.full / (0.4 * 989e12) / 3600)
    assert found.seconds == pytest.approx(found.gpu_hours * 3600 / 16)
    assert found.share_full == pytest.approx(0.4)
    assert found.share_exact < found.share_full
    assert found.checkpoint_bytes == 12 * 1_100_048_384
    assert found.kept_bytes == 2 * found.checkpoint_bytes
    assert found.block_bytes == found.tokens // 2048 * 2049 * 2  # uint16
    assert [row["strategy"] for row in rows([found], config)] == ["single", "ddp", "fsdp"]
    assert rows([found], config)[0]["hours"] is None  # sixteen devices are not one alone


def test_a_vocabulary_beyond_16_bits_takes_4_bytes_a_token() -> None:
    narrow, wide = (plan(planned(f"scale.vocabulary={count}"), []).block_bytes for count in (2**16, 2**16 + 1))
    assert wide == 2 * narrow


def test_kept_checkpoints_are_the_newest_and_every_so_many() -> None:
    def kept(*overrides: str) -> int:
        return plan(planned(*overrides), []).checkpoints_kept

    # 576 steps at pilot.
    assert kept("trainer.checkpoint_every=100") == 2
    assert kept("trainer.checkpoint_every=1000") == 1
    assert kept("trainer.checkpoint_every=100", "trainer.keep_every=200") == 4


def test_a_batch_that_does_not_divide_names_those_that_do() -> None:
    batch = Batch(8192, 3 * 2048)
    assert not batch.divides
    assert batch.nearest == [6144, 12288]
    assert Batch(8192, 4 * 2048).micro_batches == 1
    assert Batch(2048, 3 * 2048).nearest == [6144]


def bench_rows(path: Path, *contestants: tuple[str, str, float, float]) -> Path:
    write_table(
        path,
        [
            {
                "contestant": contestant,
                "variant": variant,
                "scale": "pilot",
                "device": "cpu",
                "round": number,
                "seconds": seconds * (1 + number),
                "tokens": 1000,
                "flops_per_token": flops,
                "limit_flops_per_second": 1e12,
            }
            for contestant, variant, seconds, flops in contestants
            for number in range(3)
        ],
    )
    return path


def test_measured_rates_are_used_as_measured_and_otherwise_carried_over_by_flops(tmp_path: Path) -> None:
    bench_and_gpus = (f"bench={tmp_path}/bench.csv", "gpus=1")
    config = planned("model=rope", *bench_and_gpus)
    exact = plan(planned("model=rope"), []).flops.exact
    path = bench_rows(
        tmp_path / "bench.csv",
        ("lab eager", "rope", 2.0, exact),
        ("lab compiled", "rope", 1.0, exact),
        ("transformers 5 compiled", "rope", 0.1, exact),
    )
    eager, compiled = read_bench([str(path)], False), read_bench([str(path)], True)
    assert [each.tokens_per_second for each in eager + compiled] == [250.0, 500.0]  # of the median round
    measured = plan(config, compiled)
    assert measured.rate.measured
    assert measured.rate.tokens_per_second == 500.0
    assert measured.share_exact == pytest.approx(500 * exact / 989e12)
    other = plan(planned("model=window_rope", *bench_and_gpus), compiled)
    assert not other.rate.measured
    assert other.rate.source.startswith("assumed: FLOP/s as lab compiled, rope at pilot on cpu")
    assert other.rate.tokens_per_second * other.flops.exact == pytest.approx(500 * exact)
    alibi = plan(planned("model=alibi", *bench_and_gpus), compiled)
    assert (alibi.rate.measured, alibi.rate.tokens_per_second) == (False, 500.0)  # as many FLOPs, but not measured
    several = plan(config.with_values(gpus=2), compiled)
    assert several.rate.tokens_per_second == 450.0


def test_of_several_measurements_the_same_variant_counts_first() -> None:
    config = planned("model=rope", "bench=x.csv")
    flops = plan(planned("model=rope"), []).flops
    found = [
        Measured("lab eager", "alibi", "pilot", "cpu", flops.exact, 1.0, 5),
        Measured("lab eager", "rope", "small", "cpu", 7 * flops.exact, 1.0, 5),
    ]
    rate = rate_of("rope", flops, config, DEVICES["h100"], found)
    assert "rope at small" in rate.source
    assert rate.tokens_per_second == pytest.approx(7.0)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            "contestant,round,seconds,tokens,flops_per_token,format\nlab eager,0,1,1,1,3\n",
            "lacks the column device, scale, variant",
        ),
        (
            "contestant,variant,scale,device,seconds,tokens,flops_per_token,format\npeer,rope,pilot,cpu,1,1,1,3\n",
            "holds no step of",
        ),
        (
            "contestant,variant,scale,device,seconds,tokens,flops_per_token,format\nlab eager,rope,pilot,cpu,0,1,1,3\n",
            "without seconds",
        ),
        (
            "contestant,variant,scale,device,seconds,tokens,flops_per_token\nlab eager,rope,pilot,cpu,1,1,1\n",
            "was written by an earlier version of the lab",
        ),
        ("", "is empty"),
    ],
)
def test_a_file_that_is_no_bench_of_training_is_refused(content: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "bench.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=f"{re.escape(str(path))}.*({told}|lacks the column)") as refusal:
        read_bench([str(path)], True)
    assert "lab.bench train --csv" in str(refusal.value)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_fsdp_is_planned_where_training_accepts_it(optimizer: str) -> None:
    config = planned(f"optimizer={optimizer}", "gpus=2")
    try:
        check_optimizer("fsdp", config.optimizer.name)
        accepted = True
    except UserError:
        accepted = False
    assert ("fsdp" in plan(config, []).memory) == accepted


# --- the command ---


def test_the_command_prints_a_plan_of_the_seven_variants_and_writes_nothing(tmp_path: Path) -> None:
    result = lab("plan", "scale=tinyllama_1b", "tokens=50B", "gpus=16", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.iterdir()) == []
    for word in (*VARIANTS, "1,100,048,384", "GPU-hours", "visible keys", "6N + 12LHQT", "utilisation=0.4", "989"):
        assert word in result.stdout
    for word in ("single", "ddp", "fsdp over 16", "gradients", "optimiser", "~activations", "~logits", "13.2 GB"):
        assert word in result.stdout
    assert "= 8 micro-batches a step and rank x 16 ranks x 8 blocks" in result.stdout


def test_a_bench_of_this_machine_gives_the_rate_and_csv_the_same_numbers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, table = tmp_path / "bench.csv", tmp_path / "plan.csv"
    smoke = training("experiment=smoke").scale.plain()
    shape = [f"scale.{key}={value}" for key, value in smoke.items() if isinstance(value, int)]
    options = ["--rounds", "2", "--no-peer", "--no-compile", "--csv", str(path)]
    monkeypatch.setattr(sys, "argv", ["lab.bench", "train", "experiment=smoke", "model=rope", *options])
    bench.main()
    command = [*shape, "model=[rope,window_rope]", "optimizer=muon", "gpus=2", f"bench={path}", f"csv={table}"]
    result = lab("plan", *command, "data.lanes=3", "scale.batch_tokens=1536", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "measured: lab eager, rope at 2x32-C64 on cpu, median of 2 rounds" in result.stdout
    assert "assumed rate: each of 2 keeps scaling=0.9" in result.stdout
    assert "fsdp" in result.stdout
    assert "which muon needs whole" in result.stdout
    assert "does not divide: global batch 1,536" in result.stdout
    assert "scale.batch_tokens=1024 or 2048" in result.stdout
    assert "does not divide: data.lanes=3" in result.stdout
    with open(table, newline="") as file:
        found = list(csv.DictReader(file))
    assert [(row["variant"], row["strategy"]) for row in found] == [
        (variant, strategy) for variant in ("rope", "window_rope") for strategy in ("single", "ddp")
    ]
    assert float(found[1]["gpu_hours"]) == pytest.approx(2 * float(found[1]["hours"]))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["tokens=fifty"], "tokens is 'fifty': give a whole number"),
        (["tokens=8191"], "less than one batch"),
        (["gpus=0"], "gpus is 0"),
        (["model=transformer"], "window_alibi"),
        (["model=[]"], "give a variant or several"),
        (["-m", "model=rope"], "a plan is one command"),
        (["device=b200"], "choose a100, h100, h200, or give peak_tflops and memory_gb"),
        (["colour=1"], "utilisation"),
        (["seed=0,1,2"], "seed=0,1,2: a plan counts seeds: give seeds=3"),
        (["seed=[0,1]"], "a plan counts seeds: give seeds=2"),
        (["scale=small,pilot"], "a list is written scale=[small,pilot]; a run of each value is for lab.train -m"),
        (["scale.heads=3", "scale.kv_heads=2"], "scale: heads is 3 and kv_heads is 2"),
        (["trainer.compute_dtype=float32"], "rates are of bfloat16"),
        (["tokenizer=file", "tokenizer.vocabulary=1000"], "tokenizer.path must be given"),
        (["csv=/proc/plan.csv"], "/proc/plan.csv cannot be written"),
        (["bench=/nowhere/bench.csv"], "make it with python -m lab.bench train --csv FILE"),
    ],
)
def test_what_cannot_be_planned_is_one_line(arguments: list[str], told: str, tmp_path: Path) -> None:
    assert told in the_one_line(lab("plan", *arguments, cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_the_measurements_of_a_plan_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "bench.csv").write_text("measured in hours")
    told = the_one_line(lab("plan", "bench=bench.csv", "csv=bench.csv", cwd=tmp_path))
    assert "bench.csv is read, too: it would be lost" in told
    assert (tmp_path / "bench.csv").read_text() == "measured in hours"


def test_help_names_the_assumptions(tmp_path: Path) -> None:
    result = lab("plan", "--help", cwd=tmp_path)
    assert result.returncode == 0
    for word in ("tokens=50B", "utilisation=0.4", "device=h100", "bench=null", "tinyllama_1b", "muon"):
        assert word in result.stdout


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, lab.plan; print(sorted({'torch', 'lightning', 'tokenizers', 'datasets'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_choices_of_a_folder_of_ones_own_are_planned(tmp_path: Path) -> None:
    (tmp_path / "scale").mkdir()
    own = (Path(__file__).parents[1] / "conf" / "scale" / "pilot.yaml").read_text().replace("layers: 8", "layers: 5")
    (tmp_path / "scale" / "five.yaml").write_text(own)
    result = lab("plan", "--config-dir", str(tmp_path), "scale=five", "model=rope", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "of 5x192-C256 on" in result.stdout
