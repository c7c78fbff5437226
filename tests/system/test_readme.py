# SPDX-License-Identifier: Apache-2.0
"""The first page of README.md, typed into a bare host: when the last line is typed, a model is served.

The host has Debian's packages of priority important and no other; apt brings all the rest. What the marked
blocks would have downloaded is put in place here: the stand-in for OVMS, and a tiny model.
"""

import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import readme
from lab import bare, paths
from lab.host import Host
from lab.image import Image
from lab.standin_release import write_release
from lab.terminal import INTERRUPT, MORE, PROMPT, Terminal
from system import agent_host

# apt asks so on Debian 12, and on 13.
ASKED = re.compile(r"(?:Do you want to continue|Continue)\? \[Y/n\] ")
SERVING = re.compile(r"\bready +in\b")
INTERRUPTED = 130


@pytest.fixture
def bare_image(release: str, debs: list[Path]) -> Image:
    wanted = [relation for package in debs for relation in bare.read_relations(package)]
    (install,) = (line for line in read_typed_lines() if line.startswith("apt install "))
    return bare.build(release, [*wanted, *(word for word in install.split()[2:] if "/" not in word)])


def read_typed_lines() -> list[str]:
    return [line for block in readme.read_first_page() if not block.is_marked for line in block.lines]


def pack(directory: Path) -> bytes:
    """The files in a directory as a tar archive."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(directory, arcname=".")
    return archive.getvalue()


def put_in_place(host: Host, debs: list[Path], release: Path) -> None:
    """The package, OVMS, and the model at its path; unreadable to others, as under umask 077."""
    for package in debs:
        host.write(f"/root/{package.name}", package.read_bytes())
    (archive,) = (line.split()[-1] for line in read_typed_lines() if " engine install " in line)
    host.write(f"/root/{archive}", release.read_bytes())
    model = readme.read_model().path
    host.run("mkdir", "--parents", model)
    host.run("tar", "-x", "-C", model, stdin=pack(paths.LAB / "standin" / "model"))
    host.run("chmod", "-R", "go=", "/srv/models")


def enter(terminal: Terminal, line: str) -> int | None:
    """Type a line as a person would, and answer what is asked; its exit status, or none within a command."""
    terminal.type(line + "\n")
    if line.endswith("--watch"):
        terminal.read_until(SERVING, PROMPT, timeout_sec=120)
        terminal.type(INTERRUPT)
    while True:
        seen = terminal.read_until(ASKED, MORE, PROMPT, timeout_sec=300)
        if seen.re is PROMPT:
            return int(seen[1])
        if seen.re is MORE:
            return None
        terminal.type("y\n")


def test_first_page_makes_a_bare_host_serve(
    boot: Callable[..., Host], bare_image: Image, debs: list[Path], tmp_path: Path
) -> None:
    host = boot(bare_image)
    assert host.run("sh", "-c", "command -v nginx curl python3", check=False).stdout == ""
    put_in_place(host, debs, write_release(tmp_path / "ovms.tar.gz", "2026.4.0"))
    with Terminal(host) as terminal:
        for line in read_typed_lines():
            expected = (None, INTERRUPTED if line.endswith("--watch") else 0)
            assert enter(terminal, line) in expected, terminal.shown[-8000:]
        shown = terminal.shown
    answer = shown[shown.rindex("HTTP/1.1 200") :]
    assert "X-OVMS-Instance: chat-numa0\n" in answer
    (body,) = re.findall(r"^\{.*\}", answer, re.MULTILINE)
    assert json.loads(body)["choices"][0]["message"]["content"]
    # README says what --sha256 is for, and cannot know the sum.
    assert shown.count("warning") == shown.count("warning: nobody vouches") == 1
    assert host.run("systemctl", "is-enabled", agent_host.AGENT).stdout == "enabled\n"
    assert host.run("ovms-scalerctl", "status").returncode == 0
