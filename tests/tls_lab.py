# SPDX-License-Identifier: Apache-2.0
"""Certificates for one day, made by openssl, and clients that trust one of them and no other."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

_REQUEST = ("openssl", "req", "-x509", "-days", "1", "-subj", "/CN=localhost")
_NAMES = ("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A certificate and its private key, as files."""

    certificate: Path
    key: Path

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate))


def make_pair(directory: Path, name: str = "tls", *, passphrase: str = "") -> Pair:
    """For localhost and 127.0.0.1, with the modes that they should have."""
    pair = Pair(certificate=directory / f"{name}.crt", key=directory / f"{name}.key")
    out = ("-out", str(pair.certificate), "-keyout", str(pair.key))
    protection = ("-passout", f"pass:{passphrase}") if passphrase else ("-nodes",)
    subprocess.run(
        (*_REQUEST, *_NAMES, *_CURVE, *protection, *out), check=True, capture_output=True, timeout=20
    )
    pair.certificate.chmod(0o644)
    pair.key.chmod(0o600)
    return pair
