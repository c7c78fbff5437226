# SPDX-License-Identifier: Apache-2.0
"""What deciding costs: placement, target and plan of whole machines, and reading their topology."""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import machines
import world
from daemon_host import SERVING, DaemonHost, daemon_host
from world import World

from bench.measure import Measured, time_calls
from ovms_scaler.core.books import Books
from ovms_scaler.core.plan import plan
from ovms_scaler.core.target import Target, resolve
from ovms_scaler.core.topology import Topology
from ovms_scaler.host.sysfs import read_topology

CORE_BUDGET_MS = 5.0
# 1 is linear; a quarter more is for caches of the processor that no longer hold everything.
GROWTH = 1.25
SIZES = (8, 16, 32, 64)
COUNTS = (1, 8, 64, 256)
CPUS_PER_NODE = 64


def measure() -> Iterator[Measured]:
    """Every figure of this module; nothing outside this process but files is involved."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        root = Path(directory)
        machine = machines.xeon_6972p_2s(root / "xeon")
        topology = read_topology(machine)
        yield Measured(
            name="place, resolve, plan: 6 nodes, 384 CPUs",
            samples=time_calls(partial(decide, topology), times=50),
            unit="ms",
            budget=CORE_BUDGET_MS,
        )
        yield Measured(
            name="the same when everything runs already",
            samples=time_calls(partial(decide_again, settled(topology), make_target(topology)), times=20),
            unit="ms",
            budget=CORE_BUDGET_MS,
        )
        yield Measured(
            name="read its topology from sysfs",
            samples=time_calls(partial(read_topology, machine), times=5),
            unit="ms",
        )
        yield from measure_growth(root)
    yield from asyncio.run(measure_passes())


def measure_growth(root: Path) -> Iterator[Measured]:
    """Time per node, which must not grow with the number of nodes."""
    costs: dict[int, tuple[float, float]] = {}
    for nodes in SIZES:
        machine = machines.big(root / str(nodes), nodes=nodes, cpus=nodes * CPUS_PER_NODE)
        topology = read_topology(machine)
        core = time_calls(partial(decide, topology), times=9)
        read = time_calls(partial(read_topology, machine), times=3)
        costs[nodes] = (min(core) / nodes, min(read) / nodes)
        yield Measured(
            name=f"place, resolve, plan: {nodes} nodes, {nodes * CPUS_PER_NODE} CPUs",
            samples=core,
            unit="ms",
        )
    first, last = SIZES[0], SIZES[-1]
    for index, (what, budget) in enumerate((("place, resolve, plan", GROWTH), ("read the topology", None))):
        ratio = costs[last][index] / costs[first][index]
        name = f"{what}: per node, {last} nodes : {first}"
        yield Measured(name=name, samples=[ratio], unit="x", budget=budget)


def decide(topology: Topology) -> object:
    """From nothing: what a first pass decides."""
    target = make_target(topology)
    return plan(target, World().facts(target))


def make_target(topology: Topology) -> Target:
    return resolve(world.spec({}), topology, {"chat": world.model()}, Books())


def settled(topology: Topology) -> World:
    """A host on which every instance runs and is in rotation."""
    target, host = make_target(topology), World()
    host.settle(target)
    return host


def decide_again(host: World, target: Target) -> object:
    """What each later pass decides: that nothing is to be done."""
    planned = plan(target, host.facts(target))
    assert planned.actions == ()
    return planned


async def measure_passes() -> list[Measured]:
    """A whole pass over files and fakes in memory: systemd, proxy and engines cost nothing here."""
    passes: dict[int, Measured] = {}
    for instances in COUNTS:
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            async with daemon_host(Path(directory)) as host:
                passes[instances] = await measure_pass(host, instances)
    ratios = []
    for few, many in pairwise(COUNTS[1:]):
        ratio = (passes[many].median / many) / (passes[few].median / few)
        name = f"a pass: per instance, {many} instances : {few}"
        ratios.append(Measured(name=name, samples=[ratio], unit="x", budget=GROWTH))
    return [*passes.values(), *ratios]


async def measure_pass(host: DaemonHost, instances: int) -> Measured:
    target = host.target(nodes=instances)
    for number in range(instances):
        host.engine(number).body = SERVING
    for name, wanted in target.wanted.items():
        host.store.write_instance(wanted.files)
        await host.units.start(f"ovms@{name}.service")
    await host.units.start("ovms.target")
    samples = []
    for _ in range(12):
        began = time.process_time()
        plan(target, await host.observe(target))
        samples.append((time.process_time() - began) * 1000)
    name = f"a pass, {instances} instances (fakes at the ports)"
    return Measured(name=name, samples=samples[2:], unit="ms CPU")
