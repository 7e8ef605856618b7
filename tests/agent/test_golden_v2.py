"""DreamerV2 against golden arrays of the author's TensorFlow program: KL balance, RSSM step, actor and critic losses, actor."""

from functools import partial

import golden_data as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_data import assert_all_close, assert_close, select

from dreamer_jax.agent import behavior, distributions, rssm
from dreamer_jax.agent.behavior import Predictions, imagined_targets
from dreamer_jax.agent.heads import policy_distribution
from dreamer_jax.agent.latents import Categorical
from dreamer_jax.agent.layout import CPU
from dreamer_jax.agent.networks import build_networks
from dreamer_jax.agent.types import CategoricalLatent, LatentState, ReturnNorm
from dreamer_jax.agent.world_model import clip_nats
from dreamer_jax.core.algorithm import BehaviorConfig, LossConfig, ModelConfig
from dreamer_jax.core.config import Config
from dreamer_jax.core.spaces import ActionSpec, ObsSpec

DATA = golden.load("13_v2_official_tf")
V2 = BehaviorConfig(
    returns="own_reward", bootstrap="slow_critic", entropy=1e-3, return_norm=False, slow_weight=0, policy="truncated_normal"
)


@pytest.mark.parametrize(
    ("case", "weights", "free_nats", "of"),
    [
        ("atari", (0.8, 0.2), 0.0, "mean"),
        ("dmc", (0.8, 0.2), 1.0, "mean"),
        ("big", (0.8, 0.2), 20.0, "mean"),
        ("noavg", (0.8, 0.2), 2.5, "step"),
        ("half", (1.0, 1.0), 0.0, "mean"),
    ],
)
def test_kl_balance_is_a_weighted_sum_of_both_terms(case, weights, free_nats, of):
    """At a balance of 0.5 the author's program takes the plain KL: our sum has its gradient and twice its value."""
    latent, config = Categorical(ModelConfig(unimix=0)), LossConfig(free_nats=free_nats, free_nats_of=of)

    def loss(posterior, prior):
        dyn, rep = rssm.kl_loss(latent, CategoricalLatent(posterior), CategoricalLatent(prior))
        total = weights[0] * clip_nats(dyn, config).mean() + weights[1] * clip_nats(rep, config).mean()
        return total, dyn

    (total, value), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(
        DATA["kl/post_logits"], DATA["kl/prior_logits"]
    )
    outputs = (total / sum(weights), value, *gradients)
    actual = dict(zip(("loss", "value", "grad_post", "grad_prior"), outputs, strict=True))
    assert_all_close(actual, select(DATA, f"kl/{case}_"))


def test_rssm_step():
    """One step of the GRU with a norm over its gates, after a reset where is_first says so."""
    data, weights = select(DATA, "rssm/"), select(DATA, "rssm/param/")
    config = ModelConfig(
        core="layer_norm_gru", norm="none", activation="elu", deter=6, hidden=7, stoch=4, classes=5, prior_layers=1, unimix=0
    )
    nets = build_networks(Config(model=config), {"x": ObsSpec("vector", (2,))}, ActionSpec(False, 2), jnp.float32, CPU)

    def layer(name):
        return select(weights, f"{name}/")

    norm = {"scale": weights["gru_norm/gamma"], "bias": weights["gru_norm/beta"]}
    params = {
        "cell": {"inputs": {"linear0": layer("img_in")}, "gates": layer("gru_dense"), "norm": norm},
        "prior_mlp": {"linear0": layer("img_out_0")},
        "prior_out": layer("img_dist_0"),
        "posterior_mlp": {"linear0": layer("obs_out")},
        "posterior_out": layer("obs_dist"),
    }
    state = LatentState(data["in_deter"], data["in_stoch"])
    noise = nets.latent.noise(jax.random.key(0), data["in_is_first"].shape)
    inputs = (state, data["in_action"], data["in_embed"], data["in_is_first"])
    new, posterior = rssm.observe_step(nets, {"rssm": params}, noise, *inputs)
    _, prior = rssm.imagine_step(
        nets, {"rssm": params}, noise, *jax.tree.map(partial(mask, first=data["in_is_first"]), (state, data["in_action"]))
    )
    actual = {"deter": new.deter, "prior_logits": prior.logits, "post_logits": posterior.logits}
    assert_all_close(actual, {name: data[name] for name in actual})


