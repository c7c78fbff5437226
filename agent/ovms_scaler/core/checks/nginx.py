# SPDX-License-Identifier: Apache-2.0
"""Whether the proxy's program, its modules and its files are as the proxy needs them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from shlex import quote

from ovms_scaler.core.checks.finding import Finding, bad, good, or_good, unknown, warning

_VERSION = re.compile(r"nginx version: \S+?/(?P<version>(?P<major>\d+)\.(?P<minor>\d+)\S*)")
# The oldest that is tested, Debian 12's.
_OLDEST = (1, 22)
_INSTALL = "apt install nginx"


@dataclass(frozen=True, slots=True, kw_only=True)
class NginxFacts:
    """What ``nginx -V`` printed and how it ended, None when it could not be started for ``refused``.

    ``modules`` are the files that can be loaded, by absolute path.
    """

    program: str
    status: int | None
    output: str = ""
    refused: str = ""
    modules: frozenset[str] = frozenset()


def judge_program(facts: NginxFacts) -> Finding:
    check, subject = "nginx-program", facts.program
    if facts.status is None:
        return bad(check, subject, f"it cannot be started: {facts.refused}", _INSTALL)
    if facts.status != 0:
        lines = facts.output.strip().splitlines() or ["it said nothing"]
        reason = f"nginx -V ended with {facts.status}: {lines[-1][:200]}"
        return bad(check, subject, reason, "apt install --reinstall nginx")
    found = _VERSION.search(facts.output)
    if found is None:
        return bad(check, subject, "it does not say that it is nginx", "apt install --reinstall nginx")
    if (int(found["major"]), int(found["minor"])) < _OLDEST:
        reason = f"version {found['version']} is older than 1.22, the oldest that this was tested with"
        return warning(check, subject, reason, "take nginx from Debian 12 or newer")
    return good(check, subject, f"version {found['version']}")


def judge_modules(
    facts: NginxFacts, *, stream_module: str, needs_stream: bool, needs_tls: bool
) -> tuple[Finding, ...]:
    """``stream_module`` is the file that the proxy's configuration loads in mode stream."""
    check = "nginx-modules"
    if facts.status != 0:
        return (unknown(check, facts.program, "nginx does not start", "see nginx-program"),)
    found = []
    if needs_stream and stream_module not in facts.modules:
        reason = f'proxy.mode is "stream", and there is no {stream_module}'
        remedy, note = "apt install libnginx-mod-stream", 'or set proxy.mode = "http"'
        found.append(bad(check, "stream", reason, remedy, note))
    if needs_tls and "--with-http_ssl_module" not in facts.output:
        reason = "proxy.tls_certificate is set, and this nginx was built without http_ssl_module"
        found.append(bad(check, "http_ssl", reason, _INSTALL))
    return or_good(found, check, facts.program, "it has what the configuration needs")


def judge_files(foreign: Iterable[tuple[str, int]], user: str) -> tuple[Finding, ...]:
    """``foreign`` has the first file in each directory of the proxy's that is not its user's, and whose."""
    check = "proxy-files"
    found = [
        bad(
            check,
            path,
            f"it belongs to user {uid}, not to {user}, as after nginx -t by root: the proxy cannot use it",
            f"chown -R {user}: {quote(path.rpartition('/')[0])}",
        )
        for path, uid in foreign
    ]
    return or_good(found, check, "proxy", f"its working files are those of {user}")
