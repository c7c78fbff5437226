# SPDX-License-Identifier: Apache-2.0
"""The composition root of the agent: the only place where adapters are made and put together."""

import argparse
import asyncio
import contextlib
import fcntl
import os
import pwd
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import structlog

from ovms_scaler import __version__, log, page
from ovms_scaler.config import CONFIG_FILE
from ovms_scaler.core.fronts import PROXY_DIRECTORY
from ovms_scaler.core.nginx import ACCESS_SOCKET
from ovms_scaler.core.tally import Tally
from ovms_scaler.daemon.admin import Admin
from ovms_scaler.daemon.admin_pages import Machine, Sources, make_application
from ovms_scaler.daemon.agent import Agent
from ovms_scaler.daemon.apply import Applier
from ovms_scaler.daemon.control import Control
from ovms_scaler.daemon.devices import DeviceWatch
from ovms_scaler.daemon.ends import Ends
from ovms_scaler.daemon.events import Events
from ovms_scaler.daemon.health import HealthWatch
from ovms_scaler.daemon.lanes import Glance
from ovms_scaler.daemon.measuring import Measuring
from ovms_scaler.daemon.meter import Meter
from ovms_scaler.daemon.metrics import Metrics
from ovms_scaler.daemon.observe import Memory, Observer
from ovms_scaler.daemon.proxy_watch import ProxyWatch
from ovms_scaler.daemon.resolving import Resolver
from ovms_scaler.daemon.wedges import Wedges
from ovms_scaler.errors import HostError, ScalerError
from ovms_scaler.host.access_log import AccessLog
from ovms_scaler.host.cgroups import read_cpu_sec
from ovms_scaler.host.credentials import CredentialStore
from ovms_scaler.host.devices import DeviceMonitor
from ovms_scaler.host.gpu_idle import read_gpu_idle_sec
from ovms_scaler.host.models import read_model
from ovms_scaler.host.nginx import Nginx
from ovms_scaler.host.notify import Notifier
from ovms_scaler.host.ovms import Engine
from ovms_scaler.host.signals import send_signal
from ovms_scaler.host.store import Store
from ovms_scaler.host.sysfs import read_topology
from ovms_scaler.host.systemd import Systemd

logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()

LOCK = Path("/run/ovms-scaler/lock")
PROXY_USER = "ovms-scaler-proxy"


def main() -> None:
    """Run the agent until SIGTERM; instances and proxy go on when it ends."""
    parser = argparse.ArgumentParser(
        prog="ovms-scaler",
        description="Host agent that keeps one OpenVINO Model Server per NUMA node and GPU behind one "
        "endpoint. Usually started by systemd.",
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=CONFIG_FILE,
        metavar="FILE",
        help="configuration to use in place of %(default)s",
    )
    parser.add_argument("--version", action="version", version=f"ovms-scaler {__version__}")
    options = parser.parse_args()
    events, tally = Events(), Tally()

    def note(entry: Mapping[str, object]) -> None:
        events.note(entry)
        tally.note_event(entry)

    log.configure(note)
    try:
        with only_one(LOCK):
            asyncio.run(_run(options.config, events, tally))
    except ScalerError as error:
        logger.critical("agent cannot run", error=error.message, hint=error.hint)
        sys.exit(1)


async def _run(config_file: Path, events: Events, tally: Tally) -> None:
    store, admin, notifier = Store(), Admin(), Notifier()
    idle = Glance("idle times of GPUs", read_gpu_idle_sec)
    # What is begun last is ended first, and systemd is left when all who ask it have ended.
    async with await Systemd.open() as units, contextlib.AsyncExitStack() as stack:
        stack.callback(_stopped, notifier)
        health = HealthWatch(
            _connect,
            lambda: agent.wake(),
            # Cards are looked at when an engine is silent, and the card that hangs may be why.
            meter=Meter(
                read_cpu_sec=read_cpu_sec,
                read_gpu_idle_sec=lambda gpus: idle.read(tuple(gpus)),
            ),
        )
        stack.push_async_callback(health.close)
        wedges = Wedges(store)
        observer, applier = _make_hands(units, store, health, wedges, settled=lambda: agent.wake())
        stack.push_async_callback(applier.close)
        resolver = Resolver(
            read_topology=read_topology,
            read_model=read_model,
            credentials=CredentialStore(Path(PROXY_DIRECTORY)),
        )
        agent = Agent(
            config_file=config_file,
            resolve=resolver,
            store=store,
            observer=observer,
            applier=applier,
            wedges=wedges,
            notifier=notifier,
            admin=admin,
            tally=tally,
            list_silent=resolver.list_silent,
        )
        units.subscribe(agent.wake)
        measuring = Measuring(agent.view, proxy_uid=_uid(PROXY_USER))
        control = Control(
            agent, answers={"events": events.answer, "measures": lambda _query: measuring.read()}
        )
        metrics = Metrics(status=agent.document, measures=measuring.read, tally=tally, connect=_connect)
        for part in (control, metrics, admin):
            stack.push_async_callback(part.close)
        stack.callback(_open_record(health, observer.proxy_watch, measuring).close)
        stack.callback(_watch_devices(agent).close)
        agent.load()
        await control.open()
        await _open_pages(admin, agent, measuring, events, metrics)
        logger.info("agent started", version=__version__)
        stack.callback(asyncio.create_task(events.recall(), name="recall").cancel)
        stack.callback(notifier.stopping)
        await _until_terminated(agent)


