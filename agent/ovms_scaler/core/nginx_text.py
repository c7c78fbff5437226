# SPDX-License-Identifier: Apache-2.0
"""Pieces of nginx configuration that know no instance: blocks, addresses, paths let through, errors."""

import ipaddress
import json
import re
from collections.abc import Iterable

from ovms_scaler.errors import InputError

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,127}")
_PATH = re.compile(r"/[A-Za-z0-9._/-]+")

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

# Every status nginx makes itself -> OpenAI's error type and code, and a sentence.
_ERRORS = {
    400: (
        "invalid_request_error",
        "bad_request",
        "The request is not valid HTTP, or its headers are too large.",
    ),
    403: ("invalid_request_error", "forbidden", "This is not allowed."),
    404: ("invalid_request_error", "not_found", "No such API here: /v3/, /v1/ and /v2 are served."),
    405: ("invalid_request_error", "method_not_allowed", "This method is not allowed."),
    408: ("invalid_request_error", "request_timeout", "The request did not arrive in time."),
    411: ("invalid_request_error", "length_required", "The request needs a Content-Length."),
    413: ("invalid_request_error", "request_too_large", "The request body is larger than allowed."),
    414: ("invalid_request_error", "uri_too_long", "The request line is too long."),
    416: ("invalid_request_error", "bad_range", "The range cannot be served."),
    500: ("server_error", "proxy_error", "The proxy could not handle the request."),
    501: ("invalid_request_error", "not_implemented", "The proxy does not implement this."),
    502: ("server_error", "instance_failed", "The instances that were asked failed before they answered."),
    503: ("server_error", "unavailable", "No instance can take the request now; try again later."),
    504: ("server_error", "instance_timeout", "The instance did not begin to answer in time."),
    505: ("invalid_request_error", "http_version", "This HTTP version is not supported."),
}
# 494 is what nginx calls headers that are too large; it is sent as 400.
_ERROR_STATUSES = " ".join(str(status) for status in sorted((*_ERRORS, 494)))
ERROR_PATH = "/.ovms-scaler/error"
# What unavailable.sock answers besides X-Accel-Redirect: no reason for nginx to ask yet another server.
REDIRECT_STATUS = 200
# $ovms_uri is passed as it is, byte for byte; a literal URI here would be decoded and encoded anew.
PASS = "proxy_pass http://$ovms_upstream$ovms_uri;"


def block(head: str, *body: str) -> list[str]:
    """``head { body }`` as lines, the body indented; an empty line stays empty."""
    return [f"{head} {{", *(f"    {line}" if line else "" for line in body), "}"]


def printable(text: str) -> str:
    """Text of people for a comment: nothing in it can end the line."""
    return "".join(char if char.isprintable() else "?" for char in text)


def check_name(name: str, *, what: str) -> str:
    """The name itself. Raises InputError when it is not lower-case letters, digits and dashes."""
    if not NAME.fullmatch(name):
        raise InputError(
            f"cannot write {what} {name!r} into the proxy's configuration: it must be lower-case letters, "
            "digits and dashes, and begin with a letter or digit"
        )
    return name


def check_path(path: str) -> str:
    """The absolute path itself. Raises InputError for one that would need quoting in nginx.conf."""
    if not _PATH.fullmatch(path):
        raise InputError(
            f"cannot write path {path!r} into the proxy's configuration: it must be absolute, of letters, "
            "digits, '.', '_', '-' and '/'"
        )
    return path


def check_number(value: int, *, what: str, low: int = 1, high: int = 2**31 - 1) -> int:
    """The number itself. Raises InputError outside ``low`` to ``high``."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"cannot set {what} to {value!r}: must be a whole number from {low} to {high}")
    return value


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
        "request_time:request_time", "upstream_header_time:upstream_header_time", "bytes:bytes_sent",
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


def render_listen(texts: tuple[str, ...], *, ipv6: bool) -> list[str]:
    """``listen`` directives for one server. The backlog is cut down to net.core.somaxconn by the kernel.

    No ``reuseport``: on a reload it would drop the clients queued at sockets of workers that are leaving.
    """
    lines = []
    for address, port in map(parse_listen, texts):
        lines.append(f"listen {address + ':' if address else ''}{port} backlog=65535;")
        if not address and ipv6:
            lines.append(f"listen [::]:{port} ipv6only=on backlog=65535;")
    return lines


def render_error(status: int) -> str:
    """The JSON body in OpenAI's form for an error that nginx itself makes."""
    kind, code, message = _ERRORS[status]
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


def render_error_map() -> list[str]:
    """The map ``$status`` -> ``$ovms_error``, the JSON body of an error."""
    return block(
        "map $status $ovms_error",
        f"default '{render_error(500)}';",
        *(f"{status} '{render_error(status)}';" for status in _ERRORS),
    )


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
        "# What nginx itself has to say, in the form that OpenAI's clients expect. An engine's words pass",
        "# untouched.",
        f"error_page {_ERROR_STATUSES} {ERROR_PATH};",
        *block(f"location = {ERROR_PATH}", "internal;", "return 200 $ovms_error;"),
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
