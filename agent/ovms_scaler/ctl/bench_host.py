# SPDX-License-Identifier: Apache-2.0
"""The agent as a measurement needs it, over its control socket."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovms_scaler.bench.host import Progress
from ovms_scaler.ctl import client
from ovms_scaler.ctl.waiting import judge

Document = Mapping[str, Any]


class AgentHost:
    """Implements ovms_scaler.bench.host.Host."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def status(self) -> Document:
        return client.read_status(self._socket)

    def measures(self) -> Document:
        return client.read_measures(self._socket)

    def drain(self, name: str) -> Document:
        return client.order(self._socket, "drain", {"name": name, "allow_outage": False})

    def undrain(self, name: str) -> Document:
        return client.order(self._socket, "undrain", {"name": name})

    def reload(self) -> Document:
        return client.reload(self._socket, allow_outage=True)

    def judge(self, verb: str, order: Document, status: Document) -> Progress | None:
        if status.get("observed_sec", 0.0) < order["ordered_sec"]:
            return None
        instances = order["instances"]
        names = tuple(map(str, instances)) if isinstance(instances, list) else ()
        progress = judge(verb, names, status)
        waits_for = "; ".join(f"{name} {text}" for name, text in progress.others.items())
        return Progress(waits_for=waits_for, trouble=progress.trouble)
