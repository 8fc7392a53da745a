"""Where a location of a remote file leads: its address, the login it is asked with, and whom a redirect may name."""

import base64
import ipaddress
import logging
import netrc
import os
import socket
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from huggingface_hub import get_token, hf_hub_url

from lab.base.errors import UserError

LOG = logging.getLogger("lab.data")

_told: set[tuple[str, str]] = set()  # redirects, from host to host


def redirected(location: str, source: str, url: str, target: str) -> str:
    """The address that `url` leads to by the header Location: `target`; one of another host or port is told, once.

    `source` is the address that `location` stands for. Raises UserError if the target makes no sense, is not encrypted
    where `url` is, or is of this machine or a private network where `source` is not: what a stranger's server names is
    not to be read there. Names are looked up for this, but what a name stands for may change before it is read.
    """
    try:
        target = urljoin(url, target)
        old, new = urlsplit(url), urlsplit(target)
        places = [f"{each.hostname}:{each.port or (443 if each.scheme == 'https' else 80)}" for each in (old, new)]
    except ValueError as error:
        raise UserError(f"{location}: redirected to {target!r}, no address ({error}); check the address") from None
    if new.scheme not in ("http", "https") or not new.hostname:
        raise UserError(f"{location}: redirected to {target!r}, which is not http(s)://; check the address")
    if old.scheme == "https" and new.scheme == "http":
        raise UserError(f"{location}: redirected from https:// to {target}; give that address if you can do without")
    if places[0] != places[1]:
        if is_private(new.hostname) and not is_private(host_of(source)):
            raise UserError(
                f"{location}: redirected to {target}, on this machine or in a private network; give that address if you"
                " trust it"
            )
        if (places[0], places[1]) not in _told:
            _told.add((places[0], places[1]))
            LOG.warning("%s: redirected to %s", location, places[1])
    return target


def is_private(host: str) -> bool:
    """Whether a host is this machine or in a network that is not the public one, as far as can be known."""
    try:
        found = {str(each[4][0]).partition("%")[0] for each in socket.getaddrinfo(host, None)}
    except (OSError, ValueError):
        return False
    addresses = [ipaddress.ip_address(each) for each in found]
    return any(not (getattr(each, "ipv4_mapped", None) or each).is_global for each in addresses)


def host_of(url: str) -> str:
    """The host of an address."""
    return urlsplit(url).hostname or ""


def resolve(location: str) -> tuple[str, dict[str, str]]:
    """The address of a location and the headers to ask with. Raises UserError if it makes no sense."""
    if location.startswith(("http://", "https://")):
        return location, login_of(location)
    parts = location.removeprefix("hf://datasets/").split("/", 2)
    if not location.startswith("hf://datasets/") or len(parts) < 3:
        raise UserError(f"{location}: give a path, http(s)://... or hf://datasets/OWNER/NAME@REVISION/PATH")
    owner, name, path = parts
    name, _, revision = name.partition("@")
    if not revision:
        raise UserError(f"{location}: lacks a revision; write hf://datasets/{owner}/{name}@COMMIT/{path}")
    url = hf_hub_url(
        f"{owner}/{name}", path, repo_type="dataset", revision=revision, endpoint=os.environ.get("HF_ENDPOINT")
    )
    token = get_token()
    return url, {"Authorization": f"Bearer {token}"} if token else {}


def login_of(location: str) -> dict[str, str]:
    """The header with what ~/.netrc (or the file that NETRC names) knows of an address's host, if anything.

    Raises UserError for an address that holds a login: it would be shown, and kept with every run; without showing it.
    """
    try:
        address = urlsplit(location)
        host, port = address.hostname or "", f":{address.port}" if address.port else ""
    except ValueError:
        return {}  # told when it is asked
    if "@" in address.netloc:
        raise UserError(
            f"{address.scheme}://{host}{port}{address.path}: holds a login, which would be shown and kept with every"
            f" run; leave it out and write it into ~/.netrc: machine {host} login USER password PASSWORD"
        )
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    if not path.exists():
        return {}
    try:
        known = netrc.netrc(path).authenticators(host)
    except (OSError, UnicodeDecodeError, netrc.NetrcParseError) as error:
        raise UserError(f"{path} cannot be read ({error}); mend it, or take it away") from None
    if known is None:
        return {}
    login = f"{known[0]}:{known[2]}".encode()
    return {"Authorization": f"Basic {base64.b64encode(login).decode()}"}
