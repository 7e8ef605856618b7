"""Acting in the environments of all seeds: the policy, what it remembers, and random actions at first.

Letters: N seeds, E environments of each, A numbers of an action.
"""

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.agent.networks import Networks
from dreamer_jax.agent.policy import compile_policy, initial_carry
from dreamer_jax.agent.types import ActingParams, PolicyCarry
from dreamer_jax.core.config import Config
from dreamer_jax.envs import Step
from dreamer_jax.play.rollout import draw_actions
from dreamer_jax.runs.in_flight import InFlight


class Acting:
    """Chooses the actions of all environments.

    Args:
      configs: one for each seed; they differ in the seed alone.

    Attributes:
      carry: PolicyCarry [N, E, ...].
      prev_action: f32[N, E, A], the action that led to the newest records; zeros where an episode begins.
    """

    def __init__(self, nets: Networks, configs: Sequence[Config]) -> None:
        config, self._seeds, self._spec = configs[0], [own.seed for own in configs], nets.action_spec
        shape = (len(configs), config.env.num_envs, self._spec.size)
        self._policy = compile_policy(nets, config.behavior, "exploring", seeds=len(configs))
        self._keys = jnp.stack([acting_key for _, acting_key in map(agent_and_acting_keys, self._seeds)])
        self._fold_in = jax.jit(jax.vmap(jax.random.fold_in, (0, None)))
        self.carry: PolicyCarry = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (shape[0], *x.shape)), initial_carry(nets, shape[1])
        )
        self.prev_action = np.zeros(shape, np.float32)

    def act(self, params: ActingParams, counter: int, step: Step) -> jax.Array:
        """Actions f32[N, E, A] of the policy, dispatched and not waited for; drawn with a key of each seed and the counter."""
        keys = self._fold_in(self._keys, counter)
        action, self.carry = self._policy(params, keys, self.carry, step.obs, step.is_first)
        return action

    def act_at_random(self, counter: int) -> np.ndarray:
        """Actions f32[N, E, A] in the place of the policy's: uniform in [-1, 1], or a random choice."""
        count = self.prev_action.shape[1]
        rngs = [np.random.default_rng([seed, counter]) for seed in self._seeds]
        chosen = np.stack([draw_actions(self._spec, rng, count) for rng in rngs])
        self.carry = replace(self.carry, prev_action=jnp.asarray(chosen, self.carry.prev_action.dtype))
        return chosen

    def follow(self, action: np.ndarray, step: Step) -> None:
        """Remembers the actions f32[N, E, A] that the environments have taken, and what they answered."""
        self.prev_action = np.where(step.is_first[..., None], 0, action)

    def put_back(self, saved: Sequence[InFlight], step: Step) -> None:
        """Goes on from what each seed had in flight; `step` is what its environments show again, or new episodes."""
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *(one.carry for one in saved))
        self.carry = jax.tree.map(jnp.asarray, stacked)
        self.follow(np.stack([one.prev_action for one in saved]), step)


def agent_and_acting_keys(seed: int) -> jax.Array:
    """The two keys of a seed: that of the agent, for parameters and updates, and that of acting."""
    return jax.random.split(jax.random.key(seed))
