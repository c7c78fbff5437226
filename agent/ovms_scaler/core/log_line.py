# SPDX-License-Identifier: Apache-2.0
"""One line of what an engine, the agent, systemd and the proxy say of an instance, from the journal."""

import re
from dataclasses import dataclass

from ovms_scaler.core.event import Event, is_about, parse_event, parse_level, parse_time
from ovms_scaler.core.event_text import render_event
from ovms_scaler.core.instance import unit_name
from ovms_scaler.core.journal_entry import Fields
from ovms_scaler.core.subject import Subject, parse_unit

PROXY_UNIT = "ovms-scaler-proxy.service"
# As systemd writes of a coredump (SD_MESSAGE_COREDUMP in sd-messages.h).
_COREDUMP = "fc2e22bc6ee647b6b90729ab34a250b1"
# ngx_log_error_core: "2026/11/21 19:00:00 [error] 12#12: *345 connect() failed ...".
_NGINX = re.compile(
    r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[(?P<level>\w+)\] \d+#\d+: (?:\*\d+ )?(?P<text>.*)", re.S
)
_NGINX_LEVELS = {
    "emerg": "critical", "alert": "critical", "crit": "critical", "error": "error", "warn": "warning",
}  # fmt: skip
# ngx_http_upstream_log_error, and ngx_stream_proxy_log_error without the scheme.
_UPSTREAM = re.compile(r'upstream: "(?:\w+://)?(?:127\.0\.0\.1:(?P<port>[0-9]{1,5})|(?P<name>[^"/:]+))[/"]')


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """``source`` is engine, agent, systemd or proxy; ``instance`` is empty where several may be meant."""

    at: float
    source: str
    level: str
    text: str
    instance: str = ""
    event: Event | None = None

    def document(self) -> dict[str, object]:
        """One line of ``logs --json``; those of the agent have the event beside its sentence."""
        document: dict[str, object] = {
            "at": self.at,
            "source": self.source,
            "instance": self.instance or None,
            "level": self.level,
            "text": self.text,
        }
        return document if self.event is None else {**document, "event": dict(self.event)}


def render_matches(subject: Subject, agent: tuple[str, ...]) -> tuple[str, ...]:
    """What to look for, as arguments of journalctl(1); make_line leaves out what is about others.

    ``agent`` matches everything that the agent logged. Units are matched as ``journalctl -u`` does.
    """
    units = sorted(map(unit_name, subject.instances))
    return (
        *(f"_SYSTEMD_UNIT={unit}" for unit in (*units, PROXY_UNIT)),
        "+",
        *(f"UNIT={unit}" for unit in units),
        "_PID=1",
        "+",
        *(f"COREDUMP_UNIT={unit}" for unit in units),
        "_UID=0",
        f"MESSAGE_ID={_COREDUMP}",
        "+",
        *agent,
    )


def make_line(fields: Fields, subject: Subject) -> LogLine | None:
    """The line of an entry that those matches found; None for one about others."""
    at = parse_time(fields)
    if at is None:
        return None
    unit, text, level = fields.get("_SYSTEMD_UNIT", ""), fields.get("MESSAGE", ""), parse_level(fields)
    if unit == PROXY_UNIT:
        return _make_proxy_line(at, level, text, subject)
    if (instance := parse_unit(unit)) is not None and instance in subject.instances:
        return LogLine(at=at, source="engine", level=level, text=text, instance=instance)
    for name in ("UNIT", "COREDUMP_UNIT"):
        if (instance := parse_unit(fields.get(name, ""))) is not None and instance in subject.instances:
            return LogLine(at=at, source="systemd", level=level, text=text, instance=instance)
    event = parse_event(fields)
    return make_event_line(event, subject) if event is not None else None


def make_event_line(event: Event, subject: Subject) -> LogLine | None:
    """The line of an event of the agent; None for one about others."""
    at = event.get("at")
    if not isinstance(at, float | int) or not is_about(event, subject.instances, subject.gpus):
        return None
    return LogLine(
        at=at,
        source="agent",
        level=str(event.get("level", "info")),
        text=render_event(event),
        instance=str(event.get("instance") or ""),
        event=event,
    )


def _make_proxy_line(at: float, level: str, text: str, subject: Subject) -> LogLine | None:
    """nginx names the engine that it asked by its port, or all of an upstream by their common name."""
    upstream = _UPSTREAM.search(text)
    if upstream is None:
        return None
    port, name = upstream["port"], upstream["name"]
    if not (int(port) in subject.ports if port is not None else name in subject.upstreams):
        return None
    if (match := _NGINX.fullmatch(text)) is not None:
        level, text = _NGINX_LEVELS.get(match["level"], "info"), match["text"]
    return LogLine(at=at, source="proxy", level=level, text=text)
