# SPDX-License-Identifier: Apache-2.0
"""The body of /v1/config, byte for byte as the tests of OVMS have it (http_rest_api_handler_test.cpp)."""

import json

import pytest
from lab.standin.ovms_standin.config_status import ErrorCode, State, VersionStatus, render_config_status

AVAILABLE = VersionStatus(version=1, state=State.available)
ONE_AVAILABLE = (
    ' : \n{\n "model_version_status": [\n  {\n   "version": "1",\n   "state": "AVAILABLE",\n'
    '   "status": {\n    "error_code": "OK",\n    "error_message": "OK"\n   }\n  }\n ]\n}'
)


def test_no_servable_is_an_empty_object() -> None:
    assert render_config_status({}) == "{}"


def test_one_available_servable() -> None:
    assert render_config_status({"dummy": [AVAILABLE]}) == '{\n"dummy"' + ONE_AVAILABLE + "\n}"


def test_old_version_ended() -> None:
    versions = [VersionStatus(version=1, state=State.end), VersionStatus(version=2, state=State.available)]
    assert render_config_status({"dummy": versions}) == (
        '{\n"dummy" : \n{\n "model_version_status": [\n'
        '  {\n   "version": "1",\n   "state": "END",\n   "status": {\n    "error_code": "OK",\n'
        '    "error_message": "OK"\n   }\n  },\n'
        '  {\n   "version": "2",\n   "state": "AVAILABLE",\n   "status": {\n    "error_code": "OK",\n'
        '    "error_message": "OK"\n   }\n  }\n ]\n}\n}'
    )


def test_servable_without_versions() -> None:
    assert render_config_status({"dummy": []}) == '{\n"dummy" : \n{\n "model_version_status": []\n}\n}'


def test_servables_are_sorted_by_name() -> None:
    names = ["mediapipeAddADAPTFULL", "add", "mediapipeAdd"]
    body = render_config_status({name: [AVAILABLE] for name in names})
    expected = ",\n".join(
        f'"{name}"{ONE_AVAILABLE}' for name in ["add", "mediapipeAdd", "mediapipeAddADAPTFULL"]
    )
    assert body == "{\n" + expected + "\n}"


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(ErrorCode.failed_precondition, id="failed graph"),
        pytest.param(ErrorCode.unknown, id="failed classic model"),
        pytest.param(ErrorCode.ok, id="loading"),
    ],
)
def test_failure_looks_like_loading(error: ErrorCode) -> None:
    body = render_config_status({"m/x": [VersionStatus(version=1, state=State.loading, error=error)]})
    assert body == (
        '{\n"m/x" : \n{\n "model_version_status": [\n  {\n   "version": "1",\n   "state": "LOADING",\n'
        f'   "status": {{\n    "error_code": "{error}",\n    "error_message": "{error}"\n   }}\n'
        "  }\n ]\n}\n}"
    )


def test_name_is_escaped_as_json() -> None:
    assert list(json.loads(render_config_status({'a"b/c': [AVAILABLE]}))) == ['a"b/c']
