# SPDX-License-Identifier: Apache-2.0
"""What udev reports inside a virtual machine, one event after the other (udevadm(8), monitor)."""

import time
from collections.abc import Iterator, Mapping

from lab.commands import LabError
from lab.vm_channel import Stream

COMMAND = ("stdbuf", "--output=L", "udevadm", "monitor", "--udev", "--property")
Event = Mapping[str, str]


class Events:
    """The events since it was made."""

    def __init__(self, stream: Stream, *, timeout_sec: float = 60) -> None:
        self.stream = stream
        self.timeout_sec = timeout_sec
        # Printed when it listens.
        for line in stream.read_lines(time.monotonic() + timeout_sec):
            if line.startswith("UDEV - "):
                break

    def wait_for(self, **wanted: str) -> list[Event]:
        """Events up to the first that has all these properties; DEVPATH is matched by how it ends.

        Raises LabError with those that came when there is none within the limit.
        """
        events: list[Event] = []
        try:
            for event in self.read_events(time.monotonic() + self.timeout_sec):
                events.append(event)
                if matches(event, wanted):
                    return events
            why = "the monitor ended"
        except TimeoutError:
            why = f"none in {self.timeout_sec} s"
        came = "\n".join(f"{event.get('ACTION')} {event.get('DEVPATH')}" for event in events)
        raise LabError(f"waited for an event with {wanted}: {why}; what came:\n{came}")

    def read_events(self, deadline: float) -> Iterator[Event]:
        """Each event's properties. Raises TimeoutError at `deadline` (of time.monotonic())."""
        event: dict[str, str] = {}
        for line in self.stream.read_lines(deadline):
            name, equals, value = line.partition("=")
            if equals and not line.startswith("UDEV "):
                event[name] = value
            elif not line and event:
                yield event
                event = {}


def matches(event: Event, wanted: Event) -> bool:
    """Whether an event has the properties."""
    return all(
        event.get(name, "").endswith(value) if name == "DEVPATH" else event.get(name) == value
        for name, value in wanted.items()
    )
