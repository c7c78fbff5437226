# SPDX-License-Identifier: Apache-2.0
"""API keys as people write them and nginx reads them, and what the configuration says of both and of TLS."""

import dataclasses
import re

import pytest
import world
from hypothesis import given
from hypothesis import strategies as st

from ovms_scaler.core import credentials, nginx, route
from ovms_scaler.core.credentials import Access
from ovms_scaler.core.rules import parse_spec
from ovms_scaler.core.table import Reader
from ovms_scaler.errors import ConfigError, InputError

KEY = "sk-0123456789abcdef"
OTHER = "A.b_c~d+e/f-0123456789=="
NUMBER = "0123456789abcdef"
SETTINGS = nginx.ProxySettings(worker_processes=2, worker_connections=4096)
CHAT = nginx.Upstream(name="chat", title="x", prefix="", members_all=())
FRONT = nginx.Front(listen=("8000", "[::1]:8001"), upstreams=(CHAT,))


def render(access: Access, *, mode: nginx.ProxyMode = nginx.ProxyMode.http) -> nginx.ProxyFiles:
    settings = dataclasses.replace(SETTINGS, access=access, mode=mode)
    return nginx.render_proxy(settings, (dataclasses.replace(FRONT, listen=("8000",)),), {})


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        pytest.param(KEY, (KEY,), id="one without a line end"),
        pytest.param(
            f"\n# all of us\n{KEY} # Alice\r\n\n\t{OTHER}\n", (KEY, OTHER), id="comments and space"
        ),
        pytest.param(f"{KEY}\n{KEY}\n", (KEY,), id="twice"),
        pytest.param(f"{KEY}\n{KEY.upper()}\n", (KEY, KEY.upper()), id="two that differ in case"),
    ],
)
def test_keys_are_read(text: str, keys: tuple[str, ...]) -> None:
    assert credentials.parse_api_keys(text) == keys


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        pytest.param("", "must hold an API key at least", id="nothing"),
        pytest.param("# none yet\n\n", "must hold an API key at least", id="comments only"),
        pytest.param(f"{KEY}\nshort\n", "line 2 is none", id="a short one"),
        pytest.param(f"{'k' * 257}\n", "line 1 is none", id="a long one"),
        pytest.param('"secret-secret-secret"', "line 1 is none", id="quotes"),
        pytest.param("secret-secret secret-secret", "line 1 is none", id="two in a line"),
        pytest.param(r"secret-secret\E-secret", "line 1 is none", id="a backslash"),
        pytest.param("secret-secret;secret", "line 1 is none", id="a semicolon"),
        pytest.param("Bearer secret-secret-secret", "line 1 is none", id="with the scheme"),
        pytest.param("==secret-secret-secret", "line 1 is none", id="padding in front"),
        pytest.param("secret-sécret-secret", "line 1 is none", id="another script"),
    ],
)
def test_what_is_no_key_is_refused_and_not_repeated(text: str, rule: str) -> None:
    with pytest.raises(InputError, match=rule) as caught:
        credentials.parse_api_keys(text)
    assert "secret" not in str(caught.value)
    assert "kkkk" not in str(caught.value)


@given(st.from_regex(r"\A[A-Za-z0-9._~+/-]{16,40}={0,2}\Z"), st.text(max_size=60))
def test_nginx_compares_a_key_literally(key: str, sent: str) -> None:
    """The regular expression that nginx is given, with \\Q..\\E as PCRE understands it."""
    (line,) = re.findall(r'^    "~(\^.*\$)" 1;$', credentials.render_api_keys((key,)), re.MULTILINE)
    found = re.fullmatch(r"(\^.*)\\Q(.*)\\E(\$)", line)
    assert found is not None
    head, literal, tail = found.groups()
    assert literal == key
    pattern = re.compile(head + re.escape(literal) + tail)
    assert pattern.search(f"Bearer {key}")
    assert pattern.search(f"bEARER  {key}")
    for wrong in (sent, f"Bearer {sent}", f"Basic {key}", f"Bearer {key}x", f"Bearer{key}", key):
        assert wrong.lstrip() == f"Bearer {key}" or not pattern.search(wrong)


def test_the_configuration_holds_a_number_in_place_of_what_is_secret() -> None:
    files = render(Access(has_api_keys=True, has_tls=True, number=NUMBER)).files
    assert list(files) == ["credentials.conf", "generation.conf", "nginx.conf"]
    assert [line for line in files["credentials.conf"].splitlines() if not line.startswith("#")] == [
        f"include /run/ovms-scaler-proxy/credentials/{NUMBER}/api_keys.conf;",
        f"ssl_certificate /run/ovms-scaler-proxy/credentials/{NUMBER}/tls.crt;",
        f"ssl_certificate_key /run/ovms-scaler-proxy/credentials/{NUMBER}/tls.key;",
    ]
    assert credentials.parse_number(files["credentials.conf"]) == NUMBER
    assert "include credentials.conf;" in files["nginx.conf"]


