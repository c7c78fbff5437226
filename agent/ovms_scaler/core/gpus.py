# SPDX-License-Identifier: Apache-2.0
"""Which GPUs each pool uses, those that are remembered and away for now included."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ovms_scaler.core.books import Books, Card
from ovms_scaler.core.cpulist import parse_cpu_list
from ovms_scaler.core.spec import GpuRules, Placement, Pool, Spec
from ovms_scaler.core.topology import Gpu, Topology
from ovms_scaler.errors import Problem

ON_GPUS = (Placement.gpu, Placement.hetero)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A GPU that a pool uses: what is remembered of it, and what it is now, None while it is not there."""

    card: Card
    gpu: Gpu | None

    @property
    def address(self) -> str:
        return self.card.address


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuShares:
    """Pool name -> its GPUs, ascending by address.

    ``problems`` are GPUs that two pools want: the first has them. ``warnings`` are sentences for people.
    """

    of: Mapping[str, tuple[Candidate, ...]]
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]


def share_gpus(spec: Spec, topology: Topology, books: Books, *, planned: bool = True) -> GpuShares:
    """Give every pool placed on GPUs its own.

    What is remembered counts as if it were there, so that one that is pulled out changes nothing for the
    others: an integrated GPU does not come into use when the discrete one goes. And one that is used goes
    on being used when a discrete one comes, until the next ``planned`` change.
    """
    pools = [(index, pool) for index, pool in enumerate(spec.pool) if pool.placement in ON_GPUS]
    if not pools:
        return GpuShares(of={}, problems=(), warnings=())
    asked = frozenset(name for _, pool in pools for name in pool.gpus)
    found = _candidates(topology, books, asked)
    used = frozenset() if planned else frozenset(books.cards)
    owners: dict[str, str] = {}
    problems: list[Problem] = []
    warnings = _unknown_includes(spec.gpu, found)
    of: dict[str, tuple[Candidate, ...]] = {}
    for index, pool in pools:
        own = tuple(one for one in found if _is_for(one, pool, found, spec.gpu, used))
        problems += _conflicts(own, owners, f"pool[{index}]", pool)
        of[pool.name] = tuple(one for one in own if one.address not in owners)
        owners |= {one.address: pool.name for one in of[pool.name]}
        if not own:
            warnings.append(_nothing_for(pool, found, spec.gpu))
        warnings += _unknown_ids(pool, own)
    return GpuShares(of=of, problems=tuple(problems), warnings=tuple(warnings))


def _candidates(topology: Topology, books: Books, asked: frozenset[str]) -> list[Candidate]:
    """Every GPU that is there, is remembered, or is asked for by its address."""
    here = {gpu.address: gpu for gpu in topology.gpus}
    addresses = {*here, *books.cards, *(name for name in asked if ":" in name)}
    return [
        Candidate(card=_refresh(address, books.cards.get(address), here.get(address)), gpu=here.get(address))
        for address in sorted(addresses, key=_address_key)
    ]


def _address_key(address: str) -> tuple[int, str]:
    domain, _, rest = address.partition(":")
    return int(domain, 16), rest


def _refresh(address: str, known: Card | None, gpu: Gpu | None) -> Card:
    """What is known of a card now; what cannot be read at the moment is as it was."""
    card = known or Card(address=address)
    if gpu is None:
        return card
    return replace(
        card,
        vendor_id=gpu.vendor_id or card.vendor_id,
        device_id=gpu.device_id or card.device_id,
        numa_node=card.numa_node if gpu.numa_node is None else gpu.numa_node,
        integrated=card.integrated if gpu.integrated is None else gpu.integrated,
        physical_function=gpu.physical_function,
    )


def _names(one: Candidate, names: Iterable[str]) -> bool:
    return any(name in (one.address, one.card.device_id) for name in names)


def _is_for(
    one: Candidate, pool: Pool, found: list[Candidate], rules: GpuRules, used: frozenset[str]
) -> bool:
    """Whether a pool is to use a GPU, if no other one does; ``used`` ones are not given up for others."""
    card = one.card
    if _names(one, rules.exclude) or not _is_near(card, pool):
        return False
    if pool.gpus:
        return _names(one, pool.gpus)
    if rules.include:
        return _names(one, rules.include)
    if card.vendor_id not in rules.vendors or card.physical_function is not None:
        return False
    if not card.integrated or rules.include_integrated or one.address in used:
        return True
    return not _has_discrete(found, rules)


def _is_near(card: Card, pool: Pool) -> bool:
    return pool.nodes is None or card.numa_node in parse_cpu_list(pool.nodes)


def _has_discrete(found: list[Candidate], rules: GpuRules) -> bool:
    return any(
        not one.card.integrated and one.card.vendor_id in rules.vendors and not _names(one, rules.exclude)
        for one in found
    )


def _conflicts(
    own: tuple[Candidate, ...], owners: Mapping[str, str], where: str, pool: Pool
) -> list[Problem]:
    shared: dict[str, list[str]] = {}
    for one in own:
        if one.address in owners:
            shared.setdefault(owners[one.address], []).append(one.address)
    return [
        Problem(
            file="",
            key=f"{where}.gpus",
            rule=f"must not choose {', '.join(addresses)} of pool {other!r} for {pool.name!r} too",
            hint='give each pool GPUs of its own (gpus = ["..."]); no GPU ever serves two instances',
        )
        for other, addresses in shared.items()
    ]


def _nothing_for(pool: Pool, found: list[Candidate], rules: GpuRules) -> str:
    """Why a pool has no GPU at all."""
    text = f"pool {pool.name!r} has no instance: "
    look = "`ovms-scalerctl topology` lists what there is"
    here = [one for one in found if one.gpu is not None]
    if not here:
        return f"{text}this machine has no GPU; {look}"
    named = pool.gpus or rules.include
    if not named and not any(one.card.vendor_id in rules.vendors for one in here):
        vendors = sorted({one.card.vendor_id or "unknown" for one in here})
        return (
            f"{text}its GPUs are of vendor {', '.join(vendors)}, gpu.vendors has "
            f"{', '.join(rules.vendors) or 'none'}; {look}"
        )
    wanted = [f"gpus = {list(pool.gpus)}"] * bool(pool.gpus) + [f"nodes = {pool.nodes!r}"] * bool(pool.nodes)
    chosen = " and ".join(wanted) or "gpu.include, gpu.exclude or SR-IOV"
    return f"{text}{chosen} leaves none of the GPUs {', '.join(one.address for one in here)}; {look}"


def _unknown_ids(pool: Pool, own: tuple[Candidate, ...]) -> list[str]:
    """Device ids that choose nothing. An address that is not there has an instance that waits."""
    return [
        f"pool {pool.name!r}: no GPU to use has device id {name}"
        for name in pool.gpus
        if ":" not in name and own and not any(_names(one, (name,)) for one in own)
    ]


def _unknown_includes(rules: GpuRules, found: list[Candidate]) -> list[str]:
    return [
        f"gpu.include names {name}, and no GPU here is that one"
        for name in rules.include
        if not any(_names(one, (name,)) for one in found)
    ]
