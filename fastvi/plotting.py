"""Pictures of densities, projections and fits.

They need matplotlib: ``pip install "fastvi[plot]"``. Figures are made without pyplot: no display is needed,
and matplotlib's global state does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse, Patch
from matplotlib.ticker import MaxNLocator

from .common.values import Array
from .distributions.gaussian import Gaussian
from .distributions.grid import Distribution, Grid2D
from .distributions.integrals import Estimate
from .distributions.mixture import GaussianMixture
from .distributions.support import Support
from .distributions.variational import TransformedGaussian, TruncatedGaussian, Variational, latent_of
from .em.result import MixtureFit
from .inference.evidence import decompose, log_evidence
from .inference.evidence_maximization import ThetaFit
from .inference.kernel_calls import QUADRATURE_DIM
from .inference.model import Model
from .inference.results import Fit, q_of
from .inference.starts import laplace_start
from .kernels.models.kinds import CORRELATION, INTERVAL, LOWER, ORDERED, SIMPLEX, UPPER
from .projections.result import Projection

#: Colours of the palette of Okabe and Ito, which the colour-blind can tell apart.
_M_COLOUR = "#d55e00"
_I_COLOURS = ("#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

#: Shares of the mass that contours enclose.
_SHARES = (0.95, 0.8, 0.6, 0.4, 0.2, 0.05)

#: Line styles of several q, so that equal ones are both visible.
_STYLES: tuple[Any, ...] = ("-", "--", "-.", ":")

#: Quantiles of p and of each q between which a picture extends, for each coordinate.
_QUANTILES = (0.004, 0.996)

#: Components with less than this part of the largest weight do not extend a picture.
_LEAST_WEIGHT = 1e-3

#: Half widths of a picture, in standard deviations of the parts of p, and of the Gaussians whose ellipses it
#: shows.
_REACH_OF_PARTS, _REACH_OF_ELLIPSES = 3.2, 2.3


def row_of_axes(count: int, size: tuple[float, float]) -> list[Axes]:
    """Axes side by side on a figure of that size in inches, which needs no display."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return [figure.add_subplot(1, count, k + 1) for k in range(count)]


def _axes(ax: Axes | None) -> Axes:
    return row_of_axes(1, (7.0, 5.6))[0] if ax is None else ax


def _legend_below(ax: Axes, handles: Sequence[Artist], columns: int) -> None:
    """A legend below the axes, where it covers no curve."""
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=columns, frameon=False)


def _gaussians(p: Distribution) -> list[Gaussian]:
    if isinstance(p, Gaussian):
        return [p]
    if isinstance(p, GaussianMixture):
        heavy = p.weights > _LEAST_WEIGHT * p.weights.max()
        return [part for part, keep in zip(p.components, heavy, strict=True) if keep]
    return [Gaussian(p.mean, p.cov)]


def _window(parts: Sequence[Gaussian], drawn: Sequence[Gaussian]) -> list[tuple[float, float]]:
    """The range of each coordinate, around all parts of p and all ellipses."""
    gaussians = [*parts, *drawn]
    widths = [_REACH_OF_PARTS] * len(parts) + [_REACH_OF_ELLIPSES] * len(drawn)
    reach = [w * np.sqrt(np.diag(g.cov)) for w, g in zip(widths, gaussians, strict=True)]
    low = np.min([g.mean - r for g, r in zip(gaussians, reach, strict=True)], axis=0)
    high = np.max([g.mean + r for g, r in zip(gaussians, reach, strict=True)], axis=0)
    return [(float(low[k]), float(high[k])) for k in range(2)]


def _levels(density: Array) -> Array:
    """The density on the contours that enclose `_SHARES` of the mass, lowest first."""
    heights = np.sort(density.ravel())[::-1]
    mass = np.cumsum(heights)
    levels = [heights[min(np.searchsorted(mass, share * mass[-1]), heights.size - 1)] for share in _SHARES]
    return np.unique(levels)


def _draw_density(ax: Axes, x: Array, y: Array, density: Array) -> None:
    levels = _levels(density)
    if levels.size > 1:
        ax.contourf(x, y, density.T, levels=[*levels, density.max() * 1.0001], cmap="Greys", alpha=0.55)
    ax.contour(x, y, density.T, levels=levels, colors="0.45", linewidths=0.7)


