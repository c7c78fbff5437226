# SPDX-License-Identifier: Apache-2.0
"""The target: which pools answer for each other, what clients connect to, and what must not be started."""

from collections.abc import Mapping
from typing import Any

import pytest
import world

from ovms_scaler.core.books import Books
from ovms_scaler.core.model import ModelFacts, ModelKind
from ovms_scaler.core.target import Target, render_proxy_files, resolve
from ovms_scaler.errors import ConfigError

GPU_GRAPH = """\
node { calculator: "HttpLLMCalculator" node_options: {
  [type.googleapis.com/mediapipe.LLMCalculatorOptions]: { models_path: "./", device: "GPU" } } }
"""
ZERO, ONE = {"nodes": "0"}, {"name": "code", "nodes": "1"}


def make(
    *pools: Mapping[str, object], models: Mapping[str, ModelFacts] | None = None, **tables: Any
) -> Target:
    spec = world.spec(*(pools or ({},)), **tables)
    facts = {pool.name: world.model() for pool in spec.pool} | dict(models or {})
    return resolve(spec, world.topology(), facts, Books())


def fronts(target: Target) -> list[tuple[tuple[str, ...], list[tuple[str, str, str]]]]:
    return [
        (front.listen, [(one.name, one.title, one.prefix) for one in front.upstreams])
        for front in target.fronts
    ]


def test_one_pool() -> None:
    target = make()
    assert fronts(target) == [(("8000",), [("chat", "org/tiny", "")])]
    assert target.upstream_members("chat") == ("chat-numa0", "chat-numa1")
    own = target.wanted["chat-numa0"]
    assert sorted(own.files) == [
        "/run/ovms-scaler/instances/chat-numa0/graph.pbtxt",
        "/run/systemd/system/ovms@chat-numa0.service.d/50-placement.conf",
    ]
    assert (own.expected, own.warm, own.max_conns) == (("org/tiny",), ("org/tiny",), 1280)
    assert own.argv[0] == "/opt/ovms/bin/ovms"


def test_no_pool_is_no_front() -> None:
    target = resolve(world.spec(), world.topology(), {}, Books(ports={"old": 8003}))
    assert (target.fronts, dict(target.wanted), dict(target.books.ports)) == (
        (),
        {},
        {"old": 8003},
    )


FRONTS = [
    pytest.param(
        [ZERO, ONE],
        [(("8000",), [("chat", "org/tiny", "")])],
        id="one address and one model: they answer for each other",
    ),
    pytest.param(
        [ZERO, {**ONE, "model_name": "org/code"}],
        [(("8000",), [("chat", "org/tiny", "chat"), ("code", "org/code", "code")])],
        id="one address and two models: a path each",
    ),
    pytest.param(
        [ZERO, {**ONE, "listen": "8001"}],
        [(("8000",), [("chat", "org/tiny", "")]), (("8001",), [("code", "org/tiny", "")])],
        id="two addresses",
    ),
    pytest.param(
        [{**ZERO, "listen": "127.0.0.1:8000"}, {**ONE, "listen": "[::1]:8000"}],
        [(("127.0.0.1:8000",), [("chat", "org/tiny", "")]), (("[::1]:8000",), [("code", "org/tiny", "")])],
        id="one port of two addresses",
    ),
]


@pytest.mark.parametrize(("pools", "expected"), FRONTS)
def test_what_clients_connect_to(
    pools: list[dict[str, object]], expected: list[tuple[tuple[str, ...], list[tuple[str, str, str]]]]
) -> None:
    assert fronts(make(*pools)) == expected


def test_weights_are_compared_within_what_answers_for_each_other() -> None:
    together = make({**ZERO, "reserve_cpus": "0-1"}, ONE)
    assert [one.weight for one in together.instances] == [1, 2]
    apart = make({**ZERO, "reserve_cpus": "0-1"}, {**ONE, "listen": "8001"})
    assert [one.weight for one in apart.instances] == [1, 1]


COLLIDING = [
    ("8000", "127.0.0.1:8000"),
    ("8000", "0.0.0.0:8000"),
    ("0.0.0.0:8000", "127.0.0.1:8000"),
    ("[::]:8000", "[::1]:8000"),
]


@pytest.mark.parametrize(("one", "two"), COLLIDING)
def test_addresses_that_cannot_be_bound_side_by_side_are_refused(one: str, two: str) -> None:
    with pytest.raises(ConfigError, match=r"pool\[1\]\.listen: must not overlap with .*pool 'chat'"):
        make({**ZERO, "listen": one}, {**ONE, "listen": two})


def test_a_stream_cannot_tell_models_apart() -> None:
    with pytest.raises(ConfigError, match=r"pool\[1\]\.listen: must not be shared by different models"):
        make(ZERO, {**ONE, "model_name": "org/code"}, proxy={"mode": "stream"})
    assert make(ZERO, ONE, proxy={"mode": "stream"}).proxy.mode == "stream"


FORBIDDEN = [
    pytest.param(
        world.model(kind=None, problem="no such directory", hint="look"), "no such directory", "look",
        id="the model is not there",
    ),
    pytest.param(
        world.model(kind=ModelKind.graph, graph=GPU_GRAPH, device="GPU"),
        "cannot place pool 'chat' on CPU: /srv/models/tiny/graph.pbtxt names device 'GPU'",
        "place the pool on GPU, or export the model again for CPU", id="its graph is for a GPU",
    ),
    pytest.param(
        world.model(kind=ModelKind.graph, graph="node {", device=None),
        "cannot read the graph of '/srv/models/tiny': ", None, id="its graph is broken",
    ),
    pytest.param(
        world.model(weights_bytes=2**37), "instance 'chat-numa0' needs 129.0 GiB", "use smaller weights",
        id="it does not fit",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("model", "problem", "hint"), FORBIDDEN)
def test_what_must_not_be_started_says_why_and_has_its_files(
    model: ModelFacts, problem: str, hint: str | None
) -> None:
    wanted = make(models={"chat": model}).wanted["chat-numa0"]
    assert (wanted.instance.problem or "").startswith(problem)
    assert hint is None or (wanted.instance.hint or "").startswith(hint)
    assert "/run/systemd/system/ovms@chat-numa0.service.d/50-placement.conf" in wanted.files


def test_what_may_not_fit_is_a_warning() -> None:
    target = make({"memory": "preferred"}, models={"chat": world.model(weights_bytes=2**37)})
    assert [one.problem for one in target.instances] == [None, None]
    assert "instance 'chat-numa0' needs 129.0 GiB" in target.warnings[0]


def test_warnings_of_models_name_their_pool_and_stand_once() -> None:
    target = make(models={"chat": world.model(warnings=("odd", "odd"))})
    assert target.warnings == ("pool 'chat': odd",)


def test_a_model_that_generates_nothing_is_not_warmed() -> None:
    wanted = make(models={"chat": world.model(generates=False)}).wanted["chat-numa0"]
    assert (wanted.expected, wanted.warm) == (("org/tiny",), ())


def test_equal_input_gives_equal_targets_and_equal_files() -> None:
    one, two = make(ZERO, ONE), make(ZERO, ONE)
    assert one == two
    assert render_proxy_files(one, {}) == render_proxy_files(two, {})
