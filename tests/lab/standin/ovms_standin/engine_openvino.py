# SPDX-License-Identifier: Apache-2.0
"""The engine that OVMS itself runs inside: OpenVINO GenAI continuous batching, stepped by one thread."""

import asyncio
import ctypes
import itertools
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import openvino
import openvino_genai
from lab.standin.ovms_standin.detokenizer import TextCursor, take_texts
from lab.standin.ovms_standin.engine import EngineError, Piece, Sampling
from lab.standin.ovms_standin.faults import Fault, Faults, exit_after_crash
from lab.standin.ovms_standin.graph import GraphSettings
from lab.standin.ovms_standin.log import LLM_EXECUTOR

_DEFAULT_CONTEXT_TOKENS: Final = 32768
_WEDGE_POLL_SEC: Final = 0.05
_LOG_INTERVAL_SEC: Final = 1.0
_CLOSE_TIMEOUT_SEC: Final = 10.0
_STEP_SYMBOL: Final = "_ZN2ov5genai26ContinuousBatchingPipeline4stepEv"
_FINISH_REASONS: Final = {
    openvino_genai.GenerationFinishReason.STOP: "stop",
    openvino_genai.GenerationFinishReason.LENGTH: "length",
}


class OpenVinoGeneration:
    """One request: known to the event loop at once, to the pipeline from the next step on."""

    def __init__(
        self,
        prompt: openvino.Tensor,
        config: openvino_genai.GenerationConfig,
        deliver: Callable[[Piece], None],
    ) -> None:
        self.prompt = prompt
        self.prompt_token_count = int(prompt.shape[1])
        self.config = config
        self.deliver = deliver
        self.is_cancelled = False
        self.handle: openvino_genai.GenerationHandle | None = None
        self.cursor = TextCursor()

    def cancel(self) -> None:
        # The stepping thread sees it before its next step.
        self.is_cancelled = True


class OpenVinoEngine:
    """A loaded pipeline. Building one blocks and belongs into a thread."""

    def __init__(self, graph: GraphSettings, *, loop: asyncio.AbstractEventLoop, faults: Faults) -> None:
        """Loads the model. Raises EngineError with OpenVINO's own words."""
        self._loop = loop
        self._faults = faults
        try:
            self._pipeline = openvino_genai.ContinuousBatchingPipeline(
                str(graph.models_path),
                _scheduler_config(graph),
                graph.device,
                dict(graph.plugin_config),
            )
        except RuntimeError as exc:
            raise EngineError(str(exc).strip()) from exc
        self._tokenizer = self._pipeline.get_tokenizer()
        self._context_tokens = _read_context_tokens(graph.models_path)
        self._step = _find_step(self._pipeline)
        self._ids = itertools.count()
        self._wakeup = threading.Condition()
        self._incoming: list[OpenVinoGeneration] = []
        self._active: list[OpenVinoGeneration] = []
        self._is_closing = False
        self._logged_at = 0.0
        self._thread = threading.Thread(target=self._run, name="llm_executor", daemon=True)
        self._thread.start()

    @property
    def description(self) -> str:
        return f"OpenVINO GenAI {openvino_genai.get_version()}"

    def render_chat(self, messages: Sequence[Mapping[str, object]]) -> str:
        try:
            return self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                add_generation_prompt=True,
            )
        except (RuntimeError, TypeError) as exc:
            raise EngineError(f"Failed to apply chat template: {exc}") from exc

    def start(
        self, prompt: str, sampling: Sampling, on_piece: Callable[[Piece], None]
    ) -> OpenVinoGeneration:
        tokens = self._tokenizer.encode(prompt).input_ids
        prompt_tokens = int(tokens.shape[1])
        if prompt_tokens >= self._context_tokens:
            raise EngineError(
                f"Number of prompt tokens: {prompt_tokens} exceeds model max length: {self._context_tokens}"
            )
        config = self._generation_config(sampling, room=self._context_tokens - prompt_tokens)
        generation = OpenVinoGeneration(tokens, config, on_piece)
        with self._wakeup:
            self._incoming.append(generation)
            self._wakeup.notify()
        return generation

    def close(self) -> None:
        with self._wakeup:
            self._is_closing = True
            self._wakeup.notify()
        self._thread.join(_CLOSE_TIMEOUT_SEC)

    def _run(self) -> None:
        try:
            self._step_until_closed()
        except Exception:
            # As OVMS's executor thread does after a fatal exception (llm_executor.hpp).
            LLM_EXECUTOR.exception("Error occurred in LLM executor")
            exit_after_crash()

    def _step_until_closed(self) -> None:
        while self._take_incoming():
            while self._faults.read_fault() is Fault.wedge and not self._is_closing:
                time.sleep(_WEDGE_POLL_SEC)  # a planted hang: it ends when its file changes
            if self._pipeline.has_non_finished_requests():
                self._step()
            self._collect()
            self._log_load()
        for generation in self._active:
            if generation.handle is not None:
                generation.handle.cancel()

    def _take_incoming(self) -> bool:
        """Waits until there is something to step; False when closing."""
        with self._wakeup:
            while not (self._incoming or self._active or self._is_closing):
                self._wakeup.wait()
            incoming, self._incoming = self._incoming, []
        for generation in incoming:
            if not generation.is_cancelled:
                generation.handle = self._pipeline.add_request(
                    next(self._ids),
                    generation.prompt,
                    generation.config,
                )
                self._active.append(generation)
        self._drop_cancelled()
        return not self._is_closing

    def _drop_cancelled(self) -> None:
        """The pipeline forgets them in its next step."""
        for generation in self._active:
            if generation.is_cancelled and generation.handle is not None:
                generation.handle.cancel()
        self._active = [generation for generation in self._active if not generation.is_cancelled]

    def _generation_config(self, sampling: Sampling, *, room: int) -> openvino_genai.GenerationConfig:
        config = self._pipeline.get_config()
        config.max_new_tokens = min(sampling.max_tokens or room, room)
        config.ignore_eos = sampling.is_eos_ignored
        config.do_sample = sampling.is_sampled
        config.stop_strings = set(sampling.stop)
        config.include_stop_str_in_output = sampling.has_stop_in_output
        for name, value in (
            ("temperature", sampling.temperature if sampling.is_sampled else None),
            ("top_p", sampling.top_p),
            ("top_k", sampling.top_k),
            ("rng_seed", sampling.seed),
        ):
            if value is not None:
                setattr(config, name, value)
        try:
            config.validate()
        except RuntimeError as exc:
            raise EngineError(str(exc).strip()) from exc
        return config

    def _collect(self) -> None:
        """Hands the new text of every generation to the event loop, in one call."""
        progressed: list[tuple[OpenVinoGeneration, int, str | None]] = []
        for generation in self._active:
            token_count, reason = _read_tokens(generation)
            if not generation.is_cancelled and (token_count or reason):
                progressed.append((generation, token_count, reason))
        finished = {id(generation) for generation, _, reason in progressed if reason}
        self._active = [generation for generation in self._active if id(generation) not in finished]
        if progressed:
            texts = take_texts(
                self._tokenizer,
                [(generation.cursor, reason is not None) for generation, _, reason in progressed],
            )
            pieces = [
                (generation, Piece(text=text, token_count=count, finish_reason=reason))
                for (generation, count, reason), text in zip(progressed, texts, strict=True)
            ]
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(_deliver, pieces)

    def _log_load(self) -> None:
        now = time.monotonic()
        if now - self._logged_at < _LOG_INTERVAL_SEC:
            return
        self._logged_at = now
        metrics = self._pipeline.get_metrics()
        LLM_EXECUTOR.info(
            "All requests: %d; Scheduled requests: %d; Cache type: dynamic, cache usage: %.1f%% of %.1f GB;",
            metrics.requests,
            metrics.scheduled_requests,
            metrics.cache_usage,
            metrics.cache_size_in_bytes / 1e9,
        )


