"""The planner: it searches with a Python loop's sum of rewards, and finds the best action where that is known."""

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting import tiny_config

from dreamer_jax.agent import planner, rssm
from dreamer_jax.agent.heads import outcomes
from dreamer_jax.agent.layout import CPU
from dreamer_jax.agent.networks import build_networks
from dreamer_jax.agent.policy import initial_carry, policy_step
from dreamer_jax.agent.train_step import compile_train_step, count_params, init_agent
from dreamer_jax.agent.types import ActingParams
from dreamer_jax.core.algorithm import PlannerConfig
from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.core.presets import load_config, parse_config
from dreamer_jax.core.spaces import ActionSpec
from dreamer_jax.play.evaluate import evaluate, evaluate_run
from dreamer_jax.play.policy import load_policy, read_specs
from dreamer_jax.training import start

SETTINGS = PlannerConfig(horizon=3, iterations=6, candidates=200, elites=20)
CONFIG = helpers.CONFIG.behavior.model_copy(update={"planner": SETTINGS})


@pytest.mark.parametrize("continues", [True, False], ids=["continue head", "constant discount"])
def test_imagined_reward_is_the_loop_over_steps(continues):
    """r_1 + c_1 (r_2 + c_2 r_3): a reward weighs what went on before it."""
    nets, (params, _, _) = helpers.tiny_networks(), helpers.tiny_params()
    if not continues:
        nets = dataclasses.replace(nets, continue_=None)
    start, actions = helpers.random_state(nets, 0, (4,)), helpers.random_action(nets, 1, (3, 4))
    key, state = jax.random.key(2), start
    total, weight = np.zeros(4), np.ones(4)
    for step_key, action in zip(jax.random.split(key, 3), actions, strict=True):
        state, _ = rssm.imagine_step(nets, params, nets.latent.noise(step_key, (4,)), state, action)
        reward, continue_ = outcomes(nets, CONFIG, params, rssm.features(state))
        total, weight = total + weight * np.asarray(reward), weight * np.asarray(continue_)
    np.testing.assert_allclose(planner.imagined_reward(nets, CONFIG, params, key, start, actions), total, rtol=1e-5, atol=1e-6)


def test_a_constant_discount_is_the_configured_one():
    nets, (params, _, _) = helpers.tiny_networks(), helpers.tiny_params()
    nets = dataclasses.replace(nets, continue_=None)
    _, continue_ = outcomes(nets, CONFIG, params, rssm.features(helpers.random_state(nets, 0, (4,))))
    np.testing.assert_allclose(continue_, 1 - 1 / 333, rtol=1e-6)


def _known_best(monkeypatch, best):
    """The reward of a plan becomes its closeness to `best` [N, A], which a start holds in the first numbers of deter."""

    def reward(nets, config, params, key, start, actions):
        del nets, config, params, key
        return -jnp.square(actions - start.deter[None, :, : actions.shape[-1]]).sum((0, 2))

    monkeypatch.setattr(planner, "imagined_reward", reward)
    nets = helpers.tiny_networks(best.shape[1] == 3)
    start = rssm.initial_state(nets, (best.shape[0],))
    return nets, dataclasses.replace(start, deter=start.deter.at[:, : best.shape[1]].set(best))


def test_the_best_continuous_action_is_found(monkeypatch):
    """Each environment has its own; (1.5, -2) lies outside the range, so the plan goes to its border."""
    best = np.array([[0.3, -0.6], [1.5, -2.0], [0.0, 0.9]], np.float32)
    nets, start = _known_best(monkeypatch, best)
    found = jax.jit(lambda key: planner.plan(nets, CONFIG, {}, key, start))(jax.random.key(0))
    np.testing.assert_allclose(found, np.clip(best, -1, 1), atol=0.05)


def test_the_best_choice_is_found(monkeypatch):
    best = np.eye(3, dtype=np.float32)[[2, 0, 1, 1]]
    nets, start = _known_best(monkeypatch, best)
    np.testing.assert_array_equal(planner.plan(nets, CONFIG, {}, jax.random.key(0), start), best)


def test_one_iteration_refits_to_the_elites(monkeypatch):
    """The mean of the best candidates, with NumPy; the candidates are what the reward was asked about."""
    asked = []

    def reward(nets, config, params, key, start, actions):
        asked.append(actions)
        return actions[..., 0].sum(0)

    monkeypatch.setattr(planner, "imagined_reward", reward)
    nets = helpers.tiny_networks(False)
    settings = PlannerConfig(horizon=2, iterations=1, candidates=50, elites=5)
    config = CONFIG.model_copy(update={"planner": settings})
    with jax.disable_jit():  # a scan of one step, whose arrays can be looked at
        action = planner.plan(nets, config, {}, jax.random.key(0), rssm.initial_state(nets, (1,)))
    (candidates,) = np.asarray(asked)  # [H, C, A]
    assert np.abs(candidates).max() == 1
    elites = candidates[:, np.argsort(candidates[..., 0].sum(0))[-5:]]
    np.testing.assert_allclose(action[0], elites.mean(1)[0], rtol=1e-5)


