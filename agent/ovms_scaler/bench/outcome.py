# SPDX-License-Identifier: Apache-2.0
"""What came of one request."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

# Of what a server says: a sentence, and a word. It may be anybody's server, and say anything.
MAX_MESSAGE, MAX_WORD = 500, 64
# More codes than these are none, but numbers of requests or the like.
_MAX_CODES = 5


class Kind(StrEnum):
    """How a request failed."""

    refused = "connection refused"
    unreachable = "cannot connect"
    no_answer = "closed without an answer"
    status = "HTTP error"
    cut = "cut in mid-stream"
    timeout = "timed out"
    nonsense = "not a stream of chat completions"
    reported = "error within the stream"
    no_usage = "no usage in the answer"
    no_count = "usage says 0 tokens"
    empty = "empty answer"
    own_limit = "the client's own limit"
    client = "a process of the client died"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why it failed; ``status`` and ``code`` (OpenAI's) where there was an answer that said so.

    Texts are cut, and have no control characters.
    """

    kind: Kind
    status: int | None = None
    code: str = ""
    message: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", plain_text(self.message, MAX_MESSAGE))
        object.__setattr__(self, "code", plain_text(self.code, MAX_WORD))

    @property
    def kind_label(self) -> str:
        """The kind for people, without the code."""
        if self.kind is not Kind.status:
            return self.kind.value
        return f"rejected: HTTP {self.status}" if self.status == 503 else f"HTTP {self.status}"

    @property
    def label(self) -> str:
        """The kind for people: what failed in the same way has the same."""
        return f"{self.kind_label} ({self.code})" if self.code else self.kind_label


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One request that ended. Times are seconds since the beginning of the run.

    ``due_sec`` is when it should have been sent, and every latency counts from there: a client that waits
    for a slow server would otherwise not measure just those requests that suffered most. ``late_sec`` is by
    how much the client itself missed the moment. ``first_sec`` and ``last_sec`` are the first and the last
    piece of text.
    """

    id: int
    due_sec: float
    sent_sec: float
    end_sec: float
    tail_sec: float = 0.0
    late_sec: float = 0.0
    first_sec: float | None = None
    last_sec: float | None = None
    gaps_us: tuple[int, ...] = ()
    input_tokens: int | None = None
    generated_tokens: int | None = None
    fixed_len: int | None = None
    instance: str = ""
    failure: Failure | None = None

    @property
    def is_good(self) -> bool:
        return self.failure is None

    @property
    def free_sec(self) -> float:
        """When its client was free for another one."""
        return self.end_sec + self.tail_sec

    @property
    def latency_sec(self) -> float:
        return self.end_sec - self.due_sec

    @property
    def ttft_sec(self) -> float | None:
        return None if self.first_sec is None else self.first_sec - self.due_sec

    @property
    def tpot_sec(self) -> float | None:
        """Time for each token after the first; None for an answer of one token, or in one event."""
        tokens = self.generated_tokens or 0
        if self.first_sec is None or self.last_sec is None or tokens < 2 or not self.gaps_us:
            return None
        return (self.last_sec - self.first_sec) / (tokens - 1)

    @property
    def is_at_once(self) -> bool:
        """Whether all its text came in one moment, so that it says nothing of the time between tokens."""
        has_several = (self.generated_tokens or 0) > 1
        return has_several and self.first_sec is not None and self.first_sec == self.last_sec

    @property
    def is_short(self) -> bool:
        """Whether it has fewer tokens than it had to."""
        return (self.generated_tokens or 0) < (self.fixed_len or 0)


def group_failed(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """What failed, by label; of one kind the most frequent codes only have labels of their own."""
    codes: dict[str, Counter[str]] = defaultdict(Counter)
    failed = [(one, one.failure) for one in outcomes if one.failure is not None]
    for _, failure in failed:
        codes[failure.kind_label][failure.code] += 1
    kept = {label: dict(counts.most_common(_MAX_CODES)) for label, counts in codes.items()}
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for one, failure in failed:
        kind = failure.kind_label
        others = f"{kind} ({len(codes[kind]) - _MAX_CODES} other codes)"
        groups[failure.label if failure.code in kept[kind] else others].append(one)
    return dict(groups)


def plain_text(text: str, most: int) -> str:
    """At most so many characters, each of which shows as it is: for terminals and pages alike."""
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[: most + 1])
    return shown if len(shown) <= most else shown[: most - 3] + "..."


def outcome_document(outcome: Outcome) -> dict[str, Any]:
    """As JSON; what is as usual is left out."""
    failure = outcome.failure
    document = {name: getattr(outcome, name) for name in outcome.__slots__ if name != "failure"}
    document["gaps_us"] = list(outcome.gaps_us)
    if failure is not None:
        document["failure"] = {name: getattr(failure, name) for name in failure.__slots__}
    return document


def parse_outcome(document: Mapping[str, Any]) -> Outcome:
    """An outcome from its document."""
    failure = document.get("failure")
    if failure is not None:
        failure = Failure(**failure | {"kind": Kind(failure["kind"])})
    return Outcome(**{**document, "gaps_us": tuple(document["gaps_us"]), "failure": failure})
