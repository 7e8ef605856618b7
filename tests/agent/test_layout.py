"""Work over imagined steps against the plain mean over all rows and its gradient, in both layouts."""

from dataclasses import fields, replace
from functools import partial
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax.agent.layout import ACCELERATOR, CPU, layout_of, map_steps, mean_over_steps

both_layouts = pytest.mark.parametrize("layout", [CPU, ACCELERATOR], ids=["cpu", "accelerator"])


def _inputs(horizon: int, rows: int):
    rng = np.random.default_rng(horizon)
    params = {name: jnp.asarray(rng.normal(size=(3, 2)), jnp.float32) for name in ("policy", "value")}
    return params, (
        jnp.asarray(rng.normal(size=(horizon, rows, 3)), jnp.float32),
        jnp.arange(horizon * rows).reshape(horizon, -1),
    )


def _losses(params, rows):
    x, weight = rows
    policy, value = jnp.tanh(x @ params["policy"]).sum(-1), jnp.square(x @ params["value"]).sum(-1)
    return {"policy": (weight * policy).mean(), "value": (weight * value).mean()}, {"x": x.mean()}


@pytest.mark.parametrize(("platform", "layout"), [("cpu", CPU), ("gpu", ACCELERATOR), ("tpu", ACCELERATOR)])
def test_the_device_chooses_the_layout(platform, layout):
    assert layout_of(SimpleNamespace(platform=platform)) is layout


def test_layouts_are_keys_of_caches():
    """Equal layouts have one hash, and the repr, by which tests find compiled programs, shows every field."""
    same, other = replace(CPU), replace(CPU, joint_gates_max_rows=1)
    assert {CPU: 1, ACCELERATOR: 2}[same] == 1
    assert other not in {CPU, ACCELERATOR}
    assert all(f"{field.name}={getattr(CPU, field.name)!r}" in repr(CPU) for field in fields(CPU))


@both_layouts
@pytest.mark.parametrize(("horizon", "rows"), [(1, 4), (3, 1), (5, 7)])
def test_losses_and_gradients_are_those_of_all_rows_at_once(horizon, rows, layout):
    """Each loss has its own weight outside; the gradients are those of the mean over H * N rows."""
    params, inputs = _inputs(horizon, rows)

    def total(losses_of, params):
        losses, metrics = losses_of(params)
        return 2 * losses["policy"] - 3 * losses["value"], (losses, metrics)

    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), inputs)
    evaluate = [partial(mean_over_steps, _losses, steps=inputs, layout=layout), partial(_losses, rows=flat)]
    actual, expected = (jax.jit(jax.grad(partial(total, f), has_aux=True))(params) for f in evaluate)
    chex.assert_trees_all_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert all(np.abs(leaf).max() > 1e-2 for leaf in actual[0].values())


@both_layouts
def test_several_agents_at_once(layout):
    """Under `vmap` each agent has its own losses and gradients; in float64, since they are sums of terms that cancel."""

    def gradient(params, inputs):
        return jax.grad(lambda params: sum(mean_over_steps(_losses, params, inputs, layout)[0].values()))(params)

    def of_agent(tree, i):
        return jax.tree.map(lambda x: x[i], tree)

    with jax.enable_x64(True):
        stacked = jax.tree.map(lambda x: jnp.stack([x, 2 * x]).astype(float), _inputs(3, 4))
        together = jax.jit(jax.vmap(gradient))(*stacked)
        for i in range(2):
            chex.assert_trees_all_close(of_agent(together, i), gradient(*of_agent(stacked, i)), rtol=1e-10)


@both_layouts
@pytest.mark.parametrize("horizon", [1, 4])
def test_map_steps(horizon, layout):
    """Every step's arrays go through the function, row by row."""
    x = jnp.arange(horizon * 6.0).reshape(horizon, 2, 3)
    actual = map_steps(lambda x: {"sum": x.sum(-1), "x": 2 * x}, x, layout)
    chex.assert_trees_all_close(actual, {"sum": x.sum(-1), "x": 2 * x})


@pytest.mark.parametrize(("layout", "loops"), [(CPU, 1), (ACCELERATOR, 0)], ids=["cpu", "accelerator"])
def test_only_step_by_step_has_a_loop(layout, loops):
    """The layout is a value of the call: one process traces both ways, whatever its device."""
    params, inputs = _inputs(3, 2)
    mean = jax.make_jaxpr(lambda params: mean_over_steps(_losses, params, inputs, layout))(params)
    mapped = jax.make_jaxpr(lambda x: map_steps(jnp.tanh, x, layout))(inputs[0])
    assert (str(mean).count("scan["), str(mapped).count("scan[")) == (loops, loops)
