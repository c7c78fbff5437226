# SPDX-License-Identifier: Apache-2.0
"""Asks the agent over its control socket, which speaks HTTP."""

import json
import socket
from pathlib import Path
from typing import Any

from ovms_scaler.errors import ScalerError, UnreachableError

SOCKET = Path("/run/ovms-scaler/control.sock")
STATUS_TIMEOUT_SEC = 5.0
# Models are looked at before a configuration is taken, and they may lie on a slow file system.
RELOAD_TIMEOUT_SEC = 60.0
# systemd may have to answer first (host/systemd.py), once for each instance.
ORDER_TIMEOUT_SEC = 60.0
MAX_ANSWER_BYTES = 16 * 1024 * 1024

START = "systemctl start ovms-scaler"
LOOK = "systemctl status ovms-scaler; journalctl -u ovms-scaler"


def read_status(path: Path = SOCKET, *, timeout_sec: float = STATUS_TIMEOUT_SEC) -> dict[str, Any]:
    """The status document. Raises UnreachableError, and ScalerError when the agent refuses."""
    return _ask("GET", "/v1/status", path, timeout_sec)


def read_measures(path: Path = SOCKET) -> dict[str, Any]:
    """What instances do and use. Raises UnreachableError, and ScalerError when the agent refuses."""
    return _ask("GET", "/v1/measures", path, STATUS_TIMEOUT_SEC)


def read_events(path: Path, *, since: float = 0.0) -> list[dict[str, Any]]:
    """The events that the agent remembers since then (seconds since the epoch), oldest first.

    Raises UnreachableError, and ScalerError when the agent refuses.
    """
    listed = _ask("GET", f"/v1/events?since={since:.6f}", path, STATUS_TIMEOUT_SEC).get("events")
    if not isinstance(listed, list):
        raise _unreachable(f"its answer on {path} is not the expected one", LOOK)
    return [event for event in listed if isinstance(event, dict)]


def reload(path: Path, *, allow_outage: bool) -> dict[str, Any]:
    """Have the agent take its configuration; ``instances`` of the answer is how many there are in it.

    ``ordered_sec`` as in ``order``. Raises UnreachableError, and ScalerError with every error of a
    configuration that was not accepted.
    """
    answer = _ask("POST", f"/v1/reload?allow_outage={allow_outage:d}", path, RELOAD_TIMEOUT_SEC)
    if not isinstance(answer.get("instances"), int) or not isinstance(answer.get("ordered_sec"), float):
        raise _unreachable(f"its answer on {path} is not the expected one", LOOK)
    return answer


def order(path: Path, verb: str, body: dict[str, object]) -> dict[str, Any]:
    """Give an order; ``instances`` of the answer are those it is about, ``ordered_sec`` when it was taken.

    Raises UnreachableError, and ScalerError when the agent refuses.
    """
    answer = _ask("POST", f"/v1/{verb}", path, ORDER_TIMEOUT_SEC, json.dumps(body).encode())
    if not isinstance(answer.get("instances"), list) or not isinstance(answer.get("ordered_sec"), float):
        raise _unreachable(f"its answer on {path} is not the expected one", LOOK)
    return answer


def _ask(method: str, target: str, path: Path, timeout_sec: float, content: bytes = b"") -> dict[str, Any]:
    status, body = _exchange(method, target, path, timeout_sec, content)
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise _unreachable(f"its answer on {path} is not a JSON object", LOOK)
    if status != 200:
        raise _refusal(status, document)
    return document


def _exchange(method: str, target: str, path: Path, timeout_sec: float, content: bytes) -> tuple[int, bytes]:
    """Status and body. Without a library: importing one would take a third of the whole program's time."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_sec)
            connection.connect(str(path))
            head = (
                f"{method} {target} HTTP/1.0\r\nHost: ovms-scaler\r\nContent-Length: {len(content)}\r\n\r\n"
            )
            connection.sendall(head.encode() + content)
            return _read_answer(connection)
    except FileNotFoundError as error:
        raise _unreachable(f"there is no socket {path}, so it does not run", START) from error
    except ConnectionRefusedError as error:
        raise _unreachable(f"nobody listens on {path}: it was ended", START) from error
    except PermissionError as error:
        raise _unreachable(f"no permission to connect to {path}", "run this as root") from error
    except TimeoutError as error:
        raise _unreachable(f"no answer on {path} within {timeout_sec:g} seconds", LOOK) from error
    except (ValueError, ConnectionError) as error:
        raise _unreachable(f"it broke off its answer on {path}", LOOK) from error
    except OSError as error:
        raise _unreachable(f"cannot connect to {path}: {error.strerror or error}", LOOK) from error


def _read_answer(connection: socket.socket) -> tuple[int, bytes]:
    """Raises ValueError for anything but a whole answer of HTTP, besides OSError."""
    received = bytearray()
    while len(received) <= MAX_ANSWER_BYTES and (block := connection.recv(1 << 16)):
        received += block
    head, end, body = bytes(received).partition(b"\r\n\r\n")
    status, *fields = head.decode("latin-1").split("\r\n")
    lengths = [int(field.split(":")[1]) for field in fields if field.lower().startswith("content-length:")]
    if not end or not status.startswith("HTTP/1.") or any(length != len(body) for length in lengths):
        raise ValueError("not a whole answer of HTTP")
    return int(status.partition(" ")[2][:3]), body


def _refusal(status: int, document: dict[str, Any]) -> ScalerError:
    error = document.get("error")
    error = error if isinstance(error, dict) else {}
    problems, message = error.get("problems"), error.get("message")
    if isinstance(problems, list) and problems:
        count = f"{len(problems)} error{'' if len(problems) == 1 else 's'}"
        lines = ["the agent goes on with its old configuration:", *map(str, problems), count]
        return ScalerError("\n".join(lines))
    return ScalerError(str(message) if message else f"the agent answers {status}")


def _unreachable(why: str, hint: str) -> UnreachableError:
    return UnreachableError(f"cannot reach the agent: {why}", hint=hint)
