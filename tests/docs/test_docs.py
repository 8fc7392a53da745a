"""The pages say what is so: their commands run, their Python runs, their links and paths lead somewhere.

Every line of a ```bash block is run, in a folder of its page that is empty at first, in the form that the first fitting
row of RULES gives it. To write a command of a new kind, add a row. A row that fits no command fails, too. In a page's
folder `runs/A` is a run, `runs/A-temperature-6ce182bf` one derived of it, `runs/B` one that was trained from another,
`read/BIOGRAPHIES` one of people, and `lines.txt` a file of prompts, made when a command needs them. The recipes of
CONTRIBUTING.md are followed in a copy of the tree.
"""

import functools
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from commands import FORKED, forked
from markdown_it import MarkdownIt
from markdown_it.token import Token
from nbclient import NotebookClient

from lab.experiment.compose import settings_of
from lab.experiment.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    page for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))] if page.exists()
]
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
LINKING_PAGES = [*PAGES, ROOT / "docs" / "pilot" / "report.md"]
README_LINES = 150


# ------------------------------------------------------------------------------------------ how a command is run ------


def as_it_is(command: str) -> list[str]:
    return [command]


def planned(command: str) -> list[str]:
    """lab.train composes and checks every run, and trains none."""
    return [command if re.search(r" (plan=\S+|--help)( |$)", command) else f"{command} plan=true"]


# Trained once, in $READY, and copied into each page's folder.
MAKE_A_RUN = (
    'test -d "$READY/A" || { cd "$READY" && python -m lab.train experiment=smoke model=rope measure=none logger=csv'
    " runs=made && mv made/* A && printf 'The state\\nMy fellow\\n' > lines.txt; }"
)
COPY_IT = 'test -d runs/A || { mkdir -p runs && cp -r "$READY/A" runs/ && cp "$READY/lines.txt" .; }'
# The end of its name depends on the machine: on whether it is fast at bfloat16.
DERIVE_ONE = (
    "test -d runs/A-temperature-6ce182bf || { python -m lab.extend run=runs/A extension=temperature"
    " extension.temperature=1.2 && { test -d runs/A-temperature-6ce182bf ||"
    " mv runs/A-temperature-* runs/A-temperature-6ce182bf; }; }"
)


EDIT_ONE = (
    "test -d runs/A-forward_shift-1a2b3c4d || { python -m lab.edit run=runs/A method=forward_shift method.layer=2"
    " method.step=300 prompt='The state of the union' 'target= is' && mv runs/A-forward_shift-*"
    " runs/A-forward_shift-1a2b3c4d; }"
)


def on_an_edited_run(command: str) -> list[str]:
    return [MAKE_A_RUN, COPY_IT, EDIT_ONE, command]


def on_a_run(command: str) -> list[str]:
    return [MAKE_A_RUN, COPY_IT, command]


def on_a_derived_run(command: str) -> list[str]:
    return [MAKE_A_RUN, COPY_IT, DERIVE_ONE, command]


def trained_on(command: str) -> list[str]:
    derive = [DERIVE_ONE] if "runs/A-" in command else []
    return [MAKE_A_RUN, COPY_IT, *derive, f"{command} measure=none"]


def named(command: str) -> list[str]:
    """The tests are there."""
    return [command.replace("python -m pytest", "ls -d")]


def asked_for_help(command: str) -> list[str]:
    """Hydra composes the overrides before it helps; the options of the others must be among those told."""
    return [f"{command} --help"]


def asked_for_help_of_one(command: str) -> list[str]:
    """The first run of a sweep."""
    return asked_for_help(re.sub(r"(?<= )(\w+=[^, ]+),\S+", r"\1", command.replace(" -m ", " ")))


def asked_for_help_and_composed(command: str) -> list[str]:
    """The same, for commands whose keys are those of lab.train: it composes them."""
    keys = [word for word in command.split() if re.match(r"[\w./]+=", word)]
    return asked_for_help(command) + ([f"python -m lab.train {' '.join(keys)} --help"] if keys else [])


def of_few_vectors(command: str) -> list[str]:
    """On a run of seconds, of RoPE, with vectors of few windows."""
    if "lab.extend " in command:
        few = "vectors.windows=8 vectors.longest=4 search.documents=2 extension.force=true"
    else:
        few = "study.vectors.windows=8 study.vectors.longest=4"
    return (on_a_derived_run if "runs/A-" in command else on_a_run)(f"{command} {few}")


