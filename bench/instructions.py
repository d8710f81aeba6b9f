"""What the compiler made of the hot loops: ``python -m bench.instructions``.

Counts the instructions of each one's innermost loop in the assembly. Seconds differ from run to run; these
figures are the same on every machine with the same instruction set: tests/kernels/test_vectorised.py checks
them.

It imports only Numba and fastvi's kernels: the test loads this file without the package and its environment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numba
from numba import types

from fastvi.kernels.compiler import adder
from fastvi.kernels.densities import grids, mixtures
from fastvi.kernels.discrete import (
    centred,
    chunks,
    divergences,
    entropies,
    far_logarithms,
    logarithmic,
    normalized,
    renyi,
    scaled,
    short_rows,
)
from fastvi.kernels.discrete.registry import BY_TERM
from fastvi.kernels.em import e_step, moments
from fastvi.kernels.inference import expectations
from fastvi.kernels.projections import curvature, grid_projections
from fastvi.kernels.quadrature import contours, lattice_rows
from fastvi.kernels.quadrature import moments as moments_

_X = types.float64
_ROW = types.Array(_X, 1, "C")
_ROW32 = types.Array(types.float32, 1, "C")
_TABLE = types.Array(_X, 2, "C")
_THETA = types.UniTuple(_X, 2)
_MASSES = normalized.Masses(1.0, 1.0, False, False, False, 0.0)
_NORMALIZATION = numba.typeof(normalized.make_normalization.py_func(_MASSES))
_SCALES = numba.typeof(scaled.Scales(1.0, 1.0, 0.0))
_LOG_NORMALIZATION = numba.typeof(logarithmic.LogNormalization(*(0.0,) * 7))
_SHIFTS = numba.typeof(far_logarithms.Shifts(*(0.0,) * 4))
_ORDER = numba.typeof(far_logarithms.Order(*(0.0,) * 5))
_PLANE = types.UniTuple(_X, 10)
_TWO, _THREE, _FOUR = types.UniTuple(_X, 2), types.UniTuple(_X, 3), types.UniTuple(_X, 4)
_EIGHT, _EIGHT_ROWS, _FOUR_ROWS = types.UniTuple(_X, 8), types.UniTuple(_ROW, 8), types.UniTuple(_ROW, 4)
_SIX, _TEN = types.UniTuple(_X, 6), types.UniTuple(_X, 10)


def _inner(function: Any, *names: str) -> Any:
    """The kernel of this name in the template of a kernel, and so on."""
    for name in names:
        function = function.py_func.__globals__[name]
    return function


def _of_terms() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """The loops of the divergences over entries that are divided by the masses."""
    loops = {}
    for row in BY_TERM.values():
        whole = divergences.KERNELS[row.name].whole
        in_one_pass = _inner(whole, "careful", "in_one_pass", "all_sums", "part")
        loops[f"{row.name}, scaled"] = (in_one_pass, (_ROW, _ROW, _SCALES, _THETA))
        careful = _inner(whole, "careful", "all_sums", "part")
        loops[f"{row.name}, normalised"] = (careful, (_ROW, _ROW, _NORMALIZATION, _THETA))
        short = _inner(short_rows.assemble_many(row.name), "lanes", "replace")
        loops[f"{row.name}, short rows"] = (short, (_ROW, _ROW, _ROW, _ROW, _THETA))
    return loops


#: The loops that the time goes into: compiled functions with the types of their arguments.
HOT = {
    "kl": (chunks._kl_sums64, (_ROW, _ROW, _THETA)),
    "kl, float32": (chunks._kl_sums32, (_ROW32, _ROW32, _THETA)),
    "js": (chunks._js_sums64, (_ROW, _ROW, _THETA)),
    "js, float32": (chunks._js_sums32, (_ROW32, _ROW32, _THETA)),
    "js, other weights": (chunks._weighted_js_sums, (_ROW, _ROW, _THETA)),
    "jeffreys": (chunks._jeffreys_sums64, (_ROW, _ROW, _THETA)),
    "jeffreys, float32": (chunks._jeffreys_sums32, (_ROW32, _ROW32, _THETA)),
    "hellinger": (chunks._hellinger_sums64, (_ROW, _ROW, _THETA)),
    "hellinger, float32": (chunks._hellinger_sums32, (_ROW32, _ROW32, _THETA)),
    "total_variation": (chunks._total_variation_sums64, (_ROW, _ROW, _THETA)),
    "total_variation, float32": (chunks._total_variation_sums32, (_ROW32, _ROW32, _THETA)),
    **{
        f"{name}, float32, scaled": (sums, (_ROW32, _ROW32, _THETA))
        for name, sums in chunks.SCALED_SUMS32.items()
    },
    "chi2": (chunks._chi2_sums64, (_ROW, _ROW, _THETA)),
    "chi2, float32": (chunks._chi2_sums32, (_ROW32, _ROW32, _THETA)),
    "alpha_divergence": (chunks._alpha_sums, (_ROW, _ROW, _THETA)),
    "alpha_divergence, float32": (chunks._alpha_sums32, (_ROW32, _ROW32, _THETA)),
    **_of_terms(),
    "renyi": (_inner(renyi._renyi_plain, "alpha_sums"), (_ROW, _ROW, _NORMALIZATION, _THETA)),
    "renyi of order inf": (renyi._ratio_sums64, (_ROW, _ROW, _X)),
    "renyi of order inf, float32": (renyi._ratio_sums32, (_ROW32, _ROW32, _X)),
    "largest ratio": (renyi._largest_ratio, (_ROW, _ROW, _X)),
    "largest ratio of a row": (renyi._row_and_largest_ratio, (_ROW, _ROW)),
    "bhattacharyya": (chunks.overlap_chunk, (_ROW, _ROW, _THETA)),
    "cross_entropy in one pass": (entropies._log_sums64, (_ROW, _ROW)),
    "cross_entropy in one pass, float32": (entropies._log_sums32, (_ROW32, _ROW32)),
    "cross_entropy": (entropies._normalised_sum, (_ROW, _ROW, _X, _X)),
    "masses": (normalized._sums_and_small, (_ROW, _ROW)),
    "proportional": (normalized._off, (_ROW, _ROW, *(_X,) * 4)),
    "near distributions": (scaled._difference_sums, (_ROW, _ROW, _SCALES)),
    "excess of near distributions": (normalized._sums_and_rests, (_ROW, _ROW, _X, _X)),
    "masses of short rows": (short_rows._add_masses, (_ROW, _ROW, _ROW, _ROW)),
    "ratios of short rows": (short_rows._raise_tops, (_ROW, _ROW, _ROW)),
    "logarithms' mass": (far_logarithms._exp_sum, (_ROW, _X)),
    "kl of logarithms, far": (
        _inner(divergences.KERNELS["kl"].log, "first", "sums_of"),
        (_ROW, _ROW, _SHIFTS),
    ),
    "jeffreys of logarithms, far": (
        _inner(divergences.KERNELS["jeffreys"].log, "first", "sums_of"),
        (_ROW, _ROW, _SHIFTS),
    ),
    "powers of logarithms": (far_logarithms._power_sums, (_ROW, _ROW, _ORDER, _SHIFTS)),
    "cross_entropy of logarithms": (far_logarithms._cross_sums, (_ROW, _ROW, _SHIFTS, _X)),
    "cross_entropy of log measures": (entropies._log_cross_sums, (_ROW, _ROW, _X, _X)),
    "overlap of logarithms": (far_logarithms._overlap_sums, (_ROW, _ROW, _X, _X)),
    "exponentials of logarithms": (
        far_logarithms._exponentials,
        (_ROW, _X, _X, _X, types.boolean, _ROW),
    ),
    "kl of logarithms": (
        _inner(divergences.KERNELS["kl"].log, "log_sums", "log_sums"),
        (_ROW, _ROW, _LOG_NORMALIZATION, _THETA),
    ),
    "pairwise kl": (centred._add_strip, (_TABLE, _TABLE, *(types.intp,) * 4, _TABLE)),
    "pairwise js": (centred._far_segment, (_ROW, _ROW, _ROW)),
    "pairwise js, near": (centred._near_segment, (_ROW, _ROW, _ROW)),
    "grid, kl and gradient": (grid_projections._row_sums, (_ROW, _ROW, _X, _X, _X, _ROW, _ROW)),
    "grid, moments": (grids._row, (_ROW, _ROW, _ROW, _X)),
    "mixture, one component": (mixtures._one, (_PLANE, types.boolean, _ROW, _ROW, _ROW, _ROW)),
    "mixture, two components": (mixtures._two, (_PLANE, _PLANE, types.boolean, _ROW, _ROW, _ROW, _ROW)),
    "mixture, one more": (mixtures._another, (_PLANE, types.boolean, _ROW, _ROW, _ROW, _ROW)),
    "projection, contour": (contours._sums, (_ROW, _ROW, _ROW, _X, _TWO, _SIX)),
    "projection, kl of a node": (moments_._weigh_from_gaussian, (_ROW, _ROW, _ROW, _X, _X, _ROW, _ROW)),
    "projection, moments of a row": (lattice_rows._row_sums, (_ROW, _ROW, _ROW)),
    "projection, moments": (moments_.weighted_powers, (_ROW, _ROW, _ROW)),
    "reduction, second derivatives in 1-D": (curvature._sums_1, (_ROW, _ROW, _ROW)),
    "reduction, second derivatives in 2-D": (curvature._sums_2, (_ROW, _ROW, _ROW, _ROW)),
    "elbo, moments in 1-D": (expectations._sums_1, (_ROW, _ROW, _ROW, _X, _ROW, _ROW, _X, _X)),
    "elbo, kl of a node": (expectations._weigh, (_ROW, _ROW, _X, _ROW, _ROW, _ROW)),
    "elbo, tails": (expectations._shells, (_ROW, _ROW, _X, _X)),
    "em, densities in 1-D": (e_step._values_1, (_ROW, _X, _X, _X, _ROW)),
    "em, densities in 2-D": (e_step._values_2, (_ROW, _ROW, _X, _TWO, _THREE, _ROW)),
    "em, densities in 3-D": (e_step._values_3, (_ROW, _ROW, _ROW, _X, _THREE, _SIX, _ROW)),
    "em, densities of four coordinates": (e_step._squares_of_triangle, (_FOUR_ROWS, _FOUR, _TEN, _ROW)),
    "em, densities of four more": (e_step._squares_of_more, (_FOUR_ROWS, _FOUR, _TEN, _ROW, _ROW)),
    "em, four coordinates in four others": (
        e_step._add_products_of_four,
        (_FOUR_ROWS, _FOUR, types.UniTuple(_FOUR, 4), _ROW),
    ),
    "em, densities of another coordinate": (e_step._add_product_of_four, (_FOUR_ROWS, _FOUR, _FOUR, _ROW)),
    "em, diagonal densities": (e_step._eight_scaled_squares, (_EIGHT_ROWS, _EIGHT, _EIGHT, _ROW)),
    "em, diagonal densities in 4-D": (e_step._four_scaled_squares, (_FOUR_ROWS, _FOUR, _FOUR, _ROW)),
    "em, a factor times points": (e_step._add_four, (*(_ROW,) * 4, *(_X,) * 4, _ROW)),
    "em, shares of two": (e_step._share_two, (_ROW, _ROW, _ROW, _ROW)),
    "em, shares": (e_step.share, (_ROW, _ROW, _ROW)),
    "em, shares of one number": (e_step._shares, (_ROW, _X, _ROW)),
    "em, shares in 1-D": (e_step._shares_1, (_ROW, _X, _X, _X, _ROW, _ROW)),
    "em, shares in 2-D": (e_step._shares_2, (_ROW, _ROW, _X, _TWO, _THREE, _ROW, _ROW)),
    "em, shares in 3-D": (e_step._shares_3, (_ROW, _ROW, _ROW, _X, _THREE, _SIX, _ROW, _ROW)),
    "em, evidence": (e_step._sum_of_logs, (_ROW,)),
    "em, moments in 1-D": (moments._moments_1, (_ROW, _X, _ROW, _ROW)),
    "em, moments in 2-D": (moments._moments_2, (_ROW, _ROW, _X, _X, _ROW, _ROW)),
    "em, moments in 3-D": (moments._moments_3, (_ROW, _ROW, _ROW, _X, _X, _X, _ROW, _ROW)),
    "em, moments of four coordinates": (moments._triangle_of_moments, (_FOUR_ROWS, _FOUR, _ROW)),
    "em, moments of four and four": (
        moments._square_of_moments,
        (_FOUR_ROWS, _FOUR, _FOUR_ROWS, _FOUR, _ROW),
    ),
    "em, moments of another coordinate": (moments._weigh_difference, (_ROW, _X, _ROW, _ROW)),
    "em, diagonal moments": (moments._eight_squares, (_EIGHT_ROWS, _EIGHT, _ROW)),
    "em, diagonal moments in 4-D": (moments._four_squares, (_FOUR_ROWS, _FOUR, _ROW)),
    "em, moments of tied covariances": (moments._four_differences, (_FOUR_ROWS, _FOUR, _ROW)),
}


@dataclass(frozen=True)
class Loop:
    """How many instructions of each kind one round of a loop executes, at most."""

    bits: int  #: of the widest registers that it computes in
    packed: int  #: arithmetic on whole such registers
    scalar: int  #: arithmetic on one floating-point number
    divisions: int  #: divisions and roots among the packed
    calls: int
    total: int

    @property
    def vectorised(self) -> bool:
        """Whether it computes on whole registers and nothing else."""
        return self.packed > 0 and self.scalar == 0 and self.calls == 0


_ARITHMETIC = re.compile(r"v?(add|sub|mul|div|sqrt|min|max|fn?m(?:add|sub)(?:132|213|231))([ps])[sd]")
_LABEL = re.compile(r"([.\w$]+):")
_JUMP = re.compile(r"j[a-z]+\s+([.\w$]+)")
_BITS = {"%xmm": 128, "%ymm": 256, "%zmm": 512}


def _innermost(assembly: str) -> Iterator[list[str]]:
    """The instructions from each label to a jump back to it, where there is no such pair in between."""
    lines = [line.strip() for line in assembly.splitlines()]
    labels = {found[1]: i for i, line in enumerate(lines) if (found := _LABEL.match(line))}
    spans = []
    for end, line in enumerate(lines):
        jump = _JUMP.match(line)
        if jump and labels.get(jump[1], end) < end:
            spans.append((labels[jump[1]], end))
    for start, end in spans:
        if not any((a, b) != (start, end) and start <= a and b <= end for a, b in spans):
            yield [line for line in lines[start : end + 1] if line[:1].isalpha() and not line.endswith(":")]


def _count(instructions: list[str]) -> Loop:
    scalar, calls = 0, 0
    packed: dict[int, int] = {}
    divisions: dict[int, int] = {}
    for instruction in instructions:
        calls += instruction.startswith("call")
        found = _ARITHMETIC.match(instruction)
        if not found:
            continue
        if found[2] == "s":
            scalar += 1
            continue
        bits = max(size for name, size in _BITS.items() if name in instruction)
        packed[bits] = packed.get(bits, 0) + 1
        divisions[bits] = divisions.get(bits, 0) + (found[1] in ("div", "sqrt"))
    bits = max(packed, default=0)
    return Loop(bits, packed.get(bits, 0), scalar, divisions.get(bits, 0), calls, len(instructions))


def hot_loop(function: Any, arguments: tuple[Any, ...]) -> Loop:
    """The loop of a compiled function that does most at once."""
    function = getattr(function, "full", function)
    function.compile(arguments)
    loops = map(_count, _innermost(function.inspect_asm(arguments)))
    return max(loops, key=lambda loop: (loop.vectorised, loop.bits, loop.packed, loop.scalar))


def register_bits() -> int:
    """The width of the registers that LLVM uses here for as simple a loop as there is; 0 if not x86.

    The loop is a kernel: of Intel's CPUs LLVM uses half of the register in functions that ask for no more.
    """

    @adder
    def plain(x):
        total = 0.0
        for i in range(x.size):
            total += x[i] * x[i]
        return total

    return hot_loop(plain, (_ROW,)).bits


def main() -> None:
    """A Markdown table."""
    print("| loop | bits | packed | divisions, roots | scalar | calls | instructions |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, (function, arguments) in HOT.items():
        loop = hot_loop(function, arguments)
        counts = (loop.bits, loop.packed, loop.divisions, loop.scalar, loop.calls, loop.total)
        print(f"| {name} | {' | '.join(map(str, counts))} |")


if __name__ == "__main__":
    main()