def test_the_next_iteration_draws_from_the_elites(monkeypatch):
    """Candidates of the second iteration have the mean and the deviation of the first one's elites, within sampling noise."""
    asked = []

    def reward(nets, config, params, key, start, actions):
        asked.append(np.asarray(actions))
        return actions[..., 0].sum(0)

    monkeypatch.setattr(planner, "imagined_reward", reward)
    nets, settings = helpers.tiny_networks(False), PlannerConfig(horizon=2, iterations=2, candidates=4000, elites=2000)
    with jax.disable_jit():
        config = CONFIG.model_copy(update={"planner": settings})
        planner.plan(nets, config, {}, jax.random.key(0), rssm.initial_state(nets, (1,)))
    first, second = asked
    elites = first[:, np.argsort(first[..., 0].sum(0))[-2000:]]
    expected = np.clip(np.random.default_rng(0).normal(elites.mean(1), elites.std(1), (100_000, *elites.mean(1).shape)), -1, 1)
    np.testing.assert_allclose(second.mean(1), expected.mean(0), atol=0.05)
    np.testing.assert_allclose(second.std(1), expected.std(0), atol=0.05)


@pytest.mark.parametrize("mode", ["deterministic", "sampled"])
@pytest.mark.parametrize("discrete", [True, False])
def test_networks_without_an_actor_plan(discrete, mode):
    """One-hot actions, or numbers in the range: the planner's, with the actor's parameters not even there."""
    nets, (params, _, _) = helpers.tiny_networks(discrete), helpers.tiny_params(discrete)
    nets = dataclasses.replace(nets, actor=None)
    step = jax.jit(partial(policy_step, nets, CONFIG, mode=mode))
    acting, key = ActingParams(params, {}), jax.random.key(0)
    action, carry = step(acting, key, initial_carry(nets, 2), helpers.random_obs(0, (2,)), np.zeros(2, bool))
    assert action.shape == (2, nets.action_spec.size)
    assert np.abs(action).max() <= 1
    expected = planner.plan(nets, CONFIG, params, jax.random.split(key)[1], carry.latent)
    np.testing.assert_allclose(action, expected, atol=1e-5)
    if discrete:
        np.testing.assert_array_equal(np.asarray(action).sum(-1), 1)
    np.testing.assert_array_equal(carry.prev_action, action)


def _planet(config: Config = helpers.CONFIG) -> Config:
    return config.model_copy(update={"model": config.model.model_copy(update={"actor_critic": False})})


def test_an_update_without_actor_and_critic():
    """The world model moves; nothing else is there, and no loss of it is reported."""
    config = _planet()
    nets = build_networks(config, helpers.OBS_SPECS, ActionSpec(False, 2), jnp.float32, CPU)
    assert {"actor", "critic"}.isdisjoint(count_params(nets))
    state = helpers.quick_jit(partial(init_agent, nets, config))(jax.random.key(0))
    new, metrics, _ = compile_train_step(nets, config)(jax.tree.map(jnp.copy, state), helpers.random_batch(nets, 0))
    assert {"loss/policy", "loss/value", "loss/replay_value"}.isdisjoint(metrics)
    assert all(np.isfinite(value) for value in metrics.values())
    assert not jax.tree.leaves((new.actor.params, new.critic.params, new.slow_critic))
    before, after = (one.world_model.params["rssm"] for one in (state, new))
    assert any(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True))


def test_a_run_without_an_actor(tmp_path):
    """Trained, saved with nothing where actor and critic would be, loaded, and played to the end."""
    planner = {"behavior.planner.candidates": 8, "behavior.planner.elites": 2, "behavior.planner.iterations": 1}
    config = tiny_config(tmp_path, train__frames=60, model__actor_critic=False, **planner)
    run = start.train(config)
    result = evaluate(load_policy(run), config.env, episodes=2, seed=0)
    assert result["returns"] == [15.0, 15.0]


def test_any_agent_can_plan_at_an_evaluation(finished_run, tmp_path):
    """The trained actor is left aside, and the result has a name of its own."""
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("candidates: 1000", "candidates: 20").replace("elites: 100", "elites: 5"))
    assert load_policy(run, planner=True)._nets.actor is None
    evaluate_run(run, "last", 2, True, 0, "cpu", False, planner=True)
    assert json.loads((run / "evaluations" / "last-deterministic-planner.json").read_text())["returns"] == [15.0, 15.0]


def test_presets_of_planet():
    paper, small = load_config("planet"), load_config("planet_pendulum_cpu")
    planner_of_paper = paper.behavior.planner
    assert (planner_of_paper.horizon, planner_of_paper.iterations) == (12, 10)
    assert (planner_of_paper.candidates, planner_of_paper.elites) == (1000, 100)
    assert small.behavior.planner.candidates <= 200
    assert small.behavior.planner.iterations <= 4
    nets = build_networks(small, *read_specs(small.env), jnp.float32, CPU)
    assert nets.actor is nets.critic is None


def test_elites_are_fewer_than_candidates():
    with pytest.raises(ConfigError, match=r"elites=100 has to be below behavior\.planner\.candidates=100"):
        parse_config({"behavior": {"planner": {"candidates": 100}}}, "test")
