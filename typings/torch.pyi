# SPDX-License-Identifier: Apache-2.0
"""The part of torch that make_model.py uses."""

def manual_seed(seed: int) -> object: ...