def test_another_number_is_another_generation_and_nothing_else() -> None:
    one, two = (render(Access(has_api_keys=True, number=number)) for number in (NUMBER, NUMBER[::-1]))
    assert one.generation != two.generation
    assert one.files["nginx.conf"] == two.files["nginx.conf"]


def test_what_is_rendered_without_a_number_is_the_same_configuration() -> None:
    known, unknown = (render(Access(has_tls=True, number=number)).files for number in (NUMBER, ""))
    assert known["nginx.conf"] == unknown["nginx.conf"]
    assert "credentials.conf" not in unknown


def test_without_keys_and_tls_nothing_is_said_of_either() -> None:
    files = render(Access()).files
    assert "credentials.conf" not in files
    for word in ("ssl", "credentials", "api_key", "401", "497", "Authorization"):
        assert word not in files["nginx.conf"], word


def test_tls_is_spoken_at_every_address() -> None:
    text = nginx.render_proxy(
        dataclasses.replace(SETTINGS, access=Access(has_tls=True, number=NUMBER)),
        (FRONT, nginx.Front(listen=("127.0.0.1:9000",), upstreams=(dataclasses.replace(CHAT, name="b"),))),
        {},
    ).files["nginx.conf"]
    found = re.findall(r"^\s*listen (?!unix:)(\S+)( ssl)? .*;$", text, re.MULTILINE)
    assert found == [(address, " ssl") for address in ("8000", "[::]:8000", "[::1]:8001", "127.0.0.1:9000")]
    assert "ssl_protocols TLSv1.2 TLSv1.3;" in text


def test_stream_mode_speaks_tls_and_knows_no_keys() -> None:
    text = render(Access(has_tls=True, number=NUMBER), mode=nginx.ProxyMode.stream).files["nginx.conf"]
    assert "include credentials.conf;" in text.partition("stream {")[2]
    with pytest.raises(InputError, match="cannot ask for API keys in stream mode"):
        render(Access(has_api_keys=True, number=NUMBER), mode=nginx.ProxyMode.stream)


@pytest.mark.parametrize("number", ["x", "0123456789ABCDEF", f"{NUMBER}0", "../0123456789ab"])
def test_a_number_that_is_none_of_ours_is_refused(number: str) -> None:
    with pytest.raises(InputError, match="must be 16 hex digits"):
        render(Access(has_tls=True, number=number))


@pytest.mark.parametrize("text", ["", "include x;", f"include /x/credentials/{NUMBER}0/y;"])
def test_no_number_is_found_where_there_is_none(text: str) -> None:
    assert credentials.parse_number(text) == ""


def test_a_configuration_that_nginx_refuses_leaves_the_credentials_in_force() -> None:
    before = render(Access(has_api_keys=True, number=NUMBER)).files
    wanted = render(Access(has_api_keys=True, number=NUMBER[::-1])).files
    assert route.fall_back(before, wanted)["credentials.conf"] == before["credentials.conf"]


def problems(proxy: dict[str, object], **pool: object) -> list[str]:
    table = {"name": "chat", "model_name": "a/b", "model_path": "/srv/b", **pool}
    try:
        parse_spec({"pool": [table], "proxy": proxy}, Reader(lambda _: ""))
    except ConfigError as error:
        return [f"{problem.key}: {problem.rule}" for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("proxy", "expected"),
    [
        pytest.param({"api_key_file": "/k"}, [], id="keys"),
        pytest.param({"tls_certificate": "/c", "tls_certificate_key": "/k", "mode": "stream"}, [], id="TLS"),
        pytest.param(
            {"tls_certificate": "/c"},
            ["proxy.tls_certificate_key: is required with tls_certificate, and missing"],
            id="a certificate without its key",
        ),
        pytest.param(
            {"tls_certificate_key": "/c"},
            ["proxy.tls_certificate: is required with tls_certificate_key, and missing"],
            id="a key without its certificate",
        ),
        pytest.param(
            {"api_key_file": "/k", "mode": "stream"},
            [
                'proxy.api_key_file: has no effect with mode = "stream", which passes connections on and '
                "looks at no request"
            ],
            id="keys in stream mode",
        ),
        pytest.param(
            {"api_key_file": "keys"},
            ["proxy.api_key_file: must be an absolute path, not 'keys'"],
            id="a relative path",
        ),
    ],
)
def test_rules(proxy: dict[str, object], expected: list[str]) -> None:
    assert problems(proxy) == expected


def test_keys_of_the_engines_own_would_lock_the_agent_out() -> None:
    """ovms takes them from an argument or a variable (cli_parser.cpp and server.cpp in its sources)."""
    found = problems({}, ovms={"flags": ["--api_key_file=/k"], "environment": {"API_KEY": "x"}})
    assert found == [
        "pool[0].ovms.environment: must not contain 'API_KEY'",
        "pool[0].ovms.flags: must not contain '--api_key_file'",
    ]


def test_what_the_configuration_names() -> None:
    proxy = world.spec({}, proxy={"api_key_file": "/k"}).proxy
    assert credentials.sources(proxy) == {"api_key_file": "/k"}
    assert credentials.access_of(proxy) == Access(has_api_keys=True)
    assert credentials.access_of(world.spec({}).proxy).is_open
