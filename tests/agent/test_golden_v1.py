"""DreamerV1 against golden arrays of the author's TensorFlow program: returns and losses, RSSM, actor, image layers."""

import golden_data as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_data import assert_all_close, assert_close, select

from dreamer_jax.agent import behavior, distributions, rssm
from dreamer_jax.agent.behavior import Predictions, imagined_targets
from dreamer_jax.agent.convolutions import StridedImageDecoder, StridedImageEncoder
from dreamer_jax.agent.heads import policy_distribution
from dreamer_jax.agent.layers import Style
from dreamer_jax.agent.layout import CPU
from dreamer_jax.agent.networks import Head, apply, build_networks
from dreamer_jax.agent.types import LatentState, ReturnNorm
from dreamer_jax.agent.world_model import clip_nats
from dreamer_jax.core.algorithm import BehaviorConfig, LossConfig, ModelConfig
from dreamer_jax.core.config import Config
from dreamer_jax.core.spaces import ActionSpec, ObsSpec

DATA = golden.load("12_v1_official_tf")
V1 = BehaviorConfig(
    returns="own_reward_after_start",
    discount_horizon=100,
    dynamics_share=1,
    entropy=0,
    return_norm=False,
    slow_weight=0,
    policy="tanh_normal",
)
HALF_LOG_2PI = 0.5 * np.log(2 * np.pi)


def dense(prefix: str, *names: str) -> dict:
    """{our layer: {"kernel", "bias"}} of golden layers; names are "golden=ours"."""
    pairs = (name.split("=") for name in names)
    return {ours: select(DATA, f"{prefix}/{theirs}/") for theirs, ours in pairs}


@pytest.mark.parametrize("case", ["retA", "retB"])
def test_returns_weights_and_losses(case):
    """V1's list begins after the start: a row that must not count stands in front of it."""
    reward, value, continue_ = (
        jnp.concatenate([jnp.full((1, 6), 7.0), DATA[name]]) for name in ("ret/reward", "ret/value", f"{case}/pcont")
    )
    targets, _, _ = imagined_targets(Predictions(reward, continue_, value, value), ReturnNorm(0.0, 0.0), V1)
    scale = (reward.shape[0] - 2) / (reward.shape[0] - 1)  # the weights make a mean over all states one over those that count
    loss = behavior.value_loss({"mean": value[:-1, :, None]}, targets, V1)
    actual = {
        "returns": targets.returns[1:],
        "discount": targets.weight[1:] * scale,
        "actor_loss": behavior.dynamics_loss(targets).mean(),
        "value_loss_with_const": (loss + targets.weight * HALF_LOG_2PI).mean(),
    }
    assert_all_close(actual, {name: DATA[f"{case}/{name}"] for name in actual})
    np.testing.assert_array_equal(targets.weight[0], 0)


