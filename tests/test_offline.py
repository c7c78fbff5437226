# SPDX-License-Identifier: Apache-2.0
"""What is compared with a host's files, and what is written for a reader."""

from pathlib import Path

import machines
import pytest

from ovms_scaler.config import Config, read_config
from ovms_scaler.core.books import Books
from ovms_scaler.core.fronts import PROXY_DIRECTORY
from ovms_scaler.core.route import parse_route
from ovms_scaler.core.unit import drop_in_path
from ovms_scaler.ctl.changes import Action, list_actions, list_changes, render_diff
from ovms_scaler.errors import ConfigError, HostError, InputError, Problem
from ovms_scaler.host.credentials import CredentialStore, CredentialsUnreadableError
from ovms_scaler.host.store import Store
from ovms_scaler.offline import (
    Preview,
    add_credentials,
    preview,
    preview_target,
    render_files,
    write_rendered,
)

POOL = """\
[[pool]]
name = "chat"
model_name = "org/model"
model_path = "{model}"
"""
ZERO = drop_in_path("chat-numa0")
ONE = drop_in_path("chat-numa1")


class Lab:
    """A machine of two nodes, a configuration, and a host whose files are compared."""

    def __init__(self, directory: Path) -> None:
        self.machine = machines.hbm(directory / "machine")
        self.host = directory / "host"
        self.model = directory / "model"
        self.model.mkdir()
        for name in ("openvino_model.xml", "openvino_tokenizer.xml"):
            (self.model / name).write_text("<net/>")
        self.file = directory / "config.toml"
        self.configure()

    def configure(self, more: str = "") -> None:
        self.file.write_text(POOL.format(model=self.model) + more)

    @property
    def config(self) -> Config:
        return read_config(self.file)

    def preview(self) -> Preview:
        return preview(self.config, self.machine, self.host)

    def install(self) -> None:
        """Have the host's files be as the agent would have written them, in work."""
        target, _ = preview_target(self.config, self.machine, self.host)
        store = Store(self.host)
        store.write_instance(render_files(target))
        store.write_books(target.books)

    def actions(self) -> list[Action]:
        found = self.preview()
        return list_actions(found, list_changes(found))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_everything_is_new_on_an_empty_host(lab: Lab) -> None:
    found = lab.preview()
    assert {change.change for change in list_changes(found)} == {"write"}
    assert found.present == {}


def test_nothing_to_do_where_every_file_is_right(lab: Lab) -> None:
    lab.install()
    assert lab.actions() == []


def test_routes_and_generation_are_the_daemon_s(lab: Lab) -> None:
    lab.install()
    (lab.host / "run/ovms-scaler-proxy/routes/chat/chat-numa0.conf").unlink()
    (lab.host / "run/ovms-scaler-proxy/generation.conf").write_text("another\n")
    assert lab.actions() == []


def test_a_changed_instance_is_stopped_rewritten_and_started(lab: Lab) -> None:
    lab.install()
    path = lab.host / ZERO[1:]
    path.write_text(path.read_text().replace("CPUAffinity=", "CPUAffinity=9"))
    unit = "ovms@chat-numa0.service"
    assert lab.actions() == [
        {"action": "stop", "unit": unit},
        {"action": "change", "path": ZERO, "instance": "chat-numa0"},
        {"action": "start", "unit": unit},
    ]


def test_an_instance_that_is_no_longer_wanted_is_stopped_and_removed(lab: Lab) -> None:
    lab.install()
    lab.configure('nodes = "0"\n')
    actions = lab.actions()
    assert {"action": "stop", "unit": "ovms@chat-numa1.service"} in actions
    assert {"action": "remove", "path": ONE, "instance": "chat-numa1"} in actions
    assert {"action": "start", "unit": "ovms@chat-numa1.service"} not in actions
    assert not [one for one in actions if one.get("instance") == "chat-numa0"]
    assert {"action": "reload", "unit": "ovms-scaler-proxy.service"} in actions


