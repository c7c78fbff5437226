# SPDX-License-Identifier: Apache-2.0
"""Turns one bare-metal Linux server into a balanced, self-healing inference endpoint."""

__version__ = "0.1.0"
