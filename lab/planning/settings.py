"""Keys of lab.plan. No torch here."""

from typing import Annotated

from pydantic import Field

from lab.base.parts import one_of
from lab.base.settings import Count, Positive, Seed, Settings, Share, Text, Word, key
from lab.data.settings import DataSettings, TokenizerSettings
from lab.model.settings import ModelSettings, ScaleSettings
from lab.runs.settings import TrainerSettings


class PlanSettings(Settings):
    """lab.plan."""

    model: ModelSettings
    scale: ScaleSettings
    tokenizer: TokenizerSettings
    data: DataSettings
    optimizer: one_of("optimizer")  # type: ignore[valid-type]
    trainer: TrainerSettings
    tokens: str | int | float | None = key("budget of each run: 50B, 4.7M, 2e9 or a number; null: scale.tokens")
    gpus: Annotated[int, Field(ge=1, le=10**7)] = key("that train one run together")
    seeds: Count = key("runs of each variant")
    bench: Text | list[Text] | None = key(
        "a file, or a list of files, that lab.bench train --csv has written; null: assumed rates"
    )
    csv: Text | None = key("a file: the same numbers as a table, a row a variant and strategy")
    device: Word = key(
        "a100, h100 or h200: peak rate and memory from NVIDIA's data sheets; any other with both keys below"
    )
    peak_tflops: Positive | None = key("dense bfloat16 rate of one device, TFLOP/s; null: the data sheet's")
    memory_gb: Positive | None = key("memory of one device, GB; null: the data sheet's")
    utilisation: Share = key(
        "share of the peak that training reaches, by 6N + 12LHQT; published 1B figures: 0.42 to 0.58"
    )
    scaling: Share = key("share of a measured rate of one device that each of several keeps; 1 if gpus=1")
    bytes_per_token: Positive = key("of text, UTF-8; about 4 for English and 32,000 token ids, less for fewer")
    seed: Seed = key("as in lab.train; changes no figure")
