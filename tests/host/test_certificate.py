# SPDX-License-Identifier: Apache-2.0
"""When a certificate is valid."""

import time
from pathlib import Path

import pytest
from tls_lab import make_pair

from ovms_scaler.errors import HostError, InputError
from ovms_scaler.host.certificate import parse_validity, read_certificate

DAY_SEC = 86400


def test_validity_is_that_of_openssl(tmp_path: Path) -> None:
    before = time.time()
    pair = make_pair(tmp_path)
    found = read_certificate(str(pair.certificate))
    assert before - 2 <= found.not_before <= time.time()
    assert found.not_after - found.not_before == DAY_SEC


@pytest.mark.parametrize(
    ("validity", "expected"),
    [
        (b"\x17\x0d700101000000Z\x17\x0d700102000000Z", (0, DAY_SEC)),
        (b"\x17\x0d491231235959Z\x18\x0f20500101000000Z", (2524607999, 2524608000)),
    ],
)
def test_both_forms_of_time_are_read(validity: bytes, expected: tuple[int, int]) -> None:
    fields = b"\xa0\x03\x02\x01\x02" + b"\x02\x01\x01" + b"\x30\x00" * 2
    body = fields + bytes([0x30, len(validity)]) + validity
    inner = bytes([0x30, len(body)]) + body
    assert parse_validity(bytes([0x30, len(inner)]) + inner) == expected


@pytest.mark.parametrize("der", [b"", b"\x30", b"\x30\x03\x02\x01", b"\x30\x84\xff\xff\xff\xff", b"0" * 99])
def test_what_is_no_certificate_is_refused(der: bytes) -> None:
    with pytest.raises(InputError):
        parse_validity(der)


@pytest.mark.parametrize("text", ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_file_without_a_certificate_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tls.crt").write_text(text)
    with pytest.raises(HostError):
        read_certificate(str(tmp_path / "tls.crt"))
    with pytest.raises(HostError):
        read_certificate(str(tmp_path / "none.crt"))
