"""What importing fastvi loads, compiles and starts; prints how many kernels one call compiles."""

import gc
import sys
import threading

import fastvi

loaded = [m for m in sys.modules if m.partition(".")[0] in ("matplotlib", "tqdm", "mpmath", "pytest")]
loaded += [m for m in sys.modules if m.startswith("scipy.stats")]
assert not loaded, loaded

from numba.core.dispatcher import Dispatcher  # noqa: E402


def compiled():
    kernels = [o for o in gc.get_objects() if isinstance(o, Dispatcher) and o.__module__.startswith("fastvi")]
    return [k for k in kernels if k.signatures]


assert not compiled(), compiled()
assert gc.isenabled()
assert threading.active_count() == 1
fastvi.entropy([0.5, 0.5])
print(len(compiled()))
