"""What the command of a child does not give is its parent's."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lab.base.errors import UserError
from lab.base.settings import flatten
from lab.experiment.compose import checked, configuration_folder
from lab.experiment.settings import TrainSettings
from lab.runs.model import Model
from lab.runs.parents import begun_from
from lab.runs.run import Run, open_model
from lab.runs.settings import FromRunSettings, RunSettings

OWN = ("start", "trainer")  # a child's own: where it starts, and the hardware that it is trained on
# But for what decides numbers on any hardware.
INHERITED_OF_TRAINER = ("gradient_clip", "deterministic")


def inherit(composed: DictConfig, overrides: Iterable[str]) -> DictConfig:
    """A composed configuration, where it starts from a run with the parent's values for all that was not given.

    What is given is what an override names, a key or a whole group, and what an ``experiment`` sets. A value that
    follows another by reference, as the peak learning rate does that of the scale, follows where the parent's did.

    Where the parent is gone, a child that was begun by the same command stands in for it: it can be found finished, or
    go on.

    Raises:
        UserError: the parent is not given, missing or damaged.
    """
    raw: Any = OmegaConf.to_container(composed, resolve=False)
    start = raw.get("start")
    if not isinstance(start, Mapping) or start.get("name") != "run":
        return composed
    if start.get("run") in (None, "???"):  # told alone: keys that its parent has would be told as wrong beside
        raise UserError("start.run must be given: add start.run=... to the command")
    given = given_keys(overrides)
    resolved: Any = OmegaConf.to_container(composed, resolve=True)
    for begun in [] if resolved["overwrite"] else _begun(resolved):
        child = _child(raw, begun.config, given)
        if _own(checked(TrainSettings, child).of_run()) == _own(begun.config):
            print(f"{resolved['start']['run']} is not there any more: {begun.path}, begun from it, needs it no more")
            return child
    parent = open_model(str(resolved["start"]["run"]))
    parent.check()
    child = _child(raw, _config_of(parent, resolved), given)
    _fit_micro_batch(child, given)
    return child


def _config_of(parent: Model, resolved: Mapping[str, Any]) -> RunSettings:
    """The configuration of a parent; of one that was not trained here, what it lacks is as composed."""
    config = parent.config
    if isinstance(config, RunSettings):
        return config
    known = config.plain()
    known["tokenizer"]["path"] = str(parent.tokenizer().path)
    theirs = {name: known.get(name, resolved[name]) for name in RunSettings.model_fields}
    return RunSettings.check(theirs | {"scale": dict(resolved["scale"]) | known["scale"]})


def _begun(resolved: Mapping[str, Any]) -> list[Run]:
    """Children that the same command may have begun, of a parent that is gone."""
    return begun_from(FromRunSettings.check(resolved["start"], "start"), Path(str(resolved["runs"])))


def _own(config: RunSettings) -> dict[str, Any]:
    """What a child and its command must have in common."""
    return {name: value for name, value in config.identity().items() if name not in OWN}


def _child(raw: Mapping[str, Any], parent: RunSettings, given: set[str]) -> DictConfig:
    """The configuration, with a parent's values for what was not given."""
    theirs = parent.plain()
    merged = dict(raw)
    for name in RunSettings.model_fields:
        if name not in (*OWN, "adapter"):  # a child of an adapted run trains its weights, unless it says otherwise
            merged[name] = _merged(name, theirs[name], raw.get(name), theirs, given)
    merged["trainer"] = dict(merged["trainer"])
    for key in INHERITED_OF_TRAINER:
        if not _is_given(f"trainer.{key}", given):
            merged["trainer"][key] = theirs["trainer"][key]
    return OmegaConf.create(merged)


def given_keys(overrides: Iterable[str]) -> set[str]:
    """The dotted keys and groups that overrides name; of an experiment, those that its file sets."""
    given: set[str] = set()
    for each in overrides:
        key, _, value = each.lstrip("+~").partition("=")
        key = key.partition("@")[0].replace("/", ".")
        given.add(key)
        if key == "experiment":
            chosen = yaml.safe_load(value)
            for name in chosen if isinstance(chosen, list) else [chosen]:
                given |= _of_experiment(str(name))
    if "model" in given:
        # A choice of model= is one of position and attention. What else its file says is the same in all of them, and
        # a parent from elsewhere may have it otherwise: its eps, whether its head is tied, the base of its RoPE.
        given = (given - {"model"}) | {"model.position.name", "model.attention"}
    return given


def _of_experiment(name: str) -> set[str]:
    """The keys and groups that an experiment sets, and those that it takes up."""
    paths = [folder / "experiment" / f"{name}.yaml" for folder in _folders()]
    path = next((each for each in paths if each.is_file()), None)
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path else None
    given: set[str] = set()
    for each in (content or {}).pop("defaults", []):
        if isinstance(each, dict):
            given |= {key.removeprefix("override ").strip("/").partition("@")[0].replace("/", ".") for key in each}
        elif each != "_self_":
            given |= _of_experiment(each.removeprefix("/experiment/"))
    return given | set(flatten(content or {}))


def _folders() -> list[Path]:
    """The folders with choices, as Hydra searches them: that of --config-dir before conf/."""
    found = []
    if HydraConfig.initialized():
        sources = HydraConfig.get().runtime.config_sources
        found = [Path(each.path) for each in sources if each.schema == "file"]
    return [*found, Path(configuration_folder())]


def _is_given(key: str, given: set[str]) -> bool:
    parts = key.split(".")
    return any(".".join(parts[:length]) in given for length in range(1, len(parts) + 1))


def _merged(key: str, theirs: Any, raw: Any, parent: Mapping[str, Any], given: set[str]) -> Any:
    """The value of a key: what was given, or the parent's."""
    if _is_given(key, given):
        return raw
    if not isinstance(theirs, Mapping):
        return raw if _follows(raw, theirs, parent) else theirs
    other_part = isinstance(raw, Mapping) and raw.get("name") != theirs.get("name")
    if other_part and _is_given(f"{key}.name", given):
        return raw
    inside = {} if not isinstance(raw, Mapping) else raw
    merged = {
        name: _merged(f"{key}.{name}", value, None if other_part else inside.get(name), parent, given)
        if not _is_given(f"{key}.{name}", given)
        else inside.get(name, value)
        for name, value in theirs.items()
    }
    return merged | {name: value for name, value in inside.items() if _is_given(f"{key}.{name}", given)}


def _follows(raw: Any, theirs: Any, parent: Mapping[str, Any]) -> bool:
    """Whether a reference in conf/ gave the parent its value, so that it holds for the child too."""
    found = re.fullmatch(r"\$\{([\w.]+)\}", raw) if isinstance(raw, str) else None
    return found is not None and flatten(parent).get(found[1]) == theirs


def _fit_micro_batch(child: DictConfig, given: set[str]) -> None:
    """Another context may leave a batch that its micro-batches do not divide: the next smaller that does is taken."""
    scale: Any = OmegaConf.to_container(child.scale, resolve=False)
    context, batch, micro = scale["context"], scale["batch_tokens"], scale["micro_batch"]
    if "scale.micro_batch" in given or not all(isinstance(each, int) and each > 0 for each in (context, batch, micro)):
        return
    if batch % (micro * context) == 0 or batch % context:
        return
    chosen = next(count for count in range(micro, 0, -1) if (batch // context) % count == 0)
    child.scale.micro_batch = chosen
    print(f"scale.micro_batch is {chosen}: {micro} x C = {micro * context} does not divide batch_tokens = {batch}")
