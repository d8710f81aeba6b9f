"""Programs of `tests/programs` in processes of their own.

Threads, forks, caches on disk and imports are tested there: `parallel=True` starts threads that do not
survive a fork, and what a process has imported or compiled cannot be undone.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastvi

PROGRAMS = Path(__file__).parents[1] / "programs"
ROOT = Path(fastvi.__file__).parents[1]


def copied(name, folder):
    """The name of a copy, for which the cache on disk has nothing; of the kernels it has what it has."""
    return shutil.copy(PROGRAMS / f"{name}.py", folder).removesuffix(".py")


def environment(**changes):
    """The variables of this process with some changed; None removes one. fastvi is the one that is tested."""
    changed = {"PYTHONPATH": ROOT} | changes
    kept = {name: value for name, value in os.environ.items() if name not in changed}
    return kept | {name: str(value) for name, value in changed.items() if value is not None}


def start_program(name, *arguments, flags=(), cwd=None, **changes):
    """A running process of Python with `flags`; `changes` are of its environment."""
    return subprocess.Popen(
        [sys.executable, *flags, str(PROGRAMS / f"{name}.py"), *map(str, arguments)],
        env=environment(**changes),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A process group of its own: a hanging fork takes its children along when it is killed.
        start_new_session=True,
    )


def finish(process, timeout=400):
    """What it prints to stdout and stderr; it must exit with 0."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.communicate()
        pytest.fail("the process hangs")
    assert process.returncode == 0, err
    return out, err


def run_program(name, *arguments, **options):
    """What a program prints to stdout."""
    return finish(start_program(name, *arguments, **options))[0]
