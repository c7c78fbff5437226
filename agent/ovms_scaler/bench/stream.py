# SPDX-License-Identifier: Apache-2.0
"""The stream of a chat completion: server-sent events, each a JSON chunk, and [DONE] at the end."""

import json
from dataclasses import dataclass, field

from ovms_scaler.bench.outcome import Failure, Kind

# A chunk is some hundred bytes; whatever does not end is not one.
MAX_EVENT_BYTES = 1024 * 1024
_TEXTS = ("content", "reasoning_content", "reasoning", "tool_calls", "refusal")


class StreamError(Exception):
    """The stream is not one, or says itself that it failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Events:
    """Splits what arrives into the data of events (WHATWG HTML, 9.2.6), whatever the pieces."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._name = b""

    def feed(self, received: bytes) -> list[bytes]:
        """The data of each event that is complete now.

        Raises StreamError for a line without end, and for an event that is named error.
        """
        self._rest += received
        *lines, rest = self._rest.split(b"\n")
        if len(rest) > MAX_EVENT_BYTES:
            raise StreamError(Failure(kind=Kind.nonsense, message="a line of the stream has no end"))
        self._rest = rest
        events = []
        for line in lines:
            if line.endswith(b"\r"):
                line = line[:-1]
            if not line:
                events += self._end_event()
            elif line.startswith(b"event:"):
                self._name = bytes(line[6:]).strip()
            elif line.startswith(b"data:"):
                self._data.append(bytes(line[5:].removeprefix(b" ")))
        return events

    def _end_event(self) -> list[bytes]:
        data, name = self._data, self._name
        self._data, self._name = [], b""
        if data and name == b"error":
            raise StreamError(_read_reported(b"\n".join(data)))
        return [b"\n".join(data)] if data else []


@dataclass(slots=True, kw_only=True)
class Answer:
    """What has come of one answer; times are those of the pieces' arrival.

    ``gaps_us`` are the microseconds between events with text. How many tokens one of them holds is up to the
    server: tokens are taken from ``usage`` alone.
    """

    first_at: float | None = None
    last_at: float | None = None
    gaps_us: list[int] = field(default_factory=list)
    input_tokens: int | None = None
    generated_tokens: int | None = None
    done_at: float | None = None

    def take(self, data: bytes, at: float) -> None:
        """Note one event that arrived ``at``. Raises StreamError."""
        if data.strip() == b"[DONE]":
            self.done_at = at
            return
        try:
            chunk = json.loads(data)
        except (ValueError, RecursionError):
            chunk = None
        if not isinstance(chunk, dict):
            raise StreamError(Failure(kind=Kind.nonsense, message=f"not a chunk: {_excerpt(data)}"))
        if chunk.get("error") or chunk.get("object") == "error":
            raise StreamError(_read_reported(data))
        if isinstance(usage := chunk.get("usage"), dict):
            self.input_tokens = _count(usage.get("prompt_tokens"), self.input_tokens)
            self.generated_tokens = _count(usage.get("completion_tokens"), self.generated_tokens)
        if _has_text(chunk.get("choices")):
            if self.last_at is None:
                self.first_at = at
            else:
                self.gaps_us.append(max(0, round((at - self.last_at) * 1e6)))
            self.last_at = at


def parse_error(document: object) -> tuple[str, str]:
    """Message and code of an error; "" for none.

    In OpenAI's form, in OVMS's ({"error": "..."}), or that of others who leave "error" out and have the
    message at the top, as vLLM did ({"object": "error", "message": "..."}).
    """
    if not isinstance(document, dict):
        return "", ""
    error = document.get("error", document)
    if isinstance(error, dict):
        return str(error.get("message") or ""), str(error.get("code") or error.get("type") or "")
    return (error, "") if isinstance(error, str) else ("", "")


def _read_reported(data: bytes) -> Failure:
    """What a server said was wrong in the middle of its stream, in whatever form."""
    try:
        message, code = parse_error(json.loads(data))
    except (ValueError, RecursionError):
        message, code = "", ""
    return Failure(kind=Kind.reported, code=code, message=message or _excerpt(data))


def _has_text(choices: object) -> bool:
    if not isinstance(choices, list):
        return False
    for choice in choices:
        delta = choice.get("delta") if isinstance(choice, dict) else None
        if isinstance(delta, dict) and any(delta.get(name) for name in _TEXTS):
            return True
    return False


def _count(value: object, otherwise: int | None) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if is_count and isinstance(value, int) else otherwise


def _excerpt(data: bytes) -> str:
    return ascii(data[:80].decode(errors="replace"))[1:-1]
