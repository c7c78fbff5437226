# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])

class Response:
    status_code: int
    text: str
    def failure(self, why: str) -> None: ...

class Session:
    def post(self, path: str, *, data: str, catch_response: bool) -> AbstractContextManager[Response]: ...

class FastHttpUser:
    client: Session

def task(function: F) -> F: ...
