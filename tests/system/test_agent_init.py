# SPDX-License-Identifier: Apache-2.0
"""From an installed package to an answer without writing a line: init, then enable."""

import json
from collections.abc import Callable

import pytest
from lab.host import Host
from lab.image import Image
from system import agent_host

from ovms_scaler import __version__

# The model lies in /srv/models/tiny.
MODEL = "tiny"
COMPLETIONS = (
    "/usr/share/bash-completion/completions/ovms-scalerctl",
    "/usr/share/fish/vendor_completions.d/ovms-scalerctl.fish",
    "/usr/share/zsh/vendor-completions/_ovms-scalerctl",
)
COMPLETE = """\
. /usr/share/bash-completion/bash_completion
. /usr/share/bash-completion/completions/ovms-scalerctl
COMP_LINE='ovms-scalerctl drain chat-' COMP_POINT=26 COMP_WORDS=(ovms-scalerctl drain chat-) COMP_CWORD=2
_ovms_scalerctl ovms-scalerctl
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def host(boot: Callable[..., Host], installed_image: Image) -> Host:
    return boot(installed_image, binds=agent_host.BINDS)


def test_init_then_enable_serves(host: Host) -> None:
    written = host.run("ovms-scalerctl", "init", "--no-input")
    assert written.stderr == ""
    assert host.run("ovms-scalerctl", "check-config").returncode == 0
    host.run("systemctl", "enable", "--now", agent_host.AGENT)
    agent_host.wait_until_routed(host, 1)
    body = {"model": MODEL, "prompt": "Tell me", "max_tokens": 2}
    host.wait_for(
        lambda: host.http("POST", "/v3/completions", port=8000, body=body, timeout_sec=30).status == 200,
        10,
        "an answer at port 8000",
    )
    # What serves is not replaced, unless somebody insists.
    again = host.run("ovms-scalerctl", "init", "--no-input", check=False)
    assert again.returncode == 1
    assert "--force" in again.stderr
    forced = host.run("ovms-scalerctl", "init", "--no-input", "--force", "--listen", "8001")
    assert forced.stdout.endswith("  ovms-scalerctl reload --wait\n")
    host.run("ovms-scalerctl", "reload", "--wait")
    host.wait_for(
        lambda: host.http("POST", "/v3/completions", port=8001, body=body, timeout_sec=30).status == 200,
        10,
        "an answer at port 8001",
    )
    versions = json.loads(host.run("ovms-scalerctl", "version", "--json").stdout)
    assert versions["ovms_scaler"] == versions["ovms_scalerctl"] == __version__
    assert (versions["problems"], versions["warnings"]) == ({}, [])
    for path in COMPLETIONS:
        assert host.exists(path)
    if host.exists("/usr/share/bash-completion/bash_completion"):
        assert host.run("bash", "--norc", "-c", COMPLETE).stdout == "chat-numa0\n"
