"""The complete loss, its gradients and three updates of a tiny agent against the author's implementation.

Every sample is the mode, so that nothing depends on a random generator.
"""

from types import SimpleNamespace

import chex
import golden_data as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.training.train_state import TrainState
from golden_data import assert_all_close, assert_close, assert_gradients_close

from dreamer_jax.agent import distributions, rssm, train_step
from dreamer_jax.agent.layout import ACCELERATOR, CPU
from dreamer_jax.agent.networks import build_networks
from dreamer_jax.agent.optimizer import make_optimizer
from dreamer_jax.agent.train_step import compile_train_step, init_params, loss_weight, total_loss
from dreamer_jax.agent.types import AgentState, Batch, LatentState, ReturnNorm
from dreamer_jax.core.algorithm import BehaviorConfig, OptimizerConfig
from dreamer_jax.core.config import Config
from dreamer_jax.core.spaces import ActionSpec

HORIZON = 3  # the only size that no array shows
UPDATES = 3
LOSSES = {
    "image": "decoder/image",
    "position": "decoder/position",
    "rew": "reward",
    "con": "continue",
    "dyn": "dyn",
    "rep": "rep",
    "policy": "policy",
    "value": "value",
    "repval": "replay_value",
}


@pytest.fixture(scope="module", autouse=True)
def _deterministic():
    with pytest.MonkeyPatch.context() as patch, jax.default_matmul_precision("highest"):
        patch.setattr(distributions, "sample", lambda key, dist: dist.mode())
        yield


@pytest.fixture(
    scope="module",
    params=[("cont", CPU), ("disc", CPU), ("cont", ACCELERATOR), ("disc", ACCELERATOR)],
    ids=["cont-cpu", "disc-cpu", "cont-accelerator", "disc-accelerator"],
)
def agent(request, _deterministic):
    """One prefix of file 11 as this project sees it: networks in a layout, configuration, weights, batch, normaliser."""
    prefix, layout = request.param
    data = golden.select(golden.load("11_agent_loss_deterministic"), f"{prefix}/")
    weights = golden.select(data, "param/")
    inputs = golden.select(data, "data/")
    model = golden.model_config(weights, classes=inputs["dyn/stoch"].shape[-1])
    config = Config(model=model, behavior=BehaviorConfig(imagination_horizon=HORIZON))
    specs = {name: golden.obs_spec(inputs[name]) for name in ("image", "position") if name in inputs}
    action_spec = ActionSpec(discrete=prefix == "disc", size=weights["dyn/dynin2/kernel"].shape[0])
    nets = build_networks(config, specs, action_spec, jnp.float32, layout)

    params = jax.tree.map(jnp.asarray, golden.to_params(weights))
    actor, critic, slow_critic = (params.pop(name) for name in ("actor", "critic", "slow_critic"))
    # Step 0 of the file supplies the stored latent and the first action; the loss is on the rest.
    inputs = jax.tree.map(jnp.asarray, inputs)
    action = jax.nn.one_hot(inputs["action"], action_spec.size) if action_spec.discrete else inputs["action"]
    batch = Batch(
        obs={name: inputs[name][:, 1:] for name in specs},
        prev_action=action[:, :-1],
        reward=inputs["reward"][:, 1:],
        is_first=inputs["is_first"][:, 1:],
        is_last=inputs["is_last"][:, 1:],
        is_terminal=inputs["is_terminal"][:, 1:],
        start=LatentState(inputs["dyn/deter"][:, 0], inputs["dyn/stoch"][:, 0]),
    )
    norm = ReturnNorm(jnp.asarray(data["retnorm_lo0"]), jnp.asarray(data["retnorm_hi0"]))
    return SimpleNamespace(
        data=data, nets=nets, config=config, params=(params, actor, critic), slow_critic=slow_critic, batch=batch, norm=norm
    )


@pytest.fixture(scope="module")
def evaluated(agent):
    """The total loss with its parts, and the gradients by golden name."""

    def objective(params):
        key = jax.random.key(0)
        return total_loss(agent.nets, agent.config, params, agent.slow_critic, agent.norm, key, agent.batch, {})

    evaluate = jax.jit(jax.value_and_grad(objective, has_aux=True))
    (total, parts), grads = evaluate(agent.params)
    losses, states, norm, _, metrics = parts
    return SimpleNamespace(total=total, losses=losses, states=states, norm=norm, metrics=metrics, grads=_by_path(*grads))


@pytest.fixture(scope="module")
def updated(agent):
    """The state after three updates on the same batch, and the metrics of each."""
    # As `init_agent` does, but without drawing weights that would be replaced.
    optimizer = make_optimizer(agent.config.optimizer, agent.nets.layout)
    modules = (agent.nets.rssm, agent.nets.actor, agent.nets.critic)
    world_model, actor, critic = (
        TrainState.create(apply_fn=module.apply, params=params, tx=optimizer)
        for module, params in zip(modules, agent.params, strict=True)
    )
    state = AgentState(world_model, actor, critic, agent.slow_critic, agent.norm, jax.random.key(0), jnp.int32(0))
    state = jax.tree.map(jnp.copy, state)  # the step donates its state
    step = compile_train_step(agent.nets, agent.config)
    history = []
    for _ in range(UPDATES):
        state, metrics, _ = step(state, agent.batch)
        history.append(jax.device_get(metrics))
    return SimpleNamespace(state=jax.device_get(state), metrics=history)


