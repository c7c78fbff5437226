# SPDX-License-Identifier: Apache-2.0
"""Protobuf's text format as graph.pbtxt files use it: text to a tree of frozen values and back."""
