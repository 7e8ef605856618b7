"""What is computed differently on a CPU and on an accelerator, as one value that is chosen once and handed down.

An accelerator wants few large operations. On a CPU the intermediate results of large operations leave the caches, and moving
them through fresh pages of memory takes longer than the arithmetic that is saved. Both layouts compute the same numbers but for
rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How programs for one kind of device are laid out. It is hashable, because modules have it and caches are keyed by it.

    Attributes:
      step_by_step: work on imagined steps [H, N, ...] runs in a loop over the H steps; otherwise on all H * N rows at once.
      images_per_convolution: how many images V3's convolutions take at a time; None for all. XLA's gradient of the kernel takes
        up to four times as long on a CPU for a thousand images at once.
      norms_by_product: sums of squares are computed as a product of rows with themselves, which a library does on a CPU;
        otherwise as a dot product, which XLA compiles.
      joint_gates_max_rows: up to this many rows, the block GRU computes the gates of all blocks at once, and above it block by
        block. All blocks at once are an eighth of the kernels to compile; with many rows, joining the blocks takes longer.
      optimization_level: level at which LLVM compiles large programs; None leaves XLA's own. Level 1 takes less time and gives
        code as fast.
    """

    step_by_step: bool
    images_per_convolution: int | None
    norms_by_product: bool
    joint_gates_max_rows: int
    optimization_level: int | None


CPU = Layout(step_by_step=True, images_per_convolution=64, norms_by_product=True, joint_gates_max_rows=64, optimization_level=1)
ACCELERATOR = Layout(
    step_by_step=False, images_per_convolution=None, norms_by_product=False, joint_gates_max_rows=64, optimization_level=None
)


def layout_of(device: Any) -> Layout:
    """The layout for a JAX device, such as `devices.select_device` returns."""
    return CPU if device.platform == "cpu" else ACCELERATOR


def map_steps(function: Callable[[Any], Any], steps: Any, layout: Layout) -> Any:
    """Applies `function` to every step: arrays [H, N, ...] -> arrays [H, N, ...].

    The function must treat all rows alike, over any number of leading axes.
    """
    return jax.lax.map(function, steps) if layout.step_by_step else function(steps)


@partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def mean_over_steps(function: Callable[[Any, Any], tuple], params: dict[str, Any], steps: Any, layout: Layout) -> tuple:
    """Mean losses over steps. Their gradient is computed together with them, so nothing is kept for a backward pass.

    Args:
      function: (params, one step's arrays [N, ...]) -> losses {name: f32[]}, means over the N rows, and metrics likewise.
        A loss may depend on the parameters of its own name only.
      params: {name: parameters}, as the losses are named.
      steps: arrays [H, N, ...]; they get no gradient.

    Returns:
      losses {name: f32[]} and metrics {name: f32[]}, which have no gradient.
    """
    return _losses_and_gradients(function, params, steps, layout)[0]


def _forward(function: Callable, params: dict[str, Any], steps: Any, layout: Layout) -> tuple[tuple, dict[str, Any]]:
    return _losses_and_gradients(function, params, steps, layout)


def _backward(function: Callable, layout: Layout, gradients: dict[str, Any], cotangents: tuple) -> tuple[dict[str, Any], None]:
    del function, layout
    scales = cotangents[0]
    return {name: _scale(tree, scales[name]) for name, tree in gradients.items()}, None


def _scale(tree: Any, factor: jax.Array) -> Any:
    return jax.tree.map(lambda x: x * factor, tree)


mean_over_steps.defvjp(_forward, _backward)


def _losses_and_gradients(
    function: Callable, params: dict[str, Any], steps: Any, layout: Layout
) -> tuple[tuple, dict[str, Any]]:
    @jax.jit  # traced once for the shapes of its results and for the results
    def of_rows(params: dict[str, Any], rows: Any) -> tuple[tuple, dict[str, Any]]:
        def total(params: dict[str, Any]) -> tuple[jax.Array, tuple]:
            losses, metrics = function(params, rows)
            return jnp.stack(list(losses.values())).sum(), (losses, metrics)

        gradients, outputs = jax.grad(total, has_aux=True)(params)
        return outputs, gradients

    if not layout.step_by_step:
        return of_rows(params, jax.tree.map(lambda x: x.reshape((-1, *x.shape[2:])), steps))  # [H * N, ...]
    count = jax.tree.leaves(steps)[0].shape[0]
    shapes = jax.eval_shape(of_rows, params, jax.tree.map(lambda x: x[0], steps))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    sums, _ = jax.lax.scan(lambda sums, rows: (jax.tree.map(jnp.add, sums, of_rows(params, rows)), None), zeros, steps)
    return jax.tree.map(lambda x: x / count, sums)
