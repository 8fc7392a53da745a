"""Every file in conf/ composes, and the scales keep what they promise."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from known import ABSOLUTE, VARIANTS
from omegaconf import OmegaConf

from lab.base.parts import DECLARED, Several, parts_of
from lab.base.settings import Settings
from lab.experiment.analysis_settings import AnalyzeSettings
from lab.experiment.compose import checked, choices, composed, configuration_folder, missing_keys, settings_of
from lab.experiment.edit_settings import EditSettings
from lab.experiment.extend_settings import ExtendSettings
from lab.experiment.lens_settings import LensSettings
from lab.experiment.settings import (
    CompareSettings,
    EvaluateSettings,
    ExportSettings,
    GenerateSettings,
    ImportSettings,
    ScoreSettings,
    TrainSettings,
)
from lab.model.building import build_decoder
from lab.model.decoder import Decoder, parameter_count
from lab.model.flops import mean_keys, training_flops
from lab.model.settings import ScaleSettings
from lab.observe.measure import Measure
from lab.observe.written import WritingMeasure
from lab.planning.settings import PlanSettings
from lab.runs.identity import digest, identity, run_name, variant

CONF = Path(configuration_folder())

SCALES = ["pilot", "small", "tinyllama_120m", "tinyllama_1b"]
COMMANDS: dict[str, type[Settings]] = {
    "train": TrainSettings,
    "extrapolate": ScoreSettings,
    "compare": CompareSettings,
    "plan": PlanSettings,
    "extend": ExtendSettings,
    "analyze": AnalyzeSettings,
    "generate": GenerateSettings,
    "lens": LensSettings,
    "edit": EditSettings,
    "import_model": ImportSettings,
    "export": ExportSettings,
    "evaluate": EvaluateSettings,
}
# What some choices leave to be given, with a value that passes.
GIVEN = {
    "tokenizer.path": "tokenizer.json",
    "tokenizer.vocabulary": 1000,
    "start.run": "runs/parent",
    "run": "runs/one",
    "source": "folder",
    "to": "folder",
    "tasks": ["task"],
    "extension.temperature": 1.2,
    "extension.factor": 4.0,
    "extension.ratio": 4.0,
    "extension.contexts": 4,
    "method.layer": 1,
    "method.step": 30.0,
}
CHOICES = [
    f"{path.parent.relative_to(CONF)}={path.stem}"
    for path in sorted(CONF.rglob("*.yaml"))
    if path.parent not in (CONF, CONF / "claim")  # claims are data, read by lab.claims
]
COMMAND_OF = {
    "preset": "extrapolate",
    "extension": "extend",
    "method": "edit",
    "study": "analyze",
}  # of the other groups: train


def plain(*overrides: str) -> TrainSettings:
    return settings_of("train", TrainSettings, overrides)


def decoder_of(config: TrainSettings) -> Decoder:
    return build_decoder(config.model, config.scale, kernel=config.kernel, compute_dtype="float32", seed=config.seed)


def checked_with_given(command: str, *overrides: str) -> tuple[dict[str, Any], Settings]:
    """A command's configuration as composed and as checked, with values for what is still to be given."""
    config = composed(command, overrides)
    missing = missing_keys(OmegaConf.to_container(config, resolve=False))
    assert set(missing) <= GIVEN.keys()
    for key in missing:
        OmegaConf.update(config, key, GIVEN[key])
    raw: Any = OmegaConf.to_container(config, resolve=True)
    return raw, checked(COMMANDS[command], config)


def keys_of(raw: dict[str, Any], settings: Settings) -> None:
    """Each mapping of the configuration has exactly the keys of its settings: none has a value that conf/ does not
    show. Of measures there may be any number, and each has its name as the key that it stands at."""
    fields = {name: getattr(settings, name) for name in type(settings).model_fields}
    if isinstance(settings, Several):
        fields = settings.chosen
    if isinstance(settings, Measure):
        del fields["name"]
    assert raw.keys() == fields.keys(), type(settings).__name__
    for name, value in fields.items():
        if isinstance(value, Settings):
            keys_of(raw[name], value)


