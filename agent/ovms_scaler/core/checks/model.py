# SPDX-License-Identifier: Apache-2.0
"""Whether each pool's model is whole, can be read, and fits the place where it is to run."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote

from ovms_scaler.core import fit
from ovms_scaler.core.checks.access import Closed, describe, remedy_for
from ovms_scaler.core.checks.finding import Finding, bad, good, or_good, unknown, warning
from ovms_scaler.core.graph import graph_device_conflict
from ovms_scaler.core.instance import Instance
from ovms_scaler.core.model import ModelFacts
from ovms_scaler.core.spec import Pool
from ovms_scaler.core.topology import Topology

_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class IrFile:
    """One network in OpenVINO's format: its .xml at ``path``, and the .bin beside it.

    ``needed_bytes`` is where the last constant that the .xml names ends in the .bin, ``weights_bytes`` the
    size of that, None when there is none. ``is_pointer`` says that Git LFS left a pointer in the place of
    either, ``is_whole`` that the .xml ends as it should.
    """

    path: str
    needed_bytes: int
    weights_bytes: int | None
    is_pointer: bool = False
    is_whole: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """An instance with its pool and what is known of its model."""

    instance: Instance
    pool: Pool
    model: ModelFacts


def judge_files(pool: str, model: ModelFacts, networks: Iterable[IrFile]) -> tuple[Finding, ...]:
    check = "model-files"
    if model.problem is not None:
        remedy = model.hint or "ovms-scalerctl check-config"
        return (bad(check, f"pool {pool}", model.problem, remedy),)
    found = [_judge_network(pool, one) for one in networks]
    return or_good(
        (one for one in found if one is not None), check, f"pool {pool}", f"{model.path!r} is whole"
    )


def _judge_network(pool: str, network: IrFile) -> Finding | None:
    weights = network.path.removesuffix(".xml") + ".bin"
    again = "copy or export the model again"
    if network.is_pointer:
        directory = network.path.rpartition("/")[0]
        return bad(
            "model-files",
            f"pool {pool}",
            f"{network.path!r} or its .bin is a pointer of Git LFS, not the file itself",
            f"git -C {quote(directory)} lfs pull",
        )
    if not network.is_whole:
        return bad("model-files", f"pool {pool}", f"{network.path!r} breaks off before its end", again)
    if network.weights_bytes is None:
        if not network.needed_bytes:
            return None
        return bad("model-files", f"pool {pool}", f"{weights!r} is missing", again)
    if network.weights_bytes < network.needed_bytes:
        reason = (
            f"{weights!r} breaks off: it has {network.weights_bytes} bytes, and {network.path!r} needs "
            f"{network.needed_bytes}"
        )
        return bad("model-files", f"pool {pool}", reason, again)
    return None


def judge_access(pool: Pool, closed: Closed | None, user: str) -> Finding:
    path = pool.config_path or pool.model_path or ""
    if closed is None:
        return good("model-access", f"pool {pool.name}", f"the user {user!r} may read all of {path!r}")
    remedy = remedy_for(closed, user, pool.model_path or "")
    return bad("model-access", f"pool {pool.name}", describe(closed, user), remedy)


def judge_devices(placed: Iterable[Placed]) -> tuple[Finding, ...]:
    check = "model-device"
    found = []
    for one in placed:
        conflict = graph_device_conflict(one.model, one.instance.device)
        if one.model.problem is None and conflict is not None:
            text, remedy = conflict
            reason = f"its placement is {one.pool.placement.value!r}, on {one.instance.device}, but {text}"
            found.append(bad(check, f"pool {one.pool.name}", reason, remedy))
    return or_good(found, check, "pools", "each graph fits the device of its pool")


def judge_fit(placed: Sequence[Placed], topology: Topology) -> tuple[Finding, ...]:
    """What can never fit, and what may not."""
    check = "memory-fit"
    sharing = Counter(one.instance.memory_nodes for one in placed if not one.instance.gpus)
    found = []
    for one in placed:
        share = sharing[one.instance.memory_nodes]
        misfit = fit.judge(one.instance, one.pool, one.model, topology, sharing=share)
        if misfit is not None:
            say = bad if misfit.certain else warning
            found.append(say(check, one.instance.id, misfit.text, misfit.hint))
    return or_good(found, check, "instances", "each fits into its memory")


def judge_free(
    placed: Iterable[Placed], running: frozenset[str], free_bytes: Mapping[int, int]
) -> tuple[Finding, ...]:
    """Whether what is not ``running`` yet could be loaded now; ``free_bytes`` are by node."""
    check = "memory-free"
    needed: Counter[frozenset[int]] = Counter()
    names: dict[frozenset[int], list[str]] = {}
    for one in placed:
        instance, weights = one.instance, one.model.weights_bytes
        if instance.gpus or instance.problem is not None or weights is None or instance.id in running:
            continue
        nodes = instance.memory_nodes or frozenset(free_bytes)
        needed[nodes] += fit.least_bytes(one.pool, weights)
        names.setdefault(nodes, []).append(instance.id)
    found = []
    for nodes, size in needed.items():
        if not nodes <= free_bytes.keys():
            subject = ", ".join(names[nodes])
            found.append(unknown(check, subject, "the node does not tell its free memory", "free --mebi"))
        elif size > (free := sum(free_bytes[node] for node in nodes)):
            where = f"node {min(nodes)}" if len(nodes) == 1 else "the machine"
            found.append(
                warning(
                    check,
                    ", ".join(names[nodes]),
                    f"{size // _MIB} MiB are needed to start, {free // _MIB} MiB of {where} are free now",
                    "ps -eo pid,rss,args --sort=-rss | head",
                    "end what need not run",
                )
            )
    return or_good(found, check, "instances", "there is room for each that is still to start")
