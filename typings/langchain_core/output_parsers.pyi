# SPDX-License-Identifier: Apache-2.0
from langchain_core.runnables import Runnable

class StrOutputParser(Runnable): ...
