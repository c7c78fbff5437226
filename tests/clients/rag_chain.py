# SPDX-License-Identifier: Apache-2.0
"""A chain of langchain: look texts up, put them into a prompt, ask the endpoint. rag_chain.py URL MODEL."""

import json
import sys
from collections.abc import Sequence

from langchain_core.embeddings import Embeddings
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import ChatOpenAI

TEXTS = (
    "A NUMA node is a group of cores with memory of its own.",
    "A render node is how a program opens a GPU without a screen.",
    "A control group limits what the processes in it may use.",
)
QUESTION = "What is a render node of a GPU?"


class Letters(Embeddings):
    """How often each letter occurs: enough to find one of three texts, and nothing to download."""

    def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return [float(text.lower().count(chr(ord("a") + number))) for number in range(26)]


def main() -> None:
    url, model = sys.argv[1:]
    store = InMemoryVectorStore(Letters())
    store.add_texts(TEXTS)
    found = store.as_retriever(search_kwargs={"k": 1})
    prompt = ChatPromptTemplate.from_template("Use this: {context}\nAnswer: {question}")
    llm = ChatOpenAI(base_url=url, model=model, api_key="unused", max_tokens=16, max_retries=0)
    chain = {"context": found, "question": RunnablePassthrough()} | prompt | llm | StrOutputParser()
    answer = chain.invoke(QUESTION)
    pieces = list(chain.stream(QUESTION))
    many = chain.batch([QUESTION] * 6)
    sys.stdout.write(
        json.dumps({"answer": len(answer), "pieces": len(pieces), "batch": sum(map(bool, many))}) + "\n"
    )


if __name__ == "__main__":
    main()