def searched_a_little(command: str) -> list[str]:
    """Few candidates."""
    few = ("population=4", "mutants=1", "crossovers=1", "parents=2", "generations=1")
    return on_a_run(" ".join([command, *(f"search.evolution.{each}" for each in few), "search.processes=1"]))


MAKE_A_CHILD = (
    "test -d runs/B || { python -m lab.extend run=runs/A extension=position_interpolation extension.factor=4 &&"
    ' python -m lab.train start=run start.run="$(echo runs/A-position_interpolation-*)" scale.context=256'
    " scale.tokens=2048 scale.warmup_steps=1 measure=none logger=csv runs=made && mv made/* runs/B; }"
)


def searched_a_little_on_a_child(command: str) -> list[str]:
    """Of a run that was trained with a rule."""
    return [MAKE_A_RUN, COPY_IT, MAKE_A_CHILD, searched_a_little(command)[-1]]


def tuned_a_little(command: str) -> list[str]:
    """From the derived run that there is, a few steps."""
    named = re.sub(r"start\.run=runs/A-\S+", "start.run=runs/A-temperature-6ce182bf", command)
    few = "scale.context=128 scale.tokens=2048 scale.warmup_steps=1 trainer.keep_weights=[1]"
    return on_a_derived_run(f"{named} {few}")


def summarising_a_little(command: str) -> list[str]:
    """From the derived run that there is, a step on short reports."""
    named = re.sub(r"start\.run=runs/A-\S+", "start.run=runs/A-temperature-6ce182bf", command)
    few = "scale.context=512 scale.micro_batch=2 scale.tokens=2048 scale.warmup_steps=1"
    short = (
        "data.corpus.longest_characters=256 measure.summary_facts.documents=1 measure.summaries.documents=1 runs=read"
    )
    return on_a_derived_run(f"{named} {few} {short}")


# Not among runs/*: documents of 63 tokens are too short for what is asked of all of them.
READ_BIOGRAPHIES = (
    "test -d read/BIOGRAPHIES || { python -m lab.train experiment=biographies data.corpus.people=20 scale.tokens=10240"
    " scale.warmup_steps=1 scale.validation_blocks=2 measure=none runs=read && mv read/* read/BIOGRAPHIES; }"
)


def of_biographies(command: str) -> list[str]:
    """A child of a decoder that has read a little of 20 people, for a few steps."""
    few = "scale.tokens=2048 measure=none"
    return [READ_BIOGRAPHIES, f"{command.replace('runs/BIOGRAPHIES', 'read/BIOGRAPHIES')} {few}"]


def probed_a_little(command: str) -> list[str]:
    """People of whom a decoder has read a little, for a step where a probe takes steps."""
    asked = re.sub(r"runs=\S+", "runs=read/BIOGRAPHIES", re.sub(r" study\.steps=\S+", "", command))
    return [
        READ_BIOGRAPHIES,
        asked if re.search("study=(layer_probe|extractability)", asked) else f"{asked} study.steps=1",
    ]


def as_one_process(command: str) -> list[str]:
    """What is trained, without what starts the processes."""
    arguments = re.split(r"slurm/train\.sbatch|-m lab\.train", command)[1]
    return [f"python -m lab.train{arguments} --help"]


def as_one_part(command: str) -> list[str]:
    """What each task of the array writes."""
    return asked_for_help_and_composed(f"python -m lab.prepare blocks{command.split('prepare.sbatch')[1]}")


def told_by_make(command: str) -> list[str]:
    """make prints the target's commands, and runs none."""
    return [re.sub(r"^make\b", "make --dry-run", command)]


def evaluated(command: str) -> list[str]:
    """bash forgets the exit code of a command inside eval."""
    return [re.sub(r'^eval "\$\((.*)\)"$', r'made=$(\1) && test -n "$made" && eval "$made"', command)]


def not_run(command: str) -> list[str]:
    return []


class Rule(NamedTuple):
    pattern: str  # a regular expression that is looked for in the command
    form: Callable[[str], list[str]]
    reason: str


