# SPDX-License-Identifier: Apache-2.0
"""Reloads the agent of the host that it runs on again and again: python3 reload_rounds.py SETTINGS, in JSON.

``texts`` are configurations that take turns; without them an instance, ``drain``, leaves and comes back.
``look`` says what is looked at, and what is printed as JSON: ``times``, milliseconds of each of ``rounds``;
``cpu``, seconds of CPU for each reload; ``memory``, of the proxy while answers outlive ``rounds`` reloads.
Only what Debian's python3 has is used.
"""

import concurrent.futures
import contextlib
import json
import re
import socket
import sys
import time
from pathlib import Path
from typing import Any

CONFIG = Path("/etc/ovms-scaler/config.toml")
CONTROL, INTERNAL = "/run/ovms-scaler/control.sock", "/run/ovms-scaler-proxy/work/internal.sock"
SLICE = Path("/sys/fs/cgroup/system.slice")
# nginx lets old and new workers answer beside each other for 0.1 s; after this long the old ones are out.
SETTLED_SEC = 0.4
LIMIT_SEC = 30.0
# Between two questions to the proxy, each of which any of its workers may answer.
ASK_SEC = 0.002
# A pair of windows: without reloads, and with them at this distance.
PAIRS, RELOADS, DISTANCE_SEC = 3, 5, 2.0
STREAMS = 20


def ask(path: str, request: str, body: str = "", *, timeout_sec: float = LIMIT_SEC) -> str:
    """The body of the answer. Raises RuntimeError for another status than 200."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(timeout_sec)
        link.connect(path)
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        link.sendall(f"{request} HTTP/1.0\r\nHost: x\r\n{length}\r\n{body}".encode())
        answer = b"".join(iter(lambda: link.recv(65536), b"")).decode()
    if not re.match(r"HTTP/1\.. 200 ", answer):
        raise RuntimeError(f"{request}: {answer!r}")
    return answer.partition("\r\n\r\n")[2].strip()


def read_generation() -> str:
    return ask(INTERNAL, "GET /generation")


class Changes:
    """What has the proxy reloaded: each call of ``order`` is another change."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._texts: list[str] = settings.get("texts", [])
        self._drain: str = settings.get("drain", "")

    def prepare(self) -> None:
        """Whatever comes before the order and takes no part in it."""
        if self._texts:
            present = CONFIG.read_text()
            CONFIG.write_text(next((text for text in self._texts if text != present), present))

    def order(self) -> float:
        """Give the order; when it was answered."""
        if self._texts:
            ask(CONTROL, "POST /v1/reload")
        else:
            ask(CONTROL, "POST /v1/drain", json.dumps({"name": self._drain}))
        return time.perf_counter()

    def undo(self) -> None:
        """Have the instance back in rotation."""
        if not self._texts:
            before = read_generation()
            ask(CONTROL, "POST /v1/undrain", json.dumps({"name": self._drain}))
            watch(before, time.perf_counter())


def watch(before: str, began: float) -> tuple[float, float]:
    """Milliseconds after ``began`` when the first new worker answered, and since when new ones alone do."""
    first = only = 0.0
    while True:
        is_new = read_generation() != before
        now = time.perf_counter()
        if not is_new:
            only = 0.0
        else:
            first, only = first or now, only or now
            if now - only > SETTLED_SEC:
                return (first - began) * 1000, (only - began) * 1000
        if now - began > LIMIT_SEC:
            raise RuntimeError(f"generation {before} still answers after {LIMIT_SEC} s")
        time.sleep(ASK_SEC)  # nginx tells nobody when a reload is complete


def wait_until_alone() -> None:
    """Until no worker stays for what it began: with many of them the agent puts reloads off."""
    due = time.monotonic() + LIMIT_SEC
    while count_leaving():
        if time.monotonic() > due:
            raise RuntimeError(f"workers of earlier configurations are there after {LIMIT_SEC} s")
        time.sleep(0.05)  # a worker that ends tells its master alone


