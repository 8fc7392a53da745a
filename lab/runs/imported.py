"""An imported model: pretrained weights from elsewhere, read by the lab's decoder. It was not trained here.

    config.yaml      shape, position encoding, attention, tokenizer
    manifest.json    identity, and where the weights are from (`source`)
    tokenizer.json
    weights/step=00000000/, a checkpoint without a state: see lab/runs/checkpoints.py
    scores.csv, pictures

Its identity holds a sha256 of the weights, whatever file they came in.
"""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from lab.base.errors import UserError
from lab.base.settings import Settings
from lab.data.tokenizer import Tokenizer
from lab.model.building import build_decoder, load_weights
from lab.model.decoder import Decoder
from lab.runs.checkpoints import Checkpoint, Checkpoints
from lab.runs.extensions import extended
from lab.runs.model import Model
from lab.runs.settings import ImportedSettings

STEP = 0  # of its only checkpoint


class Imported(Model):
    """An imported model."""

    needed = (*Model.needed, "source", "proof")

    @property
    def config(self) -> Any:
        return self.read_config(ImportedSettings)

    @property
    def steps(self) -> int:
        return STEP

    @property
    def compute_dtype(self) -> str:
        return str(self.config.compute_dtype)

    @property
    def corpus(self) -> Settings:
        raise UserError(
            f"{self.path} is an imported model, without held-out documents of its own: name some, such as "
            "evaluation=sotu"
        )

    @property
    def store(self) -> Checkpoints:
        """Where its weights are."""
        return Checkpoints(self.path / "weights", self.digest, keep_every=1, weights_only=True)

    def checkpoint(self, step: int | None = None) -> Checkpoint:
        if step not in (None, STEP):
            raise UserError(f"{self.path} is an imported model: it has no optimiser step {step}; leave the step out")
        found = self.store.checkpoint(STEP)
        flaw = found.flaw()
        if flaw is not None:
            raise UserError(f"{found.path}: {flaw}; import the model again")
        if self.manifest["proof"]["weights"].get(f"{STEP}") != found.weights_digest():
            raise UserError(f"{found.path} holds other weights than those that were imported; restore them")
        return found

    def decoder(self, step: int | None = None) -> Decoder:
        checkpoint, config = self.checkpoint(step), self.config
        decoder = build_decoder(
            config.model, config.scale, kernel=config.kernel, compute_dtype=self.compute_dtype, seed=None
        )
        load_weights(decoder, checkpoint.weights(), str(checkpoint.path))
        return extended(decoder, self.extensions).eval()

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        settings = self.config.tokenizer
        made = Tokenizer(str(self.path / settings.path), settings.end_of_document, settings.vocabulary)
        if made.digest != self.identity["tokenizer"]["digest"]:
            raise UserError(f"{made.path} is no longer the tokenizer that {self.path} was imported with; restore it")
        return made

    def check(self) -> None:
        super().check()
        told, own = self.identity.get("extension"), self.extensions
        if [each.identity() for each in own] != ([told] if told else []):
            raise UserError(
                f"{self.path / 'manifest.json'} has extensions that are not those of its identity; restore it"
            )

    def identity_of(self, config: Any, stored: Mapping[str, Any]) -> dict[str, Any]:
        return imported_identity(config, stored["tokenizer"]["digest"], stored["weights"])


def imported_identity(
    config: ImportedSettings, tokenizer: str, weights: str, rule: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What an imported model is.

    Args:
        tokenizer: sha256 of its file.
        weights: of :func:`digest_of_tensors`.
        rule: the extension by which its RoPE turns.
    """
    return {
        "model": config.model.identity(),
        "scale": config.scale.identity(),
        "tokenizer": config.tokenizer.identity() | {"digest": tokenizer},
        "kernel": config.kernel,
        "compute_dtype": config.compute_dtype,
        "weights": weights,
        **({"extension": dict(rule)} if rule else {}),
    }


def digest_of_tensors(hashes: Mapping[str, str]) -> str:
    """sha256 of the names of tensors and of the sha256 of each."""
    total = hashlib.sha256()
    for name, each in sorted(hashes.items()):
        total.update(f"{name} {each}\n".encode())
    return total.hexdigest()