def test_the_last_pool_taken_away_removes_what_there_is(lab: Lab) -> None:
    lab.install()
    lab.file.write_text("")
    verbs = {(one["action"], one.get("unit") or one["path"]) for one in lab.actions()}
    assert ("remove", ZERO) in verbs
    assert ("change", f"{PROXY_DIRECTORY}/nginx.conf") in verbs


def test_the_port_book_of_the_host_counts(lab: Lab) -> None:
    Store(lab.host).write_books(Books(ports={"chat-numa0": 9000, "chat-numa1": 8003}))
    assert [one.port for one in lab.preview().target.instances] == [9000, 8003]


def test_a_corrupt_port_book_is_an_error_as_for_the_agent(lab: Lab) -> None:
    book = lab.host / "var/lib/ovms-scaler/ports.json"
    book.parent.mkdir(parents=True)
    book.write_text("{")
    with pytest.raises(HostError, match="cannot use the port book"):
        lab.preview()


def test_a_file_that_cannot_be_read_is_a_warning(lab: Lab) -> None:
    lab.install()
    path = lab.host / ZERO[1:]
    path.unlink()
    path.mkdir()  # no permission could keep root from reading a file
    found = lab.preview()
    assert found.unreadable == {ZERO}
    assert [text for text in found.warnings if "cannot compare it" in text and ZERO in text]
    assert list_changes(found) == ()


def test_diff_is_one_that_patch_understands(lab: Lab) -> None:
    lab.install()
    path = lab.host / ZERO[1:]
    text = path.read_text()
    path.write_text(text.replace("LimitNOFILE", "LimitNOFILES"))
    lines = list(render_diff(list_changes(lab.preview())))
    assert lines[:2] == [f"--- {ZERO}", f"+++ {ZERO}"]
    assert [line for line in lines if line.startswith(("-L", "+L"))] == [
        f"-{next(line for line in path.read_text().splitlines() if line.startswith('Limit'))}",
        f"+{next(line for line in text.splitlines() if line.startswith('Limit'))}",
    ]


def test_rendered_files_are_what_lies_on_the_host(lab: Lab, tmp_path: Path) -> None:
    lab.install()
    target, _ = preview_target(lab.config, lab.machine, lab.host)
    written = write_rendered(tmp_path / "out", render_files(target))
    assert ZERO in written
    for path in written:
        assert (tmp_path / "out" / path[1:]).read_bytes() == (lab.host / path[1:]).read_bytes()


def test_rendered_routes_are_marked(lab: Lab) -> None:
    target, _ = preview_target(lab.config, lab.machine, lab.host)
    routes = [parse_route(text) for path, text in render_files(target).items() if "/routes/" in path]
    assert [route.instance for route in routes] == ["chat-numa0", "chat-numa1"]
    assert {route.invocation for route in routes} == {"0" * 32}


def test_no_route_for_what_cannot_be_started(lab: Lab) -> None:
    lab.model.rename(lab.model.with_name("gone"))
    target, _ = preview_target(lab.config, lab.machine, lab.host)
    rendered = render_files(target)
    assert ZERO in rendered
    assert not [path for path in rendered if "/routes/" in path]


