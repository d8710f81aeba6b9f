"""The divergences as the common tests call them: from the registry, with an order where one is needed."""

import fastvi as fv
from fastvi.kernels.discrete.registry import METRICS, ROWS, default_theta

PAIRED = tuple(METRICS)
EVERY = tuple(ROWS)
WITH_BASE = tuple(name for name, row in ROWS.items() if row.base)
WITHOUT_BASE = tuple(name for name in EVERY if name not in WITH_BASE)
OF_MEASURES = tuple(name for name, row in ROWS.items() if row.measures)
OF_DISTRIBUTIONS = tuple(name for name in EVERY if name not in OF_MEASURES)
OF_ORDER = tuple(name for name, row in ROWS.items() if row.orders)
WEIGHTED = tuple(name for name, row in ROWS.items() if row.weights)
SYMMETRIC = tuple(name for name, row in ROWS.items() if row.symmetric)
ROOTED = tuple(name for name, row in ROWS.items() if row.root)


def order(name):
    """An order that a divergence allows: one below 1 where negative ones are not allowed, else one above."""
    return 0.7 if ROWS[name].orders[0] == 0.0 else 1.7


def parameters(name):
    """The keywords that a divergence cannot do without."""
    return {"alpha": order(name)} if ROWS[name].orders else {}


def theta(name):
    """The same as the kernels take them."""
    return (order(name), 0.0) if ROWS[name].orders else default_theta(ROWS[name])


def arrays(name, p, q):
    """What of two arrays a divergence takes."""
    return (p, q)[: ROWS[name].arrays]


def evaluate(name, p, q, **keywords):
    """A divergence by its public function."""
    return getattr(fv, name)(*arrays(name, p, q), **{**parameters(name), **keywords})
