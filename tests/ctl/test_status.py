# SPDX-License-Identifier: Apache-2.0
"""``ovms-scalerctl status``: good news or bad, and why an instance does not serve."""

import time
from pathlib import Path

import pytest
from ctl_lab import Ctl, FakeAgent, instance, status

from ovms_scaler.core.facts import Facts
from ovms_scaler.core.lifecycle import State
from ovms_scaler.core.quantities import format_duration
from ovms_scaler.core.status import status_document
from ovms_scaler.ctl import status_view

SILENT_PROXY: dict[str, object] = {
    "generation": None,
    "state": "failed",
    "error": "bind() failed",
    "hint": "systemctl status ovms-scaler-proxy",
    "listen": ["8000"],
}
FULL_AND_EMPTY = [{"name": "chat", "instances": 1}, {"name": "fast", "instances": 0}]
NO_PROXY: dict[str, object] = {"generation": None, "state": None, "error": "", "listen": []}


def test_json_is_the_agent_s_document(ctl: Ctl, agent: FakeAgent) -> None:
    document = status(instance(), future={"key": [1, None, "\u00e9"]})
    agent.say(document)
    shown = ctl("status", "--json", "--socket", agent.socket)
    assert (shown.status, shown.json()) == (0, document)
    assert agent.requests == ["GET /v1/status"]


@pytest.mark.parametrize(
    ("document", "good"),
    [
        pytest.param(status(instance()), 0, id="all serve"),
        pytest.param(
            status(instance(state="suspect", reason="1 probe failed")), 0, id="doubtful and routed"
        ),
        pytest.param(status(instance(state="draining", reason="changed"), instance("b")), 0, id="draining"),
        pytest.param(status(instance(), warnings=["a warning"]), 0, id="a warning"),
        pytest.param(status(proxy=NO_PROXY), 0, id="nothing is wanted"),
        pytest.param(status(instance(), instance("b", pool=None, in_rotation=False)), 0, id="unwanted"),
        pytest.param(status(instance(state="loading", in_rotation=False)), 1, id="loading"),
        pytest.param(status(instance(in_rotation=False)), 1, id="ready and not routed"),
        pytest.param(status(instance(state="stopped", in_rotation=False)), 1, id="stopped by hand"),
        pytest.param(status(instance(), proxy=SILENT_PROXY), 1, id="proxy down"),
        pytest.param(status(instance(), problems=["systemd does not answer"]), 1, id="agent hindered"),
        pytest.param(status(instance(), config={"file": "/x", "error": "bad"}), 1, id="file not accepted"),
        pytest.param(
            status(proxy=NO_PROXY, config={"file": "/x", "error": "bad"}), 1, id="never a good file"
        ),
        pytest.param(status(), 1, id="not looked yet"),
        pytest.param(status(instance(), pools=[{"name": "chat", "instances": 1}]), 0, id="a full pool"),
        pytest.param(status(instance(), pools=FULL_AND_EMPTY), 1, id="an empty pool"),
        pytest.param(
            status(instance(), instance("b", state="waiting", in_rotation=False)), 1, id="waiting for a GPU"
        ),
    ],
)
def test_exit_status(document: dict[str, object], good: int, ctl: Ctl, agent: FakeAgent) -> None:
    agent.say(document)
    assert ctl("status", "--socket", agent.socket).status == good
    assert ctl("status", "--json", "--socket", agent.socket).status == good


def test_table_has_a_row_for_each_instance(ctl: Ctl, agent: FakeAgent) -> None:
    two = instance("chat-numa1", port=8004, node=1, cpus="32-63,224-255", since=time.time() - 7500.5)
    agent.say(status(instance(since=time.time() - 3.5), two))
    lines = ctl("status", "--socket", agent.socket).out.splitlines()
    assert lines[:3] == [
        "Instance    State  Rotation  Port  Where     For",
        "chat-numa0  ready  in        8003  node 0     3s",
        "chat-numa1  ready  in        8004  node 1  2h05m",
    ]
    assert lines[-1] == "Proxy: active, generation 00c0ffee00c0ffee, clients connect to 8000"


CARDS = ["0000:03:00.0", "0000:18:00.0", "0000:83:00.0", "0000:9a:00.0"]


