# SPDX-License-Identifier: Apache-2.0
"""What is remembered: the ports, the accepted configuration, what ran, and the files of the instances."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import world

from ovms_scaler.core.books import Books, Card
from ovms_scaler.core.orders import Drain, Orders, Restart
from ovms_scaler.core.unit import drop_in_path
from ovms_scaler.errors import HostError
from ovms_scaler.host.store import Store

UNIT = "ovms@chat-numa0.service"
CARD = "0000:03:00.0"
FILES = dict(world.target().wanted["chat-numa0"].files)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_nothing_is_remembered_at_first(store: Store) -> None:
    assert store.read_books() == Books()
    assert store.read_note("accepted") is None
    assert not store.read_started()
    assert store.list_instances() == frozenset()
    assert store.read_instance("chat-numa0") == {}


def test_ports_come_back_and_equal_books_are_equal_files(store: Store, tmp_path: Path) -> None:
    store.write_books(Books(ports={"b": 8004, "a": 8003}))
    assert store.read_books().ports == {"a": 8003, "b": 8004}
    path = tmp_path / "var/lib/ovms-scaler/ports.json"
    before = path.stat()
    store.write_books(Books(ports={"a": 8003, "b": 8004}))
    assert path.stat() == before


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[]", "it must map instance ids to ports"),
        ('{"a": "8003"}', "it must map instance ids to ports"),
        ('{"a": true}', "it must map instance ids to ports"),
        ('{"a": 0}', "it must map instance ids to ports"),
        ('{"a": 65536}', "it must map instance ids to ports"),
        ('{"a": 1, "b": 1}', "two instances have the same port"),
    ],
    ids=["empty", "cut", "a list", "a string", "a truth", "port 0", "port 65536", "twice"],
)
def test_a_book_that_cannot_be_trusted_is_refused(store: Store, tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "var/lib/ovms-scaler/ports.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(HostError, match=f"cannot use the port book {path}: {why}") as caught:
        store.read_books()
    assert caught.value.hint == "restore it, or remove it while nothing runs: instances then get ports anew"
    assert path.read_text() == text


GPU_BOOK = Books(
    cards={CARD: Card(address=CARD, vendor_id="0x8086", numa_node=1, host_cpus=frozenset({4, 5, 9}))},
    groups={"chat-hetero0": ("0000:04:00.0", CARD)},
)


def test_cards_and_groups_come_back_and_equal_books_are_equal_files(store: Store, tmp_path: Path) -> None:
    store.write_books(GPU_BOOK)
    assert store.read_books() == GPU_BOOK
    path = tmp_path / "var/lib/ovms-scaler/gpus.json"
    before = path.stat()
    store.write_books(replace(GPU_BOOK, ports={"a": 8003}))
    assert path.stat() == before
    assert store.read_books() == replace(GPU_BOOK, ports={"a": 8003})
    store.write_books(Books(ports={"a": 8003}))
    assert store.read_books() == Books(ports={"a": 8003})


def test_host_without_gpus_has_no_book_of_them(store: Store, tmp_path: Path) -> None:
    store.write_books(Books(ports={"a": 8003}))
    assert not (tmp_path / "var/lib/ovms-scaler/gpus.json").exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Expecting value"),
        ('{"cards": {}', "Expecting ',' delimiter"),
        ("[" * 100_000, "maximum recursion depth exceeded"),
        ("[]", "it must hold cards and groups"),
        ('{"cards": {"x": {}}, "groups": {}}', "card 'x' must be a PCI address"),
        ('{"cards": {}, "groups": {"a": ["x"]}}', "group 'a' must be a list of PCI addresses"),
    ],
    ids=["empty", "cut", "deep", "a list", "half a card", "half a group"],
)
def test_book_of_gpus_that_cannot_be_trusted_is_refused(
    store: Store, tmp_path: Path, text: str, why: str
) -> None:
    path = tmp_path / "var/lib/ovms-scaler/gpus.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(HostError, match=f"cannot use the GPU book {path}: {why}") as caught:
        store.read_books()
    assert caught.value.hint == (
        "restore it, or remove it while nothing runs: cores are then set aside and GPUs grouped anew"
    )
    assert path.read_text() == text


def test_the_accepted_configuration_comes_back(store: Store) -> None:
    store.write_note("accepted", {"pool": [{"name": "ünïcode"}]})
    assert store.read_note("accepted") == {"pool": [{"name": "ünïcode"}]}


def make_directory(path: Path) -> None:
    path.mkdir()


def write_half(path: Path) -> None:
    path.write_text('{"file": ')


def write_bytes(path: Path) -> None:
    path.write_bytes(b"\xff")


def write_deep(path: Path) -> None:
    path.write_text("[" * 100_000)


@pytest.mark.parametrize("damage", [make_directory, write_half, write_bytes, write_deep])
def test_an_accepted_configuration_that_cannot_be_read_is_none(
    store: Store, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    (tmp_path / "run/ovms-scaler").mkdir(parents=True)
    damage(tmp_path / "run/ovms-scaler/accepted.json")
    assert store.read_note("accepted") is None


def test_what_ran_is_remembered_with_its_note_until_it_is_forgotten(store: Store) -> None:
    store.write_started(UNIT, "i1")
    store.write_started("ovms.target", "")
    assert dict(store.read_started()) == {UNIT: "i1", "ovms.target": ""}
    store.forget_started(UNIT)
    assert dict(store.read_started()) == {"ovms.target": ""}


def test_forgetting_what_never_ran_is_nothing(store: Store) -> None:
    store.forget_started(UNIT)
    assert not store.read_started()


def test_a_marker_that_cannot_be_removed_is_told(store: Store, tmp_path: Path) -> None:
    (tmp_path / f"run/ovms-scaler/started/{UNIT}").mkdir(parents=True)
    with pytest.raises(HostError, match=f"cannot remove .*/{UNIT}: Is a directory"):
        store.forget_started(UNIT)


def test_an_instance_is_written_listed_read_and_removed(store: Store, tmp_path: Path) -> None:
    assert set(store.write_instance(FILES)) == set(FILES)
    assert store.write_instance(FILES) == ()
    assert store.list_instances() == {"chat-numa0"}
    assert store.read_instance("chat-numa0") == FILES
    store.remove_instance("chat-numa0")
    assert store.list_instances() == frozenset()
    assert list((tmp_path / "run/systemd/system").iterdir()) == []
    store.remove_instance("chat-numa0")


def test_a_drop_in_of_the_administrators_survives_the_instance(store: Store, tmp_path: Path) -> None:
    store.write_instance(FILES)
    own = tmp_path / f"run/systemd/system/{UNIT}.d/60-mine.conf"
    own.write_text("[Service]\n")
    store.remove_instance("chat-numa0")
    assert own.exists()
    assert store.read_instance("chat-numa0") == {}


@pytest.mark.parametrize(
    "name",
    ["other.service.d", "ovms@.service.d", "ovms@A.service.d", "ovms@a.service", "ovms@../x.service.d"],
)
def test_directories_of_others_are_no_instances(store: Store, tmp_path: Path, name: str) -> None:
    (tmp_path / "run/systemd/system" / name).mkdir(parents=True)
    assert store.list_instances() == frozenset()


def test_instance_named_after_a_pci_address_is_listed_and_removed(store: Store) -> None:
    name = f"chat-gpu-{CARD}"
    path = drop_in_path(name)
    store.write_instance({path: "[Service]\n"})
    assert store.list_instances() == {name}
    assert store.read_instance(name) == {path: "[Service]\n"}
    store.remove_instance(name)
    assert store.list_instances() == frozenset()


def test_orders_come_back_and_are_on_disk_for_good(store: Store, tmp_path: Path) -> None:
    assert store.read_orders() == Orders()
    orders = Orders(
        drained={"a": Drain(since=17.5, allow_outage=True)},
        restarts={"b": Restart(invocation_id="c0ffee")},
        paused_since=3.25,
    )
    store.write_orders(orders)
    assert Store(tmp_path).read_orders() == orders
    assert (tmp_path / "var/lib/ovms-scaler/orders.json").is_file()
    store.write_orders(Orders())
    assert Store(tmp_path).read_orders() == Orders()


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000], ids=["empty", "cut", "a list", "deep"])
def test_orders_that_cannot_be_trusted_are_refused(store: Store, tmp_path: Path, text: str) -> None:
    path = tmp_path / "var/lib/ovms-scaler/orders.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(HostError, match=f"cannot use the orders {path}: ") as caught:
        store.read_orders()
    assert caught.value.hint is not None
    assert "ovms-scalerctl resume" in caught.value.hint
