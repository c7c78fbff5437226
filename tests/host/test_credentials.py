# SPDX-License-Identifier: Apache-2.0
"""Files of keys and certificates with all that can be wrong with them, and what is made of good ones."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import world
from tls_lab import Pair, make_pair

from ovms_scaler.core.spec import Proxy
from ovms_scaler.errors import ConfigError, HostError
from ovms_scaler.host.credentials import CredentialStore, read_credentials

KEY = "sk-0123456789abcdef"
NEW = "sk-fedcba9876543210"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "api-keys"
    path.write_text(f"# Alice\n{KEY}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return make_pair(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> CredentialStore:
    directory = tmp_path / "proxy/credentials"
    directory.mkdir(parents=True)
    directory.chmod(0o2750)
    return CredentialStore(tmp_path / "proxy")


def proxy_of(keys: Path | None = None, pair: Pair | None = None) -> Proxy:
    table: dict[str, object] = {"api_key_file": str(keys)} if keys is not None else {}
    if pair is not None:
        table |= {"tls_certificate": str(pair.certificate), "tls_certificate_key": str(pair.key)}
    return world.spec({}, proxy=table).proxy


def refusal(proxy: Proxy) -> str:
    with pytest.raises(ConfigError) as caught:
        read_credentials(proxy)
    return str(caught.value)


def sets(tmp_path: Path) -> set[str]:
    found = (tmp_path / "proxy/credentials").iterdir()
    return {path.name for path in found if path.is_dir()}


def read_set(tmp_path: Path, number: str) -> dict[str, bytes]:
    directory = tmp_path / "proxy/credentials" / number
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_good_files_are_read(keys: Path, pair: Pair) -> None:
    assert read_credentials(proxy_of(keys, pair)) == {
        "api_keys.conf": keys.read_bytes(),
        "tls.crt": pair.certificate.read_bytes(),
        "tls.key": pair.key.read_bytes(),
    }
    assert read_credentials(proxy_of()) == {}


@pytest.mark.parametrize(
    ("mode", "rule"),
    [
        (0o640, "must be readable for its owner only, and its mode is 0640"),
        (0o604, "must be readable for its owner only, and its mode is 0604"),
        (0o622, "must be readable for its owner only, and its mode is 0622"),
    ],
)
def test_keys_that_others_may_read_are_refused(keys: Path, mode: int, rule: str) -> None:
    keys.chmod(mode)
    message = refusal(proxy_of(keys))
    assert message.startswith(f"proxy.api_key_file: {keys} {rule}")
    assert f"hint: chmod 600 {keys}" in message
    assert KEY not in message


@pytest.mark.parametrize("mode", [0o400, 0o600])
def test_keys_that_only_the_owner_may_read_are_taken(keys: Path, mode: int) -> None:
    keys.chmod(mode)
    assert read_credentials(proxy_of(keys))


@pytest.mark.parametrize(
    ("mode", "is_good"),
    [(0o600, True), (0o640, True), (0o644, False), (0o660, False), (0o601, False)],
)
def test_the_private_key_may_be_read_by_its_group_at_most(pair: Pair, mode: int, *, is_good: bool) -> None:
    pair.key.chmod(mode)
    if is_good:
        assert read_credentials(proxy_of(pair=pair))
    else:
        assert "must be closed to others, and not writable for its group" in refusal(proxy_of(pair=pair))


def test_a_certificate_that_others_may_change_is_refused(pair: Pair) -> None:
    pair.certificate.chmod(0o664)
    assert "tls.crt must be writable for its owner only" in refusal(proxy_of(pair=pair))


def test_a_file_of_somebody_else_is_refused(keys: Path) -> None:
    """Only root can give a file away; the file of another user is root's for anybody else."""
    if os.geteuid() != 0:
        return
    os.chown(keys, 65534, 65534)
    assert f"{keys} must belong to root, not to user 65534" in refusal(proxy_of(keys))


