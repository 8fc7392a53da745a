"""Keys of the commands. No torch here."""

from typing import Annotated, Literal

from pydantic import Field

from lab.base.parts import one_of, several_of
from lab.base.settings import Count, Positive, Seed, Settings, Share, Text, Word, key
from lab.data.settings import EvaluationSettings
from lab.runs.settings import RunSettings

Paths = Text | list[Text]
Accelerator = Literal["auto", "cpu", "gpu"]
THREADS = "that each process computes with on the CPU; null: as OMP_NUM_THREADS says, else one a core"


class ScoringSettings(Settings):
    """How long the texts are that are scored, and how many."""

    longest: Count = key("contexts C in the longest text")
    documents: Count = key("scored by each measure, at most: the first that are long enough")
    segments: Count = key("stretches taken from each document, at most")
    batch_tokens: Count = key("tokens read together, at most; more is faster until memory ends")
    dtype: Literal["float32", "bfloat16"] = key(
        "that the decoder computes in while it is scored, whatever it trained in"
    )


class ResumeSettings(Settings):
    """What may differ when a run is continued."""

    allow: list[Literal["code", "packages", "hardware", "ranks"]] = key(
        "what may differ when a run is continued: code, packages, hardware, ranks; it is written down"
    )


class TrainSettings(RunSettings):
    """lab.train."""

    evaluation: EvaluationSettings
    logger: one_of("logger")  # type: ignore[valid-type]
    measure: several_of("measure")  # type: ignore[valid-type]
    scoring: ScoringSettings
    resume: ResumeSettings
    threads: Count | None = key(THREADS)
    runs: Text = key("folder that holds the run directories")
    overwrite: bool = key("true: delete the run of the same name, if there is one, and train it again")
    plan: bool | Annotated[str, Field(pattern=r"\.txt$")] = key(
        "true: train nothing; print what would be run; a .txt file: and write it there, for slurm/sweep.sbatch"
    )
    compare: Word | None = key("a name: after a multirun compare its runs by lab.compare, into <runs>/<name>")

    def of_run(self) -> RunSettings:
        """What is the run's own."""
        return RunSettings.check(
            {name: value for name, value in self.plain().items() if name in RunSettings.model_fields}
        )


class ScoreSettings(Settings):
    """lab.extrapolate."""

    evaluation: EvaluationSettings
    measure: several_of("measure")  # type: ignore[valid-type]
    scoring: ScoringSettings
    runs: Paths = key("run directories or patterns: runs=[runs/a,runs/b] or runs='runs/*'")
    checkpoint: Count | Literal["last"] = key("last of a finished run, or the number of an optimiser step")
    accelerator: Accelerator = key("auto, cpu or gpu")
    threads: Count | None = key(THREADS)


class CompareSettings(Settings):
    """lab.compare."""

    evaluation: EvaluationSettings
    measure: several_of("measure")  # type: ignore[valid-type]
    scoring: ScoringSettings
    runs: Paths = key("run directories or patterns: runs=[runs/a,runs/b] or runs='runs/*'")
    factor: Text = key("what the runs may differ in: a group or key of their configuration")
    reference: Text | None = key("variant that the others are held against; null: that of the first run")
    checkpoint: Count | Literal["last"] = key("optimiser step at which all runs are read; last: the last of each")
    allow: list[Text] = key("keys or groups that may differ beside the factor; told on every table and picture")
    output: Text = key("folder of report.html, report.md, tables and pictures")
    margin_nats: Positive = key("by how much a loss may exceed that at context C before the context counts as too long")
    accelerator: Accelerator = key("auto, cpu or gpu")
    threads: Count | None = key(THREADS)
    match: Literal["validation_loss_nats"] | None = key(
        "validation_loss_nats: of each run the first kept step at or below the worst final loss of its seed's runs, in "
        "place of the last: descriptive, for runs are read at different steps"
    )
    documents: Text | None = key(
        "documents.csv.gz of an earlier comparison: its intervals and verdicts again, from it alone; no runs are read"
    )
    noise: Text | None = key(
        "a run directory: train the same configuration with other seeds, and one seed twice; compares nothing"
    )
    noise_seeds: list[Seed] = key("of these")


