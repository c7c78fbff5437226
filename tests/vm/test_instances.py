# SPDX-License-Identifier: Apache-2.0
"""Instances on nodes and on cards as the kernel sees them, and cards that are pulled out."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from lab.vm import Vm
from system import agent_host
from system.agent_host import Document, Traffic
from vm import timing

NODE_OF = {"0000:21:00.0": 0, "0000:22:00.0": 0, "0000:41:00.0": 2, "0000:42:00.0": 2}
ON_CARDS = {f"card-gpu-{address}": address for address in NODE_OF}
# Nodes 0 and 2 give a core of their three to each of their two cards, the highest first.
ON_NODES = {"chat-numa0": "0", "chat-numa1": "3-5", "chat-numa2": "6", "chat-numa3": "9-11"}
PULLED = "0000:42:00.0"
VICTIM = f"card-gpu-{PULLED}"
ROUNDS = 10
DROP_IN = f"/run/systemd/system/ovms@{VICTIM}.service.d"
# Slow answers, so that clients leave the emulated processors something.
ENGINES = {**agent_host.ENVIRONMENT, "OVMS_STANDIN_TPOT_MS": "100"}
ON_GPUS = 'placement = "gpu"\nhost_cpus_per_gpu = 1'
CONFIG = f"""\
{agent_host.pool("chat", instances=1, environment=ENGINES)}
{agent_host.pool("card", instances=1, environment=ENGINES, keys=ON_GPUS)}
[gpu]
vendors = ["0x1af4"]

# Nothing answers fast where every processor is emulated.
[health]
interval_sec = 5.0
timeout_sec = 30.0
"""
# What the agent keeps on disk, by content; the proxy's own directory and its lock are nobody's plan.
SUMS = (
    "find /run/systemd/system /run/ovms-scaler/instances /run/ovms-scaler-proxy/nginx.conf "
    "/run/ovms-scaler-proxy/routes /var/lib/ovms-scaler -type f -exec sha256sum {} +"
)
# Runs $2 with the devices and the files that the process $1 has.
INSIDE = """
group=$(sed 's/^0:://' "/proc/$1/cgroup")
echo $$ >"/sys/fs/cgroup$group/cgroup.procs"
exec nsenter --target "$1" --mount sh -c "$2"
"""


@pytest.fixture(scope="module")
def serving(booted: Vm) -> Iterator[Vm]:
    """The agent with a pool on nodes and one on cards behind one address, everything in rotation."""
    booted.script("mkdir -p /run/lab")
    booted.write(agent_host.CONFIG, CONFIG)
    booted.run("systemctl", "start", agent_host.AGENT, timeout_sec=120)
    try:
        agent_host.wait_until_routed(booted, 8, timeout_sec=240)
        yield booted
    finally:
        units = (agent_host.AGENT, agent_host.TARGET, agent_host.PROXY)
        booted.run("systemctl", "stop", *units, timeout_sec=120)
        booted.run("rm", "-f", agent_host.CONFIG)


@pytest.fixture
def host(serving: Vm, vm: Vm) -> Iterator[Vm]:
    """The same for one test: afterwards every card is back and everything serves."""
    del vm
    yield serving
    serving.rescan()
    agent_host.wait_until_routed(serving, 8, timeout_sec=120)


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What must be as before: files by content, processes and routes of those that nobody touched."""

    files: frozenset[str]
    pids: tuple[tuple[str, int], ...]
    route: str


def read_footprint(vm: Vm, *, but: str) -> Footprint:
    """Of the instance ``but`` the process is another one, and so is the word for it in its route."""
    sums = vm.script(SUMS).splitlines()
    (path,) = [line.split()[1] for line in sums if line.endswith(f"/{but}.conf")]
    pids = {name: pid for name, pid in agent_host.read_pids(vm).items() if name != but}
    return Footprint(
        files=frozenset(line for line in sums if not line.endswith(path)),
        pids=tuple(sorted(pids.items())),
        route=re.sub(r"[0-9a-f]{32}", "", vm.read(path)),
    )


def count_reloads(vm: Vm) -> int:
    journal = vm.run("journalctl", "--unit", agent_host.PROXY, "--output=cat", "--no-pager").stdout
    return sum(line.startswith("Reloaded ") for line in journal.splitlines())


def read_plan(vm: Vm) -> dict[str, Document]:
    shown = vm.run("ovms-scalerctl", "plan", "--json").stdout
    return {entry["id"]: entry for entry in json.loads(shown)["instances"]}


def wait_for_cpus(vm: Vm, name: str, cpus: str) -> None:
    """Wait until an instance serves on exactly these CPUs; it is outdated as long as it runs on others."""

    def serves(found: Document) -> bool:
        entry = agent_host.find_instance(found, name)
        return entry["cpus"] == cpus and bool(entry["in_rotation"]) and not entry["outdated"]

    agent_host.wait_for_status(vm, serves, f"{name} to serve on CPUs {cpus}", timeout_sec=120)


def node_of(name: str) -> int:
    return NODE_OF[ON_CARDS[name]] if name in ON_CARDS else int(name[-1])


