"""Models from other systems, and results for them.

Each system has a module of its own, which imports it when it is used.
"""

from .blocks import from_address, from_block
from .jax_models import from_jax, from_numpyro
from .pymc_models import from_pymc
from .stan_models import from_bridgestan, from_stan

__all__ = [
    "from_address",
    "from_block",
    "from_bridgestan",
    "from_jax",
    "from_numpyro",
    "from_pymc",
    "from_stan",
]
