# SPDX-License-Identifier: Apache-2.0
"""The load: how many requests, how long, and when each is due."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ovms_scaler.bench.dataset import Conversation
from ovms_scaler.bench.lengths import Lengths
from ovms_scaler.bench.prompts import marked_prompts, synthetic_prompts
from ovms_scaler.bench.schedule import arrivals


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is to be sent. The same ``seed`` gives the same lengths at the same times, whatever the texts
    are.

    With ``request_rate`` (per second) clients come and do not wait for each other: an open loop, bounded by
    ``max_concurrency`` where that is given too. With ``max_concurrency`` alone so many clients ask again as
    soon as they have their answer: a closed loop. ``dataset_path`` is "" for synthetic prompts;
    ``output_len`` None takes the dataset's. What ``scales_clients`` and ``scales_prompts`` say is for each
    instance.
    """

    num_prompts: int
    request_rate: float | None
    max_concurrency: int | None
    seed: int
    input_len: Lengths
    output_len: Lengths | None
    dataset_path: str = ""
    shared_prefix: int = 0
    temperature: float = 0.0
    ignore_eos: bool = True
    num_warmups: int = 4
    scales_clients: bool = False
    scales_prompts: bool = False

    @property
    def window(self) -> int:
        """How many requests may be under way."""
        return self.num_prompts if self.max_concurrency is None else self.max_concurrency

    @property
    def clients(self) -> int | None:
        """How many can ask at once, None for an open loop without a bound."""
        if self.max_concurrency is None and self.request_rate not in (None, float("inf")):
            return None
        return min(self.window, self.num_prompts)

    def for_instances(self, count: int) -> "Load":
        """The load of so many instances."""
        clients = self.max_concurrency
        return replace(
            self,
            max_concurrency=clients * count if self.scales_clients and clients is not None else clients,
            num_prompts=self.num_prompts * count if self.scales_prompts else self.num_prompts,
            scales_clients=False,
            scales_prompts=False,
        )

    def describe(self) -> str:
        """The loop, for people."""
        most = f", at most {self.max_concurrency} at once" if self.max_concurrency is not None else ""
        if self.request_rate is None:
            each = " for each instance" if self.scales_clients else ""
            return f"closed loop of {self.max_concurrency} clients{each}"
        if self.request_rate == float("inf"):
            return f"all at once{most}"
        return f"open loop of {self.request_rate:g} requests per second (Poisson){most}"

    def document(self) -> dict[str, Any]:
        shown = {name: getattr(self, name) for name in self.__slots__}
        rate = self.request_rate
        return shown | {
            "request_rate": "inf" if rate == float("inf") else rate,
            "input_len": str(self.input_len) if not self.dataset_path else None,
            "output_len": str(self.output_len) if self.output_len else None,
            "loop": self.describe(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request: ``due_sec`` after the beginning, None for as soon as a client of a closed loop is free."""

    id: int
    due_sec: float | None
    prompt: str
    max_tokens: int


def make_asks(
    load: Load, conversations: Sequence[Conversation] = (), *, nonce: str, is_warmup: bool = False
) -> list[Ask]:
    """The requests in the order in which they are due; another ``nonce`` gives other texts and nothing else.

    Those to warm up are as long as the others, and of texts of their own.
    """
    count = load.num_warmups if is_warmup else load.num_prompts
    start = load.num_prompts if is_warmup else 0
    source = random.Random(f"lengths {load.seed} {is_warmup}")
    if conversations:
        chosen = [conversations[index % len(conversations)] for index in range(count)]
        lengths = [one.output_len for one in chosen]
        texts = [one.prompt for one in chosen]
        prompts = marked_prompts(texts, nonce=nonce, shared_prefix=load.shared_prefix, start=start)
    else:
        drawn = load.input_len.draw(count, source)
        lengths = [0] * count
        prompts = synthetic_prompts(drawn, nonce=nonce, shared_prefix=load.shared_prefix, start=start)
    if load.output_len is not None:
        lengths = load.output_len.draw(count, source)
    is_open = load.request_rate is not None and not is_warmup
    due: Sequence[float | None] = [None] * count
    if is_open and load.request_rate is not None:
        due = arrivals(count, load.request_rate, load.seed)
    return [
        Ask(id=number, due_sec=when, prompt=prompt, max_tokens=length)
        for number, (when, prompt, length) in enumerate(zip(due, prompts, lengths, strict=True))
    ]
