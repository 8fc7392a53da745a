"""A model as a directory holds it: what measuring, analysis and exchange need to know, however it came about."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from jaxtyping import Int
from torch import Tensor

from lab.base.errors import UserError
from lab.base.files import discard, make_folder, read_text, refuse_link, write_whole
from lab.base.parts import build
from lab.base.settings import Settings, flatten
from lab.data.tokenizer import Tokenizer
from lab.model.decoder import Decoder
from lab.runs.checkpoints import Checkpoint
from lab.runs.extensions import ExtensionSettings, read_extensions
from lab.runs.identity import FORMAT, digest, identity, variant
from lab.runs.lock import hold
from lab.runs.manifest import read_manifest, write_manifest
from lab.runs.settings import RunSettings

Stored = TypeVar("Stored", bound=Settings)
DERIVED = ("derived", "edited")  # kinds of runs without a training of their own
LARGEST_CONFIG = 2**20  # bytes of a config.yaml


class Model:
    """What measuring, analysis and exchange need: decoder, tokenizer, identity, scores. ``path`` need not exist yet."""

    needed: tuple[str, ...] = ("digest", "identity", "state")  # in a manifest

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    # What is stored.

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest as stored. Raises UserError if there is none, it cannot be read, or is of another format."""
        return read_manifest(self.path)

    def update_manifest(self, **changes: Any) -> None:
        write_manifest(self.path, self.manifest | changes)

    @property
    def config(self) -> RunSettings:
        """The configuration as stored. Raises UserError if it cannot be read, or is not that of a run."""
        return self.read_config(RunSettings)

    def read_config(self, settings: type[Stored]) -> Stored:
        """The configuration as stored, of such settings. Raises as :attr:`config`."""
        path = self.path / "config.yaml"
        try:
            content = yaml.safe_load(read_text(path, LARGEST_CONFIG))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise UserError(f"{path} cannot be read ({' '.join(str(error).split())[:200]}); restore it") from None
        if not isinstance(content, dict):
            raise UserError(f"{path} is damaged (it holds no mapping); restore it")
        try:
            return settings.check(content)
        except UserError as error:
            raise UserError(f"{path} is damaged ({'; '.join(error.args)}); restore it") from None

    def field(self, name: str) -> Any:
        """A field of the manifest. Raises UserError if it lacks that."""
        manifest = self.manifest
        if name not in manifest:
            raise UserError(f"{self.path / 'manifest.json'} lacks {name}; restore it, or leave the run out")
        return manifest[name]

    @property
    def digest(self) -> str:
        return str(self.field("digest"))

    @property
    def identity(self) -> dict[str, Any]:
        stored: dict[str, Any] = self.field("identity")
        return stored

    @property
    def context(self) -> int:
        """C in tokens."""
        return self.config.scale.context

    @property
    def steps(self) -> int:
        """Optimiser steps of the finished run."""
        return int(self.facts["tokens"]) // self.config.scale.batch_tokens

    @property
    def corpus(self) -> Settings:
        """The corpus that it was trained on. Raises UserError for a model that was not trained here."""
        found: Settings = self.config.data.corpus
        return found

    @property
    def compute_dtype(self) -> str:
        """The type of its activations where nothing else says it: ``float32`` or ``bfloat16``."""
        return str(self.config.trainer.compute_dtype)

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of how its weights came about, for control: the manifest, of a derived run its parent's too."""
        return self.manifest

    @property
    def extensions(self) -> list[ExtensionSettings]:
        """What changes its position encoding, in order."""
        return read_extensions(self.manifest.get("extensions", []), str(self.path / "manifest.json"))

    @property
    def asked(self) -> list[ExtensionSettings]:
        """Its extensions as they were asked for: what was found differs from seed to seed, and is one method all the
        same."""
        return self.extensions

    @property
    def searched_on(self) -> frozenset[str]:
        """Of the documents that it, or a run before it, was searched on, the sha256 that :mod:`lab.observe.scoring`
        knows them by."""
        return frozenset()

    @property
    def table_folders(self) -> list[Path]:
        """Run directories that have the tables of its extensions, its own first."""
        return [self.path]

    @property
    def edits(self) -> list[str]:
        """What the edits are called that its weights have had since they were trained, in order."""
        return []

    @property
    def changed(self) -> Mapping[str, Tensor]:
        """The matrices that edits have put in place of a checkpoint's, by name. Raises UserError if one is damaged."""
        return {}

    @property
    def window(self) -> int | None:
        """Keys that a query sees, itself included; None: all before it."""
        window: int | None = self.config.model.attention.window
        for each in self.extensions:
            window = each.window_of(window)
        return window

    @property
    def label(self) -> str:
        """What it is called in tables: its variant, its extensions and its edits."""
        config = self.config
        adapter = getattr(config, "adapter", None)  # an imported model has none
        return "+".join(
            [
                variant(config.model, config.scale),
                *([adapter.name] if adapter else []),
                *self.extension_labels,
                *self.edits,
            ]
        )

    @property
    def extension_labels(self) -> list[str]:
        """What its extensions are called in tables."""
        return [each.label for each in self.asked]

    def must_foretell(self, what: str) -> None:
        """Raises UserError if it sees what comes after a token, and ``what`` is of one that foretells it."""
        if not self.config.model.attention.causal:
            attention = self.config.model.attention.name
            raise UserError(
                f"{self.path} sees what comes after a token (attention is {attention}), and {what} is of "
                "decoders that foretell it: take a run with full or windowed attention"
            )

    def check_manifest(self) -> None:
        """Raises UserError if the manifest lacks something, or is not of the digest that it says."""
        for name in sorted(self.needed):
            self.field(name)
        if digest(self.identity) != self.digest:
            raise UserError(f"{self.path / 'manifest.json'} has another digest than what it holds; restore it")

    def check(self) -> None:
        """Raises UserError if what is stored is not what a run writes, or does not fit together."""
        self.check_manifest()
        stored = self.identity
        try:
            found = self.identity_of(self.config, stored)
        except (KeyError, TypeError) as error:
            raise UserError(f"{self.path / 'manifest.json'} lacks {error}; restore it, or leave the run out") from None
        # How a derived run reads its weights, and what it has in place of some, stands in its manifest alone.
        own = ("extension", "edit")
        told, made = flatten(found), flatten({name: each for name, each in stored.items() if name not in own})
        differing = sorted(name for name in told.keys() | made.keys() if told.get(name) != made.get(name))
        if differing:
            name = differing[0]
            raise UserError(
                f"{self.path / 'config.yaml'} says {name} is {told.get(name)}, and the run was made with "
                f"{made.get(name)}: restore it, or leave the run out"
            )

    def identity_of(self, config: Any, stored: Mapping[str, Any]) -> dict[str, Any]:
        """The identity that a configuration has, with those hashes that stand in a stored one.

        Raises:
            KeyError, TypeError: the stored one lacks some.
        """
        return identity(
            config,
            stored["data"]["corpus"]["digest"],
            stored["tokenizer"]["digest"],
            stored.get("start"),
            stored.get("extensions"),
        )

    # What it is made of.

    def checkpoint(self, step: int | None = None) -> Checkpoint:
        """The checkpoint of an optimiser step, by default the newest valid one.

        Raises:
            UserError: there is none, or it is damaged.
        """
        raise NotImplementedError

    def weights(self, step: int | None) -> Mapping[str, Tensor]:
        """The weights of a checkpoint by name, with what an adapter has learnt and what edits have changed. Raises as
        :meth:`checkpoint`."""
        if getattr(self.config, "adapter", None) is None:
            return {**self.checkpoint(step).weights(), **self.changed}
        return {name: each.detach() for name, each in self.decoder(step).named_parameters()}

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

    def decode(self, tokens: Int[Tensor, "1 tokens"] | Int[Tensor, "tokens"] | Sequence[int]) -> str:
        """The text of token ids, of a batch of one too. Raises UserError for a batch of several."""
        ids = torch.as_tensor(tokens)
        if ids.dim() > 1 and len(ids) != 1:
            raise UserError(f"decode was given {len(ids)} texts at once: give one, such as tokens[0]")
        return self.tokenizer().decode(ids.flatten().tolist())

    def locked(self) -> AbstractContextManager[None]:
        """Hold the run for this process; see :mod:`lab.runs.lock`."""
        return hold(self.path)

    def derived(self) -> list[Path]:
        """The derived runs beside it that are of this one."""
        own, found = self.path.resolve(), []
        for path in sorted(own.parent.glob("*/manifest.json")):
            try:
                manifest = read_manifest(path.parent)
            except UserError:
                continue
            if manifest.get("kind") in DERIVED and manifest.get("parent", {}).get("name") == own.name:
                found.append(path.parent)
        return found

    def stands(self, digest: str) -> bool:
        """Whether it is there, whole. Raises UserError if it is damaged, a link, or a run of another digest."""
        refuse_link(self.path)
        if not self.path.exists():
            return False
        self.check()
        if self.digest != digest:
            raise UserError(f"{self.path} holds a different run; move it away")
        return True

    def create(self, config: Settings, manifest: dict[str, Any], beside: Path | None = None) -> None:
        """Make the directory with configuration and manifest, at once or not at all.

        Args:
            beside: a folder next to it, with what else shall be in it; it becomes the directory.
        """
        given = beside is not None
        beside = beside or self.path.with_name(f".{self.path.name}.new")
        make_folder(self.path.parent)
        try:
            if not given:
                discard(beside)
                beside.mkdir()
            text = yaml.safe_dump(config.plain(), sort_keys=False, allow_unicode=True)
            write_whole(beside / "config.yaml", text.encode())
            write_manifest(beside, {"format": FORMAT} | manifest)
            os.rename(beside, self.path)
        except (OSError, UserError):
            with contextlib.suppress(OSError):
                discard(beside)
            raise

    def delete(self) -> None:
        """Remove the whole directory; the manifest goes last, so that a half-deleted run is still known as one.

        Raises:
            UserError: derived runs are of this one, and would have no weights; or the directory is a link to one.
        """
        refuse_link(self.path)
        orphans = [each.name for each in self.derived()]
        if orphans:
            raise UserError(f"{self.path} holds the weights of {', '.join(orphans)}: remove these first")
        for entry in self.path.iterdir():
            if entry.name != "manifest.json":
                discard(entry)
        discard(self.path)
