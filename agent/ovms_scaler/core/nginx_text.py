# SPDX-License-Identifier: Apache-2.0
"""Pieces of nginx configuration that know no instance: addresses, paths let through, servers."""

import ipaddress
import re
from collections.abc import Iterable

from ovms_scaler.core.credentials import Access
from ovms_scaler.core.nginx_errors import render_error, render_error_pages
from ovms_scaler.core.nginx_syntax import block, check_path, printable
from ovms_scaler.errors import InputError

# One path segment as the engine's own routes spell it: no percent sign, so nothing in it decodes to anything
# else, and never dots alone.
_SEGMENT = r"(?!\.+(?:[/?]|$))[A-Za-z0-9._~:@+,=-]+"
# A model's name may be percent-encoded (meta-llama%2FMeta-Llama-3-8B-Instruct). Never an encoded percent,
# backslash, dot or control character: they are in no model's name and only serve to spell another path.
_NAME_SEGMENT = r"(?!\.+(?:[/?]|$))(?:[A-Za-z0-9._~:@+,=-]|%(?!2[5Ee]|5[Cc]|7[Ff]|[01])[0-9A-Fa-f]{2})+"
_QUERY = r"(?:\?[^#]*)?"

# "METHOD raw-target" as it would reach the engine -> "" when it may pass; the first match counts.
SERVING_PATHS = (
    ("the state of the models may be read, never reloaded, in whatever spelling", None, None),
    (None, rf"~^GET /v1/config{_QUERY}$", ""),
    (None, r"~*^[a-z]+ /(?:v3/)?v1/config(?:[/?]|$)", "1"),
    (None, r"~*^[a-z]+ /v3/config(?:[/?]|$)", "1"),
    ("models of the OpenAI API: the name may hold slashes, encoded or not", None, None),
    (None, rf"~^[A-Z]+ /(?:v3|v1|v3/v1)/models(?:/{_NAME_SEGMENT})*{_QUERY}$", ""),
    ("the OpenAI API itself", None, None),
    (None, rf"~^[A-Z]+ /v[13](?:/{_SEGMENT})+{_QUERY}$", ""),
    ("KServe: the name is one segment, a slash in it is %2F and stays so", None, None),
    (None, rf"~^[A-Z]+ /v2(?:/{_NAME_SEGMENT})*{_QUERY}$", ""),
)

# What unavailable.sock answers besides X-Accel-Redirect: no reason for nginx to ask yet another server.
REDIRECT_STATUS = 200
# $ovms_uri is passed as it is, byte for byte; a literal URI here would be decoded and encoded anew.
PASS = "proxy_pass http://$ovms_upstream$ovms_uri;"


def parse_listen(text: str) -> tuple[str, int]:
    """``"8000"``, ``"127.0.0.1:8000"`` or ``"[::1]:8000"`` -> (address, port); "" is every address.

    Raises InputError for anything else, host names too: nginx would resolve them once and keep the answer.
    """
    found = re.fullmatch(r"(?:(?P<v4>[0-9.]+):|\[(?P<v6>[0-9A-Fa-f:.]+)\]:)?(?P<port>[0-9]{1,5})", text)
    try:
        if found is None or not 1 <= int(found["port"]) <= 65535:
            raise ValueError
        address = ""
        if found["v4"]:
            address = str(ipaddress.IPv4Address(found["v4"]))
        elif found["v6"]:
            address = f"[{ipaddress.IPv6Address(found['v6'])}]"
    except ValueError:
        raise InputError(
            f"cannot listen on {text!r}: must be a port, '127.0.0.1:8000' or '[::1]:8000'",
            hint="a port alone means every address of the host, IPv4 and IPv6",
        ) from None
    return address, int(found["port"])


def check_listen(texts: Iterable[str]) -> None:
    """Raises InputError when two addresses overlap: nginx binds each by itself, the second would fail."""
    seen: dict[tuple[str, int], str] = {}
    for text in texts:
        address, port = parse_listen(text)
        for (other_address, other_port), other in seen.items():
            if port == other_port and (address == other_address or "" in (address, other_address)):
                raise InputError(f"cannot listen on {text!r}: {other!r} has the same port")
        seen[address, port] = text


def render_access_format() -> list[str]:
    """The record of one request; its socket is the agent's, and nobody waits for it.

    Only what may infer is told of: GETs are answered by engines that are otherwise lost.
    """
    fields = (
        "client:remote_addr", "status:status", "upstream:upstream_addr", "upstream_status:upstream_status",
        "request_time:request_time", "upstream_header_time:upstream_header_time",
        "upstream_response_time:upstream_response_time", "bytes:bytes_sent",
        "completion:request_completion", "worker:pid",
    )  # fmt: skip
    text = ",".join('"{}":"${}"'.format(*field.split(":")) for field in fields)
    return [
        f"log_format ovms escape=json '{{{text}}}';",
        *block("map $request_method $ovms_infers", 'default "";', 'POST "1";'),
    ]


