# SPDX-License-Identifier: Apache-2.0
"""An engine without OpenVINO: words from a fixed list, at a pace that the environment sets.

For placement and proxy tests where tokens do not matter, and for hosts whose Python has no OpenVINO wheels.
"""

import asyncio
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lab.standin.ovms_standin.engine import EngineError, Piece, Sampling
from lab.standin.ovms_standin.faults import Fault, Faults
from lab.standin.ovms_standin.render_nodes import RenderNodes

_WORDS: Final = (
    "the",
    "model",
    "answers",
    "with",
    "simulated",
    "words",
    "one",
    "after",
    "another",
    "until",
    "done",
)
_CONTEXT_TOKENS: Final = 32768
_DEFAULT_TOKENS: Final = 64
# One look for all that hang: a wedged engine uses next to no CPU time, however many requests it has.
_WEDGE_POLL_SEC: Final = 0.2
_BURN_ROUNDS: Final = 20_000  # some milliseconds, in which the event loop has the GIL


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds: before the first token, between tokens, and once more before the very first token of all.

    ``burns`` keeps a core busy while anything is generated, as real engines keep theirs.
    """

    first_token_sec: float = 0.0
    token_sec: float = 0.0
    first_inference_sec: float = 0.0
    burns: bool = False


class Burner:
    """Uses CPU time while somebody is at work."""

    def __init__(self) -> None:
        self._workers = 0
        self._is_needed = threading.Event()
        threading.Thread(target=self._burn, name="burner", daemon=True).start()

    def begin(self) -> None:
        self._workers += 1
        self._is_needed.set()

    def end(self) -> None:
        self._workers -= 1
        if not self._workers:
            self._is_needed.clear()

    def _burn(self) -> None:
        while self._is_needed.wait():
            hashlib.pbkdf2_hmac("sha256", b"", b"", _BURN_ROUNDS)


@dataclass(slots=True, kw_only=True)
class SimulatedGeneration:
    """A task that plays the words."""

    prompt_token_count: int
    task: "asyncio.Task[None]"

    def cancel(self) -> None:
        self.task.cancel()


class SimulatedEngine:
    """Plays deterministic words; at most `slots` generations progress at a time, the rest wait."""

    def __init__(self, *, pace: Pace, faults: Faults, slots: int, render_nodes: RenderNodes) -> None:
        self._pace = pace
        self._faults = faults
        self._render_nodes = render_nodes
        self._slots = asyncio.Semaphore(slots)
        self._is_warm = asyncio.Event()
        self._is_warming = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._healing: asyncio.Task[None] | None = None
        self._burner = Burner() if pace.burns else None

    @property
    def description(self) -> str:
        return "SIMULATED (no OpenVINO)"

    def render_chat(self, messages: Sequence[Mapping[str, object]]) -> str:
        return "\n".join(f"{message.get('role')}: {message.get('content')}" for message in messages)

    def start(
        self, prompt: str, sampling: Sampling, on_piece: Callable[[Piece], None]
    ) -> SimulatedGeneration:
        self._render_nodes.require()
        prompt_tokens = len(prompt.split())
        if prompt_tokens >= _CONTEXT_TOKENS:
            raise EngineError(
                f"Number of prompt tokens: {prompt_tokens} exceeds model max length: {_CONTEXT_TOKENS}",
            )
        token_limit = min(sampling.max_tokens or _DEFAULT_TOKENS, _CONTEXT_TOKENS - prompt_tokens)
        task = asyncio.get_running_loop().create_task(self._play(token_limit, sampling, on_piece))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return SimulatedGeneration(prompt_token_count=prompt_tokens, task=task)

    def close(self) -> None:
        for task in (*self._tasks, *((self._healing,) if self._healing else ())):
            task.cancel()

    async def _play(self, token_limit: int, sampling: Sampling, on_piece: Callable[[Piece], None]) -> None:
        async with self._slots:
            await self._warm()
            index = 0
            pause_sec = self._pace.first_token_sec
            while index < token_limit:
                await self._compute(pause_sec)
                if self._faults.read_fault() is Fault.wedge:
                    await self._until_well()
                word = _WORDS[index % len(_WORDS)]
                if word in sampling.stop:
                    on_piece(Piece(text="", token_count=1, finish_reason="stop"))
                    return
                is_last = index == token_limit - 1
                text = word if is_last else word + " "
                on_piece(Piece(text=text, token_count=1, finish_reason="length" if is_last else None))
                index += 1
                pause_sec = self._pace.token_sec

    async def _compute(self, for_sec: float) -> None:
        if self._burner is None:
            await asyncio.sleep(for_sec)
            return
        self._burner.begin()
        try:
            await asyncio.sleep(for_sec)
        finally:
            self._burner.end()

    async def _until_well(self) -> None:
        if self._healing is None or self._healing.done():
            self._healing = asyncio.get_running_loop().create_task(self._heal())
        await asyncio.shield(self._healing)

    async def _heal(self) -> None:
        while True:
            await asyncio.sleep(_WEDGE_POLL_SEC)
            if self._faults.read_fault() is not Fault.wedge:
                return

    async def _warm(self) -> None:
        """The first inference of all pays for the weights; whoever comes meanwhile waits for it."""
        if not self._is_warming:
            self._is_warming = True
            # Not tied to the request that came first: its client may go away while the weights are read.
            asyncio.get_running_loop().call_later(self._pace.first_inference_sec, self._is_warm.set)
        await self._is_warm.wait()


def parse_pace(environment: Mapping[str, str]) -> Pace:
    """From OVMS_STANDIN_TTFT_MS, OVMS_STANDIN_TPOT_MS and OVMS_STANDIN_FIRST_MS; each defaults to 0.

    OVMS_STANDIN_BURN=1 is ``burns``. Raises ValueError for anything but a number.
    """

    def seconds(name: str) -> float:
        return float(environment.get(name) or 0) / 1000

    return Pace(
        first_token_sec=seconds("OVMS_STANDIN_TTFT_MS"),
        token_sec=seconds("OVMS_STANDIN_TPOT_MS"),
        first_inference_sec=seconds("OVMS_STANDIN_FIRST_MS"),
        burns=environment.get("OVMS_STANDIN_BURN") == "1",
    )
