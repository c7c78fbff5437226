# SPDX-License-Identifier: Apache-2.0
"""Brings releases of OVMS to this machine, and says which one instances are planned with."""
