"""The command `fastvi`: `fastvi tour`, `fastvi compile` and `fastvi info`."""

from __future__ import annotations

import argparse
from pathlib import Path


def info() -> str:
    """Versions, threads, SIMD width, compiled kernels and compile cache of this installation, a line each.

    Examples
    --------
    >>> from fastvi.cli import info
    >>> print(info().split()[0])
    fastvi
    """
    import platform
    from importlib.metadata import version

    import llvmlite.binding as llvm
    import numba

    from . import __version__, kernels
    from .common import threads

    features = numba.config.CPU_FEATURES  # type: ignore[attr-defined]
    if features is None:
        features = llvm.get_host_cpu_features().flatten()
    width = 128
    for feature, bits in (("+avx2", 256), ("+avx512f", 512)):
        if feature in features.split(","):
            width = bits
    cpu = numba.config.CPU_NAME or llvm.get_host_cpu_name()  # type: ignore[attr-defined]
    cache = getattr(kernels.discrete.divergences.KERNELS["kl"].whole, "stats", None)
    obstacle = kernels.compiler.obstacle()
    compiled = f"none ({obstacle})" if obstacle else kernels.container.describe()
    lines = {
        "fastvi": __version__,
        "python": platform.python_version(),
        "numba": version("numba"),
        "llvmlite": version("llvmlite"),
        "numpy": version("numpy"),
        "scipy": version("scipy"),
        "threads": f"{threads.allowed()} of {numba.config.NUMBA_NUM_THREADS}",  # type: ignore[attr-defined]
        "cpu": f"{cpu}, SIMD registers of {width} bits in use ({width // 64} float64, {width // 32} float32)",
        "kernels": compiled,
        "compile cache": cache.cache_path if cache else "none (NUMBA_DISABLE_JIT is set)",
    }
    return "\n".join(f"{name:<14} {value}" for name, value in lines.items())


def compile_kernels(levels: list[str], directory: Path | None = None) -> None:
    """Compile all kernels ahead, for each of these levels of CPUs, on all cores."""
    from . import building
    from .common.progress import share_bar

    for level in levels:
        with share_bar(f"compiling for {level}") as show:
            path = building.build(directory or building.default_directory(), level, progress=show)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def compile_for_tour() -> None:
    """Compile what the tour calls and nothing has kept, on all cores: it would on one."""
    from .kernels.compiler import obstacle

    if obstacle():
        return
    from . import building, tour
    from .common.progress import share_bar

    jobs = building.missing(tour.KERNELS)
    if jobs:
        with share_bar("compiling, once on this machine") as show:
            building.compile_into_cache(jobs, tour.PROGRAMS, show)


def _levels(text: str) -> list[str]:
    from .kernels.container import HOST, LEVELS

    levels = text.split(",")
    for level in levels:
        if level not in (HOST, *LEVELS):
            raise argparse.ArgumentTypeError(f"{level!r} is not one of {', '.join([HOST, *LEVELS])}")
    return levels


def main(arguments: list[str] | None = None) -> int:
    """Run the command with `arguments` (default: those of the process)."""
    parser = argparse.ArgumentParser(
        prog="fastvi", description="Variational inference at the speed of a function call."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    tour = commands.add_parser("tour", help="see the library at work on real data")
    tour.add_argument(
        "--out",
        type=Path,
        default=Path("fastvi-tour"),
        help="folder for what it writes (default: fastvi-tour)",
    )
    commands.add_parser("info", help="versions, threads, SIMD width, compiled kernels, compile cache")
    compile_ = commands.add_parser(
        "compile",
        help="compile all kernels ahead, on all cores",
        description="Compile all kernels ahead, on all cores, so that no first call does. Takes minutes.",
    )
    compile_.add_argument(
        "--level",
        type=_levels,
        default=["host"],
        metavar="LEVELS",
        help="CPUs to compile for: host (this machine, the default), or of v2, v3, v4 (x86-64), with commas",
    )
    compile_.add_argument(
        "--out",
        type=Path,
        help="folder for the kernels (default: the package's; the user's, if that cannot be written to)",
    )
    chosen = parser.parse_args(arguments)
    if chosen.command == "info":
        print(info())
        return 0
    if chosen.command == "compile":
        from .kernels.compiler import obstacle

        if obstacle():
            parser.error(f"nothing can be compiled ahead: {obstacle()}")
        compile_kernels(chosen.level, chosen.out)
        return 0
    from .tour import run

    compile_for_tour()
    try:
        run(chosen.out)
    except OSError as error:
        parser.error(f"cannot write to {chosen.out}: {error}")
    return 0
