"""Work over imagined steps against the plain mean over all rows and its gradient, on the branch of a CPU and on the other."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax.agent import layout


@pytest.fixture(params=["cpu", "accelerator"], autouse=True)
def platform(request, monkeypatch):
    monkeypatch.setattr(layout, "on_cpu", lambda: request.param == "cpu")


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


@pytest.mark.parametrize(("horizon", "rows"), [(1, 4), (3, 1), (5, 7)])
def test_losses_and_gradients_are_those_of_all_rows_at_once(horizon, rows):
    """Each loss has its own weight outside; the gradients are those of the mean over H·N rows."""
    params, inputs = _inputs(horizon, rows)

    def total(losses_of, params):
        losses, metrics = losses_of(params)
        return 2 * losses["policy"] - 3 * losses["value"], (losses, metrics)

    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), inputs)
    evaluate = [partial(layout.mean_over_steps, _losses, steps=inputs), partial(_losses, rows=flat)]
    actual, expected = (jax.jit(jax.grad(partial(total, f), has_aux=True))(params) for f in evaluate)
    chex.assert_trees_all_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert all(np.abs(leaf).max() > 1e-2 for leaf in actual[0].values())


def test_several_agents_at_once():
    """Under `vmap` each agent has its own losses and gradients; in float64, since they are sums of terms that cancel."""

    def gradient(params, inputs):
        return jax.grad(lambda params: sum(layout.mean_over_steps(_losses, params, inputs)[0].values()))(params)

    with jax.enable_x64(True):
        stacked = jax.tree.map(lambda x: jnp.stack([x, 2 * x]).astype(float), _inputs(3, 4))
        together = jax.jit(jax.vmap(gradient))(*stacked)
        for i in range(2):
            alone = gradient(*jax.tree.map(lambda x: x[i], stacked))  # noqa: B023
            chex.assert_trees_all_close(jax.tree.map(lambda x: x[i], together), alone, rtol=1e-10)  # noqa: B023


@pytest.mark.parametrize("horizon", [1, 4])
def test_map_steps(horizon):
    """Every step's arrays go through the function, row by row."""
    x = jnp.arange(horizon * 6.0).reshape(horizon, 2, 3)
    chex.assert_trees_all_close(layout.map_steps(lambda x: {"sum": x.sum(-1), "x": 2 * x}, x), {"sum": x.sum(-1), "x": 2 * x})
