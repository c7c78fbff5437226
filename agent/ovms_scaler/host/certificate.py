# SPDX-License-Identifier: Apache-2.0
"""Reads when a certificate is valid, which no library of Debian's Python tells of a file."""

import datetime as dt
import ssl
from pathlib import Path

from ovms_scaler.core.checks.storage import Certificate
from ovms_scaler.errors import HostError, InputError

_MAX_BYTES = 256 * 1024
_END = "-----END CERTIFICATE-----"
_SEQUENCE, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18


def read_certificate(path: str) -> Certificate:
    """The first certificate in a file in PEM form, which is the server's own. Raises HostError."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MAX_BYTES).decode("ascii", "replace")
        begin = text.index("-----BEGIN CERTIFICATE-----")
        pem = text[begin : text.index(_END, begin) + len(_END)]
        not_before, not_after = parse_validity(ssl.PEM_cert_to_DER_cert(pem))
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, InputError) as error:
        raise HostError(f"cannot read {path}: it holds no certificate in PEM form") from error
    return Certificate(path=path, not_before=not_before, not_after=not_after)


def parse_validity(der: bytes) -> tuple[float, float]:
    """The validity of a certificate in DER form, RFC 5280, 4.1: seconds since the epoch.

    Raises InputError for anything else.
    """
    try:
        tag, certificate, _ = _read_element(der)
        _, body, _ = _read_element(certificate)
        if tag != _SEQUENCE:
            raise ValueError
        tag, _, rest = _read_element(body)
        # Version is left out in version 1; then come serial number, algorithm and issuer.
        for _ in range(3 if tag == _VERSION else 2):
            _, _, rest = _read_element(rest)
        _, validity, _ = _read_element(rest)
        tag, first, rest = _read_element(validity)
        begin = _parse_time(tag, first)
        tag, second, _ = _read_element(rest)
        return begin, _parse_time(tag, second)
    except (ValueError, IndexError) as error:
        raise InputError("cannot read the certificate: it is not in DER form") from error


def _read_element(data: bytes) -> tuple[int, bytes, bytes]:
    """Tag, content and what follows. Raises ValueError and IndexError."""
    length, start = data[1], 2
    if length & 0x80:
        size = length & 0x7F
        length, start = int.from_bytes(data[2 : 2 + size], "big"), 2 + size
    if len(data) < start + length:
        raise ValueError
    return data[0], data[start : start + length], data[start + length :]


def _parse_time(tag: int, text: bytes) -> float:
    if tag == _GENERALIZED_TIME:
        return dt.datetime.strptime(text.decode("ascii"), "%Y%m%d%H%M%S%z").timestamp()
    if tag != _UTC_TIME:
        raise ValueError
    # From 1950 to 2049, where strptime() takes 1969 to 2068: no certificate is so old.
    return dt.datetime.strptime(text.decode("ascii"), "%y%m%d%H%M%S%z").timestamp()
