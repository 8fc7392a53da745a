"""A run is a directory, named by what it is. This file knows what stands in one.

    config.yaml      the resolved configuration
    manifest.json    identity, code, packages, hardware, kernels, fingerprints, state
    metrics.csv      one row every few optimiser steps; timing.csv the same rows' wall-clock columns
    checkpoints/step=NNNNNNNN/, see lab/runs/checkpoints.py; weights/step=NNNNNNNN/ are such without the state
    scores.csv, summary.csv, pictures

The digest in the name is a hash of what decides the run's numbers, so the same command always finds its run again.
A derived run has no training of its own: its manifest names a run beside it, whose weights it reads otherwise.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.base.errors import UserError
from lab.base.files import sha256_of
from lab.base.parts import build
from lab.base.shown import plain
from lab.base.tables import Row, read_table
from lab.model.building import build_decoder, load_weights
from lab.model.decoder import Decoder
from lab.runs.checkpoints import Checkpoint, Checkpoints
from lab.runs.extensions import ExtensionSettings, extended, read_extensions
from lab.runs.identity import run_name
from lab.runs.manifest import read_manifest
from lab.runs.model import Model
from lab.runs.settings import RunSettings


class Run(Model):
    """A run that was trained here."""

    needed = (*Model.needed, "tokens", "initial_weights", "attempts")

    @property
    def asked(self) -> list[ExtensionSettings]:
        stored = (self.manifest.get("parent") or {}).get("asked")
        return super().asked if stored is None else read_extensions(stored, str(self.path / "manifest.json"))

    @property
    def searched_on(self) -> frozenset[str]:
        return frozenset(map(str, (self.manifest.get("parent") or {}).get("searched_on", ())))

    @staticmethod
    def name(config: RunSettings, digest: str) -> str:
        """E.g. ``nope-8x192-C256-sotu-seed0-1a2b3c4d``."""
        return run_name(config, digest)

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
        return Checkpoints(self.path / "checkpoints", self.digest)

    @property
    def kept(self) -> Checkpoints:
        """The weights that are kept of some optimiser steps without the rest of the state."""
        return Checkpoints(self.path / "weights", self.digest, keep_every=1, weights_only=True)

    def checkpoint(self, step: int | None = None) -> Checkpoint:
        if step is None:
            newest = self.checkpoints.newest()
            if newest is None:
                raise UserError(f"{self.path} has no checkpoint; train it first")
            chosen = newest
        else:
            chosen = next(
                (
                    each
                    for each in (self.checkpoints.checkpoint(step), self.kept.checkpoint(step))
                    if each.path.exists()
                ),
                self.checkpoints.checkpoint(step),
            )
            flaw = chosen.flaw()
            if flaw is not None:
                kept = ", ".join(map(str, self.scorable()))
                raise UserError(f"{chosen.path}: {flaw}; checkpoints are there of steps {kept or 'none'}")
        proof = self.manifest.get("proof")
        if proof is not None and proof["weights"].get(f"{chosen.step}") != chosen.weights_digest():
            raise UserError(f"{chosen.path} holds other weights than the run had when it was finished; restore them")
        return chosen

    def scorable(self) -> list[int]:
        """The optimiser steps whose weights are there, whole."""
        return sorted(
            {each.step for store in (self.checkpoints, self.kept) for each in store.listing() if not each.flaw}
        )

    def metrics(self, columns: Sequence[str]) -> list[Row]:
        """The rows of metrics.csv, which must have the columns. Raises UserError if it is damaged, or no longer what
        the finished run wrote."""
        path = self.path / "metrics.csv"
        rows = read_table(path, columns, remedy="restore it, or leave the run out")
        proven = self.manifest.get("proof", {}).get("metrics")
        if proven is not None and proven != sha256_of(path):
            raise UserError(f"{path} is not what it was when the run was finished; restore it, or leave the run out")
        return rows

    def prove(self) -> dict[str, Any]:
        """What the manifest of the finished run holds of its files: sha256 of the weights of each checkpoint kept, and
        of metrics.csv."""
        every = [*self.kept.all(), *self.checkpoints.all()]
        weights = {f"{each.step}": each.weights_digest() for each in every if each.flaw() is None}
        return {"weights": weights, "metrics": sha256_of(self.path / "metrics.csv")}

    def decoder(self, step: int | None = None) -> Decoder:
        checkpoint, config = self.checkpoint(step), self.config
        decoder = build_decoder(
            config.model, config.scale, kernel=config.kernel, compute_dtype=self.compute_dtype, seed=None
        )
        if config.adapter is None:
            load_weights(decoder, checkpoint.weights(), str(checkpoint.path))
        else:
            adapter = build("adapter", config.adapter)
            adapter(decoder, config.seed)
            load_weights(decoder, checkpoint.weights(), str(checkpoint.path))
            adapter.merge(decoder)
        return extended(decoder, self.extensions, self.table_folders).eval()


def open_model(path: Path | str) -> Model:
    """The run, derived run or imported model in a directory.

    Raises UserError if there is none, or it is of another format.
    """
    from lab.runs.derived import Derived  # a model, which opens another
    from lab.runs.edited import Edited
    from lab.runs.imported import Imported

    if plain(path) != str(path):
        raise UserError(f"{path}: its name holds signs that a terminal obeys; rename it")
    if not Path(path).exists():
        raise UserError(f"{path}: no such run; python -m lab.status {Path(path).parent} lists those there are")
    if not (Path(path) / "manifest.json").exists():
        raise UserError(
            f"{path} is not a run directory: it has no manifest.json; name one, as python -m lab.status lists"
        )
    kinds: dict[str | None, type[Model]] = {"derived": Derived, "edited": Edited, "imported": Imported}
    return kinds.get(read_manifest(Path(path)).get("kind"), Run)(path)
