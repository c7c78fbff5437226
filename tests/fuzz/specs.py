# SPDX-License-Identifier: Apache-2.0
"""Configurations of people who mean harm, or mistype: documents and text of TOML."""

import json
from typing import Any

from hypothesis import strategies as st

# What means something to systemd, nginx, a shell, protobuf or a terminal.
PIECES = (
    "%n", "%%", "%", "%i", "$", "$$", "${HOME}", "$HOME", '"', "'", "\\", "\\\\", "\\n", "\n", "\r",
    "\t", " ", "",
    "\x00", "\x1b[2J", "\x7f", "\x85", "\u2028", "\ufeff", "\U0001f600", ";", "; ", " ; ", "{", "}", "#",
    "=", "~",
    "*", "?", "[", "]", "(", ")", "|", "&", "<", ">", "`", "!", ",", ":", "@", "-", "--", "+", ".", "..",
    "/", "//",
    "/../", "/./", "\n[Service]\nExecStart=/bin/sh", "; include /etc/passwd;", '"; return 200 "', "\\\n",
    "/*",
    "-numa0", "chat", "a", "Z", "0", "9", "é", "ß", "node_options", "server", "ExecStart=", "\\x0a",
    "\\u000a",
)  # fmt: skip
HOSTILE = st.one_of(st.lists(st.sampled_from(PIECES), max_size=6).map("".join), st.text(max_size=20))
ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        HOSTILE,
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HOSTILE, inner, max_size=3),
    max_leaves=5,
)
PATH = HOSTILE.map(lambda text: f"/{text}")
NUMBER = st.integers(-1, 70000)
NAME = st.one_of(st.sampled_from(("chat", "code", "a-b", "x" * 32)), HOSTILE)
LISTEN = st.one_of(
    st.sampled_from(
        ("8000", "8001", "08000", "0", "65536", "0.0.0.0:8000", "127.0.0.1:8000", "127.0.0.01:8000",
        "[::]:8000",
         "127.0.0.1:8001", "[::1]:8000", "[0:0::1]:8000", "[::ffff:127.0.0.1]:8000", "256.1.1.1:80",
         "[fe80::1%1]:80", "x:80")
    ),
    HOSTILE,
)  # fmt: skip
CPUS = st.one_of(
    st.sampled_from(
        ("", "0", "0-3", "0,2", "1-0", "0-99999", "65535", "0-7:1/2", "0-7:9/2", "0-7:0/0", " 1 ", "٣")
    ),
    HOSTILE,
)
GPUS = st.lists(
    st.one_of(st.sampled_from(("0000:03:00.0", "0xe20b", "0000:03:00.8", "0X1")), HOSTILE), max_size=3
)
MODES = ("numa", "gpu", "hetero", "whole", "Numa", "")


def _table(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=optional)


def _choice(*values: object) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