def render_access_log(socket: str) -> list[str]:
    """One server's record, written while the agent is there: each failure to write is a line of log.

    ``-e`` is about plain files and directories only (ngx_http_script_file_code), so the socket has an x bit.
    """
    return [
        'set $ovms_recorded "";',
        *block(f"if (-x {check_path(socket)})", "set $ovms_recorded $ovms_infers;"),
        f"access_log syslog:server=unix:{socket},nohostname ovms if=$ovms_recorded;",
    ]


def render_listen(texts: tuple[str, ...], *, ipv6: bool, tls: bool) -> list[str]:
    """``listen`` directives for one server. The backlog is cut down to net.core.somaxconn by the kernel.

    No ``reuseport``: on a reload it would drop the clients queued at sockets of workers that are leaving.
    """
    lines = []
    ssl = " ssl" if tls else ""
    for address, port in map(parse_listen, texts):
        lines.append(f"listen {address + ':' if address else ''}{port}{ssl} backlog=65535;")
        if not address and ipv6:
            lines.append(f"listen [::]:{port}{ssl} ipv6only=on backlog=65535;")
    return lines


def render_refusal_map() -> list[str]:
    """The map ``$ovms_refused``: "" for what may reach an engine, 1 for everything else."""
    body = ["default 1;"]
    for comment, pattern, value in SERVING_PATHS:
        body.append(f"# {comment}" if comment else f'"{pattern}" "{value}";')
    return block('map "$request_method $ovms_uri" $ovms_refused', *body)


def render_upstream(name: str, title: str, unavailable: str) -> list[str]:
    """The upstream ``name``, valid with any number of route files, none too."""
    return [
        f"# {printable(title)}",
        *block(
            f"upstream {name}",
            "# One count of open requests for all workers: without it each worker balances for itself.",
            f"zone {name} 512k;",
            "least_conn;",
            f"include routes/{name}/*.conf;",
            "# Never asked: an upstream must have a server that is no backup, also with no instance ready.",
            f"server {unavailable} down;",
            "# Asked when no instance is ready or each is at its max_conns: turns the client away at once.",
            f"server {unavailable} max_fails=0 backup;",
        ),
    ]


def render_http_server(
    listen: list[str],
    upstreams: tuple[tuple[str, str], ...],
    *,
    retry_after_sec: int,
    access_socket: str,
    again: list[str],
    access: Access,
) -> list[str]:
    """A front for requests. ``upstreams``: (name, prefix), "" for the only one; ``again``: nginx_again."""
    choose = []
    for name, prefix in upstreams:
        if prefix:
            choose += [
                f"# The target as the client spelled it, without /{prefix}. ($1 would escape %2F.)",
                *block(
                    f'if ($request_uri ~ "^/{prefix}(?<ovms_rest>/.*)$")',
                    f"set $ovms_upstream {name};",
                    "set $ovms_uri $ovms_rest;",
                ),
            ]
        else:
            choose += [f"set $ovms_upstream {name};", "set $ovms_uri $request_uri;"]
    begin = ['set $ovms_upstream "";', 'set $ovms_uri "";'] if upstreams[0][1] else []
    if access.has_api_keys:
        # Before anything is told of what is here, and before a body is read.
        begin = [*block('if ($ovms_api_key = "")', "return 401;"), *begin]
    return block(
        "server",
        *listen,
        "",
        *render_access_log(access_socket),
        "",
        *block("location /", *begin, *choose, *block("if ($ovms_refused)", "return 404;"), PASS),
        "",
        "# unavailable.sock sends the request here. If an instance said 404 before, that is the answer, as",
        "# there was no second one to ask: get it again, for its own words.",
        *block(
            "location @last_resort",
            "error_page 418 = @only_answer;",
            *block(f'if ($upstream_status ~ "(?:^| )404, {REDIRECT_STATUS}$")', "return 418;"),
            f"add_header Retry-After {retry_after_sec} always;",
            f"return 503 '{render_error(503)}';",
        ),
        *block("location @only_answer", "proxy_next_upstream off;", PASS),
        *again,
        "",
        "# What nginx itself has to say, in the form that OpenAI's clients expect.",
        *render_error_pages(access),
    )


def render_stream_server(listen: list[str], upstream: str) -> list[str]:
    """A front for connections."""
    return block("server", *listen, f"proxy_pass {upstream};")


def render_unavailable_server(socket: str, *, redirect: bool, retry_after_sec: int) -> list[str]:
    """The server behind each upstream's backup: for requests it sends the front to its own last resort."""
    answer = (
        ("add_header X-Accel-Redirect @last_resort always;", f"return {REDIRECT_STATUS};")
        if redirect
        else (f"add_header Retry-After {retry_after_sec} always;", f"return 503 '{render_error(503)}';")
    )
    return block(
        "server",
        f"listen {socket} backlog=65535;",
        "client_max_body_size 0;",
        *([] if redirect else ["keepalive_timeout 0;"]),
        *block("location /", *answer),
    )


def render_internal_server(socket: str) -> list[str]:
    """The server that tells the agent which configuration runs."""
    return block(
        "server",
        f"listen {socket};",
        "default_type text/plain;",
        "location / { return 404; }",
        "location = /generation { include generation.conf; }",
        "location = /stub_status { stub_status; }",
    )
