# SPDX-License-Identifier: Apache-2.0
"""The status page of an installed agent: its files are in the package, and it tells what is there."""

import json
from collections.abc import Iterator

import pytest
from lab.host import Host
from lab.image import Image
from markup import Element, parse
from system import agent_host

from ovms_scaler.page import CONTENT_SECURITY_POLICY

ADDRESS = "http://127.0.0.1:8002"
NAMES = ("chat-numa0.0", "chat-numa0.1")


@pytest.fixture(scope="module")
def host(installed_image: Image) -> Iterator[Host]:
    with agent_host.running_host(installed_image, agent_host.pool(), in_rotation=2) as booted:
        yield booted


def read(host: Host, path: str) -> str:
    return host.run("curl", "--fail", "--silent", "--show-error", ADDRESS + path).stdout


def read_live(host: Host) -> Element:
    return parse(read(host, "/fragment"))


def test_page_shows_who_serves_and_on_which_cores(host: Host) -> None:
    page = parse(read(host, "/"))
    assert page.one(role="status").text == "2 of 2 instances in rotation Nothing needs you."
    assert [one.text for one in page.one("table").all("th", scope="row")] == [
        f"{name} node 0, port {port}" for name, port in zip(NAMES, (8003, 8004), strict=True)
    ]
    cells = {one.attributes["title"].rpartition(": ")[2] for one in page.having("cores")[0].all("i")}
    assert {f"{name}, ready" for name in NAMES} <= cells
    assert page.having("events")[0].text.count("in rotation") >= 2
    assert len(list(page.having("figures")[0].all("div"))) == 7


def test_page_comes_with_its_policy(host: Host) -> None:
    head = host.run("curl", "--silent", "--head", f"{ADDRESS}/").stdout
    assert f"Content-Security-Policy: {CONTENT_SECURITY_POLICY}\r\n" in head


def test_page_says_what_to_type_when_one_is_stopped(host: Host) -> None:
    unit = f"ovms@{NAMES[1]}.service"
    host.run("systemctl", "stop", unit)
    agent_host.wait_for_state(host, NAMES[1], "stopped")
    page = read_live(host)
    assert page.one(role="status").text == "1 of 2 instances in rotation 1 thing to know of."
    (told,) = [one for one in page.having("troubles")[0].children if isinstance(one, Element)]
    assert told.one("code").text == f"systemctl start {unit}"
    # What it says is what is done then.
    host.run("systemctl", "start", unit)
    agent_host.wait_until_routed(host, 2)
    overview = json.loads(read(host, "/v1/overview"))
    assert overview["status"]["instances"][1]["in_rotation"]
    assert read_live(host).one("main").attributes["data-level"] == "good"
