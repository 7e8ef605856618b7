"""The recurrent state-space model as pure functions: one step, and scans over time.

`nets` holds modules without parameters; `params` is the world model's parameter tree. A step takes its random numbers, the
noise, where other programs take a key: a scan draws the noise of all its steps beforehand, at once, from one key for each step.
A single step draws its own by `nets.latent.noise(key, batch)`.
"""

import jax
import jax.numpy as jnp

from dreamer_jax.agent.latents import Latent
from dreamer_jax.agent.layers import flatten_stoch
from dreamer_jax.agent.networks import Networks, apply
from dreamer_jax.agent.types import LatentDist, LatentState, Params, Trajectory


def initial_state(nets: Networks, batch: tuple[int, ...]) -> LatentState:
    """The zero state: deter [*batch, D], stoch [*batch, ..] in the compute dtype. It is not learned."""
    return LatentState(
        deter=jnp.zeros((*batch, nets.rssm.config.deter), nets.dtype),
        stoch=jnp.zeros((*batch, *nets.latent.shape), nets.dtype),
    )


def features(state: LatentState) -> jax.Array:
    """What the heads see: deter [.., D] and flat stoch, in this order (V1 and V2 have the other) -> [.., F]."""
    return jnp.concatenate([state.deter, flatten_stoch(state.deter, state.stoch)], -1)


def observe_step(
    nets: Networks,
    params: Params,
    noise: jax.Array,
    prev: LatentState,
    prev_action: jax.Array,
    embed: jax.Array,
    is_first: jax.Array,
) -> tuple[LatentState, LatentDist]:
    """Filters one observation: prev [B], prev_action [B, A], embed [B, E], is_first bool[B] -> state [B], posterior.

    Where is_first is set, the previous state and the previous action vector are replaced by zeros first.

    Args:
      noise: f32[B, S], the random numbers of the posterior's draw, from `nets.latent.noise(key, (B,))`. It is no key, because
        the scan of `observe` draws the noise of all steps beforehand.
    """
    prev, prev_action = jax.tree.map(lambda x: _mask(x, is_first), (prev, prev_action))
    deter = apply(nets.rssm, params["rssm"], prev.deter, prev.stoch, prev_action, method="core")
    return _draw(nets, deter, apply(nets.rssm, params["rssm"], deter, embed, method="posterior"), noise)


def imagine_step(
    nets: Networks, params: Params, noise: jax.Array, prev: LatentState, action: jax.Array
) -> tuple[LatentState, LatentDist]:
    """Predicts one step without an observation: prev [B], action [B, A] taken in it -> state [B], prior.

    `noise` f32[B, S] holds the random numbers of the prior's draw, as in `observe_step`.
    """
    deter = apply(nets.rssm, params["rssm"], prev.deter, prev.stoch, action, method="core")
    return _draw(nets, deter, apply(nets.rssm, params["rssm"], deter, method="prior"), noise)


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
        state, posterior = observe_step(nets, params, inputs[0], state, *inputs[1:])
        return state, (state, posterior)

    time_major = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (prev_action, embed, is_first))
    noise = jax.vmap(lambda key: nets.latent.noise(key, is_first.shape[:1]))(keys)
    last, outputs = jax.lax.scan(step, start, (noise, *time_major))
    states, posterior = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), outputs)  # [B, T, ...]
    # The prior needs deter only, so it is computed for all steps at once.
    prior = apply(nets.rssm, params["rssm"], states.deter, method="prior")
    return last, states, posterior, nets.latent.distribution(prior)


def imagine(nets: Networks, params: Params, policy, key: jax.Array, start: LatentState, horizon: int) -> Trajectory:
    """Rolls the prior forward under a policy.

    Args:
      policy: (key, features [N, F]) -> action f[N, A]; `behavior.imagine_from_posterior` makes it from the actor.
      start: LatentState[N], index 0 of the trajectory.
      horizon: steps H.

    Returns:
      features of the states 0..H-1, the actions taken in them, and state H.
    """

    def step(state, inputs):
        action_key, noise = inputs
        seen = features(state)
        action = policy(action_key, seen)
        new, _ = imagine_step(nets, params, noise, state, action)
        return new, (seen, action)

    keys = jax.random.split(key, (horizon, 2))
    noise = jax.vmap(lambda key: nets.latent.noise(key, start.deter.shape[:1]))(keys[:, 1])
    last, (seen, action) = jax.lax.scan(step, start, (keys[:, 0], noise))
    return Trajectory(seen, action, last)


def imagine_actions(nets: Networks, params: Params, key: jax.Array, start: LatentState, actions: jax.Array) -> LatentState:
    """Rolls the prior forward under given actions [H, N, A] from start LatentState[N] -> the states after them, [H, N]."""

    def step(state, inputs):
        noise, action = inputs
        state, _ = imagine_step(nets, params, noise, state, action)
        return state, state

    noise = jax.vmap(lambda key: nets.latent.noise(key, actions.shape[1:2]))(jax.random.split(key, actions.shape[0]))
    _, states = jax.lax.scan(step, start, (noise, actions.astype(nets.dtype)))
    return states


def kl_loss(latent: Latent, posterior: LatentDist, prior: LatentDist) -> tuple[jax.Array, jax.Array]:
    """KL terms of V3 eq. 5, summed over the latent's variables and not yet clipped: dyn [B, T], rep [B, T] in nats.

    dyn = KL(sg posterior || prior) trains the prior, rep = KL(posterior || sg prior) the posterior. Their sum has the gradient
    of V1's plain KL, their weighted sum that of V2's balanced one.
    """
    stop = jax.lax.stop_gradient
    return latent.kl(stop(posterior), prior), latent.kl(posterior, stop(prior))


def _draw(nets: Networks, deter: jax.Array, outputs: jax.Array, noise: jax.Array) -> tuple[LatentState, LatentDist]:
    """The state with a latent drawn from the outputs of prior or posterior, in the compute dtype."""
    dist = nets.latent.distribution(outputs)
    return LatentState(deter, nets.latent.draw(dist, noise).astype(nets.dtype)), dist


def _mask(x: jax.Array, is_first: jax.Array) -> jax.Array:
    return jnp.where(is_first.reshape(is_first.shape + (1,) * (x.ndim - is_first.ndim)), 0, x).astype(x.dtype)
