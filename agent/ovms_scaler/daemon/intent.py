# SPDX-License-Identifier: Apache-2.0
"""What the agent is to bring about: the configuration in force, and its target on the machine as it is now.

    configuration, machine, models --> a thread, which may hang --> taken on the event loop, if still wanted

Only who asked for a reload waits for that thread, and not for ever. What it finds is taken unless it was
given up, or another target was taken meanwhile: an old one never replaces a newer one.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog

from ovms_scaler import config as configuration
from ovms_scaler.config import Config
from ovms_scaler.core.books import Books
from ovms_scaler.core.target import Target
from ovms_scaler.daemon.accepted import Accepted
from ovms_scaler.daemon.lanes import Errand
from ovms_scaler.errors import DeadlineError, ScalerError
from ovms_scaler.host.store import Store

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

# By then it has been said what does not answer (daemon/resolving.py). systemd waits longer for a start.
PATIENCE_SEC = 20.0
# A look takes some hundredths of a second, and a pass had better know of a card that has just gone.
MOMENT_SEC = 1.0


class Resolve(Protocol):
    """Makes a target of a configuration, in a thread. Raises ScalerError."""

    def __call__(self, config: Config, books: Books, *, planned: bool) -> Target: ...


class Took(Protocol):
    """Hears of a target before anything is done for it."""

    def __call__(self, target: Target, *, planned: bool) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    config: Config
    target: Target
    planned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What there is to go on with, and why it is not what would have come before it."""

    made: _Made | None
    errors: tuple[ScalerError, ...] = ()


