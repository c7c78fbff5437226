# SPDX-License-Identifier: Apache-2.0
"""Running OpenAI requests: the worker slots, the graph pool, and the answer in one piece or streamed."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from lab.standin.ovms_standin.engine import EngineError, Piece
from lab.standin.ovms_standin.faults import Fault, Faults, exit_after_crash
from lab.standin.ovms_standin.http_protocol import Connection, Request
from lab.standin.ovms_standin.metrics import Metrics
from lab.standin.ovms_standin.openai_form import (
    FormError,
    TextRequest,
    Usage,
    parse_text_request,
    render_answer,
    render_chunk,
    render_usage_chunk,
)
from lab.standin.ovms_standin.servables import Graph, GraphState, Registry

_GRAPH_FAILED: Final = (
    "Mediapipe execution failed. MP status - INVALID_ARGUMENT: CalculatorGraph::Run() failed: \n"
    'Calculator::Process() for node "LLMExecutor" failed: '
)


class InferenceError(Exception):
    """The request is answered with this status and `{"error": text}`."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Concurrency:
    """How much runs at once; the rest waits unseen, without limit."""

    rest_workers: int
    cpu_count: int
    is_graph_queue_off: bool  # OVMS_GRAPH_QUEUE_OFF=1

    @property
    def slots(self) -> int:
        """One worker is taken by the HTTP framework's own loop (drogon_http_server.cpp)."""
        return self.rest_workers - 1

    def graph_slots(self, queue: str) -> int:
        """The pool of graph objects blocks too; AUTO means min(rest_workers, CPUs of the whole host)."""
        if self.is_graph_queue_off or not queue or queue.startswith("-") or queue == "0":
            return self.slots
        size = min(self.rest_workers, self.cpu_count) if queue == "AUTO" else int(queue)
        return min(self.slots, size)


class Inference:
    """Everything POSTed under /v3/ and /v1/."""

    def __init__(
        self,
        *,
        registry: Registry,
        metrics: Metrics,
        concurrency: Concurrency,
        faults: Faults,
        api_key: str,
    ) -> None:
        self._registry = registry
        self._metrics = metrics
        self._concurrency = concurrency
        self._faults = faults
        self._api_key = api_key
        self._workers = asyncio.Semaphore(concurrency.slots)
        self._pools: dict[tuple[str, int], asyncio.Semaphore] = {}

    async def answer(self, request: Request, connection: Connection) -> None:
        """Raises InferenceError while nothing has been sent yet."""
        # Even what is refused at once takes a worker first, as in OVMS.
        async with self._workers:
            self._check_api_key(request)
            body = _parse_body(request.body)
            graph = self._graph(str(body["model"]))
            queue = graph.settings.queue if graph.settings is not None else ""
            size = self._concurrency.graph_slots(queue)
            async with self._pools.setdefault((graph.name, size), asyncio.Semaphore(size)):
                await self._execute(graph, request.path, body, connection)

    def _check_api_key(self, request: Request) -> None:
        if self._api_key and request.headers.get("authorization") != f"Bearer {self._api_key}":
            # Not 401: OVMS has no HTTP code for it.
            raise InferenceError(500, "Unauthorized request due to invalid or missing api-key")

    def _graph(self, name: str) -> Graph:
        graph = self._registry.by_name.get(name)
        if not isinstance(graph, Graph):
            raise InferenceError(404, "Mediapipe graph definition with requested name is not found")
        if graph.state is GraphState.retired:
            raise InferenceError(
                404, "Mediapipe graph definition with requested name is not available anymore"
            )
        if graph.engine is None:
            raise InferenceError(500, "Mediapipe graph definition with requested name is not loaded yet")
        return graph

    async def _execute(
        self,
        graph: Graph,
        path: str,
        body: Mapping[str, object],
        connection: Connection,
    ) -> None:
        labels = {"api": "V3", "interface": "REST", "name": graph.name}
        labels["method"] = "Stream" if body.get("stream") is True else "Unary"
        self._metrics.add("ovms_requests_accepted", labels)
        with self._counted(graph.name, labels["method"]):
            try:
                text_request = _parse_endpoint(path, body)
                match self._faults.read_fault():
                    case Fault.errors:
                        raise EngineError("[GPU] clFlush, error code: -5 CL_OUT_OF_RESOURCES")
                    case Fault.crash:
                        exit_after_crash()
                    case Fault.poison if Fault.poison in text_request.prompt:
                        exit_after_crash()
                answer = _Answer(graph, text_request, connection)
                await answer.send(lambda: self._metrics.add("ovms_responses", labels))
            except (FormError, EngineError) as exc:
                self._metrics.add("ovms_graph_error", labels)
                raise InferenceError(400, _GRAPH_FAILED + str(exc)) from exc

    @contextlib.contextmanager
    def _counted(self, name: str, method: str) -> Iterator[None]:
        started = time.monotonic()
        self._metrics.add("ovms_current_graphs", {"name": name})
        try:
            yield
        finally:
            self._metrics.add("ovms_current_graphs", {"name": name}, amount=-1)
            elapsed_us = (time.monotonic() - started) * 1e6
            labels = {"name": name, "method": method}
            self._metrics.observe("ovms_graph_processing_time_us", elapsed_us, labels)


