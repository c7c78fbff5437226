# SPDX-License-Identifier: Apache-2.0
"""What one client got, judged from the bytes that came until the connection ended."""

import json
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What became of a request."""

    answered = "answered"
    cut = "cut"  # the answer had begun and has no end
    lost = "lost"  # no answer at all
    wrong = "wrong"  # an answer with another status than 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """``instance`` is X-OVMS-Instance, which only our front sets."""

    outcome: Outcome
    status: int = 0
    instance: str = ""
    is_json: bool = False


def judge(data: bytes, *, is_streamed: bool) -> Answer:
    """The answer in ``data``, which is all that came. A head without its end is no answer."""
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        return Answer(outcome=Outcome.lost)
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    try:
        status = int(first.split()[1])
    except (IndexError, ValueError):
        return Answer(outcome=Outcome.lost)
    instance = fields.get("x-ovms-instance", "")
    if status != 200:
        return Answer(outcome=Outcome.wrong, status=status, instance=instance, is_json=_is_json(body))
    is_whole = _is_whole(fields, body) and (not is_streamed or b"data: [DONE]" in body)
    outcome = Outcome.answered if is_whole else Outcome.cut
    return Answer(outcome=outcome, status=status, instance=instance)


def _is_whole(fields: dict[str, str], body: bytes) -> bool:
    if fields.get("transfer-encoding") == "chunked":
        return body.endswith(b"\r\n0\r\n\r\n")
    if "content-length" in fields:
        return len(body) == int(fields["content-length"])
    # What ends with the connection has no other end than that of its content.
    return b"data: [DONE]" in body or _is_json(body)


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True
