# SPDX-License-Identifier: Apache-2.0
"""The target: which pools answer for each other, what clients connect to, and what must not be started."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import world

from ovms_scaler.core.books import Books
from ovms_scaler.core.model import ModelFacts, ModelKind
from ovms_scaler.core.target import Target, render_proxy_files, resolve
from ovms_scaler.core.topology import Gpu
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
    ("8000", "08000"),
    ("[::1]:8000", "[0:0::1]:8000"),
    ("0.0.0.0:8000", "127.0.0.1:8000"),
    ("[::]:8000", "[::1]:8000"),
]


@pytest.mark.parametrize(("one", "two"), COLLIDING)
def test_addresses_that_cannot_be_bound_side_by_side_are_refused(one: str, two: str) -> None:
    with pytest.raises(ConfigError, match=r"pool\[1\]\.listen: must not overlap with .*pool 'chat'"):
        make({**ZERO, "listen": one}, {**ONE, "listen": two})


@pytest.mark.parametrize(
    ("listen", "admin"),
    [("8002", "127.0.0.1:8002"), ("127.0.0.2:9000", "127.0.0.2:9000"), ("[::1]:9000", "[0::1]:9000")],
)
def test_clients_and_the_agent_do_not_share_an_address(listen: str, admin: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make({**ZERO, "listen": listen}, admin={"listen": admin})
    assert [str(problem) for problem in refused.value.problems] == [
        f"pool[0].listen: must not overlap with {admin!r} of admin.listen, not {listen!r}\n"
        '  hint: use another port, or give admin.listen another one, or "" to do without'
    ]
    assert make({**ZERO, "listen": listen}, admin={"listen": ""}).admin.listen == ""


def test_clients_may_have_the_port_of_the_agent_at_another_address() -> None:
    assert make({**ZERO, "listen": "192.0.2.1:8002"}).admin.listen == "127.0.0.1:8002"


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


# GPUs

A, B = "0000:03:00.0", "0000:83:00.0"
ON_A, ON_B = f"chat-gpu-{A}", f"chat-gpu-{B}"
CARDS = (world.gpu(A, 0), world.gpu(B, 1, render=129))
GPU = {"placement": "gpu"}
CPU = {"name": "cpu"}


def on_gpus(
    *pools: Mapping[str, object],
    gpus: tuple[Gpu, ...] = CARDS,
    models: Mapping[str, ModelFacts] | None = None,
    books: Books | None = None,
    planned: bool = True,
) -> Target:
    spec = world.spec(*pools)
    facts = {pool.name: world.model() for pool in spec.pool} | dict(models or {})
    return resolve(spec, world.topology(cores=8, gpus=gpus), facts, books or Books(), planned=planned)


WEIGHTS = [
    pytest.param([GPU], [1, 1], id="GPUs alone"),
    pytest.param([{**GPU, "weight": 7}], [7, 7], id="GPUs alone, given"),
    pytest.param([GPU, CPU], [1, 1, 1, 1], id="as the equal nodes"),
    pytest.param([GPU, {**CPU, "reserve_cpus": "0-1"}], [6, 6, 5, 6], id="as the largest node"),
    pytest.param([{**GPU, "weight": 40}, CPU], [40, 40, 6, 6], id="given for GPUs: cores as they are"),
    pytest.param([GPU, {**CPU, "weight": 9}], [9, 9, 9, 9], id="given for CPUs"),
    pytest.param([{**GPU, "weight": 40}, {**CPU, "weight": 9}], [40, 40, 9, 9], id="given for both"),
    pytest.param([{**GPU, "listen": "8001"}, {**CPU, "weight": 9}], [1, 1, 9, 9], id="behind another URL"),
]


@pytest.mark.parametrize(("pools", "expected"), WEIGHTS)
def test_weights_of_gpus(pools: list[Mapping[str, object]], expected: list[int]) -> None:
    assert [one.weight for one in on_gpus(*pools).instances] == expected


def test_gpus_and_cpus_behind_one_url_and_behind_two() -> None:
    together = on_gpus(GPU, CPU)
    assert fronts(together) == [(("8000",), [("chat", "org/tiny", "")])]
    assert together.upstream_members("chat") == (ON_A, ON_B, "cpu-numa0", "cpu-numa1")
    apart = on_gpus({**GPU, "listen": "8001"}, CPU)
    assert [front[0] for front in fronts(apart)] == [("8001",), ("8000",)]
    assert apart.upstream_members("cpu") == ("cpu-numa0", "cpu-numa1")


def test_weights_of_others_are_the_same_while_a_card_is_away() -> None:
    pools = GPU, {**CPU, "reserve_cpus": "0-1"}
    first = on_gpus(*pools)
    away = on_gpus(*pools, gpus=CARDS[1:], books=first.books, planned=False)
    assert [one.weight for one in away.instances] == [one.weight for one in first.instances]


def test_one_that_waits_has_no_files_and_its_place_in_the_proxy() -> None:
    first = on_gpus(GPU, CPU)
    away = on_gpus(GPU, CPU, gpus=CARDS[1:], books=first.books, planned=False)
    assert (away.wanted[ON_A].files, away.wanted[ON_A].instance.is_waiting) == ({}, True)
    assert away.proxy == first.proxy
    assert away.fronts == first.fronts
    port = first.wanted[ON_A].instance.port
    assert (ON_A, port) in away.fronts[0].upstreams[0].members_all
    assert f"127.0.0.1:{port} {ON_A};" in render_proxy_files(away, {}).files["nginx.conf"]


def test_pool_without_a_card_is_a_front_that_says_so_and_harms_nobody() -> None:
    target = on_gpus({**GPU, "listen": "8001"}, CPU, gpus=())
    assert [one.id for one in target.instances] == ["cpu-numa0", "cpu-numa1"]
    assert fronts(target)[0] == (("8001",), [("chat", "org/tiny", "")])
    assert "listen 8001" in render_proxy_files(target, {}).files["nginx.conf"]
    (warning,) = target.warnings
    assert warning.startswith("pool 'chat' has no instance: this machine has no GPU")


def test_what_one_waits_for_is_said_before_what_is_wrong_with_its_model() -> None:
    broken = {"chat": world.model(kind=None, problem="no such directory")}
    there = on_gpus(GPU, models=broken)
    assert [one.problem for one in there.instances] == ["no such directory"] * 2
    gone = on_gpus(GPU, gpus=CARDS[1:], models=broken, books=there.books)
    assert [one.problem for one in gone.instances] == [f"its GPU {A} is not there", "no such directory"]


def test_card_with_too_little_memory_is_not_started_and_the_other_is() -> None:
    small = replace(CARDS[0], memory_bytes=2**20)
    target = on_gpus(GPU, CPU, gpus=(small, CARDS[1]), models={"chat": world.model(weights_bytes=2**30)})
    one, other, *rest = target.instances
    assert (one.problem or "").startswith(f"instance '{ON_A}' needs 1.0 GiB")
    assert (one.is_waiting, other.problem, [each.problem for each in rest]) == (False, None, [None, None])


def test_host_memory_of_gpus_takes_no_part_of_that_of_the_cpus() -> None:
    """Two nodes of 64 GiB: a model of 60 GiB fits on the CPUs of each, and its 40 on cards of 48."""
    large = tuple(replace(card, memory_bytes=48 * 2**30) for card in CARDS)
    models = {"chat": world.model(weights_bytes=40 * 2**30), "cpu": world.model(weights_bytes=60 * 2**30)}
    assert {one.problem for one in on_gpus(GPU, CPU, gpus=large, models=models).instances} == {None}


def test_graph_for_another_device_is_not_placed_on_a_gpu() -> None:
    graph = GPU_GRAPH.replace('"GPU"', '"NPU"')
    models = {"chat": world.model(kind=ModelKind.graph, graph=graph, device="NPU")}
    problem = on_gpus(GPU, models=models).instances[0].problem or ""
    assert problem.startswith("cannot place pool 'chat' on GPU: /srv/models/tiny/graph.pbtxt names device")
    models = {"chat": world.model(kind=ModelKind.graph, graph=GPU_GRAPH, device="GPU")}
    assert on_gpus(GPU, models=models).instances[0].problem is None


def test_equal_cards_in_another_order_give_an_equal_target() -> None:
    assert on_gpus(GPU, CPU) == on_gpus(GPU, CPU, gpus=CARDS[::-1])


def test_new_card_moves_nobody_until_it_is_planned_for() -> None:
    first = on_gpus(GPU, CPU, gpus=CARDS[:1])
    plugged = on_gpus(GPU, CPU, books=first.books, planned=False)
    assert plugged.wanted[ON_B].instance.is_waiting
    assert {name: plugged.wanted[name] for name in first.wanted} == first.wanted
    planned = on_gpus(GPU, CPU, books=plugged.books)
    assert not planned.wanted[ON_B].instance.is_waiting
    assert planned.wanted["cpu-numa1"].files != first.wanted["cpu-numa1"].files