def _deliver(pieces: Sequence[tuple[OpenVinoGeneration, Piece]]) -> None:
    for generation, piece in pieces:
        if not generation.is_cancelled:
            generation.deliver(piece)


def _read_tokens(generation: OpenVinoGeneration) -> tuple[int, str | None]:
    """How many tokens came, and the finish reason when that was all."""
    handle = generation.handle
    if handle is None:
        return 0, None
    count = 0
    reason = None
    while handle.can_read():
        for output in handle.read().values():
            generation.cursor.tokens += output.generated_ids
            count += len(output.generated_ids)
            reason = _FINISH_REASONS.get(output.finish_reason, reason)
    is_running = handle.get_status() == openvino_genai.GenerationStatus.RUNNING
    # A stop string at the very start ends a generation without any output to carry the reason.
    return count, reason if is_running else reason or "stop"


def _scheduler_config(graph: GraphSettings) -> openvino_genai.SchedulerConfig:
    config = openvino_genai.SchedulerConfig()
    config.cache_size = graph.cache_size_gb
    config.max_num_seqs = graph.max_num_seqs
    config.max_num_batched_tokens = graph.max_num_batched_tokens
    config.dynamic_split_fuse = graph.has_dynamic_split_fuse
    config.enable_prefix_caching = graph.has_prefix_caching
    return config


def _read_context_tokens(models_path: Path) -> int:
    """`max_position_embeddings` of the model's config.json, as OVMS takes its length limit."""
    try:
        value = json.loads((models_path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return _DEFAULT_CONTEXT_TOKENS
    return int(value.get("max_position_embeddings") or _DEFAULT_CONTEXT_TOKENS)


def _find_step(pipeline: openvino_genai.ContinuousBatchingPipeline) -> Callable[[], object]:
    """`pipeline.step` without the interpreter lock.

    The Python binding keeps the lock during step(), which would stall every status request for the length of
    a step, as OVMS never does. ctypes releases it around the C++ method of the same library; the address of
    the object is the first word after the Python object header (pybind11 `instance::simple_value_holder`).
    A C++ exception then aborts the process; in OVMS's executor thread it ends the process too, with code 1.
    """
    for path in sorted(Path(openvino_genai.__file__).parent.glob("libopenvino_genai.so*")):
        function = getattr(ctypes.CDLL(str(path)), _STEP_SYMBOL, None)
        if function is not None:
            function.argtypes = [ctypes.c_void_p]
            function.restype = None
            address = ctypes.c_void_p.from_address(id(pipeline) + object.__basicsize__).value
            return lambda: function(address)
    LLM_EXECUTOR.warning("cannot find %s: status requests wait for each step", _STEP_SYMBOL)
    return pipeline.step
