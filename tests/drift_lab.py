# SPDX-License-Identifier: Apache-2.0
"""Instances that are as planned in every respect, for tests to change one of them."""

from dataclasses import replace
from typing import Any

import world
from fakes.units import parse_drop_in

from ovms_scaler.core.drift import Seen
from ovms_scaler.core.facts import UnitFacts
from ovms_scaler.core.nginx import Member
from ovms_scaler.core.process_view import Listening, MemoryUse, ProcessView, Thread
from ovms_scaler.core.target import Target, Wanted
from ovms_scaler.core.unit import drop_in_path

PID = 4711
INVOCATION = "0123456789abcdef0123456789abcdef"
TARGET = world.target()
ZERO, ONE = TARGET.wanted["chat-numa0"], TARGET.wanted["chat-numa1"]


def make_view(wanted: Wanted, **changes: Any) -> ProcessView:
    """The kernel's word on it, but for ``changes``."""
    instance = wanted.instance
    nodes = instance.memory_nodes
    view = ProcessView(
        pid=PID,
        threads=(
            Thread(tid=PID, name="ovms", cpus=instance.cpus, memory_nodes=nodes),
            Thread(tid=PID + 1, name="ovms", cpus=frozenset([min(instance.cpus)]), memory_nodes=nodes),
        ),
        cgroup=f"/ovms.slice/{instance.unit}",
        cpuset_cpus=instance.cpus,
        cpuset_nodes=nodes,
        argv=wanted.argv,
        open_files=wanted.open_files,
        environment=dict(wanted.environment) | {"PATH": "/usr/bin"},
        memory=MemoryUse(
            policies=frozenset(f"bind:{node}" for node in nodes), bytes_by_node={min(nodes): 2**30}
        ),
        listening=(Listening(address="127.0.0.1", port=instance.port),),
        render_nodes=instance.render_nodes,
    )
    return replace(view, **changes)


def make_seen(wanted: Wanted, *, process: ProcessView | None = None, **changes: Any) -> Seen:
    """The instance as planned, but for its ``process`` and ``changes``."""
    path = drop_in_path(wanted.instance.id)
    seen = Seen(
        unit=UnitFacts(
            unit=wanted.instance.unit,
            load_state="loaded",
            active_state="active",
            sub_state="running",
            main_pid=PID,
            invocation_id=INVOCATION,
        ),
        exec=parse_drop_in(wanted.files[path], path=path),
        files=dict(wanted.files),
        process=process or make_view(wanted),
    )
    return replace(seen, **changes)


def members(target: Target) -> dict[str, tuple[Member, ...]]:
    """Every instance in rotation, for render_proxy_files()."""
    found: dict[str, tuple[Member, ...]] = {}
    for wanted in target.wanted.values():
        one = Member(
            instance=wanted.instance.id,
            port=wanted.instance.port,
            weight=wanted.instance.weight,
            max_conns=wanted.max_conns,
            invocation=INVOCATION,
        )
        found[wanted.upstream] = (*found.get(wanted.upstream, ()), one)
    return found
