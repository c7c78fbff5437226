# SPDX-License-Identifier: Apache-2.0
"""Names: an instance, its unit, a pool, and what is none of them."""

import pytest
import world

from ovms_scaler.core.books import Books
from ovms_scaler.core.subject import (
    Known,
    Subject,
    find_subject,
    name_known,
    parse_known,
    pool_of,
    unknown_name,
)
from ovms_scaler.core.target import resolve

KNOWN = (
    Known(id="chat-numa0", pool="chat", upstream="all", port=8003),
    Known(id="chat-numa1", pool="chat", upstream="all", port=8004),
    Known(id="fast-gpu-0000:03:00.0", pool="fast", upstream="all", port=8005, gpus=("0000:03:00.0",)),
)


@pytest.mark.parametrize("name", ["chat-numa0", "ovms@chat-numa0", "ovms@chat-numa0.service"])
def test_an_instance_goes_by_its_name_and_its_unit(name: str) -> None:
    assert find_subject(KNOWN, name) == Subject(instances=frozenset({"chat-numa0"}), ports=frozenset({8003}))


def test_a_pool_is_all_of_its_instances() -> None:
    assert find_subject(KNOWN, "chat") == Subject(
        instances=frozenset({"chat-numa0", "chat-numa1"}),
        ports=frozenset({8003, 8004}),
        upstreams=frozenset({"all"}),
    )
    fast = find_subject(KNOWN, "fast")
    assert fast is not None
    assert fast.gpus == {"0000:03:00.0"}


def test_other_names_are_answered_with_those_that_there_are() -> None:
    assert find_subject(KNOWN, "chat-numa7") is None
    error = unknown_name(["chat-numa0", "chat-numa1", "chat", "chat"], "caht")
    assert str(error) == "there is no instance and no pool named 'caht'\n  hint: there is chat"
    assert unknown_name("abcdefg", "xx").hint == "there is a, b, c, d, e"
    assert unknown_name([], "x").hint == "the configuration has no pool"


def test_every_way_to_name_an_instance_gives_its_pool_back() -> None:
    wanted = world.spec(
        {"name": "a-numa1", "instances_per_node": 2},
        {"name": "b-gpu-1", "placement": "gpu", "listen": "8001", "gpus": ["0000:03:00.0"]},
    )
    machine = world.topology(2, cores=4, gpus=[world.gpu("0000:03:00.0", 0)])
    target = resolve(wanted, machine, {pool.name: world.model() for pool in wanted.pool}, Books())
    assert len(target.instances) >= 3
    assert {one.id: pool_of(one.id) for one in target.instances} == {
        one.id: one.pool for one in target.instances
    }
    for name, pool in {
        "c-whole": "c",
        "c-hetero12": "c",
        "x-y-numa3": "x-y",
        "something": "something",
    }.items():
        assert pool_of(name) == pool


def test_instances_of_a_status_document() -> None:
    document = {
        "instances": [
            {"id": "chat-numa0", "pool": "chat", "port": 8003, "gpus": [], "upstream": "all"},
            {"id": "old-numa0", "pool": None, "port": None, "upstream": None},
            {"state": "ready"},
            "nonsense",
        ]
    }
    assert parse_known(document) == (KNOWN[0], *name_known(["old-numa0"]))
    assert parse_known({}) == ()
