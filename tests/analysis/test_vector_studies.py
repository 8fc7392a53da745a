"""Studies of positional vectors: each number against scikit-learn or a slow loop. Beyond C: test_beyond.py."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from analysis.decompositions import TRAINING, decomposition, vectors_of
from commands import lab, the_one_line
from measure.tiny_decoders import CONTEXT, source_of, tiny
from sklearn.decomposition import PCA

from lab.analysis.convergence import Convergence
from lab.analysis.formation import Formation
from lab.analysis.reach import Reach
from lab.base.tables import read_table
from lab.evidence.weighing import OBSERVED
from lab.observe.fold import Fold
from lab.observe.vectors import Vectors


def drawn_vectors(context: int, noise: float, window: int | None = None) -> Vectors:
    """Of two layers and known bases: on a curve, far apart or within the noise."""
    drawn, fold = np.random.default_rng(0), Fold({})
    along = np.linspace(0, 3, 2 * context)
    truth = np.stack([np.cos(along), np.sin(along), along**2 / 9], 1)
    for number in range(6):
        observed = {}
        for half in (0, 1):
            for layer, spread in ((0, noise), (1, 0.001)):
                state = torch.from_numpy(truth + spread * drawn.normal(size=truth.shape)) * (number % 2 == half)
                count = torch.full((2 * context,), int(number % 2 == half))
                observed[f"state{half}/{layer}"] = (state, count)
                observed[f"square{half}/{layer}"] = (state.square().sum(-1), count)
        fold.add(str(number), observed)
    return Vectors(fold, context, window)


def test_a_position_is_told_apart_if_the_nearest_of_the_other_half_is_its_own_or_a_neighbour() -> None:
    context = 120  # 1 % is 1 position
    vectors = drawn_vectors(context, noise=0.05)
    for layer in (0, 1):
        halves = [vectors.m(layer, half).numpy()[:context] for half in (0, 1)]
        wanted = np.zeros(context)
        for one, other in (halves, halves[::-1]):
            for at in range(context):
                nearest = min(range(context), key=lambda each: float(np.linalg.norm(one[at] - other[each])))
                wanted[at] += 0.5 * (abs(nearest - at) <= 1)
        np.testing.assert_array_equal(vectors.told_apart(layer).numpy(), wanted)
    assert vectors.told_apart(1).mean() == 1
    assert 0.2 < vectors.told_apart(0).mean() < 0.9


def test_the_components_are_those_of_scikit_learn() -> None:
    vectors = vectors_of(tiny())
    rows = Formation(vectors=decomposition()).rows(vectors.fold, vectors)
    assert len(rows) == 3 * CONTEXT
    for layer in range(3):
        own = [row for row in rows if row["layer"] == layer]
        bases = vectors.m(layer)[:CONTEXT].numpy()
        pca = PCA(n_components=2).fit(bases)
        found = np.array([[row["component_1"], row["component_2"]] for row in own])
        wanted = pca.transform(bases)
        wanted *= np.where(wanted[-1] < 0, -1, 1)
        np.testing.assert_allclose(found, wanted, atol=1e-9)
        explained = [own[0]["component_1_variance"], own[0]["component_2_variance"]]
        np.testing.assert_allclose(explained, pca.explained_variance_ratio_, atol=1e-9)
        squares = [sum(value**2 for value in each) for each in bases.tolist()]
        assert own[3]["share_of_squares"] == pytest.approx(squares[3] / sum(squares))
        assert own[0]["layer_first_share"] == pytest.approx(sum(squares[:4]) / sum(squares))
        assert own[0]["layer_told_apart"] == pytest.approx(float(vectors.told_apart(layer).mean()))
    told = {each.quantity: each.value for each in Formation(vectors=decomposition()).numbers(vectors.fold, rows)}
    assert told["told_apart in layer 2"] == pytest.approx(float(vectors.told_apart(2).mean()))
    assert (
        told["first_share in the middle layer"] == told["first_share in layer 1"] == rows[CONTEXT]["layer_first_share"]
    )


def test_convergence_is_the_agreement_of_halves_of_the_first_windows_by_either_estimator() -> None:
    decoder, source = tiny(), source_of(*TRAINING)
    study = Convergence(vectors=decomposition(), counts=[4, 2])

    def made(estimator: str, count: int) -> Vectors:
        own, fold = decomposition(estimator=estimator, windows=count), Fold({})
        for item in own.items(source):
            with torch.inference_mode():
                fold.add(item.name, own.observe(decoder, item, CONTEXT))
        return own.vectors(fold, CONTEXT)

    vectors = vectors_of(decoder)
    vectors.beside = {
        name: made(each.estimator, each.windows) for name, each in study.beside.items() if each.windows is not None
    }
    rows = study.rows(vectors.fold, vectors)
    assert [(row["layer"], row["windows"]) for row in rows] == [(layer, n) for layer in range(3) for n in (2, 4)]
    for row in rows[2:]:
        for estimator in ("mean", "additive"):
            wanted = made(estimator, row["windows"]).agreement(row["layer"])
            assert row[f"{estimator}_agreement"] == pytest.approx(wanted)
        means = {each["windows"]: each["mean_agreement"] for each in rows if each["layer"] == row["layer"]}
        enough = [count for count, mean in means.items() if mean >= row["additive_agreement"]]
        assert row["mean_needs_windows"] == (min(enough) if enough else None)
    told = {each.quantity: each.value for each in study.numbers(vectors.fold, rows)}
    assert told["agreement by additive of 4 windows in layer 1"] == rows[3]["additive_agreement"]


@pytest.mark.parametrize(("window", "reaches"), [(None, [120.0, 120.0]), (7, [1.0, 7.0]), (500, [1.0, 120.0])])
def test_reach_is_layers_times_a_window_less_one_and_the_token_itself_and_at_most_c(window, reaches) -> None:
    vectors = drawn_vectors(120, noise=0.05, window=window)
    rows = Reach(vectors=decomposition()).rows(vectors.fold, vectors)
    assert [row["positions"] for row in rows if row["counted"] == "reach"] == reaches
    told = [row["positions"] for row in rows if row["counted"] == "told apart"]
    assert told == [float(vectors.told_apart(layer).sum()) for layer in (0, 1)]
    shares = [each.value for each in Reach(vectors=decomposition()).numbers(vectors.fold, rows)]
    assert shares == pytest.approx([one / most for one, most in zip(told, reaches, strict=True)])


SMALL = ("study.vectors.longest=4", "study.vectors.windows=8", "threads=1")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        trained = lab("train", "experiment=smoke", "logger=csv", "measure=none", f"seed={seed}", cwd=folder)
        assert trained.returncode == 0, trained.stderr
    return folder


def test_an_output_that_is_a_file_is_told_before_any_run_is_read(runs: Path) -> None:
    (runs / "file").write_text("mine")
    before = {path for path in runs.rglob("*") if path.is_dir()}
    line = the_one_line(lab("analyze", "runs=runs/*", "study=formation", "output=file", *SMALL, cwd=runs))
    assert line == "error: file is a file: name a folder"
    assert {path for path in runs.rglob("*") if path.is_dir()} == before
    assert (runs / "file").read_text() == "mine"


def test_several_runs_are_compared_and_share_vectors_between_studies(runs: Path) -> None:
    first = lab("analyze", "runs=runs/*", "study=formation", *SMALL, cwd=runs)
    assert first.returncode == 0, first.stderr
    folders = sorted((runs / "runs").glob("*/analysis"))
    assert all((folder / f"formation{number}.png").exists() for folder in folders for number in ("", "_2"))
    numbers = read_table(runs / "analysis" / "formation_documents.csv.gz", OBSERVED, remedy="")
    assert {(row["variant"], row["seed"], row["cluster"], row["context_tokens"]) for row in numbers} == {
        ("nope", 0, "", 64),
        ("nope", 1, "", 64),
    }
    assert all(row["evaluation"].startswith("train-") for row in numbers)  # what the vectors are of
    (compared, picture) = (runs / "analysis" / f"formation.{kind}" for kind in ("csv", "png"))
    assert picture.exists()
    rows = read_table(compared, (), remedy="")
    tables = [read_table(folder / "formation.csv", (), remedy="") for folder in folders]
    for row in rows:
        values = [
            next(float(each["layer_told_apart"]) for each in table if each["layer"] == row["layer"]) for table in tables
        ]
        assert float(row["value"]) == pytest.approx(np.mean(values))
        assert row["low"] is None  # two runs tell no interval
        assert row["runs"] == 2
    written = {folder: sorted(path.name for path in folder.glob("decomposition-*")) for folder in folders}
    assert [len(each) for each in written.values()] == [1, 1]
    before = {path: path.stat().st_mtime_ns for folder in folders for path in folder.glob("decomposition-*")}
    for study in ("reach", "beyond"):
        more = ("study.longest=2", "study.documents=2") if study == "beyond" else ()
        result = lab("analyze", "runs=runs/*", f"study={study}", *SMALL, *more, cwd=runs)
        assert result.returncode == 0, result.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert read_table(folders[0] / "beyond.csv", (), remedy="")


def test_too_few_windows_are_told_in_a_line(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "runs", tmp_path / "runs")
    few = ("study=formation", "study.vectors.windows=1", "study.vectors.longest=4")
    line = the_one_line(lab("analyze", "runs=runs/*", *few, cwd=tmp_path))
    assert "windows is 1: vectors are compared between two halves of them; take more" in line
    long = ("study=formation", "study.vectors.longest=100000")
    assert "windows of 6,400,000 tokens are in these" in the_one_line(
        lab("analyze", "runs=runs/*", *long, cwd=tmp_path)
    )


def test_students_interval_is_that_of_scipy() -> None:
    from scipy import stats

    from lab.evidence.interval import students

    values = np.array([1.0, 2.5, 2.0, 4.0])
    low, high = students(values)
    wanted = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((wanted.low, wanted.high))
    assert students(values[:2]) == (None, None)
