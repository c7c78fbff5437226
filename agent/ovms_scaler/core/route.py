# SPDX-License-Identifier: Apache-2.0
"""Which instances are in rotation, as files: a route for each, and the generation of all files together."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ovms_scaler.core.nginx_syntax import check_name, check_number
from ovms_scaler.errors import InputError

CONFIGURATION = "nginx.conf"
CREDENTIALS = "credentials.conf"  # there when API keys or TLS are used; nginx.conf includes it
TESTED = (CONFIGURATION, CREDENTIALS)  # what nginx has to read before it is used
GENERATION = "generation.conf"
# When nginx itself leaves an instance alone, for 1 to 2 s: least_conn would give one that is dead every
# request until the reload that removes it. One or two resets are no death, and must not cost an upstream of
# one its only instance; what an instance answers is no failure, whatever the status (proxy_next_upstream).
_FAILING = "max_fails=3 fail_timeout=1s"
_EARLIER = "max_fails=0"  # what such a route says that an earlier version wrote, and still means
_ROUTE = re.compile(
    r"# (?P<instance>[^ \n]+) invocation=(?P<invocation>[0-9a-f]{32})\n"
    r"server 127\.0\.0\.1:(?P<port>[0-9]{1,5}) weight=(?P<weight>[0-9]{1,9}) "
    rf"max_conns=(?P<max_conns>[0-9]{{1,9}}) {_FAILING};\n"
)
_INSTANCE = re.compile(r"[a-z0-9](?:[a-z0-9:.-]{0,198}[a-z0-9])?")
_INVOCATION = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One instance in rotation: what its route file says.

    ``invocation`` is the systemd invocation id (32 hex digits) of the process that was warmed; a route with
    another one than the running unit's is about a process that is gone.
    """

    instance: str
    port: int
    weight: int
    max_conns: int
    invocation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyFiles:
    """Every file of the proxy: path below its directory -> text, and the generation they add up to.

    The running proxy answers with the generation when asked: that is how a reload is known to have happened.
    """

    files: Mapping[str, str]
    generation: str


def route_path(upstream: str, instance: str) -> str:
    """Path of a route file below the proxy's directory. Raises InputError for an unsafe name."""
    return f"routes/{check_name(upstream, what='upstream')}/{check_instance(instance)}.conf"


def render_route(member: Member) -> str:
    """Text of a route file. Raises InputError for a value that cannot stand in it."""
    if not _INVOCATION.fullmatch(member.invocation):
        raise InputError(
            f"cannot route to {member.instance!r}: invocation {member.invocation!r} must be 32 hex digits"
        )
    port = check_number(member.port, what="a port", high=65535)
    weight = check_number(member.weight, what="a weight", high=999_999_999)
    max_conns = check_number(member.max_conns, what="max_conns", high=999_999_999)
    return (
        f"# {check_instance(member.instance)} invocation={member.invocation}\n"
        f"server 127.0.0.1:{port} weight={weight} max_conns={max_conns} {_FAILING};\n"
    )


def parse_route(text: str) -> Member:
    """Read back what ``render_route`` wrote. Raises InputError for anything else."""
    text = text.replace(f" {_EARLIER};\n", f" {_FAILING};\n")
    found = _ROUTE.fullmatch(text)
    if found is None:
        raise InputError(f"cannot read route {text[:200]!r}: it must be a comment and a server line")
    member = Member(
        instance=found["instance"],
        port=int(found["port"]),
        weight=int(found["weight"]),
        max_conns=int(found["max_conns"]),
        invocation=found["invocation"],
    )
    if render_route(member) != text:
        raise InputError(f"cannot read route {text!r}: it is not spelled as this program writes it")
    return member


def add_generation(files: Mapping[str, str]) -> ProxyFiles:
    """The files with generation.conf for them.

    The generation is the first 16 digits of the SHA-256 of what ``sha256sum`` prints for the other files in
    byte order of their paths; packaging/unroute computes the same after it has removed a route.
    """
    rest = {path: text for path, text in sorted(files.items()) if path != GENERATION}
    sums = "".join(f"{hashlib.sha256(text.encode()).hexdigest()}  {path}\n" for path, text in rest.items())
    generation = hashlib.sha256(sums.encode()).hexdigest()[:16]
    rest[GENERATION] = f'return 200 "{generation}\\n";\n'
    return ProxyFiles(files=dict(sorted(rest.items())), generation=generation)


def parse_generation(text: str) -> str:
    """The generation in the text of generation.conf, "" when there is none."""
    found = re.search(r'^return 200 "([0-9a-f]{16})\\n";$', text, re.MULTILINE)
    return found[1] if found else ""


def without_ended(files: Mapping[str, str], ended: Mapping[str, str]) -> dict[str, str]:
    """The files without routes to processes that ended; ``ended``: instance -> invocation id that ended.

    A route that cannot be read is nobody's and left out too.
    """
    return {
        path: text for path, text in files.items() if _upstream_of(path) is None or _is_alive(text, ended)
    }


def fall_back(previous: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """The files to stay with when nginx refuses ``wanted``: the configuration before, membership as wanted.

    An upstream that only the previous configuration has keeps its previous members.
    """
    known = set(re.findall(r"^\s*include routes/([a-z0-9-]+)/", wanted.get(CONFIGURATION, ""), re.MULTILINE))
    kept = {path: text for path, text in previous.items() if _upstream_of(path) not in known}
    had = set(re.findall(r"^\s*include routes/([a-z0-9-]+)/", previous.get(CONFIGURATION, ""), re.MULTILINE))
    return kept | {path: text for path, text in wanted.items() if _upstream_of(path) in known & had}


def _upstream_of(path: str) -> str | None:
    parts = path.split("/")
    return parts[1] if parts[0] == "routes" and len(parts) == 3 else None


def _is_alive(text: str, ended: Mapping[str, str]) -> bool:
    try:
        member = parse_route(text)
    except InputError:
        return False
    return ended.get(member.instance) != member.invocation


def check_instance(instance: str) -> str:
    if not _INSTANCE.fullmatch(instance):
        raise InputError(
            f"cannot route to instance {instance!r}: must be lower-case letters, digits, '.', ':' and '-'"
        )
    return instance
