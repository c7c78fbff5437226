# SPDX-License-Identifier: Apache-2.0
"""Measures the front under a load of its own: who asks, what came of it, what the figures say."""
