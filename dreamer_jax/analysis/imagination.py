"""How far a world model can be trusted: imagination beside the environment, from the same states under the same actions.

Episodes that training never saw are recorded, once with the agent's sampled actions and once with random ones, and filtered.
From some of their states the model then imagines with the actions that were really taken.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.agent import distributions, rssm
from dreamer_jax.agent.heads import outcomes
from dreamer_jax.agent.networks import apply
from dreamer_jax.agent.types import LatentState, Params
from dreamer_jax.analysis.imagination_report import draw_comparison, draw_counterfactual, table
from dreamer_jax.core.config import EnvConfig
from dreamer_jax.core.errors import ConfigError, StorageError
from dreamer_jax.core.files import make_folder, write_json, write_text
from dreamer_jax.core.statistics import correlation, spread
from dreamer_jax.envs import VectorEnv, env_seeds, make_vector_env
from dreamer_jax.play.dreams import decode
from dreamer_jax.play.policy import Agent, Policy, load_agent, load_policy
from dreamer_jax.play.rollout import one_episode, policy_actions, random_actions

logger = logging.getLogger(__name__)
FIRST_SEED = 2**33  # neither training nor evaluations use it
CONTEXT = 5  # records that are filtered before a state counts as known
COUNTERFACTUAL_STEPS = 15


@dataclass
class Episode:
    """One recorded episode of T decisions: obs {name: [T+1, ...]}, action f32[T, A], reward f64[T], and how it ended."""

    seed: int
    obs: dict[str, np.ndarray]
    action: np.ndarray
    reward: np.ndarray
    terminated: bool

    def __len__(self) -> int:
        return len(self.reward)


def record(policy: Policy | None, env: EnvConfig, seed: int) -> Episode:
    """Plays one episode from a reset with `seed`; without a policy the actions are random.

    Rewards are rounded to float32, as the replay stores them and the world model learns them.

    Raises:
      EnvError: the environment cannot be made, or fails.
      ActionError: the policy's action is not finite.
    """
    with _single(env, seed) as envs:
        act = policy_actions(policy, 1, seed) if policy else random_actions(envs.action_spec, seed)
        steps, actions = zip(*one_episode(envs, act), strict=True)
    return Episode(
        seed=seed,
        obs={name: np.concatenate([step.obs[name] for step in steps]) for name in envs.obs_specs},
        action=np.concatenate(actions[1:]),  # the first one belongs to the reset
        reward=np.concatenate([step.reward for step in steps[1:]], dtype=float),
        terminated=bool(steps[-1].is_terminal[0]),
    )


def _single(env: EnvConfig, seed: int) -> contextlib.closing[VectorEnv]:
    """One environment in this process, the first episode of which is reset with `seed` itself; closed at the block's end."""
    return contextlib.closing(make_vector_env(env.model_copy(update={"processes": False}), [seed]))


def filter_episodes(agent: Agent, episodes: Sequence[Episode], seed: int) -> LatentState:
    """Posterior states [E, L] of all records, L those of the longest episode; behind an episode's end they mean nothing.

    One episode at a time: the images of all of them would take gigabytes.
    """
    nets, params = agent.nets, agent.params.world_model
    length = max(map(len, episodes)) + 1

    def padded(rows: np.ndarray) -> np.ndarray:
        return np.concatenate([rows, np.zeros((length - len(rows), *rows.shape[1:]), rows.dtype)])[None]

    @jax.jit
    def observe(params: Params, key: jax.Array, obs: dict[str, jax.Array], prev_action: jax.Array) -> LatentState:
        embed = apply(nets.encoder, params["encoder"], obs)
        start, is_first = rssm.initial_state(nets, (1,)), (jnp.arange(length) == 0)[None]
        return rssm.observe(nets, params, key, start, prev_action.astype(nets.dtype), embed, is_first)[1]

    none, states = np.zeros((1, nets.action_spec.size), np.float32), []
    for i, episode in enumerate(episodes):
        obs = {name: padded(episode.obs[name]) for name in nets.obs_specs}
        prev_action = padded(np.concatenate([none, episode.action]))
        states.append(observe(params, jax.random.fold_in(jax.random.key(seed), i), obs, prev_action))
    return jax.tree.map(lambda *rows: jnp.concatenate(rows), *states)


