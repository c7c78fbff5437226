# SPDX-License-Identifier: Apache-2.0
"""Users of locust, each with streamed chat completions one after the other; the model is OVMS_MODEL."""

import json
import os

from locust import FastHttpUser, task

BODY = {
    "model": os.environ["OVMS_MODEL"],
    "messages": [{"role": "user", "content": "Tell me about servers."}],
    "max_tokens": 16,
    "stream": True,
}


class Chat(FastHttpUser):
    """An answer counts when its stream has come to its end."""

    @task
    def chat(self) -> None:
        path = "/v3/chat/completions"
        with self.client.post(path, data=json.dumps(BODY), catch_response=True) as answer:
            if answer.status_code == 200 and "[DONE]" not in answer.text:
                answer.failure("cut")
