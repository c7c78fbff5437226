# SPDX-License-Identifier: Apache-2.0
"""What is done to a host for a measurement, and that it is undone whatever happens."""

import asyncio
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pytest
from bench_lab import Front, load, outcome, run

from ovms_scaler.bench import patience, resources, summary
from ovms_scaler.bench.fleet import Fleet
from ovms_scaler.bench.host import Document, Progress
from ovms_scaler.bench.rotation import Members, Rotation, find_members, require_all
from ovms_scaler.bench.running import Findings, Side, run_compare, run_scale
from ovms_scaler.bench.session import Measurement, Session
from ovms_scaler.bench.swapping import COPY_SUFFIX, Swap
from ovms_scaler.errors import HostError, InputError, RefusedError, UnreachableError

NAMES = ("chat-numa0", "chat-numa1", "chat-numa2", "chat-numa3")
MEMBERS = Members(upstream="chat", in_use=NAMES)


@dataclass(slots=True, kw_only=True)
class Host:
    """An agent that does at once what it is told, unless ``refuses`` says otherwise of an order."""

    file: Path | None = None
    drained: set[str] = field(default_factory=set)
    orders: list[str] = field(default_factory=list)
    configurations: list[bytes] = field(default_factory=list)
    refuses: dict[str, Exception] = field(default_factory=dict)
    trouble: str = ""
    paused_since: float | None = None
    # How often nobody answers, by what is asked.
    away: dict[str, int] = field(default_factory=dict)

    def status(self) -> Document:
        self._answer("status")
        entries = [
            {"id": name, "upstream": "chat", "state": "ready", "in_rotation": name not in self.drained}
            for name in NAMES
        ]
        orders = {"drained": dict.fromkeys(self.drained, 1.0), "paused_since": self.paused_since}
        return {"instances": entries, "orders": orders}

    def measures(self) -> Document:
        return {}

    def drain(self, name: str) -> Document:
        self._take(f"drain {name}")
        self.drained.add(name)
        return {}

    def undrain(self, name: str) -> Document:
        self._take(f"undrain {name}")
        self.drained.discard(name)
        return {}

    def reload(self) -> Document:
        assert self.file is not None
        self._take("reload")
        self.configurations.append(self.file.read_bytes())
        return {}

    def judge(self, verb: str, order: Document, status: Document) -> Progress | None:
        return Progress(waits_for="", trouble=self.trouble)

    def _take(self, order: str) -> None:
        self.orders.append(order)
        self._answer(order)
        if order in self.refuses:
            raise self.refuses[order]

    def _answer(self, what: str) -> None:
        if self.away.get(what, 0):
            self.away[what] -= 1
            raise UnreachableError("it does not run")


