# SPDX-License-Identifier: Apache-2.0
"""One fault under load on one host: the load begins, the fault happens, the load ends."""

import json
import subprocess
import threading
import time
from dataclasses import dataclass, field

from lab.commands import LabError

from faults import figures
from faults.clients import Settings
from faults.figures import Figures, Record
from faults.rig import MODEL, Engine, Rig, Shape

TOKENS = 20  # of an answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What holds for all faults, which happen ``fault_sec`` into a load that lasts at least ``seconds``.

    Engines load for ``loading_sec``, PID 1 is slow for ``slow_sec``. With ``until_whole`` the load also
    lasts until every engine serves again.
    """

    clients: int = 64
    fault_sec: float = 3.0
    seconds: float = 14.0
    loading_sec: float = 3.0
    slow_sec: float = 8.0
    times: int = 20
    timeout_sec: float = 8.0
    seed: int = 1
    until_whole: bool = False


class Load:
    """Clients in the network of the host, from the beginning to the end of a ``with`` block."""

    def __init__(self, rig: Rig, settings: Settings, *, longest_sec: float = 900) -> None:
        self._argv = rig.netns_python("-m", "faults.clients", json.dumps(_document(settings)))
        self._longest_sec = longest_sec
        self.begun = 0.0
        self.record = Record(requests=[], posts=[], changes=[], ended=0.0)

    def __enter__(self) -> "Load":
        self._process = subprocess.Popen(
            self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._timer = threading.Timer(self._longest_sec, self._process.kill)
        self._timer.start()
        try:
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
            if not line:
                raise LabError("cannot load the front: the clients did not begin")
            self.begun = float(json.loads(line)["begun"])
        except BaseException:
            self._end(kill=True)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        output = self._end(kill=error[0] is not None)
        if error[0] is None:
            if self._process.returncode != 0:
                raise LabError(f"the clients ended with {self._process.returncode}")
            self.record = figures.parse_record(json.loads(output))

    def order(self, kind: str) -> None:
        """Have one request sent beside the load: poison or bad."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{kind}\n")
        self._process.stdin.flush()

    def wait_until(self, second: float) -> None:
        """Until so many seconds of the load have passed; nothing else tells time's share of a run."""
        time.sleep(max(0.0, self.begun + second - time.monotonic()))

    def _end(self, *, kill: bool) -> str:
        if kill:
            self._process.kill()
        output, _ = self._process.communicate()
        self._timer.cancel()
        self._timer.join()
        return output


@dataclass(slots=True, kw_only=True)
class Run:
    """One fault that happens; what the fault's function may use and fill in."""

    rig: Rig
    load: Load
    options: Options
    victims: tuple[Engine, ...]
    fault_at: float = 0.0
    listening_at: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def victim(self) -> Engine:
        return self.victims[0]

    def begin_fault(self) -> None:
        """The fault is in force from here on."""
        self.fault_at = time.monotonic()

    @property
    def since_fault_sec(self) -> float:
        return time.monotonic() - self.fault_at

    def pause(self, seconds: float) -> None:
        """Let the fault last, which is time that passes."""
        time.sleep(max(0.0, seconds))

    def kill(self, *engines: Engine, name: str = "KILL") -> None:
        """Send a signal to the main processes of these engines, all at once; the fault begins then."""
        self.kill_pids(*(pid for pid in map(self.rig.read_pid, engines) if pid), name=name)

    def kill_pids(self, *pids: int, name: str = "KILL") -> None:
        """The same with process ids."""
        # Told by the machine that does it: to start a command inside takes as long as ten requests.
        script = f"kill -{name} {' '.join(map(str, pids))}; cut -d ' ' -f 1 /proc/uptime"
        uptime = float(self.rig.host.script(script))
        self.fault_at = uptime - time.clock_gettime(time.CLOCK_BOOTTIME) + time.monotonic()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One row. ``listening_at`` is when new processes of the victims took connections, 0 if not known."""

    figures: Figures
    record: Record
    fault_at: float
    listening_at: float
    victims: tuple[Engine, ...]
    notes: tuple[str, ...]


def compute_answer_sec(shape: Shape) -> float:
    """How long an answer takes that nothing holds up."""
    return (shape.first_token_ms + (TOKENS - 1) * shape.token_ms) / 1000


def settings_for(rig: Rig, options: Options, *, shape: str = "half", burst: int = 0) -> Settings:
    """The load that these options ask for."""
    return Settings(
        port=rig.front_port,
        engine_ports=tuple(engine.port for engine in rig.engines),
        model=MODEL,
        clients=options.clients,
        tokens=TOKENS,
        answer_sec=compute_answer_sec(rig.shape),
        timeout_sec=options.timeout_sec,
        shape=shape,
        burst=burst,
    )


def finish(run: Run) -> Result:
    """The row of a run whose load has ended."""
    ports = [engine.port for engine in run.victims]
    if run.listening_at:
        early = sum(
            figures.posts_while_not_ready(run.load.record, run.fault_at, port, after=run.listening_at)
            for port in ports
        )
        run.notes.append(f"{early} requests to engines that were loading")
    return Result(
        figures=figures.compute(run.load.record, fault_at=run.fault_at, victims=ports),
        record=run.load.record,
        fault_at=run.fault_at,
        listening_at=run.listening_at,
        victims=run.victims,
        notes=tuple(run.notes),
    )


def _document(settings: Settings) -> dict[str, object]:
    return {name: getattr(settings, name) for name in settings.__slots__}
