# SPDX-License-Identifier: Apache-2.0
"""What an administrator does on purpose: restarts, changes, reloads."""

from faults.peers import ADMIN_SOCKET, Balancer
from faults.rig import CONFIG, Engine, Rig, render_config
from faults.run import Run

CHANGE = ("--log_level", "DEBUG")


def write_change(rig: Rig) -> None:
    """A configuration that needs a restart of every instance, not yet taken."""
    rig.host.write(CONFIG, render_config(rig.shape, flags=CHANGE))


def wait_until_changed(run: Run, before: dict[str, int]) -> None:
    """Until every engine is another process, with the new arguments, and serves."""
    rig = run.rig

    def changed() -> bool:
        now = rig.read_pids()
        return all(now[name] not in (0, pid) for name, pid in before.items())

    rig.host.wait_for(changed, 180, "every engine to be another process")
    rig.wait_until_whole()
    if rig.is_ours:
        lines = [rig.host.read(f"/proc/{pid}/cmdline") for pid in rig.read_pids().values()]
        changed_count = sum(CHANGE[1] in line for line in lines)
        run.notes.append(f"{changed_count} of {len(lines)} as planned")


def roll(run: Run) -> None:
    """With our agent a reload of its configuration; else one unit after the other, by hand."""
    before = run.rig.read_pids()
    if run.rig.is_ours:
        write_change(run.rig)
        run.begin_fault()
        run.rig.host.run("systemctl", "reload", "ovms-scaler.service")
        wait_until_changed(run, before)
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


def count_processes(rig: Rig) -> int:
    """Processes of the balancer."""
    group = f"/sys/fs/cgroup/system.slice/{rig.service}/cgroup.procs"
    return len(rig.host.read(group).split())


def wait_for_burst(run: Run) -> None:
    """The load is the fault."""
    run.fault_at = run.load.begun
