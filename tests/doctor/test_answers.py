# SPDX-License-Identifier: Apache-2.0
"""What the user of the engines answers is taken only if it is what was asked for; nothing runs as root."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from doctor_host import ENGINES, DoctorHost

from ovms_scaler.core.checks.access import Closed
from ovms_scaler.core.checks.finding import Finding, bad, good
from ovms_scaler.doctor import engine
from ovms_scaler.doctor.answers import parse_closed, parse_findings
from ovms_scaler.errors import InputError
from ovms_scaler.host.accounts import Account
from ovms_scaler.host.programs import Ran, run_program

FINDINGS = (good("model-access", "pool chat", "it may"), bad("model-access", "pool a", "no", "chmod"))
CLOSED = Closed(path="/srv", verb="pass", mode=0o700, is_directory=True)


def through_json(value: object) -> Any:
    return json.loads(json.dumps(value, default=asdict))


def test_answers_come_back_as_they_were() -> None:
    assert parse_findings(through_json(FINDINGS)) == FINDINGS
    assert parse_closed(through_json(CLOSED)) == CLOSED
    assert parse_closed(None) is None


@pytest.mark.parametrize("change", [{"result": "fine"}, {"reason": 1}, {"result": []}, {"more": ""}])
def test_nonsense_is_no_finding(change: dict[str, object]) -> None:
    with pytest.raises(InputError):
        parse_findings([through_json(FINDINGS[0]) | change])
    documents: tuple[object, ...] = ({}, None, "x", [None], [{}])
    for document in documents:
        with pytest.raises(InputError):
            parse_findings(document)


@pytest.mark.parametrize("change", [{"verb": "burn"}, {"mode": "0"}, {"mode": True}, {"path": None}])
def test_nonsense_is_nothing_closed(change: dict[str, object]) -> None:
    with pytest.raises(InputError):
        parse_closed(through_json(CLOSED) | change)
    with pytest.raises(InputError):
        parse_closed([])


def test_nothing_of_a_release_is_run_as_root(host: DoctorHost, monkeypatch: pytest.MonkeyPatch) -> None:
    users: dict[str, Account | None] = {}

    def run(argv: Sequence[str], root: Path = Path("/"), **options: Any) -> Ran:
        users[argv[0]] = options.get("user")
        return run_program(argv, root, **options)

    monkeypatch.setattr(engine, "run_program", run)
    host.write("opt/ovms/lib/libovmspython.so", "")
    found: tuple[Finding, ...] = host.find("engine-libraries")
    assert all(one.check == "engine-libraries" for one in found)
    assert list(users) == ["/opt/ovms/bin/ovms", "/usr/bin/ldd"]
    uids = {user.uid if user is not None else os.geteuid() for user in users.values()}
    assert uids == {ENGINES}