def _stopped(notifier: Notifier) -> None:
    logger.info("agent stopped")
    notifier.close()


def _connect(port: int, timeout_sec: float) -> Engine:
    return Engine(port, timeout_sec=timeout_sec)


def _make_hands(
    units: Systemd, store: Store, health: HealthWatch, wedges: Wedges, *, settled: Callable[[], None]
) -> tuple[Observer, Applier]:
    """What looks at the host, and what acts on it; ``settled`` is called when a job has ended."""
    memory, ends = Memory(), Ends(store)
    proxy = Nginx(
        Path(PROXY_DIRECTORY),
        units,
        hang_up=lambda pid, unit: send_signal(pid, signal.SIGHUP, unit=unit),
    )
    observer = Observer(
        units=units,
        proxy=proxy,
        store=store,
        health=health,
        memory=memory,
        wedges=wedges,
        ends=ends,
        proxy_uid=_uid(PROXY_USER),
    )
    applier = Applier(
        units=units,
        proxy=proxy,
        store=store,
        memory=memory,
        wedges=wedges,
        ends=ends,
        settled=settled,
        kill=lambda pid, unit: send_signal(pid, signal.SIGKILL, unit=unit),
    )
    return observer, applier


async def _open_pages(
    admin: Admin, agent: Agent, measuring: Measuring, events: Events, metrics: Metrics
) -> None:
    """Show the agent at the address that the configuration names."""
    sources = Sources(
        status=agent.document,
        measures=measuring.read,
        events=events,
        topology=Machine(read_topology).document,
        metrics=metrics.answer,
        page=page.render_page,
        fragment=page.render_fragment,
        page_policy=page.CONTENT_SECURITY_POLICY,
    )
    await admin.open(make_application(sources))


def _watch_devices(agent: Agent) -> contextlib.ExitStack:
    """Listen to udev until the stack is closed."""
    stack = contextlib.ExitStack()
    try:
        monitor = DeviceMonitor()
        watch = DeviceWatch(monitor, changed=agent.note_devices, wedged=agent.note_hang)
    except HostError as error:
        logger.warning("no word of devices, looking at them all the time", error=error.message)
        agent.poll_devices()
        return stack
    stack.callback(monitor.close)
    stack.callback(watch.close)
    return stack


def _open_record(health: HealthWatch, proxy_watch: ProxyWatch, measuring: Measuring) -> contextlib.ExitStack:
    """Take in what the proxy says of requests until the stack is closed."""
    stack = contextlib.ExitStack()

    def take(data: bytes) -> None:
        answer = health.note_datagram(data)
        if answer is not None:
            measuring.note(answer)
        proxy_watch.note_datagram(data)

    try:
        stack.callback(AccessLog(Path(ACCESS_SOCKET), take).close)
    except HostError as error:
        measuring.is_told = False
        logger.warning("no word of requests, failures show in probes only", error=error.message)
    return stack


async def _until_terminated(agent: Agent) -> None:
    """Run passes until SIGTERM or SIGINT; SIGHUP takes the configuration anew."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    reloads: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = asyncio.create_task(_reload(agent), name="reload")
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    passes = asyncio.create_task(agent.run(), name="passes")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait((passes, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not passes.done():
        passes.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await passes


async def _reload(agent: Agent) -> None:
    with contextlib.suppress(ScalerError):  # logged where it happened
        await agent.reload(allow_outage=False)


def _uid(user: str) -> int | None:
    """None where the package's user is missing: then every local client counts."""
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold the lock that tells agents apart; the kernel frees it however the process ends."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise HostError(
            f"cannot open {path}: {error.strerror}",
            hint="`systemd-tmpfiles --create` makes its directory; the agent needs root",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise HostError(
            f"cannot lock {path}: another agent runs", hint="systemctl status ovms-scaler"
        ) from error
    else:
        yield
    finally:
        os.close(descriptor)
