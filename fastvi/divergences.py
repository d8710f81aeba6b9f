"""Divergences of discrete distributions held in arrays.

Each has a row in `kernels.registry`, which says what checks its arguments need and which kernels compute it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import kernels, threads
from .discrete_docstrings import documented
from .distributions import Distribution
from .estimates import is_distribution, kl_value
from .kernels.masses import ANY
from .kernels.registry import HALVES, NO_THETA, ROWS, kernel_of
from .validation import (
    axis_index,
    explain,
    float_array,
    log_unit,
    mass_code,
    order_of,
    unit_of,
    weight_pair,
)

Result = Any  #: a float for 1-D input, an array otherwise

_ndarray = np.ndarray
_FLOAT64 = np.dtype(np.float64)
_FLOAT32 = np.dtype(np.float32)
_FIRST = np.zeros(1, np.intp)  #: the row numbers of a single pair


class _Pairing(NamedTuple):
    """Distributions as rows, and which row of `p` meets which row of `q`."""

    p: NDArray[Any]
    q: NDArray[Any]
    rows_p: NDArray[np.intp]
    rows_q: NDArray[np.intp]
    shape: tuple[int, ...]
    axis: int
    shape_p: tuple[int, ...]
    shape_q: tuple[int, ...]
    added_p: int  #: leading axes of length one that the argument did not have
    added_q: int


def _as_rows(array: NDArray[Any], axis: int, dtype: Any) -> tuple[NDArray[Any], tuple[int, ...]]:
    """A C-contiguous read-only (rows, n) array, copied only if it must be, and the shape of the rows.

    Read-only, because numba compiles a kernel apart for arrays that may be written: one type is enough.
    """
    moved = array if axis == -1 else np.moveaxis(array, axis, -1)
    rows = np.ascontiguousarray(moved, dtype=dtype).reshape(-1, moved.shape[-1]).view()
    rows.flags.writeable = False
    return rows, moved.shape[:-1]


def _row_numbers(shape: tuple[int, ...], broadcast: tuple[int, ...]) -> NDArray[np.intp]:
    numbers = np.arange(math.prod(shape), dtype=np.intp)
    if shape == broadcast:
        return numbers
    return np.ascontiguousarray(np.broadcast_to(numbers.reshape(shape), broadcast)).reshape(-1)


def _pair_up(p: ArrayLike, q: ArrayLike, axis: int) -> _Pairing:
    a, b = float_array("p", p), float_array("q", q)
    shapes = f"shapes {a.shape} of p and {b.shape} of q"
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError(f"p and q need at least one dimension: {shapes}")
    ndim = max(a.ndim, b.ndim)
    index = axis_index(axis, ndim, shapes)
    added_a, added_b = ndim - a.ndim, ndim - b.ndim
    a = a.reshape((1,) * added_a + a.shape)
    b = b.reshape((1,) * added_b + b.shape)
    if a.shape[index] != b.shape[index]:
        raise ValueError(f"p and q must have the same length along axis {axis}: {shapes}")
    if a.shape[index] == 0:
        raise ValueError(f"p and q are empty along axis {axis}: {shapes}")
    dtype = np.result_type(a, b)
    rows_p, lead_p = _as_rows(a, index, dtype)
    rows_q, lead_q = (rows_p, lead_p) if q is p else _as_rows(b, index, dtype)
    try:
        lead = np.broadcast_shapes(lead_p, lead_q)
    except ValueError:
        raise ValueError(f"p and q do not broadcast along the axes other than {axis}: {shapes}") from None
    numbers_p = _row_numbers(lead_p, lead)
    numbers_q = numbers_p if lead_p == lead_q else _row_numbers(lead_q, lead)
    return _Pairing(rows_p, rows_q, numbers_p, numbers_q, lead, index, lead_p, lead_q, added_a, added_b)


def _position(row: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(k) for k in np.unravel_index(row, shape)) if shape else ()


def _explain_pair(pair: _Pairing, k: int, code: int, log: bool, names: tuple[str, ...] = ("p", "q")) -> None:
    """Raise the error for pair number `k`, which a kernel has refused."""
    i, j = int(pair.rows_p[k]), int(pair.rows_q[k])
    rows = [
        (names[0], pair.p[i], _position(i, pair.shape_p)[pair.added_p :]),
        (names[-1], pair.q[j], _position(j, pair.shape_q)[pair.added_q :]),
    ]
    explain(rows[: len(names)], pair.axis, code, log)


def _blocks(rows: int, width: int) -> tuple[int, int]:
    """Rows per piece of work, and the number of pieces; they depend on the data alone."""
    # 32 pieces share out well; each costs 3 µs, which a smaller one would not earn back.
    size = max(1, threads.WORTHWHILE // 2 // width, -(-rows // 32))
    return size, -(-rows // size)


def _long(kernel: Any, p: NDArray[Any], q: NDArray[Any], theta: tuple[float, float], code: int) -> float:
    """One divergence of two long arrays, its chunks spread over the threads."""
    if kernel.partial is None or numba.get_num_threads() == 1:
        return kernel.whole(p, q, theta, code)  # type: ignore[no-any-return]
    chunks = -(-p.size // kernels.frames.CHUNK)
    per_piece = threads.WORTHWHILE // kernels.frames.CHUNK
    parts = np.empty((chunks, 3))

    def piece(i: int) -> None:
        first = i * per_piece
        kernel.partial(p, q, theta, first, min(chunks, first + per_piece), parts)

    threads.run(piece, -(-chunks // per_piece))
    return kernel.finish(p, q, parts, theta, code)  # type: ignore[no-any-return]


def _compute(
    name: str, pair: _Pairing, theta: tuple[float, float], code: int, log: bool
) -> NDArray[np.float64]:
    out = np.empty(pair.rows_p.size)
    width = pair.p.shape[1]
    kernel = kernels.divergences.KERNELS[name]
    if not log and width >= threads.WORTHWHILE:
        for k in range(out.size):
            out[k] = _long(kernel, pair.p[pair.rows_p[k]], pair.q[pair.rows_q[k]], theta, code)
        return out
    loop = (kernels.tables.LOG_ROWS if log else kernels.tables.ROWS)[name]
    size, pieces = _blocks(out.size, width)

    def block(i: int) -> None:
        rows = slice(i * size, (i + 1) * size)
        loop(pair.p, pair.q, pair.rows_p[rows], pair.rows_q[rows], theta, code, out[rows])

    threads.run(block, pieces)
    return out


def _shaped(values: NDArray[np.float64], pair: _Pairing, keepdims: bool) -> Result:
    result = values.reshape(pair.shape)
    if keepdims:
        return np.expand_dims(result, len(pair.shape) + 1 + pair.axis)
    return result if pair.shape else float(result)


def _plain(p: Any, q: Any) -> bool:
    """Whether p and q are 1-D arrays that the kernels take as they are.

    The general path takes 12 µs to look at shapes and axes; these need 1 µs beside the kernel's call.
    """
    return (
        type(p) is _ndarray
        and type(q) is _ndarray
        and p.ndim == 1
        and p.shape == q.shape
        and p.size > 0
        and p.dtype is q.dtype
        and (p.dtype is _FLOAT64 or p.dtype is _FLOAT32)
        and p.flags.carray
        and q.flags.carray
    )


def _quick(name: str, theta: tuple[float, float], p: Any, q: Any, code: int) -> float:
    """The result for two plain 1-D arrays, or NaN for anything else."""
    if _plain(p, q):
        if p.size < threads.WORTHWHILE:
            return kernels.divergences.KERNELS[name].whole(p, q, theta, code)  # type: ignore[no-any-return]
        p, q = p.view(), q.view()
        p.flags.writeable = q.flags.writeable = False
        return _long(kernels.divergences.KERNELS[name], p, q, theta, code)
    return math.nan


def _divergence(
    name: str,
    theta: tuple[float, float],
    p: ArrayLike,
    q: ArrayLike,
    axis: int,
    base: float | None,
    mass: str,
    log: bool,
    keepdims: bool,
) -> Result:
    """The divergence of a row, for valid parameters `theta`."""
    row = ROWS[name]
    code = mass_code(row, mass)
    unit = 1.0 if base is None else unit_of(row, base)
    # Most have their own kernels; a call of `kernel_of` would take 5 % of one with 16 entries.
    kernel = name if theta is NO_THETA and not row.kernel else kernel_of(row, theta)
    if not log and not keepdims and axis == -1:
        value = _quick(kernel, theta, p, q, code)
        if value == value:
            return value / unit
    pair = _pair_up(p, q, axis)
    values = _compute(kernel, pair, theta, code, bool(log))
    refused = np.isnan(values)
    if refused.any():
        _explain_pair(pair, int(np.argmax(refused)), code, bool(log), ("p", "q")[: row.arrays])
    if unit != 1.0:
        values /= unit
    return _shaped(values, pair, keepdims)


@documented
def kl(
    p: ArrayLike | Distribution,
    q: ArrayLike | Distribution,
    *,
    axis: int = -1,
    base: float | None = None,
    mass: str = "unit",
    log: bool = False,
    keepdims: bool = False,
) -> Result:
    r"""Kullback-Leibler divergence of `q` from `p`.

    .. math:: \mathrm{KL}(p \,\|\, q) = \sum_i p_i \log \frac{p_i}{q_i} \ge 0

    with 0 log 0 = 0, and infinite where some p_i > 0 = q_i.

    Parameters
    ----------
    p, q : array_like, or two distributions
        Probabilities. A distribution lies along `axis`; the other axes broadcast (without a copy).
        float32, float64 or integers; float32 is summed in float64. Two of `Gaussian`, `GaussianMixture`
        and `Grid2D` give the integral over densities instead of the sum: the value of `kl_estimate`.
    %(keywords)s

    Returns
    -------
    float or ndarray
        The divergence, in nats unless `base` says otherwise.
        %(returned)s

    Raises
    ------
    %(raises)s

    Notes
    -----
    With ``mass="any"`` it is the generalised divergence sum p log(p/q) - p + q >= 0.

    The relative error is below 1e-13 (1e-6 for float32) also for p close to q; the sum has no negative
    terms: p log(p/q) - p + q = (p + q) s**2 (1 + (1 + s)(s/3 + s**3/5 + ...)), s = (p - q)/(p + q).
    Inside a function compiled with `numba.njit` the same call works on 1-D arrays; invalid input gives NaN
    there.

    References
    ----------
    S. Kullback, R. A. Leibler, On Information and Sufficiency, Ann. Math. Statist. 22 (1951), eq. 2.4.
    Generalised: I. Csiszar, Why Least Squares and Maximum Entropy?, Ann. Statist. 19 (1991), section 1.

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.kl([0.5, 0.5], [0.9, 0.1]), 12)
    0.510825623766
    >>> fv.kl([[3, 1], [2, 2]], [1, 1], mass="normalize", base=2)
    array([0.18872188, 0.        ])
    >>> fv.kl(fv.Gaussian([0, 0], [[1, 0], [0, 1]]), fv.Gaussian([1, 1], [[1, 0], [0, 1]]))
    1.0
    """
    if (type(p) is not _ndarray and is_distribution(p)) or (type(q) is not _ndarray and is_distribution(q)):
        if (axis, mass, log, keepdims) != (-1, "unit", False, False):
            raise ValueError("axis, mass, log and keepdims are for arrays; p and q are distributions")
        return kl_value(p, q) / log_unit(base)
    return _divergence("kl", NO_THETA, p, q, axis, base, mass, log, keepdims)  # type: ignore[arg-type]


@documented
def entropy(
    p: ArrayLike,
    *,
    axis: int = -1,
    base: float | None = None,
    mass: str = "unit",
    log: bool = False,
    keepdims: bool = False,
) -> Result:
    r"""Shannon entropy.

    .. math:: H(p) = -\sum_i p_i \log p_i

    Parameters
    ----------
    %(p)s
    %(keywords)s

    Returns
    -------
    float or ndarray
        The entropy, in nats unless `base` says otherwise.
        %(returned)s

    Raises
    ------
    %(raises)s

    Notes
    -----
    With ``mass="any"`` the sum is taken as it stands, and can be negative where p > 1.

    References
    ----------
    C. E. Shannon, A Mathematical Theory of Communication, Bell Syst. Tech. J. 27 (1948), section 6.

    Examples
    --------
    >>> import fastvi as fv
    >>> fv.entropy([0.5, 0.25, 0.25], base=2)
    1.5
    """
    return _divergence("entropy", NO_THETA, p, p, axis, base, mass, log, keepdims)


@documented
def cross_entropy(
    p: ArrayLike,
    q: ArrayLike,
    *,
    axis: int = -1,
    base: float | None = None,
    mass: str = "unit",
    log: bool = False,
    keepdims: bool = False,
) -> Result:
    r"""Cross-entropy of `q` under `p`.

    .. math:: H(p, q) = -\sum_i p_i \log q_i = H(p) + \mathrm{KL}(p \,\|\, q)

    Parameters
    ----------
    %(p_q)s
    %(keywords)s

    Returns
    -------
    float or ndarray
        The cross-entropy, in nats unless `base` says otherwise; infinite where some p_i > 0 = q_i.
        %(returned)s

    Raises
    ------
    %(raises)s

    Notes
    -----
    With ``mass="any"`` the sum is taken as it stands.

    References
    ----------
    K. P. Murphy, Probabilistic Machine Learning: An Introduction (2022), section 6.1.2.

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.cross_entropy([0.5, 0.5], [0.25, 0.75], base=2), 12)
    1.207518749639
    """
    return _divergence("cross_entropy", NO_THETA, p, q, axis, base, mass, log, keepdims)


@documented
def js(
    p: ArrayLike,
    q: ArrayLike,
    *,
    weights: tuple[float, float] = HALVES,
    axis: int = -1,
    base: float | None = None,
    mass: str = "unit",
    log: bool = False,
    keepdims: bool = False,
) -> Result:
    r"""Jensen-Shannon divergence.

    .. math:: \mathrm{JSD}(p, q) = w_1 \mathrm{KL}(p \,\|\, m) + w_2 \mathrm{KL}(q \,\|\, m),
              \quad m = w_1 p + w_2 q

    Parameters
    ----------
    %(p_q)s
    weights : tuple of float, optional
        Two positive weights that sum to one. Default: one half each.
    %(keywords)s

    Returns
    -------
    float or ndarray
        The divergence, in nats unless `base` says otherwise: from 0 to the entropy of the weights (log 2).
        %(returned)s

    Raises
    ------
    %(raises)s

    Notes
    -----
    With ``mass="any"`` the formula is taken as it stands; it is >= 0 for measures too.

    Lecture notes often write p + q for m. That un-halved sum is JSD - log 2, and negative.

    `scipy.spatial.distance.jensenshannon` gives the square root, `js_distance`.

    References
    ----------
    J. Lin, Divergence Measures Based on the Shannon Entropy, IEEE Trans. Inf. Theory 37 (1991), eq. 4.1.

    Examples
    --------
    >>> import fastvi as fv
    >>> fv.js([1.0, 0.0], [0.0, 1.0], base=2)
    1.0
    """
    return _divergence("js", weight_pair(weights), p, q, axis, base, mass, log, keepdims)


@documented
def js_distance(
    p: ArrayLike,
    q: ArrayLike,
    *,
    weights: tuple[float, float] = HALVES,
    axis: int = -1,
    base: float | None = None,
    mass: str = "unit",
    log: bool = False,
    keepdims: bool = False,
) -> Result:
    r"""Jensen-Shannon distance, a metric.

    .. math:: \sqrt{\mathrm{JSD}(p, q)}

    Parameters
    ----------
    %(p_q)s
    weights : tuple of float, optional
        Two positive weights that sum to one. Default: one half each, for which it is a metric.
    %(keywords)s

    Returns
    -------
    float or ndarray
        The distance: the square root of the divergence in the units of `base`.
        %(returned)s

    Raises
    ------
    %(raises)s

    References
    ----------
    D. M. Endres, J. E. Schindelin, A New Metric for Probability Distributions, IEEE Trans. Inf. Theory 49
    (2003), theorem 1.

    Examples
    --------
    >>> import fastvi as fv
    >>> fv.js_distance([1.0, 0.0], [0.0, 1.0], base=2)
    1.0
    """
    return _divergence("js_distance", weight_pair(weights), p, q, axis, base, mass, log, keepdims)


@documented
def jeffreys(
    p: ArrayLike,
    q: ArrayLike,
    *,
    axis: int = -1,
    base: float | None = None,
    mass: str = "unit",
    log: bool = False,
    keepdims: bool = False,
) -> Result:
    r"""Jeffreys divergence, the sum of both Kullback-Leibler divergences.

    .. math:: J(p, q) = \mathrm{KL}(p \,\|\, q) + \mathrm{KL}(q \,\|\, p)
              = \sum_i (p_i - q_i) \log\frac{p_i}{q_i}

    Parameters
    ----------
    %(p_q)s
    %(keywords)s

    Returns
    -------
    float or ndarray
        The divergence, in nats unless `base` says otherwise; infinite where exactly one of p_i, q_i is 0.
        %(returned)s

    Raises
    ------
    %(raises)s

    References
    ----------
    H. Jeffreys, An Invariant Form for the Prior Probability in Estimation Problems, Proc. R. Soc. A 186
    (1946).

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.jeffreys([0.5, 0.5], [0.9, 0.1]), 12)
    0.878889830934
    """
    return _divergence("jeffreys", NO_THETA, p, q, axis, base, mass, log, keepdims)


@documented
def hellinger(
    p: ArrayLike,
    q: ArrayLike,
    *,
    axis: int = -1,
    base: None = None,
    mass: str = "unit",
    log: bool = False,
    keepdims: bool = False,
) -> Result:
    r"""Hellinger distance, a metric.

    .. math:: H(p, q) = \sqrt{\tfrac12 \sum_i (\sqrt{p_i} - \sqrt{q_i})^2}

    Parameters
    ----------
    %(p_q)s
    %(keywords)s

    Returns
    -------
    float or ndarray
        The distance, from 0 to 1 for distributions.
        %(returned)s

    Raises
    ------
    %(raises)s

    References
    ----------
    A. B. Tsybakov, Introduction to Nonparametric Estimation (2009), definition 2.3 (there without the 1/2).

    Examples
    --------
    >>> import fastvi as fv
    >>> fv.hellinger([1.0, 0.0], [0.0, 1.0])
    1.0
    """
    return _divergence("hellinger", NO_THETA, p, q, axis, base, mass, log, keepdims)


@documented
def total_variation(
    p: ArrayLike,
    q: ArrayLike,
    *,
    axis: int = -1,
    base: None = None,
    mass: str = "unit",
    log: bool = False,
    keepdims: bool = False,
) -> Result:
    r"""Total variation distance, a metric.

    .. math:: \mathrm{TV}(p, q) = \tfrac12 \sum_i |p_i - q_i|

    Parameters
    ----------
    %(p_q)s
    %(keywords)s

    Returns
    -------
    float or ndarray
        The distance, from 0 to 1 for distributions.
        %(returned)s

    Raises
    ------
    %(raises)s

    References
    ----------
    A. B. Tsybakov, Introduction to Nonparametric Estimation (2009), lemma 2.1.

    Examples
    --------
    >>> import fastvi as fv
    >>> fv.total_variation([0.5, 0.5], [0.75, 0.25])
    0.25
    """
    return _divergence("total_variation", NO_THETA, p, q, axis, base, mass, log, keepdims)


@documented
def chi2(
    p: ArrayLike,
    q: ArrayLike,
    *,
    axis: int = -1,
    base: None = None,
    mass: str = "unit",
    log: bool = False,
    keepdims: bool = False,
) -> Result:
    r"""Pearson chi-square divergence.

    .. math:: \chi^2(p \,\|\, q) = \sum_i \frac{(p_i - q_i)^2}{q_i}

    Parameters
    ----------
    %(p_q)s
    %(keywords)s

    Returns
    -------
    float or ndarray
        The divergence; infinite where some p_i > 0 = q_i, or where the sum exceeds the largest float.
        %(returned)s

    Raises
    ------
    %(raises)s

    References
    ----------
    A. B. Tsybakov, Introduction to Nonparametric Estimation (2009), section 2.4.

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.chi2([0.5, 0.5], [0.75, 0.25]), 12)
    0.333333333333
    """
    return _divergence("chi2", NO_THETA, p, q, axis, base, mass, log, keepdims)


@documented
def bhattacharyya(
    p: ArrayLike,
    q: ArrayLike,
    *,
    axis: int = -1,
    base: float | None = None,
    mass: str = "unit",
    log: bool = False,
    keepdims: bool = False,
) -> Result:
    r"""Bhattacharyya distance.

    .. math:: D_B(p, q) = -\log \sum_i \sqrt{p_i q_i}

    Parameters
    ----------
    %(p_q)s
    %(keywords)s

    Returns
    -------
    float or ndarray
        The distance, in nats unless `base` says otherwise; infinite where p and q have no common support.
        %(returned)s

    Raises
    ------
    %(raises)s

    References
    ----------
    T. Kailath, The Divergence and Bhattacharyya Distance Measures in Signal Selection, IEEE Trans. Commun.
    Technol. 15 (1967), section II.

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.bhattacharyya([0.5, 0.5], [0.9, 0.1]), 12)
    0.111571775657
    """
    return _divergence("bhattacharyya", NO_THETA, p, q, axis, base, mass, log, keepdims)


@documented
def renyi(
    p: ArrayLike,
    q: ArrayLike,
    alpha: float,
    *,
    axis: int = -1,
    base: float | None = None,
    mass: str = "unit",
    log: bool = False,
    keepdims: bool = False,
) -> Result:
    r"""Renyi divergence of order alpha.

    .. math:: D_\alpha(p \,\|\, q) = \frac{1}{\alpha - 1} \log \sum_i p_i^\alpha q_i^{1 - \alpha}

    with its limits: -log of the q-mass of the support of p for alpha = 0, KL(p‖q) for alpha = 1, and
    log max p_i / q_i for alpha = inf.

    Parameters
    ----------
    %(p_q)s
    alpha : float
        The order, from 0 to infinity, both included.
    %(keywords)s

    Returns
    -------
    float or ndarray
        The divergence, in nats unless `base` says otherwise. It grows with alpha; twice the Bhattacharyya
        distance for alpha = 1/2.
        %(returned)s

    Raises
    ------
    %(raises)s

    References
    ----------
    T. van Erven, P. Harremoes, Renyi Divergence and Kullback-Leibler Divergence, IEEE Trans. Inf. Theory 60
    (2014), eq. 1 and theorems 4 to 6.

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.renyi([0.5, 0.5], [0.75, 0.25], 2), 12)
    0.287682072452
    >>> fv.renyi([0.5, 0.5], [0.75, 0.25], float("inf"), base=2)
    1.0
    """
    theta = order_of(ROWS["renyi"], alpha), 0.0
    return _divergence("renyi", theta, p, q, axis, base, mass, log, keepdims)


@documented
def alpha_divergence(
    p: ArrayLike,
    q: ArrayLike,
    alpha: float,
    *,
    axis: int = -1,
    base: None = None,
    mass: str = "unit",
    log: bool = False,
    keepdims: bool = False,
) -> Result:
    r"""Alpha-divergence.

    .. math:: D_\alpha(p \,\|\, q) =
              \frac{\sum_i p_i^\alpha q_i^{1-\alpha} - \alpha p_i + (\alpha - 1) q_i}{\alpha (\alpha - 1)}

    with its limits KL(p‖q) for alpha = 1 and KL(q‖p) for alpha = 0.

    Parameters
    ----------
    %(p_q)s
    alpha : float
        The order, any finite number. 1/2 gives four times the squared Hellinger distance, 2 and -1 half the
        chi-square divergence in the two directions.
    %(keywords)s

    Returns
    -------
    float or ndarray
        The divergence.
        %(returned)s

    Raises
    ------
    %(raises)s

    References
    ----------
    A. Cichocki, S. Amari, Families of Alpha- Beta- and Gamma-Divergences, Entropy 12 (2010), section 2.

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.alpha_divergence([0.5, 0.5], [0.75, 0.25], 2), 12)
    0.166666666667
    """
    theta = order_of(ROWS["alpha_divergence"], alpha), 0.0
    return _divergence("alpha_divergence", theta, p, q, axis, base, mass, log, keepdims)


@documented
def kl_grad(
    p: ArrayLike, q: ArrayLike, *, axis: int = -1
) -> tuple[Result, NDArray[np.float64], NDArray[np.float64]]:
    r"""Generalised Kullback-Leibler divergence and its gradient.

    .. math:: D = \sum_i p_i \log\frac{p_i}{q_i} - p_i + q_i, \quad
              \frac{\partial D}{\partial p_i} = \log\frac{p_i}{q_i}, \quad
              \frac{\partial D}{\partial q_i} = 1 - \frac{p_i}{q_i}

    The arrays are taken as measures (``mass="any"`` of `kl`), since a gradient step leaves the simplex. On
    the simplex D is KL(p‖q), and the gradients differ from those of sum p log(p/q) by a constant vector.

    Parameters
    ----------
    p, q : array_like
        Non-negative numbers along `axis`; the other axes broadcast.
    axis : int, optional
        The axis of the distributions. Default: the last.

    Returns
    -------
    value : float or ndarray
        The divergence in nats, as `kl` with ``mass="any"`` gives it.
    grad_p, grad_q : ndarray
        The gradients, in the broadcast shape of `p` and `q`. Where exactly one of p_i, q_i is 0 they are
        the (infinite) one-sided limits; where both are 0 they are 0.

    Raises
    ------
    %(raises)s

    References
    ----------
    I. Csiszar, Why Least Squares and Maximum Entropy?, Ann. Statist. 19 (1991), section 1.

    Examples
    --------
    >>> import fastvi as fv
    >>> value, grad_p, grad_q = fv.kl_grad([0.5, 0.5], [0.25, 0.75])
    >>> grad_q
    array([-1.        ,  0.33333333])
    """
    if axis == -1 and _plain(p, q):
        rows_p, rows_q = p.reshape(1, -1), q.reshape(1, -1)  # type: ignore[union-attr]
        rows_p.flags.writeable = rows_q.flags.writeable = False
        values, gradients = np.empty(1), np.empty((2, 1, p.size))  # type: ignore[union-attr]
        kernels.tables.kl_grad_rows(rows_p, rows_q, _FIRST, _FIRST, values, *gradients)
        if values[0] == values[0]:
            return float(values[0]), gradients[0, 0], gradients[1, 0]
    pair = _pair_up(p, q, axis)
    count, width = pair.rows_p.size, pair.p.shape[1]
    values = np.empty(count)
    # One array: of two, glibc returns the memory to the system each time (1e6 entries: 5.6 ms, not 2.3).
    grad_p, grad_q = np.empty((2, count, width))
    size, pieces = _blocks(count, width)

    def block(i: int) -> None:
        rows = slice(i * size, (i + 1) * size)
        pairs = pair.rows_p[rows], pair.rows_q[rows]
        kernels.tables.kl_grad_rows(pair.p, pair.q, *pairs, values[rows], grad_p[rows], grad_q[rows])

    threads.run(block, pieces)
    refused = np.isnan(values)
    if refused.any():
        _explain_pair(pair, int(np.argmax(refused)), ANY, False)
    shape = (*pair.shape, width)
    grads = [np.moveaxis(g.reshape(shape), -1, pair.axis) for g in (grad_p, grad_q)]
    return _shaped(values, pair, False), grads[0], grads[1]


__all__ = [
    "alpha_divergence",
    "bhattacharyya",
    "chi2",
    "cross_entropy",
    "entropy",
    "hellinger",
    "jeffreys",
    "js",
    "js_distance",
    "kl",
    "kl_grad",
    "renyi",
    "total_variation",
]
