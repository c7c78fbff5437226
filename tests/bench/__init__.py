# SPDX-License-Identifier: Apache-2.0
"""Measures what the agent costs: ``python -m bench``."""
