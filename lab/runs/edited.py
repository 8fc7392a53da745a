"""An edited run: a derived run that has other numbers in some matrices than the run beside it.

    config.yaml, manifest.json
    tables/SHA256.safetensors   each matrix that was changed, whole, in float32
    facts.jsonl                 what was asked for; the manifest has the numbers of what was ``written``
    edit_scores.csv, edit_losses.csv

All other weights are the parent's. The identity is the parent's with ``edit``: the method with its keys, a sha256 of
the facts, and of each changed matrix its sha256.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lab.base.errors import UserError
from lab.base.shown import plain
from lab.model.decoder import Decoder
from lab.runs.derived import Derived
from lab.runs.extensions import ExtensionSettings, read_tensor
from lab.runs.model import Model

TOLD = ("layer", "matrix", "step", "steps", "learning_rate")  # of an edit, in what a run is called


class Edited(Derived):
    """An edited run."""

    needed = (*Derived.needed, "written")

    @property
    def own_edit(self) -> dict[str, Any]:
        """What it has done to its parent. Raises UserError if the identity has none."""
        found = self.identity.get("edit")
        if found is None:
            raise UserError(f"{self.path / 'manifest.json'} has an identity without an edit; restore it")
        return {key: value for key, value in found.items() if key != "after"}

    @property
    def edits(self) -> list[str]:
        return [*self.parent.edits, edit_label(self.own_edit)]

    @property
    def changed(self) -> Mapping[str, Tensor]:
        return {**self.parent.changed, **self._own()}

    def _own(self) -> dict[str, Tensor]:
        hashes: dict[str, str] = self.own_edit["weights"]
        return {name: read_tensor(each, [self.path], "an edit") for name, each in hashes.items()}

    @property
    def asked(self) -> list[ExtensionSettings]:
        return self.parent.asked

    def check(self) -> None:
        Model.check(self)
        parent = self.parent
        parent.check()
        if self.extensions != parent.extensions or self.identity != edited_identity(parent, self.own_edit):
            raise UserError(
                f"{self.path / 'manifest.json'} has an edit or extensions that are not those of its identity and its "
                "parent; restore it"
            )

    def decoder(self, step: int | None = None) -> Decoder:
        self.checkpoint(step)
        decoder = self.parent.decoder(self.field("parent")["step"])
        put(decoder, self._own(), str(self.path))
        return decoder.eval()


def edited_identity(parent: Model, edit: Mapping[str, Any]) -> dict[str, Any]:
    """The parent's identity with an edit; one of an edited run holds the one before inside."""
    before = parent.identity.get("edit")
    return parent.identity | {"edit": dict(edit) | ({"after": before} if before else {})}


def edit_label(edit: Mapping[str, Any]) -> str:
    """What an edit is called in tables: ``forward_shift(layer=3,step=100)``."""
    told = {key: edit[key] for key in TOLD if isinstance(edit.get(key), int | float | str)}
    words = [f"{key}={f'{value:g}' if isinstance(value, float) else value}" for key, value in told.items()]
    return plain(f"{edit['name']}({','.join(words)})")


@torch.no_grad()
def put(decoder: Decoder, changed: Mapping[str, Tensor], source: str) -> None:
    """Put matrices into a decoder.

    Args:
        source: where they are from, for the message.

    Raises:
        UserError: it has no matrix of that name and shape, or one is not finite.
    """
    own = dict(decoder.named_parameters())
    for name, value in changed.items():
        if name not in own or own[name].shape != value.shape:
            raise UserError(f"{source} changes {plain(name)[:80]}, which the decoder does not have so; restore it")
        if not bool(value.isfinite().all()):
            raise UserError(f"{source} changes {name} to numbers that are not finite; restore it")
        own[name].copy_(value)
