# SPDX-License-Identifier: Apache-2.0
"""The part of openvino_genai 2026.4 that the stand-in uses; its own py_openvino_genai.pyi is the whole."""

from collections.abc import Mapping

from openvino import Tensor

class TokenizedInputs:
    input_ids: Tensor

class Tokenizer:
    def encode(self, prompt: str) -> TokenizedInputs: ...
    def decode(self, tokens: list[list[int]], /) -> list[str]: ...
    def apply_chat_template(
        self, history: list[dict[str, object]], add_generation_prompt: bool, chat_template: str = ""
    ) -> str: ...

class GenerationFinishReason:
    NONE: GenerationFinishReason
    STOP: GenerationFinishReason
    LENGTH: GenerationFinishReason

class GenerationStatus:
    RUNNING: GenerationStatus
    FINISHED: GenerationStatus
    IGNORED: GenerationStatus
    CANCEL: GenerationStatus
    STOP: GenerationStatus

class GenerationConfig:
    max_new_tokens: int
    ignore_eos: bool
    do_sample: bool
    stop_strings: set[str]
    include_stop_str_in_output: bool
    temperature: float
    top_p: float
    top_k: int
    rng_seed: int
    def validate(self) -> None: ...

class GenerationOutput:
    generated_ids: list[int]
    finish_reason: GenerationFinishReason

class GenerationHandle:
    def can_read(self) -> bool: ...
    def read(self) -> dict[int, GenerationOutput]: ...
    def get_status(self) -> GenerationStatus: ...
    def cancel(self) -> None: ...

class PipelineMetrics:
    requests: int
    scheduled_requests: int
    cache_usage: float
    cache_size_in_bytes: int

class SchedulerConfig:
    cache_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    dynamic_split_fuse: bool
    enable_prefix_caching: bool

class ContinuousBatchingPipeline:
    def __init__(
        self,
        models_path: str,
        scheduler_config: SchedulerConfig,
        device: str,
        properties: Mapping[str, object],
    ) -> None: ...
    def add_request(
        self, request_id: int, input_ids: Tensor, generation_config: GenerationConfig
    ) -> GenerationHandle: ...
    def get_config(self) -> GenerationConfig: ...
    def get_metrics(self) -> PipelineMetrics: ...
    def get_tokenizer(self) -> Tokenizer: ...
    def has_non_finished_requests(self) -> bool: ...
    def step(self) -> None: ...

def get_version() -> str: ...
