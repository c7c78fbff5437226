# SPDX-License-Identifier: Apache-2.0
"""Users and groups, and what one of them may not read."""

import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from ovms_scaler.core.checks.access import Closed
from ovms_scaler.doctor.answers import parse_closed
from ovms_scaler.host.accounts import Account, find_closed, read_accounts
from ovms_scaler.host.apart import Task, run_apart

# Root may read everything, so that somebody else has to look.
READER = Account(name="reader", uid=65534, gid=65534) if os.geteuid() == 0 else None


@pytest.fixture
def root() -> Iterator[Path]:
    """A root that everybody may enter, with a model in it."""
    with tempfile.TemporaryDirectory(prefix="ovms-scaler-test-") as directory:
        root = Path(directory)
        root.chmod(0o755)
        model = root / "srv/models/tiny/1"
        model.mkdir(parents=True)
        (model / "model.xml").write_text("")
        (root / "srv/link").symlink_to("/srv/models/tiny")
        yield root


def closed(root: Path, path: str, *, to_run: bool = False) -> Closed | None:
    call = partial(find_closed, (path,), root, to_run=to_run)
    task = Task(name="look", call=call, deadline_sec=30, user=READER, parse=parse_closed)
    outcome = run_apart([task])["look"]
    assert outcome.trouble == ""
    assert outcome.value is None or isinstance(outcome.value, Closed)
    return outcome.value


def test_open_model_is_open(root: Path) -> None:
    assert closed(root, "/srv/models/tiny") is None
    assert closed(root, "/srv/link") is None


@pytest.mark.parametrize(
    ("path", "mode", "verb"),
    [
        ("/srv", 0o644, "pass"),
        ("/srv/models/tiny", 0o700 & ~0o500, "list"),
        ("/srv/models/tiny/1", 0o000, "list"),
        ("/srv/models/tiny/1/model.xml", 0o000, "read"),
    ],
)
@pytest.mark.parametrize("start", ["/srv/models/tiny", "/srv/link"])
def test_first_thing_in_the_way_is_named(root: Path, start: str, path: str, mode: int, verb: str) -> None:
    place = root / path.lstrip("/")
    place.chmod(mode)
    found = closed(root, start)
    place.chmod(0o755)
    assert found == Closed(path=path, verb=verb, mode=mode, is_directory=not path.endswith(".xml"))


def test_what_is_not_part_of_a_model_is_left_out(root: Path) -> None:
    hidden = root / "srv/models/tiny/.git"
    hidden.mkdir(mode=0o000)
    (root / "srv/models/tiny/nowhere.bin").symlink_to("gone")
    assert closed(root, "/srv/models/tiny") is None
    assert closed(root, "/srv/models/none") is None


def test_a_directory_that_holds_itself_ends(root: Path) -> None:
    (root / "srv/models/tiny/self").symlink_to(".")
    assert closed(root, "/srv/models/tiny") is None


def test_a_program_is_to_be_run(root: Path) -> None:
    program = root / "srv/ovms"
    program.write_text("")
    program.chmod(0o644)
    found = closed(root, "/srv/ovms", to_run=True)
    assert found == Closed(path="/srv/ovms", verb="run", mode=0o644, is_directory=False)
    program.chmod(0o755)
    assert closed(root, "/srv/ovms", to_run=True) is None


def test_accounts_have_their_groups(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("ovms:x:990:980::/:/bin/false\nbroken\n+nis\n")
    (tmp_path / "etc/group").write_text("ovms:x:980:\nrender:x:105:alice,ovms\n")
    found = read_accounts(tmp_path)
    assert found.users == {"ovms": Account(name="ovms", uid=990, gid=980, groups=(980, 105))}
    assert found.groups == {"ovms": 980, "render": 105}
