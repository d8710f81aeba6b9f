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

_PROGRAM = Path(__file__).parent / "programs" / "first_call.py"

#: The calls, each a function of the program.
CALLS = ("kl", "fit", "i_projection", "njit kl", "njit i_projection", "njit fit")


def seconds(name: str, container: bool, cache: str | None = None) -> float:
    """CPU seconds of a first call; with a `cache` directory, of the first call of a later process."""
    with tempfile.TemporaryDirectory() as fresh:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache or fresh}
        environment["FASTVI_CONTAINER"] = "on" if container else "off"
        command = [sys.executable, str(_PROGRAM), name]
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
