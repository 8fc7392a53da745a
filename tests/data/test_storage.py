import logging
import os
import time
from email.utils import formatdate

import pytest
from oracles.fault_server import random_faults, serve

from lab.base.errors import UserError
from lab.data.sources.addresses import redirected, resolve
from lab.data.sources.remote import asked_wait
from lab.data.sources.storage import Network, open_file, seekable, sha256

CONTENT = bytes(range(256)) * 16000  # 4 MB
QUICK = Network(timeout=0.5, deadline=8.0, first_wait=0.01, longest_wait=0.1)


@pytest.fixture
def server(tmp_path):
    (tmp_path / "file.bin").write_bytes(CONTENT)
    with serve(tmp_path) as running:
        yield running


def content_of(server, network=QUICK, start=0, stop=None, **expected):
    return b"".join(open_file(f"{server.url}/file.bin", network, **expected).read(start, stop))


FAULTS = {
    "a reset connection": {"reset_after": 1_000_003},
    "a reset before the first byte": {"reset_after": 0},
    "status 500": {"status": 500},
    "status 503 with Retry-After": {"status": 503, "retry_after": 1},
    "status 429": {"status": 429, "retry_after": 0},
    "a stall": {"stall_after": 700_001, "seconds": 1.5},
    "a short body": {"short_by": 12_345},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_that_passes_leaves_the_same_bytes_and_a_line_in_the_log(server, fault, caplog):
    caplog.set_level(logging.WARNING, "lab.data")
    server.plan = lambda path, number, method: fault if number in (2, 3) else None
    assert content_of(server) == CONTENT
    assert len(caplog.records) == 2
    assert "/file.bin at byte " in caplog.records[0].message


def test_a_broken_read_goes_on_where_it_broke(server):
    server.plan = lambda path, number, method: {"reset_after": 2_000_000} if number == 2 else None
    assert content_of(server) == CONTENT
    first, second = server.ranges("/file.bin")
    assert first == f"bytes=0-{len(CONTENT) - 1}"
    assert 0 < int(second.removeprefix("bytes=").split("-")[0]) <= 2_000_000


def test_a_server_without_ranges_is_read_from_the_start_and_the_beginning_dropped(server):
    server.plan = lambda path, number, method: {"no_range": True, "reset_after": 3_000_000 if number == 2 else 2**40}
    assert content_of(server) == CONTENT
    assert content_of(server, start=1000, stop=1_500_000) == CONTENT[1000:1_500_000]


def test_a_server_without_ranges_is_told_of_once(server, caplog):
    server.plan = lambda path, number, method: {"no_range": True}
    file = open_file(f"{server.url}/file.bin", QUICK)
    for start in (0, 1000, 2000):
        assert b"".join(file.read(start)) == CONTENT[start:]
    (record,) = caplog.records
    assert "/file.bin: the server does not serve ranges" in record.message


def test_the_proxy_of_the_environment_is_asked_and_no_proxy_heeded(server, monkeypatch):
    # The server takes the whole address that a proxy is sent for a path in its folder.
    (server.folder / "http:" / "elsewhere.invalid").mkdir(parents=True)
    (server.folder / "http:" / "elsewhere.invalid" / "file.bin").write_bytes(CONTENT)
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert b"".join(open_file("http://elsewhere.invalid/file.bin", QUICK).read()) == CONTENT
    assert content_of(server) == CONTENT
    assert [path for _, path, *_ in server.requests] == ["http://elsewhere.invalid/file.bin"] * 2 + ["/file.bin"] * 2


@pytest.mark.parametrize("seconds", [0, -1, "30", True, None, float("nan")])
def test_a_time_that_is_none_is_refused(seconds):
    with pytest.raises(UserError, match=r"data\.corpus\.timeout_seconds is .*: give a number of seconds above 0"):
        Network(timeout=seconds)


def test_a_range_gives_exactly_its_bytes(server):
    for start, stop in ((0, 1), (1, 1), (5, 2_000_000), (len(CONTENT) - 3, None)):
        assert content_of(server, start=start, stop=stop) == CONTENT[start:stop]


def test_many_random_faults_leave_the_same_bytes(server):
    kinds = tuple(fault for fault in FAULTS.values() if "stall_after" not in fault)
    server.plan = random_faults(0, 0.6, kinds)
    assert content_of(server) == CONTENT


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_told_at_once_with_the_address_and_what_to_do(server, status):
    server.plan = lambda path, number, method: {"status": status}
    with pytest.raises(UserError, match=rf"file\.bin: status {status} at byte 0; ") as error:
        content_of(server)
    assert "\n" not in str(error.value)
    assert len(server.requests) <= 2


def test_a_server_that_refuses_head_is_asked_for_one_byte(server):
    server.plan = lambda path, number, method: {"status": 405} if method == "HEAD" else None
    assert content_of(server) == CONTENT


def test_a_server_that_never_answers_ends_the_read_at_the_deadline(server):
    server.plan = lambda path, number, method: {"status": 503} if number > 1 else None
    start = time.monotonic()
    with pytest.raises(
        UserError, match=r"file\.bin: no byte after byte 0 for \d+ s, \d+ attempts; the last: status 503"
    ):
        content_of(server, Network(0.5, 1.0, 0.01, 0.2))
    assert 1.0 <= time.monotonic() - start < 3


def test_a_slow_reader_does_not_use_up_the_deadline_of_the_server(server):
    server.plan = lambda path, number, method: {"reset_after": 2_000_000} if number == 2 else None
    pieces, read = [], 0
    for piece in open_file(f"{server.url}/file.bin", Network(0.5, 0.4, 0.01, 0.1)).read():
        pieces.append(piece)
        # Once while the answer that will break is read, once after: each alone takes longer than the deadline.
        if read // 1_500_000 < (read := read + len(piece)) // 1_500_000:
            time.sleep(0.6)
    assert b"".join(pieces) == CONTENT


def test_a_server_that_trickles_ends_the_read_at_the_deadline(server):
    server.plan = lambda path, number, method: {"trickle_after": 1_000_000, "seconds": 0.05}
    found = []
    with pytest.raises(
        UserError, match=r"file\.bin: at byte \d+, slower than 1000 bytes a second for \d+ s; try again"
    ):
        found.extend(open_file(f"{server.url}/file.bin", Network(0.5, 1.5, 0.01, 0.1)).read())
    assert 1_000_000 < len(b"".join(found)) < 1_000_500


NEVER_DONE = {
    "a head of one line without end": ("HTTP/1.1 200 OK\r\nX-Slow: ", "a"),
    "a head of lines without end": ("HTTP/1.1 200 OK\r\n", "X-Slow: a\r\n"),
    "a status without end": ("HTTP/1.1 200 ", "O"),
    "heads that ask to go on": ("", "HTTP/1.1 100 Continue\r\n\r\n"),
    "a chunk whose length has no end": ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "0"),
}


