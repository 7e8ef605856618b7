"""Playing with a trained agent: `load_policy`, `evaluate`, and a video of an episode."""

import copy
import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dreamer_jax.agent.devices import compute_dtype, select_device
from dreamer_jax.agent.networks import Networks, build_networks
from dreamer_jax.agent.policy import Mode, initial_carry, policy_step
from dreamer_jax.agent.train_step import acting_params, init_agent
from dreamer_jax.agent.types import ActingParams, Params, PolicyCarry
from dreamer_jax.core.config import Config, EnvConfig
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.core.files import check_writable, write_json
from dreamer_jax.core.spaces import ActionSpec, ObsSpecs
from dreamer_jax.core.text import one_line
from dreamer_jax.envs import env_seeds, make_env, make_vector_env
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.curves import write_video
from dreamer_jax.runs.folder import open_run

MAX_PARALLEL = 20
# Training seeds lie below. Evaluations on the way choose the best checkpoint, so the one that judges it has other seeds.
EVALUATION_SEED, SELECTION_SEED = 2**31, 2**32


@dataclasses.dataclass(frozen=True)
class Agent:
    """What a checkpoint holds of a trained agent: its networks, configuration and parameters."""

    nets: Networks
    config: Config
    params: ActingParams
    critic: Params


@struct.dataclass
class PlayCarry:
    """What a `Policy` remembers: the filter's carry and its random key."""

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
        self._step = compile_play(nets, config, "deterministic" if deterministic else "sampled")

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
        return self._step(self._params, carry, obs, is_first)


def compile_play(nets: Networks, config: Config, mode: Mode) -> Callable:
    """The jitted `step(params, carry, obs, is_first)` of a `Policy`."""

    def step(params: ActingParams, carry: PlayCarry, obs: dict[str, jax.Array], is_first: jax.Array):
        key, step_key = jax.random.split(carry.key)
        action, policy = policy_step(nets, config.behavior, params, step_key, carry.policy, obs, jnp.asarray(is_first), mode)
        return action, PlayCarry(policy, key)

    return jax.jit(step)


def load_policy(
    run: str | Path, checkpoint: str = "last", deterministic: bool = True, device: str | None = None, planner: bool = False
) -> Policy:
    """Loads a trained agent that plays.

    Args:
      run: the run's folder.
      checkpoint: "last", "best" (by evaluation on the way) or the frames of a kept one.
      deterministic: most likely action instead of a sampled one.
      device: "cpu", "gpu", "tpu" or "auto"; None takes the run's own setting.
      planner: act by planning in the world model (`behavior.planner`) in the place of the actor.

    Raises:
      ConfigError: not a run, no such checkpoint, or a checkpoint of another agent.
    """
    agent = load_agent(run, checkpoint, device)
    nets = dataclasses.replace(agent.nets, actor=None) if planner else agent.nets
    return Policy(nets, agent.config, agent.params, deterministic)


def load_agent(run: str | Path, checkpoint: str = "last", device: str | None = None) -> Agent:
    """Loads what a run trained; arguments and errors as for `load_policy`."""
    run = Path(run)
    config = open_run(run)
    if device is not None:
        config = config.model_copy(update={"device": device})
    select_device(config.device)
    nets = build_networks(config.model, *read_specs(config.env), compute_dtype(config))
    checkpoints = Checkpoints(run)
    like = jax.eval_shape(partial(init_agent, nets, config), jax.random.key(0))
    state = checkpoints.restore_agent(checkpoints.resolve(checkpoint), like)
    checkpoints.close()
    return Agent(nets, config, acting_params(state), state.critic.params)


def read_specs(env: EnvConfig) -> tuple[ObsSpecs, ActionSpec]:
    """What the environment shows and takes."""
    single = make_env(env)
    try:
        return single.get_wrapper_attr("obs_specs"), single.get_wrapper_attr("action_spec")
    finally:
        single.close()


