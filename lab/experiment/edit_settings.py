"""Keys of lab.edit. No torch here."""

from typing import Annotated, Literal

from pydantic import Field

from lab.base.parts import one_of
from lab.base.settings import Count, Settings, Text, key
from lab.data.settings import EvaluationSettings
from lab.experiment.settings import THREADS, Accelerator


class EditScoresSettings(Settings):
    """What an edited decoder is asked, beside the one before."""

    documents: Count = key("of held-out text that are scored, at most: the first that are long enough")
    length: Count | None = key("tokens of each document, its first, whose losses are told; null: C")
    generated: Count = key("tokens generated behind a prompt, at most")
    generate_every: Count = key("text is generated for one of so many facts")
    batch_tokens: Count = key("tokens read together, at most; more is faster until memory ends", decides=False)


class EditSettings(Settings):
    """lab.edit."""

    run: Text = key("directory of the run that is edited, of one derived of it, or of an imported model")
    method: one_of("method")  # type: ignore[valid-type]
    prompt: str | None = key("text before the target, taken literally; null: facts")
    target: str | None = key("text that is wanted behind the prompt, taken literally: ' Paris'")
    subject: str | None = key("what of the prompt it is about, as it stands there, taken literally; null: not told")
    facts: Text | None = key(
        "a file of JSON lines, each with prompt, target and, where it has them, subject, truth, paraphrases, "
        "neighbours, neighbour_truth; or of rows of CounterFact"
    )
    facts_known: bool = key(
        "true: of the facts only those whose truth the decoder answers already, so that it can lose it"
    )
    facts_taken: Annotated[list[Count], Field(min_length=2, max_length=2)] | None = key(
        "the first and the last of the facts that are left, counted from 1; null: all"
    )
    target_tokens: Literal["one", "first", "all"] = key(
        "one: a target of several tokens is refused; first: its first is taken; all: their losses are added up"
    )
    alone: bool = key("true: each fact is edited by itself, and nothing is kept of it but its scores, in the folder to")
    to: Text | None = key("folder of these tables")
    scores: EditScoresSettings = key("what the edited decoder is asked")
    evaluation: EvaluationSettings
    dtype: Literal["float64", "float32"] = key("that the edit is computed in, whatever the decoder trained in")
    accelerator: Accelerator = key("auto, cpu or gpu")
    threads: Count | None = key(THREADS)
