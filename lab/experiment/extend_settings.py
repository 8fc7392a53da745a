"""Keys of lab.extend; by themselves, because studies and extensions have no part in training. No torch here."""

from typing import Any, Literal

from pydantic import model_validator

from lab.analysis.decomposition import Decomposition
from lab.base.parts import one_of
from lab.base.settings import Count, Positive, Settings, Text, key
from lab.data.settings import EvaluationSettings
from lab.experiment.settings import THREADS, Accelerator, Paths
from lab.extension.evolution import Evolution


class NeedleSettings(Settings):
    """What is hidden in a document, and asked for."""

    key_line: Text = key("opens a document; {key} stands for the number")
    question: Text = key("ends it; the number follows")

    @model_validator(mode="after")
    def _words_are_there(self) -> "NeedleSettings":
        if "{key}" not in self.key_line:
            raise ValueError(f"key_line is {self.key_line!r}: it must hold {{key}}")
        if not self.question.strip():
            raise ValueError(f"question is {self.question!r}: give a text")
        return self


class SearchSettings(Settings):
    """How what is to be found is found: on validation documents, the run's own unless evaluation names a corpus."""

    documents: Count | None = key("read, at most: the first that are long enough; null: all")
    length: Count | None = key("tokens of each document that factors of RoPE are searched on; null: s L")
    evolution: Evolution = key("of factors of RoPE")
    objective: Literal["perplexity", "needle"] = key(
        "what factors are judged by: the loss of all tokens, or of a number alone that stands in the first line"
    )
    needle: NeedleSettings = key("that number's first line, and the question for it")
    temperature: Literal["none", "su", "yarn"] = key(
        "attention factor while factors are searched, and of those found: 1; sqrt(1 + ln s / ln L); 0.1 ln s + 1"
    )
    screening: Literal["none", "bfloat16"] = key(
        "bfloat16: candidates are scored in it, and the best of them again in float32; an approximation"
    )
    early_stopping: bool = key(
        "a candidate that is worse than all parents over its first documents is not scored on the others; an "
        "approximation"
    )
    processes: Count | None = key("that score candidates, one thread each; null: one a core", decides=False)
    ratios: list[float] = key("r that are tried where the layer is searched, each with its alpha")
    alphas: list[Positive] = key("alpha of each r")

    def identity(self) -> dict[str, Any]:
        """Without objective and needle where there is no needle: it is then the identity of before there was one."""
        told = super().identity()
        if self.objective == "perplexity":
            del told["objective"], told["needle"]
        return told


class ExtendSettings(Settings):
    """lab.extend."""

    run: Paths = key("directory of the run whose weights are read otherwise; of several, directories or patterns")
    extension: one_of("extension")  # type: ignore[valid-type]
    evaluation: EvaluationSettings
    vectors: Decomposition = key("how positional vectors are made, for extensions that need them")
    search: SearchSettings = key("how what is to be found is found")
    show: bool = key("print the frequencies that RoPE has by an extension, and draw them")
    accelerator: Accelerator = key("auto, cpu or gpu")
    threads: Count | None = key(THREADS)
