# SPDX-License-Identifier: Apache-2.0
"""What a target is made of, when some of it does not answer: it keeps one thread, and is named."""

import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import world
from daemon_host import LIMIT_SEC, write

from ovms_scaler.config import read_config
from ovms_scaler.core.books import Books
from ovms_scaler.core.model import ModelFacts
from ovms_scaler.core.spec import Pool, Proxy
from ovms_scaler.core.target import Target
from ovms_scaler.core.topology import Topology
from ovms_scaler.daemon import lanes, resolving
from ovms_scaler.daemon.lanes import run_apart
from ovms_scaler.daemon.resolving import Resolver
from ovms_scaler.errors import ConfigError, DeadlineError
from ovms_scaler.host.credentials import CredentialStore, read_credentials

HERE, AWAY, ELSEWHERE = "/srv/models/here", "/mnt/server/away", "/srv/models/elsewhere"
TOPOLOGY, KEYS = "the topology of this machine (/sys, /proc)", "a file that [proxy] names"
CONFIG = f"""\
[[pool]]
name = "here"
model_name = "org/tiny"
model_path = "{HERE}"
nodes = "0"
[[pool]]
name = "away"
model_name = "org/tiny"
model_path = "{AWAY}"
nodes = "1"
"""


@dataclass(kw_only=True)
class Machine:
    """A machine of which parts hang. Whoever resolves waits for all else, and for those not at all."""

    root: Path
    weights_bytes: int = 2**20
    resolver: Resolver = field(init=False)
    _hangs: dict[str, threading.Event] = field(default_factory=dict)
    _held: set[str] = field(default_factory=set)
    _names: dict[Future[Any], str] = field(default_factory=dict)
    _news: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        (self.root / "proxy/credentials").mkdir(parents=True)
        (self.root / "proxy/credentials").chmod(0o750)
        self.resolver = Resolver(
            read_topology=self._read_topology,
            read_model=self._read_model,
            credentials=CredentialStore(self.root / "proxy"),
        )

    def hang(self, what: str) -> None:
        """It answers nobody until it is released."""
        self._hangs[what] = threading.Event()

    def release(self, what: str) -> None:
        """Who was kept goes on, and has ended when this returns."""
        kept = [future for future, name in self._names.items() if what in name]
        self._hangs.pop(what).set()
        concurrent.futures.wait(kept, LIMIT_SEC)
        self._held.discard(what)

    def release_all(self) -> None:
        for what in list(self._hangs):
            self.release(what)

    def expect(self, what: str) -> None:
        """Have it waited for."""
        self._held.discard(what)

    @property
    def kept(self) -> list[str]:
        """What the threads that have not ended read."""
        return sorted(name for future, name in self._names.items() if not future.done())

    def resolve(self, *, planned: bool = False, more: str = "", text: str = CONFIG) -> Target:
        write(self.root / "config.toml", text + more)
        return self.resolver(read_config(self.root / "config.toml"), Books(), planned=planned)

    def run_apart(self, name: str, do: Callable[[], Any]) -> Future[Any]:
        future = run_apart(name, do)
        self._names[future] = name
        future.add_done_callback(lambda _: self._tell())
        return future

    def wait(self, futures: list[Future[Any]], _sec: float) -> Any:
        (one,) = futures
        with self._news:
            name = self._names[one]
            self._news.wait_for(lambda: one.done() or any(what in name for what in self._held), LIMIT_SEC)
        return concurrent.futures.wait(futures, 0)

    def pass_by(self, what: str) -> None:
        """For a thread that reads it."""
        if what in self._hangs:
            self._held.add(what)
            self._tell()
            self._hangs[what].wait(LIMIT_SEC)

    def _tell(self) -> None:
        with self._news:
            self._news.notify_all()

    def _read_topology(self) -> Topology:
        self.pass_by(TOPOLOGY)
        return world.topology(2)

    def _read_model(self, pool: Pool) -> ModelFacts:
        found = world.model(path=pool.model_path, weights_bytes=self.weights_bytes)
        self.pass_by(str(pool.model_path))
        return found


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setattr(resolving, "ANSWER_SEC", 0.0)  # whatever hangs has done so for long
    made = Machine(root=tmp_path)

    def read(proxy: Proxy) -> object:
        made.pass_by(KEYS)
        return read_credentials(proxy)

    monkeypatch.setattr(resolving, "read_credentials", read)
    monkeypatch.setattr(lanes, "wait", made.wait)
    monkeypatch.setattr(lanes, "run_apart", made.run_apart)
    yield made
    made.release_all()


def problems(target: Target) -> dict[str, str | None]:
    return {one.pool: one.problem for one in target.instances}


GOOD = {"here": None, "away": None}
UNKNOWN = {"here": None, "away": f"cannot serve {AWAY!r}: it does not answer"}


