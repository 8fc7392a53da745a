"""The processes that train one run together: who they are, what they tell one another, and when one is gone.

A process is a rank and computes on one device. Whoever started it says in the environment which it is: srun
(``SLURM_*``), or torchrun and lab/cluster/launch.py (``RANK``, ``WORLD_SIZE``, ...).
"""

import contextlib
import itertools
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from torch import distributed

from lab.base.errors import UserError
from lab.base.interruption import Interrupted

Told = TypeVar("Told")

CONNECT_SECONDS = 120.0  # for all ranks to come
HEARTBEAT_SECONDS = 5.0
SILENCE_SECONDS = 40.0  # after which a rank counts as gone
LONGEST_WAIT = timedelta(days=1)  # rank 0 may be busy for long, with scoring, while the others wait for it

_connections = itertools.count()  # a store that outlives a connection, torchrun's, keeps what was told in it


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Args:
        rank, world: its number, and how many there are on all nodes.
        local_rank, local_world: the same on this node.
        started_by: ``python``, ``srun``, or ``torchrun``, which is what lab/cluster/launch.py calls itself too.
        address, port: where rank 0 listens.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    started_by: str = "python"
    address: str = "127.0.0.1"
    port: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    @property
    def nodes(self) -> int:
        return self.world // self.local_world

    def gather(self, told: Told) -> list[Told]:
        """What every rank tells, by rank; all must call it."""
        if self.world == 1:
            return [told]
        answers: list[Any] = [None] * self.world
        distributed.all_gather_object(answers, told)
        return answers

    def one_of(self, told: Told | None) -> Told | None:
        """What the first rank that has something to tell tells; all must call it."""
        return next(filter(None, self.gather(told)), None)

    def from_first(self, act: Callable[[], Told]) -> Told:
        """Let rank 0 do something and tell the others what came of it; all must call it.

        Raises:
            UserError, Interrupted: rank 0's, on every rank.
        """
        if self.world == 1:
            return act()
        answer: list[Any] = [None, None]
        if self.first:
            try:
                answer = [None, act()]
            except (UserError, Interrupted) as error:
                answer = [error, None]
        distributed.broadcast_object_list(answer, src=0)
        if answer[0] is not None:
            raise answer[0]
        result: Told = answer[1]
        return result

    @contextlib.contextmanager
    def connected(self, device: str) -> Iterator[None]:
        """While it is entered the ranks can talk, and a rank that is gone ends the others.

        Args:
            device: ``cpu`` or ``cuda``.

        Raises:
            UserError: the others did not come, or one of them has ended.
            Interrupted: raised inside, by all ranks; they leave together.
        """
        if self.world == 1:
            yield
            return
        # What the ranks tell one another goes over gloo beside NCCL too: it waits for no kernel.
        backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
        wait = timedelta(seconds=CONNECT_SECONDS)
        try:
            url = f"tcp://{self.address}:{self.port}"
            store, _, _ = next(distributed.rendezvous(url, self.rank, self.world, timeout=wait))
            store = distributed.PrefixStore(f"connection-{next(_connections)}", store)
            distributed.init_process_group(
                backend, store=store, rank=self.rank, world_size=self.world, timeout=LONGEST_WAIT
            )
        except (RuntimeError, TimeoutError, ValueError) as error:
            raise UserError(
                f"{self.name}: no connection by {self.address}:{self.port} in {CONNECT_SECONDS:.0f} s "
                f"({' '.join(str(error).split())[:160]}); start every rank, and set MASTER_ADDR and MASTER_PORT if "
                "this is not an address of rank 0"
            ) from None
        watch = Watch(self, store.clone())  # type: ignore[attr-defined]
        stopped: Interrupted | None = None
        try:
            try:
                yield
            except Interrupted as interrupted:  # of all ranks, after the same step; one may still be at it
                stopped = interrupted
            distributed.barrier()  # none leaves while others go on,
            watch.stop()
            distributed.barrier()  # nor takes the store away while others listen
        except RuntimeError as error:
            if re.search(r"gloo.*(closed|reset) by peer|NCCL.*(closed|reset|abort)", str(error), re.DOTALL):
                raise UserError(gone(self, "another rank")) from None
            raise
        finally:
            watch.stop()
            distributed.destroy_process_group()
        if stopped is not None:
            raise stopped

    @property
    def name(self) -> str:
        return f"rank {self.rank} of {self.world} on {socket.gethostname()}"


