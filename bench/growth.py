"""How CPU time grows with size, for fastvi and its peers: ``python -m bench.growth``, or with parts of names.

Draws a picture for each family of work (both axes logarithmic) and fits time = c size**e to the larger half
of the sizes, where what a call costs by itself is small.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np

import fastvi as fv

from . import discrete, em, growth_models, inference, inputs, limits, projections
from .contenders import UnavailableError
from .peers import circumstances, in_words

#: Seconds: a contender whose call takes longer is not measured on larger sizes. Fits of one data set may take
#: longer.
PATIENCE, FITS_PATIENCE = 0.3, 3.0


@dataclass(frozen=True)
class Family:
    name: str
    axis: str  #: what the size counts
    sizes: tuple[int, ...]
    inputs: Callable[[int], tuple[Any, ...]]
    contenders: dict[str, Callable[[int], Callable[..., Any]]]  #: size -> function of the inputs

    @property
    def file(self) -> str:
        return "-".join(re.findall(r"\w+", self.name)) + ".png"


def at_any_size(load: Callable[[], Any]) -> Callable[[int], Any]:
    return lambda size: load()


def any_sizes(**loaders: Callable[[], Any]) -> dict[str, Callable[[int], Any]]:
    return {name.replace("_", " "): at_any_size(load) for name, load in loaders.items()}


def fastvi_all_projections():
    return lambda p: fv.i_projection(p)


#: Families of q.
Q = ("diag", "lowrank", "full")

LENGTHS = (16, 64, 256, 1_000, 4_000, 16_000, 64_000, 250_000, 1_000_000, 4_000_000, 10_000_000)

FAMILIES = (
    Family(
        "kl",
        "entries",
        LENGTHS,
        inputs.pair,
        any_sizes(
            fastvi=discrete.fastvi_kl,
            scipy_rel_entr=discrete.scipy_rel_entr,
            numkong=discrete.numkong_kl,
            numexpr=discrete.numexpr_kl,
            torch=discrete.torch_kl,
            numpy_dot=discrete.numpy_dot,
        ),
    ),
    Family(
        "js distance",
        "entries",
        LENGTHS,
        inputs.pair,
        any_sizes(
            fastvi=discrete.fastvi_js_distance,
            scipy_jensenshannon=discrete.scipy_jensenshannon,
            numkong=discrete.numkong_js_distance,
        ),
    ),
    Family(
        "kl by rows of 256",
        "rows",
        (1, 4, 16, 64, 250, 1_000, 4_000, 16_000),
        lambda rows: inputs.pair((rows, 256)),
        any_sizes(fastvi=discrete.fastvi_kl, scipy_entropy=discrete.scipy_entropy_rows),
    ),
    Family(
        "pairwise kl, rows of 64",
        "rows on each side",
        (2, 8, 32, 125, 500, 2_000),
        lambda rows: inputs.pair((rows, 64)),
        any_sizes(
            fastvi=discrete.fastvi_pairwise("kl"),
            scipy_rel_entr=discrete.scipy_rel_entr_broadcast,
            numpy_product=discrete.numpy_pairwise_kl,
            torch_product=discrete.torch_pairwise_kl,
        ),
    ),
    Family(
        "kl and gradient on a grid",
        "points on each axis",
        (26, 51, 101, 201, 401, 801),
        lambda points: projections.start(),
        {
            "fastvi": projections.fastvi_value_and_gradient,
            "jax": projections.jax_value_and_gradient,
        },
    ),
    Family(
        "all I-projections",
        "components",
        (1, 2, 4, 8, 16),
        lambda count: (projections.ring(count),),
        any_sizes(fastvi=fastvi_all_projections),
    ),
    Family(
        f"{em.STEPS} EM steps, K = 5, d = 3",
        "points",
        (100, 1_000, 10_000, 100_000, 1_000_000),
        lambda n: em.clouds(n, 5, 3),
        any_sizes(
            fastvi=em.fastvi_steps,
            sklearn=em.sklearn_fit(0.0, em.STEPS),
        ),
    ),
    Family(
        "fits in log z",
        "data sets",
        (1, 10, 100, 1_000, 10_000),
        lambda count: (inference.observations()[0][:count],),
        any_sizes(fastvi=inference.fastvi_batch, jax_vmap_of_BFGS=inference.jax_batch),
    ),
    Family(
        "fits of a logistic regression, n = 1,000",
        "dimensions",
        (4, 16, 64, 250),
        lambda dim: growth_models.rows(1_000, dim),
        {name: growth_models.fastvi_logistic(name) for name in Q},
    ),
    Family(
        "fits of a logistic regression, d = 10",
        "rows",
        (100, 1_000, 10_000, 100_000),
        lambda n: growth_models.rows(n, 10),
        {name: growth_models.fastvi_logistic(name) for name in Q},
    ),
    Family(
        "fits of matches, 20 for each player",
        "players",
        (30, 100, 300, 1_000, 3_000, 10_000),
        growth_models.played,
        {name: growth_models.fastvi_matches(name) for name in Q},
    ),
)


def measure(family: Family) -> dict[str, dict[int, float]]:
    """Seconds, by contender and size; a contender that cannot run has none."""
    found: dict[str, dict[int, float]] = {name: {} for name in family.contenders}
    for size in family.sizes:
        arguments = family.inputs(size)
        for name, load in family.contenders.items():
            times = found[name]
            patience = FITS_PATIENCE if family.name.startswith("fits of") else PATIENCE
            if (not times and size != family.sizes[0]) or (times and max(times.values()) > patience):
                continue
            try:
                function = load(size)
            except (ImportError, UnavailableError):
                continue
            function(*arguments)  # compiles
            times[size] = limits.least(partial(function, *arguments))
    return found


def exponent(times: dict[int, float]) -> float:
    """The exponent of the power law through the larger half of the sizes, by least squares of logarithms."""
    sizes = np.array(sorted(times), float)
    sizes = sizes[min(sizes.size // 2, sizes.size - 2) :]
    return float(np.polyfit(np.log(sizes), np.log([times[int(n)] for n in sizes]), 1)[0])


def draw(family: Family, found: dict[str, dict[int, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for name, times in found.items():
        if times:
            label = f"{name}, exponent {exponent(times):.2f}" if len(times) > 2 else name
            axes.loglog(list(times), list(times.values()), "o-", markersize=3, label=label)
    axes.set(title=family.name, xlabel=family.axis, ylabel="seconds")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def main() -> None:
    """A Markdown table of the exponents, and the pictures."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("family", nargs="*", help="part of the name of a family (default: all)")
    parser.add_argument("--out", type=Path, default=Path("fastvi-growth"), help="folder for the pictures")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    numba.set_num_threads(1)
    print("| work | size | of whom | exponent | smallest | largest |")
    print("| --- | --- | --- | --- | --- | --- |")
    for family in FAMILIES:
        if chosen.family and not any(part in family.name for part in chosen.family):
            continue
        found = measure(family)
        draw(family, found, chosen.out / family.file)
        for name, times in found.items():
            cells = ("not installed", "", "")
            if times:
                ends = (f"{in_words(times[n])} at {n:,}" for n in (min(times), max(times)))
                cells = (f"{exponent(times):.2f}" if len(times) > 2 else "", *ends)
            print(f"| {' | '.join((family.name, family.axis, name, *cells))} |", flush=True)
    print(f"\n{circumstances()} Pictures: {chosen.out}")


if __name__ == "__main__":
    main()
