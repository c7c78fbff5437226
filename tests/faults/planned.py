# SPDX-License-Identifier: Apache-2.0
"""What an administrator does on purpose: restarts, changes, reloads."""

from dataclasses import dataclass
from typing import Self

from faults.peers import ADMIN_SOCKET, Balancer
from faults.rig import CONFIG, MODEL_PATH, NEW_MODEL_PATH, Engine, Rig, render_config, write_engine_unit
from faults.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Another form of the engines. ``word`` is in its command line or graph, and was not before."""

    word: str
    flags: tuple[str, ...] = ()
    model_path: str = MODEL_PATH

    @classmethod
    def flag(cls, name: str, value: str) -> Self:
        return cls(word=value, flags=(name, value))


SAME_MODEL = Change.flag("--log_level", "DEBUG")
NEW_MODEL = Change(word=NEW_MODEL_PATH, model_path=NEW_MODEL_PATH)


def write_change(rig: Rig, change: Change) -> None:
    """A configuration that needs a restart of every instance, not yet taken."""
    rig.host.write(CONFIG, render_config(rig.shape, flags=change.flags, model_path=change.model_path))


def wait_until_changed(run: Run, before: dict[str, int], change: Change) -> None:
    """Until every engine is another process, changed as planned, and serves."""
    rig = run.rig

    def changed() -> bool:
        now = rig.read_pids()
        return all(now[name] not in (0, pid) for name, pid in before.items())

    rig.host.wait_for(changed, 180, "every engine to be another process")
    rig.wait_until_whole()
    forms = [rig.read_form(engine, rig.read_pid(engine)) for engine in rig.engines]
    run.notes.append(f"{sum(change.word in form for form in forms)} of {len(forms)} as planned")


def roll(run: Run) -> None:
    """A restart of each engine: with our agent one that a new configuration needs."""
    _roll(run, SAME_MODEL)


def change_model(run: Run) -> None:
    """Another model under the same name, in each engine."""
    if not run.rig.is_ours:
        write_engine_unit(run.rig, NEW_MODEL_PATH)
        run.rig.host.run("systemctl", "daemon-reload")
    _roll(run, NEW_MODEL)


def _roll(run: Run, change: Change) -> None:
    """With our agent a reload of its configuration; else one unit after the other, by hand."""
    before = run.rig.read_pids()
    if run.rig.is_ours:
        write_change(run.rig, change)
        run.begin_fault()
        run.rig.host.run("systemctl", "reload", "ovms-scaler.service")
        wait_until_changed(run, before, change)
    else:
        run.begin_fault()
        for engine in run.rig.engines:
            restart_by_hand(run.rig, engine)
    run.notes.append(f"took {run.since_fault_sec:.1f} s")


def restart_by_hand(rig: Rig, engine: Engine) -> None:
    """Restart it and wait until it is ready; with the tuned HAProxy it is drained first."""
    server = f"engines/e{engine.port}"
    if rig.balancer is Balancer.tuned:
        ask_haproxy(rig, f"set server {server} state drain")
        rig.host.wait_for(lambda: count_sessions(rig, engine) == 0, 60, f"{server} to be idle")
    rig.host.run("systemctl", "restart", engine.unit)
    rig.host.wait_for(lambda: rig.is_ready(engine), 60, f"{engine.unit} to load")
    if rig.balancer is Balancer.tuned:
        ask_haproxy(rig, f"set server {server} state ready")


def ask_haproxy(rig: Rig, command: str) -> str:
    """Its answer on the administrator's socket (management.txt, section 9.3)."""
    with rig.host.connect_unix(ADMIN_SOCKET, timeout_sec=10) as connection:
        connection.sendall(f"{command}\n".encode())
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts).decode()


def count_sessions(rig: Rig, engine: Engine) -> int:
    """Requests that are at the engine ("scur", the fifth column)."""
    rows = [line.split(",") for line in ask_haproxy(rig, "show stat").splitlines()]
    return next(int(row[4]) for row in rows if row[:2] == ["engines", f"e{engine.port}"])


def reload_often(run: Run) -> None:
    """Reload the balancer again and again; how many processes it had at most."""
    run.begin_fault()
    most = 0
    for _ in range(run.options.times):
        run.rig.host.run("systemctl", "reload", run.rig.service)
        most = max(most, count_processes(run.rig))
    run.notes.append(f"{run.options.times} reloads in {run.since_fault_sec:.1f} s, at most {most} processes")


def change_often(run: Run) -> None:
    """An instance leaves the rotation and joins again and again, each change when the one before is done.

    How often our agent reloads the proxy for it, and how many processes that had at most.
    """
    rig, engine = run.rig, run.rig.engines[0]
    reloads, most = rig.count_reloads(), 0
    run.begin_fault()
    for number in range(run.options.times):
        most = max(most, change_membership(rig, engine, "undrain" if number % 2 else "drain"))
    run.notes.append(
        f"{run.options.times} changes, {rig.count_reloads() - reloads} reloads "
        f"in {run.since_fault_sec:.1f} s, at most {most} processes"
    )


def change_membership(rig: Rig, engine: Engine, verb: str) -> int:
    """Have it leave or join the rotation; the most processes of the balancer that were seen meanwhile."""
    wanted = len(rig.engines) - (verb == "drain")
    counts: list[int] = []

    def is_done() -> bool:
        counts.append(count_processes(rig))
        return rig.count_in_rotation() == wanted

    rig.host.wait_for(lambda: rig.order(verb, name=engine.name), 10, f"{verb} to be taken")
    rig.host.wait_for(is_done, 60, f"{verb} to be done")
    return max(counts)


def count_processes(rig: Rig) -> int:
    """Processes of the balancer."""
    group = f"/sys/fs/cgroup/system.slice/{rig.service}/cgroup.procs"
    return len(rig.host.read(group).split())


def wait_for_burst(run: Run) -> None:
    """The load is the fault."""
    run.fault_at = run.load.begun