def test_a_link_is_followed_and_its_target_judged(keys: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(keys)
    assert read_credentials(proxy_of(tmp_path / "link"))
    keys.chmod(0o644)
    assert "its mode is 0644" in refusal(proxy_of(tmp_path / "link"))


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir(0o700)


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        pytest.param(Path.unlink, "cannot be read: No such file", id="missing"),
        pytest.param(make_pipe, "must be a plain file", id="a pipe that nobody writes to"),
        pytest.param(make_directory, "must be a plain file", id="a directory"),
        pytest.param(lambda path: path.write_bytes(b""), "must hold an API key at least", id="empty"),
        pytest.param(lambda path: path.write_bytes(b"\xff\xfek"), "byte 0 is not", id="no text"),
        pytest.param(lambda path: path.write_bytes(b"k\n" * 200_000), "must not be larger", id="large"),
        pytest.param(lambda path: path.write_text(f"{KEY}\nsecret\n"), "line 2 is none", id="no key"),
    ],
)
def test_what_cannot_be_keys_is_refused(keys: Path, spoil: Callable[[Path], object], rule: str) -> None:
    spoil(keys)
    message = refusal(proxy_of(keys))
    assert rule in message
    assert "secret" not in message


def test_a_key_of_another_certificate_is_refused(tmp_path: Path, pair: Pair) -> None:
    other = make_pair(tmp_path, "other")
    message = refusal(proxy_of(pair=Pair(certificate=pair.certificate, key=other.key)))
    assert (
        "must be a private key that fits tls_certificate, both in PEM form: key values mismatch" in message
    )


@pytest.mark.parametrize(
    "text", ["", "garbage", "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n"]
)
@pytest.mark.parametrize("name", ["certificate", "key"])
def test_garbage_is_refused(pair: Pair, name: str, text: str) -> None:
    (pair.certificate if name == "certificate" else pair.key).write_text(text)
    assert "must be a private key that fits tls_certificate" in refusal(proxy_of(pair=pair))


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked(tmp_path: Path) -> None:
    assert "must not need a passphrase" in refusal(
        proxy_of(pair=make_pair(tmp_path, passphrase="open sesame"))
    )


def test_everything_that_is_wrong_is_said_at_once(keys: Path, pair: Pair) -> None:
    keys.chmod(0o644)
    pair.key.unlink()
    with pytest.raises(ConfigError) as caught:
        read_credentials(proxy_of(keys, pair))
    assert [problem.key for problem in caught.value.problems] == [
        "proxy.api_key_file",
        "proxy.tls_certificate_key",
    ]


def test_a_set_is_for_the_owner_and_the_group_of_the_directory(
    store: CredentialStore, tmp_path: Path, keys: Path, pair: Pair
) -> None:
    directory = tmp_path / "proxy/credentials"
    if os.geteuid() == 0:
        os.chown(directory, 0, 65534)
        directory.chmod(0o2750)
    number = store.take(proxy_of(keys, pair), anew=True)
    group = directory.stat().st_gid
    assert {path.name for path in (directory / number).iterdir()} == {"api_keys.conf", "tls.crt", "tls.key"}
    for path in (directory / number, *(directory / number).iterdir()):
        seen = path.stat()
        assert (seen.st_gid, stat.S_IMODE(seen.st_mode) & 0o777) == (
            group,
            0o750 if path.is_dir() else 0o640,
        )
    assert KEY in (directory / number / "api_keys.conf").read_text()


def test_the_number_stays_until_something_changes(
    store: CredentialStore, tmp_path: Path, keys: Path, pair: Pair
) -> None:
    proxy = proxy_of(keys, pair)
    first = store.take(proxy, anew=True)
    assert store.take(proxy, anew=True) == first
    keys.write_text(f"# Bob, too\n{KEY}\n")
    assert store.take(proxy, anew=True) == first  # comments are for people
    keys.write_text(f"{NEW}\n")
    second = store.take(proxy, anew=True)
    assert second != first
    keys.write_text(f"{KEY}\n")
    assert store.take(proxy, anew=True) not in (first, second)


