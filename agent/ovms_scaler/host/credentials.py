# SPDX-License-Identifier: Apache-2.0
"""API keys, certificate and private key: read once, checked, and copied for the proxy's user alone to read.

A copy, because the proxy's user may not read what is root's, and because nginx reads its files again
whenever an instance stops: a certificate that is being renewed must not meet the key of the one before.
"""

import contextlib
import json
import os
import secrets
import shutil
import ssl
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from ovms_scaler.core import credentials
from ovms_scaler.core.credentials import API_KEYS, CERTIFICATE, CERTIFICATE_KEY
from ovms_scaler.core.route import CREDENTIALS
from ovms_scaler.core.spec import Proxy
from ovms_scaler.errors import ConfigError, HostError, InputError, Problem
from ovms_scaler.host import files

# Certificates of a long chain have some ten thousand bytes.
MAX_BYTES = 256 * 1024
# What of a file's mode must not be set, and how to say so. Debian's own private keys are readable for the
# group ssl-cert; a certificate is no secret.
_MODES = {
    "api_key_file": (0o077, "be readable for its owner only", "chmod 600"),
    "tls_certificate": (0o022, "be writable for its owner only", "chmod 644"),
    "tls_certificate_key": (0o027, "be closed to others, and not writable for its group", "chmod 600"),
}


# Which set was taken last, and from where.
_TAKEN = "taken.json"


class CredentialsUnreadableError(ConfigError):
    """This user may not read one of the files; the agent, which is root, may."""


def read_credentials(proxy: Proxy) -> Mapping[str, bytes]:
    """What the proxy is to read, by name in a set of credentials; empty when the configuration names none.

    Raises ConfigError with everything that is wrong, and nothing of what the files say.
    """
    problems: list[Problem] = []
    found: dict[str, bytes] = {}
    is_unreadable = False
    for key, path in credentials.sources(proxy).items():
        try:
            found[credentials.file_name(key)] = _read(Path(path), key)
        except PermissionError as error:
            is_unreadable = True
            problems.append(_problem(key, path, f"cannot be read: {error.strerror}", "run this as root"))
        except OSError as error:
            is_elsewhere = isinstance(error, FileNotFoundError) and path.startswith("/tmp/")
            hint = "the agent has a /tmp of its own; keep it below /etc" if is_elsewhere else None
            problems.append(_problem(key, path, f"cannot be read: {error.strerror}", hint))
        except InputError as error:
            problems.append(_problem(key, path, error.message, error.hint))
    if is_unreadable:
        raise CredentialsUnreadableError(problems)
    if CERTIFICATE in found and CERTIFICATE_KEY in found:
        try:
            _check_pair(found[CERTIFICATE], found[CERTIFICATE_KEY])
        except InputError as error:
            path = str(proxy.tls_certificate_key)
            problems.append(_problem("tls_certificate_key", path, error.message, error.hint))
    if problems:
        raise ConfigError(problems)
    return found


