# SPDX-License-Identifier: Apache-2.0
from collections.abc import Mapping, Sequence

from langchain_core.embeddings import Embeddings
from langchain_core.runnables import Runnable

class InMemoryVectorStore:
    def __init__(self, embedding: Embeddings) -> None: ...
    def add_texts(self, texts: Sequence[str]) -> list[str]: ...
    def as_retriever(self, *, search_kwargs: Mapping[str, int]) -> Runnable: ...
