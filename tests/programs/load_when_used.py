"""Modules that are loaded as attributes of fastvi when they are first used."""

import sys

import fastvi as fv

lazy = "fastvi.cfuncs", "fastvi.dask", "dask", "fastvi.plotting", "matplotlib", "fastvi.kernels.em"
assert not any(name in sys.modules for name in lazy)
assert {"cfuncs", "dask", "kernels", "plotting", "kl"} <= set(dir(fv))
assert fv.kernels.em.e_step.BLOCK
assert fv.cfuncs.kl
assert fv.dask.sum_of
assert fv.plotting.plot_grid
try:
    fv.plots  # noqa: B018
except AttributeError as error:
    message = str(error)
else:
    message = "no error"
assert "no attribute 'plots'" in message, message
