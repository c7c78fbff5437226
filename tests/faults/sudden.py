# SPDX-License-Identifier: Apache-2.0
"""What happens to engines: they die, hang, err, or load again."""

import time

from faults.run import Run


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


def errors(run: Run) -> None:
    run.rig.set_fault(run.victim, "errors")
    run.begin_fault()


def wedge(run: Run) -> None:
    run.rig.set_fault(run.victim, "wedge")
    run.begin_fault()


def crash_loop(run: Run) -> None:
    rig = run.rig
    reloads = rig.count_reloads()
    rig.set_fault(run.victim, "crash", sticky=True)
    run.begin_fault()
    run.pause(run.options.seconds)
    restarts = rig.host.properties(run.victim.unit, "NRestarts")["NRestarts"]
    run.notes.append(f"{restarts} restarts")
    if rig.is_ours:
        entries = {entry["id"]: entry for entry in rig.read_status()["instances"]}
        run.notes.append(f"{entries[run.victim.name]['state']} after {run.since_fault_sec:.0f} s")
        run.notes.append(f"reloads of the proxy: {rig.count_reloads() - reloads}")


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
