"""A run is a directory, named by what it is. This file knows what stands in one.

    config.yaml      the resolved configuration
    manifest.json    identity, code, packages, hardware, kernels, fingerprints, state
    metrics.csv      one row every few optimiser steps; timing.csv the same rows' wall-clock columns
    checkpoints/step=NNNNNNNN/, see lab/checkpoints.py
    scores.csv, summary.csv, loss_by_position.png and .svg

The digest in the name is a hash of what decides the run's numbers, so the same command always finds its run again.
"""

import hashlib
import json
import os
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import yaml

from lab.checkpoints import Checkpoint, Checkpoints
from lab.components import make
from lab.errors import UserError
from lab.files import write_whole
from lab.lock import hold
from lab.model.attention import Attention
from lab.model.decoder import Decoder
from lab.model.precision import DTYPES
from lab.schema import flatten

Config = dict[str, Any]


def identity(config: Config, corpus: str, tokenizer: str) -> dict[str, Any]:
    """What decides a run's numbers, and nothing else: not hardware, loggers, paths or how often it logs.

    Args:
        config: resolved, with ``trainer.compute_dtype`` and ``compile`` no longer ``auto``.
        corpus, tokenizer: digests of what their paths hold.
    """
    trainer = config["trainer"]
    order = order_identity(config, corpus, tokenizer)
    formed = trainer.get("recompute", "none")
    return {
        "model": config["model"],
        "scale": config["scale"],
        "data": order["data"] | {"isolate_documents": config["data"]["isolate_documents"]},
        "tokenizer": order["tokenizer"],
        "optimizer": config["optimizer"],
        "schedule": config["schedule"],
        "seed": config["seed"],
        "kernel": config["kernel"],
        "compute_dtype": trainer["compute_dtype"],
        "compile": trainer["compile"],
        "gradient_clip": trainer["gradient_clip"],
        # Only what departs from the rule, so that runs of before it could be chosen are the same runs.
        **({} if trainer.get("deterministic", True) else {"deterministic": False}),
        # It changes no bit unless blocks are compiled.
        **({"recompute": formed} if trainer["compile"] and formed != "none" else {}),
    }


def order_identity(config: Config, corpus: str, tokenizer: str) -> dict[str, Any]:
    """What decides the blocks of training: two runs of the same order identity read the same ones."""
    # Where the files lie, and by whom and how they are read, changes no block.
    elsewhere = ("train", "validation", "test", "urls", "manifest", "timeout_seconds", "deadline_seconds")
    by_whom = ("mode", "blocks", "workers", "isolate_documents")
    reading = {key: value for key, value in config["data"]["corpus"].items() if key not in elsewhere}
    data = {key: value for key, value in config["data"].items() if key not in by_whom}
    return {
        "data": data | {"corpus": reading | {"digest": corpus}},
        "tokenizer": {"digest": tokenizer, "end_of_document": config["tokenizer"]["end_of_document"]},
        "context": config["scale"]["context"],
    }


