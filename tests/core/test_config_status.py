# SPDX-License-Identifier: Apache-2.0
"""The verdict on GET /v1/config, first on bodies as OVMS's own tests and documentation have them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovms_scaler.core.config_status import MAX_BYTES, parse_config_status
from ovms_scaler.core.facts import Probe


def version(state: str, error: str = "OK", number: str = "1") -> dict[str, Any]:
    return {"version": number, "state": state, "status": {"error_code": error, "error_message": error}}


def engine_text(models: dict[str, list[dict[str, Any]]]) -> str:
    """Text in the odd layout of OVMS's serializer (config_status_utils.cpp)."""
    entries = []
    for name, versions in models.items():
        parts = [
            f'  {{\n   "version": "{each["version"]}",\n   "state": "{each["state"]}",\n   "status": {{\n'
            f'    "error_code": "{each["status"]["error_code"]}",\n'
            f'    "error_message": "{each["status"]["error_message"]}"\n   }}\n  }}'
            for each in versions
        ]
        listed = "[\n" + ",\n".join(parts) + "\n ]" if parts else "[]"
        entries.append(f'"{name}" : \n{{\n "model_version_status": {listed}\n}}')
    return "{\n" + ",\n".join(entries) + "\n}" if entries else "{}"


GRAPHS = {
    "add": [version("AVAILABLE")],
    "mediapipeAdd": [version("AVAILABLE")],
    "mediapipeAddADAPTFULL": [version("AVAILABLE")],
}
SLASHED = "OpenVINO/Qwen3-8B-int4-cw-ov"


