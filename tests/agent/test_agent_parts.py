"""Parts from outside: parameters, losses, weights, states and hooks, against arithmetic by hand."""

from functools import partial
from pathlib import Path

import chex
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax.agent import behavior
from dreamer_jax.agent.layout import ACCELERATOR, CPU
from dreamer_jax.agent.networks import build_networks
from dreamer_jax.agent.parts import ExplorationBonus, LossTerm, PartOptions, part_losses
from dreamer_jax.agent.train_step import check_update, compile_train_step, count_params, init_agent, total_loss
from dreamer_jax.agent.types import LatentState, ReturnNorm, Trajectory
from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.core.extensions import ObservationNetwork, register
from dreamer_jax.core.spaces import ActionSpec, ObsSpec

NORM = ReturnNorm(jnp.float32(0), jnp.float32(0))


class Pull(LossTerm):
    """Half the squared distance of one number from what its state says; counts updates in its state."""

    def init_params(self, key, example):
        return {"pull": jnp.float32(5)}

    def init_state(self, params):
        return {"target": jnp.float32(1), "updates": jnp.int32(0)}

    def losses(self, nets, params, state, key, seen):
        chex.assert_equal_shape_prefix([seen.embed, seen.features, seen.batch.reward], 2)
        return {"pull": 0.5 * jnp.square(params["pull"] - state["target"])}

    def before_update(self, params, state, step):
        return params, {"target": state["target"], "updates": step + 1}


def _config(**changes) -> Config:
    sections = {name: getattr(helpers.CONFIG, name).model_copy(update=values) for name, values in changes.items()}
    return helpers.CONFIG.model_copy(update=sections)


def _nets(config, layout=CPU):
    return build_networks(config, helpers.OBS_SPECS, ActionSpec(True, 3), jnp.float32, layout)


@pytest.mark.parametrize("layout", [CPU, ACCELERATOR])
def test_a_loss_term_has_parameters_a_weight_and_a_state(layout):
    """d/dp of weight * (p - 1)^2 / 2 at p = 5 is 4 weight, and it reaches nothing else; the state counts updates."""
    register("pull")(Pull)
    config = _config(loss={"terms": ("pull",)}, model={"actor_critic": False}).model_copy(
        update={"extensions": {"pull": PartOptions(weight=0.25)}}
    )
    nets = _nets(config, layout)
    assert count_params(nets)["pull"] == 1
    state = helpers.quick_jit(partial(init_agent, nets, config))(jax.random.key(0))
    assert state.parts == {"pull": {"target": 1, "updates": 0}}
    batch = helpers.random_batch(nets, 0)

    def objective(params, parts):
        rest = (state.return_norm, jax.random.key(0), batch, parts)
        total, (losses, *_) = total_loss(nets, config, params, state.slow_critic, *rest)
        return total, losses

    params = (state.world_model.params, state.actor.params, state.critic.params)
    (total, losses), (gradient, _, _) = helpers.quick_jit(jax.value_and_grad(objective, has_aux=True))(params, state.parts)
    np.testing.assert_allclose(losses["pull"], 8, rtol=1e-6)
    np.testing.assert_allclose(gradient["pull"], 0.25 * 4, rtol=1e-6)
    without = config.model_copy(update={"loss": helpers.CONFIG.loss})
    bare = {name: value for name, value in params[0].items() if name != "pull"}
    alone, _ = helpers.quick_jit(
        lambda params: total_loss(_nets(without), without, params, state.slow_critic, NORM, jax.random.key(0), batch, {})
    )((bare, *params[1:]))
    np.testing.assert_allclose(total - alone, 0.25 * 8, rtol=1e-4)

    step = compile_train_step(nets, config)
    for expected in (1, 2):
        state, metrics, _ = step(state, batch)
        assert state.parts["pull"]["updates"] == expected
    assert np.isfinite(metrics["loss/pull"])
    assert float(state.world_model.params["pull"]) < 5


def test_gradients_pass_through_the_hook():
    class Held(Pull):
        def gradients(self, gradients, step):
            return gradients | {"pull": jnp.zeros_like(gradients["pull"])}

    register("pull")(Held)
    config = _config(loss={"terms": ("pull",)}, model={"actor_critic": False})
    nets = _nets(config)
    state = helpers.quick_jit(partial(init_agent, nets, config))(jax.random.key(0))
    state, *_ = compile_train_step(nets, config)(state, helpers.random_batch(nets, 0))
    assert float(state.world_model.params["pull"]) == 5


def test_losses_are_checked():
    """Names and shapes that cannot be used end in one line."""

    class Badly(LossTerm):
        def losses(self, nets, params, state, key, seen):
            return params  # of this test

    register("badly")(Badly)
    nets = _nets(_config(loss={"terms": ("badly",)}))
    batch = helpers.random_batch(nets, 0)
    seen = type("Seen", (), {"batch": batch})()
    for returned, message in (
        ({"other": jnp.zeros(())}, r"badly\.losses returned a loss named 'other'; 'badly' or 'badly/...' was expected"),
        ({"badly/x": jnp.zeros((2,))}, r"loss 'badly/x' has shape \[2\]; \[2, 5\]"),
        (None, r"badly\.losses returned NoneType; a dict of losses was expected"),
    ):
        with pytest.raises(ConfigError, match=message):
            part_losses(nets.terms, nets, returned, {}, jax.random.key(0), seen)