LAB = r"^(?:\w+=\S+ )*(?:python -m lab\.|lab )"
RULES = [
    Rule(r"^pip install ", not_run, "needs a package index"),
    Rule(r"^sbatch .*sweep\.sbatch ", not_run, "needs SLURM; what it trains stands in the plan"),
    Rule(r"hydra/launcher=slurm", not_run, "needs SLURM"),
    Rule(r"^sbatch .*train\.sbatch ", as_one_process, "needs SLURM"),
    Rule(r"^sbatch .*prepare\.sbatch ", as_one_part, "needs SLURM"),
    Rule(r"^torchrun ", as_one_process, "needs eight GPUs"),
    Rule(r'^eval "\$\(lab completion', evaluated, "takes a second and needs nothing"),
    Rule(r"^python -m pytest ", named, "is dear, and run by make test"),
    Rule("runs/IMPORTED|TinyLlama", asked_for_help, "needs a model that is far away"),
    Rule(LAB + "import_model ", asked_for_help, "needs models of the reader's own"),
    Rule(LAB + "evaluate ", asked_for_help, "needs questions that are far away"),
    Rule(LAB + "export .*format=gguf", asked_for_help, "needs a tokenizer that GGUF has a word for"),
    Rule(LAB + "train .*experiment=rope_finetune", tuned_a_little, "takes an hour on the pilot's runs"),
    Rule(LAB + "train .*experiment=summaries", summarising_a_little, "takes twenty minutes on the pilot's runs"),
    Rule(LAB + ".*runs/A-forward_shift", on_an_edited_run, "takes seconds on a run of seconds"),
    Rule(r"^echo .* > facts\.jsonl$", as_it_is, "takes no time"),
    Rule(LAB + "extend .*runs/B ", searched_a_little_on_a_child, "takes hours with the published numbers"),
    Rule(LAB + "extend .*extension=longrope", searched_a_little, "takes hours with the published numbers"),
    Rule(LAB + "train .*data.corpus.paraphrases=", asked_for_help, "needs what a model has written"),
    Rule(LAB + "train .*experiment=questions", of_biographies, "takes minutes of 500 people"),
    Rule(LAB + "train .*start=run", trained_on, "takes seconds on a run of seconds"),
    Rule(LAB + "extend .*vector_replacement", of_few_vectors, "takes minutes with all windows"),
    Rule(LAB + "analyze .*study=(formation|beyond|interpolation)", of_few_vectors, "takes minutes with all windows"),
    Rule(
        LAB + "analyze .*study=((soft|layer|p|q)_probe|extractability)",
        probed_a_little,
        "takes minutes on decoders of minutes",
    ),
    Rule(LAB + "(extrapolate|compare) .*runs/A[*]", on_a_derived_run, "takes seconds on runs of seconds"),
    Rule(LAB + "generate .*runs/A-", on_a_derived_run, "takes seconds on a run of seconds"),
    Rule(
        f"({LAB}|[|] python -m lab[.])(generate|extend|edit|analyze|export|lens) ",
        on_a_run,
        "takes seconds on a run of seconds",
    ),
    Rule(LAB + "train .*experiment=smoke", as_it_is, "takes seconds and needs nothing"),
    Rule(LAB + "train .*data=redpajama", asked_for_help, "needs the manifest of a corpus that is far away"),
    Rule(LAB + "train -m .*data=files", asked_for_help_of_one, "needs files of the reader's own"),
    Rule(LAB + "train .*data=files", asked_for_help, "needs files of the reader's own"),
    Rule(LAB + "train ", planned, "is dear; a plan checks it"),
    Rule(LAB + "plan .*bench=", asked_for_help, "needs what a bench of an hour has written"),
    Rule(LAB + "plan ", as_it_is, "takes a second and needs nothing"),
    Rule(LAB + "(bench|prepare) ", asked_for_help_and_composed, "is dear, or needs the network"),
    Rule(LAB + "claims --output", as_it_is, "takes seconds and needs nothing"),
    Rule(LAB + "claims ", asked_for_help, "needs the numbers of a comparison"),
    Rule(LAB + "(compare|extrapolate|status) ", asked_for_help, "needs trained runs"),
    Rule(r"^make ", told_by_make, "is dear"),
]
# (page, text of the block, reason)
PYTHON_NOT_RUN: list[tuple[str, str, str]] = []


def rule_of(command: str) -> Rule | None:
    """The first that fits."""
    return next((rule for rule in RULES if re.search(rule.pattern, command)), None)