def settings_in(annotation: Any) -> Iterator[type[Settings]]:
    """The settings that a type may hold, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
        for field in annotation.model_fields.values():
            yield from settings_in(field.annotation)
    for each in get_args(annotation):
        yield from settings_in(each)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_gives_exactly_the_keys_of_its_settings(choice: str) -> None:
    command = COMMAND_OF.get(choice.partition("=")[0], "train")
    if choice.startswith("hydra/launcher"):  # Hydra's own, not read by the lab's settings
        checked_with_given(command, choice)
        return
    # An experiment for children changes what their parents have.
    beside = {
        "experiment=questions": ["data=biographies", "start.run=runs/A"],
        # What sees all is trained on what is hidden, and the other way about.
        "model=bidirectional_rope": ["objective=masked"],
        "model/attention=bidirectional": ["model=rope", "objective=masked"],
        "objective=masked": ["model=bidirectional_rope"],
    }.get(choice, [])
    keys_of(*checked_with_given(command, *beside, choice))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_gives_exactly_the_keys_of_its_settings(command: str) -> None:
    chosen = {
        "extend": ["extension=temperature"],
        "analyze": ["study=state_norms"],
        "edit": ["method=forward_shift"],
    }.get(command, [])
    keys_of(*checked_with_given(command, *chosen))


def test_there_is_a_choice_of_every_part() -> None:
    for role in ("optimizer", "schedule", "logger", "measure", "extension", "method", "study", "adapter", "objective"):
        assert set(parts_of(role)) == set(choices(role)) - {"none"}
    for role in ("position", "attention"):
        assert set(parts_of(role)) <= set(choices(f"model/{role}"))


@pytest.mark.parametrize("preset", sorted(path.stem for path in (CONF / "preset").glob("*.yaml")))
def test_a_published_protocol_fits_the_context_that_it_was_published_for(preset: str) -> None:
    (measure,) = settings_of("extrapolate", ScoreSettings, [f"preset={preset}"]).measure.chosen.values()
    measure.fits(2048)
    if isinstance(measure, WritingMeasure):  # its lengths are those of its prompts
        return
    lengths = measure.lengths_of(2048)
    assert lengths[0] >= 2048
    assert lengths[-1] >= 8192


def test_several_segments_of_a_document_are_scored_unless_it_is_said_otherwise() -> None:
    """One alone speaks of documents' openings."""
    for settings in (settings_of("train", TrainSettings, []), settings_of("extrapolate", ScoreSettings, ["runs=a"])):
        assert settings.scoring.segments >= 2


def test_the_seven_variants_and_the_scales_are_those_offered() -> None:
    assert set(choices("model")) == {*VARIANTS, *ABSOLUTE, "bidirectional_rope"}
    assert set(choices("scale")) == {
        *SCALES,
        "biographies",
        "biographies_paper",
    }  # whose windows are made for an entry, not for C


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("model", [*VARIANTS, *ABSOLUTE])
def test_a_variant_is_called_as_its_choice(model: str, scale: str) -> None:
    config = plain(f"model={model}", f"scale={scale}")
    assert variant(config.model, config.scale) == model


def test_a_run_is_called_by_what_its_model_is_not_by_the_file_that_was_chosen() -> None:
    for overrides, told in (
        (("model=nope", "model/position=rope"), "rope"),
        (("model=window_alibi", "model/position=nope"), "window_nope"),
        (("model=nope", "model/attention=window", "model.attention.window=20"), "window20_nope"),
    ):
        config = settings_of("train", TrainSettings, ["experiment=smoke", *overrides])
        assert variant(config.model, config.scale) == told
        assert run_name(config, "0" * 64).startswith(f"{told}-")


