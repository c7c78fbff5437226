# SPDX-License-Identifier: Apache-2.0
"""What is shipped for Prometheus and Grafana, judged by promtool and a running Prometheus."""

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from admin_lab import Shown, admin_open
from daemon.test_metrics import REAL, Engines, collecting, take

from ovms_scaler.ctl.main import cli
from ovms_scaler.daemon.admin import Admin
from prometheus.scene import CALM_STEPS, INSTANCES, STEP_SEC, STEPS
from prometheus.server import EXAMPLE, PACKAGING, RECORDED, RULES, Prometheus, running, wait_for

TESTS = Path(__file__).parent / "rules_test.yml"
DASHBOARD: Mapping[str, Any] = json.loads((PACKAGING / "grafana/ovms-scaler.json").read_text())
# What Grafana puts in place of its variables.
VARIABLES = {"$__rate_interval": "2m", "$server": RECORDED, "$instance": ".*"}


def promtool(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(("promtool", *arguments), input=given, capture_output=True, text=True, timeout=30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with running(tmp_path_factory.mktemp("prometheus")) as made:
        yield made


def panels() -> list[Mapping[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> list[Any]:
    return [
        pytest.param(panel, target, id=f"{panel['title']}-{target['refId']}")
        for panel in panels()
        for target in panel["targets"]
    ]


def fill_in(expr: str) -> str:
    for name, text in VARIABLES.items():
        expr = expr.replace(name, text)
    assert "$" not in expr
    return expr


# promtool


def test_promtool_accepts_the_rules() -> None:
    done = promtool("check", "rules", str(RULES))
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_promtool_accepts_the_example() -> None:
    done = promtool("check", "config", "--syntax-only", str(EXAMPLE))
    assert done.returncode == 0, done.stderr


def test_each_alert_fires_when_it_is_to() -> None:
    done = promtool("test", "rules", str(TESTS))
    assert done.returncode == 0, done.stdout + done.stderr
    named = set(re.findall(r'alertname(?:=|: )"?(\w+)', TESTS.read_text()))
    assert named == {alert["name"] for alert in read_alerts()}


async def test_promtool_accepts_the_metrics() -> None:
    text = await take({})
    done = promtool("check", "metrics", given=text)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_promtool_can_read_the_metrics_of_engines() -> None:
    """It finds fault with OVMS's names, which are not ours to choose, and with nothing else."""
    engines = Engines()
    text = await take({"chat-numa0": await engines.add(REAL), "chat-numa1": await engines.add(REAL)})
    engines.close()
    done = promtool("check", "metrics", given=text)
    assert done.returncode in (0, 3), done.stderr
    assert all(re.match(r"ovms_(?!scaler_)\w+ ", line) for line in done.stderr.splitlines()), done.stderr


def test_commands_of_alerts_can_be_typed() -> None:
    units = {path.name.removesuffix(".service") for path in (PACKAGING.parent / "units").iterdir()}
    for alert in read_alerts():
        program, *arguments = alert["command"].split()
        match program:
            case "ovms-scalerctl":
                assert arguments[0] in cli.commands
            case "systemctl":
                assert arguments[0] == "status"
                assert arguments[1] in units
            case "journalctl":
                named = arguments[1].replace("{{", "").partition(" ")[0] if len(arguments) > 1 else ""
                assert arguments == ["-k"] or (arguments[0] in ("-u", "-eu") and named)
            case _:
                assert alert["command"] == "man ovms-scaler.toml"


# A running Prometheus


def test_expressions_of_alerts_find_what_was_recorded(server: Prometheus) -> None:
    """Nothing while all is well, and then something: not a name that is misspelled, for example."""
    calm_sec = server.end_sec - (STEPS - CALM_STEPS) * STEP_SEC
    wrong = []
    for alert in read_alerts():
        calm = server.query_range(alert["query"], begin_sec=calm_sec - 1200, end_sec=calm_sec)
        bad = server.query_range(alert["query"], begin_sec=calm_sec, end_sec=server.end_sec)
        if calm or not bad:
            wrong.append((alert["name"], len(calm), len(bad)))
    assert wrong == []


def test_prometheus_can_evaluate_alerts_and_say_what_they_mean(server: Prometheus) -> None:
    def rules() -> list[Mapping[str, Any]]:
        return [rule for group in server.read("rules")["groups"] for rule in group["rules"]]

    wait_for(lambda: all(rule["health"] == "ok" for rule in rules()), rules)
    wait_for(lambda: len({one["labels"]["alertname"] for one in server.read("alerts")["alerts"]}) > 10)
    for alert in server.read("alerts")["alerts"]:
        assert alert["labels"]["severity"] in ("critical", "warning", "info")
        assert alert["annotations"].keys() == {"summary", "description", "command"}
        for text in alert["annotations"].values():
            assert "error expanding" not in text
            assert "<no value>" not in text


@pytest.mark.parametrize(("panel", "target"), queries())
def test_panels_show_what_was_recorded(
    server: Prometheus, panel: Mapping[str, Any], target: Mapping[str, Any]
) -> None:
    expr = fill_in(target["expr"])
    if target.get("instant"):
        found = server.query(expr, at_sec=server.end_sec)
        values = [one["value"] for one in found]
    else:
        found = server.query_range(expr, begin_sec=server.end_sec - 2400, end_sec=server.end_sec)
        values = [value for one in found for value in one["values"]]
    assert values
    assert any(value != "NaN" for _, value in values)
    for name in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
        assert all(name in one["metric"] for one in found), f"no label {name}"


def test_variables_offer_what_was_recorded(server: Prometheus) -> None:
    offered = {}
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert found is not None
            offered[variable["name"]] = server.label_values(fill_in(found[1]), found[2])
    assert RECORDED in offered["server"]
    assert set(INSTANCES) == set(offered["instance"])


def read_alerts() -> list[Mapping[str, Any]]:
    """Name, expression and command; the file has them in one shape, so that no YAML library is needed."""
    alerts: list[Mapping[str, Any]] = []
    for text in RULES.read_text().split("      - alert: ")[1:]:
        name, _, rest = text.partition("\n")
        found = re.search(r"^        expr: (?:\|\n((?: {10}.*\n)+)|(.*)\n)", rest, re.M)
        assert found is not None
        command = re.search(r"^          command: (.*)$", rest, re.M)
        assert command is not None
        alerts.append({"name": name, "query": (found[1] or found[2]).strip(), "command": command[1]})
    return alerts


async def test_prometheus_scrapes_as_in_the_example(server: Prometheus) -> None:
    """It asks for OpenMetrics; "instance" is the name of an instance, and the address where there is none.

    The last of these tests, as Prometheus takes five seconds to begin (discovery.Manager, updatert).
    """
    engines, admin = Engines(), Admin()
    ports = {"chat-numa0": await engines.add(REAL)}
    async with collecting(ports) as metrics, admin_open(admin, Shown(metrics=metrics.answer)):
        admin.want(f"127.0.0.1:{server.target_port}")

        def labels(name: str) -> set[str]:
            return set(server.label_values(f'{name}{{server="llm-07"}}', "instance"))

        await asyncio.to_thread(wait_for, lambda: labels("ovms_current_graphs"))
        found = [
            labels(name)
            for name in ("ovms_current_graphs", "ovms_scaler_instance_in_rotation", "ovms_scaler_build_info")
        ]
        state = await asyncio.to_thread(server.read, "targets")
    engines.close()
    assert found == [{"chat-numa0"}, {"chat-numa0"}, {f"127.0.0.1:{server.target_port}"}]
    (target,) = state["activeTargets"]
    assert target["lastError"] == ""
