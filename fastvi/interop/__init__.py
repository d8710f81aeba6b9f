"""Models from other systems, and results for them.

Each system has a module of its own, which imports it when it is used.
"""

from .blocks import from_address, from_block
from .jax_models import from_jax, from_numpyro

__all__ = ["from_address", "from_block", "from_jax", "from_numpyro"]
