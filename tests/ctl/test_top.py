# SPDX-License-Identifier: Apache-2.0
"""``ovms-scalerctl top``: in a pipe, on a screen that is too small, and when the agent goes away."""

import json
import os
import signal
import subprocess
from typing import Any

import pytest
from ctl_lab import CTL, Ctl, FakeAgent, instance, status
from ctl_screen import screen
from rich.console import Console

from ovms_scaler.core.measures import Looks, measures_document
from ovms_scaler.ctl import top as running
from ovms_scaler.ctl.top_view import render_screen

GIB = 1 << 30
CARD = "0000:03:00.0"


def measured(name: str = "chat-numa0", **changes: object) -> dict[str, object]:
    """What a busy instance does and uses, but for ``changes``."""
    return {
        "id": name,
        "requests_per_sec": 12.34,
        "errors_per_sec": 0.0,
        "in_flight": 45,
        "ttfb_sec": {"median": 0.182, "p99": 1.43},
        "cpu_cores": 31.52,
        "memory_bytes": 24 * GIB,
        "gpus": [],
    } | changes


def measures(*instances: dict[str, object], **changes: object) -> dict[str, object]:
    return {
        "at": 1000.0,
        "window_sec": 10.0,
        "use_span_sec": 2.0,
        "front": {
            "requests_per_sec": 1234.5,
            "errors_per_sec": 0.1,
            "rejected_per_sec": 0,
            "in_flight": 345,
            "ttfb_sec": {"median": 0.182, "p99": 1.43},
        },
        "instances": list(instances),
        "nodes": [
            {"id": 0, "cpu_share": 0.634, "memory_used_bytes": 181 * GIB, "memory_bytes": 256 * GIB},
            {"id": 1, "cpu_share": None, "memory_used_bytes": None, "memory_bytes": 256 * GIB},
        ],
        "gpus": [{"address": CARD, "busy_share": 0.98, "memory_used_bytes": None}],
    } | changes


def say(agent: FakeAgent, measured: object, shown: object) -> None:
    agent.say(measured, path="/v1/measures")
    agent.say(shown, path="/v1/status")


def on_card(**changes: object) -> dict[str, object]:
    gpus = [{"address": CARD, "busy_share": 0.98, "memory_bytes": None}]
    return measured(f"chat-gpu-{CARD}", gpus=gpus, **changes)


def bad(name: str = "chat-numa1", **changes: object) -> dict[str, object]:
    return (
        instance(
            name,
            state="quarantined",
            in_rotation=False,
            since=940.0,
            reason="it kept failing",
            hint="do this",
        )
        | changes
    )


