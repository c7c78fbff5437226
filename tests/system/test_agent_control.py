# SPDX-License-Identifier: Apache-2.0
"""Who may tell the agent what, and what it survives: a second agent, strangers, garbage, a stuck PID 1."""

import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest
from faults.slow import slowed
from lab.host import Host
from lab.image import Image
from system import agent_host
from system.agent_host import Traffic, find_instance

FIRST = "chat-numa0.0"
# With 2 s a call: failed probes, a look that is under way, the order; then a look, and the order to kill.
SLOW_EJECTION_SEC, SLOW_KILL_SEC = 20.0, 40.0


@pytest.fixture(scope="module")
def host(installed_image: Image) -> Iterator[Host]:
    with agent_host.running_host(installed_image, agent_host.pool(), in_rotation=2) as booted:
        booted.run("useradd", "--groups", "ovms-scaler", "alice")
        yield booted


def ask_as(host: Host, user: str, method: str, path: str) -> str:
    """The status that the control socket answers this user with."""
    curl = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", agent_host.SOCKET]
    return host.run("runuser", "-u", user, "--", *curl, "-X", method, f"http://agent{path}").stdout


def test_second_agent_says_so_and_the_first_goes_on(host: Host) -> None:
    before, pid = agent_host.read_footprint(host), agent_host.read_agent_pid(host)
    second = host.run("ovms-scaler", check=False, timeout_sec=20)
    assert second.returncode == 1
    assert "another agent runs" in second.stdout + second.stderr
    assert agent_host.read_agent_pid(host) == pid
    assert agent_host.read_status(host)["config"]["error"] == ""
    assert agent_host.read_footprint(host) == before


@pytest.mark.parametrize(
    ("user", "method", "path", "status"),
    [
        pytest.param("nobody", "GET", "/v1/status", "200", id="anybody may look"),
        pytest.param("nobody", "POST", "/v1/reload", "403", id="not anybody may act"),
        pytest.param("ovms", "POST", "/v1/reload", "403", id="an engine may not act"),
        pytest.param("alice", "POST", "/v1/reload", "200", id="a member of the group may act"),
        pytest.param("root", "POST", "/v1/reload", "200", id="root may act"),
        pytest.param("root", "POST", "/v1/reload?allow_outage=maybe", "400", id="not a truth value"),
        pytest.param("root", "GET", "/v1/nothing", "404", id="no such thing"),
        pytest.param("root", "DELETE", "/v1/status", "405", id="no such method"),
    ],
)
def test_control_socket_answers_by_who_asks(
    host: Host, user: str, method: str, path: str, status: str
) -> None:
    assert ask_as(host, user, method, path) == status


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(bytes(range(256)) * 64, id="bytes"),
        pytest.param(b"GET /v1/status HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", id="endless header"),
        pytest.param(b"POST /v1/reload HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n{", id="large body"),
        pytest.param(b"GET /v1/st", id="half a request"),
        pytest.param(b"", id="nothing at all"),
    ],
)
def test_garbage_on_the_control_socket_harms_nobody(host: Host, garbage: bytes) -> None:
    pid = agent_host.read_agent_pid(host)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(10)
        connection.connect(f"/proc/{host.pid1}/root{agent_host.SOCKET}")
        connection.sendall(garbage)
        # While that one is open, others are answered.
        assert len(agent_host.read_status(host)["instances"]) == 2
    assert len(agent_host.read_status(host)["instances"]) == 2
    assert agent_host.read_agent_pid(host) == pid


def read_slowest_answer(host: Host, *, for_sec: float) -> float:
    """Ask the control socket again and again; how long the slowest answer took, in seconds."""
    slowest, end = 0.0, time.monotonic() + for_sec
    while time.monotonic() < end:
        began = time.monotonic()
        agent_host.read_status(host)
        slowest = max(slowest, time.monotonic() - began)
    return slowest


@agent_host.on_bookworm
def test_stuck_pid_1_stalls_neither_the_agent_nor_the_traffic(host: Host) -> None:
    before, pid = agent_host.read_footprint(host), agent_host.read_agent_pid(host)
    with Traffic(host) as traffic:
        traffic.wait_for_answers(host)
        os.kill(host.pid1, signal.SIGSTOP)
        try:
            # Longer than a call to systemd may take, 10 seconds.
            assert read_slowest_answer(host, for_sec=12) < 1.0
            traffic.wait_for_answers(host)
            agent_host.wait_for_status(
                host, lambda found: "systemd" in str(found["problems"]), "the agent to say what is wrong"
            )
        finally:
            os.kill(host.pid1, signal.SIGCONT)
        agent_host.wait_for_status(
            host,
            lambda found: not found["problems"] and find_instance(found, FIRST)["state"] == "ready",
            "the agent to be well again",
        )
        traffic.wait_for_answers(host)
    traffic.assert_unharmed()
    assert agent_host.read_agent_pid(host) == pid
    assert agent_host.read_footprint(host) == before


def is_out_of_the_proxy(host: Host, name: str) -> bool:
    """Whether it has no route, and the proxy runs without it."""
    directory = "/run/ovms-scaler-proxy"
    ask = ("curl", "-sS", "--unix-socket", f"{directory}/work/internal.sock", "http://proxy/generation")
    running = host.run(*ask).stdout.strip()
    return name not in agent_host.read_routes(host) and running in host.read(f"{directory}/generation.conf")


@agent_host.on_bookworm
def test_engine_that_hangs_is_out_in_seconds_while_pid_1_is_slow(host: Host) -> None:
    """Each call to it takes two seconds; probes and orders need not wait for a look at all units."""
    pid, victim = agent_host.read_agent_pid(host), agent_host.read_pids(host)[FIRST]
    with Traffic(host, stream="no") as traffic:
        traffic.wait_for_answers(host, by=FIRST)
        with slowed(host.pid1):
            host.run("kill", "-STOP", str(victim))
            host.wait_for(lambda: is_out_of_the_proxy(host, FIRST), SLOW_EJECTION_SEC, "it to be out")
            # It is killed in its turn, and what it had is answered by the other.
            host.wait_for(lambda: not is_alive(host, victim), SLOW_KILL_SEC, "it to be killed")
            assert read_slowest_answer(host, for_sec=3) < 1.0
        agent_host.wait_until_routed(host, 2)
        traffic.wait_for_answers(host, by=FIRST)
    traffic.assert_unharmed()
    assert agent_host.read_agent_pid(host) == pid


def is_alive(host: Host, pid: int) -> bool:
    """Whether the process is there and no zombie, whose command line is empty."""
    return agent_host.read_command(host, pid) != [""]


@agent_host.on_bookworm
def test_engine_that_dies_while_pid_1_is_stuck_is_not_waited_for(host: Host) -> None:
    victim = agent_host.read_pids(host)[FIRST]
    with Traffic(host, stream="no") as traffic:
        traffic.wait_for_answers(host, by=FIRST)
        os.kill(host.pid1, signal.SIGSTOP)
        try:
            agent_host.kill(host, victim)
            # Nobody can take it out now, and nginx asks the other one.
            traffic.wait_for_answers(host, 100)
        finally:
            os.kill(host.pid1, signal.SIGCONT)
        host.wait_for(lambda: agent_host.read_pids(host).get(FIRST) not in (None, victim), 30, "its restart")
        agent_host.wait_until_routed(host, 2)
        traffic.wait_for_answers(host, by=FIRST)
    traffic.assert_unharmed()
