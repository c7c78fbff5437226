# SPDX-License-Identifier: Apache-2.0
"""What takes longer than a moment shows so, to whoever looks, and to nobody else."""

import sys
from pathlib import Path

import pytest
from ctl_lab import Ctl, FakeAgent, instance, status
from ctl_screen import screen

from ovms_scaler.ctl.busy import busy

# Says "end" when a line arrives; what is shown meanwhile is on the same terminal.
PROGRAM = """\
import sys
from ovms_scaler.ctl.busy import busy
try:
    with busy("counting sheep"):
        if sys.argv[1] == "slow":
            sys.stdin.readline()
        if sys.argv[1] == "wrong":
            raise ValueError
except ValueError:
    pass
print("end", "rich" in sys.modules)
"""

# A verb of which one part lasts until a line arrives.
VERB = """\
import os, sys
from ovms_scaler import history
from ovms_scaler.ctl import busy, client, main
from ovms_scaler.releases.releases import Releases

def last(*_, **__):
    sys.stdin.readline()
    sys.exit(0)

busy.DELAY_SEC = 0.01
os.geteuid = lambda: 0
setattr({"history": history, "client": client, "Releases": Releases}[sys.argv[1]], sys.argv[2], last)
main.run(sys.argv[3:])
"""


@pytest.mark.parametrize(
    ("part", "verb", "told"),
    [
        ("Releases.remove", "engine remove 2026.3", "removing 2026.3 ..."),
        ("Releases.use", "engine use 2026.3", "switching to 2026.3 ..."),
        ("history.read_subject", "events chat", "looking for chat ..."),
        ("history.read_subject", "logs chat", "looking for chat ..."),
        ("client.read_status", "logs chat", "looking for chat ..."),
        ("client.read_status", "verify", "waiting for the agent's answer ..."),
    ],
)
def test_what_may_last_says_so(part: str, verb: str, told: str, config: Path) -> None:
    options = ["--config", config] if verb.startswith("engine") else []
    if verb != "engine remove 2026.3":
        options += ["--socket", config.parent / "none.sock"]
    words = [*part.split("."), *verb.split(), *options]
    with screen(*words, command=[sys.executable, "-c", VERB]) as shown:
        shown.read_until(told)
        shown.type("\n")
        shown.read_rest()
        assert shown.process.wait() == 0


def test_somebody_who_waits_sees_what_for() -> None:
    with screen("slow", command=[sys.executable, "-c", PROGRAM]) as shown:
        shown.read_until("counting sheep ...")
        shown.type("\n")
        shown.read_rest()
        assert shown.process.wait() == 0
    assert shown.text.rstrip().endswith("end True")
    assert "\x1b[?25h" in shown.text  # the cursor is back
    assert "\x1b[2K" in shown.text  # and the line is gone


@pytest.mark.parametrize("how", ["quick", "wrong"])
def test_what_is_quick_shows_nothing_and_imports_nothing(how: str) -> None:
    with screen(how, command=[sys.executable, "-c", PROGRAM]) as shown:
        assert shown.read_rest() == "end False\r\n"


def test_nothing_is_shown_where_nobody_looks(capfd: pytest.CaptureFixture[str]) -> None:
    with busy("counting sheep"):
        pass
    assert capfd.readouterr() == ("", "")


def test_a_bar_and_its_numbers_are_seen_however_much_there_is_to_say(agent: FakeAgent) -> None:
    names = [f"chat-numa{number}" for number in range(9)]
    agent.say({"accepted": True, "instances": names, "ordered_sec": 1.0}, path="/v1/restart")
    waiting = [instance(name, state="loading", in_rotation=False, reason="x " * 50) for name in names[1:]]
    agent.say(status(instance(names[0]), *waiting, observed_sec=2.0))
    with screen("restart", "chat", "--wait", "--socket", agent.socket) as shown:
        shown.read_until("1/9")
        shown.read_until("chat-numa1 loading")
        assert max(map(len, shown.lines)) <= 80


def test_json_stands_alone_also_when_somebody_looks(ctl: Ctl, agent: FakeAgent) -> None:
    agent.say(status(instance()))
    with screen("status", "--json", "--socket", agent.socket) as shown:
        text = shown.read_rest()
    assert text.startswith("{")
    assert text.rstrip().endswith("}")
