# SPDX-License-Identifier: Apache-2.0
"""The faults, by name: what is done to the engines, the agent or the balancer while the load is on."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from faults import planned
from faults import run as runs
from faults.peers import Balancer
from faults.rig import Rig, Shape
from faults.run import Load, Options, Result, Run, frozen

ALL = tuple(Balancer)
OURS = (Balancer.ours,)
USUAL = Shape()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """``victims``: how many engines it is about. ``burst``: requests at once instead of clients."""

    name: str
    about: str
    happen: Callable[[Run], None]
    victims: int = 1
    balancers: tuple[Balancer, ...] = ALL
    engines: Shape = USUAL
    shape: str = "half"
    burst: int = 0


def harm(rig: Rig, fault: Fault, options: Options) -> Result:
    """The fault under load; the load goes on for the rest of ``options.seconds``, or as long as it takes.

    Raises LabError when the fault cannot be brought about.
    """
    settings = runs.settings_for(rig, options, shape=fault.shape, burst=fault.burst)
    with Load(rig, settings) as load:
        run = Run(rig=rig, load=load, options=options, victims=rig.engines[: fault.victims])
        load.wait_until(options.fault_sec)
        fault.happen(run)
        if options.until_whole:
            rig.wait_until_whole()
        load.wait_until(options.seconds)
    return runs.finish(run)


def kill(run: Run) -> None:
    run.kill(run.victim)


def hang(run: Run) -> None:
    run.kill(run.victim, name="STOP")


def load_again(run: Run) -> None:
    rig = run.rig
    before = rig.read_pids()

    def are_new() -> bool:
        now = rig.read_pids()
        return all(
            now[one.name] not in (0, before[one.name]) and rig.is_listening(one) for one in run.victims
        )

    rig.close_gates(*run.victims)
    run.kill(*run.victims)
    rig.host.wait_for(are_new, 60, "the engines to load again")
    run.listening_at = time.monotonic()
    run.pause(run.options.loading_sec)
    rig.open_gates()


def load_again_without_agent(run: Run) -> None:
    agent = run.rig.host.properties("ovms-scaler.service", "MainPID")["MainPID"]
    run.rig.host.run("kill", "-KILL", agent)
    # Not to be started again after the five seconds of its Restart=.
    run.rig.host.run("systemctl", "stop", "ovms-scaler.service")
    load_again(run)
    run.rig.host.wait_for(lambda: run.rig.is_ready(run.victim), 60, "the engine to load again")
    run.rig.host.run("systemctl", "start", "ovms-scaler.service")


def errors(run: Run) -> None:
    run.rig.set_fault(run.victim, "errors")
    run.begin_fault()


def wedge(run: Run) -> None:
    run.rig.set_fault(run.victim, "wedge")
    run.begin_fault()


def crash_loop(run: Run) -> None:
    run.rig.set_fault(run.victim, "crash", sticky=True)
    run.begin_fault()
    run.pause(run.options.seconds)
    restarts = run.rig.host.properties(run.victim.unit, "NRestarts")["NRestarts"]
    run.notes.append(f"{restarts} restarts")


def poison(run: Run) -> None:
    before = run.rig.read_pids()
    for engine in run.rig.engines:
        run.rig.set_fault(engine, "poison", sticky=True)
    run.begin_fault()
    run.load.order("poison")
    run.pause(1.0)
    after = run.rig.read_pids()
    died = sum(after[name] != pid for name, pid in before.items())
    run.notes.append(f"{died} engines died of it")


def bad_requests(run: Run) -> None:
    run.begin_fault()
    while run.since_fault_sec < 3:
        run.load.order("bad")
        run.pause(0.02)


def slow_systemd(run: Run) -> None:
    with frozen(run.rig.host.pid1):
        # Without systemd: what it knows of the unit was asked before.
        pid = (
            run.rig.host.script(f"ss -Hltnp sport = :{run.victim.port}")
            .partition("pid=")[2]
            .partition(",")[0]
        )
        run.kill_pids(int(pid))
        run.pause(run.options.loading_sec)


def kill_agent(run: Run) -> None:
    """SIGKILL at random moments while a change of the configuration is rolled out."""
    moments = random.Random(run.options.seed)
    host = run.rig.host
    before = run.rig.read_pids()
    planned.write_change(run.rig)
    run.begin_fault()
    host.run("systemctl", "reload", "ovms-scaler.service")
    for _ in range(run.options.times):
        run.pause(moments.uniform(0, 2))
        host.run("systemctl", "kill", "--kill-whom=all", "--signal=KILL", "ovms-scaler.service", check=False)
        # Its Restart= would let five seconds pass each time.
        host.run("systemctl", "start", "--no-block", "ovms-scaler.service")
    planned.wait_until_changed(run, before)
    run.notes.append(f"{run.options.times} kills")


FAULTS = {
    fault.name: fault
    for fault in (
        Fault(name="kill", about="SIGKILL of an instance", happen=kill),
        Fault(name="hang", about="SIGSTOP of an instance", happen=hang),
        Fault(name="loading", about="an instance dies and loads again for some seconds", happen=load_again),
        Fault(
            name="agent-dead",
            about="the same while the agent is dead",
            happen=load_again_without_agent,
            balancers=OURS,
        ),
        Fault(name="pid1", about="SIGKILL of an instance while systemd is stuck", happen=slow_systemd),
        Fault(name="poison", about="a request that crashes its engine", happen=poison, victims=0),
        Fault(name="errors", about="an instance answers 400 to everything, AVAILABLE", happen=errors),
        Fault(name="wedge", about="an instance generates nothing any more, AVAILABLE", happen=wedge),
        Fault(name="bad-requests", about="one client's own bad requests", happen=bad_requests, victims=0),
        Fault(
            name="crash-loop", about="an instance crashes at its first request, always", happen=crash_loop
        ),
        Fault(name="all-down", about="all instances die and load again", happen=load_again, victims=4),
        Fault(name="rolling", about="a planned restart of all", happen=planned.roll, victims=0),
        Fault(
            name="reloads",
            about="many reloads under streams of 5 s",
            happen=planned.reload_often,
            victims=0,
            engines=Shape(token_ms=250),
            shape="all",
        ),
        Fault(
            name="agent-kills",
            about="SIGKILLs of the agent while a change is rolled out",
            happen=kill_agent,
            victims=0,
            balancers=OURS,
        ),
        Fault(
            name="burst",
            about="200 at once, where 16 are worked on and 32 may wait",
            happen=planned.wait_for_burst,
            victims=0,
            engines=Shape(first_token_ms=1000, rest_workers=5, waiting_room=8),
            burst=200,
        ),
    )
}
