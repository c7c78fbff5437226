# SPDX-License-Identifier: Apache-2.0
"""The part of tokenizers that make_model.py uses."""

from collections.abc import Iterable

from tokenizers import decoders as decoders
from tokenizers import models as models
from tokenizers import pre_tokenizers as pre_tokenizers
from tokenizers import trainers as trainers

class Tokenizer:
    pre_tokenizer: pre_tokenizers.ByteLevel
    decoder: decoders.ByteLevel
    def __init__(self, model: models.BPE) -> None: ...
    def train_from_iterator(self, iterator: Iterable[str], trainer: trainers.BpeTrainer) -> None: ...
