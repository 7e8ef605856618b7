"""A tiny agent and random batches for the property tests."""

import os
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import version

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.agent import rssm
from dreamer_jax.agent.layout import CPU
from dreamer_jax.agent.networks import Networks, build_networks
from dreamer_jax.agent.train_step import init_params
from dreamer_jax.agent.types import Batch, LatentState, Params
from dreamer_jax.core.algorithm import BehaviorConfig, LossConfig, ModelConfig, OptimizerConfig
from dreamer_jax.core.config import Config
from dreamer_jax.core.spaces import ActionSpec, ObsSpec

# Emitters take most of the time to compile, and older versions of XLA can do without them. Functions round otherwise then: it
# is for the largest programs, and for the scripts that tests start.
_QUICK = "xla_backend_optimization_level=0" in os.environ["XLA_FLAGS"]
_OLDER = tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 12)
WITHOUT_EMITTERS = {"xla_cpu_use_fusion_emitters": False} if _QUICK and _OLDER else {}
quick_jit = partial(jax.jit, compiler_options=WITHOUT_EMITTERS)
BATCH, LENGTH, HORIZON = 2, 5, 3
OBS_SPECS = {"position": ObsSpec("vector", (3,)), "mode": ObsSpec("discrete", (), classes=4)}
MODEL = ModelConfig(
    deter=16,
    hidden=8,
    stoch=2,
    classes=3,
    blocks=2,
    units=8,
    prior_layers=1,
    encoder_layers=1,
    decoder_layers=1,
    actor_layers=1,
    critic_layers=1,
    bins=21,
)
CONFIG = Config(
    model=MODEL,
    loss=LossConfig(free_nats=0.0),
    behavior=BehaviorConfig(imagination_horizon=HORIZON),
    optimizer=OptimizerConfig(learning_rate=3e-3, warmup=0),
)

_OLD_MODEL = {"norm": "none", "activation": "elu", "symlog": False, "scalar_heads": "normal", "unimix": 0.0}
_OLD_BEHAVIOR = {"return_norm": False, "slow_weight": 0.0, "slow_rate": 1.0}
V1 = CONFIG.model_copy(
    update={
        "model": MODEL.model_copy(update={**_OLD_MODEL, "latent": "gaussian", "core": "gru", "continue_head": False}),
        "loss": CONFIG.loss.model_copy(update={"free_nats_of": "mean", "replay_value": 0.0}),
        "behavior": CONFIG.behavior.model_copy(
            update={
                **_OLD_BEHAVIOR,
                "returns": "own_reward_after_start",
                "dynamics_share": 1.0,
                "policy": "tanh_normal",
                "entropy": 0.0,
            }
        ),
    }
)
V2 = CONFIG.model_copy(
    update={
        "model": MODEL.model_copy(update={**_OLD_MODEL, "core": "layer_norm_gru"}),
        "loss": V1.loss,
        "behavior": CONFIG.behavior.model_copy(
            update={
                **_OLD_BEHAVIOR,
                "returns": "own_reward",
                "dynamics_share": 0.1,
                "bootstrap": "slow_critic",
                "slow_every": 100,
                "policy": "truncated_normal",
            }
        ),
    }
)


@cache
def tiny_networks(discrete: bool = True, dtype=jnp.float32) -> Networks:
    """Networks of `MODEL` for `OBS_SPECS`: three discrete actions, or two continuous ones."""
    return build_networks(CONFIG, OBS_SPECS, ActionSpec(discrete, 3 if discrete else 2), dtype, CPU)


@cache
def tiny_params(discrete: bool = True) -> tuple[Params, Params, Params]:
    """World model, actor and critic of `tiny_networks`, all random: unlike a fresh agent's, no array is zero or one."""
    return random_params(tiny_networks(discrete))


class Fixed(nn.Module):
    """A module without parameters."""

    function: Callable

    def __call__(self, *inputs):
        return self.function(*inputs)


def random_params(nets: Networks) -> tuple[Params, Params, Params]:
    """World model, actor and critic with normal noise in every array."""
    shapes = jax.eval_shape(lambda: init_params(nets, jax.random.key(0)))
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    return jax.tree.map(jnp.asarray, perturb(zeros, seed=1, scale=0.5))


def perturb(tree: Params, seed: int, scale: float = 0.5) -> Params:
    """Adds normal noise to every float array."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + rng.normal(0, scale, x.shape).astype(np.float32), tree)


def random_state(nets: Networks, seed: int, batch: tuple[int, ...] = (BATCH,)) -> LatentState:
    """A latent state like those on the way: deter in (-1, 1), one-hot stoch."""
    rng, c = np.random.default_rng(seed), nets.rssm.config
    deter = rng.uniform(-1, 1, (*batch, c.deter))
    stoch = np.eye(c.classes)[rng.integers(c.classes, size=(*batch, c.stoch))]
    return LatentState(jnp.asarray(deter, nets.dtype), jnp.asarray(stoch, nets.dtype))


def random_action(nets: Networks, seed: int, batch: tuple[int, ...]) -> jax.Array:
    """One-hot actions, or normal ones, of which some lie outside [-1, 1]."""
    rng, size = np.random.default_rng(seed), nets.action_spec.size
    value = np.eye(size)[rng.integers(size, size=batch)] if nets.action_spec.discrete else rng.normal(size=(*batch, size))
    return jnp.asarray(value, jnp.float32)


def random_obs(seed: int, batch: tuple[int, ...]) -> dict[str, jax.Array]:
    """Observations of `OBS_SPECS`."""
    rng = np.random.default_rng(seed)
    return {
        "position": jnp.asarray(rng.normal(0, 2, (*batch, 3)), jnp.float32),
        "mode": jnp.asarray(rng.integers(4, size=batch), jnp.int32),
    }


def random_batch(nets: Networks, seed: int, batch: int = BATCH, length: int = LENGTH) -> Batch:
    """Sequences like the replay's; in row 0 an episode terminates in the middle, in row 1 one is cut there."""
    rng = np.random.default_rng(seed)
    is_first = np.zeros((batch, length), bool)
    is_first[:, 0] = True
    is_last, is_terminal = np.zeros_like(is_first), np.zeros_like(is_first)
    middle = length // 2
    is_first[:2, middle + 1] = is_last[:2, middle] = True
    is_terminal[0, middle] = True
    return Batch(
        obs=random_obs(seed, (batch, length)),
        prev_action=random_action(nets, seed, (batch, length)),
        reward=jnp.asarray(rng.normal(0, 2, (batch, length)), jnp.float32),
        is_first=jnp.asarray(is_first),
        is_last=jnp.asarray(is_last),
        is_terminal=jnp.asarray(is_terminal),
        start=rssm.initial_state(nets, (batch,)),
    )
