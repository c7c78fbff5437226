# SPDX-License-Identifier: Apache-2.0
"""The systemd adapter without a systemd: scripted workers, an empty bus, and the contract on the fake."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from contract_units import Bench, UnitsContract
from fakes.units import FakeUnits

from ovms_scaler.core.facts import UnitFacts
from ovms_scaler.errors import DeadlineError, HostError
from ovms_scaler.host import systemd_view, systemd_worker, unit_properties
from ovms_scaler.host.systemd import Systemd

if TYPE_CHECKING:
    from pystemd.dbuslib import DBus

UNIT, OTHER = "ovms@a.service", "ovms@b.service"

# Answers as the worker does, by the name of the unit that it is asked for.
SCRIPT = """
import json, os, sys, time
LOADED = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "InvocationID": [1],
    "CPUAffinity": [], "NUMAPolicy": -1, "NUMAMask": [], "AllowedCPUs": [], "AllowedMemoryNodes": [],
    "ExecStart": [["/bin/sleep", ["sleep", "1"]]], "DropInPaths": [],
    "NeedDaemonReload": False, "ActiveEnterTimestampMonotonic": 1, "StateChangeTimestampMonotonic": 1}
def calls_of(name): return [call for call in open("calls").read().split() if call == name]
said = []
def say(**message): said.append(json.dumps(message) + "\\n")
def flush(): sys.stdout.write("".join(said)); sys.stdout.flush(); said.clear()
if os.path.exists("lost"): say(event="lost", why="no such bus"); flush(); sys.exit(1)
say(event="ready")
flush()
for line in sys.stdin:
    request = json.loads(line)
    with open("calls", "a") as calls: calls.write(request["call"] + "\\n")
    name = str(request["args"][-1])
    if "slow" in name: time.sleep(0.4)  # planted: a call to PID 1 that takes its time
    if "dies" in name: sys.exit(1)
    if "nonsense" in name: said.append("nonsense\\n")
    if "refused" in name:
        say(id=request["id"], error={"name": name.split("@")[1], "message": "Words of systemd."})
    elif request["call"] == "has_job": say(id=request["id"], result=os.path.exists("job goes on"))
    elif request["call"] == "queue_job":
        say(id=request["id"], result=7)
        if "endless" not in name: say(event="job", job=7, result="dependency")
    elif request["call"] == "read_units":
        unit, path = next(iter(request["args"][0].items()))
        state = {"MainPID": len(calls_of("read_units"))} if path else {"UnitFileState": "static"}
        say(id=request["id"], result={unit: {**LOADED, **state} if path else state})
    elif request["call"] == "list_units":
        loaded = open("loaded").read().split() if os.path.exists("loaded") else []
        say(id=request["id"], result=[[unit, "loaded", "active", "running", "/" + unit] for unit in loaded])
    else: say(id=request["id"], result=[name])
    if "reloads" in name and request["call"] != "list_units": say(event="changed", unit="")
    flush()
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


async def answers(systemd: Systemd, unit: str = "a") -> bool:
    return (await systemd.read_units([unit])).keys() == {unit}


def read_calls(directory: Path) -> list[str]:
    return (directory / "calls").read_text().split()


async def test_deadline_names_verb_unit_and_time(scripted: Systemd) -> None:
    with pytest.raises(DeadlineError, match=r"^cannot start slow: systemd did not answer in 0\.1 s$"):
        await scripted.start("slow", deadline_sec=0.1)
    assert scripted.trouble.startswith("systemd has not answered an earlier call")


async def test_call_whose_deadline_passes_in_the_queue_is_never_sent(
    scripted: Systemd, tmp_path: Path
) -> None:
    first = asyncio.create_task(scripted.read_units(["slow"]))
    await asyncio.sleep(0)
    with pytest.raises(DeadlineError):
        await scripted.start("b", deadline_sec=0.1)
    assert (await first).keys() == {"slow"}
    assert await answers(scripted)
    assert read_calls(tmp_path) == ["read_units", "read_units"]


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
    assert await answers(scripted)


@pytest.mark.parametrize("unit", ["dies", "nonsense"])
async def test_worker_that_fails_is_replaced(scripted: Systemd, unit: str) -> None:
    with pytest.raises(HostError, match=f"cannot start {unit}: "):
        await scripted.start(unit)
    assert await answers(scripted)


async def test_call_waits_for_the_next_worker(scripted: Systemd) -> None:
    pid = scripted.worker_pid
    assert pid is not None
    changes = await changes_of(scripted)
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        assert await changes.get() == ""
    assert await answers(scripted)


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
    assert await answers(scripted, "reloads")
    async with asyncio.timeout(10):
        assert await changes.get() == ""
    assert len(raised) == 1


# -- looks: what is not asked again, and who need not wait for whom


def load(directory: Path, *units: str) -> None:
    """These are what systemd has loaded."""
    (directory / "loaded").write_text(" ".join(units))