@pytest.mark.parametrize(
    ("method", "kind"), [*(("HEAD", kind) for kind in list(NEVER_DONE)[:4]), *(("GET", kind) for kind in NEVER_DONE)]
)
def test_a_server_whose_head_or_chunk_never_ends_is_left_at_the_deadline(server, method, kind):
    # The socket's own timeout, of a byte, is never met.
    begins, over_and_over = NEVER_DONE[kind]
    fault = {"begins": begins, "over_and_over": over_and_over, "seconds": 0.05}
    server.plan = lambda path, number, asked: fault if asked == method else None
    start = time.monotonic()
    with pytest.raises(UserError, match=r"file\.bin: no byte after byte 0 for \d+ s, \d+ attempts; the last: .*; try"):
        content_of(server, Network(0.5, 1.5, 0.01, 0.1))
    assert time.monotonic() - start < 6


def test_a_head_that_comes_slowly_is_taken_if_it_comes_in_time(server):
    fault = {
        "begins": "HTTP/1.1 200 OK\r\nContent-Length: 300\r\nX-Slow: ",
        "over_and_over": "a\r\n\r\n",
        "seconds": 0.01,
    }
    server.plan = lambda path, number, method: fault if method == "HEAD" else None
    assert open_file(f"{server.url}/file.bin", QUICK).size == 300


def test_a_server_that_is_slow_but_not_slower_than_asked_is_read_to_the_end(server):
    server.plan = lambda path, number, method: {"trickle_after": len(CONTENT) - 40, "seconds": 0.05}
    patience = Network(0.5, 0.6, 0.01, 0.1, least_bytes_per_second=0)
    assert content_of(server, patience) == CONTENT


def test_a_host_that_cannot_be_found_is_told_after_a_few_attempts():
    start = time.monotonic()
    with pytest.raises(
        UserError, match=r"http://nowhere\.invalid/a\.txt: .*, 4 attempts; check the address and the net"
    ):
        open_file("http://nowhere.invalid/a.txt", Network(0.5, 300, 0.01, 0.1))
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("target", ["http://[bad", "http://a:port/", "ftp://host/file.bin"])
def test_a_redirect_that_makes_no_sense_is_one_line(server, target):
    server.plan = lambda path, number, method: {"redirect": target}
    with pytest.raises(UserError, match=r"file\.bin: redirected to .*; check the address") as error:
        content_of(server)
    assert "\n" not in str(error.value)


