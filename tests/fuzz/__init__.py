# SPDX-License-Identifier: Apache-2.0
"""Fuzzers: text from outside, made up and damaged, of which no more than an error may come."""
