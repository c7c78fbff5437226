# SPDX-License-Identifier: Apache-2.0
"""A program or a model is replaced under what runs: it is told, and rolled with the next reload."""

import threading
from pathlib import Path

import pytest
import structlog
import world
from daemon_host import CONFIG, LIMIT_SEC, SERVING, DaemonHost, Running, running, write

from ovms_scaler.core.books import Books
from ovms_scaler.core.facts import UnitFacts
from ovms_scaler.core.target import resolve
from ovms_scaler.daemon import lanes, origins
from ovms_scaler.daemon.origins import NOTE, Origins
from ovms_scaler.host.identity import read_identity
from ovms_scaler.host.store import Store

FIRST, SECOND = "chat-numa0", "chat-numa1"
PROGRAM, WEIGHTS = "opt/ovms/bin/ovms", "srv/models/tiny/openvino_model.bin"
MODELS = {"chat": world.model(graph_directory="/srv/models/tiny")}
WANTED = resolve(world.spec({}), world.topology(1), MODELS, Books()).wanted
UNIT = WANTED[FIRST].instance.unit


@pytest.fixture(name="root")
def installed(tmp_path: Path) -> Path:
    install(tmp_path)
    return tmp_path


def install(root: Path) -> None:
    write(root / PROGRAM, "#!/bin/sh")
    write(root / WEIGHTS, "weights")


def process(number: int, state: str = "active") -> dict[str, UnitFacts]:
    unit = UnitFacts(
        unit=UNIT, load_state="loaded", active_state=state, sub_state="", invocation_id=f"{number:032x}"
    )
    return {UNIT: unit}


def look(root: Path, number: int = 1, state: str = "active") -> tuple[str, ...]:
    """What an agent sees that has just come back."""
    return Origins(Store(root), root).look(WANTED, process(number, state)).get(FIRST, ())


def test_what_is_replaced_is_told_until_another_process_runs(root: Path) -> None:
    assert look(root) == ()
    write(root / WEIGHTS, "others")
    assert look(root) == look(root) == ("model",)
    write(root / PROGRAM, "#!/bin/bash")
    assert look(root) == ("program", "model")
    assert look(root, 2) == ()


def test_what_is_away_for_the_moment_is_no_other(root: Path) -> None:
    look(root)
    (root / PROGRAM).rename(root / "aside")
    assert look(root) == ()
    (root / "aside").rename(root / PROGRAM)
    assert look(root) == ()


def test_what_could_not_be_read_when_it_was_seen_first_is_not_known_of(root: Path) -> None:
    (root / PROGRAM).unlink()
    assert look(root) == ()
    write(root / PROGRAM, "#!/bin/sh")
    assert look(root) == ()


def test_that_one_is_asked_to_stop_forgets_nothing(root: Path) -> None:
    look(root)
    write(root / WEIGHTS, "others")
    assert look(root, state="deactivating") == ()
    assert look(root) == ("model",)


@pytest.mark.parametrize(
    "note", [None, [], {FIRST: 1}, {FIRST: {"invocation": 1, "paths": {}, "began": {}}}, {FIRST: {}}]
)
def test_a_note_that_makes_no_sense_is_about_nobody(root: Path, note: object) -> None:
    Store(root).write_note(NOTE, note)
    assert look(root) == ()


def test_what_cannot_be_written_is_known_and_told_once(root: Path) -> None:
    (root / "run").write_text("a file where a directory must be")
    origins = Origins(Store(root), root)
    with structlog.testing.capture_logs() as logged:
        for number in range(3):
            origins.look(WANTED, process(number))
    write(root / WEIGHTS, "others")
    assert origins.look(WANTED, process(2)) == {FIRST: ("model",)}
    assert [entry["event"] for entry in logged] == ["state not written"]


def test_a_model_that_does_not_answer_holds_nobody_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    back, kept = threading.Event(), []

    def read(path: str, root: Path) -> str:
        if path == "/srv/models/tiny" and not back.is_set():
            kept.append(threading.current_thread())
            back.wait(LIMIT_SEC)
        return read_identity(path, root)

    look(root)
    monkeypatch.setattr(origins, "read_identity", read)
    looking = Origins(Store(root), root)
    with monkeypatch.context() as hurried:
        hurried.setattr(lanes, "GLANCE_SEC", 0.01)
        for _ in range(3):
            assert looking.look(WANTED, process(1)) == {FIRST: ()}
    assert len(kept) == 1
    write(root / WEIGHTS, "others")
    back.set()
    kept[0].join(LIMIT_SEC)
    assert looking.look(WANTED, process(1)) == {FIRST: ("model",)}


async def serve(host: DaemonHost, run: Running) -> list[object]:
    """The processes that serve then."""
    await run.until(lambda: all(run.read(one).get("in_rotation") for one in (FIRST, SECOND)))
    return [run.read(one)["pid"] for one in (FIRST, SECOND)]


async def test_new_weights_are_told_and_come_with_the_next_reload(host: DaemonHost) -> None:
    install(host.root)
    host.nodes = 2
    host.model = world.model(graph_directory="/srv/models/tiny")
    host.configure(CONFIG)
    for number in range(2):
        host.engine(number).body = SERVING
    async with running(host) as run:
        processes = await serve(host, run)
        write(host.root / WEIGHTS, "others")
        run.agent.wake()
        await run.until(lambda: run.read(SECOND)["hint"] == "ovms-scalerctl restart --rolling chat")
        assert run.read()["reason"] == "it runs an older model than there is now"
        assert (run.read()["state"], run.agent.orders.current.restarts) == ("ready", {})
        assert await serve(host, run) == processes
        await run.agent.reload(allow_outage=False)
        await run.until(lambda: bool(run.agent.orders.current.restarts))
        await run.until(lambda: not run.agent.orders.current.restarts)
        again = await serve(host, run)
        assert not set(again) & set(processes)
        assert run.read()["reason"] == ""
        await run.agent.reload(allow_outage=False)
        assert await serve(host, run) == again
