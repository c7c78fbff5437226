# SPDX-License-Identifier: Apache-2.0
"""The documents that others rely on: their keys, and values that are JSON."""

import json
from dataclasses import replace

import world
from world import World

from ovms_scaler import __version__
from ovms_scaler.core.facts import Facts
from ovms_scaler.core.instance import Instance
from ovms_scaler.core.plan import plan
from ovms_scaler.core.status import (
    Document,
    Since,
    instance_document,
    status_document,
    waiting_document,
)
from ovms_scaler.core.target import Target


def document(host: World | None = None, target: Target | None = None, **options: str) -> Document:
    target = target or world.target()
    facts = host.facts(target) if host is not None else Facts()
    planned = plan(target, facts)
    since = {name: Since(state=verdict.state, since=17.5) for name, verdict in planned.verdicts.items()}
    made = status_document(
        target,
        facts,
        planned,
        since,
        config_file="/etc/ovms-scaler/config.toml",
        config_error=options.get("config_error", ""),
        problems=("systemd is silent",),
        observed_sec=4.5,
    )
    loaded: Document = json.loads(json.dumps(made))
    return loaded


def first(status: Document) -> dict[str, object]:
    instances = status["instances"]
    assert isinstance(instances, list)
    found: dict[str, object] = instances[0]
    return found


def on_gpus() -> Instance:
    """The first instance as if it spanned two GPUs."""
    return replace(
        world.target().instances[0],
        gpus=("0000:03:00.0", "0000:18:00.0"),
        render_nodes=("/dev/dri/renderD129", "/dev/dri/renderD128"),
    )


def test_an_instance_of_the_plan_has_the_keys_that_are_relied_on() -> None:
    entry = instance_document(world.target().instances[0])
    assert json.loads(json.dumps(entry)) == {
        "id": "chat-numa0", "unit": "ovms@chat-numa0.service", "pool": "chat", "device": "CPU", "node": 0,
        "cpus": "0-3", "memory_nodes": "0", "inference_threads": 2, "port": 8003, "weight": 1, "gpus": [],
        "render_nodes": [], "memory": "bind", "problem": None, "hint": None,
    }  # fmt: skip


def test_status_of_what_serves() -> None:
    host = World()
    host.settle(world.target())
    status = document(host)
    assert first(status) == {
        "id": "chat-numa0", "state": "ready", "reason": "", "hint": "", "since": 17.5, "port": 8003,
        "in_rotation": True, "unit": "ovms@chat-numa0.service", "pool": "chat",
        "upstream": "chat", "outdated": False, "device": "CPU", "node": 0,
        "cpus": "0-3", "memory_nodes": "0", "gpus": [], "render_nodes": [], "weight": 1,
        "pid": host.units["chat-numa0"].main_pid, "restarts": 0,
    }  # fmt: skip
    assert status["pools"] == [{"name": "chat", "instances": 2, "hint": ""}]
    proxy = status["proxy"]
    assert isinstance(proxy, dict)
    assert (proxy["generation"], proxy["state"], proxy["listen"]) == (
        host.proxy.generation,
        "active",
        ["8000"],
    )
    assert proxy["endpoints"] == [
        {
            "upstream": "chat",
            "serves": "org/tiny",
            "url": "http://127.0.0.1:8000/v3",
            "needs_api_key": False,
        }
    ]
    assert (status["problems"], status["problems_hint"]) == (
        ["systemd is silent"],
        "journalctl -eu ovms-scaler",
    )


def test_an_instance_that_waits_has_the_keys_that_are_relied_on() -> None:
    waiting = replace(on_gpus(), is_waiting=True, problem="its GPU is not there", hint="plug it in")
    assert json.loads(json.dumps(waiting_document(waiting))) == {
        "id": "chat-numa0",
        "pool": "chat",
        "gpus": ["0000:03:00.0", "0000:18:00.0"],
        "reason": "its GPU is not there",
        "hint": "plug it in",
    }


def test_status_tells_the_gpus_of_an_instance() -> None:
    target = world.target()
    one = replace(target.wanted["chat-numa0"], instance=on_gpus())
    entry = first(document(World(), replace(target, wanted={**target.wanted, "chat-numa0": one})))
    assert entry["gpus"] == ["0000:03:00.0", "0000:18:00.0"]
    assert entry["render_nodes"] == ["/dev/dri/renderD129", "/dev/dri/renderD128"]


def test_status_tells_of_a_pool_without_an_instance() -> None:
    status = document(World(), replace(world.target(), pools=("chat", "gpu")))
    assert status["pools"] == [
        {"name": "chat", "instances": 2, "hint": ""},
        {"name": "gpu", "instances": 0, "hint": "ovms-scalerctl topology"},
    ]


def test_status_of_what_does_not_run() -> None:
    entry = first(document(World()))
    assert (entry["state"], entry["in_rotation"], entry["pid"]) == ("starting", False, None)
    assert entry["hint"] == "ovms-scalerctl logs chat-numa0 -f"


def test_status_of_a_proxy_that_is_down_names_the_next_command() -> None:
    proxy = document(World())["proxy"]
    assert isinstance(proxy, dict)
    assert (proxy["state"], proxy["hint"]) == ("inactive", "systemctl status ovms-scaler-proxy")


def test_status_while_systemd_is_silent_explains_every_instance() -> None:
    entry = first(document())
    assert (entry["state"], entry["reason"]) == ("absent", "systemd has not answered yet")


def test_status_of_one_that_is_no_longer_wanted() -> None:
    host, both = World(), world.target(nodes=3)
    host.settle(both)
    instances = document(host)["instances"]
    assert isinstance(instances, list)
    gone = instances[-1]
    assert (gone["id"], gone["port"], gone["pool"], gone["state"]) == (
        "chat-numa2",
        None,
        None,
        "draining",
    )


def test_status_tells_who_does_not_run_as_configured_and_what_is_done_about_it() -> None:
    host, target = World(), world.target()
    host.settle(target)
    settled = document(host)
    assert (first(settled)["outdated"], settled["actions"]) == (False, [])
    changed = document(host, world.target({"smt": "physical"}))
    assert first(changed)["outdated"]
    assert "proxy" in str(changed["actions"])


def test_status_before_anything_is_known() -> None:
    status = status_document(
        None, Facts(), None, {}, config_file="/c", config_error="not there", problems=(), observed_sec=4.5
    )
    assert status == {
        "version": __version__,
        "instances": [],
        "pools": [],
        "proxy": {
            "generation": None,
            "state": None,
            "error": "",
            "waits": "",
            "hint": "",
            "old_workers": 0,
            "cut_requests": 0,
            "listen": [],
            "endpoints": [],
        },
        "config": {
            "file": "/c",
            "error": "not there",
            "hint": "ovms-scalerctl check-config; then: systemctl reload ovms-scaler",
        },
        "warnings": [],
        "warnings_hint": "",
        "problems": [],
        "problems_hint": "",
        "observed_sec": 4.5,
        "orders": {"paused_since": None, "drained": {}, "restarts": []},
        "actions": [],
        "deferred": [],
    }
