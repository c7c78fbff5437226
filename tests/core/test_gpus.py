# SPDX-License-Identifier: Apache-2.0
"""Which GPUs a pool gets: the rules of the configuration, on cards that are there, away or never were."""

from collections.abc import Iterable

import pytest
import world

from ovms_scaler.core.books import Books, Card
from ovms_scaler.core.gpus import GpuShares, share_gpus
from ovms_scaler.core.topology import Gpu
from ovms_scaler.errors import Problem

A, B, C, D = "0000:03:00.0", "0000:04:00.0", "0000:83:00.0", "10000:01:00.0"
CPU_GRAPHICS, AMD, FUNCTION = "0000:00:02.0", "0000:0a:00.0", "0000:03:00.1"
ON_GPUS = {"placement": "gpu"}

ARC = world.gpu(A)
NEAR = [world.gpu(A), world.gpu(B, render=129)]
FAR = world.gpu(C, 1, render=130, device_id="0x56c0")
INTEGRATED = world.gpu(CPU_GRAPHICS, integrated=True, device_id="0x4680")
OTHER_VENDOR = world.gpu(AMD, vendor_id="0x1002", device_id="0x744c", integrated=None)
VIRTUAL = world.gpu(FUNCTION, physical_function=A)


def share(
    *pools: dict[str, object],
    gpus: Iterable[Gpu] = (),
    books: Books | None = None,
    planned: bool = True,
    rules: dict[str, object] | None = None,
) -> GpuShares:
    """What pools with placement gpu get, "chat" when there is only one; ``rules`` are the table gpu."""
    spec = world.spec(*({**ON_GPUS, **pool} for pool in pools or ({},)), gpu=rules or {})
    return share_gpus(spec, world.topology(gpus=gpus), books or Books(), planned=planned)


def addresses(shares: GpuShares, pool: str = "chat") -> list[str]:
    return [one.address for one in shares.of[pool]]


def remembered(*cards: Gpu) -> Books:
    known = [
        Card(
            address=one.address,
            vendor_id=one.vendor_id,
            device_id=one.device_id,
            numa_node=one.numa_node,
            integrated=one.integrated,
            physical_function=one.physical_function,
        )
        for one in cards
    ]
    return Books(cards={card.address: card for card in known})


@pytest.mark.parametrize(
    ("gpus", "pool", "rules", "expected"),
    [
        pytest.param([*NEAR, FAR], {}, {}, [A, B, C], id="all of the vendor"),
        pytest.param([ARC, OTHER_VENDOR], {}, {}, [A], id="another vendor's"),
        pytest.param([ARC, OTHER_VENDOR], {}, {"vendors": ["0x1002"]}, [AMD], id="vendors given"),
        pytest.param([ARC], {}, {"vendors": []}, [], id="no vendors"),
        pytest.param([world.gpu(A, vendor_id=None)], {}, {}, [], id="vendor unknown"),
        pytest.param([*NEAR, FAR], {}, {"include": [B]}, [B], id="include by address"),
        pytest.param([*NEAR, FAR], {}, {"include": ["0x56c0"]}, [C], id="include by device id"),
        pytest.param([ARC, OTHER_VENDOR], {}, {"include": [AMD]}, [AMD], id="include of another vendor"),
        pytest.param([*NEAR, FAR], {}, {"exclude": [B]}, [A, C], id="exclude by address"),
        pytest.param([*NEAR, FAR], {}, {"exclude": ["0xe20b"]}, [C], id="exclude by device id"),
        pytest.param([*NEAR], {}, {"include": [A, B], "exclude": [A]}, [B], id="exclude beats include"),
        pytest.param(
            [*NEAR, FAR], {"gpus": [C, A]}, {}, [A, C], id="pool by address, in order of addresses"
        ),
        pytest.param([*NEAR, FAR], {"gpus": ["0xe20b"]}, {}, [A, B], id="pool by device id"),
        pytest.param([ARC, OTHER_VENDOR], {"gpus": [AMD]}, {}, [AMD], id="pool beats vendors"),
        pytest.param([*NEAR], {"gpus": [A]}, {"include": [B]}, [A], id="pool beats include"),
        pytest.param([*NEAR], {"gpus": [A, B]}, {"exclude": [A]}, [B], id="exclude beats pool"),
        pytest.param([*NEAR, FAR], {"nodes": "1"}, {}, [C], id="of a node"),
        pytest.param([*NEAR, FAR], {"nodes": "1", "gpus": [A, C]}, {}, [C], id="of a node and by address"),
        pytest.param([world.gpu(A, None)], {"nodes": "0"}, {}, [], id="of a node, and its own is unknown"),
        pytest.param([INTEGRATED], {}, {}, [CPU_GRAPHICS], id="integrated alone"),
        pytest.param([INTEGRATED, ARC], {}, {}, [A], id="integrated beside a discrete one"),
        pytest.param(
            [INTEGRATED, ARC], {}, {"include_integrated": True}, [CPU_GRAPHICS, A], id="integrated wanted"
        ),
        pytest.param([INTEGRATED, ARC], {"gpus": [CPU_GRAPHICS]}, {}, [CPU_GRAPHICS], id="integrated named"),
        pytest.param(
            [INTEGRATED, ARC], {}, {"include": ["0x4680"]}, [CPU_GRAPHICS], id="integrated included"
        ),
        pytest.param(
            [INTEGRATED, ARC], {}, {"exclude": [A]}, [CPU_GRAPHICS], id="integrated beside an excluded one"
        ),
        pytest.param(
            [INTEGRATED, OTHER_VENDOR], {}, {}, [CPU_GRAPHICS], id="integrated beside another vendor's"
        ),
        pytest.param([ARC, VIRTUAL], {}, {}, [A], id="virtual function not named"),
        pytest.param([ARC, VIRTUAL], {"gpus": [FUNCTION]}, {}, [FUNCTION], id="virtual function named"),
        pytest.param(
            [ARC, VIRTUAL], {}, {"include": [FUNCTION]}, [FUNCTION], id="virtual function included"
        ),
        pytest.param(
            [world.gpu(D), world.gpu("f000:01:00.0")], {}, {}, ["f000:01:00.0", D], id="domains are numbers"
        ),
    ],
)
def test_choice(
    gpus: list[Gpu], pool: dict[str, object], rules: dict[str, object], expected: list[str]
) -> None:
    assert addresses(share(pool, gpus=gpus, rules=rules)) == expected


