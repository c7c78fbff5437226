# SPDX-License-Identifier: Apache-2.0
"""What the page says of a machine: who has which core, what is wrong, and what to type."""

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import page_lab
import pytest
from markup import Element, parse
from page_lab import AT, CHAT, FAST, Overview, change, machine, overview

from ovms_scaler.core import news
from ovms_scaler.core.lifecycle import State
from ovms_scaler.page import render_fragment
from ovms_scaler.page.marks import letter_of


@pytest.fixture(autouse=True)
def in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def render(document: Overview) -> Element:
    return parse(render_fragment(document))


def troubles(page: Element) -> list[str]:
    found = page.having("troubles")
    return [one.text for one in found[0].children if isinstance(one, Element)] if found else []


def codes(page: Element) -> list[str]:
    return [one.text for one in page.all("code")]


def node(page: Element, number: int) -> Element:
    return page.one("li", data_key=f"Node {number}")


def letters(drawn: Element) -> str:
    """The marks of a node's cores, "-" for those that are nobody's, lower case for hatched ones."""
    (cores,) = drawn.having("cores")
    cells = [one for one in cores.children if isinstance(one, Element)]
    return "".join(
        cell.text.lower() if "out" in cell.attributes["class"] else cell.text or "-" for cell in cells
    )


# The machine


def test_each_core_is_drawn_once_with_the_letter_of_its_instance() -> None:
    page = render(page_lab.six_with_a_fault())
    assert letters(node(page, 0)) == "A" * 12 + "DDCC"
    assert letters(node(page, 1)) == "B" * 12 + "FFee"
    assert [one.text for one in page.having("owners")[0].all("li")] == ["chat-numa0: 12 cores"]


def test_384_cpus_are_192_cores_below_their_sockets() -> None:
    page = render(page_lab.sixteen())
    assert [one.one("h3").text for one in page.having("socket")] == ["Socket 0", "Socket 1"]
    first, second = page.having("socket")
    assert [one.attributes["data-key"] for one in first.having("node")] == ["Node 0", "Node 1", "Node 2"]
    assert len(second.having("node")) == 3
    assert sum(len(letters(one)) for one in page.having("node")) == 192
    assert "2 sockets, 6 nodes, 192 cores, 384 CPUs, 10 GPUs" in page.having("machine")[0].text
    (cell, *_) = page.having("cores")[0].all("i")
    assert cell.attributes["title"] == "CPU 0,192: chat-numa0, ready"


def test_cores_of_nobody_say_why() -> None:
    document = overview(machine(sockets=1, nodes=1, cores=8), CHAT)
    (entry,) = document["status"]["instances"]
    entry["cpus"] = "0-3,8-11"
    document["topology"] |= {"isolated": "6,14", "allowed": "0-6,8-14"}
    drawn = node(render(document), 0)
    assert letters(drawn) == "AAAA----"
    assert [one.text for one in drawn.having("owners")[0].all("li")] == [
        "chat-numa0: 4 cores", "free: 2 cores", "isolated: 1 core", "closed: 1 core",
    ]  # fmt: skip


def test_one_that_is_bound_to_no_core_has_those_of_nobody_else() -> None:
    document = overview(machine(sockets=1, nodes=1, cores=4), CHAT)
    document["status"]["instances"][0] |= {"cpus": "", "node": None}
    page = render(document)
    assert letters(node(page, 0)) == "AAAA"
    assert "unbound, port 8003" in page.one("table").text


def test_a_machine_with_one_socket_has_no_name_for_it() -> None:
    page = render(overview(machine(sockets=1, nodes=2, cores=2), CHAT))
    assert [one.text for one in page.having("machine")[0].all("h3")] == [
        "Node 0 CPUs 0-1,4-5", "Node 1 CPUs 2-3,6-7",
    ]  # fmt: skip
    assert not list(page.having("machine")[0].all("h4"))


def test_a_node_across_sockets_stands_below_none() -> None:
    document = overview(machine(sockets=1, nodes=1, cores=4), CHAT)
    document["topology"]["sockets"] = [{"id": 0, "cpus": "0-1,4-5"}, {"id": 1, "cpus": "2-3,6-7"}]
    assert [one.text for one in render(document).having("machine")[0].all("h3")] == ["Node 0 CPUs 0-7"]


