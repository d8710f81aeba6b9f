"""float16 numbers as float32: each of the 65,536."""

import numpy as np

from fastvi.kernels.numerics import half_precision


def test_every_number():
    bits = np.arange(1 << 16, dtype=np.uint16)
    bits.flags.writeable = False
    out = np.empty(bits.size, np.float32)
    half_precision.singles(bits, out)
    wanted = bits.view(np.float16).astype(np.float32)
    numbers = ~np.isnan(wanted)
    assert np.array_equal(out.view(np.uint32)[numbers], wanted.view(np.uint32)[numbers])
    assert np.isnan(out[~numbers]).all()