def compare(agent: Agent, episodes: Sequence[Episode], horizon: int, starts: int, seed: int) -> dict[str, Any]:
    """Imagines `horizon` steps from `starts` recorded states under the recorded actions, and compares with what happened.

    Returns:
      lists with an entry for each step 1..horizon: "reward_error" (mean absolute) with "reward_error_ci" (half of a 95%
      interval), "reward_mean" and "reward_real", their "correlation" (null where one does not vary), all over the "count" of
      starts whose episode had that step; "alive_accuracy" (whether the episode still goes on, predicted by the product of
      continues) and "alive_real", over the "alive_count" of which that is known; "drift" (distance of imagined from filtered
      features, over the mean distance of two random states) with "drift_ci". Of the starts themselves: "value_error",
      "value_mean" and "return_mean".

    Starts have at least 5 records of context, but for the last of episodes that are shorter. Rewards are compared as the model
    learns them, through tanh where `behavior.reward` says so.
    """
    rng, episode_return = np.random.default_rng(seed), float(np.mean([episode.reward.sum() for episode in episodes]))
    if agent.config.behavior.reward == "tanh":
        episodes = [dataclasses.replace(episode, reward=np.tanh(episode.reward)) for episode in episodes]
    places = [(e, t) for e, episode in enumerate(episodes) for t in range(min(CONTEXT, len(episode) - 1), len(episode))]
    chosen = [places[i] for i in rng.choice(len(places), starts, replace=starts > len(places))]
    states = filter_episodes(agent, episodes, seed)
    rows, times = (np.array(column) for column in zip(*chosen, strict=True))

    def at(offset: int, name: str) -> np.ndarray:
        values = [getattr(episodes[e], name) for e, _ in chosen]
        return np.stack([one[min(t + offset, len(one) - 1)] for one, (_, t) in zip(values, chosen, strict=True)])

    lengths = np.array([len(episodes[e]) for e in rows])
    terminated = np.array([episodes[e].terminated for e in rows])
    actions = np.stack([at(k, "action") for k in range(horizon)])  # behind the end the last one is repeated
    start = jax.tree.map(lambda x: x[rows, times], states)
    imagined, reward, continue_ = _imagine(agent, start, actions, seed)

    steps = times + 1 + np.arange(horizon)[:, None]  # record that each imagined state stands for, [H, M]
    recorded = steps <= lengths
    alive = recorded & ~(terminated & (steps == lengths))
    known = recorded | terminated
    expected = np.cumprod(continue_ / agent.config.behavior.discount, 0) > 0.5
    real = np.stack([at(k, "reward") for k in range(horizon)])
    filtered = np.asarray(rssm.features(states), np.float32)
    seen = filtered[rows, np.minimum(steps, lengths)]  # [H, M, F]
    every = np.concatenate([filtered[e, : len(episode) + 1] for e, episode in enumerate(episodes)])
    pairs = every[rng.integers(len(every), size=(2, 500))]
    distance = np.linalg.norm(pairs[0] - pairs[1], axis=-1).mean()  # of two random states
    drift = np.linalg.norm(imagined - seen, axis=-1) / max(distance, 1e-8)

    result: dict[str, Any] = {"horizon": horizon, "starts": starts, "episodes": len(episodes)}
    result["episode_return_mean"] = episode_return
    columns: list[dict[str, Any]] = []
    for k in range(horizon):
        here = recorded[k]
        error, far = spread(np.abs(reward[k] - real[k])[here]), spread(drift[k][alive[k]])
        columns.append(
            {
                "count": int(here.sum()),
                "reward_error": error.mean,
                "reward_error_ci": error.half,
                "reward_mean": spread(reward[k][here]).mean,
                "reward_real": spread(real[k][here]).mean,
                "correlation": correlation(reward[k][here], real[k][here]),
                "alive_count": int(known[k].sum()),
                "alive_real": spread(alive[k][known[k]]).mean,
                "alive_accuracy": spread((expected[k] == alive[k])[known[k]]).mean,
                "drift": far.mean,
                "drift_ci": far.half,
            }
        )
    result |= {name: [column[name] for column in columns] for name in columns[0]}
    return result | _value_error(agent, episodes, chosen, states)


