"""manifest.json of a run directory: read whole and with values of the types that the lab writes, or refused in a line.

Whoever reads a manifest may rely on the types below; which fields must be there, each kind of run says.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from lab.base.errors import UserError
from lab.base.files import make_folder, read_text, write_whole
from lab.runs.identity import FORMAT

LARGEST = 2**27  # bytes of a manifest
DEEPEST = 200  # mappings in mappings; a generation of children adds two
STRICT = ConfigDict(strict=True)
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1, lt=2**63)]
Mappings = list[dict[str, Any]]


@with_config(STRICT)
class Origin(TypedDict):
    """Whose weights a child began with, or a derived run reads."""

    name: str
    digest: str
    step: Count
    weights_sha256: str


@with_config(STRICT)
class Proof(TypedDict):
    """sha256 of what a finished run has written: the weights of each checkpoint kept, by step, and metrics.csv."""

    weights: dict[str, str]
    metrics: str


@with_config(STRICT)
class Job(TypedDict):
    """The SLURM job of an attempt."""

    id: str
    cluster: str
    restarts: Count


@with_config(STRICT)
class Code(TypedDict, total=False):
    """The code of an attempt."""

    sha256: str
    commit: str
    changed: bool


@with_config(STRICT)
class Attempt(TypedDict, total=False):
    """One process that trained the run, or the ranks of one."""

    first_step: Positive
    command: str
    job: Job | None
    code: Code
    python: str
    packages: dict[str, str]
    hardware: dict[str, Any]
    kernel: str
    ranks: Positive
    strategy: str
    allowed: list[str]


@with_config(STRICT)
class Corpus(TypedDict):
    """The corpus in an identity."""

    digest: str


@with_config(STRICT)
class Data(TypedDict):
    """The data in an identity."""

    corpus: Corpus


@with_config(STRICT)
class Start(TypedDict):
    """The start of a child in its identity."""

    parent: dict[str, Any]
    step: Count
    data: str


@with_config(STRICT)
class Edit(TypedDict):
    """The last edit in an identity; what else it has are the keys of its method."""

    name: str
    weights: dict[str, str]


@with_config(STRICT)
class Identity(TypedDict, total=False):
    """What of an identity is read by name; that it fits config.yaml, a check of the run tells."""

    data: Data
    tokenizer: Corpus
    scale: dict[str, Any]
    model: dict[str, Any]
    start: Start
    extensions: Mappings
    extension: dict[str, Any]
    edit: Edit


@with_config(STRICT)
class Blocks(TypedDict):
    """The blocks that a finished run was trained on."""

    count: Count
    fingerprint: str


@with_config(STRICT)
class Measured(TypedDict):
    """What the rows of one measure were made with."""

    setting: str
    evaluation: str
    step: Count
    precision: str
    measure: str
    settings: dict[str, Any]
    clusters: str
    code: str
    python: str
    packages: dict[str, str]
    hardware: dict[str, Any]
    kernel: str


@with_config(STRICT)
class EditScores(TypedDict):
    """What an edited run was asked with, and the sha256 of each table of what came of it."""

    asked: dict[str, Any]
    sha256: dict[str, str]


@with_config(STRICT)
class Fields(TypedDict, total=False):
    """What may stand in a manifest; others are let pass."""

    kind: Literal["derived", "edited", "imported"]
    digest: str
    identity: Identity
    state: str
    tokens: Positive
    first_block: Count
    initial_weights: dict[str, str]
    attempts: Annotated[list[Attempt], Field(min_length=1)]
    parent: Origin
    extensions: Mappings
    measured: dict[str, Measured]
    scored: dict[str, str]
    documents: dict[str, dict[str, str]]
    proof: Proof
    blocks: Blocks
    skipped_documents: dict[str, str]
    corpus: dict[str, Any]
    command: str
    written: Annotated[list[Positive], Field(min_length=1)]
    edit_scores: EditScores


FIELDS = TypeAdapter(Fields)


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all."""
    write_whole(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def write_manifest(run: Path, content: dict[str, Any]) -> None:
    """Write manifest.json of a run directory, sealed: with a sha256 of all else that it holds."""
    write_json(run / "manifest.json", content | {"sha256": seal(content)})


def make_results(folder: Path) -> None:
    """Make a folder for tables and pages. Raises UserError as :func:`make_folder`, and for a run: its files are its."""
    if (folder / "manifest.json").exists():
        raise UserError(f"{folder} is a run, or holds a manifest.json: name another folder to write results to")
    make_folder(folder)


def seal(content: dict[str, Any]) -> str:
    """sha256 of a manifest's canonical JSON, the seal itself left out."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_manifest(run: Path) -> dict[str, Any]:
    """The manifest of a run directory. Raises UserError if there is none, it is damaged, of another format, or not as
    it was written."""
    path = run / "manifest.json"
    try:
        content: Any = json.loads(read_text(path, LARGEST))
    except FileNotFoundError:
        raise UserError(
            f"{run} is not a run directory: it has no manifest.json; move it away or choose another folder"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(run, " ".join(str(error).split())[:200]) from None
    if not isinstance(content, dict):
        raise _damaged(run, "it holds no mapping")
    stored = content.get("format", "1, of an earlier version of the lab")
    if stored != FORMAT:
        if not isinstance(stored, int | str):
            raise _damaged(run, "format: it is no number")
        raise UserError(
            f"{run} was made in format {str(stored)[:80]}; this version reads {FORMAT}: train it again, or read it "
            "with the version that made it"
        )
    if _depth(content) > DEEPEST:
        raise _damaged(run, f"it is nested deeper than {DEEPEST}")
    try:
        FIELDS.validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise _damaged(run, f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None
    if content.get("sha256") != seal(content):
        raise _damaged(run, "it is not as it was written: its sha256 differs")
    return content


def _damaged(run: Path, why: str) -> UserError:
    return UserError(f"{run / 'manifest.json'} is damaged ({why}); delete {run} or restore it")


def _depth(content: Any) -> int:
    """How many mappings and lists stand in each other, counted as far as is allowed."""
    depth, level = 0, [content]
    while level and depth <= DEEPEST:
        depth += 1
        inside = [each.values() if isinstance(each, Mapping) else each for each in level]
        level = [value for values in inside for value in values if isinstance(value, Mapping | list)]
    return depth
