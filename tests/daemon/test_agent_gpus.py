# SPDX-License-Identifier: Apache-2.0
"""The loop as a whole while GPUs come, go and hang."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from daemon_host import SERVING, DaemonHost, Running, running, write

from ovms_scaler.core.device_event import DeviceEvent
from ovms_scaler.errors import HostError

A, B = "0000:03:00.0", "0000:04:00.0"
ON_A, ON_B = f"chat-gpu-{A}", f"chat-gpu-{B}"
UNIT_A = f"ovms@{ON_A}.service"
HELPER = f"ovms-scaler-gpu-recovery@rebind-{A}.service"
CONFIG = """\
[[pool]]
name = "chat"
model_name = "org/tiny"
model_path = "/srv/models/tiny"
placement = "gpu"
nodes = "0"
[[pool]]
name = "cpu"
model_name = "org/tiny"
model_path = "/srv/models/tiny"
nodes = "1"
[health]
interval_sec = 0.1
"""
BOOK = "var/lib/ovms-scaler/gpus.json"


@pytest.fixture
def gpus(host: DaemonHost) -> DaemonHost:
    """Two nodes; on the first two cards, which is as many as it has cores; CPUs serve on the second."""
    host.nodes = 2
    host.plug(A, render=128)
    host.plug(B, render=129)
    host.units.installed = (*host.units.installed, "ovms-scaler-gpu-recovery@*.service")
    host.configure(CONFIG)
    for number in range(3):
        host.engine(number).body = SERVING
    return host


def in_rotation(run: Running, *names: str) -> Callable[[], bool]:
    """Whether exactly these are."""

    def holds() -> bool:
        documents = run.agent.document()["instances"]
        assert isinstance(documents, list)
        return {one["id"] for one in documents if one["in_rotation"]} == set(names)

    return holds


ALL = (ON_A, ON_B, "cpu-numa1")


def go(host: DaemonHost, run: Running, address: str = A) -> None:
    """A card goes, as the kernel, systemd and udev do it."""
    host.pull(address)
    host.units.stop_by_admin(f"ovms@chat-gpu-{address}.service")
    run.agent.note_devices()


def come(host: DaemonHost, run: Running, address: str = A, *, render: int = 128) -> None:
    host.plug(address, render=render)
    run.agent.note_devices()


def orders(host: DaemonHost) -> list[tuple[str, str]]:
    return [(verb, unit) for verb, unit in host.units.calls if verb in ("start", "stop")]


async def test_card_that_goes_and_comes_moves_nobody_else(gpus: DaemonHost) -> None:
    async with running(gpus) as run:
        await run.until(in_rotation(run, *ALL))
        files = {
            path: path.stat() for path in gpus.root.glob("run/systemd/system/*/*") if A not in str(path)
        }
        book = (gpus.root / BOOK).stat()
        gpus.units.calls.clear()
        go(gpus, run)
        waiting = await run.until_state("waiting", ON_A)
        assert waiting["reason"] == f"its GPU {A} is not there"
        await run.until(in_rotation(run, ON_B, "cpu-numa1"))
        await run.until(lambda: ON_A not in gpus.store.list_instances())
        assert orders(gpus) == []
        come(gpus, run, render=130)
        await run.until(in_rotation(run, *ALL))
        assert orders(gpus) == [("start", UNIT_A)]
        assert "BindPaths=-/dev/dri/renderD130" in gpus.units.loaded[UNIT_A].text
        assert {path: path.stat() for path in files} == files
        assert (gpus.root / BOOK).stat() == book


async def test_card_that_is_back_before_anybody_looks_is_not_taken_for_stopped_by_hand(
    gpus: DaemonHost,
) -> None:
    async with running(gpus) as run:
        await run.until(in_rotation(run, *ALL))
        gpus.units.calls.clear()
        go(gpus, run)
        come(gpus, run)
        await run.until(lambda: orders(gpus) == [("start", UNIT_A)])
        await run.until(in_rotation(run, *ALL))


async def test_instance_that_outlived_its_card_is_stopped_and_started_anew(gpus: DaemonHost) -> None:
    async with running(gpus) as run:
        await run.until(in_rotation(run, *ALL))
        gpus.units.calls.clear()
        gpus.pull(A)
        come(gpus, run)
        await run.until(lambda: ("start", UNIT_A) in gpus.units.calls)
        await run.until(in_rotation(run, *ALL))
        assert orders(gpus) == [("stop", UNIT_A), ("start", UNIT_A)]


async def test_stop_by_hand_outlasts_the_card(gpus: DaemonHost) -> None:
    async with running(gpus) as run:
        await run.until(in_rotation(run, *ALL))
        gpus.units.stop_by_admin(UNIT_A)
        await run.until_state("stopped", ON_A)
        go(gpus, run)
        await run.until_state("waiting", ON_A)
        come(gpus, run, render=131)
        stopped = await run.until_state("stopped", ON_A)
        assert stopped["hint"] == f"systemctl start {UNIT_A}"


async def test_agent_that_comes_back_finds_a_card_replaced(gpus: DaemonHost) -> None:
    async with running(gpus) as run:
        await run.until(in_rotation(run, *ALL))
    await gpus.health.close()
    gpus.pull(A)
    gpus.plug(A)
    gpus.units.calls.clear()
    async with running(gpus) as run:
        await run.until(lambda: ("start", UNIT_A) in gpus.units.calls)
        await run.until(in_rotation(run, *ALL))
    assert orders(gpus) == [("stop", UNIT_A), ("start", UNIT_A)]


# A new card, and what is planned


async def test_new_card_waits_for_cores_until_they_are_planned(gpus: DaemonHost) -> None:
    """Also an agent that comes back plans nothing by itself."""
    gpus.configure(CONFIG.replace('nodes = "0"', "host_cpus_per_gpu = 1").replace('nodes = "1"\n', ""))
    gpus.pull(B)
    async with running(gpus) as run:
        await run.until(in_rotation(run, ON_A, "cpu-numa0", "cpu-numa1"))
        gpus.units.calls.clear()
        come(gpus, run, B, render=129)
        waiting = await run.until_state("waiting", ON_B)
        assert str(waiting["reason"]).endswith("is set aside for its host threads")
    await gpus.health.close()
    async with running(gpus) as run:
        await run.until_state("waiting", ON_B)
        await run.until(in_rotation(run, ON_A, "cpu-numa0", "cpu-numa1"))
        assert orders(gpus) == []
        assert gpus.resolved.count(True) == 1


async def test_changed_configuration_and_a_reload_are_planned(gpus: DaemonHost) -> None:
    async with running(gpus) as run:
        await run.until_state("ready", ON_A)
        await run.agent.reload(allow_outage=False)
        assert gpus.resolved[-1]
    await gpus.health.close()
    gpus.configure(CONFIG.replace("[health]", "weight = 7\n[health]"))
    gpus.resolved.clear()
    gpus.start_agent()
    assert gpus.resolved == [True]


async def test_look_that_fails_keeps_what_was_planned_and_is_repeated(gpus: DaemonHost) -> None:
    async with running(gpus) as run:
        await run.until(in_rotation(run, *ALL))
        gpus.trouble = HostError("cannot read /sys: Input/output error")
        go(gpus, run)
        await run.until(lambda: "cannot read /sys" in json.dumps(run.agent.document()["problems"]))
        assert run.agent.wanted_count() == 3
        gpus.trouble = None
        run.agent.wake()
        await run.until_state("waiting", ON_A)
        assert run.agent.document()["problems"] == []


async def test_book_is_written_only_when_it_changed(gpus: DaemonHost) -> None:
    async with running(gpus) as run:
        await run.until(in_rotation(run, *ALL))
        book = gpus.root / BOOK
        before, looks = book.stat(), len(gpus.resolved)
        run.agent.note_devices()
        await run.until(lambda: len(gpus.resolved) > looks)
        await run.next_word()
        assert book.stat() == before
        gpus.plug("0000:05:00.0", render=140)
        run.agent.note_devices()
        await run.until(lambda: "0000:05:00.0" in book.read_text())


async def test_without_word_of_devices_every_pass_looks_at_them(gpus: DaemonHost) -> None:
    async with running(gpus) as run:
        await run.until(in_rotation(run, *ALL))
        looks = len(gpus.resolved)
        run.agent.wake()
        await run.next_word()
        assert len(gpus.resolved) == looks
        run.agent.poll_devices()
        gpus.pull(A)
        gpus.units.stop_by_admin(UNIT_A)
        await run.until_state("waiting", ON_A)
        assert not any(gpus.resolved[looks:])


@pytest.mark.parametrize(
    ("book", "why"),
    [
        pytest.param("{", "Expecting property name", id="not JSON"),
        pytest.param(
            '{"cards": {"x": {}}, "groups": {}}', "card 'x' must be a PCI address", id="not a book"
        ),
    ],
)
async def test_corrupt_book_is_not_guessed_around(gpus: DaemonHost, book: str, why: str) -> None:
    write(gpus.root / BOOK, book)
    async with running(gpus) as run:
        assert "cannot use the GPU book" in await run.next_word()
        assert why in str(run.agent.document()["config"])
        with pytest.raises(HostError, match="cannot use the GPU book") as caught:
            await run.agent.reload(allow_outage=False)
        assert str(caught.value.hint).startswith("restore it, or remove it while nothing runs")
        (gpus.root / BOOK).unlink()
        await run.agent.reload(allow_outage=False)
        await run.until(in_rotation(run, *ALL))


# What hangs


def hang(run: Running, *methods: str) -> None:
    run.agent.note_hang(
        DeviceEvent(action="change", subsystem="drm", address=A, wedged=methods, detail="guc timeout")
    )


@pytest.mark.parametrize("methods", [("rebind", "bus-reset"), ("none",), ()])
async def test_hang_leads_to_recovery_and_back(gpus: DaemonHost, methods: tuple[str, ...]) -> None:
    async with running(gpus) as run:
        await run.until(in_rotation(run, *ALL))
        gpus.units.calls.clear()
        hang(run, *methods)
        helped = [("start", HELPER)] if "rebind" in methods else []
        await run.until(lambda: len(orders(gpus)) == 2 + len(helped))
        await run.until(in_rotation(run, *ALL))
        assert orders(gpus) == [("stop", UNIT_A), *helped, ("start", UNIT_A)]
        assert gpus.wedges.read()[A].is_recovered


async def test_quarantine_outlasts_the_agent_and_ends_with_a_reload(gpus: DaemonHost) -> None:
    gpus.configure(CONFIG + "[gpu]\nrecovery_attempts = 1\n")
    async with running(gpus) as run:
        await run.until(in_rotation(run, *ALL))
        gpus.units.next_results[HELPER] = "failed"
        hang(run, "rebind")
        quarantined = await run.until_state("quarantined", ON_A)
        assert quarantined["reason"] == (
            "its GPU was recovered 1 times in a row and still hangs: rebind did not help "
            f"(journalctl -u {HELPER})"
        )
        await run.until(in_rotation(run, ON_B, "cpu-numa1"))
    await gpus.health.close()
    async with running(gpus) as run:
        await run.until_state("quarantined", ON_A)
        gpus.units.calls.clear()
        await run.agent.reload(allow_outage=False)
        await run.until(in_rotation(run, *ALL))
        assert orders(gpus) == [("start", HELPER), ("start", UNIT_A)]


async def test_engine_that_was_given_up_on_a_card_that_hung_is_started_anew(gpus: DaemonHost) -> None:
    async with running(gpus) as run:
        await run.until(in_rotation(run, *ALL))
        gpus.units.fail(UNIT_A)
        await run.until_state("quarantined", ON_A)
        hang(run, "rebind")
        await run.until(in_rotation(run, *ALL))


async def test_card_without_permission_is_said_and_the_others_serve(gpus: DaemonHost) -> None:
    gpus.gpus[A] = replace(gpus.gpus[A], accessible=False)
    async with running(gpus) as run:
        failed = await run.until_state("failed", ON_A)
        assert failed["reason"] == f"the group render may not read and write /dev/dri/renderD128 of GPU {A}"
        await run.until(in_rotation(run, ON_B, "cpu-numa1"))
        gpus.gpus[A] = replace(gpus.gpus[A], accessible=True)
        run.agent.wake()
        await run.until(in_rotation(run, *ALL))


async def test_card_whose_driver_is_loaded_later_is_used(gpus: DaemonHost) -> None:
    good, gpus.gpus[A] = gpus.gpus[A], replace(gpus.gpus[A], driver=None, render_node=None)
    async with running(gpus) as run:
        waiting = await run.until_state("waiting", ON_A)
        assert waiting["reason"] == f"GPU {A} has no driver"
        await run.until(in_rotation(run, ON_B, "cpu-numa1"))
        gpus.gpus[A] = good
        run.agent.note_devices()
        await run.until(in_rotation(run, *ALL))