def on_gpus(name: str, *gpus: str, **changes: object) -> dict[str, object]:
    since = time.time() - 100000.5
    return instance(name, device="GPU", gpus=list(gpus), cpus="28-31,124-127", since=since) | changes


def test_table_of_nodes_and_gpus_with_one_of_each_kind_of_bad_news(ctl: Ctl, agent: FakeAgent) -> None:
    away, hung, given_up = (f"chat-gpu-{card}" for card in CARDS[1:])
    agent.say(
        status(
            instance("chat-numa3", node=3, since=time.time() - 100000.5),
            on_gpus(f"chat-gpu-{CARDS[0]}", CARDS[0]),
            on_gpus(away, CARDS[1], state="waiting", in_rotation=False, reason="its GPU is not there",
                    hint="to give it up: gpu.exclude"),
            on_gpus(hung, CARDS[2], state="draining", in_rotation=False, reason="its GPU hangs"),
            on_gpus(given_up, CARDS[3], state="quarantined", in_rotation=False, reason="it hangs still",
                    hint="ovms-scalerctl reload"),
        )
    )  # fmt: skip
    shown = ctl("status", "--socket", agent.socket)
    assert shown.status == 1
    lines = shown.out.splitlines()
    assert lines[:6] == [
        "Instance               State        Rotation  Port  Where           For",
        "chat-numa3             ready        in        8003  node 3        1d03h",
        "chat-gpu-0000:03:00.0  ready        in        8003  0000:03:00.0  1d03h",
        "chat-gpu-0000:18:00.0  waiting      out       8003  0000:18:00.0  1d03h",
        "chat-gpu-0000:83:00.0  draining     out       8003  0000:83:00.0  1d03h",
        "chat-gpu-0000:9a:00.0  quarantined  out       8003  0000:9a:00.0  1d03h",
    ]
    assert lines[7:12] == [
        f"{away} (waiting for 1d03h): its GPU is not there",
        "  next: to give it up: gpu.exclude",
        f"{hung} (draining for 1d03h): its GPU hangs",
        f"{given_up} (quarantined for 1d03h): it hangs still",
        "  next: ovms-scalerctl reload",
    ]


@pytest.mark.parametrize("count", [2, 4])
def test_instances_on_several_gpus_fit_80_columns(count: int, ctl: Ctl, agent: FakeAgent) -> None:
    agent.say(status(on_gpus("chat-hetero0", *CARDS[:count])))
    shown = ctl("status", "--socket", agent.socket).out
    assert max(map(len, shown.splitlines())) <= 80
    assert all(card in shown for card in CARDS[:count])


def test_where_one_is_that_is_bound_to_nothing_or_no_longer_wanted(ctl: Ctl, agent: FakeAgent) -> None:
    gone = instance("gone", node=None, port=None, pool=None, in_rotation=False, since=None)
    agent.say(status(instance("chat-whole", node=None, cpus="", since=None), gone))
    lines = ctl("status", "--socket", agent.socket).out.splitlines()
    assert lines[1:3] == [
        "chat-whole  ready  in        8003  unbound    -",
        "gone        ready  out          -  -          -",
    ]


