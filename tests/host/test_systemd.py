# SPDX-License-Identifier: Apache-2.0
"""The systemd adapter without a systemd: scripted workers, an empty bus, and the contract on the fake."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from contract_units import Bench, UnitsContract
from fakes.units import FakeUnits

from ovms_scaler.core.facts import UnitFacts
from ovms_scaler.errors import DeadlineError, HostError
from ovms_scaler.host import systemd_worker, unit_properties
from ovms_scaler.host.systemd import Systemd

UNIT = "ovms@a.service"

# Answers as the worker does, by the name of the unit that it is asked for.
SCRIPT = """
import json, os, sys, time
def say(**message): print(json.dumps(message), flush=True)
if os.path.exists("lost"): say(event="lost", why="no such bus"); sys.exit(1)
say(event="ready")
for line in sys.stdin:
    request = json.loads(line)
    with open("calls", "a") as calls: calls.write(request["call"] + "\\n")
    name = str(request["args"][-1])
    if "slow" in name: time.sleep(0.4)
    if "dies" in name: sys.exit(1)
    if "nonsense" in name: print("nonsense", flush=True)
    if "refused" in name:
        say(id=request["id"], error={"name": name.split("@")[1], "message": "Words of systemd."})
    elif request["call"] == "has_job": say(id=request["id"], result=os.path.exists("job goes on"))
    elif request["call"] == "queue_job":
        sys.stdout.write(json.dumps({"id": request["id"], "result": 7}) + "\\n")
        if "endless" not in name: say(event="job", job=7, result="dependency")
        sys.stdout.flush()
    else: say(id=request["id"], result=[name])
    if "reloads" in name: say(event="changed", unit="")
