# SPDX-License-Identifier: Apache-2.0
"""Whether the ports are free, or held by whom they are for, and stay so."""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from shlex import quote

from ovms_scaler.core.checks.finding import Finding, bad, good, or_good, warning
from ovms_scaler.core.checks.remedies import keep_sysctl

PROXY_UNIT = "ovms-scaler-proxy.service"
AGENT_UNIT = "ovms-scaler.service"
# Of nginx-common: what is enabled when it is installed.
_DEFAULT_SITE = ("/etc/nginx/sites-enabled/default", "/etc/nginx/sites-available/default")
_LISTEN = re.compile(r"(?:^|(?<=[;{}]))\s*listen\s+(?P<where>[^;]+);")
_SERVER = re.compile(r"(?:^|(?<=[;{}]))\s*server\s*\{")
_COMMENT = re.compile(r"#.*")
_CONTAINER = re.compile(r"(docker|libpod|cri-containerd)-(?P<id>[0-9a-f]{12})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A TCP socket that listens; ``address`` is "0.0.0.0" or "::" for every one.

    ``pid`` and ``name`` are the process that holds it, ``unit`` that one's unit or control group; None and
    "" where that cannot be seen. ``uid`` is the socket's owner.
    """

    address: str
    port: int
    uid: int
    pid: int | None = None
    name: str = ""
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A port that we need: where, what for, and who of ours is to hold it. ``key`` gives another port."""

    address: str  # "" for every one
    port: int
    purpose: str
    unit: str
    uid: int | None
    key: str

    @property
    def subject(self) -> str:
        return f"port {self.port}" if not self.address else f"{self.address}:{self.port}"


def judge_ports(uses: Iterable[Use], listeners: Iterable[Listener]) -> tuple[Finding, ...]:
    check = "ports"
    listeners = tuple(listeners)
    found = [
        bad(
            check,
            use.subject,
            f"{_who(one)} listens there, and it is for {use.purpose}",
            _remedy(one),
            f"or {use.key}",
        )
        for use in uses
        for one in listeners
        if one.port == use.port and _overlap(use.address, one.address) and not _is_ours(one, use)
    ]
    return or_good(found, check, "ports", "each is free, or held by whom it is for")


def _is_ours(listener: Listener, use: Use) -> bool:
    if listener.pid is None:
        return use.uid is not None and listener.uid == use.uid
    return listener.unit == use.unit


def _overlap(wanted: str, held: str) -> bool:
    """Whether both cannot be bound; "::" may be for IPv6 alone, which is not to be seen: taken for all."""
    everywhere = ("", "0.0.0.0", "::")
    one, two = _canonical(wanted), _canonical(held)
    return one in everywhere or two in everywhere or one == two


def _canonical(address: str) -> str:
    """Of an IPv4 address mapped into IPv6 the former; none for every address."""
    if not address:
        return ""
    parsed = ipaddress.ip_address(address.strip("[]"))
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def _who(listener: Listener) -> str:
    if listener.pid is None:
        return f"a program of user {listener.uid}"
    where = f", {listener.unit}" if listener.unit else ""
    return f"{listener.name} (process {listener.pid}{where})"


def _remedy(listener: Listener) -> str:
    if listener.pid is None:
        return "run this as root to see which"
    if found := _CONTAINER.search(listener.unit):
        return f"{'podman' if found[1] == 'libpod' else 'docker'} stop {found['id']}"
    if listener.unit.endswith((".service", ".socket")):
        return f"systemctl disable --now {quote(listener.unit)}"
    return f"kill {listener.pid}"


def judge_ephemeral(
    uses: Iterable[Use], handed_out: tuple[int, int], reserved: frozenset[int]
) -> tuple[Finding, ...]:
    """``handed_out`` and ``reserved`` are net.ipv4.ip_local_port_range and ip_local_reserved_ports."""
    check = "ephemeral-ports"
    first, last = handed_out
    taken = sorted({use.port for use in uses if first <= use.port <= last and use.port not in reserved})
    if not taken:
        return (good(check, "ports", f"outgoing connections get others, {first} to {last}"),)
    ports = ",".join(map(str, sorted(reserved | set(taken))))
    names = ", ".join(map(str, taken))
    return (
        warning(
            check,
            "net.ipv4.ip_local_port_range",
            f"it is {first} to {last}: an outgoing connection may get {names}, and who is to listen there "
            "could then not start",
            keep_sysctl("net.ipv4.ip_local_reserved_ports", ports),
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One file of the administrator's nginx, and the ports it listens on.

    ``target`` is the file that it is a link to, "" when it is the file itself.
    """

    file: str
    ports: frozenset[int]
    target: str = ""

    @property
    def is_default(self) -> bool:
        """Whether it is Debian's own site as its package links it, which can be linked again."""
        return (self.file, self.target) == _DEFAULT_SITE


def parse_site(file: str, text: str, target: str = "") -> Site:
    """The listen directives of a file (ngx_http_core_module); a server without one is at port 80."""
    text = _COMMENT.sub("", text)
    places = [match["where"].split()[0] for match in _LISTEN.finditer(text)]
    ports: set[int] = set()
    for place in places:
        if not place.startswith("unix:"):
            number = place.rpartition("]")[2].rpartition(":")[2]
            ports.add(int(number) if number.isascii() and number.isdigit() else 80)
    if not places and _SERVER.search(text):
        ports.add(80)
    return Site(file=file, ports=frozenset(ports), target=target)


def judge_sites(uses: Iterable[Use], sites: Iterable[Site], *, is_started: bool) -> tuple[Finding, ...]:
    """``is_started``: nginx.service runs, or is to be started at boot."""
    check = "nginx-site"
    if not is_started:
        return (good(check, "nginx.service", "it is not started"),)
    wanted = {use.port for use in uses if use.unit == PROXY_UNIT}
    found = [
        bad(
            check,
            site.file,
            f"nginx.service, which is another nginx than ours, listens on {_ports(site.ports & wanted)} for "
            "it, where clients of ours are to connect",
            *_site_remedy(site),
        )
        for site in sites
        if site.ports & wanted
    ]
    return or_good(found, check, "nginx.service", "its sites are on other ports")


def _site_remedy(site: Site) -> tuple[str, str]:
    """Files of others are never to be removed: they are the only copy."""
    unneeded = "if this nginx is not needed at all: systemctl disable --now nginx"
    reload = "systemctl try-reload-or-restart nginx"
    if site.is_default:
        return f"rm {quote(site.file)} && {reload}", f"{site.target} stays; {unneeded}"
    return f"change listen in {site.file}, or listen of the pool", f"after the former: {reload}; {unneeded}"


def _ports(ports: Iterable[int]) -> str:
    return "port " + ", ".join(map(str, sorted(ports)))
