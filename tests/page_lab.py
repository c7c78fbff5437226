# SPDX-License-Identifier: Apache-2.0
"""Overviews of made-up machines, as the agent would give them to the status page.

Topologies, placements and the shapes of documents are the agent's own (page/test_documents.py compares those
that are not made by the agent's code); figures and faults are invented.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import world

from ovms_scaler.core.books import Books
from ovms_scaler.core.cpulist import format_cpu_list
from ovms_scaler.core.instance import Instance
from ovms_scaler.core.measures import Looks, measures_document
from ovms_scaler.core.next_steps import HINDERED, PROXY_DOWN, REJECTED, WARNED, next_of
from ovms_scaler.core.placement import normalise_weights, place
from ovms_scaler.core.quantities import GIB
from ovms_scaler.core.topology import Gpu, Node, Topology, topology_document
from ovms_scaler.core.traffic import Traffic
from ovms_scaler.core.use import HostUse, NodeUse

Overview = dict[str, Any]
AT = 1785117127.0  # 27 July 2026, 01:52:07 UTC
MODEL = "meta-llama/Meta-Llama-3-8B-Instruct"
B580_BYTES = 12 * GIB - 72 * 1024**2
CHAT: Mapping[str, object] = {"name": "chat", "listen": "8000"}
FAST: Mapping[str, object] = {"name": "fast", "listen": "8000", "placement": "gpu"}


def machine(*, sockets: int, nodes: int, cores: int, gpus: Iterable[tuple[str, int]] = ()) -> Topology:
    """``nodes`` on each socket with so many ``cores`` of two threads, numbered as x86 firmware does."""
    count = sockets * nodes * cores
    siblings = tuple(frozenset({core, core + count}) for core in range(count))
    of_node = [
        frozenset().union(*siblings[cores * node : cores * (node + 1)]) for node in range(sockets * nodes)
    ]
    everything = frozenset(range(2 * count))
    return Topology(
        nodes=tuple(
            Node(id=node, cpus=cpus, memory_bytes=256 * GIB - 3 * 1024**3 // 2)
            for node, cpus in enumerate(of_node)
        ),
        cores=siblings,
        packages=tuple(
            (socket, frozenset().union(*of_node[nodes * socket : nodes * (socket + 1)]))
            for socket in range(sockets)
        ),
        online=everything,
        allowed=everything,
        allowed_memory_nodes=frozenset(range(sockets * nodes)),
        gpus=tuple(_gpu(address, node, 128 + number) for number, (address, node) in enumerate(gpus)),
    )


def _gpu(address: str, node: int, render: int) -> Gpu:
    return world.gpu(address, node, render=render, memory_bytes=B580_BYTES)


def overview(topology: Topology, *pools: Mapping[str, object]) -> Overview:
    """All serve, and there is some load."""
    spec = world.spec(*pools)
    instances = place(spec, topology, Books()).instances
    weights = normalise_weights(spec, instances)
    return {
        "status": {
            "version": "0.1.0",
            "instances": [_status(one, weights[one.id], number) for number, one in enumerate(instances)],
            "pools": [
                {
                    "name": pool["name"], "hint": "",
                    "instances": sum(one.pool == pool["name"] for one in instances),
                }
                for pool in pools
            ],
            "proxy": {
                "generation": "5d0c1a7e93b4f286", "state": "active", "error": "", "waits": "", "hint": "",
                "old_workers": 0, "cut_requests": 0, "listen": ["8000"],
                "endpoints": [
                    {
                        "upstream": "chat", "serves": MODEL, "url": "http://127.0.0.1:8000/v3",
                        "needs_api_key": False,
                    }
                ],
            },
            "config": {"file": "/etc/ovms-scaler/config.toml", "error": "", "hint": ""},
            "warnings": [],
            "warnings_hint": "",
            "problems": [],
            "problems_hint": "",
            "observed_sec": 90211.5,
            "orders": {"paused_since": None, "drained": {}, "restarts": []},
            "actions": [],
            "deferred": [],
        },
        "measures": _measures(topology, instances),
        "events": {"events": _events(instances)},
        "topology": topology_document(topology),
        "version": "0.1.0",
        "host": "llm-07",
        "at": AT,
    }  # fmt: skip


def _status(instance: Instance, weight: int, number: int) -> Overview:
    return {
        "id": instance.id, "state": "ready", "reason": "", "hint": "",
        "since": AT - 273605.0 + 31 * number, "port": instance.port, "in_rotation": True,
        "unit": instance.unit, "pool": instance.pool, "upstream": "chat", "outdated": False,
        "device": instance.device, "node": instance.node, "cpus": format_cpu_list(instance.cpus),
        "memory_nodes": format_cpu_list(instance.memory_nodes), "gpus": list(instance.gpus),
        "render_nodes": list(instance.render_nodes), "weight": weight, "pid": 4711 + 97 * number,
        "restarts": 0,
    }  # fmt: skip


def _measures(topology: Topology, instances: tuple[Instance, ...]) -> Overview:
    made = unmeasured(topology, instances)
    entries = {one["id"]: one for one in made["instances"]}
    own = [entries[one.id] | _measured(one, number) for number, one in enumerate(instances)]
    by_node = {
        node.id: sum(one["memory_by_node"].get(str(node.id), 0) for one in own) for node in topology.nodes
    }
    return made | {
        "front": made["front"]
        | _sums(own)
        | {
            "errors_per_sec": 0.0, "rejected_per_sec": 0.0,
            "ttfb_sec": {"median": 0.214, "p99": 1.38}, "requests_total": 1204332,
            "errors_total": 3, "rejected_total": 0, "retried_total": 2,
        },
        "instances": own,
        "nodes": [
            {
                "id": node.id, "cpu_share": 0.58 + (7 * node.id % 5) * 0.05,
                "memory_used_bytes": by_node[node.id] + 9 * GIB + node.id * GIB // 3,
                "memory_bytes": node.memory_bytes,
            }
            for node in topology.nodes
        ],
        "gpus": [
            {
                "address": gpu.address, "busy_share": 0.71 + number * 17 % 23 / 100,
                "memory_used_bytes": int(9.1 * GIB) + number * GIB // 5,
            }
            for number, gpu in enumerate(topology.gpus)
        ],
    }  # fmt: skip


def unmeasured(topology: Topology, instances: Iterable[Instance]) -> Overview:
    """What the agent says that has looked once, and to which nobody has told of a request."""
    nodes = tuple(NodeUse(id=node.id, memory_bytes=node.memory_bytes) for node in topology.nodes)
    looks = Looks(host=[HostUse(at_sec=0.0, nodes=nodes)])
    return dict(measures_document(instances, Traffic(0.0), looks, at=AT, now_sec=0.0))


def _sums(instances: list[Overview]) -> Overview:
    return {key: round(sum(one[key] for one in instances), 1) for key in ("requests_per_sec", "in_flight")}


def _measured(instance: Instance, number: int) -> Overview:
    on_gpu = bool(instance.gpus)
    cores = len(instance.cpus) / 2
    memory = int((3.2 if on_gpu else 28.4 + number * 1.7) * GIB)
    return {
        "id": instance.id,
        "requests_per_sec": round((9.4 if on_gpu else 3.1) + number * 7 % 5 / 10, 1),
        "errors_per_sec": 0.0,
        "in_flight": 11 + number * 5 % 7,
        "ttfb_sec": {"median": 0.12 if on_gpu else 0.31, "p99": 0.8 if on_gpu else 1.5},
        "requests_total": 151200 + number * 977,
        "errors_total": 0,
        "cpu_cores": round(cores * (0.4 if on_gpu else 0.86), 1),
        "memory_bytes": memory,
        "memory_by_node": {} if instance.node is None else {str(instance.node): memory},
        "gpus": [{"address": one, "busy_share": 0.8, "memory_bytes": 9 * GIB} for one in instance.gpus],
    }


def _events(instances: tuple[Instance, ...]) -> list[Overview]:
    """The first of them as after a start three days ago."""
    start = AT - 274000.0
    said: list[Overview] = [
        {"at": start, "level": "info", "event": "agent started", "version": "0.1.0"},
        {
            "at": start + 0.3, "level": "info", "event": "configuration accepted",
            "file": "/etc/ovms-scaler/config.toml", "allow_outage": False,
        },
    ]  # fmt: skip
    for number, one in enumerate(instances[:3]):
        at = start + 390 + 31 * number
        said += [
            {
                "at": at, "level": "info", "event": "instance changed", "instance": one.id,
                "state": "ready", "was": "warming", "reason": "",
            },
            {"at": at + 0.2, "level": "info", "event": "instance in rotation", "instance": one.id},
        ]  # fmt: skip
    return said


def change(document: Overview, name: str, **changes: object) -> Overview:
    """The overview with one instance in another state; out of rotation it is asked for nothing."""
    (entry,) = (one for one in document["status"]["instances"] if one["id"] == name)
    entry |= {"in_rotation": False, "since": AT - 134.0} | changes
    said = {key: entry[key] for key in ("state", "reason", "hint", "in_rotation")}
    entry["hint"] = next_of(name, **said)
    (measured,) = (one for one in document["measures"]["instances"] if one["id"] == name)
    if not entry["in_rotation"]:
        measured |= {"requests_per_sec": 0.0, "in_flight": 0, "ttfb_sec": None, "cpu_cores": None}
        measured |= {"memory_bytes": None, "memory_by_node": None, "gpus": []}
        for gpu in document["measures"]["gpus"]:
            if gpu["address"] in entry["gpus"]:
                gpu |= {"busy_share": 0.0, "memory_used_bytes": 0}
    document["measures"]["front"] |= _sums(document["measures"]["instances"])
    return document


def smallest() -> Overview:
    """One node and one card with a fault: every key there is, in the fewest places."""
    document = overview(machine(sockets=1, nodes=1, cores=4, gpus=[("0000:03:00.0", 0)]), CHAT, FAST)
    change(document, "fast-gpu-0000:03:00.0", state="failed", reason="it fails", hint="dmesg; then: reboot")
    return document


def two() -> Overview:
    """Two nodes, all well."""
    return overview(machine(sockets=2, nodes=1, cores=16), CHAT)


def six() -> Overview:
    """Two nodes and four cards, all well: the machine of README.md."""
    gpus = [("0000:03:00.0", 0), ("0000:18:00.0", 0), ("0000:83:00.0", 1), ("0000:9a:00.0", 1)]
    return overview(machine(sockets=2, nodes=1, cores=16, gpus=gpus), CHAT, FAST)


def hide_gpu_memory(document: Overview) -> Overview:
    """Without CAP_SYS_PTRACE, which the agent's unit does not have, it cannot be known."""
    measures = document["measures"]
    for gpu in (*measures["gpus"], *(gpu for one in measures["instances"] for gpu in one["gpus"])):
        key = "memory_used_bytes" if "memory_used_bytes" in gpu else "memory_bytes"
        gpu[key] = None
    return document


