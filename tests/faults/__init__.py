# SPDX-License-Identifier: Apache-2.0
"""Breaks things under load, behind our front and behind other balancers: ``python -m faults``."""