class GenerateSettings(Settings):
    """lab.generate."""

    run: Text = key("directory of a run, or of one derived of it")
    prompt: str | None = key("text to continue, taken literally; null: prompts, or standard input")
    prompts: Text | None = key("a file with one prompt a line, continued into the table to")
    to: Text | None = key("the .csv table of what prompts were continued with")
    tokens: int = key("generated at most; fewer if the document ends", ge=1, le=1_000_000)
    greedy: bool = key("true: always the most likely token")
    temperature: Positive = key("divides the logits before a token is drawn")
    top_p: Share = key("of the probability: drawn from the fewest tokens that have it together")
    seed: Seed = key("of the draws")
    checkpoint: Count | Literal["last"] = key("last, or the number of an optimiser step")
    accelerator: Accelerator = key("auto, cpu or gpu")
    threads: Count | None = key(THREADS)


class ImportSettings(Settings):
    """lab.import_model."""

    source: Text = key(
        "a folder with config.json and weights, a .gguf file, or ORGANISATION/NAME[@REVISION] of the hub"
    )
    model: Text | None = key(
        "how its weights are read: rope, nope, alibi, or window_ before one of these; null: as they were trained"
    )
    window: Count | None = key("keys that a query sees, itself included, of a model=window_...; null: the source's")
    context: Annotated[int, Field(ge=2)] | None = key(
        "C in tokens, beyond which it is scored; null: the longest position that the source says it was trained for"
    )
    tokenizer: Text | None = key("a tokenizer.json; null: the source's")
    end_of_document: Text | None = key("token that is put after each document; null: the source's end of sequence")
    kernel: Annotated[str, Field(min_length=1)] = key("attention kernel: auto, reference, sdpa, banded, ...")
    compute_dtype: Literal["float32", "bfloat16"] = key("of activations and products where nothing else says it")
    threads: Count | None = key(THREADS)
    runs: Text = key("folder that holds the run directories")


class ExportSettings(Settings):
    """lab.export."""

    run: Text = key("directory of a run, of one derived of it, or of an imported model")
    to: Text = key("folder to make, or with format=gguf the file")
    format: Literal["huggingface", "gguf", "peft"] = key(
        "huggingface: a folder for transformers; gguf: a file for llama.cpp; peft: of a run with adapter=lora, its "
        "updates alone, a folder for PEFT"
    )
    checkpoint: Count | Literal["last"] = key("last of a finished run, or the number of an optimiser step")


class EvaluateSettings(Settings):
    """lab.evaluate."""

    run: Paths = key("directory of a run, of one derived of it, or of an imported model; or a list or pattern of them")
    tasks: Paths = key("names of tasks or groups of the harness: tasks=[arc_easy,piqa]")
    folder: Text | None = key("folder with tasks of your own, in the harness's YAML")
    shots: Annotated[int, Field(ge=0)] | None = key("examples before each question; null: as the task has it")
    limit: Count | None = key("questions of each task, at most: the first")
    longest: Count | None = key("tokens that a request may have; null: the model's context C")
    output: Text | None = key("folder for a table of all answers, for lab.claims --documents")
    lengths: list[Count] = key(
        "tokens of the texts that a task makes up, such as those of RULER; []: as the task has it"
    )
    batch_tokens: Count = key("tokens read together, at most; more is faster until memory ends")
    dtype: Literal["float32", "bfloat16"] = key("that the decoder computes in, whatever it trained in")
    checkpoint: Count | Literal["last"] = key("last of a finished run, or the number of an optimiser step")
    accelerator: Accelerator = key("auto, cpu or gpu")
    threads: Count | None = key(THREADS)
