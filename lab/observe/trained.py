"""Something small that is trained beside a decoder, such as a probe; killed, it goes on and ends with the same bits."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from lab.base.errors import UserError
from lab.base.files import write_whole
from lab.model.precision import exact_products, fix_order_of_sums
from lab.observe.fold import Observed

FORMAT = 1
WRITE_SECONDS = 10.0  # of training that a killed process loses at most
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what torch's AdamW keeps of each parameter


class Training:
    """AdamW on the parameters of a module, the rate falling linearly from its first value to 0.

    Args:
        module: what is trained; all else is to be frozen. Its buffers are kept too.
        loss: of a step by its number; may depend on nothing else that changes but the module.
        observed: what the trained module is observed to do.
        steps, learning_rate, eps, weight_decay: of AdamW (its betas are torch's, 0.9 and 0.999).
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[[int], Tensor],
        observed: Callable[[], Observed],
        *,
        steps: int,
        learning_rate: float,
        eps: float,
        weight_decay: float,
    ) -> None:
        self.module, self.loss, self.observed = module, loss, observed
        self.steps, self.learning_rate = steps, learning_rate
        self.step = 0
        self._optimizer = torch.optim.AdamW(
            module.parameters(), lr=learning_rate, eps=eps, weight_decay=weight_decay, foreach=False
        )

    def run(
        self,
        path: Path | None = None,
        identity: Mapping[str, Any] | None = None,
        check: Callable[[], object] = lambda: None,
        stepped: Callable[[int], object] = lambda steps: None,
    ) -> Observed:
        """Train to the end and observe.

        Args:
            path: where it is kept every WRITE_SECONDS, when it is stopped, and at the end; what is there goes on.
            identity: what it is trained with and on, in words of JSON.
            check: called before each step; what it raises to stop is let through once all is kept.
            stepped: told how many steps are done that were not, as they are.

        Raises:
            UserError: what is kept is damaged or of another identity; or the training diverged.
        """
        exact_products()
        fix_order_of_sums(True)
        if path is not None and path.exists():
            self._load(path, identity or {})
            stepped(self.step)
        due = time.monotonic() + WRITE_SECONDS
        begun = self.step
        while self.step < self.steps:
            try:
                check()
            except BaseException:
                if path is not None and self.step > begun:
                    self._save(path, identity or {})
                raise
            self._take_step()
            stepped(1)
            if path is not None and (time.monotonic() >= due or self.step == self.steps):
                self._save(path, identity or {})
                due = time.monotonic() + WRITE_SECONDS
        if not all(torch.isfinite(each).all() for each in self.module.state_dict().values()):
            raise UserError(
                f"a training of {self.steps} steps diverged: lower its learning_rate ({self.learning_rate})"
            )
        with torch.no_grad():
            return self.observed()

    def _take_step(self) -> None:
        with torch.enable_grad():
            for group in self._optimizer.param_groups:
                group["lr"] = self.learning_rate * (1 - self.step / self.steps)
            self._optimizer.zero_grad(set_to_none=True)
            self.loss(self.step).backward()
            self._optimizer.step()
        self.step += 1

    def _tensors(self) -> dict[str, Tensor]:
        found = {f"module/{name}": each for name, each in self.module.state_dict().items()}
        for name, parameter in self.module.named_parameters():
            for moment in MOMENTS:
                found[f"{moment}/{name}"] = self._optimizer.state[parameter][moment]
        return {name: each.detach().cpu().contiguous() for name, each in found.items()}

    def _save(self, path: Path, identity: Mapping[str, Any]) -> None:
        tensors = self._tensors()
        header = {"format": FORMAT, "identity": identity, "step": self.step}
        header["sha256"] = _seal(header, tensors)
        write_whole(path, save(tensors, metadata={"training": json.dumps(header, sort_keys=True)}))

    def _load(self, path: Path, identity: Mapping[str, Any]) -> None:
        again = "delete it and run the same command again"
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {})["training"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 it is no dict
            if header["format"] != FORMAT or header["sha256"] != _seal(header, tensors):
                raise ValueError("its sha256 or format differs")
            if header["identity"] != json.loads(json.dumps(identity)):
                raise UserError(f"{path} was made with other settings; {again}")
            step = int(header["step"])
            stored = {name.partition("/")[2]: each for name, each in tensors.items() if name.startswith("module/")}
            self.module.load_state_dict(stored)
            for name, parameter in self.module.named_parameters():
                moments = {moment: tensors[f"{moment}/{name}"].clone() for moment in MOMENTS}
                self._optimizer.state[parameter] = {
                    moment: each if moment == "step" else each.to(parameter.device) for moment, each in moments.items()
                }
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}; {again}") from None
        except (SafetensorError, ValueError, LookupError, TypeError, RuntimeError) as error:
            raise UserError(f"{path} is damaged ({' '.join(str(error).split())[:100]}); {again}") from None
        self.step = step


def drawn(seed: int, name: str, among: int, size: int, step: int) -> np.ndarray:
    """The numbers below ``among`` that a step reads: one shuffle of all after another, cut in pieces of ``size``.

    A function of its arguments alone; of fewer than ``size`` all are read at each step.
    """
    size = min(size, among)
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    first, found = step * size, np.empty(0, dtype=np.int64)
    while len(found) < size:
        shuffle, at = divmod(first + len(found), among)
        order = np.random.default_rng([seed, key, shuffle]).permutation(among)
        found = np.concatenate((found, order[at : at + size - len(found)]))
    return found


def _seal(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of a file's content, whatever the way it is laid out."""
    words = {key: each for key, each in header.items() if key != "sha256"}
    layout = [[name, str(tensors[name].dtype), list(tensors[name].shape)] for name in sorted(tensors)]
    seal = hashlib.sha256(json.dumps([words, layout], sort_keys=True).encode())
    for name in sorted(tensors):
        seal.update(tensors[name].contiguous().numpy().tobytes())
    return seal.hexdigest()
