# SPDX-License-Identifier: Apache-2.0
"""Which instances are given requests, which one may leave for a change, and what the proxy is told."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ovms_scaler.core import nginx
from ovms_scaler.core.facts import Facts, InstanceFacts
from ovms_scaler.core.halting import BROKEN, find_held_back, has_failed_anew
from ovms_scaler.core.lifecycle import State, Verdict, is_outdated
from ovms_scaler.core.naming import renamed
from ovms_scaler.core.orders import Drain, Orders, Restart
from ovms_scaler.core.readback import override
from ovms_scaler.core.target import Target, Wanted
from ovms_scaler.core.unit import drop_in_path, parse_cpus
from ovms_scaler.errors import InputError

# States from which an instance gets into rotation by itself: a change of another one waits for it.
COMING = frozenset(
    {
        State.absent,
        State.starting,
        State.loading,
        State.warming,
        State.stopping,
        State.suspect,
        State.ejected,
    }
)

_OTHER_NAME = "those in rotation serve another model name: to take their place needs an outage"
_UNWANTED = "no longer in the configuration, but no other one serves: it stays unless an outage is allowed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """``members``: upstream -> who should be routed. ``leaving``: routed now, to be drained.

    ``held``: routed, with the reason why it may not leave yet although it is to be changed, restarted or
    drained, or is no longer wanted. ``kept_out``: ready, with the reason why it may not join.
    """

    members: Mapping[str, tuple[nginx.Member, ...]]
    leaving: frozenset[str]
    held: Mapping[str, str]
    kept_out: Mapping[str, str] = field(default_factory=dict)


def routed_now(facts: Facts) -> dict[str, nginx.Member]:
    """Instances whose route is on disk and is about the process that runs now."""
    return {member.instance: member for _, member in _routes(facts)}


def _routes(facts: Facts) -> Iterator[tuple[str, nginx.Member]]:
    """Upstream and member of each route that is about the process that runs now."""
    for path, text in facts.proxy.files.items():
        if not path.startswith("routes/"):
            continue
        try:
            member = nginx.parse_route(text)
        except InputError:
            continue  # it is rendered again
        instance = facts.instances.get(member.instance)
        unit = instance.unit if instance is not None else None
        if unit is None or (
            unit.active_state in ("active", "reloading") and unit.invocation_id == member.invocation
        ):
            yield path.split("/")[1], member


def rotate(
    target: Target,
    facts: Facts,
    verdicts: Mapping[str, Verdict],
    *,
    out: Collection[str] = (),
    turns: Collection[str] = (),
    allow_outage: bool,
) -> Rotation:
    """Who should be in rotation now; none of those that are ``out``, as they cannot answer.

    Those in ``turns`` leave to be repaired, unless they are the last.

    A ready instance is added when its placement was read back. One that is routed stays while it is believed
    to serve; when none of its upstream is, all that are alive stay, as an answer from a doubtful one is
    better than none. As many of an upstream as ``max_unavailable`` says leave for a change or a restart at a
    time. What is drained leaves at once and joins no more. None of these takes the last one out unless the
    administrator allows the outage, and none that is to serve another model name leaves without that. One
    that is no longer wanted stays as long as no other one of its upstream serves.

    One that was out and answers again, but is not trusted yet, is better than nobody.
    """
    routed = routed_now(facts)
    members: dict[str, tuple[nginx.Member, ...]] = {}
    leaving: set[str] = set()
    held: dict[str, str] = {}
    kept_out: dict[str, str] = {}
    for upstream in sorted({wanted.upstream for wanted in target.wanted.values()}):
        names = target.upstream_members(upstream)
        able = [name for name in names if name not in out]
        staying, going = _part(target, facts, verdicts, able, turns, held, allow_outage=allow_outage)
        leaving |= going
        joining = [
            name for name in able if name not in routed and _may_join(target, name, facts, verdicts)
        ] or _doubted(target, facts, verdicts, able, staying - going)
        if not allow_outage and any(_renamed(name, target, facts) for name in staying - going):
            kept_out |= dict.fromkeys(joining, _OTHER_NAME)
            joining = []
        members[upstream] = tuple(
            _member(target.wanted[name], facts.instances[name], routed.get(name))
            for name in names
            if (name in staying and name not in going) or name in joining
        )
        unwanted = [one for where, one in _routes(facts) if where == upstream and one.instance not in names]
        if unwanted and not members[upstream] and not allow_outage:
            members[upstream] = tuple(unwanted)
            held |= {one.instance: _UNWANTED for one in unwanted}
    return Rotation(members=members, leaving=frozenset(leaving), held=held, kept_out=kept_out)


def _part(
    target: Target,
    facts: Facts,
    verdicts: Mapping[str, Verdict],
    able: Collection[str],
    turns: Collection[str],
    held: dict[str, str],
    *,
    allow_outage: bool,
) -> tuple[set[str], set[str]]:
    """Who of an upstream is in rotation and believed in, and who of all that are leaves on purpose."""
    routed, drained = routed_now(facts), facts.orders.drained
    staying = _staying(able, routed, verdicts)
    emptied = _emptied(staying, drained, held)
    others = [name for name in able if name not in drained]
    staying = (staying - emptied) or _staying(others, routed, verdicts)
    staying = staying.difference(turns) or staying
    awaited = {
        name: verdicts[name].state
        for name in others
        if name not in staying and _is_awaited(name, target, facts, verdicts)
    }
    going = _going(target, facts, staying, awaited, held, allow_outage=allow_outage)
    return staying, going | emptied


def _staying(
    names: Iterable[str], routed: Mapping[str, nginx.Member], verdicts: Mapping[str, Verdict]
) -> set[str]:
    present = {name for name in names if name in routed}
    serving = {name for name in present if verdicts[name].state in (State.ready, State.suspect)}
    return serving or present


def _emptied(staying: set[str], drained: Mapping[str, Drain], held: dict[str, str]) -> set[str]:
    """Those that leave as they are to be drained."""
    ordered = staying & drained.keys()
    emptied = {name for name in ordered if staying - ordered or drained[name].allow_outage}
    held |= dict.fromkeys(sorted(ordered - emptied), "its drain needs an outage: no other one serves")
    return emptied


def _going(
    target: Target,
    facts: Facts,
    staying: set[str],
    awaited: Mapping[str, State],
    held: dict[str, str],
    *,
    allow_outage: bool,
) -> set[str]:
    going: set[str] = set()
    limit = min((target.wanted[name].max_unavailable for name in staying), default=1)
    halted = sorted(name for name, state in awaited.items() if state in BROKEN)
    for name in target.wanted:
        if name not in staying or name in held:
            continue
        wanted, own = target.wanted[name], facts.instances[name]
        restart = due_restart(wanted, own, facts.orders)
        if restart is None and not is_outdated(wanted, own):
            continue
        what = "restart" if restart is not None else "change"
        allowed = allow_outage or (restart is not None and restart.allow_outage)
        if not allowed and (renaming := _renamed(name, target, facts)):
            held[name] = renaming
        elif (restart is None or restart.is_rolling) and (halted or len(awaited) + len(going) >= limit):
            others = halted or [*awaited, *sorted(going)]
            held[name] = f"its {what} waits until {', '.join(others)} serves again"
        elif len(staying - going) > 1 or allowed:
            going.add(name)
        else:
            held[name] = f"its {what} needs an outage: it is the only one that serves"
    return going


def _renamed(name: str, target: Target, facts: Facts) -> str | None:
    """Why a change of it needs an outage although others serve; None if it does not."""
    wanted, own = target.wanted[name], facts.instances[name]
    return renamed(wanted, own) if is_outdated(wanted, own) else None


def due_restart(wanted: Wanted, own: InstanceFacts, orders: Orders) -> Restart | None:
    """The order to end the process that runs now; none while a problem forbids to start it anew."""
    restart = orders.restarts.get(wanted.instance.id)
    if restart is None or own.unit is None or not own.unit.is_running or wanted.instance.problem is not None:
        return None
    return restart if own.unit.invocation_id == restart.invocation_id else None


def _is_awaited(name: str, target: Target, facts: Facts, verdicts: Mapping[str, Verdict]) -> bool:
    """Whether a change of another instance waits for this one, which is not in rotation.

    One that failed with the new files holds the change up, so that the rest goes on serving. One whose
    cores another still has comes only after a change, so that none may wait for it.
    """
    state = verdicts[name].state
    if state is State.absent and core_user(target.wanted[name], facts) is not None:
        return False
    if state in BROKEN:
        return has_failed_anew(target, facts, verdicts, name)
    return state in COMING or state is State.ready


def core_user(wanted: Wanted, facts: Facts) -> tuple[str, frozenset[int]] | None:
    """Another instance that runs on a core which this one is to get, and where; unbound wants all.

    One that systemd is about to start again runs where its drop-in says.
    """
    own = wanted.instance.cpus
    for name, other in facts.instances.items():
        used = _used_cpus(name, other)
        if name != wanted.instance.id and (shared := used & own if own else used):
            return name, shared
    return None


def _used_cpus(name: str, own: InstanceFacts) -> frozenset[int]:
    if own.process is not None:
        return own.process.cpus_allowed
    is_coming = own.unit is not None and own.unit.is_running
    return (parse_cpus(own.files.get(drop_in_path(name), "")) if is_coming else None) or frozenset()


def _doubted(
    target: Target, facts: Facts, verdicts: Mapping[str, Verdict], able: Iterable[str], staying: set[str]
) -> list[str]:
    """Those that answer again, when none of those that stay is believed to serve."""
    if any(verdicts[name].state in (State.ready, State.suspect) for name in staying):
        return []
    routed, found = routed_now(facts), []
    for name in able:
        health = facts.instances[name].health
        if name not in routed and verdicts[name].state is State.suspect and health and not health.failures:
            trusted = {**verdicts, name: Verdict(state=State.ready)}
            found += [name] if _may_join(target, name, facts, trusted) else []
    return found


def _may_join(target: Target, name: str, facts: Facts, verdicts: Mapping[str, Verdict]) -> bool:
    wanted, instance = target.wanted[name], facts.instances[name]
    return (
        verdicts[name].state is State.ready
        and name not in facts.orders.drained
        and due_restart(wanted, instance, facts.orders) is None
        and (not is_outdated(wanted, instance) or _may_rejoin(target, name, facts, verdicts))
        and instance.exec is not None
        and instance.process is not None
    )


def _may_rejoin(target: Target, name: str, facts: Facts, verdicts: Mapping[str, Verdict]) -> bool:
    """Whether it is to go on as it was, and runs where its own drop-in says, as it did before."""
    own = facts.instances[name]
    cpus = parse_cpus(own.files.get(drop_in_path(name), ""))
    found = {one.cpu_affinity for one in (own.exec,) if one} | {
        one.cpus_allowed for one in (own.process,) if one
    }
    is_there = cpus is None or found == {cpus} or override(own) is not None
    return is_there and name in find_held_back(target, facts, verdicts)


def _member(wanted: Wanted, facts: InstanceFacts, routed: nginx.Member | None) -> nginx.Member:
    invocation = facts.unit.invocation_id if facts.unit is not None else ""
    return nginx.Member(
        instance=wanted.instance.id,
        port=wanted.instance.port,
        weight=wanted.instance.weight,
        max_conns=wanted.max_conns,
        invocation=invocation or (routed.invocation if routed is not None else ""),
    )