def _by_path(world_model, actor, critic, slow_critic=None) -> dict[str, jax.Array]:
    trees = {**world_model, "actor": actor, "critic": critic}
    return golden.flatten(trees | ({"slow_critic": slow_critic} if slow_critic else {}))


def _by_our_path(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {golden.our_path(name): array for name, array in arrays.items()}


def test_golden_weights_fill_the_whole_agent(agent):
    fresh = jax.eval_shape(lambda: init_params(agent.nets, jax.random.key(0)))
    chex.assert_trees_all_equal_shapes_and_dtypes(fresh, agent.params)
    chex.assert_trees_all_equal_shapes_and_dtypes(fresh[2], agent.slow_critic)


def test_filtering(agent, evaluated):
    batch, data, world_model = agent.batch, agent.data, agent.params[0]
    embed = agent.nets.encoder.apply({"params": world_model["encoder"]}, batch.obs)
    key = jax.random.key(0)
    _, states, posterior, _ = rssm.observe(agent.nets, world_model, key, batch.start, batch.prev_action, embed, batch.is_first)
    assert_close(embed, data["tokens"])
    assert_close(posterior.logits, data["post_logits"])
    for result in (states, evaluated.states):
        assert_close(result.deter, data["post_deter"])
        assert_close(result.stoch, data["post_stoch"])


def test_loss_terms(agent, evaluated):
    expected = {LOSSES[name]: loss for name, loss in golden.select(agent.data, "loss/").items()}
    assert expected.keys() == evaluated.losses.keys()
    for name in ("policy", "value"):  # means here; file 10 has them step by step
        expected[name] = expected[name].mean()
    assert_all_close(evaluated.losses, expected)


def test_total_loss(agent, evaluated):
    assert_close(evaluated.total, agent.data["total_loss"])
    weighted = sum(loss_weight(agent.nets, agent.config, name) * loss.mean() for name, loss in evaluated.losses.items())
    assert_close(weighted, agent.data["total_loss"])


def test_return_norm_and_metrics(agent, evaluated):
    assert_close(evaluated.norm.low, agent.data["retnorm_lo1"])
    assert_close(evaluated.norm.high, agent.data["retnorm_hi1"])
    metrics = evaluated.metrics
    actual = {
        "adv": metrics["advantage"],
        "con": metrics["imagined_continue"],
        "rew": metrics["imagined_reward"],
        # The file holds the normalised return, ours is in units of reward.
        "ret": (metrics["imagined_return"] - evaluated.norm.low) / metrics["return_scale"],
        "val": metrics["imagined_value"],
        "weight": metrics["imagined_weight"],
    }
    expected = golden.select(agent.data, "metric/")
    assert actual.keys() == expected.keys()
    assert_all_close(actual, expected)


def test_gradients(agent, evaluated):
    expected = _by_our_path(golden.select(agent.data, "grad/"))
    assert_gradients_close(evaluated.grads, expected, tol=1e-4)


def test_gradient_norms(agent, evaluated):
    """Of every trained tensor, also of those too large to be in the file."""
    expected = _by_our_path(golden.select(agent.data, "gradnorm/"))
    assert expected.keys() == evaluated.grads.keys()
    norms = {name: jnp.linalg.norm(grad.ravel()) for name, grad in evaluated.grads.items()}
    assert_gradients_close(norms, expected, tol=1e-4)


def test_metrics_of_the_train_step(agent, updated):
    """The compiled step reports the same loss terms, and gradient norms by module."""
    first = updated.metrics[0]
    assert_close(first["loss/total"], agent.data["total_loss"])
    for name, loss in golden.select(agent.data, "loss/").items():
        assert_close(first[f"loss/{LOSSES[name]}"], loss.mean())
    squares = {"world_model": 0.0, "actor": 0.0, "critic": 0.0}
    for name, norm in _by_our_path(golden.select(agent.data, "gradnorm/")).items():
        module = name.split("/")[0]
        squares[module if module in squares else "world_model"] += norm**2
    for name, square in squares.items():
        assert_close(first[f"grad_norm/{name}"], np.sqrt(square), tol=1e-4)


def test_three_updates(agent, updated):
    state = updated.state
    assert_close(state.return_norm.low, agent.data["retnorm_lo3"])
    assert_close(state.return_norm.high, agent.data["retnorm_hi3"])
    params = _by_path(state.world_model.params, state.actor.params, state.critic.params, state.slow_critic)
    expected = _by_our_path(golden.select(agent.data, "param_after3/"))
    assert {name.split("/")[0] for name in expected} == {name.split("/")[0] for name in params}
    assert_all_close(params, expected)


def test_slow_critic_follows_the_updated_critic(agent, monkeypatch):
    """The warm-up keeps the critic of the file almost still, so a simple loss and a high rate show the order."""

    def simple_loss(nets, config, params, slow_critic, return_norm, key, batch, parts):
        return sum(jnp.square(tree["w"]).sum() for tree in params), ({}, None, return_norm, parts, {})

    monkeypatch.setattr(train_step, "total_loss", simple_loss)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.1, warmup=0), agent.nets.layout)
    model = TrainState.create(apply_fn=None, params={"w": jnp.ones(3)}, tx=optimizer)
    state = AgentState(model, model, model, {"w": jnp.zeros(3)}, agent.norm, jax.random.key(0), jnp.int32(0))

    new, _, _ = train_step.train_step(agent.nets, agent.config, state, agent.batch)
    critic = new.critic.params["w"]
    assert jnp.all(critic < 0.95)
    assert_close(new.slow_critic["w"], agent.config.behavior.slow_rate * critic)
