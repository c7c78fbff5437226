# SPDX-License-Identifier: Apache-2.0
"""The rules of the configuration itself, each with the message of who breaks it."""

import re

import pytest
import world
from hypothesis import given
from hypothesis import strategies as st

from ovms_scaler.core.rules import parse_spec
from ovms_scaler.core.spec import Memory, Placement, Pool, ProxyMode, Smt
from ovms_scaler.core.spec_engine import Graph, Ovms
from ovms_scaler.core.table import Reader
from ovms_scaler.errors import ConfigError

CHAT = {"name": "chat", "model_name": "org/tiny", "model_path": "/srv/models/tiny"}
CONFIG = {"name": "chat", "config_path": "/srv/config.json"}


def refuse(document: dict[str, object]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_spec(document, Reader(lambda _: ""))
    return [str(problem) for problem in caught.value.problems]


def test_three_lines_are_enough() -> None:
    pool = parse_spec({"pool": [CHAT]}, Reader(lambda _: "")).pool[0]
    assert (pool.placement, pool.listen, pool.smt, pool.memory) == (
        Placement.numa,
        "8000",
        Smt.all,
        Memory.bind,
    )


def test_an_empty_file_asks_for_nothing() -> None:
    spec = parse_spec({}, Reader(lambda _: ""))
    assert (spec.pool, spec.engine.binary, spec.proxy.mode) == ((), "/opt/ovms/bin/ovms", ProxyMode.http)


def pool(**keys: object) -> dict[str, object]:
    return {"pool": [{**CHAT, **keys}]}


REFUSED = [
    pytest.param(
        {"pool": [{"name": "chat"}]},
        [
            "pool[0].model_name: is required and missing\n"
            "  hint: give model_name and model_path, or config_path"
        ],
        id="no model",
    ),
    pytest.param(
        {"pool": [{"name": "chat", "model_path": "/m"}]},
        [
            "pool[0].model_name: is required and missing\n"
            "  hint: give model_name and model_path, or config_path"
        ],
        id="a path without a name",
    ),
    pytest.param(
        {"pool": [{**CHAT, "config_path": "/c"}]},
        ["pool[0].config_path: excludes model_name and model_path, and both are given"],
        id="one model and several",
    ),
    pytest.param(
        {"pool": [{**CONFIG, "graph": {"cache_size": 4}}]},
        ["pool[0].graph: has no effect with config_path"],
        id="graph options for several models",
    ),
    pytest.param(
        pool(placement="whole", nodes="0", instances_per_node=2, reserve_cpus="0"),
        [
            f'pool[0].{name}: has no effect with placement = "whole"\n  hint: remove it'
            for name in ("nodes", "instances_per_node", "reserve_cpus")
        ],
        id="cores for an unbound instance",
    ),
    pytest.param(
        {"pool": [CHAT, CHAT]},
        ["pool[1].name: 'chat' is the name of pool[0] already\n  hint: every pool needs a name of its own"],
        id="two pools of one name",
    ),
    pytest.param({"pool": [{**CHAT, "name": "-a"}]}, ["pool[0].name: must be 1 to 32 of a-z"], id="name"),
    pytest.param(
        pool(placement="card"),
        ["pool[0].placement: must be one of 'numa', 'gpu', 'hetero', 'whole'"],
        id="placement",
    ),
    pytest.param(
        pool(model_path="srv"), ["pool[0].model_path: must be an absolute path, not 'srv'"], id="path"
    ),
    pytest.param(
        pool(model_name="a b"), ["pool[0].model_name: must be a model name such as"], id="model name"
    ),
    pytest.param(pool(nodes="0-"), ["pool[0].nodes: cannot read CPU list '0-'"], id="nodes"),
    pytest.param(pool(reserve_cpus="x"), ["pool[0].reserve_cpus: cannot read CPU list 'x'"], id="reserved"),
    pytest.param(
        pool(instances_per_node=0), ["pool[0].instances_per_node: must be 1 or greater, not 0"], id="none"
    ),
    pytest.param(pool(weight=0), ["pool[0].weight: must be 1 or greater, not 0"], id="weight"),
    pytest.param(
        pool(graph={"max_num_seqs": 10000}),
        ["pool[0].graph.max_num_seqs: must be 9999 or less, not 10000"],
        id="more sequences than ovms takes workers",
    ),
    pytest.param(
        pool(ovms={"rest_workers": 1}), ["pool[0].ovms.rest_workers: must be 2 or greater"], id="workers"
    ),
    pytest.param(
        pool(ovms={"environment": {"1A": "x"}}),
        ["pool[0].ovms.environment: has a variable named '1A', which systemd refuses"],
        id="name of a variable",
    ),
    pytest.param(
        pool(ovms={"environment": {"A": "x\nExecStart=/bin/sh"}}),
        ["pool[0].ovms.environment.A: must not contain control characters"],
        id="line break in a variable",
    ),
    pytest.param(
        pool(ovms={"flags": ["--log_level", "DEBUG", "--rest_port=1", "--target_device"]}),
        [
            "pool[0].ovms.flags: must not contain '--rest_port'",
            "pool[0].ovms.flags: must not contain '--target_device'",
        ],
        id="flags that follow from the plan",
    ),
    *(
        pytest.param(
            {"engine": {"binary": path}},
            ["engine.binary: must be an absolute path without quotes and backslashes, not "],
            id=f"program {path}",
        )
        for path in ("ovms", '/a"b', "/it's", "/a\\b")
    ),
    pytest.param({"engine": {"first_port": 80}}, ["engine.first_port: must be 1024 or greater"], id="port"),
    pytest.param(
        {"proxy": {"mode": "tcp"}}, ["proxy.mode: must be one of 'http', 'stream', not 'tcp'"], id="mode"
    ),
    pytest.param(
        {"health": {"interval_sec": 0}},
        ["health.interval_sec: must be 0.1 or greater, not 0"],
        id="interval",
    ),
    *(
        pytest.param(
            pool(gpus=[name], placement="gpu"),
            [f"pool[0].gpus[0]: must be a PCI address or a device id, in lower case, not {name!r}"],
            id=f"GPU {name!r}",
        )
        for name in ("03:00.0", "0000:03:00.8", "0000:3:00.0", "0XE20B", "0xe20", "renderD128", "all", "")
    ),
    pytest.param(
        pool(gpus=["0xe20b"], gpus_per_instance=3, host_cpus_per_gpu=1),
        [
            f'pool[0].{name}: has no effect with placement = "numa"\n  hint: remove it'
            for name in ("gpus", "gpus_per_instance", "host_cpus_per_gpu")
        ],
        id="GPUs for an instance on CPUs",
    ),
    pytest.param(
        pool(placement="whole", gpus=["0xe20b"]),
        ['pool[0].gpus: has no effect with placement = "whole"\n  hint: remove it'],
        id="GPUs for an unbound instance",
    ),
    pytest.param(
        pool(placement="gpu", gpus_per_instance=3, instances_per_node=2),
        [
            f'pool[0].{name}: has no effect with placement = "gpu"\n  hint: remove it'
            for name in ("instances_per_node", "gpus_per_instance")
        ],
        id="groups for one on each GPU",
    ),
    pytest.param(
        pool(placement="hetero", instances_per_node=2),
        ['pool[0].instances_per_node: has no effect with placement = "hetero"\n  hint: remove it'],
        id="instances of a node on GPUs",
    ),
    pytest.param(
        pool(placement="hetero", gpus_per_instance=1),
        ["pool[0].gpus_per_instance: must be 2 or greater, not 1"],
        id="a group of one",
    ),
    pytest.param(
        pool(placement="gpu", host_cpus_per_gpu=0),
        ["pool[0].host_cpus_per_gpu: must be 1 or greater, not 0"],
        id="a GPU without a CPU",
    ),
    pytest.param(
        {"gpu": {"vendors": ["8086"], "include": ["x"], "exclude": [1], "include_integrated": "yes"}},
        [
            "gpu.vendors[0]: must be a PCI vendor id, in lower case, not '8086'",
            "gpu.include[0]: must be a PCI address or a device id, in lower case, not 'x'",
            "gpu.exclude: must be an array of strings, not [1]",
            "gpu.include_integrated: must be true or false",
        ],
        id="rules of GPUs",
    ),
    pytest.param(
        {"gpu": {"recovery_attempts": -1, "recovery_window_sec": 0, "drain_timeout_sec": 3601}},
        [
            "gpu.recovery_attempts: must be 0 or greater, not -1",
            "gpu.recovery_window_sec: must be 1 or greater, not 0",
            "gpu.drain_timeout_sec: must be 3600 or less, not 3601",
        ],
        id="limits of a recovery",
    ),
    pytest.param(
        {"pools": []}, ['pools: is not a key of this table\n  hint: did you mean "pool"?'], id="pools"
    ),
    pytest.param({"pool": {"name": "a"}}, ["pool: must be an array of tables"], id="[pool] for [[pool]]"),
    pytest.param(
        {"pool": [{**CHAT, "weight": 0}, {**CHAT, "name": "B"}], "health": {"failures": "3"}},
        ["pool[0].weight: ", "pool[1].name: ", "health.failures: must be a whole number, not '3'"],
        id="all at once",
    ),
]


@pytest.mark.parametrize(("document", "expected"), REFUSED)
def test_refused(document: dict[str, object], expected: list[str]) -> None:
    problems = refuse(document)
    assert len(problems) == len(expected)
    for problem, start in zip(problems, expected, strict=True):
        assert problem.startswith(start)


@pytest.mark.parametrize(
    "listen", ["1", "8000", "65535", "127.0.0.1:8000", "0.0.0.0:80", "[::]:8000", "[::1]:1"]
)
def test_listen_takes(listen: str) -> None:
    assert world.spec({"listen": listen}).pool[0].listen == listen


@pytest.mark.parametrize(
    ("listen", "rule"),
    [
        ("", "must be a port or ADDRESS:PORT with a literal address, not ''"),
        ("0", "must name a port from 1 to 65535, not 0"),
        ("65536", "must name a port from 1 to 65535, not 65536"),
        ("localhost:8000", "must be a port or ADDRESS:PORT with a literal address, not 'localhost:8000'"),
        ("256.0.0.1:80", "must name an IPv4 address, not '256.0.0.1'"),
        ("127.0.0.01:80", "must name an IPv4 address, not '127.0.0.01'"),
        ("::1:80", "must be a port or ADDRESS:PORT with a literal address, not '::1:80'"),
        ("[::::]:80", "must name an IPv6 address, not '::::'"),
        ("[1.2.3]:80", "must name an IPv6 address, not '1.2.3'"),
        ("8000;", "must be a port or ADDRESS:PORT with a literal address, not '8000;'"),
        ("٨٠٠٠", "must be a port or ADDRESS:PORT with a literal address, not '٨٠٠٠'"),
    ],
)
def test_listen_refuses(listen: str, rule: str) -> None:
    assert refuse(pool(listen=listen)) == [f'pool[0].listen: {rule}\n  hint: for example "127.0.0.1:8000"']


@pytest.mark.parametrize("listen", ["", "127.0.0.1:8002", "127.255.0.1:1", "[::1]:65535"])
def test_admin_takes(listen: str) -> None:
    assert parse_spec({"admin": {"listen": listen}}, Reader(lambda _: "")).admin.listen == listen


LOOPBACK = "must be ADDRESS:PORT with an address of the loopback, 127.0.0.1 or [::1], not "


@pytest.mark.parametrize(
    ("listen", "rule"),
    [
        ("8002", LOOPBACK + "'8002'"),
        ("0.0.0.0:8002", LOOPBACK + "'0.0.0.0:8002'"),
        ("[::]:8002", LOOPBACK + "'[::]:8002'"),
        ("192.0.2.1:8002", LOOPBACK + "'192.0.2.1:8002'"),
        ("[::ffff:127.0.0.1]:8002", LOOPBACK + "'[::ffff:127.0.0.1]:8002'"),
        ("127.0.0.1:0", "must name a port from 1 to 65535, not 0"),
        ("127.1:80", "must be a port or ADDRESS:PORT with a literal address, not '127.1:80'"),
        ("localhost:8002", "must be a port or ADDRESS:PORT with a literal address, not 'localhost:8002'"),
    ],
)
def test_admin_refuses(listen: str, rule: str) -> None:
    assert refuse({"admin": {"listen": listen}}) == [
        f'admin.listen: {rule}\n  hint: for example "127.0.0.1:8002"'
    ]


@given(st.text(max_size=40))
def test_a_name_is_safe_in_units_files_and_nginx(name: str) -> None:
    try:
        spec = parse_spec({"pool": [{**CHAT, "name": name}]}, Reader(lambda _: ""))
    except ConfigError:
        return
    assert re.fullmatch("[a-z0-9-]{1,32}", spec.pool[0].name)


def test_every_number_may_have_its_bounds() -> None:
    low = pool(
        instances_per_node=1, weight=1, waiting_room=0, ovms={"rest_workers": 2}, graph={"cache_size": 0}
    )
    high = pool(
        instances_per_node=64, weight=10000, waiting_room=100000, ovms={"rest_workers": 10000},
        graph={"cache_size": 65536, "max_num_seqs": 9999},
    )  # fmt: skip
    parsed = [parse_spec(document, Reader(lambda _: "")).pool[0] for document in (low, high)]
    assert [one.ovms.rest_workers for one in parsed] == [2, 10000]


def test_values_are_what_was_written() -> None:
    assert world.spec({"graph": {"cache_size": 4}, "ovms": {"flags": ["--a"]}}).pool[0] == Pool(
        name="chat",
        model_name="org/tiny",
        model_path="/srv/models/tiny",
        graph=Graph(cache_size=4),
        ovms=Ovms(flags=("--a",)),
    )


def test_mistakes_of_every_kind_are_found_at_once() -> None:
    """One in the type of a value hides neither one in a combination of keys nor one in another pool."""
    document = {
        "pool": [
            {"name": "chat", "model_name": "a/b", "model_path": "/m", "listen": 8000},
            {"name": "code", "model_name": "a/b"},
            {"name": "code", "model_name": "a/b", "model_path": "/m", "nodes": ""},
        ]
    }
    with pytest.raises(ConfigError) as caught:
        parse_spec(document, Reader(lambda _: "f"))
    assert [problem.key for problem in caught.value.problems] == [
        "pool[0].listen",
        "pool[2].nodes",
        "pool[1].model_path",
    ]


@pytest.mark.parametrize("name", ["0000:03:00.0", "10000:e1:1f.7", "0xe20b"])
def test_gpus_are_named_by_address_or_device_id(name: str) -> None:
    spec = world.spec(
        {"placement": "gpu", "gpus": [name], "nodes": "0", "reserve_cpus": "1", "host_cpus_per_gpu": 256},
        gpu={"include": [name], "exclude": [name], "vendors": ["0x8086", "0x1af4"]},
    )
    assert (spec.pool[0].gpus, spec.gpu.include, spec.gpu.exclude) == ((name,), (name,), (name,))


def test_gpus_are_intels_and_recovered_thrice_by_default() -> None:
    rules = world.spec().gpu
    assert (rules.vendors, rules.include, rules.exclude, rules.include_integrated) == (
        ("0x8086",),
        (),
        (),
        False,
    )
    assert (rules.drain_timeout_sec, rules.recovery_attempts, rules.recovery_window_sec) == (30, 3, 600)
