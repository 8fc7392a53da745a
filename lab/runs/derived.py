"""A derived run: the weights of a run beside it, read otherwise. It has no training of its own, and no weights.

Its manifest names the other, with the digest, the step and the sha256 of the weights that it was made of.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lab.base.errors import UserError
from lab.base.settings import Settings
from lab.base.shown import plain
from lab.data.tokenizer import Tokenizer
from lab.model.decoder import Decoder
from lab.runs.checkpoints import Checkpoint
from lab.runs.extensions import ExtensionSettings, extended, read_extensions
from lab.runs.model import Model
from lab.runs.run import open_model

DEEPEST = 32  # derived runs of derived runs


class Derived(Model):
    """A derived run."""

    needed = (*Model.needed, "parent", "extensions")

    @property
    def config(self) -> Any:
        return self.read_config(type(self.parent.config))

    @property
    def compute_dtype(self) -> str:
        return self.parent.compute_dtype

    @property
    def steps(self) -> int:
        return int(self.field("parent")["step"])

    @property
    def corpus(self) -> Settings:
        return self.parent.corpus

    @property
    def parent(self) -> Model:
        """The run whose weights these are, or another derived run, which comes before.

        Raises:
            UserError: one of the chain is missing, damaged, or no longer what it was; or the chain has no end.
        """
        first = above = self._above()
        seen = {self.path.name}
        while isinstance(above, Derived):
            if above.path.name in seen or len(seen) > DEEPEST:
                raise UserError(f"{self.path} is derived of itself, by way of {above.path.name}; restore its manifest")
            seen.add(above.path.name)
            above = above._above()
        return first

    def _above(self) -> Model:
        """One generation up."""
        origin, manifest = self.field("parent"), self.path / "manifest.json"
        name, wanted = origin["name"], origin["digest"]
        if name in ("", ".", "..") or plain(name) != name or Path(name).name != name or len(name.encode()) > 255:
            raise UserError(f"{manifest} has a parent {name[:80]!r}, which is no run beside it; restore it")
        path = self.path.parent / name
        if path.is_symlink():
            raise UserError(f"{path}, which {self.path} is derived of, is a link: move the run itself there")
        if not path.exists():
            raise UserError(f"{self.path} reads the weights of {path}, which is not there: restore it beside")
        model = open_model(path)
        if model.digest != wanted:
            raise UserError(
                f"{path} has digest {model.digest[:8]}, and {self.path} was derived of {wanted[:8]}: restore it"
            )
        return model

    @property
    def facts(self) -> dict[str, Any]:
        above = {
            key: value
            for key, value in self.parent.facts.items()
            if key not in ("measured", "scored", "documents", "asked", "proof")
        }
        return above | {
            key: value
            for key, value in self.manifest.items()
            if key in ("measured", "scored", "documents", "asked", *Model.needed)
        }

    @property
    def searched_on(self) -> frozenset[str]:
        own = self.manifest.get("found", {}).get("documents_sha256", [])
        return self.parent.searched_on.union(map(str, own))

    @property
    def table_folders(self) -> list[Path]:
        return [self.path, *self.parent.table_folders]

    @property
    def edits(self) -> list[str]:
        return self.parent.edits

    @property
    def changed(self) -> Mapping[str, Tensor]:
        return self.parent.changed

    @property
    def asked(self) -> list[ExtensionSettings]:
        asked = self.manifest.get("asked")
        stored = [asked["extension"]] if asked else self.manifest["extensions"][-1:]
        return [*self.parent.asked, *read_extensions(stored, str(self.path / "manifest.json"))]

    def tokenizer(self) -> Tokenizer:
        return self.parent.tokenizer()

    def identity_of(self, config: Any, stored: Mapping[str, Any]) -> dict[str, Any]:
        return self.parent.identity_of(config, stored)

    def check(self) -> None:
        super().check()
        parent = self.parent
        parent.check()
        before, own = parent.extensions, self.extensions
        if len(own) != len(before) + 1 or own[:-1] != before or self.identity != extended_identity(parent, own[-1]):
            raise UserError(
                f"{self.path / 'manifest.json'} has extensions that are not those of its identity and its parent; "
                "restore it"
            )

    def checkpoint(self, step: int | None = None) -> Checkpoint:
        origin = self.field("parent")
        if step not in (None, origin["step"]):
            raise UserError(f"{self.path} reads optimiser step {origin['step']} of {origin['name']}, not {step}")
        found = self.parent.checkpoint(origin["step"])
        if found.weights_digest() != origin["weights_sha256"]:
            raise UserError(f"{found.path} no longer holds the weights that {self.path} was derived of; restore them")
        return found

    def decoder(self, step: int | None = None) -> Decoder:
        self.checkpoint(step)
        parent = self.parent
        inherited = len(parent.extensions)
        decoder = parent.decoder(self.field("parent")["step"])
        return extended(decoder, self.extensions[inherited:], self.table_folders).eval()


def extended_identity(parent: Model, extension: ExtensionSettings) -> dict[str, Any]:
    """The parent's identity with an extension; one of an extended run holds the one before inside."""
    before = parent.identity.get("extension")
    told = extension.identity() | ({"after": before} if before else {})
    return parent.identity | {"extension": told}