def test_rssm_step_and_kl():
    """One step of the GRU with a Gaussian latent, prior and posterior, the KL, and free nats on its mean."""
    data, weights = select(DATA, "rssm/"), select(DATA, "rssm/param/")
    config = ModelConfig(
        latent="gaussian", core="gru", norm="none", activation="elu", deter=6, hidden=5, stoch=4, prior_layers=1
    )
    nets = build_networks(Config(model=config), {"x": ObsSpec("vector", (2,))}, ActionSpec(False, 2), jnp.float32, CPU)
    # Keras stacks the gates update, reset, candidate, and has two biases, which add up outside the candidate.
    (update, reset, candidate), hidden = (np.split(weights[f"gru/{name}"], 3, -1) for name in ("kernel", "recurrent_kernel"))
    bias = np.split(weights["gru/bias"], 3, -1)
    gru = {
        "iz": {"kernel": update, "bias": bias[0].sum(0)},
        "ir": {"kernel": reset, "bias": bias[1].sum(0)},
        "in": {"kernel": candidate, "bias": bias[2][0]},
        "hz": {"kernel": hidden[0]},
        "hr": {"kernel": hidden[1]},
        "hn": {"kernel": hidden[2], "bias": bias[2][1]},
    }
    layers = dense("rssm/param", "img1=inputs", "img2=prior_mlp", "img3=prior_out", "obs1=posterior_mlp", "obs2=posterior_out")
    params = {
        "cell": {"inputs": {"linear0": layers["inputs"]}, "gru": gru},
        "prior_mlp": {"linear0": layers["prior_mlp"]},
        "prior_out": layers["prior_out"],
        "posterior_mlp": {"linear0": layers["posterior_mlp"]},
        "posterior_out": layers["posterior_out"],
    }
    state = LatentState(data["in_deter"], data["in_stoch"])
    first, noise = np.zeros(3, bool), nets.latent.noise(jax.random.key(0), (3,))
    new, posterior = rssm.observe_step(nets, {"rssm": params}, noise, state, data["in_action"], data["in_embed"], first)
    _, prior = rssm.imagine_step(nets, {"rssm": params}, noise, state, data["in_action"])
    dyn, rep = rssm.kl_loss(nets.latent, posterior, prior)
    actual = {
        "deter": new.deter,
        "prior_mean": prior.mean,
        "prior_std": prior.std,
        "post_mean": posterior.mean,
        "post_std": posterior.std,
        "kl": dyn,
    }
    assert_all_close(actual, {name: data[name] for name in actual})
    np.testing.assert_array_equal(dyn, rep)
    for free_nats, name in ((3.0, "free3"), (0.1, "free0p1")):
        assert_close(clip_nats(dyn, LossConfig(free_nats=free_nats, free_nats_of="mean")), data[f"kl_loss_{name}"])
    assert clip_nats(dyn, LossConfig(free_nats=100.0, free_nats_of="mean")) == 100


def test_actor():
    """Mean and deviation before the tanh, and the log-probability of actions (tolerance 1e-4 beside the file)."""
    data = select(DATA, "actor/")
    style = Style("none", "elu")
    out = select(DATA, "actor/param/hout/")
    params = {"mlp": dense("actor/param", "h0=linear0", "h1=linear1", "h2=linear2", "h3=linear3")}
    params |= {name: {leaf: array[..., i : i + 2] for leaf, array in out.items()} for name, i in (("mean", 0), ("std", 2))}
    outputs = apply(Head((("mean", 2), ("std", 2)), 4, 8, 1.0, style), params, data["feat"])
    policy = policy_distribution(outputs, V1)
    assert_close(policy.normal.loc, data["mean"])
    assert_close(policy.normal.scale, data["std"])
    assert_close(policy.log_prob(data["action"]), data["logp"], tol=1e-4)
    assert_close(policy.mode(), np.tanh(data["mean"]))


def test_image_layers():
    """The strided encoder and decoder; the decoder's likelihood is that of unit normals."""
    style, image = Style("none", "relu"), DATA["enc/image"]
    params = dense("enc/param", "h1=conv0", "h2=conv1", "h3=conv2", "h4=conv3")
    assert_close(apply(StridedImageEncoder(2, style), params, (image + 0.5) * 255), DATA["enc/out"], tol=2e-5)
    params = dense("dec/param", "h1=map", "h2=conv0", "h3=conv1", "h4=conv2", "h5=conv3")
    features = DATA["dec/feat"]
    images = apply(StridedImageDecoder(3, 2, style), params, features, np.zeros((1, 0), np.float32)) - 0.5
    assert_close(images, DATA["dec/mean"])
    log_prob = -0.5 * jnp.square(images - image).sum((1, 2, 3)) - image.size * HALF_LOG_2PI
    assert_close(log_prob, DATA["dec/logp"])


def test_mode_and_samples_stay_inside():
    """Actions lie in [-1, 1], and their log-probabilities stay finite at the ends, where float32 rounds to 1."""
    policy = distributions.tanh_normal(jnp.array([[0.0, 50.0]]), jnp.array([[0.0, 5.0]]))
    actions = policy.sample(seed=jax.random.key(0), sample_shape=(1000,))
    assert np.abs(actions).max() <= 1
    assert np.isfinite(policy.log_prob(actions)).all()
    assert np.isfinite(policy.log_prob(jnp.ones((1, 2)))).all()
