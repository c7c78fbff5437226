# SPDX-License-Identifier: Apache-2.0
"""Gets everything together that a measurement needs, has it made, and says what came of it."""

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ovms_scaler import __version__
from ovms_scaler.bench import machine
from ovms_scaler.bench.dataset import Sample, draw_sample
from ovms_scaler.bench.document import Context, Document, make_document
from ovms_scaler.bench.fleet import Fleet
from ovms_scaler.bench.front import Front, find_front
from ovms_scaler.bench.load import Load
from ovms_scaler.bench.rotation import StoppedError, find_members, require_all
from ovms_scaler.bench.running import Findings, Side, run_compare, run_once, run_scale
from ovms_scaler.bench.session import Session
from ovms_scaler.bench.swapping import Swap
from ovms_scaler.ctl.bench_config import find_config, name_sides, read_other_config, read_whole_config
from ovms_scaler.ctl.bench_host import AgentHost
from ovms_scaler.ctl.bench_place import Place, Wish, find_place, find_routed
from ovms_scaler.ctl.bench_progress import BenchProgress
from ovms_scaler.ctl.busy import busy
from ovms_scaler.ctl.options import CONFIG
from ovms_scaler.errors import HostError, InputError, ScalerError

_BLOCK_CHARS = 1 << 20
_WARMUPS_EACH, _WARMUPS = 2, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What somebody asked for; ``num_warmups`` and ``workers`` None leave it to this program."""

    socket: Path
    wish: Wish
    load: Load
    workers: int | None
    num_warmups: int | None
    scale: tuple[int, ...] = ()
    compare: tuple[Path, Path] | None = None
    against_whole: bool = False
    rounds: int = 1
    command: Sequence[str] = ()


def bench(request: Request) -> Document:
    """Measure, and return the report. Raises ScalerError when there is nothing to report."""
    place = find_place(request.wish, request.socket)
    sample = read_sample(request.load.for_instances(max(request.scale, default=1)))
    return asyncio.run(_bench(request, place, sample))


def read_sample(load: Load) -> Sample | None:
    """What is to be asked from the dataset, None without one. Raises InputError and HostError."""
    if not load.dataset_path:
        return None
    path = Path(load.dataset_path)
    try:
        with busy(f"reading {path}"), path.open(encoding="utf-8-sig") as stream:
            blocks = iter(lambda: stream.read(_BLOCK_CHARS), "")
            return draw_sample(blocks, load.num_prompts, load.seed, name=str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error.reason}", hint="it must be JSON as text") from error
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}", hint="--dataset-path FILE") from error


async def _bench(request: Request, place: Place, sample: Sample | None) -> Document:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _list_signals():
        loop.add_signal_handler(number, stop.set)
    began_at = time.time()
    front = await find_front(place.endpoint, stop)
    place = replace(place, endpoint=front.endpoint)
    routed = find_routed(place)
    warmups = request.num_warmups or (len(routed) * _WARMUPS_EACH if routed else _WARMUPS)
    load = replace(request.load, num_warmups=warmups)
    host = AgentHost(request.socket)
    workers = min(load.window, request.workers or default_workers(os.cpu_count() or 1))
    with BenchProgress() as reporter:
        async with Fleet(front.endpoint, load, workers) as fleet:
            session = Session(
                endpoint=front.endpoint,
                load=load,
                conversations=sample.conversations if sample is not None else (),
                fleet=fleet,
                read_measures=host.measures if place.is_local else None,
                without="" if place.is_local else f"{place.endpoint.url} is on another machine",
                reporter=reporter,
                stop=stop,
            )
            findings = await _measure(request, place, session, host)
    if not findings.measurements:
        raise _explain_nothing(findings)
    return make_document(findings, _describe(request, place, load, sample, front, began_at))


def _list_signals() -> list[signal.Signals]:
    """What ends it early; not a hang-up for whoever started it with nohup."""
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers


def _explain_nothing(findings: Findings) -> ScalerError:
    """Why there is no report, and what of the machine is not as it was."""
    said = [findings.trouble or "interrupted before anything was measured"]
    said += [f"not put back: {text}" for text in findings.left]
    kind = StoppedError if findings.is_interrupted else HostError
    return kind("\n".join(said))


async def _measure(request: Request, place: Place, session: Session, host: AgentHost) -> Findings:
    status = place.status or {}

    def make_swap(file: Path) -> Swap:
        return Swap(host, file, session.stop, session.reporter.tell)

    if request.compare is not None:
        file = find_config(status)
        one, two = (read_other_config(path, file) for path in request.compare)
        names = name_sides(*request.compare)
        sides = (
            Side(key="A", name=names[0], content=one),
            Side(key="B", name=names[1], content=two),
        )
        return await run_compare(session, make_swap(file), sides, rounds=request.rounds)
    if request.scale:
        members = find_members(status, place.upstream, max(request.scale))
        against, whole = None, b""
        notes: list[str] = []
        if request.against_whole:
            require_all(members, request.scale)
            file = find_config(status)
            whole, notes = read_whole_config(file)
            against = make_swap(file)
        findings = await run_scale(
            session, host, members, request.scale, rounds=request.rounds, against=against, whole=whole
        )
        findings.notes += notes if findings.whole_ratio is not None else []
        return findings
    return await run_once(session, find_routed(place) or None)


def default_workers(cpus: int) -> int:
    """Enough to be fast, and few enough to leave the machine to the engines."""
    return min(8, max(2, cpus // 16))


def _describe(
    request: Request, place: Place, load: Load, sample: Sample | None, front: Front, began_at: float
) -> Context:
    nodes = gpus = None
    if place.is_local:
        nodes, gpus = _describe_topology()
    status = place.status or {}
    config = Path(str((status.get("config") or {}).get("file") or CONFIG))
    files = [config, *sorted(config.parent.glob("config.d/*.toml"))]
    return Context(
        version=__version__,
        at=began_at,
        command=request.command,
        endpoint=front.endpoint,
        load=load,
        sample=sample,
        engine=front.engine,
        machine=machine.read_machine_facts(),
        nodes=nodes,
        gpus=gpus,
        config_sha256=machine.hash_files(files) if place.status is not None else None,
        generation=(status.get("proxy") or {}).get("generation"),
        is_local=place.is_local,
    )


def _describe_topology() -> tuple[str | None, str | None]:
    from ovms_scaler.core.cpulist import format_cpu_list
    from ovms_scaler.offline import read_machine

    try:
        found = read_machine()
    except ScalerError:
        return None, None
    nodes = "; ".join(f"{node.id}: CPUs {format_cpu_list(node.cpus) or 'none'}" for node in found.nodes)
    gpus = ", ".join(gpu.address for gpu in found.gpus) or "none"
    return nodes, gpus
