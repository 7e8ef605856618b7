"""The choices of the latent: draws, KL and entropy against NumPy, and the form in which the replay keeps them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax.agent.latents import make_latent
from dreamer_jax.agent.types import LatentState
from dreamer_jax.core.algorithm import ModelConfig

BATCH = (2, 3)


def make(kind: str):
    return make_latent(ModelConfig(latent=kind, deter=8, stoch=4, classes=5))


def outputs(latent, seed: int = 0) -> jnp.ndarray:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(*BATCH, latent.outputs)), jnp.float32)


def test_gaussian_kl_and_entropy_by_integration():
    """KL and entropy of one number by sums over a fine grid."""
    latent = make_latent(ModelConfig(latent="gaussian", stoch=1))
    p, q = (latent.distribution(jnp.array(values)) for values in ([0.3, 0.2], [-0.5, 1.0]))
    grid = np.linspace(-20, 20, 400_001)

    def density(dist):
        mean, std = float(dist.mean[0]), float(dist.std[0])
        return np.exp(-0.5 * ((grid - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi)) + 1e-300

    step = grid[1] - grid[0]
    np.testing.assert_allclose(latent.kl(p, q), (density(p) * np.log(density(p) / density(q))).sum() * step, rtol=1e-4)
    np.testing.assert_allclose(latent.entropy(p), -(density(p) * np.log(density(p))).sum() * step, rtol=1e-4)


def test_gaussian_draws_are_reparameterised():
    """Mean and deviation over many draws; the gradient of a draw is 1 to the mean and the noise to the deviation."""
    latent = make("gaussian")
    dist = latent.distribution(outputs(latent))
    noise = latent.noise(jax.random.key(0), (20_000, *BATCH))
    draws = np.asarray(latent.draw(dist, noise))
    np.testing.assert_allclose(draws.mean(0), dist.mean, atol=0.06)
    np.testing.assert_allclose(draws.std(0), dist.std, rtol=0.05)
    to_dist = jax.grad(lambda dist: latent.draw(dist, noise[0]).sum())(dist)
    np.testing.assert_array_equal(to_dist.mean, 1)
    np.testing.assert_array_equal(to_dist.std, noise[0])


def test_deterministic_latents_are_their_mean():
    """No noise; the KL is half the squared distance."""
    latent = make("deterministic")
    p, q = (latent.distribution(outputs(latent, seed)) for seed in (0, 1))
    np.testing.assert_array_equal(latent.draw(p, latent.noise(jax.random.key(0), BATCH)), outputs(latent, 0))
    np.testing.assert_allclose(latent.kl(p, q), 0.5 * np.square(np.subtract(p.mean, q.mean)).sum(-1), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("kind", ["categorical", "gaussian", "deterministic"])
def test_storing_loses_nothing(kind, dtype):
    """A latent comes back from the replay's form bit by bit, in dtypes that NumPy can save."""
    latent = make(kind)
    dist = latent.distribution(outputs(latent))
    stoch = latent.draw(dist, latent.noise(jax.random.key(0), BATCH)).astype(dtype)
    assert stoch.shape == (*BATCH, *latent.shape)
    state = LatentState(jnp.ones((*BATCH, 8), dtype), stoch)
    stored, spec = latent.to_stored(state), latent.spec(dtype)
    assert np.asarray(stored.stoch).view(spec.stoch_dtype).shape == (*BATCH, spec.stoch)
    back = latent.from_stored(stored)
    np.testing.assert_array_equal(back.stoch, stoch)
    assert back.stoch.dtype == dtype