class Reporter:
    def begin(self, what: str, total: int) -> None: ...

    def note(self, one: object) -> None: ...

    def tell(self, what: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring(Session):
    """Measures nothing: so many tokens per second as ``rate`` says, each time it is asked."""

    rate: Callable[[], float]
    seen: list[Any]
    look: Callable[[], object]

    async def measure(
        self, group: str = "", instances: tuple[str, ...] | None = None, *, number: int = 0, rounds: int = 1
    ) -> Measurement:
        tokens = round(self.rate() * 100)
        self.seen.append(self.look())
        done = run(outcome(generated_tokens=tokens), duration_sec=100.0)
        return Measurement(
            label=group,
            group=group,
            instances=instances,
            run=done,
            summary=summary.summarise(done),
            resources=resources.collect(resources.Samples(), began_at=0.0, duration_sec=1.0),
            notes=(),
        )


def measuring(
    stop: asyncio.Event, rate: Callable[[], float], look: Callable[[], object] = lambda: None
) -> Measuring:
    endpoint, mine = Front(port=1).endpoint(), load()
    return Measuring(
        endpoint=endpoint,
        load=mine,
        conversations=(),
        fleet=Fleet(endpoint, mine, 1),
        read_measures=None,
        without="",
        reporter=Reporter(),
        stop=stop,
        rate=rate,
        seen=[],
        look=look,
    )


async def scale(
    host: Host, rate: Callable[[], float], *counts: int, stop: asyncio.Event | None = None
) -> Findings:
    session = measuring(stop or asyncio.Event(), rate)
    return await run_scale(session, host, MEMBERS, counts, rounds=1)


async def test_each_is_drained_and_started_once() -> None:
    host = Host()
    rates = iter([360.0, 190.0, 100.0])
    findings = await scale(host, lambda: next(rates), 1, 2, 4)
    assert host.orders == [
        "drain chat-numa2",
        "drain chat-numa3",
        "drain chat-numa1",
        "undrain chat-numa1",
        "undrain chat-numa3",
        "undrain chat-numa2",
    ]
    assert host.drained == set()
    assert findings.curve is not None
    assert [(one.instances, one.names) for one in findings.curve.points] == [
        (1, NAMES[:1]),
        (2, NAMES[:2]),
        (4, NAMES),
    ]
    assert (findings.trouble, findings.left, findings.is_interrupted) == ("", [], False)


async def test_clients_that_nobody_asked_for_are_so_many_for_each_instance() -> None:
    loads = []

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Looking(Measuring):
        async def measure(self, *arguments: Any, **options: Any) -> Measurement:
            loads.append((self.load.max_concurrency, self.load.num_prompts))
            return await Measuring.measure(self, *arguments, **options)

    mine = load(num_prompts=200, max_concurrency=32, scales_clients=True, scales_prompts=True)
    plain = measuring(asyncio.Event(), lambda: 100.0)
    session = Looking(**{name.name: getattr(plain, name.name) for name in fields(plain)} | {"load": mine})
    findings = await run_scale(session, Host(), MEMBERS, (1, 2, 4), rounds=1)
    assert loads == [(128, 800), (64, 400), (32, 200)]
    assert findings.curve is not None
    assert [one.clients for one in findings.curve.points] == [32, 64, 128]
    assert not [note for note in findings.curve.notes if "clients" in note]


async def test_an_error_in_the_middle_puts_everything_back_and_keeps_what_was_measured() -> None:
    host = Host()

    def rate() -> float:
        if len(host.drained) == 3:
            raise HostError("cannot go on")
        return 100.0

    findings = await scale(host, rate, 1, 2)
    assert host.drained == set()
    assert findings.trouble == "cannot go on"
    assert [one.label for one in findings.measurements] == ["2 instances"]


async def test_a_bug_in_the_middle_puts_everything_back_too() -> None:
    host = Host()

    def rate() -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await scale(host, rate, 1)
    assert host.drained == set()


async def test_when_it_is_stopped_everything_is_put_back() -> None:
    host, stop = Host(), asyncio.Event()

    def rate() -> float:
        stop.set()
        return 100.0

    findings = await scale(host, rate, 1, 2, stop=stop)
    assert host.drained == set()
    assert findings.is_interrupted
    assert len(findings.measurements) == 1
    assert findings.curve is None


async def test_an_instance_whose_drain_was_taken_by_an_agent_that_then_went_away_is_undrained() -> None:
    """Whether an order whose answer was lost was taken is not known."""
    host = Host(refuses={"drain chat-numa1": UnreachableError("it broke off its answer")})
    findings = await scale(host, lambda: 1.0, 1)
    assert "undrain chat-numa1" in host.orders
    assert findings.trouble.startswith("it broke off its answer")
    assert host.drained == set()


async def test_what_cannot_be_put_back_is_told() -> None:
    host = Host(refuses={"undrain chat-numa3": HostError("no space left")})
    findings = await scale(host, lambda: 1.0, 2)
    way_out = "ovms-scalerctl undrain chat-numa3"
    assert findings.left == [f"chat-numa3 stays drained: no space left\n  hint: {way_out}"]
    assert host.drained == {"chat-numa3"}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE_SEC", 0.0)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_EACH_SEC", 0.0)


@pytest.mark.usefixtures("impatient")
async def test_an_agent_that_does_not_come_back_is_told() -> None:
    host = Host(refuses={"undrain chat-numa3": UnreachableError("cannot reach the agent")})
    findings = await scale(host, lambda: 1.0, 2)
    assert findings.left[0].startswith("chat-numa3 stays drained: cannot reach the agent\n")


@pytest.mark.usefixtures("eager")
async def test_an_agent_that_restarts_is_told_again() -> None:
    host = Host(away={"undrain chat-numa3": 3, "status": 2})
    findings = await scale(host, lambda: 1.0, 2)
    assert (findings.trouble, findings.left, host.drained) == ("", [], set())
    assert host.orders.count("undrain chat-numa3") == 4


async def test_what_is_put_back_is_so_without_a_terminal() -> None:
    class Gone(Reporter):
        def tell(self, what: str) -> None:
            if what == "putting everything back":
                raise OSError(errno.EIO, "Input/output error")

    host = Host()
    session = replace(measuring(asyncio.Event(), lambda: 1.0), reporter=Gone())
    await run_scale(session, host, MEMBERS, (1,), rounds=1)
    assert host.drained == set()


