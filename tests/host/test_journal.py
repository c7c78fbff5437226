# SPDX-License-Identifier: Apache-2.0
"""What journald receives of us, on real sockets, decoded as the protocol's description says."""

import io
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovms_scaler.host.journal import BACKLOG_ENTRIES, JournalSink, StderrSink, open_sink


def parse_entry(data: bytes) -> dict[str, str]:
    fields: dict[str, str] = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack("<Q", rest[:8])
            value, rest = rest[8 : 8 + size], rest[9 + size :]
        fields[name.decode()] = value.decode()
        data = rest
    return fields


def receive(journald: socket.socket) -> dict[str, str]:
    data, descriptors, _, _ = socket.recv_fds(journald, 1 << 24, 1)
    for descriptor in descriptors:
        with os.fdopen(descriptor, "rb") as file:
            file.seek(0)
            data = file.read()
    return parse_entry(data)


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "journal"))
        receiver.settimeout(10)
        yield receiver


@pytest.fixture
def lines() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def sink(tmp_path: Path, lines: io.StringIO, journald: socket.socket) -> Iterator[JournalSink]:
    assert journald.fileno() >= 0
    sink = JournalSink(StderrSink(lines), path=str(tmp_path / "journal"))
    yield sink
    sink.close()


def test_event_becomes_fields(sink: JournalSink, journald: socket.socket) -> None:
    sink.warning(level="warning", event="instance started", unit="ovms@a.service", port=8003, took_sec=0.5)
    assert receive(journald) == {
        "MESSAGE": "instance started unit=ovms@a.service port=8003 took_sec=0.5",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "ovms-scaler",
        "OVMS_SCALER_EVENT": "instance started",
        "OVMS_SCALER_UNIT": "ovms@a.service",
        "OBJECT_SYSTEMD_UNIT": "ovms@a.service",
        "OVMS_SCALER_PORT": "8003",
        "OVMS_SCALER_TOOK_SEC": "0.5",
    }


@pytest.mark.parametrize(
    ("key", "name"),
    [("client-ip", "OVMS_SCALER_CLIENT_IP"), ("x" * 99, "OVMS_SCALER_" + "X" * 52)],
    ids=["dash", "too long"],
)
def test_field_names_are_legal(sink: JournalSink, journald: socket.socket, key: str, name: str) -> None:
    sink.info(event="e", **{key: 1})
    assert name in receive(journald)


def test_line_ends_cannot_forge_a_field(sink: JournalSink, journald: socket.socket) -> None:
    sink.info(event="e", why="first\nPRIORITY=0\n")
    fields = receive(journald)
    assert fields["OVMS_SCALER_WHY"] == "first\nPRIORITY=0\n"
    assert fields["PRIORITY"] == "6"


def test_traceback_is_part_of_the_message(sink: JournalSink, journald: socket.socket) -> None:
    sink.error(level="error", event="pass failed", exception="Traceback:\n  here")
    assert receive(journald)["MESSAGE"] == "pass failed\nTraceback:\n  here"


def test_entry_larger_than_a_datagram_arrives_whole(sink: JournalSink, journald: socket.socket) -> None:
    text = "x" * (20 << 20)
    sink.info(event="e", text=text)
    assert receive(journald)["OVMS_SCALER_TEXT"] == text


def test_slow_journald_blocks_nothing_and_loses_nothing(sink: JournalSink, journald: socket.socket) -> None:
    for number in range(BACKLOG_ENTRIES):
        sink.info(event="e", number=number)
    received: list[str] = []
    while len(received) < BACKLOG_ENTRIES:
        received.append(receive(journald)["OVMS_SCALER_NUMBER"])
        sink.flush()
    assert received == [str(number) for number in range(BACKLOG_ENTRIES)]


def test_what_a_stopped_journald_costs_is_said(sink: JournalSink, journald: socket.socket) -> None:
    journald.settimeout(0)
    for number in range(BACKLOG_ENTRIES * 2):
        sink.info(event="e", number=number)
    received: list[dict[str, str]] = []
    while True:
        try:
            received.append(receive(journald))
        except BlockingIOError:
            break
        sink.flush()
    dropped = int(received[-1]["OVMS_SCALER_DROPPED"])
    assert dropped + len(received) - 1 == BACKLOG_ENTRIES * 2


def test_without_a_journal_lines_are_written(tmp_path: Path, lines: io.StringIO) -> None:
    sink = JournalSink(StderrSink(lines), path=str(tmp_path / "nobody"))
    sink.info(level="info", event="instance started", reason="it is time", port=8003)
    sink.close()
    assert lines.getvalue() == "info: instance started reason='it is time' port=8003\n"


def test_sink_is_the_journal_only_where_stderr_is(tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("w") as stream:
        status = os.fstat(stream.fileno())
        connected = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert isinstance(open_sink({}, stream=stream), StderrSink)
        assert isinstance(open_sink({"JOURNAL_STREAM": "8:1"}, stream=stream), StderrSink)
        journal = open_sink(connected, stream=stream)
        assert isinstance(journal, JournalSink)
        journal.close()
