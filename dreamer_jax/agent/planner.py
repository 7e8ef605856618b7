"""Planning in latent space by the cross-entropy method (PlaNet: Hafner et al. 2019, algorithm 2): acting without an actor."""

import jax
import jax.numpy as jnp

from dreamer_jax.agent import rssm
from dreamer_jax.agent.heads import outcomes
from dreamer_jax.agent.networks import Networks
from dreamer_jax.agent.returns import lambda_return
from dreamer_jax.agent.types import LatentState, Params
from dreamer_jax.core.algorithm import BehaviorConfig


def plan(nets: Networks, config: BehaviorConfig, params: Params, key: jax.Array, start: LatentState) -> jax.Array:
    """Searches for the best plan from each state of `start` LatentState[B] -> its first action f32[B, A]: mean, or likeliest.

    A plan is a distribution over actions for each of the planner's steps: independent normals, or categoricals where actions
    are choices. Each iteration draws candidates from it, imagines them with the prior, and takes as the new plan the mean and
    deviation (or the frequencies) of the elites, those with the most reward.
    """
    settings, spec = config.planner, nets.action_spec
    batch, candidates = start.deter.shape[0], settings.candidates
    starts = jax.tree.map(lambda x: jnp.repeat(x, candidates, 0), start)  # [B * C, ...]
    shape = (settings.horizon, batch, spec.size)

    def iterate(belief: tuple[jax.Array, jax.Array], key: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        draw_key, model_key = jax.random.split(key)
        actions = _draw(spec.discrete, *belief, draw_key, candidates)  # [H, B, C, A]
        rows = actions.reshape((settings.horizon, batch * candidates, spec.size))
        rewards = imagined_reward(nets, config, params, model_key, starts, rows).reshape((batch, candidates))
        _, best = jax.lax.top_k(rewards, settings.elites)  # [B, K]
        elites = jnp.take_along_axis(actions, best[None, :, :, None], axis=2)
        mean = elites.mean(2)
        return (mean, jnp.sqrt(elites.var(2) + 1e-6)), None

    first = (jnp.full(shape, 1 / spec.size), jnp.ones(shape)) if spec.discrete else (jnp.zeros(shape), jnp.ones(shape))
    (mean, _), _ = jax.lax.scan(iterate, first, jax.random.split(key, settings.iterations))
    return jax.nn.one_hot(mean[0].argmax(-1), spec.size) if spec.discrete else mean[0]


def imagined_reward(
    nets: Networks, config: BehaviorConfig, params: Params, key: jax.Array, start: LatentState, actions: jax.Array
) -> jax.Array:
    """Discounted sum f32[N] of the rewards predicted where actions [H, N, A] lead from start LatentState[N].

    A reward counts as far as the episode still goes on: the product of the continues before it, which hold the discount.
    """
    states = rssm.imagine_actions(nets, params, key, start, actions)
    reward, continue_ = outcomes(nets, config, params, rssm.features(states))
    nothing = jnp.zeros((actions.shape[0] + 1, actions.shape[1]))
    return lambda_return(reward, nothing, continue_, 1.0)[0]


def _draw(discrete: bool, mean: jax.Array, std: jax.Array, key: jax.Array, candidates: int) -> jax.Array:
    """Candidates f32[H, B, C, A] from a plan f32[H, B, A]."""
    shape = (*mean.shape[:2], candidates, mean.shape[-1])
    if discrete:
        choices = jax.random.categorical(key, _logits(mean)[:, :, None], shape=shape[:-1])
        return jax.nn.one_hot(choices, shape[-1])
    return jnp.clip(mean[:, :, None] + std[:, :, None] * jax.random.normal(key, shape), -1, 1)


def _logits(frequencies: jax.Array) -> jax.Array:
    return jnp.log(frequencies + 1e-6)  # a choice that no elite took stays possible