GRAPH = _table(
    {},
    {
        "cache_size": NUMBER,
        "max_num_seqs": NUMBER,
        "dynamic_split_fuse": st.booleans(),
        "pipeline_type": _choice("LM", "LM_CB", "lm"),
        "tool_parser": HOSTILE,
        "kv_cache_precision": _choice("u8", "f16", "U8", 'u8"'),
    },
)
OVMS = _table(
    {},
    {
        "flags": st.lists(HOSTILE, max_size=3),
        "environment": st.dictionaries(
            st.one_of(_choice("A", "PATH", "LD_PRELOAD", "_x"), HOSTILE), HOSTILE, max_size=3
        ),
        "rest_workers": NUMBER,
    },
)
OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "placement": _choice(*MODES),
    "listen": LISTEN,
    "nodes": CPUS,
    "gpus": GPUS,
    "gpus_per_instance": NUMBER,
    "host_cpus_per_gpu": NUMBER,
    "smt": _choice("all", "physical"),
    "instances_per_node": st.integers(0, 5),
    "reserve_cpus": CPUS,
    "memory": _choice("bind", "preferred"),
    "weight": NUMBER,
    "waiting_room": NUMBER,
    "max_unavailable": NUMBER,
    "graph": GRAPH,
    "ovms": OVMS,
}
POOL = _table(
    {
        "name": NAME,
        "model_name": st.one_of(_choice("a/b", "org/x.y-z_0:1@2+3"), HOSTILE),
        "model_path": PATH,
    },
    OPTIONS,
)
SEVERAL = _table({"name": NAME, "config_path": PATH}, {"listen": LISTEN, "ovms": OVMS})
TABLES: dict[str, st.SearchStrategy[Any]] = {
    "engine": _table(
        {},
        {
            "binary": PATH,
            "library_path": PATH,
            "python_path": PATH,
            "first_port": NUMBER,
        },
    ),
    "proxy": _table(
        {},
        {
            "mode": _choice("http", "stream", "include"),
            "read_timeout_sec": NUMBER,
            "retry_after_sec": NUMBER,
            "client_max_body_bytes": st.integers(0, 2**40),
            "api_key_file": PATH,
            "tls_certificate": PATH,
            "tls_certificate_key": PATH,
        },
    ),
    "health": _table({}, {"interval_sec": st.floats(), "failures": NUMBER, "stall_sec": NUMBER}),
    "gpu": _table({}, {"vendors": GPUS, "include": GPUS, "exclude": GPUS, "recovery_attempts": NUMBER}),
    "other": ANYTHING,
}
DOCUMENTS: st.SearchStrategy[dict[str, Any]] = _table(
    {"pool": st.lists(st.one_of(POOL, SEVERAL), max_size=3)},
    TABLES,
)
# What mostly passes the rules, so that what is written from it is seen, too: only free text is hostile.
CLEAN = "".join(chr(code) for code in range(32, 127))
FREE = st.one_of(
    st.lists(
        st.sampled_from([one for one in PIECES if one.isprintable() or "\u2028" in one]), max_size=6
    ).map("".join),
    st.text(CLEAN, max_size=20),
)
FREE_PATH = FREE.map(lambda text: f"/{text}")
ACCEPTED: st.SearchStrategy[dict[str, Any]] = _table(
    {
        "pool": st.tuples(
            _table(
                {
                    "name": st.just("chat"),
                    "model_name": _choice("a/b", "x.y"),
                    "model_path": FREE_PATH,
                    "nodes": st.just("0"),
                },
                {
                    "ovms": _table(
                        {},
                        {
                            "flags": st.lists(FREE, max_size=3),
                            "environment": st.dictionaries(_choice("A", "B"), FREE, max_size=2),
                        },
                    )
                },
            ),
            _table(
                {
                    "name": st.just("more"),
                    "config_path": FREE_PATH,
                    "placement": st.just("numa"),
                    "nodes": st.just("1"),
                    "listen": st.just("8001"),
                },
                {},
            ),
        ).map(list)
    },
    {
        "engine": _table(
            {}, {"library_path": FREE_PATH, "python_path": FREE_PATH, "binary": FREE_PATH}
        )
    },
)  # fmt: skip


@st.composite
def almost_accepted(draw: st.DrawFn) -> dict[str, Any]:
    """One that would be accepted but for a key or two."""
    document = draw(ACCEPTED)
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.booleans()):
            name = draw(st.sampled_from(sorted(OPTIONS)))
            document["pool"][draw(st.integers(0, 1))][name] = draw(OPTIONS[name])
        else:
            name = draw(st.sampled_from(sorted(TABLES)))
            document[name] = draw(TABLES[name])
    return document


def to_toml(document: dict[str, Any]) -> str:
    """The document in TOML, as far as TOML can say it: no null, and inline tables below the first level."""
    lines: list[str] = []
    for name, value in document.items():
        tables = value if isinstance(value, list) else [value]
        if not all(isinstance(table, dict) for table in tables):
            lines.insert(0, f"{_text(name)} = {_value(value)}")
            continue
        for table in tables:
            lines.append(f"[[{_text(name)}]]" if isinstance(value, list) else f"[{_text(name)}]")
            lines += [f"{_text(key)} = {_value(item)}" for key, item in table.items() if item is not None]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        pairs = (f"{_text(name)} = {_value(item)}" for name, item in value.items() if item is not None)
        return "{ " + ", ".join(pairs) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value if item is not None) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)


def _text(text: str) -> str:
    """A basic string of TOML, whose escapes are JSON's; a lone surrogate can stand in neither."""
    clean = text.encode("utf-8", "replace").decode()
    return json.dumps(clean, ensure_ascii=False).replace("\x7f", "\\u007f")