def evaluate(policy: Policy, env: EnvConfig, episodes: int, seed: int, first_seed: int = EVALUATION_SEED) -> dict[str, Any]:
    """Plays `episodes` fresh episodes on seeds that training never uses: `first_seed` + seed.

    Each environment contributes a number of episodes fixed beforehand, so that short episodes are not preferred.

    Returns:
      returns and lengths (decisions) of every episode, with return mean, standard deviation and range, and the mean success
      where the environment reports it.
    """
    num_envs = min(episodes, MAX_PARALLEL)
    quota = np.array([(episodes - i + num_envs - 1) // num_envs for i in range(num_envs)])
    envs = make_vector_env(env, env_seeds(first_seed + seed, num_envs))
    try:
        returns, lengths, successes = _play(policy, envs, quota, seed)
    finally:
        envs.close()
    known = [value for value in successes if not np.isnan(value)]
    return {
        "episodes": episodes,
        "deterministic": policy.deterministic,
        "return_mean": float(np.mean(returns)),
        "return_std": float(np.std(returns)),
        "return_min": float(np.min(returns)),
        "return_max": float(np.max(returns)),
        "length_mean": float(np.mean(lengths)),
        "success_mean": float(np.mean(known)) if known else None,
        "returns": [float(value) for value in returns],
        "lengths": [int(value) for value in lengths],
    }


def _play(policy: Policy, envs: Any, quota: np.ndarray, seed: int) -> tuple[list[float], list[int], list[float]]:
    """Runs until every environment has finished its quota of episodes."""
    returns: list[float] = []
    lengths: list[int] = []
    successes: list[float] = []
    total = np.zeros(envs.num_envs)
    length = np.zeros(envs.num_envs, int)
    left = quota.copy()
    carry = policy.initial(envs.num_envs, seed)
    step = envs.reset()
    while left.any():
        action, carry = policy(step.obs, carry, step.is_first)
        step = envs.step(np.asarray(action))
        total = np.where(step.is_first, 0.0, total + step.reward)
        length = np.where(step.is_first, 0, length + 1)
        for i in np.flatnonzero(step.is_last & (left > 0)):
            returns.append(total[i])
            lengths.append(length[i])
            successes.append(step.success[i])
            left[i] -= 1
    return returns, lengths, successes


def record_episode(policy: Policy, env: EnvConfig, seed: int) -> tuple[list[np.ndarray], int]:
    """Plays one episode and renders it -> frames uint8[H, W, 3], frames per second of real time.

    Raises:
      ConfigError: the environment cannot render. Whatever else its `render` raises comes through.
    """
    single = make_env(env, render=True)
    try:
        if single.render_mode != "rgb_array":
            raise ConfigError(f"{env.task} cannot render images, so there is no video; switch it off with --eval.video false")
        obs, _ = single.reset(seed=env_seeds(EVALUATION_SEED + seed, 1)[0])
        carry = policy.initial(1, seed)
        frames, is_first, done = [_frame(single)], True, False
        while not done:
            batched = {name: np.asarray(value)[None] for name, value in obs.items()}
            action, carry = policy(batched, carry, np.array([is_first]))
            obs, _, terminated, truncated, _ = single.step(np.asarray(action)[0])
            is_first, done = False, terminated or truncated
            frames.append(_frame(single))
        return frames, max(1, round(single.metadata.get("render_fps") or 30))
    finally:
        single.close()


def _frame(env: Any) -> np.ndarray:
    return np.asarray(env.render(), np.uint8)


def evaluate_run(
    run: Path,
    checkpoint: str,
    episodes: int,
    deterministic: bool,
    seed: int,
    device: str | None,
    video: bool,
    planner: bool = False,
) -> dict[str, Any]:
    """Evaluates a run's agent, prints the result, and writes `evaluations/<checkpoint>-<policy>.json` and a video.

    Raises:
      ConfigError: not a run or not writable, no such checkpoint, or no episodes asked for.
    """
    if episodes < 1:
        raise ConfigError(f"--episodes {episodes}: at least 1 is needed")
    policy = load_policy(run, checkpoint, deterministic, device, planner)
    check_writable(run)
    env = policy.config.env
    result = {"task": env.task, "checkpoint": checkpoint, "seed": seed} | evaluate(policy, env, episodes, seed)
    name = f"{checkpoint}-{'deterministic' if deterministic else 'sampled'}{'-planner' if planner else ''}"
    (run / "evaluations").mkdir(exist_ok=True)
    write_json(run / "evaluations" / f"{name}.json", result)
    print(f"{env.task}, checkpoint {checkpoint}: {summary(result)}")
    print(f"wrote {run / 'evaluations' / f'{name}.json'}")
    if video:
        write_episode(policy, env, seed, run / "videos" / f"{name}.mp4")
    return result


def write_episode(policy: Policy, env: EnvConfig, seed: int, path: Path) -> None:
    """Records one episode as a video and says where it is, or why there is none: rendering fails in many ways."""
    try:
        frames, fps = record_episode(policy, env, seed)
        path.parent.mkdir(exist_ok=True)
        write_video(frames, path, fps)
    except Exception as error:  # a picture is not worth a run's results
        print(f"no video: {one_line(error)}")
    else:
        print(f"wrote {path}")


def summary(result: dict[str, Any]) -> str:
    """One line for a terminal."""
    return (
        f"return {result['return_mean']:.1f} +- {result['return_std']:.1f} "
        f"(min {result['return_min']:.1f}, max {result['return_max']:.1f}) over {result['episodes']} episodes"
    )
