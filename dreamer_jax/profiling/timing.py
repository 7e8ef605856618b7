"""Times of calls, and what this machine can do at best."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

MATMUL_SIZE = 2048  # rows and columns
Timing = dict[str, float]  # median, min and max [s], and the number of calls


def timed(call: Callable[[], Any], calls: int) -> Timing:
    """Seconds of `calls` calls, each waited for, after two that do not count."""
    return timed_in_turn((call,), calls)[0]


def timed_in_turn(functions: Sequence[Callable[[], Any]], calls: int) -> list[Timing]:
    """As `timed`, for functions that are compared: called in turn, so that what else the machine does meets all of them."""
    seconds: list[list[float]] = [[] for _ in functions]
    for i in range(calls + 2):
        for function, own in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(function())
            if i >= 2:
                own.append(time.perf_counter() - start)
    return [{"median": float(np.median(own)), "min": min(own), "max": max(own), "calls": calls} for own in seconds]


def matmul_rate(dtype: Any, calls: int) -> float:
    """Operations per second of a large matrix product in this dtype: what the machine can do at best."""
    x = jnp.ones((MATMUL_SIZE, MATMUL_SIZE), dtype)
    product = jax.jit(jnp.matmul)
    return 2 * MATMUL_SIZE**3 / timed(lambda: product(x, x), calls)["min"]


def compare_with_matmul(step: Mapping[str, Any], rate: float) -> dict[str, float]:
    """A step's operations beside those that large matrix products do in the same time."""
    return {"matmul_flops_per_second": rate, "fraction_of_matmul_rate": step["flops"] / step["median"] / rate}