def test_each_instance_that_does_not_serve_is_explained(ctl: Ctl, agent: FakeAgent) -> None:
    failed = instance(
        "chat-numa1",
        state="failed",
        in_rotation=False,
        reason="ovms ended with exit status 64, a usage error: ovms refused its arguments",
        hint="journalctl -u ovms@chat-numa1.service",
        since=time.time() - 61.5,
    )
    agent.say(status(instance(), failed))
    shown = ctl("status", "--socket", agent.socket).out
    assert (
        "\nchat-numa1 (failed for 1m01s): ovms ended with exit status 64, a usage error:\n"
        "ovms refused its arguments\n"
        "  next: journalctl -u ovms@chat-numa1.service\n"
    ) in shown
    assert "chat-numa0 (" not in shown


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        pytest.param(
            {"proxy": SILENT_PROXY},
            ["Proxy: failed, does not answer, clients connect to 8000", "  bind() failed",
             "  next: systemctl status ovms-scaler-proxy"],
            id="proxy down",
        ),
        pytest.param(
            {"proxy": {"state": "active", "generation": "a", "waits": "changes wait for old workers to end",
                       "old_workers": 12, "cut_requests": 3, "hint": "do this"}},
            ["  changes wait for old workers to end: 12 are still there",
             "  requests cut 3, as they outlasted proxy.shutdown_timeout_sec", "  next: do this"],
            id="old workers",
        ),
        pytest.param(
            {"config": {"file": "/etc/x.toml", "error": "/etc/x.toml: pool: bad\n  hint: mend",
                        "hint": "ovms-scalerctl check-config"}},
            ["/etc/x.toml is not accepted", "  /etc/x.toml: pool: bad", "    hint: mend",
             "  next: ovms-scalerctl check-config"],
            id="file not accepted",
        ),
        pytest.param({"problems": ["one"], "problems_hint": "do",
                      "warnings": ["two"], "warnings_hint": "look"},
                     ["Problems", "  one\n  next: do", "Warnings", "  two\n  next: look"],
                     id="problems and warnings"),
        pytest.param({"pools": FULL_AND_EMPTY, "warnings": ["no GPU"]},
                     ["pool fast has no instance", "  next: ovms-scalerctl topology", "  no GPU"],
                     id="a pool without an instance"),
        pytest.param({"instances": []}, ["The agent has not looked at the instances yet."], id="too early"),
        pytest.param({"instances": [], "proxy": NO_PROXY},
                     ["No instance is wanted: /etc/ovms-scaler/config.toml has no pool."], id="no pool"),
    ],
)  # fmt: skip
def test_table_says(changes: dict[str, object], sentences: list[str], ctl: Ctl, agent: FakeAgent) -> None:
    agent.say(status(instance()) | changes)
    shown = ctl("status", "--socket", agent.socket).out
    for sentence in sentences:
        assert f"\n{sentence}" in f"\n{shown}"


def test_long_names_and_lists_fit_80_columns(ctl: Ctl, agent: FakeAgent) -> None:
    name = "a-name-of-as-many-as-32-characte-numa12.3"
    cpus = ",".join(str(cpu) for cpu in range(0, 64, 2))
    agent.say(status(instance(name, cpus=cpus, in_rotation=False, reason="because " * 30)))
    shown = ctl("status", "--socket", agent.socket).out
    assert max(map(len, shown.splitlines())) <= 80


def test_an_agent_whose_pools_are_all_empty_has_looked(ctl: Ctl, agent: FakeAgent) -> None:
    agent.say(status(pools=[{"name": "fast", "instances": 0}]))
    shown = ctl("status", "--socket", agent.socket).out
    assert shown.startswith("pool fast has no instance; the warnings below tell why\n")
    assert "has not looked" not in shown


@pytest.mark.parametrize(
    "document",
    [
        pytest.param({}, id="empty"),
        pytest.param({"instances": "none", "proxy": [], "config": 7, "warnings": {}}, id="other types"),
        pytest.param({"instances": [{"gpus": 7}], "pools": ["a", {}]}, id="odd GPUs and pools"),
        pytest.param({"instances": [1, {}, {"id": None, "since": "now", "port": []}]}, id="odd instances"),
    ],
)
def test_a_document_of_another_version_is_shown_as_far_as_it_goes(
    document: object, ctl: Ctl, agent: FakeAgent
) -> None:
    agent.say(document)
    shown = ctl("status", "--socket", agent.socket)
    assert shown.status in (0, 1)
    assert shown.err == ""


def test_the_real_document_of_an_agent_without_a_configuration(ctl: Ctl, agent: FakeAgent) -> None:
    error = "/etc/ovms-scaler/config.toml: cannot read: No such file or directory"
    agent.say(
        status_document(
            None,
            Facts(),
            None,
            {},
            config_file="/etc/ovms-scaler/config.toml",
            config_error=error,
            problems=(),
            observed_sec=0.0,
        )
    )
    shown = ctl("status", "--socket", agent.socket)
    assert shown.status == 1
    assert "cannot read: No such file or directory" in shown.out


def test_styles_are_for_states_that_exist() -> None:
    assert set(status_view.STYLES) <= set(State)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (0, "0s"), (59.9, "59s"), (60, "1m00s"), (3599, "59m59s"), (3600, "1h00m"),
     (86399, "23h59m"), (86400, "1d00h"), (1e9, "11574d01h")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_colours_only_on_a_terminal(agent: FakeAgent, tmp_path: Path, ctl: Ctl) -> None:
    agent.say(status(instance()))
    assert "\x1b" not in ctl("status", "--socket", agent.socket).out
