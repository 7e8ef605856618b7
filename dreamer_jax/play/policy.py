"""A trained agent that plays: `load_policy`, and what a checkpoint holds of an agent."""

import contextlib
import copy
import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import struct

from dreamer_jax.agent.devices import Device, compute_dtype, select_device
from dreamer_jax.agent.layout import layout_of
from dreamer_jax.agent.networks import Networks, build_networks
from dreamer_jax.agent.policy import compile_policy, initial_carry
from dreamer_jax.agent.train_step import acting_params, init_agent
from dreamer_jax.agent.types import ActingParams, Params, PolicyCarry
from dreamer_jax.core.config import Config, EnvConfig
from dreamer_jax.core.errors import ActionError, EnvError
from dreamer_jax.core.paths import absolute
from dreamer_jax.core.spaces import ActionSpec, ObsSpecs
from dreamer_jax.envs import make_env
from dreamer_jax.envs.spaces import EnvSpaces, spaces_of
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.folder import open_run_with_imports
from dreamer_jax.runs.spaces_file import read_spaces

# Added to the seed of a run where its agent is evaluated. The seeds of training lie below.
EVALUATION_SEED = 2**31


@dataclasses.dataclass(frozen=True)
class Agent:
    """What a run holds of a trained agent.

    Attributes:
      params, critic: on `device`, so that what is computed with them is computed there.
      spaces: what the run's environment shows and takes.
    """

    nets: Networks
    config: Config
    params: ActingParams
    critic: Params
    spaces: EnvSpaces
    device: Device


@struct.dataclass
class PlayCarry:
    """What a `Policy` remembers between two steps: the filter's carry, and the random key of all later steps."""

    policy: PolicyCarry
    key: jax.Array


