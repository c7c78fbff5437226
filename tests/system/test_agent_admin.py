# SPDX-License-Identifier: Apache-2.0
"""The admin listener on a booted host: who reaches it, what it tells, and what it bears."""

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
from lab.host import Host
from lab.image import Image
from system import agent_host

PORT = 8002
FIRST, SECOND = "chat-numa0.0", "chat-numa0.1"
PATHS = (
    "/",
    "/fragment",
    "/metrics",
    "/v1/status",
    "/v1/measures",
    "/v1/events",
    "/v1/topology",
    "/v1/overview",
)


@pytest.fixture(scope="module")
def host(installed_image: Image) -> Iterator[Host]:
    with agent_host.running_host(installed_image, agent_host.pool(), in_rotation=2) as booted:
        yield booted


def ask_as(host: Host, user: str, url: str, *options: str) -> str:
    """The status that a user of the machine gets, "000" for no answer."""
    curl = ("curl", "-sS", "--max-time", "10", "-o", "/dev/null", "-w", "%{http_code}", *options, url)
    return host.run("runuser", "-u", user, "--", *curl, check=False).stdout


def read_metrics(host: Host) -> dict[str, float]:
    """Values by name and labels, as they are printed."""
    answer = host.http("GET", "/metrics", port=PORT)
    assert answer.status == 200
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def wait_for_metric(host: Host, name: str, value: float) -> None:
    host.wait_for(lambda: read_metrics(host).get(name) == value, 30, f"{name} to be {value:g}")


def listeners(host: Host, port: int = PORT) -> list[str]:
    """The addresses on which somebody listens at the port."""
    lines = host.run("ss", "-Hltn", f"sport = :{port}").stdout.splitlines()
    return [line.split()[3] for line in lines]


def test_it_is_on_the_loopback_only(host: Host) -> None:
    assert listeners(host) == [f"127.0.0.1:{PORT}"]
    host.run("ip", "address", "add", "192.0.2.1/32", "dev", "lo")
    assert ask_as(host, "nobody", f"http://192.0.2.1:{PORT}/metrics") == "000"
    assert ask_as(host, "nobody", f"http://[::1]:{PORT}/metrics") == "000"
    # The front has none of it.
    assert ask_as(host, "nobody", "http://192.0.2.1:8000/metrics") == "404"


@pytest.mark.parametrize("path", PATHS)
def test_everybody_on_the_machine_may_look_and_nobody_may_act(host: Host, path: str) -> None:
    url = f"http://localhost:{PORT}{path}"
    assert ask_as(host, "nobody", url) == "200"
    assert ask_as(host, "nobody", url, "--head") == "200"
    assert ask_as(host, "root", url, "-X", "POST") == "405"
    assert ask_as(host, "nobody", url, "-H", "Host: rebound.example") == "421"


def test_documents_are_those_of_the_control_socket(host: Host) -> None:
    overview = host.http("GET", "/v1/overview", port=PORT).json()
    named = [
        [one["id"] for one in found["instances"]] for found in (overview["status"], overview["measures"])
    ]
    assert named == [[one["id"] for one in agent_host.read_status(host)["instances"]]] * 2
    assert overview["topology"] == json.loads(host.run("ovms-scalerctl", "topology", "--json").stdout)
    assert overview["version"] in host.run("ovms-scalerctl", "--version").stdout
    assert overview["host"] == host.run("hostname").stdout.strip()
    page = host.http("GET", "/", port=PORT)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert FIRST in page.text


