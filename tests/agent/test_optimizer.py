"""The optimiser against a NumPy loop and hand arithmetic."""

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.training.train_state import TrainState

from dreamer_jax.agent.layout import ACCELERATOR, CPU
from dreamer_jax.agent.optimizer import clip_by_tensor_norm, make_optimizer, squared_norm
from dreamer_jax.core.algorithm import OptimizerConfig

SHAPES = {"kernel": (4, 3), "bias": (3,), "scale": ()}


def _draw(rng: np.random.Generator, scale: float = 1.0) -> dict[str, np.ndarray]:
    return {name: np.float32(rng.normal(0, scale, shape)) for name, shape in SHAPES.items()}


def _loop(params, gradients, c: OptimizerConfig) -> list[dict[str, np.ndarray]]:
    """Parameters after each update, in float64, from the published steps of AGC and LaProp."""
    params = {name: np.float64(value) for name, value in params.items()}
    square, momentum = ({name: np.zeros(shape) for name, shape in SHAPES.items()} for _ in range(2))
    history = []
    for n, gradient in enumerate(gradients, 1):
        for name in SHAPES:
            g = np.float64(gradient[name])
            limit = c.agc * max(c.agc_min, np.linalg.norm(params[name]))
            g = g / max(1.0, np.linalg.norm(g) / limit)
            square[name] = c.beta2 * square[name] + (1 - c.beta2) * g**2
            scaled = g / (np.sqrt(square[name] / (1 - c.beta2**n)) + c.eps)
            momentum[name] = c.beta1 * momentum[name] + (1 - c.beta1) * scaled
            rate = c.learning_rate * (min(1.0, (n - 1) / c.warmup) if c.warmup else 1.0)
            params[name] = params[name] - rate * momentum[name] / (1 - c.beta1**n)
        history.append(dict(params))
    return history


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("warmup", [0, 3])
def test_equals_a_loop(seed, warmup):
    """Six updates follow the loop, with gradients that AGC clips and others that it leaves."""
    rng = np.random.default_rng(seed)
    config = OptimizerConfig(learning_rate=0.1, warmup=warmup)
    params, gradients = _draw(rng), [_draw(rng, scale) for scale in (1e3, 1e-3, 1.0, 0.01, 1e-5, 10.0)]
    optimizer = make_optimizer(config, CPU)

    @jax.jit
    def update(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return jax.tree.map(jnp.add, params, updates), state

    state, actual = optimizer.init(params), params
    for gradient, expected in zip(gradients, _loop(params, gradients, config), strict=True):
        actual, state = update(actual, state, gradient)
        chex.assert_trees_all_close(actual, jax.tree.map(np.float32, expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("warmup", [2, 1000])
def test_the_first_update_of_a_warm_up_changes_nothing(warmup):
    """The rate of update n is (n - 1) / warmup of the full one: the first leaves every bit, the second does not."""
    rng = np.random.default_rng(0)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.1, warmup=warmup), CPU)
    state = TrainState.create(apply_fn=None, params=jax.tree.map(jnp.asarray, _draw(rng)), tx=optimizer)
    first = state.apply_gradients(grads=_draw(rng))
    chex.assert_trees_all_equal(first.params, state.params)
    gradient = _draw(rng)
    second = first.apply_gradients(grads=gradient)
    assert all(np.abs(second.params[name] - state.params[name]).max() > 0 for name in SHAPES)


def test_the_first_update_without_a_warm_up_is_the_rate_times_the_sign():
    """One corrected step: g / |g| = sign(g), whatever the size of the gradient."""
    params = {"w": jnp.ones(3)}
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.25, warmup=0), CPU)
    updates, _ = optimizer.update({"w": jnp.array([1e-6, -3.0, 500.0])}, optimizer.init(params), params)
    chex.assert_trees_all_close(updates["w"], jnp.array([-0.25, 0.25, -0.25]), rtol=1e-4)


def test_zero_gradients_are_safe():
    """A parameter that never gets a gradient stays as it is, without 0 / 0."""
    params = {"w": jnp.ones(3)}
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.25, warmup=0), CPU)
    updates, _ = optimizer.update({"w": jnp.zeros(3)}, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["w"], np.zeros(3))


