# SPDX-License-Identifier: Apache-2.0
"""What is asked of the front before anything is measured: which models it serves, and with what."""

import asyncio
import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import aiohttp

from ovms_scaler.bench import client as clients
from ovms_scaler.bench.client import Client, Endpoint
from ovms_scaler.bench.outcome import MAX_WORD, Failure, Kind, plain_text
from ovms_scaler.bench.rotation import StoppedError
from ovms_scaler.errors import HostError, InputError

_LOOK = "ovms-scalerctl status"


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """Where to ask and for what.

    ``engine`` is name and version of the server behind it, None when it hides them.
    """

    endpoint: Endpoint
    engine: str | None


async def find_front(endpoint: Endpoint, stop: asyncio.Event) -> Front:
    """Complete the endpoint with the model, where there is one only.

    Raises HostError when nobody answers, InputError for a model that is not served, and StoppedError when
    ``stop`` is set meanwhile.
    """
    try:
        client = Client(endpoint)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot use the certificates of {endpoint.ca_file}: {error}") from error
    looking = asyncio.create_task(_look(client, endpoint))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((looking, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not looking.done():
            raise StoppedError("interrupted before anything was measured")
        return looking.result()
    finally:
        looking.cancel()
        stopping.cancel()
        await asyncio.gather(looking, stopping, return_exceptions=True)
        await client.close()


async def _look(client: Client, endpoint: Endpoint) -> Front:
    status, models = await _read_models(client, endpoint)
    engine = await _read_engine(Client(replace(endpoint, url=_root(endpoint.url))))
    return Front(endpoint=replace(endpoint, model=choose_model(endpoint, status, models)), engine=engine)


def choose_model(endpoint: Endpoint, status: int, served: Sequence[str] | None) -> str:
    """The model to ask for; ``served`` None when the front answered with ``status`` and does not tell.

    Raises InputError, and HostError when nobody behind the front can tell.
    """
    wanted, url = endpoint.model, endpoint.url
    if served is None and status >= 500:
        message = "nobody can say which models are served"
        raise explain_failure(endpoint, Failure(kind=Kind.status, status=status, message=message))
    if served is None:
        if not wanted:
            raise InputError(
                f"{url} does not say which models it serves (HTTP {status})",
                hint="the URL ends with /v3 for OVMS, as http://server:8000/v3; else name one with --model",
            )
        return wanted
    if wanted in served:
        return wanted
    if wanted:
        raise explain_model(wanted, served, f"at {url}")
    listed = ", ".join(served)
    if len(served) != 1:
        what = f"{len(served)} models are served at {url}" if served else f"no model is served at {url}"
        raise InputError(what, hint=f"choose one with --model: {listed}" if served else _LOOK)
    return served[0]


def explain_model(wanted: str, served: Sequence[str], where: str) -> InputError:
    """That there is no such model, and which there are."""
    close = difflib.get_close_matches(wanted, served, n=1)
    listed = ", ".join(served) or "none"
    hint = f"did you mean --model {close[0]}?" if close else f"it serves {listed}; {_LOOK}"
    return InputError(f"no model {wanted!r} is served {where}", hint=hint)


def explain_failure(endpoint: Endpoint, failure: Failure) -> HostError:
    """Why nothing can be measured, and what to type next."""
    hints = {
        Kind.refused: f"{_LOOK}; systemctl status ovms-scaler-proxy",
        Kind.unreachable: "is the URL right? with TLS it begins with https:, and a certificate "
        "of one's own needs --cacert or --insecure",
        Kind.nonsense: "is this the API? the URL ends with /v3 for OVMS, as http://server:8000/v3",
        Kind.no_usage: "tokens are counted by stream_options.include_usage alone: update the server",
        Kind.no_count: "tokens are counted by the server's usage alone: update the server",
        Kind.empty: "does it generate text? try it with curl; the server's log may say more",
        Kind.no_answer: f"{_LOOK}; journalctl -eu ovms-scaler-proxy",
        Kind.cut: f"{_LOOK}; an engine died or was killed",
        Kind.own_limit: "ulimit -Hn; sysctl net.ipv4.ip_local_port_range",
        Kind.timeout: f"a longer --timeout; {_LOOK}",
    }
    hint = hints.get(failure.kind, _LOOK)
    if failure.status == 401:
        hint = "--api-key-file FILE"
    elif failure.status == 404:
        hint = f"the URL ends with /v3 for OVMS; {_LOOK}"
    message = f": {failure.message}" if failure.message else ""
    return HostError(f"cannot measure {endpoint.url}: {failure.label}{message}", hint=hint)


async def _read_models(client: Client, endpoint: Endpoint) -> tuple[int, tuple[str, ...] | None]:
    """The status of the answer and what it lists, None where it is no list."""
    try:
        status, body = await client.look("/models")
    except aiohttp.ClientConnectorError as error:
        refused = isinstance(error.os_error, ConnectionRefusedError)
        kind = Kind.refused if refused else Kind.unreachable
        raise explain_failure(endpoint, Failure(kind=kind, message=str(error))) from error
    except aiohttp.InvalidURL as error:
        raise InputError(
            f"cannot use the URL {endpoint.url!r}", hint="for example http://127.0.0.1:8000/v3"
        ) from error
    except TimeoutError as error:
        what = f"it did not say in {clients.LOOK_SEC:g} s which models it serves"
        raise HostError(
            f"cannot measure {endpoint.url}: {what}", hint=f"{_LOOK}; journalctl -eu ovms-scaler-proxy"
        ) from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        what = str(error) or type(error).__name__
        raise explain_failure(endpoint, Failure(kind=Kind.no_answer, message=what)) from error
    if status == 401:
        raise explain_failure(
            endpoint, Failure(kind=Kind.status, status=401, message="an API key is needed")
        )
    try:
        listed = json.loads(body)["data"] if status == 200 else None
        return status, None if listed is None else tuple(str(one["id"]) for one in listed)
    except (ValueError, LookupError, TypeError, RecursionError):
        return status, None


async def _read_engine(client: Client) -> str | None:
    """From KServe's server metadata, which OVMS has at /v2."""
    try:
        status, body = await client.look("/v2")
        document = json.loads(body) if status == 200 else {}
        return plain_text(f"{document['name']} {document['version']}", MAX_WORD)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, LookupError, TypeError, RecursionError):
        return None
    finally:
        await client.close()


def _root(url: str) -> str:
    """The URL without the API's own last part: behind a prefix of a pool its /v2 is there too."""
    head, _, tail = url.rpartition("/")
    return head if tail in ("v1", "v3") else url