def test_everything_at_80_columns(ctl: Ctl, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    say(
        agent,
        measures(measured(), measured("chat-numa1", errors_per_sec=1.5, ttfb_sec=None), on_card()),
        status(instance(), bad(), instance(f"chat-gpu-{CARD}", gpus=[CARD])),
    )
    shown = ctl("top", "--once", "--socket", agent.socket)
    assert (shown.status, shown.err) == (0, "")
    lines = shown.out.splitlines()
    assert lines[0].endswith("2 of 3 instances in rotation")
    assert lines[1:] == [
        "1,234 requests/s, 0.1 errors/s, 0 rejected/s, 345 in flight",
        "time to first byte: median 182 ms, p99 1.4 s",
        "",
        "                                    Req     In  First Errors   CPU Memory",
        "Instance              State          /s flight   byte     /s cores    GiB    GPU",
        "chat-gpu-0000:03:00.0 ready        12.3     45 182 ms      0  31.5   24.0   98 %",
        "chat-numa0            ready        12.3     45 182 ms      0  31.5   24.0      -",
        "chat-numa1            quarantined  12.3     45      -    1.5  31.5   24.0      -",
        "",
        "chat-numa1 (quarantined for 1m00s): it kept failing",
        "  next: do this",
        "",
        "Node   CPU          Memory    GPU           Busy",
        "   0  63 %  181 of 256 GiB    0000:03:00.0  98 %",
        "   1     -               -",
    ]


def test_json_is_the_agent_s_document(ctl: Ctl, agent: FakeAgent) -> None:
    document = measures(measured(), future=[1])
    say(agent, document, status(instance()))
    assert ctl("top", "--once", "--json", "--socket", agent.socket).json() == document


def test_an_agent_that_was_never_asked_is_asked_again(
    ctl: Ctl, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no time to compare with before the second look."""
    monkeypatch.setattr(running, "SECOND_LOOK_SEC", 0.01)
    say(agent, measures(measured(), use_span_sec=None), status(instance()))
    assert ctl("top", "--once", "--json", "--socket", agent.socket).status == 0
    assert agent.requests.count("GET /v1/measures") == 2


def test_the_real_document_of_an_agent_that_knows_nothing(ctl: Ctl, agent: FakeAgent) -> None:
    document = measures_document((), None, Looks(), at=1000.0, now_sec=1.0) | {"use_span_sec": 1.0}
    say(agent, document, status())
    shown = ctl("top", "--once", "--socket", agent.socket).out
    assert "- requests/s, - errors/s, - rejected/s, 0 in flight" in shown
    assert "There is no instance.\n  next: ovms-scalerctl status\n" in shown


def test_what_else_is_wrong_is_said(ctl: Ctl, agent: FakeAgent) -> None:
    say(agent, measures(measured()), status(instance(), problems=["systemd does not answer"]))
    shown = ctl("top", "--once", "--socket", agent.socket).out
    assert "Something else is wrong.\n  next: ovms-scalerctl status\n" in shown


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"problems": ["a"], "problems_hint": "do this"}, "Something hinders the agent.\n  next: do this\n"),
        ({"config": {"error": "a", "hint": "do"}}, "The configuration file is not accepted.\n  next: do\n"),
        ({"proxy": {"error": "a", "hint": "do"}}, "The proxy is not as it should be.\n  next: do\n"),
    ],
    ids=["problem", "configuration", "proxy"],
)
def test_what_else_is_wrong_has_the_command_that_status_names(
    changes: dict[str, object], said: str, ctl: Ctl, agent: FakeAgent
) -> None:
    say(agent, measures(measured()), status(instance()) | changes)
    assert said in ctl("top", "--once", "--socket", agent.socket).out


@pytest.mark.parametrize(
    "document",
    [
        pytest.param({}, id="empty"),
        pytest.param({"front": [], "instances": 7, "nodes": {}, "gpus": [1]}, id="other types"),
        pytest.param(
            {"instances": [{"id": "chat-numa0", "requests_per_sec": "many", "gpus": [{}]}], "nodes": [{}]},
            id="odd values",
        ),
    ],
)
def test_a_document_of_another_version_is_shown_as_far_as_it_goes(
    document: object, ctl: Ctl, agent: FakeAgent
) -> None:
    say(agent, document, status(instance()))
    shown = ctl("top", "--once", "--socket", agent.socket)
    assert (shown.status, shown.err) == (0, "")
    assert "chat-numa0" in shown.out


def test_names_are_sorted_as_people_count(ctl: Ctl, agent: FakeAgent) -> None:
    names = ["chat-numa10", "chat-numa9", "b-numa0", "chat-numa1.10", "chat-numa1.9"]
    say(agent, measures(*map(measured, names)), status(*map(instance, names)))
    lines = ctl("top", "--once", "--socket", agent.socket).out.splitlines()
    shown = [line.split()[0] for line in lines if "-numa" in line]
    assert shown == ["b-numa0", "chat-numa1.9", "chat-numa1.10", "chat-numa9", "chat-numa10"]


@pytest.mark.parametrize("columns", [60, 80, 100, 132])
def test_the_widest_numbers_and_names_fit(
    columns: int, ctl: Ctl, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "a-name-of-as-many-as-32-characte-numa12.3"
    wide = measured(
        name, requests_per_sec=99999.0, in_flight=12345, ttfb_sec={"median": 1.0, "p99": 1234.0},
        errors_per_sec=1234.0, cpu_cores=511.9, memory_bytes=1500 * GIB,
        gpus=[{"address": CARD, "busy_share": 1.0}],
    )  # fmt: skip
    say(agent, measures(wide), status(bad(name, hint="", reason="")))
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = ctl("top", "--once", "--socket", agent.socket).out.splitlines()
    row = next(line for line in lines[4:] if "quarantined" in line)
    assert len(row) <= columns
    assert all(number in row for number in ("99,999", "12,345", "1.0 s"))
    assert row.split()[0].endswith("numa12.3")


def test_in_a_pipe_nothing_is_cut(ctl_process: Ctl, agent: FakeAgent) -> None:
    name = "a-name-of-as-many-as-32-characte-numa12.3"
    say(agent, measures(measured(name)), status(instance(name)))
    env = {name: text for name, text in os.environ.items() if name != "COLUMNS"}
    shown = ctl_process("top", "--once", "--socket", agent.socket, env=env | {"COLUMNS": ""}).out
    row = next(line for line in shown.splitlines() if line.startswith(name))
    assert " ".join(row.split()) == f"{name} ready 12.3 45 182 ms 1.4 s 0 31.5 24.0"


@pytest.mark.parametrize(("arguments", "first"), [([], ""), (["--json"], "{")], ids=["tables", "JSON"])
def test_in_a_pipe_one_follows_the_other(arguments: list[str], first: str, agent: FakeAgent) -> None:
    say(agent, measures(measured()), status(instance()))
    command = [*CTL, "top", "--interval", "0.1", *arguments, "--socket", str(agent.socket)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            for _ in range(2):
                line = process.stdout.readline()
                while "chat-numa0" not in line:
                    line = process.stdout.readline()
                assert not first or json.loads(line)["instances"][0]["id"] == "chat-numa0"
            agent.answers.clear()
            agent.answer = None
            assert process.stderr.readline().startswith("cannot reach the agent: ")
        finally:
            process.kill()


def test_it_needs_an_agent_at_first(ctl: Ctl, agent: FakeAgent) -> None:
    agent.answer = None
    for arguments in ([], ["--once"], ["--json"]):
        assert ctl("top", *arguments, "--socket", agent.socket).status == 3


@pytest.mark.parametrize("interval", ["0.01", "-1", "x", "nan"])
def test_a_senseless_interval_is_refused(interval: str, ctl: Ctl, agent: FakeAgent) -> None:
    shown = ctl("top", "--once", "--interval", interval, "--socket", agent.socket)
    assert shown.status == 2
    assert agent.requests == []


def draw(
    count: int, *, page: int = 0, height: int = 24, nodes: int = 2, ill: int = 0, width: int = 80
) -> tuple[list[str], int]:
    """The lines of a screen, and how many pages there are."""
    names = [f"chat-numa{number}" for number in range(count)]
    shown = [bad(name) if number < ill else instance(name) for number, name in enumerate(names)]
    all_nodes = [{"id": number, "cpu_share": 0.5} for number in range(nodes)]
    console = Console(width=width, height=height, color_system=None)
    document = measures(*map(measured, names), nodes=all_nodes)
    view = render_screen(document, status(*shown), console, page=page)
    with console.capture() as captured:
        console.print(view.shown)
    return captured.get().splitlines(), view.pages


@pytest.mark.parametrize("height", [24, 43])
@pytest.mark.parametrize("count", [1, 16, 40])
@pytest.mark.parametrize(("nodes", "ill"), [(1, 0), (8, 1), (1, 8), (8, 8)])
def test_a_screen_is_never_too_small(height: int, count: int, nodes: int, ill: int) -> None:
    seen: list[str] = []
    _, pages = draw(count, height=height, nodes=nodes, ill=ill)
    for page in range(pages):
        lines, _ = draw(count, page=page, height=height, nodes=nodes, ill=ill)
        assert len(lines) <= height
        assert max(map(len, lines)) <= 80
        rows = [line.split()[0] for line in lines if line.startswith("chat-numa") and "(" not in line]
        assert rows
        seen += rows
    assert seen == [f"chat-numa{number}" for number in range(count)]


def test_a_screen_says_how_many_more_there_are() -> None:
    lines, pages = draw(16, nodes=8, ill=3)
    assert pages > 1
    shown = sum(line.startswith("chat-numa") and "(" not in line for line in lines)
    assert lines[-1] == f"1 to {shown} of 16, {16 - shown} more: space, b   q: quit"
    assert any(line.startswith(" ...") and line.split()[-1] == "more" for line in lines)
    assert "and 1 more: ovms-scalerctl status" in "\n".join(lines)


def test_pages_beyond_the_last_are_the_last() -> None:
    _, pages = draw(64)
    assert draw(64, page=1000) == draw(64, page=pages - 1)


def say_many(agent: FakeAgent, count: int) -> None:
    names = [f"chat-numa{number}" for number in range(count)]
    say(agent, measures(*map(measured, names)), status(*map(instance, names)))


def watch(agent: FakeAgent, **options: Any) -> Any:
    return screen("top", "--interval", "0.1", "--socket", agent.socket, **options)


def test_a_screen_is_left_as_it_was_with_q(agent: FakeAgent) -> None:
    say_many(agent, 2)
    with watch(agent) as shown:
        assert "\x1b[?1049h" in shown.read_until("q: quit")
        say(agent, measures(measured(requests_per_sec=77.7)), status(instance()))
        shown.read_until("77.7")
        shown.type("q")
        rest = shown.read_rest()
        assert shown.process.wait() == 0
    assert "\x1b[?1049l" in rest
    assert "\x1b[?25h" in rest


@pytest.mark.parametrize(
    ("number", "ended"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_screen_is_left_as_it_was_with_a_signal(
    number: signal.Signals, ended: int, agent: FakeAgent
) -> None:
    say_many(agent, 2)
    with watch(agent) as shown:
        shown.read_until("q: quit")
        shown.process.send_signal(number)
        rest = shown.read_rest()
        assert shown.process.wait() == ended
    assert "\x1b[?1049l" in rest
    assert "Traceback" not in rest


def test_a_screen_is_given_back_while_the_program_is_stopped(agent: FakeAgent) -> None:
    say_many(agent, 2)
    with watch(agent) as shown:
        shown.read_until("q: quit")
        shown.process.send_signal(signal.SIGTSTP)
        assert os.WIFSTOPPED(os.waitpid(shown.process.pid, os.WUNTRACED)[1])
        shown.read_until("\x1b[?1049l")
        shown.process.send_signal(signal.SIGCONT)
        shown.read_until("\x1b[?1049h")
        shown.read_until("q: quit")


def test_pages_are_turned(agent: FakeAgent) -> None:
    say_many(agent, 40)
    with watch(agent) as shown:
        assert "chat-numa39" not in shown.read_until("more: space, b")
        shown.type("\x1b[5~")
        assert "chat-numa39" in shown.read_until("more: space, b")
        shown.type(" ")
        assert "chat-numa0 " in shown.read_until("more: space, b")
        shown.type("q")
        shown.read_rest()
        assert shown.process.wait() == 0


@pytest.mark.parametrize(
    "keys",
    ["qq", "xq", " bq", "\x1b[Cq", "\x1b[5~\x1b[6~q", "\x1bOHq", "\x1bq", "\x1b\x1bq"],
    ids=["twice", "other key", "pages", "arrow", "sequences", "Home", "Alt", "Escape"],
)
def test_keys_that_arrive_together_all_count(keys: str, agent: FakeAgent) -> None:
    say_many(agent, 40)
    with watch(agent) as shown:
        shown.read_until("more: space, b")
        shown.type(keys)
        shown.read_rest()
        assert shown.process.wait() == 0


def test_a_key_may_arrive_in_parts(agent: FakeAgent) -> None:
    say_many(agent, 40)
    with watch(agent) as shown:
        shown.read_until("more: space, b")
        shown.type("\x1b[5")
        shown.read_until("more: space, b")  # drawn anew meanwhile, and no other page
        shown.type("~")
        assert "chat-numa39" in shown.read_until("chat-numa39")


def test_a_screen_outlives_the_agent(agent: FakeAgent) -> None:
    say_many(agent, 2)
    with watch(agent) as shown:
        shown.read_until("q: quit")
        agent.answers.clear()
        agent.answer = None
        shown.read_until("cannot reach the agent")
        say_many(agent, 3)
        shown.read_until("chat-numa2")


def test_nothing_is_coloured_with_no_color(agent: FakeAgent) -> None:
    say(agent, measures(measured(errors_per_sec=1.0)), status(instance(), bad()))
    with watch(agent, env={"NO_COLOR": "1"}) as shown:
        text = shown.read_until("q: quit")
    assert "\x1b[31m" not in text
    assert "\x1b[32m" not in text