@pytest.mark.parametrize(
    ("parameter", "gradient", "expected"),
    [
        ([3.0, 4.0], [6.0, 8.0], [0.9, 1.2]),  # |w| = 5 allows 1.5; |g| = 10
        ([3.0, 4.0], [0.6, 0.8], [0.6, 0.8]),  # |g| = 1 is allowed
        ([0.0, 0.0], [0.0, 3.0], [0.0, 3e-4]),  # |w| counts as 1e-3
    ],
)
def test_clipping_by_hand(parameter, gradient, expected):
    """The norm of a whole tensor's gradient is cut to 0.3 of the tensor's norm, at least 1e-3."""
    clip = clip_by_tensor_norm(0.3, 1e-3, CPU)
    clipped, _ = clip.update({"w": jnp.array(gradient)}, clip.init({}), {"w": jnp.array(parameter)})
    chex.assert_trees_all_close(clipped["w"], jnp.array(expected), rtol=1e-5)


@pytest.mark.parametrize("layout", [CPU, ACCELERATOR], ids=["cpu", "accelerator"])
@pytest.mark.parametrize("shape", [(), (3,), (8,), (4, 6), (2, 3, 4), (40, 60)])
def test_squared_norm(shape, layout):
    x = np.random.default_rng(0).normal(size=shape)
    chex.assert_trees_all_close(squared_norm(jnp.asarray(x, jnp.float32), layout), np.float32((x**2).sum()), rtol=1e-6)


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_clipping_keeps_the_direction(seed, scale):
    """Clipped gradients are shorter multiples of the gradient, tensor by tensor, never above the limit."""
    rng = np.random.default_rng(seed)
    params, gradient = _draw(rng), _draw(rng, scale)
    clipped, _ = clip_by_tensor_norm(0.3, 1e-3, CPU).update(gradient, None, params)
    for name in SHAPES:
        limit = 0.3 * max(1e-3, np.linalg.norm(params[name]))
        norm = np.linalg.norm(gradient[name])
        chex.assert_trees_all_close(np.asarray(clipped[name]), gradient[name] * min(1.0, limit / norm), rtol=1e-4)


def test_one_optimizer_for_each_layout():
    """An optimiser of the same settings is the same object; the other layout has another one."""
    config = OptimizerConfig()
    assert make_optimizer(config, CPU) is make_optimizer(OptimizerConfig(), CPU)
    assert make_optimizer(config, CPU) is not make_optimizer(config, ACCELERATOR)


def test_adam_equals_a_loop():
    """V2's: the whole gradient clipped to a norm, Adam, and a share of each parameter taken off, not times the rate."""
    rng = np.random.default_rng(0)
    config = OptimizerConfig(algorithm="adam", learning_rate=0.1, warmup=0, agc=0, clip=2.0, decay=0.01, eps=1e-5)
    params, gradients = _draw(rng), [_draw(rng, scale) for scale in (10.0, 0.01, 1.0)]
    optimizer = make_optimizer(config, CPU, own_rate=0.03)
    state, actual = optimizer.init(params), params
    expected = {name: np.float64(value) for name, value in params.items()}
    first, second = ({name: np.zeros(shape) for name, shape in SHAPES.items()} for _ in range(2))
    for n, gradient in enumerate(gradients, 1):
        norm = np.sqrt(sum(np.square(np.float64(g)).sum() for g in gradient.values()))
        for name in SHAPES:
            g = gradient[name] * min(1.0, 2.0 / norm)
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g**2
            step = first[name] / (1 - 0.9**n) / (np.sqrt(second[name] / (1 - 0.999**n)) + 1e-5)
            expected[name] = 0.99 * expected[name] - 0.03 * step
        updates, state = optimizer.update(gradient, state, actual)
        actual = jax.tree.map(jnp.add, actual, updates)
        chex.assert_trees_all_close(actual, jax.tree.map(np.float32, expected), rtol=1e-4, atol=1e-5)
