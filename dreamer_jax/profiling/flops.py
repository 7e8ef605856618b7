"""Floating-point operations of a JAX function, counted from its program.

XLA's own count takes the body of a loop once, whatever its length; here a scan counts as often as it runs.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def count_flops(function: Callable, *arguments: Any) -> int:
    """Operations of matrix products and convolutions in `function(*arguments)`; a multiply-add is two.

    Nothing is computed or allocated: shapes are enough (`jax.ShapeDtypeStruct` will do). Of the branches of a condition the
    dearest counts; the body of a while loop, whose length nobody knows beforehand, counts once.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Any) -> int:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: Any) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        ((contracted, _), _) = parameters["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        outputs = kernel.shape[parameters["dimension_numbers"].rhs_spec[0]]
        return 2 * equation.outvars[0].aval.size * (kernel.size // outputs)
    inner = [_count(jaxpr) for jaxpr in _inner(parameters)]
    if name == "cond":
        return max(inner)
    return parameters.get("length", 1) * sum(inner) if name == "scan" else sum(inner)


def _inner(parameters: dict[str, Any]) -> Iterator[Any]:
    """The programs that an equation carries: bodies of loops, branches, compiled and differentiated functions."""
    for value in parameters.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            part = getattr(part, "jaxpr", part)  # a closed program wraps an open one
            if hasattr(part, "eqns"):
                yield part
