# SPDX-License-Identifier: Apache-2.0
"""Reads back what is written for systemd, nginx and the engines: it must say what was meant, and no more."""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

import systemd_syntax

from ovms_scaler.core import pbtxt
from ovms_scaler.core.engine import instance_directory
from ovms_scaler.core.spec import Spec
from ovms_scaler.core.target import Target, Wanted
from ovms_scaler.core.unit import drop_in_path
from ovms_scaler.offline import render_files

_SECTIONS = {
    "Unit": {"Description", "StopPropagatedFrom", "After", "AssertPathExists"},
    "Service": {
        "CPUAffinity", "AllowedCPUs", "NUMAPolicy", "NUMAMask", "AllowedMemoryNodes", "SupplementaryGroups",
        "DeviceAllow", "BindPaths", "LimitNOFILE", "Environment", "ExecStart",
    },
}  # fmt: skip
_INSTANCE = re.compile(r"[a-z0-9][a-z0-9:.-]*")
# nginx's words: quoted as a whole, or without space and special characters.
_WORD = re.compile(
    r"""\s*(?:#[^\n]*\n|(?P<word>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s;{}"'#][^\s;{}]*)|(?P<mark>[;{}]))"""
)


def assert_harmless(spec: Spec, target: Target) -> None:
    """Every file of the target says what the configuration means. Raises AssertionError."""
    environments = {pool.name: pool.ovms.environment for pool in spec.pool}
    files = render_files(target)
    for path in files:
        assert str(PurePosixPath(path)) == path
        assert ".." not in PurePosixPath(path).parts
    for name, wanted in target.wanted.items():
        assert _INSTANCE.fullmatch(name), name
        if drop_in_path(name) in files:
            _check_drop_in(files[drop_in_path(name)], wanted, environments[wanted.instance.pool])
        graph = files.get(str(instance_directory(name) / "graph.pbtxt"))
        if graph is not None:
            pbtxt.parse_pbtxt(graph)
    for path, text in files.items():
        if path.endswith("nginx.conf"):
            _check_nginx(text, target)


def _check_drop_in(text: str, wanted: Wanted, environment: Mapping[str, str]) -> None:
    section = ""
    for line in _logical_lines(text):
        if found := re.fullmatch(r"\[(\w+)\]", line):
            section = found[1]
            assert section in _SECTIONS
        elif line and not line.startswith("#"):
            assert line.partition("=")[0] in _SECTIONS[section], line
    assert text.count("\n[") == 2
    assert systemd_syntax.parse_exec_start(text) == wanted.argv
    assert systemd_syntax.parse_environment(text).items() >= environment.items()


def _logical_lines(text: str) -> Iterator[str]:
    """Lines as systemd.syntax(7) joins them; it knows no line end but one."""
    joined = ""
    for line in text.split("\n"):
        if line.endswith("\\"):
            joined += line[:-1] + " "
        else:
            yield joined + line
            joined = ""
    assert not joined


def parse_nginx(text: str) -> list[tuple[str, ...]]:
    """The directives but for those in maps, comments left out: the words of each, "{" last for a block."""
    found: list[tuple[str, ...]] = []
    words: list[str] = []
    blocks: list[str] = []
    at = 0
    while at < len(text.rstrip()):
        match = _WORD.match(text, at)
        assert match is not None, text[at : at + 80]
        at = match.end()
        if match["word"]:
            words.append(match["word"])
        elif match["mark"] == "}":
            assert not words
            blocks.pop()
        elif match["mark"]:
            if blocks[-1:] != ["map"]:
                found.append((*words, "{") if match["mark"] == "{" else tuple(words))
            if match["mark"] == "{":
                blocks.append(words[0])
            words = []
    assert not blocks
    assert not words
    return found


def _check_nginx(text: str, target: Target) -> None:
    """Nothing of what people wrote is in it, but for names that have passed a rule."""
    directives = parse_nginx(text)
    names = [upstream.name for front in target.fronts for upstream in front.upstreams]
    assert [one[1] for one in directives if one[0] == "upstream"] == names
    allowed = {f"routes/{name}/*.conf" for name in names} | {"generation.conf", "credentials.conf"}
    assert {one[1] for one in directives if one[0] == "include"} <= allowed
    unknown = {one[0] for one in directives} - _DIRECTIVES
    assert not unknown


_DIRECTIVES = {
    "access_log", "add_header", "client_body_buffer_size", "client_body_temp_path",
    "client_max_body_size", "default_type", "error_log", "error_page", "events",
    "fastcgi_temp_path",
    "http", "if", "include", "internal", "keepalive_timeout", "least_conn", "listen", "load_module",
    "location",
    "log_format", "map", "map_hash_max_size", "pid", "proxy_buffer_size", "proxy_buffering",
    "proxy_buffers",
    "proxy_connect_timeout", "proxy_hide_header", "proxy_http_version", "proxy_ignore_headers",
    "proxy_next_upstream", "proxy_next_upstream_timeout", "proxy_next_upstream_tries", "proxy_pass",
    "proxy_read_timeout", "proxy_request_buffering", "proxy_set_header", "proxy_temp_path", "proxy_timeout",
    "recursive_error_pages", "return", "scgi_temp_path", "server", "server_tokens", "set", "ssl_ciphers",
    "ssl_ecdh_curve", "ssl_prefer_server_ciphers", "ssl_protocols", "ssl_session_cache",
    "ssl_session_tickets",
    "ssl_session_timeout", "stream", "stub_status", "upstream", "uwsgi_temp_path", "worker_connections",
    "worker_processes", "worker_shutdown_timeout", "zone",
}  # fmt: skip
