"""Keys of lab.lens. No torch here."""

from typing import Annotated, Literal

from pydantic import Field

from lab.base.settings import Count, Positive, Seed, Settings, Text, key
from lab.experiment.settings import THREADS, Accelerator
from lab.gradients.capture import Matrix
from lab.gradients.updates import Optimizer


class LensSettings(Settings):
    """lab.lens."""

    run: Text = key("directory of a run, of one derived of it, or of an imported model")
    prompt: str | None = key("text before the target, taken literally; null: prompts")
    target: str | None = key("text whose loss behind the prompt the gradient is of, taken literally: ' Paris'")
    subject: str | None = key("what of the prompt it is about, as it stands there, taken literally; null: not told")
    prompts: Text | None = key(
        "a file of JSON lines, each with prompt, target and, if it has one, subject: "
        '{"prompt": "The capital of France is", "target": " Paris", "subject": "France"}'
    )
    to: Text | None = key("folder of the tables and of the page; null: the terminal alone")
    target_tokens: Literal["one", "first", "all"] = key(
        "one: a target of several tokens is refused; first: its first is taken; all: their losses are added up"
    )
    layers: Annotated[list[int], Field(min_length=1)] | None = key("that are looked at, counted from 1; null: all")
    matrices: Annotated[list[Matrix], Field(min_length=1)] = key("that are looked at")
    top: Count = key("tokens told from the top and from the bottom of each projection")
    neurons: int = key("of each gradient, the longest, that are held against the tokens' vectors; 0: none", ge=0)
    updates: list[Optimizer] = key("optimisers whose update is told beside the gradient: sgd, adamw, muon; []: none")
    adamw_eps: Positive = key("of AdamW's update")
    dtype: Literal["float64", "float32"] = key(
        "that the decoder computes in, whatever it trained in; ranks of float32 are coarser"
    )
    batch_tokens: Count = key(
        "tokens read together, at most, if prompts are not longer; more is faster until memory ends"
    )
    seed: Seed = key("of the random token that each target is held against")
    checkpoint: Count | Literal["last"] = key("last of a finished run, or the number of an optimiser step")
    accelerator: Accelerator = key("auto, cpu or gpu")
    threads: Count | None = key(THREADS)
