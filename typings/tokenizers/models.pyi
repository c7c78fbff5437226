# SPDX-License-Identifier: Apache-2.0
"""The part of tokenizers that make_model.py uses."""

class BPE:
    def __init__(self, *, unk_token: str) -> None: ...
