# SPDX-License-Identifier: Apache-2.0
"""The seam between REST and what generates text: requests, pieces, and the Engine protocol."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class EngineError(Exception):
    """The engine cannot load a model, or cannot take a request; the text is for the log or the client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen and when a generation ends."""

    max_tokens: int | None = None  # None: as many as the context holds
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    has_stop_in_output: bool = False
    is_eos_ignored: bool = False
    is_sampled: bool = False  # False: greedy


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A bit of the answer; the last one carries the reason ("stop" or "length")."""

    text: str
    token_count: int
    finish_reason: str | None = None


class Generation(Protocol):
    """A running generation."""

    @property
    def prompt_token_count(self) -> int: ...

    def cancel(self) -> None:
        """Stops it; no further piece comes."""


class Engine(Protocol):
    """One loaded model. Everything is called in the event loop's thread, and pieces arrive there."""

    @property
    def description(self) -> str: ...

    def render_chat(self, messages: Sequence[Mapping[str, object]]) -> str:
        """The prompt that the model's chat template makes of the messages. Raises EngineError."""

    def start(self, prompt: str, sampling: Sampling, on_piece: Callable[[Piece], None]) -> Generation:
        """Queues a generation. Raises EngineError when the prompt does not fit the context."""

    def close(self) -> None:
        """Cancels what runs and releases the model."""