def test_what_is_remembered_counts_as_if_it_were_there() -> None:
    books = remembered(ARC)
    shares = share(gpus=[INTEGRATED], books=books)
    assert addresses(shares) == [A]
    assert shares.of["chat"][0].gpu is None
    assert shares.of["chat"][0].card == books.cards[A]


@pytest.mark.parametrize(
    ("pool", "rules"),
    [({}, {"exclude": [A]}), ({"nodes": "1"}, {}), ({"gpus": [C]}, {}), ({}, {"vendors": ["0x1002"]})],
    ids=["excluded", "of another node", "another one is named", "of another vendor"],
)
def test_what_is_remembered_must_still_be_wanted(pool: dict[str, object], rules: dict[str, object]) -> None:
    assert A not in addresses(share(pool, gpus=[FAR], books=remembered(ARC), rules=rules))


def test_integrated_one_in_use_is_given_up_for_a_discrete_one_by_a_planned_change_only() -> None:
    books = remembered(INTEGRATED)
    both = [INTEGRATED, ARC]
    assert addresses(share(gpus=both, books=books, planned=False)) == [CPU_GRAPHICS, A]
    assert addresses(share(gpus=both, books=books)) == [A]
    # One that was not used does not come into use either.
    assert addresses(share(gpus=both, planned=False)) == [A]


def test_card_is_known_by_what_is_seen_of_it_now() -> None:
    swapped = world.gpu(A, 1, device_id="0x56c0")
    (one,) = share(gpus=[swapped], books=remembered(ARC)).of["chat"]
    assert (one.card.device_id, one.card.numa_node, one.gpu) == ("0x56c0", 1, swapped)


def test_what_cannot_be_read_of_a_card_at_the_moment_is_as_it_was() -> None:
    half = world.gpu(A, None, render=None, vendor_id=None, device_id=None, driver=None, integrated=None)
    (one,) = share({"nodes": "0"}, gpus=[half], books=remembered(ARC)).of["chat"]
    assert one.card == remembered(ARC).cards[A]
    assert one.gpu == half


def test_address_that_is_not_there_has_a_place_all_the_same() -> None:
    shares = share({"gpus": [C]}, gpus=[ARC])
    (one,) = shares.of["chat"]
    assert (one.card, one.gpu) == (Card(address=C), None)
    assert shares.warnings == ()


CODE = {"name": "code", "listen": "8001"}


def conflict(index: int, cards: str, other: str, own: str) -> Problem:
    return Problem(
        file="",
        key=f"pool[{index}].gpus",
        rule=f"must not choose {cards} of pool {other!r} for {own!r} too",
        hint='give each pool GPUs of its own (gpus = ["..."]); no GPU ever serves two instances',
    )


def test_pools_that_want_one_card_are_both_named_and_the_first_has_it() -> None:
    shares = share({"gpus": [A, B]}, {**CODE, "gpus": ["0xe20b", C]}, gpus=[*NEAR, FAR])
    assert shares.problems == (conflict(1, f"{A}, {B}", "chat", "code"),)
    assert (addresses(shares), addresses(shares, "code")) == ([A, B], [C])