async def test_look_at_what_did_not_change_asks_for_the_list_only(scripted: Systemd, tmp_path: Path) -> None:
    load(tmp_path, UNIT, OTHER)
    first = await scripted.look([UNIT, "ovms.target"], ["ovms@*"])
    assert first.units.keys() == {UNIT, OTHER, "ovms.target"}
    assert read_calls(tmp_path) == ["list_units", *["read_units"] * 3]
    assert (await scripted.look([UNIT, "ovms.target"], ["ovms@*"])).units == first.units
    assert (await scripted.read_exec(UNIT)).argv == ("sleep", "1")
    assert read_calls(tmp_path)[4:] == ["list_units"]


async def test_look_reads_again_what_a_signal_spoke_of(scripted: Systemd, tmp_path: Path) -> None:
    unit = "ovms@reloads.service"
    load(tmp_path, unit)
    # The signal comes right behind the answer: it may be of a change after that.
    assert (await scripted.look([unit], [])).units[unit].main_pid == 1
    assert (await scripted.look([unit], [])).units[unit].main_pid == 2


async def test_look_reads_again_what_is_listed_in_another_state(scripted: Systemd, tmp_path: Path) -> None:
    load(tmp_path, UNIT)
    assert (await scripted.look([UNIT], [])).units[UNIT].is_running
    load(tmp_path)
    assert not (await scripted.look([UNIT], [])).units[UNIT].is_running
    load(tmp_path, UNIT)
    assert (await scripted.look([UNIT], [])).units[UNIT].is_running


async def test_look_reads_again_what_no_signals_come_of(
    scripted: Systemd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(tmp_path, UNIT, "else.service")
    for _ in range(2):
        await scripted.look([UNIT, "else.service"], [])
    assert read_calls(tmp_path).count("read_units") == 3
    monkeypatch.setattr(systemd_view, "KEPT_SEC", 0.0)
    await scripted.look([UNIT, "else.service"], [])
    assert read_calls(tmp_path).count("read_units") == 5


async def test_look_that_is_late_is_not_waited_for_and_answers_the_next(
    scripted: Systemd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd_view, "LOOK_SEC", 0.1)
    await scripted.look(["a"], [])
    changes = await changes_of(scripted)
    with pytest.raises(DeadlineError, match=r"^cannot read slow: systemd did not answer in 0\.1 s$"):
        await scripted.look(["slow"], [])
    began = time.monotonic()
    with pytest.raises(DeadlineError):
        await scripted.look(["slow"], [])
    assert time.monotonic() - began < 0.1
    async with asyncio.timeout(10):
        assert await changes.get() == ""
    calls = read_calls(tmp_path)
    seen = await scripted.look(["slow"], [])
    assert seen.units.keys() == {"slow"}
    assert seen.since_sec < began
    assert read_calls(tmp_path) == calls


async def test_order_goes_before_the_rest_of_a_look(scripted: Systemd, tmp_path: Path) -> None:
    looking = asyncio.create_task(scripted.look(["slow"], []))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await scripted.reload("a") == "dependency"
    await looking
    assert read_calls(tmp_path) == ["list_units", "queue_job", "read_units"]


async def test_look_without_a_bus_says_what_is_needed(
    scripted: Systemd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd_view, "LOOK_SEC", 0.5)
    await scripted.look(["a"], [])
    (tmp_path / "lost").touch()
    assert scripted.worker_pid is not None
    os.kill(scripted.worker_pid, signal.SIGKILL)
    needed = r"^cannot read a: .* lost: no such bus .*systemctl start dbus\.socket"
    async with asyncio.timeout(10):
        while not re.search(needed, await why_not_seen(scripted)):
            pass
        (tmp_path / "lost").unlink()
        while await why_not_seen(scripted):
            pass


async def why_not_seen(systemd: Systemd) -> str:
    try:
        await systemd.look(["a"], [])
    except HostError as error:
        return error.message
    return ""


async def test_order_about_a_unit_that_was_seen_asks_once(scripted: Systemd, tmp_path: Path) -> None:
    load(tmp_path, UNIT)
    await scripted.look([UNIT], [])
    assert (await scripted.read_units([UNIT]))[UNIT].main_pid == 2  # by its path; else it is not loaded
    changes = await changes_of(scripted)
    await scripted.reset_failed("reloads")
    async with asyncio.timeout(10):
        assert await changes.get() == ""
    assert not (await scripted.read_units([UNIT]))[UNIT].is_running


async def test_look_ends_with_the_adapter(tmp_path: Path) -> None:
    async with await Systemd.open(argv=scripted_argv(tmp_path)) as systemd:
        looking = asyncio.create_task(systemd.look(["slow"], []))
        await asyncio.sleep(0)
    with pytest.raises((HostError, asyncio.CancelledError)):
        await looking


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


class FakeBus:
    """Answers every call with a unit's path and properties."""

    def call_method(self, *call: object) -> SimpleNamespace:
        return SimpleNamespace(body={b"MainPID": 7, b"Id": b"a"} if b"GetAll" in call else b"/path")


@pytest.mark.parametrize(("longest_sec", "read"), [(60.0, ["a", "b"]), (0.0, ["a"])])
def test_slow_systemd_is_asked_for_one_unit_at_a_time(
    longest_sec: float, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd_worker, "LONGEST_READ_SEC", longest_sec)
    worker = systemd_worker.Worker(cast("DBus", FakeBus()), source=0, sink=1, patterns=[])
    assert worker.read_units({"a": "", "b": "/b"}) == {unit: {"MainPID": 7} for unit in read}


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
