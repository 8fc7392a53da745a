"""Reading over HTTP so that a fault is either mended or told, never passed over."""

import logging
import random
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError, InvalidHeader, LocationValueError, NameResolutionError, SSLError

from lab.base.errors import UserError
from lab.data.sources.addresses import host_of, redirected, resolve
from lab.data.sources.connections import connections_to
from lab.data.sources.storage import Network, StoredFile

LOG = logging.getLogger("lab.data")
NETWORK_PIECE = 2**16
NAME_ATTEMPTS = 4  # to find the address of a host that has not answered yet
TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
REDIRECT = (301, 302, 303, 307, 308)
MENDING = {
    401: "it needs a login (HF_TOKEN for the Hugging Face hub, ~/.netrc for others)",
    403: "access is refused; log in, or check the address",
    404: "check the address",
    410: "it is no longer there; make the manifest again",
    416: "the file is shorter than it was; make the manifest again",
}

_answered: set[str] = set()  # hosts


class Fault(Exception):
    """A read that is worth another attempt; `wait` seconds are asked for by the server; `attempts` are enough."""

    def __init__(self, cause: str, wait: float = 0.0, attempts: int | None = None) -> None:
        super().__init__(cause)
        self.wait = wait
        self.attempts = attempts


class RemoteFile(StoredFile):
    """A file at http(s):// or hf://datasets/OWNER/NAME@REVISION/PATH.

    Every answer must be of the same version (ETag, else Last-Modified) and total length. A broken read goes on where
    it broke; a server that does not serve ranges is read from the start again and the beginning is dropped.
    Redirects are followed, and told where they lead to another host or port (`redirected`). Raises UserError if the
    location makes no sense, the server says no, or `network.deadline` passes without a byte, or with fewer of them than
    `network.least_bytes_per_second`. Heads of answers are no progress, however slowly they come.
    """

    def __init__(self, location: str, network: Network, size: int | None = None, version: str | None = None) -> None:
        self.location = location
        self.network = network
        self.url, self._headers = resolve(location)
        self.version = version or ""
        self.size = -1 if size is None else size
        self._told_of_ranges = False
        if size is None:
            self._look()

    def _look(self) -> None:
        """Ask for size and version, by HEAD or, where that is refused, by reading one byte."""
        for method, headers in (("HEAD", {}), ("GET", {"Range": "bytes=0-0"})):
            with_body = method == "GET"
            response = self._persist(0, partial(self._ask, method, headers))
            status = response.status
            response.close()
            if status in (200, 206):
                total = total_length(response.headers, status)
                if total is not None:
                    self.size, self.version = total, version_of(response.headers)
                    return
            elif with_body or status not in (403, 405, 501):
                raise self._refused(status)
        raise UserError(f"{self.location}: the server does not tell its length; download it and use the copy")

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        stop = self.size if stop is None else min(stop, self.size)
        position = start
        attempts, last_progress = 0, time.monotonic()
        while position < stop:
            began, got = time.monotonic(), 0  # of the stretch whose rate is looked at
            try:
                for piece in self._body(position, stop):
                    now = time.monotonic()
                    position, got = position + len(piece), got + len(piece)
                    if got >= self.network.least_bytes_per_second * max(now - began, 1):
                        attempts, last_progress = 0, now
                    elif now - last_progress > self.network.deadline:
                        raise self._slow(position, now - last_progress)
                    if now - began > self.network.timeout:
                        began, got = now, 0
                    yield piece
                    reading = time.monotonic() - now  # the reader's own time is not the server's
                    began, last_progress = began + reading, last_progress + reading
            except Fault as fault:
                attempts += 1
                self._wait(fault, position, attempts, last_progress)

    def _body(self, start: int, stop: int) -> Iterator[bytes]:
        """One answer's bytes from `start` on; Fault if it breaks or ends before `stop`."""
        response = self._ask("GET", {"Range": f"bytes={start}-{stop - 1}"})
        try:
            if response.status not in (200, 206):
                raise self._refused(response.status, start)
            self._check(response, start)
            if response.status == 200 and start and not self._told_of_ranges:
                LOG.warning("%s: the server does not serve ranges: read from its start again", self.location)
                self._told_of_ranges = True
            skip = start if response.status == 200 else first_byte(response.headers, start)
            left = stop - start
            while left:
                try:
                    # Not stream(), which loses what has arrived of a piece when the connection breaks.
                    piece = response.read1(NETWORK_PIECE, decode_content=False)
                except (HTTPError, OSError) as error:
                    raise Fault(describe(error)) from None
                if not piece:
                    raise Fault(f"the answer ended {left} bytes early")
                kept = piece[skip:] if skip else piece
                skip -= len(piece) - len(kept)
                kept = kept[:left]
                left -= len(kept)
                if kept:
                    yield kept
        finally:
            # An answer that was not read to its end cannot share its connection.
            response.close()
            response.release_conn()

    def _check(self, response: urllib3.BaseHTTPResponse, start: int) -> None:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise UserError(
                f"{self.location}: the server sends it as {response.headers['Content-Encoding']}; use another"
            )
        total, version = total_length(response.headers, response.status), version_of(response.headers)
        if (total is not None and total != self.size) or (version and self.version and version != self.version):
            expected = f"{self.size} bytes{f', {self.version}' if self.version else ''}"
            found = f"{total} bytes{f', {version}' if version else ''}"
            raise UserError(
                f"{self.location}: has changed, seen at byte {start}: it was {expected}, it is {found};"
                " make the manifest again with python -m lab.prepare manifest"
            )
        # Without one from a manifest, the version of the first answer binds the others.
        self.version = self.version or version

    def _ask(self, method: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        """Send one request and follow redirects; Fault for an answer that asks for another attempt."""
        url, sent = self.url, {"Accept-Encoding": "identity", **self._headers, **headers}
        timeout = urllib3.Timeout(connect=self.network.timeout, read=self.network.timeout)
        for _ in range(10):
            try:
                response = connections_to(url).request(
                    method, url, headers=sent, timeout=timeout, preload_content=False, redirect=False
                )
            except (HTTPError, OSError) as error:
                raise self._broken(error, url) from None
            _answered.add(host_of(url))
            if response.status in TRY_AGAIN:
                wait = asked_wait(response.headers)
                response.close()
                raise Fault(f"status {response.status}", wait)
            target = response.headers.get("Location")
            if response.status not in REDIRECT or target is None:
                return response
            response.close()
            target = redirected(self.location, self.url, url, target)
            if urlsplit(target)[:2] != urlsplit(url)[:2]:
                # A token is for the host that it was made for, and not to be sent unencrypted.
                sent.pop("Authorization", None)
            url = target
        raise UserError(f"{self.location}: more than 10 redirects; check the address")

    def _persist(self, position: int, ask: Callable[[], urllib3.BaseHTTPResponse]) -> urllib3.BaseHTTPResponse:
        attempts, started = 0, time.monotonic()
        while True:
            try:
                return ask()
            except Fault as fault:
                attempts += 1
                self._wait(fault, position, attempts, started)

    def _wait(self, fault: Fault, position: int, attempts: int, last_progress: float) -> None:
        """Sleep before the next attempt. Raises UserError if the deadline has passed."""
        network = self.network
        # Full jitter: many readers that fail together do not come back together.
        wait = random.uniform(0, min(network.longest_wait, network.first_wait * 2 ** (attempts - 1)))
        wait = max(wait, min(fault.wait, network.longest_wait))
        left = network.deadline - (time.monotonic() - last_progress)
        if fault.attempts is not None and attempts >= fault.attempts:
            raise UserError(f"{self.location}: {fault}, {attempts} attempts; check the address and the network")
        if left <= 0:
            raise UserError(
                f"{self.location}: no byte after byte {position} for {time.monotonic() - last_progress:.0f} s,"
                f" {attempts} attempts; the last: {fault}; try again later, or raise deadline_seconds"
            )
        wait = min(wait, left)
        LOG.warning("%s at byte %d: %s; attempt %d in %.1f s", self.location, position, fault, attempts + 1, wait)
        time.sleep(wait)

    def _slow(self, position: int, seconds: float) -> UserError:
        least = self.network.least_bytes_per_second
        return UserError(
            f"{self.location}: at byte {position}, slower than {least:g} bytes a second for {seconds:.0f} s; try again"
            " later, or lower least_bytes_per_second"
        )

    def _broken(self, error: Exception, url: str) -> Exception:
        """Why no answer came: a Fault, or a UserError if no further attempt can mend it."""
        if isinstance(error, LocationValueError):
            return UserError(f"{self.location}: {describe(error)}; check the address")
        if isinstance(error, SSLError) and isinstance(next(iter(error.args), None), ssl.SSLCertVerificationError):
            return UserError(f"{self.location}: {describe(error)}; check the address, or set SSL_CERT_FILE")
        if isinstance(getattr(error, "original_error", error), NameResolutionError) and host_of(url) not in _answered:
            return Fault(describe(error), attempts=NAME_ATTEMPTS)
        return Fault(describe(error))

    def _refused(self, status: int, position: int = 0) -> UserError:
        return UserError(
            f"{self.location}: status {status} at byte {position}; {MENDING.get(status, 'check the address')}"
        )


def version_of(headers: Mapping[str, str]) -> str:
    """What the server calls the state of a file, "" if nothing."""
    etag, modified = headers.get("ETag"), headers.get("Last-Modified")
    return f"etag:{etag}" if etag else f"modified:{modified}" if modified else ""


def asked_wait(headers: Mapping[str, str]) -> float:
    """The seconds of Retry-After, which may be a number or a date; 0 without one."""
    text = headers.get("Retry-After")
    try:
        return urllib3.Retry().parse_retry_after(text) if text else 0.0
    except InvalidHeader:
        return 0.0


def total_length(headers: Mapping[str, str], status: int) -> int | None:
    """The length of the whole file in bytes, as an answer tells it."""
    text = headers.get("Content-Range", "").rpartition("/")[2] if status == 206 else headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def first_byte(headers: Mapping[str, str], asked: int) -> int:
    """How many bytes of a partial answer lie before the one asked for."""
    start = headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    if not start.isdigit() or int(start) > asked:
        raise Fault("the server sent another range than the one asked for")
    return asked - int(start)


def describe(error: BaseException) -> str:
    """A network error in a few words."""
    reason = getattr(error, "reason", None) or error
    return " ".join(f"{type(error).__name__}: {reason}".split())[:200]
