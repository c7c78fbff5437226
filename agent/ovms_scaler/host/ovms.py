# SPDX-License-Identifier: Apache-2.0
"""Asks one engine on 127.0.0.1 over its REST port."""

from ovms_scaler.core.facts import Probe


class Engine:
    """The REST port of one instance; keeps its connection between calls. Not for concurrent probes."""

    def __init__(self, port: int, *, timeout_sec: float) -> None:
        self.port = port
        self.timeout_sec = timeout_sec

    async def probe(self, expected: tuple[str, ...]) -> tuple[Probe, str]:
        """How the models named in ``expected`` are, and one sentence for people. Never raises but when cancelled."""
        raise NotImplementedError

    async def is_model_ready(self, name: str) -> bool:
        """Whether the engine says that it can serve ``name`` (KServe's model ready)."""
        raise NotImplementedError

    async def warm(self, model_name: str) -> tuple[bool, str]:
        """Have one token generated, for as long as that takes; the sentence says what came of it.

        True when the engine computed something. The first generation reads all weights, which takes minutes
        for a large model: there is no deadline, cancel the call when the engine is gone.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Close the connection; the next call opens a new one."""
        raise NotImplementedError
