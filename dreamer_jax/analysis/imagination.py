"""How far a world model can be trusted: imagination beside the environment, from the same states under the same actions.

Episodes that training never saw are recorded, once with the agent's sampled actions and once with random ones, and filtered.
From some of their states the model then imagines with the actions that were really taken.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.agent import distributions, rssm
from dreamer_jax.agent.behavior import outcomes
from dreamer_jax.agent.networks import apply
from dreamer_jax.agent.types import LatentState, Params
from dreamer_jax.analysis.imagination_report import draw_comparison, draw_counterfactual, table
from dreamer_jax.core.config import EnvConfig
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.core.files import make_folder, write_json
from dreamer_jax.envs import env_seeds, make_env
from dreamer_jax.play.evaluate import Agent, Policy, load_agent, load_policy

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
    """Plays one episode from a reset with `seed`; without a policy the actions are random."""
    single, rng = make_env(env), np.random.default_rng(seed)
    spec = single.get_wrapper_attr("action_spec")
    try:
        obs, _ = single.reset(seed=seed)
        carry = policy.initial(1, seed) if policy else None
        seen, actions, rewards, terminated, truncated = [_copied(obs)], [], [], False, False
        while not (terminated or truncated):
            if policy:
                batched = {name: np.asarray(value)[None] for name, value in obs.items()}
                chosen, carry = policy(batched, carry, np.array([not rewards]))
                action = np.asarray(chosen)[0]
            elif spec.discrete:
                action = np.eye(spec.size, dtype=np.float32)[rng.integers(spec.size)]
            else:
                action = rng.uniform(-1, 1, spec.size).astype(np.float32)
            obs, reward, terminated, truncated, _ = single.step(action)
            seen.append(_copied(obs))
            actions.append(action)
            rewards.append(float(reward))
    finally:
        single.close()
    stacked = {name: np.stack([one[name] for one in seen]) for name in seen[0]}
    return Episode(seed, stacked, np.stack(actions), np.array(rewards), bool(terminated))


def _copied(obs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Observations of their own: an environment may fill the same arrays at every step."""
    return {name: np.array(value) for name, value in obs.items()}


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
    spread = np.linalg.norm(pairs[0] - pairs[1], axis=-1).mean()
    drift = np.linalg.norm(imagined - seen, axis=-1) / max(spread, 1e-8)

    result: dict[str, Any] = {"horizon": horizon, "starts": starts, "episodes": len(episodes)}
    result["episode_return_mean"] = episode_return
    columns: list[dict[str, Any]] = []
    for k in range(horizon):
        here = recorded[k]
        error, ci = _mean(np.abs(reward[k] - real[k])[here])
        far, far_ci = _mean(drift[k][alive[k]])
        columns.append(
            {
                "count": int(here.sum()),
                "reward_error": error,
                "reward_error_ci": ci,
                "reward_mean": _mean(reward[k][here])[0],
                "reward_real": _mean(real[k][here])[0],
                "correlation": _correlation(reward[k][here], real[k][here]),
                "alive_count": int(known[k].sum()),
                "alive_real": _mean(alive[k][known[k]])[0],
                "alive_accuracy": _mean((expected[k] == alive[k])[known[k]])[0],
                "drift": far,
                "drift_ci": far_ci,
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
    error, ci = _mean(np.abs(predicted - real))
    means = {"value_mean": float(predicted.mean()), "return_mean": float(real.mean())}
    return {"value_error": error, "value_error_ci": ci, **means}


def _mean(values: np.ndarray) -> tuple[float | None, float | None]:
    """Mean, and half of its 95% interval."""
    if not len(values):
        return None, None
    half = 1.96 * np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.inf
    return float(np.mean(values)), float(half) if np.isfinite(half) else None


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    if len(a) < 3 or np.std(a) < 1e-6 or np.std(b) < 1e-6:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def counterfactual(agent: Agent, episode: Episode, env: EnvConfig, seed: int) -> dict[str, Any] | None:
    """What would have followed other actions: from one recorded state, in the model and in the environment itself.

    The environment is brought to that state by playing the episode's actions again. Where that gives other observations (it is
    not deterministic), or where nothing is decoded, there is nothing to compare.

    Returns:
      {"start": record, "outcomes": {name: {"real", "model": {key: [K, ...]}}}}, real ones as long as the episode went on.
    """
    nets, spec, params = agent.nets, agent.nets.action_spec, agent.params.world_model
    if nets.decoder is None:
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
        return decode(agent, params, states)

    results = {}
    for name, plan in plans.items():
        real = _replay(env, episode, start, plan)
        if real is None:
            return None
        model = imagine(params, state, jnp.asarray(plan)[:, None])
        results[name] = {"real": real, "model": {key: np.asarray(value)[:, 0] for key, value in model.items()}}
    return {"start": start, "seed": episode.seed, "outcomes": results}


def decode(agent: Agent, params: Params, states: LatentState) -> dict[str, jax.Array]:
    """The decoder's observations of states [..]: vectors in the environment's units, images in [0, 1], indices as numbers."""
    assert agent.nets.decoder
    decoded = {}
    for name, value in apply(agent.nets.decoder, params["decoder"], states.deter, states.stoch).items():
        kind, value = agent.nets.obs_specs[name].kind, value.astype(jnp.float32)
        if kind == "discrete":
            value = value.argmax(-1)
        elif kind == "vector" and agent.config.model.symlog:
            value = distributions.symexp(value)
        decoded[name] = value
    return decoded


def _replay(env: EnvConfig, episode: Episode, start: int, plan: np.ndarray) -> dict[str, np.ndarray] | None:
    """Observations {name: [k, ...]} after each action of a plan that begins at record `start` of a recorded episode."""
    single = make_env(env)
    try:
        obs, _ = single.reset(seed=episode.seed)
        for action in episode.action[:start]:
            obs, *_ = single.step(action)
        if not all(np.allclose(obs[name], values[start], atol=1e-4) for name, values in episode.obs.items()):
            return None
        seen: list[dict[str, np.ndarray]] = []
        for action in plan:
            obs, _, terminated, truncated, _ = single.step(action)
            seen.append(_copied(obs))
            if terminated or truncated:
                break
    finally:
        single.close()
    return {name: np.stack([one[name] for one in seen]) for name in seen[0]}


def diagnose(run: Path, checkpoint: str, episodes: int, starts: int, horizon: int, seed: int, output: Path) -> dict[str, Any]:
    """Compares a run's world model with its environment, prints a table, and writes numbers and figures into `output`.

    Raises:
      ConfigError: not a run, no such checkpoint, or no episodes, starts or steps asked for.
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
    result |= {name: compare(agent, those, horizon, starts, seed) for name, those in recorded.items()}
    write_json(output / "imagined_vs_real.json", result)
    (output / "imagined_vs_real.md").write_text(table(result) + "\n")
    draw_comparison(result, output / "imagined_vs_real.png")
    print(table(result))
    print(f"wrote {output / 'imagined_vs_real.json'}, .md and .png")
    what_if = counterfactual(agent, recorded["agent"][0], env, seed)
    if what_if is None:
        print("no counterfactuals: nothing is decoded, or the environment does not repeat an episode from its seed")
    else:
        draw_counterfactual(what_if, output / "counterfactual.png", env.task)
        print(f"wrote {output / 'counterfactual.png'}")
    return result
