# SPDX-License-Identifier: Apache-2.0
"""``ovms-scalerctl version``: who is which version, and an upgrade that the agent does not know of."""

import os
import platform
from pathlib import Path
from typing import Any

import pytest
from ctl_lab import Ctl, FakeAgent, status, write_config

from ovms_scaler import __version__

# What the release says (src/cli_parser.cpp); it needs its own libraries.
BANNER = """\
#!/bin/sh
[ "$LD_LIBRARY_PATH" = {lib} ] || exit 127
echo "OpenVINO Model Server 2026.3.1.d7bf9f1d3
OpenVINO backend 2026.3.0"
"""


@pytest.fixture
def program(open_directory: Path) -> Path:
    program = open_directory / "ovms/bin/ovms"
    program.parent.mkdir(parents=True)
    program.write_text(BANNER.format(lib=open_directory / "ovms/lib"))
    program.chmod(0o755)
    return program


@pytest.fixture
def config(tmp_path: Path, program: Path) -> Path:
    return write_config(tmp_path, f'[engine]\nbinary = "{program}"\n')


def read(ctl: Ctl, agent: FakeAgent, config: Path) -> dict[str, Any]:
    asked = ctl("version", "--json", "--config", config, "--socket", agent.socket)
    assert (asked.status, asked.err) == (0, "")
    return dict(asked.json())


def test_everybody_is_asked(ctl: Ctl, agent: FakeAgent, config: Path, program: Path) -> None:
    agent.say(status(version=__version__))
    document = read(ctl, agent, config)
    assert (document["ovms_scalerctl"], document["ovms_scaler"]) == (__version__, __version__)
    assert document["ovms"] == "2026.3.1"
    assert document["programs"]["ovms"] == str(program)
    assert document["python"] == platform.python_version()
    for name in ("nginx", "systemd"):
        assert document[name][0].isdigit()
    assert (document["problems"], document["warnings"]) == ({}, [])
    shown = ctl("version", "--config", config, "--socket", agent.socket)
    assert shown.out.startswith(f"ovms-scalerctl  {__version__}\novms-scaler     {__version__}\n")
    assert ["ovms", "2026.3.1"] in [line.split()[:2] for line in shown.out.splitlines()]


def test_an_agent_that_was_not_restarted_is_told(ctl: Ctl, agent: FakeAgent, config: Path) -> None:
    agent.say(status(version="0.0.9"))
    told = ctl("version", "--config", config, "--socket", agent.socket)
    assert told.status == 0
    assert told.err == (
        f"warning: the agent that runs is 0.0.9, this program is {__version__}: an upgrade is pending\n"
        "  hint: systemctl restart ovms-scaler\n"
    )


@pytest.mark.parametrize(
    ("document", "why"),
    [
        pytest.param(None, "cannot reach the agent", id="away"),
        pytest.param(status(), "older than this program", id="one that does not tell"),
    ],
)
def test_what_the_agent_does_not_tell_is_null(
    document: object, why: str, ctl: Ctl, agent: FakeAgent, config: Path
) -> None:
    agent.answer = None
    if document is not None:
        agent.say(document)
    read_ = read(ctl, agent, config)
    assert read_["ovms_scaler"] is None
    assert why in read_["problems"]["ovms_scaler"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param(None, "No such file or directory", id="missing"),
        pytest.param("#!/bin/sh\necho hello\n", "it says 'hello'", id="another program"),
        pytest.param("#!/bin/sh\nkill -SEGV $$\n", "it says ''", id="crash"),
    ],
)
def test_a_program_that_does_not_tell_is_null(
    text: str | None, why: str, ctl: Ctl, agent: FakeAgent, config: Path, program: Path
) -> None:
    program.unlink()
    if text is not None:
        program.write_text(text)
        program.chmod(0o755)
    document = read(ctl, agent, config)
    assert document["ovms"] is None
    assert why in document["problems"]["ovms"]
    assert os.path.basename(document["problems"]["ovms"].split(":")[0]) == "ovms"


def test_a_broken_configuration_hides_nothing(ctl: Ctl, agent: FakeAgent, config: Path) -> None:
    config.write_text("[[pool")
    assert read(ctl, agent, config)["programs"]["ovms"] == "/opt/ovms/bin/ovms"