def draw_ellipses(ax: Axes, q: Gaussian, colour: str, style: Any, sizes: Sequence[int] = (1, 2)) -> None:
    """Draw the mean of a 2-D Gaussian, and its ellipses at `sizes` standard deviations."""
    values, vectors = np.linalg.eigh(q.cov)
    angle = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
    for k in sizes:
        width = 2.2 if k == 1 else 1.3
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
    """Draw a density as grey contours, and over it the 1- and 2-sigma ellipses of its projections.

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
        draw_ellipses(ax, q, colour, style)
        handles.append(Line2D([], [], color=colour, linestyle=style, linewidth=2.2, label=label))
    ax.set_xlim(*window[0])
    ax.set_ylim(*window[1])
    ax.set_xlabel(labels[0])
    ax.set_ylabel(labels[1])
    if title:
        ax.set_title(title)
    if handles:
        _legend_below(ax, handles, min(2, len(handles)))
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


def _completed(support: Support, free: Array) -> tuple[Array, Array]:
    """Points (N, D) from the coordinates that the density is of; which are in the support."""
    columns: list[Array] = []
    inside = np.ones(len(free), bool)
    left: Any = 1.0
    for x, kind, (low, high) in zip(free.T, support.kinds, support.bounds, strict=True):
        if kind == ORDERED:
            inside &= x > columns[-1]
        if kind == CORRELATION:  # in up to two dimensions the factor has two rows
            columns += [np.ones(len(x)), np.zeros(len(x)), x, np.sqrt(np.clip(1.0 - x * x, 0.0, None))]
            inside &= abs(x) < 1.0
            continue
        columns.append(x)
        if kind == SIMPLEX:
            left = left - x
            inside &= (x > 0.0) & (left > 0.0)
            if low == 1.0:
                columns.append(left)
                left = 1.0
        else:
            inside &= (kind not in (LOWER, INTERVAL)) | (x > low)
            inside &= (kind not in (UPPER, INTERVAL)) | (x < high)
    return np.column_stack(columns), inside


def _free(support: Support) -> list[int]:
    """Indices of the coordinates that `_completed` takes."""
    where, k = [], 0
    for kind, (low, _) in zip(support.kinds, support.bounds, strict=True):
        where.append(k + 2 if kind == CORRELATION else k)
        k += 4 if kind == CORRELATION else 2 if kind == SIMPLEX and low == 1.0 else 1
    return where


def _log_q(support: Support, q: Variational, z: Array) -> Array:
    """log q at points inside the support, vectorised: `q.logpdf` transforms them one by one."""
    if not isinstance(q, TransformedGaussian):
        return np.atleast_1d(q.logpdf(z))
    latent = support.to_latent("z", z)
    return np.atleast_1d(q.gaussian.logpdf(latent)) - support.to_model(latent)[1]


def _lattice(support: Support, q: Variational) -> tuple[Array, Array]:
    """Points (N, D) of a lattice around q, and the logarithms of their volumes."""
    if isinstance(q, TruncatedGaussian):
        sd = float(np.sqrt(q.cov[0, 0]))
        low, high = max(q.low, q.mean[0] - 12.0 * sd), min(q.high, q.mean[0] + 12.0 * sd)
        return np.linspace(low, high, 401)[:, None], np.zeros(401)
    gaussian = latent_of(q)
    assert isinstance(gaussian, Gaussian)  # decompose takes no mixture
    t = np.linspace(-8.0, 8.0, 401 if gaussian.dim == 1 else 81)
    noise = np.stack(np.meshgrid(*([t] * gaussian.dim), indexing="ij"), axis=-1).reshape(-1, gaussian.dim)
    return support.to_model(gaussian.mean + noise @ gaussian.cholesky.T)


def _visible_range(model: Model, fits: Sequence[Fit]) -> list[tuple[float, float]]:
    """The range of each free coordinate that holds most of the mass of the posterior and of every q."""
    support = model._support
    free = _free(support)
    # Laplace's approximation locates the posterior, which a bad q need not.
    laplace = q_of(model, *laplace_start(model, None))
    densities: list[tuple[Variational, Callable[[Array], Array]]] = [(laplace, model.log_density)]
    densities += [(fit.q, partial(_log_q, support, fit.q)) for fit in fits]
    ends = []
    for q, log_density in densities:
        z, log_volumes = _lattice(support, q)
        z, inside = _completed(support, z[:, free])
        log_mass = log_density(z[inside]) + log_volumes[inside]
        mass = np.exp(log_mass - log_mass.max())
        for x in z[inside][:, free].T:
            order = np.argsort(x)
            share = np.cumsum(mass[order])
            ends.append(x[order][np.searchsorted(share, np.array(_QUANTILES) * share[-1])])
    each = np.reshape(ends, (len(densities), len(free), 2))
    low, high = each[..., 0].min(axis=0), each[..., 1].max(axis=0)
    room = 0.12 * (high - low)
    return [(float(a), float(b)) for a, b in zip(low - room, high + room, strict=True)]


def _divergence(kl: Estimate) -> str:
    return f"= {kl.value:.3g}" if kl.value > 10.0 * kl.error else f"< {max(10.0 * kl.error, 1e-15):.0e}"


def _fits(fit: Any) -> list[Fit]:
    given = list(fit) if isinstance(fit, Sequence) else [fit]
    fits = [one.fit if isinstance(one, ThetaFit) else one for one in given]
    for k, one in enumerate(fits):
        if not isinstance(one, Fit):
            name = "fit" if given[0] is fit else f"fit[{k}]"
            raise TypeError(f"{name} must be a Fit, not {type(one).__name__}")
        if one.model is not fits[0].model:
            raise ValueError(f"fit[{k}] is of another model than fit[0]: they have no posterior in common")
    if not fits:
        raise ValueError("fit is empty")
    return fits


def plot_posterior(
    fit: Fit | ThetaFit | Sequence[Fit],
    ax: Axes | None = None,
    *,
    labels: tuple[str, ...] = ("z₁", "z₂"),
    title: str | None = None,
) -> Axes:
    r"""Draw q over the exact posterior, in the model's own coordinates.

    .. math:: p(z \mid x) = \exp(\log p(x, z) - \log p(x))

    Parameters
    ----------
    fit : Fit, ThetaFit or sequence of Fit
        Of a model in up to two latent dimensions; several are of one model.
    ax : matplotlib Axes, optional
        Where to draw. Default: a new figure.
    labels : tuple of str, optional
        Names of the coordinates.
    title : str, optional

    Returns
    -------
    matplotlib Axes
        In one dimension the exact density is a grey curve, each q a coloured one. In two they are contours,
        which enclose 5, 20, 40, 60, 80 and 95 % of the mass. The last coordinate of a simplex is not drawn.
        The legend tells log p(x), and for each q its ELBO and its divergence from the posterior.

    Raises
    ------
    TypeError, ValueError
        Arguments that are not what is described above; a posterior that is improper.

    Examples
    --------
    >>> import math
    >>> import fastvi as fv
    >>> from fastvi.plotting import plot_posterior
    >>> def log_joint(z, x):
    ...     return -z[0] - 0.5 * (x - z[0]) ** 2 - 0.5 * math.log(2 * math.pi)
    >>> ax = plot_posterior(fv.fit(fv.Model(log_joint, 1, data=(2.0,), support="positive")))
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['posterior, log p(x) = -1.67275', 'q (full, transformed): ELBO = -1.83018, KL = 0.157']
    """
    fits = _fits(fit)
    model = fits[0].model
    support = model._support
    if support.latent_dim > QUADRATURE_DIM:
        raise ValueError(
            f"only posteriors in up to {QUADRATURE_DIM} latent dimensions can be drawn; "
            f"the model has {support.latent_dim}"
        )
    parts = [decompose(model, one.q) for one in fits]
    evidence = parts[0].log_evidence
    if not np.isfinite(evidence.value):
        raise ValueError(f"the posterior cannot be drawn: {evidence.note}")
    window = _visible_range(model, fits)
    lines = [np.linspace(low, high, 1001 if len(window) == 1 else 201) for low, high in window]
    grid = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, len(window))
    z, inside = _completed(support, grid)
    shape = [line.size for line in lines]

    def density(log_values: Array) -> Array:
        values = np.zeros(len(z))
        values[inside] = np.exp(log_values)
        return values.reshape(shape)

    exact = density(model.log_density(z[inside]) - evidence.value)
    ax = _axes(ax)
    handles: list[Artist] = []
    told = f"posterior, log p(x) = {evidence.value:.6g}"
    if len(window) == 1:
        ax.fill_between(lines[0], exact, color="0.88", linewidth=0.0)
        handles += ax.plot(lines[0], exact, color="0.6", linewidth=5.0, label=told)
        ax.set_ylabel("density")
    else:
        _draw_density(ax, lines[0], lines[1], exact)
        handles.append(Patch(facecolor="0.7", edgecolor="0.45", label=told))
        ax.set_ylabel(labels[1])
    for k, (one, (_, bound, kl)) in enumerate(zip(fits, parts, strict=True)):
        colour, style = _I_COLOURS[k % len(_I_COLOURS)], _STYLES[k % len(_STYLES)]
        family = one.family + (", transformed" if isinstance(one.q, TransformedGaussian) else "")
        told = f"q ({family}): ELBO = {bound.value:.6g}, KL {_divergence(kl)}"
        values = density(_log_q(support, one.q, z[inside]))
        if len(window) == 1:
            handles += ax.plot(lines[0], values, color=colour, linestyle=style, linewidth=1.8, label=told)
        else:
            levels = _levels(values)
            ax.contour(*lines, values.T, levels=levels, colors=colour, linestyles=style, linewidths=1.3)
            handles.append(Line2D([], [], color=colour, linestyle=style, linewidth=1.8, label=told))
    ax.set_xlim(*window[0])
    ax.set_ylim(*(window[1] if len(window) == 2 else (0.0, None)))
    ax.set_xlabel(labels[0])
    if title:
        ax.set_title(title)
    _legend_below(ax, handles, 1)
    return ax


def plot_trace(fit: Fit | ThetaFit | MixtureFit, ax: Axes | None = None, *, title: str | None = None) -> Axes:
    """Draw the trace of the ELBO of a fit, and the log evidence where quadrature gives it.

    Parameters
    ----------
    fit : Fit, ThetaFit or MixtureFit
        The log evidence is drawn for models in up to two latent dimensions; for a ThetaFit it is that of the
        parameters found. The ELBO of a MixtureFit is the log evidence, whose q is exact at every iteration.
    ax : matplotlib Axes, optional
        Where to draw. Default: a new figure.
    title : str, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    TypeError
        Anything but a fit.

    Examples
    --------
    >>> import math
    >>> import fastvi as fv
    >>> from fastvi.plotting import plot_trace
    >>> def log_joint(z, x):
    ...     return -z[0] - 0.5 * (x - z[0]) ** 2 - 0.5 * math.log(2 * math.pi)
    >>> ax = plot_trace(fv.fit(fv.Model(log_joint, 1, data=(2.0,), support="positive")))
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['ELBO, at the end -1.83018', 'log p(x) = -1.67275']
    """
    if not isinstance(fit, Fit | ThetaFit | MixtureFit):
        raise TypeError(f"fit must be a Fit, a ThetaFit or a MixtureFit, not {type(fit).__name__}")
    ax = _axes(ax)
    # The trace of a mixture begins with its start, those of the others with the first step.
    first = 0 if isinstance(fit, MixtureFit) else 1
    if isinstance(fit, MixtureFit):
        name, end, step = "log p(x) = ELBO", f"{fit.log_likelihood:.9g}", "iteration of EM"
    else:
        name, end = "ELBO", f"{fit.elbo.value:.6g}"
        if fit.elbo.method.startswith("draws"):
            end += f" ± {fit.elbo.error:.1g}"
        step = "round" if isinstance(fit, ThetaFit) else "step"
    (line,) = ax.plot(
        np.arange(first, first + fit.trace.size),
        fit.trace,
        color=_I_COLOURS[0],
        marker="o" if fit.trace.size <= 40 else "",
        markersize=4.0,
        linewidth=1.8,
        label=f"{name}, at the end {end}",
    )
    handles: list[Artist] = [line]
    if not isinstance(fit, MixtureFit):
        one = fit.fit if isinstance(fit, ThetaFit) else fit
        evidence = log_evidence(one.model) if one.model.latent_dim <= QUADRATURE_DIM else None
        if evidence is not None and np.isfinite(evidence.value):
            told = f"log p(x) = {evidence.value:.6g}"
            handles.append(ax.axhline(evidence.value, color="0.4", linestyle="--", label=told))
    ax.set_xlabel(step)
    ax.set_ylabel("nats")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if title:
        ax.set_title(title)
    _legend_below(ax, handles, 1)
    return ax