def six_with_a_fault() -> Overview:
    """One card was pulled out: the picture in README.md, of the unit as it is shipped."""
    document = hide_gpu_memory(six())
    name, address = "fast-gpu-0000:83:00.0", "0000:83:00.0"
    hint = f'ovms-scalerctl topology; to give it up: gpu.exclude = ["{address}"]'
    change(
        document, name, state="waiting", reason=f"its GPU {address} is not there",
        hint=hint, render_nodes=[],
    )  # fmt: skip
    topology = document["topology"]
    topology["gpus"] = [one for one in topology["gpus"] if one["address"] != address]
    document["measures"]["gpus"] = [one for one in document["measures"]["gpus"] if one["address"] != address]
    document["events"]["events"] += [
        {
            "at": AT - 134.2, "level": "info", "event": "instance out of rotation", "instance": name,
            "state": "waiting",
        },
        {
            "at": AT - 134.0, "level": "warning", "event": "instance changed", "instance": name,
            "state": "waiting", "was": "ready", "reason": f"its GPU {address} is not there", "hint": hint,
        },
        {
            "at": AT - 133.6, "level": "info", "event": "proxy changed", "generation": "5d0c1a7e93b4f286",
            "added": [], "removed": [name],
        },
    ]  # fmt: skip
    return document


