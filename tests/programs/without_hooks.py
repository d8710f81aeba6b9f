"""fastvi on a numba that lacks one of the hooks: kernels are compiled in numba's own way."""

import math

import numba.core.compiler

hook = vars(numba.core.compiler).pop("_LowerResult")

import fastvi as fv  # noqa: E402
from fastvi import cli  # noqa: E402
from fastvi.kernels import compiler  # noqa: E402

numba.core.compiler._LowerResult = hook  # numba needs it itself
assert compiler.Kernel is None
assert abs(fv.Gaussian(0.0, 1.0).logpdf(1.0) + 0.5 + 0.5 * math.log(2.0 * math.pi)) < 1e-15
assert "fastvi compile" not in cli.info()
cli.compile_for_tour()
for arguments in (["compile"], ["compile", "--level", "v2,v3"]):
    try:
        cli.main(arguments)
    except SystemExit as error:
        print(error.code)