def mask(x: np.ndarray, first: np.ndarray) -> np.ndarray:
    return x * ~first.reshape(-1, *[1] * (x.ndim - 1))


@pytest.mark.parametrize(("case", "share"), [("reinforce", 0.0), ("dynamics", 1.0), ("both", 0.1)])
def test_actor_losses_and_their_gradients(case, share):
    """The actor's loss by REINFORCE, through the dynamics and mixed, with gradients to policy, values and rewards."""
    data = select(DATA, "ac/")
    config = V2.model_copy(update={"dynamics_share": share})

    def loss(policy_logits, target_value, reward):
        predictions = Predictions(reward, jnp.asarray(data["discount"]), jnp.zeros_like(reward), target_value)
        targets, _, _ = imagined_targets(predictions, ReturnNorm(0.0, 0.0), config)
        # The file gives weights of its own, as an input; its action k is the one that led to state k.
        weight = data["weight"][:-1] * (np.arange(15) < 14)[:, None] * 15 / 14
        targets = targets._replace(policy_weight=weight)
        policy = distributions.one_hot_categorical(policy_logits[:-1])
        reinforce, _ = behavior.policy_loss(policy, data["action"][1:], targets, config)
        total = reinforce.mean() + share * behavior.dynamics_loss(targets).mean()
        return total, targets.returns

    (total, target), gradients = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(
        data["policy_logits"], data["target_value"], data["reward"]
    )
    names = ("grad_policy_logits", "grad_target_value", "grad_reward")
    actual = {"actor_loss": total, **dict(zip(names, gradients, strict=True))}
    assert_all_close(actual, select(data, f"{case}_"))
    assert_close(target, data["target"])


def test_critic_loss_and_its_gradient():
    data = select(DATA, "ac/")
    targets = behavior.Targets(*[jnp.asarray(data["target"])] * 6)._replace(weight=data["weight"][:-1])

    def loss(value):
        loss = behavior.value_loss({"mean": value[:-1, :, None]}, targets, V2)
        return (loss + data["weight"][:-1] * 0.5 * np.log(2 * np.pi)).mean()

    total, gradient = jax.value_and_grad(loss)(data["critic_value"])
    assert_close(total, data["critic_loss_with_const"])
    assert_close(gradient, data["critic_loss_grad_critic_value"])


def test_weights_begin_at_one_and_multiply_what_came_before():
    """By hand: 1, c_0, c_0 c_1, ...; the actor's last is 0, and its others make the mean over H states one over H - 1."""
    continue_ = jnp.array([[0.5], [0.8], [0.9], [0.3]])
    zeros = jnp.zeros((4, 1))
    targets, _, _ = imagined_targets(Predictions(zeros, continue_, zeros, zeros), ReturnNorm(0.0, 0.0), V2)
    np.testing.assert_allclose(targets.weight[:, 0], [1, 0.5, 0.4], rtol=1e-6)
    np.testing.assert_allclose(targets.policy_weight[:, 0], [1.5, 0.75, 0], rtol=1e-6)


def test_truncated_normal():
    data, weights = select(DATA, "trunc/"), select(DATA, "trunc/param/")
    mean, std = (data["x"] @ weights[f"{name}/kernel"] + weights[f"{name}/bias"] for name in ("out", "std"))
    policy = policy_distribution({"mean": mean, "std": std}, V2)
    assert_close(policy.log_prob(data["action"]), data["logp"])
    assert_close(policy.entropy(), data["entropy"])
    assert_close(policy.mode(), data["mode"])
    draws = policy.sample(seed=jax.random.key(0), sample_shape=(200,))
    assert np.abs(draws).max() <= 1


def test_bernoulli_with_a_soft_target():
    data = select(DATA, "bern/")
    assert_close(-distributions.binary_loss(data["logit"], data["target"]), data["logp"])
    assert_close(jax.nn.sigmoid(data["logit"]), data["mean"])
