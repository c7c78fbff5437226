# SPDX-License-Identifier: Apache-2.0
"""Sees which engine each request is handed to, by whatever balancer, whatever the engine makes of it.

A packet socket on the loopback interface (packet(7)), with a filter in the kernel that lets through only
what begins with "POST" and goes to a port of an engine. An engine that is stopped or wedged tells nothing of
the requests that it gets; the wire does.
"""

import ctypes
import socket
import struct
from collections.abc import Iterator

# <linux/filter.h>, <linux/if_packet.h>, <asm-generic/socket.h>
_SO_ATTACH_FILTER = 26
_SO_RCVBUFFORCE = 33  # beyond net.core.rmem_max, in which a burst does not fit
_PACKET_TYPE = 0xFFFFF004  # SKF_AD_OFF + SKF_AD_PKTTYPE
_PACKET_OUTGOING = 4  # each packet is seen twice, on its way out and on its way in
_ETH_P_IP = 0x0800
_TCP = 6
_LD, _LDH, _LDB, _LDXB_MSH = 0x20, 0x28, 0x30, 0xB1
_LD_IND, _LDH_IND, _LDB_IND = 0x40, 0x48, 0x50
_JEQ, _JGT, _JGE = 0x15, 0x25, 0x35
_AND, _RSH, _ADD_X, _TAX, _RET = 0x54, 0x74, 0x0C, 0x07, 0x06

_POST = int.from_bytes(b"POST", "big")
_DROP = 16  # index of the last instruction


def _filter(first_port: int, last_port: int) -> list[tuple[int, int, int, int]]:
    """Instructions (code, jump if true, jump if false, operand); offsets count from the IP header."""

    def to_drop(index: int) -> int:
        return _DROP - index - 1

    return [
        (_LD, 0, 0, _PACKET_TYPE),
        (_JEQ, to_drop(1), 0, _PACKET_OUTGOING),
        (_LDB, 0, 0, 9),  # protocol
        (_JEQ, 0, to_drop(3), _TCP),
        (_LDXB_MSH, 0, 0, 0),  # X: length of the IP header
        (_LDH_IND, 0, 0, 2),  # destination port
        (_JGE, 0, to_drop(6), first_port),
        (_JGT, to_drop(7), 0, last_port),
        (_LDB_IND, 0, 0, 12),  # data offset of TCP, in the upper half of the byte and in words
        (_AND, 0, 0, 0xF0),
        (_RSH, 0, 0, 2),
        (_ADD_X, 0, 0, 0),
        (_TAX, 0, 0, 0),
        (_LD_IND, 0, 0, 0),
        (_JEQ, 0, to_drop(14), _POST),
        (_RET, 0, 0, 0xFFFF),
        (_RET, 0, 0, 0),
    ]


class Tap:
    """Sees requests for the ports from ``first_port`` to ``last_port`` whose head has ``marker`` in it.

    Needs CAP_NET_RAW and CAP_NET_ADMIN in the network where it is made. Raises OSError.
    """

    def __init__(self, first_port: int, last_port: int, *, marker: bytes) -> None:
        self._marker = marker
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP))
        program = b"".join(struct.pack("=HBBI", *line) for line in _filter(first_port, last_port))
        buffer = ctypes.create_string_buffer(program, len(program))
        self._socket.setsockopt(
            socket.SOL_SOCKET,
            _SO_ATTACH_FILTER,
            struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer)),
        )
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 22)
        self._socket.bind(("lo", _ETH_P_IP))
        self._socket.settimeout(0)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read_ports(self) -> Iterator[int]:
        """The port of each request seen since the last call."""
        while True:
            try:
                packet = self._socket.recv(4096)
            except BlockingIOError:
                return
            if self._marker in packet:
                head = (packet[0] & 0x0F) * 4
                yield int.from_bytes(packet[head + 2 : head + 4], "big")
