# SPDX-License-Identifier: Apache-2.0
"""The REST API: which path answers what (OVMS src/http_rest_api_handler.cpp, src/http_server.cpp)."""

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from lab.standin.ovms_standin import NAME, NOTICE, OVMS_VERSION
from lab.standin.ovms_standin.config_status import State, render_config_status
from lab.standin.ovms_standin.http_protocol import Connection, Request
from lab.standin.ovms_standin.inference import Inference, InferenceError
from lab.standin.ovms_standin.loading import ConfigWatcher, ReloadError
from lab.standin.ovms_standin.log import SERVING
from lab.standin.ovms_standin.metrics import Metrics
from lab.standin.ovms_standin.servables import ClassicModel, Port, Registry, Servable

_GET, _POST = "GET", "POST"
_INVALID_URL: Final = (400, '{"error":"Invalid request URL"}')
_UNSUPPORTED_METHOD: Final = (406, '{"error":"Unsupported method"}')

Answer = tuple[int, str]


@dataclass(slots=True, kw_only=True)
class Rest:
    """Answers every request; status answers never wait for generations."""

    registry: Registry
    metrics: Metrics
    inference: Inference
    is_metrics_enabled: bool = False
    is_started: bool = False  # the first load pass is over
    watcher: ConfigWatcher | None = None  # only with --config_path
    _routes: list[tuple[str, re.Pattern[str], Callable[..., Answer]]] = field(init=False)

    def __post_init__(self) -> None:
        self._routes = [
            (_GET, re.compile(r".?/v1/config"), self._config),
            (_GET, re.compile(r"/v2/health/live"), lambda: (200, "")),
            (_GET, re.compile(r"/v2/health/ready"), self._ready),
            (_GET, re.compile(r"/v2/models/([^/]+)(?:/versions/([0-9]+))?/ready"), self._model_ready),
            (_GET, re.compile(r"/v2/models/([^/]+)(?:/versions/([0-9]+))?"), self._model_metadata),
            (_GET, re.compile(r"/v2/?"), self._server_metadata),
            (_GET, re.compile(r"/(?:v3/v1|v3|v1)/models"), self._models),
            (_GET, re.compile(r"/(?:v3/v1|v3|v1)/models/(.+)"), self._model),
            (_GET, re.compile(r"/metrics"), self._metrics_text),
            (_POST, re.compile(r"/v2/models/([^/]+)(?:/versions/([0-9]+))?/infer"), self._infer),
        ]

    async def answer(self, request: Request, connection: Connection) -> None:
        """Sends exactly one response, whatever happens."""
        SERVING.debug("REST request: %s %s", request.method, request.path)
        try:
            await self._route(request, connection)
        except InferenceError as exc:
            _respond(connection, exc.status, json.dumps({"error": str(exc)}, separators=(",", ":")))
        except Exception:
            SERVING.exception("Exception caught in REST request handler")
            _respond(connection, 500, "")

    async def _route(self, request: Request, connection: Connection) -> None:
        if request.method == "OPTIONS":
            _respond(connection, 200, "")
        elif request.method not in {_GET, _POST}:
            _respond(connection, *_UNSUPPORTED_METHOD)
        elif request.path == "/v1/config/reload":
            await self._post_only(request, connection, self._reload)
        elif (
            request.method == _POST
            and re.match(r"/(?:v3|v1)/", request.path)
            and not self._is_get_path(request)
        ):
            await self.inference.answer(request, connection)
        else:
            status, body = self._answer_now(request)
            is_text = request.path == "/metrics" and status == 200
            kind = "text/plain; charset=utf-8" if is_text else "application/json; charset=utf-8"
            connection.respond(status, body.encode(), content_type=kind)

    async def _post_only(
        self,
        request: Request,
        connection: Connection,
        answer: Callable[[], Awaitable[Answer]],
    ) -> None:
        _respond(connection, *(await answer() if request.method == _POST else _UNSUPPORTED_METHOD))

    def _is_get_path(self, request: Request) -> bool:
        return any(method == _GET and pattern.fullmatch(request.path) for method, pattern, _ in self._routes)

    def _answer_now(self, request: Request) -> Answer:
        for method, pattern, answer in self._routes:
            match = pattern.fullmatch(request.path)
            if match:
                return answer(*match.groups()) if method == request.method else _UNSUPPORTED_METHOD
        return _INVALID_URL

    def _config(self) -> Answer:
        return 200, render_config_status(self.registry.statuses())

    async def _reload(self) -> Answer:
        if self.watcher is None:
            # Without --config_path there is no file to look at (http_rest_api_handler.cpp).
            return 500, '{\n\t"error": "Config file not found or cannot open."\n}'
        try:
            await self.watcher.reload()
        except ReloadError as exc:
            return exc.status, f'{{\n\t"error": "{exc}"\n}}'
        return self._config()

    def _ready(self) -> Answer:
        return (200, "") if self.is_started else (503, '{"error":"Server is not ready"}')

    def _model_ready(self, name: str, _version: str | None) -> Answer:
        servable = self.registry.by_name.get(unquote(name))
        if servable is None:
            return 404, '{"error":"Model with requested name is not found"}'
        if not self.registry.is_available(servable.name):
            return 404, '{"error":"Model with requested version is not loaded yet"}'
        labels = {"api": "KServe", "interface": "REST", "method": "ModelReady", "name": servable.name}
        self.metrics.add("ovms_requests_success", labels)
        return 200, ""

    def _model_metadata(self, name: str, _version: str | None) -> Answer:
        servable = self.registry.by_name.get(unquote(name))
        if servable is None or not self.registry.is_available(servable.name):
            return 404, '{"error":"Model with requested name is not found"}'
        ports = (servable.inputs, servable.outputs) if isinstance(servable, ClassicModel) else ((), ())
        available = [status for status in servable.statuses() if status.state is State.available]
        return 200, json.dumps(
            {
                "name": servable.name,
                "versions": [str(status.version) for status in available],
                "platform": "OpenVINO",
                "inputs": [_port(port) for port in ports[0]],
                "outputs": [_port(port) for port in ports[1]],
            }
        )

    def _server_metadata(self) -> Answer:
        return 200, json.dumps({"name": NAME, "version": f"{OVMS_VERSION} ({NOTICE})"})

    def _models(self) -> Answer:
        models = [_listed(servable) for servable in self.registry.available()]
        return 200, json.dumps({"data": models, "object": "list"}, separators=(",", ":"))

    def _model(self, name: str) -> Answer:
        name = unquote(name)
        if not self.registry.is_available(name):
            return 500, '{"error":"Model not found"}'
        return 200, json.dumps(_listed(self.registry.by_name[name]), separators=(",", ":"))

    def _metrics_text(self) -> Answer:
        return (200, self.metrics.render()) if self.is_metrics_enabled else _INVALID_URL

    def _infer(self, _name: str, _version: str | None) -> Answer:
        return 400, '{"error":"the stand-in does not run KServe inference"}'


def _port(port: Port) -> dict[str, object]:
    return {"name": port.name, "datatype": port.datatype, "shape": list(port.shape)}


def _listed(servable: Servable) -> dict[str, object]:
    return {"id": servable.name, "object": "model", "created": servable.created_sec, "owned_by": "OVMS"}


def _respond(connection: Connection, status: int, body: str) -> None:
    connection.respond(status, body.encode())
