# SPDX-License-Identifier: Apache-2.0
from typing import Self

from langchain_core.runnables import Runnable

class ChatPromptTemplate(Runnable):
    @classmethod
    def from_template(cls, template: str) -> Self: ...