def test_a_changed_file_is_taken_when_it_is_asked_for(
    store: CredentialStore, tmp_path: Path, keys: Path
) -> None:
    first = store.take(proxy_of(keys), anew=False)
    keys.write_text(f"{NEW}\n")
    assert store.take(proxy_of(keys), anew=False) == first
    assert NEW in read_set(tmp_path, store.take(proxy_of(keys), anew=True))["api_keys.conf"].decode()


def test_an_agent_that_comes_back_goes_on_although_the_file_went_bad(
    store: CredentialStore, tmp_path: Path, keys: Path
) -> None:
    first = store.take(proxy_of(keys), anew=True)
    keys.chmod(0o644)
    assert CredentialStore(tmp_path / "proxy").take(proxy_of(keys), anew=False) == first
    with pytest.raises(ConfigError):
        store.take(proxy_of(keys), anew=True)


def test_what_was_taken_from_other_files_does_not_stand(
    store: CredentialStore, tmp_path: Path, keys: Path, pair: Pair
) -> None:
    first = store.take(proxy_of(keys), anew=True)
    second = store.take(proxy_of(pair=pair), anew=False)
    assert set(read_set(tmp_path, second)) == {"tls.crt", "tls.key"}
    assert second != first
    assert store.take(proxy_of(), anew=False) == ""


@pytest.mark.parametrize("spoil", ["a file of the set", "the note", "a note of somebody else"])
def test_what_is_not_whole_is_made_again(
    store: CredentialStore, tmp_path: Path, keys: Path, spoil: str
) -> None:
    directory = tmp_path / "proxy/credentials"
    first = store.take(proxy_of(keys), anew=True)
    if spoil == "a file of the set":
        (directory / first / "api_keys.conf").unlink()
    else:
        (directory / "taken.json").write_text(
            "{" if spoil == "the note" else '{"number": "..", "files": {}}'
        )
    second = store.take(proxy_of(keys), anew=False)
    assert second != first
    assert KEY in read_set(tmp_path, second)["api_keys.conf"].decode()


def test_keys_that_are_no_longer_used_are_forgotten(
    store: CredentialStore, tmp_path: Path, keys: Path
) -> None:
    first = store.take(proxy_of(keys), anew=True)
    (tmp_path / "proxy/credentials.conf").write_text(f"include /x/credentials/{first}/api_keys.conf;\n")
    keys.write_text(f"{NEW}\n")
    second = store.take(proxy_of(keys), anew=True)
    assert sets(tmp_path) == {first, second}  # the proxy has the first one until it takes the second
    (tmp_path / "proxy/credentials.conf").unlink()
    store.take(proxy_of(keys), anew=False)
    store.take(proxy_of(keys), anew=True)
    assert sets(tmp_path) == {second}
    store.take(proxy_of(), anew=True)
    assert list((tmp_path / "proxy/credentials").iterdir()) == []


def test_a_directory_that_others_may_enter_is_not_used(
    store: CredentialStore, tmp_path: Path, keys: Path
) -> None:
    (tmp_path / "proxy/credentials").chmod(0o755)
    with pytest.raises(HostError, match="others may enter") as caught:
        store.take(proxy_of(keys), anew=True)
    assert "systemd-tmpfiles --create" in str(caught.value)
    assert sets(tmp_path) == set()


def test_without_credentials_no_directory_is_needed(tmp_path: Path) -> None:
    assert CredentialStore(tmp_path / "missing").take(proxy_of(), anew=True) == ""


def test_a_missing_directory_is_said(tmp_path: Path, keys: Path) -> None:
    with pytest.raises(HostError, match=r"cannot copy credentials to .*missing"):
        CredentialStore(tmp_path / "missing").take(proxy_of(keys), anew=True)
