"""The recurrent state-space model as pure functions: one step, and scans over time.

`nets` holds modules without parameters; `params` is the world model's parameter tree. A scan takes the random numbers of all
its steps as input: they are drawn before it, at once, from a key a step.
"""

import jax
import jax.numpy as jnp

from dreamer_jax import distributions
from dreamer_jax.networks import Networks, apply, flatten_stoch
from dreamer_jax.spaces import LatentSpec
from dreamer_jax.types import LatentDist, LatentState, Params, StoredLatent, Trajectory


def initial_state(nets: Networks, batch: tuple[int, ...]) -> LatentState:
    """The zero state: deter [*batch, D], stoch [*batch, S, K] in the compute dtype. It is not learned."""
    c = nets.rssm.config
    return LatentState(
        deter=jnp.zeros((*batch, c.deter), nets.dtype),
        stoch=jnp.zeros((*batch, c.stoch, c.classes), nets.dtype),
    )


def latent_spec(nets: Networks) -> LatentSpec:
    """How the replay stores this agent's latents."""
    c = nets.rssm.config
    return LatentSpec(c.deter, c.stoch, c.classes, bfloat16=nets.dtype == jnp.bfloat16)


def to_stored(nets: Networks, state: LatentState) -> StoredLatent:
    """Latents [..] in the replay's form; nothing is lost."""
    return StoredLatent(state.deter, state.stoch.argmax(-1).astype(latent_spec(nets).stoch_dtype))


def from_stored(nets: Networks, stored: StoredLatent) -> LatentState:
    """The inverse of `to_stored`."""
    return LatentState(stored.deter, jax.nn.one_hot(stored.stoch, nets.rssm.config.classes, dtype=nets.dtype))


def features(state: LatentState) -> jax.Array:
    """What the heads see: deter [.., D] and flat stoch, in this order -> [.., D + S*K]."""
    return jnp.concatenate([state.deter, flatten_stoch(state.stoch)], -1)


def observe_step(
    nets: Networks,
    params: Params,
    key: jax.Array,
    prev: LatentState,
    prev_action: jax.Array,
    embed: jax.Array,
    is_first: jax.Array,
) -> tuple[LatentState, LatentDist]:
    """Filters one observation: prev [B], prev_action [B, A], embed [B, E], is_first bool[B] -> state [B], posterior.

    Where is_first is set, the previous state and the previous action vector are replaced by zeros first.
    """
    return _filter(nets, params, _noise(nets, key, is_first.shape), prev, prev_action, embed, is_first)


def _filter(
    nets: Networks,
    params: Params,
    noise: jax.Array,
    prev: LatentState,
    prev_action: jax.Array,
    embed: jax.Array,
    is_first: jax.Array,
) -> tuple[LatentState, LatentDist]:
    prev, prev_action = jax.tree.map(lambda x: _mask(x, is_first), (prev, prev_action))
    deter = apply(nets.rssm, params["rssm"], prev.deter, prev.stoch, prev_action, method="core")
    logits = apply(nets.rssm, params["rssm"], deter, embed, method="posterior")
    return LatentState(deter, _draw_stoch(nets, noise, logits)), LatentDist(logits)


def imagine_step(
    nets: Networks, params: Params, key: jax.Array, prev: LatentState, action: jax.Array
) -> tuple[LatentState, LatentDist]:
    """Predicts one step without an observation: prev [B], action [B, A] taken in it -> state [B], prior."""
    return _predict(nets, params, _noise(nets, key, action.shape[:-1]), prev, action)


def _predict(
    nets: Networks, params: Params, noise: jax.Array, prev: LatentState, action: jax.Array
) -> tuple[LatentState, LatentDist]:
    deter = apply(nets.rssm, params["rssm"], prev.deter, prev.stoch, action, method="core")
    logits = apply(nets.rssm, params["rssm"], deter, method="prior")
    return LatentState(deter, _draw_stoch(nets, noise, logits)), LatentDist(logits)


