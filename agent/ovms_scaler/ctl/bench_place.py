# SPDX-License-Identifier: Apache-2.0
"""Where the front is that is to be measured, and what the agent tells of it."""

import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ovms_scaler.bench.client import Endpoint
from ovms_scaler.bench.document import hide_user
from ovms_scaler.bench.front import explain_model
from ovms_scaler.ctl.client import read_status
from ovms_scaler.errors import HostError, InputError, UnreachableError


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to be asked: the agent's own front where ``url`` is "", its only model where ``model`` is."""

    url: str
    model: str
    api_key_file: Path | None
    ca_file: Path | None
    is_insecure: bool
    timeout_sec: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the front is; ``status`` None where no agent tells, ``upstream`` "" where that is not known."""

    endpoint: Endpoint
    upstream: str
    status: Mapping[str, Any] | None
    is_local: bool


def find_place(wish: Wish, socket: Path) -> Place:
    """From the agent's status, or from what was asked for. Raises ScalerError."""
    status: Mapping[str, Any] | None = None
    try:
        status = read_status(socket)
    except UnreachableError as error:
        if not wish.url:
            raise UnreachableError(
                error.message, hint=f"{error.hint}; or name a front with --url"
            ) from error
    url, upstream = wish.url.rstrip("/"), ""
    if not url:
        assert status is not None
        found = choose_endpoint(status, wish.model)
        url, upstream = found["url"], found["upstream"]
        if found["needs_api_key"] and wish.api_key_file is None:
            raise InputError(f"{url} needs an API key", hint="--api-key-file FILE, as in table [proxy]")
    if not url.startswith(("http://", "https://")) or not _find_host(url):
        raise InputError(
            f"cannot use the URL {hide_user(url)!r}", hint="for example http://127.0.0.1:8000/v3"
        )
    url, basic = split_user(url)
    if basic and wish.api_key_file is not None:
        raise InputError("either a password or an API key can be sent, not both", hint="a URL without it")
    endpoint = Endpoint(
        url=url,
        model=wish.model,
        api_key=_read_key(wish.api_key_file),
        basic=basic,
        timeout_sec=wish.timeout_sec,
        ca_file=str(wish.ca_file or ""),
        is_insecure=wish.is_insecure,
    )
    is_local = not wish.url or is_own(url)
    return Place(
        endpoint=endpoint, upstream=upstream, status=status if is_local else None, is_local=is_local
    )


def choose_endpoint(status: Mapping[str, Any], model: str) -> Mapping[str, Any]:
    """Where the agent has clients connect. Raises InputError when that is nowhere, or in several places."""
    endpoints = (status.get("proxy") or {}).get("endpoints") or []
    if not endpoints:
        raise InputError(
            "the configuration has no pool, so there is nothing to measure", hint="ovms-scalerctl init"
        )
    chosen = [one for one in endpoints if one["serves"] == model] or endpoints
    if len({one["upstream"] for one in chosen}) > 1:
        served = sorted(str(one["serves"]) for one in chosen)
        listed = ", ".join(served)
        if model:
            raise explain_model(model, served, "here")
        raise InputError(f"several models are served: {listed}", hint="choose one with --model")
    first: Mapping[str, Any] = chosen[0]
    return first


def find_routed(place: Place) -> tuple[str, ...]:
    """The instances in rotation that answer; empty where nobody tells."""
    if place.status is None or not place.upstream:
        return ()
    entries = place.status.get("instances") or ()
    own = (one for one in entries if (one.get("upstream") or one.get("pool")) == place.upstream)
    return tuple(str(one["id"]) for one in own if one.get("in_rotation"))


def _read_key(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise HostError(f"cannot read {path}: {reason}", hint="--api-key-file FILE") from error
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise InputError(f"{path} has no API key", hint="one in a line")
    return keys[0]


def split_user(url: str) -> tuple[str, str]:
    """A URL without what stands before its host, which is not to be seen, and that as "user:password"."""
    parts = urlsplit(url)
    user, found, host = parts.netloc.rpartition("@")
    return (parts._replace(netloc=host).geturl(), unquote(user)) if found else (url, "")


def is_own(url: str) -> bool:
    """Whether a URL leads to this machine, by whatever name and address; the resolver is asked."""
    try:
        found = socket.getaddrinfo(_find_host(url), None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(_is_own_address(family, tuple(address)) for family, *_, address in found)


def _is_own_address(family: int, address: tuple[Any, ...]) -> bool:
    own = ipaddress.ip_address(address[0].partition("%")[0])
    if own.is_loopback or own.is_unspecified:
        return True
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as asked:
            # Sends nothing: the kernel chooses the address to speak from, and with itself it is the same.
            asked.connect((address[0], 9, *address[2:]))
            return bool(asked.getsockname()[0] == address[0])
    except OSError:
        return False


def _find_host(url: str) -> str:
    """The host of a URL, "" where that is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
