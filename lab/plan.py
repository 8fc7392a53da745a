"""What runs will take on machines that need not be there: time, GPU-hours, memory of each GPU, checkpoints, data.

  python -m lab.plan scale=tinyllama_1b tokens=50B gpus=16            the seven variants
  python -m lab.plan scale=tinyllama_1b gpus=16 model=[rope,alibi]    two
  python -m lab.plan scale=tinyllama_1b gpus=8 device=a100 optimizer=muon
  python -m lab.plan scale=small bench=small.csv                      at the rate that lab.bench train measured
  python -m lab.plan scale=tinyllama_1b gpus=16 csv=plan.csv          the same numbers as a table

It needs no corpus, no tokenizer and no GPU. What it assumes it says; each assumption is a key below.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lab.base.commandline import run_command
from lab.base.console import Console, Table
from lab.base.errors import UserError
from lab.base.files import refuse_read, writable
from lab.base.tables import write_table
from lab.data.settings import LANES
from lab.experiment.compose import checked, choices, composed, plain_overrides, print_help, take_folder, wants_help
from lab.planning.forecast import Measured, Plan, compute_dtype, device_of, plan, read_bench, rows
from lab.planning.settings import PlanSettings
from lab.runs.identity import shape_label


def variants(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """The variants that ``model=[a,b]`` names, all if it is not given, and the other overrides.

    Raises:
        UserError: it is given twice or names none, or a sweep is asked for.
    """
    if {"-m", "--multirun"} & set(given):
        raise UserError("a plan is one command: give model=[a,b] and seeds=N, and run it once for each scale")
    for each in given:
        if re.match(r"seed=\[?\d+,", each):
            raise UserError(f"{each}: a plan counts seeds: give seeds={each.count(',') + 1}")
    named = [each for each in given if each.startswith("model=")]
    if len(named) > 1:
        raise UserError(f"{' '.join(named)}: give model= once, as model=[a,b]")
    found = choices("model")
    if named:
        text = named[0].removeprefix("model=")
        listed = re.fullmatch(r"\[(.*)\]", text)
        found = [each.strip() for each in (listed[1] if listed else text).split(",")]
    if "" in found:
        raise UserError(f"{named[0]}: give a variant or several, as model=rope or model=[rope,alibi]")
    return list(dict.fromkeys(found)), [each for each in given if each not in named]


def main() -> None:
    given = sys.argv[1:]
    if wants_help(given):
        print_help("plan", PlanSettings, __doc__ or "", plain_overrides(given))
        return
    names, rest = variants(given)
    folder, others = take_folder(rest, "plan")
    configs = [checked(PlanSettings, composed("plan", [*others, f"model={name}"], folder)) for name in names]
    config = configs[0]
    paths = [config.bench] if isinstance(config.bench, str) else config.bench or []
    if config.csv is not None:
        writable(Path(config.csv))
        refuse_read(Path(config.csv), map(Path, paths))
    bench = read_bench(paths, config.trainer.compile is not False)
    plans = [plan(each, bench) for each in configs]
    show(plans, config, bench)
    if config.csv is not None:
        write_table(Path(config.csv), rows(plans, config))
        print(f"the same numbers: {config.csv}")


def show(plans: Sequence[Plan], config: PlanSettings, bench: Sequence[Measured]) -> None:
    """What is planned, what is assumed, and the tables."""
    first, gpus = plans[0], config.gpus
    head = (
        f"{len(plans)} variant{'s' * (len(plans) > 1)} x {config.seeds} seed{'s' * (config.seeds > 1)} of "
        f"{shape_label(config.scale)} on {gpus} x {config.device}: {first.shape.parameters:,} parameters, "
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
    hours = sum(each.gpu_hours for each in plans) * config.seeds
    runs = len(plans) * config.seeds
    print(
        f"\n{'the run' if runs == 1 else f'all {runs} runs'}: {hours:,.1f} GPU-hours, "
        f"{span(hours * 3600 / gpus)} one after the "
        f"other, {size(sum(each.kept_bytes for each in plans) * config.seeds)} of checkpoints"
    )


def batch_lines(first: Plan, config: PlanSettings) -> Iterable[str]:
    """How the global batch and the lanes of the data are divided over ranks."""
    scale, data, batch, gpus = config.scale, config.data, first.batch, config.gpus
    division = f"{gpus} ranks x {scale.micro_batch} blocks of {first.shape.context:,} tokens"
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
    each = max(1, data.workers) if data.mode == "stream" else 1
    readers = gpus * each
    lanes = LANES if isinstance(data.lanes, str) else data.lanes
    if lanes % readers:
        workers = f" x {each} workers" if each > 1 else ""
        yield (
            f"does not divide: data.lanes={lanes} by {gpus} ranks{workers} = {readers}; training would refuse "
            f"it: set data.lanes={-(-lanes // readers) * readers}"
        )


def assumptions(config: PlanSettings, bench: Sequence[Measured]) -> Iterable[str]:
    """One line for each thing that is neither computed nor measured."""
    device, dtype = device_of(config), compute_dtype(config)
    sheet = "data sheet" if config.peak_tflops is None else "peak_tflops"
    told = "of the peak, shown as share" if bench else f"x utilisation={config.utilisation:g} by 6N + 12LHQT"
    peak = f"{device.peak / 1e12:,g} TFLOP/s dense bfloat16 ({sheet})"
    yield f"assumed rate: peak of device={config.device} {peak}, {told}"
    if bench and config.gpus > 1:
        yield f"assumed rate: each of {config.gpus} keeps scaling={config.scaling:g} of what one was measured at"
    yield (
        f"assumed: activations in {dtype}, kept as eager blocks keep them; a time without validation, checkpoints, "
        f"scoring and waiting; bytes_per_token={config.bytes_per_token:g} of text"
    )


def time_table(plans: Sequence[Plan], config: PlanSettings) -> Table:
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


def memory_table(plans: Sequence[Plan], config: PlanSettings) -> Table:
    """A row a strategy, and variants of equal memory together."""
    limit = device_of(config).memory
    title = f"Memory of each GPU, at micro-batches of {config.scale.micro_batch} blocks (~ estimated)"
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
        optimizer = config.optimizer.name
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
    run_command(main)