def test_nodes_without_cpus_and_without_memory() -> None:
    document = page_lab.two()
    document["topology"]["nodes"] += [{"id": 2, "cpus": "", "cores": 0, "memory_bytes": 2**36}]
    document["topology"]["nodes"][1]["memory_bytes"] = 0
    document["measures"]["nodes"] = []
    page = render(document)
    assert [one.text for one in page.having("machine")[0].all("h3")][-1] == "Memory without CPUs"
    assert node(page, 2).text == "Node 2 no CPUs Memory \N{EN DASH} of 64.0 GiB"
    assert node(page, 1).text.endswith("Memory none")


def test_memory_is_told_by_instance() -> None:
    document = page_lab.two()
    size = document["topology"]["nodes"][0]["memory_bytes"]
    document["measures"]["nodes"][0] |= {"memory_used_bytes": size // 2, "memory_bytes": size}
    for one, part in zip(document["measures"]["instances"], (4, 8), strict=True):
        one["memory_by_node"] = {"0": size // part}
    bar = [one for one in node(render(document), 0).all("svg") if list(one.all("rect"))][-1]
    assert [tuple(one.attributes[name] for name in ("class", "x", "width")) for one in bar.all("rect")] == [
        ("k0", "0.0%", "25.0%"), ("k1", "25.0%", "12.5%"), ("others", "37.5%", "12.5%"),
    ]  # fmt: skip


def test_bars_never_leave_their_frame() -> None:
    document = page_lab.six()
    document["measures"]["nodes"][0] |= {"cpu_share": 7.5, "memory_used_bytes": 1e18}
    document["measures"]["instances"][0]["memory_by_node"] = {"0": 1e17}
    document["measures"]["gpus"][0] |= {"busy_share": -3.0, "memory_used_bytes": 1e15}
    for one in render(document).all("rect"):
        left, width = (float(one.attributes.get(name, "0%")[:-1]) for name in ("x", "width"))
        assert 0 <= left <= left + width <= 100


def test_a_card_that_is_away_is_drawn_where_its_cores_are() -> None:
    page = render(page_lab.six_with_a_fault())
    away, there = node(page, 1).having("card")
    assert away.text == "GPU 0000:83:00.0 away fast-gpu-0000:83:00.0, waiting, 2 host cores"
    assert there.text == (
        "GPU 0000:9a:00.0 xe e20b fast-gpu-0000:9a:00.0, 2 host cores "
        "Busy 76 % Memory \N{EN DASH} of 11.9 GiB"
    )


def test_cards_that_nobody_can_use_and_those_of_no_node() -> None:
    document = page_lab.six()
    first, second, *rest = document["topology"]["gpus"]
    document["topology"]["gpus"] = rest
    document["topology"]["gpus_without_render_node"] = [
        first | {"render_node": None, "driver": None}, second | {"render_node": None, "numa_node": None},
    ]  # fmt: skip
    page = render(document)
    assert node(page, 0).having("card")[0].text.startswith("GPU 0000:03:00.0 e20b no driver")
    loose = page.having("loose")[0]
    assert loose.one("h3").text == "GPUs on no known node"
    assert loose.having("card")[0].text.startswith("GPU 0000:18:00.0 xe e20b no render node")


@pytest.mark.parametrize(("index", "letter"), [(0, "A"), (25, "Z"), (26, "AA"), (51, "AZ"), (52, "BA")])
def test_letters(index: int, letter: str) -> None:
    assert letter_of(index) == letter


# The verdict


@pytest.mark.parametrize(
    ("make", "level", "headline", "call"),
    [
        (page_lab.six, "good", "6 of 6 instances in rotation", "Nothing needs you."),
        (page_lab.six_with_a_fault, "attention", "5 of 6 instances in rotation", "1 thing to know of."),
        (page_lab.sixteen_with_faults, "bad", "8 of 16 instances in rotation",
         "4 things to mend, 6 things to know of."),
        (page_lab.unreachable, "bad", "None of 2 instances in rotation",
         "Clients get 503 until one is. 4 things to mend."),
        (page_lab.starting, "attention", "None of 2 instances in rotation",
         "Clients get 503 until one is. 2 things to know of."),
        (page_lab.nothing, "unknown", "The agent has not looked at the instances yet",
         "It does so within seconds of its start."),
    ],
)  # fmt: skip
def test_verdict(make: Callable[[], Overview], level: str, headline: str, call: str) -> None:
    page = render(make())
    assert page.one("main").attributes["data-level"] == level
    assert page.one("main").attributes["data-title"].startswith(headline)
    assert page.one(role="status").text == f"{headline} {call}"


@pytest.mark.parametrize(("state", "level"), [("stopped", "bad"), ("loading", "attention")])
def test_nobody_in_rotation_is_bad_unless_somebody_comes(state: str, level: str) -> None:
    document = change(page_lab.two(), "chat-numa0", state="stopped")
    change(document, "chat-numa1", state=state)
    assert render(document).one("main").attributes["data-level"] == level


def test_only_the_verdict_is_read_out_as_it_changes() -> None:
    page = render(page_lab.sixteen_with_faults())
    assert [one.tag for one in page.all() if one.attributes.get("role") in ("status", "alert", "log")] == [
        "div"
    ]
    assert not [one for one in page.all() if "aria-live" in one.attributes]
    # What changes all the time is not in it.
    assert not re.search(r"\d+[smhd]\b|:", page.one(role="status").text)


@pytest.mark.parametrize("make", page_lab.NAMED.values(), ids=page_lab.NAMED)
def test_good_is_what_ctl_calls_good(make: Callable[[], Overview]) -> None:
    document = make()
    level = render(document).one("main").attributes["data-level"]
    is_good = bool(document["status"]) and news.is_good(document["status"])
    assert level != "good" or is_good
    assert is_good or level in ("attention", "bad", "unknown")


@pytest.mark.parametrize("state", [state for state in State if state is not State.ready])
def test_each_state_out_of_rotation_names_a_command(state: State) -> None:
    document = change(page_lab.two(), "chat-numa0", state=state.value, reason="it is as it is", hint="")
    page = render(document)
    (said,) = troubles(page)
    assert said.startswith(f"chat-numa0 {state.value} for 2m14s: it is as it is Next:")
    commands = codes(page.having("troubles")[0])
    assert commands
    assert "chat-numa0" in commands[0] or commands[0].startswith("ovms-scalerctl ")


def test_one_that_is_about_to_be_put_in_rotation_needs_no_command() -> None:
    page = render(change(page_lab.two(), "chat-numa0", state="ready"))
    assert troubles(page) == ["chat-numa0 ready for 2m14s: it is about to be put in rotation"]


def test_what_is_wrong_stands_before_what_is_not() -> None:
    found = [one.split(" ")[0] for one in troubles(render(page_lab.sixteen_with_faults()))]
    assert found == [
        "/etc/ovms-scaler/config.toml", "chat-numa0", "fast-gpu-0000:11:00.0", "fast-gpu-0000:26:00.0",
        "chat-numa1", "chat-numa2", "chat-numa3",
    ]  # fmt: skip


def test_of_many_that_fail_the_table_tells_the_rest() -> None:
    page = render(page_lab.sixteen_with_faults())
    assert page.having("verdict")[0].one("a").text == "3 more in the table of instances"
    rows = page.one("table").having("why")
    assert len(rows) == 9
    assert all(codes(row) for row in rows)


def test_the_proxy_and_the_agent_name_commands_too() -> None:
    assert troubles(render(page_lab.unreachable()))[:2] == [
        "the proxy is failed, and does not answer: clients may get nothing bind() to 0.0.0.0:8000 failed "
        "(98: Address already in use) Next: systemctl status ovms-scaler-proxy "
        "Copy systemctl status ovms-scaler-proxy",
        "the agent is hindered: systemd has not answered for 12 s Next: journalctl -eu ovms-scaler "
        "Copy journalctl -eu ovms-scaler",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said", "command"),
    [
        ({"orders": {"paused_since": AT - 60}, "deferred": ["start chat-numa1"]},
         "the agent is paused for 1m00s: it observes and does nothing it would now: start chat-numa1",
         "ovms-scalerctl resume"),
        ({"pools": [{"name": "fast", "instances": 0}]}, "pool fast has no instance",
         "ovms-scalerctl topology"),
        ({"config": {"file": "/c.toml", "error": "bad", "hint": "ovms-scalerctl check-config; then: do"}},
         "/c.toml is not accepted",
         "ovms-scalerctl check-config"),
    ],
    ids=["paused", "empty pool", "refused file"],
)  # fmt: skip
def test_general_troubles(changes: dict[str, Any], said: str, command: str) -> None:
    document = page_lab.two()
    document["status"] |= changes
    page = render(document)
    assert troubles(page)[0].startswith(said)
    assert codes(page.having("troubles")[0])[0] == command


def test_warnings_name_a_command() -> None:
    (section,) = render(page_lab.sixteen_with_faults()).having("warnings")
    assert codes(section) == ["ovms-scalerctl topology"]


def test_a_remedy_stands_alone() -> None:
    """No other command before it, and one to copy."""
    page = render(change(page_lab.two(), "chat-numa0", state="failed", reason="bad", hint="apt install a"))
    assert troubles(page) == ["chat-numa0 failed for 2m14s: bad Next: apt install a Copy apt install a"]


def test_one_that_is_no_longer_wanted_is_not_counted() -> None:
    document = page_lab.two()
    document["status"]["instances"][1] |= {
        "pool": None, "port": None, "cpus": "", "state": "draining", "in_rotation": False,
    }  # fmt: skip
    page = render(document)
    assert page.one("h2", id="verdict").text == "1 of 1 instance in rotation"
    assert "no longer wanted" in page.one("table").text


# Instances, front, events


def test_a_row_tells_what_an_instance_does() -> None:
    rows = [row.text for row in render(page_lab.six_with_a_fault()).one("table").all("tr")]
    assert rows[1] == (
        "chat-numa0 node 0, port 8003 ready for 3d04h in 3.1 11 310 ms / 1.5 s 0 10.3 28.4 GiB"
    )
    assert rows[5] == (
        "fast-gpu-0000:83:00.0 GPU 0000:83:00.0, port 8007 waiting for 2m14s out "
        "0 0 unknown 0 unknown unknown"
    )


def test_front_tells_what_clients_see() -> None:
    figures = [one.text for one in render(page_lab.sixteen_with_faults()).having("figures")[0].all("div")]
    assert figures == [
        "Requests/s 63.7 1,204,332 in all", "In flight 111", "Time to first byte 214 ms median; p99 1.4 s",
        "Errors/s 0.4 57 in all", "Rejected/s 2.1 388 in all", "Retried 2 in all",
        "Cut 0 by reloads, in all",
    ]  # fmt: skip


def test_events_are_the_newest_first_and_the_rest_is_folded() -> None:
    page = render(page_lab.six_with_a_fault())
    (section,) = page.having("events")
    items = list(section.all("li"))
    assert len(items) == 11
    assert items[0].text.startswith("01:49:53 the proxy runs with new files")
    assert items[1].text == (
        "01:49:53 warning fast-gpu-0000:83:00.0 is waiting (was ready): its GPU 0000:83:00.0 is not there "
        'Next: ovms-scalerctl topology to give it up: gpu.exclude = ["0000:83:00.0"]'
    )
    # Of another day than today's.
    assert items[3].text.startswith("23 Jul 21:52:59 ")
    assert section.one("summary").text == "3 older"
    assert section.one("details").attributes.keys() == {"data-key"}


def test_pools_side_by_side_share_no_letter() -> None:
    page = render(overview(machine(sockets=1, nodes=1, cores=8, gpus=[("0000:03:00.0", 0)]), CHAT, FAST))
    marks = [one.having("mark")[0].children for one in page.one("table").all("th", scope="row")]
    assert marks == [["A"], ["B"]]