def nodes_only() -> Overview:
    """Two Xeon 6972P: six nodes and 384 CPUs, all well."""
    return overview(machine(sockets=2, nodes=3, cores=32), CHAT)


def sixteen() -> Overview:
    """Six nodes with 384 CPUs, and ten cards."""
    gpus = [(f"0000:{0x11 + 7 * number:02x}:00.0", number * 6 // 10) for number in range(10)]
    return overview(machine(sockets=2, nodes=3, cores=32, gpus=gpus), CHAT, FAST)


def sixteen_with_faults() -> Overview:
    """The same in a bad night: most states at once, a refused configuration, a warning."""
    document = sixteen()
    unit = "ovms@chat-numa{}.service"
    change(
        document,
        "chat-numa0",
        state="quarantined",
        reason="it kept failing and is not started again: ovms was ended by signal 9 (oom-kill)",
        hint=f"journalctl -u {unit.format(0)}; then: ovms-scalerctl reset chat-numa0",
    )
    change(
        document, "chat-numa1", state="loading", reason="'meta-llama/Meta-Llama-3-8B-Instruct' is LOADING"
    )
    change(
        document,
        "chat-numa2",
        state="drained",
        reason="drained by the administrator",
        hint="ovms-scalerctl undrain chat-numa2",
    )
    change(
        document,
        "chat-numa3",
        state="suspect",
        in_rotation=True,
        reason="a probe failed: no answer within 5 s",
        hint=f"journalctl -u {unit.format(3)}",
    )
    change(
        document,
        "chat-numa4",
        state="stopped",
        reason="stopped by the administrator",
        hint=f"systemctl start {unit.format(4)}",
    )
    names = [one["id"] for one in document["status"]["instances"] if one["gpus"]]
    change(
        document,
        names[0],
        state="failed",
        reason=f"GPU {names[0][9:]} still hangs after 3 recoveries",
        hint="dmesg; then `ovms-scalerctl reload` tries again",
    )
    change(document, names[1], state="draining", reason="its GPU hangs", hint="journalctl -k")
    change(document, names[2], state="warming", reason="its first generation is under way")
    change(
        document,
        names[3],
        state="ejected",
        reason="requests in flight and no progress for 60 s",
        hint=f"journalctl -u ovms@{names[3]}.service",
    )
    _trouble_the_whole(document, names[3])
    return document


def _trouble_the_whole(document: Overview, ejected: str) -> None:
    """A refused file, a warning, what clients have of it, and what led there."""
    status, front = document["status"], document["measures"]["front"]
    status["config"]["error"] = (
        'config.toml: pool[0].placement: must be one of "numa", "gpu", "hetero", "whole", not "nmua"\n'
        '  hint: did you mean "numa"?'
    )
    status["config"]["hint"] = REJECTED
    status["warnings_hint"] = WARNED
    status["warnings"] = ["reserve_cpus has CPUs 0,192 only: the agent and the proxy run there, too"]
    status["actions"] = [f"restart ovms@{ejected}.service"]
    front |= {"errors_per_sec": 0.4, "rejected_per_sec": 2.1, "errors_total": 57, "rejected_total": 388}
    document["measures"]["instances"][3] |= {"errors_per_sec": 0.4}
    hints = {one["id"]: one["hint"] for one in status["instances"]}
    document["events"]["events"] += [
        {
            "at": AT - 400 + 20 * number, "level": level, "event": "instance changed", "instance": name,
            "state": state, "was": "ready", "reason": reason,
            "hint": hints[name] if level == "warning" else "",
        }
        for number, (level, name, state, reason) in enumerate(
            [
                ("info", "chat-numa0", "starting", "restart 4: ovms was ended by signal 9 (oom-kill)"),
                ("warning", "chat-numa0", "quarantined", "it kept failing and is not started again"),
                ("info", "chat-numa2", "draining", "drained by the administrator"),
                ("info", "chat-numa2", "drained", "drained by the administrator"),
                ("warning", ejected, "ejected", "requests in flight and no progress for 60 s"),
            ]
        )
    ]  # fmt: skip


def unreachable() -> Overview:
    """Nobody serves, the proxy is down, and systemd does not answer the agent."""
    document = two()
    for number in range(2):
        name = f"chat-numa{number}"
        change(
            document, name, state="failed",
            reason="ovms ended with exit status 64, a usage error: ovms refused its arguments",
            hint=f"journalctl -u ovms@{name}.service; then: ovms-scalerctl reset {name}",
        )  # fmt: skip
    document["status"]["proxy"] |= {
        "generation": None, "state": "failed", "hint": PROXY_DOWN,
        "error": "bind() to 0.0.0.0:8000 failed (98: Address already in use)",
    }  # fmt: skip
    document["status"]["problems"] = ["systemd has not answered for 12 s"]
    document["status"]["problems_hint"] = HINDERED
    return document


def longest() -> Overview:
    """Words that are wider than a screen."""
    document = two()
    word = "x" * 300
    change(document, "chat-numa0", state="failed", reason=word, hint=f"journalctl -u {word}")
    document["status"]["instances"][1]["id"] = word
    document["status"]["config"]["error"] = word
    document["status"]["warnings"] = [word]
    document["events"]["events"] += [{"at": AT, "level": "error", "event": word, "error": word}]
    return document | {"host": word}


def starting() -> Overview:
    """The agent has just been started: nothing is measured yet."""
    document, topology = two(), machine(sockets=2, nodes=1, cores=16)
    for number in range(2):
        change(document, f"chat-numa{number}", state="starting", since=AT - 3, reason="not asked yet")
    instances = place(world.spec(CHAT), topology, Books()).instances
    return document | {"measures": unmeasured(topology, instances)}


def nothing() -> Overview:
    """No configuration, and a topology that is not known."""
    return {
        "status": {},
        "measures": {},
        "events": {},
        "topology": {},
        "version": "0.1.0",
        "host": "",
        "at": AT,
    }


NAMED = {
    one.__name__: one
    for one in (
        two, six, six_with_a_fault, nodes_only, sixteen, sixteen_with_faults, unreachable, starting, nothing,
    )
}  # fmt: skip
