"""The same by NumPyro's SVI. Arguments: x, Adam's rate and its number of steps."""

import sys

import jax
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

x, rate, steps = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])


def model(x):
    z = numpyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.factor("prior", -z)
    numpyro.sample("x", dist.Normal(z, 1.0), obs=x)


svi = SVI(model, AutoNormal(model), numpyro.optim.Adam(rate), Trace_ELBO())
found = svi.run(jax.random.PRNGKey(0), steps, x, progress_bar=False).params
print([[float(found["z_auto_loc"])], [float(found["z_auto_scale"])]])