@pytest.mark.parametrize(
    ("body", "expected", "probe", "sentence"),
    [
        # http_rest_api_handler_test.cpp, listmodelsendpoint_test.cpp and demos/llm_npu/README.md of OVMS
        pytest.param(
            engine_text({"dummy": [version("AVAILABLE")]}),
            ("dummy",),
            Probe.available,
            "'dummy' is available",
            id="one model",
        ),
        pytest.param(
            engine_text({"dummy": [version("END"), version("AVAILABLE", number="2")]}),
            ("dummy",),
            Probe.available,
            "'dummy' is available",
            id="old version retired",
        ),
        pytest.param(
            engine_text({"dummy": []}),
            ("dummy",),
            Probe.loading,
            "'dummy' has no version yet: its directory is missing, or has no numbered one",
            id="directory without versions",
        ),
        pytest.param(
            engine_text({"dummy": [version("END")]}),
            ("dummy",),
            Probe.failed,
            "'dummy' was taken out of the engine's configuration",
            id="removed from config.json",
        ),
        pytest.param(
            engine_text(GRAPHS),
            tuple(GRAPHS),
            Probe.available,
            "'add' is available, and 2 more like it",
            id="a model and two graphs",
        ),
        pytest.param(
            '{\n\t"error": "Config file not found or cannot open."\n}',
            ("dummy",),
            Probe.nonsense,
            "the engine answered with the error 'Config file not found or cannot open.'",
            id="config.json is gone",
        ),
        pytest.param(
            '{\n\t"error": "Reloading config file failed. Check server logs for more info."\n}',
            ("dummy",),
            Probe.nonsense,
            "the engine answered with the error 'Reloading config file failed. "
            "Check server logs for more info.'",
            id="reloading failed",
        ),
        pytest.param(
            '{"error":"Model not found"}',
            ("dummy",),
            Probe.nonsense,
            "the engine answered with the error 'Model not found'",
            id="model not found",
        ),
        pytest.param(
            json.dumps({SLASHED: {"model_version_status": [version("AVAILABLE")]}}, indent=2),
            (SLASHED,),
            Probe.available,
            f"'{SLASHED}' is available",
            id="slash in the name, pretty-printed",
        ),
        # what follows from config_status_utils.cpp and the tables of states
        pytest.param("{}", ("m/x",), Probe.loading, "'m/x' is not listed yet", id="nothing registered yet"),
        pytest.param(
            engine_text({"m/x": [version("LOADING", "FAILED_PRECONDITION")]}),
            ("m/x",),
            Probe.failed,
            "'m/x' failed to load and will not be tried again; its log has the reason",
            id="failed graph",
        ),
        pytest.param(
            engine_text({"m/x": [version("LOADING", "UNKNOWN")]}),
            ("m/x",),
            Probe.loading,
            "'m/x' failed to load and is tried again; its log has the reason",
            id="failed classic model",
        ),
        pytest.param(
            engine_text({"m/x": [version("LOADING")]}),
            ("m/x",),
            Probe.loading,
            "'m/x' is LOADING",
            id="loading",
        ),
        pytest.param(
            '{"error":"Server is not ready"}',
            ("m/x",),
            Probe.loading,
            "the engine answered with the error 'Server is not ready'",
            id="server not ready",
        ),
        pytest.param(
            engine_text({"m": [version("START")]}), ("m",), Probe.loading, "'m' is START", id="created"
        ),
        pytest.param(
            engine_text({"m": [version("UNLOADING"), version("LOADING", number="2")]}),
            ("m",),
            Probe.loading,
            "'m' is LOADING and UNLOADING",
            id="changing versions",
        ),
        pytest.param(
            engine_text({"m": [version("AVAILABLE"), version("LOADING", "UNKNOWN", "2")]}),
            ("m",),
            Probe.available,
            "'m' is available",
            id="newer version failed, older one serves",
        ),
        pytest.param(
            engine_text({"other": [version("AVAILABLE")]}),
            ("m",),
            Probe.loading,
            "'m' is not listed yet",
            id="only others are available",
        ),
        pytest.param(
            engine_text({"gone": [version("END")], "m": [version("AVAILABLE")]}),
            ("m",),
            Probe.available,
            "'m' is available",
            id="an unexpected one has ended",
        ),
        pytest.param(
            engine_text({"a": [version("AVAILABLE")]}),
            ("a", "b", "c"),
            Probe.loading,
            "'b' is not listed yet, and 1 more like it",
            id="one of three so far",
        ),
        pytest.param(
            engine_text({"a": [version("LOADING", "FAILED_PRECONDITION")]}),
            ("b", "a"),
            Probe.failed,
            "'a' failed to load and will not be tried again; its log has the reason",
            id="failed outweighs loading",
        ),
        pytest.param(
            engine_text({"error": [version("AVAILABLE")]}),
            ("error",),
            Probe.available,
            "'error' is available",
            id="a model named error",
        ),
        pytest.param(
            "{}",
            (),
            Probe.failed,
            "no model is expected of this engine, so nothing can show that it serves",
            id="nothing expected",
        ),
    ],
)
def test_verdict(body: str, expected: tuple[str, ...], probe: Probe, sentence: str) -> None:
    assert parse_config_status(body, expected) == (probe, sentence)
    assert parse_config_status(body.encode(), expected) == (probe, sentence)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        pytest.param(b"", "the answer is not JSON: Expecting value", id="empty"),
        pytest.param(b"<html>502</html>", "the answer is not JSON: Expecting value", id="a proxy's page"),
        pytest.param(b"[]", "the answer is a JSON list, not an object", id="array"),
        pytest.param(b"null", "the answer is a JSON NoneType, not an object", id="null"),
        pytest.param(b"{", "the answer is not JSON: Expecting property name", id="cut"),
        pytest.param(b'{"m": NaN}', "the answer is not JSON: NaN is not a JSON value", id="not a number"),
        pytest.param(
            b'{"m": ' + b"9" * 5000 + b"}", "the answer is not JSON: Exceeds the limit", id="huge number"
        ),
        pytest.param(b'\xff{"m":1}', "the answer is not UTF-8 at byte 0", id="not UTF-8"),
        pytest.param('{"m":1}'.encode("utf-16"), "the answer is not UTF-8 at byte 0", id="UTF-16"),
        pytest.param(
            b"\xef\xbb\xbf{}", "the answer is not JSON: Unexpected UTF-8 BOM", id="byte order mark"
        ),
        pytest.param(b'{"m":{},"m":{}}', "the key 'm' stands twice in one object", id="key twice"),
        pytest.param(
            b'{"m":{"model_version_status":[],"model_version_status":[]}}',
            "the key 'model_version_status' stands twice",
            id="inner key twice",
        ),
        pytest.param(b"[" * 200000, "nested too deeply", id="nested arrays"),
        pytest.param(b'{"a":' * 100000, "nested too deeply", id="nested objects"),
        pytest.param(b" " * (MAX_BYTES + 1), "bytes, more than the 1048576 that are read", id="too large"),
        pytest.param(b'{"m":1}', "the status of 'm' is not one that OVMS documents", id="number as status"),
        pytest.param(b'{"m":{}}', "the status of 'm' is not one", id="no versions"),
        pytest.param(
            b'{"m":{"model_version_status":{}}}', "the status of 'm' is not one", id="object as versions"
        ),
        pytest.param(
            b'{"m":{"model_version_status":[1]}}', "the status of 'm' is not one", id="number as version"
        ),
        pytest.param(
            json.dumps({"m": {"model_version_status": [version("READY")]}}).encode(),
            "the status of 'm' is not one",
            id="unknown state",
        ),
        pytest.param(
            json.dumps({"m": {"model_version_status": [version("LOADING", "BAD")]}}).encode(),
            "the status of 'm' is not one",
            id="unknown error",
        ),
        pytest.param(
            json.dumps({"m": {"model_version_status": [version("AVAILABLE", "UNKNOWN")]}}).encode(),
            "the status of 'm' is not one",
            id="available with an error",
        ),
        pytest.param(
            b'{"m":{"model_version_status":[{"state":"AVAILABLE","status":"OK"}]}}',
            "the status of 'm' is not one",
            id="status as text",
        ),
        pytest.param(
            b'{"m":{"model_version_status":[{"state":["AVAILABLE"],"status":{"error_code":"OK"}}]}}',
            "the status of 'm' is not one",
            id="state as array",
        ),
    ],
)
def test_nonsense_is_named(body: bytes, sentence: str) -> None:
    probe, said = parse_config_status(body, ("m",))
    assert probe is Probe.nonsense
    assert sentence in said
    assert said.isascii()
    assert "\n" not in said
    assert len(said) < 400