def test_a_redirect_to_another_host_or_port_is_told_once(server, tmp_path, caplog):
    with serve(tmp_path) as other:
        server.plan = lambda path, number, method: {"redirect": f"{other.url}/file.bin"}
        assert content_of(server) == content_of(server) == CONTENT
        (record,) = caplog.records
        assert record.message == f"{server.url}/file.bin: redirected to {other.url.removeprefix('http://')}"


def test_a_public_address_that_leads_to_a_private_one_is_refused(server, monkeypatch):
    (server.folder / "http:" / "elsewhere.invalid").mkdir(parents=True)
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server.plan = lambda path, number, method: {"redirect": f"{server.url}/file.bin"} if "elsewhere" in path else None
    with pytest.raises(
        UserError, match=r"elsewhere\.invalid/a\.txt: redirected to http://127\.0\.0\.1.*if you trust it"
    ):
        open_file("http://elsewhere.invalid/a.txt", QUICK)
    assert all("elsewhere" in path for _, path, *_ in server.requests)


PRIVATE = ["localhost", "10.1.2.3", "192.168.0.1", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "[fd00::1]"]


@pytest.mark.parametrize("host", PRIVATE)
def test_only_a_private_address_may_lead_to_a_private_one(host):
    public, private = "https://8.8.8.8/a.txt", "https://192.168.1.1/a.txt"
    with pytest.raises(UserError, match="on this machine or in a private network"):
        redirected("a", public, public, f"https://{host}/b")
    assert redirected("a", private, private, f"https://{host}/b") == f"https://{host}/b"
    assert redirected("a", public, public, "https://8.8.4.4/b") == "https://8.8.4.4/b"


def test_a_redirect_from_https_to_http_is_refused():
    with pytest.raises(UserError, match=r"a: redirected from https:// to http://8\.8\.8\.8/b; give that address"):
        redirected("a", "https://8.8.8.8/a", "https://8.8.8.8/a", "http://8.8.8.8/b")
    assert redirected("a", "http://8.8.8.8/a", "http://8.8.8.8/a", "https://8.8.8.8/b") == "https://8.8.8.8/b"
    assert redirected("a", "https://8.8.8.8/x/a", "https://8.8.8.8/x/a", "../b") == "https://8.8.8.8/b"


def test_connections_that_all_break_after_a_few_bytes_make_progress(server):
    server.plan = lambda path, number, method: {"reset_after": 20_000} if method == "GET" else None
    assert content_of(server, start=0, stop=200_000) == CONTENT[:200_000]
    starts = [int(given.removeprefix("bytes=").split("-")[0]) for given in server.ranges("/file.bin")]
    assert starts == list(range(0, 200_000, 20_000))


def test_without_a_version_in_the_manifest_the_first_answer_binds_the_others(server):
    server.plan = lambda path, number, method: {"reset_after": 1_000_000} if number == 1 else {"etag": '"other"'}
    with pytest.raises(UserError, match=r'has changed, seen at byte \d+: .*it is 4096000 bytes, etag:"other"'):
        content_of(server, size=len(CONTENT))


@pytest.mark.parametrize("address", ["http://[::1/file.txt", "http:///file.txt", "http://127.0.0.1:99999/file.txt"])
def test_an_address_that_no_attempt_can_mend_is_told_at_once(address):
    start = time.monotonic()
    with pytest.raises(UserError, match="check the address"):
        open_file(address, QUICK)
    assert time.monotonic() - start < 1


def test_retry_after_is_seconds_or_a_date():
    soon = formatdate(time.time() + 60, usegmt=True)
    assert asked_wait({"Retry-After": "7"}) == 7
    assert 50 < asked_wait({"Retry-After": soon}) <= 61
    assert [asked_wait(headers) for headers in ({}, {"Retry-After": "later"})] == [0, 0]


@pytest.mark.parametrize("fault", [{"etag": '"other"'}, {"claim": len(CONTENT) + 1}], ids=["etag", "length"])
def test_a_file_that_changes_while_it_is_read_is_an_error(server, fault):
    server.plan = lambda path, number, method: (
        {"reset_after": 1_000_000} if number == 2 else fault if number > 2 else None
    )
    with pytest.raises(UserError, match=r"file\.bin: has changed, seen at byte \d+: it was 4096000 bytes"):
        content_of(server)


def test_a_file_that_is_not_as_its_manifest_says_is_an_error(server):
    with pytest.raises(UserError, match=r"it was 3 bytes, it is 4096000 bytes.*make the manifest again"):
        content_of(server, size=3)
    with pytest.raises(UserError, match=r"it was 4096000 bytes, etag:gone"):
        content_of(server, size=len(CONTENT), version="etag:gone")