def test_what_answers_is_told_and_keeps_nobody(machine: Machine) -> None:
    target = machine.resolve(planned=True)
    assert problems(target) == GOOD
    assert (machine.resolver.list_silent(), machine.kept) == ((), [])


def test_a_model_that_never_answered_hinders_its_own_pool_until_it_does(machine: Machine) -> None:
    machine.hang(AWAY)
    for planned in (True, False, False):  # as at the start, and in passes after it
        target = machine.resolve(planned=planned)
        assert problems(target) == UNKNOWN
        assert machine.kept == [f"read the model {AWAY!r}"]
        assert machine.resolver.list_silent() == (f"the model {AWAY!r} does not answer",)
    assert {one.hint for one in target.instances if one.pool == "away"} == {
        "see to the file system that it is on; `findmnt` lists them"
    }
    machine.release(AWAY)
    assert machine.resolver.list_silent() == ()
    assert problems(machine.resolve()) == GOOD


def test_a_model_that_answered_before_is_taken_for_what_it_was(machine: Machine) -> None:
    before = machine.resolve(planned=True)
    machine.hang(AWAY)
    assert machine.resolve() == before
    assert machine.resolve() == before
    assert machine.kept == [f"read the model {AWAY!r}"]


def test_a_planned_change_is_not_made_from_what_was(machine: Machine) -> None:
    machine.resolve(planned=True)
    machine.hang(AWAY)
    for _ in range(3):
        with pytest.raises(DeadlineError, match=f"^the model {AWAY!r} does not answer") as caught:
            machine.resolve(planned=True)
        assert "findmnt" in str(caught.value.hint)
        assert machine.kept == [f"read the model {AWAY!r}"]
    # It does not concern what does not name it.
    machine.resolve(planned=True, text=CONFIG.replace(AWAY, ELSEWHERE))
    # And it is one that hangs still when it is named again.
    with pytest.raises(DeadlineError):
        machine.resolve(planned=True)
    assert len(machine.kept) == 1
    machine.release(AWAY)
    assert problems(machine.resolve(planned=True)) == GOOD


def test_an_answer_to_an_earlier_question_is_no_answer(machine: Machine) -> None:
    machine.resolve(planned=True)
    machine.hang(AWAY)
    with pytest.raises(DeadlineError):
        machine.resolve(planned=True)
    machine.weights_bytes = 2**50  # no machine has room for that
    done: list[Target] = []
    asking = threading.Thread(target=lambda: done.append(machine.resolve(planned=True)))
    machine.expect(AWAY)
    asking.start()
    machine.release(AWAY)
    asking.join(LIMIT_SEC)
    assert "memory" in str(problems(done[0])["away"])


def test_a_machine_that_does_not_answer_is_named(machine: Machine) -> None:
    machine.hang(TOPOLOGY)
    for planned in (True, False):
        with pytest.raises(DeadlineError) as caught:
            machine.resolve(planned=planned)
        assert caught.value.message == f"{TOPOLOGY} does not answer"
        assert "journalctl -k" in str(caught.value.hint)
    assert machine.kept.count(f"read {TOPOLOGY}") == 1
    assert machine.resolver.list_silent() == (f"{TOPOLOGY} does not answer",)
    machine.release(TOPOLOGY)
    assert problems(machine.resolve(planned=True)) == GOOD


def test_two_pools_of_one_model_ask_once(machine: Machine) -> None:
    machine.hang(AWAY)
    target = machine.resolve(text=CONFIG.replace(HERE, AWAY))
    assert problems(target)["here"] == problems(target)["away"] == UNKNOWN["away"]
    assert machine.kept == [f"read the model {AWAY!r}"]


# Credentials


@pytest.fixture
def keys(tmp_path: Path) -> str:
    """A configuration's line that names good API keys."""
    write(tmp_path / "keys", "k" * 32 + "\n")
    (tmp_path / "keys").chmod(0o600)
    return f'[proxy]\napi_key_file = "{tmp_path}/keys"\n'


def test_keys_that_do_not_answer_are_not_taken_when_they_do(machine: Machine, keys: str) -> None:
    first = machine.resolve(planned=True, more=keys)
    write(machine.root / "keys", "other" * 10 + "\n")
    machine.hang(KEYS)
    with pytest.raises(DeadlineError, match=r"^a file that \[proxy\] names does not answer"):
        machine.resolve(planned=True, more=keys)
    # What is in use is known without them.
    assert machine.resolve(more=keys).proxy.access == first.proxy.access
    machine.release(KEYS)
    assert machine.resolve(more=keys).proxy.access == first.proxy.access
    assert machine.resolve(planned=True, more=keys).proxy.access != first.proxy.access


def test_bad_keys_are_refused_with_the_file_that_names_them(machine: Machine, keys: str) -> None:
    write(machine.root / "keys", "short\n")
    with pytest.raises(ConfigError) as caught:
        machine.resolve(planned=True, more=keys)
    assert str(caught.value).startswith(f"{machine.root}/config.toml: proxy.api_key_file: ")
