"""What the stochastic part of the latent is: the axis `model.latent`, one class for each choice, all with the same functions.

A latent is drawn from a distribution and from random numbers ("noise") that do not depend on it, so that a scan can draw those
of all its steps at once.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from dreamer_jax.agent import distributions
from dreamer_jax.agent.types import CategoricalLatent, LatentDist, LatentState, NormalLatent, StoredLatent
from dreamer_jax.core.algorithm import ModelConfig
from dreamer_jax.core.spaces import LatentSpec


@dataclass(frozen=True)
class Categorical:
    """S one-hot categoricals over K classes with straight-through gradients (V2), a uniform share mixed in (V3)."""

    config: ModelConfig

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of stoch, without batch axes."""
        return self.config.stoch, self.config.classes

    @property
    def outputs(self) -> int:
        """How many numbers the last layer of prior and posterior gives out."""
        return self.config.stoch * self.config.classes

    def distribution(self, outputs: jax.Array) -> CategoricalLatent:
        """Outputs [.., S*K] of the last layer -> the distribution."""
        return CategoricalLatent(outputs.reshape((*outputs.shape[:-1], *self.shape)))

    def noise(self, key: jax.Array, batch: tuple[int, ...]) -> jax.Array:
        """The random numbers of a draw: uniform, f32[*batch, S]."""
        return distributions.uniform(key, (*batch, self.config.stoch))

    def draw(self, dist: LatentDist, noise: jax.Array) -> jax.Array:
        """Straight-through one-hot sample f32[.., S, K]."""
        probs = distributions.unimix_probs(dist.logits, self.config.unimix)
        return distributions.straight_through(distributions.sample(noise, distributions.OneHot(probs)), probs)

    def kl(self, p: LatentDist, q: LatentDist) -> jax.Array:
        """KL(p || q) f32[..] in nats, summed over the S variables, the uniform share on both sides."""
        log_p, log_q = (distributions.unimix_logits(dist.logits, self.config.unimix) for dist in (p, q))
        return distributions.categorical_kl(log_p, log_q).sum(-1)

    def entropy(self, dist: LatentDist) -> jax.Array:
        """Entropy f32[..] in nats, summed over the S variables."""
        return distributions.categorical_entropy(distributions.unimix_logits(dist.logits, self.config.unimix)).sum(-1)

    def spec(self, dtype: Any) -> LatentSpec:
        """How the replay stores a latent of this compute dtype."""
        return LatentSpec(self.config.deter, self.config.stoch, self.config.classes, bfloat16=dtype == jnp.bfloat16)

    def to_stored(self, state: LatentState) -> StoredLatent:
        """Latents [..] in the replay's form; nothing is lost."""
        return StoredLatent(state.deter, state.stoch.argmax(-1).astype(self.spec(state.deter.dtype).stoch_dtype))

    def from_stored(self, stored: StoredLatent) -> LatentState:
        """The inverse of `to_stored`."""
        return LatentState(stored.deter, jax.nn.one_hot(stored.stoch, self.config.classes, dtype=stored.deter.dtype))


@dataclass(frozen=True)
class Gaussian:
    """A diagonal normal over S numbers, drawn by reparameterisation (PlaNet, V1)."""

    config: ModelConfig

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.config.stoch,)

    @property
    def outputs(self) -> int:
        return 2 * self.config.stoch

    def distribution(self, outputs: jax.Array) -> NormalLatent:
        """Outputs [.., 2S] -> mean, and standard deviation softplus(.) + 0.1."""
        mean, raw = jnp.split(outputs.astype(jnp.float32), 2, axis=-1)
        return NormalLatent(mean, jax.nn.softplus(raw) + 0.1)

    def noise(self, key: jax.Array, batch: tuple[int, ...]) -> jax.Array:
        """The random numbers of a draw: standard normal, f32[*batch, S]."""
        return jax.random.normal(key, (*batch, self.config.stoch))

    def draw(self, dist: LatentDist, noise: jax.Array) -> jax.Array:
        """A sample f32[.., S] with its gradient."""
        return dist.mean + dist.std * noise

    def kl(self, p: LatentDist, q: LatentDist) -> jax.Array:
        """KL(p || q) f32[..] in nats, summed over the S numbers."""
        variance = jnp.square(p.std / q.std)
        distance = jnp.square((p.mean - q.mean) / q.std)
        return 0.5 * (variance + distance - 1 - jnp.log(variance)).sum(-1)

    def entropy(self, dist: LatentDist) -> jax.Array:
        """Entropy f32[..] in nats, summed over the S numbers."""
        return (jnp.log(dist.std) + 0.5 * jnp.log(2 * jnp.pi * jnp.e)).sum(-1)

    def spec(self, dtype: Any) -> LatentSpec:
        return LatentSpec(self.config.deter, self.config.stoch, 0, bfloat16=dtype == jnp.bfloat16)

    def to_stored(self, state: LatentState) -> StoredLatent:
        return StoredLatent(state.deter, state.stoch)

    def from_stored(self, stored: StoredLatent) -> LatentState:
        return LatentState(stored.deter, stored.stoch)


@dataclass(frozen=True)
class Deterministic(Gaussian):
    """S numbers without noise. Their KL is that of normals of deviation 1: half the squared distance."""

    @property
    def outputs(self) -> int:
        return self.config.stoch

    def distribution(self, outputs: jax.Array) -> NormalLatent:
        """Outputs [.., S] -> mean; the deviation is 1 and never drawn."""
        mean = outputs.astype(jnp.float32)
        return NormalLatent(mean, jnp.ones_like(mean))

    def draw(self, dist: LatentDist, noise: jax.Array) -> jax.Array:
        """The mean f32[.., S]."""
        del noise
        return dist.mean


Latent = Categorical | Gaussian | Deterministic


def make_latent(config: ModelConfig) -> Latent:
    """The latent that `model.latent` names."""
    return {"categorical": Categorical, "gaussian": Gaussian, "deterministic": Deterministic}[config.latent](config)