def look_at_times(changes: Changes, rounds: int) -> list[dict[str, float]]:
    found = []
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for _ in range(rounds):
            wait_until_alone()
            changes.prepare()
            before = read_generation()
            began = time.perf_counter()
            answered = pool.submit(changes.order)
            first, only = watch(before, began)
            found.append({"answered": (answered.result() - began) * 1000, "first": first, "only": only})
            changes.undo()
    return found


def read_cpu() -> dict[str, float]:
    """Seconds of CPU so far, by who took them."""
    found = {}
    for name, unit in {"agent": "ovms-scaler", "proxy": "ovms-scaler-proxy"}.items():
        text = (SLICE / f"{unit}.service" / "cpu.stat").read_text()
        found[name] = int(text.split()[1]) / 1e6
    found["systemd"] = int(Path("/proc/1/schedstat").read_text().split()[0]) / 1e9
    return found


def look_at_cpu(changes: Changes, *, is_reloaded: bool) -> list[dict[str, float]]:
    """Of each pair of windows, what one with reloads took more than the one without, for each reload."""
    found = []
    for _ in range(PAIRS):
        quiet = spend(None, is_reloaded=False)
        busy = spend(changes, is_reloaded=is_reloaded)
        found.append({name: (busy[name] - quiet[name]) / RELOADS for name in quiet})
    return found


def spend(changes: Changes | None, *, is_reloaded: bool) -> dict[str, float]:
    before = read_cpu()
    due = time.monotonic()
    for _ in range(RELOADS):
        if changes is not None:
            generation = read_generation()
            changes.prepare()
            changes.order()
        due += DISTANCE_SEC
        time.sleep(max(0.0, due - time.monotonic()))  # the window itself
        if changes is not None and (read_generation() != generation) is not is_reloaded:
            raise RuntimeError(f"the proxy was{' not' if is_reloaded else ''} reloaded")
    after = read_cpu()
    return {name: after[name] - before[name] for name in before}


def read_proxy(file: str) -> list[str]:
    """A file of each process of the proxy in /proc, but for those that end just now."""
    found = []
    for pid in (SLICE / "ovms-scaler-proxy.service" / "cgroup.procs").read_text().split():
        with contextlib.suppress(OSError):
            found.append(Path("/proc", pid, file).read_text())
    return found


def count_leaving() -> int:
    """Workers that stay for what they began."""
    return sum("shutting down" in title for title in read_proxy("cmdline"))


def read_memory() -> dict[str, float]:
    """Megabytes of the proxy's processes (Pss, proc(5)), and how many of them stay for what they began."""
    texts = read_proxy("smaps_rollup")
    kilobytes = sum(int(found[1]) for text in texts if (found := re.search(r"^Pss: +(\d+)", text, re.M)))
    return {"megabytes": kilobytes * 1024 / 1e6, "leaving": count_leaving()}


def look_at_memory(changes: Changes, rounds: int, request: str, body: str) -> list[dict[str, float]]:
    """With nothing to do, and after each reload while STREAMS answers that began before it go on."""
    found = [read_memory()]
    links = []
    for _ in range(rounds):
        links += [begin(request, body) for _ in range(STREAMS)]
        before = read_generation()
        changes.prepare()
        changes.order()
        watch(before, time.perf_counter())
        found.append(read_memory())
    for link in links:
        link.close()
    return found


def begin(request: str, body: str) -> socket.socket:
    """A connection on which an answer has begun."""
    link = socket.create_connection(("127.0.0.1", 8000), timeout=LIMIT_SEC)
    header = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    link.sendall(f"{request} HTTP/1.1\r\n{header}\r\n{body}".encode())
    if (answer := link.recv(65536)).split(b" ", 2)[1] != b"200":
        raise RuntimeError(f"{request}: {answer!r}")
    return link


def main(settings: dict[str, Any]) -> None:
    changes = Changes(settings)
    found: object
    if settings["look"] == "times":
        found = look_at_times(changes, settings["rounds"])
    elif settings["look"] == "cpu":
        found = look_at_cpu(changes, is_reloaded=settings.get("is_reloaded", True))
    else:
        found = look_at_memory(changes, settings["rounds"], settings["request"], settings["body"])
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