def digest(identity: dict[str, Any]) -> str:
    """sha256 of the identity's canonical JSON."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def build_decoder(config: Config) -> Decoder:
    """The decoder that a configuration describes, with its initial weights.

    Raises:
        UserError: a shape that does not fit together.
    """
    scale, model = config["scale"], config["model"]
    for key in ("heads", "kv_heads", "head_dim"):
        if scale[key] < 1:
            raise UserError(f"scale.{key} is {scale[key]}: give 1 or more")
    heads, head_dim = scale["heads"], scale["head_dim"]

    def attention() -> Attention:
        layer: Attention = make(
            model["attention"],
            width=scale["width"],
            heads=heads,
            kv_heads=scale["kv_heads"],
            head_dim=head_dim,
            kernel=config["kernel"],
        )
        return layer

    return Decoder(
        vocabulary=scale["vocabulary"],
        layers=scale["layers"],
        width=scale["width"],
        hidden=scale["hidden"],
        position=make(model["position"], heads=heads, head_dim=head_dim),
        attention=attention,
        seed=config["seed"],
        eps=model["eps"],
        tied=model["tied"],
        compute_dtype=DTYPES[config["trainer"]["compute_dtype"]],
    )


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all."""
    write_whole(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


class Run:
    """A run directory; ``path`` need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def name(config: Config, digest: str) -> str:
        """E.g. ``nope-pilot-sotu-seed0-1a2b3c4d``."""
        parts = (config["model"]["name"], config["scale"]["name"], config["data"]["name"])
        return f"{'-'.join(parts)}-seed{config['seed']}-{digest[:8]}"

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest as stored. Raises UserError if there is none, or it cannot be read."""
        path = self.path / "manifest.json"
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(
                f"{self.path} is not a run directory: it has no manifest.json; move it away or choose another folder"
            ) from None
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}); delete {self.path} or restore it") from None
        if not isinstance(content, dict):
            raise UserError(f"{path} is damaged (it holds no mapping); delete {self.path} or restore it")
        return content

    def check(self) -> None:
        """Raises UserError if manifest.json or config.yaml is not what a run writes, or they do not fit together."""
        manifest, config = self.manifest, self.config
        lacking = {"digest", "identity", "state", "tokens", "initial_weights", "stretches"} - manifest.keys()
        if lacking:
            raise UserError(f"{self.path / 'manifest.json'} lacks {min(lacking)}; restore it, or leave the run out")
        stored = manifest["identity"]
        try:
            found = identity(config, stored["data"]["corpus"]["digest"], stored["tokenizer"]["digest"])
        except (KeyError, TypeError) as error:
            raise UserError(f"{self.path / 'config.yaml'} lacks {error}; restore it, or leave the run out") from None
        told, made = flatten(found), flatten(stored)
        differing = sorted(key for key in told.keys() | made.keys() if told.get(key) != made.get(key))
        if differing:
            key = differing[0]
            raise UserError(
                f"{self.path / 'config.yaml'} says {key} is {told.get(key)}, and the run was made with "
                f"{made.get(key)}: restore it, or leave the run out"
            )
        if digest(stored) != manifest["digest"]:
            raise UserError(f"{self.path / 'manifest.json'} has another digest than what it holds; restore it")

    def update_manifest(self, **changes: Any) -> None:
        write_json(self.path / "manifest.json", self.manifest | changes)

    @property
    def config(self) -> Config:
        """The configuration as stored."""
        path = self.path / "config.yaml"
        try:
            content: Config = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise UserError(f"{path} cannot be read ({' '.join(str(error).split())}); restore it") from None
        if not isinstance(content, dict):
            raise UserError(f"{path} is damaged (it holds no mapping); restore it")
        return content

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

    def locked(self) -> AbstractContextManager[None]:
        """Hold the run for this process; see :mod:`lab.lock`."""
        return hold(self.path)

    @property
    def checkpoints(self) -> Checkpoints:
        """Its checkpoints, for reading."""
        return Checkpoints(self.path / "checkpoints")

    def create(self, config: Config, manifest: dict[str, Any]) -> None:
        """Make the directory with configuration and manifest, at once or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f".{self.path.name}.new")
        if beside.exists():
            shutil.rmtree(beside)
        try:
            beside.mkdir()
            text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
            write_whole(beside / "config.yaml", text.encode())
            write_json(beside / "manifest.json", manifest)
            os.rename(beside, self.path)
        except (OSError, UserError):
            shutil.rmtree(beside, ignore_errors=True)
            raise

    def delete(self) -> None:
        """Remove the whole directory; the manifest goes last, so that a half-deleted run is still known as one."""
        for entry in self.path.iterdir():
            if entry.name == "manifest.json":
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        shutil.rmtree(self.path)

    def checkpoint(self, step: int | None = None) -> Checkpoint:
        """The checkpoint of an optimiser step, by default the newest valid one.

        Raises:
            UserError: there is none, or it is damaged.
        """
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

    def load_decoder(self, checkpoint: Checkpoint) -> Decoder:
        """The trained decoder of a checkpoint, in evaluation mode on the CPU."""
        with torch.device("meta"):
            decoder = build_decoder(self.config)
        decoder.to_empty(device="cpu")
        decoder.position = make(
            self.config["model"]["position"],
            heads=self.config["scale"]["heads"],
            head_dim=self.config["scale"]["head_dim"],
        )
        decoder.load_state_dict(checkpoint.weights())
        return decoder.eval()
