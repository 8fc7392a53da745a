"""Every file in conf/ composes, and the scales keep what they promise."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from lab.experiment.compose import configuration_folder
from lab.experiment.setup import missing_keys, to_plain
from lab.observe.scoring import make_measures
from lab.model.decoder import parameter_count
from lab.model.flops import mean_keys, training_flops
from lab.runs.run import Config, build_decoder, digest, identity

CONF = Path(configuration_folder())
VARIANTS = ["nope", "rope", "alibi", "window_nope", "window_rope", "window_alibi", "narrow_window_nope"]
SCALES = ["pilot", "small", "tinyllama_120m", "tinyllama_1b"]
CHOICES = [
    f"{path.parent.relative_to(CONF)}={path.stem}" for path in sorted(CONF.rglob("*.yaml")) if path.parent != CONF
]


def composed(*overrides: str) -> DictConfig:
    command = "extrapolate" if overrides and overrides[0].startswith("preset=") else "train"
    with initialize_config_dir(configuration_folder(), version_base="1.3"):
        return compose(command, list(overrides))


def plain(*overrides: str) -> Config:
    config = to_plain(composed(*overrides))
    config["trainer"]["compute_dtype"] = "float32"
    return config


@pytest.mark.parametrize("choice", CHOICES)
def test_every_file_composes(choice: str) -> None:
    config = composed(choice)
    missing = missing_keys(config)
    assert set(missing) <= {"data.corpus.train", "data.corpus.validation", "data.corpus.test"} | {
        "tokenizer.path",
        "tokenizer.vocabulary",
    }
    assert OmegaConf.to_container(config, resolve=not missing)


@pytest.mark.parametrize("preset", sorted(path.stem for path in (CONF / "preset").glob("*.yaml")))
def test_a_published_protocol_fits_the_context_that_it_was_published_for(preset: str) -> None:
    (measure,) = make_measures(to_plain(composed(f"preset={preset}"))["measure"], 2048)
    lengths = measure.lengths_of(2048)  # type: ignore[attr-defined]
    assert lengths[0] >= 2048
    assert lengths[-1] >= 32768


def test_the_seven_variants_and_the_scales_are_those_offered() -> None:
    assert {path.stem for path in (CONF / "model").glob("*.yaml")} == set(VARIANTS)
    assert {path.stem for path in (CONF / "scale").glob("*.yaml")} == set(SCALES)


def test_every_key_is_explained_in_place() -> None:
    for path in CONF.rglob("*.yaml"):
        text = path.read_text()
        assert text.startswith("#"), f"{path} does not say what it is"
        if path.parent.name in ("scale", "trainer", "measure", "scoring", "data", "tokenizer"):
            values = [line for line in text.splitlines() if ": " in line and not line.lstrip().startswith(("#", "-"))]
            if "defaults: [auto]" in values:
                assert "auto.yaml explains the keys" in text
                continue
            bare = [line for line in values if "#" not in line]
            bare = [line for line in bare if line.split(":")[0].strip() not in ("name", "_target_", "devices")]
            assert not bare, f"{path}: {bare}"


@pytest.mark.parametrize("scale", SCALES)
def test_the_window_reaches_far_beyond_the_context_and_the_narrow_window_stays_inside(scale: str) -> None:
    shape = plain(f"scale={scale}")["scale"]
    reach = shape["layers"] * (shape["window"] - 1) + 1
    narrow = shape["layers"] * (shape["narrow_window"] - 1) + 1
    assert reach >= 2.5 * shape["context"]
    assert narrow <= 0.9 * shape["context"]


@pytest.mark.parametrize(("scale", "parameters"), [("tinyllama_120m", 121_129_728), ("tinyllama_1b", 1_100_048_384)])
def test_the_tinyllama_scales_have_exactly_tinyllamas_parameters(scale: str, parameters: int) -> None:
    config = plain(f"scale={scale}", "model=rope")
    assert (config["scale"]["context"], config["scale"]["window"], config["scale"]["narrow_window"]) == (2048, 512, 80)
    with torch.device("meta"):
        assert parameter_count(build_decoder(config)) == parameters


def test_small_has_28_million_parameters_beside_its_vocabulary() -> None:
    config = plain("scale=small")
    with torch.device("meta"):
        decoder = build_decoder(config)
    vocabulary = 2 * config["scale"]["vocabulary"] * config["scale"]["width"]
    assert 27.5e6 < parameter_count(decoder) - vocabulary < 28.5e6


def test_flops_count_what_the_mask_lets_through() -> None:
    for length, window in ((1, None), (7, None), (7, 1), (7, 3), (7, 7), (7, 20)):
        visible = sum(min(query + 1, window or length) for query in range(length))
        assert mean_keys(length, window) == pytest.approx(visible / length)


def test_tinyllamas_flops_are_the_published_7_31_gigaflop_a_token() -> None:
    shape = plain("scale=tinyllama_1b")["scale"]
    keys = ("vocabulary", "layers", "width", "hidden", "heads", "kv_heads", "head_dim", "context")
    flops = training_flops(**{key: shape[key] for key in keys}, window=None)
    assert flops.full == pytest.approx(7.314e9, rel=1e-3)


def test_the_digest_changes_with_what_decides_the_numbers_and_with_nothing_else() -> None:
    def of(*overrides: str, corpus: str = "c", tokenizer: str = "t") -> str:
        return digest(identity(plain(*overrides), corpus, tokenizer))

    base = of()
    same = ["logger=csv", "runs=elsewhere", "trainer.log_every=3", "measure=none", "overwrite=true", "plan=true"]
    assert {of(override) for override in same} == {base}
    fixed = "trainer.compile=false"  # what Job makes of auto on a CPU
    assert {of(trainer, fixed) for trainer in ("trainer=gpu", "trainer=ddp", "trainer=fsdp")} == {of(fixed)}
    different = ["seed=1", "model=rope", "scale.tokens=8192", "optimizer=muon", "schedule=wsd", "kernel=matched"]
    different += ["data.lanes=16", "trainer.gradient_clip=2.0", "scale.micro_batch=4", "trainer.compile=true"]
    digests = [base, of(corpus="d"), of(tokenizer="u"), *map(of, different)]
    assert len(set(digests)) == len(digests)
