"""What the outputs of the heads mean: the actor's distribution over actions, and the world model's rewards and continues."""

import distrax
import jax
import jax.numpy as jnp

from dreamer_jax.agent import distributions
from dreamer_jax.agent.networks import Networks, apply
from dreamer_jax.agent.types import Params
from dreamer_jax.core.algorithm import BehaviorConfig


def policy_distribution(outputs: dict[str, jax.Array], config: BehaviorConfig) -> distrax.Distribution:
    """The actor's outputs as a distribution over actions [.., A]: one-hot categorical, or what `config.policy` names.

    The categorical mixes in no uniform share: the author's code ignores the configured one on this path.
    """
    if "logits" in outputs:
        return distributions.one_hot_categorical(outputs["logits"])
    if config.policy == "tanh_normal":
        return distributions.tanh_normal(outputs["mean"], outputs["std"])
    if config.policy == "truncated_normal":
        return distributions.truncated_normal(outputs["mean"], outputs["std"])
    return distributions.bounded_normal(outputs["mean"], outputs["std"], config.min_std, config.max_std)


def sample_action(key: jax.Array, policy: distrax.Distribution) -> jax.Array:
    """Draws actions f32[.., A] that carry the policy's gradient: reparameterised, or straight through a one-hot."""
    action = distributions.sample(key, policy)
    if isinstance(policy, distrax.OneHotCategorical):
        return distributions.straight_through(action, policy.probs)
    return action


def outcomes(nets: Networks, config: BehaviorConfig, params: Params, features: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Predicted reward f32[..] and continue f32[..] of features [.., F]; the discount is inside the continue.

    `params` are the world model's. Without a continue head, the continue is the constant discount.
    """
    reward = distributions.scalar_mean(apply(nets.reward, params["reward"], features))
    if not nets.continue_:
        return reward, jnp.full_like(reward, config.discount)
    logit = apply(nets.continue_, params["continue"], features)["logit"][..., 0]
    return reward, jax.nn.sigmoid(logit.astype(jnp.float32))
