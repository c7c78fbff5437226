# SPDX-License-Identifier: Apache-2.0
"""Asks: the ovms-scalerctl command."""