def test_three_pools_and_all_conflicts_at_once() -> None:
    shares = share({"gpus": [A]}, {**CODE, "gpus": [B]}, {**CODE, "name": "all"}, gpus=NEAR)
    assert shares.problems == (conflict(2, A, "chat", "all"), conflict(2, B, "code", "all"))
    assert shares.of["all"] == ()


@pytest.mark.parametrize(
    ("named", "others"),
    [(INTEGRATED, [ARC]), (VIRTUAL, [ARC]), (OTHER_VENDOR, [ARC])],
    ids=["integrated", "virtual function", "another vendor's"],
)
@pytest.mark.parametrize("first", [True, False])
def test_what_one_pool_names_is_not_wanted_by_those_that_would_leave_it_out(
    named: Gpu, others: list[Gpu], *, first: bool
) -> None:
    pools = [{"gpus": [named.address]}, {**CODE}]
    shares = share(*(pools if first else reversed(pools)), gpus=[named, *others])
    assert shares.problems == ()
    assert addresses(shares) == [named.address]
    assert addresses(shares, "code") == [A]


def test_pools_of_several_nodes_share_nothing() -> None:
    shares = share({"nodes": "0"}, {**CODE, "nodes": "1"}, gpus=[*NEAR, FAR])
    assert shares.problems == ()
    assert (addresses(shares), addresses(shares, "code")) == ([A, B], [C])


LOOK = "; `ovms-scalerctl topology` lists what there is"


@pytest.mark.parametrize(
    ("gpus", "pool", "rules", "why"),
    [
        pytest.param([], {}, {}, "this machine has no GPU", id="none at all"),
        pytest.param(
            [OTHER_VENDOR],
            {},
            {},
            "its GPUs are of vendor 0x1002, gpu.vendors has 0x8086",
            id="other vendors",
        ),
        pytest.param(
            [world.gpu(A, vendor_id=None)],
            {},
            {"vendors": []},
            "its GPUs are of vendor unknown, gpu.vendors has none",
            id="vendor unknown, and none wanted",
        ),
        pytest.param(
            [ARC], {"gpus": ["0x56c0"]}, {}, f"gpus = ['0x56c0'] leaves none of the GPUs {A}", id="device id"
        ),
        pytest.param(
            [OTHER_VENDOR],
            {"gpus": ["0x56c0"]},
            {},
            f"gpus = ['0x56c0'] leaves none of the GPUs {AMD}",
            id="device id, and another vendor's are there",
        ),
        pytest.param(
            NEAR, {"nodes": "1"}, {}, f"nodes = '1' leaves none of the GPUs {A}, {B}", id="none on its nodes"
        ),
        pytest.param(
            [ARC],
            {"nodes": "1", "gpus": [A]},
            {},
            f"gpus = ['{A}'] and nodes = '1' leaves none of the GPUs {A}",
            id="both",
        ),
        pytest.param(
            [ARC],
            {},
            {"exclude": [A]},
            f"gpu.include, gpu.exclude or SR-IOV leaves none of the GPUs {A}",
            id="excluded",
        ),
        pytest.param(
            [ARC],
            {"gpus": [B]},
            {"exclude": [B]},
            f"gpus = ['{B}'] leaves none of the GPUs {A}",
            id="named, not there, excluded: only those there are listed",
        ),
    ],
)
def test_pool_without_a_card_is_told_why(
    gpus: list[Gpu], pool: dict[str, object], rules: dict[str, object], why: str
) -> None:
    shares = share(pool, gpus=gpus, rules=rules)
    assert shares.of["chat"] == ()
    assert shares.warnings == (f"pool 'chat' has no instance: {why}{LOOK}",)


def test_device_id_that_chooses_nothing_is_told() -> None:
    shares = share({"gpus": ["0xe20b", "0x56c0"]}, gpus=[ARC])
    assert shares.warnings == ("pool 'chat': no GPU to use has device id 0x56c0",)


@pytest.mark.parametrize("name", [C, "0x56c0"])
def test_include_of_what_is_not_there_is_told(name: str) -> None:
    shares = share(gpus=[ARC], rules={"include": [A, name]})
    assert shares.warnings == (f"gpu.include names {name}, and no GPU here is that one",)
    assert addresses(shares) == [A]


def test_without_a_pool_on_gpus_nothing_is_said_of_them() -> None:
    spec = world.spec({}, gpu={"include": [C]})
    assert share_gpus(spec, world.topology(gpus=[ARC]), Books()) == GpuShares(
        of={}, problems=(), warnings=()
    )


def test_order_in_which_cards_are_found_does_not_matter() -> None:
    assert share(gpus=[*NEAR, FAR]) == share(gpus=[FAR, *reversed(NEAR)])