def observe(
    nets: Networks,
    params: Params,
    key: jax.Array,
    start: LatentState,
    prev_action: jax.Array,
    embed: jax.Array,
    is_first: jax.Array,
) -> tuple[LatentState, LatentState, LatentDist, LatentDist]:
    """Filters sequences.

    Args:
      key: one key, or keys [T] to continue a sequence exactly as one longer call would.
      start: LatentState[B] before the first step.
      prev_action: f[B, T, A], the action that led to each observation.
      embed: f[B, T, E].
      is_first: bool[B, T].

    Returns:
      last state [B], states [B, T], posterior [B, T], prior [B, T].
    """
    keys = jax.random.split(key, embed.shape[1]) if key.ndim == 0 else key

    def step(state, inputs):
        state, posterior = _filter(nets, params, inputs[0], state, *inputs[1:])
        return state, (state, posterior)

    time_major = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (prev_action, embed, is_first))
    noise = jax.vmap(lambda key: _noise(nets, key, is_first.shape[:1]))(keys)
    last, outputs = jax.lax.scan(step, start, (noise, *time_major))
    states, posterior = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), outputs)  # [B, T, ...]
    # The prior needs deter only, so it is computed for all steps at once.
    prior = apply(nets.rssm, params["rssm"], states.deter, method="prior")
    return last, states, posterior, LatentDist(prior)


def imagine(nets: Networks, params: Params, policy, key: jax.Array, start: LatentState, horizon: int) -> Trajectory:
    """Rolls the prior forward under a policy.

    Args:
      policy: (key, features [N, F]) -> action f[N, A]; behavior.py makes it from the actor.
      start: LatentState[N], index 0 of the trajectory.
      horizon: steps H.

    Returns:
      features of the states 0..H-1, the actions taken in them, and state H.
    """

    def step(state, inputs):
        action_key, noise = inputs
        seen = features(state)
        action = policy(action_key, seen)
        new, _ = _predict(nets, params, noise, state, action)
        return new, (seen, action)

    keys = jax.random.split(key, (horizon, 2))
    noise = jax.vmap(lambda key: _noise(nets, key, start.deter.shape[:1]))(keys[:, 1])
    last, (seen, action) = jax.lax.scan(step, start, (keys[:, 0], noise))
    return Trajectory(seen, action, last)


def kl_loss(posterior: LatentDist, prior: LatentDist, unimix: float) -> tuple[jax.Array, jax.Array]:
    """KL terms of V3 eq. 5, summed over the S variables and not yet clipped: dyn [B, T], rep [B, T] in nats.

    dyn = KL(sg posterior || prior) trains the prior, rep = KL(posterior || sg prior) the posterior; unimix on both sides.
    """
    post = distributions.unimix_logits(posterior.logits, unimix)
    prior_ = distributions.unimix_logits(prior.logits, unimix)
    stop = jax.lax.stop_gradient
    dyn = distributions.categorical_kl(stop(post), prior_).sum(-1)
    rep = distributions.categorical_kl(post, stop(prior_)).sum(-1)
    return dyn, rep


def _noise(nets: Networks, key: jax.Array, batch: tuple[int, ...]) -> jax.Array:
    """The random numbers f32[*batch, S] of one step."""
    return distributions.uniform(key, (*batch, nets.rssm.config.stoch))


def _draw_stoch(nets: Networks, noise: jax.Array, logits: jax.Array) -> jax.Array:
    """Straight-through one-hot sample [.., S, K] in the compute dtype."""
    probs = distributions.unimix_probs(logits, nets.rssm.config.unimix)
    value = distributions.sample(noise, distributions.OneHot(probs))
    return distributions.straight_through(value, probs).astype(nets.dtype)


def _mask(x: jax.Array, is_first: jax.Array) -> jax.Array:
    return jnp.where(is_first.reshape(is_first.shape + (1,) * (x.ndim - is_first.ndim)), 0, x).astype(x.dtype)
