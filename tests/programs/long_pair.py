"""Two distributions long enough for the helper threads."""

import numpy as np

p, q = np.random.default_rng(5).dirichlet(np.ones(600_000), size=2)