class Watch:
    """Beats for this rank, listens to the others, and ends the process when one of them is gone.

    What waits for a peer would otherwise wait for as long as a peer may take.
    """

    def __init__(self, ranks: Ranks, store: distributed.Store) -> None:
        self.ranks, self.store = ranks, store
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        keys = [f"beats/{rank}" for rank in range(self.ranks.world)]
        heard = {key: (0, time.monotonic()) for key in keys}
        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                self.store.add(keys[self.ranks.rank], 1)
                for key, (before, when) in heard.items():
                    count = self.store.add(key, 0)
                    if count != before:
                        heard[key] = (count, time.monotonic())
                    elif time.monotonic() - when > SILENCE_SECONDS:
                        self._end(f"rank {key.removeprefix('beats/')}")
            except RuntimeError:
                self._end("rank 0")  # it keeps the store

    def _end(self, which: str) -> None:
        if not self._stop.is_set():
            print(f"error: {gone(self.ranks, which)}", file=sys.stderr, flush=True)
            os._exit(1)  # the main thread may be in a call that nothing interrupts


def gone(ranks: Ranks, which: str) -> str:
    """The line of a rank that cannot go on without another."""
    return (
        f"{ranks.name}: {which} is gone (it failed, was killed, or its node was); its own message, if there is one, "
        "says why. The same command continues from the last checkpoint"
    )


def detect(environment: Mapping[str, str]) -> Ranks:
    """Who this process is, as those that started it say.

    Raises:
        UserError: what they say does not fit together.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return _of_torchrun(environment)
    # A batch script and its children are in a job and in no step: srun has started none of them.
    if "SLURM_JOB_ID" in environment and "SLURM_STEP_ID" in environment:
        return _of_srun(environment)
    return Ranks()


def _of_torchrun(environment: Mapping[str, str]) -> Ranks:
    keys = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
    rank, world, local_rank, local_world, port = (_number(environment, key) for key in keys)
    if "MASTER_ADDR" not in environment:
        raise UserError("RANK is set and MASTER_ADDR is not: start with torchrun, srun, or without RANK")
    return Ranks(rank, world, local_rank, local_world, "torchrun", environment["MASTER_ADDR"], port)


def _of_srun(environment: Mapping[str, str]) -> Ranks:
    # What was asked for the whole job stands in SLURM_NTASKS; a step may have fewer tasks, an interactive one has one.
    own = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
    rank, world = _number(environment, "SLURM_PROCID"), _number(environment, own)
    if world == 1:
        return Ranks(started_by="srun")
    told = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_TASKS_PER_NODE", "")
    counts = tasks_of_nodes(told)
    if sum(counts) != world or len(set(counts)) != 1:
        raise UserError(
            f"srun started {world} tasks as {told} on its nodes: every node must have as many, one a device; give "
            "--nodes and --ntasks-per-node"
        )
    job, step = _number(environment, "SLURM_JOB_ID"), _number(environment, "SLURM_STEP_ID")
    return Ranks(
        rank,
        world,
        _number(environment, "SLURM_LOCALID"),
        counts[0],
        "srun",
        environment.get("MASTER_ADDR") or _first_node(environment),
        # Of two jobs on one node, and of two steps of a job, another.
        _number(environment, "MASTER_PORT")
        if environment.get("MASTER_PORT")
        else 15_000 + (job * 31 + step * 7) % 15_000,
    )


def tasks_of_nodes(text: str) -> list[int]:
    """SLURM's "2(x3),1" as [2, 2, 2, 1]; [] if it cannot be read."""
    counts: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if not found:
            return []
        counts += [int(found[1])] * int(found[2] or 1)
    return counts


def _first_node(environment: Mapping[str, str]) -> str:
    """An address of the node of rank 0."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    name = re.sub(r"\[(\d+)[^\]]*\]", r"\1", nodes, count=1).split(",")[0]
    try:
        socket.getaddrinfo(name, None)
        return name
    except OSError:  # node names need not be host names; srun tells where it was started, a job's first node
        return environment.get("SLURM_LAUNCH_NODE_IPADDR", name)


def _number(environment: Mapping[str, str], key: str) -> int:
    try:
        return int(environment[key])
    except (KeyError, ValueError):
        raise UserError(
            f"{key} is {environment.get(key, 'not set')} in the environment, where the number that srun or torchrun "
            "gives should stand; start with one of them, or clear RANK and WORLD_SIZE"
        ) from None
