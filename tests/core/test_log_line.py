# SPDX-License-Identifier: Apache-2.0
"""Lines of an instance's log, from entries as the journal has them."""

import pytest
from journalctl_lab import Fields, engine, entry, manager, proxy

from ovms_scaler.core.log_line import LogLine, make_line, render_matches
from ovms_scaler.core.subject import Subject

SUBJECT = Subject(
    instances=frozenset({"chat-numa0"}), ports=frozenset({8003}), upstreams=frozenset({"everything"})
)
FAILED = (
    "2026/11/21 19:00:00 [error] 123#123: *45 connect() failed (111: Connection refused) while connecting "
    'to upstream, client: 10.0.0.1, server: , request: "POST /v3/completions HTTP/1.1", upstream: '
    '"http://127.0.0.1:8003/v3/completions", host: "server:8000"'
)


def line_of(fields: Fields) -> LogLine | None:
    return make_line({"__REALTIME_TIMESTAMP": "1000000", **{k: str(v) for k, v in fields.items()}}, SUBJECT)


def test_an_engine() -> None:
    assert line_of(engine("[INFO] loaded")) == LogLine(
        at=1.0, source="engine", level="info", text="[INFO] loaded", instance="chat-numa0"
    )


def test_systemd() -> None:
    text = "ovms@chat-numa0.service: Main process exited, code=killed, status=9/KILL"
    assert line_of(manager(text)) == LogLine(
        at=1.0, source="systemd", level="info", text=text, instance="chat-numa0"
    )


def test_a_coredump() -> None:
    fields = {
        "COREDUMP_UNIT": "ovms@chat-numa0.service",
        "PRIORITY": "2",
        "MESSAGE": "Process 7 dumped core.",
    }
    line = line_of({**fields, "_SYSTEMD_UNIT": "systemd-coredump@0.service"})
    assert line is not None
    assert (line.source, line.level, line.instance) == ("systemd", "critical", "chat-numa0")


def test_the_agent_in_its_own_words() -> None:
    line = line_of(
        entry("instance changed", priority=4, instance="chat-numa0", state="failed", reason="why")
    )
    assert line is not None
    assert (line.source, line.level, line.text) == ("agent", "warning", "chat-numa0 is failed: why")
    document = line.document()
    assert document["event"] == {
        "at": 1.0,
        "level": "warning",
        "event": "instance changed",
        "instance": "chat-numa0",
        "state": "failed",
        "reason": "why",
    }


def test_the_proxy_about_its_port_without_its_own_clock() -> None:
    assert line_of(proxy(FAILED)) == LogLine(
        at=1.0, source="proxy", level="error", text=FAILED.partition("*45 ")[2]
    )


@pytest.mark.parametrize(
    "text",
    [
        FAILED.replace("http://127.0.0.1:8003/v3/completions", "127.0.0.1:8003"),
        FAILED.replace("http://127.0.0.1:8003/v3", "http://everything/v3"),
    ],
    ids=["stream", "upstream"],
)
def test_the_proxy_about_what_it_has_other_names_for(text: str) -> None:
    line = line_of(proxy(text))
    assert line is not None
    assert line.source == "proxy"


@pytest.mark.parametrize(
    "fields",
    [
        engine("text", "chat-numa01"),
        manager("text", "chat-numa1"),
        entry("instance changed", instance="chat-numa1"),
        entry("agent started"),
        proxy(FAILED.replace(":8003/", ":80030/")),
        proxy(FAILED.replace("127.0.0.1:8003", "127.0.0.1:8004")),
        proxy(FAILED.replace("http://127.0.0.1:8003", "http://another")),
        proxy("2026/11/21 19:00:00 [emerg] 1#1: bind() to 0.0.0.0:8003 failed"),
        {**engine("text"), "__REALTIME_TIMESTAMP": "never"},
        {"MESSAGE": "text", "_SYSTEMD_UNIT": "ssh.service"},
        {},
    ],
)
def test_what_is_about_others(fields: Fields) -> None:
    assert line_of(fields) is None


def test_what_journalctl_is_asked_for_comes_from_whom_it_says() -> None:
    groups = " ".join(render_matches(SUBJECT, ("A=1",))).split(" + ")
    unit = "ovms@chat-numa0.service"
    assert groups == [
        f"_SYSTEMD_UNIT={unit} _SYSTEMD_UNIT=ovms-scaler-proxy.service",
        f"UNIT={unit} _PID=1",
        f"COREDUMP_UNIT={unit} _UID=0 MESSAGE_ID=fc2e22bc6ee647b6b90729ab34a250b1",
        "A=1",
    ]
