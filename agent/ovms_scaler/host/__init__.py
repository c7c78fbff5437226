# SPDX-License-Identifier: Apache-2.0
"""Touches: each module wraps one outside thing, speaks core types and decides nothing."""