class _Answer:
    """One generation on its way to one client."""

    def __init__(self, graph: Graph, request: TextRequest, connection: Connection) -> None:
        self._graph = graph
        self._request = request
        self._connection = connection
        self._created = int(time.time())
        self._pieces: asyncio.Queue[Piece] = asyncio.Queue()
        self._token_count = 0

    async def send(self, count_response: Callable[[], None]) -> None:
        """Raises EngineError before anything is sent; on cancellation the generation ends too."""
        engine = self._graph.engine
        if engine is None:
            raise EngineError("the graph is being unloaded")
        request = self._request
        prompt = request.prompt if request.messages is None else engine.render_chat(request.messages)
        generation = engine.start(prompt, request.sampling, self._pieces.put_nowait)
        try:
            if request.is_streamed:
                await self._stream(generation.prompt_token_count, count_response)
            else:
                await self._send_whole(generation.prompt_token_count)
                count_response()
        except BaseException:
            generation.cancel()
            raise

    async def _next(self) -> Piece:
        piece = await self._pieces.get()
        self._token_count += piece.token_count
        return piece

    async def _send_whole(self, prompt_tokens: int) -> None:
        texts: list[str] = []
        reason: str | None = None
        while reason is None:
            piece = await self._next()
            texts.append(piece.text)
            reason = piece.finish_reason
        usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=self._token_count)
        text = "".join(texts)
        answer = render_answer(self._request, created=self._created, text=text, reason=reason, usage=usage)
        self._connection.respond(200, answer.encode(), content_type="application/json")

    async def _stream(self, prompt_tokens: int, count_response: Callable[[], None]) -> None:
        """The headers wait for the first piece of text, as OVMS's patched drogon has it."""
        is_begun = False
        reason: str | None = None
        while reason is None:
            piece = await self._next()
            reason = piece.finish_reason
            if not piece.text and reason is None:
                continue
            if not is_begun:
                self._connection.begin_stream(content_type="text/event-stream")
            self._send_event(
                render_chunk(self._request, created=self._created, piece=piece, is_first=not is_begun),
            )
            is_begun = True
            count_response()
        if self._request.has_usage_chunk:
            usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=self._token_count)
            self._send_event(render_usage_chunk(self._request, created=self._created, usage=usage))
        self._send_event("[DONE]")
        self._connection.end_stream()

    def _send_event(self, data: str) -> None:
        self._connection.send_chunk(f"data: {data}\n\n".encode())


def _parse_body(body: bytes) -> Mapping[str, object]:
    try:
        value = json.loads(body)
    except ValueError as exc:
        raise InferenceError(412, "The file is not valid json - Cannot parse JSON body") from exc
    if not isinstance(value, dict):
        raise InferenceError(412, "The file is not valid json - JSON body must be an object")
    if not isinstance(value.get("model"), str):
        raise InferenceError(412, "The file is not valid json - model field is missing in JSON body")
    return value


def _parse_endpoint(path: str, body: Mapping[str, object]) -> TextRequest:
    if path.endswith("/chat/completions"):
        return parse_text_request(body, is_chat=True)
    if path.endswith("/completions"):
        return parse_text_request(body, is_chat=False)
    raise FormError(f"Unsupported endpoint: {path}")
