"""What runs will take on machines that need not be there: time, GPU-hours, memory, checkpoints, data.

python -m lab.plan scale=tinyllama_1b tokens=50B gpus=16
python -m lab.plan scale=tinyllama_1b gpus=16 model=[rope,alibi] bench=rope.csv
"""

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from lab.commands import configuration_folder, run_command, run_composed
from lab.errors import UserError
from lab.files import writable
from lab.planning import Config, Measured, Plan, compute_dtype, device_of, plan, read_bench, rows
from lab.schema import PLANNED_GROUPS, PLANNING_KINDS, check_values, flatten
from lab.tables import write_table

VARIANTS: list[str] = []  # that the command line asks for


def take_variants() -> None:
    """Move ``model=[a,b]`` from the command line to VARIANTS: Hydra composes one variant at a time.

    Raises:
        UserError: it is given twice, names none, or a sweep is asked for.
    """
    if {"-m", "--multirun"} & set(sys.argv[1:]):
        raise UserError("a plan is one command: give model=[a,b] and seeds=N, and run it once for each scale")
    given = [argument for argument in sys.argv[1:] if argument.startswith("model=")]
    if len(given) > 1:
        raise UserError(f"{' '.join(given)}: give model= once, as model=[a,b]")
    if given:
        listed = re.fullmatch(r"\[(.*)\]", given[0].removeprefix("model="))
        names = (listed[1] if listed else given[0].removeprefix("model=")).split(",")
    else:
        names = sorted(path.stem for path in (Path(configuration_folder()) / "model").glob("*.yaml"))
    VARIANTS[:] = dict.fromkeys(name.strip() for name in names)
    if "" in VARIANTS:
        raise UserError(f"{given[0]}: give a variant or several, as model=rope or model=[rope,alibi]")
    sys.argv[1:] = [each for each in sys.argv[1:] if each not in given] + [f"model={VARIANTS[0]}"]


def plain(composed: DictConfig) -> Config:
    """The configuration with every reference resolved, checked. As lab/job.py's, but without torch."""
    raw: Any = OmegaConf.to_container(composed, resolve=False)
    for key, value in flatten(raw).items():
        if value == "???":
            raise UserError(f"{key} must be given: add {key}=... to the command")
    resolved: Any = OmegaConf.to_container(composed, resolve=True)
    config: Config = resolved
    for group in PLANNED_GROUPS:
        if not isinstance(config[group[:-1]], dict):
            raise UserError(f"{group[:-1]} is {config[group[:-1]]!r}: choose one; conf/{group[:-1]}/ lists them")
    check_values(config, PLANNING_KINDS)
    return config


def plan_all(composed: DictConfig) -> None:
    """Plan each variant, print the plans, and write their table if asked."""
    others = [each for each in HydraConfig.get().overrides.task if not each.startswith("model=")]
    configs = [plain(composed)]
    configs += [plain(compose("plan", [*others, f"model={name}"])) for name in VARIANTS[1:]]
    config = configs[0]
    if config["csv"] is not None:
        writable(Path(config["csv"]))
    paths = [config["bench"]] if isinstance(config["bench"], str) else config["bench"] or []
    bench = read_bench(paths, config["trainer"]["compile"] is not False)
    plans = [plan(each, bench) for each in configs]
    show(plans, config, bench)
    if config["csv"] is not None:
        write_table(Path(config["csv"]), rows(plans, config))
        print(f"the same numbers: {config['csv']}")


def show(plans: Sequence[Plan], config: Config, bench: Sequence[Measured]) -> None:
    """What is planned, what is assumed, and the tables."""
    first, gpus = plans[0], config["gpus"]
    head = (
        f"{len(plans)} variant{'s' * (len(plans) > 1)} x {config['seeds']} seed{'s' * (config['seeds'] > 1)} of "
        f"scale={config['scale']['name']} on {gpus} x {config['device']}: {first.shape.parameters:,} parameters, "
        f"{count(first.tokens)} tokens each, C = {first.shape.context:,}"
    )
    tables = [time_table(plans, config), memory_table(plans, config), volume_table(plans[0])]
    # Tables must come whole, however narrow the terminal is.
    console = Console(width=max(Console(width=1000).measure(table).maximum for table in tables))
    for line in (head, *batch_lines(plans[0], config), *assumptions(config, bench)):
        print(line)
    for table in tables:
        console.print()
        console.print(table)
    hours = sum(each.gpu_hours for each in plans) * config["seeds"]
    print(
        f"\nall {len(plans) * config['seeds']} runs: {hours:,.1f} GPU-hours, {span(hours * 3600 / gpus)} one after the "
        f"other, {size(sum(each.kept_bytes for each in plans) * config['seeds'])} of checkpoints"
    )


