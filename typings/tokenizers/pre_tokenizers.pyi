# SPDX-License-Identifier: Apache-2.0
"""The part of tokenizers that make_model.py uses."""

class ByteLevel:
    def __init__(self, *, add_prefix_space: bool) -> None: ...
    @staticmethod
    def alphabet() -> list[str]: ...