def open_inside(vm: Vm, pid: int, path: str) -> bool:
    """Whether a program with the devices and files of a process can open a path for reading and writing."""
    return vm.run("sh", "-c", INSIDE, "sh", str(pid), f"exec 3<>{path}", check=False).returncode == 0


def verify(vm: Vm, *arguments: str) -> Document:
    return dict(
        json.loads(
            vm.run("ovms-scalerctl", "verify", "--json", *arguments, check=False, timeout_sec=120).stdout
        )
    )


def test_verify_finds_nothing_on_nodes_and_cards_until_somebody_moves_an_instance(host: Vm) -> None:
    document = verify(host)
    assert (document["drifts"], document["unseen"]) == ([], [])
    for one in document["instances"]:
        assert one["memory_share"] > 0.95
    unit = "ovms@chat-numa1.service"
    # With the processes of its group moves their memory.
    host.run("systemctl", "set-property", "--runtime", unit, "AllowedCPUs=9-11", "AllowedMemoryNodes=3")
    found = {one["what"]: (one["planned"], one["found"]) for one in verify(host, "chat-numa1")["drifts"]}
    assert found["cpuset.cpus of its group"] == ("3-5", "9-11")
    assert found["cpuset.mems of its group"] == ("1", "3")
    assert found["CPUs of its threads"] == ("3-5", "all on 9-11")
    assert found["its memory"][0] == "on node 1"
    assert found["cores of its own"][0] == "none with chat-numa3"
    host.run("rm", "-r", f"/run/systemd/system.control/{unit}.d")
    host.run("systemctl", "daemon-reload")
    host.run("ovms-scalerctl", "restart", "chat-numa1", "--wait", timeout_sec=180)
    assert verify(host)["drifts"] == []


def test_no_core_belongs_to_two_instances(serving: Vm) -> None:
    pids = agent_host.read_pids(serving)
    assert pids.keys() == {*ON_CARDS, *ON_NODES}
    seen: list[int] = []
    for name, pid in pids.items():
        # Every thread: those that OVMS starts for itself as well.
        tasks = serving.script(f"cat /proc/{pid}/task/*/status")
        (cpus,) = set(re.findall(r"^Cpus_allowed_list:\t(.*)$", tasks, re.MULTILINE))
        first, _, last = cpus.partition("-")
        seen += range(int(first), int(last or first) + 1)
        assert cpus == ON_NODES[name] if name in ON_NODES else int(cpus) // 3 == node_of(name)
    assert sorted(seen) == list(range(12)), "a CPU belongs to two instances, or to none"


def test_memory_of_each_process_is_on_its_node(serving: Vm) -> None:
    for name, pid in agent_host.read_pids(serving).items():
        node = str(node_of(name))
        status = serving.read(f"/proc/{pid}/status")
        assert re.findall(r"^Mems_allowed_list:\t(.*)$", status, re.MULTILINE) == [node]
        mappings = serving.read(f"/proc/{pid}/numa_maps").splitlines()
        own = [line for line in mappings if " anon=" in line and " file=" not in line]
        assert {line.split()[1] for line in own} == {f"bind:{node}"}
        assert {found for line in own for found in re.findall(r" N(\d+)=", line)} == {node}


def test_measures_are_of_the_node_and_the_card_of_each(serving: Vm) -> None:
    shown = serving.run("ovms-scalerctl", "top", "--once", "--json", timeout_sec=60).stdout
    document = json.loads(shown)
    instances = {one["id"]: one for one in document["instances"]}
    assert set(instances) == {*ON_NODES, *ON_CARDS}
    for name, one in instances.items():
        by_node = {int(node): size for node, size in one["memory_by_node"].items()}
        assert max(by_node, key=lambda node: by_node[node]) == node_of(name)
        assert 0.5 < sum(by_node.values()) / one["memory_bytes"] < 1.5
        assert one["cpu_cores"] is not None
    nodes = {node["id"]: node for node in document["nodes"]}
    assert sorted(nodes) == [0, 1, 2, 3]
    assert all(0 < node["memory_used_bytes"] < node["memory_bytes"] for node in nodes.values())
    assert all(0 <= node["cpu_share"] <= 1 for node in nodes.values())
    # These cards do not tell how long they slept, and the agent may not look into other users' processes.
    for name, address in ON_CARDS.items():
        assert instances[name]["gpus"] == [{"address": address, "busy_share": None, "memory_bytes": None}]
    assert [gpu["address"] for gpu in document["gpus"]] == sorted(ON_CARDS.values())


def test_control_group_of_each_unit_has_the_cpuset(serving: Vm) -> None:
    for name, entry in read_plan(serving).items():
        group = serving.properties(f"ovms@{name}.service", "ControlGroup")["ControlGroup"]
        cpuset = serving.script(f"cd /sys/fs/cgroup{group}; cat cpuset.cpus.effective cpuset.mems.effective")
        assert cpuset.split() == [entry["cpus"], str(node_of(name))]


