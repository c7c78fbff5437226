# SPDX-License-Identifier: Apache-2.0
"""Fixtures: programs that end with the test that started them."""

from collections.abc import Callable, Iterator

import pytest
from standin.program import Program, free_port, simulated_command, simulated_environment

Start = Callable[..., Program]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the stand-in with the simulated engine; keywords are environment variables."""
    programs: list[Program] = []

    def start_program(*arguments: str, port: int | None = None, **environment: str) -> Program:
        port = port or free_port()
        rest = ("--rest_port", str(port), "--rest_bind_address", "127.0.0.1")
        address = () if "--rest_bind_address" in arguments else rest[2:]
        command = simulated_command(*rest[:2], *address, *arguments)
        programs.append(Program(command, simulated_environment(**environment), port=port))
        return programs[-1]

    yield start_program
    for program in programs:
        program.close()
