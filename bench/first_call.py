"""CPU time of first calls, each in a process of its own with a fresh cache: ``python -m bench.first_call``.

With "container" also from the container of this machine, which `fastvi compile` makes; with parts of names
only these rows. The time is that of the call, with a model's own log joint, without the imports before it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

_MIXTURE = "p = fv.GaussianMixture([0.3, 0.7], [[-3, 0], [3, 0]], [np.eye(2)] * 2)"
_MODEL = """
def log_joint(z, x):
    return -z[0] - 0.5 * (x - z[0]) ** 2
def new_model():
    return fv.Model(log_joint, 1, data=(2.0,), support="positive")
"""
_PAIR = "p, q = np.array([0.5, 0.5]), np.array([0.25, 0.75])"

#: What is made before the call, and the call.
CALLS = {
    "kl": (_PAIR, "fv.kl(p, q)"),
    "fit": (_MODEL, "fv.fit(new_model())"),
    "i_projection": (_MIXTURE, "fv.i_projection(p)"),
    "njit kl": (f"{_PAIR}\n@numba.njit\ndef run(p, q):\n    return fv.kl(p, q)", "run(p, q)"),
    "njit i_projection": (
        f"{_MIXTURE}\n@numba.njit\ndef run(p):\n    return fv.i_projection(p).kl",
        "run(p)",
    ),
    "njit fit": (f"{_MODEL}\n@numba.njit\ndef run(m):\n    return fv.fit(m).elbo.value", "run(new_model())"),
}

_PROGRAM = """
import time
import numba
import numpy as np
import fastvi as fv
{before}
numba.njit(lambda x: x)(1.0)  # starts the compiler itself: 0.5 s
start = time.process_time()
{call}
print(time.process_time() - start)
"""


def seconds(name: str, container: bool, cache: str | None = None) -> float:
    """CPU seconds of a first call; with a `cache` directory, of the first call of a later process."""
    before, call = CALLS[name]
    with tempfile.TemporaryDirectory() as fresh:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache or fresh}
        environment["FASTVI_CONTAINER"] = "on" if container else "off"
        program = Path(fresh) / "first_call.py"
        program.write_text(_PROGRAM.format(before=before, call=call))
        command = [sys.executable, str(program)]
        found = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return float(found.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="parts of names of rows (default: all), or container")
    names = parser.parse_args().names
    container = "container" in names
    parts = [name for name in names if name != "container"] or [""]
    for name in CALLS:
        if any(part in name for part in parts):
            with tempfile.TemporaryDirectory() as cache:
                first, second = (seconds(name, False, cache) for _ in range(2))
            line = f"{name:<20} compiler {first:6.2f} s   next process {second:5.2f} s"
            print(line + (f"   container {seconds(name, True):5.2f} s" if container else ""), flush=True)


if __name__ == "__main__":
    main()
