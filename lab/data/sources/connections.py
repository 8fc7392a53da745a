"""Connections over HTTP whose answers must come promptly: a timeout of a socket is of each byte, not of all."""

import http.client
import io
import os
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import LocationValueError

_pools: dict[tuple[int, str | None], urllib3.PoolManager] = {}


class Hurried(io.RawIOBase):
    """What a socket receives. Raises TimeoutError where it takes more than `seconds` since `begin`."""

    def __init__(self, received: io.RawIOBase, seconds: float | None) -> None:
        self._received, self._seconds = received, seconds
        self.begin()

    def begin(self) -> None:
        self._began = time.monotonic()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._seconds is not None and time.monotonic() - self._began > self._seconds:
            raise TimeoutError(f"what it sends makes no whole answer in {self._seconds:g} s")
        return self._received.readinto(buffer)

    def close(self) -> None:
        self._received.close()
        super().close()


class PromptResponse(http.client.HTTPResponse):
    """An answer whose head, and each piece of whose body, is there within the time that its socket waits for a byte.

    A head has lines without end, also those of "100 Continue", and so has what stands between the chunks of a body: a
    server that sends a byte of them from time to time would be waited for for hours.
    """

    def __init__(self, sock: socket.socket, *args: Any, **keys: Any) -> None:
        super().__init__(sock, *args, **keys)
        self._hurried = Hurried(self.fp.detach(), sock.gettimeout())
        self.fp = io.BufferedReader(self._hurried)

    def read1(self, n: int = -1) -> bytes:
        self._hurried.begin()
        return super().read1(n)


class Connection(HTTPConnection):
    response_class = PromptResponse


class TLSConnection(HTTPSConnection):
    response_class = PromptResponse


class PromptPool(urllib3.HTTPConnectionPool):
    ConnectionCls = Connection


class PromptTLSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = TLSConnection


def connections_to(url: str) -> urllib3.PoolManager:
    """The connections for an address: through the proxy that the environment names (https_proxy, no_proxy), if any.

    Raises urllib3's LocationValueError if the address makes no sense.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise LocationValueError(str(error)) from None
    proxy = None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
    key = (os.getpid(), proxy)  # connections cannot be shared with a forked process
    if key not in _pools:
        kinds: Callable[..., urllib3.PoolManager] = (
            partial(urllib3.ProxyManager, proxy) if proxy else urllib3.PoolManager
        )
        pools = kinds(maxsize=4, retries=False)
        pools.pool_classes_by_scheme = {"http": PromptPool, "https": PromptTLSPool}
        _pools[key] = pools
    return _pools[key]