async def test_an_order_that_cannot_be_carried_out_ends_it() -> None:
    host = Host(trouble="chat-numa3 is failed: it ended")
    findings = await scale(host, lambda: 1.0, 3)
    assert "chat-numa3 is failed" in findings.trouble
    assert host.drained == set()


def status(**changes: Any) -> Document:
    return {**Host().status(), **changes}


def test_those_that_the_administrator_drained_take_no_part() -> None:
    host = Host(drained={"chat-numa0"})
    members = find_members(host.status(), "chat", 3)
    assert members.in_use == NAMES[1:]
    rotation = Rotation(host, asyncio.Event(), lambda _: None)
    asyncio.run(rotation.keep(members.in_use, 1))
    asyncio.run(rotation.restore(wait=True))
    assert host.drained == {"chat-numa0"}


def test_what_forbids_to_begin() -> None:
    with pytest.raises(RefusedError, match="the agent is paused"):
        find_members(Host(paused_since=1.0).status(), "chat", 2)
    with pytest.raises(RefusedError, match="cannot have 5 instances in rotation: chat has 4"):
        find_members(Host().status(), "chat", 5)
    broken = {
        "id": "chat-numa0",
        "upstream": "chat",
        "state": "loading",
        "reason": "it reads",
        "in_rotation": False,
    }
    with pytest.raises(RefusedError, match="chat-numa0 is not in rotation but loading: it reads"):
        find_members(status(instances=[broken]), "chat", 1)


def test_an_unbound_instance_is_compared_with_all_and_not_with_some() -> None:
    """Whole is the whole machine: two of six nodes beside it would be no comparison."""
    members = find_members(Host().status(), "chat", 2)
    with pytest.raises(InputError, match="all 4 instances of chat, and --scale ends at 2") as refused:
        require_all(members, (1, 2))
    assert refused.value.hint == "--scale 1,2,4"
    require_all(members, (1, 4))
    some = find_members(Host(drained={"chat-numa0"}).status(), "chat", 3)
    with pytest.raises(RefusedError, match="all instances of chat, and chat-numa0 is drained") as left_out:
        require_all(some, (1, 3))
    assert left_out.value.hint == "ovms-scalerctl undrain chat-numa0"


def read(path: Path) -> str:
    return path.read_text()


def read_copy(path: Path) -> str:
    return path.with_name(path.name + COPY_SUFFIX).read_text()


def leave_copy(path: Path) -> Path:
    copy = path.with_name(path.name + COPY_SUFFIX)
    copy.write_text("before")
    return copy


def read_mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def is_alone(path: Path) -> bool:
    return list(path.parent.iterdir()) == [path]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text("original")
    path.chmod(0o640)
    return path


SIDES = (Side(key="A", name="a.toml", content=b"a"), Side(key="B", name="b.toml", content=b"b"))


async def compare(host: Host, file: Path, rate: Callable[[], float], stop: asyncio.Event) -> Findings:
    swap = Swap(host, file, stop, lambda _: None)
    return await run_compare(measuring(stop, rate, file.read_text), swap, SIDES, rounds=3)


async def test_configurations_take_turns_and_the_first_is_put_back(file: Path) -> None:
    host = Host(file=file)
    rates = iter([100.0, 110.0, 111.0, 101.0, 99.0, 109.0])
    findings = await compare(host, file, lambda: next(rates), asyncio.Event())
    # Not A before B each time: a drift must not look like a difference.
    assert host.configurations == [b"a", b"b", b"b", b"a", b"a", b"b", b"original"]
    assert read(file) == "original"
    assert read_mode(file) == 0o640
    assert is_alone(file)
    assert {one.figure.name: one.better for one in findings.verdicts}["output_tokens_per_sec"] == "B"


@pytest.mark.parametrize("how", ["error", "stopped", "bug"])
async def test_the_file_is_put_back_whatever_happens(how: str, file: Path) -> None:
    host, stop = Host(file=file), asyncio.Event()

    def rate() -> float:
        if how == "error":
            raise HostError("cannot go on")
        if how == "bug":
            raise ZeroDivisionError
        stop.set()
        return 1.0

    if how == "bug":
        with pytest.raises(ZeroDivisionError):
            await compare(host, file, rate, stop)
    else:
        await compare(host, file, rate, stop)
    assert read(file) == "original"
    assert host.configurations[-1] == b"original"
    assert is_alone(file)


