# SPDX-License-Identifier: Apache-2.0
"""The book of GPUs: what is written comes back, and what cannot be trusted is refused."""

import json

import pytest

from ovms_scaler.core.books import Books, Card, gpu_book_document, parse_gpu_book
from ovms_scaler.errors import InputError

A, B = "0000:03:00.0", "10000:04:00.0"
BOOKS = Books(
    cards={
        A: Card(
            address=A,
            vendor_id="0x8086",
            device_id="0xe20b",
            numa_node=0,
            integrated=False,
            physical_function="0000:02:00.0",
            host_cpus=frozenset({4, 5, 6, 12}),
        ),
        B: Card(address=B),
    },
    groups={"chat-hetero0": (B, A)},
)
CARD = {
    "address": A,
    "vendor_id": "0x8086",
    "device_id": None,
    "numa_node": 0,
    "integrated": None,
    "physical_function": None,
    "host_cpus": "4-6,12",
}


def test_what_is_written_comes_back() -> None:
    document = json.loads(json.dumps(gpu_book_document(BOOKS)))
    assert document["cards"][A]["host_cpus"] == "4-6,12"
    assert parse_gpu_book(document) == (BOOKS.cards, BOOKS.groups)


def test_nothing_is_a_book_too() -> None:
    assert gpu_book_document(Books(ports={"a": 8003})) == {"cards": {}, "groups": {}}
    assert parse_gpu_book({"cards": {}, "groups": {}}) == ({}, {})


def test_order_of_a_group_is_kept() -> None:
    assert parse_gpu_book({"cards": {}, "groups": {"x": [B, A]}})[1] == {"x": (B, A)}


BAD_CARD = (
    f"card '{A}' must be a PCI address and have address, vendor_id, device_id, numa_node, integrated, "
)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        pytest.param([], "it must hold cards and groups", id="a list"),
        pytest.param({"cards": {}}, "it must hold cards and groups", id="no groups"),
        pytest.param(
            {"cards": {}, "groups": {}, "x": 1}, "it must hold cards and groups", id="something more"
        ),
        pytest.param({"cards": [], "groups": {}}, "cards and groups must be objects", id="cards in a list"),
        pytest.param({"cards": {}, "groups": None}, "cards and groups must be objects", id="null"),
        pytest.param({"cards": {A: None}, "groups": {}}, BAD_CARD, id="a card that is null"),
        pytest.param({"cards": {A: {"address": A}}, "groups": {}}, BAD_CARD, id="half a card"),
        pytest.param({"cards": {A: {**CARD, "address": B}}, "groups": {}}, BAD_CARD, id="another's address"),
        pytest.param(
            {"cards": {A: {**CARD, "numa_node": "0"}}, "groups": {}}, BAD_CARD, id="a node in words"
        ),
        pytest.param({"cards": {A: {**CARD, "host_cpus": None}}, "groups": {}}, BAD_CARD, id="CPUs null"),
        pytest.param(
            {"cards": {"zz": {**CARD, "address": "zz"}}, "groups": {}},
            "card 'zz' must be a PCI address",
            id="no address",
        ),
        pytest.param(
            {"cards": {A: {**CARD, "host_cpus": "5-4"}}, "groups": {}},
            "cannot read CPU list '5-4'",
            id="CPUs backwards",
        ),
        pytest.param(
            {"cards": {A: CARD, B: {**CARD, "address": B, "host_cpus": "6-7,12"}}, "groups": {}},
            "two cards have CPU 6,12",
            id="a CPU twice",
        ),
        pytest.param(
            {"cards": {}, "groups": {"x": A}}, "group 'x' must be a list of PCI addresses", id="a string"
        ),
        pytest.param(
            {"cards": {}, "groups": {"x": [A, 1]}},
            "group 'x' must be a list of PCI addresses",
            id="a number",
        ),
        pytest.param(
            {"cards": {}, "groups": {"x": ["0xe20b"]}},
            "group 'x' must be a list of PCI addresses",
            id="a device id",
        ),
        pytest.param(
            {"cards": {}, "groups": {"x": [A, B], "y": [A]}}, f"GPU {A} is in a group twice", id="two groups"
        ),
        pytest.param(
            {"cards": {}, "groups": {"x": [A, A]}}, f"GPU {A} is in a group twice", id="twice in one"
        ),
    ],
)
def test_book_that_cannot_be_trusted_is_refused(document: object, why: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_gpu_book(document)
    assert caught.value.message.startswith(why)