def batch_lines(first: Plan, config: Config) -> Iterable[str]:
    """How the global batch and the lanes of the data are divided over ranks."""
    scale, data, batch, gpus = config["scale"], config["data"], first.batch, config["gpus"]
    division = f"{gpus} ranks x {scale['micro_batch']} blocks of {first.shape.context:,} tokens"
    if batch.divides:
        yield (
            f"global batch {batch.tokens:,} tokens = {batch.micro_batches} micro-batches a step and rank x {division}; "
            f"{first.steps:,} optimiser steps"
        )
    else:
        nearest = " or ".join(str(tokens) for tokens in batch.nearest)
        yield (
            f"does not divide: global batch {batch.tokens:,} tokens by {division} = {batch.micro_tokens:,}; training "
            f"would refuse it: set scale.batch_tokens={nearest}, or another scale.micro_batch"
        )
    each = max(1, data["workers"]) if data["mode"] == "stream" else 1
    readers = gpus * each
    if data["lanes"] % readers:
        workers = f" x {each} workers" if each > 1 else ""
        yield (
            f"does not divide: data.lanes={data['lanes']} by {gpus} ranks{workers} = {readers}; training would refuse "
            f"it: set data.lanes={-(-data['lanes'] // readers) * readers}"
        )


def assumptions(config: Config, bench: Sequence[Measured]) -> Iterable[str]:
    """One line for each thing that is neither computed nor measured."""
    device, dtype = device_of(config), compute_dtype(config)
    sheet = "data sheet" if config["peak_tflops"] is None else "peak_tflops"
    told = "of the peak, shown as share" if bench else f"x utilisation={config['utilisation']:g} by 6N + 12LHQT"
    peak = f"{device.peak / 1e12:,g} TFLOP/s dense bfloat16 ({sheet})"
    yield f"assumed rate: peak of device={config['device']} {peak}, {told}"
    if bench and config["gpus"] > 1:
        yield f"assumed rate: each of {config['gpus']} keeps scaling={config['scaling']:g} of what one was measured at"
    yield (
        f"assumed: activations in {dtype}, kept as eager blocks keep them; a time without validation, checkpoints, "
        f"scoring and waiting; bytes_per_token={config['bytes_per_token']:g} of text"
    )


def time_table(plans: Sequence[Plan], config: Config) -> Table:
    table = Table("variant", title="Time of each run", title_justify="left")
    for column in (
        "FLOPs a token:\nvisible keys",
        "\n6N + 12LHQT",
        "tokens/s\na GPU",
        "share of peak:\nvisible keys",
        "\n6N + 12LHQT",
    ):
        table.add_column(column, justify="right")
    table.add_column("rate")
    for column in ("time", "GPU-hours"):
        table.add_column(column, justify="right")
    for each in plans:
        table.add_row(
            each.variant,
            count(each.flops.exact),
            count(each.flops.full),
            f"{each.rate.tokens_per_second:,.0f}",
            f"{each.share_exact:.1%}",
            f"{each.share_full:.1%}",
            each.rate.source,
            span(each.seconds),
            f"{each.gpu_hours:,.1f}",
        )
    return table


def memory_table(plans: Sequence[Plan], config: Config) -> Table:
    """A row a strategy, and variants of equal memory together."""
    limit = device_of(config).memory
    title = f"Memory of each GPU, at micro-batches of {config['scale']['micro_batch']} blocks (~ estimated)"
    table = Table("strategy", "variants", title=title, title_justify="left")
    columns = ("parameters", "gradients", "optimiser", "~copies", "~activations", "~logits", "~total")
    for column in (*columns, f"of {size(limit)}"):
        table.add_column(column, justify="right")
    for strategy in plans[0].memory:
        groups: dict[Any, list[str]] = {}
        for each in plans:
            groups.setdefault(each.memory[strategy], []).append(each.variant)
        for memory, variants in groups.items():
            parts = (memory.parameters, memory.gradients, memory.optimizer)
            estimated = (memory.copies, memory.activations, memory.logits, memory.total)
            fits = f"{memory.total / limit:.0%}" + (" too much" if memory.total > limit else "")
            together = "all" if len(variants) == len(plans) else ", ".join(variants)
            name = strategy if strategy != "fsdp" else f"fsdp over {plans[0].gpus}"
            table.add_row(name, together, *map(size, parts), *map(size, estimated), fits)
    if plans[0].gpus > 1 and "fsdp" not in plans[0].memory:
        optimizer = config["optimizer"]["_target_"].rpartition(".")[2]
        table.add_row("fsdp", f"none: it shards matrices, which {optimizer} needs whole")
    return table


def volume_table(each: Plan) -> Table:
    table = Table("volume of each run", "", title_justify="left")
    table.columns[1].justify = "right"
    token = each.block_bytes * each.shape.context // (each.tokens * (each.shape.context + 1))
    table.add_row("one checkpoint: weights and moments, float32", size(each.checkpoint_bytes))
    table.add_row(
        f"checkpoints kept: {each.checkpoints_kept} (one more while one is written)",
        size(each.kept_bytes),
    )
    table.add_row(f"written blocks, {token} bytes a token (data.mode=blocks)", size(each.block_bytes))
    table.add_row("text, assumed", size(each.text_bytes))
    return table


def count(number: float) -> str:
    """E.g. 50.00 B."""
    for factor, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if number >= factor:
            return f"{number / factor:.2f} {letter}"
    return f"{number:,.0f}"


def size(number: float) -> str:
    """Bytes in powers of 1000, e.g. 13.2 GB."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if number >= factor:
            return f"{number / factor:,.1f} {unit}"
    return f"{number / 1e3:,.1f} kB"


def span(seconds: float) -> str:
    """A time in the unit that reads best, e.g. 3.2 days."""
    for length, unit in ((86_400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} seconds"


if __name__ == "__main__":
    run_command(take_variants)
    run_composed("plan", plan_all, PLANNING_KINDS)