async def test_a_configuration_that_is_refused_ends_it(file: Path) -> None:
    host = Host(file=file, refuses={"reload": RefusedError("1 error")})
    findings = await compare(host, file, lambda: 1.0, asyncio.Event())
    assert findings.trouble == "1 error"
    # The agent was not told, so the copy stays for whoever has to.
    assert findings.left == [
        f"{file} is as it was, but the agent has not taken it: 1 error\n"
        f"  hint: ovms-scalerctl reload --allow-outage && rm {file}{COPY_SUFFIX}"
    ]
    assert read(file) == "original"
    assert read_copy(file) == "original"


async def test_what_somebody_else_wrote_meanwhile_is_not_overwritten(file: Path) -> None:
    host = Host(file=file)

    def rate() -> float:
        file.write_text("by hand")
        return 1.0

    findings = await compare(host, file, rate, asyncio.Event())
    assert read(file) == "by hand"
    assert "somebody else has changed it since" in findings.left[0]
    assert read_copy(file) == "original"


async def test_a_comparison_that_was_killed_is_found(file: Path) -> None:
    copy = leave_copy(file)
    with pytest.raises(RefusedError) as refused:
        await compare(Host(file=file), file, lambda: 1.0, asyncio.Event())
    assert f"mv {copy} {file}" in str(refused.value.hint)
    assert read_copy(file) == "before"


async def beside_whole(host: Host, file: Path, *rates: float, rounds: int) -> Findings:
    stop, following = asyncio.Event(), iter(rates)
    session = measuring(stop, lambda: next(following))
    swap = Swap(host, file, stop, lambda _: None)
    return await run_scale(session, host, MEMBERS, (1, 4), rounds=rounds, against=swap, whole=b"whole")


async def test_the_whole_configuration_comes_last_and_is_put_back(file: Path) -> None:
    host = Host(file=file)
    findings = await beside_whole(host, file, 300.0, 100.0, 150.0, rounds=1)
    assert host.configurations == [b"whole", b"original"]
    assert host.drained == set()
    assert findings.whole_ratio is not None
    assert findings.whole_ratio.mean == pytest.approx(2.0)
    assert findings.whole_ratio.low is None


async def test_rounds_beside_an_unbound_instance_give_an_interval(file: Path) -> None:
    rates = (300.0, 303.0, 100.0, 100.0, 150.0, 151.0)
    findings = await beside_whole(Host(file=file), file, *rates, rounds=2)
    ratio = findings.whole_ratio
    assert ratio is not None
    assert ratio.low is not None
    assert ratio.high is not None
    assert ratio.mean == pytest.approx(2.0, rel=0.01)
    assert 1.8 < ratio.low < ratio.mean < ratio.high < 2.2


@pytest.mark.usefixtures("eager")
async def test_the_file_is_taken_again_by_an_agent_that_restarts(file: Path) -> None:
    host, stop = Host(file=file), asyncio.Event()

    def rate() -> float:
        host.away["reload"] = 2
        stop.set()
        return 1.0

    findings = await compare(host, file, rate, stop)
    assert (findings.left, host.configurations[-1]) == ([], b"original")
    assert is_alone(file)


async def test_a_link_stays_one(file: Path) -> None:
    link = file.with_name("link.toml")
    link.symlink_to(file.name)
    host = Host(file=link)
    await compare(host, link, lambda: 1.0, asyncio.Event())
    assert link.is_symlink()
    assert read(file) == "original"
    assert host.configurations[:2] == [b"a", b"b"]


async def test_half_a_copy_is_not_left_behind(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(HostError, match=r"cannot keep a copy of .*: No space left on device") as refused:
        await compare(Host(file=file), file, lambda: 1.0, asyncio.Event())
    assert refused.value.hint == "make room on that file system"
    assert is_alone(file)


async def against_whole(host: Host, file: Path, stop: asyncio.Event) -> Findings:
    swap = Swap(host, file, stop, lambda _: None)
    session = measuring(stop, lambda: 100.0)
    return await run_scale(session, host, MEMBERS, (1, 4), rounds=1, against=swap, whole=b"whole")


async def test_a_curve_is_kept_when_the_whole_configuration_cannot_be_measured(file: Path) -> None:
    leave_copy(file)
    findings = await against_whole(Host(file=file), file, asyncio.Event())
    assert findings.trouble.startswith("cannot begin: ")
    assert findings.curve is not None
    assert len(findings.measurements) == 2
    assert (read(file), read_copy(file)) == ("original", "before")


async def test_the_configuration_is_not_changed_while_an_instance_stays_drained(file: Path) -> None:
    host = Host(file=file, refuses={"undrain chat-numa3": HostError("no space left")})
    findings = await against_whole(host, file, asyncio.Event())
    assert findings.left
    assert host.configurations == []
