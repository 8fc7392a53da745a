"""A run is a directory, named by what it is. This file knows what stands in one.

    config.yaml      the resolved configuration
    manifest.json    identity, code, packages, hardware, kernels, fingerprints, state
    metrics.csv      one row every few optimiser steps; timing.csv the same rows' wall-clock columns
    checkpoints/step=NNNNNNNN/, see lab/runs/checkpoints.py
    scores.csv, summary.csv, pictures

The digest in the name is a hash of what decides the run's numbers, so the same command always finds its run again.
A derived run has no training of its own: its manifest names a run beside it, whose weights it reads otherwise.
"""

import json
import os
import shutil
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Int
from torch import Tensor

from lab.base.errors import UserError
from lab.base.files import write_whole
from lab.base.parts import build, find
from lab.base.settings import Settings, flatten
from lab.data.tokenizer import Tokenizer
from lab.model.building import build_decoder, load_weights
from lab.model.decoder import Decoder
from lab.runs.checkpoints import Checkpoint, Checkpoints
from lab.runs.identity import FORMAT, digest, identity, run_name, variant
from lab.runs.lock import hold
from lab.runs.settings import RunSettings

DEEPEST = 32  # generations of derived runs


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all."""
    write_whole(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


class Model:
    """What measuring, analysis and exchange need: decoder, tokenizer, identity, scores. ``path`` need not exist yet."""

    needed: tuple[str, ...] = ("digest", "identity", "state")  # in a manifest

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    # What is stored.

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest as stored. Raises UserError if there is none, it cannot be read, or is of another format."""
        path = self.path / "manifest.json"
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(
                f"{self.path} is not a run directory: it has no manifest.json; move it away or choose another folder"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path} is damaged ({error}); delete {self.path} or restore it") from None
        if not isinstance(content, dict):
            raise UserError(f"{path} is damaged (it holds no mapping); delete {self.path} or restore it")
        if content.get("format") != FORMAT:
            told = content.get("format", "1, of an earlier version of the lab")
            raise UserError(
                f"{self.path} was made in format {told}; this version reads {FORMAT}: train it again, or read it with "
                "the version that made it"
            )
        return content

    def update_manifest(self, **changes: Any) -> None:
        write_json(self.path / "manifest.json", self.manifest | changes)

    @property
    def config(self) -> RunSettings:
        """The configuration as stored. Raises UserError if it cannot be read, or is not that of a run."""
        path = self.path / "config.yaml"
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise UserError(f"{path} cannot be read ({' '.join(str(error).split())}); restore it") from None
        if not isinstance(content, dict):
            raise UserError(f"{path} is damaged (it holds no mapping); restore it")
        try:
            return RunSettings.check(content)
        except UserError as error:
            raise UserError(f"{path} is damaged ({'; '.join(str(error).splitlines())}); restore it") from None

    @property
    def digest(self) -> str:
        return str(self.manifest["digest"])

    @property
    def identity(self) -> dict[str, Any]:
        stored: dict[str, Any] = self.manifest["identity"]
        return stored

    @property
    def context(self) -> int:
        """C in tokens."""
        return self.config.scale.context

    @property
    def steps(self) -> int:
        """Optimiser steps of the finished run."""
        return int(self.facts["tokens"] // self.config.scale.batch_tokens)

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of how its weights came about, for control: the manifest, of a derived run its parent's too."""
        return self.manifest

    @property
    def extensions(self) -> list[Settings]:
        """What changes its position encoding, in order."""
        return read_extensions(self.manifest.get("extensions", []), self.path)

    @property
    def label(self) -> str:
        """What it is called in tables: its variant and its extensions."""
        config = self.config
        return "+".join([variant(config.model, config.scale), *map(extension_label, self.extensions)])

    def check(self) -> None:
        """Raises UserError if what is stored is not what a run writes, or does not fit together."""
        lacking = set(self.needed) - self.manifest.keys()
        if lacking:
            raise UserError(f"{self.path / 'manifest.json'} lacks {min(lacking)}; restore it, or leave the run out")
        if digest(self.manifest["identity"]) != self.manifest["digest"]:
            raise UserError(f"{self.path / 'manifest.json'} has another digest than what it holds; restore it")

    # What it is made of.

    def checkpoint(self, step: int | None = None) -> Checkpoint:
        """The checkpoint of an optimiser step, by default the newest valid one.

        Raises:
            UserError: there is none, or it is damaged.
        """
        raise NotImplementedError

    def decoder(self, step: int | None = None) -> Decoder:
        """The trained decoder of a checkpoint, by default the newest, in evaluation mode on the CPU. Raises as
        :meth:`checkpoint`, and UserError if the weights are of another shape."""
        raise NotImplementedError

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        made: Tokenizer = build("tokenizer", self.config.tokenizer)
        if made.digest != self.identity["tokenizer"]["digest"]:
            raise UserError(f"{made.path} is no longer the tokenizer that {self.path} was trained with; restore it")
        return made

    def tokenizer(self) -> Tokenizer:
        """Its tokenizer. Raises UserError if the file is missing, or no longer what it was."""
        return self._tokenizer

    def encode(self, text: str) -> Int[Tensor, "1 tokens"]:
        """Token ids of a text as the decoder takes them: a batch of one."""
        return torch.from_numpy(self.tokenizer().encode(text).astype("int64"))[None]

    def decode(self, tokens: Int[Tensor, "*batch tokens"]) -> str:
        """The text of token ids, of a batch of one too."""
        return self.tokenizer().decode(tokens.flatten().tolist())

    def locked(self) -> AbstractContextManager[None]:
        """Hold the run for this process; see :mod:`lab.runs.lock`."""
        return hold(self.path)

    def derived(self) -> list["Derived"]:
        """The derived runs beside it that are of this one."""
        found = []
        for path in sorted(self.path.resolve().parent.glob("*/manifest.json")):
            try:
                manifest = Model(path.parent).manifest
            except UserError:
                continue
            parent = manifest.get("parent")
            if manifest.get("kind") == "derived" and isinstance(parent, dict) and parent.get("name") == self.path.name:
                found.append(Derived(path.parent))
        return found

    def create(self, config: RunSettings, manifest: dict[str, Any]) -> None:
        """Make the directory with configuration and manifest, at once or not at all."""
        beside = self.path.with_name(f".{self.path.name}.new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if beside.exists():
                shutil.rmtree(beside)
            beside.mkdir()
            text = yaml.safe_dump(config.plain(), sort_keys=False, allow_unicode=True)
            write_whole(beside / "config.yaml", text.encode())
            write_json(beside / "manifest.json", {"format": FORMAT} | manifest)
            os.rename(beside, self.path)
        except (OSError, UserError):
            shutil.rmtree(beside, ignore_errors=True)
            raise

    def delete(self) -> None:
        """Remove the whole directory; the manifest goes last, so that a half-deleted run is still known as one.

        Raises:
            UserError: derived runs are of this one, and would have no weights.
        """
        orphans = [each.path.name for each in self.derived()]
        if orphans:
            raise UserError(f"{self.path} holds the weights of {', '.join(orphans)}: remove these first")
        for entry in self.path.iterdir():
            if entry.name == "manifest.json":
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        shutil.rmtree(self.path)


class Run(Model):
    """A run that was trained here."""

    needed = (*Model.needed, "tokens", "initial_weights", "stretches")

    @staticmethod
    def name(config: RunSettings, digest: str) -> str:
        """E.g. ``nope-8x192-C256-sotu-seed0-1a2b3c4d``."""
        return run_name(config, digest)

    def check(self) -> None:
        super().check()
        stored = self.manifest["identity"]
        try:
            found = identity(
                self.config,
                stored["data"]["corpus"]["digest"],
                stored["tokenizer"]["digest"],
                stored.get("start"),
                stored.get("extensions"),
            )
        except (KeyError, TypeError) as error:
            raise UserError(f"{self.path / 'manifest.json'} lacks {error}; restore it, or leave the run out") from None
        told, made = flatten(found), flatten(stored)
        differing = sorted(name for name in told.keys() | made.keys() if told.get(name) != made.get(name))
        if differing:
            name = differing[0]
            raise UserError(
                f"{self.path / 'config.yaml'} says {name} is {told.get(name)}, and the run was made with "
                f"{made.get(name)}: restore it, or leave the run out"
            )

    def state(self, digest: str) -> str:
        """``new``, ``unfinished`` or ``finished``.

        Raises:
            UserError: the directory holds a different run, or something that is no run.
        """
        if not self.path.exists():
            return "new"
        stored = self.manifest
        if stored.get("digest") != digest:
            raise UserError(
                f"{self.path} holds a different run (digest {str(stored.get('digest'))[:8]}, not {digest[:8]}); "
                "move it away or choose another folder with runs=..."
            )
        return "finished" if stored.get("state") == "finished" else "unfinished"

    @property
    def checkpoints(self) -> Checkpoints:
        """Its checkpoints, for reading."""
        return Checkpoints(self.path / "checkpoints")

    def checkpoint(self, step: int | None = None) -> Checkpoint:
        if step is None:
            newest = self.checkpoints.newest()
            if newest is None:
                raise UserError(f"{self.path} has no checkpoint; train it first")
            return newest
        chosen = Checkpoint(self.checkpoints.path(step), step)
        flaw = chosen.flaw()
        if flaw is not None:
            kept = ", ".join(str(each.step) for each in self.checkpoints.listing(verify=False) if not each.flaw)
            raise UserError(f"{chosen.path}: {flaw}; checkpoints are there of steps {kept or 'none'}")
        return chosen

    def decoder(self, step: int | None = None) -> Decoder:
        checkpoint, config = self.checkpoint(step), self.config
        decoder = build_decoder(
            config.model, config.scale, kernel=config.kernel, compute_dtype=config.trainer.compute_dtype, seed=None
        )
        load_weights(decoder, checkpoint.weights(), str(checkpoint.path))
        return extended(decoder, self.extensions).eval()


class Derived(Model):
    """The weights of a run beside it, read otherwise."""

    needed = (*Model.needed, "parent", "extensions")

    @property
    def parent(self) -> Model:
        """The run whose weights these are.

        Raises:
            UserError: it is missing, damaged, no longer what it was, or the chain of parents has no end.
        """
        told, model = self.manifest.get("parent"), None
        try:
            name, wanted = str(told["name"]), str(told["digest"])  # type: ignore[index]
        except (KeyError, TypeError):
            raise UserError(f"{self.path / 'manifest.json'} does not say whose weights it reads; restore it") from None
        if name in ("", ".", "..") or Path(name).name != name:
            raise UserError(
                f"{self.path / 'manifest.json'} has a parent {name!r}, which is no run beside it; restore it"
            )
        seen, path = {self.path.name}, self.path.parent / name
        while model is None:
            if path.name in seen or len(seen) > DEEPEST:
                raise UserError(f"{self.path} is derived of itself, by way of {path.name}; restore its manifest.json")
            seen.add(path.name)
            if not path.exists():
                raise UserError(f"{self.path} reads the weights of {path}, which is not there: restore it beside")
            above = Model(path).manifest
            if above.get("kind") != "derived":
                model = open_model(self.path.parent / name)
            else:
                path = path.parent / str((above.get("parent") or {}).get("name"))
        if model.digest != wanted:
            raise UserError(
                f"{model.path} has digest {model.digest[:8]}, and {self.path} was derived of {wanted[:8]}: restore it"
            )
        return model

    @property
    def facts(self) -> dict[str, Any]:
        own = self.manifest
        return self.parent.facts | {key: own[key] for key in ("identity", "digest", "measured", "state") if key in own}

    def check(self) -> None:
        super().check()
        self.parent.check()

    def checkpoint(self, step: int | None = None) -> Checkpoint:
        told = self.manifest["parent"]
        if step not in (None, told["step"]):
            raise UserError(f"{self.path} reads optimiser step {told['step']} of {told['name']}, not {step}")
        found = self.parent.checkpoint(told["step"])
        if found.weights_digest() != told["weights_sha256"]:
            raise UserError(f"{found.path} no longer holds the weights that {self.path} was derived of; restore them")
        return found

    def decoder(self, step: int | None = None) -> Decoder:
        self.checkpoint(step)
        parent = self.parent
        inherited = len(parent.extensions)
        return extended(parent.decoder(self.manifest["parent"]["step"]), self.extensions[inherited:]).eval()


def open_model(path: Path | str) -> Model:
    """The run or derived run in a directory. Raises UserError if there is none, or it is of another format."""
    if not Path(path).exists():
        raise UserError(f"{path}: no such run; python -m lab.status {Path(path).parent} lists those there are")
    model: Model = Derived(path) if Model(path).manifest.get("kind") == "derived" else Run(path)
    return model


def read_extensions(stored: Any, path: Path) -> list[Settings]:
    """The settings of extensions as a manifest has them. Raises UserError if they are not such."""
    if not isinstance(stored, list) or not all(isinstance(each, dict) for each in stored):
        raise UserError(f"{path / 'manifest.json'} has extensions that are no list of settings; restore it")
    return [find("extension", each.get("name")).settings.check(each, "extension") for each in stored]


def extension_label(extension: Settings) -> str:
    """E.g. ``temperature=1.2``."""
    told = ",".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in extension.arguments().items()
    )
    name = str(getattr(extension, "name", ""))
    return told if told.startswith(f"{name}=") else f"{name}({told})"


def extended(decoder: Decoder, extensions: list[Settings]) -> Decoder:
    """A decoder whose position encoding the extensions have changed, in order."""
    for each in extensions:
        decoder.position = build("extension", each)(decoder.position)
    return decoder
