"""Make an imported model: pretrained weights, streamed into a run directory and proven."""

import contextlib
import hashlib
import math
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.base.errors import UserError
from lab.base.files import discard, make_folder, new_folder, refuse_link
from lab.base.parts import parts_of
from lab.base.progress import progress
from lab.data.tokenizer import Tokenizer
from lab.exchange.gguf import GGUF, is_gguf
from lab.exchange.hub import download
from lab.exchange.names import slug
from lab.exchange.pretrained import Folder, Pretrained, check_shapes, read_tokenizer
from lab.exchange.row_order import check_order_of_rows
from lab.exchange.weights import write_tensors
from lab.experiment.settings import ImportSettings
from lab.model import kernels
from lab.model.building import build_decoder
from lab.model.precision import device_of
from lab.model.settings import ModelSettings
from lab.runs.checkpoints import seal_weights
from lab.runs.identity import digest, shape_label, variant
from lab.runs.imported import STEP, Imported, digest_of_tensors, imported_identity
from lab.runs.settings import ImportedSettings


def import_model(settings: ImportSettings, command: str) -> Imported:
    """The imported model of a source and a reading: made, or found.

    Raises:
        UserError: the source is no model that the lab can read, or is damaged; or the reading does not fit it.
    """
    device_of("cpu", settings.threads)
    source = open_source(settings.source)
    runs = Path(settings.runs)
    make_folder(runs)
    if settings.kernel not in kernels.SETTINGS:
        raise UserError(f"kernel {settings.kernel} does not exist; choose one of {', '.join(kernels.SETTINGS)}")
    _clear_away(runs)
    # A place of its own: another process may import the same source.
    with new_folder(runs / f".import.{os.getpid()}@{platform.node()}.new") as beside:
        return _made(settings, source, beside, command)


def _clear_away(runs: Path) -> None:
    """Delete what imports of this machine have left that were killed."""
    for left in runs.glob(".import.*@*.new"):
        process, _, host = left.name.removeprefix(".import.").removesuffix(".new").partition("@")
        if host == platform.node() and process.isdigit() and not Path(f"/proc/{process}").exists():
            refuse_link(left)
            with contextlib.suppress(OSError):
                discard(left)


def _made(settings: ImportSettings, source: Pretrained, beside: Path, command: str) -> Imported:
    tokenizer, spelling = _tokenizer(settings, source, beside / "tokenizer.json")
    trained = _checked(
        source,
        {
            "model": source.keys["model"],
            "scale": source.keys["scale"] | ({"context": settings.context} if settings.context else {}),
            "tokenizer": {
                "path": "tokenizer.json",
                "vocabulary": tokenizer.vocabulary,
                "end_of_document": spelling,
            },
            "kernel": settings.kernel,
            "compute_dtype": settings.compute_dtype,
        },
    )
    if trained.scale.vocabulary < tokenizer.vocabulary:
        raise UserError(
            f"{source.path}: its embedding has {trained.scale.vocabulary} rows, and "
            f"{settings.tokenizer or 'its tokenizer'} {tokenizer.vocabulary} tokens; give the model's own "
            "tokenizer.json as tokenizer"
        )
    config = trained.with_values(model=_reading(settings, trained.model).plain())
    with torch.device("meta"):
        wanted = {
            name: tuple(parameter.shape)
            for name, parameter in build_decoder(
                config.model, config.scale, kernel=config.kernel, compute_dtype=config.compute_dtype, seed=None
            ).named_parameters()
        }
    check_shapes(source, wanted)
    step = beside / "weights" / f"step={STEP:08d}"
    step.mkdir(parents=True)
    hashes = copy_weights(source, wanted, step / "weights.safetensors")
    if config.model.position != trained.model.position:
        if trained.model.position.name == "rope":
            check_order_of_rows(step / "weights.safetensors", trained, tokenizer, str(source.path))
        else:
            print(
                f"{source.path}: without RoPE the order of query and key rows cannot be tried; it is taken as it "
                "should be"
            )
    # What turns RoPE has no meaning for weights that are read without.
    rule = source.keys.get("extension") if config.model.position == trained.model.position else None
    identity = imported_identity(config, tokenizer.digest, digest_of_tensors(hashes), rule)
    found, shape = digest(identity), config.scale
    label = f"{variant(config.model, shape)}-{shape_label(shape)}"
    # Of what the lab exported the name begins with the same label.
    model = Imported(Path(settings.runs) / f"{label}-{slug(settings.source).removeprefix(f'{label}-')}-{found[:8]}")
    refuse_link(model.path)
    if model.path.exists():
        try:
            model.check()
            model.tokenizer()
            model.checkpoint()
        except UserError as error:
            raise UserError(f"{error}; or delete {model.path} and import it again") from None
        if model.digest != found:
            raise UserError(f"{model.path} holds a different model; move it away")
        print(f"{model.path} is there")
        return model
    sha256 = seal_weights(step, STEP, found)
    manifest = {
        "kind": "imported",
        "digest": found,
        "identity": identity,
        "state": "finished",
        "source": {
            "name": settings.source,
            "files": source.files,
            "special": source.special(),
            "stored_as": source.stored_as,
            "model": variant(trained.model, trained.scale),
        },
        "initial_weights": hashes,
        "parameters": sum(math.prod(each) for each in wanted.values()),
        "proof": {"weights": {f"{STEP}": sha256}, "metrics": ""},
        "command": command,
    }
    if rule is not None:
        manifest["extensions"] = [rule]
    try:
        model.create(config, manifest, beside)
    except OSError:
        if not model.path.exists():
            raise
        print(f"{model.path} is there")  # another process was faster
        return model
    print(f"{model.path}: {manifest['parameters']:,} parameters, read as {model.label}, C = {shape.context:,}")
    return model


