# SPDX-License-Identifier: Apache-2.0
"""What an answer to ``GET /v1/config`` says about the models that are expected of an engine."""

import json
from collections.abc import Mapping

from ovms_scaler.core.facts import Probe

MAX_BYTES = 1 << 20  # about 4,000 models with two versions each
_STATES = ("START", "LOADING", "AVAILABLE", "UNLOADING", "END")  # modelversionstatus.cpp in OVMS
_ERRORS = ("OK", "UNKNOWN", "FAILED_PRECONDITION")  # likewise
# From /v2/health/ready while the first models load (status.cpp in OVMS).
_NOT_READY = "Server is not ready"
# The worst verdict on any one model is the verdict on the engine.
_WORST_FIRST = (Probe.nonsense, Probe.failed, Probe.loading)


def parse_config_status(body: bytes | str, expected: tuple[str, ...]) -> tuple[Probe, str]:
    """The verdict on the names in ``expected``, and one sentence for people. Never raises.

    Only the expected names count: while an LLM loads, the answer is ``{}``, in which every listed model is
    available (mediapipefactory.cpp in OVMS inserts a graph after it has loaded), and what was removed from a
    config.json stays listed as END. One AVAILABLE version of a model is enough.

    A model that failed as LOADING with UNKNOWN is reported as ``loading``, with a sentence that says so:
    OVMS tries such models again at every poll of the file system, flipping between UNKNOWN and OK. One that
    failed with FAILED_PRECONDITION (a graph) is ``failed``: OVMS leaves it so until its files change. So is
    one that is listed with END only: it was taken out of the configuration.
    """
    answer = _parse_object(body)
    if isinstance(answer, str):
        return Probe.nonsense, answer
    if not expected:
        return Probe.failed, "no model is expected of this engine, so nothing can show that it serves"
    error = answer.get("error")
    if isinstance(error, str):
        probe = Probe.loading if error == _NOT_READY else Probe.nonsense
        return probe, f"the engine answered with the error {_shown(error)}"
    verdicts = [_judge_model(name, answer) for name in expected]
    for worst in _WORST_FIRST:
        sentences = [sentence for probe, sentence in verdicts if probe is worst]
        if sentences:
            return worst, _joined(sentences)
    return Probe.available, _joined([sentence for _, sentence in verdicts])


def _joined(sentences: list[str]) -> str:
    others = len(sentences) - 1
    return sentences[0] + (f", and {others} more like it" if others else "")


def _shown(text: str) -> str:
    """``text`` quoted, on one line, in ASCII and not too long."""
    return ascii(text if len(text) <= 200 else f"{text[:200]}...")


def _parse_object(body: bytes | str) -> Mapping[str, object] | str:
    """The JSON object in ``body``, or what is wrong with it."""
    if len(body) > MAX_BYTES:
        return f"the answer has {len(body)} bytes, more than the {MAX_BYTES} that are read"
    try:
        text = body if isinstance(body, str) else body.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"the answer is not UTF-8 at byte {error.start}"
    try:
        answer: object = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except RecursionError:
        return "the answer is not a status: it is nested too deeply"
    except ValueError as error:
        return f"the answer is not JSON: {_one_line(str(error))}"
    if not isinstance(answer, dict):
        return f"the answer is a JSON {type(answer).__name__}, not an object"
    return answer


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1) if len(names) < 1000 else names[0]
        raise ValueError(f"the key {_shown(twice)} stands twice in one object")
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _judge_model(name: str, answer: Mapping[str, object]) -> tuple[Probe, str]:
    shown = _shown(name)
    if name not in answer:
        return Probe.loading, f"{shown} is not listed yet"
    versions = _parse_versions(answer[name])
    if versions is None:
        return Probe.nonsense, f"the status of {shown} is not one that OVMS documents"
    if ("AVAILABLE", "OK") in versions:
        return Probe.available, f"{shown} is available"
    if ("LOADING", "FAILED_PRECONDITION") in versions:
        return Probe.failed, f"{shown} failed to load and will not be tried again; its log has the reason"
    if ("LOADING", "UNKNOWN") in versions:
        return Probe.loading, f"{shown} failed to load and is tried again; its log has the reason"
    if not versions:
        return Probe.loading, f"{shown} has no version yet: its directory is missing, or has no numbered one"
    if all(state == "END" for state, _ in versions):
        return Probe.failed, f"{shown} was taken out of the engine's configuration"
    states = sorted({state for state, _ in versions if state != "END"})
    return Probe.loading, f"{shown} is {' and '.join(states)}"


def _parse_versions(value: object) -> tuple[tuple[str, str], ...] | None:
    """State and error code of every version, or None when ``value`` has another shape."""
    listed = value.get("model_version_status") if isinstance(value, dict) else None
    if not isinstance(listed, list):
        return None
    versions = tuple(_parse_version(each) for each in listed)
    known = tuple(version for version in versions if version is not None)
    return known if len(known) == len(versions) else None


def _parse_version(value: object) -> tuple[str, str] | None:
    if not isinstance(value, dict):
        return None
    state, status = value.get("state"), value.get("status")
    error = status.get("error_code") if isinstance(status, dict) else None
    if not isinstance(state, str) or not isinstance(error, str):
        return None
    if state not in _STATES or error not in _ERRORS:
        return None
    # Errors belong to LOADING only; an AVAILABLE that failed would be a contradiction.
    return (state, error) if error == "OK" or state == "LOADING" else None
