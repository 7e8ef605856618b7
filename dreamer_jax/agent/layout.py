"""Work on imagined steps [H, N, ...]: all of them at once on accelerators, step by step on CPUs.

An accelerator wants few large operations. On a CPU the intermediate results of all steps leave the caches and come from fresh
pages of memory, which takes longer than the arithmetic that is saved.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from dreamer_jax.agent.devices import on_cpu


def map_steps(function: Callable[[Any], Any], steps: Any) -> Any:
    """`function` of every step: arrays [H, N, ...] in, arrays [H, N, ...] out. It has to treat rows alike, over any axes."""
    return jax.lax.map(function, steps) if on_cpu() else function(steps)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def mean_over_steps(function: Callable[[Any, Any], tuple], params: dict[str, Any], steps: Any) -> tuple:
    """Mean losses over steps whose gradient is taken on the way, so that nothing is kept for a backward pass.

    Args:
      function: (params, one step's arrays [N, ...]) -> losses {name: f32[]}, means over the N rows, and metrics likewise.
        A loss may depend on the parameters of its own name only.
      params: {name: parameters}, as the losses are named.
      steps: arrays [H, N, ...]; they get no gradient.

    Returns:
      losses {name: f32[]} and metrics {name: f32[]}, which have no gradient.
    """
    return _losses_and_gradients(function, params, steps)[0]


def _forward(function: Callable, params: dict[str, Any], steps: Any) -> tuple[tuple, dict[str, Any]]:
    return _losses_and_gradients(function, params, steps)


def _backward(function: Callable, gradients: dict[str, Any], cotangents: tuple) -> tuple[dict[str, Any], None]:
    del function
    scales = cotangents[0]
    return {name: jax.tree.map(lambda x: x * scales[name], tree) for name, tree in gradients.items()}, None  # noqa: B023


mean_over_steps.defvjp(_forward, _backward)


def _losses_and_gradients(function: Callable, params: dict[str, Any], steps: Any) -> tuple[tuple, dict[str, Any]]:
    @jax.jit  # traced once for the shapes of its results and for the results
    def of_rows(params: dict[str, Any], rows: Any) -> tuple[tuple, dict[str, Any]]:
        def total(params: dict[str, Any]) -> tuple[jax.Array, tuple]:
            losses, metrics = function(params, rows)
            return jnp.stack(list(losses.values())).sum(), (losses, metrics)

        gradients, outputs = jax.grad(total, has_aux=True)(params)
        return outputs, gradients

    def at_once(params: dict[str, Any], steps: Any) -> tuple:
        return of_rows(params, jax.tree.map(lambda x: x.reshape((-1, *x.shape[2:])), steps))

    def step_by_step(params: dict[str, Any], steps: Any) -> tuple:
        count = jax.tree.leaves(steps)[0].shape[0]
        shapes = jax.eval_shape(of_rows, params, jax.tree.map(lambda x: x[0], steps))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        sums, _ = jax.lax.scan(lambda sums, rows: (jax.tree.map(jnp.add, sums, of_rows(params, rows)), None), zeros, steps)
        return jax.tree.map(lambda x: x / count, sums)

    return step_by_step(params, steps) if on_cpu() else at_once(params, steps)