class CredentialStore:
    """Sets of credentials in ``directory``, each in a directory of its own that is written once.

    The directory is root's and setgid, its group that of the proxy's user: what is made in it is so, too.
    """

    def __init__(self, directory: Path) -> None:
        """``directory`` is the proxy's, with its nginx.conf."""
        self._in_use = directory / CREDENTIALS
        self._directory = directory / credentials.DIRECTORY

    def take(self, proxy: Proxy, *, anew: bool) -> str:
        """The number of the set that is to be used; "" when the configuration names no file.

        The files are read ``anew``, or what was taken before stands as long as the configuration names the
        same ones. Raises ConfigError when something is wrong with them, HostError when they cannot be
        copied.
        """
        sources = credentials.sources(proxy)
        taken = self._read_taken()
        if not anew and taken is not None and taken[1] == sources:
            return taken[0]
        texts = _render(read_credentials(proxy))
        number = taken[0] if taken is not None and self._read_set(taken[0]) == texts else ""
        if texts and not number:
            number = secrets.token_hex(8)
            self._write_set(number, texts)
        self._note_taken(number, sources)
        self._remove_others(number)
        return number

    def _read_taken(self) -> tuple[str, Mapping[str, str]] | None:
        """The set that was taken last, and the files it is from; None for none, or one that is not whole."""
        try:
            document = json.loads(files.read_text(self._directory / _TAKEN) or "null")
        except (HostError, ValueError, RecursionError):
            return None
        match document:
            case {"number": str(number), "files": dict(sources)} if credentials.is_number(number):
                names = {credentials.file_name(key) for key in sources if key in _MODES}
                found = self._read_set(number)
                return (number, sources) if found is not None and found.keys() == names else None
            case _:
                return None

    def _note_taken(self, number: str, sources: Mapping[str, str]) -> None:
        """Raises HostError. Writes nothing that is so already: the directory may be read-only."""
        path = self._directory / _TAKEN
        try:
            if number:
                files.write_text(path, json.dumps({"number": number, "files": dict(sources)}))
            elif path.exists():
                path.unlink()
        except OSError as error:
            raise HostError(f"cannot note the credentials in {path}: {error.strerror}") from error

    def _read_set(self, number: str) -> dict[str, bytes] | None:
        try:
            return {path.name: path.read_bytes() for path in (self._directory / number).iterdir()}
        except OSError:
            return None

    def _write_set(self, number: str, texts: Mapping[str, bytes]) -> None:
        """Raises HostError."""
        hint = "`systemd-tmpfiles --create ovms-scaler.conf` makes the directory as it must be"
        try:
            if stat.S_IMODE(self._directory.stat().st_mode) & 0o007:
                raise HostError(
                    f"cannot copy credentials to {self._directory}: others may enter it", hint=hint
                )
            (self._directory / number).mkdir(mode=0o750)
            for name, text in texts.items():
                path = self._directory / number / name
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
                with os.fdopen(descriptor, "wb") as stream:
                    stream.write(text)
        except OSError as error:
            raise HostError(
                f"cannot copy credentials to {self._directory}: {error.strerror}", hint=hint
            ) from error

    def _remove_others(self, number: str) -> None:
        """Forget what neither is used now nor will be; the proxy may still be told to read what it has."""
        kept = {number, _TAKEN, credentials.parse_number(files.read_text(self._in_use) or "")}
        with contextlib.suppress(FileNotFoundError):
            for path in self._directory.iterdir():
                if path.name not in kept:
                    shutil.rmtree(path, ignore_errors=True)


def _render(found: Mapping[str, bytes]) -> dict[str, bytes]:
    """The same with the API keys as nginx reads them."""
    texts = dict(found)
    if API_KEYS in texts:
        keys = credentials.parse_api_keys(_decode(texts[API_KEYS]))
        texts[API_KEYS] = credentials.render_api_keys(keys).encode()
    return texts


def _read(path: Path, key: str) -> bytes:
    """Raises OSError, and InputError for a file that must not be used."""
    forbidden, rule, remedy = _MODES[key]
    # Not to wait for the writer of a pipe; links are followed, as certificates are renewed behind them.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        seen = os.fstat(descriptor)
        if not stat.S_ISREG(seen.st_mode):
            raise InputError("must be a plain file, and is none")
        if seen.st_uid not in (0, os.geteuid()):
            raise InputError(f"must belong to root, not to user {seen.st_uid}", hint=f"chown root {path}")
        if (mode := stat.S_IMODE(seen.st_mode)) & forbidden:
            raise InputError(f"must {rule}, and its mode is {mode:04o}", hint=f"{remedy} {path}")
        with open(descriptor, "rb", closefd=False) as stream:
            data = stream.read(MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > MAX_BYTES:
        raise InputError(f"must not be larger than {MAX_BYTES} bytes")
    if key == "api_key_file":
        credentials.parse_api_keys(_decode(data))
    return data


def _decode(data: bytes) -> str:
    """Raises InputError."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"must be text in UTF-8, and byte {error.start} is not") from None


def _check_pair(certificate: bytes, key: bytes) -> None:
    """Raises InputError unless nginx could use them together."""
    asked = False

    def passphrase() -> str:
        nonlocal asked
        asked = True
        return ""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with _in_memory(certificate) as certificate_path, _in_memory(key) as key_path:
        try:
            context.load_cert_chain(certificate_path, key_path, passphrase)
        except ssl.SSLError as error:
            if asked:
                raise InputError(
                    "must not need a passphrase",
                    hint="`openssl pkey -in FILE -out FILE_WITHOUT_PASSPHRASE` takes it away",
                ) from None
            reason = (error.reason or "").replace("_", " ").lower()
            why = reason or "no certificate or no key is found"
            raise InputError(
                f"must be a private key that fits tls_certificate, both in PEM form: {why}",
                hint="`openssl x509 -noout -pubkey -in CERTIFICATE` prints "
                "what `openssl pkey -pubout -in KEY`",
            ) from None


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """A path at which the bytes that were read can be read again, on no disk."""
    descriptor = os.memfd_create("ovms-scaler", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        yield f"/proc/self/fd/{descriptor}"


def _problem(key: str, path: str, rule: str, hint: str | None) -> Problem:
    return Problem(file="", key=f"proxy.{key}", rule=f"{path} {rule}", hint=hint)
