# SPDX-License-Identifier: Apache-2.0
"""What the agent did and why, in sentences for people; the words are those of ``status``."""

from collections.abc import Callable
from dataclasses import dataclass

from ovms_scaler.core.event import Event
from ovms_scaler.core.next_steps import usual

_BAD = ("warning", "error", "critical")
_CHECK = "ovms-scalerctl check-config"
_LOGS = "ovms-scalerctl logs {instance}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """A sentence with the event's keys in braces, or what makes one; ``hint`` where the event has none."""

    text: str | Callable[[Event], str]
    hint: str | Callable[[Event], str] = ""


def render_event(event: Event) -> str:
    """One sentence; a phrase that is not known is shown with its keys."""
    said = _SENTENCES.get(str(event.get("event", "")))
    if said is None:
        return _render_unknown(event)
    return said.text.format_map(_Words(event)) if isinstance(said.text, str) else said.text(event)


def render_hint(event: Event) -> str:
    """The next command to type, "" where nothing is bad."""
    if event.get("level") not in _BAD:
        return ""
    said = _SENTENCES.get(str(event.get("event", "")))
    default = _default_hint(said, event) if said is not None else ""
    if said is not None and event.get("event") == _CUT:  # its own says why, not what to do
        return default
    return _word(event, "hint") or default


def _default_hint(said: _Said, event: Event) -> str:
    return said.hint.format_map(_Words(event)) if isinstance(said.hint, str) else said.hint(event)


def _usual(event: Event) -> str:
    """As status says it; an entry of another version may lack the state."""
    return usual(_word(event, "state"), _word(event, "instance")) or _LOGS.format_map(_Words(event))


class _Words(dict[str, str]):
    """The keys of an event as text."""

    def __init__(self, event: Event) -> None:
        self._event = event

    def __missing__(self, key: str) -> str:
        return _word(self._event, key) or "?"


def _word(event: Event, key: str) -> str:
    value = event.get(key)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _with(event: Event, text: str, **parts: str) -> str:
    """The text, and each part of which the event has the key."""
    more = "".join(part for key, part in parts.items() if event.get(key))
    return (text + more).format_map(_Words(event))


def _render_unknown(event: Event) -> str:
    keys = ", ".join(f"{key} {_word(event, key)}" for key in event if key not in _ABOUT)
    return f"{event.get('event', '')}{f' ({keys})' if keys else ''}"


def _changed(event: Event) -> str:
    return _with(event, "{instance} is {state}", was=" (was {was})", reason=": {reason}")


def _written(event: Event) -> str:
    return _with(event, "the files of {instance} were written anew", files=": {files}")


def _accepted(event: Event) -> str:
    return _with(event, "{file} is accepted and in force", allow_outage=", also where that needs an outage")


def _stopping(event: Event) -> str:
    return _with(event, "stopping {instance}", at_once=" by SIGKILL, as it hangs")


def _proxy(event: Event) -> str:
    text = "the proxy runs with new files (generation {generation})"
    return _with(event, text, added="; it sends requests to {added}", removed="; no longer to {removed}")


def _hangs(event: Event) -> str:
    why = ": its driver says so" if event.get("event") == "gpu wedged" else ": its driver left a coredump"
    return _with(
        event, "GPU {address} hangs" + why, detail=" ({detail})", methods="; to be recovered by {methods}"
    )


def _drained(event: Event) -> str:
    return _with(event, "ordered: drain {instances}", allow_outage=", also if nobody serves then")


def _restarted(event: Event) -> str:
    text = "ordered: restart {instances}"
    return _with(
        event, text, is_rolling=", one after the other", allow_outage=", also if nobody serves meanwhile"
    )