def test_metrics_tell_of_instances_clients_and_engines(host: Host) -> None:
    before = read_metrics(host)
    assert agent_host.burst(host, 20)["answered"] == 20
    host.wait_for(
        lambda: (
            read_metrics(host)["ovms_scaler_front_requests_total"]
            == before["ovms_scaler_front_requests_total"] + 20
        ),
        10,
        "all requests to be counted",
    )
    after = read_metrics(host)
    for name in (FIRST, SECOND):
        label = f'instance="{name}"'
        assert after[f"ovms_scaler_instance_in_rotation{{{label}}}"] == 1
        assert after[f'ovms_scaler_instance_state{{{label},state="ready"}}'] == 1
        assert after[f"ovms_scaler_instance_memory_bytes{{{label}}}"] > 1 << 20
        assert after[f"ovms_scaler_instance_cpu_seconds_total{{{label}}}"] > 0
        assert after[f"ovms_scaler_engine_metrics_up{{{label}}}"] == 1
        assert f'ovms_current_graphs{{{label},name="{agent_host.MODEL}"}}' in after
    counted = [
        sum(value for name, value in found.items() if name.startswith("ovms_requests_accepted{"))
        for found in (before, after)
    ]
    assert counted[1] - counted[0] >= 20
    assert after["ovms_scaler_front_time_to_first_byte_seconds_count"] > 0
    assert after['ovms_scaler_build_info{version="0.1.0"}'] == 1
    assert after["ovms_scaler_proxy_up"] == 1


def test_promtool_accepts_what_a_running_agent_says(host: Host) -> None:
    text = host.http("GET", "/metrics", port=PORT).text
    done = subprocess.run(
        ("promtool", "check", "metrics"), input=text, capture_output=True, text=True, timeout=30
    )
    assert done.returncode in (0, 3), done.stderr
    assert all(re.match(r"ovms_(?!scaler_)\w+ ", line) for line in done.stderr.splitlines()), done.stderr


def test_an_engine_that_hangs_delays_nobody(host: Host) -> None:
    """It is left out, and while it is waited for the agent answers and ejects as ever."""
    pid = agent_host.read_pids(host)[FIRST]
    host.run("kill", "-STOP", str(pid))
    try:
        began = time.monotonic()
        found = read_metrics(host)
        assert time.monotonic() - began < 10
        assert found[f'ovms_scaler_engine_metrics_up{{instance="{SECOND}"}}'] == 1
        wait_for_metric(host, f'ovms_scaler_engine_metrics_up{{instance="{FIRST}"}}', 0)
        failures = f'ovms_scaler_engine_metrics_failures_total{{instance="{FIRST}",reason="no_answer"}}'
        assert read_metrics(host)[failures] >= 1
    finally:
        host.run("kill", f"-{signal.SIGCONT.name}", str(pid), check=False)  # the agent may have killed it
    agent_host.wait_until_routed(host, 2)


def test_a_reload_moves_it_and_a_busy_port_hinders_nothing(host: Host) -> None:
    agent_host.occupy(host, "squatter", "127.0.0.1", 9100)
    try:
        moved = agent_host.reload(host, f'{agent_host.pool()}\n[admin]\nlisten = "127.0.0.1:9100"\n')
        assert moved.returncode == 0, moved.stderr
        agent_host.wait_for_status(
            host,
            lambda found: "127.0.0.1:9100: Address already in use" in str(found["problems"]),
            "the problem",
        )
        assert listeners(host) == []
        agent_host.wait_until_routed(host, 2)
        assert agent_host.ask(host).status == 200
    finally:
        host.run("systemctl", "stop", "squatter")
    agent_host.wait_for_status(host, lambda found: not found["problems"], "the port to be taken")
    assert host.http("GET", "/v1/status", port=9100).status == 200
    refused = agent_host.reload(host, f'{agent_host.pool()}\n[admin]\nlisten = "0.0.0.0:9100"\n')
    assert refused.returncode == 1
    assert "must be ADDRESS:PORT with an address of the loopback" in refused.stderr
    assert agent_host.reload(host, f'{agent_host.pool()}\n[admin]\nlisten = ""\n').returncode == 0
    host.wait_for(lambda: listeners(host, 9100) == [], 10, "the listener to close")
    assert agent_host.reload(host, agent_host.pool()).returncode == 0
    host.wait_for(lambda: listeners(host) == [f"127.0.0.1:{PORT}"], 10, "the listener to be back")