def _checked(source: Pretrained, keys: Mapping[str, Any]) -> ImportedSettings:
    """What a source stands for. Raises UserError if that is no decoder."""
    try:
        return ImportedSettings.check(keys)
    except UserError as error:
        raise UserError(*(f"{source.path}: {line}" for line in error.args)) from None


def open_source(source: str) -> Pretrained:
    """What is to be imported. Raises UserError if there is nothing, or it is no model."""
    path = Path(source)
    if path.is_file():
        if not is_gguf(path):
            raise UserError(f"{path}: no GGUF file; of other formats name the folder that has config.json")
        return GGUF(path)
    if not path.exists():
        path = download(source)
    return Folder(path)


def _reading(settings: ImportSettings, trained: ModelSettings) -> ModelSettings:
    """How the weights are to be read."""
    window = trained.attention.window
    position = trained.position.plain()
    if settings.model is not None:
        prefix, _, name = settings.model.rpartition("_")
        if prefix not in ("", "window"):
            raise UserError(f"model is {settings.model}: give rope, nope, alibi, or window_ and one of these")
        if name != trained.position.name:
            # What is added to the embedding was trained with it, or not at all.
            known = [
                each for each, part in parts_of("position").items() if not getattr(part.settings, "absolute", False)
            ]
            if name not in known:
                raise UserError(f"model is {settings.model}: give {', '.join(known)}, or window_ before")
            position = {"name": name} | ({"base": 10_000.0} if name == "rope" else {})
        if prefix:
            window = settings.window or window
            if window is None:
                raise UserError(f"model is {settings.model}: say with window=... how many keys a query sees")
        else:
            window = None
    if settings.window is not None and settings.window != window:
        raise UserError(f"window is {settings.window}, and model={settings.model or trained.position.name} has none")
    attention = {"name": "full" if window is None else "window", "window": window}
    return trained.with_values(position=position, attention=attention)


def _tokenizer(settings: ImportSettings, source: Pretrained, path: Path) -> tuple[Tokenizer, str]:
    """The tokenizer, written to ``path``, and the spelling of its end of document."""
    made = source.tokenizer() if settings.tokenizer is None else read_tokenizer(Path(settings.tokenizer))
    if made is None:
        raise UserError(f"{source.path}: has no tokenizer.json; name one as tokenizer=...")
    if made.num_special_tokens_to_add(False):
        # To the lab tokens of a text are those of its letters. Whoever loads an exported tokenizer gets the same.
        made.post_processor = None
    path.write_text(made.to_str(), encoding="utf-8")
    end = settings.end_of_document or source.special().get("eos")
    if end is None:
        raise UserError(
            f"{source.path}: does not say its end of sequence; name the token that ends a document as "
            "end_of_document=..."
        )
    try:
        return Tokenizer(str(path.resolve()), end), end
    except UserError as error:
        told = settings.tokenizer or f"{source.path}"
        raise UserError(*(line.replace(str(path.resolve()), told) for line in error.args)) from None


def copy_weights(source: Pretrained, wanted: Mapping[str, tuple[int, ...]], path: Path) -> dict[str, str]:
    """Write the tensors to a file, one after the other; the sha256 of each."""
    hashes = {}
    with progress("weights", "numbers", total=sum(map(math.prod, wanted.values())), unit_scale=True, delay=1) as bar:

        def tensor(name: str) -> Tensor:
            value = source.tensor(name).contiguous()
            if not torch.isfinite(value).all():
                raise UserError(f"{source.where(name)} holds numbers that are not finite; download it again")
            hashes[name] = hashlib.sha256(value.numpy().data).hexdigest()
            bar.update(value.numel())
            return value

        write_tensors(path, wanted, tensor)
    return hashes
