# SPDX-License-Identifier: Apache-2.0
"""OpenAI's chat/completions and completions, as OVMS reads and answers them (src/llm/apis)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lab.standin.ovms_standin.engine import Piece, Sampling

# OVMS bounds what runs without an end of its own (openai_completions.cpp).
_IGNORED_EOS_TOKENS_LIMIT: Final = 4000


class FormError(ValueError):
    """The request breaks a rule of the API; OVMS answers 400."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest:
    """A request for text: `messages` for a chat, `prompt` for a completion."""

    model: str
    sampling: Sampling
    messages: Sequence[Mapping[str, object]] | None = None
    prompt: str = ""
    is_streamed: bool = False
    has_usage_chunk: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts of one answer."""

    prompt_tokens: int
    completion_tokens: int

    def to_json(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


def parse_text_request(body: Mapping[str, object], *, is_chat: bool) -> TextRequest:
    """Raises FormError with a sentence in OVMS's manner."""
    fields = _Fields(body)
    if fields.whole("n", 1) != 1:
        raise FormError("n value other than 1 is not supported by the stand-in")
    options = body.get("stream_options")
    is_streamed = fields.switch("stream")
    if options is not None and not is_streamed:
        raise FormError("stream_options provided, but stream not set to true")
    if options is not None and not isinstance(options, dict):
        raise FormError("stream_options is not an object")
    messages = _parse_messages(body) if is_chat else None
    prompt = "" if is_chat else fields.text("prompt")
    return TextRequest(
        model=str(body["model"]),
        sampling=_parse_sampling(fields),
        messages=messages,
        prompt=prompt,
        is_streamed=is_streamed,
        has_usage_chunk=isinstance(options, dict) and options.get("include_usage") is True,
    )


def _parse_sampling(fields: "_Fields") -> Sampling:
    max_tokens = fields.whole("max_completion_tokens", None) or fields.whole("max_tokens", None)
    if 0 in (fields.whole("max_tokens", None), fields.whole("max_completion_tokens", None)):
        raise FormError("max_tokens value should be greater than 0")
    is_eos_ignored = fields.switch("ignore_eos")
    if is_eos_ignored and max_tokens is None:
        max_tokens = _IGNORED_EOS_TOKENS_LIMIT
    temperature = fields.number("temperature", low=0.0, high=2.0)
    return Sampling(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=fields.number("top_p", low=0.0, high=1.0),
        top_k=fields.whole("top_k", None),
        seed=fields.whole("seed", None),
        stop=_parse_stop(fields.body.get("stop")),
        has_stop_in_output=fields.switch("include_stop_str_in_output"),
        is_eos_ignored=is_eos_ignored,
        # OVMS samples unless the temperature is 0; its default is 1.
        is_sampled=temperature is None or temperature > 0,
    )


def _parse_stop(value: object) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if values is None:
        return ()
    if not isinstance(values, list) or len(values) > 16 or not all(isinstance(item, str) for item in values):
        raise FormError("stop is not a string or array of strings")
    return tuple(item for item in values if item)


def _parse_messages(body: Mapping[str, object]) -> Sequence[Mapping[str, object]]:
    messages = body.get("messages")
    if not isinstance(messages, list):
        raise FormError("messages missing in request")
    if not messages:
        raise FormError("Messages array cannot be empty")
    return [_parse_message(message) for message in messages]


def _parse_message(message: object) -> Mapping[str, object]:
    if not isinstance(message, dict):
        raise FormError("Message is not a JSON object")
    content = message.get("content")
    if isinstance(content, list):
        # The form with typed parts: a text model takes the text ones.
        parts = [
            part.get("text", "") for part in content if isinstance(part, dict) and part.get("type") == "text"
        ]
        content = "".join(map(str, parts))
    if not isinstance(content, str):
        raise FormError("Invalid message structure - content missing")
    return {**message, "content": content}


@dataclass(frozen=True, slots=True)
class _Fields:
    body: Mapping[str, object]

    def text(self, name: str) -> str:
        value = self.body.get(name)
        if not isinstance(value, str) or not value:
            raise FormError(f"{name} is missing or is not a string")
        return value

    def switch(self, name: str) -> bool:
        value = self.body.get(name)
        if value is not None and not isinstance(value, bool):
            raise FormError(f"{name} accepts values true or false")
        return value is True

    def whole(self, name: str, default: int | None) -> int | None:
        value = self.body.get(name)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise FormError(f"{name} is not an unsigned integer")
        return value

    def number(self, name: str, *, low: float, high: float) -> float | None:
        value = self.body.get(name)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise FormError(f"{name} is not a valid number")
        if not low <= value <= high:
            raise FormError(f"{name} out of range({low:g}, {high:g})")
        return float(value)


def render_answer(request: TextRequest, *, created: int, text: str, reason: str, usage: Usage) -> str:
    """The body of an answer in one piece."""
    is_chat = request.messages is not None
    choice: dict[str, object] = {"finish_reason": reason, "index": 0, "logprobs": None}
    if is_chat:
        choice["message"] = {"content": text, "role": "assistant", "tool_calls": []}
    else:
        choice["text"] = text
    return _render(
        {
            "choices": [choice],
            "created": created,
            "model": request.model,
            "object": "chat.completion" if is_chat else "text_completion",
            "usage": usage.to_json(),
        }
    )


def render_chunk(request: TextRequest, *, created: int, piece: Piece, is_first: bool) -> str:
    """One event of a streamed answer."""
    is_chat = request.messages is not None
    choice: dict[str, object] = {"index": 0, "logprobs": None, "finish_reason": piece.finish_reason}
    if is_chat:
        choice["delta"] = (
            {"role": "assistant", "content": piece.text} if is_first else {"content": piece.text}
        )
    else:
        choice["text"] = piece.text
    return _render({**_chunk_head(request, created), "choices": [choice]})


def render_usage_chunk(request: TextRequest, *, created: int, usage: Usage) -> str:
    """The last event, where `stream_options.include_usage` asked for it."""
    return _render({**_chunk_head(request, created), "choices": [], "usage": usage.to_json()})


def _chunk_head(request: TextRequest, created: int) -> dict[str, object]:
    kind = "chat.completion.chunk" if request.messages is not None else "text_completion.chunk"
    return {"created": created, "model": request.model, "object": kind}


def _render(value: Mapping[str, object]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
