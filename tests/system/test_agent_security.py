# SPDX-License-Identifier: Apache-2.0
"""API keys and TLS on a booted host: from files of root's, over reloads and refusals, and seen by nobody."""

import json
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from lab.host import Host
from lab.image import Image
from system import agent_host
from tls_lab import make_pair

KEY = "sk-0123456789abcdef"
NEW = "sk-fedcba9876543210"
KEYS = "/etc/ovms-scaler/api-keys"
CERTIFICATE, PRIVATE = "/etc/ovms-scaler/tls.crt", "/etc/ovms-scaler/tls.key"
CREDENTIALS = "/run/ovms-scaler-proxy/credentials"
PROXY = f"""
[proxy]
api_key_file = "{KEYS}"
tls_certificate = "{CERTIFICATE}"
tls_certificate_key = "{PRIVATE}"
"""
CONFIG = agent_host.pool() + PROXY
GENERATION = "/run/ovms-scaler-proxy/generation.conf"
READABLE = "find /run /var /etc /tmp -type f -readable -exec cat {} +"


@pytest.fixture(scope="module")
def host(installed_image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with agent_host.running_host(installed_image, agent_host.pool(), in_rotation=2) as booted:
        renew(booted, tmp_path_factory.mktemp("first"))
        booted.write(KEYS, f"# Alice\n{KEY}\n", mode=0o600)
        before = agent_host.read_footprint(booted)
        taken = agent_host.reload(booted, CONFIG)
        assert taken.returncode == 0, taken.stderr
        wait_until_ended(booted, before["workers"])
        yield booted


def renew(host: Host, directory: Path) -> None:
    pair = make_pair(directory)
    host.write(CERTIFICATE, pair.certificate.read_bytes())
    host.write(PRIVATE, pair.key.read_bytes(), mode=0o600)


def ask(host: Host, key: str = KEY, *, url: str = "https://localhost:8000", trust: str = CERTIFICATE) -> str:
    """The status that a client gets, "000" when it does not come to that."""
    curl = ("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", trust)
    return host.run(*curl, "-H", f"Authorization: Bearer {key}", f"{url}/v3/models", check=False).stdout


def wait_until_ended(host: Host, workers: Collection[str]) -> None:
    """Workers of an earlier configuration accept 0.1 s longer than the first of the new one."""
    host.wait_for(
        lambda: set(agent_host.read_footprint(host)["workers"]).isdisjoint(workers),
        30,
        "the workers with the old keys to end",
    )


def test_who_has_a_key_is_served_over_tls(host: Host) -> None:
    assert ask(host) == "200"
    assert ask(host, NEW) == "401"
    assert ask(host, url="http://localhost:8000") == "400"
    body = json.dumps({"model": agent_host.MODEL, "prompt": "hello", "max_tokens": 2})
    curl = ("curl", "-sS", "--cacert", CERTIFICATE, "-H", f"Authorization: Bearer {KEY}", "-d", body)
    answer = host.run(*curl, "https://localhost:8000/v3/completions").stdout
    assert '"choices"' in answer


def test_nothing_that_others_may_read_holds_a_secret(host: Host) -> None:
    secret = host.read(PRIVATE).splitlines()[1]
    host.run("ovms-scalerctl", "render", "--output", "/root/rendered")
    host.run("systemctl", "daemon-reload")
    for text in (
        host.run("ovms-scalerctl", "status", "--json").stdout,
        host.run("ovms-scalerctl", "plan", "--json").stdout,
        host.run("ovms-scalerctl", "plan").stdout,
        host.run("ps", "-ewwo", "args", "e").stdout,
        host.journal(),
        host.script("systemctl show '*'"),
        host.script("cat $(find /root/rendered -type f)"),
        host.script(f"runuser -u nobody -- {READABLE} 2>/dev/null || true"),
    ):
        assert KEY not in text
        assert secret not in text
    found = host.script(f"stat -c '%a %U %G' {CREDENTIALS} {CREDENTIALS}/*/ {CREDENTIALS}/*/*").splitlines()
    assert found == ["2750 root ovms-scaler-proxy"] * 2 + ["640 root ovms-scaler-proxy"] * 3
    assert host.run("runuser", "-u", "ovms", "--", "ls", CREDENTIALS, check=False).returncode != 0


def test_changed_files_are_taken_by_a_reload_and_only_then(host: Host, tmp_path: Path) -> None:
    before = agent_host.read_footprint(host)
    host.write("/root/old.crt", host.read(CERTIFICATE))
    try:
        renew(host, tmp_path)
        host.write(KEYS, f"{NEW}\n", mode=0o600)
        assert ask(host, trust="/root/old.crt") == "200"
        host.run("systemctl", "restart", agent_host.AGENT)
        agent_host.wait_until_routed(host, 2)
        assert ask(host, trust="/root/old.crt") == "200"
        host.run("systemctl", "reload", agent_host.AGENT)
        wait_until_ended(host, before["workers"])
        assert ask(host, NEW) == "200"
        assert ask(host, KEY) == "401"
        assert ask(host, NEW, trust="/root/old.crt") == "000"
        assert agent_host.read_footprint(host)["engines"] == before["engines"]
    finally:
        host.write(KEYS, f"{KEY}\n", mode=0o600)
        later = agent_host.read_footprint(host)
        host.run("systemctl", "reload", agent_host.AGENT)
        wait_until_ended(host, later["workers"])


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        pytest.param(
            f"chmod 644 {KEYS}", "must be readable for its owner only", id="keys that others may read"
        ),
        pytest.param(f"chown ovms {KEYS}", "must belong to root", id="keys of somebody else"),
        pytest.param(f"echo secret >{KEYS}", "line 1 is none", id="no key"),
        pytest.param(f"echo garbage >{PRIVATE}", "must be a private key that fits", id="no private key"),
        pytest.param(f"rm {CERTIFICATE}", "cannot be read: No such file", id="no certificate"),
    ],
)
def test_bad_files_are_refused_and_harm_nothing(host: Host, spoil: str, rule: str) -> None:
    host.script(f"cp -a {CERTIFICATE} {PRIVATE} {KEYS} /root/")
    generation = host.read(GENERATION)
    try:
        host.script(spoil)
        for command in (("reload",), ("check-config",)):
            refused = host.run("ovms-scalerctl", *command, check=False)
            assert refused.returncode == 1
            assert f"{agent_host.CONFIG}: proxy." in refused.stderr
            assert rule in refused.stderr
            assert "secret" not in refused.stderr
        host.run("systemctl", "restart", agent_host.AGENT)
        agent_host.wait_until_routed(host, 2)
        assert ask(host, trust="/root/tls.crt") == "200"
        assert host.read(GENERATION) == generation
    finally:
        host.script("cp -a /root/tls.crt /root/tls.key /root/api-keys /etc/ovms-scaler/")


