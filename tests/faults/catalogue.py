# SPDX-License-Identifier: Apache-2.0
"""The faults, by name: what is done to the engines, the agent or the balancer while the load is on."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from faults import agent, memory, planned, slow, sudden
from faults import run as runs
from faults.peers import Balancer
from faults.rig import Rig, Shape
from faults.run import Load, Options, Result, Run

ALL = tuple(Balancer)
OURS = (Balancer.ours,)
USUAL = Shape()
PATIENCE_SEC = 120.0  # of clients whose answers take long


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """How long a fault lasts, and how often it happens, where it must be survived; 0: as usual."""

    seconds: float = 0
    loading_sec: float = 0
    slow_sec: float = 0
    times: int = 0
    token_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """``victims``: how many engines it is about. ``burst``: requests at once instead of clients.

    ``timeout_sec``: how long clients wait, 0 for as long as usual.
    """

    name: str
    about: str
    happen: Callable[[Run], None]
    victims: int = 1
    balancers: tuple[Balancer, ...] = ALL
    engines: Shape = USUAL
    shape: str = "half"
    burst: int = 0
    timeout_sec: float = 0
    bar: Bar = Bar()


def at_length(fault: Fault, options: Options) -> tuple[Fault, Options]:
    """The same as its bar has it."""
    bar = fault.bar
    engines = replace(fault.engines, token_ms=bar.token_ms or fault.engines.token_ms)
    longer = replace(
        options,
        seconds=bar.seconds or options.seconds,
        loading_sec=bar.loading_sec or options.loading_sec,
        slow_sec=bar.slow_sec or options.slow_sec,
        times=bar.times or options.times,
    )
    return replace(fault, engines=engines), longer


def harm(rig: Rig, fault: Fault, options: Options) -> Result:
    """The fault under load; the load goes on for the rest of ``options.seconds``, or as long as it takes.

    Raises LabError when the fault cannot be brought about.
    """
    patient = replace(options, timeout_sec=fault.timeout_sec or options.timeout_sec)
    settings = runs.settings_for(rig, patient, shape=fault.shape, burst=fault.burst)
    with Load(rig, settings) as load:
        run = Run(rig=rig, load=load, options=patient, victims=rig.engines[: fault.victims])
        # Every client has begun by then (clients.py).
        load.wait_until(max(options.fault_sec, runs.compute_answer_sec(rig.shape)))
        fault.happen(run)
        if options.until_whole:
            rig.wait_until_whole()
        load.wait_until(options.seconds)
    result = runs.finish(run)
    if not fault.burst:
        return result
    shares = " + ".join(map(str, result.figures.posts.values()))
    return replace(result, notes=(*result.notes, f"{shares} requests to the engines"))


FAULTS = {
    fault.name: fault
    for fault in (
        Fault(name="kill", about="SIGKILL of an instance", happen=sudden.kill),
        Fault(name="oom", about="the kernel kills an instance for want of memory", happen=memory.exhaust),
        Fault(name="hang", about="SIGSTOP of an instance", happen=sudden.hang),
        Fault(
            name="hang-quick",
            about="the same, with probes that find it within 0.7 s",
            happen=sudden.hang,
            balancers=OURS,
            engines=Shape(health="interval_sec = 0.2\ntimeout_sec = 0.2"),
        ),
        Fault(
            name="loading",
            about="an instance dies and loads again for some seconds",
            happen=sudden.load_again,
            bar=Bar(loading_sec=20, seconds=40),
        ),
        Fault(
            name="agent-dead",
            about="the same while the agent is dead",
            happen=agent.load_again_without_agent,
            balancers=OURS,
            bar=Bar(loading_sec=20, seconds=45),
        ),
        Fault(
            name="pid1",
            about="SIGKILL of an instance while systemd takes 2 s for each call",
            happen=slow.kill_while_slow,
            bar=Bar(slow_sec=30, seconds=50),
        ),
        Fault(
            name="pid1-hang",
            about="SIGSTOP of an instance while systemd takes 2 s for each call",
            happen=slow.hang_while_slow,
            bar=Bar(slow_sec=30, seconds=50),
        ),
        Fault(name="poison", about="a request that crashes its engine", happen=sudden.poison, victims=0),
        Fault(name="errors", about="an instance answers 400 to everything, AVAILABLE", happen=sudden.errors),
        Fault(name="wedge", about="an instance generates nothing any more, AVAILABLE", happen=sudden.wedge),
        Fault(
            name="wedge-quick",
            about="the same, with stall_sec = 10, for clients that wait",
            happen=sudden.wedge,
            balancers=OURS,
            engines=Shape(health="stall_sec = 10"),
            timeout_sec=PATIENCE_SEC,
            bar=Bar(seconds=40),
        ),
        Fault(
            name="bad-requests", about="one client's own bad requests", happen=sudden.bad_requests, victims=0
        ),
        Fault(
            name="crash-loop",
            about="an instance crashes at its first request, always",
            happen=sudden.crash_loop,
            bar=Bar(seconds=120),
        ),
        Fault(
            name="all-down", about="all instances die and load again", happen=sudden.load_again, victims=4
        ),
        Fault(name="rolling", about="a planned restart of all", happen=planned.roll, victims=0),
        Fault(
            name="model-change",
            about="another model under the same name, in all",
            happen=planned.change_model,
            victims=0,
        ),
        Fault(
            name="reloads",
            about="many reloads of the balancer while streams are open",
            happen=planned.reload_often,
            victims=0,
            engines=Shape(token_ms=250),
            shape="all",
            timeout_sec=PATIENCE_SEC,
            bar=Bar(times=100, token_ms=1500),
        ),
        Fault(
            name="changes",
            about="an instance leaves and joins many times while streams are open",
            happen=planned.change_often,
            victims=0,
            balancers=OURS,
            engines=Shape(token_ms=250),
            shape="all",
            timeout_sec=PATIENCE_SEC,
            bar=Bar(times=100, token_ms=1500),
        ),
        Fault(
            name="agent-kills",
            about="SIGKILLs of the agent amid configurations, drains and undrains",
            happen=agent.kill_often,
            victims=0,
            balancers=OURS,
            bar=Bar(times=50),
        ),
        Fault(
            name="burst",
            about="1,480 at once, 370 for each of four instances",
            happen=planned.wait_for_burst,
            victims=0,
            engines=Shape(first_token_ms=3000),
            burst=1480,
            timeout_sec=PATIENCE_SEC,
        ),
        Fault(
            name="burst-one",
            about="1,000 at once on one instance",
            happen=planned.wait_for_burst,
            victims=0,
            engines=Shape(instances=1, first_token_ms=3000),
            burst=1000,
            timeout_sec=PATIENCE_SEC,
        ),
        Fault(
            name="burst-beyond",
            about="200 at once, where 16 are worked on and 32 may wait",
            happen=planned.wait_for_burst,
            victims=0,
            engines=Shape(first_token_ms=1000, rest_workers=5, waiting_room=8),
            burst=200,
        ),
    )
}