def test_front_answers_clients_outside_from_every_instance(serving: Vm) -> None:
    with Traffic(serving, workers=16, max_tokens=2) as traffic:
        for name in (*ON_NODES, *ON_CARDS):
            traffic.wait_for_answers(serving, 1, by=name)
    traffic.assert_unharmed()


def test_each_process_has_its_own_card_and_can_open_no_other(serving: Vm) -> None:
    plan, pids = read_plan(serving), agent_host.read_pids(serving)
    every = {entry["render_nodes"][0] for entry in plan.values() if entry["gpus"]}
    assert len(every) == 4
    for name, address in ON_CARDS.items():
        (own,) = plan[name]["render_nodes"]
        (of_address,) = serving.script(f"ls /sys/bus/pci/devices/{address}/drm | grep render").split()
        assert own == f"/dev/dri/{of_address}"
        opened = serving.script(f"readlink /proc/{pids[name]}/fd/* | grep ^/dev/dri | sort -u").split()
        shown = serving.script(f"ls /proc/{pids[name]}/root/dev/dri").split()
        assert (opened, shown) == ([own], [own.rpartition("/")[2]])
        assert open_inside(serving, pids[name], own)
        for other in every - {own}:
            assert not open_inside(serving, pids[name], f"/proc/1/root{other}")
    for name in ON_NODES:
        assert not open_inside(serving, pids[name], f"/proc/1/root{min(every)}")


def test_a_card_that_is_pulled_and_put_back_is_noticed_by_its_own_requests_only(
    host: Vm, times: list[str]
) -> None:
    before, measured = read_footprint(host, but=VICTIM), timing.Times()
    with Traffic(host, workers=2, max_tokens=8) as traffic:
        for number in range(ROUNDS):
            traffic.wait_for_answers(host, 5)
            reloads, pulled_sec = count_reloads(host), timing.read_clock(host)
            host.remove_card(PULLED)
            agent_host.wait_until_routed(host, 7, timeout_sec=60)
            state = agent_host.wait_for_state(host, VICTIM, "waiting", reason="is not there", timeout_sec=60)
            assert state["port"]
            host.wait_for(f"! test -e {DROP_IN}", 30, "its files to be removed")
            traffic.wait_for_answers(host, 5)
            assert count_reloads(host) == reloads + 1, f"round {number}"
            measured.add_removal(host, pulled_sec)
            plugged_sec = timing.read_clock(host)
            host.rescan()
            agent_host.wait_until_routed(host, 8, timeout_sec=120)
            measured.add_return(host, plugged_sec)
            assert count_reloads(host) == reloads + 2, f"round {number}"
    times += measured.lines()
    assert read_footprint(host, but=VICTIM) == before
    assert traffic.counts["lost"] == []
    assert set(traffic.counts["cut_by"]) <= {VICTIM}
    # An engine whose card has gone answers 400 until it is stopped, a moment later.
    assert set(traffic.counts["refused_by"]) <= {VICTIM}
    assert traffic.counts["status"].keys() <= {"200", "400"}


def test_without_the_agent_a_pulled_card_leaves_rotation_all_the_same(host: Vm) -> None:
    host.run("systemctl", "stop", agent_host.AGENT, timeout_sec=60)
    reloads = count_reloads(host)
    host.remove_card(PULLED)
    host.wait_for(lambda: VICTIM not in agent_host.read_routes(host), 60, "the unit to leave by itself")
    host.wait_for(lambda: count_reloads(host) == reloads + 1, 60, "the proxy's reload")
    host.run("systemctl", "start", agent_host.AGENT, timeout_sec=120)
    agent_host.wait_for_state(host, VICTIM, "waiting", timeout_sec=60)


def test_a_card_that_hangs_is_bound_anew(host: Vm) -> None:
    pid = agent_host.read_pids(host)[VICTIM]
    others = {name: one for name, one in agent_host.read_pids(host).items() if name != VICTIM}
    host.wedge(PULLED, "rebind")
    host.wait_for_journal(f"GPU recovered.*{PULLED}", unit=agent_host.AGENT, timeout_sec=120)
    agent_host.wait_until_routed(host, 8, timeout_sec=120)
    after = agent_host.read_pids(host)
    assert after.pop(VICTIM) != pid
    assert after == others
    done = host.run("journalctl", "--no-pager", "--unit=ovms-scaler-gpu-recovery@*", "--output=cat").stdout
    assert PULLED in done


def test_a_cpu_that_goes_offline_changes_the_instance_of_its_node_alone(host: Vm) -> None:
    others = {name: one for name, one in agent_host.read_pids(host).items() if name != "chat-numa1"}
    for cpus, change in (("3-4", host.offline_cpu), ("3-5", host.online_cpu)):
        change(5)
        wait_for_cpus(host, "chat-numa1", cpus)
        pid = agent_host.read_pids(host)["chat-numa1"]
        status = host.read(f"/proc/{pid}/status")
        assert re.findall(r"^Cpus_allowed_list:\t(.*)$", status, re.MULTILINE) == [cpus]
    assert {name: agent_host.read_pids(host)[name] for name in others} == others