def test_rendering_again_leaves_nothing_of_before(lab: Lab, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first, _ = preview_target(lab.config, lab.machine, lab.host)
    write_rendered(out, render_files(first))
    lab.configure('nodes = "1"\n')
    second, _ = preview_target(lab.config, lab.machine, lab.host)
    write_rendered(out, render_files(second))
    assert not (out / ZERO[1:]).parent.exists()
    assert {"/" + str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == set(
        render_files(second)
    )


@pytest.mark.parametrize("inside", ["notes.txt", "etc/passwd", "run/systemd/system/ssh.service.d/x.conf"])
def test_a_directory_with_anything_else_in_it_is_not_rendered_to(inside: str, tmp_path: Path) -> None:
    (tmp_path / inside).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / inside).write_text("mine")
    with pytest.raises(InputError, match="which was not rendered"):
        write_rendered(tmp_path, {ZERO: "new"})
    assert (tmp_path / inside).read_text() == "mine"
    assert not (tmp_path / ZERO[1:]).exists()


def test_a_link_below_the_directory_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "systemd/system").mkdir(parents=True)
    out = tmp_path / "out"
    out.mkdir()
    (out / "run").symlink_to(elsewhere)
    with pytest.raises(InputError, match="'run', which was not rendered"):
        write_rendered(out, {ZERO: "new"})
    assert list((elsewhere / "systemd/system").iterdir()) == []


@pytest.mark.parametrize("root", ["/", "//", "/usr/..", "/proc/self/root"])
def test_the_root_of_the_machine_is_never_rendered_to(root: str) -> None:
    with pytest.raises(InputError, match="it is the root of this machine"):
        write_rendered(Path(root), {ZERO: "new"})


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="it is not a directory"):
        write_rendered(tmp_path / "out", {})


@pytest.fixture
def keys(lab: Lab, tmp_path: Path) -> Path:
    """Good API keys, which the configuration names."""
    path = tmp_path / "api-keys"
    path.write_text("sk-0123456789abcdef\n")
    path.chmod(0o600)
    lab.configure(f'[proxy]\napi_key_file = "{path}"\n')
    return path


def test_keys_are_in_nothing_that_is_shown_or_rendered(lab: Lab, keys: Path) -> None:
    found = lab.preview()
    texts = [*found.wanted.values(), *render_files(found.target).values(), repr(found), repr(lab.config)]
    assert not [text for text in texts if keys.read_text().strip() in text]
    assert f"{PROXY_DIRECTORY}/nginx.conf" in render_files(found.target)


def test_what_is_compared_is_what_the_agent_writes(lab: Lab, keys: Path, tmp_path: Path) -> None:
    (tmp_path / "proxy/credentials").mkdir(parents=True)
    (tmp_path / "proxy/credentials").chmod(0o2750)
    known, rendered = (
        render_files(target)
        for target in (
            add_credentials(
                lab.preview().target, lab.config, CredentialStore(tmp_path / "proxy"), anew=True
            ),
            lab.preview().target,
        )
    )
    path = f"{PROXY_DIRECTORY}/nginx.conf"
    assert known[path] == rendered[path]
    assert f"{PROXY_DIRECTORY}/credentials.conf" in known


def test_keys_that_the_agent_would_refuse_are_refused_with_the_file_that_names_them(
    lab: Lab, keys: Path, tmp_path: Path
) -> None:
    keys.chmod(0o644)
    for refuse in (
        lab.preview,
        lambda: add_credentials(
            lab.preview().target, lab.config, CredentialStore(tmp_path / "proxy"), anew=True
        ),
    ):
        with pytest.raises(ConfigError, match="must be readable for its owner only") as caught:
            refuse()
        assert str(caught.value).startswith(f"{lab.file}: proxy.api_key_file: {keys} must be")


def test_keys_of_another_machine_are_not_looked_at(lab: Lab, keys: Path) -> None:
    keys.unlink()
    target, _ = preview_target(lab.config, lab.machine)
    assert target.proxy.access.has_api_keys


def test_keys_that_only_this_user_may_not_read_are_a_warning(
    lab: Lab, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise CredentialsUnreadableError(
            [Problem(file="", key="proxy.api_key_file", rule=f"{keys} cannot be read: Permission denied")]
        )

    monkeypatch.setattr("ovms_scaler.offline.read_credentials", refuse)
    monkeypatch.setattr("os.geteuid", lambda: 65534)
    assert preview_target(lab.config, lab.machine, lab.host)[1] == (
        f"proxy.api_key_file: {keys} cannot be read: Permission denied: not checked",
    )
