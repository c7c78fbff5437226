# SPDX-License-Identifier: Apache-2.0
"""What is measured in which order: one run, a scaling curve, or two configurations in turn.

Whatever the machine was brought into for it is undone at the end, also after an error or when it is told to
stop.
"""

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ovms_scaler.bench.comparing import CONFIDENCE, Verdict, compare, note_failures, verdict_row
from ovms_scaler.bench.host import Host
from ovms_scaler.bench.load import Load
from ovms_scaler.bench.rotation import Members, Rotation, StoppedError
from ovms_scaler.bench.scaling import FAILED_APART, Curve, Measured, draw_curve
from ovms_scaler.bench.session import Measurement, Session
from ovms_scaler.bench.statistics import Interval, ratio_of_means
from ovms_scaler.bench.swapping import Swap
from ovms_scaler.errors import ScalerError

WHOLE = "whole"


@dataclass(slots=True, kw_only=True)
class Findings:
    """All that was measured, in its order; ``notes`` are what to know of the comparison.

    ``trouble`` is why there is not more, ``left`` what could not be undone.
    """

    measurements: list[Measurement] = field(default_factory=list)
    curve: Curve | None = None
    verdicts: tuple[Verdict, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    whole_ratio: Interval | None = None
    notes: list[str] = field(default_factory=list)
    trouble: str = ""
    left: list[str] = field(default_factory=list)
    is_interrupted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of two configurations: "A" or "B", its name for people, and its file's content."""

    key: str
    name: str
    content: bytes


async def run_once(session: Session, instances: tuple[str, ...] | None) -> Findings:
    """One measurement. Raises ScalerError when nothing could be measured."""
    findings = Findings()
    findings.measurements.append(await session.measure(instances=instances))
    findings.is_interrupted = session.stop.is_set()
    return findings


async def run_scale(
    session: Session,
    host: Host,
    members: Members,
    counts: Sequence[int],
    *,
    rounds: int,
    against: Swap | None = None,
    whole: bytes = b"",
) -> Findings:
    """The same load with so many instances each, the most first: each is drained and started once at most.

    With ``against`` the configuration ``whole`` comes last, with the load of the most.
    """
    findings = Findings()
    rotation = Rotation(host, session.stop, session.reporter.tell)
    by_count: dict[int, list[Measurement]] = {}
    kept: dict[int, tuple[str, ...]] = {}

    async def measure_all() -> None:
        for count in sorted(set(counts), reverse=True):
            kept[count] = await rotation.keep(members.in_use, count)
            sized = _size(session, count)
            for number in range(rounds):
                group = f"{count} instance{'' if count == 1 else 's'}"
                measured = await sized.measure(group, kept[count], number=number, rounds=rounds)
                findings.measurements.append(measured)
                if session.stop.is_set():
                    raise StoppedError("stopped")
                by_count.setdefault(count, []).append(measured)

    await _attempt(findings, measure_all, lambda wait: rotation.restore(wait=wait), session)
    _add_curve(findings, by_count, kept, session.load)
    if against is not None and not (findings.trouble or findings.left or findings.is_interrupted):
        most = max(counts)
        await _measure_whole(_size(session, most), against, whole, findings, by_count[most])
    return findings


async def run_compare(session: Session, swap: Swap, sides: Sequence[Side], *, rounds: int) -> Findings:
    """Each configuration once in each round, A B B A and so on: a steady drift falls on both alike.

    Raises ScalerError when it cannot begin.
    """
    findings = Findings(names={side.key: side.name for side in sides})
    measured: dict[str, list[Measurement]] = {side.key: [] for side in sides}
    swap.open()

    async def measure_all() -> None:
        for number in range(rounds):
            for side in sides if number % 2 == 0 else reversed(sides):
                await swap.put(side.content)
                group = f"{side.key} ({side.name})"
                one = await session.measure(group, number=number, rounds=rounds)
                findings.measurements.append(one)
                if session.stop.is_set():
                    raise StoppedError("stopped")
                measured[side.key].append(one)

    await _attempt(findings, measure_all, lambda wait: _restore_file(swap, wait=wait), session)
    before, after = (measured[side.key] for side in sides)
    whole = min(len(before), len(after))
    if whole:
        findings.verdicts = compare(
            [one.summary for one in before[:whole]], [one.summary for one in after[:whole]]
        )
    return findings


def _size(session: Session, count: int) -> Session:
    return replace(session, load=session.load.for_instances(count))


async def _measure_whole(
    session: Session, swap: Swap, content: bytes, findings: Findings, together: Sequence[Measurement]
) -> None:
    """As often as ``together``, which is what is compared with."""
    own: list[Measurement] = []

    async def measure_all() -> None:
        swap.open()
        await swap.put(content)
        for number in range(len(together)):
            one = await session.measure(f'placement = "{WHOLE}"', number=number, rounds=len(together))
            findings.measurements.append(one)
            if session.stop.is_set():
                raise StoppedError("stopped")
            own.append(one)

    await _attempt(findings, measure_all, lambda wait: _restore_file(swap, wait=wait), session)
    if not own:
        return
    findings.whole_ratio = ratio_of_means(_list_rates(together), _list_rates(own))
    shares = [sum(one.summary.failed_share for one in several) / len(several) for several in (together, own)]
    if abs(shares[0] - shares[1]) > FAILED_APART:
        findings.notes.append(
            f"REQUESTS FAILED, and not alike: {shares[0] * 100:.1f} % with all instances, "
            f"{shares[1] * 100:.1f} % with the unbound one. Their throughput is not of the same load."
        )


def _list_rates(measurements: Sequence[Measurement]) -> tuple[float, ...]:
    return tuple(one.summary.output_tokens_per_sec for one in measurements)


async def _attempt(
    findings: Findings,
    measure_all: Callable[[], Awaitable[None]],
    restore: Callable[[bool], Awaitable[list[str]]],
    session: Session,
) -> None:
    """What was measured before an error is worth keeping. Whatever happens, everything is put back."""
    try:
        await measure_all()
    except StoppedError:
        findings.is_interrupted = True
    except ScalerError as error:
        findings.trouble = str(error)
    finally:
        findings.is_interrupted = findings.is_interrupted or session.stop.is_set()
        with contextlib.suppress(OSError):  # the terminal may be what went away
            session.reporter.tell("putting everything back")
        try:
            findings.left += await restore(not findings.is_interrupted)
        except StoppedError:
            pass  # while it was waited for; the order is given
        except ScalerError as error:
            findings.left.append(str(error))
        findings.is_interrupted = findings.is_interrupted or session.stop.is_set()


async def _restore_file(swap: Swap, *, wait: bool) -> list[str]:
    await swap.restore(wait=wait)
    return []


def _add_curve(
    findings: Findings,
    by_count: Mapping[int, Sequence[Measurement]],
    kept: Mapping[int, tuple[str, ...]],
    load: Load,
) -> None:
    measured = [
        Measured(
            instances=count,
            names=kept[count],
            output_tokens_per_sec=_list_rates(several),
            requests_per_sec=tuple(one.summary.requests_per_sec for one in several),
            clients=load.for_instances(count).clients,
            failed_share=sum(one.summary.failed_share for one in several) / len(several),
        )
        for count, several in by_count.items()
    ]
    findings.curve = draw_curve(measured, request_rate=load.request_rate) if measured else None


def findings_document(findings: Findings) -> dict[str, Any]:
    """As JSON."""
    return {
        "measurements": [one.document() for one in findings.measurements],
        "curve": findings.curve.document() if findings.curve is not None else None,
        "comparison": {
            "names": dict(findings.names),
            "confidence": CONFIDENCE,
            "notes": note_failures(findings.verdicts, findings.names),
            "verdicts": [
                {
                    **one.document(),
                    **verdict_row(one, findings.names),
                    "text": one.describe(findings.names),
                }
                for one in findings.verdicts
            ],
        }
        if findings.verdicts
        else None,
        "whole_ratio": findings.whole_ratio.document() if findings.whole_ratio is not None else None,
        "trouble": findings.trouble,
        "left": findings.left,
        "is_interrupted": findings.is_interrupted,
    }
