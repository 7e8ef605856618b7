"""Acting: one step of filtering and one action, compiled."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from dreamer_jax.agent import distributions, rssm
from dreamer_jax.agent.heads import policy_distribution
from dreamer_jax.agent.networks import Networks, apply
from dreamer_jax.agent.planner import plan
from dreamer_jax.agent.seeds import over_seeds
from dreamer_jax.agent.types import ActingParams, PolicyCarry
from dreamer_jax.core.algorithm import BehaviorConfig
from dreamer_jax.core.spaces import ActionSpec

Mode = Literal["deterministic", "sampled", "exploring"]


def initial_carry(nets: Networks, batch: int) -> PolicyCarry:
    """The zero carry for `batch` environments."""
    return PolicyCarry(rssm.initial_state(nets, (batch,)), jnp.zeros((batch, nets.action_spec.size), nets.dtype))


def policy_step(
    nets: Networks,
    config: BehaviorConfig,
    params: ActingParams,
    key: jax.Array,
    carry: PolicyCarry,
    obs: dict[str, jax.Array],
    is_first: jax.Array,
    mode: Mode,
) -> tuple[jax.Array, PolicyCarry]:
    """Filters obs {name: [B, ...]} and chooses an action f32[B, A].

    is_first bool[B] resets the carry. "deterministic" takes the most likely action (the mean of a normal), "sampled" draws it,
    "exploring" adds what `behavior.exploration` asks for; the latent is sampled from the posterior in all cases, as in
    training. Networks without an actor plan the action instead, in all modes the same but for exploration. The carry holds the
    latent that the replay stores.
    """
    latent_key, action_key = jax.random.split(key)
    embed = apply(nets.encoder, params.world_model["encoder"], obs)
    noise = nets.latent.noise(latent_key, is_first.shape)
    latent, _ = rssm.observe_step(nets, params.world_model, noise, carry.latent, carry.prev_action, embed, is_first)
    if nets.actor:
        dist = policy_distribution(apply(nets.actor, params.actor, rssm.features(latent)), config)
        action = dist.mode() if mode == "deterministic" else distributions.sample(action_key, dist)
    else:
        action = plan(nets, config, params.world_model, action_key, latent)
    if mode == "exploring" and config.exploration:
        action = explore(jax.random.fold_in(action_key, 1), action, nets.action_spec, config.exploration)
    return action, PolicyCarry(latent, action.astype(nets.dtype))


def explore(key: jax.Array, action: jax.Array, spec: ActionSpec, amount: float) -> jax.Array:
    """Actions f32[B, A] with normal noise of deviation `amount`, clipped to [-1, 1], or one-hot ones that are uniformly random
    with probability `amount` (V1).
    """
    if not spec.discrete:
        return jnp.clip(action + amount * jax.random.normal(key, action.shape), -1, 1)
    which, choice = jax.random.split(key)
    random = jax.nn.one_hot(jax.random.randint(choice, action.shape[:1], 0, spec.size), spec.size)
    return jnp.where(jax.random.bernoulli(which, amount, (*action.shape[:1], 1)), random, action)


def compile_policy(nets: Networks, config: BehaviorConfig, mode: Mode, seeds: int | None = None) -> Callable:
    """The jitted `step(params, key, carry, obs, is_first) -> (action, carry)`: `policy_step` with the key of this step alone.

    With `seeds`, all arguments and results have an axis of that size in front, one agent each.
    """

    def step(
        params: ActingParams, key: jax.Array, carry: PolicyCarry, obs: dict[str, jax.Array], is_first: jax.Array
    ) -> tuple[jax.Array, PolicyCarry]:
        return policy_step(nets, config, params, key, carry, obs, is_first, mode)

    return jax.jit(over_seeds(step, seeds))
