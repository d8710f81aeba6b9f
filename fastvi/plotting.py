"""Pictures of densities and projections, for people. They need matplotlib: ``pip install "fastvi[plot]"``.

No display is needed, and matplotlib's global state is left alone: figures are made without pyplot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse

from .distributions import Array, Distribution, Gaussian, GaussianMixture, Grid2D
from .projections import Projection

#: Okabe and Ito's colours, which the colour-blind can tell apart: M-projections, then I-projections.
_M_COLOUR = "#d55e00"
_I_COLOURS = ("#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

#: Contours enclose these shares of the mass.
_SHARES = (0.95, 0.8, 0.6, 0.4, 0.2, 0.05)


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    figure = Figure(figsize=(7.0, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def _gaussians(p: Distribution) -> list[Gaussian]:
    if isinstance(p, Gaussian):
        return [p]
    if isinstance(p, GaussianMixture):
        heavy = p.weights > 1e-3 * p.weights.max()
        return [part for part, keep in zip(p.components, heavy, strict=True) if keep]
    return [Gaussian(p.mean, p.cov)]


def _window(parts: Sequence[Gaussian], drawn: Sequence[Gaussian]) -> list[tuple[float, float]]:
    """Room for three standard deviations of each part, and for the ellipses."""
    gaussians = [*parts, *drawn]
    widths = [3.2] * len(parts) + [2.3] * len(drawn)
    reach = [w * np.sqrt(np.diag(g.cov)) for w, g in zip(widths, gaussians, strict=True)]
    low = np.min([g.mean - r for g, r in zip(gaussians, reach, strict=True)], axis=0)
    high = np.max([g.mean + r for g, r in zip(gaussians, reach, strict=True)], axis=0)
    return [(float(low[k]), float(high[k])) for k in range(2)]


def _levels(density: Array) -> Array:
    """Heights whose contours enclose `_SHARES` of the mass, lowest first."""
    heights = np.sort(density.ravel())[::-1]
    mass = np.cumsum(heights)
    levels = [heights[min(np.searchsorted(mass, share * mass[-1]), heights.size - 1)] for share in _SHARES]
    return np.unique(levels)


def _draw_density(ax: Axes, x: Array, y: Array, density: Array) -> None:
    levels = _levels(density)
    if levels.size > 1:
        ax.contourf(x, y, density.T, levels=[*levels, density.max() * 1.0001], cmap="Greys", alpha=0.55)
    ax.contour(x, y, density.T, levels=levels, colors="0.45", linewidths=0.7)


def _draw_ellipses(ax: Axes, q: Gaussian, colour: str, style: Any) -> None:
    values, vectors = np.linalg.eigh(q.cov)
    angle = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
    for k, width in ((1, 2.2), (2, 1.3)):
        small, large = 2.0 * k * np.sqrt(values)
        ax.add_patch(
            Ellipse(
                (float(q.mean[0]), float(q.mean[1])),
                float(large),
                float(small),
                angle=angle,
                fill=False,
                edgecolor=colour,
                linewidth=width,
                linestyle=style,
                zorder=3,
            )
        )
    ax.plot(*q.mean, marker="+", color=colour, markersize=9, markeredgewidth=2.0, zorder=4)


def _plane(p: Distribution) -> None:
    if not isinstance(p, Gaussian | GaussianMixture | Grid2D):
        raise TypeError(f"p must be a Gaussian, a GaussianMixture or a Grid2D, not {type(p).__name__}")
    if p.dim != 2:
        raise ValueError(f"only densities in 2 dimensions can be drawn; p has {p.dim}")


def _projection(name: str, value: Any) -> Projection:
    if not isinstance(value, Projection) or not isinstance(value.q, Gaussian):
        raise TypeError(f"{name} must be a Projection onto a Gaussian, not {type(value).__name__}")
    return value


def _table(p: Distribution, window: Sequence[tuple[float, float]]) -> tuple[Array, Array, Array]:
    if isinstance(p, Grid2D):
        return p.x, p.y, np.exp(p.logp - p.logp.max())
    grid = Grid2D.from_distribution(p, window, (301, 301))
    return grid.x, grid.y, np.exp(grid.logp - grid.logp.max())


def plot_projection(
    p: Distribution,
    m: Projection | None = None,
    i: Projection | None = None,
    ax: Axes | None = None,
    *,
    labels: tuple[str, str] = ("z₁", "z₂"),
    title: str | None = None,
) -> Axes:
    """Draw a density in grey contours, and the 1- and 2-sigma ellipses of its projections over it.

    Parameters
    ----------
    p : Gaussian, GaussianMixture or Grid2D
        In two dimensions. Its contours enclose 5, 20, 40, 60, 80 and 95 % of the mass that is in the picture.
    m : Projection, optional
        The M-projection, drawn dashed.
    i : Projection, optional
        The I-projection: each of its optima has a colour, the best a solid line, the others dash-dotted.
    ax : matplotlib Axes, optional
        Where to draw. Default: a new figure.
    labels : (str, str), optional
        Names of the axes.
    title : str, optional

    Returns
    -------
    matplotlib Axes
        Its figure is ``ax.figure``; ``ax.figure.savefig("projections.png")`` writes it.

    Raises
    ------
    TypeError, ValueError
        Arguments that are not what is described above.

    Examples
    --------
    >>> import fastvi as fv
    >>> from fastvi.plotting import plot_projection
    >>> p = fv.GaussianMixture([0.3, 0.7], [[-3, 0], [3, 0]], [[[1, 0], [0, 1]]] * 2)
    >>> ax = plot_projection(p, m=fv.m_projection(p), i=fv.i_projection(p))
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['M-projection, KL(p‖q) = 0.466', 'I-projection, KL(q‖p) = 0.354', 'local optimum, KL(q‖p) = 1.2']
    """
    _plane(p)
    drawn: list[tuple[Gaussian, str, Any, str]] = []
    if m is not None:
        match = _projection("m", m)
        drawn.append((match.q, _M_COLOUR, "--", f"M-projection, KL(p‖q) = {match.kl:.3g}"))
    if i is not None:
        for k, optimum in enumerate(_projection("i", i).optima):
            name = "I-projection" if k == 0 else "local optimum"
            style = "-" if k == 0 else "-."
            colour = _I_COLOURS[k % len(_I_COLOURS)]
            drawn.append((optimum.q, colour, style, f"{name}, KL(q‖p) = {optimum.kl:.3g}"))
    ax = _axes(ax)
    window = _window(_gaussians(p), [q for q, *_ in drawn])
    _draw_density(ax, *_table(p, window))
    handles = []
    for q, colour, style, label in drawn:
        _draw_ellipses(ax, q, colour, style)
        handles.append(Line2D([], [], color=colour, linestyle=style, linewidth=2.2, label=label))
    ax.set_xlim(*window[0])
    ax.set_ylim(*window[1])
    ax.set_xlabel(labels[0])
    ax.set_ylabel(labels[1])
    if title:
        ax.set_title(title)
    if handles:
        # Below the axes, where it hides nothing.
        ax.legend(
            handles=handles,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.12),
            ncols=min(2, len(handles)),
            frameon=False,
        )
    return ax


def plot_grid(grid: Grid2D, ax: Axes | None = None, *, title: str | None = None) -> Axes:
    """Draw a tabulated density: colours for the normalised density, contours around shares of its mass.

    Parameters
    ----------
    grid : Grid2D
    ax : matplotlib Axes, optional
        Where to draw. Default: a new figure.
    title : str, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    TypeError
        Anything but a Grid2D.

    Examples
    --------
    >>> import fastvi as fv
    >>> from fastvi.plotting import plot_grid
    >>> ax = plot_grid(fv.Grid2D.from_distribution(fv.Gaussian([0, 0], [[1, 0.5], [0.5, 1]])))
    >>> ax.get_xlabel()
    'x'
    """
    if not isinstance(grid, Grid2D):
        raise TypeError(f"grid must be a Grid2D, not {type(grid).__name__}")
    ax = _axes(ax)
    density = np.exp(grid.normalized().logp)
    mesh = ax.pcolormesh(grid.x, grid.y, density.T, cmap="viridis", shading="nearest", rasterized=True)
    levels = _levels(density)
    ax.contour(grid.x, grid.y, density.T, levels=levels, colors="white", linewidths=0.6, alpha=0.7)
    figure = ax.figure
    assert isinstance(figure, Figure)
    figure.colorbar(mesh, ax=ax, label="density")
    ax.set_xlabel("x")
    ax.set_ylabel("y")
    if title:
        ax.set_title(title)
    return ax
