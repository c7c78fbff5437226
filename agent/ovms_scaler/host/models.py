# SPDX-License-Identifier: Apache-2.0
"""Looks at a pool's model on disk."""

from pathlib import Path

from ovms_scaler.core.model import ModelFacts
from ovms_scaler.core.spec import Pool


def read_model(pool: Pool, root: Path = Path("/")) -> ModelFacts:
    """The model of ``pool`` as it is now; ``root`` stands for "/" (a fixture, a copied host). Never raises OSError."""
    raise NotImplementedError