class Intent:
    """Holds the target, and has it made anew when there is a reason."""

    def __init__(
        self,
        *,
        config_file: Path,
        resolve: Resolve,
        store: Store,
        took: Took,
        wake: Callable[[], None],
        list_silent: Callable[[], tuple[str, ...]],
    ) -> None:
        """``took`` is told of every new target, ``wake`` has a pass begin.

        ``list_silent`` gives a sentence on each thing that does not answer.
        """
        self._config_file = config_file
        self._resolve = resolve
        self._store = store
        self._took = took
        self._wake = wake
        self._list_silent = list_silent
        self.accepted = Accepted(store)
        self.target: Target | None = None
        self.error: ScalerError | None = None  # why what is on disk is not in force
        self._config: Config | None = None
        self._is_unanswered = False  # why nothing is in force
        self._turn = asyncio.Lock()
        self._errand = Errand("resolve")
        self._look: asyncio.Future[_Found] | None = None
        self._look_sec = float("-inf")
        self._look_error = ""
        self._is_for_devices = False
        self._devices_changed = False
        self._polls_devices = False

    @property
    def problems(self) -> tuple[str, ...]:
        """What cannot be known of the machine as it is now."""
        return tuple(filter(None, (self._look_error, *self._list_silent())))

    def note_devices(self) -> None:
        """Have the machine looked at anew, as something about its devices changed."""
        self._devices_changed = True
        self._wake()

    def poll_devices(self) -> None:
        """Look at the machine anew in every pass, as nobody tells of changes."""
        self._polls_devices = True

    # At the start

    def load(self) -> None:
        """Take the configuration; a bad one leaves the last accepted in this boot in force, if any.

        An agent that comes back finds what it left: only what the administrator changed is planned. This may
        block for a time, as there is nothing to look after yet; passes go on with what takes longer.
        """
        future = self._errand.begin(partial(self._find_first, self.accepted.read()))
        if wait([future], PATIENCE_SEC).done:
            self._start(future.result())
        else:
            self._start(_Found(made=None, errors=(_silence(),)))
            self._leave(future)

    def _find_first(self, accepted: object) -> _Found:
        try:
            config = configuration.read_config(self._config_file)
            return self._make(config, planned=config.document() != accepted)
        except ScalerError as error:
            refused = error
        if accepted is None:
            return _Found(made=None, errors=(refused,))
        try:
            found = self._make(configuration.restore_config(accepted), planned=False)
        except ScalerError as error:
            return _Found(made=None, errors=(refused, error))
        return replace(found, errors=(refused,))

    def _start(self, found: _Found) -> None:
        refused = next(iter(found.errors), None)
        is_news = str(refused) != str(self.error)  # or it was tried again in vain
        self.error = refused
        self._is_unanswered = any(isinstance(error, DeadlineError) for error in found.errors)
        if refused is not None and is_news:
            self._log_refusal(refused)
        if found.made is not None:
            self._take(found.made)
            self.accepted.recall(found.made.config)
            if refused is not None:
                log.warning("going on with the configuration accepted before", file=str(self._config_file))
        elif is_news:
            for error in found.errors[1:]:
                log.error("cannot go on with the configuration accepted before", error=str(error))

    # When somebody asks for it

    async def reload(self, *, allow_outage: bool) -> None:
        """Take a new configuration. Raises ScalerError for a bad one; the old one stays in force.

        So it does when something does not answer that has to be known for it, whatever comes of that later.
        """
        try:
            async with asyncio.timeout(PATIENCE_SEC), self._turn:
                await self._errand.idle()
                found = await asyncio.wrap_future(self._errand.begin(self._find_anew))
                assert found.made is not None  # else it has raised
                self._take(found.made)
        except (ScalerError, TimeoutError) as error:
            self.error = self._explain(error)
            self._log_refusal(self.error)
            raise self.error from error
        finally:
            self._wake()  # for devices that changed meanwhile
        self.error = None
        self.accepted.allow(found.made.config, outage=allow_outage)

    def _find_anew(self) -> _Found:
        return self._make(configuration.read_config(self._config_file), planned=True)

    def _explain(self, failure: ScalerError | TimeoutError) -> ScalerError:
        error = failure if isinstance(failure, ScalerError) else _silence(self._list_silent())
        if not isinstance(error, DeadlineError):
            return error
        stays = "the one in force stays" if self.target is not None else "and none is in force"
        return DeadlineError(
            f"cannot take the configuration, {stays}: {error.message}",
            hint="; then: ".join(filter(None, (error.hint, "systemctl reload ovms-scaler"))),
        )

    # When the machine has changed

    async def look_again(self) -> None:
        """Resolve anew when devices changed, or something forbids to start an instance: it may be gone.

        What takes longer than a moment is not waited for, but taken when it comes.
        """
        look = self._look
        if look is None:
            if self._is_due() and not self._turn.locked() and not self._errand.is_under_way:
                await asyncio.wait({self._begin_look()}, timeout=MOMENT_SEC)
        elif look.done():
            look.result()  # raises what nobody foresaw
        elif self.target is not None and time.monotonic() - self._look_sec > PATIENCE_SEC:
            self._note_failure(_silence(self._list_silent()))

    def _is_due(self) -> bool:
        if self.target is None:
            return self._is_unanswered
        is_hindered = any(one.problem for one in self.target.instances)
        return self._devices_changed or self._polls_devices or is_hindered

    def _begin_look(self) -> asyncio.Future[_Found]:
        self._is_for_devices, self._devices_changed = self._devices_changed, False
        if self._config is None or self.target is None:
            return self._leave(self._errand.begin(partial(self._find_first, self.accepted.read())))
        return self._leave(self._errand.begin(partial(self._find_again, self._config, self.target.books)))

    def _find_again(self, config: Config, books: Books) -> _Found:
        target = self._resolve(config, books, planned=False)
        return _Found(made=_Made(config=config, target=target, planned=False))

    def _leave(self, future: Future[_Found]) -> asyncio.Future[_Found]:
        """Have what is found taken when it comes."""
        look = asyncio.wrap_future(future)
        look.add_done_callback(partial(self._end_look, self.target))
        self._look, self._look_sec = look, time.monotonic()
        return look

    def _end_look(self, before: Target | None, look: asyncio.Future[_Found]) -> None:
        error = look.exception()
        if error is not None and not isinstance(error, ScalerError):
            self._wake()  # the next pass raises it
            return
        self._look = None
        again = self._devices_changed  # since it began
        if self.target is not before or self._turn.locked():
            again = self._devices_changed = again or self._is_for_devices
        elif error is not None:
            self._devices_changed = again or self._is_for_devices  # once more in the next pass
            self._note_failure(error)
        else:
            self._look_error = ""
            self._take_late(look.result())
        if again:
            self._wake()

    def _take_late(self, found: _Found) -> None:
        before, made = self.target, found.made
        if before is None or made is None:
            self._start(found)
            return
        if made.target != before:
            self._put(made)
        if made.target.books != before.books or self.accepted.problem:
            self.accepted.remember(made.target.books, made.config)

    def _note_failure(self, error: ScalerError) -> None:
        text = error.message if isinstance(error, DeadlineError) else str(error)
        if text != self._look_error:
            log.warning("cannot resolve again, going on with the earlier target", error=str(error))
        self._look_error = text

    def _make(self, config: Config, *, planned: bool) -> _Found:
        """In a thread, where nothing of this object is changed."""
        target = self._resolve(config, self._store.read_books(), planned=planned)
        return _Found(made=_Made(config=config, target=target, planned=planned))

    def _take(self, made: _Made) -> None:
        self._look_error = ""
        self._put(made)
        self.accepted.remember(made.target.books, made.config)

    def _put(self, made: _Made) -> None:
        self._config, self.target = made.config, made.target
        self._took(made.target, planned=made.planned)

    def _log_refusal(self, error: ScalerError) -> None:
        log.error("configuration not accepted", file=str(self._config_file), error=str(error))


def _silence(silent: tuple[str, ...] = ()) -> DeadlineError:
    return DeadlineError(
        "; ".join(silent) or "the machine or a model does not answer",
        hint="`journalctl -k` tells of drivers that hang, and `findmnt` lists file systems",
    )