_ABOUT = ("at", "level", "event", "hint")
_CUT = "requests cut by the proxy"
_SENTENCES = {
    # Life of the agent
    "agent started": _Said(text="the agent started, version {version}"),
    "agent stopped": _Said(text="the agent stopped; engines and proxy go on"),
    "agent cannot run": _Said(text="the agent cannot run: {error}", hint="systemctl status ovms-scaler"),
    "no word of devices, looking at them all the time": _Said(
        text="udev says nothing of devices, so the agent looks at them in every pass: {error}",
        hint="systemctl status systemd-udevd; then: systemctl restart ovms-scaler",
    ),
    "no word of requests, failures show in probes only": _Said(
        text="the proxy's record of requests cannot be had, so failures show in probes only: {error}",
        hint="systemctl restart ovms-scaler",
    ),
    "the journal did not keep up, entries were dropped": _Said(
        text="the journal did not keep up; entries that are missing: {dropped}",
        hint="systemctl status systemd-journald",
    ),
    "admin listener open": _Said(text="metrics and the status page are at http://{listen}"),
    "admin listener closed": _Said(text="metrics and the status page are no longer at http://{listen}"),
    "admin listener not open": _Said(
        text="metrics and the status page cannot be shown at {listen}: {error}", hint="ss -ltnp"
    ),
    "admin request failed": _Said(
        text="the agent failed to answer {method} {path}", hint="journalctl -u ovms-scaler"
    ),
    # Configuration
    "configuration accepted": _Said(text=_accepted),
    "configuration not accepted": _Said(
        text="{file} is not accepted; the configuration before it stays in force: {error}", hint=_CHECK
    ),
    "going on with the configuration accepted before": _Said(
        text="the agent goes on with what was accepted before; {file} is not valid now", hint=_CHECK
    ),
    "cannot go on with the configuration accepted before": _Said(
        text="there is no configuration in force; nor can the one before be used: {error}", hint=_CHECK
    ),
    "cannot resolve again, going on with the earlier target": _Said(
        text="the configuration cannot be fitted to the machine as it is now; all stays as it was: {error}",
        hint=f"ovms-scalerctl topology; {_CHECK}",
    ),
    # Instances
    "instance changed": _Said(text=_changed, hint=_usual),
    "instance in rotation": _Said(text="{instance} is in rotation"),
    "instance out of rotation": _Said(
        text=lambda event: _with(event, "{instance} is out of rotation", state=", as it is {state}")
    ),
    "files written": _Said(text=_written),
    "files removed": _Said(text="the files of {instance} were removed"),
    "starting target": _Said(text="starting {unit}"),
    "starting instance": _Said(text="starting {instance}"),
    "instance not started": _Said(text="{instance} could not be started: {error}", hint=_LOGS),
    "stopping instance": _Said(text=_stopping),
    "instance not stopped": _Said(
        text="{instance} could not be stopped: {error}", hint="systemctl status {unit}"
    ),
    "killing instance": _Said(text="killing {instance}: {reason}", hint=_LOGS),
    "not killed, as it has ended": _Said(text="{instance} is not killed, as it ended by itself"),
    # Proxy
    "proxy changed": _Said(text=_proxy),
    "workers of the proxy are leaving": _Said(
        text="old workers of the proxy that finish what they have begun: {old_workers}"
    ),
    _CUT: _Said(
        text="requests cut by the proxy: {count}, as they went on for longer than "
        "proxy.shutdown_timeout_sec ({shutdown_timeout_sec}) after it was reloaded",
        hint="raise proxy.shutdown_timeout_sec, then: systemctl reload ovms-scaler",
    ),
    # GPUs
    "gpu wedged": _Said(text=_hangs, hint="journalctl -k"),
    "gpu coredump": _Said(text=_hangs, hint="journalctl -k"),
    "recovering GPU": _Said(text="recovering GPU {address} of {instance} by {method}"),
    "GPU recovered": _Said(text="GPU {address} of {instance} was recovered by {method}"),
    "GPU not recovered": _Said(
        text="GPU {address} of {instance} was not recovered by {method}: {error}", hint="journalctl -k"
    ),
    # Orders
    "to be drained": _Said(text=_drained),
    "no longer drained": _Said(
        text=lambda event: _with(event, "ordered: undrain", instances=" {instances}")
    ),
    "to be restarted": _Said(text=_restarted),
    "to be restarted, as what they run was replaced": _Said(
        text="{instances} will be restarted in turn, as the program or model was replaced"
    ),
    "failures forgotten": _Said(text="ordered: reset {instances}"),
    "paused": _Said(text="ordered: pause; the agent observes and does nothing"),
    "resumed": _Said(text="ordered: resume; the agent acts again"),
    "paused, as the orders are not known": _Said(
        text="the agent is paused, as it cannot read what was ordered: {error}", hint="ovms-scalerctl resume"
    ),
    "control request failed": _Said(
        text="the agent failed to answer {method} {path}", hint="journalctl -u ovms-scaler"
    ),
    # What goes wrong
    "action failed": _Said(text="the agent cannot {action}: {error}", hint="ovms-scalerctl status"),
    "state not written": _Said(
        text="what the agent has to remember cannot be written: {error}", hint="df /run /var/lib/ovms-scaler"
    ),
}