def test_an_instance_that_stops_leaves_the_proxy_as_it_should_be(host: Host) -> None:
    """Without the agent the unit of the instance works out the generation, credentials included."""
    host.run("systemctl", "stop", agent_host.AGENT)
    host.run("systemctl", "kill", "--signal=KILL", "ovms@chat-numa0.0.service")
    curl = "curl -sS --unix-socket /run/ovms-scaler-proxy/work/internal.sock http://proxy/generation"
    host.wait_for(lambda: host.script(curl).strip() in host.read(GENERATION), 30, "the proxy to be reloaded")
    assert ask(host) == "200"
    host.run("systemctl", "start", agent_host.AGENT)
    agent_host.wait_until_routed(host, 2)
    assert ask(host, NEW) == "401"


def test_keys_may_be_a_credential_of_systemd(host: Host) -> None:
    path = f"/run/credentials/{agent_host.AGENT}/api-keys"
    host.write(
        f"/etc/systemd/system/{agent_host.AGENT}.d/keys.conf", f"[Service]\nSetCredential=api-keys:{NEW}\n"
    )
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", agent_host.AGENT)
    before = agent_host.read_footprint(host)
    taken = agent_host.reload(host, CONFIG.replace(KEYS, path))
    assert taken.returncode == 0, taken.stderr
    wait_until_ended(host, before["workers"])
    assert ask(host, NEW) == "200"
    assert ask(host, KEY) == "401"