"""


@pytest.fixture
async def scripted(tmp_path: Path) -> AsyncIterator[Systemd]:
    argv = scripted_argv(tmp_path)
    async with await Systemd.open(argv=argv, stuck_sec=0.3) as systemd:
        yield systemd


def scripted_argv(directory: Path) -> tuple[str, ...]:
    return ("env", f"--chdir={directory}", sys.executable, "-c", SCRIPT)


async def changes_of(systemd: Systemd) -> "asyncio.Queue[str]":
    changes: asyncio.Queue[str] = asyncio.Queue()
    systemd.subscribe(changes.put_nowait)
    return changes


async def test_deadline_names_verb_unit_and_time(scripted: Systemd) -> None:
    with pytest.raises(DeadlineError, match=r"^cannot start slow: systemd did not answer in 0\.1 s$"):
        await scripted.start("slow", deadline_sec=0.1)
    assert scripted.trouble.startswith("systemd has not answered an earlier call")


async def test_call_whose_deadline_passes_in_the_queue_is_never_sent(
    scripted: Systemd, tmp_path: Path
) -> None:
    first = asyncio.create_task(scripted.list_units(["slow"]))
    await asyncio.sleep(0)
    with pytest.raises(DeadlineError):
        await scripted.start("b", deadline_sec=0.1)
    assert await first == ("['slow']",)
    assert await scripted.list_units(["c"]) == ("['c']",)
    assert (tmp_path / "calls").read_text().split() == ["list_units", "list_units"]


async def test_late_answer_ends_the_trouble_and_asks_to_look_again(scripted: Systemd) -> None:
    changes = await changes_of(scripted)
    with pytest.raises(DeadlineError):
        await scripted.start("slow", deadline_sec=0.3)
    pid = scripted.worker_pid
    async with asyncio.timeout(10):
        assert await changes.get() == ""
    assert scripted.trouble == ""
    assert scripted.worker_pid == pid


async def test_worker_that_is_stuck_is_replaced(scripted: Systemd) -> None:
    changes = await changes_of(scripted)
    pid = scripted.worker_pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(DeadlineError):
        await scripted.start("a", deadline_sec=0.1)
    async with asyncio.timeout(10):
        assert await changes.get() == ""
    assert scripted.worker_pid != pid
    assert await scripted.list_units(["a"]) == ("['a']",)


@pytest.mark.parametrize("unit", ["dies", "nonsense"])
async def test_worker_that_fails_is_replaced(scripted: Systemd, unit: str) -> None:
    with pytest.raises(HostError, match=f"cannot start {unit}: "):
        await scripted.start(unit)
    assert await scripted.list_units(["a"]) == ("['a']",)


async def test_call_waits_for_the_next_worker(scripted: Systemd) -> None:
    pid = scripted.worker_pid
    assert pid is not None
    changes = await changes_of(scripted)
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        assert await changes.get() == ""
    assert await scripted.list_units(["a"]) == ("['a']",)


async def test_job_that_ends_with_its_answer_is_not_missed(scripted: Systemd) -> None:
    assert await scripted.start("a") == "dependency"


async def test_job_without_end_has_a_deadline(scripted: Systemd) -> None:
    with pytest.raises(DeadlineError, match=r"cannot stop endless: its job 7 was not finished in 0\.2 s"):
        await scripted.stop("endless", deadline_sec=0.2)


async def test_job_that_ended_unseen_is_an_error(scripted: Systemd) -> None:
    with pytest.raises(HostError, match="cannot stop endless reloads: its job 7 ended while"):
        await scripted.stop("endless reloads", deadline_sec=10)


@pytest.mark.parametrize(
    ("name", "sentence", "hint"),
    [
        pytest.param(
            "refused@org.freedesktop.systemd1.UnitMasked", "unit is masked", "systemctl unmask", id="masked"
        ),
        pytest.param(
            "refused@DBusNoSuchUnitError", "unit is not installed", "systemctl status", id="no file"
        ),
        pytest.param("refused@DBusAccessDeniedError", "permission denied", "root", id="not root"),
        pytest.param("refused@org.example.Else", "Words of systemd", "", id="any other"),
    ],
)
async def test_refusals_say_why(scripted: Systemd, name: str, sentence: str, hint: str) -> None:
    with pytest.raises(HostError, match=f"^cannot start {name}: {sentence}") as caught:
        await scripted.start(name)
    assert hint in (caught.value.hint or "")


async def test_listener_that_raises_hurts_nobody(scripted: Systemd) -> None:
    raised: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))

    def fail(unit: str) -> None:
        raise ValueError(unit)

    scripted.subscribe(fail)
    changes = await changes_of(scripted)
    assert await scripted.list_units(["reloads"]) == ("['reloads']",)
    async with asyncio.timeout(10):
        assert await changes.get() == ""
    assert len(raised) == 1


async def test_open_without_a_systemd_says_why(tmp_path: Path) -> None:
    (tmp_path / "lost").touch()
    with pytest.raises(DeadlineError, match=r"cannot connect to systemd: .*lost: no such bus"):
        await Systemd.open(argv=scripted_argv(tmp_path), deadline_sec=1)


async def test_open_without_a_worker_says_why() -> None:
    with pytest.raises(DeadlineError, match="cannot connect to systemd: the D-Bus worker failed: "):
        await Systemd.open(argv=("/nonexistent/worker",), deadline_sec=0.2)


async def test_close_ends_the_worker(tmp_path: Path) -> None:
    systemd = await Systemd.open(argv=scripted_argv(tmp_path))
    pid = systemd.worker_pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    await systemd.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# -- the real worker


@pytest.fixture
def empty_bus(tmp_path: Path) -> Iterator[str]:
    """The address of a bus that systemd is not on."""
    configuration = tmp_path / "bus.conf"
    configuration.write_text(
        f"<busconfig><listen>unix:path={tmp_path}/bus</listen><auth>EXTERNAL</auth>"
        '<policy context="default"><allow send_destination="*" eavesdrop="true"/>'
        '<allow eavesdrop="true"/><allow own="*"/></policy></busconfig>'
    )
    daemon = subprocess.Popen(
        ["dbus-daemon", "--nofork", "--nosyslog", "--print-address=1", f"--config-file={configuration}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert daemon.stdout is not None
    try:
        yield daemon.stdout.readline().strip()
    finally:
        daemon.kill()
        daemon.wait()
        daemon.stdout.close()


async def test_bus_without_systemd_is_named(empty_bus: str) -> None:
    with pytest.raises(DeadlineError, match=r"cannot connect to systemd: .*systemd1"):
        await Systemd.open(bus_address=empty_bus, deadline_sec=2)


async def test_missing_bus_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeadlineError, match=r"cannot connect to systemd: .*bus"):
        await Systemd.open(bus_address=f"unix:path={tmp_path}/none", deadline_sec=2)


# -- values


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/org/freedesktop/systemd1/unit/ovms_40a_2eservice", "ovms@a.service"),
        ("/org/freedesktop/systemd1/unit/ovms_40chat_2dgpu_2d0000_3a03_3a00_2e0_2eservice",
         "ovms@chat-gpu-0000:03:00.0.service"),
    ],
    ids=["instance of a node", "instance of a GPU"],
)  # fmt: skip
def test_unit_paths_are_unescaped(path: str, unit: str) -> None:
    assert systemd_worker.parse_unit_path(path) == unit


@pytest.mark.parametrize(
    ("octets", "numbers"),
    [([], set()), ([0, 0], set()), ([5], {0, 2}), ([0, 128, 1], {15, 16})],
    ids=["not set", "all clear", "first octet", "across octets"],
)
def test_masks(octets: list[int], numbers: set[int]) -> None:
    assert unit_properties.parse_mask(octets) == numbers


@pytest.mark.parametrize(
    ("state", "load_state"),
    [("static", "loaded"), ("masked-runtime", "masked"), ("not-found", "not-found"), ("bad", "bad-setting")],
)
def test_load_state_of_what_is_not_loaded(state: str, load_state: str) -> None:
    assert unit_properties.parse_unit(UNIT, {"UnitFileState": state}) == UnitFacts(
        unit=UNIT, load_state=load_state, active_state="inactive", sub_state="dead"
    )


# -- the fake


class TestFakeUnits(UnitsContract):
    @pytest.fixture
    def bench(self, tmp_path: Path) -> Bench:
        fake = FakeUnits(root=tmp_path)
        changes: asyncio.Queue[str] = asyncio.Queue()
        fake.subscribe(changes.put_nowait)

        async def kill(unit: str) -> None:
            fake.die(unit)

        async def mask(unit: str) -> None:
            fake.mask(unit)

        return Bench(
            units=fake, root=tmp_path, kill=kill, restart_elapsed=fake.restart_elapsed, mask=mask,
            freeze=fake.answering.clear, thaw=fake.thaw, changes=changes,
        )  # fmt: skip
