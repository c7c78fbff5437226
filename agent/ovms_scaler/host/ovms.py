# SPDX-License-Identifier: Apache-2.0
"""Asks one engine on 127.0.0.1 over its REST port."""

import asyncio
import json
from dataclasses import dataclass
from urllib.parse import quote

import h11

from ovms_scaler.core import config_status
from ovms_scaler.core.facts import Canary, Probe
from ovms_scaler.core.progress import Counters, parse_metrics

HOST = "127.0.0.1"
_READ_BYTES = 65536
# A base model has no chat template, and a vision model answers to chat only (servable.cpp in OVMS).
_WARM_REQUESTS = (
    ("/v3/completions", {"prompt": "Hello"}),
    ("/v3/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
)


class Engine:
    """The REST port of one instance; keeps its connection between calls. Not for concurrent probes.

    On asyncio's streams and h11: a GET costs half the CPU time that it does with aiohttp's client, which
    matters with tens of instances each second. Proxies in the environment and redirects are not followed.
    """

    def __init__(self, port: int, *, timeout_sec: float) -> None:
        self.port = port
        self.timeout_sec = timeout_sec
        self._connection: _Connection | None = None

    async def probe(self, expected: tuple[str, ...], *, ready: tuple[str, ...] = ()) -> tuple[Probe, str]:
        """How the models named in ``expected`` are, and one sentence for people. Only cancelling raises.

        When they are available, those in ``ready`` are asked one by one whether they can serve, all within
        the same deadline. ``refused`` also stands for a connection that is closed without any answer: the
        engine is going down.
        """
        try:
            async with asyncio.timeout(self.timeout_sec):
                answer = await self._get("/v1/config")
                if answer.status != 200:
                    return Probe.nonsense, f"GET /v1/config was answered with {_status(answer)}"
                probe, sentence = config_status.parse_config_status(answer.body, expected)
                unready = await self._find_unready(ready) if probe is Probe.available else ""
        except TimeoutError:
            return Probe.silent, f"no answer on port {self.port} within {self.timeout_sec:g} s"
        except (h11.RemoteProtocolError, _TooLargeError) as error:
            return Probe.nonsense, f"the answer on port {self.port} is not one: {error}"
        except OSError as error:
            return Probe.refused, f"nobody answers on port {self.port}: {error.strerror or error}"
        return (Probe.loading, unready) if unready else (probe, sentence)

    async def _find_unready(self, names: tuple[str, ...]) -> str:
        """Which model cannot serve although it is available, "" for none. Raises as ``_get`` does.

        The path is KServe's; a "/" in the name must be encoded (the routes of http_rest_api_handler.cpp in
        OVMS take no bare one). 400 is the answer of a version that does not know the path.
        """
        for name in names:
            answer = await self._get(f"/v2/models/{quote(name, safe='')}/ready")
            if answer.status not in (200, 400):
                return f"{name!a} is listed as available, and is not ready: {_status(answer)}"
        return ""

    async def warm(self, model_name: str) -> tuple[bool, str]:
        """Have one token generated, for as long as that takes; the sentence says what came of it.

        True when the engine computed something. The first generation reads all weights, which takes minutes
        for a large model: there is no deadline, cancel the call when the engine is gone. Cancelling closes
        the connection, on which OVMS gives the generation up.
        """
        result, sentence = await self._generate(model_name)
        return result is Canary.answered, sentence

    async def try_token(self, model_name: str, *, timeout_sec: float) -> tuple[Canary, str]:
        """As ``warm``, within a deadline."""
        try:
            async with asyncio.timeout(timeout_sec):
                return await self._generate(model_name)
        except TimeoutError:
            return Canary.silent, f"no token within {timeout_sec:g} s"

    async def _generate(self, model_name: str) -> tuple[Canary, str]:
        sentence = ""
        for target, prompt in _WARM_REQUESTS:
            body = json.dumps({"model": model_name, "max_tokens": 1, "stream": False, **prompt}).encode()
            try:
                answer = await self._post(target, body)
            except (OSError, h11.RemoteProtocolError, _TooLargeError) as error:
                return Canary.lost, f"POST {target} on port {self.port} failed: {error}"
            if answer.status == 200:
                return Canary.answered, f"{model_name!r} generated a token"
            sentence = f"POST {target} was answered with {_status(answer)}"
        return Canary.refused, sentence

    async def read_metrics(self) -> bytes | None:
        """The engine's own metrics; None when they are not enabled, or for want of an answer."""
        try:
            answer = await self._get("/metrics")
        except (OSError, h11.RemoteProtocolError, _TooLargeError):
            return None
        return answer.body if answer.status == 200 else None

    async def read_counters(self) -> Counters | None:
        """What is counted in them; None as above, and when it is not there."""
        text = await self.read_metrics()
        return parse_metrics(text.decode(errors="replace")) if text is not None else None

    async def close(self) -> None:
        """Close the connection; the next call opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _get(self, target: str) -> "_Answer":
        """One GET on the kept connection, once more on a new one if that turns out to be closed.

        Raises TimeoutError, another OSError, h11.RemoteProtocolError, _TooLargeError.
        """
        async with asyncio.timeout(self.timeout_sec):
            kept = self._connection
            if kept is not None:
                try:
                    return await self._ask(kept, target)
                except ConnectionError:
                    # OVMS keeps idle connections open for ever, so this engine is another process by now.
                    if kept.heard:
                        raise
            self._connection = connection = await _open_connection(self.port)
            return await self._ask(connection, target)

    async def _ask(self, connection: "_Connection", target: str) -> "_Answer":
        reusable = False
        try:
            answer = await connection.ask("GET", target, b"")
            reusable = connection.is_reusable()
            return answer
        finally:
            if not reusable:
                self._connection = None
                connection.abort()

    async def _post(self, target: str, body: bytes) -> "_Answer":
        connection = await _open_connection(self.port)
        try:
            return await connection.ask("POST", target, body)
        finally:
            connection.abort()


class _TooLargeError(Exception):
    """The body exceeds what is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    status: int
    body: bytes


def _status(answer: _Answer) -> str:
    """The status and, from a body {"error": "..."} as OVMS writes it, the reason."""
    status = f"status {answer.status}"
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        return status
    error = document.get("error") if isinstance(document, dict) else None
    return f"{status}: {error[:200]!a}" if isinstance(error, str) else status


async def _open_connection(port: int) -> "_Connection":
    reader, writer = await asyncio.open_connection(HOST, port)
    return _Connection(reader, writer, port)


class _Connection:
    """One TCP connection and how far HTTP has come on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        self.reader = reader
        self.writer = writer
        self.port = port
        self.protocol = h11.Connection(h11.CLIENT)
        self.heard = False  # whether anything of the answer to the last question has come

    async def ask(self, method: str, target: str, body: bytes) -> _Answer:
        """One request and its whole answer.

        Raises ConnectionError, h11.RemoteProtocolError, _TooLargeError; the connection is useless then.
        """
        self.heard = False
        headers = [("host", f"{HOST}:{self.port}")]
        if body:
            headers += [("content-type", "application/json"), ("content-length", str(len(body)))]
        request = h11.Request(method=method, target=target, headers=headers)
        events = (request, h11.Data(data=body), h11.EndOfMessage())
        self.writer.write(b"".join(self.protocol.send(event) or b"" for event in events))
        await self.writer.drain()
        status, parts, size = 0, [], 0
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                size += len(event.data)
                if size > config_status.MAX_BYTES:
                    raise _TooLargeError(f"it has more than {config_status.MAX_BYTES} bytes")
                parts.append(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return _Answer(status=status, body=b"".join(parts))

    async def _next_event(self) -> object:
        while (event := self.protocol.next_event()) is h11.NEED_DATA:
            data = await self.reader.read(_READ_BYTES)
            if not data and not self.heard:
                raise ConnectionResetError("the connection was closed without an answer")
            self.heard = True
            self.protocol.receive_data(data)
        return event

    def is_reusable(self) -> bool:
        """Prepare for the next request, unless one side closes or has sent more than the answer."""
        if self.protocol.our_state is not h11.DONE or self.protocol.their_state is not h11.DONE:
            return False
        if self.protocol.trailing_data[0]:
            return False
        self.protocol.start_next_cycle()
        return True

    def abort(self) -> None:
        """Drop the connection at once."""
        self.writer.transport.abort()

    async def close(self) -> None:
        """Close the connection and wait until it is."""
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            return  # it was reset by the other side, which is closed as well
