# SPDX-License-Identifier: Apache-2.0
"""Decides: functions from frozen values to frozen values, without I/O, clock, randomness or logging."""
