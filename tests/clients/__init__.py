# SPDX-License-Identifier: Apache-2.0
"""Programs that people point at an OpenAI endpoint, as they use them; none of them knows of ours."""
