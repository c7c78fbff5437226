# SPDX-License-Identifier: Apache-2.0
"""What a real systemd hands to a program of the words that a drop-in holds."""

import random
from pathlib import Path

import world
from lab.host import Host

from ovms_scaler.core.books import Books
from ovms_scaler.core.engine import Command
from ovms_scaler.core.placement import place
from ovms_scaler.core.unit import drop_in_path, render_drop_in

INSTANCE = place(world.spec({"placement": "whole"}), world.topology(), Books()).instances[0]
ALPHABET = [*" \t\"'\\%$;#{}=@-+!:|&<>*?[]()~^`,.nx041sé", "$$", "%%", "\\x", "${A}", "%n", "\\\\", "日本"]
WORDS = 300
TEMPLATE = """\
[Service]
Type=oneshot
ExecStart=/bin/false
"""
# Each word on its own: the environment first, so that the program needs no more than a shell and a file.
DUMP = """\
#!/bin/sh
printf '%s\\0' "$VARIABLE" "$0" "$@" > /run/dump
"""


def words(count: int) -> list[str]:
    """The same ones in every run, so that a failure can be looked at again."""
    chosen = random.Random(6972)
    made = ("".join(chosen.choices(ALPHABET, k=chosen.randint(0, 10))) for _ in range(count))
    return [word.replace("\t", " ") if chosen.random() < 0.8 else word for word in made]


def test_words_reach_the_program_as_they_are(host: Host) -> None:
    host.write("/etc/systemd/system/ovms@.service", TEMPLATE)
    arguments = words(WORDS)
    assert run(host, "/usr/local/bin/dump", arguments, "x") == ["x", "/usr/local/bin/dump", *arguments]


def test_a_program_may_be_anywhere_and_a_variable_hold_anything(host: Host) -> None:
    host.write("/etc/systemd/system/ovms@.service", TEMPLATE)
    # Quotes and backslashes are refused in a program's path, by systemd and therefore by the configuration.
    for word in ("100%", "two words", "semi ; colon", "dash -", "$HOME", "$$"):
        directory = f"/srv/{word}"
        variable, program, argument = run(host, f"{directory}/ovms", [word], word)
        assert (variable, argument) == (word, word)
        # argv[0], unlike the path that is run, has its variables expanded; ovms does not look at it.
        assert "$" in word or program == f"{directory}/ovms"


def run(host: Host, program: str, arguments: list[str], variable: str) -> list[str]:
    """What a program sees that is started through a drop-in: $VARIABLE, its name, its arguments."""
    command = Command(
        argv=(program, *arguments), environment={"VARIABLE": variable}, open_files=1024, slots=1
    )
    root = Path(f"/proc/{host.pid1}/root")
    placed = root / drop_in_path(INSTANCE.id).lstrip("/")
    placed.parent.mkdir(parents=True, exist_ok=True)
    placed.write_text(render_drop_in(INSTANCE, command, model="org/tiny"))
    installed = root / program.lstrip("/")
    installed.parent.mkdir(parents=True, exist_ok=True)
    installed.write_text(DUMP)
    installed.chmod(0o755)
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", INSTANCE.unit)
    return host.read("/run/dump").removesuffix("\0").split("\0")
