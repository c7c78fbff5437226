# SPDX-License-Identifier: Apache-2.0
"""Brings so many instances into rotation by draining the others, and puts everything back."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ovms_scaler.bench.host import Document, Host
from ovms_scaler.bench.patience import Patience
from ovms_scaler.bench.pause import wait
from ovms_scaler.errors import InputError, RefusedError, ScalerError

# The control socket answers questions, and sends no events.
POLL_SEC = 0.2


class StoppedError(ScalerError):
    """Whoever started it wants it to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """Instances that answer for one model, in their order.

    ``in_use`` are those that may be drained, ``drained`` those that the administrator has drained.
    """

    upstream: str
    in_use: tuple[str, ...]
    drained: tuple[str, ...] = ()


def find_members(status: Document, upstream: str, most: int) -> Members:
    """The instances of one upstream.

    Raises RefusedError when ``most`` of them cannot be had as things are.
    """
    if (status.get("orders") or {}).get("paused_since") is not None:
        raise RefusedError("cannot drain instances: the agent is paused", hint="ovms-scalerctl resume")
    drained = frozenset((status.get("orders") or {}).get("drained") or ())
    own = [
        one for one in status.get("instances") or () if (one.get("upstream") or one.get("pool")) == upstream
    ]
    usable = [one for one in own if one["id"] not in drained]
    for one in usable:
        if not one.get("in_rotation"):
            raise RefusedError(
                f"cannot begin: {one['id']} is not in rotation but {one.get('state')}: {one.get('reason')}",
                hint="ovms-scalerctl status; drain what is not to take part",
            )
    if most > len(usable):
        left_out = f"; {len(drained)} are drained" if drained else ""
        raise RefusedError(
            f"cannot have {most} instances in rotation: {upstream} has {len(usable)}{left_out}",
            hint=f"--scale with numbers up to {len(usable)}",
        )
    return Members(
        upstream=upstream,
        in_use=tuple(str(one["id"]) for one in usable),
        drained=tuple(str(one["id"]) for one in own if one["id"] in drained),
    )


def require_all(members: Members, counts: Sequence[int]) -> None:
    """Compare what has the whole machine with what has it too.

    Raises InputError when the most of ``counts`` are not all instances, RefusedError when one is drained.
    """
    compared = "--against-whole compares one unbound instance with all"
    if members.drained:
        are = "is" if len(members.drained) == 1 else "are"
        raise RefusedError(
            f"{compared} instances of {members.upstream}, and {', '.join(members.drained)} {are} drained",
            hint="; ".join(f"ovms-scalerctl undrain {name}" for name in members.drained),
        )
    if max(counts) != len(members.in_use):
        every = ",".join(map(str, (*counts, len(members.in_use))))
        raise InputError(
            f"{compared} {len(members.in_use)} instances of {members.upstream}, and --scale ends at "
            f"{max(counts)}",
            hint=f"--scale {every}",
        )


class Rotation:
    """Keeps book of what it drained. What the administrator drained before is not touched."""

    def __init__(self, host: Host, stop: asyncio.Event, tell: Callable[[str], None]) -> None:
        self._host = host
        self._stop = stop
        self._tell = tell
        self.drained: list[str] = []

    async def keep(self, members: Sequence[str], count: int) -> tuple[str, ...]:
        """Have the first ``count`` of them in rotation and no other.

        Raises StoppedError, and RefusedError when an order cannot be carried out.
        """
        kept, rest = tuple(members[:count]), members[count:]
        for name in rest:
            if name not in self.drained:
                # Before it is ordered: whoever ends this in between must find it in the book.
                self.drained.append(name)
                await self._order("drain", name)
        for name in kept:
            if name in self.drained:
                await self._order("undrain", name)
                self.drained.remove(name)
        return kept

    async def restore(self, *, wait: bool) -> list[str]:
        """Take all back into use; those for which the agent cannot be told are returned, with the reason.

        With ``wait`` until they are in rotation again, or it is stopped; what goes wrong then is told, too.
        """
        left, orders, patience = [], [], Patience()
        for name in reversed(self.drained.copy()):
            try:
                orders.append(await patience.insist(partial(self._host.undrain, name)))
                self.drained.remove(name)
            except ScalerError as error:
                way_out = f"ovms-scalerctl undrain {name}"
                left.append(f"{name} stays drained: {error.message}\n  hint: {way_out}")
        try:
            for order in orders if wait else ():
                await wait_until_done(self._host, "undrain", order, self._stop, self._tell)
        except StoppedError:
            return left  # the orders are given
        except ScalerError as error:
            left.append(str(error))
        return left

    async def _order(self, verb: str, name: str) -> None:
        give = self._host.drain if verb == "drain" else self._host.undrain
        order = await asyncio.to_thread(give, name)
        await wait_until_done(self._host, verb, order, self._stop, self._tell)


async def wait_until_done(
    host: Host, verb: str, order: Document, stop: asyncio.Event, tell: Callable[[str], None]
) -> None:
    """Wait for an order.

    Raises StoppedError when ``stop`` is set, and RefusedError when it cannot be carried out.
    """
    while not stop.is_set():
        progress = host.judge(verb, order, await Patience().insist(host.status, stop))
        if progress is not None:
            if progress.trouble:
                raise RefusedError(f"cannot go on: {progress.trouble}")
            if not progress.waits_for:
                return
            tell(f"{verb}: {progress.waits_for}")
        await wait(stop, at_most_sec=POLL_SEC)
    raise StoppedError("stopped")
