# SPDX-License-Identifier: Apache-2.0
"""What the proxy needs to tell clients apart and to speak TLS: API keys, a certificate and its key.

What they say is in no Target, Plan or Action, which are logged and shown: there a set of credentials is a
random number, by which nginx's configuration includes the files. Another one is drawn whenever one of them
changes, so that the proxy's generation changes too, and nothing can be learned from it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ovms_scaler.core.nginx_syntax import block, check_path
from ovms_scaler.core.route import CREDENTIALS
from ovms_scaler.core.spec import Proxy
from ovms_scaler.errors import InputError

# Beside nginx.conf; for root and the proxy's user only.
DIRECTORY = "credentials"
API_KEYS, CERTIFICATE, CERTIFICATE_KEY = "api_keys.conf", "tls.crt", "tls.key"
# b64token of RFC 6750, 2.1, which is token68 of RFC 9110: what can stand behind "Bearer". A short one can be
# guessed.
_API_KEY = re.compile(r"[A-Za-z0-9._~+/-]{16,256}={0,2}")
_NUMBER = re.compile(r"[0-9a-f]{16}")
# Key of the configuration -> name among the files of a set.
_FILES = {
    "api_key_file": API_KEYS,
    "tls_certificate": CERTIFICATE,
    "tls_certificate_key": CERTIFICATE_KEY,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What clients need, and which set of credentials is used: ``number`` is "" where that is not known."""

    has_api_keys: bool = False
    has_tls: bool = False
    number: str = ""

    @property
    def is_open(self) -> bool:
        """Whether there is nothing to know."""
        return not self.has_api_keys and not self.has_tls


OPEN = Access()


def access_of(proxy: Proxy) -> Access:
    return Access(has_api_keys=proxy.api_key_file is not None, has_tls=proxy.tls_certificate is not None)


def sources(proxy: Proxy) -> Mapping[str, str]:
    """The files that the configuration names, by its key."""
    found = ((key, getattr(proxy, key)) for key in _FILES)
    return {key: path for key, path in found if path is not None}


def file_name(key: str) -> str:
    """Under which name a set holds the file that this key of the configuration names."""
    return _FILES[key]


def parse_api_keys(text: str) -> tuple[str, ...]:
    """The keys, one a line; "#" begins a comment. Raises InputError, which repeats nothing of the text."""
    keys: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        key = line.partition("#")[0].strip()
        if not key:
            continue
        if not _API_KEY.fullmatch(key):
            raise InputError(
                f"must hold one API key a line, and line {number} is none: a key is 16 to 256 letters, "
                "digits and '-', '.', '_', '~', '+' or '/', with '=' at its end only",
                hint="`openssl rand -hex 32` prints a good one",
            )
        keys.append(key)
    if not keys:
        raise InputError(
            "must hold an API key at least, and holds none",
            hint="without the key api_key_file in the configuration, every client is let in",
        )
    return tuple(dict.fromkeys(keys))


def render_api_keys(keys: tuple[str, ...]) -> str:
    """nginx's map from what a client sends to 1 for a key that is known.

    Regular expressions, as plain strings of a map ignore the case (ngx_http_map_module). \\Q..\\E takes
    every character of a key literally.
    """
    entries = (rf'"~^(?i:Bearer) +\Q{key}\E$" 1;' for key in keys)
    lines = block("map $http_authorization $ovms_api_key", 'default "";', *entries)
    return "\n".join(lines) + "\n"


def is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


def render_credentials(access: Access, directory: str) -> str:
    """The text of credentials.conf. Raises InputError for a number that is none of ours."""
    if not is_number(access.number):
        raise InputError(f"cannot use credentials {access.number!r}: must be 16 hex digits")
    here = f"{check_path(directory)}/{DIRECTORY}/{access.number}"
    lines = [
        "# Which API keys and which certificate the proxy uses. The number is random, and another one",
        "# whenever one of them has changed.",
        *([f"include {here}/{API_KEYS};"] if access.has_api_keys else []),
        *([f"ssl_certificate {here}/{CERTIFICATE};"] if access.has_tls else []),
        *([f"ssl_certificate_key {here}/{CERTIFICATE_KEY};"] if access.has_tls else []),
    ]
    return "\n".join(lines) + "\n"


def parse_number(text: str) -> str:
    """The number in the text of credentials.conf, "" when there is none."""
    found = re.search(rf"/{DIRECTORY}/([0-9a-f]{{16}})/", text)
    return found[1] if found else ""


def render_access(access: Access) -> list[str]:
    """What all of nginx's servers share, in http or stream."""
    if access.is_open:
        return []
    return [f"include {CREDENTIALS};", *(_render_tls() if access.has_tls else []), ""]


def _render_tls() -> list[str]:
    """Protocols and ciphers of Mozilla's intermediate profile (its configuration generator 6.0).

    Curves are those that OpenSSL 3.0 and 3.5 both know. No tickets: nginx would have one key for them as
    long as it runs.
    """
    ciphers = ":".join(
        f"ECDHE-{kind}-{cipher}"
        for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
        for kind in ("ECDSA", "RSA")
    )
    return [
        "ssl_protocols TLSv1.2 TLSv1.3;",
        f"ssl_ciphers {ciphers};",
        "ssl_prefer_server_ciphers off;",
        "ssl_ecdh_curve X25519:prime256v1:secp384r1;",
        "ssl_session_timeout 1d;",
        "ssl_session_cache shared:ovms_tls:10m;",
        "ssl_session_tickets off;",
    ]