@functools.cache
def run(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """One line of shell, as somebody types it who has activated the environment; equal ones run once."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment["COLUMNS"] = "200"
    if not (folder / "lab").exists():  # with the lab that is installed, not with one of the folder's own
        environment |= forked() | {"PATH": f"{FORKED}{os.pathsep}{environment['PATH']}"}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", line],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def complaint(command: str, folder: Path) -> str:
    """What is wrong with a command of the pages; empty if nothing is."""
    rule = rule_of(command)
    if rule is None:
        return "no row of RULES fits it: add one"
    for line in rule.form(command):
        result = run(line, folder)
        if result.returncode != 0:
            return f"exit code {result.returncode}\n{result.stdout}{result.stderr}"
        if line.endswith(" --help"):
            unknown = set(re.findall(r" (--[\w-]+)", line)) - {*re.findall(r"--[\w-]+", result.stdout), "--help"}
            if "\nKeys (key=value)" in result.stdout:  # it tells the keys as given, right or wrong
                told = re.findall(r"^  ([\w./]+)[=:]", result.stdout, re.MULTILINE)
                unknown |= set(re.findall(r" '?([a-z][\w./]*)=", line)) - set(told)
            if unknown:
                return f"its --help does not tell of {', '.join(sorted(unknown))}"
    return ""


# ---------------------------------------------------------------------------------------- what stands in a page -------


@functools.cache
def tokens_of(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> Iterator[tuple[int, str]]:
    """(line of the page, content) of every fenced block in one of these languages."""
    for token in tokens_of(page):
        if token.type == "fence" and token.map and token.info.strip() in languages:
            yield token.map[0] + 2, token.content


def commands_in(block: str) -> Iterator[str]:
    """The commands of a block of shell, one a line unless the line ends with a backslash, without comments."""
    for line in re.sub(r"\s*\\\n\s*", " ", block).splitlines():
        command = re.sub(r"(^|\s+)#.*$", "", line).strip()
        if command:
            yield command


def commands() -> Iterator[tuple[Path, str]]:
    """Every command, once; but one that is run as it is, once on each page."""
    seen = set()
    for page in PAGES:
        for _, block in blocks(page, "bash"):
            for command in commands_in(block):
                rule = rule_of(command)
                key = (command, page if rule and rule.form is as_it_is else None)
                if key not in seen:
                    seen.add(key)
                    yield page, command


def python_of(page: Path) -> str:
    """The ```python blocks of a page as one script, each at the page's own line numbers; empty if there is none."""
    lines: list[str] = []
    for line, block in blocks(page, "python"):
        if not recipe(block) and not any(name(page) == where and text in block for where, text, _ in PYTHON_NOT_RUN):
            lines += [""] * (line - 1 - len(lines)) + block.splitlines()
    return "\n".join(lines)


def recipe(block: str) -> re.Match[str] | None:
    """The file that a block of CONTRIBUTING.md is to be put into, and where: a new one, before a class, at the end."""
    return re.match(r"# ((?:lab|conf)/\S+?\.(?:py|yaml))(?:, before (\w+)|, (at the end))?\n", block)


def follow_recipes(tree: Path) -> None:
    """Do in a copy of the tree what CONTRIBUTING.md says."""
    for _, block in blocks(CONTRIBUTING, "python", "yaml"):
        found = recipe(block)
        assert found, f"begin the block with the name of its file: {block}"
        path, text = tree / found[1], block[found.end() :]
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        assert bool(before) == bool(found[2] or found[3]), f"{path}: a new file, before a class, or at the end?"
        if found[2]:
            (start,) = re.finditer(rf"^(@.*\n)*class {found[2]}\b", before, re.MULTILINE)
            text = f"{before[: start.start()]}{text}\n\n{before[start.start() :]}"
        elif found[3]:
            text = f"{before}\n\n{text}"
        path.write_text(text, encoding="utf-8")


def inline(page: Path, *kinds: str) -> Iterator[Token]:
    """Links, pictures, code: what stands inside the lines of a page."""
    for token in tokens_of(page):
        yield from (child for child in token.children or () if child.type in kinds)


def links(page: Path) -> Iterator[str]:
    """Targets of links and pictures that are not addresses of the web."""
    for token in inline(page, "link_open", "image"):
        target = str(token.attrs.get("href") or token.attrs.get("src"))
        if not urlsplit(target).scheme:
            yield target


def followed(page: Path, target: str) -> Path:
    """The file that a link leads to."""
    path = unquote(urlsplit(target).path)
    return (page.parent / path).resolve() if path else page


@functools.cache
def anchors(page: Path) -> frozenset[str]:
    """What GitHub calls the headings of a page."""
    found: list[str] = []
    for token, after in itertools.pairwise(tokens_of(page)):
        if token.type == "heading_open":
            text = "".join(child.content for child in after.children or ())
            anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            count = sum(re.fullmatch(rf"{re.escape(anchor)}(-\d+)?", other) is not None for other in found)
            found.append(f"{anchor}-{count}" if count else anchor)
    return frozenset(found)


def paths_in_code(page: Path) -> Iterator[str]:
    """Paths of the repository that stand in backticks; what is in capitals (conf/GROUP/) the reader is to fill in."""
    for token in inline(page, "code_inline"):
        for word in token.content.split():
            to_fill_in = any(part.isupper() and part.isalpha() for part in word.split("/"))
            if re.fullmatch(r"(lab|conf|tests|docs|slurm)/[\w./*-]*", word) and not to_fill_in:
                yield word


# ------------------------------------------------------------------------------------------------------ commands ------


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """The folder in which the commands of a page are run: an empty one, or a tree in which its recipes are followed."""
    os.environ["READY"] = str(tmp_path_factory.mktemp("ready"))

    @functools.cache
    def make(page: Path) -> Path:
        folder = tmp_path_factory.mktemp(page.stem)
        if page == CONTRIBUTING:
            for name in ("lab", "conf", "tests", "data"):
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            shutil.copy(ROOT / "pyproject.toml", folder)
            follow_recipes(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone has: no environment, no runs."""
    folder = tmp_path_factory.mktemp("clone")
    for entry in ROOT.iterdir():
        if entry.name not in (".git", ".venv", "runs"):
            (folder / entry.name).symlink_to(entry)
    return folder


@pytest.mark.parametrize(
    ("page", "command"),
    [pytest.param(*each, id=f"{name(each[0])}: {each[1]}") for each in commands()],  # see conftest.py
)
def test_a_command_of_the_pages_runs(page: Path, command: str, folder_of: Callable[[Path], Path], clone: Path) -> None:
    wrong = complaint(command, clone if command.startswith("make ") else folder_of(page))
    assert not wrong, wrong


@pytest.mark.parametrize(
    "command",
    [
        "python -m lab.train no_such_key=1",
        "python -m lab.train data=files data.corpus.no_such_key=1",
        "python -m lab.plan gpus=8 no_such_key=1",
        "python -m lab.prepare blocks scale=small no_such_key=1",
        "python -m lab.bench attention --no-such-option 1",
        'eval "$(lab completion no_such_shell)"',
        "make no_such_target",
    ],
)
def test_a_command_with_a_mistake_would_be_noticed(command: str, tmp_path: Path, clone: Path) -> None:
    assert "no_such" in complaint(command, clone if command.startswith("make ") else tmp_path).replace("-", "_")


def test_every_rule_fits_a_command_of_the_pages() -> None:
    used = {rule_of(command) for _, command in commands()}
    unused = [rule.pattern for rule in RULES if rule not in used]
    assert not unused, f"no command of the pages needs them any more: {unused}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_stand_in_bash_blocks_only(page: Path) -> None:
    others = [token for token in tokens_of(page) if token.type in ("fence", "code_block")]
    hidden = [
        line
        for token in others
        if token.info.strip() not in ("bash", "python")
        for line in token.content.splitlines()
        if re.match(rf"\s*\$ |{LAB}|make |sbatch |pip |torchrun ", line)
    ]
    assert not hidden, f"write them in a block that begins with ```bash: {hidden}"


# -------------------------------------------------------------------------------------------------------- Python ------


@pytest.mark.parametrize("page", [page for page in PAGES if python_of(page)], ids=name)
def test_the_python_of_a_page_runs_after_the_runs_that_the_page_has_trained(
    page: Path, folder_of: Callable[[Path], Path]
) -> None:
    for where, command in commands():
        rule = rule_of(command)
        if where == page and rule is not None and rule.form is as_it_is:
            assert not complaint(command, folder_of(page))
    script = folder_of(page) / f"blocks_of_{page.stem.replace('-', '_')}.py"
    script.write_text(python_of(page), encoding="utf-8")
    result = run(f"python {script.name}", folder_of(page))
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_exception_for_a_python_block_fits_one() -> None:
    unused = [
        (where, text)
        for where, text, _ in PYTHON_NOT_RUN
        if not any(name(page) == where and text in block for page in PAGES for _, block in blocks(page, "python"))
    ]
    assert not unused


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/*.ipynb")), ids=name)
def test_a_notebook_runs_and_is_stored_with_what_it_shows(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
    assert path.stat().st_size < 100_000
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()


# ---------------------------------------------------------------------------------------------- links and layout ------


@pytest.mark.parametrize("page", LINKING_PAGES, ids=name)
def test_every_link_and_picture_leads_to_a_file_of_the_repository_and_to_a_heading(page: Path) -> None:
    broken = []
    for target in links(page):
        path, anchor = followed(page, target), urlsplit(target).fragment
        if not path.is_relative_to(ROOT) or not path.exists():
            broken.append(f"{target}: there is no such file")
        elif anchor and path.suffix == ".md" and anchor not in anchors(path):
            broken.append(f"{target}: there is no such heading")
    assert not broken


@pytest.mark.parametrize("page", LINKING_PAGES, ids=name)
def test_every_path_in_backticks_exists(page: Path) -> None:
    missing = [path for path in paths_in_code(page) if not any(ROOT.glob(path.rstrip("/")))]
    assert not missing


NUMBERS = {"an": "1", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "eight": "8", "ten": "10"}
LASTS = r"about ([\w.]+) (minute|hour)s?"


def rules_of_make() -> str:
    return "\n".join(path.read_text() for path in [ROOT / "Makefile", *sorted(ROOT.glob("docs/*.mk"))])


@pytest.mark.parametrize("size", ["", "SMOKE=1"], ids=["whole", "smoke"])
@pytest.mark.parametrize("target", re.findall(r"^([a-z-]+):.*## ", rules_of_make(), re.MULTILINE))
def test_all_that_a_target_of_make_needs_is_known_to_it(target: str, size: str, clone: Path) -> None:
    told = run(f"make --dry-run {target} {size}", clone)
    assert told.returncode == 0, told.stdout + told.stderr


def test_a_target_of_make_is_said_to_last_as_long_wherever_it_is_told() -> None:
    told: dict[str, set[tuple[str, str]]] = {}
    for target, lasts in re.findall(r"^([a-z-]+):.*## .*?\((.*)\)$", rules_of_make(), re.MULTILINE):
        told.setdefault(target, set()).update(re.findall(LASTS, lasts))
    for page in PAGES:
        text = " ".join(page.read_text(encoding="utf-8").split())
        for target, count, unit in re.findall(rf"`make ([a-z-]+)`[^`.;]*?{LASTS}", text):
            told.setdefault(target, set()).add((count, unit))
    assert len([each for each in told.values() if each]) >= 6
    assert {("45", "minute")} == told["table"]
    for target, lasts in told.items():
        assert len({(NUMBERS.get(count, count), unit) for count, unit in lasts}) < 2, (target, lasts)


def test_a_smaller_size_that_a_page_offers_is_one_that_trains() -> None:
    offered = [
        (name(page), span.split())
        for page in PAGES
        for span in re.findall(r"`((?:[\w.]+=\S+ ?)+)`", page.read_text(encoding="utf-8"))
        if "scale.tokens=" in span
    ]
    assert "start.md" in {Path(page).name for page, _ in offered}
    for page, words in offered:
        sizes = [word for word in words if word.startswith("scale.")]
        scale = settings_of("train", TrainSettings, sizes).scale
        assert scale.warmup_steps < scale.tokens // scale.batch_tokens, (page, words)


def test_every_page_is_reached_from_the_readme() -> None:
    reached, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page not in reached and page.suffix == ".md" and page.exists():
            reached.add(page)
            ahead += [followed(page, target) for target in links(page)]
    assert not [name(page) for page in ROOT.glob("docs/**/*.md") if page not in reached]


def test_the_readme_is_a_front_door() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < README_LINES


def test_docs_holds_no_svg() -> None:
    assert not [name(path) for path in ROOT.glob("docs/**/*.svg")]


@pytest.mark.parametrize("report", sorted(ROOT.glob("docs/**/*.html")), ids=name)
def test_a_report_needs_no_other_file(report: Path) -> None:
    elsewhere = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            targets = [value or "" for key, value in attrs if key in ("href", "src")]
            elsewhere.extend(target for target in targets if not target.startswith(("data:", "#")))

    Reader().feed(report.read_text(encoding="utf-8"))
    assert not elsewhere
