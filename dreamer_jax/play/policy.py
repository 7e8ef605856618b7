"""A trained agent that plays: `load_policy`, and what a checkpoint holds of an agent."""

import contextlib
import copy
import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
from flax import struct

from dreamer_jax.agent.devices import compute_dtype, select_device
from dreamer_jax.agent.layout import layout_of
from dreamer_jax.agent.networks import Networks, build_networks
from dreamer_jax.agent.policy import compile_policy, initial_carry
from dreamer_jax.agent.train_step import acting_params, init_agent
from dreamer_jax.agent.types import ActingParams, Params, PolicyCarry
from dreamer_jax.core.config import Config, EnvConfig
from dreamer_jax.core.spaces import ActionSpec, ObsSpecs
from dreamer_jax.envs import make_env
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.folder import open_run

# Added to the seed of a run where its agent is evaluated. The seeds of training lie below.
EVALUATION_SEED = 2**31


@dataclasses.dataclass(frozen=True)
class Agent:
    """What a checkpoint holds of a trained agent: its networks, configuration and parameters."""

    nets: Networks
    config: Config
    params: ActingParams
    critic: Params


@struct.dataclass
class PlayCarry:
    """What a `Policy` remembers between two steps: the filter's carry, and the random key of all later steps."""

    policy: PolicyCarry
    key: jax.Array


class Policy:
    """A trained agent that plays.

        carry = policy.initial(batch=1, seed=0)
        action, carry = policy(obs, carry, is_first)

    obs {name: [B, ...]}, is_first bool[B] and action f32[B, A] are what `dreamer_jax.envs.make_env(policy.config.env)` gives
    and takes: one-hot for discrete actions, [-1, 1] for continuous ones. The call is a pure function of its arguments.
    """

    def __init__(self, nets: Networks, config: Config, params: ActingParams, deterministic: bool) -> None:
        self.config = config
        self.deterministic = deterministic
        self._nets = nets
        self._params = params
        self._step = compile_policy(nets, config.behavior, "deterministic" if deterministic else "sampled")

    def with_params(self, params: ActingParams) -> "Policy":
        """The same compiled policy with other parameters."""
        other = copy.copy(self)
        other._params = params
        return other

    def initial(self, batch: int, seed: int) -> PlayCarry:
        """The carry before the first step of `batch` environments."""
        key = jax.random.fold_in(jax.random.key(seed), EVALUATION_SEED)  # training with this seed uses other keys
        return PlayCarry(initial_carry(self._nets, batch), key)

    def __call__(self, obs: dict[str, Any], carry: PlayCarry, is_first: Any) -> tuple[jax.Array, PlayCarry]:
        """Filters the observations and chooses the actions -> action f32[B, A], the carry of the next step."""
        key, step_key = _split(carry.key)
        action, policy = self._step(self._params, step_key, carry.policy, obs, is_first)
        return action, PlayCarry(policy, key)


@jax.jit
def _split(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two keys of one, in a single launch."""
    first, second = jax.random.split(key)
    return first, second


def load_policy(
    run: str | Path, checkpoint: str = "last", deterministic: bool = True, device: str | None = None, planner: bool = False
) -> Policy:
    """Loads a trained agent that plays.

    Args:
      run: the run's folder.
      checkpoint: "last", "best" (by the evaluations during training) or the frames of one that was kept.
      deterministic: the most likely action instead of a sampled one.
      device: "cpu", "gpu", "tpu" or "auto"; None takes the run's own setting.
      planner: act by planning in the world model (`behavior.planner`) instead of with the actor.

    Raises:
      RunError: the folder is not a run.
      CheckpointError: there is no such checkpoint, or it is damaged or of another agent.
      ConfigError: the run's configuration or the device cannot be used.
      EnvError: the run's environment cannot be made.
    """
    agent = load_agent(run, checkpoint, device)
    nets = dataclasses.replace(agent.nets, actor=None) if planner else agent.nets
    return Policy(nets, agent.config, agent.params, deterministic)


def load_agent(run: str | Path, checkpoint: str = "last", device: str | None = None) -> Agent:
    """Loads what a run has trained; arguments and errors as for `load_policy`."""
    run = Path(run)
    config = open_run(run)
    if device is not None:
        config = config.model_copy(update={"device": device})
    layout = layout_of(select_device(config.device))
    nets = build_networks(config.model, *read_specs(config.env), compute_dtype(config), layout)
    like = jax.eval_shape(partial(init_agent, nets, config), jax.random.key(0))
    with contextlib.closing(Checkpoints(run)) as checkpoints:
        state = checkpoints.restore_agent(checkpoints.resolve(checkpoint), like)
    return Agent(nets, config, acting_params(state), state.critic.params)


def read_specs(env: EnvConfig) -> tuple[ObsSpecs, ActionSpec]:
    """The observations that an environment shows and the action that it takes.

    Raises:
      EnvError: the environment cannot be made, or its spaces cannot be used.
    """
    single = make_env(env)
    try:
        return single.get_wrapper_attr("obs_specs"), single.get_wrapper_attr("action_spec")
    finally:
        single.close()