def test_a_long_or_odd_name_stays_one_short_line() -> None:
    _, said = parse_config_status("{}", ("é\n" + "x" * 1000,))
    assert "\n" not in said
    assert said.isascii()
    assert len(said) < 400


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["AVAILABLE", "LOADING", "OK", "UNKNOWN"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["m", "error", "model_version_status", "state", "status", "error_code"])
            | st.text(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(st.binary() | st.text() | JSON.map(json.dumps))
def test_anything_gets_a_verdict_and_never_available_by_chance(body: bytes | str) -> None:
    probe, said = parse_config_status(body, ("m",))
    assert said
    assert "\n" not in said
    text = body if isinstance(body, str) else body.decode("utf-8", "replace")
    assert probe is not Probe.available or ("AVAILABLE" in text and '"m"' in text)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["START", "LOADING", "AVAILABLE", "UNLOADING", "END"]),
            st.sampled_from(["OK", "UNKNOWN", "FAILED_PRECONDITION"]),
        ),
        max_size=4,
    )
)
def test_available_is_exactly_an_available_version(pairs: list[tuple[str, str]]) -> None:
    body = engine_text({"m": [version(state, error) for state, error in pairs]})
    probe, _ = parse_config_status(body, ("m",))
    if any(error != "OK" and state != "LOADING" for state, error in pairs):
        assert probe is Probe.nonsense
    else:
        assert (probe is Probe.available) == (("AVAILABLE", "OK") in pairs)