def test_errors_of_parts_are_one_line_with_their_place():
    class Failing(LossTerm):
        def losses(self, nets, params, state, key, seen):
            return {"failing": jnp.zeros(()) + params["nothing"]}  # this line

        def before_update(self, params, state, step):
            return state

    register("failing")(Failing)
    config = _config(loss={"terms": ("failing",)}, model={"actor_critic": False})
    nets, line = _nets(config), 1 + Path(__file__).read_text().partition("  # this line")[0].count("\n")
    with pytest.raises(ConfigError, match=rf"failing\.losses raised KeyError: 'nothing' \(test_agent_parts\.py:{line}\)"):
        part_losses(nets.terms, nets, {}, {}, jax.random.key(0), None)
    with pytest.raises(ConfigError, match=r"failing\.before_update returned dict; the tuple \(params, state\) was expected"):
        check_update(nets, config)


def test_parameters_of_two_parts_may_not_share_a_name():
    class Taken(LossTerm):
        def init_params(self, key, example):
            return {"reward": jnp.zeros(())}

    register("taken")(Taken)
    nets = _nets(_config(loss={"terms": ("taken",)}))
    with pytest.raises(ConfigError, match=r"taken: .*parameters named 'reward' already"):
        count_params(nets)


class Distance(ExplorationBonus):
    """The action's first number, for arriving in the next state; its state is the sum of all bonuses so far."""

    def init_state(self, params):
        return {"sum": jnp.float32(0)}

    def reward(self, nets, params, state, features, action):
        bonus = jnp.concatenate([jnp.zeros_like(action[:1, :, 0]), action[..., 0]])
        return bonus, {"sum": state["sum"] + bonus.sum()}


def test_a_bonus_is_added_to_imagined_rewards():
    """Index k + 1 gets what action k earns, times the weight; the start gets none."""
    register("distance")(Distance)
    config = _config(behavior={"bonuses": ("distance",)})
    config = config.model_copy(update={"extensions": {"distance": PartOptions(weight=3.0)}})
    nets = _nets(config)
    action = jnp.asarray(np.arange(6.0).reshape(3, 2, 1), jnp.float32)  # [H, N, A]
    trajectory = Trajectory(jnp.zeros((3, 2, 4)), action, LatentState(jnp.zeros((2, 2)), jnp.zeros((2, 2))))
    reward = jnp.asarray(np.full((4, 2), 10.0), jnp.float32)
    predictions = behavior.Predictions(reward, reward, reward, reward)
    parts = {"distance": {"sum": jnp.float32(100)}}
    added, parts, metrics = behavior.add_bonuses(nets, {}, parts, trajectory, predictions)
    np.testing.assert_array_equal(added.reward, [[10, 10], [10, 13], [16, 19], [22, 25]])
    np.testing.assert_array_equal(added.value, reward)
    assert parts["distance"]["sum"] == 100 + 15
    assert metrics["bonus/distance"] == 15 / 6


def test_a_bonus_reaches_returns_and_its_state_the_agent():
    register("distance")(Distance)
    config = _config(behavior={"bonuses": ("distance",)})
    config = config.model_copy(update={"extensions": {"distance": PartOptions(weight=1.0)}})
    nets = _nets(config)
    state = helpers.quick_jit(partial(init_agent, nets, config))(jax.random.key(0))
    state, metrics, _ = compile_train_step(nets, config)(state, helpers.random_batch(nets, 0))
    count = helpers.HORIZON * helpers.BATCH * helpers.LENGTH
    np.testing.assert_allclose(state.parts["distance"]["sum"], count * metrics["bonus/distance"], rtol=1e-5)
    assert 0 < metrics["bonus/distance"] < 1  # how often the first of three choices was taken


def test_a_planner_knows_no_bonus():
    register("distance")(Distance)
    with pytest.raises(ConfigError, match=r"behavior\.bonuses=distance are for an actor"):
        _nets(_config(behavior={"bonuses": ("distance",)}, model={"actor_critic": False}))


class Doubled(ObservationNetwork):
    """A vector of 2 numbers, encoded as its double; the decoder says 0."""

    def encoder(self, spec, style):
        return helpers.Fixed(lambda x: 2 * x)

    def decoder(self, spec, style):
        return helpers.Fixed(lambda deter, stoch: jnp.zeros((*deter.shape[:-1], 2)))

    def loss(self, spec, prediction, target):
        return jnp.abs(prediction - target).sum(-1)


def test_a_kind_of_observation_has_networks_of_its_own():
    register("doubled")(Doubled)
    specs = helpers.OBS_SPECS | {"own": ObsSpec("doubled", (2,), storage="float32")}
    config = _config(env={"kinds": ("doubled",)})
    nets = build_networks(config, specs, ActionSpec(True, 3), jnp.float32, CPU)
    params = helpers.random_params(nets)
    batch, own = helpers.random_batch(nets, 0), np.random.default_rng(0).normal(size=(2, 5, 2)).astype(np.float32)
    batch = batch.replace(obs=batch.obs | {"own": jnp.asarray(own)})
    embed = nets.encoder.apply({"params": params[0]["encoder"]}, batch.obs)
    np.testing.assert_array_equal(embed[..., -2:], 2 * own)

    def losses(params):
        return total_loss(nets, config, params, params[2], NORM, jax.random.key(0), batch, {})[1][0]

    np.testing.assert_allclose(helpers.quick_jit(losses)(params)["decoder/own"], np.abs(own).sum(-1), rtol=1e-6)
