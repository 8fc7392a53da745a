"""A real HTTP server that serves a folder and fails as it is told."""

import hashlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

Fault = dict[str, object]


@dataclass
class Server:
    """`plan(path, number, method)` gives the fault of the request with that number for that path, or None.

    A fault is a dictionary: `status` (and `retry_after`), `reset_after` bytes, `stall_after` bytes (`seconds`),
    `trickle_after` bytes (one every `seconds` from then on), `short_by` bytes, `etag`, `redirect`, `encoding`, `claim`
    (a wrong total length); `no_range` ignores Range; `begins` is what an answer begins with, before it sends
    `over_and_over` every `seconds`.
    """

    folder: Path
    url: str = ""
    plan: Callable[[str, int, str], Fault | None] = lambda path, number, method: None
    requests: list[tuple[str, str, str, dict[str, str]]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ranges(self, path: str) -> list[str]:
        """The Range headers of the GET requests for a path."""
        return [given for method, asked, given, _ in self.requests if asked == path and method == "GET"]


def random_faults(seed: int, share: float, kinds: tuple[Fault, ...]) -> Callable[[str, int, str], Fault | None]:
    """A plan in which a `share` of all requests meet one of `kinds`, the same for the same path and number."""

    def plan(path: str, number: int, method: str) -> Fault | None:
        generator = random.Random(f"{seed} {path} {number}")
        return generator.choice(kinds) if method == "GET" and generator.random() < share else None

    return plan


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """Serve a folder on a free port until the block ends."""
    state = Server(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = unquote(self.path)
            asked = self.headers.get("Range", "")
            with state.lock:
                number = state.counts[path] = state.counts.get(path, 0) + 1
                state.requests.append((self.command, path, asked, dict(self.headers)))
            fault = state.plan(path, number, self.command) or {}
            if "redirect" in fault:
                return self.plain(302, {"Location": str(fault["redirect"])})
            if "status" in fault:
                wait = {"Retry-After": str(fault["retry_after"])} if "retry_after" in fault else {}
                return self.plain(int(str(fault["status"])), wait)
            if "begins" in fault:
                return self.never_done(bytes(str(fault["begins"]), "ascii"), fault)
            file = state.folder / path.lstrip("/")
            if not file.is_file():
                return self.plain(404, {})
            content = file.read_bytes()
            start, stop = 0, len(content)
            partial = asked.startswith("bytes=") and not fault.get("no_range")
            if partial:
                first, _, last = asked.removeprefix("bytes=").partition("-")
                start, stop = int(first), min(int(last) + 1, len(content)) if last else len(content)
            self.send_response(206 if partial else 200)
            total = fault.get("claim", len(content))
            if partial:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{total}")
            self.send_header("Content-Length", str(stop - start if partial else total))
            self.send_header("ETag", str(fault.get("etag", f'"{hashlib.md5(content).hexdigest()}"')))
            if "encoding" in fault:
                self.send_header("Content-Encoding", str(fault["encoding"]))
            self.end_headers()
            if body:
                self.send(content[start:stop], fault)

        def send(self, content: bytes, fault: Fault) -> None:
            for kind in ("reset_after", "stall_after"):
                if kind in fault and int(str(fault[kind])) < len(content):
                    self.wfile.write(content[: int(str(fault[kind]))])
                    self.wfile.flush()
                    # Before a reset what was sent must have arrived: a reset throws away what waits on the way.
                    time.sleep(float(str(fault["seconds"])) if kind == "stall_after" else 0.1)
                    # Linger 0: the connection is reset, not closed.
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                    self.close_connection = True
                    return
            if "trickle_after" in fault:
                start = int(str(fault["trickle_after"]))
                self.wfile.write(content[:start])
                for byte in content[start:]:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    time.sleep(float(str(fault["seconds"])))
                return
            self.wfile.write(content[: len(content) - int(str(fault.get("short_by", 0)))])
            if "short_by" in fault:
                self.close_connection = True

        def never_done(self, begins: bytes, fault: Fault) -> None:
            self.close_connection = True
            self.wfile.write(begins)
            for _ in range(600):
                self.wfile.write(bytes(str(fault["over_and_over"]), "ascii"))
                self.wfile.flush()
                time.sleep(float(str(fault["seconds"])))

        def plain(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def handle(self) -> None:
            with suppress(ConnectionError, ValueError, OSError):
                super().handle()

        def finish(self) -> None:
            with suppress(ConnectionError, ValueError, OSError):
                super().finish()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
