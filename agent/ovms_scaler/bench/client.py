# SPDX-License-Identifier: Apache-2.0
"""Asks the front as a client does, and notes when what came."""

import asyncio
import base64
import contextlib
import errno
import json
import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from ovms_scaler.bench.outcome import MAX_WORD, Failure, Kind, plain_text
from ovms_scaler.bench.stream import Answer, Events, StreamError, parse_error

# What an error says is short; a page of somebody else's server is not wanted.
_ERROR_BYTES = 16 * 1024
# What a client may lack itself: files, ports, memory.
_OWN_LIMITS = (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM)
LOOK_SEC = 10.0
_CLOSE_SEC = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where to ask: ``url`` as "http://127.0.0.1:8000/v3", without what follows it.

    ``basic`` is "user:password" for HTTP's own authentication, where there is no ``api_key``.
    """

    url: str
    model: str
    api_key: str = field(default="", repr=False)
    basic: str = field(default="", repr=False)
    timeout_sec: float = 3600.0
    ca_file: str = ""
    is_insecure: bool = False

    def headers(self) -> dict[str, str]:
        if self.basic:
            return {"Authorization": f"Basic {base64.b64encode(self.basic.encode()).decode()}"}
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def document(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request under way; times on CLOCK_MONOTONIC.

    The answer ended at ``end_at``, what was left of the connection at ``free_at``.
    """

    sent_at: float = 0.0
    end_at: float = 0.0
    free_at: float = 0.0
    instance: str = ""
    has_begun: bool = False
    answer: Answer = field(default_factory=Answer)
    failure: Failure | None = None


class Client:
    """A session in which each request has a connection of its own.

    A connection that is kept may be closed by the server just when it is used again; that would count as an
    error of the server's, and other clients than ours do not share connections either.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True, ssl=_trust(endpoint)),
            timeout=aiohttp.ClientTimeout(total=None),
            headers=endpoint.headers(),
            trust_env=False,
            auto_decompress=False,
            read_bufsize=1 << 18,
        )

    async def close(self) -> None:
        await self._session.close()

    async def ask(self, body: bytes) -> Exchange:
        """One streamed chat completion, to its end. Only cancelling raises."""
        exchange = Exchange(sent_at=time.monotonic())
        try:
            async with asyncio.timeout(self._endpoint.timeout_sec):
                await self._exchange(body, exchange)
        except TimeoutError:
            message = f"no end within {self._endpoint.timeout_sec:g} s"
            exchange.failure = Failure(kind=Kind.timeout, message=message)
        except StreamError as error:
            exchange.failure = error.failure
        except (aiohttp.ClientError, OSError, ValueError) as error:
            exchange.failure = _explain(error, exchange)
        done_at = exchange.answer.done_at if exchange.failure is None else None
        exchange.free_at = time.monotonic()
        exchange.end_at = exchange.free_at if done_at is None else done_at
        return exchange

    async def look(self, path: str) -> tuple[int, bytes]:
        """Status and body of a GET below the URL. Raises what aiohttp raises, OSError and TimeoutError."""
        async with (
            asyncio.timeout(LOOK_SEC),
            self._session.get(self._endpoint.url + path, allow_redirects=False) as response,
        ):
            return response.status, await response.content.read(1 << 20)

    async def _exchange(self, body: bytes, exchange: Exchange) -> None:
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        url = f"{self._endpoint.url}/chat/completions"
        async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            exchange.has_begun = True
            exchange.instance = plain_text(response.headers.get("X-OVMS-Instance", ""), MAX_WORD)
            if response.status != 200:
                raise StreamError(await _read_error(response))
            if response.content_type != "text/event-stream":
                message = f"the answer is {response.content_type}, not text/event-stream"
                raise StreamError(Failure(kind=Kind.nonsense, status=200, message=message))
            await _read_stream(response, exchange.answer)
        answer = exchange.answer
        if answer.done_at is None:
            raise StreamError(Failure(kind=Kind.cut, message="the stream ended without [DONE]"))
        if answer.generated_tokens is None or answer.input_tokens is None:
            message = "stream_options.include_usage was ignored, so tokens cannot be counted"
            raise StreamError(Failure(kind=Kind.no_usage, message=message))
        if answer.generated_tokens == 0:
            # vLLM's benchmark counts an answer without text as failed, too.
            raise StreamError(Failure(kind=Kind.empty if answer.first_at is None else Kind.no_count))


def render_body(
    endpoint: Endpoint, *, prompt: str, max_tokens: int, temperature: float, ignore_eos: bool
) -> bytes:
    """The request as OVMS takes it (docs/model_server_rest_api_chat.md there).

    ``ignore_eos`` is an extension of OpenAI's API, known to OVMS and vLLM.
    """
    document: dict[str, Any] = {
        "model": endpoint.model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if ignore_eos:
        document["ignore_eos"] = True
    return json.dumps(document).encode()


def parse_endpoint(document: Mapping[str, Any]) -> Endpoint:
    """An endpoint from its document."""
    return Endpoint(**document)


async def _read_stream(response: aiohttp.ClientResponse, answer: Answer) -> None:
    events = Events()
    # What arrives together was there together: one moment for all of it.
    async for received in response.content.iter_any():
        at = time.monotonic()
        for event in events.feed(received):
            answer.take(event, at)
        if answer.done_at is not None:
            break
    # To its end: who closes earlier is a client that went away, to the server.
    with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
        async with asyncio.timeout(_CLOSE_SEC):
            await response.content.read()


async def _read_error(response: aiohttp.ClientResponse) -> Failure:
    body = await response.content.read(_ERROR_BYTES)
    try:
        message, code = parse_error(json.loads(body))
    except (ValueError, RecursionError):
        message, code = "", ""
    return Failure(
        kind=Kind.status, status=response.status, code=code, message=message or response.reason or ""
    )


def _explain(error: Exception, exchange: Exchange) -> Failure:
    """What aiohttp's exceptions mean for a client of the front."""
    message = str(error) or type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorError):
        if _is_own_limit(error.os_error):
            return Failure(kind=Kind.own_limit, message=os.strerror(error.os_error.errno or 0))
        refused = isinstance(error.os_error, ConnectionRefusedError)
        return Failure(kind=Kind.refused if refused else Kind.unreachable, message=message)
    if exchange.has_begun:
        if isinstance(error, aiohttp.ClientPayloadError):
            message = "the connection ended in the middle of the answer"
        return Failure(kind=Kind.cut, message=message)
    if isinstance(error, aiohttp.ClientResponseError | ValueError):
        return Failure(kind=Kind.nonsense, message=f"not an answer of HTTP: {message}")
    return Failure(kind=Kind.no_answer, message=message)


def _is_own_limit(error: OSError) -> bool:
    """A name may have several addresses, of which IPv6's cannot be used; then the server does not answer."""
    return error.errno in _OWN_LIMITS and "Multiple exceptions" not in str(error)


def _trust(endpoint: Endpoint) -> ssl.SSLContext | bool:
    """What certificates are checked against. Raises OSError, as ssl.SSLError is one."""
    if not endpoint.url.startswith("https:"):
        return True
    context = ssl.create_default_context(cafile=endpoint.ca_file or None)
    if endpoint.is_insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
