# SPDX-License-Identifier: Apache-2.0
"""Where a client on the host reaches each upstream."""

import pytest

from ovms_scaler.core.credentials import OPEN, Access
from ovms_scaler.core.fronts import endpoints_of
from ovms_scaler.core.nginx import Front, Upstream


def front(*listen: str, prefixes: tuple[str, ...] = ("",)) -> Front:
    upstreams = (
        Upstream(name=prefix or "chat", title="org/tiny", prefix=prefix, members_all=())
        for prefix in prefixes
    )
    return Front(listen=listen, upstreams=tuple(upstreams))


def urls(one: Front, access: Access = OPEN) -> list[object]:
    return [endpoint["url"] for endpoint in endpoints_of((one,), access)]


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("8000", "http://127.0.0.1:8000/v3"),
        ("0.0.0.0:80", "http://127.0.0.1:80/v3"),
        ("[::]:8000", "http://[::1]:8000/v3"),
        ("192.0.2.7:8000", "http://192.0.2.7:8000/v3"),
        ("[2001:db8::7]:8000", "http://[2001:db8::7]:8000/v3"),
    ],
)
def test_an_address_that_a_client_on_the_host_can_connect_to(listen: str, url: str) -> None:
    assert urls(front(listen)) == [url]


def test_each_model_behind_its_prefix() -> None:
    both = front("8000", prefixes=("chat", "code"))
    assert urls(both) == ["http://127.0.0.1:8000/chat/v3", "http://127.0.0.1:8000/code/v3"]


def test_what_a_client_needs() -> None:
    (found,) = endpoints_of((front("443"),), Access(has_api_keys=True, has_tls=True))
    assert found == {
        "upstream": "chat",
        "serves": "org/tiny",
        "url": "https://127.0.0.1:443/v3",
        "needs_api_key": True,
    }
