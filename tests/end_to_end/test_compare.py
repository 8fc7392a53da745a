"""From finished runs to a report, and every way in which a comparison is refused, as a user meets them."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from commands import lab, the_one_line

from lab.base.errors import UserError
from lab.experiment.comparison import compare
from lab.experiment.compose import settings_of
from lab.experiment.scoring import extrapolate
from lab.experiment.settings import CompareSettings, ScoreSettings
from lab.runs.identity import FORMAT, digest
from lab.runs.manifest import seal, write_manifest

SMOKE = ("experiment=smoke", "measure=none", "logger=csv")
SHORT = ("scoring.longest=4", "scoring.segments=1")
EVALUATE = ("runs=runs/*", "scoring.longest=4", "scoring.segments=1")


COMMANDS = {
    "compare": lambda overrides: compare(settings_of("compare", CompareSettings, overrides), "a command"),
    "extrapolate": lambda overrides: extrapolate(settings_of("extrapolate", ScoreSettings, overrides)),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/: two variants of two seeds each."""
    folder = tmp_path_factory.mktemp("trained")
    result = lab("train", "-m", *SMOKE, "model=rope,window_nope", "seed=0,1", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def compared(trained: Path) -> Path:
    """The same folder with comparison/: made by one command from runs that were not scored."""
    result = lab("compare", "runs=runs/*", "reference=rope", *SHORT, cwd=trained)
    assert result.returncode == 0, result.stderr
    assert "equal in all runs of a seed: blocks.fingerprint, initial_weights" in result.stdout.replace("\n", " ")
    assert "comparison/report.html" in result.stdout
    return trained


@pytest.fixture
def copied(compared: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(compared / "runs", tmp_path / "runs")
    return tmp_path


def refused(command: str, *overrides: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The line with which a command is refused, without the seconds that starting one costs."""
    monkeypatch.chdir(folder)
    with pytest.raises(UserError) as error:
        COMMANDS[command](overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_one_command_makes_tables_pictures_and_pages(compared: Path) -> None:
    folder = compared / "comparison"
    html, markdown = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    for name in ("loss_by_position", "truncated_perplexity", "context_gain", "copy", "copy_map", "excess"):
        assert f"held_out_{name}.png" in markdown
        assert (folder / f"held_out_{name}.png").stat().st_size > 4000
    assert html.count("data:image/png;base64,") == markdown.count("![")
    assert not re.search(r"""(src|href)=["']?(https?:|//|file:)""", html)
    titles = re.findall(r"<h2 id=[^>]*>([^<]*)", html)
    assert titles[:3] == ["In short", "Control", "Verdicts"]
    assert titles[-1] == "How this was made"
    assert re.findall(r'<a href="#(section-\d+)">', html) == re.findall(r'<h2 id="(section-\d+)"', html)
    folded = html.partition('<h2 id="section-3"')[2].partition("<h2")[0]
    assert folded.index("<details>") < folded.index("<table")  # the verdicts of every length
    matrix = html.partition("In short")[2].partition("</table>")[0]
    assert {"rope", "window_nope"} <= set(re.findall(r"<td>([a-z_]+)</td>", matrix))
    differences = table(folder / "differences.csv")
    assert {row["variant"] for row in differences} == {"window_nope"}
    assert {row["seeds"] for row in differences} == {"2"}
    assert all("window_nope" in row["verdict"] for row in differences)
    kinds = {row["key"]: row["kind"] for row in table(folder / "control.csv")}
    assert kinds["model.position.name"] == "factor"
    assert kinds["optimizer.learning_rate"] == "equal"
    assert kinds["blocks.fingerprint"] == "seed"
    assert {row["seed"] for row in table(folder / "seeds.csv")} == {"0", "1"}


def test_a_comparison_publishes_the_numbers_that_its_intervals_are_made_from(compared: Path, tmp_path: Path) -> None:
    published = compared / "comparison" / "documents.csv.gz"
    again = lab("compare", f"documents={published}", "reference=rope", "output=again", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    for name in ("differences.csv", "estimates.csv", "seeds.csv", "effective_context.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (compared / "comparison" / name).read_bytes(), name


def test_runs_are_compared_at_equal_validation_loss_and_every_page_says_so(tmp_path: Path) -> None:
    kept = ("scale.tokens=16384", "trainer.keep_weights=[validation]")
    result = lab("train", "-m", *SMOKE, *kept, "model=rope,nope", "seed=0", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    matching = ("match=validation_loss_nats", "measure=excess", "output=matched")
    result = lab("compare", "runs=runs/*", "reference=rope", *SHORT, *matching, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = {row["variant"]: row for row in table(tmp_path / "matched" / "matched.csv")}
    assert {name: float(row["matched_nats"]) for name, row in rows.items()} == {
        "rope": pytest.approx(float(rows["nope"]["matched_nats"])),
        "nope": pytest.approx(float(rows["rope"]["matched_nats"])),
    }
    for name, row in rows.items():
        (run,) = tmp_path.glob(f"runs/{name}-*")
        losses = {int(each["step"]): each["validation_loss_nats"] for each in table(run / "metrics.csv")}
        assert float(losses[int(row["step"])]) == float(row["validation_loss_nats"]) <= float(row["matched_nats"])
        scored = {int(each["step"]) for each in table(run / "scores.csv")}
        assert scored == {int(row["step"])}
    for page in ("report.html", "report.md"):
        told = " ".join((tmp_path / "matched" / page).read_text().split())
        assert "the runs have seen different numbers of tokens" in told


def test_what_is_scored_is_not_scored_again_and_the_report_is_the_same(compared: Path) -> None:
    before = {path: path.read_bytes() for path in (compared / "comparison").iterdir()}
    scores = {path: path.stat().st_mtime_ns for path in compared.glob("runs/*/scores.csv")}
    assert len(scores) == 4
    assert lab("compare", "runs=runs/*", "reference=rope", *SHORT, cwd=compared).returncode == 0
    assert {path: path.read_bytes() for path in (compared / "comparison").iterdir()} == before
    assert {path: path.stat().st_mtime_ns for path in compared.glob("runs/*/scores.csv")} == scores


def test_the_report_opens_without_errors_and_with_all_its_pictures(compared: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None and not os.environ.get("CI_REQUIRES_CHROMIUM"):
        pytest.skip("needs chromium (apt install chromium)")
    from playwright.sync_api import sync_playwright

    told = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: told.append(request.url) if request.url.startswith("http") else None)
        page.goto((compared / "comparison" / "report.html").as_uri())
        widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
        overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        ground = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(ground)
        page.emulate_media(color_scheme="dark")
        dark = page.evaluate(ground)
        page.set_viewport_size({"width": 390, "height": 800})
        narrow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        long = page.evaluate("[...document.querySelectorAll('td.long')].map(cell => cell.offsetWidth)")
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = false)")
        page.emulate_media(color_scheme="light", media="print")
        printed = page.pdf(format="A4").count(b"/Type /Page\n")
        browser.close()
    assert light != dark
    assert narrow <= 0
    assert min(long) >= 200  # a verdict is not broken into a word a line
    assert 1 <= printed <= 12
    assert told == []
    assert len(widths) == 8
    assert min(widths) > 200
    assert overflow <= 0


def change(folder: Path, variant: str, *path: object) -> None:
    """Set a value in the manifest of seed 0 of a variant: the last of ``path`` is the value."""
    (found,) = folder.glob(f"runs/{variant}-*-seed0-*/manifest.json")
    manifest = json.loads(found.read_text())
    *keys, last, value = path
    place = manifest
    for key in keys:
        place = place[key]
    place[last] = value
    if keys[:1] == ["identity"]:  # as if the run had been made so
        config = yaml.safe_load((found.parent / "config.yaml").read_text())
        if keys != ["identity", "tokenizer"]:
            (config[keys[1]] if len(keys) > 1 else config)[last] = value
        (found.parent / "config.yaml").write_text(yaml.safe_dump(config))
        manifest["digest"] = digest(manifest["identity"])
    write_manifest(found.parent, manifest)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (("identity", "optimizer", "learning_rate", 0.5), "optimizer.learning_rate is 0.002 in .* and 0.5 in "),
        (("identity", "kernel", "banded"), "kernel is auto in .* and banded in "),
        (("identity", "tokenizer", "digest", "f" * 64), "tokenizer.digest is "),
        (("blocks", "fingerprint", "0" * 32), "blocks.fingerprint is "),
        (("attempts", 0, "packages", "torch", "1.0"), "packages.torch is .* and 1.0 in "),
    ],
)
def test_one_hidden_difference_is_refused_by_name_with_both_values(
    copied: Path, path: tuple, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(copied, "window_nope", *path)
    line = refused("compare", "runs=runs/*", *SHORT, folder=copied, monkeypatch=monkeypatch)
    assert "the runs differ in more than model" in line
    assert re.search(told, line)
    assert "allow=[" in line
    assert not (copied / "comparison").exists()


def test_a_difference_that_is_allowed_is_told_on_every_page_and_picture(copied: Path) -> None:
    for variant in ("rope", "window_nope"):
        change(copied, variant, "attempts", 0, "packages", "tokenizers", "1.0" if variant == "rope" else "2.0")
    line = the_one_line(lab("compare", "runs=runs/*", *SHORT, cwd=copied))
    assert "packages.tokenizers" in line
    result = lab("compare", "runs=runs/*", "allow=[packages]", *SHORT, cwd=copied)
    assert result.returncode == 0, result.stderr
    assert "allowed: packages.tokenizers is" in result.stdout
    folder = copied / "comparison"
    for name in ("report.html", "report.md"):
        assert "Allowed to differ beside model: packages.tokenizers is" in (folder / name).read_text()
    assert {row["kind"] for row in table(folder / "control.csv") if row["key"] == "packages.tokenizers"} == {"allowed"}
    for name in ("differences", "estimates", "seeds", "curves", "effective_context"):
        assert {row["allowed"] for row in table(folder / f"{name}.csv")} == {"packages.tokenizers"}


def test_unbalanced_seeds_and_one_run_alone_are_refused(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = copied.glob("runs/rope-*-seed1-*")
    shutil.rmtree(one)
    line = refused("compare", "runs=runs/*", *SHORT, folder=copied, monkeypatch=monkeypatch)
    assert "rope lacks seed 1" in line
    (alone,) = copied.glob("runs/rope-*")
    line = refused("compare", f"runs={alone.relative_to(copied)}", *SHORT, folder=copied, monkeypatch=monkeypatch)
    assert "is one run: a comparison needs two or more" in line


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("runs=[]",), "runs is empty: name run directories"),
        (("runs=runs/nowhere",), "runs/nowhere: no such run; python -m lab.status runs lists those there are"),
        (("runs=elsewhere/*",), "no run directory there"),
        (("runs=runs/*", "measure=none"), "measure is empty"),
        (("runs=runs/*", "measure.copy.string=1"), "measure.copy.string is 1"),
        (("runs=runs/*", "scoring.longest=0"), "scoring.longest is 0: give 1 or more"),
        (("runs=runs/*", "scoring.longest=4096"), "no held-out document has the"),
        (("runs=runs/*", "checkpoint=3"), "step=00000003"),
        (("runs=runs/*", "checkpoint=first"), "checkpoint is 'first': give"),
    ],
)
def test_what_cannot_be_scored_is_one_line_and_leaves_the_scores_alone(
    compared: Path, arguments: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in compared.glob("runs/*/scores.csv")}
    assert told in refused("extrapolate", *arguments, folder=compared, monkeypatch=monkeypatch)
    assert {path: path.read_bytes() for path in compared.glob("runs/*/scores.csv")} == before


def test_an_unknown_choice_on_the_command_line_is_one_line_that_names_those_there_are(compared: Path) -> None:
    line = the_one_line(lab("extrapolate", "runs=runs/*", "measure=papyrus", cwd=compared))
    assert "papyrus" in line
    assert "context_gain" in line
    line = the_one_line(lab("compare", "runs=runs/*", "colour=red", cwd=compared))
    assert "colour" in line
    assert "at the top has evaluation, measure, scoring, runs, factor, reference, checkpoint, allow" in line


def test_a_mistake_that_would_end_the_comparison_is_told_before_anything_is_scored(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained / "runs", tmp_path / "runs")
    for scores in tmp_path.glob("runs/*/scores.csv"):
        scores.unlink()
    (tmp_path / "taken").write_text("")
    run = min(tmp_path.glob("runs/*/manifest.json")).parent
    for wrong, told in {
        f"output={run}": f"{run} is a run, or holds a manifest.json: name another folder",
        "reference=nope": "reference is 'nope': choose one of the variants rope, window_nope",
        "output=taken": "taken is a file: name a folder",
        "output=/proc/here": "/proc/here cannot be written",
        "margin_nats=0": "margin_nats is 0: give a number above 0",
    }.items():
        assert told in refused("compare", "runs=runs/*", *SHORT, wrong, folder=tmp_path, monkeypatch=monkeypatch)
    assert not list(tmp_path.glob("runs/*/scores.csv"))


def sealed(manifest: dict) -> str:
    return json.dumps(manifest | {"sha256": seal(manifest)})


def test_a_run_whose_configuration_was_changed_or_damaged_is_refused_by_name(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = copied.glob("runs/rope-*-seed0-*")
    config, manifest = (run / name for name in ("config.yaml", "manifest.json"))
    whole = config.read_text(), manifest.read_text()
    damages = {
        config: {
            whole[0].replace("base: 10000.0", "base: 10.0"): "says model.position.base is 10.0, and the run was made "
            "with 10000.0",
            "": "it holds no mapping",
            "a: 1": "model must be given",
            "a: [": "cannot be read",
        },
        manifest: {
            "[1]": "it holds no mapping",
            sealed({"format": FORMAT, "state": "finished"}): "lacks attempts",
            sealed(json.loads(whole[1]) | {"digest": "0" * 64}): "has another digest than what it holds",
            json.dumps(json.loads(whole[1]) | {"digest": "0" * 64}): "it is not as it was written: its sha256 differs",
        },
    }
    for path, changes in damages.items():
        for text, told in changes.items():
            assert text not in whole
            path.write_text(text)
            for command in ("extrapolate", "compare"):
                line = refused(command, "runs=runs/*", *SHORT[:2], folder=copied, monkeypatch=monkeypatch)
                assert path.name in line
                assert told in line
        config.write_text(whole[0])
        manifest.write_text(whole[1])


def test_two_sets_of_documents_of_one_name_have_pictures_of_their_own(copied: Path) -> None:
    for name, text in (("one", "gold river treaty nation "), ("two", "people of the war congress ")):
        paths = [copied / f"{name}{number}.txt" for number in range(4)]
        for number, path in enumerate(paths):
            path.write_text(text * (300 + number))
        files = f"evaluation.corpus.test=[{','.join(path.name for path in paths)}]"
        scored = lab("extrapolate", *EVALUATE, "measure=loss_by_position", "evaluation=files", files, cwd=copied)
        assert scored.returncode == 0, scored.stderr
    assert lab("compare", "runs=runs/*", *SHORT, "measure=loss_by_position", cwd=copied).returncode == 0
    pictures = sorted(copied.glob("comparison/files-*_loss_by_position.png"))
    assert len(pictures) == 2
    assert pictures[0].read_bytes() != pictures[1].read_bytes()


def test_a_table_of_one_checkpoint_holds_no_other(tmp_path: Path) -> None:
    keep = ("trainer.checkpoint_every=4", "trainer.keep_last=3", "runs=runs")
    assert lab("train", *SMOKE, *keep, "model=rope", cwd=tmp_path).returncode == 0
    one = ("measure=truncated_perplexity", "scoring.longest=2")
    alone = [lab("extrapolate", *EVALUATE, *one, f"checkpoint={step}", cwd=tmp_path).stdout for step in (4, "last")]
    assert alone[0] != alone[1]
    assert lab("extrapolate", *EVALUATE, *one, "checkpoint=4", cwd=tmp_path).stdout == alone[0]


def test_unfinished_runs_and_damaged_scores_are_named(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def line(command: str, *overrides: str) -> str:
        return refused(command, *overrides, folder=copied, monkeypatch=monkeypatch)

    change(copied, "rope", "state", "training")
    assert "is unfinished: train it to its end" in line("extrapolate", *EVALUATE)
    assert "not finished: rope-2x32" in line("compare", "runs=runs/*", *SHORT)
    change(copied, "rope", "state", "finished")
    (scores,) = copied.glob("runs/rope-*-seed0-*/scores.csv")
    scores.write_bytes(scores.read_bytes()[:-20])
    assert f"{scores.relative_to(copied)} is empty or ends in the middle" in line("extrapolate", *EVALUATE)


def test_other_documents_are_scored_beside_the_first_and_all_are_compared(copied: Path) -> None:
    result = lab("extrapolate", *EVALUATE, "evaluation=shakespeare", "scoring.documents=5", cwd=copied)
    assert result.returncode == 0, result.stderr
    assert "effective context" in result.stdout
    assert lab("compare", "runs=runs/*", *SHORT, cwd=copied).returncode == 0
    evaluations = {row["evaluation"].rpartition("-")[0] for row in table(copied / "comparison" / "differences.csv")}
    assert evaluations == {"held_out", "shakespeare"}


def test_the_noise_floor_trains_seeds_and_one_of_them_twice(copied: Path) -> None:
    (given,) = copied.glob("runs/rope-*-seed0-*")
    result = lab(
        "compare", f"noise={given.relative_to(copied)}", "noise_seeds=[0,5]", "output=noise", *SHORT, cwd=copied
    )
    assert result.returncode == 0, result.stderr
    assert "seed 0 twice: weights and metrics are identical" in result.stdout
    assert len(list(copied.glob("noise/runs/*/manifest.json"))) == 2
    rows = table(copied / "noise" / "noise.csv")
    assert all(float(row["most"]) >= float(row["least"]) for row in rows)
    assert any(float(row["most"]) > float(row["least"]) for row in rows)
