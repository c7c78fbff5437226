# SPDX-License-Identifier: Apache-2.0
"""Where the front is: which addresses are this machine's, and what of a URL nobody may see."""

import re
import socket
from pathlib import Path

import pytest
from ctl_lab import Ctl

from ovms_scaler.ctl.bench_place import Wish, find_place, is_own

NOWHERE = Path("/nowhere")


def wish(url: str) -> Wish:
    return Wish(url=url, model="", api_key_file=None, ca_file=None, is_insecure=False, timeout_sec=1.0)


def test_what_stands_in_a_url_before_the_host_is_sent_and_not_shown() -> None:
    endpoint = find_place(wish("http://me:se%63ret@127.0.0.1:8000/v3"), NOWHERE).endpoint
    assert endpoint.url == "http://127.0.0.1:8000/v3"
    assert endpoint.headers() == {"Authorization": "Basic bWU6c2VjcmV0"}
    assert "secret" not in repr(endpoint)


@pytest.mark.parametrize("url", ["ftp://me:secret@host/v3", "http://me:secret@127.0.0.1:1/v3"])
def test_a_password_is_in_no_error(url: str, ctl: Ctl) -> None:
    refused = ctl("bench", "--url", url, "--socket", NOWHERE)
    assert (refused.status, refused.out) == (1, "")
    assert "secret" not in refused.err


def test_a_password_and_a_key_are_one_too_many(ctl: Ctl, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("abc\n")
    url = "http://me:pw@127.0.0.1:1/v3"
    refused = ctl("bench", "--url", url, "--api-key-file", key, "--socket", NOWHERE)
    assert refused.status == 1
    assert "either a password or an API key" in refused.err


OWN = ("127.0.0.1", "127.1", "127.5.6.7", "localhost", "LOCALHOST", "[::1]", "0.0.0.0", "[::]", "2130706433")


@pytest.mark.parametrize("host", OWN)
def test_this_machine_is_known_by_whatever_address(host: str) -> None:
    assert is_own(f"http://{host}:8000/v3")


def test_this_machine_is_known_by_the_addresses_of_its_network() -> None:
    trie = Path("/proc/net/fib_trie").read_text()
    found = set(re.findall(r"\|-- (\S+)\n +/32 host LOCAL", trie))
    assert found
    assert all(is_own(f"http://{address}:8000/v3") for address in found)


@pytest.mark.parametrize("host", ["198.51.100.7", "[2001:db8::7]", "a" * 70 + ".invalid"])
def test_other_machines_are_others(host: str) -> None:
    assert not is_own(f"http://{host}:8000/v3")


def test_a_name_that_leads_here_and_elsewhere_is_not_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []

    def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (address, 0)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert not is_own("http://server:8000/v3")
    found.append("127.0.1.1")
    assert is_own("http://server:8000/v3")
    found.append("198.51.100.7")
    assert not is_own("http://server:8000/v3")
