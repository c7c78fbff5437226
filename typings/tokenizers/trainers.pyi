# SPDX-License-Identifier: Apache-2.0
"""The part of tokenizers that make_model.py uses."""

class BpeTrainer:
    def __init__(
        self, *, vocab_size: int, special_tokens: list[str], initial_alphabet: list[str]
    ) -> None: ...
