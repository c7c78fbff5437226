# SPDX-License-Identifier: Apache-2.0
from langchain_core.runnables import Runnable

class ChatOpenAI(Runnable):
    def __init__(
        self, *, base_url: str, model: str, api_key: str, max_tokens: int, max_retries: int
    ) -> None: ...
