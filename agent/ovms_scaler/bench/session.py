# SPDX-License-Identifier: Apache-2.0
"""One measurement after the other: warm up, run, and look at the machine meanwhile."""

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ovms_scaler.bench.client import Endpoint
from ovms_scaler.bench.dataset import Conversation
from ovms_scaler.bench.fleet import Fleet
from ovms_scaler.bench.front import explain_failure
from ovms_scaler.bench.load import Load, make_asks
from ovms_scaler.bench.outcome import Outcome
from ovms_scaler.bench.resources import Resources, collect, sampled
from ovms_scaler.bench.rotation import StoppedError
from ovms_scaler.bench.run import Run
from ovms_scaler.bench.series import draw_series
from ovms_scaler.bench.summary import Summary, list_notes, summarise

# Whoever has fewer requests under way than this share of them sent by others is not alone.
_OTHERS_SHARE = 0.02


class Reporter(Protocol):
    """Whoever is told how far it is."""

    def begin(self, what: str, total: int) -> None:
        """So many requests are to come."""
        ...

    def note(self, outcome: Outcome) -> None:
        """One of them ended."""
        ...

    def tell(self, what: str) -> None:
        """Something else is waited for."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One run with its figures; ``notes`` are what to know of them.

    ``label`` says what was special in it, ``group`` the same of all rounds of it.
    """

    label: str
    group: str
    instances: tuple[str, ...] | None
    run: Run
    summary: Summary
    resources: Resources
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "group": self.group,
            "instances": list(self.instances) if self.instances is not None else None,
            "began_at": self.run.began_at,
            "summary": self.summary.document(),
            "resources": self.resources.document(),
            "notes": list(self.notes),
            "series": draw_series(self.run),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What all measurements have in common.

    ``read_measures`` is None where nobody tells, ``without`` why.
    """

    endpoint: Endpoint
    load: Load
    conversations: Sequence[Conversation]
    fleet: Fleet
    read_measures: Callable[[], Mapping[str, Any]] | None
    without: str
    reporter: Reporter
    stop: asyncio.Event

    async def measure(
        self, group: str = "", instances: tuple[str, ...] | None = None, *, number: int = 0, rounds: int = 1
    ) -> Measurement:
        """Warm up and run once, with texts that nobody has seen before.

        Raises HostError when not one request of the warm-up was answered: there is nothing to measure; and
        StoppedError when it is stopped meanwhile.
        """
        label = f"{group}, round {number + 1}" if rounds > 1 else group
        nonce = secrets.token_hex(8)
        await self._warm_up(label, nonce)
        if self.stop.is_set():
            raise StoppedError("interrupted before anything was measured")
        asks = make_asks(self.load, self.conversations, nonce=nonce)
        self.reporter.begin(label or "measuring", len(asks))
        async with sampled(self.read_measures, without=self.without) as samples:
            run = await self.fleet.run(
                asks, window=self.load.window, stop=self.stop, told=self.reporter.note
            )
        summary = summarise(run)
        resources = collect(samples, began_at=run.began_at, duration_sec=run.duration_sec)
        notes = (*list_notes(summary), *_note_others(resources, run), *_note_missing(resources))
        return Measurement(
            label=label,
            group=group,
            instances=instances,
            run=run,
            summary=summary,
            resources=resources,
            notes=notes,
        )

    async def _warm_up(self, label: str, nonce: str) -> None:
        asks = make_asks(self.load, self.conversations, nonce=nonce, is_warmup=True)
        self.reporter.begin(f"{label}: warm-up" if label else "warm-up", len(asks))
        run = await self.fleet.run(asks, window=self.load.window, stop=self.stop, told=self.reporter.note)
        failed = [one.failure for one in run.outcomes if one.failure is not None]
        if failed and len(failed) == len(run.outcomes):
            raise explain_failure(self.endpoint, failed[0])


def _note_missing(resources: Resources) -> list[str]:
    return [f"CPU, MEMORY AND GPU USE WERE NOT MEASURED: {resources.missing}."] if resources.missing else []


def _note_others(resources: Resources, run: Run) -> list[str]:
    """Requests of others show in every figure.

    The front counts those that ended; ours may end after the last look.
    """
    counted, ours = resources.front_requests, len(run.outcomes)
    # Those that were given up are counted by the front, too, once it notices.
    if counted is None or run.is_interrupted or counted <= ours * (1 + _OTHERS_SHARE) + 1:
        return []
    return [f"OTHERS USED THE FRONT MEANWHILE: {counted - ours} requests were not of this run."]
