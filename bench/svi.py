"""NumPyro's SVI for a model in PyMC, whose log density JAX compiles: 10,000 steps of Adam under one jit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

STEPS = 10_000
RATE = 0.01


def svi_of(model: Any, guide: str) -> tuple[Callable[[], tuple[Any, Any]], Callable[[Any], dict[str, Any]]]:
    """(what runs the steps and returns the guide's mean and scale, what makes named draws of points z).

    `guide` is "AutoNormal", whose scale is a vector, or "AutoMultivariateNormal", whose scale is a triangle.
    """
    import jax

    jax.config.update("jax_enable_x64", True)
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import SVI, Trace_ELBO, autoguide
    from pymc.sampling.jax import get_jaxified_graph

    inputs = [model.rvs_to_values[variable] for variable in model.free_RVs]
    by_name = {variable.name: variable for variable in model.unobserved_value_vars}
    wanted = [by_name[variable.name] for variable in (*model.free_RVs, *model.deterministics)]
    density = get_jaxified_graph(inputs=inputs, outputs=[model.logp()])
    expand = get_jaxified_graph(inputs=inputs, outputs=wanted)
    start = model.initial_point()
    vector, unravel = jax.flatten_util.ravel_pytree([np.asarray(start[v.name], np.float64) for v in inputs])

    def of_numpyro():
        z = numpyro.sample("z", dist.ImproperUniform(dist.constraints.real_vector, (), vector.shape))
        numpyro.factor("density", density(*unravel(z))[0])

    svi = SVI(of_numpyro, getattr(autoguide, guide)(of_numpyro), numpyro.optim.Adam(RATE), Trace_ELBO())
    names = ("z_auto_loc", "z_auto_scale") if guide == "AutoNormal" else ("auto_loc", "auto_scale_tril")

    @jax.jit
    def run(key):
        state, _ = jax.lax.scan(lambda state, _: svi.update(state), svi.init(key), None, length=STEPS)
        found = svi.get_params(state)
        return tuple(found[name] for name in names)

    def named(z):
        values = jax.jit(jax.vmap(lambda z: expand(*unravel(z))))(z)
        return {v.name: np.asarray(x) for v, x in zip(wanted, values, strict=True)}

    return lambda: jax.block_until_ready(run(jax.random.PRNGKey(1))), named
