"""What is done with a family of q that is known by its code: the kernels that take `family`.

A family is a run-time integer, so that fits and projections are compiled once for all families. Each function
here is a chain of comparisons over `table.TABLE`: ``CODE`` is the code of a family,
``METHOD`` its function of the same name, and ``REST`` the chain over the families after it. The last is taken
without a comparison. Families without such a function are left out.

The parameters are D for the mean, then those of the factor. For Newton's method (`optimizers.newton`) the
latter are entries of T in factor (I + T); for fits on draws (`inference.draws_fits`) they are relative to the
coordinates (root, scale), and deviations are logarithms.
"""

from __future__ import annotations

from importlib import import_module

from ..compiler import exported, kernel, specialise
from .table import TABLE

CODE, METHOD, REST = -1, None, None

#: The end of a chain, by the number of arguments.
_LAST = (
    lambda family: METHOD(),
    lambda family, a: METHOD(a),
    lambda family, a, b: METHOD(a, b),
    lambda family, a, b, c: METHOD(a, b, c),
    lambda family, a, b, c, d: METHOD(a, b, c, d),
    lambda family, a, b, c, d, e: METHOD(a, b, c, d, e),
)


def _by_family(template, decorate=kernel):
    """The chain over the families that have a function of the template's name."""
    name = template.__name__
    modules = [import_module(f".{family.module}", __package__) for family in TABLE]
    methods = [(code, getattr(module, name)) for code, module in enumerate(modules) if hasattr(module, name)]
    _, method = methods.pop()
    chain = specialise(_LAST[template.__code__.co_argcount - 1], f"{name}_last", kernel, METHOD=method)
    for code, method in reversed(methods):
        bindings = {"CODE": code, "METHOD": method, "REST": chain}
        first = code == methods[0][0]
        chain = specialise(
            template, name if first else f"{name}_{code}", decorate if first else kernel, **bindings
        )
    return chain


def _exported_by_family(template):
    """The same for what the API calls as well."""
    return _by_family(template, exported)


@_by_family
def parameters(family, dim):
    """How many parameters a family has in D dimensions."""
    if family == CODE:
        return METHOD(dim)
    return REST(family, dim)


@_by_family
def has_diagonal_factor(family):
    """Whether the factors of its members are diagonal."""
    if family == CODE:
        return METHOD()
    return REST(family)


@_by_family
def metric(family, dim, out):
    """Write Fisher's information, which is diagonal, for the parameters of the factor."""
    if family == CODE:
        return METHOD(dim, out)
    return REST(family, dim, out)


@_by_family
def lay_out(family, dim, layout):
    """Write the T_ab that Newton's method takes derivatives by as (a, b), from row D; the number of rows."""
    if family == CODE:
        return METHOD(dim, layout)
    return REST(family, dim, layout)


@_by_family
def fold(family, dim, count, gradient, hessian):
    """Map the derivatives by the layout to those by the parameters, in place; the number of parameters."""
    if family == CODE:
        return METHOD(dim, count, gradient, hessian)
    return REST(family, dim, count, gradient, hessian)


@_by_family
def unfold(family, dim, count, step):
    """Map a step in the parameters to one in the layout, in place; the number of entries of the layout."""
    if family == CODE:
        return METHOD(dim, count, step)
    return REST(family, dim, count, step)


@_by_family
def unpack(family, point, root, scale, factor):
    """Write the factor that has these parameters."""
    if family == CODE:
        return METHOD(point, root, scale, factor)
    return REST(family, point, root, scale, factor)


@_by_family
def pack_gradient(family, point, root, factor, factor_gradient, gradient):
    """Write the gradient in the parameters from that in the factor, with minus the entropy's added."""
    if family == CODE:
        return METHOD(point, root, factor, factor_gradient, gradient)
    return REST(family, point, root, factor, factor_gradient, gradient)


@_by_family
def leave_out_entropy(family, dim, gradient):
    """Add the entropy's gradient, which `pack_gradient` subtracted."""
    if family == CODE:
        return METHOD(dim, gradient)
    return REST(family, dim, gradient)


@_exported_by_family
def start(family, scale):
    """Replace the conditional deviations of Laplace's approximation by those of the family's start."""
    if family == CODE:
        return METHOD(scale)
    return REST(family, scale)


@_exported_by_family
def restrict(family, chol, space):
    """Replace a covariance by its I-projection onto the family. `space` holds two vectors."""
    if family == CODE:
        return METHOD(chol, space)
    return REST(family, chol, space)


@_exported_by_family
def match(family, cov):
    """Replace a covariance by the factor of its M-projection; False where there is none."""
    if family == CODE:
        return METHOD(cov)
    return REST(family, cov)