class Policy:
    """A trained agent that plays. There are two ways to use it.

    In an environment of the user's, with the environment's own observations and actions:

        policy.reset()
        action = policy.act(observation)

    For many environments at once, as a pure function of its arguments:

        carry = policy.initial(batch=1, seed=0)
        action, carry = policy(obs, carry, is_first)

    Here obs {name: [B, ...]}, is_first bool[B] and action f32[B, A] are what `dreamer_jax.make_env(policy.config.env)` gives
    and takes: one-hot for discrete actions, [-1, 1] for continuous ones.

    Args:
      spaces: what the environment shows and takes.
      device: where the policy computes. JAX's default device stays what it is.
    """

    def __init__(
        self,
        nets: Networks,
        config: Config,
        params: ActingParams,
        deterministic: bool,
        spaces: EnvSpaces,
        device: Device,
    ) -> None:
        self.config = config
        self.deterministic = deterministic
        self.device = device
        self._nets = nets
        self._params = jax.device_put(params, device)
        self._spaces = spaces
        self._step = compile_policy(nets, config.behavior, "deterministic" if deterministic else "sampled")
        self._carry: PlayCarry | None = None  # of `act`; None before its first call
        self._is_first = True

    @property
    def nets(self) -> Networks:
        """The agent's networks."""
        return self._nets

    @property
    def params(self) -> ActingParams:
        """The agent's parameters."""
        return self._params

    def with_params(self, params: ActingParams) -> "Policy":
        """The same compiled policy with other parameters; what `act` has seen before is not known to it."""
        other = copy.copy(self)
        other._params = jax.device_put(params, self.device)
        other._carry, other._is_first = None, True
        return other

    def reset(self, seed: int | None = None) -> None:
        """Begins a new episode: the next `act` forgets what came before. The first episode needs no reset.

        Args:
          seed: decides what the policy samples from here on. None goes on with the random numbers, which begin with seed 0.
        """
        if seed is not None:
            self._carry = self.initial(1, seed)
        self._is_first = True

    def act(self, observation: Any) -> Any:
        """Chooses the next action, and remembers what it has seen since the last `reset`.

        One call is one decision: with `env.action_repeat` above 1 the environment takes the action that many times before the
        next call.

        Args:
          observation: one observation as the environment gives it: an array for a Box space, a dict for a Dict space.

        Returns:
          one action as the environment takes it: an int for a Discrete space, an array within the bounds of a Box space.

        Raises:
          EnvError: the observation is not what the environment's space promises.
          ActionError: the action is not finite.
        """
        task = self.config.env.task
        try:
            obs = self._spaces.observation(observation)
        except EnvError as error:
            raise EnvError(f"{task}: {error}") from None
        if self._carry is None:
            self._carry = self.initial(1, seed=0)
        batch = {name: value[None] for name, value in obs.items()}
        chosen, self._carry = self(batch, self._carry, np.array([self._is_first]))
        self._is_first = False
        action = np.asarray(chosen)[0]
        if not np.isfinite(action).all():
            raise ActionError(f"{task}: the action holds NaN or infinity; the agent's parameters have probably diverged")
        return self._spaces.action(action)

    def initial(self, batch: int, seed: int) -> PlayCarry:
        """The carry before the first step of `batch` environments."""
        with jax.default_device(self.device):
            key = jax.random.fold_in(jax.random.key(seed), EVALUATION_SEED)  # training with this seed uses other keys
            carry = PlayCarry(initial_carry(self._nets, batch), key)
        return jax.device_put(carry, self.device)  # commits it: whatever is computed with it is computed there

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
    run: str | Path,
    checkpoint: str = "last",
    deterministic: bool = True,
    device: str | Device | None = None,
    planner: bool = False,
) -> Policy:
    """Loads a trained agent that plays. The run's environment is not made.

    Args:
      run: the run's folder.
      checkpoint: "last", "best" (by the evaluations during training) or the frames of one that was kept.
      deterministic: the most likely action instead of a sampled one.
      device: "cpu", "gpu", "tpu" or "auto", or one of `jax.devices()`; None takes the run's own setting. Each policy has a
        device of its own, and JAX's default device stays what it is.
      planner: act by planning in the world model (`behavior.planner`) instead of with the actor.

    Raises:
      RunError: the folder is not a run, or its `spaces.json` is damaged.
      CheckpointError: there is no such checkpoint, or it is damaged or of another agent.
      ConfigError: the run's configuration or the device cannot be used.
      EnvError: a run of an older version has no `spaces.json`, and its environment cannot be made.
    """
    agent = load_agent(run, checkpoint, device)
    nets = dataclasses.replace(agent.nets, actor=None) if planner else agent.nets
    return Policy(nets, agent.config, agent.params, deterministic, agent.spaces, agent.device)


def load_agent(run: str | Path, checkpoint: str = "last", device: str | Device | None = None) -> Agent:
    """Loads what a run has trained; arguments and errors as for `load_policy`."""
    run = absolute(run)
    config = open_run_with_imports(run)
    if device is not None:
        config = config.model_copy(update={"device": device if isinstance(device, str) else device.platform})
    place = device if isinstance(device, jax.Device) else select_device(config.device)
    spaces = read_spaces(run, config.env) or _ask_for_spaces(config.env)
    nets = build_networks(config, *spaces.specs, compute_dtype(config), layout_of(place))
    with contextlib.closing(Checkpoints(run)) as checkpoints, jax.default_device(place):
        like = jax.eval_shape(partial(init_agent, nets, config), jax.random.key(0))
        state = checkpoints.restore_agent(checkpoints.resolve(checkpoint), like)
    params, critic = jax.device_put((acting_params(state), state.critic.params), place)
    return Agent(nets, config, params, critic, spaces, place)


def read_specs(env: EnvConfig) -> tuple[ObsSpecs, ActionSpec]:
    """The observations that an environment shows and the action that it takes; one is made for it.

    Raises:
      EnvError: the environment cannot be made, or its spaces cannot be used.
    """
    return _ask_for_spaces(env).specs


def _ask_for_spaces(env: EnvConfig) -> EnvSpaces:
    with contextlib.closing(make_env(env)) as single:
        return spaces_of(single)