def test_a_file_of_a_manifest_is_opened_without_a_request(server):
    open_file(f"{server.url}/file.bin", QUICK, size=len(CONTENT), version="etag:x")
    assert server.requests == []


def test_a_compressed_answer_is_refused(server):
    server.plan = lambda path, number, method: {"encoding": "gzip"}
    with pytest.raises(UserError, match=r"the server sends it as gzip"):
        content_of(server)


def test_a_token_goes_to_the_hub_and_not_where_it_redirects_to(tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    path = f"/datasets/owner/name/resolve/{commit}/folder/file.bin"
    (tmp_path / "moved.bin").write_bytes(CONTENT)
    with serve(tmp_path) as hub, serve(tmp_path) as storage:
        hub.plan = lambda asked, number, method: {"redirect": f"{storage.url}/moved.bin"}
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", "secret")
        file = open_file(f"hf://datasets/owner/name@{commit}/folder/file.bin", QUICK)
        assert b"".join(file.read()) == CONTENT
    assert {asked for _, asked, _, _ in hub.requests} == {path}
    assert all(headers["Authorization"] == "Bearer secret" for *_, headers in hub.requests)
    assert storage.requests
    assert not any("Authorization" in headers for *_, headers in storage.requests)


def test_a_login_of_netrc_goes_to_its_host_and_not_where_that_redirects_to(tmp_path, monkeypatch):
    (tmp_path / "file.bin").write_bytes(CONTENT)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password sec:ret\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with serve(tmp_path) as server, serve(tmp_path) as elsewhere:
        server.plan = lambda asked, number, method: {"redirect": f"{elsewhere.url}/file.bin"}
        assert content_of(server) == CONTENT
    assert {headers["Authorization"] for *_, headers in server.requests} == {"Basic bWU6c2VjOnJldA=="}
    assert not any("Authorization" in headers for *_, headers in elsewhere.requests)


def test_of_a_host_that_netrc_does_not_know_nothing_is_sent(server, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine other.example login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert content_of(server) == CONTENT
    assert not any("Authorization" in headers for *_, headers in server.requests)


@pytest.mark.parametrize("text", ["machine\n", "nonsense of mine\n", "machine a login \udcff"])
def test_a_netrc_that_cannot_be_read_is_told_in_a_line(server, tmp_path, monkeypatch, text):
    (tmp_path / "netrc").write_bytes(text.encode("utf-8", "surrogateescape"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(UserError, match=r"netrc cannot be read \(.*\); mend it"):
        content_of(server)


@pytest.mark.parametrize("login", ["me:secret@", "me@", "secret:@"])
def test_an_address_with_a_login_is_refused_and_the_login_not_shown(login):
    with pytest.raises(UserError, match=r"https://host:8080/file.txt: holds a login") as told:
        open_file(f"https://{login}host:8080/file.txt", QUICK)
    assert "secret" not in str(told.value)


def test_the_hub_needs_a_revision():
    with pytest.raises(UserError, match=r"lacks a revision; write hf://datasets/a/b@COMMIT/c\.txt"):
        resolve("hf://datasets/a/b/c.txt")


@pytest.mark.parametrize("location", ["ftp://host/file.txt", "hf://models/a/b@c/d.txt", "hf://datasets/a"])
def test_an_address_that_makes_no_sense_is_refused(location):
    with pytest.raises(UserError, match="give a path"):
        open_file(location, QUICK)


def test_connections_are_not_shared_with_a_forked_process(server):
    file = open_file(f"{server.url}/file.bin", QUICK)
    reader = file.read()
    next(reader)
    child = os.fork()
    if child == 0:
        os._exit(0 if b"".join(file.read()) == CONTENT else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(b"".join(reader)) < len(CONTENT)
    assert b"".join(file.read()) == CONTENT


def test_a_local_file_gives_its_bytes_and_notices_a_change(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(CONTENT)
    file = open_file(str(path))
    assert b"".join(file.read(7, 3_000_000)) == CONTENT[7:3_000_000]
    assert sha256(file) == sha256(open_file(str(path)))
    with path.open("ab") as more:
        more.write(b"x")
    with pytest.raises(UserError, match="the file has changed since the run opened it"):
        list(file.read())
    with pytest.raises(UserError, match=r"4096001 bytes long, the manifest says 4096000"):
        open_file(str(path), size=len(CONTENT))


def test_a_seekable_file_reads_what_seeking_says(server):
    file = seekable(open_file(f"{server.url}/file.bin", QUICK))
    file.seek(-10, 2)
    assert file.read() == CONTENT[-10:]
    file.seek(100)
    assert [file.read(3), file.read(2), file.tell()] == [CONTENT[100:103], CONTENT[103:105], 105]