def _imagine(agent: Agent, start: LatentState, actions: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features f32[H, M, F], rewards and continues f32[H, M] under actions [H, M, A]."""
    nets, behavior = agent.nets, agent.config.behavior

    @jax.jit
    def imagine(params: Params, start: LatentState, actions: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        states = rssm.imagine_actions(nets, params, jax.random.key(seed + 1), start, actions)
        return rssm.features(states), *outcomes(nets, behavior, params, rssm.features(states))

    features, reward, continue_ = imagine(agent.params.world_model, start, jnp.asarray(actions))
    return np.asarray(features, np.float32), np.asarray(reward), np.asarray(continue_)


def discounted_returns(rewards: np.ndarray, discount: float, last: float) -> np.ndarray:
    """What follows each of the T states before the end: r_t + discount * (what follows the next), `last` behind the end."""
    returns = np.zeros(len(rewards))
    for t in reversed(range(len(rewards))):
        last = rewards[t] + discount * last
        returns[t] = last
    return returns


def _value_error(
    agent: Agent, episodes: Sequence[Episode], chosen: Sequence[tuple[int, int]], states: LatentState
) -> dict[str, Any]:
    """The critic's error at the starts, against the discounted return that followed; a cut episode goes on with its own value.

    Where values begin with a state's own reward (V1, V2) the return does too.
    """
    nets, behavior = agent.nets, agent.config.behavior
    if nets.critic is None:
        return {}
    value = jax.jit(lambda params, features: distributions.scalar_mean(apply(nets.critic, params, features)))
    values, discount = np.asarray(value(agent.critic, rssm.features(states))), behavior.discount  # [E, L]
    own = behavior.returns != "next_reward"
    after = []
    for e, episode in enumerate(episodes):
        end = float(values[e, len(episode)])
        end = (end - episode.reward[-1]) / discount if own else end
        returns = discounted_returns(episode.reward, discount, 0.0 if episode.terminated else end)
        arrived = np.concatenate([[0.0], episode.reward[:-1]])
        after.append(arrived + discount * returns if own else returns)
    predicted = np.array([values[e, t] for e, t in chosen])
    real = np.array([after[e][t] for e, t in chosen])
    error = spread(np.abs(predicted - real))
    means = {"value_mean": float(predicted.mean()), "return_mean": float(real.mean())}
    return {"value_error": error.mean, "value_error_ci": error.half, **means}


def counterfactual(agent: Agent, episode: Episode, env: EnvConfig, seed: int) -> dict[str, Any] | None:
    """What would have followed other actions: from one recorded state, in the model and in the environment itself.

    The environment is brought to that state by playing the episode's actions again. Where that gives other observations (it is
    not deterministic), or where nothing is decoded, there is nothing to compare.

    Returns:
      {"start": record, "outcomes": {name: {"real", "model": {key: [K, ...]}}}}, real ones as long as the episode went on.
    """
    nets, spec, params = agent.nets, agent.nets.action_spec, agent.params.world_model
    if not nets.representation.decoded:
        return None
    start = min(max(CONTEXT, len(episode) // 4), len(episode) - 1)
    low, high = (np.eye(spec.size)[[0, -1]]) if spec.discrete else (-np.ones(spec.size), np.ones(spec.size))
    taken = episode.action[start : start + COUNTERFACTUAL_STEPS]
    names = ("choice 0", f"choice {spec.size - 1}") if spec.discrete else ("all actions -1", "all actions 1")
    plans = {"as it was": taken} | {
        name: np.repeat(action[None], COUNTERFACTUAL_STEPS, 0).astype(np.float32)
        for name, action in zip(names, (low, high), strict=True)
    }
    states = filter_episodes(agent, [episode], seed)
    state = jax.tree.map(lambda x: x[:, start], states)

    @jax.jit
    def imagine(params: Params, state: LatentState, actions: jax.Array) -> dict[str, jax.Array]:
        states = rssm.imagine_actions(nets, params, jax.random.key(seed), state, actions)
        return decode(nets, agent.config.model, params, states)

    results = {}
    for name, plan in plans.items():
        real = _replay(env, episode, start, plan)
        if real is None:
            return None
        model = imagine(params, state, jnp.asarray(plan)[:, None])
        images = {key: spec for key, spec in nets.obs_specs.items() if spec.kind == "image"}
        real |= {key: spec.as_pixels(real[key]) for key, spec in images.items() if key in real}
        results[name] = {"real": real, "model": {key: np.asarray(value)[:, 0] for key, value in model.items()}}
    return {"start": start, "seed": episode.seed, "outcomes": results}


def _replay(env: EnvConfig, episode: Episode, start: int, plan: np.ndarray) -> dict[str, np.ndarray] | None:
    """Observations {name: [k, ...]} after each action of a plan f32[K, A] that begins at record `start` of a recorded episode.

    Fewer than K where the episode ends before; None where the environment does not come to the recorded observations again.
    """
    actions, seen = iter([*episode.action[:start], *plan]), []
    with _single(env, episode.seed) as envs:
        for t, (step, _) in enumerate(one_episode(envs, lambda step: next(actions)[None])):
            if t == start and not all(
                np.allclose(step.obs[name][0], values[start], atol=1e-4) for name, values in episode.obs.items()
            ):
                return None
            if t > start:
                seen.append(step.obs)
            if len(seen) == len(plan):
                break
    return {name: np.concatenate([obs[name] for obs in seen]) for name in seen[0]} if seen else None


def diagnose(run: Path, checkpoint: str, episodes: int, starts: int, horizon: int, seed: int, output: Path) -> dict[str, Any]:
    """Compares a run's world model with its environment, prints a table, and writes numbers and figures into `output`.

    Raises:
      ConfigError: no episodes, starts or steps are asked for.
      StorageError: the folder cannot be written.
      RunError, CheckpointError, EnvError: as `load_policy`.
    """
    limits = {"--episodes": (episodes, 1), "--starts": (starts, 1), "--horizon": (horizon, 1), "--seed": (seed, 0)}
    for name, (value, least) in limits.items():
        if value < least:
            raise ConfigError(f"{name} {value}: at least {least} is needed")
    make_folder(output)  # before the episodes: a mistake here would lose them
    agent, policy = load_agent(run, checkpoint), load_policy(run, checkpoint, deterministic=False)
    env, seeds = agent.config.env, env_seeds(FIRST_SEED + seed, episodes)
    recorded = {
        "agent": [record(policy, env, one) for one in seeds],
        "random": [record(None, env, one) for one in seeds],
    }
    result: dict[str, Any] = {"task": env.task, "preset": agent.config.preset, "checkpoint": checkpoint, "seed": seed}
    with jax.default_device(agent.device):
        result |= {name: compare(agent, those, horizon, starts, seed) for name, those in recorded.items()}
    with _writing(output):
        write_json(output / "imagined_vs_real.json", result)
        write_text(output / "imagined_vs_real.md", table(result) + "\n")
        draw_comparison(result, output / "imagined_vs_real.png")
    logger.info("%s", table(result))
    logger.info("wrote %s, .md and .png", output / "imagined_vs_real.json")
    with jax.default_device(agent.device):
        what_if = counterfactual(agent, recorded["agent"][0], env, seed)
    if what_if is None:
        logger.info("no counterfactuals: nothing is decoded, or the environment does not repeat an episode from its seed")
    else:
        with _writing(output):
            draw_counterfactual(what_if, output / "counterfactual.png", env.task)
        logger.info("wrote %s", output / "counterfactual.png")
    return result


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Makes a StorageError of an OSError."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror}; choose another with --output") from None