def test_every_key_is_explained() -> None:
    """By --help, from the settings; a file of choices says what it is."""
    for path in CONF.rglob("*.yaml"):
        assert path.read_text().startswith("#"), f"{path} does not say what it is"
    parts = [part.settings for role in DECLARED for part in parts_of(role).values()]
    found = {each for top in (*COMMANDS.values(), *parts) for each in settings_in(top)}
    assert found >= {*COMMANDS.values(), *parts, ScaleSettings}
    bare = [
        f"{settings.__name__}.{name}"
        for settings in found
        for name, field in settings.model_fields.items()
        if name != "name" and not field.description and not list(settings_in(field.annotation))
    ]
    assert not bare
    silent = [settings.__name__ for settings in found if not settings.__doc__ and not issubclass(settings, Several)]
    assert not silent


@pytest.mark.parametrize("scale", SCALES)
def test_the_window_reaches_far_beyond_the_context_and_the_narrow_window_stays_inside(scale: str) -> None:
    shape = plain(f"scale={scale}").scale
    reach = shape.layers * (shape.window - 1) + 1
    narrow = shape.layers * (shape.narrow_window - 1) + 1
    assert reach >= 2.5 * shape.context
    assert narrow <= 0.9 * shape.context


@pytest.mark.parametrize(("scale", "parameters"), [("tinyllama_120m", 121_129_728), ("tinyllama_1b", 1_100_048_384)])
def test_the_tinyllama_scales_have_exactly_tinyllamas_parameters(scale: str, parameters: int) -> None:
    config = plain(f"scale={scale}", "model=rope")
    assert (config.scale.context, config.scale.window, config.scale.narrow_window) == (2048, 512, 80)
    with torch.device("meta"):
        assert parameter_count(decoder_of(config)) == parameters


def test_small_has_28_million_parameters_beside_its_vocabulary() -> None:
    config = plain("scale=small")
    with torch.device("meta"):
        decoder = decoder_of(config)
    vocabulary = 2 * config.scale.vocabulary * config.scale.width
    assert 27.5e6 < parameter_count(decoder) - vocabulary < 28.5e6


def test_flops_count_what_the_mask_lets_through() -> None:
    for length, window in ((1, None), (7, None), (7, 1), (7, 3), (7, 7), (7, 20)):
        visible = sum(min(query + 1, window or length) for query in range(length))
        assert mean_keys(length, window) == pytest.approx(visible / length)


def test_tinyllamas_flops_are_the_published_7_31_gigaflop_a_token() -> None:
    shape = plain("scale=tinyllama_1b").scale
    keys = ("vocabulary", "layers", "width", "hidden", "heads", "kv_heads", "head_dim", "context")
    flops = training_flops(**{key: getattr(shape, key) for key in keys}, window=None)
    assert flops.full == pytest.approx(7.314e9, rel=1e-3)


def test_the_digest_changes_with_what_decides_the_numbers_and_with_nothing_else() -> None:
    def of(*overrides: str, corpus: str = "c", tokenizer: str = "t") -> str:
        return digest(identity(plain(*overrides), corpus, tokenizer))

    base = of()
    same = ["logger=csv", "runs=elsewhere", "trainer.log_every=3", "measure=none", "overwrite=true", "plan=true"]
    assert {of(override) for override in same} == {base}
    fixed = ("trainer.compile=false", "trainer.compute_dtype=float32")  # what Setup makes of auto on a CPU
    assert {of(trainer, *fixed) for trainer in ("trainer=gpu", "trainer=ddp", "trainer=fsdp")} == {of(*fixed)}
    different = ["seed=1", "model=rope", "scale.tokens=8192", "optimizer=muon", "schedule=wsd", "kernel=matched"]
    different += ["data.lanes=16", "trainer.gradient_clip=2.0", "scale.micro_batch=4", "trainer.compile=true"]
    digests = [base, of(corpus="d"), of(tokenizer="u"), *map(of, different)]
    assert len(set(digests)) == len(digests)
