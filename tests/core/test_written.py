# SPDX-License-Identifier: Apache-2.0
"""Text of people in units, graphs and nginx.conf: whatever it is, it says what it says and nothing else."""

import posixpath
from typing import Any

import pytest
import world
from fuzz import specs
from fuzz.written import assert_harmless, parse_nginx
from hypothesis import given, settings
from hypothesis import strategies as st

from ovms_scaler.core import pbtxt
from ovms_scaler.core.books import Books
from ovms_scaler.core.rules import parse_spec
from ovms_scaler.core.spec import Spec
from ovms_scaler.core.table import Reader
from ovms_scaler.core.target import Target, resolve
from ovms_scaler.errors import ConfigError
from ovms_scaler.offline import render_files


def make(document: dict[str, Any]) -> tuple[Spec, Target]:
    spec = parse_spec(document, Reader(lambda _: ""))
    models = {pool.name: world.model(path=pool.model_path or "/x") for pool in spec.pool}
    return spec, resolve(spec, world.topology(), models, Books())


@settings(deadline=None, max_examples=150)
@given(specs.ACCEPTED)
def test_text_of_people_comes_back_from_every_file(document: dict[str, Any]) -> None:
    try:
        spec, target = make(document)
    except ConfigError:
        return  # one of the rules
    assert_harmless(spec, target)


@settings(deadline=None, max_examples=100)
@given(specs.FREE_PATH)
def test_a_path_comes_back_from_the_graph(path: str) -> None:
    document = {"pool": [{"name": "chat", "model_name": "a/b", "model_path": path, "nodes": "0"}]}
    try:
        _, target = make(document)
    except ConfigError:
        return
    (graph,) = (text for name, text in render_files(target).items() if name.endswith("graph.pbtxt"))
    assert posixpath.normpath(path) in read_texts(pbtxt.parse_pbtxt(graph))


def read_texts(message: pbtxt.Message) -> set[str]:
    """Every string in a graph."""
    found: set[str] = set()
    for each in message.fields:
        for value in each.value.values if isinstance(each.value, pbtxt.Items) else (each.value,):
            if isinstance(value, pbtxt.Text):
                found.add(value.text)
            elif isinstance(value, pbtxt.Message):
                found |= read_texts(value)
    return found


@settings(deadline=None, max_examples=200)
@given(st.one_of(specs.HOSTILE, specs.FREE))
def test_a_name_passes_only_if_it_is_plain(name: str) -> None:
    for table in ({"name": name, "model_name": "a"}, {"name": "chat", "model_name": name}):
        try:
            spec, target = make({"pool": [{"model_path": "/m", **table}]})
        except ConfigError:
            continue
        assert name.isascii()
        assert not set(name) & set(" %$\"'\\{};#\n\r\t\x00")
        assert_harmless(spec, target)


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        pytest.param(
            "server {\n    # a\n    listen 1;\n}\n",
            "server {\n    # a\n}\n    listen 1;\n}\n",
            id="closed early",
        ),
        pytest.param(
            'add_header X "a;b{" always;\n', 'add_header X "a;b{ always;\n', id="a quote left open"
        ),
    ],
)
def test_what_reads_nginx_back_would_notice(good: str, bad: str) -> None:
    assert parse_nginx(good)
    with pytest.raises((AssertionError, IndexError)):
        parse_nginx(bad)
